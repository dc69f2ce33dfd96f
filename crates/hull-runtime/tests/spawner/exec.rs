//! More processes in a running container, and terminals.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_oci::runtime::{Mount, Process};
use hull_runtime::bundle::{Bundle, Exec, StartErrorKind, Stdio};
use hull_runtime::protocol::{Attach, Framing, Kind};
use hull_runtime::shim::{self, Connection, Event, Request};
use hull_runtime::spawner::Launch;

use crate::house::{House, RAW, exited, hear, kill, runs, started, until};

const ALL: Attach = Attach { stdin: true, stdout: true, stderr: true, framing: Framing::Raw };

fn exec(house: &House, bundle: &Bundle, target: &OwnedFd, args: &[&str]) -> (Connection, UnixStream) {
    let process = Process {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..bundle.spec.process.clone().unwrap()
    };
    let exec = Exec {
        id: format!("{}-exec", bundle.id),
        process,
        linux: bundle.spec.linux.clone(),
        stdio: Stdio::default(),
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let launch =
        Launch::Exec { exec: &exec, target: target.as_fd(), seccomp: None, attach: &[(RAW, theirs.as_fd())] };
    (house.client.launch(launch).unwrap(), ours)
}

#[test]
fn an_exec_runs_in_its_container_and_tells_its_own_exit() {
    let house = House::new();
    let bundle = house.bundle("a", "echo $$ > /tmp/first; exec /bin/busybox sleep 1000");
    let connection = house.launch(&bundle, &[]);
    let (pid, pidfd) = started(&connection);
    let script = "echo $(/bin/busybox readlink /proc/self/ns/pid); cat /tmp/first; exit 9";
    let script = script.replace("cat", "/bin/busybox cat");
    let (exec, output) = exec(&house, &bundle, &pidfd, &["/bin/busybox", "sh", "-c", &script]);
    let (exec_pid, _) = started(&exec);
    let text = std::io::read_to_string(output).unwrap();
    assert!(text.ends_with("\n1\n"), "{text:?}");
    assert_eq!(exited(&exec).code, 9);
    assert!(hear(&exec).is_none());
    assert!(!runs(exec_pid) && runs(pid));
    shim::forget(&house.exec_root(), Kind::Exec, "a-exec").unwrap();
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
}

#[test]
fn an_exec_of_nothing_fails_and_leaves_the_container_alone() {
    let house = House::new();
    let bundle = house.bundle("a", "exec /bin/busybox sleep 1000");
    let connection = house.launch(&bundle, &[]);
    let (pid, pidfd) = started(&connection);
    let (exec, _) = exec(&house, &bundle, &pidfd, &["nosuch"]);
    let Some(Event::StartFailed(error)) = hear(&exec) else {
        panic!("it started");
    };
    assert_eq!(error.kind, StartErrorKind::NotFound);
    assert!(runs(pid));
    kill(pid);
    exited(&connection);
}

#[test]
fn a_killed_exec_shim_takes_its_process_and_not_the_container() {
    let house = House::new();
    let bundle = house.bundle("a", "exec /bin/busybox sleep 1000");
    let connection = house.launch(&bundle, &[]);
    let (pid, pidfd) = started(&connection);
    let (exec, _output) = exec(&house, &bundle, &pidfd, &["/bin/busybox", "sleep", "1000"]);
    let (exec_pid, _) = started(&exec);
    kill(house.shim_of(Kind::Exec, "a-exec"));
    assert_eq!(exited(&exec).code, 137);
    assert!(!runs(exec_pid));
    assert!(runs(pid));
    kill(pid);
    assert_eq!(exited(&connection).code, 137);
}

#[test]
fn a_terminal_echoes_has_a_size_and_is_one_stream() {
    let house = House::new();
    let script = "/bin/busybox stty size; read x; /bin/busybox stty size; echo got $x";
    let mut bundle = house.bundle("a", script);
    bundle.spec.process.as_mut().unwrap().terminal = true;
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: kind.to_owned(),
        source: kind.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    };
    bundle.spec.mounts = vec![
        mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
        mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]),
    ];
    bundle.stdio = Stdio { stdin: true, stdin_once: true };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let connection = house.launch(&bundle, &[(ALL, &theirs)]);
    drop(theirs);
    started(&connection);
    until("the first size", || house.log("a").contains('\n'));
    connection.send(Request::Resize { rows: 33, columns: 99 }).unwrap();
    ours.write_all(b"word\n").unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("word\r\n33 99\r\ngot word\r\n"), "{text:?}");
    assert_eq!(exited(&connection).code, 0);
}
