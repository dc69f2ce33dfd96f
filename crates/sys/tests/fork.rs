//! Forks for real. This executable has no test harness, because a harness has threads and
//! `hull_sys::process` refuses to fork then. Needs root (namespaces).
#![allow(clippy::print_stdout, reason = "a test without a harness reports by itself")]

use std::os::fd::AsFd;

use hull_sys::Errno;
use hull_sys::process::{self, Child, CloneOptions, Ended, Forked, Namespaces, Strings};

/// Runs `child` in a clone, panics included, and returns how it ended.
fn in_child(options: &CloneOptions<'_>, child: impl FnOnce() -> i32) -> Ended {
    match process::clone(options).unwrap() {
        Forked::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
            process::exit_now(code)
        }
        Forked::Parent(Child { pidfd, .. }) => process::wait(&pidfd, true).unwrap().unwrap(),
    }
}

fn a_child_exits_with_its_code_and_is_reaped_by_pidfd() {
    assert_eq!(in_child(&CloneOptions::default(), || 7), Ended::Exited(7));
    assert_eq!(process::reap().unwrap(), None);
}

fn a_killed_child_tells_the_signal() {
    let Forked::Parent(child) = process::fork().unwrap() else {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    };
    assert_eq!(process::wait(&child.pidfd, false).unwrap(), None);
    process::signal(&child.pidfd, libc::SIGKILL).unwrap();
    let ended = process::wait(&child.pidfd, true).unwrap().unwrap();
    assert_eq!((ended, ended.code()), (Ended::Killed(9), 137));
    assert_eq!(process::signal(&child.pidfd, 0).unwrap_err().errno, Errno::SRCH);
}

fn a_child_has_namespaces_of_its_own() {
    let new = Namespaces::PID | Namespaces::UTS | Namespaces::MOUNT | Namespaces::IPC | Namespaces::NETWORK;
    let before = rustix::system::uname().nodename().to_owned();
    let ended = in_child(&CloneOptions { new, ..Default::default() }, || {
        assert_eq!(rustix::process::getpid().as_raw_nonzero().get(), 1);
        process::set_hostname(b"hull-test").unwrap();
        0
    });
    assert_eq!(ended, Ended::Exited(0));
    assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
}

fn a_child_joins_the_namespaces_of_a_pidfd() {
    let (mut wake, ready) = std::io::pipe().unwrap();
    let new = Namespaces::UTS | Namespaces::NETWORK;
    let Forked::Parent(target) = process::clone(&CloneOptions { new, ..Default::default() }).unwrap() else {
        process::set_hostname(b"hull-target").unwrap();
        drop((wake, ready));
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    };
    drop(ready);
    assert_eq!(std::io::Read::read(&mut wake, &mut [0]).unwrap(), 0);
    let ended = in_child(&CloneOptions::default(), || {
        process::join(&target.pidfd, new).unwrap();
        i32::from(rustix::system::uname().nodename() != c"hull-target")
    });
    process::signal(&target.pidfd, libc::SIGKILL).unwrap();
    process::wait(&target.pidfd, true).unwrap();
    assert_eq!(ended, Ended::Exited(0));
}

fn a_program_gets_its_streams_and_no_other_descriptor() {
    let (mut read, write) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let leaked = rustix::io::fcntl_dupfd_cloexec(&null, 50).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let ended = in_child(&CloneOptions::default(), || {
        process::set_standard_streams([null.as_fd(), write.as_fd(), write.as_fd()]).unwrap();
        process::close_on_exec_from(3).unwrap();
        let args = Strings::new(["sh", "-c", "echo $VAR; cd /proc/self/fd; echo *"]).unwrap();
        let env = Strings::new(["VAR=value"]).unwrap();
        let _ = process::exec(c"/bin/sh", &args, &env);
        98
    });
    assert_eq!(ended, Ended::Exited(0));
    drop(write);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut read, &mut text).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("value"));
    let numbers: Vec<u32> = lines.next().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.iter().all(|fd| *fd < 10) && numbers.contains(&0), "{numbers:?}");
}

fn main() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let tests: [(&str, fn()); 5] = [
        (
            "a_child_exits_with_its_code_and_is_reaped_by_pidfd",
            a_child_exits_with_its_code_and_is_reaped_by_pidfd,
        ),
        ("a_killed_child_tells_the_signal", a_killed_child_tells_the_signal),
        ("a_child_has_namespaces_of_its_own", a_child_has_namespaces_of_its_own),
        ("a_child_joins_the_namespaces_of_a_pidfd", a_child_joins_the_namespaces_of_a_pidfd),
        (
            "a_program_gets_its_streams_and_no_other_descriptor",
            a_program_gets_its_streams_and_no_other_descriptor,
        ),
    ];
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for (name, test) in tests {
        if filter.as_ref().is_none_or(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}
