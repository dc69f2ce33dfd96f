//! Copies through a pipe that the daemon gives away: the same by every road, and what a client may do
//! with its end and its connection.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Instant;

use hull_testkit::{Baseline, Connection, Finished, Host, Options, patience};

use super::copy_attacks::{pieces, tar, under_way, until, workers};
use super::{Client, executables, host};

const TCP: &str = "tcp://127.0.0.1:2375";

/// A machine whose daemon listens where no descriptors can be sent, too.
pub(super) fn two_roads() -> Host {
    let daemon = ["--host", TCP].map(str::to_owned).to_vec();
    let host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    host
}

pub(super) fn over_tcp(host: &Host, words: &[&str]) -> Finished {
    hull_testkit::run(&mut over_tcp_command(host, words), b"")
}

pub(super) fn over_tcp_command(host: &Host, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", host.holder_pid())).arg("--").arg(executables().hull);
    command.args(["--host", TCP]).args(words).current_dir(host.folder()).env("HOME", host.folder());
    command
}

#[test]
fn large_files_arrive_whole_by_every_road() {
    let host = two_roads();
    let src = host.folder().join("src");
    fs::create_dir(&src).unwrap();
    let bytes: Vec<u8> = (0..5_000_001_u32).map(|at| (at / 3) as u8).collect();
    fs::write(src.join("big"), &bytes).unwrap();
    fs::write(src.join("small"), "small\n").unwrap();
    let sparse = File::create(src.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 100_000], 3 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
    let roads: [(&str, Client); 3] = [("pipe", Host::hull), ("http", Host::docker), ("tcp", over_tcp)];
    for running in [true, false] {
        for (road, client) in roads {
            let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
            host.hull(&[verb, &["--name", road, "busybox", "sleep", "10000"]].concat()).ok();
            client(&host, &["cp", "src", &format!("{road}:/new")]).ok();
            let back = format!("back-{road}-{running}");
            client(&host, &["cp", &format!("{road}:/new"), &back]).ok();
            let back = host.folder().join(back);
            assert!(fs::read(back.join("big")).unwrap() == bytes, "{road}");
            assert_eq!(fs::read(back.join("small")).unwrap(), b"small\n", "{road}");
            let [came, went] = [&back, &src].map(|folder| fs::read(folder.join("sparse")).unwrap());
            assert!(came == went, "{road}");
            host.hull(&["rm", "-f", road]).ok();
        }
    }
}

/// A connection on which a pipe was asked for, and the answer's head.
fn ask(host: &Host, path: &str) -> (Connection, String) {
    let mut connection = Connection::open(&host.socket());
    let request = format!(
        "POST /hull/v1/containers/{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    connection.stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (connection, String::from_utf8(head).unwrap())
}

/// The end of a pipe that was asked for.
fn pipe(connection: &mut Connection) -> File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    connection.stream.write_all(b"\n").unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 8];
    let read = &mut [io::IoSliceMut::new(&mut byte)];
    let message = recvmsg(&connection.stream, read, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(message.bytes, 1);
    let rights = ancillary.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<OwnedFd>>(),
        _ => Vec::new(),
    });
    let [pipe] = <[OwnedFd; 1]>::try_from(rights.collect::<Vec<_>>()).unwrap();
    pipe.into()
}

fn message(document: &serde_json::Value) -> String {
    document["message"].as_str().unwrap().to_owned()
}

/// What is said last: status and message.
fn ended(mut connection: Connection) -> (u16, String) {
    let mut text = String::new();
    connection.stream.read_to_string(&mut text).unwrap();
    let ended: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
    (ended["status"].as_u64().unwrap() as u16, message(&ended))
}

/// What becomes of an archive that is put into the container through a pipe.
fn put(host: &Host, path: &str, archive: &[u8]) -> (u16, String) {
    let (mut connection, head) = ask(host, path);
    if !head.starts_with("HTTP/1.1 101 ") {
        let mut body = String::new();
        let _ = connection.stream.read_to_string(&mut body);
        let said: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body:?}"));
        return (head[9..12].parse().unwrap(), message(&said));
    }
    // Who refuses it does not read all of it.
    let _ = pipe(&mut connection).write_all(archive);
    ended(connection)
}

#[test]
fn what_a_pipe_brings_is_refused_as_what_a_request_brings() {
    let host = two_roads();
    host.hull(&["create", "--name", "box", "busybox"]).ok();
    let work = host.folder().join("work");
    fs::create_dir_all(work.join("in")).unwrap();
    fs::write(work.join("good"), "good").unwrap();
    fs::write(work.join("in/tmp"), "no folder").unwrap();
    let good = tar(&work, &["-c", "good"]);
    let upwards = tar(&work.join("in"), &["-cP", "../good"]);
    let over_a_folder = tar(&work.join("in"), &["-c", "tmp"]);
    let cases: [(&str, &[u8], u16); 8] = [
        ("path=/tmp", &good, 200),
        ("path=/tmp", &upwards, 500),
        ("path=/tmp", &good[..700], 500),
        ("path=/tmp", b"notatar", 500),
        ("path=/&noOverwriteDirNonDir=true", &over_a_folder, 500),
        ("path=/nosuch", &good, 404),
        ("path=/bin/busybox", &good, 400),
        ("", &good, 400),
    ];
    for (query, archive, expected) in cases {
        let by_pipe = put(&host, &format!("box/archive/write?{query}"), archive);
        let answer = host.request("PUT", &format!("/v1.51/containers/box/archive?{query}"), archive);
        let said = if answer.status == 200 { String::new() } else { message(&answer.json()) };
        assert_eq!(by_pipe, (answer.status, said), "{query}");
        assert_eq!(by_pipe.0, expected, "{query}: {}", by_pipe.1);
    }
    assert_eq!(put(&host, "no/archive/write?path=/", &good), (404, "No such container: no".to_owned()));
    host.hull(&["cp", "box:/tmp/good", "came"]).ok();
    assert_eq!(fs::read_to_string(host.folder().join("came")).unwrap(), "good");
    // Where no descriptor can be sent there is no such path.
    let request = "POST /hull/v1/containers/box/archive/write?path=/tmp HTTP/1.1";
    let headers = r"\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/2375; printf '{request}{headers}' >&3; cat <&3");
    let mut told = Command::new("nsenter");
    told.arg(format!("--net=/proc/{}/ns/net", host.holder_pid())).args(["--", "bash", "-c", &script]);
    assert!(hull_testkit::run(&mut told, b"").ok().contains("page not found"));
}

/// Waits until a pipe that is written to has nobody at its other end.
fn until_nobody_reads(mut pipe: &File) {
    let begin = Instant::now();
    loop {
        match pipe.write(&[0; 4096]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            written => drop(written.unwrap()),
        }
        assert!(begin.elapsed() < patience(20), "somebody goes on reading");
    }
}

#[test]
fn a_client_that_goes_ends_its_copy_and_keeps_nothing_up() {
    let host = host();
    let [first, _] = pieces(&host);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for running in [true, false] {
        let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
        host.hull(&[verb, &["--name", "box", "busybox", "sleep", "10000"]].concat()).ok();
        // Before it has taken the pipe.
        for path in ["box/archive/write?path=/tmp", "box/archive/read?path=/bin"] {
            let (connection, head) = ask(&host, path);
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            drop(connection);
            until("the worker's end", || workers(&host).is_empty());
        }
        // With the pipe still open, in the middle of an archive.
        let (mut connection, _) = ask(&host, "box/archive/write?path=/tmp");
        let mut kept = pipe(&mut connection);
        kept.write_all(&first).unwrap();
        until("the first file", || under_way(&host));
        drop(connection);
        until("the worker's end", || workers(&host).is_empty());
        until_nobody_reads(&kept);
        let (mut connection, head) = ask(&host, "box/archive/read?path=/bin");
        assert!(head.to_ascii_lowercase().contains("\r\nx-docker-container-path-stat: "), "{head}");
        let mut kept = pipe(&mut connection);
        kept.read_exact(&mut [0; 512]).unwrap();
        drop(connection);
        until("the worker's end", || workers(&host).is_empty());
        // What was in the pipe, and the end.
        kept.read_to_end(&mut Vec::new()).unwrap();
        // The pipe alone: what came is no whole archive.
        let (mut connection, _) = ask(&host, "box/archive/write?path=/tmp");
        pipe(&mut connection).write_all(&first[..1000]).unwrap();
        let told = ended(connection);
        assert!(told.0 >= 400 && told.1.contains("unexpected EOF"), "{told:?}");
        if !running {
            host.hull(&["start", "box"]).ok();
        }
        assert_eq!(host.hull(&["exec", "box", "stat", "-c", "%s", "/tmp/first"]).ok(), "488");
        host.hull(&["rm", "-f", "box"]).ok();
    }
    before.returns(&host);
}
