//! exec: another process in the same namespaces.

use super::{CLIENTS, host};

#[test]
fn exec_joins_every_namespace_of_the_container() {
    let host = host();
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/$$/ns/$n; done";
        let inside = client(&host, &["exec", "box", "sh", "-c", script]).ok().to_owned();
        let first = client(&host, &["exec", "box", "sh", "-c", &script.replace("$$", "1")]).ok().to_owned();
        assert_eq!(inside, first, "the exec'd process and pid 1 share all namespaces");
        let pid = client(&host, &["inspect", "-f", "{{.State.Pid}}", "box"]).ok().to_owned();
        for (line, kind) in inside.lines().zip(["cgroup", "ipc", "mnt", "net", "pid", "uts"]) {
            let link =
                |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap().display().to_string();
            assert_eq!(link(&pid), line, "{kind} as seen from the host");
            assert_ne!(link("self"), line, "{kind} is the host's own");
        }
    }
}

#[test]
fn exec_codes_streams_user_directory_and_environment() {
    let host = host();
    host.hull(&["run", "-d", "--name", "box", "-e", "FROM=create", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        assert_eq!(client(&host, &["exec", "box", "sh", "-c", "echo e >&2; exit 9"]).code, 9);
        let words = [
            "exec",
            "-u",
            "7:8",
            "-w",
            "/tmp",
            "-e",
            "X=y",
            "box",
            "sh",
            "-c",
            "echo $(id -u):$(id -g) $PWD $X $FROM",
        ];
        assert_eq!(client(&host, &words).ok(), "7:8 /tmp y create");
        assert_eq!(client(&host, &["exec", "box", "nosuch"]).code, 127);
        assert_eq!(client(&host, &["exec", "box", "/etc/passwd"]).code, 126);
        client(&host, &["exec", "-u", "nosuch", "box", "id"]).fails(1, "unable to find user nosuch");
        let nowhere = client(&host, &["exec", "-w", "/nosuch", "box", "pwd"]);
        let why = "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd \
                   (\"/nosuch\") set in config.json failed: no such file or directory";
        assert_eq!((nowhere.code, nowhere.stdout.trim()), (127, why));
        // What has ended is not listed.
        assert_eq!(client(&host, &["inspect", "-f", "{{json .ExecIDs}}", "box"]).ok(), "null");
        client(&host, &["exec", "-d", "box", "touch", "/made"]).ok();
    }
    assert_eq!(host.docker_with_input(&["exec", "-i", "box", "cat"], b"to cat").ok(), "to cat");
    assert_eq!(host.hull_with_input(&["exec", "-i", "box", "cat"], b"to cat").ok(), "to cat");
    let mut terminal = host.hull_on_terminal(&["exec", "-it", "box", "sh"]);
    terminal.expect("#");
    terminal.type_in("tty; exit 4\r");
    let (code, screen) = terminal.finish();
    assert_eq!(code, 4, "{screen}");
    assert!(screen.contains("/dev/pts/"), "{screen}");
    host.hull(&["stop", "-t", "0", "box"]).ok();
    for client in CLIENTS {
        client(&host, &["exec", "box", "true"]).fails(1, "is not running");
    }
}

#[test]
fn exec_sees_what_links_tell() {
    let host = host();
    for client in CLIENTS {
        let words = ["--expose", "80", "--expose", "53/udp", "-e", "WORD=secret", "busybox", "sleep", "1000"];
        client(&host, &[&["run", "-d", "--name", "db"], &words[..]].concat()).ok();
        let words = ["--link", "db:my-store", "-e", "MY_STORE_ENV_WORD=own", "busybox", "sleep", "1000"];
        client(&host, &[&["run", "-d", "--name", "app"], &words[..]].concat()).ok();
        let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
        let address = client(&host, &["inspect", "-f", format, "db"]).ok().to_owned();
        let environment = client(&host, &["exec", "app", "env"]).ok().to_owned();
        let told: Vec<&str> = environment.lines().filter(|line| line.starts_with("MY_STORE")).collect();
        let mut expected = vec![
            format!("MY_STORE_PORT=udp://{address}:53"),
            "MY_STORE_NAME=/app/my-store".to_owned(),
            // The container's own have the last word.
            "MY_STORE_ENV_WORD=own".to_owned(),
        ];
        for (port, protocol) in [(53, "udp"), (80, "tcp")] {
            let one = format!("MY_STORE_PORT_{port}_{}", protocol.to_uppercase());
            expected.push(format!("{one}={protocol}://{address}:{port}"));
            expected.push(format!("{one}_ADDR={address}"));
            expected.push(format!("{one}_PORT={port}"));
            expected.push(format!("{one}_PROTO={protocol}"));
        }
        assert!(expected.iter().all(|line| told.contains(&line.as_str())), "{expected:?}, not {told:?}");
        assert_eq!(told.len(), expected.len(), "{told:?}");
        // The same as the container's own program has.
        let first = client(&host, &["exec", "app", "cat", "/proc/1/environ"]).ok().replace('\0', "\n");
        assert!(expected.iter().all(|line| first.lines().any(|own| own == line)), "{first}");
        // What has ended tells nothing, and is in nobody's way.
        client(&host, &["stop", "-t", "0", "db"]).ok();
        let told = client(&host, &["exec", "app", "env"]).ok().to_owned();
        assert!(!told.contains("MY_STORE_PORT") && told.contains("MY_STORE_ENV_WORD=own"), "{told}");
        client(&host, &["restart", "-t", "0", "app"])
            .fails(1, "Cannot link to a non running container: /db AS /app/my-store");
        client(&host, &["rm", "-f", "app", "db"]).ok();
    }
}

/// Regression: the shim ended the stream before the daemon knew the code, and a client that asked for
/// it at once was told that the exec still runs: it took that for 0.
#[test]
fn the_code_is_known_when_the_stream_ends() {
    let host = host();
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for round in 0..40 {
        let client = CLIENTS[round % 2];
        let ended = client(&host, &["exec", "box", "sh", "-c", "echo e >&2; exit 3"]);
        assert_eq!(ended.code, 3, "round {round}: {ended}");
    }
}
