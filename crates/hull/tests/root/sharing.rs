//! What a container shares when it is told to (namespaces of others and of the host, devices), and
//! what `prune` leaves.

use hull_testkit::Host;

use super::{CLIENTS, Client, host};

/// A namespace of the program that a container runs with these words.
#[track_caller]
fn namespace(host: &Host, client: Client, kind: &str, words: &[&str]) -> String {
    let path = format!("/proc/self/ns/{kind}");
    client(host, &[&["run", "--rm"][..], words, &["busybox", "readlink", &path]].concat()).ok().to_owned()
}

fn of_this_process(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn the_pid_namespace_of_another_container_is_shared() {
    let host = host();
    host.hull(&["run", "-d", "--name", "first", "busybox", "sh", "-c", "sleep 1234 & wait"]).ok();
    let first = host.hull(&["exec", "first", "readlink", "/proc/1/ns/pid"]).ok().to_owned();
    assert_ne!(first, of_this_process("pid"));
    for client in CLIENTS {
        let other = ["--pid", "container:first"];
        assert_eq!(namespace(&host, client, "pid", &other), first);
        assert_ne!(namespace(&host, client, "pid", &[]), first);
        // It sees the other's processes and may signal them, and it is not their first one.
        let script = "ps | grep -q 'sleep 123[4]' && test $$ != 1 && kill -0 1 && echo seen";
        let words = [&["run", "--rm"][..], &other, &["busybox", "sh", "-c", script]].concat();
        assert_eq!(client(&host, &words).ok(), "seen");
        // What it leaves behind ends with it, not with the other.
        let leaves = "sleep 4321 & echo left";
        let words = [&["run", "--rm"][..], &other, &["busybox", "sh", "-c", leaves]].concat();
        assert_eq!(client(&host, &words).ok(), "left");
        let processes = host.hull(&["exec", "first", "ps"]);
        assert!(!processes.ok().contains("4321"), "{processes}");
    }
    host.hull(&["create", "--name", "joined", "--pid", "container:first", "busybox", "sleep", "1000"]).ok();
    host.hull(&["start", "joined"]).ok();
    // With the namespace's first process everything in it ends.
    host.hull(&["kill", "first"]).ok();
    assert_eq!(host.hull(&["wait", "joined"]).ok(), "137");
    host.hull(&["start", "joined"]).fails(1, "cannot join PID namespace of a non running container");
}

#[test]
fn the_pid_namespace_of_the_host_is_shared() {
    let host = host();
    for client in CLIENTS {
        assert_eq!(namespace(&host, client, "pid", &["--pid", "host"]), of_this_process("pid"));
        let own = format!("test -d /proc/{} && echo seen", std::process::id());
        let words = ["run", "--rm", "--pid", "host", "busybox", "sh", "-c", &own];
        assert_eq!(client(&host, &words).ok(), "seen");
        let words = ["run", "--rm", "busybox", "sh", "-c", &own];
        assert_eq!(client(&host, &words).code, 1, "the host is seen without having been asked for");
    }
}

#[test]
fn the_ipc_namespace_of_another_container_is_shared_if_that_one_allows_it() {
    let host = host();
    for (name, mode) in [("open", "shareable"), ("closed", "private"), ("bare", "none")] {
        host.hull(&["run", "-d", "--name", name, "--ipc", mode, "busybox", "sleep", "1000"]).ok();
    }
    let open = host.hull(&["exec", "open", "readlink", "/proc/1/ns/ipc"]).ok().to_owned();
    assert_ne!(open, of_this_process("ipc"));
    for client in CLIENTS {
        assert_eq!(namespace(&host, client, "ipc", &["--ipc", "container:open"]), open);
        assert_ne!(namespace(&host, client, "ipc", &[]), open);
        assert_eq!(namespace(&host, client, "ipc", &["--ipc", "host"]), of_this_process("ipc"));
        for closed in ["closed", "bare"] {
            let mode = format!("container:{closed}");
            client(&host, &["run", "--rm", "--ipc", &mode, "busybox", "true"])
                .fails(125, "non-shareable IPC (hint: use IpcMode:shareable for the donor container)");
        }
    }
    assert_eq!(host.hull(&["ps", "-aq"]).ok().lines().count(), 3);
}

/// /dev/loop-control does nothing when it is opened, and no container has it by itself.
#[test]
fn a_device_is_there_with_the_rights_it_was_given() {
    let host = host();
    let inside = |client: Client, words: &[&str], script: &str| {
        client(&host, &[&["run", "--rm"][..], words, &["busybox", "sh", "-c", script]].concat())
    };
    let read = ": < /dev/box && echo read";
    let write = ": > /dev/box && echo written";
    for client in CLIENTS {
        let given = ["--device", "/dev/loop-control:/dev/box:r"];
        assert_eq!(inside(client, &given, read).ok(), "read");
        let both = ["--device", "/dev/loop-control:/dev/box"];
        assert_eq!(inside(client, &both, write).ok(), "written");
        inside(client, &given, write).fails(1, "Operation not permitted");
        let node = inside(client, &["--device", "/dev/loop-control:/dev/box"], "ls -l /dev/box");
        assert!(node.ok().starts_with('c') && node.ok().contains("10, 237"), "{node}");
        // Without it a node can be made, and cannot be opened.
        let made = format!("mknod /dev/box c 10 237; {read}");
        assert_eq!(inside(client, &[], &made).code, 1);
        inside(client, &["--device", "/dev/nosuch"], "true").fails(127, "/dev/nosuch");
    }
}

#[test]
fn prune_takes_what_is_not_in_use_and_nothing_else() {
    let host = host();
    for client in CLIENTS {
        host.hull(&["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]).ok();
        host.hull(&["run", "--name", "ended", "busybox", "sh", "-c", "echo 12345678 > /f"]).ok();
        host.hull(&["create", "--name", "made", "--label", "keep=1", "busybox", "true"]).ok();
        let ended = host.hull(&["inspect", "-f", "{{.Id}}", "ended"]).ok().to_owned();
        let answer = client(&host, &["container", "prune", "-f", "--filter", "label!=keep"]);
        assert!(
            answer.ok().contains(&ended) && answer.ok().contains("Total reclaimed space: 9B"),
            "{answer}"
        );
        let mut left: Vec<_> =
            host.hull(&["ps", "-a", "--format", "{{.Names}}"]).ok().lines().map(str::to_owned).collect();
        left.sort();
        assert_eq!(left, ["made", "runs"]);
        host.hull(&["rm", "made"]).ok();
        let empty = client(&host, &["container", "prune", "-f"]);
        assert_eq!(empty.ok(), "Total reclaimed space: 0B");

        // An image without a name, one with a name that nobody uses, and one that is used.
        host.hull(&["image", "capture", "spare", "true"]).ok();
        host.hull(&["image", "capture", "lost", "false"]).ok();
        host.hull(&["tag", "spare", "lost"]).ok();
        let names = |host: &Host| {
            let list = host.hull(&["images", "--format", "{{.Repository}}"]).ok().to_owned();
            let mut names: Vec<_> = list.lines().map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(names(&host), ["<none>", "busybox", "lost", "spare"]);
        let answer = client(&host, &["image", "prune", "-f"]);
        assert!(
            answer.ok().contains("deleted: sha256:") || answer.ok().contains("Deleted: sha256:"),
            "{answer}"
        );
        assert_eq!(names(&host), ["busybox", "lost", "spare"]);
        let answer = client(&host, &["image", "prune", "-a", "-f"]);
        assert!(answer.ok().contains("untagged: spare:latest"), "{answer}");
        assert_eq!(names(&host), ["busybox"]);
        host.hull(&["exec", "runs", "true"]).ok();
        host.hull(&["rm", "-f", "runs"]).ok();
    }
    for client in CLIENTS {
        // Without -f it asks, and no answer is a no.
        host.hull(&["create", "--name", "made", "busybox", "true"]).ok();
        assert_eq!(client(&host, &["container", "prune"]).code, 0);
        assert_eq!(host.hull(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "made");
        host.hull(&["rm", "made"]).ok();
    }
}
