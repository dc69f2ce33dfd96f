//! Processes of ours that are killed: what must hold afterwards.

use hull_oci::runtime::NamespaceKind;
use hull_runtime::cgroup::{Cgroup, Hierarchies};
use hull_runtime::shim::{Event, Found};

use crate::house::{House, adopt, exited, hear, kill, runs, started, until, wait};

#[test]
fn a_killed_shim_leaves_no_process_and_its_exit_is_told() {
    let house = House::new();
    let script = "/bin/busybox sleep 1000 & echo $!; exec /bin/busybox sleep 1000";
    let connection = house.launch(&house.bundle("a", script), &[]);
    let (pid, pidfd) = started(&connection);
    until("output", || !house.log("a").is_empty());
    kill(house.shim_pid("a"));
    assert_eq!(exited(&connection).code, 137);
    assert!(!runs(pid));
    wait(&pidfd);
    assert!(hear(&connection).is_none());
    assert!(matches!(house.found("a"), Found::Ended(exit) if exit.code == 137));
}

#[test]
fn whoever_sees_the_process_of_a_killed_shim_end_finds_its_record() {
    let house = House::new();
    for n in 0..20 {
        let id = format!("c{n}");
        let (first, _, _) = house.sleeper(&id);
        drop(first);
        let Found::Living(connection) = house.found(&id) else {
            panic!("not found");
        };
        let (_, pidfd) = started(&connection);
        kill(house.shim_pid(&id));
        assert!(hear(&connection).is_none(), "only the spawner is left to tell, and elsewhere");
        wait(&pidfd);
        assert!(matches!(house.found(&id), Found::Ended(exit) if exit.code == 137));
    }
}

#[test]
fn many_shims_killed_at_once_are_all_told_of() {
    let house = House::new();
    let all: Vec<_> = (0..20).map(|n| house.sleeper(&format!("c{n}"))).collect();
    for n in 0..20 {
        kill(house.shim_pid(&format!("c{n}")));
    }
    for (connection, pid, _) in all {
        assert_eq!(exited(&connection).code, 137);
        assert!(!runs(pid));
    }
}

#[test]
fn shims_outlive_a_killed_spawner_and_a_new_one_serves() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    kill(house.client.pid);
    wait(&house.client);
    assert!(!house.client.alive());
    let second = adopt(house.dir.path());
    assert_ne!(second.pid, house.client.pid);
    assert!(runs(pid));
    let Found::Living(again) = house.found("a") else {
        panic!("not found");
    };
    assert!(matches!(hear(&again), Some(Event::Started { .. })));
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
    assert_eq!(exited(&again).code, 137);
    kill(second.pid);
}

#[test]
fn a_daemon_that_dies_takes_nothing_with_it() {
    let house = House::new();
    let connection = house.launch(&house.bundle("a", "/bin/busybox sleep 0.3; echo late; exit 4"), &[]);
    started(&connection);
    drop(connection);
    until("the end", || matches!(house.found("a"), Found::Ended(exit) if exit.code == 4));
    assert_eq!(house.log("a"), "late\n");
}

#[test]
fn a_killed_shim_of_a_frozen_container_leaves_no_process_either() {
    let house = House::new();
    let (connection, pid, _) = house.sleeper("a");
    let hierarchies = Hierarchies::detect().unwrap();
    let path = format!("{}/a", house.cgroup);
    Cgroup::open(&hierarchies, &path).unwrap().freeze().unwrap();
    kill(house.shim_pid("a"));
    assert_eq!(exited(&connection).code, 137);
    assert!(!runs(pid));
    assert!(Cgroup::open(&hierarchies, &path).is_err(), "the cgroup is removed, too");
}

#[test]
fn what_a_container_leaves_in_the_hosts_pid_namespace_ends_with_it() {
    let house = House::new();
    let script = "(/bin/busybox setsid /bin/busybox sleep 1000 &) ; echo up; exit 7";
    let mut bundle = house.bundle("a", script);
    bundle.spec.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid);
    let connection = house.launch(&bundle, &[]);
    started(&connection);
    assert_eq!(exited(&connection).code, 7);
    assert!(hear(&connection).is_none());
    let hierarchies = Hierarchies::detect().unwrap();
    let gone = Cgroup::open(&hierarchies, &format!("{}/a", house.cgroup)).is_err();
    assert!(gone, "a cgroup with a process in it cannot be removed");
}

#[test]
fn a_container_that_outgrows_its_memory_is_told_to_have() {
    let house = House::new();
    let mut bundle = house.bundle("a", "x=0123456789abcdef; while :; do x=$x$x; done");
    bundle.spec.linux.resources.memory.limit = Some(16 << 20);
    let connection = house.launch(&bundle, &[]);
    started(&connection);
    let exit = exited(&connection);
    assert_eq!((exit.code, exit.oom), (137, true));
}
