//! Whose users a container's are: `--userns`, `--userns-remap`, and what of the host they are then.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use hull_testkit::{Host, Options};

use super::{CLIENTS, executables, host};

/// As crates/engine/src/users draws it.
const FIRST: u32 = 0x7000_0000;
const BLOCK: u32 = 65_536;

fn remapped(how: &str) -> Host {
    let daemon = vec![format!("--userns-remap={how}")];
    let host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    host
}

/// Real uid and gid of a container's first process, as the host has them.
#[track_caller]
fn outside(host: &Host, name: &str) -> (u32, u32) {
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", name]).ok().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let id = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (id("Uid:"), id("Gid:"))
}

fn upper(host: &Host, name: &str) -> PathBuf {
    host.hull(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", name]).ok().into()
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// Runs a container of one's own with `--userns=auto` and the network that everybody has.
#[track_caller]
fn auto(host: &Host, name: &str, more: &[&str]) {
    let words = ["run", "-d", "--name", name, "--userns=auto"];
    host.hull(&[&words[..], more, &["busybox", "sleep", "1000"]].concat()).ok();
}

#[test]
fn root_inside_is_an_ordinary_user_outside_and_nobody_elses() {
    let host = host();
    auto(&host, "one", &[]);
    auto(&host, "two", &["-u", "1000:1001"]);
    let (one, two) = (outside(&host, "one"), outside(&host, "two"));
    assert_eq!(one, (FIRST + BLOCK, FIRST + BLOCK));
    assert_eq!(two, (FIRST + 2 * BLOCK + 1000, FIRST + 2 * BLOCK + 1001));
    for client in CLIENTS {
        assert_eq!(client(&host, &["exec", "one", "id", "-u"]).ok(), "0");
        let map = client(&host, &["exec", "one", "cat", "/proc/self/uid_map"]);
        let numbers: Vec<_> = map.ok().split_whitespace().collect();
        assert_eq!(numbers, ["0", &*(FIRST + BLOCK).to_string(), "65536"]);
        assert_eq!(client(&host, &["exec", "two", "id", "-u"]).ok(), "1000");
        let mode = client(&host, &["inspect", "-f", "{{.HostConfig.UsernsMode}}", "one"]);
        assert_eq!(mode.ok(), "auto");
    }
    // What it writes has its own ids on disk, and the layers are as they were.
    let write = "echo > /made; chown 7:8 /made; gone=$(which wc); rm $gone; echo $gone";
    let gone = host.hull(&["exec", "one", "sh", "-c", write]).ok().to_owned();
    let upper = upper(&host, "one");
    assert_eq!((owner(&upper), owner(&upper.join("made"))), ((0, 0), (7, 8)));
    assert_eq!(owner(&upper.join(gone.trim_start_matches('/'))), (0, 0));
    // A range is kept as long as its container, and given to others afterwards.
    host.hull(&["restart", "-t", "0", "one"]).ok();
    assert_eq!(outside(&host, "one"), one);
    host.hull(&["rm", "-f", "one"]).ok();
    auto(&host, "three", &[]);
    assert_eq!(outside(&host, "three"), one);
}

#[test]
fn a_container_with_users_of_its_own_misses_nothing() {
    let host = host();
    auto(&host, "peer", &["-p", "127.0.0.1:0:80", "--cap-add", "NET_ADMIN"]);
    let script = "set -e; ping -c 1 -W 2 peer-ip >/dev/null; ip addr add 10.1.1.1/32 dev lo; \
                  echo '10.9.8.7 name' >> /etc/hosts; echo new > /etc/hostname; touch /dev/shm/x /dev/mqueue; \
                  echo x > /dev/null; echo > /dev/tty 2>/dev/null || true; test -e /dev/pts/ptmx; \
                  cat /proc/sys/net/ipv4/ping_group_range | { read a b; echo $a $b; }; \
                  chown 5:6 /tmp && stat -c %u:%g /tmp /etc/hosts /proc/1 /sys/kernel; \
                  grep -c . /proc/self/cgroup >/dev/null; echo done";
    let address = host
        .hull(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "peer"])
        .ok()
        .to_owned();
    let script = script.replace("peer-ip", &address);
    let words = ["run", "--rm", "--userns=auto", "--cap-add", "NET_ADMIN", "--sysctl", "kernel.shmmax=12345"];
    let out = host.hull(&[&words[..], &["busybox", "sh", "-c", &script]].concat());
    assert_eq!(out.ok(), "0 65535\n5:6\n0:0\n0:0\n65534:65534\ndone");
    // A published port is reached, and a port below 1024 is any user's.
    let port = host.hull(&["port", "peer", "80"]).ok().rsplit(':').next().unwrap().to_owned();
    let serve = "while true; do echo served | nc -l -p 80; done";
    host.hull(&["exec", "-d", "-u", "1000", "peer", "sh", "-c", serve]).ok();
    let asked = format!(
        "for i in $(seq 100); do busybox nc -w 2 127.0.0.1 {port} </dev/null | grep served && exit; sleep 0.1; done; exit 1"
    );
    assert_eq!(host.printed(&["sh", "-c", &asked]), "served");
    // Without a network, and with that of another of the same users.
    let out =
        host.hull(&["run", "--rm", "--userns=auto", "--network=none", "busybox", "ls", "/sys/class/net"]);
    assert_eq!(out.ok(), "lo");
    let words = ["run", "--rm", "--userns=auto", "--network=container:peer", "--ipc=private", "busybox"];
    let out = host.hull(&[&words[..], &["sh", "-c", "ls /sys/class/net; cat /proc/self/uid_map"]].concat());
    let first = (FIRST + BLOCK).to_string();
    assert!(out.ok().starts_with("eth0\nlo\n") && out.stdout.contains(&first), "{out}");
    host.hull(&["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]).ok();
    host.hull(&["run", "--rm", "--userns=auto", "--network=container:plain", "busybox", "true"])
        .fails(125, "cannot share the network namespace of container");
}

#[test]
fn ranges_outlive_a_killed_daemon_and_meet_none_of_subuid() {
    let resolv_conf = Some(String::new());
    let mut host = Host::start(executables(), Options { resolv_conf, ..Options::default() });
    host.busybox();
    auto(&host, "one", &["--network=none"]);
    host.kill_daemon();
    host.start_daemon();
    let taken = format!("echo somebody:{}:1 > /etc/subgid", FIRST + 2 * BLOCK + 9);
    host.printed(&["sh", "-c", &taken]);
    auto(&host, "two", &["--network=none"]);
    assert_eq!(outside(&host, "one").0, FIRST + BLOCK);
    assert_eq!(outside(&host, "two").0, FIRST + 3 * BLOCK);
}

#[test]
fn binds_go_on_working_with_idmap() {
    let host = host();
    let shared = host.folder().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("of-1000"), "").unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o755)).unwrap();
    chown(shared.join("of-1000"), Some(1000), Some(1000)).unwrap();
    let (plain, mapped) =
        (format!("{}:/plain", shared.display()), format!("{}:/mapped:idmap", shared.display()));
    let script = "stat -c %u /plain/of-1000 /mapped/of-1000; touch /plain/x 2>/dev/null || echo no; touch /mapped/made";
    let words = ["run", "--rm", "-v", &plain, "-v", &mapped];
    let run = ["busybox", "sh", "-c", script];
    let out = host.hull(&[&words[..], &["--userns=auto"], &run].concat());
    assert_eq!(out.ok(), "65534\n1000\nno");
    assert_eq!(owner(&shared.join("made")), (0, 0));
    let long = format!("type=bind,src={},dst=/mapped,idmap", shared.display());
    let words_long = ["run", "--rm", "--userns=auto", "--mount", &long];
    let out = host.hull(&[&words_long[..], &["busybox", "stat", "-c", "%u", "/mapped/of-1000"]].concat());
    assert_eq!(out.ok(), "1000");
    // With the host's users there is nothing to map.
    for client in CLIENTS {
        let out = client(&host, &[&words[..], &["--userns=host"], &run].concat());
        assert_eq!(out.ok(), "1000\n1000");
        std::fs::remove_file(shared.join("x")).unwrap();
    }
    let words = ["run", "--rm", "--userns=auto", "-v", "/proc/self:/x:idmap", "busybox", "true"];
    host.hull(&words).fails(125, "the file system of /proc/self cannot map user ids");
}

#[test]
fn a_daemon_that_remaps_gives_all_containers_its_users() {
    let host = remapped("default");
    for (client, name) in CLIENTS.into_iter().zip(["first", "second"]) {
        client(&host, &["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok();
        assert_eq!(outside(&host, name), (FIRST, FIRST));
        assert_eq!(client(&host, &["exec", name, "id", "-u"]).ok(), "0");
        assert!(client(&host, &["info"]).ok().contains("\n  userns\n"));
        let id = client(&host, &["run", "-d", "--userns=host", "busybox", "sleep", "1000"]).ok().to_owned();
        assert_eq!(outside(&host, &id), (0, 0));
        let run = |words: &[&str]| client(&host, &[&["run", "--rm"], words, &["busybox", "true"]].concat());
        run(&["--privileged"]).fails(
            125,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace \
             when running privileged mode",
        );
        run(&["--network=host"])
            .fails(125, "cannot share the host's network namespace when user namespaces are enabled");
        run(&["--pid=host"])
            .fails(125, "cannot share the host PID namespace when user namespaces are enabled");
        run(&["--privileged", "--userns=host", "--network=host", "--pid=host"]).ok();
        run(&["--userns=nobody"]).fails(125, "--userns: invalid USER mode");
        // Containers that share namespaces share the user namespace that those belong to.
        let words = ["--network", &format!("container:{name}"), "--ipc=private"];
        let out = client(
            &host,
            &[&["run", "--rm"], &words[..], &["busybox", "readlink", "/proc/self/ns/user"]].concat(),
        );
        assert_eq!(out.ok(), client(&host, &["exec", name, "readlink", "/proc/self/ns/user"]).ok());
    }
}

#[test]
fn a_daemon_can_give_every_container_users_of_its_own() {
    let host = remapped("auto");
    host.docker(&["run", "-d", "--name", "first", "busybox", "sleep", "1000"]).ok();
    host.docker(&["run", "-d", "--name", "second", "busybox", "sleep", "1000"]).ok();
    assert_eq!((outside(&host, "first").0, outside(&host, "second").0), (FIRST + BLOCK, FIRST + 2 * BLOCK));
}

#[test]
fn what_a_mapped_container_changed_has_its_own_ids_everywhere() {
    let host = host();
    auto(&host, "one", &["--network=none"]);
    let write = "mkdir /made; echo inside > /made/file; chown -R 7:8 /made; rm $(which wc)";
    host.hull(&["exec", "one", "sh", "-c", write]).ok();
    let stat = ["stat", "-c", "%u:%g", "/made/file", "/bin"];
    for (client, image) in CLIENTS.into_iter().zip(["by-hull", "by-docker"]) {
        assert!(client(&host, &["diff", "one"]).ok().contains("A /made/file"));
        client(&host, &["commit", "one", image]).ok();
        for userns in ["--userns=host", "--userns=auto"] {
            let run = host.hull(&[&["run", "--rm", userns, image], &stat[..]].concat());
            assert_eq!(run.ok(), "7:8\n0:0", "{image} {userns}");
            host.hull(&["run", "--rm", userns, image, "wc"]).fails(127, "wc");
        }
    }
}

#[test]
fn files_are_copied_with_the_ids_of_the_container() {
    let host = host();
    auto(&host, "one", &["--network=none"]);
    let write = "mkdir /made; echo inside > /made/file; chown -R 7:8 /made";
    host.hull(&["exec", "one", "sh", "-c", write]).ok();
    let file = host.folder().join("given");
    std::fs::write(&file, "from outside").unwrap();
    let upper = upper(&host, "one");
    for state in ["running", "exited"] {
        for (client, name) in CLIENTS.into_iter().zip(["by-hull", "by-docker"]) {
            let archive = client(&host, &["cp", "one:/made/file", "-"]);
            assert_eq!(archive.code, 0, "{state}: {archive}");
            // uid and gid as a header of ustar has them, octal.
            assert!(archive.stdout.contains("0000007\x000000010\x00"), "{state} {name}: {archive}");
            let target = format!("/made/{name}-{state}");
            client(&host, &["cp", file.to_str().unwrap(), &format!("one:{target}")]).ok();
            assert_eq!(owner(&upper.join(&target[1..])), (0, 0), "{state} {name}");
        }
        if state == "running" {
            let seen = host.hull(&["exec", "one", "stat", "-c", "%u:%g", "/made/by-hull-running"]);
            assert_eq!(seen.ok(), "0:0");
            host.hull(&["stop", "-t", "0", "one"]).ok();
        }
    }
}
