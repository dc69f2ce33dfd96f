//! Volumes that are file systems of their own, by what containers and the host see of them.

use hull_testkit::{Baseline, Host};

use crate::{CLIENTS, host};

/// The file system that is mounted at a volume's folder on the host; nothing: none.
fn mounted(host: &Host, name: &str) -> String {
    let place = format!("/volumes/{name}/_data ");
    let table = host.printed(&["cat", "/proc/mounts"]);
    let line = table.lines().find(|line| line.contains(&place)).unwrap_or_default().to_owned();
    line.split(' ').nth(2).unwrap_or_default().to_owned()
}

fn run(host: &Host, name: &str, volume: &str) {
    let words =
        ["run", "-d", "--name", name, "--stop-signal", "KILL", "-v", volume, "busybox", "sleep", "1000"];
    host.hull(&words).ok();
}

fn inside(host: &Host, name: &str, script: &str) -> hull_testkit::Finished {
    host.hull(&["exec", name, "sh", "-c", script])
}

#[test]
fn a_file_system_is_mounted_while_containers_that_run_have_it() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    for client in CLIENTS {
        let words = [
            "volume",
            "create",
            "-o",
            "type=tmpfs",
            "-o",
            "device=tmpfs",
            "-o",
            "o=size=1m,mode=1777,nosuid",
            "ram",
        ];
        client(&host, &words).ok();
        let shown = client(&host, &["volume", "inspect", "-f", "{{json .Options}}", "ram"]);
        assert_eq!(shown.ok(), r#"{"device":"tmpfs","o":"size=1m,mode=1777,nosuid","type":"tmpfs"}"#);
        assert_eq!(mounted(&host, "ram"), "", "nobody has it yet");
        run(&host, "one", "ram:/r");
        run(&host, "two", "ram:/r:ro");
        assert_eq!(mounted(&host, "ram"), "tmpfs");
        assert_eq!(
            inside(&host, "one", "df -k /r | tail -1 | awk '{print $2}'; stat -c %a /r; echo x >/r/f").ok(),
            "1024\n1777"
        );
        assert_eq!(inside(&host, "two", "cat /r/f").ok(), "x");
        inside(&host, "two", "echo y >/r/f").fails(1, "Read-only file system");
        inside(&host, "one", "dd if=/dev/zero of=/r/big bs=1M count=2").fails(1, "No space left on device");
        assert_eq!(
            std::fs::read_to_string(host.data_root().join("volumes/ram/_data/f")).ok(),
            None,
            "of another namespace"
        );
        assert_eq!(
            host.printed(&["cat", host.data_root().join("volumes/ram/_data/f").to_str().unwrap()]),
            "x"
        );
        client(&host, &["volume", "rm", "ram"]).fails(1, "remove ram: volume is in use - [");
        host.hull(&["stop", "one"]).ok();
        assert_eq!(mounted(&host, "ram"), "tmpfs", "the other has it still");
        host.hull(&["stop", "two"]).ok();
        assert_eq!(mounted(&host, "ram"), "");
        host.hull(&["start", "two"]).ok();
        assert_eq!(inside(&host, "two", "ls /r").ok(), "", "what was in memory is gone");
        host.hull(&["rm", "-f", "one", "two"]).ok();
        client(&host, &["volume", "rm", "ram"]).ok();
    }
    before.returns(&host);
}

#[test]
fn a_folder_of_the_host_is_bound_as_its_options_say() {
    let host = host();
    let folder = host.folder().join("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("f"), "x").unwrap();
    let device = format!("device={}", folder.display());
    for (name, o) in [("plain", "bind"), ("fixed", "bind,ro,noexec")] {
        host.docker(&["volume", "create", "-o", "type=none", "-o", &device, "-o", &format!("o={o}"), name])
            .ok();
    }
    run(&host, "one", "plain:/v");
    assert_eq!(inside(&host, "one", "cat /v/f; echo y >/v/g").ok(), "x");
    assert_eq!(std::fs::read_to_string(folder.join("g")).unwrap(), "y\n");
    run(&host, "two", "fixed:/v");
    inside(&host, "two", "echo z >/v/f").fails(1, "Read-only file system");
    // A copy into one that does not run gets there, too.
    host.hull(&["stop", "one"]).ok();
    let copied = folder.join("f");
    host.docker(&["cp", copied.to_str().unwrap(), "one:/v/copied"]).ok();
    assert_eq!(
        (std::fs::read_to_string(folder.join("copied")).unwrap().as_str(), mounted(&host, "plain").as_str()),
        ("x", "")
    );
    std::fs::remove_file(folder.join("copied")).unwrap();
    host.hull(&["rm", "-f", "one", "two"]).ok();
    host.hull(&["volume", "rm", "plain", "fixed"]).ok();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "what is bound is not the volume's own");
}

#[test]
fn what_cannot_be_mounted_says_so_and_leaves_nothing() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let data = |name: &str| host.data_root().join("volumes").join(name).join("_data").display().to_string();
    for (kind, device, o, doing, reason) in [
        ("nosuchfs", "dev", "", "mount dev:{}", "no such device"),
        (
            "none",
            "/nosuch/folder",
            "bind",
            "mount /nosuch/folder:{}, flags: 0x1000",
            "no such file or directory",
        ),
        ("tmpfs", "tmpfs", "size=lots", "mount tmpfs:{}, data: size=lots", "invalid argument"),
        (
            "nfs",
            ":/x",
            "addr=no.such.host.invalid",
            "mount :/x:{}, data: addr=no.such.host.invalid",
            "resolve no.such.host.invalid",
        ),
    ] {
        for client in CLIENTS {
            let options = [format!("type={kind}"), format!("device={device}"), format!("o={o}")];
            let [kind, device, o] = &options;
            client(&host, &["volume", "create", "-o", kind, "-o", device, "-o", o, "odd"]).ok();
            let refused = client(&host, &["run", "--name", "box", "-v", "odd:/v", "busybox", "true"]);
            let place = data("odd");
            let text = format!(
                "error while mounting volume '{place}': failed to mount local volume: {}: {reason}",
                doing.replace("{}", &place)
            );
            // As the official client does it: by the words of the error.
            let code = if reason == "no such file or directory" { 127 } else { 125 };
            refused.fails(code, &text);
            client(&host, &["rm", "-f", "box"]);
            client(&host, &["volume", "rm", "odd"]).ok();
        }
    }
    before.returns(&host);
}

#[test]
fn what_the_last_daemon_has_mounted_stays_for_who_lives_and_goes_with_who_died() {
    let mut host = host();
    for name in ["kept", "left"] {
        host.hull(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", name]).ok();
    }
    run(&host, "lives", "kept:/v");
    run(&host, "dies", "left:/v");
    inside(&host, "lives", "echo x >/v/f").ok();
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "dies"]).ok().parse().unwrap();
    host.kill_daemon();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    host.start_daemon();
    assert_eq!([mounted(&host, "kept"), mounted(&host, "left")], ["tmpfs", ""]);
    assert_eq!(inside(&host, "lives", "cat /v/f").ok(), "x");
    // Whoever of the host looks into it does not hold it.
    let folder = host.data_root().join("volumes/kept/_data");
    let mut in_it = host
        .inside("busybox")
        .args(["sh", "-c", &format!("cd {} && exec sleep 1000", folder.display())])
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while std::fs::read_link(format!("/proc/{}/cwd", in_it.id())).ok().as_ref() != Some(&folder) {
        assert!(start.elapsed() < hull_testkit::patience(20), "nobody looks into it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    host.hull(&["stop", "lives"]).ok();
    assert_eq!(mounted(&host, "kept"), "");
    in_it.kill().unwrap();
    in_it.wait().unwrap();
    host.hull(&["rm", "lives", "dies"]).ok();
    host.hull(&["volume", "rm", "kept", "left"]).ok();
}

/// A server that is gone keeps no daemon from starting.
#[test]
fn a_daemon_that_starts_looks_into_no_file_system_of_a_volume() {
    let mut host = host();
    let folder = host.folder().join("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("f"), "x").unwrap();
    let device = format!("device={}", folder.display());
    host.hull(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "site"]).ok();
    run(&host, "one", "site:/v");
    let interrupted = folder.join(".hull-begun");
    std::fs::create_dir(&interrupted).unwrap();
    host.kill_daemon();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mark = serde_json::json!({"copy": ".hull-begun", "beside": false, "subpath": "", "layers": [],
        "path": "/v", "boot": boot.trim()});
    std::fs::write(host.data_root().join("volumes/site/filling"), mark.to_string()).unwrap();
    host.start_daemon();
    assert_eq!(inside(&host, "one", "cat /v/f").ok(), "x");
    assert!(interrupted.exists());
    // Whoever is made with it does.
    host.hull(&["create", "--name", "two", "-v", "site:/v", "busybox", "true"]).ok();
    assert!(!interrupted.exists());
    host.hull(&["rm", "-f", "one", "two"]).ok();
    host.hull(&["volume", "rm", "site"]).ok();
}

#[test]
fn who_has_a_volume_is_told_of() {
    let host = host();
    let id = host.hull(&["create", "--name", "box", "-v", "data:/v:ro", "busybox", "true"]).ok().to_owned();
    host.hull(&["start", "-a", "box"]).ok();
    host.hull(&["rm", "box"]).ok();
    host.hull(&["volume", "rm", "data"]).ok();
    let until = host.hull(&["info", "--format", "{{.SystemTime}}"]).ok().to_owned();
    for client in CLIENTS {
        let words = [
            "events",
            "--since",
            "1h",
            "--until",
            &until,
            "--filter",
            "volume=data",
            "--format",
            "{{json .Actor.Attributes}} {{.Action}}",
        ];
        let said = client(&host, &words);
        let mount = format!(
            r#"{{"container":"{id}","destination":"/v","driver":"local","propagation":"","read/write":"false"}} mount"#
        );
        let unmount = format!(r#"{{"container":"{id}","driver":"local"}} unmount"#);
        let local = r#"{"driver":"local"}"#;
        assert_eq!(said.ok(), format!("{local} create\n{mount}\n{unmount}\n{local} destroy"));
    }
}
