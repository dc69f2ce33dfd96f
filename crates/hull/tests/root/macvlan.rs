//! macvlan networks: containers on a wire of the host's, as the mode says.

use hull_network::namespace::Namespace;

use super::machines::{address, container, nothing, of_host, serve, tcp, udp, wire};
use super::{CLIENTS, bare, host};

#[test]
fn containers_are_on_the_wire_and_reach_each_other_as_the_mode_says() {
    let host = host();
    let machine = Namespace::new().unwrap();
    wire(&host, "lan0", &machine);
    address(&machine, "eth0", &["10.99.0.9/24"]);
    serve(&machine, &[80]);
    for (client, mode) in
        CLIENTS.into_iter().zip(["", "bridge"]).chain(CLIENTS.into_iter().zip(["private", "vepa"]))
    {
        let option = format!("macvlan_mode={mode}");
        let mut words =
            vec!["network", "create", "-d", "macvlan", "--subnet", "10.99.0.0/24", "-o", "parent=lan0"];
        if !mode.is_empty() {
            words.extend(["-o", &option]);
        }
        client(&host, &[&words[..], &["lan"]].concat()).ok();
        for (name, ip) in [("one", "10.99.0.11"), ("two", "10.99.0.12")] {
            client(
                &host,
                &["run", "-d", "--name", name, "--network", "lan", "--ip", ip, "busybox", "sleep", "1000"],
            )
            .ok();
        }
        let one = container(&host, "one", &[80]);
        container(&host, "two", &[80]);
        // By itself, whatever the mode: the wire's other end.
        assert_eq!(tcp(&one, "10.99.0.9:80"), "10.99.0.11");
        assert_eq!(udp(&machine, "10.99.0.12:80"), "10.99.0.9");
        match mode {
            "" | "bridge" => assert_eq!(tcp(&one, "10.99.0.12:80"), "10.99.0.11", "{mode}"),
            // On the wire, and nobody there sends it back.
            _ => nothing(&one, "10.99.0.12:80"),
        }
        let format = "{{.Driver}} {{json .Options}}";
        let shown = client(&host, &["network", "inspect", "-f", format, "lan"]).ok().to_owned();
        assert!(shown.starts_with("macvlan {") && shown.contains("\"parent\":\"lan0\""), "{shown}");
        // Off a running container the link goes, and on again it comes.
        client(&host, &["network", "disconnect", "lan", "one"]).ok();
        assert!(!host.hull(&["exec", "one", "ip", "-o", "link"]).ok().contains("eth0"));
        client(&host, &["network", "connect", "--ip", "10.99.0.13", "lan", "one"]).ok();
        assert_eq!(tcp(&one, "10.99.0.9:80"), "10.99.0.13");
        client(&host, &["rm", "-f", "one", "two"]).ok();
        client(&host, &["network", "rm", "lan"]).ok();
    }
}

#[test]
fn a_passthru_link_is_one_containers_alone() {
    let host = host();
    let machine = Namespace::new().unwrap();
    wire(&host, "lan0", &machine);
    address(&machine, "eth0", &["10.99.0.9/24"]);
    serve(&machine, &[80]);
    for client in CLIENTS {
        let words = ["network", "create", "-d", "macvlan", "--subnet", "10.99.0.0/24", "-o", "parent=lan0"];
        client(&host, &[&words[..], &["-o", "macvlan_mode=passthru", "lan"]].concat()).ok();
        client(&host, &["run", "-d", "--name", "one", "--network", "lan", "busybox", "sleep", "1000"]).ok();
        assert_eq!(tcp(&container(&host, "one", &[]), "10.99.0.9:80"), "10.99.0.2");
        client(&host, &["run", "--rm", "--network", "lan", "busybox", "true"])
            .fails(125, "carries a macvlan link already: in passthru mode it carries one container's only");
        client(&host, &["network", "rm", "lan"])
            .fails(1, "network lan has active endpoints (name:\"one\" id:\"");
        client(&host, &["rm", "-f", "one"]).ok();
        client(&host, &["network", "rm", "lan"]).ok();
    }
}

#[test]
fn what_a_parent_cannot_be_is_said() {
    let host = bare();
    for client in CLIENTS {
        for (option, text) in [
            ("parent=nosuch", "nosuch"),
            ("parent=nosuch.100", "does not exist on this host"),
            ("macvlan_mode=nonsense", "nonsense"),
        ] {
            client(&host, &["network", "create", "-d", "macvlan", "-o", option, "lan"]).fails(1, text);
        }
        assert_eq!(client(&host, &["network", "ls", "-q", "-f", "driver=macvlan"]).ok(), "");
    }
}

/// The link of the run before is gone when the next one needs its parent, or its hardware address.
#[test]
fn what_a_run_had_the_next_one_gets() {
    let mut host = host();
    let machine = Namespace::new().unwrap();
    wire(&host, "lan0", &machine);
    address(&machine, "eth0", &["10.99.0.9/24"]);
    serve(&machine, &[80]);
    for (client, mode, mac) in [(CLIENTS[0], "passthru", ""), (CLIENTS[1], "bridge", "02:42:0a:63:00:0b")] {
        let mode = format!("macvlan_mode={mode}");
        let words = ["network", "create", "-d", "macvlan", "--subnet", "10.99.0.0/24", "-o", "parent=lan0"];
        client(&host, &[&words[..], &["-o", &mode, "lan"]].concat()).ok();
        let network =
            format!("name=lan,ip=10.99.0.11{}{mac}", if mac.is_empty() { "" } else { ",mac-address=" });
        let run = ["run", "-d", "--name", "one", "--network", &network, "busybox", "sleep", "1000"];
        client(&host, &run).ok();
        for _ in 0..5 {
            client(&host, &["restart", "-t", "0", "one"]).ok();
            assert_eq!(tcp(&container(&host, "one", &[]), "10.99.0.9:80"), "10.99.0.11");
            host.kill_daemon();
            host.start_daemon();
            client(&host, &["rm", "-f", "one"]).ok();
            client(&host, &run).ok();
        }
        client(&host, &["rm", "-f", "one"]).ok();
        client(&host, &["network", "rm", "lan"]).ok();
    }
}

#[test]
fn without_a_parent_containers_reach_each_other_and_nothing_else() {
    let mut host = host();
    serve(&of_host(&host), &[80]);
    for client in CLIENTS {
        let words = ["network", "create", "-d", "macvlan", "--subnet", "10.99.0.0/24", "alone"];
        let id = client(&host, &words).ok().to_owned();
        let parent = format!("dm-{}", &id[..12]);
        assert!(host.links().contains(&parent));
        // It was not asked for as internal.
        assert_eq!(client(&host, &["network", "inspect", "-f", "{{.Internal}}", "alone"]).ok(), "false");
        for name in ["one", "two"] {
            client(&host, &["run", "-d", "--name", name, "--network", "alone", "busybox", "sleep", "1000"])
                .ok();
        }
        let one = container(&host, "one", &[80]);
        container(&host, "two", &[80]);
        for _ in 0..2 {
            assert_eq!(tcp(&one, "10.99.0.3:80"), "10.99.0.2");
            nothing(&one, "172.17.0.1:80");
            host.kill_daemon();
            host.start_daemon();
        }
        assert_eq!(host.hull(&["exec", "one", "ip", "route"]).ok().lines().count(), 1, "a way out");
        client(&host, &["rm", "-f", "one", "two"]).ok();
        client(&host, &["network", "rm", "alone"]).ok();
        assert!(!host.links().contains(&parent));
    }
}

#[test]
fn a_parent_that_was_made_goes_with_its_last_network() {
    let host = bare();
    for client in CLIENTS {
        let create = ["network", "create", "-d", "macvlan", "--internal", "-o", "parent=void0"];
        for (name, subnet) in [("first", "10.98.0.0/24"), ("second", "10.99.0.0/24")] {
            client(&host, &[&create[..], &["--subnet", subnet, name]].concat()).ok();
        }
        client(&host, &["network", "rm", "first"]).ok();
        assert!(host.links().contains(&"void0".to_owned()), "the second one still needs it");
        client(&host, &["network", "rm", "second"]).ok();
        assert!(!host.links().contains(&"void0".to_owned()));
    }
}
