//! `run` in the foreground and detached: exit codes, streams, names, environment.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hull_testkit::{Host, patience};
use rustix::process::{Pid, Signal};

use super::{CLIENTS, bare, host};

#[test]
fn hello_runs_through_all_processes() {
    let host = bare();
    for client in CLIENTS {
        let finished = client(&host, &["run", "--rm", "hello"]);
        assert!(finished.ok().contains("Hull"), "{finished}");
    }
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
}

#[test]
fn output_error_and_exit_code_come_back() {
    let host = host();
    for client in CLIENTS {
        let finished =
            client(&host, &["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 42"]);
        assert_eq!(
            (finished.code, finished.stdout.as_str(), finished.stderr.as_str().lines().last()),
            (42, "out\n", Some("err")),
            "{finished}"
        );
    }
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let host = host();
    for client in CLIENTS {
        client(&host, &["run", "--rm", "busybox", "nosuchcmd"])
            .fails(127, "exec: \"nosuchcmd\": executable file not found in $PATH");
        client(&host, &["run", "--rm", "busybox", "/nosuch/path"])
            .fails(127, "/nosuch/path: no such file or directory");
        client(&host, &["run", "--rm", "busybox", "/etc/passwd"]).fails(126, "permission denied");
        client(&host, &["run", "--rm", "busybox", "/etc"]).fails(126, "/etc");
        client(&host, &["run", "--rm", "--no-such-flag", "busybox", "true"]).fails(125, "no-such-flag");
        client(&host, &["run", "--rm", "--memory", "lots", "busybox", "true"]).fails(125, "lots");
        let misspelt = client(&host, &["run", "--rm", "BAD", "true"]);
        misspelt.fails(125, "invalid reference format: repository name (library/BAD) must be lowercase");
        assert!(!misspelt.stderr.contains("daemon"), "the client knows: {misspelt}");
    }
    let id = host.hull(&["inspect", "-f", "{{.Id}}", "busybox"]).ok().to_owned();
    for name in [&id, id.trim_start_matches("sha256:"), &id[7..19]] {
        assert_eq!(host.hull(&["run", "--rm", name, "echo", "by its ID"]).ok(), "by its ID");
    }
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "", "a container that never started was not removed");
}

#[test]
fn a_signal_is_128_plus_its_number() {
    let host = host();
    for client in CLIENTS {
        assert_eq!(
            client(&host, &["run", "--rm", "busybox", "sh", "-c", "kill -9 $$; exit 3"]).code,
            3,
            "pid 1 is immune to itself"
        );
        assert_eq!(client(&host, &["run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$"]).code, 137);
        assert_eq!(
            client(&host, &["run", "--rm", "--init", "busybox", "sh", "-c", "kill -TERM $$"]).code,
            143
        );
    }
}

#[test]
fn standard_input_reaches_the_process_and_ends() {
    let host = host();
    let finished = host.hull_with_input(&["run", "--rm", "-i", "busybox", "cat"], b"one\ntwo\n");
    assert_eq!(finished.ok(), "one\ntwo");
    let finished =
        host.docker_with_input(&["run", "--rm", "-i", "busybox", "wc", "-c"], &vec![b'x'; 3_000_000]);
    assert_eq!(finished.ok(), "3000000");
}

#[test]
fn environment_directory_user_entrypoint_and_hostname_are_as_asked() {
    let host = host();
    for client in CLIENTS {
        let words = [
            "run",
            "--rm",
            "-e",
            "A=1",
            "-e",
            "B=two words",
            "-w",
            "/some/where",
            "-u",
            "1234:5678",
            "--hostname",
            "ship",
        ];
        let command = ["busybox", "sh", "-c", "echo $A-$B-$PWD-$(id -u)-$(id -g)-$(hostname)"];
        assert_eq!(
            client(&host, &[&words[..], &command[..]].concat()).ok(),
            "1-two words-/some/where-1234-5678-ship"
        );
        assert_eq!(client(&host, &["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"]).ok(), "a b");
        assert_eq!(client(&host, &["run", "--rm", "-u", "nobody", "busybox", "whoami"]).ok(), "nobody");
        client(&host, &["run", "--rm", "-u", "nosuchuser", "busybox", "true"])
            .fails(125, "unable to find user nosuchuser: no matching entries in passwd file");
    }
    let id = host.hull(&["run", "-d", "busybox", "hostname"]).ok().to_owned();
    host.hull(&["wait", &id]).ok();
    assert_eq!(host.hull(&["logs", &id]).ok(), &id[..12]);
}

#[test]
fn a_cidfile_is_written_once_and_refused_when_it_exists() {
    let host = host();
    let file = host.folder().join("cid");
    let path = file.display().to_string();
    let id = host.hull(&["run", "-d", "--cidfile", &path, "busybox", "true"]).ok().to_owned();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    host.hull(&["run", "--cidfile", &path, "busybox", "true"]).fails(125, "container ID file found");
}

#[test]
fn an_interactive_shell_has_a_terminal_of_the_right_size() {
    let host = host();
    for mut terminal in [
        host.hull_on_terminal(&["run", "--rm", "-it", "busybox", "sh"]),
        host.docker_on_terminal(&["run", "--rm", "-it", "busybox", "sh"]),
    ] {
        terminal.expect("#");
        terminal.type_in("tty; stty size; echo do''ne\r");
        terminal.expect("done");
        terminal.expect("/dev/pts/0");
        terminal.type_in("exit 7\r");
        let (code, screen) = terminal.finish();
        assert_eq!(code, 7, "{screen}");
    }
}

#[test]
fn detach_keys_leave_the_container_running() {
    let host = host();
    let mut terminal = host.hull_on_terminal(&["run", "-it", "--name", "kept", "busybox", "sh"]);
    terminal.expect("#");
    terminal.type_in("\u{10}\u{11}");
    let (code, screen) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(host.docker(&["inspect", "-f", "{{.State.Running}}", "kept"]).ok(), "true");
    let mut terminal = host.docker_on_terminal(&["attach", "--detach-keys", "ctrl-x", "kept"]);
    terminal.type_in("echo again$((20+3))\r");
    terminal.expect("again23");
    terminal.type_in("\u{18}");
    terminal.finish();
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.Running}}", "kept"]).ok(), "true");
}

/// A client in the foreground, with its output in a pipe, whose container `name` runs.
fn in_front(host: &Host, mut client: Command, name: &str) -> Child {
    let client = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while host.hull(&["logs", name]).stdout != "ready\n" {
        assert!(start.elapsed() < patience(20), "{name} does not run");
        thread::sleep(Duration::from_millis(5));
    }
    client
}

#[test]
fn signals_of_the_client_are_the_programs_and_three_unheeded_ones_end_it() {
    let host = host();
    for of in [Host::hull_command, Host::docker_command] {
        let script = "trap 'echo heard; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
        let words = ["run", "--rm", "--name", "hears", "busybox", "sh", "-c", script];
        let client = in_front(&host, of(&host, &words), "hears");
        let pid = Pid::from_child(&client);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let ended = client.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(5), &b"ready\nheard\n"[..]));

        let script = "trap '' INT; echo ready; exec sleep 1000";
        let words = ["run", "--name", "deaf", "busybox", "sh", "-c", script];
        let mut client = in_front(&host, of(&host, &words), "deaf");
        let start = Instant::now();
        while client.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < patience(20), "the client does not give up");
            rustix::process::kill_process(Pid::from_child(&client), Signal::INT).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        let ended = client.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(
            (ended.status.code(), said.as_str()),
            (Some(1), "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
        );
        assert_eq!(host.hull(&["inspect", "-f", "{{.State.Running}}", "deaf"]).ok(), "true");
        host.hull(&["rm", "-f", "deaf"]).ok();
    }
}
