//! The default filter in force: a child that has it makes system calls, and the kernel answers
//! as the profile says. perl (part of Debian's base system) makes the calls, since it can make
//! any by number. Needs root; no test harness, because its threads forbid to fork.
#![allow(clippy::print_stdout, reason = "a test without a harness reports by itself")]

use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use hull_runtime::seccomp::{self, Arch, Program, compile, default_profile, number};
use hull_sys::process::{Child, Forked, Strings, exec, exit_now, fork, set_standard_streams, wait};

/// What a forked child that ran `child` wrote into its pipe.
fn output_of(child: impl FnOnce(PipeWriter)) -> String {
    let (mut reader, writer): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
    match fork().unwrap() {
        Forked::Child => {
            drop(reader);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child(writer)));
            exit_now(if done.is_ok() { 0 } else { 99 })
        }
        Forked::Parent(Child { pidfd, .. }) => {
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            let ended = wait(&pidfd, true).unwrap().unwrap();
            assert_eq!(ended.code(), 0, "{text}");
            text
        }
    }
}

fn plain() -> Program {
    compile(&default_profile(&BTreeSet::new(), (6, 1))).unwrap()
}

fn the_default_filter_answers_as_its_table_says() {
    let (eperm, enosys) = ("1", "38");
    let cases = [
        ("getpid", "", "ok"),
        ("socket", "1, 1, 0", "ok"),
        ("personality", "0xffffffff", "ok"),
        ("socket", "38, 5, 0", eperm),
        // The upper half of the argument, which the kernel does not look at, hides nothing.
        ("socket", "0x100000026, 5, 0", eperm),
        ("socket", "40, 1, 0", eperm),
        ("personality", "4", eperm),
        ("io_uring_setup", "1, 0", eperm),
        ("keyctl", "0, 0, 0", eperm),
        ("bpf", "0, 0, 0", eperm),
        ("userfaultfd", "0", eperm),
        ("perf_event_open", "0, 0, 0, 0, 0", eperm),
        ("unshare", "0x10000000", eperm),
        ("setns", "-1, 0", eperm),
        ("mount", "0, 0, 0, 0, 0", eperm),
        ("fsopen", "0, 0", eperm),
        ("clone", "0x10000011, 0, 0, 0, 0", eperm),
        ("clone3", "0, 0", enosys),
        ("file_getattr", "0, 0, 0, 0, 0", enosys),
        // Allowed, and refused by the call itself: no such process.
        ("ptrace", "16, 99999999, 0, 0", "3"),
    ];
    let mut script = String::new();
    for (name, args, _) in cases {
        let number = number(Arch::NATIVE, name).unwrap();
        let args = if args.is_empty() { String::new() } else { format!(", {args}") };
        script += &format!("$! = 0; print syscall({number}{args}) == -1 ? $!+0 : 'ok', \"\\n\";");
    }
    let program = plain();
    let text = output_of(move |writer| {
        let args = Strings::new(["perl", "-e", &script]).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        set_standard_streams([null.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
        hull_sys::seccomp::install(&program.filter, program.flags).unwrap();
        let error = exec(c"/usr/bin/perl", &args, &Strings::default());
        panic!("perl: {error}");
    });
    for ((name, args, want), got) in cases.iter().zip(text.lines()) {
        assert_eq!(got, *want, "{name}({args})");
    }
    assert_eq!(text.lines().count(), cases.len(), "{text}");
}

/// The same allow-list as a chain of comparisons, as libseccomp makes it by default.
fn linear() -> Vec<u64> {
    let raw = |code: u64, yes: u64, no: u64, k: u32| code | yes << 16 | no << 24 | u64::from(k) << 32;
    let profile = default_profile(&BTreeSet::new(), (6, 1));
    let mut filter = vec![raw(0x20, 0, 0, 0)];
    let plain = profile.syscalls.iter().filter(|s| s.args.is_empty());
    for number in plain.flat_map(|s| &s.names).filter_map(|n| number(Arch::NATIVE, n)) {
        filter.push(raw(0x15, 0, 1, number));
        filter.push(raw(0x06, 0, 0, 0x7fff_0000));
    }
    filter.push(raw(0x06, 0, 0, 0x0005_0001));
    filter
}

/// Microseconds to install a filter, in a child of its own each time; the median.
fn install_time(filter: &[u64], flags: u64) -> u64 {
    let mut times: Vec<u64> = (0..31)
        .map(|_| {
            let text = output_of(|mut writer| {
                let start = Instant::now();
                hull_sys::seccomp::install(filter, flags).unwrap();
                let micros = start.elapsed().as_micros();
                write!(writer, "{micros}").unwrap();
            });
            text.parse().unwrap()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// The reason for the search tree.
fn a_tree_is_installed_in_half_the_time_of_a_chain() {
    let program = plain();
    let tree = install_time(&program.filter, program.flags);
    let chain = install_time(&linear(), seccomp::SPEC_ALLOW);
    println!("install: tree of {} {tree} us, chain {chain} us", program.filter.len());
    assert!(tree * 2 < chain, "tree {tree} us, chain {chain} us");
}

fn main() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let tests: [(&str, fn()); 2] = [
        ("the_default_filter_answers_as_its_table_says", the_default_filter_answers_as_its_table_says),
        ("a_tree_is_installed_in_half_the_time_of_a_chain", a_tree_is_installed_in_half_the_time_of_a_chain),
    ];
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for (name, test) in tests {
        if filter.as_ref().is_none_or(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}
