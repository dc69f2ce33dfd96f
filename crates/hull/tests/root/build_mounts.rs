//! What RUN is shown beside its file system, by whole builds: cache mounts as people see them.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hull_testkit::{Host, patience};
use serde_json::{Value, json};

use super::builds::{CLIENTS, build, command, context, text};
use super::host;

/// The cache mounts that the builder tells of, by name, and whether a step uses each.
fn mounts(host: &Host) -> Vec<(String, bool)> {
    let words = ["builder", "du", "--filter", "type=exec.cachemount", "--format", "json"];
    let read = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let name = record["Description"].as_str().unwrap().trim_start_matches("cached mount ").to_owned();
        (name, record["Reclaimable"].as_str() == Some("false") || record["Reclaimable"] == json!(false))
    };
    let mut mounts: Vec<_> = host.hull(&words).ok().lines().map(read).collect();
    mounts.sort();
    mounts
}

/// A build whose last step says `begun` and goes on until somebody makes the file `go` of the cache `gate`.
struct Waiting(Child);

impl Waiting {
    fn start(host: &Host, official: bool, mounts: &str) -> Waiting {
        let gate = "--mount=type=cache,id=gate,target=/gate";
        let waits = "while [ ! -e /gate/go ]; do sleep 0.05; done";
        let script = format!(
            "FROM busybox\nRUN {gate} {mounts} touch /a/held /b/held /c/held /gate/begun && {waits} && touch /c/left\n"
        );
        let folder = context(host, "waiting", &[("Dockerfile", &script)]);
        let mut command = command(host, official, &["--no-cache", "-q", text(&folder)]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while !gates(host).any(|path| path.join("begun").exists()) {
            assert!(start.elapsed() < patience(30), "the step does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        Waiting(child)
    }

    /// Lets it go on, and waits for its end.
    fn end(mut self, host: &Host) {
        gates(host).for_each(|path| fs::write(path.join("go"), "").unwrap());
        assert!(self.0.wait().unwrap().success());
    }
}

/// The folders of all cache mounts that have been begun with.
fn gates(host: &Host) -> impl Iterator<Item = std::path::PathBuf> {
    let folders = fs::read_dir(host.data_root().join("caches")).into_iter().flatten().flatten();
    folders.map(|entry| entry.path().join("files")).filter(|path| path.join("begun").exists())
}

#[test]
fn caches_are_shared_locked_and_private_and_go_when_nobody_uses_them() {
    let host = host();
    let all = "--mount=type=cache,target=/a --mount=type=cache,id=alone,target=/b,sharing=private \
               --mount=type=cache,target=/c,id=one,sharing=locked";
    for official in CLIENTS {
        let waiting = Waiting::start(&host, official, all);
        let used = |name: &str| (name.to_owned(), true);
        assert_eq!(mounts(&host), ["/a", "alone", "gate", "one"].map(used));
        // The shared one is the same; of the private one there is another.
        let script = "FROM busybox\n\
                      RUN --mount=type=cache,target=/a [ -e /a/held ] && touch /a/seen\n\
                      RUN --mount=type=cache,id=alone,target=/x,sharing=private [ ! -e /x/held ] && touch /x/mine\n";
        let folder = context(&host, "beside", &[("Dockerfile", script)]);
        build(&host, official, &["--no-cache", text(&folder)]).ok();
        let names: Vec<String> = mounts(&host).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["/a", "alone", "alone", "gate", "one"]);
        // What is used stays, whoever prunes.
        let words = ["builder", "prune", "-af", "--filter", "type=exec.cachemount"];
        let pruned = if official { host.docker(&words) } else { host.hull(&words) };
        pruned.ok();
        assert_eq!(mounts(&host), ["/a", "alone", "gate", "one"].map(used));
        // Whoever wants the locked one waits for its turn, and finds what was left in it.
        let script =
            "FROM busybox\nRUN --mount=type=cache,target=/c,id=one,sharing=locked ls /c; [ -e /c/left ]\n";
        let folder = context(&host, "locked", &[("Dockerfile", script)]);
        let mut second = command(&host, official, &["--no-cache", "-q", text(&folder)]);
        let mut second = second.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        waiting.end(&host);
        assert!(second.wait().unwrap().success(), "two had the locked cache at the same time");
        let unused = |name: &str| (name.to_owned(), false);
        assert_eq!(mounts(&host), ["/a", "alone", "gate", "one"].map(unused));
        let pruned = if official { host.docker(&words) } else { host.hull(&words) };
        assert!(pruned.ok().contains("Total"), "{pruned}");
        assert_eq!(mounts(&host), []);
    }
}

#[test]
fn a_cache_over_the_limit_goes_after_what_was_used_longer_ago() {
    let mut host = host();
    assert_eq!(host.stop_daemon(), 0);
    let gc = json!({ "defaultReservedSpace": "0", "defaultMaxUsedSpace": "4MB", "defaultMinFreeSpace": "0" });
    fs::write(host.folder().join("daemon.json"), json!({ "builder": { "gc": gc } }).to_string()).unwrap();
    host.start_daemon();
    let fill = |name: &str, bytes: u64| {
        let script = format!(
            "FROM busybox\nRUN --mount=type=cache,id={name},target=/c head -c {bytes} /dev/zero >/c/file\n"
        );
        let folder = context(&host, "filling", &[("Dockerfile", &script)]);
        build(&host, false, &["--no-cache", "-q", text(&folder)]).ok();
    };
    let names = || mounts(&host).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    fill("older", 3_000_000);
    assert_eq!(names(), ["older"], "below the limit all stays");
    fill("newer", 3_000_000);
    fill("small", 10);
    let start = Instant::now();
    while names() != ["newer", "small"] {
        assert!(start.elapsed() < patience(20), "{:?}", names());
        std::thread::sleep(Duration::from_millis(10));
    }
    // With limits of the command line, too.
    host.hull(&["builder", "prune", "-f", "--max-used-space", "1k"]).ok();
    assert_eq!(names(), ["small"]);
}
