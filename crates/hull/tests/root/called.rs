//! The executable under the reference's names: called `docker` it is the client, called `dockerd`
//! the daemon.

use std::path::PathBuf;

use hull_testkit::{Finished, Host, run};

use super::{bare, host};

/// The executable, linked under another name.
fn linked(host: &Host, name: &str) -> PathBuf {
    let link = host.folder().join(name);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hull"), &link).unwrap();
    link
}

#[test]
fn called_docker_it_is_the_client_of_that_name() {
    let host = host();
    let docker = linked(&host, "docker");
    let ours = |words: &[&str]| run(&mut host.client_command(&docker, words), b"");
    assert_eq!(ours(&["--version"]).ok(), format!("Hull version {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(ours(&["run", "--rm", "busybox", "echo", "said"]).ok(), "said");
    ours(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).ok();
    assert_eq!(ours(&["ps", "--format", "{{.Names}} {{.State}}"]).ok(), "stays running");
    assert_eq!(ours(&["run", "--rm", "busybox", "sh", "-c", "exit 17"]).code, 17);
    ours(&["run", "--name", "stays", "busybox", "true"]).fails(125, "docker: Error response from daemon: ");
    // What it calls itself, and how it ends, are the official client's to the letter.
    for words in [
        &["run", "--name", "stays", "busybox", "true"][..],
        &["run", "--rm", "busybox", "/etc/nothing"],
        &["run", "--rm", "busybox", "/etc"],
        &["run", "--nosuchflag", "busybox"],
        &["run", "BAD"],
        &["run", "--network", "name=bridge,colour=red", "busybox"],
        &["run", "--expose", "70000", "busybox"],
        &["run"],
        &["nosuchcommand"],
        &["rm", "nobody"],
        &["ps", "--nosuchflag"],
    ] {
        let told = |finished: Finished| (finished.code, finished.stdout, finished.stderr);
        assert_eq!(told(ours(words)), told(host.docker(words)), "docker {}", words.join(" "));
    }
}

#[test]
fn called_dockerd_it_is_the_daemon() {
    let mut host = host();
    assert_eq!(host.stop_daemon(), 0);
    let (docker, dockerd) = (linked(&host, "docker"), linked(&host, "dockerd"));
    assert!(run(host.inside(&dockerd).arg("--version"), b"").ok().contains(env!("CARGO_PKG_VERSION")));
    // Its runtime is looked for beside the executable that the link points to.
    let mut daemon = host.inside(&dockerd);
    daemon.arg("--data-root").arg(host.data_root()).arg("--exec-root").arg(host.exec_root());
    daemon.args(["-H", &format!("unix://{}", host.socket().display()), "--cgroup-parent", &host.cgroup]);
    daemon.arg("--config-file").arg(host.folder().join("daemon.json"));
    host.launch(&mut daemon);
    host.await_socket();
    let words = ["run", "--rm", "busybox", "echo", "through both names"];
    assert_eq!(run(&mut host.client_command(&docker, &words), b"").ok(), "through both names");
    assert_eq!(host.docker(&words).ok(), "through both names");
    assert_eq!(host.stop_daemon(), 0);
}

#[test]
fn dockerd_validates_a_file_and_starts_nothing() {
    let mut host = bare();
    host.stop_daemon();
    let dockerd = linked(&host, "dockerd");
    let file = host.folder().join("daemon.json");
    let elsewhere = host.folder().join("elsewhere");
    let validate = |host: &Host, text: String| {
        std::fs::write(&file, text).unwrap();
        run(host.inside(&dockerd).arg("--validate").arg("--config-file").arg(&file), b"")
    };
    let good = validate(&host, format!("{{\"debug\": true, \"data-root\": {elsewhere:?}}}"));
    assert_eq!((good.code, good.stdout + &good.stderr), (0, "configuration OK\n".to_owned()));
    for (text, complaint) in [
        ("{\"no-such-key\": 1}", "don't match any configuration option: no-such-key"),
        ("{\"debug\": \"yes\"}", "debug: \"yes\" is not true or false"),
        ("{\"debug\": true", "EOF"),
        ("{\"log-level\": \"loud\"}", "invalid value \"loud\" for log-level"),
    ] {
        let bad = validate(&host, text.to_owned());
        bad.fails(1, complaint);
        assert_eq!(bad.stderr.lines().count(), 1, "{bad}");
        assert!(!bad.stdout.contains("OK"), "{bad}");
    }
    let none = host.folder().join("none.json");
    for (words, complaint) in [
        (&["--config-file", none.to_str().unwrap()][..], "none.json: No such file or directory"),
        (&["--nosuchflag"], "--nosuchflag"),
        (&["nosuchword"], "nosuchword"),
    ] {
        run(host.inside(&dockerd).arg("--validate").args(words), b"").fails(1, complaint);
    }
    run(host.inside(&dockerd).args(["--log-level", "loud"]), b"").fails(1, "dockerd: invalid value \"loud\"");
    assert!(!elsewhere.exists(), "a validation made the data root");
}
