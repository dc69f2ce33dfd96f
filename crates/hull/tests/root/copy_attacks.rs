//! Attacks on `cp` and the archive API (K09): paths that change under it, programs of the image that
//! a host's tool would have executed, mounts that are moved while it works; and what is left when
//! somebody is killed in the middle of a copy.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Host, patience};
use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};

use super::host;

/// Swaps that there have to be at least while the requests are made.
const SWAPS: u64 = 10_000;

/// Sets a flag where its life ends.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn tar(folder: &Path, words: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("tar").arg("-C").arg(folder).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Everything below a folder: names, contents, inodes and times of change.
pub(super) fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>, u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.push((path.clone(), content, stat.ino(), stat.ctime_nsec()));
        if stat.is_dir() {
            all.extend(snapshot(&path));
        }
    }
    all.sort();
    all
}

#[test]
fn a_path_that_is_swapped_leads_no_copy_to_the_host() {
    let host = host();
    let (volume, canary) = (host.folder().join("volume"), host.folder().join("canary"));
    fs::create_dir_all(volume.join("a/sub")).unwrap();
    fs::create_dir_all(canary.join("sub")).unwrap();
    fs::write(volume.join("a/file"), "in the volume").unwrap();
    fs::write(canary.join("file"), "on the host").unwrap();
    symlink(&canary, volume.join("b")).unwrap();
    // The same again, for who writes without care.
    let careless = host.folder().join("careless");
    fs::create_dir_all(volume.join("c/sub")).unwrap();
    fs::create_dir_all(careless.join("sub")).unwrap();
    symlink(&careless, volume.join("d")).unwrap();
    let bind = format!("{}:/v", volume.display());
    for (name, verb) in [("runs", &["run", "-d"][..]), ("rests", &["create"])] {
        host.hull(&[verb, &["--name", name, "-v", &bind, "busybox", "sleep", "10000"]].concat()).ok();
        // Where the link leads in the container there is something, too.
        let own = host.folder().join("own");
        fs::create_dir_all(own.join("sub")).unwrap();
        fs::write(own.join("file"), "in the container").unwrap();
        let parent = canary.parent().unwrap().strip_prefix("/").unwrap();
        let staged = host.folder().join("staged");
        fs::create_dir_all(staged.join(parent)).unwrap();
        fs::rename(&own, staged.join(parent).join("canary")).unwrap();
        host.hull(&["cp", &format!("{}/.", staged.display()), &format!("{name}:/")]).ok();
        fs::remove_dir_all(&staged).unwrap();
    }
    let before = snapshot(&canary);
    let planted = host.folder().join("planted");
    fs::create_dir_all(planted.join("a/sub")).unwrap();
    fs::write(planted.join("a/sub/planted"), "planted").unwrap();
    let (into_parent, into_folder) =
        (tar(&planted, &["-c", "a/sub/planted"]), tar(&planted.join("a/sub"), &["-c", "planted"]));

    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut seen, mut host_seen) = ([0u32; 3], false);
    // Of what was put into each: in the volume, and elsewhere.
    let mut put = [[0u32; 2]; 2];
    let real = fs::File::open(volume.join("a/sub")).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let folder = fs::File::open(&volume).unwrap();
            while !stop.load(Ordering::Relaxed) {
                renameat_with(&folder, "a", &folder, "b", RenameFlags::EXCHANGE).unwrap();
                renameat_with(&folder, "c", &folder, "d", RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A failed assertion ends it, too: the scope waits for its threads.
        let _ended = Raised(&stop);
        let begin = Instant::now();
        // The control: who resolves the path on the host is led to the canary now and then.
        while !host_seen || !careless.join("sub/planted").exists() {
            fs::write(volume.join("c/sub/planted"), "planted").unwrap();
            host_seen |= fs::read_to_string(volume.join("a/file")).is_ok_and(|text| text == "on the host");
            assert!(begin.elapsed() < patience(20), "the race does not run");
        }
        let enough = |seen: &[u32; 3], put: &[[u32; 2]; 2]| {
            swaps.load(Ordering::Relaxed) >= SWAPS
                && seen.iter().take(2).all(|count| *count > 3)
                && put.as_flattened().iter().all(|count| *count > 0)
        };
        while !enough(&seen, &put) {
            let swaps = swaps.load(Ordering::Relaxed);
            assert!(begin.elapsed() < patience(50), "{seen:?}, {put:?} after {swaps} swaps");
            for (name, put) in ["runs", "rests"].into_iter().zip(&mut put) {
                let request = |method: &str, path: &str, body: &[u8]| {
                    host.request(method, &format!("/v1.51/containers/{name}/archive?path={path}"), body)
                };
                for path in ["/v/a/file", "/v/a/", "/v"] {
                    let text = request("GET", path, b"").text();
                    assert!(!text.contains("on the host"), "{path} of {name} gave a file of the host");
                    seen[0] += u32::from(text.contains("in the volume"));
                    seen[1] += u32::from(text.contains("in the container"));
                    seen[2] += 1;
                }
                for (path, archive) in [("/v", &into_parent), ("/v/a/sub", &into_folder)] {
                    let status = request("PUT", path, archive).status;
                    let landed = unlinkat(&real, "planted", AtFlags::empty()).is_ok();
                    put[0] += u32::from(landed);
                    put[1] += u32::from(status == 200 && !landed);
                }
            }
        }
    });
    assert_eq!(snapshot(&canary), before, "a copy reached the host");
    // Elsewhere is where the link leads in the container.
    for name in ["runs", "rests"] {
        let path = format!("{name}:{}/sub/planted", canary.display());
        host.hull(&["cp", &path, &format!("planted-{name}")]).ok();
    }
    host.hull(&["exec", "runs", "true"]).ok();
}

#[test]
fn programs_and_libraries_of_the_image_are_files_and_nothing_else() {
    let host = host();
    let volume = host.folder().join("volume");
    fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/marks", volume.display());
    host.hull(&["run", "-d", "--name", "box", "-v", &bind, "busybox", "sleep", "10000"]).ok();
    let plant = "for p in /bin/tar /bin/gunzip /usr/bin/unpigz /usr/bin/xz /bin/bzip2 /sbin/unpigz; do \
                 mkdir -p ${p%/*}; rm -f $p; printf '#!/bin/sh\\ntouch /marks/'${p##*/}'\\n' > $p; chmod 755 $p; done; \
                 mkdir -p /lib /lib/x86_64-linux-gnu /usr/lib; \
                 for l in /lib /lib/x86_64-linux-gnu /usr/lib; do cp /bin/busybox $l/libnss_files.so.2; done; \
                 echo '/lib/libnss_files.so.2' > /etc/ld.so.preload";
    host.hull(&["exec", "box", "sh", "-c", plant]).ok();
    let source = host.folder().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    for (packing, name) in [("-cz", "gz"), ("-cJ", "xz"), ("-cj", "bz2"), ("-c", "plain")] {
        let archive = tar(&source, &[packing, "--transform", &format!("s/file/{name}/"), "file"]);
        let answer = host.request("PUT", "/v1.51/containers/box/archive?path=/tmp", &archive);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    let read = host.hull(&["exec", "box", "cat", "/tmp/gz", "/tmp/xz", "/tmp/bz2", "/tmp/plain"]);
    assert_eq!(read.ok(), "content".repeat(4));
    host.hull(&["cp", "box:/usr/bin/xz", "got"]).ok();
    assert!(fs::read_to_string(host.folder().join("got")).unwrap().contains("touch /marks/xz"));
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0, "something of the image was executed");
}

/// A copy into a container that goes on until its input ends.
fn begin(host: &Host, to: &str) -> Child {
    let mut command = host.hull_command(&["cp", "-", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(copy: &mut Child, bytes: &[u8]) {
    copy.stdin.as_mut().unwrap().write_all(bytes).unwrap();
}

/// The end of a copy: its exit code, and what it said.
fn end(mut copy: Child) -> (i32, String) {
    drop(copy.stdin.take());
    let output = copy.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < patience(20), "{what} did not come to pass");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a copy into /tmp of the only container has written its first file, so that it is the one
/// that has a worker.
pub(crate) fn under_way(host: &Host) -> bool {
    let layers = fs::read_dir(host.data_root().join("image/active")).unwrap();
    layers.flatten().any(|layer| layer.path().join("upper/tmp/first").exists())
}

/// They are in no namespace of the machine's: found as the spawner's children.
pub(crate) fn workers(host: &Host) -> Vec<u32> {
    let children = |spawner: &u32| fs::read_to_string(format!("/proc/{spawner}/task/{spawner}/children"));
    let mut pids: Vec<u32> = host
        .spawners()
        .iter()
        .filter_map(|spawner| children(spawner).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.retain(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "hull-worker\n")
    });
    pids
}

/// Archives of one file each, without an end.
pub(crate) fn pieces(host: &Host) -> [Vec<u8>; 2] {
    ["first", "second"].map(|name| {
        let folder = host.folder().join(format!("piece-{name}"));
        fs::create_dir(&folder).unwrap();
        // More than a worker reads at once.
        fs::write(folder.join(name), vec![b'x'; 300_000]).unwrap();
        let mut archive = tar(&folder, &["-c", "-b", "1", name]);
        archive.truncate(archive.len() - 1024);
        archive
    })
}

#[test]
fn a_mount_that_is_moved_in_the_middle_moves_no_copy() {
    let host = host();
    let volume = host.folder().join("volume");
    fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/v", volume.display());
    host.hull(&["run", "-d", "--privileged", "--name", "box", "-v", &bind, "busybox", "sleep", "10000"]).ok();
    let [first, second] = pieces(&host);
    let mut copy = begin(&host, "box:/v");
    send(&mut copy, &first);
    until("the first file", || volume.join("first").exists());
    host.hull(&["exec", "box", "sh", "-c", "mkdir /elsewhere; mount --bind /elsewhere /v; ls /v"]).ok();
    send(&mut copy, &second);
    let told = end(copy);
    assert_eq!(told.0, 0, "{}", told.1);
    assert_eq!(fs::metadata(volume.join("second")).unwrap().len(), 300_000);
    assert_eq!(host.hull(&["exec", "box", "ls", "/elsewhere"]).ok(), "");
}

#[test]
fn a_start_waits_for_a_copy_and_a_removal_ends_it() {
    let host = host();
    let [first, second] = pieces(&host);
    host.hull(&["create", "--name", "box", "busybox", "sh", "-c", "ls /tmp; sleep 10000"]).ok();
    let mut copy = begin(&host, "box:/tmp");
    send(&mut copy, &first);
    until("the first file", || under_way(&host));
    let start = host.hull_command(&["start", "box"]).stdout(Stdio::null()).spawn().unwrap();
    // Reading and looking wait for nothing.
    host.hull(&["cp", "box:/bin/busybox", "busybox"]).ok();
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.Running}}", "box"]).ok(), "false");
    send(&mut copy, &second);
    assert_eq!(end(copy).0, 0);
    assert!(start.wait_with_output().unwrap().status.success());
    until("the list", || host.hull(&["logs", "box"]).ok() == "first\nsecond");
    // A copy that has ended has nothing mounted any more.
    host.hull(&["create", "--name", "rests", "busybox"]).ok();
    for _ in 0..20 {
        host.hull(&["cp", "piece-first", "rests:/tmp"]).ok();
        assert_eq!(workers(&host), [0; 0]);
    }
    // A copy into a container that runs holds nothing up but the next start.
    for running in [true, false] {
        host.hull(&["rm", "-f", "box"]).ok();
        let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
        host.hull(&[verb, &["--name", "box", "busybox", "sleep", "10000"]].concat()).ok();
        let mut copy = begin(&host, "box:/tmp");
        send(&mut copy, &first);
        until("the first file", || under_way(&host));
        host.hull(&["rm", "-f", "box"]).ok();
        let (code, told) = end(copy);
        assert!(code == 1 && told.contains("is being removed"), "{code}: {told}");
        until("the worker's end", || workers(&host).is_empty());
        host.hull(&["create", "--name", "box", "busybox"]).ok();
    }
}

#[test]
fn whoever_is_killed_in_the_middle_of_a_copy_leaves_nothing_behind() {
    let mut host = host();
    let [first, _] = pieces(&host);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for running in [true, false] {
        for victim in ["client", "worker", "daemon"] {
            let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
            host.hull(&[verb, &["--name", "box", "busybox", "sleep", "10000"]].concat()).ok();
            let mut copy = begin(&host, "box:/tmp");
            send(&mut copy, &first);
            until("the first file", || under_way(&host));
            match victim {
                "client" => {
                    copy.kill().unwrap();
                    copy.wait().unwrap();
                }
                "worker" => {
                    let pid = rustix::process::Pid::from_raw(workers(&host)[0].cast_signed()).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    let (code, told) = end(copy);
                    assert!(code == 1 && told.contains("killed"), "{code}: {told}");
                }
                _ => {
                    host.replace_killed_daemon();
                    host.await_socket();
                    assert_eq!(end(copy).0, 1);
                }
            }
            until(&format!("the worker's end after the {victim}'s"), || workers(&host).is_empty());
            // It can be copied into, started and removed as ever.
            host.hull(&["cp", "piece-first", "box:/tmp"]).ok();
            if !running {
                host.hull(&["start", "box"]).ok();
            }
            assert_eq!(host.hull(&["exec", "box", "ls", "/tmp/piece-first"]).ok(), "first", "{victim}");
            host.hull(&["rm", "-f", "box"]).ok();
        }
    }
    before.returns(&host);
}
