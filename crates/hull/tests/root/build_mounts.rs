//! What RUN is shown beside its file system, by whole builds: to users that are others outside, and cache
//! mounts as people see them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Host, Options, patience};
use serde_json::{Value, json};

use super::build_lent::Agent;
use super::builds::{CLIENTS, build, command, context, said, text};
use super::copy_attacks::until;
use super::{executables, host};

const REMAPPED: &str = r#"
FROM busybox AS made
RUN mkdir /out && echo of-a-stage >/out/file && chown 5:6 /out/file
FROM busybox
RUN read inside outside rest </proc/self/uid_map && [ $inside = 0 ] && [ $outside != 0 ]
RUN --mount=type=bind,target=/ctx echo "bind $(stat -c %u:%g /ctx/file) $(cat /ctx/file)" && ! touch /ctx/new
RUN --mount=type=bind,target=/ctx,rw echo changed >/ctx/file && touch /ctx/new && chown 3:4 /ctx/new && \
    echo "written $(stat -c %u:%g /ctx/new) $(cat /ctx/file)"
RUN --mount=type=bind,from=made,source=/out,target=/made,rw chown 9:9 /made/file && touch /made/x && \
    echo "stage $(stat -c %u:%g /made/file /made/x | tr '\n' ' ')"
RUN --mount=type=cache,target=/cache,uid=33,gid=34,mode=0750 echo "cache $(stat -c '%a %u:%g' /cache)" && \
    echo kept >/cache/file && chown 8:9 /cache/file
RUN --mount=type=cache,target=/cache,uid=33,gid=34,mode=0750 \
    echo "again $(stat -c %u:%g /cache/file) $(cat /cache/file)"
RUN --mount=type=cache,id=seeded,target=/seeded,from=made,source=/out \
    echo "seeded $(stat -c %u:%g /seeded/file)" && echo x >>/seeded/file
RUN --mount=type=tmpfs,target=/t,size=1m echo "tmpfs $(stat -c %u:%g /t)" && touch /t/x && \
    ! head -c 2000000 /dev/zero >/t/y 2>/dev/null
COPY --chown=11:12 file /copied
RUN echo "copied $(stat -c %u:%g /copied)" && chown 13:14 /copied && mkdir /mine && chown 33:34 /mine
USER 33:34
RUN --mount=type=cache,target=/cache,uid=33,gid=34,mode=0750 touch /cache/own /mine/own && \
    echo "user $(stat -c %u:%g /cache/own /mine/own | tr '\n' ' ')"
"#;

const LENT: &str = r#"
FROM busybox
RUN --mount=type=secret,id=s,uid=5,gid=6,mode=0440 \
    echo "secret $(stat -c '%a %u:%g' /run/secrets/s) $(wc -c </run/secrets/s)"
RUN --mount=type=secret,id=s,env=S echo "variable ${#S}"
RUN --mount=type=ssh,uid=7,gid=8,mode=0660 echo "agent $(stat -c '%a %u:%g' $SSH_AUTH_SOCK)"
USER 5:6
RUN --mount=type=secret,id=s,uid=5 --mount=type=ssh,uid=5 wc -c </run/secrets/s && [ -w $SSH_AUTH_SOCK ] && \
    echo "both are mine"
"#;

#[test]
fn mounts_of_steps_are_theirs_where_users_are_others_outside() {
    let daemon = vec!["--userns-remap=default".to_owned()];
    let host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    let folder = context(&host, "remapped", &[("Dockerfile", REMAPPED), ("file", "of-the-context")]);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for official in CLIENTS {
        let built = build(&host, official, &["--no-cache", "-t", "remapped", text(&folder)]);
        let shown = said(&built);
        for line in [
            "bind 0:0 of-the-context",
            "written 3:4 changed",
            "stage 9:9 0:0 ",
            "cache 750 33:34",
            "again 8:9 kept",
            "seeded 5:6",
            "tmpfs 0:0",
            "copied 11:12",
            "user 33:34 33:34 ",
        ] {
            assert!(shown.contains(&format!("{line}\n")), "{line:?}: {shown}");
        }
        let looks =
            "stat -c %u:%g /copied /mine /mine/own; ls -d /cache /ctx /made /t /seeded 2>/dev/null; id -u";
        let seen = host.hull(&["run", "--rm", "--network", "none", "remapped", "sh", "-c", looks]);
        assert_eq!(seen.ok(), "13:14\n33:34\n33:34\n33", "{seen}");
        host.hull(&["rmi", "remapped"]).ok();
        // What is on the disk has the ids that are inside: layers and caches are everybody's.
        let owners: Vec<(u32, u32)> = fs::read_dir(host.data_root().join("caches"))
            .unwrap()
            .map(|entry| fs::metadata(entry.unwrap().path().join("files")).unwrap())
            .map(|of| (of.uid(), of.gid()))
            .collect();
        assert!(owners.contains(&(33, 34)) && owners.len() == 2, "{owners:?}");
        host.hull(&["builder", "prune", "-af"]).ok();
        host.hull(&["image", "prune", "-f"]).ok();
        before.returns(&host);
    }
    let agent = Agent::start(host.folder());
    let (folder, secret) = (context(&host, "lent", &[("Dockerfile", LENT)]), host.folder().join("secret"));
    fs::write(&secret, "eight of").unwrap();
    let (of_file, of_agent) =
        (format!("id=s,src={}", secret.display()), format!("default={}", agent.socket.display()));
    let words = ["--secret", &of_file, "--ssh", &of_agent, text(&folder)];
    let shown = said(&build(&host, false, &words));
    for line in ["secret 440 5:6 8", "variable 8", "agent 660 7:8", "both are mine"] {
        assert!(shown.contains(&format!("{line}\n")), "{line:?}: {shown}");
    }
}

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
        // Its step has begun, and has asked for its mounts.
        let sites = || fs::read_dir(host.data_root().join("image/active")).unwrap().count();
        until("the second one's step", || sites() == 2);
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
