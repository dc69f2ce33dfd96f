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

/// Two containers, one after the other, write and read what `volume` is, through both clients.
#[track_caller]
fn keeps(host: &Host, kind: &str, options: &[&str]) {
    for client in CLIENTS {
        let mut words = vec!["volume", "create"];
        words.extend(options.iter().flat_map(|option| ["-o", *option]));
        client(host, &[&words[..], &["disk"]].concat()).ok();
        run(host, "writes", "disk:/v");
        assert_eq!(mounted(host, "disk"), kind);
        let script =
            "echo kept >/v/f; mkdir -p /v/d; ln -sf f /v/l; chown 7:8 /v/f; chmod 640 /v/f; cat /v/l";
        assert_eq!(inside(host, "writes", script).ok(), "kept");
        host.hull(&["rm", "-f", "writes"]).ok();
        assert_eq!(mounted(host, "disk"), "");
        run(host, "reads", "disk:/v:ro");
        assert_eq!(inside(host, "reads", "cat /v/l; stat -c '%u:%g %a' /v/f").ok(), "kept\n7:8 640");
        inside(host, "reads", "rm /v/f").fails(1, "Read-only file system");
        host.hull(&["rm", "-f", "reads"]).ok();
        client(host, &["volume", "rm", "disk"]).ok();
    }
}

#[test]
#[ignore = "needs a kernel with btrfs, and its tools: cargo xtask vm volumes::"]
fn a_disk_with_btrfs_is_a_volume() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let image = host.folder().join("disk").display().to_string();
    host.printed(&["truncate", "-s", "256M", &image]);
    host.printed(&["mkfs.btrfs", "-q", &image]);
    let device = host.printed(&["losetup", "--find", "--show", &image]);
    keeps(&host, "btrfs", &["type=btrfs", &format!("device={device}")]);
    // A part of it, made by hand.
    let place = host.folder().join("by-hand");
    std::fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    host.printed(&["mount", "-t", "btrfs", &device, &place]);
    assert_eq!(host.printed(&["cat", &format!("{place}/f")]), "kept");
    host.printed(&["btrfs", "subvolume", "create", &format!("{place}/part")]);
    host.printed(&["umount", &place]);
    keeps(&host, "btrfs", &["type=btrfs", &format!("device={device}"), "o=subvol=part,noatime"]);
    host.printed(&["losetup", "--detach", &device]);
    before.returns(&host);
}

/// By the kernel's own server, in this machine's network namespace.
#[test]
#[ignore = "needs a kernel that serves NFS, and its tools: cargo xtask vm volumes::"]
fn a_folder_of_an_nfs_server_is_a_volume() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let served = host.folder().join("served").display().to_string();
    // The server's grace for clients of its last life would be ninety seconds.
    let script = format!(
        "mkdir -p {served} /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs && mount -t tmpfs served {served} && \
         mkdir {served}/sub && mount -t nfsd nfsd /proc/fs/nfsd && \
         echo 10 >/proc/fs/nfsd/nfsv4leasetime && echo 10 >/proc/fs/nfsd/nfsv4gracetime && \
         touch /var/lib/nfs/etab /var/lib/nfs/rmtab && \
         exportfs -o rw,no_root_squash,insecure,no_subtree_check,fsid=0 127.0.0.1:{served} && \
         rpc.mountd --no-nfs-version 3 && rpc.nfsd --no-nfs-version 3 2"
    );
    host.printed(&["sh", "-c", &script]);
    for device in [":/", ":/sub"] {
        keeps(&host, "nfs4", &["type=nfs", &format!("device={device}"), "o=addr=127.0.0.1,vers=4.2,rw"]);
    }
    assert_eq!(host.printed(&["cat", &format!("{served}/f"), &format!("{served}/sub/f")]), "kept\nkept");
    host.printed(&["rpc.nfsd", "0"]);
    host.printed(&["sh", "-c", "exportfs -au; umount /proc/fs/nfsd"]);
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
