//! Networks of other kinds than the usual one, by what becomes of packets and addresses: gateway
//! modes, no masquerading, one address to publish at, IPv6 alone, several subnets, a range.

use hull_testkit::Host;

use super::machines::{beside, container, nothing, of_host, serve, tcp, udp};
use super::reach::run;
use super::{CLIENTS, Client, host};

/// Makes a network; `line` has the words behind `network create`.
#[track_caller]
fn network(host: &Host, client: Client, line: &str) {
    let words: Vec<&str> = ["network", "create"].into_iter().chain(line.split(' ')).collect();
    client(host, &words).ok();
}

/// What a program in a container prints.
#[track_caller]
fn inside(host: &Host, name: &str, command: &str) -> String {
    host.hull(&["exec", name, "sh", "-c", command]).ok().to_owned()
}

#[test]
fn a_routed_network_is_reached_at_its_containers_own_addresses() {
    let host = host();
    let outside = beside(&host, 1, "192.0.2");
    serve(&outside, &[80]);
    let routed = |family: &str| format!("-o com.docker.network.bridge.gateway_mode_{family}=routed");
    let line = format!(
        "{} {} --ipv6 --subnet 10.90.0.0/24 --subnet fd00:90::/64 routed",
        routed("ipv4"),
        routed("ipv6")
    );
    network(&host, Host::docker, &line);
    let line = format!("{} --ipv6 --subnet 10.91.0.0/24 --subnet fd00:91::/64 mixed", routed("ipv6"));
    network(&host, Host::hull, &line);
    // Both at once: a routed network takes no port of the host.
    let ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    run(&host, "own", &[&["--network", "routed"], &ports[..]].concat());
    run(&host, "half", &[&["--network", "mixed"], &ports[..]].concat());
    let own = container(&host, "own", &[80, 81]);
    let half = container(&host, "half", &[80, 81]);
    for (to, seen) in [
        ("10.90.0.2:80", "192.0.2.2"),
        ("[fd00:90::2]:80", "2001:db8:1::2"),
        ("192.0.2.1:8080", "192.0.2.2"),
        ("[fd00:91::2]:80", "2001:db8:1::2"),
    ] {
        assert_eq!((tcp(&outside, to).as_str(), udp(&outside, to).as_str()), (seen, seen), "{to}");
    }
    for to in ["10.90.0.2:81", "[fd00:90::2]:81", "[fd00:91::2]:81", "10.91.0.2:80", "[2001:db8:1::1]:8080"] {
        nothing(&outside, to);
    }
    for (from, to, seen) in [
        (&own, "192.0.2.2:80", "10.90.0.2"),
        (&own, "[2001:db8:1::2]:80", "fd00:90::2"),
        (&half, "192.0.2.2:80", "192.0.2.1"),
        (&half, "[2001:db8:1::2]:80", "fd00:91::2"),
    ] {
        assert_eq!(tcp(from, to), seen, "{to}");
    }
    let binding = |port: &str| {
        format!(
            "[{{\"HostIp\":\"0.0.0.0\",\"HostPort\":\"{port}\"}},{{\"HostIp\":\"::\",\"HostPort\":\"\"}}]"
        )
    };
    for client in CLIENTS {
        for (name, port) in [("own", ""), ("half", "8080")] {
            let shown = client(&host, &["inspect", "-f", "{{json .NetworkSettings.Ports}}", name]);
            let both = format!("{{\"80/tcp\":{0},\"80/udp\":{0}}}", binding(port));
            assert_eq!(shown.ok(), both, "{name}");
        }
    }
}

#[test]
fn packets_take_the_way_that_a_bridges_options_say() {
    let host = host();
    let outside = beside(&host, 1, "192.0.2");
    serve(&outside, &[80]);
    let unprotected =
        |family: &str| format!("-o com.docker.network.bridge.gateway_mode_{family}=nat-unprotected");
    let line = format!(
        "{} {} --ipv6 --subnet 10.92.0.0/24 --subnet fd00:92::/64 open",
        unprotected("ipv4"),
        unprotected("ipv6")
    );
    network(&host, Host::docker, &line);
    let masquerade = "-o com.docker.network.bridge.enable_ip_masquerade=false";
    let line = format!("{masquerade} --ipv6 --subnet 10.93.0.0/24 --subnet fd00:93::/64 plain");
    network(&host, Host::docker, &line);
    network(
        &host,
        Host::hull,
        "-o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 --subnet 10.94.0.0/24 local",
    );
    run(&host, "open", &["--network", "open", "-p", "8081:80"]);
    run(&host, "plain", &["--network", "plain", "-p", "8082:80"]);
    run(&host, "local", &["--network", "local", "-p", "8083:80", "-p", "0.0.0.0:8084:80"]);
    let [open, plain, local] = ["open", "plain", "local"].map(|name| container(&host, name, &[80, 81]));
    // Whoever has a route to it reaches every port, published or not.
    for (to, seen) in [
        ("10.92.0.2:80", "192.0.2.2"),
        ("10.92.0.2:81", "192.0.2.2"),
        ("[fd00:92::2]:81", "2001:db8:1::2"),
        ("192.0.2.1:8081", "192.0.2.2"),
        ("192.0.2.1:8082", "192.0.2.2"),
        ("192.0.2.1:8084", "192.0.2.2"),
    ] {
        assert_eq!(tcp(&outside, to), seen, "{to}");
    }
    for to in ["10.93.0.2:80", "[fd00:93::2]:80", "192.0.2.1:8083", "[2001:db8:1::1]:8083"] {
        nothing(&outside, to);
    }
    let here = of_host(&host);
    for to in ["127.0.0.1:8082", "127.0.0.1:8083", "127.0.0.1:8084"] {
        tcp(&here, to);
    }
    // By which address the world sees them.
    for (from, four, six) in [(&open, "192.0.2.1", "2001:db8:1::1"), (&plain, "10.93.0.2", "fd00:93::2")] {
        assert_eq!((tcp(from, "192.0.2.2:80").as_str(), udp(from, "192.0.2.2:80").as_str()), (four, four));
        assert_eq!(tcp(from, "[2001:db8:1::2]:80"), six);
    }
    assert_eq!(tcp(&local, "192.0.2.2:80"), "192.0.2.1");
}

#[test]
fn an_isolated_network_has_no_address_on_the_host() {
    let host = host();
    let isolated = "-o com.docker.network.bridge.gateway_mode_ipv4=isolated \
                    -o com.docker.network.bridge.gateway_mode_ipv6=isolated";
    for client in CLIENTS {
        let words = ["network", "create"].into_iter().chain(isolated.split(' ')).chain(["open"]);
        client(&host, &words.collect::<Vec<_>>())
            .fails(1, "gateway mode 'isolated' can only be used for an internal network");
    }
    let name = "-o com.docker.network.bridge.name=br-alone";
    let subnets = "--ipv6 --subnet 10.95.0.0/24 --subnet fd00:95::/64";
    network(&host, Host::docker, &format!("--internal {isolated} {name} {subnets} alone"));
    network(&host, Host::hull, "--internal --subnet 10.96.0.0/24 usual");
    for name in ["one", "two"] {
        run(&host, name, &["--network", "alone"]);
    }
    run(&host, "usual", &["--network", "usual"]);
    let [one, two] = ["one", "two"].map(|name| container(&host, name, &[80]));
    container(&host, "usual", &[80]);
    assert_eq!(
        (tcp(&one, "10.95.0.3:80"), udp(&two, "10.95.0.2:80")),
        ("10.95.0.2".into(), "10.95.0.3".into())
    );
    assert_eq!(tcp(&one, "[fd00:95::3]:80"), "fd00:95::2");
    assert_eq!(host.printed(&["ip", "-o", "addr", "show", "br-alone"]), "");
    let here = of_host(&host);
    tcp(&here, "10.96.0.2:80");
    for to in ["10.95.0.2:80", "[fd00:95::2]:80"] {
        nothing(&here, to);
    }
    let routes = inside(&host, "one", "ip route; ip -6 route");
    assert!(!routes.contains("default"), "{routes}");
}

#[test]
fn a_network_of_ipv6_alone_has_everything_that_others_have() {
    let host = host();
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    serve(&outside, &[80]);
    for client in CLIENTS {
        network(&host, client, "--ipv4=false --ipv6 --subnet fd00:97::/64 six");
        let words = ["run", "-d", "--name", "one", "--network", "six", "-p", "8080:80", "-p", "8080:80/udp"];
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        run(&host, "two", &["--network", "six"]);
        let [one, two] = ["one", "two"].map(|name| container(&host, name, &[80]));
        assert_eq!(inside(&host, "one", "ip -4 -o addr | grep -vc ' lo '; true"), "0");
        assert_eq!(tcp(&two, "[fd00:97::2]:80"), "fd00:97::3");
        assert!(inside(&host, "two", "nslookup -type=aaaa one").contains("fd00:97::2"));
        let (to, seen) = ("[2001:db8:1::1]:8080", "2001:db8:1::2");
        assert_eq!((tcp(&outside, to).as_str(), udp(&outside, to).as_str()), (seen, seen));
        tcp(&here, "[::1]:8080");
        tcp(&here, "[2001:db8:1::1]:8080");
        nothing(&here, "127.0.0.1:8080");
        assert_eq!(tcp(&one, "[2001:db8:1::2]:80"), "2001:db8:1::1");
        for (format, name, text) in [
            ("{{.EnableIPv4}} {{.EnableIPv6}} {{len .IPAM.Config}}", "six", "false true 1"),
            (
                "{{with .NetworkSettings.Networks.six}}{{.IPAddress}}, {{.GlobalIPv6Address}}, {{.IPv6Gateway}}{{end}}",
                "one",
                ", fd00:97::2, fd00:97::1",
            ),
        ] {
            assert_eq!(client(&host, &["inspect", "-f", format, name]).ok(), text);
        }
        assert_eq!(client(&host, &["port", "one"]).ok(), "80/tcp -> [::]:8080\n80/udp -> [::]:8080");
        client(&host, &["rm", "-f", "one", "two"]).ok();
        client(&host, &["network", "rm", "six"]).ok();
    }
}

#[test]
fn addresses_and_gateways_are_those_that_the_network_was_made_with() {
    let host = host();
    let outside = beside(&host, 1, "192.0.2");
    serve(&outside, &[80]);
    for client in CLIENTS {
        // Two subnets of a family: the second is for whom the first has no room. The official client
        // sends them in any order.
        network(&host, Host::hull, "--subnet 10.98.0.0/30 --subnet 10.98.1.0/29 pair");
        run(&host, "one", &["--network", "pair"]);
        run(&host, "two", &["--network", "pair"]);
        let [one, two] = ["one", "two"].map(|name| container(&host, name, &[80]));
        for (name, own, gateway) in
            [("one", "10.98.0.2/30", "10.98.0.1"), ("two", "10.98.1.2/29", "10.98.1.1")]
        {
            let shown = inside(&host, name, "ip -4 -o addr show eth0; ip route");
            let route = format!("default via {gateway} dev eth0");
            assert!(shown.contains(&format!("inet {own} ")) && shown.contains(&route), "{name}: {shown}");
        }
        assert_eq!(
            (tcp(&one, "10.98.1.2:80"), tcp(&two, "10.98.0.2:80")),
            ("10.98.0.2".into(), "10.98.1.2".into())
        );
        for from in [&one, &two] {
            assert_eq!(tcp(from, "192.0.2.2:80"), "192.0.2.1");
        }
        // A range of four, one of them kept aside; a gateway that is not the first; small packets.
        let ours =
            "--subnet 10.99.0.0/16 --ip-range 10.99.5.0/30 --aux-address r=10.99.5.1 --gateway 10.99.0.9";
        let options = "-o com.docker.network.bridge.name=br-small -o com.docker.network.driver.mtu=1400";
        network(&host, client, &format!("{ours} {options} range"));
        for (name, address) in [("r0", "10.99.5.0"), ("r2", "10.99.5.2"), ("r3", "10.99.5.3")] {
            run(&host, name, &["--network", "range"]);
            let shown = inside(&host, name, "ip -4 -o addr show eth0; ip route; cat /sys/class/net/eth0/mtu");
            let lines =
                [format!("inet {address}/16 "), "default via 10.99.0.9 dev eth0".into(), "\n1400".into()];
            assert!(lines.iter().all(|line| shown.contains(line)), "{name}: {shown}");
        }
        assert!(host.printed(&["ip", "-o", "addr", "show", "br-small"]).contains("inet 10.99.0.9/16 "));
        assert!(host.printed(&["ip", "link", "show", "br-small"]).contains(" mtu 1400 "));
        assert_eq!(tcp(&container(&host, "r0", &[80]), "192.0.2.2:80"), "192.0.2.1");
        let refused = |words: &[&str], text: &str| {
            let all = [&["run", "--rm", "--network", "range"], words, &["busybox", "true"]].concat();
            client(&host, &all).fails(125, text);
        };
        refused(&[], "no available IPv4 addresses on this network's address pools: range");
        refused(&["--ip", "10.99.5.1"], "Address already in use: network range keeps 10.99.5.1");
        refused(&["--ip", "10.99.0.9"], "Address already in use: network range keeps 10.99.0.9");
        // Outside of the range, and in the subnet all the same.
        run(&host, "r7", &["--network", "range", "--ip", "10.99.7.7"]);
        host.hull(&["rm", "-f", "one", "two", "r0", "r2", "r3", "r7"]).ok();
        client(&host, &["network", "rm", "pair", "range"]).ok();
    }
}
