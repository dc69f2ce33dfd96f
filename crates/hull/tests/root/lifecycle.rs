//! create, start, stop, kill, restart, pause, wait, rename, rm: states, codes and refusals.

use super::{CLIENTS, host};

#[test]
fn a_life_from_create_to_rm() {
    let host = host();
    for client in CLIENTS {
        let id = client(
            &host,
            &["create", "--name", "one", "busybox", "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait"],
        )
        .ok()
        .to_owned();
        assert_eq!(id.len(), 64);
        let status = |want: &str| {
            assert_eq!(
                client(&host, &["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"]).ok(),
                want
            );
        };
        status("created 0");
        assert_eq!(client(&host, &["start", "one"]).ok(), "one");
        status("running 0");
        client(&host, &["start", "one"]).ok();
        client(&host, &["pause", "one"]).ok();
        status("paused 0");
        client(&host, &["pause", "one"]).fails(1, "is already paused");
        client(&host, &["unpause", "one"]).ok();
        client(&host, &["unpause", "one"]).fails(1, "is not paused");
        client(&host, &["rename", "one", "two"]).ok();
        assert_eq!(client(&host, &["ps", "--format", "{{.Names}}"]).ok(), "two");
        client(&host, &["rename", "two", "one"]).ok();
        client(&host, &["rm", "one"])
            .fails(1, "container is running: stop the container before removing or force remove");
        client(&host, &["stop", "one"]).ok();
        status("exited 5");
        assert_eq!(client(&host, &["wait", "one"]).ok(), "5");
        client(&host, &["kill", "one"]).fails(1, "is not running");
        client(&host, &["restart", "one"]).ok();
        status("running 0");
        client(&host, &["kill", "one"]).ok();
        assert_eq!(client(&host, &["wait", "one"]).ok(), "137");
        client(&host, &["rm", "one"]).ok();
        client(&host, &["inspect", "one"]).fails(1, "one");
    }
}

#[test]
fn a_layer_that_goes_with_its_run_is_volatile_and_lives_through_a_restart() {
    let host = host();
    let script = "echo again >> /file; sync; sleep 1000";
    for (words, volatile) in [(&["run", "-d", "--rm"][..], "1"), (&["run", "-d"][..], "0")] {
        host.hull(&[words, &["--name", "one", "busybox", "sh", "-c", script]].concat()).ok();
        let options = ["exec", "one", "sh", "-c", "grep ' / overlay ' /proc/mounts | grep -c volatile; true"];
        assert_eq!(host.hull(&options).ok(), volatile);
        host.hull(&["restart", "-t", "0", "one"]).ok();
        let lines =
            ["exec", "one", "sh", "-c", "until [ $(wc -l < /file) = 2 ]; do sleep 0.1; done; cat /file"];
        assert_eq!(host.hull(&lines).ok(), "again\nagain");
        assert_eq!(host.hull(&options).ok(), volatile);
        host.hull(&["rm", "-f", "one"]).ok();
    }
}

#[test]
fn stop_waits_then_kills() {
    let host = host();
    host.hull(&[
        "run",
        "-d",
        "--name",
        "deaf",
        "busybox",
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 1; done",
    ])
    .ok();
    host.docker(&["stop", "-t", "1", "deaf"]).ok();
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.ExitCode}}", "deaf"]).ok(), "137");
}

#[test]
fn a_name_in_use_is_refused_with_its_owner() {
    let host = host();
    for client in CLIENTS {
        let id = client(&host, &["create", "--name", "taken", "busybox"]).ok().to_owned();
        let finished = client(&host, &["run", "--name", "taken", "busybox", "true"]);
        finished.fails(125, "is already in use by container").fails(125, &id[..12]);
        client(&host, &["create", "--name", "bad name", "busybox"]).fails(1, "Invalid container name");
        client(&host, &["rm", "taken"]).ok();
    }
}

#[test]
fn unknown_containers_are_named() {
    let host = host();
    for client in CLIENTS {
        for verb in ["start", "stop", "kill", "restart", "pause", "unpause", "logs", "wait", "rm", "top"] {
            client(&host, &[verb, "ghost"]).fails(1, "No such container: ghost");
        }
        client(&host, &["exec", "ghost", "true"]).fails(1, "No such container: ghost");
        client(&host, &["inspect", "ghost"]).fails(1, "ghost");
    }
}

#[test]
fn rm_in_all_its_forms() {
    let host = host();
    host.hull(&["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
    host.hull(&["run", "-d", "--name", "bb", "busybox", "sleep", "1000"]).ok();
    host.hull(&["create", "--name", "cc", "busybox"]).ok();
    assert_eq!(host.hull(&["rm", "-f", "aa", "bb", "cc"]).ok(), "aa\nbb\ncc");
    assert_eq!(host.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn a_restart_policy_restarts_and_counts() {
    let host = host();
    host.docker(&[
        "run",
        "-d",
        "--restart",
        "on-failure:2",
        "--name",
        "again",
        "busybox",
        "sh",
        "-c",
        "exit 3",
    ])
    .ok();
    let start = std::time::Instant::now();
    loop {
        let state =
            host.hull(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "again"]);
        if state.ok() == "2 exited 3" {
            break;
        }
        assert!(start.elapsed().as_secs() < 15, "{state}");
    }
    host.hull(&["run", "-d", "--restart", "always", "--name", "ever", "busybox", "sleep", "1000"]).ok();
    host.hull(&["stop", "-t", "0", "ever"]).ok();
    assert_eq!(
        host.hull(&["inspect", "-f", "{{.State.Status}}", "ever"]).ok(),
        "exited",
        "a stop by hand ends the policy"
    );
}
