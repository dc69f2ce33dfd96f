//! What clients do with the connection of a build: send late, read late.

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use hull_testkit::{Connection, Host};

use super::copy_attacks::{tar, until};
use super::copy_pipes::{over_tcp, two_roads};
use super::host;

/// Sends the head of a request and the first part of its body.
fn begin(host: &Host, path: &str, length: usize, body: &[u8]) -> Connection {
    let mut connection = Connection::open(&host.socket());
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    connection.stream.write_all(head.as_bytes()).unwrap();
    connection.stream.write_all(body).unwrap();
    connection
}

fn read_until(connection: &mut Connection, text: &str) {
    let (mut read, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while !String::from_utf8_lossy(&read).contains(text) {
        // What comes before is not looked at again.
        read.drain(..read.len().saturating_sub(text.len()));
        let count = connection.stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the answer ends without {text:?}");
        read.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn who_is_refused_before_all_is_sent_hears_why() {
    let host = host();
    let body = vec![0; 4 << 20];
    let digest = "a".repeat(64);
    for path in [
        format!("/build?t=named%40sha256%3A{digest}"),
        "/build?memory=much".to_owned(),
        "/v1.48/images/load?platform=a/b/c/d".to_owned(),
        "/v1.48/images/create?fromSrc=-&repo=a%3Ab%3Ac".to_owned(),
    ] {
        let (first, rest) = body.split_at(1 << 20);
        let mut connection = begin(&host, &path, body.len(), first);
        read_until(&mut connection, "400 Bad Request");
        connection.stream.write_all(rest).unwrap_or_else(|error| panic!("{path}: {error}"));
        // The connection is as good as before.
        let ping = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n";
        connection.stream.write_all(ping.as_bytes()).unwrap();
        read_until(&mut connection, "200 OK");
    }
}

/// KiB of the daemon in memory.
fn resident(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// MiB that a step writes.
const WRITTEN: u64 = 64;

/// Begins a build with a step that writes, and reads no more than its first word. It has paused then.
fn talkative(host: &Host) -> Connection {
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let folder = host.folder().join("talkative");
    fs::create_dir(&folder).unwrap();
    let script = format!("echo begun; head -c {WRITTEN}M /dev/zero | tr '\\0' x; echo ended; sleep 1000");
    fs::write(folder.join("Dockerfile"), format!("FROM busybox\nRUN {script}\n")).unwrap();
    let context = tar(&folder, &["-cf", "-", "."]);
    let small = resident(host);
    let mut connection = begin(host, "/build", context.len(), &context);
    read_until(&mut connection, "begun");
    // It has written what it could when the daemon has not become larger for a while.
    let mut sizes = Vec::new();
    until("the step's pause", || {
        std::thread::sleep(Duration::from_millis(50));
        sizes.push(resident(host));
        sizes.len() > 10 && sizes[sizes.len() - 10..].iter().all(|size| Some(size) == sizes.last())
    });
    let grown = sizes.last().unwrap().saturating_sub(small) >> 10;
    assert!(grown < WRITTEN / 4, "the daemon holds {grown} MiB more");
    connection
}

#[test]
fn a_step_waits_for_a_client_that_does_not_read() {
    let host = host();
    let mut connection = talkative(&host);
    // Others go on meanwhile, also with the same step, and it does as soon as it is read.
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let folder = host.folder().join("talkative");
    let context = tar(&folder, &["-cf", "-", "."]);
    let mut other = begin(&host, "/build", context.len(), &context);
    read_until(&mut other, "ended");
    read_until(&mut connection, "ended");
    drop((connection, other));
    until("the builds' end", || host.processes().iter().all(|pid| !sleeps(*pid)));
}

fn sleeps(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\0")
}

#[test]
fn a_daemon_stops_though_a_client_does_not_read() {
    let mut host = host();
    let connection = talkative(&host);
    assert_eq!(host.stop_daemon(), 0);
    drop(connection);
    host.start_daemon();
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
}

#[test]
fn a_folder_is_built_by_a_daemon_of_another_host() {
    let host = two_roads();
    let folder = host.folder().join("far");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY . /far\n").unwrap();
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|at| (at / 3) as u8).collect();
    fs::write(folder.join("large"), &bytes).unwrap();
    over_tcp(&host, &["build", "-t", "far", "far"]).ok();
    let seen = host.hull(&["run", "--rm", "far", "md5sum", "/far/large"]);
    let sum = std::process::Command::new("md5sum").arg(folder.join("large")).output().unwrap();
    assert_eq!(seen.ok()[..32], String::from_utf8(sum.stdout).unwrap()[..32]);
}
