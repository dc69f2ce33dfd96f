//! ps, inspect, version, info, top, help: what people and scripts read.

use super::{CLIENTS, bare, host};

#[test]
fn ps_shows_and_filters() {
    let host = host();
    let running = host
        .hull(&["run", "-d", "--name", "up", "--label", "tier=web", "busybox", "sleep", "1000"])
        .ok()
        .to_owned();
    let done = host.hull(&["run", "-d", "--name", "down", "busybox", "sh", "-c", "exit 3"]).ok().to_owned();
    host.hull(&["wait", "down"]).ok();
    let theirs = host.docker(&["ps", "-a"]);
    let ours = host.hull(&["ps", "-a"]);
    let blur = |text: &str| {
        text.replace("Less than a second", "1 second")
            .replace("1 second ago", "2 seconds ago")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        blur(ours.ok()).replace(char::is_numeric, "0"),
        blur(theirs.ok()).replace(char::is_numeric, "0")
    );
    for client in CLIENTS {
        assert_eq!(client(&host, &["ps", "-q"]).ok(), &running[..12]);
        assert_eq!(client(&host, &["ps", "-aq", "--no-trunc"]).ok(), format!("{done}\n{running}"));
        assert_eq!(
            client(&host, &["ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}"]).ok(),
            "down"
        );
        assert_eq!(
            client(
                &host,
                &["ps", "--filter", "label=tier=web", "--format", "{{.Names}} {{.Image}} {{.Command}}"]
            )
            .ok(),
            "up busybox \"sleep 1000\""
        );
        assert_eq!(client(&host, &["ps", "-a", "--filter", "exited=3", "-q"]).ok(), &done[..12]);
        assert_eq!(client(&host, &["ps", "-l", "--format", "{{.Names}}"]).ok(), "down");
        client(&host, &["ps", "--filter", "nonsense=1"]).fails(1, "nonsense");
    }
}

#[test]
fn inspect_is_the_same_document_through_both_clients() {
    let host = host();
    host.hull(&["run", "-d", "--name", "box", "-e", "A=b", "--memory", "64m", "busybox", "sleep", "1000"])
        .ok();
    // The shape of the document is its version's: the official client's may be older than ours.
    for name in ["box", "busybox"] {
        let ours = host.hull_at("1.50", &["inspect", name]);
        assert_eq!(ours.ok(), host.docker_at("1.50", &["inspect", name]).ok());
    }
    for client in CLIENTS {
        let format = "{{.Name}} {{.Config.Image}} {{.HostConfig.Memory}} {{json .Config.Cmd}} {{.State.Running}} {{len .Id}}";
        assert_eq!(
            client(&host, &["inspect", "-f", format, "box"]).ok(),
            "/box busybox 67108864 [\"sleep\",\"1000\"] true 64"
        );
        client(&host, &["inspect", "-f", "{{.NoSuchField}}", "box"])
            .fails(1, "map has no entry for key \"NoSuchField\"");
        client(&host, &["inspect", "-f", "{{", "box"]).fails(64, "template parsing error");
        let driver =
            client(&host, &["inspect", "-f", "{{.GraphDriver.Name}} {{.GraphDriver.Data.UpperDir}}", "box"])
                .ok()
                .to_owned();
        let upper = driver.strip_prefix("overlay2 ").expect("the storage driver's name");
        assert!(std::path::Path::new(upper).is_dir(), "{upper}");
    }
}

#[test]
fn version_and_info_tell_what_this_is() {
    let host = bare();
    for client in CLIENTS {
        let version = client(&host, &["version"]);
        assert!(version.ok().contains("Server:") && version.ok().contains("API version"), "{version}");
        assert_eq!(client(&host, &["version", "--format", "{{.Server.Os}}"]).ok(), "linux");
        let info = client(&host, &["info"]);
        assert!(
            info.ok().contains("Storage Driver: overlay2") && info.ok().contains("Cgroup Version: "),
            "{info}"
        );
        assert_eq!(
            client(&host, &["info", "--format", "{{.DockerRootDir}}"]).ok(),
            host.data_root().display().to_string()
        );
    }
}

#[test]
fn top_lists_the_processes_of_a_container() {
    let host = host();
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        let top = client(&host, &["top", "box"]);
        assert!(top.ok().contains("PID") && top.ok().contains("sleep 1000"), "{top}");
    }
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let mut host = bare();
    host.stop_daemon();
    for client in CLIENTS {
        client(&host, &["ps"]).fails(1, "Cannot connect to the Docker daemon at unix://");
        client(&host, &["run", "x"]).fails(125, "Cannot connect to the Docker daemon at unix://");
    }
}

#[test]
fn a_user_without_the_right_is_told_what_to_do() {
    let host = bare();
    let mut permissions = std::fs::metadata(host.folder()).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(host.folder(), permissions).unwrap();
    let socket = std::fs::metadata(host.socket()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777, 0o660);
    // The executable may lie where others cannot reach it.
    let copy = host.folder().join("hull");
    std::fs::copy(env!("CARGO_BIN_EXE_hull"), &copy).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["--host", &format!("unix://{}", host.socket().display()), "ps"])
        .env("HOME", "/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("permission denied while trying to connect") && text.contains("group"), "{text}");
}

#[test]
fn unknown_words_are_refused_as_the_reference_does() {
    let host = bare();
    for client in CLIENTS {
        let finished = client(&host, &["frobnicate"]);
        assert_eq!(finished.code, 1, "{finished}");
        assert!(finished.stderr.contains("frobnicate"), "{finished}");
        assert_ne!(client(&host, &["ps", "--frobnicate"]).code, 0);
        client(&host, &["stop"]).fails(1, "requires at least 1 argument");
        client(&host, &["rename", "a"]).fails(1, "requires 2 arguments");
    }
}
