//! Bad input and bad days: each a clear error, nothing half-made, the daemon unharmed.

use std::io::{Read, Write};

use hull_runtime::failpoint::VARIABLE;
use hull_testkit::{Baseline, Connection, Host, Options};

use super::{bare, executables, host};

#[test]
fn malformed_requests_are_refused_with_the_right_status() {
    let host = bare();
    let message = |method: &str, path: &str, body: &[u8], status: u16| {
        let answer = host.request(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.json()["message"].as_str().unwrap_or_default().to_owned()
    };
    message("POST", "/v1.47/containers/create", b"{", 400);
    message("POST", "/v1.47/containers/create", b"{\"Image\": 7}", 400);
    message("POST", "/v1.47/containers/create", b"", 400);
    assert!(
        message("POST", "/v1.47/containers/create", b"{\"Image\":\"ghost\"}", 404)
            .contains("No such image: ghost")
    );
    assert!(message("GET", "/v1.47/containers/ghost/json", b"", 404).contains("No such container: ghost"));
    message("GET", "/v1.47/containers/json?filters=%7B", b"", 400);
    message("GET", "/v1.99/containers/json", b"", 400);
    message("GET", "/v1.1/containers/json", b"", 400);
    assert_eq!(message("GET", "/nowhere", b"", 404), "page not found");
    host.hull(&["run", "--rm", "hello"]).ok();
}

#[test]
fn a_body_of_a_hundred_megabytes_is_refused() {
    let host = bare();
    let pid = host.daemon_pid();
    let mut body = b"{\"Image\":\"".to_vec();
    body.resize(100 << 20, b'x');
    let answer = host.request("POST", "/v1.47/containers/create", &body);
    assert!(matches!(answer.status, 400 | 413), "{}: {}", answer.status, answer.text());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 100 << 10, "the daemon took {kib} KiB");
    host.hull(&["run", "--rm", "hello"]).ok();
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let host = host();
    host.hull(&["run", "-d", "-i", "--name", "box", "busybox", "cat"]).ok();
    let before = Baseline::of(&host);
    for _ in 0..30 {
        for path in [
            "/v1.47/containers/box/attach?stream=1&stdin=1&stdout=1&stderr=1",
            "/v1.47/containers/box/logs?follow=1&stdout=1",
            "/v1.47/containers/box/wait",
            "/v1.47/events",
        ] {
            let mut connection = Connection::open(&host.socket());
            let method = if path.contains("attach") || path.contains("wait") { "POST" } else { "GET" };
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n");
            connection.stream.write_all(head.as_bytes()).unwrap();
            let mut block = [0; 16];
            let _ = connection.stream.read(&mut block);
        }
    }
    before.returns(&host);
    host.hull(&["rm", "-f", "box"]).ok();
}

#[test]
fn a_full_disk_is_an_error_and_not_an_end() {
    let options = Options { disk_mib: Some(48), ..Options::default() };
    let host = Host::start(executables(), options);
    host.busybox();
    host.hull(&[
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "dd if=/dev/zero of=/fill bs=1M; echo full; while :; do echo more; sleep 0.1; done",
    ])
    .ok();
    let start = std::time::Instant::now();
    loop {
        let write = host.hull(&["exec", "box", "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=16 2>&1"]);
        if write.stdout.contains("No space left") {
            break;
        }
        assert!(start.elapsed().as_secs() < 30, "the disk never filled: {write}");
    }
    let create = host.hull(&["create", "--name", "late", "busybox"]);
    assert!(create.code == 0 || create.stderr.contains("No space left on device"), "{create}");
    host.hull(&["stop", "-t", "0", "box"]).ok();
    host.hull(&["rm", "box"]).ok();
    host.hull(&["run", "--rm", "busybox", "echo", "room again"]).ok();
}

#[test]
fn a_corrupt_database_is_named_and_kept() {
    let mut host = host();
    host.stop_daemon();
    let database = std::fs::read_dir(host.data_root())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "db"))
        .expect("the state database");
    let mut bytes = std::fs::read(&database).unwrap();
    bytes[..4096].fill(0xa5);
    std::fs::write(&database, &bytes).unwrap();
    host.launch_daemon();
    assert_ne!(host.await_daemon(), 0);
    let log = host.daemon_log();
    let name = database.file_name().unwrap().to_string_lossy().into_owned();
    assert!(log.contains(&name), "{log}");
    assert_eq!(std::fs::read(&database).unwrap(), bytes, "the corrupt file was changed");
}

#[test]
fn one_key_in_both_places_is_refused_by_name() {
    let mut host = bare();
    host.stop_daemon();
    std::fs::write(host.folder().join("daemon.json"), "{\"data-root\": \"/elsewhere\"}").unwrap();
    host.launch_daemon();
    assert_ne!(host.await_daemon(), 0);
    assert!(host.daemon_log().contains("data-root"), "{}", host.daemon_log());
    std::fs::write(host.folder().join("daemon.json"), "{\"no-such-key\": 1}").unwrap();
    host.launch_daemon();
    assert_ne!(host.await_daemon(), 0);
    assert!(host.daemon_log().contains("no-such-key"), "{}", host.daemon_log());
}

/// A container that is being made keeps the layers it found, whatever becomes of their image.
#[test]
fn an_image_removed_under_a_create_leaves_a_whole_container() {
    let mut host = host();
    let armed = host.folder().join("armed");
    host.kill_daemon();
    host.set_environment(VARIABLE, Some(&armed.display().to_string()));
    host.start_daemon();
    let layers = host.data_root().join("image/layers");
    let count = || std::fs::read_dir(&layers).unwrap().count();
    assert_eq!(count(), 1);
    let fifo = host.folder().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    std::fs::write(&armed, format!("engine.create.half-way pause {}", fifo.display())).unwrap();
    let words = ["create", "--name", "box", "busybox", "echo", "whole"];
    let client = host.hull_command(&words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Opened when the point is passed.
    let pause = std::fs::File::options().write(true).open(&fifo).unwrap();
    assert!(host.hull(&["rmi", "-f", "busybox"]).ok().contains("Deleted"));
    assert_eq!(host.hull(&["images", "-q"]).ok(), "");
    assert_eq!(count(), 1, "the layer went under a container that is being made");
    drop(pause);
    assert!(client.wait_with_output().unwrap().status.success());
    assert_eq!(host.hull(&["start", "-a", "box"]).ok(), "whole");
    host.hull(&["rm", "box"]).ok();
    host.hull(&["image", "prune", "-a", "-f"]).ok();
}
