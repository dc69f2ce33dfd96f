//! Whole builds, with both clients: what they print, what is in the image, what is done again and what is
//! not, and that nothing stays of those that are ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Finished, Host, patience};

use super::host;

/// The words of a build with one of the clients; the official one by its classic endpoint.
pub(super) fn command(host: &Host, official: bool, words: &[&str]) -> Command {
    let words = [&["build"], words].concat();
    let mut command = if official { host.docker_command(&words) } else { host.hull_command(&words) };
    command.env("DOCKER_BUILDKIT", "0");
    command
}

#[track_caller]
pub(super) fn build(host: &Host, official: bool, words: &[&str]) -> Finished {
    hull_testkit::run(&mut command(host, official, words), b"")
}

/// All that a build that went well has said: our client says it to people, on standard error.
#[track_caller]
pub(super) fn said(built: &Finished) -> String {
    built.ok();
    format!("{}{}", built.stdout, built.stderr)
}

/// Whether some step was not done again.
#[track_caller]
pub(super) fn used_cache(built: &Finished) -> bool {
    said(built).contains("Using cache") || said(built).contains(" CACHED\n")
}

pub(super) const CLIENTS: [bool; 2] = [false, true];

/// A context with these files.
pub(super) fn context(host: &Host, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = host.folder().join(name);
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const WHOLE: &str = r#"
FROM busybox AS base
ARG WHO=world
ENV GREETING="hello $WHO"
WORKDIR /app
COPY a.txt ./
COPY --chown=7:8 dir/ /app/dir/
RUN echo "$GREETING" > greeting.txt && echo to-stderr >&2
LABEL made=here
EXPOSE 80 53/udp
VOLUME ["/data"]
USER 7:8
ENTRYPOINT ["sh", "-c"]
CMD ["cat greeting.txt"]

FROM busybox AS unused
RUN exit 1

FROM base
COPY --from=base /app/greeting.txt /second.txt
USER root
RUN cat /second.txt; mkdir /gone && rm -r /gone
COPY <<EOF /script
from here
EOF
"#;

#[test]
fn a_build_makes_the_image_that_its_file_says_and_nothing_twice() {
    let host = host();
    for (round, official) in CLIENTS.into_iter().enumerate() {
        let files = [
            ("Dockerfile", WHOLE),
            ("a.txt", "a\n"),
            ("dir/b.txt", "b\n"),
            ("dir/c.md", "not sent\n"),
            (".dockerignore", "**/*.md\n"),
        ];
        let folder = context(&host, &format!("whole{round}"), &files);
        let folder = text(&folder);
        let who = format!("round{round}");
        let given =
            ["-t", "whole", "-t", "other:1", "--build-arg", &format!("WHO={who}"), "--label", "l=v", folder];
        let built = build(&host, official, &given);
        let said = said(&built);
        assert!(said.contains(&format!("hello {who}\n")) && said.contains("to-stderr"), "{said}");
        if official {
            assert!(said.contains("Step 1/") && said.contains("Successfully built "), "{said}");
            assert!(
                said.contains("Successfully tagged whole:latest\nSuccessfully tagged other:1\n"),
                "{said}"
            );
        } else {
            assert!(said.contains(" naming to whole:latest done\n"), "{said}");
        }
        let id = host.hull(&["image", "inspect", "-f", "{{.Id}}", "whole"]).ok().to_owned();
        let looks = "cat /app/a.txt /app/dir/b.txt /second.txt /script; busybox ls /app/dir; busybox stat -c %u:%g /app/dir/b.txt; busybox id -u";
        let seen = host.hull(&["run", "--rm", "--network", "none", "whole", looks]);
        assert_eq!(seen.ok(), format!("a\nb\nhello {who}\nfrom here\nb.txt\n7:8\n0"), "{seen}");
        let template = "{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}} {{.Config.User}} \
                        {{json .Config.Labels}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}}";
        assert_eq!(
            host.hull(&["image", "inspect", "-f", template, "whole"]).ok(),
            "[\"cat greeting.txt\"] [\"sh\",\"-c\"] /app root {\"l\":\"v\",\"made\":\"here\"} \
             {\"53/udp\":{},\"80/tcp\":{}} {\"/data\":{}}"
        );
        // The same again: nothing is run, and the image is the same one.
        let again = build(&host, official, &given);
        assert!(used_cache(&again) && !again.to_string().contains(&format!("hello {who}\n")), "{again}");
        assert_eq!(host.hull(&["image", "inspect", "-f", "{{.Id}}", "whole"]).ok(), id);
        // One file is another: what comes after it is done, what came before is not.
        fs::write(host.folder().join(format!("whole{round}/a.txt")), "changed\n").unwrap();
        let changed = build(&host, official, &given);
        assert!(used_cache(&changed) && changed.to_string().contains("to-stderr"), "{changed}");
        let seen = host.hull(&["run", "--rm", "--network", "none", "whole", "cat /app/a.txt"]);
        assert_eq!(seen.ok(), "changed");
        let target =
            build(&host, official, &["-q", "--target", "base", "--build-arg", &format!("WHO={who}"), folder]);
        let base = target.ok().to_owned();
        assert!(base.starts_with("sha256:") && base.len() == 71, "{target}");
        assert_eq!(host.hull(&["run", "--rm", "--network", "none", &base]).ok(), format!("hello {who}"));
        assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
    }
}

#[test]
fn what_goes_wrong_is_said_as_the_reference_says_it() {
    let host = host();
    let folder = context(&host, "wrong", &[("here", "x")]);
    let cases = [
        (
            "FROM busybox\nRUN echo before; exit 7\n",
            7,
            "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7",
        ),
        ("FROM busybox\nNOPE x\n", 1, "dockerfile parse error on line 2: unknown instruction: NOPE"),
        ("FROM busybox\nCOPY nosuch /x\n", 1, "nosuch"),
        ("FROM busybox\nCOPY ../x /x\n", 1, "forbidden path outside the build context"),
        ("FROM busybox\nRUN [\"nosuch\"]\n", 1, "exec: \"nosuch\": executable file not found in $PATH"),
        ("FROM nosuchimage\n", 1, "nosuchimage"),
        ("# nothing\n", 1, "file with no instructions"),
        ("", 1, "cannot be empty"),
    ];
    for official in CLIENTS {
        for (dockerfile, code, said) in cases {
            fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
            build(&host, official, &[text(&folder)]).fails(code, said);
        }
        fs::write(folder.join("Dockerfile"), "FROM busybox\nRUN echo good >x\nRUN echo bad >x; exit 7\n")
            .unwrap();
        let failed = build(&host, official, &[text(&folder)]);
        let said = failed.to_string();
        for (what, expected) in
            [("The last good layer is", "good"), ("What the failed step has left is", "bad")]
        {
            let line = said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{said}"));
            let id = line.split_once(": hull run -it --rm ").unwrap().1.trim();
            assert_eq!(host.hull(&["run", "--rm", id, "cat", "/x"]).ok(), expected, "{line}");
        }
        let forced = build(&host, official, &["--force-rm", text(&folder)]).to_string();
        assert!(forced.contains("The last good layer") && !forced.contains("has left"), "{forced}");
        fs::write(folder.join("Dockerfile"), "FROM busybox\nRUN true\n").unwrap();
        build(&host, official, &["--target", "nosuch", text(&folder)])
            .fails(1, "target stage \"nosuch\" could not be found");
        build(&host, official, &["-f", "/nosuch/file", text(&folder)]).fails(1, "lstat /nosuch");
        let digest = format!("named@sha256:{}", "a".repeat(64));
        build(&host, official, &["-t", &digest, text(&folder)]).fails(1, "build tag cannot contain a digest");
    }
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
}

/// Starts a build that does not end, and waits until its process runs.
fn hang(host: &Host, official: bool) -> Child {
    let folder = context(
        host,
        "hanging",
        &[("Dockerfile", "FROM busybox\nRUN echo begun; echo x > /x; sleep 1000\n")],
    );
    let mut command = command(host, official, &["--no-cache", text(&folder)]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let sleeps = || {
        host.processes()
            .iter()
            .any(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\0"))
    };
    while !sleeps() {
        assert!(start.elapsed() < patience(30), "the step does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_client_that_leaves_ends_its_build_and_nothing_stays() {
    let host = host();
    // The first step of all makes what later ones only use.
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for official in CLIENTS {
        let mut client = hang(&host, official);
        assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
        client.kill().unwrap();
        client.wait().unwrap();
        before.returns(&host);
    }
}

#[test]
fn a_daemon_that_is_killed_in_a_build_leaves_nothing() {
    let mut host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    // One that has found something to take over has not as many descriptors as the first.
    host.kill_daemon();
    host.start_daemon();
    let before = Baseline::of(&host);
    let mut client = hang(&host, false);
    host.kill_daemon();
    client.wait().unwrap();
    host.start_daemon();
    before.returns(&host);
    // What it had kept is used by the next one, and what is wrong with nothing is done.
    let folder = context(&host, "after", &[("Dockerfile", "FROM busybox\nRUN echo made > /made\n")]);
    build(&host, false, &["-t", "after", text(&folder)]).ok();
    host.kill_daemon();
    host.start_daemon();
    let again = build(&host, false, &["-t", "after", text(&folder)]);
    assert!(used_cache(&again), "{again}");
    assert_eq!(host.hull(&["run", "--rm", "after", "cat", "/made"]).ok(), "made");
}

#[test]
fn the_cache_is_counted_and_pruned() {
    let host = host();
    let folder = context(&host, "pruned", &[("Dockerfile", "FROM busybox\nRUN echo 123456789 > /made\n")]);
    build(&host, false, &["-q", text(&folder)]).ok();
    let usage = host.request("GET", "/v1.47/system/df", b"").json();
    let steps = usage["BuildCache"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["Size"] == 10), "{steps:?}");
    host.hull(&["image", "prune", "-f"]).ok();
    let pruned = host.request("POST", "/build/prune?all=1", b"").json();
    assert!(pruned["SpaceReclaimed"].as_u64() >= Some(10), "{pruned}");
    assert_eq!(
        host.request("POST", "/build/prune?all=1", b"").json()["CachesDeleted"],
        serde_json::Value::Null
    );
    let layers = fs::read_dir(host.data_root().join("image/layers")).unwrap().count();
    assert_eq!(layers, 1, "busybox's alone");
}

#[test]
fn a_step_is_done_again_where_the_host_is_another() {
    let host = host();
    let script = "FROM busybox\nRUN cat /etc/hosts > /hosts; ls /sys/class/net\n";
    let folder = context(&host, "around", &[("Dockerfile", script)]);
    let given = [&["--network", "none"][..], &["--add-host", "a:192.0.2.1"], &["--add-host", "a:192.0.2.2"]];
    for around in given {
        let words = [around, &[text(&folder)]].concat();
        let first = build(&host, false, &words);
        assert!(said(&first).contains(" lo\n"), "{first}");
        let again = build(&host, false, &words);
        assert!(used_cache(&again) && !said(&again).contains(" lo\n"), "{again}");
    }
}

#[test]
fn who_reads_the_raw_messages_learns_of_the_end_as_others_do() {
    let host = host();
    let folder = context(&host, "raw", &[("Dockerfile", "FROM busybox\nRUN exit 7\n")]);
    let failed = build(&host, false, &["--progress", "rawjson", text(&folder)]);
    failed.fails(7, "returned a non-zero code: 7");
    fs::write(folder.join("Dockerfile"), "FROM busybox\n").unwrap();
    let file = host.folder().join("id");
    let made = build(&host, false, &["--progress", "rawjson", "--iidfile", text(&file), text(&folder)]);
    let id = fs::read_to_string(file).unwrap();
    made.ok();
    assert!(id.starts_with("sha256:") && said(&made).contains(&format!("writing image {id}")), "{made}");
    let shape = |line: &str| {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        let vertex = document["vertexes"][0].clone();
        (vertex["name"].clone(), vertex["started"].is_string(), vertex["completed"].is_string())
    };
    let shapes: Vec<_> = made.stderr.lines().map(shape).collect();
    let from = serde_json::json!("[1/1] FROM busybox");
    assert!(shapes.contains(&(from.clone(), true, false)) && shapes.contains(&(from, true, true)), "{made}");
}

#[test]
fn a_context_comes_on_standard_input_too() {
    let host = host();
    for official in CLIENTS {
        let mut alone = command(&host, official, &["-t", "alone", "-"]);
        hull_testkit::run(&mut alone, b"FROM busybox\nRUN echo alone > /made\n").ok();
        assert_eq!(host.hull(&["run", "--rm", "alone", "cat", "/made"]).ok(), "alone");
        let folder = context(&host, "packed", &[("Other", "FROM scratch\nCOPY . /\n"), ("dir/x", "x")]);
        let archive = Command::new("tar").arg("-C").arg(&folder).args(["-cJf", "-", "."]).output().unwrap();
        assert!(archive.status.success());
        let mut packed = command(&host, official, &["-t", "packed", "-f", "Other", "-"]);
        hull_testkit::run(&mut packed, &archive.stdout).ok();
    }
}
