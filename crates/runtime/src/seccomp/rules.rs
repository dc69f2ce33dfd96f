//! From names and words to what each call number gets.

use std::collections::{BTreeMap, BTreeSet};

use hull_oci::runtime::{Seccomp, SyscallArg};

use super::syscalls::{X32_BIT, number};
use super::{Arch, Error, LOG, NEW_LISTENER, SPEC_ALLOW, TSYNC, WAIT_KILLABLE_RECV};

/// `SECCOMP_RET_*` (linux/seccomp.h).
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOGGED: u32 = 0x7ffc_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `argument & mask == value`
    Masked {
        mask: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0–5
    pub(super) argument: u8,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    /// What the filter returns then.
    pub(super) verdict: u32,
}

/// What a number gets: the first rule that matches, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: u32,
}

/// The outcomes of one numbering, from `from` on until the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: u32,
    pub(super) outcome: Outcome,
}

/// One architecture of the filter. Ranges are sorted and begin at the first number that can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// `AUDIT_ARCH_*`
    pub(super) audit: u32,
    pub(super) ranges: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) flags: u64,
}

fn unknown(what: &'static str, name: &str) -> Error {
    Error::Unknown { what, name: name.to_owned() }
}

/// The return value for an action; `errno` is the profile's or rule's `errnoRet`.
fn verdict(action: &str, errno: Option<u32>) -> Result<u32, Error> {
    let errno = errno.unwrap_or(EPERM);
    let number = |base: u32| match errno {
        0..4096 => Ok(base | errno),
        _ => Err(Error::Errno { errno }),
    };
    match action {
        "SCMP_ACT_ALLOW" => Ok(ALLOW),
        "SCMP_ACT_ERRNO" => number(ERRNO),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(TRAP),
        "SCMP_ACT_TRACE" => number(TRACE),
        "SCMP_ACT_LOG" => Ok(LOGGED),
        "SCMP_ACT_NOTIFY" => Ok(NOTIFY),
        other => Err(unknown("action", other)),
    }
}

fn condition(call: &str, arg: &SyscallArg) -> Result<Condition, Error> {
    let argument = u8::try_from(arg.index)
        .ok()
        .filter(|i| *i < 6)
        .ok_or_else(|| Error::Argument { call: call.to_owned(), index: arg.index })?;
    let (comparison, value) = match arg.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, arg.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, arg.value),
        "SCMP_CMP_LT" => (Comparison::Less, arg.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, arg.value),
        "SCMP_CMP_GT" => (Comparison::Greater, arg.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, arg.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked { mask: arg.value }, arg.value_two),
        other => return Err(unknown("comparison", other)),
    };
    Ok(Condition { argument, comparison, value })
}

/// The rules that one entry of the profile gives for each of its calls: one, or one for each
/// condition if an argument is named twice.
fn entry(entry: &hull_oci::runtime::SyscallRule) -> Result<Vec<Rule>, Error> {
    let verdict = verdict(&entry.action, entry.errno_ret)?;
    let call = entry.names.first().map_or("", String::as_str);
    let conditions = entry.args.iter().map(|arg| condition(call, arg)).collect::<Result<Vec<_>, _>>()?;
    let arguments: BTreeSet<_> = conditions.iter().map(|c| c.argument).collect();
    if arguments.len() < conditions.len() {
        return Ok(conditions.into_iter().map(|c| Rule { conditions: vec![c], verdict }).collect());
    }
    Ok(vec![Rule { conditions, verdict }])
}

fn flags(profile: &Seccomp) -> Result<u64, Error> {
    if profile.flags.is_empty() {
        // Without it, kernels before 5.16 turn speculation off for the whole process.
        return Ok(SPEC_ALLOW);
    }
    let mut flags = 0;
    for flag in &profile.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => WAIT_KILLABLE_RECV,
            other => return Err(unknown("flag", other)),
        };
    }
    Ok(flags)
}

/// The architectures of the filter: the machine's own first, then those the profile lists.
fn arches(profile: &Seccomp, native: Arch) -> Result<Vec<Arch>, Error> {
    let mut arches = vec![native];
    for name in &profile.architectures {
        let known = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];
        match known.into_iter().find(|a| a.scmp_name() == name) {
            Some(arch) if !arches.contains(&arch) => arches.push(arch),
            Some(_) => {}
            // Of other machines: none of their calls can happen here.
            None if FOREIGN.contains(&name.as_str()) => {}
            None => return Err(unknown("architecture", name)),
        }
    }
    Ok(arches)
}

/// The other architectures that runtime-spec `config-linux.md#seccomp` lists.
const FOREIGN: [&str; 17] = [
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
];

/// Resolves the whole profile.
///
/// # Errors
/// As [`super::compile`].
pub(super) fn plan(profile: &Seccomp, native: Arch) -> Result<Plan, Error> {
    let default = verdict(&profile.default_action, profile.default_errno_ret)?;
    if default == NOTIFY {
        return Err(Error::Notify { reason: "the default action" });
    }
    let mut flags = flags(profile)?;
    let mut entries = Vec::with_capacity(profile.syscalls.len());
    for given in &profile.syscalls {
        let rules = entry(given)?;
        if rules.iter().any(|r| r.verdict == NOTIFY) {
            // The listener's descriptor is sent with sendmsg and write after the filter is on.
            if given.names.iter().any(|name| name == "write" || name == "sendmsg") {
                return Err(Error::Notify { reason: "the action for write or sendmsg" });
            }
            flags |= NEW_LISTENER;
        }
        entries.push((&given.names, rules));
    }
    let arches = arches(profile, native)?;
    let mut parts: Vec<Part> = Vec::new();
    for arch in &arches {
        let ranges = ranges(*arch, &entries, default);
        match parts.iter_mut().find(|p| p.audit == arch.audit()) {
            // x86_64 and x32 are one to the kernel; x32's numbers are the higher ones.
            Some(part) if *arch == Arch::X32 => {
                part.ranges.retain(|r| r.from < X32_BIT);
                part.ranges.extend(ranges);
            }
            Some(part) => {
                part.ranges.retain(|r| r.from >= X32_BIT);
                part.ranges.splice(..0, ranges.into_iter().filter(|r| r.from < X32_BIT));
            }
            None if *arch == Arch::X32 => {
                let outcome = Outcome { rules: Vec::new(), otherwise: KILL_PROCESS };
                let foreign = Range { from: 0, outcome };
                let ranges = std::iter::once(foreign).chain(ranges).collect();
                parts.push(Part { audit: arch.audit(), ranges });
            }
            None => parts.push(Part { audit: arch.audit(), ranges }),
        }
    }
    Ok(Plan { parts, flags })
}

/// arm has private calls from here on, far above the common ones (`__ARM_NR_BASE`).
const ARM_PRIVATE: u32 = 0xf_0000;

/// Actions after which new calls should look absent instead.
fn refuses(verdict: u32) -> bool {
    verdict & 0xffff_0000 == ERRNO && verdict != ERRNO | ENOSYS
        || matches!(verdict, KILL_PROCESS | KILL_THREAD | TRAP)
}

fn ranges(arch: Arch, entries: &[(&Vec<String>, Vec<Rule>)], default: u32) -> Vec<Range> {
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for (names, rules) in entries {
        for number in names.iter().filter_map(|name| number(arch, name)) {
            calls.entry(number).or_default().extend(rules.iter().cloned());
        }
    }
    let plain = |verdict| Outcome { rules: Vec::new(), otherwise: verdict };
    let base = if arch == Arch::X32 { X32_BIT } else { 0 };
    let last = calls.keys().copied().filter(|n| n & !X32_BIT < ARM_PRIVATE).max();
    let mut ranges = vec![Range { from: base, outcome: plain(default) }];
    let mut put = |from: u32, outcome: Outcome| {
        if ranges.last().is_some_and(|r| r.from == from) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|r| r.outcome != outcome) {
            ranges.push(Range { from, outcome });
        }
    };
    let mut next = base;
    for (number, mut rules) in calls {
        if number > next || next == ARM_PRIVATE {
            put(next, plain(default));
        }
        let mut otherwise = default;
        if let Some(at) = rules.iter().position(|r| r.conditions.is_empty()) {
            otherwise = rules[at].verdict;
            rules.truncate(at);
        }
        put(number, Outcome { rules, otherwise });
        next = number + 1;
        if Some(number) == last && refuses(default) {
            put(next, plain(ERRNO | ENOSYS));
            next = if arch == Arch::Arm { ARM_PRIVATE } else { u32::MAX };
        }
    }
    if next != u32::MAX {
        put(next, plain(default));
    }
    // Without x32 in the profile, its numbers are those of a foreign architecture.
    if arch == Arch::X86_64 {
        put(X32_BIT, plain(KILL_PROCESS));
    }
    ranges
}
