//! What is asked of networks, in the order in which it must be there, and what is refused with the
//! reference's words and statuses.

use hull_testkit::Host;

use super::{CLIENTS, host};

#[track_caller]
fn inside(host: &Host, name: &str, command: &str) -> String {
    host.hull(&["exec", name, "sh", "-c", command]).ok().to_owned()
}

#[test]
fn the_first_command_has_all_networks() {
    let host = host();
    let mut words = vec!["run", "--rm"];
    for (number, name) in ["n1", "n2", "n3"].into_iter().enumerate() {
        let subnets = [format!("10.7{number}.0.0/24"), format!("fd00:7{number}::/64")];
        let create = ["network", "create", "--subnet", &subnets[0], "--ipv6", "--subnet", &subnets[1], name];
        host.hull(&create).ok();
        let addresses = [format!("10.7{number}.0.9"), format!("fd00:7{number}::9")];
        let place = ["--network", name, "--ip", &addresses[0], "--ip6", &addresses[1], "--name", name];
        host.hull(&[&["run", "-d"], &place[..], &["busybox", "sleep", "1000"]].concat()).ok();
        words.extend(["--network", name]);
    }
    // Without the name first: it needs no resolver that is there by then.
    let ask = "for n in 0 1 2; do nc -z -w 5 10.7$n.0.9 1; ip -o addr show eth$n | grep -c 'inet'; \
               ip -6 -o addr show eth$n | grep -c tentative; ping -q -6 -c 1 -W 5 fd00:7$n::9 > /dev/null && \
               ping -q -c 1 -W 5 10.7$n.0.9 > /dev/null && ping -q -c 1 -W 5 n$((n+1)) > /dev/null || echo lost; done";
    words.extend(["busybox", "sh", "-c", ask]);
    for round in 0..20 {
        let told = CLIENTS[round % 2](&host, &words);
        // An address of each family and the link's own, none of which is still waited for.
        assert_eq!(told.ok(), "3\n0\n3\n0\n3\n0", "round {round}: {told}");
    }
}

#[test]
fn a_place_is_connected_with_all_that_it_was_asked_for() {
    let host = host();
    let subnets = ["--subnet", "10.78.0.0/24", "--ipv6", "--subnet", "fd00:78::/64"];
    host.hull(&[&["network", "create"], &subnets[..], &["dual"]].concat()).ok();
    let place = ["--network", "dual", "--ip", "10.78.0.9"];
    host.hull(&[&["run", "-d", "--name", "db"], &place[..], &["busybox", "sleep", "1000"]].concat()).ok();
    host.hull(&["run", "-d", "--name", "other", "--network", "dual", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        host.hull(&["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
        let words = ["network", "connect", "--ip6", "fd00:78::77", "--link", "db:store", "dual", "aa"];
        client(&host, &words).ok();
        assert!(inside(&host, "aa", "ip -6 -o addr show eth1").contains("fd00:78::77/64"));
        inside(&host, "other", "ping -6 -c 1 -W 5 fd00:78::77");
        assert!(inside(&host, "aa", "ping -4 -c 1 -W 5 store").contains("10.78.0.9"));
        let lookup = host.hull(&["exec", "other", "nslookup", "store"]);
        assert!(lookup.code != 0, "another container has the name: {lookup}");
        // The name and the address are the place's, also at the next start.
        client(&host, &["restart", "-t", "0", "aa"]).ok();
        assert!(inside(&host, "aa", "ping -4 -c 1 -W 5 store").contains("10.78.0.9"));
        assert!(inside(&host, "aa", "ip -6 -o addr").contains("fd00:78::77/64"));
        client(&host, &["network", "disconnect", "-f", "dual", "aa"]).ok();
        let left = inside(&host, "aa", "ip -o link; nslookup store || echo none");
        assert!(!left.contains("eth1") && left.contains("none"), "{left}");
        assert_eq!(client(&host, &["inspect", "-f", "{{len .NetworkSettings.Networks}}", "aa"]).ok(), "1");
        client(&host, &["network", "disconnect", "-f", "dual", "nosuch"])
            .fails(1, "endpoint nosuch not found");
        client(&host, &["rm", "-f", "aa"]).ok();
    }
}

#[test]
fn who_shares_a_network_asks_for_nothing_of_its_own() {
    let host = host();
    host.hull(&["run", "-d", "--name", "nets", "busybox", "sleep", "1000"]).ok();
    let links = "conflicting options: container type network can't be used with links. This would result in \
                 undefined behavior";
    for client in CLIENTS {
        for (words, text) in [
            (&["--hostname", "h"][..], "conflicting options: hostname and the network mode"),
            (&["--link", "nets:x"], links),
            (&["--dns", "192.0.2.1"], "conflicting options: dns and the network mode"),
            (
                &["--add-host", "a:192.0.2.1"],
                "conflicting options: custom host-to-IP mapping and the network mode",
            ),
            (&["-p", "8080:80"], "conflicting options: port publishing and the container type network mode"),
            (&["-P"], "conflicting options: port publishing and the container type network mode"),
            (&["--expose", "80"], "conflicting options: port exposing and the container type network mode"),
        ] {
            let words =
                [&["run", "--rm", "--network", "container:nets"], words, &["busybox", "true"]].concat();
            client(&host, &words).fails(125, text);
        }
        let words = ["run", "--rm", "--network", "container:nosuch", "busybox", "true"];
        client(&host, &words).fails(125, "No such container: nosuch");
    }
    assert_eq!(host.hull(&["ps", "-aq", "--filter", "name=nets"]).ok().lines().count(), 1);
}

#[test]
fn bad_requests_are_refused_with_the_references_status() {
    let host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    let words = ["--network", "n1", "--ip", "10.77.0.50", "busybox", "sleep", "1000"];
    host.hull(&[&["run", "-d", "--name", "one"], &words[..]].concat()).ok();
    host.hull(&["run", "-d", "--name", "two", "busybox", "sleep", "1000"]).ok();
    host.hull(&["create", "--name", "shares", "--network", "host", "busybox"]).ok();
    host.hull(&["create", "--name", "early", "--network", "later", "busybox"]).ok();
    let address = |address: &str| {
        format!(r#"{{"Container":"two","EndpointConfig":{{"IPAMConfig":{{"IPv4Address":"{address}"}}}}}}"#)
    };
    let of = |name: &str| format!(r#"{{"Container":"{name}"}}"#);
    let link = r#"{"Image":"busybox","HostConfig":{"Links":["nosuch:x"]}}"#.to_owned();
    let mac = r#"{"Container":"two","EndpointConfig":{"MacAddress":"01:00:5e:00:00:01"}}"#.to_owned();
    for (method, path, body, status, text) in [
        ("DELETE", "networks/n1", String::new(), 403, "network n1 has active endpoints"),
        (
            "DELETE",
            "networks/bridge",
            String::new(),
            403,
            "bridge is a pre-defined network and cannot be removed",
        ),
        ("DELETE", "networks/nosuch", String::new(), 404, "network nosuch not found"),
        ("GET", "networks/nosuch", String::new(), 404, "network nosuch not found"),
        (
            "POST",
            "networks/n1/connect",
            of("one"),
            403,
            "endpoint with name one already exists in network n1",
        ),
        ("POST", "networks/n1/connect", of("nosuch"), 404, "No such container: nosuch"),
        ("POST", "networks/nosuch/connect", of("two"), 404, "network nosuch not found"),
        (
            "POST",
            "networks/n1/connect",
            address("10.99.0.1"),
            400,
            "no configured subnet or ip-range contain",
        ),
        ("POST", "networks/n1/connect", address("10.77.0.50"), 403, "Address already in use"),
        ("POST", "networks/n1/connect", address("nonsense"), 400, "nonsense"),
        ("POST", "networks/n1/connect", mac, 400, "MAC address"),
        ("POST", "networks/n1/connect", "{".to_owned(), 400, ""),
        ("POST", "networks/host/connect", of("two"), 400, "cannot connect container to host network"),
        ("POST", "networks/n1/connect", of("shares"), 400, "sharing network namespace"),
        ("POST", "networks/n1/disconnect", of("two"), 500, "is not connected to network n1"),
        ("POST", "networks/nosuch/disconnect", of("two"), 404, "network nosuch not found"),
        ("POST", "containers/create", link, 400, "could not get container for nosuch"),
        ("POST", "containers/early/start", String::new(), 404, "network later not found"),
    ] {
        let answer = host.request(method, &format!("/v1.51/{path}"), body.as_bytes());
        let said = answer.text();
        assert!(
            answer.status == status && said.contains(text),
            "{method} {path} {body}: {} {said}",
            answer.status
        );
    }
    // Nothing has come of any of them.
    assert_eq!(inside(&host, "two", "ls /sys/class/net | grep -c eth"), "1");
    assert_eq!(host.hull(&["ps", "-aq"]).ok().lines().count(), 4);
}
