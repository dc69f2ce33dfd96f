//! Folders that are built by a daemon of another host: which bytes travel.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use hull_testkit::{Finished, Host};

use super::Client;
use super::copy_attacks::until;
use super::copy_pipes::{over_tcp, over_tcp_command, two_roads};

/// Whoever builds a folder.
const ROADS: [(&str, Client); 3] = [("far", over_tcp), ("near", Host::hull), ("official", official)];

fn official(host: &Host, words: &[&str]) -> Finished {
    hull_testkit::run(host.docker_command(words).env("DOCKER_BUILDKIT", "0"), b"")
}

/// Bytes that have gone over the machine's loopback, heads and all: what its clients and its daemon have said over
/// TCP (proc_pid_net(5), `dev`).
fn travelled(host: &Host) -> u64 {
    let table = fs::read_to_string(format!("/proc/{}/net/dev", host.holder_pid())).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_daemon_asks_after_clients_that_say_nothing() {
    let host = two_roads();
    let mut watching = over_tcp_command(&host, &["events"]);
    let mut watching = watching.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // proc_net_tcp.rst: the daemon's port, ESTABLISHED, and the timer that asks after a peer.
    let table = format!("/proc/{}/net/tcp", host.holder_pid());
    let asks = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(":0947") && fields[3] == "01" && fields[5].starts_with("02:")
    };
    until("the timer", || fs::read_to_string(&table).unwrap().lines().any(asks));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// How many bytes travel for a build.
fn build(host: &Host) -> u64 {
    let before = travelled(host);
    over_tcp(host, &["build", "-q", "-t", "far", "far"]).ok();
    travelled(host) - before
}

fn sum(path: &Path) -> String {
    let sum = std::process::Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(sum.stdout).unwrap()[..32].to_owned()
}

fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

#[test]
fn of_twenty_thousand_files_only_those_travel_that_have_changed() {
    const FILES: usize = 20_000;
    const SIZE: usize = 2_000;
    /// What a list and the digests have for each of them, generously.
    const LISTED: usize = 300;
    /// Acknowledgements and the build's words.
    const WORDS: u64 = 400 << 10;
    let host = two_roads();
    let folder = host.folder().join("far");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY files /files\n").unwrap();
    for number in 0..FILES {
        let part = folder.join(format!("files/{}", number / 500));
        fs::create_dir_all(&part).unwrap();
        let mut bytes = noise(SIZE);
        bytes[..5].copy_from_slice(format!("{number:05}").as_bytes());
        fs::write(part.join(format!("{number:05}")), bytes).unwrap();
    }
    let cold = build(&host);
    assert!(cold > (FILES * SIZE) as u64, "{cold}");
    let unchanged = build(&host);
    assert!(unchanged < (FILES * LISTED) as u64, "{unchanged}");
    let changed = folder.join("files/7/03777");
    fs::write(&changed, noise(3 << 20)).unwrap();
    let one = build(&host);
    assert!(one > unchanged + (3 << 20) - WORDS && one < unchanged + (3 << 20) + WORDS, "{one} {unchanged}");
    let seen =
        host.hull(&["run", "--rm", "far", "sh", "-c", "md5sum /files/7/03777; find /files -type f | wc -l"]);
    assert_eq!(seen.ok(), format!("{}  /files/7/03777\n{FILES}", sum(&changed)));
    // Another folder with the same files.
    fs::rename(&folder, host.folder().join("old")).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-r").arg(host.folder().join("old")).arg(&folder).status();
    assert!(copied.unwrap().success());
    let again = build(&host);
    assert!(again < (FILES * LISTED) as u64, "{again}");
}

#[test]
fn what_is_ignored_is_copied_by_no_road() {
    let host = two_roads();
    let folder = host.folder().join("ignoring");
    fs::create_dir_all(folder.join("d")).unwrap();
    for (name, text) in [
        ("Dockerfile", "FROM busybox\nCOPY . /src\nRUN find /src -type f | sort > /found\n"),
        (".dockerignore", "*\n!d/kept\n"),
        ("left", "x"),
        ("d/left", "x"),
        ("d/kept", "x"),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    for (road, client) in ROADS {
        client(&host, &["build", "--no-cache", "-t", road, "ignoring"]).ok();
        assert_eq!(host.hull(&["run", "--rm", road, "cat", "/found"]).ok(), "/src/d/kept", "{road}");
    }
}

#[test]
fn the_same_files_are_the_same_layer_by_every_road() {
    let host = two_roads();
    let folder = host.folder().join("same");
    fs::create_dir_all(folder.join("d/e")).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY d /src\nCOPY d/e/f /other\n").unwrap();
    fs::write(folder.join("d/e/f"), "f").unwrap();
    std::os::unix::fs::symlink("e/f", folder.join("d/link")).unwrap();
    // Nearly the next second.
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 999_999_999);
    fs::File::open(folder.join("d/e/f")).unwrap().set_modified(time).unwrap();
    let layers = ROADS.map(|(road, client)| {
        client(&host, &["build", "--no-cache", "-t", road, "same"]).ok();
        host.hull(&["image", "inspect", "-f", "{{.RootFS.Layers}}", road]).ok().to_owned()
    });
    assert_eq!(layers, [layers[0].clone(), layers[0].clone(), layers[0].clone()]);
}

#[test]
fn all_that_a_folder_is_for_works_from_another_host() {
    let host = two_roads();
    let folder = host.folder().join("all");
    let other = host.folder().join("other");
    for (path, text) in [
        (folder.join("Dockerfile"), "FROM busybox\n"),
        (folder.join("scripts/run"), "echo ran $(cat /bound/word) > /made\n"),
        (other.join("word"), "of the other\n"),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let dockerfile = "FROM busybox\n\
                      RUN --mount=type=bind,source=scripts,target=/scripts --mount=from=other,target=/bound \
                      sh /scripts/run\n\
                      ADD packed.tar /unpacked\n\
                      COPY --chmod=600 --chown=1:2 scripts/run /copied\n";
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    let tar = ["-C", other.to_str().unwrap(), "-cf", folder.join("packed.tar").to_str().unwrap(), "."]
        .map(str::to_owned);
    assert!(std::process::Command::new("tar").args(tar).status().unwrap().success());
    let words = ["build", "-t", "all", "--build-context", "other=other", "all"];
    over_tcp(&host, &words).ok();
    let seen = ["run", "--rm", "all", "sh", "-c", "cat /made /unpacked/word; stat -c '%a %u %g' /copied"];
    assert_eq!(host.hull(&seen).ok(), "ran of the other\nof the other\n600 1 2");
    // By a Unix socket it is the same image: nothing has to be done.
    let far = host.hull(&["image", "inspect", "-f", "{{.RootFS.Layers}}", "all"]).ok().to_owned();
    host.hull(&words).ok();
    assert_eq!(host.hull(&["image", "inspect", "-f", "{{.RootFS.Layers}}", "all"]).ok(), far);
}
