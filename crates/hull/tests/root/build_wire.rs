//! What clients do with the connection of a build: send late, read late.

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use hull_testkit::{Baseline, Connection, Host};

use super::copy_attacks::{tar, until};
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

#[test]
fn a_step_waits_for_a_client_that_does_not_read() {
    const WRITTEN: u64 = 64;
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let folder = host.folder().join("talkative");
    fs::create_dir(&folder).unwrap();
    let script = format!("echo begun; head -c {WRITTEN}M /dev/zero | tr '\\0' x; echo ended; sleep 1000");
    fs::write(folder.join("Dockerfile"), format!("FROM busybox\nRUN {script}\n")).unwrap();
    let context = tar(&folder, &["-cf", "-", "."]);
    let small = resident(&host);
    let mut connection = begin(&host, "/build", context.len(), &context);
    read_until(&mut connection, "begun");
    // It has written what it could when the daemon has not become larger for a while.
    let mut sizes = Vec::new();
    until("the step's pause", || {
        std::thread::sleep(Duration::from_millis(50));
        sizes.push(resident(&host));
        sizes.len() > 10 && sizes[sizes.len() - 10..].iter().all(|size| Some(size) == sizes.last())
    });
    let grown = sizes.last().unwrap().saturating_sub(small) >> 10;
    assert!(grown < WRITTEN / 4, "the daemon holds {grown} MiB more");
    // Others go on meanwhile, and the step does as soon as it is read.
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    read_until(&mut connection, "ended");
    drop(connection);
    before.returns(&host);
}
