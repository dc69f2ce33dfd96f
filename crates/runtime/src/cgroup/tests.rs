//! The kernel itself is asked: these tests need root and a host whose controllers are v1 or
//! hybrid. Each uses a cgroup of its own below `hull-test-PID-NAME` and removes it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A cgroup that is gone when the test ends.
struct Scratch {
    cgroup: Cgroup,
    warnings: Vec<Warning>,
}

impl Scratch {
    fn new(name: &str, resources: &str) -> Scratch {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let hierarchies = Hierarchies::detect().unwrap();
        let path = format!("hull-test-{}-{name}/a", std::process::id());
        let resources: Resources = serde_json::from_str(resources).unwrap();
        let (cgroup, warnings) = Cgroup::create(&hierarchies, &path, &resources).unwrap();
        Scratch { cgroup, warnings }
    }

    /// Starts `script` in a shell that first puts itself into the cgroup.
    fn shell(&self, script: &str) -> Command {
        let mut ways = Vec::new();
        for index in &self.cgroup.v1 {
            let point = &self.cgroup.hierarchies.roots.v1[*index].0.point;
            ways.push(format!("{point}/{}/tasks", self.cgroup.path));
        }
        if let Some((tree, _)) = &self.cgroup.hierarchies.roots.v2 {
            ways.push(format!("{}/{}/cgroup.procs", tree.point, self.cgroup.path));
        }
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg("script=$1; shift; for way; do echo 0 > \"$way\" || exit 99; done; eval \"$script\"")
            .arg("sh")
            .arg(script)
            .args(ways);
        command
    }

    fn run(&self, script: &str) -> Output {
        self.shell(script).output().unwrap()
    }

    fn start(&self, script: &str) -> Child {
        let mut command = self.shell(script);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // The script's first line says that it is in.
        let mut byte = [0];
        let out = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(out, &mut byte).unwrap();
        child
    }

    fn text(&self, controller: Controller, file: &str) -> String {
        let root = self.cgroup.v1_root(controller).unwrap();
        files::get(root, &format!("{}/{file}", self.cgroup.path)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = self.cgroup.path.strip_suffix("/a").unwrap().to_owned();
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
        if let Ok(parent) = Cgroup::open(&self.cgroup.hierarchies, &parent) {
            parent.remove().unwrap();
        }
    }
}

#[test]
fn this_hosts_hierarchies_each_get_the_cgroup_and_lose_it() {
    let scratch = Scratch::new("all", "{}");
    assert_eq!(scratch.warnings, []);
    let cgroup = &scratch.cgroup;
    let roots = &cgroup.hierarchies.roots;
    assert_eq!(cgroup.v1.len(), roots.v1.len());
    let join = cgroup.join().unwrap();
    assert_eq!(join.v1_tasks.len(), roots.v1.len());
    assert_eq!(join.v2.is_some(), roots.v2.is_some());
    let same = Cgroup::open(&cgroup.hierarchies, cgroup.path()).unwrap();
    assert_eq!((&same.v1, same.v2), (&cgroup.v1, cgroup.v2));
    cgroup.remove().unwrap();
    assert!(Cgroup::open(&cgroup.hierarchies, cgroup.path()).is_err());
    cgroup.remove().unwrap();
}

#[test]
fn memory_beyond_the_limit_is_killed_and_counted() {
    let scratch = Scratch::new("memory", r#"{"memory": {"limit": 16777216, "swap": 20971520}}"#);
    assert_eq!(scratch.cgroup.oom_kills(), 0);
    let output = scratch.run("exec tail /dev/zero");
    assert_eq!(output.status.signal(), Some(9));
    assert_eq!(scratch.cgroup.oom_kills(), 1);
    let stats = scratch.cgroup.stats();
    assert_eq!(stats.memory.limit, Some(16_777_216));
    assert!(stats.memory.failures > 0);
    assert!(stats.memory.peak > 15 << 20);
    assert!(stats.memory.details.contains_key("total_cache"));
}

#[test]
fn no_more_processes_than_the_limit() {
    let scratch = Scratch::new("pids", r#"{"pids": {"limit": 3}}"#);
    let three = scratch.run("sleep 0 & sleep 0 & wait");
    assert!(three.status.success());
    let four = scratch.run("sleep 1 & sleep 1 & sleep 1 & wait");
    assert!(!four.status.success());
    assert_eq!(scratch.cgroup.stats().pids.limit, Some(3));
}

#[test]
fn cpusets_come_from_the_parent_or_as_asked() {
    let plain = Scratch::new("cpuset", "{}");
    let root = plain.cgroup.v1_root(Controller::Cpuset).unwrap();
    let all = files::get(root, "cpuset.cpus").unwrap();
    assert_eq!(plain.text(Controller::Cpuset, "cpuset.cpus"), all);
    let one = Scratch::new("cpuset1", r#"{"cpu": {"cpus": "0"}}"#);
    let output = one.run("grep Cpus_allowed_list /proc/self/status");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Cpus_allowed_list:\t0\n");
    let refused = one.cgroup.update(&Resources {
        cpu: hull_oci::runtime::Cpu { cpus: "0-4095".into(), ..hull_oci::runtime::Cpu::default() },
        ..Resources::default()
    });
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("cpu.cpus: the kernel refuses \"0-4095\" for cpuset.cpus"));
}

#[test]
fn a_refused_value_leaves_no_cgroup_behind() {
    let hierarchies = Hierarchies::detect().unwrap();
    let path = format!("hull-test-{}-refused", std::process::id());
    let resources = serde_json::from_str(r#"{"cpu": {"cpus": "9-8"}}"#).unwrap();
    assert!(Cgroup::create(&hierarchies, &path, &resources).is_err());
    assert!(Cgroup::open(&hierarchies, &path).is_err());
}

#[test]
fn limits_that_the_kernel_takes_in_one_order_only_can_be_changed_both_ways() {
    let scratch = Scratch::new("update", r#"{"memory": {"limit": 33554432, "swap": 33554432}}"#);
    for limit in ["67108864", "16777216", "-1", "33554432"] {
        let text = format!(
            r#"{{"memory": {{"limit": {limit}, "swap": {limit}}}, "cpu": {{"period": 50000, "quota": 25000, "burst": 1000}}}}"#
        );
        let warnings = scratch.cgroup.update(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(warnings, []);
        if limit != "-1" {
            let now = scratch.text(Controller::Memory, "memory.memsw.limit_in_bytes");
            assert_eq!(now.trim(), limit);
        }
    }
    assert_eq!(scratch.text(Controller::Cpu, "cpu.cfs_quota_us").trim(), "25000");
}

#[test]
fn a_frozen_cgroup_does_nothing_until_thawed() {
    let scratch = Scratch::new("freeze", "{}");
    let mut child = scratch.start("echo in; while :; do :; done");
    scratch.cgroup.freeze().unwrap();
    assert!(scratch.cgroup.frozen());
    let before = scratch.cgroup.stats().cpu.total;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(scratch.cgroup.stats().cpu.total, before);
    scratch.cgroup.thaw().unwrap();
    assert!(!scratch.cgroup.frozen());
    std::thread::sleep(Duration::from_millis(100));
    assert!(scratch.cgroup.stats().cpu.total > before);
    scratch.cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn the_v1_freezer_works_without_v2() {
    let mut scratch = Scratch::new("freeze1", "{}");
    let mut child = scratch.start("echo in; while :; do :; done");
    // As on a host without v2.
    scratch.cgroup.v2 = false;
    scratch.cgroup.freeze().unwrap();
    assert_eq!(scratch.text(Controller::Freezer, "freezer.state"), "FROZEN\n");
    scratch.cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    scratch.cgroup.v2 = true;
}

#[test]
fn kill_outruns_a_process_that_forks_all_the_time_with_and_without_v2() {
    for v2 in [true, false] {
        let mut scratch = Scratch::new("kill", r#"{"pids": {"limit": 200}}"#);
        let mut child = scratch.start("echo in; f() { while :; do sleep 60 & sleep 0; done; }; f & f");
        std::thread::sleep(Duration::from_millis(50));
        let had = scratch.cgroup.v2;
        scratch.cgroup.v2 &= v2;
        assert!(scratch.cgroup.processes().unwrap().len() > 2);
        scratch.cgroup.kill().unwrap();
        assert_eq!(scratch.cgroup.processes().unwrap(), []);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        scratch.cgroup.v2 = had;
    }
}

#[test]
fn remove_takes_the_cgroups_a_container_made_below() {
    let scratch = Scratch::new("below", "{}");
    for (root, _) in scratch.cgroup.roots() {
        for name in ["x", "x/y", "z"] {
            let path = format!("{}/{name}", scratch.cgroup.path);
            mkdirat(root, &*path, FileMode::from_raw_mode(0o755)).unwrap();
        }
    }
    scratch.cgroup.remove().unwrap();
    assert!(Cgroup::open(&scratch.cgroup.hierarchies, scratch.cgroup.path()).is_err());
}

#[test]
fn a_cgroup_with_processes_is_neither_taken_over_nor_removed() {
    let scratch = Scratch::new("inuse", "{}");
    let mut child = scratch.start("echo in; exec sleep 60");
    let again = Cgroup::create(&scratch.cgroup.hierarchies, scratch.cgroup.path(), &Resources::default());
    assert!(matches!(again, Err(Error::InUse { .. })));
    assert!(matches!(scratch.cgroup.remove(), Err(Error::Occupied { .. })));
    scratch.cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn paths_stay_below_the_root() {
    for bad in ["", "/", "a//b", "..", "a/../b", "a/./b", "a\nb"] {
        assert!(checked(bad).is_err(), "{bad:?}");
    }
    assert_eq!(checked("/a/b/").unwrap(), "a/b");
}

#[test]
fn only_listed_devices_can_be_opened() {
    let rules = r#"{"devices": [{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}"#;
    let scratch = Scratch::new("devices", rules);
    assert_eq!(scratch.text(Controller::Devices, "devices.list"), "c 1:3 rwm\n");
    let output = scratch.run(": < /dev/null && echo null; : < /dev/zero");
    assert_eq!(output.stdout, b"null\n");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/dev/zero: Operation not permitted"), "{error}");
}

#[test]
fn the_program_on_v2_lets_only_listed_devices_be_opened() {
    let scratch = Scratch::new("bpf", "{}");
    let rules = r#"[{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "r"}]"#;
    let rules = devices::rules(&serde_json::from_str::<Vec<_>>(rules).unwrap()).unwrap();
    scratch.cgroup.restrict_devices_v2(&rules).unwrap();
    let output = scratch.run(
        ": < /dev/null && echo null; : < /dev/urandom && echo urandom; \
         (: > /dev/urandom) 2> /dev/null || echo read-only; : < /dev/zero",
    );
    assert_eq!(output.stdout, b"null\nurandom\nread-only\n");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/dev/zero: Operation not permitted"), "{error}");
}

#[test]
fn a_file_of_v2_that_is_not_there_is_an_error() {
    let hierarchies = Hierarchies::detect().unwrap();
    let path = format!("hull-test-{}-unified", std::process::id());
    let resources = serde_json::from_str(r#"{"unified": {"memory.high": "1"}}"#).unwrap();
    let error = Cgroup::create(&hierarchies, &path, &resources).unwrap_err();
    assert!(error.to_string().contains("memory.high"), "{error}");
}

/// The start path: nine hierarchies in 0.3 ms (PEERS: 0.26 ms for mkdir and rmdir alone). The
/// bound here is ten times that, for loaded machines and debug builds.
#[test]
fn creating_is_cheap() {
    let hierarchies = Hierarchies::detect().unwrap();
    let parent = format!("hull-test-{}-cheap", std::process::id());
    let resources = serde_json::from_str(
        r#"{"pids": {"limit": 100}, "devices": [{"allow": false}, {"allow": true, "type": "c", "major": 1}]}"#,
    )
    .unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let start = Instant::now();
        let (cgroup, _) = Cgroup::create(&hierarchies, &format!("{parent}/{n}"), &resources).unwrap();
        let join = cgroup.join().unwrap();
        times.push(start.elapsed());
        drop(join);
        cgroup.remove().unwrap();
    }
    Cgroup::open(&hierarchies, &parent).unwrap().remove().unwrap();
    times.sort_unstable();
    assert!(times[25] < Duration::from_millis(3), "{times:?}");
}
