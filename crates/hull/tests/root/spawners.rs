//! Spawners that are killed, of another build, or in another mount namespace: what runs goes on,
//! and what comes next is served by one that can.

use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Host, Options};
use rustix::process::{Pid, Signal};

use super::{executables, host};

/// A machine with a container `old`, and its only spawner.
fn with_container(host: &Host) -> u32 {
    host.hull(&["run", "-d", "--name", "old", "busybox", "sleep", "1000"]).ok();
    let spawners = host.spawners();
    assert_eq!(spawners.len(), 1, "{spawners:?}");
    spawners[0]
}

/// Everything that a spawner does: shims of containers and execs, and workers.
#[track_caller]
fn serves(host: &Host) {
    host.hull(&["exec", "old", "true"]).ok();
    assert_eq!(host.hull(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
    let file = host.folder().join("saved.tar").display().to_string();
    host.hull(&["save", "-o", &file, "busybox"]).ok();
    host.hull(&["tag", "busybox", "kept"]).ok();
    host.hull(&["load", "-i", &file]).ok();
    // Loading the same image finds its layers. This one is new.
    let tree = host.folder().join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join(format!("{}", host.daemon_pid())), "x").unwrap();
    let packed = std::process::Command::new("tar")
        .args(["-C", &tree.display().to_string(), "-cf", &file, "."])
        .status()
        .unwrap();
    assert!(packed.success());
    host.hull(&["import", &file, "imported"]).ok();
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come to pass");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parent(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned()
}

/// The old container is what it was, until it is removed: then its spawner leaves, too.
fn leaves_with_its_last_shim(host: &Host, old: u32, pid: &str) {
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.Pid}}", "old"]).ok(), pid);
    assert_eq!(parent(&parent(pid)), old.to_string(), "its shim is the old spawner's");
    assert!(host.spawners().contains(&old), "it left before its last shim");
    host.hull(&["rm", "-f", "old"]).ok();
    until("the end of the old spawner", || !host.spawners().contains(&old));
    assert_eq!(host.spawners().len(), 1);
}

#[test]
fn a_killed_spawner_is_replaced_and_what_it_ran_goes_on() {
    let host = host();
    let old = with_container(&host);
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "old"]).ok().to_owned();
    let killed = Pid::from_raw(old.cast_signed()).unwrap();
    rustix::process::kill_process(killed, Signal::KILL).unwrap();
    until("its end", || !host.spawners().contains(&old));
    serves(&host);
    assert_eq!(host.spawners().len(), 1);
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.Pid}}", "old"]).ok(), pid);
    assert_eq!(host.hull(&["stop", "-t", "0", "old"]).ok(), "old");
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.ExitCode}}", "old"]).ok(), "137");
}

#[test]
fn a_daemon_of_another_build_has_its_own_spawner_and_the_old_one_leaves_with_its_last_shim() {
    let mut host = host();
    let old = with_container(&host);
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "old"]).ok().to_owned();
    host.kill_daemon();
    let next = host.folder().join("hull-runtime");
    std::fs::copy(host.runtime(), &next).unwrap();
    host.set_runtime(next);
    host.start_daemon();
    serves(&host);
    let spawners = host.spawners();
    assert!(spawners.len() == 2 && spawners.contains(&old), "{spawners:?}");
    leaves_with_its_last_shim(&host, old, &pid);
}

#[test]
fn a_stopped_daemon_leaves_no_process_where_nothing_runs() {
    let mut host = host();
    let old = with_container(&host);
    host.hull(&["run", "-d", "--name", "web", "-p", "80", "busybox", "sleep", "1000"]).ok();
    assert_eq!(host.stop_daemon(), 0);
    assert_eq!(host.spawners(), [old], "what runs needs it");
    host.start_daemon();
    assert_eq!(host.spawners(), [old], "and so does the next daemon");
    host.hull(&["rm", "-f", "old", "web"]).ok();
    // The one that holds the namespaces of the machine, the daemon, the spawner, the forwarder.
    until("the end of the shims", || host.processes().len() == 4);
    assert_eq!(host.stop_daemon(), 0);
    until("the end of all but the first", || host.processes().len() == 1);
    host.start_daemon();
    assert_eq!(host.hull(&["run", "--rm", "busybox", "echo", "new"]).ok(), "new");
}

/// Regression: a spawner told to retire by a daemon that did not wait for its hello never heard it.
#[test]
fn a_spawner_of_another_build_with_nothing_to_do_leaves_at_once() {
    let mut host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for build in 0..3 {
        let old = host.spawners();
        assert_eq!(old.len(), 1, "{old:?}");
        host.kill_daemon();
        let next = host.folder().join(format!("hull-runtime-{build}"));
        std::fs::copy(host.runtime(), &next).unwrap();
        host.set_runtime(next);
        host.start_daemon();
        until("the end of the old spawner", || !host.spawners().contains(&old[0]));
    }
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    assert_eq!(host.spawners().len(), 1);
    before.returns(&host);
}

/// Regression: a spawner in another mount namespace was adopted, and each of its workers failed
/// with EINVAL from open_tree(2).
#[test]
fn a_daemon_in_another_mount_namespace_has_its_own_spawner() {
    let options = Options { own_mounts: true, ..Options::default() };
    let mut host = Host::start(executables(), options);
    host.busybox();
    let old = with_container(&host);
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "old"]).ok().to_owned();
    host.kill_daemon();
    host.start_daemon();
    serves(&host);
    leaves_with_its_last_shim(&host, old, &pid);
}
