//! Archives that break off exactly between two entries, where what has come reads like a whole one: nothing
//! becomes of them, and who is still there hears why.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;

use hull_testkit::{Baseline, Connection, Host};

use super::copy_attacks::tar;
use super::host;

/// Bytes of a header, and what contents are filled up to.
const BLOCK: usize = 512;

/// Where an entry begins, of each, and behind the last one.
fn borders(archive: &[u8]) -> Vec<usize> {
    let (mut at, mut borders) = (0, Vec::new());
    loop {
        borders.push(at);
        let Some(header) = archive.get(at..at + BLOCK).filter(|header| header[0] != 0) else {
            return borders;
        };
        let size = String::from_utf8_lossy(&header[124..135]).into_owned();
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).unwrap();
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
}

/// How a body says that there is more to come.
#[derive(Debug, Clone, Copy)]
enum Promise {
    Length,
    Chunks,
}

/// Sends a request whose body ends before its time; gives all that is answered.
#[track_caller]
fn break_off(host: &Host, (method, path): (&str, &str), promise: Promise, body: &[u8]) -> String {
    let mut connection = Connection::open(&host.socket());
    let promised = match promise {
        Promise::Length => format!("Content-Length: {}", body.len() + BLOCK),
        Promise::Chunks => "Transfer-Encoding: chunked".to_owned(),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{promised}\r\n\r\n");
    let stream = &mut connection.stream;
    stream.write_all(head.as_bytes()).unwrap();
    if let Promise::Chunks = promise {
        stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).unwrap();
    }
    stream.write_all(body).unwrap();
    if let Promise::Chunks = promise {
        stream.write_all(b"\r\n").unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with each kind of broken body fails, and says why.
#[track_caller]
fn fails(host: &Host, request: (&str, &str), body: &[u8]) {
    for promise in [Promise::Length, Promise::Chunks] {
        let answer = break_off(host, request, promise, body);
        assert!(
            answer.contains("unexpected EOF: the archive broke off"),
            "{request:?} {promise:?}: {answer}"
        );
    }
    assert!(host.daemon_log().contains("an archive broke off"), "{}", host.daemon_log());
}

#[test]
fn no_image_is_loaded_or_imported_from_an_archive_that_breaks_off() {
    let host = host();
    let file = host.folder().join("saved.tar");
    host.hull(&["save", "-o", file.to_str().unwrap(), "busybox"]).ok();
    host.hull(&["rmi", "busybox"]).ok();
    let saved = fs::read(&file).unwrap();
    // All entries, and nothing behind them.
    let saved = &saved[..*borders(&saved).last().unwrap()];
    let before = Baseline::of(&host);
    fails(&host, ("POST", "/images/load"), saved);
    fails(&host, ("POST", "/images/create?fromSrc=-&repo=imported"), saved);
    assert_eq!(host.hull(&["images", "-aq"]).ok(), "");
    before.returns(&host);
    // It was only the end of the request that was wrong.
    let loaded = host.request("POST", "/images/load", saved).text();
    assert!(loaded.contains("Loaded image: busybox:latest"), "{loaded}");
}

#[test]
fn nothing_is_built_from_a_context_that_breaks_off() {
    let host = host();
    let folder = host.folder().join("context");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY . /made/\n").unwrap();
    fs::write(folder.join("last"), "last").unwrap();
    let archive = tar(&folder, &["-cf", "-", "Dockerfile", "last"]);
    let cut = &archive[..borders(&archive)[1]];
    let before = Baseline::of(&host);
    fails(&host, ("POST", "/build?t=broken"), cut);
    assert_eq!(host.hull(&["images", "-q", "broken"]).ok(), "");
    before.returns(&host);
    let built = host.request("POST", "/build?t=whole", cut).text();
    assert!(built.contains("Successfully tagged whole:latest"), "{built}");
}

#[test]
fn a_copy_whose_archive_breaks_off_is_no_success() {
    let host = host();
    let folder = host.folder().join("src");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("first"), "first").unwrap();
    fs::write(folder.join("last"), "last").unwrap();
    let archive = tar(&folder, &["-cf", "-", "first", "last"]);
    let cut = &archive[..borders(&archive)[1]];
    host.hull(&["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]).ok();
    host.hull(&["create", "--name", "rests", "busybox", "true"]).ok();
    for name in ["runs", "rests"] {
        let path = format!("/containers/{name}/archive?path=/tmp");
        fails(&host, ("PUT", &path), cut);
        // What had come is there, as after a copy that fails at its second file for any other reason.
        assert_eq!(host.hull(&["cp", &format!("{name}:/tmp/first"), "back"]).code, 0);
        host.hull(&["cp", &format!("{name}:/tmp/last"), "back"])
            .fails(1, "Could not find the file /tmp/last");
        assert_eq!(host.request("PUT", &path, cut).status, 200);
    }
}
