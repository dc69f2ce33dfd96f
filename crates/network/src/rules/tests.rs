//! The tables by values: the frame in full once, then what networks and containers add to it.

use expect_test::{Expect, expect};

use super::*;
use crate::record::{Mac, Subnet};
use crate::ruleset::Change;

pub(crate) fn network(id: &str, link: &str, pools: &[&str]) -> Network {
    let subnet = |pool: &&str| Subnet {
        pool: pool.parse().unwrap(),
        range: None,
        gateway: None,
        reserved: std::collections::BTreeMap::default(),
        asked: false,
    };
    Network {
        id: id.to_owned(),
        name: id.to_owned(),
        driver: Driver::Bridge(Bridge {
            link: link.to_owned(),
            default: false,
            icc: true,
            masquerade: true,
            binding: None,
            mtu: None,
            prefix: "eth".to_owned(),
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            foreign: false,
        }),
        subnets: pools.iter().map(subnet).collect(),
        ipv4: true,
        ipv6: pools.len() > 1,
        internal: false,
        attachable: false,
        labels: std::collections::BTreeMap::default(),
        options: std::collections::BTreeMap::default(),
        ipam_options: std::collections::BTreeMap::default(),
        created: 0,
    }
}

pub(crate) fn endpoint(network: &str, container: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: format!("{network}-{container}"),
        network: network.to_owned(),
        container: container.to_owned(),
        link: "eth0".to_owned(),
        host_link: format!("veth-{container}"),
        mac: Mac::default(),
        address4: addresses.iter().find_map(|address| address.parse().ok()),
        address6: addresses.iter().find_map(|address| address.parse().ok()),
        link_local: Vec::new(),
        gateway4: None,
        gateway6: None,
        sysctls: Vec::new(),
        names: Vec::new(),
        links: std::collections::BTreeMap::default(),
        published: Vec::new(),
        exposed: Vec::new(),
    }
}

fn bridge(network: &mut Network) -> &mut Bridge {
    match &mut network.driver {
        Driver::Bridge(bridge) => bridge,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn published(
    protocol: Protocol,
    address: &str,
    host: PortRange,
    container: PortRange,
) -> Published {
    Published { protocol, address: address.parse().unwrap(), host, container }
}

fn one(address: &str, host: u16, container: u16) -> Published {
    published(Protocol::Tcp, address, PortRange::one(host), PortRange::one(container))
}

const RELAY: Options =
    Options { ipv4: true, ipv6: true, guard4: false, guard6: false, direct_routing: false, relay: Some(999) };

fn check(networks: &[Network], endpoints: &[Endpoint], options: &Options, expected: Expect) {
    let rules = compile(&Input { networks, endpoints, options });
    let empty = compile(&Input { networks: &[], endpoints: &[], options });
    let change = empty.difference(&rules).unwrap();
    assert_eq!(change.remove, Elements::new());
    // A container that comes alone adds what it would have among all, and takes the same with it.
    for endpoint in endpoints {
        let others: Vec<Endpoint> = endpoints.iter().filter(|one| *one != endpoint).cloned().collect();
        let mut without = compile(&Input { networks, endpoints: &others, options });
        let network = networks.iter().find(|network| network.id == endpoint.network).unwrap();
        let beside = others.iter().filter(|one| one.network == network.id);
        let add = endpoint_elements(network, endpoint, beside, options);
        let before = without.clone();
        let done = without.change(&Change { add, remove: Elements::new() });
        assert_eq!(without, rules);
        without.change(&Change { add: Elements::new(), remove: done.add });
        assert_eq!(without, before);
    }
    let mut out = String::new();
    for element in change.add {
        let text = element.to_string();
        out += text.strip_prefix("inet hull ").unwrap_or(&text);
        out.push('\n');
    }
    expected.assert_eq(&out);
}

#[test]
fn the_frame() {
    let rules = compile(&Input { networks: &[], endpoints: &[], options: &RELAY });
    expect![[r#"
        table inet hull {
          map any4 {
            type inet_proto . inet_service : ipv4_addr . inet_service
          }
          map any6 {
            type inet_proto . inet_service : ipv6_addr . inet_service
          }
          map at4 {
            type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
          }
          map at6 {
            type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service
          }
          set bridges {
            type ifname
          }
          set closed {
            type ifname . ifname
          }
          set home4 {
            type ipv4_addr . ifname
            flags interval
          }
          set home6 {
            type ipv6_addr . ifname
            flags interval
          }
          set internal {
            type ifname
          }
          map into4 {
            type ifname : verdict
          }
          map into6 {
            type ifname : verdict
          }
          set links4 {
            type ipv4_addr . ipv4_addr . inet_proto . inet_service
            flags interval
          }
          set links6 {
            type ipv6_addr . ipv6_addr . inet_proto . inet_service
            flags interval
          }
          set masquerade4 {
            type ipv4_addr
            flags interval
          }
          set masquerade6 {
            type ipv6_addr
            flags interval
          }
          set open {
            type ifname . ifname
          }
          set open4 {
            type inet_proto . ipv4_addr . inet_service
            flags interval
          }
          set open6 {
            type inet_proto . ipv6_addr . inet_service
            flags interval
          }
          set protected4 {
            type ipv4_addr
            flags interval
          }
          set protected6 {
            type ipv6_addr
            flags interval
          }
          map ranges4 {
            type inet_proto . ipv4_addr . inet_service : ipv4_addr
            flags interval
          }
          map ranges6 {
            type inet_proto . ipv6_addr . inet_service : ipv6_addr
            flags interval
          }
          set relay-any {
            type inet_proto . inet_service
          }
          set relay-at {
            type inet_proto . ipv6_addr . inet_service
          }
          set relay-ranges {
            type inet_proto . ipv6_addr . inet_service
            flags interval
          }
          chain confined {
            meta nfproto ipv4 ip daddr . iifname @home4 accept comment "its own network"
            meta nfproto ipv4 ip daddr 224.0.0.0/4 accept comment "stays on the link"
            meta nfproto ipv6 ip6 daddr . iifname @home6 accept comment "its own network"
            meta nfproto ipv6 ip6 daddr fe80::/10 accept comment "neighbours are asked for"
            meta nfproto ipv6 ip6 daddr ff00::/8 accept comment "stays on the link"
            drop comment "an internal network reaches nothing else"
          }
          chain foreign-subnet {
            iifname @bridges fib daddr type local accept comment "a gateway's address is one of the host"
            drop comment "containers are reached by published ports only"
          }
          chain arrive {
            type filter hook prerouting priority -300; policy accept;
            meta nfproto ipv4 iifname != "lo" ip daddr 127.0.0.0/8 drop comment "127/8 is never on a wire"
            meta nfproto ipv4 iifname != "lo" ip saddr 127.0.0.0/8 drop comment "127/8 is never on a wire"
            meta nfproto ipv6 meta l4proto 58 icmpv6 type 134 iifname @bridges drop comment "containers are no routers of the host"
            iifname @internal goto confined comment "internal networks"
            meta nfproto ipv4 ip daddr @protected4 iifname != "lo" ip daddr . iifname != @home4 goto foreign-subnet comment "from elsewhere"
            meta nfproto ipv6 ip6 daddr @protected6 iifname != "lo" ip6 daddr . iifname != @home6 goto foreign-subnet comment "from elsewhere"
          }
          chain published {
            meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @at4 comment "published"
            meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4 comment "published"
            meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @ranges4 comment "published"
            meta nfproto ipv6 meta l4proto 6 meta l4proto . ip6 daddr . th dport @relay-at redirect to :999 comment "to the forwarder"
            meta nfproto ipv6 meta l4proto 17 meta l4proto . ip6 daddr . th dport @relay-at accept comment "to the forwarder's own socket"
            meta nfproto ipv6 meta l4proto 6 meta l4proto . ip6 daddr . th dport @relay-ranges redirect to :999 comment "to the forwarder"
            meta nfproto ipv6 meta l4proto 17 meta l4proto . ip6 daddr . th dport @relay-ranges accept comment "to the forwarder's own socket"
            meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @at6 comment "published"
            meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6 comment "published"
            meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @ranges6 comment "published"
            meta nfproto ipv6 meta l4proto 6 meta l4proto . th dport @relay-any redirect to :999 comment "to the forwarder"
          }
          chain publish {
            type nat hook prerouting priority -100; policy accept;
            iifname @internal accept comment "internal networks"
            fib daddr type local goto published comment "addresses of the host"
          }
          chain publish-here {
            type nat hook output priority -100; policy accept;
            fib daddr type local goto published comment "addresses of the host"
          }
          chain receive {
            type filter hook input priority 0; policy accept;
            meta l4proto 6 th dport 999 ct status dnat accept comment "redirected to the forwarder"
            meta l4proto 6 th dport 999 drop comment "the forwarder is nobody's own address"
            meta nfproto ipv6 meta l4proto 17 iifname @internal meta l4proto . ip6 daddr . th dport @relay-at drop comment "internal networks"
            meta nfproto ipv6 meta l4proto 17 iifname @internal meta l4proto . ip6 daddr . th dport @relay-ranges drop comment "internal networks"
            meta nfproto ipv6 meta l4proto 17 iifname @internal meta l4proto . th dport @relay-any drop comment "internal networks"
          }
          chain linked {
            meta nfproto ipv6 meta l4proto 58 icmpv6 type 135 accept comment "who has this address"
            meta nfproto ipv6 meta l4proto 58 icmpv6 type 136 accept comment "who has this address"
            meta nfproto ipv4 ip saddr . ip daddr . meta l4proto . th dport @links4 accept comment "linked"
            meta nfproto ipv6 ip6 saddr . ip6 daddr . meta l4proto . th dport @links6 accept comment "linked"
            ct status dnat accept comment "published"
            drop comment "closed"
          }
          chain into-nat {
            ct status dnat accept comment "published"
            drop comment "not published"
          }
          chain into-unprotected {
            accept comment "every port is open"
          }
          chain into-routed {
            meta nfproto ipv4 meta l4proto 1 accept comment "ping"
            meta nfproto ipv6 meta l4proto 58 accept comment "ping"
            meta nfproto ipv4 meta l4proto . ip daddr . th dport @open4 accept comment "published"
            meta nfproto ipv6 meta l4proto . ip6 daddr . th dport @open6 accept comment "published"
            drop comment "not published"
          }
          chain forward {
            type filter hook forward priority 0; policy accept;
            ct state established,related accept comment "known connections"
            iifname . oifname @open accept comment "within a network"
            iifname . oifname @closed goto linked comment "within a closed network"
            iifname @internal drop comment "out of an internal network"
            oifname @internal drop comment "into an internal network"
            meta nfproto ipv4 oifname vmap @into4 comment "into a network"
            meta nfproto ipv6 oifname vmap @into6 comment "into a network"
            iifname @bridges accept comment "out of a network"
          }
          chain leave {
            type nat hook postrouting priority 100; policy accept;
            meta nfproto ipv4 ip saddr 127.0.0.0/8 oifname @bridges masquerade comment "a published port, from 127.0.0.1"
            meta nfproto ipv4 ct status dnat ip saddr . oifname @home4 masquerade comment "a published port, from the same network"
            meta nfproto ipv6 ct status dnat ip6 saddr . oifname @home6 masquerade comment "a published port, from the same network"
            meta nfproto ipv4 ip saddr @masquerade4 ip saddr . oifname != @home4 masquerade comment "out of a network"
            meta nfproto ipv6 ip6 saddr @masquerade6 ip6 saddr . oifname != @home6 masquerade comment "out of a network"
          }
          chain send {
            type filter hook output priority 0; policy accept;
            meta nfproto ipv4 meta l4proto 1 icmp type 5 oifname @bridges drop comment "a neighbour's published port looks like a detour to the host"
            meta nfproto ipv6 meta l4proto 58 icmpv6 type 137 oifname @bridges drop comment "the same"
          }
        }
        table bridge hull {
          set closed {
            type ifname
          }
          set links4 {
            type ipv4_addr . ipv4_addr . inet_proto . inet_service
            flags interval
          }
          set links6 {
            type ipv6_addr . ipv6_addr . inet_proto . inet_service
            flags interval
          }
          chain neighbours {
            meta protocol 0x0806 accept comment "who has this address"
            meta protocol 0x86dd meta l4proto 58 icmpv6 type 135 accept comment "who has this address"
            meta protocol 0x86dd meta l4proto 58 icmpv6 type 136 accept comment "who has this address"
            meta protocol 0x0800 ip saddr . ip daddr . meta l4proto . th dport @links4 accept comment "linked"
            meta protocol 0x86dd ip6 saddr . ip6 daddr . meta l4proto . th dport @links6 accept comment "linked"
            meta l4proto 6 tcp flags & (syn | ack) == syn drop comment "an answer opens nothing"
            meta protocol 0x0800 ip daddr . ip saddr . meta l4proto . th sport @links4 accept comment "answers of the linked"
            meta protocol 0x86dd ip6 daddr . ip6 saddr . meta l4proto . th sport @links6 accept comment "answers of the linked"
            drop comment "closed"
          }
          chain between {
            type filter hook forward priority 0; policy accept;
            iifname @closed oifname @closed goto neighbours comment "ports of closed networks"
          }
        }
    "#]].assert_eq(&rules.to_string());
}

#[test]
fn without_iptables_there_is_nothing() {
    let options = Options { ipv4: false, ipv6: false, ..RELAY };
    let networks = [network("n", "br0", &["172.17.0.0/16"])];
    assert_eq!(
        compile(&Input { networks: &networks, endpoints: &[], options: &options }),
        RuleSet::default()
    );
}

#[test]
fn one_family_alone() {
    let mut web = endpoint("n", "web", &["172.17.0.2/16", "fd00::2/64"]);
    web.published = vec![one("0.0.0.0", 80, 8080), one("::", 80, 8080)];
    let options = Options { ipv6: false, ..RELAY };
    check(
        &[network("n", "br0", &["172.17.0.0/16", "fd00::/64"])],
        &[web],
        &options,
        expect![[r#"
            any4: tcp . 80 : 172.17.0.2 . 8080
            bridges: "br0"
            home4: 172.17.0.0/16 . "br0"
            into4: "br0" : goto into-nat
            masquerade4: 172.17.0.0/16
            open: "br0" . "br0"
            protected4: 172.17.0.0/16
        "#]],
    );
}

#[test]
fn strangers_are_not_forwarded_where_we_began_it() {
    let options = Options { guard4: true, ..Options::default() };
    let rules = compile(&Input { networks: &[], endpoints: &[], options: &options });
    let forward = rules.tables[&Family::Inet].chains.iter().find(|chain| chain.name == "forward").unwrap();
    expect![[r#"meta nfproto ipv4 drop comment "strangers: forwarding was off before""#]]
        .assert_eq(&forward.rules.last().unwrap().to_string());
}

#[test]
fn ports_of_an_ipv4_network() {
    let mut web = endpoint("n", "web", &["172.17.0.2/16"]);
    web.published = vec![
        one("0.0.0.0", 80, 8080),
        one("::", 80, 8080),
        one("127.0.0.1", 81, 81),
        one("::1", 81, 81),
        published(Protocol::Udp, "::", PortRange::one(53), PortRange::one(53)),
        published(Protocol::Sctp, "0.0.0.0", PortRange::one(7), PortRange::one(7)),
        published(
            Protocol::Tcp,
            "0.0.0.0",
            PortRange { first: 90, last: 91 },
            PortRange { first: 190, last: 191 },
        ),
    ];
    check(
        &[network("n", "br0", &["172.17.0.0/16"])],
        &[web],
        &RELAY,
        expect![[r#"
            any4: tcp . 80 : 172.17.0.2 . 8080
            any4: tcp . 90 : 172.17.0.2 . 190
            any4: tcp . 91 : 172.17.0.2 . 191
            any4: sctp . 7 : 172.17.0.2 . 7
            at4: tcp . 127.0.0.1 . 81 : 172.17.0.2 . 81
            bridges: "br0"
            home4: 172.17.0.0/16 . "br0"
            into4: "br0" : goto into-nat
            into6: "br0" : goto into-nat
            masquerade4: 172.17.0.0/16
            open: "br0" . "br0"
            protected4: 172.17.0.0/16
            relay-any: tcp . 80
            relay-any: udp . 53
            relay-at: tcp . ::1 . 81
        "#]],
    );
}

#[test]
fn ports_of_both_families_and_ranges_of_them() {
    let all = PortRange { first: 10_000, last: 59_999 };
    let mut web = endpoint("n", "web", &["172.17.0.2/16", "fd00::2/64"]);
    web.published = vec![
        one("0.0.0.0", 80, 8080),
        one("::", 80, 8080),
        one("::1", 81, 81),
        one("2001:db8::1", 82, 82),
        published(Protocol::Tcp, "0.0.0.0", all, all),
        published(Protocol::Tcp, "::", all, all),
        published(Protocol::Udp, "192.0.2.1", all, all),
    ];
    check(
        &[network("n", "br0", &["172.17.0.0/16", "fd00::/64"])],
        &[web],
        &RELAY,
        expect![[r#"
            any4: tcp . 80 : 172.17.0.2 . 8080
            any6: tcp . 80 : fd00::2 . 8080
            at6: tcp . 2001:db8::1 . 82 : fd00::2 . 82
            bridges: "br0"
            home4: 172.17.0.0/16 . "br0"
            home6: fd00::/64 . "br0"
            into4: "br0" : goto into-nat
            into6: "br0" : goto into-nat
            masquerade4: 172.17.0.0/16
            masquerade6: fd00::/64
            open: "br0" . "br0"
            protected4: 172.17.0.0/16
            protected6: fd00::/64
            ranges4: tcp . 0.0.0.0/0 . 10000-59999 : 172.17.0.2
            ranges4: udp . 192.0.2.1 . 10000-59999 : 172.17.0.2
            ranges6: tcp . ::/0 . 10000-59999 : fd00::2
            relay-at: tcp . ::1 . 80
            relay-at: tcp . ::1 . 81
            relay-ranges: tcp . ::1 . 10000-59999
        "#]],
    );
}

#[test]
fn gateway_modes() {
    let mut routed = network("r", "br-r", &["10.1.0.0/24", "fd01::/64"]);
    bridge(&mut routed).mode4 = GatewayMode::Routed;
    bridge(&mut routed).mode6 = GatewayMode::NatUnprotected;
    let mut web = endpoint("r", "web", &["10.1.0.2/24", "fd01::2/64"]);
    web.published = vec![one("0.0.0.0", 0, 8080), one("::", 80, 8080)];
    let mut inside = network("i", "br-i", &["10.2.0.0/24"]);
    inside.internal = true;
    let mut hidden = endpoint("i", "hidden", &["10.2.0.2/24"]);
    hidden.published = vec![one("0.0.0.0", 81, 8080)];
    let mut plain = network("p", "br-p", &["10.3.0.0/24"]);
    bridge(&mut plain).masquerade = false;
    check(
        &[routed, inside, plain],
        &[web, hidden],
        &RELAY,
        expect![[r#"
            any6: tcp . 80 : fd01::2 . 8080
            bridges: "br-i"
            bridges: "br-p"
            bridges: "br-r"
            home4: 10.1.0.0/24 . "br-r"
            home4: 10.2.0.0/24 . "br-i"
            home4: 10.3.0.0/24 . "br-p"
            home6: fd01::/64 . "br-r"
            internal: "br-i"
            into4: "br-i" : goto into-nat
            into4: "br-p" : goto into-nat
            into4: "br-r" : goto into-routed
            into6: "br-i" : goto into-nat
            into6: "br-p" : goto into-nat
            into6: "br-r" : goto into-unprotected
            masquerade6: fd01::/64
            open: "br-i" . "br-i"
            open: "br-p" . "br-p"
            open: "br-r" . "br-r"
            open4: tcp . 10.1.0.2 . 8080
            relay-at: tcp . ::1 . 80
        "#]],
    );
}

#[test]
fn direct_routing_opens_what_is_published_and_not_for_the_host_alone() {
    let mut web = endpoint("n", "web", &["172.17.0.2/16", "fd00::2/64"]);
    let published = |address: &str, host, container| Published {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        host: PortRange::one(host),
        container: PortRange::one(container),
    };
    web.published = vec![
        published("0.0.0.0", 8080, 80),
        published("::", 8080, 80),
        published("127.0.0.1", 8081, 81),
        published("::1", 8081, 81),
    ];
    let network = network("n", "br0", &["172.17.0.0/16", "fd00::/64"]);
    let names = |direct_routing| -> Vec<String> {
        let options = Options { direct_routing, ..Options::default() };
        let own = [web.clone()];
        let elements = endpoint_elements(&network, &web, own.iter(), &options);
        let subnets = network_elements(&network, &options);
        let all = subnets.into_iter().chain(elements);
        let of_interest = |name: &str| name.starts_with("open") && name != "open" || name.starts_with("prot");
        all.filter(|one| of_interest(one.set.name))
            .map(|one| format!("{} {:?}", one.set.name, one.key))
            .collect()
    };
    assert_eq!(names(false).iter().map(|name| &name[..10]).collect::<Vec<_>>(), ["protected4", "protected6"]);
    let opened = names(true);
    assert!(
        opened.len() == 2 && opened[0].starts_with("open4") && opened[1].starts_with("open6"),
        "{opened:?}"
    );
}

#[test]
fn without_communication_links_open_what_is_exposed() {
    let mut network = network("n", "br0", &["172.17.0.0/16", "fd00::/64"]);
    bridge(&mut network).icc = false;
    let mut db = endpoint("n", "db", &["172.17.0.2/16", "fd00::2/64"]);
    db.exposed =
        vec![(Protocol::Tcp, PortRange::one(5432)), (Protocol::Udp, PortRange { first: 1, last: 9 })];
    let mut web = endpoint("n", "web", &["172.17.0.3/16", "fd00::3/64"]);
    web.links.insert("database".into(), "db".into());
    web.exposed = vec![(Protocol::Tcp, PortRange::one(80))];
    let other = endpoint("n", "other", &["172.17.0.4/16"]);
    check(
        &[network],
        &[db, web, other],
        &Options::default(),
        expect![[r#"
            bridges: "br0"
            closed: "br0" . "br0"
            home4: 172.17.0.0/16 . "br0"
            home6: fd00::/64 . "br0"
            into4: "br0" : goto into-nat
            into6: "br0" : goto into-nat
            links4: 172.17.0.3 . 172.17.0.2 . tcp . 5432
            links4: 172.17.0.3 . 172.17.0.2 . udp . 1-9
            links6: fd00::3 . fd00::2 . tcp . 5432
            links6: fd00::3 . fd00::2 . udp . 1-9
            masquerade4: 172.17.0.0/16
            masquerade6: fd00::/64
            protected4: 172.17.0.0/16
            protected6: fd00::/64
            bridge hull closed: "veth-db"
            bridge hull closed: "veth-other"
            bridge hull closed: "veth-web"
            bridge hull links4: 172.17.0.3 . 172.17.0.2 . tcp . 5432
            bridge hull links4: 172.17.0.3 . 172.17.0.2 . udp . 1-9
            bridge hull links6: fd00::3 . fd00::2 . tcp . 5432
            bridge hull links6: fd00::3 . fd00::2 . udp . 1-9
        "#]],
    );
}

#[test]
fn the_order_of_records_is_no_matter() {
    let networks = [network("a", "br-a", &["10.1.0.0/24"]), network("b", "br-b", &["10.2.0.0/24"])];
    let mut web = endpoint("a", "web", &["10.1.0.2/24"]);
    web.published = vec![one("0.0.0.0", 80, 80)];
    let endpoints = [web, endpoint("b", "db", &["10.2.0.2/24"])];
    let rules = compile(&Input { networks: &networks, endpoints: &endpoints, options: &RELAY });
    let (mut back, mut behind) = (networks.to_vec(), endpoints.to_vec());
    back.reverse();
    behind.reverse();
    assert_eq!(compile(&Input { networks: &back, endpoints: &behind, options: &RELAY }), rules);
}

#[test]
fn a_difference_takes_and_gives_elements_only() {
    let networks = [network("a", "br-a", &["10.1.0.0/24"])];
    let mut web = endpoint("a", "web", &["10.1.0.2/24"]);
    web.published = vec![one("0.0.0.0", 80, 80)];
    let mut moved = web.clone();
    moved.address4 = Some("10.1.0.9/24".parse().unwrap());
    let with =
        |endpoint: Endpoint| compile(&Input { networks: &networks, endpoints: &[endpoint], options: &RELAY });
    let (before, after) = (with(web), with(moved));
    let change = before.difference(&after).unwrap();
    assert_eq!((change.remove.len(), change.add.len()), (1, 1));
    let mut rules = before.clone();
    assert_eq!(rules.change(&change), change);
    assert_eq!(rules, after);
    // Again, it changes nothing.
    assert!(rules.change(&Change { remove: Elements::new(), ..change }).is_empty());
    let guarded = Options { guard4: true, ..RELAY };
    let other = compile(&Input { networks: &networks, endpoints: &[], options: &guarded });
    assert_eq!(before.difference(&other), None);
}

#[test]
fn connections_to_the_loopback_are_led_where_packets_are_translated() {
    let range = |first, last| PortRange { first, last };
    let mut own = endpoint("n1", "c1", &["10.1.0.2/24", "fd00:1::2/64"]);
    own.published = vec![
        one("0.0.0.0", 8080, 80),
        one("127.0.0.2", 8081, 81),
        one("192.0.2.1", 8082, 82),
        one("::", 8080, 80),
        published(Protocol::Udp, "0.0.0.0", PortRange::one(53), PortRange::one(53)),
        published(Protocol::Tcp, "0.0.0.0", range(9000, 9001), range(90, 91)),
        published(Protocol::Tcp, "0.0.0.0", range(10_000, 10_256), range(10_000, 10_256)),
    ];
    let shown = |network: &Network, options: &Options| {
        let ways = led(network, &own, options);
        ways.iter().map(|way| format!("{} {}", way.from, way.to)).collect::<Vec<_>>().join("\n")
    };
    let mut network = network("n1", "br1", &["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(
        shown(&network, &RELAY),
        "0.0.0.0:8080 10.1.0.2:80\n127.0.0.2:8081 10.1.0.2:81\n0.0.0.0:9000 10.1.0.2:90\n0.0.0.0:9001 10.1.0.2:91"
    );
    assert_eq!(shown(&network, &Options { ipv4: false, ..RELAY }), "");
    bridge(&mut network).mode4 = GatewayMode::Routed;
    assert_eq!(shown(&network, &RELAY), "");
    bridge(&mut network).mode4 = GatewayMode::Nat;
    network.internal = true;
    assert_eq!(shown(&network, &RELAY), "");
}
