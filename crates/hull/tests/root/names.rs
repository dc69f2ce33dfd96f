//! Names in containers, asked by the resolvers of busybox and of glibc inside: those of their
//! networks here and in [`own`], all others in [`outside`], while the daemon is dead in [`waits`];
//! and the files of /etc, here and in [`files`].

mod files;
mod host_gateway;
mod links;
mod outside;
mod own;
pub(crate) mod upstream;
mod waits;

use hull_testkit::{Finished, Host, Options};

use super::{CLIENTS, executables, host};

/// A machine whose resolvers are these; its image `names` has the resolvers of busybox and glibc.
#[track_caller]
fn resolving(resolv_conf: &str, daemon: &[&str]) -> Host {
    let daemon = daemon.iter().map(|&word| word.to_owned()).collect();
    let options = Options { resolv_conf: Some(resolv_conf.to_owned()), daemon, ..Options::default() };
    let host = Host::start(executables(), options);
    host.hull(&["image", "capture", "names", "busybox", "getent"]).ok();
    host
}

/// A container of that image that does nothing.
#[track_caller]
fn sleeper(host: &Host, name: &str, words: &[&str]) {
    host.hull(&[&["run", "-d", "--name", name], words, &["names", "sleep", "1000"]].concat()).ok();
}

fn nslookup(host: &Host, from: &str, words: &[&str]) -> Finished {
    host.hull(&[&["exec", from, "nslookup"], words].concat())
}

/// The addresses that busybox's resolver is told for a name; empty if there are none.
fn addresses(host: &Host, from: &str, name: &str) -> Vec<String> {
    let mut found = in_order(&nslookup(host, from, &[name]).stdout);
    found.sort();
    found.dedup();
    found
}

/// The addresses in what nslookup says.
fn in_order(said: &str) -> Vec<String> {
    // The resolver's own address comes first, with its port.
    said.lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| line.strip_prefix("Address:").or_else(|| line.strip_prefix("Address 1:")))
        .map(|address| address.trim().to_owned())
        .collect()
}

/// What glibc's resolver is told: the first words of getent's lines, in order, each once.
fn getent(host: &Host, from: &str, database: &str, name: &str) -> Vec<String> {
    let answer = host.hull(&["exec", from, "getent", database, name]);
    let mut found: Vec<String> = Vec::new();
    for word in answer.stdout.lines().filter_map(|line| line.split_whitespace().next()) {
        if !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    }
    found
}

#[track_caller]
fn inside(host: &Host, name: &str, command: &str) -> String {
    host.hull(&["exec", name, "sh", "-c", command]).ok().to_owned()
}

#[test]
fn containers_find_each_other_by_name() {
    let mut host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    host.hull(&["network", "create", "--internal", "quiet"]).ok();
    let words = ["--network", "name=n1,ip=10.77.0.50,alias=db,alias=store", "busybox", "sleep", "1000"];
    let id = host.hull(&[&["run", "-d", "--name", "one"], &words[..]].concat()).ok().to_owned();
    host.hull(&[
        "run",
        "-d",
        "--name",
        "two",
        "--network",
        "n1",
        "--link",
        "one:friend",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    host.hull(&["run", "-d", "--name", "far", "--network", "quiet", "busybox", "sleep", "1000"]).ok();
    for round in 0..2 {
        for name in ["one", "db", "store", "friend", &id[..12], "one.n1"] {
            assert_eq!(addresses(&host, "two", name), ["10.77.0.50"], "{name} in round {round}");
        }
        assert_eq!(addresses(&host, "one", "friend"), [""; 0]);
        assert_eq!(addresses(&host, "far", "one"), [""; 0]);
        assert_eq!(addresses(&host, "two", "host.docker.internal"), ["10.77.0.1"]);
        let pointer = host.hull(&["exec", "two", "nslookup", "10.77.0.50"]);
        assert!(pointer.stdout.contains("name = one.n1"), "{pointer}");
        host.kill_daemon();
        host.start_daemon();
    }
    for client in CLIENTS {
        client(&host, &["rename", "one", "other"]).ok();
        assert_eq!(addresses(&host, "two", "other"), ["10.77.0.50"]);
        assert_eq!(addresses(&host, "two", "one"), [""; 0]);
        client(&host, &["network", "connect", "--alias", "late", "quiet", "other"]).ok();
        assert_eq!(addresses(&host, "far", "late").len(), 1);
        client(&host, &["network", "disconnect", "quiet", "other"]).ok();
        assert_eq!(addresses(&host, "far", "late"), [""; 0]);
        client(&host, &["rename", "other", "one"]).ok();
    }
    host.hull(&["rm", "-f", "one"]).ok();
    assert_eq!(addresses(&host, "two", "db"), [""; 0]);
}

#[test]
fn the_files_of_etc_tell_what_a_container_has() {
    let host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    for client in CLIENTS {
        client(&host, &["run", "-d", "--name", "lt", "busybox", "sleep", "1000"]).ok();
        let words = [
            "--add-host",
            "a:1.2.3.4",
            "--add-host",
            "h:host-gateway",
            "--link",
            "lt:alias",
            "--hostname",
            "me",
        ];
        client(&host, &[&["run", "-d", "--name", "one"], &words[..], &["busybox", "sleep", "1000"]].concat())
            .ok();
        let hosts = inside(&host, "one", "cat /etc/hosts");
        for line in ["127.0.0.1\tlocalhost", "1.2.3.4\ta", "172.17.0.1\th", "\tme"] {
            assert!(hosts.contains(line), "{line} in {hosts}");
        }
        assert!(hosts.contains("\talias ") && hosts.contains(" lt\n"), "{hosts}");
        assert!(inside(&host, "one", "tr '\\0' '\\n' < /proc/1/environ").contains("ALIAS_NAME=/one/alias"));
        client(
            &host,
            &[
                "run",
                "-d",
                "--name",
                "two",
                "--network",
                "n1",
                "--dns",
                "9.9.9.9",
                "busybox",
                "sleep",
                "1000",
            ],
        )
        .ok();
        let resolv = inside(&host, "two", "cat /etc/resolv.conf");
        for line in ["nameserver 127.0.0.11", "options ndots:0", "# ExtServers: [9.9.9.9]"] {
            assert!(resolv.contains(line), "{line} in {resolv}");
        }
        let words = ["--dns", "9.9.9.9", "--dns-search", "example.com", "--dns-option", "ndots:2"];
        let resolv =
            client(&host, &[&["run", "--rm"], &words[..], &["busybox", "cat", "/etc/resolv.conf"]].concat());
        assert!(
            resolv.ok().contains("nameserver 9.9.9.9\nsearch example.com\noptions ndots:2\n"),
            "{resolv}"
        );
        // Connected later, it has another line and another resolver, unless somebody has edited the files.
        inside(&host, "one", "echo '9.9.9.9 mine' >> /etc/hosts");
        client(&host, &["network", "connect", "n1", "one"]).ok();
        let hosts = inside(&host, "one", "cat /etc/hosts");
        assert!(hosts.contains("10.77.0.") && hosts.contains("9.9.9.9 mine"), "{hosts}");
        assert!(inside(&host, "one", "cat /etc/resolv.conf").contains("nameserver 127.0.0.11"));
        assert_eq!(addresses(&host, "one", "two").len(), 1);
        client(&host, &["network", "disconnect", "n1", "one"]).ok();
        assert!(!inside(&host, "one", "cat /etc/hosts").contains("10.77.0."));
        client(&host, &["rm", "-f", "lt", "one", "two"]).ok();
    }
}
