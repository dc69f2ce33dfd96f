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
//! Jumps only go forward, so the code is written backwards: what is jumped to exists already, at
//! a known place. That lets all leaves with the same answer share a return as long as it is near
//! enough; sharing halves the program, and with it the time the kernel takes to compile it.
//! Conditional jumps reach 255 instructions (`struct sock_filter` has a byte for them); a longer
//! way goes through a plain jump, which has 32 bits.

use super::rules::{Comparison, Condition, KILL_PROCESS, Outcome, Plan, Range};

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

/// A place in the code: how many instructions follow it, itself counted.
type Place = usize;

/// Code that grows towards its beginning.
#[derive(Default)]
struct Code {
    backwards: Vec<u64>,
    /// The latest return of each verdict.
    returns: Vec<(u32, Place)>,
}

impl Code {
    fn put(&mut self, code: u16, yes: u8, no: u8, k: u32) -> Place {
        self.backwards.push(raw(code, yes, no, k));
        self.backwards.len()
    }

    /// Instructions between one that would be put next and `to`.
    fn distance(&self, to: Place) -> usize {
        self.backwards.len() - to
    }

    /// A return of `verdict`: one that is near, else a new one.
    fn verdict(&mut self, verdict: u32) -> Place {
        // Some room is left for the code between it and the jump.
        let near = self.returns.iter().find(|(v, place)| *v == verdict && self.distance(*place) < 200);
        if let Some((_, place)) = near {
            return *place;
        }
        let place = self.put(RETURN, 0, 0, verdict);
        self.returns.retain(|(v, _)| *v != verdict);
        self.returns.push((verdict, place));
        place
    }

    fn jump(&mut self, to: Place) -> Place {
        let k = u32::try_from(self.distance(to)).unwrap_or(u32::MAX);
        self.put(JUMP, 0, 0, k)
    }

    /// A comparison of A with `k`.
    fn branch(&mut self, code: u16, k: u32, mut yes: Place, mut no: Place) -> Place {
        // One plain jump for each way that is too long; the second may lengthen the first's way.
        loop {
            if self.distance(yes) > 255 {
                yes = self.jump(yes);
            } else if self.distance(no) > 255 {
                no = self.jump(no);
            } else {
                let short = |distance| u8::try_from(distance).unwrap_or(u8::MAX);
                let (yes, no) = (short(self.distance(yes)), short(self.distance(no)));
                return self.put(code, yes, no, k);
            }
        }
    }

    /// An instruction that goes on at `next`.
    fn then(&mut self, code: u16, k: u32, next: Place) -> Place {
        if self.distance(next) != 0 {
            self.jump(next);
        }
        self.put(code, 0, 0, k)
    }

    fn tree(&mut self, ranges: &[Range]) -> Place {
        match ranges {
            [] => self.verdict(KILL_PROCESS),
            [one] => self.leaf(&one.outcome),
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let high = self.tree(right);
                let low = self.tree(left);
                self.branch(JUMP_IF_GREATER_OR_EQUAL, right[0].from, high, low)
            }
        }
    }

    fn leaf(&mut self, outcome: &Outcome) -> Place {
        let mut place = self.verdict(outcome.otherwise);
        for rule in outcome.rules.iter().rev() {
            let fail = place;
            place = self.verdict(rule.verdict);
            for condition in rule.conditions.iter().rev() {
                let pass = place;
                for Draft { code, k, yes, no } in draft(condition).into_iter().rev() {
                    let target = |to| match to {
                        To::Step => place,
                        To::Pass => pass,
                        To::Fail => fail,
                    };
                    place = match code {
                        LOAD | AND => self.then(code, k, place),
                        _ => self.branch(code, k, target(yes), target(no)),
                    };
                }
            }
        }
        place
    }
}

pub(super) fn program(plan: &Plan) -> Vec<u64> {
    let mut code = Code::default();
    let mut place = code.verdict(KILL_PROCESS);
    for part in plan.parts.iter().rev() {
        let next = place;
        let tree = code.tree(&part.ranges);
        let body = code.then(LOAD, NUMBER, tree);
        place = code.branch(JUMP_IF_EQUAL, part.audit, body, next);
    }
    code.then(LOAD, ARCH, place);
    code.backwards.reverse();
    code.backwards
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

/// An instruction whose jumps have no places yet.
struct Draft {
    code: u16,
    k: u32,
    yes: To,
    no: To,
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
