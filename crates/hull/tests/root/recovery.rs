//! The daemon is killed, upgraded, restarted: containers never notice, nothing is lost.

use std::thread;
use std::time::Duration;

use super::host;

#[test]
fn a_killed_daemon_finds_its_container_its_log_and_its_exit_again() {
    let mut host = host();
    let script = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 17";
    let id = host.hull(&["run", "-d", "--name", "goes-on", "busybox", "sh", "-c", script]).ok().to_owned();
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", &id]).ok().to_owned();
    host.kill_daemon();
    thread::sleep(Duration::from_millis(500));
    host.start_daemon();
    assert_eq!(
        host.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.Status}}", &id]).ok(),
        format!("{pid} running")
    );
    host.docker(&["exec", &id, "true"]).ok();
    host.kill_daemon();
    // It ends while no daemon is there.
    thread::sleep(Duration::from_secs(4));
    host.start_daemon();
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &id]).ok(), "exited 17");
    let numbers: Vec<String> = (0..60).map(|number: u32| number.to_string()).collect();
    assert_eq!(host.hull(&["logs", &id]).ok(), numbers.join("\n"));
    host.hull(&["rm", &id]).ok();
}

#[test]
fn a_stop_that_the_daemon_did_not_live_to_see_the_end_of_is_gone_on_with() {
    let mut host = host();
    let script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done";
    for word in ["stop", "restart"] {
        host.hull(&["run", "-d", "--name", word, "busybox", "sh", "-c", script]).ok();
        let until = |what: &str, wanted: &str, words: &[&str]| {
            let start = std::time::Instant::now();
            while host.hull(words).ok() != wanted {
                assert!(start.elapsed().as_secs() < 30, "{what}: {}", host.hull(words));
                thread::sleep(Duration::from_millis(10));
            }
        };
        until("its trap is set", "up", &["logs", word]);
        let mut client = host.hull_command(&[word, "-t", "4", word]).spawn().unwrap();
        until("the signal", "up\nasked", &["logs", word]);
        let began = std::time::Instant::now();
        host.kill_daemon();
        assert_ne!(client.wait().unwrap().code(), Some(0));
        host.start_daemon();
        // It ignores the signal, and nobody asks again.
        let (format, wanted) = match word {
            "stop" => ("{{.State.Status}} {{.State.ExitCode}}", "exited 137"),
            _ => ("{{.State.Status}} {{.RestartCount}}", "running 0"),
        };
        let start = std::time::Instant::now();
        let pid =
            |host: &hull_testkit::Host| host.hull(&["inspect", "-f", "{{.State.Pid}}", word]).ok().to_owned();
        let old = pid(&host);
        while pid(&host) == old || host.hull(&["inspect", "-f", format, word]).ok() != wanted {
            assert!(start.elapsed().as_secs() < 30, "{}", host.hull(&["inspect", word]));
            thread::sleep(Duration::from_millis(20));
        }
        assert!(began.elapsed() > Duration::from_secs(3), "its grace was cut short");
        host.hull(&["rm", "-f", word]).ok();
    }
}

#[test]
fn a_stopped_daemon_leaves_containers_running_and_its_files_in_order() {
    let mut host = host();
    host.hull(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).ok();
    assert_eq!(host.stop_daemon(), 0);
    assert!(!host.folder().join("hull.pid").exists(), "the pid file is left");
    host.start_daemon();
    assert_eq!(host.hull(&["ps", "--format", "{{.Names}} {{.State}}"]).ok(), "stays running");
    host.hull(&["stop", "-t", "0", "stays"]).ok();
}

#[test]
fn a_container_that_removes_itself_does_so_after_a_restart_too() {
    let mut host = host();
    let id = host.hull(&["run", "-d", "--rm", "busybox", "sleep", "1"]).ok().to_owned();
    host.kill_daemon();
    thread::sleep(Duration::from_millis(1500));
    host.start_daemon();
    let start = std::time::Instant::now();
    while !host.hull(&["ps", "-aq"]).ok().is_empty() {
        assert!(start.elapsed().as_secs() < 10, "{id} is still there");
    }
    assert!(!host.data_root().join("containers").join(&id).exists());
}

#[test]
fn a_hangup_makes_the_daemon_read_its_file_again_and_no_more() {
    let mut host = host();
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let pid = rustix::process::Pid::from_raw(host.daemon_pid().cast_signed()).unwrap();
    let file = host.folder().join("daemon.json");
    // One that can be read, and one that cannot.
    for (text, said) in [("{\"debug\": true}", "reload"), ("{", "daemon.json")] {
        std::fs::write(&file, text).unwrap();
        let before = host.daemon_log().len();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let start = std::time::Instant::now();
        while !host.daemon_log()[before..].contains(said) {
            assert!(start.elapsed().as_secs() < 10, "{said:?} is not in the log: {}", host.daemon_log());
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(host.hull(&["ps", "--format", "{{.Names}}"]).ok(), "box");
        host.hull(&["exec", "box", "true"]).ok();
    }
    assert_eq!(host.stop_daemon(), 0);
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let host = host();
    let mut second = host.daemon_command();
    second.arg("--host").arg(format!("unix://{}/second.sock", host.folder().display()));
    let output = second.output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("another daemon") || text.contains("is running") || text.contains("in use"),
        "{text}"
    );
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
}

/// Regression: a closed socket of which the spawner kept a copy woke its shim for ever.
#[test]
fn shims_sleep_while_nobody_talks_to_them() {
    let mut host = host();
    host.hull(&["run", "-d", "-i", "--name", "box", "busybox", "cat"]).ok();
    for words in [&["exec", "-i", "box", "sleep", "1000"][..], &["attach", "box"], &["logs", "-f", "box"]] {
        let mut client = host.docker_command(words);
        let mut client =
            client.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(300));
        client.kill().unwrap();
        client.wait().unwrap();
    }
    let before = ticks(&host);
    thread::sleep(Duration::from_millis(500));
    let with_daemon = ticks(&host) - before;
    assert!(with_daemon <= 5, "{with_daemon} ticks of a machine at rest");
    host.kill_daemon();
    let before = ticks(&host);
    thread::sleep(Duration::from_millis(500));
    let without = ticks(&host) - before;
    assert!(without <= 5, "{without} ticks of a machine whose daemon is gone");
    host.start_daemon();
    host.hull(&["rm", "-f", "box"]).ok();
}

/// Processor time of all processes of a machine, in hundredths of a second (proc_pid_stat(5)).
fn ticks(host: &hull_testkit::Host) -> u64 {
    let mut all = 0;
    for pid in host.processes() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        all += number(11) + number(12);
    }
    all
}

#[test]
fn the_next_daemon_starts_in_the_moment_after_a_kill() {
    let mut host = host();
    // With sockets, namespaces and filters to take away.
    for name in ["one", "two", "three"] {
        host.hull(&["run", "-d", "-P", "--expose", "80", "--name", name, "busybox", "sleep", "1000"]).ok();
    }
    for _ in 0..10 {
        host.replace_killed_daemon();
        host.await_socket();
        assert_eq!(host.hull(&["ps", "-q"]).ok().lines().count(), 3);
    }
    host.hull(&["rm", "-f", "one", "two", "three"]).ok();
}

#[test]
fn only_the_daemon_holds_its_data_root_and_no_second_one_gets_it() {
    let host = host();
    host.hull(&["run", "-d", "-p", "80", "--name", "box", "busybox", "sleep", "1000"]).ok();
    host.hull(&["exec", "-d", "box", "sleep", "1000"]).ok();
    let lock = host.data_root().join("lock");
    let has_it = |pid: &String| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file == lock))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let holders: Vec<String> =
        processes.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(has_it).collect();
    assert_eq!(holders, [host.daemon_pid().to_string()]);
    // Elsewhere in everything but the data root.
    let elsewhere = host.folder().join("elsewhere");
    let mut second = host.inside(env!("CARGO_BIN_EXE_hull"));
    second.arg("daemon").arg("--data-root").arg(host.data_root()).arg("--exec-root").arg(&elsewhere);
    second.arg("--config-file").arg(host.folder().join("daemon.json"));
    second.args(["--host", &format!("unix://{}", elsewhere.join("sock").display())]);
    let start = std::time::Instant::now();
    let refused = hull_testkit::run(&mut second, b"");
    refused.fails(1, &format!("another daemon uses the data root {}", host.data_root().display()));
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    // And where everything is the same.
    let refused = hull_testkit::run(&mut host.daemon_command(), b"");
    refused.fails(1, &format!("another daemon answers on {}", host.socket().display()));
    assert_eq!(host.hull(&["ps", "-q"]).ok().lines().count(), 1);
    host.hull(&["rm", "-f", "box"]).ok();
}
