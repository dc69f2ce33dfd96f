//! Who reaches whom, and as whom: real packets, one cell for each rule and outcome.
#![allow(clippy::print_stdout, reason = "the table is for whoever runs this with --nocapture")]

use std::net::{IpAddr, SocketAddr};

use hull_network::namespace::Namespace;
use hull_network::record::{GatewayMode, PortRange, Protocol, Published};
use hull_network::rtnl::{Batch, Kind, NewLink, Peer};
use hull_network::rules::Options;

use crate::fire_world::{Fate, HOST, Site, add_route, address_of, ask, filter_bridged, published, serve};
use crate::world::{bridge, bridge_of, endpoint, rtnl};

use Protocol::{Tcp, Udp};

/// From whom, by what, to where; what that is; what must become of it.
type Cell<'a> = (&'a str, Protocol, &'a str, &'a str, &'a str);

/// Asks everything, prints the table, and fails with all cells that are wrong.
#[track_caller]
fn check(title: &str, machines: &[(&str, &Namespace)], cells: &[Cell<'_>]) {
    let mut table = format!("{title}\n");
    let mut wrong = Vec::new();
    for &(from, protocol, to, what, expected) in cells {
        let expected = match expected {
            "-" => Fate::Silence,
            "refused" => Fate::Refused,
            seen => Fate::Through(seen.parse().unwrap()),
        };
        let machine = machines.iter().find(|(name, _)| *name == from).unwrap().1;
        let target: SocketAddr = to.parse().unwrap();
        let fate = ask(machine, protocol, target, &expected);
        let line = format!("  {from:10} {} {to:22} {what:44} {fate}", protocol.name());
        table += &line;
        table.push('\n');
        if fate != expected {
            wrong.push(format!("{line} (must be: {expected})"));
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "wrong cells:\n{}", wrong.join("\n"));
}

fn ports(last: u16) -> PortRange {
    PortRange { first: 9000, last }
}

#[test]
fn nat_networks() {
    let mut site = Site::new();
    let one = site.network(bridge(1, true));
    let two = site.network(bridge(2, false));
    let mut web = endpoint(&one, 2);
    web.published = vec![
        published(Tcp, "0.0.0.0:80", 8080),
        published(Udp, "0.0.0.0:80", 8080),
        published(Tcp, "[::]:80", 8080),
        published(Udp, "[::]:80", 8080),
        published(Tcp, "127.0.0.1:81", 8080),
        published(Tcp, "192.0.2.1:82", 8081),
        Published {
            protocol: Tcp,
            address: "0.0.0.0".parse().unwrap(),
            host: ports(58999),
            container: ports(58999),
        },
    ];
    let a = site.container(&one, web);
    let b = site.container(&one, endpoint(&one, 3));
    let c = site.container(&two, endpoint(&two, 2));
    serve(&site.here, &[7000]);
    serve(&site.client, &[7000]);
    site.apply(&Options::default());
    let machines = [
        ("host", &site.here),
        ("client", &site.client),
        ("neighbour", &site.neighbour),
        ("a", &a),
        ("b", &b),
        ("c", &c),
    ];
    check(
        "NAT, from outside",
        &machines,
        &[
            ("client", Tcp, "192.0.2.1:80", "published", "192.0.2.2"),
            ("client", Udp, "192.0.2.1:80", "published", "192.0.2.2"),
            ("client", Tcp, "[2001:db8::1]:80", "published", "2001:db8::2"),
            ("client", Udp, "[2001:db8::1]:80", "published", "2001:db8::2"),
            ("client", Tcp, "192.0.2.1:82", "published at this address, other port", "192.0.2.2"),
            ("client", Tcp, "192.0.2.1:9500", "one of a range of 50,000", "192.0.2.2"),
            ("client", Tcp, "192.0.2.1:81", "published at 127.0.0.1 only", "refused"),
            ("client", Tcp, "192.0.2.1:8080", "not published", "refused"),
            ("client", Tcp, "[2001:db8::1]:82", "published for IPv4 only", "refused"),
            ("neighbour", Tcp, "10.1.0.2:8080", "a container's own address", "-"),
            ("neighbour", Udp, "10.1.0.2:8080", "a container's own address", "-"),
            ("neighbour", Tcp, "[fd00:1::2]:8080", "a container's own address", "-"),
            ("neighbour", Tcp, "10.1.0.1:7000", "the bridge's address", "-"),
            ("neighbour", Tcp, "10.1.0.1:80", "published, at the bridge's address", "-"),
            ("neighbour", Tcp, "192.0.2.1:7000", "a program of the host", "192.0.2.3"),
        ],
    );
    check(
        "NAT, from the host",
        &machines,
        &[
            ("host", Tcp, "127.0.0.1:80", "published", "10.1.0.1"),
            ("host", Udp, "127.0.0.1:80", "published", "10.1.0.1"),
            ("host", Tcp, "127.0.0.1:81", "published at 127.0.0.1 only", "10.1.0.1"),
            ("host", Tcp, "127.0.0.1:9500", "one of a range", "10.1.0.1"),
            ("host", Tcp, "192.0.2.1:80", "published", "192.0.2.1"),
            ("host", Tcp, "[2001:db8::1]:80", "published", "2001:db8::1"),
            ("host", Udp, "[2001:db8::1]:80", "published", "2001:db8::1"),
            ("host", Tcp, "192.0.2.1:81", "published at 127.0.0.1 only", "refused"),
            ("host", Tcp, "10.1.0.2:8081", "a container's own address", "10.1.0.1"),
            ("host", Tcp, "[fd00:1::2]:8081", "a container's own address", "fd00:1::1"),
        ],
    );
    check(
        "NAT, from containers",
        &machines,
        &[
            ("b", Tcp, "10.1.0.2:8081", "a neighbour's own address", "10.1.0.3"),
            ("b", Tcp, "192.0.2.1:80", "a neighbour's published port", "10.1.0.1"),
            ("b", Tcp, "192.0.2.1:80", "again: no detour was announced", "10.1.0.1"),
            ("b", Udp, "192.0.2.1:80", "a neighbour's published port", "10.1.0.1"),
            ("b", Tcp, "[2001:db8::1]:80", "a neighbour's published port", "fd00:1::1"),
            ("b", Tcp, "10.1.0.1:80", "published, at its gateway", "10.1.0.1"),
            ("a", Tcp, "192.0.2.1:80", "its own published port", "10.1.0.1"),
            ("a", Tcp, "[2001:db8::1]:80", "its own published port", "fd00:1::1"),
            ("a", Tcp, "192.0.2.2:7000", "out", "192.0.2.1"),
            ("a", Udp, "192.0.2.2:7000", "out", "192.0.2.1"),
            ("a", Tcp, "[2001:db8::2]:7000", "out", "2001:db8::1"),
            ("c", Tcp, "10.1.0.2:8080", "another network's container", "-"),
            ("c", Udp, "10.1.0.2:8080", "another network's container", "-"),
            ("c", Tcp, "192.0.2.1:80", "another network's published port", "10.1.0.1"),
            ("c", Tcp, "192.0.2.1:81", "published at 127.0.0.1 only", "refused"),
            ("c", Tcp, "10.1.0.1:7000", "the host, at another network's gateway", "10.2.0.2"),
            ("c", Tcp, "10.2.0.1:7000", "the host, at its own gateway", "10.2.0.2"),
        ],
    );
    if filter_bridged(true) {
        check(
            "NAT, from containers, with br_netfilter",
            &machines,
            &[
                ("b", Tcp, "10.1.0.2:8081", "a neighbour's own address", "10.1.0.3"),
                ("b", Udp, "[fd00:1::2]:8081", "a neighbour's own address", "fd00:1::3"),
                ("b", Tcp, "192.0.2.1:80", "a neighbour's published port", "10.1.0.1"),
                ("b", Tcp, "[2001:db8::1]:80", "a neighbour's published port", "fd00:1::1"),
                ("c", Tcp, "10.1.0.2:8080", "another network's container", "-"),
                ("c", Tcp, "192.0.2.1:80", "another network's published port", "10.1.0.1"),
            ],
        );
    }
    filter_bridged(false);
    martians(&site, &a);
}

/// Packets for 127.0.0.1 that come by a wire: from a machine that has given up its own.
fn martians(site: &Site, container: &Namespace) {
    for (machine, link, gateway) in
        [(&site.neighbour, "wan", IpAddr::V4(HOST)), (container, "eth0", "10.1.0.1".parse().unwrap())]
    {
        let mut batch = Batch::new();
        batch.down("lo");
        machine.rtnl().unwrap().run(batch).unwrap();
        machine
            .enter(|| std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"), "1").unwrap())
            .unwrap();
        add_route(machine, "127.0.0.0/8", gateway);
    }
    let machines = [("neighbour", &site.neighbour), ("a", container)];
    serve(&site.here, &[7001]);
    check(
        "127.0.0.1 from a wire",
        &machines,
        &[
            ("neighbour", Tcp, "127.0.0.1:81", "published at 127.0.0.1 only", "-"),
            ("neighbour", Tcp, "127.0.0.1:7001", "a program of the host", "-"),
            ("a", Tcp, "127.0.0.1:81", "published at 127.0.0.1 only", "-"),
            ("a", Udp, "127.0.0.1:7001", "a program of the host", "-"),
        ],
    );
}

#[test]
fn other_kinds_of_networks() {
    let mut site = Site::new();
    let nat = site.network(bridge(1, true));
    let mut internal = bridge(3, true);
    internal.internal = true;
    let internal = site.network(internal);
    let mut routed = bridge(4, true);
    bridge_of(&mut routed).mode4 = GatewayMode::Routed;
    bridge_of(&mut routed).mode6 = GatewayMode::Routed;
    let routed = site.network(routed);
    let mut open = bridge(5, true);
    bridge_of(&mut open).mode4 = GatewayMode::NatUnprotected;
    bridge_of(&mut open).mode6 = GatewayMode::NatUnprotected;
    let open = site.network(open);
    let mut web = endpoint(&nat, 2);
    web.published = vec![published(Tcp, "0.0.0.0:80", 8080), published(Udp, "0.0.0.0:80", 8080)];
    let a = site.container(&nat, web);
    let mut hidden = endpoint(&internal, 2);
    hidden.published = vec![published(Tcp, "0.0.0.0:83", 8080)];
    let d = site.container(&internal, hidden);
    let d2 = site.container(&internal, endpoint(&internal, 3));
    let mut own = endpoint(&routed, 2);
    own.published = vec![published(Tcp, "0.0.0.0:0", 8080), published(Tcp, "[::]:0", 8080)];
    let e = site.container(&routed, own);
    let f = site.container(&open, endpoint(&open, 2));
    serve(&site.here, &[7000]);
    serve(&site.client, &[7000]);
    serve(&site.neighbour, &[7000]);
    // One that makes itself a way out, as it could with a packet socket.
    add_route(&d, "192.0.2.0/24", "10.3.0.1".parse().unwrap());
    add_route(&d, "10.1.0.0/24", "10.3.0.1".parse().unwrap());
    add_route(&d, "2001:db8::/64", "fd00:3::1".parse().unwrap());
    site.apply(&Options::default());
    let machines = [
        ("host", &site.here),
        ("client", &site.client),
        ("neighbour", &site.neighbour),
        ("nat", &a),
        ("internal", &d),
        ("internal-2", &d2),
        ("routed", &e),
        ("open", &f),
    ];
    check(
        "internal",
        &machines,
        &[
            ("internal-2", Tcp, "10.3.0.2:8080", "within the network", "10.3.0.3"),
            ("internal-2", Udp, "[fd00:3::2]:8080", "within the network", "fd00:3::3"),
            ("host", Tcp, "10.3.0.2:8080", "from the host", "10.3.0.1"),
            ("client", Tcp, "192.0.2.1:83", "ports of internal networks are not published", "refused"),
            ("neighbour", Tcp, "10.3.0.2:8080", "in", "-"),
            ("neighbour", Tcp, "[fd00:3::2]:8080", "in", "-"),
            ("nat", Tcp, "10.3.0.2:8080", "in, from another network", "-"),
            ("internal", Tcp, "192.0.2.2:7000", "out", "-"),
            ("internal", Udp, "192.0.2.2:7000", "out", "-"),
            ("internal", Tcp, "[2001:db8::2]:7000", "out", "-"),
            ("internal", Tcp, "10.1.0.2:8080", "to another network", "-"),
            ("internal", Tcp, "192.0.2.1:7000", "to another address of the host", "-"),
            ("internal", Tcp, "[2001:db8::1]:7000", "to another address of the host", "-"),
            ("internal", Tcp, "10.1.0.1:7000", "to another network's gateway", "-"),
            ("internal", Tcp, "192.0.2.1:80", "to a published port", "-"),
            ("internal", Tcp, "10.3.0.1:80", "to a published port, at its gateway", "refused"),
            ("internal", Udp, "10.3.0.1:80", "to a published port, at its gateway", "refused"),
            ("internal", Tcp, "10.3.0.1:7000", "to a program of the host, at its gateway", "10.3.0.2"),
        ],
    );
    check(
        "routed and unprotected",
        &machines,
        &[
            ("neighbour", Tcp, "10.4.0.2:8080", "routed: published", "192.0.2.3"),
            ("neighbour", Tcp, "[fd00:4::2]:8080", "routed: published", "2001:db8::3"),
            ("neighbour", Tcp, "10.4.0.2:8081", "routed: not published", "-"),
            ("neighbour", Udp, "10.4.0.2:8080", "routed: not published", "-"),
            ("nat", Tcp, "10.4.0.2:8080", "routed: published, from a NAT network", "10.4.0.1"),
            ("routed", Tcp, "192.0.2.3:7000", "routed: out, as itself", "10.4.0.2"),
            ("routed", Tcp, "10.1.0.2:8080", "routed: into a NAT network", "-"),
            ("neighbour", Tcp, "10.5.0.2:8080", "unprotected: every port", "192.0.2.3"),
            ("neighbour", Udp, "[fd00:5::2]:8081", "unprotected: every port", "2001:db8::3"),
            ("open", Tcp, "192.0.2.2:7000", "unprotected: out", "192.0.2.1"),
        ],
    );
}

#[test]
fn without_communication_only_links() {
    let mut site = Site::new();
    let mut closed = bridge(6, true);
    bridge_of(&mut closed).icc = false;
    let closed = site.network(closed);
    let mut db = endpoint(&closed, 2);
    db.exposed = vec![(Tcp, PortRange::one(8080)), (Udp, PortRange::one(8080))];
    db.published = vec![published(Tcp, "0.0.0.0:80", 8081)];
    let mut web = endpoint(&closed, 3);
    web.links.insert("db".into(), db.container.clone());
    let g = site.container(&closed, db);
    let h = site.container(&closed, web);
    let i = site.container(&closed, endpoint(&closed, 4));
    serve(&site.client, &[7000]);
    site.apply(&Options::default());
    let machines = [("client", &site.client), ("host", &site.here), ("db", &g), ("web", &h), ("other", &i)];
    for title in ["icc=false", "icc=false, with br_netfilter"] {
        check(
            title,
            &machines,
            &[
                ("web", Tcp, "10.6.0.2:8080", "exposed by the link", "10.6.0.3"),
                ("web", Udp, "10.6.0.2:8080", "exposed by the link", "10.6.0.3"),
                ("web", Tcp, "[fd00:6::2]:8080", "exposed by the link", "fd00:6::3"),
                ("web", Tcp, "10.6.0.2:8081", "not exposed", "-"),
                ("db", Tcp, "10.6.0.3:8080", "a link has one direction", "-"),
                ("other", Tcp, "10.6.0.2:8080", "not linked", "-"),
                ("other", Udp, "[fd00:6::2]:8080", "not linked", "-"),
                ("client", Tcp, "192.0.2.1:80", "published is published", "192.0.2.2"),
                ("other", Tcp, "192.0.2.2:7000", "out", "192.0.2.1"),
                ("host", Tcp, "10.6.0.2:8080", "from the host", "10.6.0.1"),
            ],
        );
        if title == "icc=false" {
            let cell = ("other", Tcp, "192.0.2.1:80", "published is published", "10.6.0.1");
            check(title, &machines, &[cell]);
        }
        filter_bridged(true);
    }
}

#[test]
fn strangers_and_switched_off_rules() {
    let mut site = Site::new();
    let nat = site.network(bridge(1, true));
    let mut web = endpoint(&nat, 2);
    web.published = vec![published(Tcp, "0.0.0.0:80", 8080)];
    let a = site.container(&nat, web);
    // A fourth machine behind the host.
    let farm = Namespace::new().unwrap();
    let peer = Peer { name: "wan", mac: None, namespace: Some(std::os::fd::AsFd::as_fd(&farm)) };
    let mut batch = Batch::new();
    batch.add_link(&NewLink { up: true, ..NewLink::new("farm", Kind::Veth(peer)) });
    rtnl().run(batch).unwrap();
    address_of(&site.here, "farm", &["198.51.100.1/24".into()]);
    address_of(&farm, "wan", &["198.51.100.2/24".into()]);
    add_route(&farm, "0.0.0.0/0", "198.51.100.1".parse().unwrap());
    serve(&farm, &[7000]);
    let open = Options::default();
    let guarded = Options { guard4: true, guard6: true, ..Options::default() };
    let off = Options { ipv4: false, ipv6: false, ..Options::default() };
    let cells = [
        ("forwarding was on before", &open, ["192.0.2.3", "192.0.2.2"]),
        ("forwarding was off before", &guarded, ["-", "192.0.2.2"]),
        ("iptables=false", &off, ["192.0.2.3", "refused"]),
    ];
    for (title, options, [stranger, port]) in cells {
        site.apply(options);
        check(
            title,
            &[("client", &site.client), ("neighbour", &site.neighbour), ("a", &a)],
            &[
                ("neighbour", Tcp, "198.51.100.2:7000", "a stranger to a stranger", stranger),
                ("client", Tcp, "192.0.2.1:80", "published", port),
            ],
        );
    }
    site.apply(&guarded);
    check(
        "out of a network",
        &[("a", &a)],
        &[("a", Tcp, "198.51.100.2:7000", "a container to a stranger", "198.51.100.1")],
    );
}
