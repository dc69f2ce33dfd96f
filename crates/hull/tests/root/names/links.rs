//! The older links of the default bridge: where they lead when the other comes back elsewhere, and
//! that they can be taken away.

use std::time::Instant;

use hull_network::namespace::Namespace;
use hull_testkit::{Host, Options};

use super::{CLIENTS, executables, host, inside};
use crate::machines::{LIMIT, container, nothing, tcp};

/// What a container has on the default bridge.
fn has(host: &Host, name: &str, field: &str) -> String {
    let format = format!("{{{{.NetworkSettings.Networks.bridge.{field}}}}}");
    host.hull(&["inspect", "-f", &format, name]).ok().to_owned()
}

/// The addresses that stand beside `store` in the file of `app`, and those that `db` has.
fn told_and_had(host: &Host) -> (Vec<String>, Vec<String>) {
    let hosts = inside(host, "app", "cat /etc/hosts");
    assert!(hosts.contains("192.0.2.1 mine"), "{hosts}");
    let lines = hosts.lines().filter_map(|line| line.split_once("\tstore "));
    let told = lines.inspect(|(_, names)| assert!(names.ends_with(" db"), "{names}"));
    let told = told.map(|(address, _)| address.to_owned()).collect();
    (told, vec![has(host, "db", "IPAddress"), has(host, "db", "GlobalIPv6Address")])
}

#[track_caller]
fn opens(app: &Namespace, host: &Host, closed: &str) {
    let (told, had) = told_and_had(host);
    assert_eq!(told, had);
    for address in [had[0].clone(), format!("[{}]", had[1])] {
        tcp(app, &format!("{address}:80"));
        nothing(app, &format!("{address}:81"));
    }
    nothing(app, &format!("{closed}:80"));
}

#[test]
fn a_link_follows_the_other_until_it_is_removed() {
    let daemon = ["--icc=false", "--ipv6"].map(str::to_owned).to_vec();
    let mut host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    host.hull(&["network", "create", "n1"]).ok();
    for client in CLIENTS {
        // Its first network is not the one that both are on.
        let words = ["--network", "n1", "--expose", "80", "busybox", "sleep", "1000"];
        client(&host, &[&["run", "-d", "--name", "db"], &words[..]].concat()).ok();
        client(&host, &["network", "connect", "bridge", "db"]).ok();
        let words = ["run", "-d", "--name", "app", "--link", "db:store", "busybox", "sleep", "1000"];
        client(&host, &words).ok();
        container(&host, "db", &[80, 81]);
        let before = has(&host, "db", "IPAddress");
        let environment = inside(&host, "app", "tr '\\0' '\\n' < /proc/1/environ");
        assert!(environment.contains(&format!("STORE_PORT_80_TCP_ADDR={before}\n")), "{environment}");
        let file = inside(&host, "app", "echo '192.0.2.1 mine' >> /etc/hosts; stat -c %i /etc/hosts");
        let app = container(&host, "app", &[]);
        opens(&app, &host, "172.17.0.1");
        // Somebody else gets its address: the link does not lead there.
        client(&host, &["stop", "-t", "0", "db"]).ok();
        let words = ["run", "-d", "--name", "heir", "--expose", "80", "busybox", "sleep", "1000"];
        client(&host, &words).ok();
        let end = Instant::now() + LIMIT;
        // It is free when its link is gone, which nobody waits for.
        while has(&host, "heir", "IPAddress") != before {
            assert!(Instant::now() < end, "{before} is never free");
            host.hull(&["rm", "-f", "heir"]).ok();
            client(&host, &words).ok();
        }
        container(&host, "heir", &[80]);
        nothing(&app, &format!("{before}:80"));
        client(&host, &["start", "db"]).ok();
        container(&host, "db", &[80, 81]);
        assert_ne!(has(&host, "db", "IPAddress"), before);
        opens(&app, &host, &before);
        // The same with another daemon, another name, and from one network to two.
        host.kill_daemon();
        host.start_daemon();
        client(&host, &["rm", "-f", "heir"]).ok();
        client(&host, &["network", "disconnect", "bridge", "db"]).ok();
        client(&host, &["network", "connect", "bridge", "db"]).ok();
        opens(&app, &host, "172.17.0.1");
        assert_eq!(inside(&host, "app", "stat -c %i /etc/hosts"), file);

        client(&host, &["rm", "--link", "app/nosuch"]).fails(1, "No such container: app/nosuch");
        client(&host, &["rm", "--link", "nosuch/store"]).fails(1, "No such container: nosuch/store");
        client(&host, &["rm", "--link", "nosuch"]).fails(1, "No such container: nosuch");
        client(&host, &["rm", "--link", "app"])
            .fails(1, "Conflict, cannot remove the default link name of the container");
        for (path, status) in [("app", 500), ("app/nosuch", 404), ("db/store", 404)] {
            let answer = host.request("DELETE", &format!("/containers/{path}?link=1"), b"");
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
        }
        opens(&app, &host, "172.17.0.1");
        client(&host, &["rm", "--link", "/app/store"]).ok();
        for round in 0..3 {
            let hosts = inside(&host, "app", "cat /etc/hosts");
            assert!(!hosts.contains("store"), "{hosts} in round {round}");
            assert!(!inside(&host, "app", "env").contains("STORE"), "round {round}");
            let app = container(&host, "app", &[]);
            nothing(&app, &format!("{}:80", has(&host, "db", "IPAddress")));
            client(&host, &["rm", "--link", "app/store"]).fails(1, "No such container: app/store");
            match round {
                0 => {
                    host.kill_daemon();
                    host.start_daemon();
                }
                _ => drop(client(&host, &["restart", "-t", "0", "app"]).ok()),
            }
        }
        client(&host, &["rm", "-f", "app", "db"]).ok();
    }
}

#[test]
fn a_link_goes_with_the_other() {
    let host = host();
    for client in CLIENTS {
        client(&host, &["run", "-d", "--name", "db", "--expose", "80", "busybox", "sleep", "1000"]).ok();
        client(&host, &["run", "-d", "--name", "app", "--link", "db:store", "busybox", "sleep", "1000"]).ok();
        let mentioned =
            || inside(&host, "app", "cat /etc/hosts; env").to_lowercase().matches("store").count();
        assert!(mentioned() > 1, "the control");
        client(&host, &["stop", "-t", "0", "db"]).ok();
        client(&host, &["restart", "-t", "0", "app"])
            .fails(1, "Cannot link to a non running container: /db AS /app/store");
        client(&host, &["rm", "-f", "db"]).ok();
        client(&host, &["start", "app"]).ok();
        assert_eq!(mentioned(), 0);
        client(&host, &["rm", "-f", "app"]).ok();
    }
}
