//! A container's life when nothing goes wrong.

use hull_runtime::bundle::StartErrorKind;
use hull_runtime::protocol::Kind;
use hull_runtime::shim::{self, Event, Found};

use crate::house::{House, adopt, descriptors, exited, hear, kill, runs, started, until, wait};

#[test]
fn what_a_container_writes_and_how_it_ends_is_told() {
    let house = House::new();
    let (output, exit) = house.run("a", "echo one; echo two; printf end; exit 3");
    assert_eq!(output, "one\ntwo\nend");
    assert_eq!((exit.code, exit.oom), (3, false));
    assert_eq!(house.log("a"), "one\ntwo\nend");
    let Found::Ended(recorded) = house.found("a") else {
        panic!("no record");
    };
    assert_eq!(recorded, exit);
    shim::forget(&house.exec_root(), Kind::Container, "a").unwrap();
    assert!(matches!(house.found("a"), Found::Gone));
}

#[test]
fn a_signal_ends_with_128_and_its_number() {
    let house = House::new();
    let (connection, pid, pidfd) = house.sleeper("a");
    assert!(runs(pid));
    kill(pid);
    wait(&pidfd);
    assert_eq!(exited(&connection).code, 137);
    assert!(hear(&connection).is_none(), "the shim leaves after it has told the exit");
}

#[test]
fn a_program_that_is_not_there_is_told_as_such() {
    let house = House::new();
    let mut bundle = house.bundle("a", "");
    bundle.spec.process.as_mut().unwrap().args = vec!["nosuch".to_owned()];
    let connection = house.launch(&bundle, &[]);
    let Some(Event::StartFailed(error)) = hear(&connection) else {
        panic!("it started");
    };
    assert_eq!(error.kind, StartErrorKind::NotFound);
    assert_eq!(error.message, r#"exec: "nosuch": executable file not found in $PATH"#);
    assert!(hear(&connection).is_none());
}

#[test]
fn a_shim_is_found_again_by_its_id() {
    let house = House::new();
    let (first, pid, _) = house.sleeper("a");
    drop(first);
    let Found::Living(again) = house.found("a") else {
        panic!("not found");
    };
    let (same, pidfd) = started(&again);
    assert_eq!(same, pid);
    let Found::Living(third) = house.found("a") else {
        panic!("not found");
    };
    started(&third);
    hull_sys::process::signal(&pidfd, 15).unwrap();
    kill(pid);
    let exit = exited(&again);
    assert_eq!(exited(&third), exit);
    assert!(matches!(house.found("a"), Found::Ended(recorded) if recorded == exit));
}

#[test]
fn one_spawner_serves_daemon_after_daemon_and_leaves_with_its_last_shim() {
    let house = House::new();
    let second = adopt(house.dir.path());
    assert_eq!(second.pid, house.client.pid);
    let (connection, pid, _) = house.sleeper("a");
    second.retire().unwrap();
    let third = adopt(house.dir.path());
    assert_ne!(third.pid, second.pid);
    assert!(runs(second.pid), "it still has a shim");
    kill(pid);
    exited(&connection);
    wait(&second);
    assert!(!second.alive());
    until("the end of the retired spawner", || !runs(second.pid));
    assert!(third.alive());
    kill(third.pid);
}

#[test]
fn the_spawner_runs_from_sealed_memory_and_holds_nothing_of_its_starter() {
    let house = House::new();
    let pid = house.client.pid;
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(executable.to_str().unwrap().starts_with("/memfd:hull-runtime"), "{executable:?}");
    assert!(std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/exe")).is_err());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let open = descriptors(pid);
    let sockets = open.iter().filter(|name| name.starts_with("socket:")).count();
    // The roots of the cgroup hierarchies, which every shim is born with.
    let own = |name: &str| !name.starts_with("socket:") && !name.starts_with("/sys/fs/cgroup");
    let rest: Vec<_> = open.iter().filter(|name| own(name)).collect();
    assert_eq!(sockets, 2, "the listener and this connection: {open:?}");
    let null = "/dev/null";
    let own = ["anon_inode:[signalfd]", "anon_inode:[eventpoll]", "anon_inode:inotify"];
    assert_eq!(rest, [&[null; 3][..], &own].concat());
}

#[test]
fn a_spawner_whose_socket_was_removed_leaves_with_its_last_shim() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    std::fs::remove_dir_all(house.exec_root().join("spawner")).unwrap();
    let second = adopt(house.dir.path());
    assert_ne!(second.pid, house.client.pid);
    assert!(runs(house.client.pid), "it still has a shim");
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
    until("the first spawner's end", || !runs(house.client.pid));
    std::fs::remove_dir_all(house.exec_root().join("spawner")).unwrap();
    until("the second spawner's end", || !runs(second.pid));
}

#[test]
fn a_shim_holds_nothing_of_other_shims_and_its_process_nothing_of_it() {
    let house = House::new();
    let others: Vec<_> = (0..3).map(|n| house.sleeper(&format!("other{n}"))).collect();
    let (_connection, pid, _) = house.sleeper("a");
    let shim = descriptors(house.shim_pid("a"));
    // Listener, control, and the connection that asked for the pid; two pipes; log and its folder,
    // record, root, pidfds.
    assert!(shim.iter().filter(|name| name.starts_with("socket:")).count() <= 3, "{shim:?}");
    assert_eq!(shim.iter().filter(|name| name.starts_with("pipe:")).count(), 2, "{shim:?}");
    assert!(!shim.iter().any(|name| name.contains("log-other")), "{shim:?}");
    let payload = descriptors(pid);
    assert_eq!(payload.len(), 3, "{payload:?}");
    for (_, pid, _) in others {
        kill(pid);
    }
}

#[test]
fn a_hundred_containers_leave_the_spawner_as_it_was() {
    let house = House::new();
    let before = descriptors(house.client.pid).len();
    for n in 0..100 {
        let (output, exit) = house.run(&format!("c{n}"), "echo hi");
        assert_eq!((output.as_str(), exit.code), ("hi\n", 0));
    }
    until("all descriptors given back", || descriptors(house.client.pid).len() == before);
    let children = format!("/proc/{0}/task/{0}/children", house.client.pid);
    until("all children reaped", || std::fs::read_to_string(&children).unwrap().is_empty());
}
