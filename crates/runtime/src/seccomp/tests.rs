//! The compiled program against a slow reading of the profile, over every call and many
//! arguments.

use std::collections::BTreeSet;

use hull_oci::runtime::{SyscallArg, SyscallRule};
use proptest::prelude::*;

use super::syscalls::{X32_BIT, names, number};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// What the kernel shows to a filter.
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

/// Runs the program as the kernel does; panics on what its checker would refuse.
fn execute(program: &[u64], call: &Call) -> u32 {
    let mut a = 0;
    let mut at = 0;
    loop {
        let word = program[at];
        at += 1;
        let (code, k) = (word as u16, (word >> 32) as u32);
        let test = match code {
            0x20 => {
                assert!(k.is_multiple_of(4) && k < 64, "load from {k}");
                a = match k {
                    0 => call.number,
                    4 => call.audit,
                    16.. => {
                        let arg = call.args[(k as usize - 16) / 8];
                        if k.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
                    }
                    _ => panic!("load from {k}"),
                };
                continue;
            }
            0x54 => {
                a &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return k,
            0x15 => a == k,
            0x25 => a > k,
            0x35 => a >= k,
            other => panic!("instruction {other:#x}"),
        };
        at += ((word >> if test { 16 } else { 24 }) & 0xff) as usize;
    }
}

fn action(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        other => panic!("{other}"),
    }
}

fn holds(arg: &SyscallArg, args: &[u64; 6]) -> bool {
    let given = args[arg.index as usize];
    match arg.op.as_str() {
        "SCMP_CMP_EQ" => given == arg.value,
        "SCMP_CMP_NE" => given != arg.value,
        "SCMP_CMP_LT" => given < arg.value,
        "SCMP_CMP_LE" => given <= arg.value,
        "SCMP_CMP_GT" => given > arg.value,
        "SCMP_CMP_GE" => given >= arg.value,
        "SCMP_CMP_MASKED_EQ" => given & arg.value == arg.value_two,
        other => panic!("{other}"),
    }
}

/// The rules of a profile with their numbers on one architecture; `None` if it is not in the
/// profile.
type Read<'a> = Option<(Arch, Vec<(Vec<u32>, &'a SyscallRule)>)>;

fn read(profile: &Seccomp, native: Arch, arch: Arch) -> Read<'_> {
    if arch != native && !profile.architectures.iter().any(|n| n == arch.scmp_name()) {
        return None;
    }
    let numbers = |rule: &SyscallRule| rule.names.iter().filter_map(|n| number(arch, n)).collect();
    Some((arch, profile.syscalls.iter().map(|r| (numbers(r), r)).collect()))
}

/// The profile, read slowly.
fn verdict(profile: &Seccomp, read: &Read<'_>, call: &Call) -> u32 {
    let Some((arch, rules)) = read else {
        return KILL_PROCESS;
    };
    let default = action(&profile.default_action, profile.default_errno_ret);
    for (_, rule) in rules.iter().filter(|(numbers, _)| numbers.contains(&call.number)) {
        let indices: BTreeSet<_> = rule.args.iter().map(|a| a.index).collect();
        let matched = if indices.len() < rule.args.len() {
            rule.args.iter().any(|a| holds(a, &call.args))
        } else {
            rule.args.iter().all(|a| holds(a, &call.args))
        };
        if matched {
            return action(&rule.action, rule.errno_ret);
        }
    }
    let named = rules.iter().flat_map(|(numbers, _)| numbers).copied();
    let last = named.filter(|n| n & !X32_BIT < 0xf_0000).max();
    let newer = last.is_some_and(|last| call.number > last && (*arch != Arch::Arm || call.number < 0xf_0000));
    let stub = matches!(default & 0xffff_0000, 0x0005_0000 | 0x8000_0000 | 0 | 0x0003_0000);
    if newer && stub { ENOSYS } else { default }
}

/// Every number of every table with the numbers between and beyond.
fn all_calls(arch: Arch) -> BTreeSet<u32> {
    let base = if arch == Arch::X32 { X32_BIT } else { 0 };
    let known = names().filter_map(|n| number(arch, n));
    (base..base + 600).chain(known).collect()
}

fn same(profile: &Seccomp, native: Arch, args: &[[u64; 6]]) {
    let program = match compile_for(profile, native) {
        // A random profile may be too much for the kernel; that is an answer too.
        Err(Error::TooLong { .. }) => return,
        other => other.unwrap(),
    };
    for arch in [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm] {
        let read = read(profile, native, arch);
        for number in all_calls(arch) {
            for args in args {
                let call = Call { audit: arch.audit(), number, args: *args };
                let (got, want) = (execute(&program.filter, &call), verdict(profile, &read, &call));
                assert_eq!(got, want, "{arch:?} call {number} {args:x?}");
            }
        }
    }
    let foreign = Call { audit: 0x1234, number: 0, args: [0; 6] };
    assert_eq!(execute(&program.filter, &foreign), KILL_PROCESS);
}

fn caps(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn first_args() -> Vec<[u64; 6]> {
    let values = [
        0,
        1,
        8,
        37,
        38,
        39,
        40,
        41,
        0x2_0000,
        0x2_0008,
        0x1000_0000,
        0x7e02_0000,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0026,
        0x1_0000_0028,
        u64::MAX,
    ];
    values.map(|v| [v, v ^ 1, 0, 0, 0, v]).to_vec()
}

#[test]
fn the_default_profile_compiles_to_what_it_says() {
    let sets: [&[&str]; 3] =
        [&[], &["CAP_SYS_ADMIN", "CAP_BPF"], &["CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_MKNOD"]];
    for set in sets {
        for native in [Arch::X86_64, Arch::Aarch64] {
            same(&default::default_profile_for(&caps(set), (6, 1), native), native, &first_args());
        }
    }
    same(&default::default_profile_for(&caps(&[]), (4, 4), Arch::X86_64), Arch::X86_64, &first_args());
}

/// How the default profile answers some calls that matter (SECURITY K07, K26).
#[test]
fn the_default_profile_closes_what_it_should() {
    let plain =
        compile_for(&default::default_profile_for(&caps(&[]), (6, 1), Arch::X86_64), Arch::X86_64).unwrap();
    let admin = compile_for(
        &default::default_profile_for(&caps(&["CAP_SYS_ADMIN"]), (6, 1), Arch::X86_64),
        Arch::X86_64,
    )
    .unwrap();
    let ask = |program: &Program, name: &str, first: u64| {
        let call = Call {
            audit: Arch::X86_64.audit(),
            number: number(Arch::X86_64, name).unwrap(),
            args: [first, 0, 0, 0, 0, 0],
        };
        execute(&program.filter, &call)
    };
    for name in ["read", "execve", "ptrace", "openat2", "statmount", "futex_waitv", "arch_prctl"] {
        assert_eq!(ask(&plain, name, 0), ALLOW, "{name}");
    }
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "keyctl",
        "add_key",
        "bpf",
        "userfaultfd",
        "kexec_load",
        "mount",
        "unshare",
        "setns",
        "perf_event_open",
        "open_by_handle_at",
        "chroot",
    ] {
        assert_eq!(ask(&plain, name, 0), EPERM, "{name}");
    }
    assert_eq!(ask(&plain, "clone3", 0), ENOSYS);
    assert_eq!(ask(&admin, "clone3", 0), ALLOW);
    assert_eq!(ask(&admin, "mount", 0), ALLOW);
    for flags in [0x0002_0000u64, 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x0200_0000] {
        assert_eq!(ask(&plain, "clone", flags | 17), EPERM, "{flags:x}");
        assert_eq!(ask(&admin, "clone", flags | 17), ALLOW);
    }
    assert_eq!(ask(&plain, "clone", 17), ALLOW);
    for (family, want) in [(1, ALLOW), (2, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)] {
        assert_eq!(ask(&plain, "socket", family), want, "{family}");
        // The kernel looks at the low half only.
        assert_eq!(ask(&plain, "socket", family | 1 << 32), want, "{family}");
    }
    // Newer than the profile: absent, not forbidden.
    assert_eq!(ask(&plain, "file_getattr", 0), ENOSYS);
}

#[test]
fn the_tree_is_shallow() {
    let profile = default::default_profile_for(&caps(&[]), (6, 1), Arch::X86_64);
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    assert!(program.filter.len() < 450, "{}", program.filter.len());
    assert_eq!(program.flags, SPEC_ALLOW);
}

#[test]
fn unknown_words_are_named() {
    let error = |profile: Seccomp| compile(&profile).unwrap_err().to_string();
    let base = || Seccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Seccomp::default() };
    let rule = |action: &str, op: &str, index| SyscallRule {
        names: vec!["read".into()],
        action: action.into(),
        errno_ret: None,
        args: vec![SyscallArg { index, op: op.into(), ..SyscallArg::default() }],
    };
    let with = |rule| Seccomp { syscalls: vec![rule], ..base() };
    assert_eq!(error(Seccomp::default()), "seccomp: action \"\" is not known");
    assert_eq!(
        error(with(rule("SCMP_ACT_X", "SCMP_CMP_EQ", 0))),
        "seccomp: action \"SCMP_ACT_X\" is not known"
    );
    assert_eq!(error(with(rule("SCMP_ACT_LOG", "=", 0))), "seccomp: comparison \"=\" is not known");
    assert_eq!(
        error(with(rule("SCMP_ACT_LOG", "SCMP_CMP_EQ", 6))),
        "seccomp: rule for read: argument 6 does not exist (0 to 5)"
    );
    let arch = Seccomp { architectures: vec!["SCMP_ARCH_PDP11".into()], ..base() };
    assert_eq!(error(arch), "seccomp: architecture \"SCMP_ARCH_PDP11\" is not known");
    let foreign = Seccomp { architectures: vec!["SCMP_ARCH_S390X".into()], ..base() };
    assert!(compile(&foreign).is_ok());
    let errno = Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(4096),
        ..Seccomp::default()
    };
    assert_eq!(error(errno), "seccomp: error number 4096 is not between 0 and 4095");
    let notify = Seccomp { default_action: "SCMP_ACT_NOTIFY".into(), ..Seccomp::default() };
    assert_eq!(error(notify), "seccomp: SCMP_ACT_NOTIFY cannot be the default action");
}

#[test]
fn notify_asks_for_a_listener() {
    let profile = Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        flags: vec!["SECCOMP_FILTER_FLAG_LOG".into()],
        syscalls: vec![SyscallRule {
            names: vec!["mkdir".into()],
            action: "SCMP_ACT_NOTIFY".into(),
            ..SyscallRule::default()
        }],
        ..Seccomp::default()
    };
    assert_eq!(compile(&profile).unwrap().flags, LOG | NEW_LISTENER);
}

/// Hundreds of rules for one call: longer than a conditional jump can reach.
#[test]
fn ways_longer_than_a_byte_work() {
    let rule = |value: u64| SyscallRule {
        names: vec!["ioctl".into(), "read".into()],
        action: "SCMP_ACT_ERRNO".into(),
        errno_ret: Some(value as u32),
        args: vec![SyscallArg { index: 1, value, value_two: 0, op: "SCMP_CMP_EQ".into() }],
    };
    let profile = Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        architectures: vec!["SCMP_ARCH_X86".into()],
        syscalls: (1..150).map(rule).collect(),
        ..Seccomp::default()
    };
    let args: Vec<_> = (0..160).map(|v| [0, v, 0, 0, 0, 0]).collect();
    same(&profile, Arch::X86_64, &args);
    let too_long = Seccomp { syscalls: (1..1500).map(rule).collect(), ..profile };
    assert!(matches!(compile(&too_long), Err(Error::TooLong { .. })));
}

fn any_profile() -> impl Strategy<Value = Seccomp> {
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
    ];
    let ops = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"].map(|op| format!("SCMP_CMP_{op}"));
    let value = prop_oneof![
        Just(0u64),
        Just(1),
        Just(0xffff_ffff),
        Just(0x1_0000_0000),
        Just(0x1_0000_0001),
        Just(u64::MAX),
        any::<u64>()
    ];
    let arg = (0u32..6, value.clone(), value, prop::sample::select(ops.to_vec()))
        .prop_map(|(index, value, value_two, op)| SyscallArg { index, value, value_two, op });
    let all: Vec<_> = names().collect();
    let rule = (
        prop::sample::subsequence(all, 0..25),
        prop::sample::select(actions.to_vec()),
        prop::option::of(0u32..200),
        prop_oneof![2 => Just(vec![]).boxed(), 3 => prop::collection::vec(arg, 1..4).boxed()],
    )
        .prop_map(|(names, action, errno_ret, args)| SyscallRule {
            names: names.into_iter().map(str::to_owned).collect(),
            action: action.to_owned(),
            errno_ret,
            args,
        });
    let arches =
        prop::sample::subsequence(vec![Arch::X86, Arch::X32, Arch::X86_64, Arch::Aarch64, Arch::Arm], 0..5);
    (
        prop::sample::select(actions.to_vec()),
        prop::option::of(0u32..200),
        arches,
        prop::collection::vec(rule, 0..12),
    )
        .prop_map(|(default, errno, arches, syscalls)| Seccomp {
            default_action: default.to_owned(),
            default_errno_ret: errno,
            architectures: arches.into_iter().map(|a| a.scmp_name().to_owned()).collect(),
            syscalls,
            ..Seccomp::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_profile_compiles_to_what_it_says(
        profile in any_profile(),
        mut args in prop::collection::vec(any::<[u64; 6]>(), 1..3),
        native in prop::sample::select(vec![Arch::X86_64, Arch::Aarch64]),
    ) {
        args.push([0; 6]);
        args.push([1, 0x1_0000_0000, u64::MAX, 0xffff_ffff, 0x1_0000_0001, 2]);
        // Values of the profile itself and their neighbours.
        for arg in profile.syscalls.iter().flat_map(|s| &s.args).take(4) {
            args.push([arg.value; 6]);
            args.push([arg.value.wrapping_add(1); 6]);
            args.push([arg.value ^ 1 << 32; 6]);
        }
        same(&profile, native, &args);
    }
}
