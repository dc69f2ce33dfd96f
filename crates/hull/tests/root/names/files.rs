//! /etc/hosts, /etc/hostname and /etc/resolv.conf are the engine's: what stands in them, and that
//! they are never part of what a container has written. And the names of the host.

use std::process::Command;

use hull_testkit::Host;

use super::super::machines::{of_host, serve};
use super::super::{CLIENTS, bare};
use super::{addresses, getent, inside, resolving, sleeper};

/// What is in a container's writable layer.
fn written(host: &Host, name: &str) -> Vec<String> {
    let id = host.hull(&["inspect", "-f", "{{.Id}}", name]).ok().to_owned();
    let upper = host.data_root().join("image/active").join(id).join("upper");
    let found = Command::new("find").args([".", "-mindepth", "1"]).current_dir(&upper).output().unwrap();
    assert!(found.status.success(), "{} is not there", upper.display());
    let mut found: Vec<String> =
        String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn the_files_of_etc_are_no_part_of_what_a_container_has_written() {
    let host = bare();
    host.hull(&["image", "capture", "names", "busybox", "getent"]).ok();
    host.hull(&["network", "create", "n1"]).ok();
    let edit = "for file in hosts hostname resolv.conf; do echo '# mine' >> /etc/$file; done";
    for client in CLIENTS {
        for network in ["bridge", "n1", "none", "host"] {
            client(&host, &["run", "-d", "--name", "one", "--network", network, "names", "sleep", "1000"])
                .ok();
            inside(&host, "one", edit);
            assert_eq!(written(&host, "one"), [""; 0], "on {network}");
            client(&host, &["stop", "-t", "0", "one"]).ok();
            assert_eq!(written(&host, "one"), [""; 0], "on {network}, stopped");
            client(&host, &["start", "one"]).ok();
            // What it writes itself is there, and beside it still nothing of ours.
            inside(&host, "one", "echo x > /etc/mine");
            assert_eq!(written(&host, "one"), ["./etc", "./etc/mine"], "on {network}");
            // They cannot be taken away, nor replaced.
            for command in ["rm /etc/hosts", "mv /etc/mine /etc/hostname", "rm /etc/resolv.conf"] {
                let refused = host.hull(&["exec", "one", "sh", "-c", command]);
                assert!(refused.code != 0 && refused.stderr.contains("busy"), "{command}: {refused}");
            }
            client(&host, &["rm", "-f", "one"]).ok();
        }
    }
    // The next one of the image knows nothing of all that.
    let text = host.hull(&["run", "--rm", "names", "cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);
    assert!(!text.ok().contains("mine"), "{text}");
}

#[test]
fn a_host_name_and_a_domain_are_known_inside_and_to_others() {
    let host = resolving("", &[]);
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    sleeper(&host, "me", &["--network", "n1"]);
    for client in CLIENTS {
        let words =
            ["--network", "name=n1,ip=10.77.0.50", "--hostname", "shop", "--domainname", "corp.example"];
        let words = [&["run", "-d", "--name", "one"], &words[..], &["names", "sleep", "1000"]].concat();
        client(&host, &words).ok();
        let facts = "hostname; hostname -f; dnsdomainname; cat /etc/hostname /proc/sys/kernel/domainname";
        assert_eq!(inside(&host, "one", facts), "shop\nshop.corp.example\ncorp.example\nshop\ncorp.example");
        assert!(inside(&host, "one", "cat /etc/hosts").contains("10.77.0.50\tshop.corp.example shop"));
        for name in ["shop", "shop.corp.example"] {
            assert_eq!(getent(&host, "one", "hosts", name), ["10.77.0.50"], "{name}");
        }
        assert_eq!(getent(&host, "me", "hosts", "shop"), ["10.77.0.50"]);
        client(&host, &["rm", "-f", "one"]).ok();
        // The whole in one word: the reference writes its first part as well.
        let words = ["--network", "name=n1,ip=10.77.0.50", "--hostname", "shop.corp.example"];
        let words = [&["run", "-d", "--name", "one"], &words[..], &["names", "sleep", "1000"]].concat();
        client(&host, &words).ok();
        assert!(inside(&host, "one", "cat /etc/hosts").contains("10.77.0.50\tshop.corp.example shop"));
        assert_eq!(inside(&host, "one", "hostname -s; hostname -f"), "shop\nshop.corp.example");
        assert_eq!(getent(&host, "me", "hosts", "shop.corp.example"), ["10.77.0.50"]);
        client(&host, &["rm", "-f", "one"]).ok();
    }
}

#[test]
fn the_host_has_names_without_a_flag() {
    let host = resolving("", &[]);
    serve(&of_host(&host), &[8053]);
    host.hull(&["network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "dual"])
        .ok();
    host.hull(&["network", "create", "--internal", "shut"]).ok();
    for (name, words) in [
        ("plain", &["--network", "bridge"][..]),
        ("one", &["--network", "dual"]),
        ("both", &["--network", "shut", "--network", "dual"]),
        ("open", &["--network", "host"]),
        ("joined", &["--network", "container:one"]),
    ] {
        sleeper(&host, name, words);
        for known in ["host.docker.internal", "host.hull.internal", "HOST.docker.internal"] {
            // Really the host: a service there answers.
            let ask = format!("nc -w 5 {known} 8053 < /dev/null");
            let told = host.hull(&["exec", name, "sh", "-c", &ask]);
            assert!(!told.ok().is_empty(), "{known} from {name}: {told}");
        }
    }
    assert_eq!(addresses(&host, "one", "host.hull.internal"), ["10.77.0.1", "fd77::1"]);
    let mut told = getent(&host, "one", "ahosts", "host.docker.internal");
    told.sort();
    assert_eq!(told, ["10.77.0.1", "fd77::1"]);
    assert_eq!(getent(&host, "plain", "ahostsv4", "host.hull.internal"), ["172.17.0.1"]);
    // Where the host is not to be reached it has no name.
    sleeper(&host, "alone", &["--network", "shut"]);
    assert_eq!(getent(&host, "alone", "ahosts", "host.docker.internal"), [""; 0]);
    // What was asked for wins.
    for network in ["bridge", "dual"] {
        let words = ["--add-host", "host.docker.internal:192.0.2.9", "--add-host", "gate=host-gateway"];
        let words = [&["run", "--rm", "--network", network], &words[..]].concat();
        let ask = "getent hosts host.docker.internal; getent ahostsv4 gate; getent hosts host.hull.internal";
        let told = host.docker(&[&words[..], &["names", "sh", "-c", ask]].concat());
        let gate = if network == "dual" { "10.77.0.1" } else { "172.17.0.1" };
        assert!(told.ok().starts_with("192.0.2.9 ") && told.stdout.contains(&format!("\n{gate} ")), "{told}");
    }
}

#[test]
fn who_shares_a_network_shares_its_names() {
    let host = resolving("", &[]);
    host.hull(&["network", "create", "n1"]).ok();
    sleeper(&host, "web", &["--network", "n1"]);
    sleeper(&host, "nets", &["--network", "n1", "--hostname", "theirs", "--add-host", "a:192.0.2.9"]);
    for client in CLIENTS {
        let words =
            ["run", "-d", "--name", "joined", "--network", "container:nets", "names", "sleep", "1000"];
        client(&host, &words).ok();
        for file in ["hosts", "hostname", "resolv.conf"] {
            let read = format!("cat /etc/{file}");
            assert_eq!(inside(&host, "joined", &read), inside(&host, "nets", &read), "{file}");
        }
        assert_eq!(addresses(&host, "joined", "web"), addresses(&host, "nets", "web"));
        assert_eq!(getent(&host, "joined", "hosts", "a"), ["192.0.2.9"]);
        assert_eq!(getent(&host, "joined", "hosts", "web").len(), 1);
        client(&host, &["rm", "-f", "joined"]).ok();
    }
}
