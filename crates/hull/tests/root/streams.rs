//! logs, attach and follow: nothing is lost, nothing comes twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use hull_testkit::{Connection, Host};

use super::{CLIENTS, host};

#[test]
fn logs_show_both_streams_and_select_lines() {
    let host = host();
    let id = host
        .hull(&["run", "-d", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo line$i; done; echo bad >&2"])
        .ok()
        .to_owned();
    host.hull(&["wait", &id]).ok();
    for client in CLIENTS {
        let all = client(&host, &["logs", &id]);
        assert_eq!((all.ok(), all.stderr.as_str()), ("line1\nline2\nline3\nline4\nline5", "bad\n"));
        assert_eq!(client(&host, &["logs", "--tail", "2", &id]).ok(), "line5");
        assert_eq!(client(&host, &["logs", "--tail", "0", &id]).ok(), "");
        assert_eq!(client(&host, &["logs", "--since", "2099-01-01T00:00:00Z", &id]).ok(), "");
        assert_eq!(client(&host, &["logs", "--until", "2001-01-01T00:00:00Z", &id]).ok(), "");
        let stamped = client(&host, &["logs", "-t", "--tail", "1", &id]);
        let stamp = stamped.stderr.split(' ').next().unwrap_or_default().to_owned();
        assert!(stamp.len() == 30 && stamp.ends_with('Z') && stamped.stderr.ends_with(" bad\n"), "{stamped}");
    }
}

#[test]
fn follow_ends_with_the_container() {
    let host = host();
    host.hull(&[
        "run",
        "-d",
        "--name",
        "talker",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4; do echo $i; sleep 0.2; done",
    ])
    .ok();
    for client in CLIENTS {
        assert_eq!(client(&host, &["logs", "-f", "talker"]).ok(), "1\n2\n3\n4");
    }
}

#[test]
fn a_million_lines_arrive_in_order_attached_and_replayed() {
    let host = host();
    let words = ["run", "--name", "many", "busybox", "seq", "1", "200000"];
    let check = |text: &str| {
        let mut count = 0u32;
        for (line, number) in text.lines().zip(1u32..) {
            assert_eq!(line, number.to_string());
            count = number;
        }
        assert_eq!(count, 200_000);
    };
    check(host.hull(&words).ok());
    check(host.docker(&["logs", "many"]).ok());
    check(host.hull(&["logs", "many"]).ok());
    assert_eq!(host.hull(&["logs", "--tail", "1", "many"]).ok(), "200000");
}

#[test]
fn lines_without_end_and_long_lines_survive() {
    let host = host();
    let script = "printf unfinished; head -c 100000 /dev/zero | tr '\\0' x; echo; printf last";
    let id = host.hull(&["run", "-d", "busybox", "sh", "-c", script]).ok().to_owned();
    host.hull(&["wait", &id]).ok();
    let expected = format!("unfinished{}\nlast", "x".repeat(100_000));
    for client in CLIENTS {
        assert_eq!(client(&host, &["logs", &id]).stdout, expected);
    }
}

#[test]
fn two_clients_attached_see_the_same() {
    let host = host();
    host.hull(&["run", "-d", "-i", "--name", "echoes", "busybox", "cat"]).ok();
    let mut watchers = Vec::new();
    for mut command in [
        host.hull_command(&["attach", "--no-stdin", "echoes"]),
        host.docker_command(&["attach", "--no-stdin", "echoes"]),
    ] {
        watchers.push(command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap());
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut speaker = host.docker_command(&["attach", "echoes"]);
    let mut speaker = speaker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut mouth = speaker.stdin.take().unwrap();
    mouth.write_all(b"heard by all\n").unwrap();
    let mut heard = [0; 13];
    speaker.stdout.take().unwrap().read_exact(&mut heard).unwrap();
    host.hull(&["rm", "-f", "echoes"]).ok();
    drop(mouth);
    speaker.wait().unwrap();
    for watcher in watchers {
        let output = watcher.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "heard by all\n");
    }
}

#[test]
fn a_client_that_only_listens_goes_on_while_daemons_come_and_go() {
    let mut host = host();
    let script = "await() { until [ -e $1 ]; do sleep 0.05; done; }
        echo early; await /a; echo both; await /b; echo late; echo end >&2";
    host.hull(&["create", "--name", "talker", "busybox", "sh", "-c", script]).ok();
    // One comes before the start, as `docker run` does, one after it.
    let mut first = attach(&host, "talker");
    host.hull(&["start", "talker"]).ok();
    expect(&mut first, b"\x01\0\0\0\0\0\0\x06early\n");
    let mut second = attach(&host, "talker");
    host.hull(&["exec", "talker", "touch", "/a"]).ok();
    for client in [&mut first, &mut second] {
        expect(client, b"\x01\0\0\0\0\0\0\x05both\n");
    }
    // Nobody wants what it sends, which is no reason for a reset.
    first.write_all(b"noise").unwrap();
    host.kill_daemon();
    host.start_daemon();
    host.hull(&["exec", "talker", "touch", "/b"]).ok();
    for client in [&mut first, &mut second] {
        expect(client, b"\x01\0\0\0\0\0\0\x05late\n\x02\0\0\0\0\0\0\x04end\n");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    host.hull(&["rm", "talker"]).ok();
}

#[track_caller]
fn expect(client: &mut UnixStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
}

/// Attached for output alone; what follows the answer's head is read from it.
fn attach(host: &Host, container: &str) -> UnixStream {
    let mut client = Connection::open(&host.socket()).stream;
    let path = format!("/v1.47/containers/{container}/attach?stream=1&stdout=1&stderr=1");
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{answer}");
    client
}

#[test]
fn details_are_what_the_driver_was_told_to_keep() {
    let host = host();
    let words = [
        "run",
        "--network",
        "none",
        "--name",
        "kept",
        "--log-opt",
        "labels=y,z",
        "--log-opt",
        "env=X",
        "--log-opt",
        "tag={{.Name}}",
        "-e",
        "X=a b",
        "-l",
        "y=2",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ];
    host.hull(&words).ok();
    host.hull(&["run", "--network", "none", "--name", "plain", "busybox", "echo", "out"]).ok();
    for client in CLIENTS {
        let kept = client(&host, &["logs", "--details", "kept"]);
        assert_eq!((kept.ok(), kept.stderr.as_str()), ("X=a+b,tag=kept,y=2 out", "X=a+b,tag=kept,y=2 err\n"));
        assert_eq!(client(&host, &["logs", "--details", "plain"]).stdout, " out\n");
        assert_eq!(client(&host, &["logs", "plain"]).stdout, "out\n");
    }
}
