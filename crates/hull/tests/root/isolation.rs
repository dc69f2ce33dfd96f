//! What a container sees, and what it must not.

use super::{CLIENTS, host};

#[test]
fn a_container_sees_only_itself() {
    let host = host();
    let ps = host.hull(&["run", "--rm", "busybox", "ps"]);
    assert_eq!(ps.ok().lines().count(), 2, "one process and the heading: {ps}");
    assert_eq!(host.hull(&["run", "--rm", "busybox", "sh", "-c", "echo $$"]).ok(), "1");
    let mounts = host.hull(&["run", "--rm", "busybox", "cat", "/proc/self/mountinfo"]);
    assert!(
        !mounts.ok().contains("/ext4/") && mounts.ok().lines().next().unwrap_or_default().contains("overlay"),
        "{mounts}"
    );
}

#[test]
fn the_default_network_is_none_with_a_loopback_that_is_up() {
    let host = host();
    for client in CLIENTS {
        let finished = client(
            &host,
            &["run", "--rm", "--network", "none", "busybox", "sh", "-c", "ip addr; ping -c 1 -W 2 127.0.0.1"],
        );
        assert!(finished.ok().contains("LOOPBACK,UP"), "{finished}");
        assert!(!finished.stdout.contains("eth0"), "{finished}");
    }
}

#[test]
fn the_network_of_the_host_and_of_another_container_is_shared() {
    let host = host();
    let own =
        std::fs::read_link(format!("/proc/{}/ns/net", host.holder_pid())).unwrap().display().to_string();
    host.hull(&["run", "-d", "--name", "first", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        let read = ["busybox", "readlink", "/proc/self/ns/net"];
        assert_eq!(client(&host, &[&["run", "--rm", "--network", "host"][..], &read[..]].concat()).ok(), own);
        let first = client(&host, &["exec", "first", "readlink", "/proc/1/ns/net"]).ok().to_owned();
        assert_ne!(first, own);
        assert_eq!(
            client(&host, &[&["run", "--rm", "--network", "container:first"][..], &read[..]].concat()).ok(),
            first
        );
        client(&host, &["run", "--rm", "--network", "container:ghost", "busybox", "true"])
            .fails(125, "No such container: ghost");
    }
}

#[test]
fn default_capabilities_seccomp_and_privileges() {
    let host = host();
    let status = |words: &[&str], key: &str| {
        let grep = format!("grep ^{key}: /proc/self/status");
        let finished =
            host.docker(&[&["run", "--rm"][..], words, &["busybox", "sh", "-c", &grep][..]].concat());
        finished.ok().rsplit('\t').next().unwrap_or_default().to_owned()
    };
    assert_eq!(status(&[], "CapEff"), "00000000a80425fb");
    assert_eq!(status(&[], "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&[], "CapInh"), "0000000000000000");
    assert_eq!(status(&[], "CapAmb"), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL"], "CapEff"), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], "CapEff"), "0000000000001000");
    assert_eq!(status(&["-u", "1000"], "CapEff"), "0000000000000000");
    assert_eq!(status(&[], "Seccomp"), "2");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    assert_eq!(status(&["--privileged"], "Seccomp"), "0");
    assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    assert_eq!(status(&[], "NoNewPrivs"), "0");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned();
    assert_eq!(status(&["--privileged"], "CapEff"), bounding, "privileged is all that this host can give");
}

#[test]
fn masked_and_read_only_paths_hold() {
    let host = host();
    let script = "cat /proc/kcore | head -c 1 | wc -c; ls /proc/acpi /sys/firmware 2>/dev/null | grep -vc :; \
                  echo x > /proc/sys/kernel/hostname; mount -t tmpfs none /mnt; mknod /dev/sdz b 8 0 && echo made";
    let finished = host.hull(&["run", "--rm", "busybox", "sh", "-c", script]);
    assert!(finished.stdout.starts_with("0\n"), "{finished}");
    assert!(
        finished.stderr.contains("Read-only file system") || finished.stderr.contains("read-only"),
        "{finished}"
    );
    assert!(finished.stderr.contains("permitted") || finished.stderr.contains("denied"), "{finished}");
    let finished = host.hull(&["run", "--rm", "busybox", "sh", "-c", "mknod /dev/x b 8 0 && cat /dev/x"]);
    assert_ne!(finished.code, 0, "a disk of the host could be read: {finished}");
}

#[test]
fn a_read_only_root_with_a_tmpfs() {
    let host = host();
    for client in CLIENTS {
        let finished = client(&host, &["run", "--rm", "--read-only", "busybox", "touch", "/x"]);
        assert!(finished.code == 1 && finished.stderr.contains("Read-only file system"), "{finished}");
        let words = ["run", "--rm", "--read-only", "--tmpfs", "/scratch:size=1m,mode=700", "busybox"];
        let script = ["sh", "-c", "touch /scratch/x && grep ' /scratch ' /proc/mounts"];
        let finished = client(&host, &[&words[..], &script[..]].concat());
        assert!(finished.ok().contains("size=1024k,mode=700"), "{finished}");
    }
}

#[test]
fn binds_show_the_host_and_read_only_ones_refuse() {
    let host = host();
    let shared = host.folder().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    let bind = format!("{}:/shared", shared.display());
    for client in CLIENTS {
        assert_eq!(
            client(&host, &["run", "--rm", "-v", &bind, "busybox", "cat", "/shared/file"]).ok(),
            "from the host"
        );
        client(&host, &["run", "--rm", "-v", &bind, "busybox", "touch", "/shared/made"]).ok();
        std::fs::remove_file(shared.join("made")).unwrap();
        let read_only = format!("{bind}:ro");
        let finished = client(&host, &["run", "--rm", "-v", &read_only, "busybox", "touch", "/shared/made"]);
        assert!(finished.stderr.contains("Read-only file system"), "{finished}");
        let missing = format!("type=bind,source={}/nowhere,target=/x", host.folder().display());
        client(&host, &["run", "--rm", "--mount", &missing, "busybox", "true"])
            .fails(125, "bind source path does not exist");
        client(&host, &["run", "--rm", "-v", "relative/path:/x", "busybox", "true"])
            .fails(125, "relative/path");
    }
}

#[test]
fn nothing_leaks_into_the_mount_table_of_the_host() {
    let host = host();
    let table = || std::fs::read_to_string(format!("/proc/{}/mountinfo", host.holder_pid())).unwrap();
    let before = table();
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    assert_eq!(table(), before);
}

#[test]
fn no_descriptor_of_the_engine_reaches_a_container() {
    let host = host();
    let finished = host.hull(&["run", "--rm", "busybox", "sh", "-c", "ls /proc/1/fd; true"]);
    assert_eq!(finished.ok(), "0\n1\n2", "{finished}");
    for number in 3..40 {
        let directory = format!("/proc/self/fd/{number}");
        let finished = host.hull(&["run", "--rm", "-w", &directory, "busybox", "pwd"]);
        assert_ne!(finished.code, 0, "{finished}");
    }
}

#[test]
fn what_is_mounted_below_a_read_only_bind_is_read_only_too() {
    let host = host();
    let shared = host.folder().join("shared");
    std::fs::create_dir_all(shared.join("below")).unwrap();
    let below = shared.join("below");
    let mounted = host.inside("mount").args(["-t", "tmpfs", "none"]).arg(&below).status().unwrap();
    assert!(mounted.success(), "cannot mount on the machine");
    let bind = format!("{}:/shared:ro", shared.display());
    let long = format!("type=bind,source={},target=/shared,readonly", shared.display());
    fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["run", "--rm"][..], more, &["busybox", "touch", "/shared/below/made"]].concat()
    }
    for client in CLIENTS {
        for words in [["-v", &bind], ["--mount", &long]] {
            let finished = client(&host, &run(&words));
            assert!(finished.stderr.contains("Read-only file system"), "{finished}");
        }
        client(&host, &run(&["--mount", &format!("{long},bind-recursive=writable")])).ok();
        let forced = format!("{long},bind-recursive=readonly,bind-propagation=rprivate");
        let finished = client(&host, &run(&["--mount", &forced]));
        assert!(finished.stderr.contains("Read-only file system"), "{finished}");
    }
    // Before 1.44 it was the top alone.
    host.docker_at("1.43", &run(&["-v", &bind])).ok();
}

#[test]
fn who_shares_anothers_ipc_shares_its_memory() {
    let host = host();
    host.hull(&["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"]).ok();
    host.hull(&["exec", "donor", "sh", "-c", "echo from donor > /dev/shm/word"]).ok();
    host.hull(&["run", "-d", "--name", "closed", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        let join = ["run", "--rm", "--ipc", "container:donor", "busybox", "sh", "-c"];
        let script = "cat /dev/shm/word; readlink /proc/self/ns/ipc; grep -c ' /dev/shm ' /proc/mounts; echo back > /dev/shm/answer";
        let joined = client(&host, &[&join[..], &[script]].concat()).ok().to_owned();
        let own = host.hull(&[
            "exec",
            "donor",
            "sh",
            "-c",
            "cat /dev/shm/word; readlink /proc/self/ns/ipc; echo 1",
        ]);
        assert_eq!(joined, own.ok());
        assert_eq!(host.hull(&["exec", "donor", "cat", "/dev/shm/answer"]).ok(), "back");
        host.hull(&["exec", "donor", "rm", "/dev/shm/answer"]).ok();
        client(&host, &["run", "--rm", "--ipc", "container:closed", "busybox", "true"])
            .fails(125, "non-shareable IPC (hint: use IpcMode:shareable for the donor container)");
    }
}

#[test]
fn dev_core_leads_to_the_kernels_core_where_there_is_one() {
    let host = host();
    let there = std::path::Path::new("/proc/kcore").exists();
    let finished = host.hull(&["run", "--rm", "busybox", "readlink", "/dev/core"]);
    assert_eq!(finished.stdout.trim_end(), if there { "/proc/kcore" } else { "" }, "{finished}");
}
