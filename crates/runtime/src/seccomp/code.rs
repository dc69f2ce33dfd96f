//! Classic BPF for a [`Plan`]: first the architecture, then a search tree over the numbers, then
//! the arguments.
//!
//! ```text
//! A = arch
//! for each architecture:  A == this ? (A = number, tree) : next
//! return KILL_PROCESS
//! tree(ranges):           A >= middle ? tree(right half) : tree(left half)
//! leaf:                   rules in order: compare arguments, return; return otherwise
//! ```
//!
//! Conditional jumps reach 255 instructions (`struct sock_filter` has a byte for them), so a
//! longer way goes through a plain jump, which has 32 bits.

use super::rules::{Comparison, Condition, KILL_PROCESS, Outcome, Plan, Range, Rule};

// linux/filter.h, linux/bpf_common.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A `struct sock_filter` as a little-endian word.
fn raw(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(k) << 32
}

fn length(code: &[u64]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

/// Appends `test ? yes : no`, where the test jumps to `yes` if the comparison of A with `k`
/// holds.
fn branch(out: &mut Vec<u64>, code: u16, k: u32, yes: &[u64], no: &[u64]) {
    match u8::try_from(no.len()) {
        Ok(skip) => out.push(raw(code, skip, 0, k)),
        Err(_) => {
            out.push(raw(code, 0, 1, k));
            out.push(raw(JUMP, 0, 0, length(no)));
        }
    }
    out.extend_from_slice(no);
    out.extend_from_slice(yes);
}

pub(super) fn program(plan: &Plan) -> Vec<u64> {
    let mut out = vec![raw(LOAD, 0, 0, ARCH)];
    for part in &plan.parts {
        let mut body = vec![raw(LOAD, 0, 0, NUMBER)];
        tree(&mut body, &part.ranges);
        // The next architecture is behind this one's tree.
        out.push(raw(JUMP_IF_EQUAL, 1, 0, part.audit));
        out.push(raw(JUMP, 0, 0, length(&body)));
        out.extend(body);
    }
    out.push(raw(RETURN, 0, 0, KILL_PROCESS));
    out
}

fn tree(out: &mut Vec<u64>, ranges: &[Range]) {
    match ranges {
        [] => out.push(raw(RETURN, 0, 0, KILL_PROCESS)),
        [one] => leaf(out, &one.outcome),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let (mut low, mut high) = (Vec::new(), Vec::new());
            tree(&mut low, left);
            tree(&mut high, right);
            branch(out, JUMP_IF_GREATER_OR_EQUAL, right[0].from, &high, &low);
        }
    }
}

fn leaf(out: &mut Vec<u64>, outcome: &Outcome) {
    for one in &outcome.rules {
        rule(out, one);
    }
    out.push(raw(RETURN, 0, 0, outcome.otherwise));
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Step,
    /// Behind this condition: it holds.
    Pass,
    /// Behind the rule: it does not match.
    Fail,
}

/// An instruction whose jumps are not yet counted.
struct Draft {
    code: u16,
    k: u32,
    yes: To,
    no: To,
}

fn rule(out: &mut Vec<u64>, rule: &Rule) {
    let conditions: Vec<_> = rule.conditions.iter().map(draft).collect();
    // Six arguments of at most six instructions each: every jump fits a byte.
    let total = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut at = 0;
    let mut end = 0;
    for condition in conditions {
        end += condition.len();
        for Draft { code, k, yes, no } in condition {
            at += 1;
            let skip = |to: To| {
                let target = match to {
                    To::Step => at,
                    To::Pass => end,
                    To::Fail => total,
                };
                u8::try_from(target - at).unwrap_or(u8::MAX)
            };
            out.push(raw(code, skip(yes), skip(no), k));
        }
    }
    out.push(raw(RETURN, 0, 0, rule.verdict));
}

/// 64-bit comparison with 32-bit loads: the high half decides unless it is equal.
fn draft(condition: &Condition) -> Vec<Draft> {
    use To::{Fail, Pass, Step};
    let plain = |code, k| Draft { code, k, yes: Step, no: Step };
    let test = |code, k, yes, no| Draft { code, k, yes, no };
    let low_at = ARGUMENTS + 8 * u32::from(condition.argument);
    let high_at = low_at + 4;
    let half = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    let (high, low) = half(condition.value);
    let load_high = || plain(LOAD, high_at);
    let load_low = || plain(LOAD, low_at);
    // `greater` in one direction, its opposite with the targets swapped.
    let order = |last: u16, holds: To, fails: To| {
        vec![
            load_high(),
            test(JUMP_IF_GREATER, high, holds, Step),
            test(JUMP_IF_EQUAL, high, Step, fails),
            load_low(),
            test(last, low, holds, fails),
        ]
    };
    match condition.comparison {
        Comparison::Equal => vec![
            load_high(),
            test(JUMP_IF_EQUAL, high, Step, Fail),
            load_low(),
            test(JUMP_IF_EQUAL, low, Pass, Fail),
        ],
        Comparison::NotEqual => vec![
            load_high(),
            test(JUMP_IF_EQUAL, high, Step, Pass),
            load_low(),
            test(JUMP_IF_EQUAL, low, Fail, Pass),
        ],
        Comparison::Greater => order(JUMP_IF_GREATER, Pass, Fail),
        Comparison::GreaterOrEqual => order(JUMP_IF_GREATER_OR_EQUAL, Pass, Fail),
        Comparison::LessOrEqual => order(JUMP_IF_GREATER, Fail, Pass),
        Comparison::Less => order(JUMP_IF_GREATER_OR_EQUAL, Fail, Pass),
        Comparison::Masked { mask } => {
            let (mask_high, mask_low) = half(mask);
            let mut code = Vec::new();
            if mask_high != 0 || high != 0 {
                code.push(load_high());
                code.push(plain(AND, mask_high));
                code.push(test(JUMP_IF_EQUAL, high, Step, Fail));
            }
            code.push(load_low());
            code.push(plain(AND, mask_low));
            code.push(test(JUMP_IF_EQUAL, low, Pass, Fail));
            code
        }
    }
}
