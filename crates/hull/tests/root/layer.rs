//! The writable layer of a container: what `diff` tells of it, what `commit` makes of it; and `export`.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hull_runtime::failpoint::VARIABLE;
use hull_testkit::{Host, patience};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{CLIENTS, host};

/// Makes, changes and takes away what an image holds.
const SCRIPT: &str = "echo x >> /etc/mark; rm /gone; rm -r /d; mkdir -p /d/s; echo y > /d/s/y; mkdir -p /n/m; \
                      echo z > /n/m/z; ln -s z /n/m/link; echo v > /v/inside; echo h >> /etc/hosts";

#[test]
fn diff_tells_what_a_container_has_changed() {
    let host = host();
    let tree = host.folder().join("tree");
    for folder in ["etc", "d/s"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for file in ["etc/mark", "gone", "d/x", "d/s/y", "d/s/z"] {
        fs::write(tree.join(file), "1").unwrap();
    }
    let add = |name: &str| format!("{}:/{name}", tree.join(name).display());
    let added = ["etc", "gone", "d"].map(add);
    let words =
        ["image", "capture", "tree", "busybox", "--add", &added[0], "--add", &added[1], "--add", &added[2]];
    host.hull(&words).ok();
    host.hull(&["run", "--name", "untouched", "tree", "true"]).ok();
    let mount = ["--tmpfs", "/v"];
    host.hull(&[&["run", "--name", "ended"][..], &mount, &["tree", "sh", "-c", SCRIPT]].concat()).ok();
    let lives = format!("{SCRIPT}; echo ready; exec sleep 1000");
    host.hull(&[&["run", "-d", "--name", "lives"][..], &mount, &["tree", "sh", "-c", &lives]].concat()).ok();
    let start = Instant::now();
    while host.hull(&["logs", "lives"]).ok() != "ready" {
        assert!(start.elapsed() < patience(20), "it does not come to its end");
    }
    // What is mounted is no part of it: of `/v` the empty place, of `/etc/hosts` nothing.
    let expected = "C /d\nC /d/s\nC /d/s/y\nD /d/s/z\nD /d/x\nC /etc\nC /etc/mark\nD /gone\nA /n\nA /n/m\nA /n/m/link\n\
                    A /n/m/z\nA /v";
    for client in CLIENTS {
        for name in ["ended", "lives"] {
            assert_eq!(client(&host, &["diff", name]).ok(), expected, "{name}");
            assert_eq!(client(&host, &["container", "diff", name]).ok(), expected, "{name}");
        }
        assert_eq!(client(&host, &["diff", "untouched"]).ok(), "");
        client(&host, &["diff", "nosuch"]).fails(1, "No such container: nosuch");
    }
    // As the reference's document, and its word for nothing.
    assert_eq!(host.request("GET", "/v1.24/containers/untouched/changes", b"").text(), "null\n");
    let rows = host.request("GET", "/containers/ended/changes", b"").text();
    assert!(
        rows.starts_with("[{\"Path\":\"/d\",\"Kind\":0},")
            && rows.ends_with("{\"Path\":\"/v\",\"Kind\":1}]\n")
    );
}

/// Of an image, by a template.
#[track_caller]
fn of_image(host: &Host, image: &str, template: &str) -> String {
    host.hull(&["image", "inspect", "-f", template, image]).ok().to_owned()
}

#[test]
fn a_committed_container_is_an_image_of_what_it_saw() {
    let host = host();
    let script = "echo n > /tmp-new; rm /bin/ls; mkdir /deep; echo 1 > /deep/a; ln /deep/a /deep/b; echo v > /v/inside; \
                  echo h >> /etc/hosts";
    let words =
        ["run", "--name", "made", "-e", "A=1", "-l", "x=y", "-u", "0", "-w", "/", "--tmpfs", "/v", "busybox"];
    host.hull(&[&words[..], &["sh", "-c", script]].concat()).ok();
    for (client, name) in CLIENTS.into_iter().zip(["one", "two"]) {
        let id = client(&host, &["commit", "made", name]).ok().to_owned();
        assert_eq!(id, of_image(&host, name, "{{.Id}}"));
        assert_eq!(of_image(&host, name, "{{.Parent}}"), of_image(&host, "busybox", "{{.Id}}"));
        assert_eq!(
            of_image(&host, name, "{{json .Config.Cmd}}"),
            serde_json::to_string(&["sh", "-c", script]).unwrap()
        );
        assert_eq!(of_image(&host, name, "{{.Config.Labels.x}} {{index .Config.Env 0}}"), "y A=1");
        // The mount's place is there, empty; nothing of the engine's own.
        let look = "cat /tmp-new; test -e /bin/ls || echo no ls; test /deep/a -ef /deep/b && echo linked; busybox ls -A /v; \
                    busybox grep -c '^h$' /etc/hosts; echo $A";
        let seen = client(&host, &["run", "--rm", "--network", "none", name, "sh", "-c", look]);
        assert_eq!(seen.ok(), "n\nno ls\nlinked\n0\n1", "{seen}");
        // It goes to others, and comes back as it was.
        let file = host.folder().join("saved.tar").display().to_string();
        client(&host, &["save", "-o", &file, name]).ok();
        client(&host, &["rmi", name]).ok();
        client(&host, &["load", "-i", &file]).ok();
        assert_eq!(of_image(&host, name, "{{.Id}}"), id);
        assert_eq!(client(&host, &["run", "--rm", name, "cat", "/deep/b"]).ok(), "1");
        client(&host, &["rmi", name]).ok();
        client(&host, &["commit", "nosuch"]).fails(1, "No such container: nosuch");
        client(&host, &["commit", "made", "Bad:Name"]).fails(1, "must be lowercase");
    }
    assert_eq!(host.hull(&["images", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn what_no_layer_can_hold_is_refused_as_the_container_s_own_fault() {
    let host = host();
    host.hull(&["run", "--name", "box", "busybox", "touch", "/tmp/.wh.name"]).ok();
    let answer = host.request("POST", "/v1.47/commit?container=box", b"{}");
    assert_eq!(answer.status, 400, "{}", answer.text());
    let text = answer.text();
    assert!(text.contains("cannot become a layer of an image: \\\"tmp/.wh.name\\\" has a name"), "{text}");
}

#[test]
fn commit_changes_how_the_image_is_run() {
    let host = host();
    host.hull(&[
        "run",
        "--name",
        "made",
        "-e",
        "A=1",
        "-u",
        "5",
        "busybox",
        "sh",
        "-c",
        "echo n > /tmp/new || true",
    ])
    .ok();
    let lines = [
        "CMD [\"echo\",\"hi\"]",
        "ENV B=2",
        "LABEL l=m",
        "EXPOSE 80",
        "VOLUME /v",
        "ENTRYPOINT [\"sh\"]",
        "HEALTHCHECK --interval=5s CMD true",
        "ONBUILD RUN true",
        "STOPSIGNAL 9",
        "WORKDIR /w",
        "USER 7",
    ];
    let changes: Vec<&str> = lines.iter().flat_map(|line| ["--change", line]).collect();
    for client in CLIENTS {
        let words = [
            &["commit", "-m", "a message", "-a", "An Author <a@example.com>"],
            &changes[..],
            &["made", "com:2"],
        ];
        client(&host, &words.concat()).ok();
        let config = of_image(&host, "com:2", "{{json .Config}}");
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let expected = [
            ("Cmd", r#"["echo","hi"]"#),
            ("Entrypoint", r#"["sh"]"#),
            ("ExposedPorts", r#"{"80/tcp":{}}"#),
            ("Volumes", r#"{"/v":{}}"#),
            ("OnBuild", r#"["RUN true"]"#),
            ("StopSignal", "\"9\""),
            ("User", "\"7\""),
            ("WorkingDir", "\"/w\""),
            ("Healthcheck", r#"{"Interval":5000000000,"Test":["CMD-SHELL","true"]}"#),
            ("Labels", r#"{"l":"m"}"#),
        ];
        for (key, value) in expected {
            assert_eq!(config[key], serde_json::from_str::<serde_json::Value>(value).unwrap(), "{key}");
        }
        assert!(config["Env"].as_array().unwrap().iter().any(|entry| entry == "B=2"), "{config}");
        assert_eq!(
            of_image(&host, "com:2", "{{.Comment}}, {{.Author}}"),
            "a message, An Author <a@example.com>"
        );
        let history =
            client(&host, &["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "com:2"]);
        assert!(history.ok().starts_with("sh -c echo n > /tmp/new || true|a message\n"), "{history}");
        client(&host, &["commit", "--change", "RUN x", "made"]).fails(1, "RUN is not a valid change command");
        client(&host, &["commit", "--change", "NOPE", "made"]).fails(1, "NOPE is not a valid change command");
        client(&host, &["commit", "-c", "", "made"]).fails(1, "file with no instructions");
    }
    // How the image is to be run may come as a document: what it does not say is the container's.
    let body = br#"{"Env":["Q=1"],"Cmd":["x"]}"#;
    let answer = host.request("POST", "/commit?container=made&repo=com&tag=raw&changes=ENV%20Z=1", body);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["Id"], of_image(&host, "com:raw", "{{.Id}}"));
    let made = of_image(&host, "com:raw", "{{.Config.Cmd}} {{.Config.User}} {{.Config.Env}}");
    assert!(made.starts_with("[x] 5 [Q=1 Z=1 A=1"), "{made}");
    let refused = host.request("POST", "/commit", b"");
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (400, "{\"message\":\"invalid name or ID supplied: \\\"\\\"\"}\n")
    );
}

#[test]
fn a_running_container_is_frozen_while_it_is_committed_unless_that_is_not_wanted() {
    let host = host();
    host.hull(&["run", "-d", "--name", "lives", "busybox", "sleep", "1000"]).ok();
    let events = |since: &str| {
        let until = host.printed(&["date", "+%s.%N"]);
        let words =
            ["events", "--since", since, "--until", until.trim(), "--format", "{{.Type}} {{.Action}}"];
        host.hull(&words).ok().replace('\n', ", ")
    };
    for client in CLIENTS {
        let since = host.printed(&["date", "+%s.%N"]);
        client(&host, &["commit", "lives", "a:1"]).ok();
        let frozen = "container pause, image create, image tag, container commit, container unpause";
        assert_eq!(events(since.trim()), frozen);
        let since = host.printed(&["date", "+%s.%N"]);
        client(&host, &["commit", "-p=false", "lives"]).ok();
        assert_eq!(events(since.trim()), "image create, container commit");
        // Who is paused stays so.
        host.hull(&["pause", "lives"]).ok();
        client(&host, &["commit", "lives"]).ok();
        assert_eq!(host.hull(&["inspect", "-f", "{{.State.Status}}", "lives"]).ok(), "paused");
        host.hull(&["unpause", "lives"]).ok();
    }
    // Nothing was changed: no layer, and what was made of it can be removed like any other.
    assert_eq!(
        of_image(&host, "a:1", "{{len .RootFS.Layers}}"),
        of_image(&host, "busybox", "{{len .RootFS.Layers}}")
    );
    assert_eq!(host.hull(&["run", "--rm", "a:1", "echo", "fine"]).ok(), "fine");
}

#[test]
fn a_commit_waits_for_a_start_that_is_under_way_and_freezes_what_it_made() {
    let mut host = host();
    host.hull(&["create", "--name", "box", "busybox", "sleep", "1000"]).ok();
    host.stop_daemon();
    let (armed, fifo) = (host.folder().join("armed"), host.folder().join("pause"));
    host.set_environment(VARIABLE, Some(&armed.display().to_string()));
    host.start_daemon();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::write(&armed, format!("engine.start.before-launch pause {}", fifo.display())).unwrap();
    let since = host.printed(&["date", "+%s.%N"]);
    let begun = |words: &[&str]| host.hull_command(words).stdout(Stdio::null()).spawn().unwrap();
    let start = begun(&["start", "box"]);
    // Opened when the point is passed.
    let pause = fs::File::options().write(true).open(&fifo).unwrap();
    let mut commit = begun(&["commit", "box", "a:1"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(commit.try_wait().unwrap().is_none(), "committed while it was being started");
    drop(pause);
    for child in [start, commit] {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let until = host.printed(&["date", "+%s.%N"]);
    let words = ["events", "--since", since.trim(), "--until", until.trim(), "--format", "{{.Action}}"];
    let actions = host.hull(&words).ok().replace('\n', " ");
    assert!(actions.ends_with("start pause create tag commit unpause"), "{actions}");
}

/// What GNU tar lists of an archive, sorted.
#[track_caller]
fn listed(archive: &std::path::Path) -> Vec<String> {
    let output = std::process::Command::new("tar").arg("-tvf").arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn an_export_is_all_that_a_container_has_of_its_own() {
    let host = host();
    let script = "echo new > /new; rm /bin/ls; ln /new /linked; echo v > /v/inside; echo ready";
    let words = ["run", "--name", "ended", "--tmpfs", "/v", "busybox", "sh", "-c", script];
    host.hull(&words).ok();
    let lives = format!("{script}; exec sleep 1000");
    host.hull(&["run", "-d", "--name", "lives", "--tmpfs", "/v", "busybox", "sh", "-c", &lives]).ok();
    let start = Instant::now();
    while host.hull(&["logs", "lives"]).ok() != "ready" {
        assert!(start.elapsed() < patience(20), "it does not come to its end");
    }
    let file = host.folder().join("files.tar");
    let path = file.display().to_string();
    for client in CLIENTS {
        for name in ["ended", "lives"] {
            client(&host, &["export", "-o", &path, name]).ok();
            let list = listed(&file);
            let names: Vec<&str> = list.iter().map(|line| line.split_whitespace().nth(5).unwrap()).collect();
            let has = |name: &str| names.contains(&name);
            assert!(has("new") && has("usr/bin/sh") && has("v/") && !has("usr/bin/ls"), "{name}: {names:?}");
            // Of what is mounted there are the empty places, of the kernel's own too.
            let below = |folder: &str| names.iter().any(|name| name.starts_with(folder) && *name != folder);
            assert!(!below("v/") && !below("proc/") && !below("sys/") && !below("dev/"), "{name}: {names:?}");
            let hosts = list.iter().find(|line| line.ends_with(" etc/hosts")).unwrap();
            assert_eq!(hosts.split_whitespace().nth(2), Some("0"), "{hosts}");
            assert!(
                list.iter().any(|line| line.starts_with('h') && line.contains("new link to linked")),
                "{list:?}"
            );
            client(&host, &["import", &path, "again"]).ok();
            assert_eq!(client(&host, &["run", "--rm", "again", "cat", "/linked"]).ok(), "new");
            client(&host, &["rmi", "again"]).ok();
        }
        client(&host, &["export", "nosuch"]).fails(1, "No such container: nosuch");
        let refused =
            "failed to export container: invalid output path: stat /nosuch/dir: no such file or directory";
        client(&host, &["export", "-o", "/nosuch/dir/x", "ended"]).fails(1, refused);
    }
    let answer = host.request("GET", "/v1.30/containers/ended/export", b"");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
}
