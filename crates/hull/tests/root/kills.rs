//! The shim is killed, and the daemon at named points: afterwards the machine is as it was.

use hull_testkit::Baseline;

use super::host;

#[test]
fn a_killed_shim_ends_its_container_and_the_daemon_knows() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let shim = rustix_pid(&parent);
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let start = std::time::Instant::now();
    while host.hull(&["inspect", "-f", "{{.State.Status}}", "box"]).ok() != "exited" {
        assert!(start.elapsed().as_secs() < 10, "the daemon never learned of it");
    }
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.ExitCode}}", "box"]).ok(), "137");
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the container lives on without its shim"
    );
    host.hull(&["start", "box"]).ok();
    host.hull(&["rm", "-f", "box"]).ok();
    before.returns(&host);
}

fn rustix_pid(text: &str) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(text.parse().unwrap()).unwrap()
}
