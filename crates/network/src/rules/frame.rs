//! The chains and rules, which are always the same, and their empty sets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Options;
use crate::ruleset::{
    Chain, DNAT, Data, ESTABLISHED_RELATED, Family, Hook, IPV4, IPV6, Kind, LOCAL, Point, Rule, SYN, Set,
    Statement, Subject, Table, Test, Type, Verdict,
};

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_ARP`.
const ETHER_IPV4: u32 = 0x0800;
const ETHER_IPV6: u32 = 0x86dd;
const ETHER_ARP: u32 = 0x0806;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP: u32 = 1;
const ICMP6: u32 = 58;
const ICMP_REDIRECT: u32 = 5;
const ROUTER_ADVERTISEMENT: u32 = 134;
const NEIGHBOUR_SOLICITATION: u32 = 135;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
const ICMP6_REDIRECT: u32 = 137;

/// Both tables without a single element.
pub(super) fn tables(options: &Options) -> BTreeMap<Family, Table> {
    BTreeMap::from([
        (Family::Inet, Table { sets: inet_sets(), chains: inet_chains(options) }),
        (Family::Bridge, Table { sets: bridge_sets(), chains: bridge_chains() }),
    ])
}

fn inet_sets() -> BTreeMap<&'static str, Set> {
    use Type::{Link, Port, Protocol};
    let mut sets = BTreeMap::from([
        ("bridges", Set::new(&[Link])),
        ("internal", Set::new(&[Link])),
        // Pairs of a bridge with itself: of those whose containers may talk, and of the others.
        ("open", Set::new(&[Link, Link])),
        ("closed", Set::new(&[Link, Link])),
        ("relay-any", Set::new(&[Protocol, Port])),
        ("relay-at", Set::new(&[Protocol, Type::Address6, Port])),
        ("relay-ranges", Set::interval(&[Protocol, Type::Address6, Port])),
    ]);
    sets.extend(link_sets());
    for (address, names) in [
        (Type::Address4, ["into4", "home4", "protected4", "masquerade4", "at4", "any4", "ranges4", "open4"]),
        (Type::Address6, ["into6", "home6", "protected6", "masquerade6", "at6", "any6", "ranges6", "open6"]),
    ] {
        let [into, home, protected, masquerade, at, any, ranges, open] = names;
        let target = || Data::Fields(vec![address, Port]);
        sets.insert(into, Set::new(&[Link]).map(Data::Verdict));
        sets.insert(home, Set::interval(&[address, Link]));
        sets.insert(protected, Set::interval(&[address]));
        sets.insert(masquerade, Set::interval(&[address]));
        sets.insert(at, Set::new(&[Protocol, address, Port]).map(target()));
        sets.insert(any, Set::new(&[Protocol, Port]).map(target()));
        let ports = Set::interval(&[Protocol, address, Port]);
        sets.insert(ranges, ports.clone().map(Data::Fields(vec![address])));
        sets.insert(open, ports);
    }
    sets
}

fn bridge_sets() -> BTreeMap<&'static str, Set> {
    let mut sets = BTreeMap::from([("closed", Set::new(&[Type::Link]))]);
    sets.extend(link_sets());
    sets
}

fn link_sets() -> [(&'static str, Set); 2] {
    let link = |address| Set::interval(&[address, address, Type::Protocol, Type::Port]);
    [("links4", link(Type::Address4)), ("links6", link(Type::Address6))]
}

fn inet_chains(options: &Options) -> Vec<Chain> {
    let mut chains = vec![confined(), foreign_subnet(), arrive()];
    chains.extend(publish(options));
    chains.extend(forward(options));
    chains.push(leave());
    chains.push(base("send", Kind::Filter, Point::Output, 0, {
        let to_containers = || is_in(&[Subject::OutLink], "bridges");
        vec![
            rule(
                "a neighbour's published port looks like a detour to the host",
                [icmp(ICMP_REDIRECT), vec![to_containers(), drop_it()]].concat(),
            ),
            rule("the same", [icmp6(ICMP6_REDIRECT), vec![to_containers(), drop_it()]].concat()),
        ]
    }));
    chains
}

/// What containers of internal networks send to the host.
fn confined() -> Chain {
    let within = |subject, net: IpNet| Statement::Match(subject, Test::Within(net));
    let net4 = |address, len| IpNet::V4(Ipv4Net::new_assert(address, len));
    let net6 = |address, len| IpNet::V6(Ipv6Net::new_assert(address, len));
    let home4 = is_in(&[Subject::Destination4, Subject::InLink], "home4");
    let home6 = is_in(&[Subject::Destination6, Subject::InLink], "home6");
    let multicast4 = within(Subject::Destination4, net4(Ipv4Addr::new(224, 0, 0, 0), 4));
    let multicast6 = within(Subject::Destination6, net6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8));
    let link_local = within(Subject::Destination6, net6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
    plain(
        "confined",
        vec![
            rule("its own network", vec![ipv4(), home4, accept()]),
            rule("stays on the link", vec![ipv4(), multicast4, accept()]),
            rule("its own network", vec![ipv6(), home6, accept()]),
            rule("neighbours are asked for", vec![ipv6(), link_local, accept()]),
            rule("stays on the link", vec![ipv6(), multicast6, accept()]),
            rule("an internal network reaches nothing else", vec![drop_it()]),
        ],
    )
}

fn foreign_subnet() -> Chain {
    let own = Statement::Match(Subject::DestinationKind, Test::Number(LOCAL));
    plain(
        "foreign-subnet",
        vec![
            rule(
                "a gateway's address is one of the host",
                vec![is_in(&[Subject::InLink], "bridges"), own, accept()],
            ),
            rule("containers are reached by published ports only", vec![drop_it()]),
        ],
    )
}

/// Before connection tracking: what cannot be right.
fn arrive() -> Chain {
    let elsewhere = || Statement::Match(Subject::InLink, Test::NotLink("lo"));
    let loopback = |subject| {
        Statement::Match(
            subject,
            Test::Within(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
        )
    };
    let not_home =
        |subject, home| Statement::In { key: vec![subject, Subject::InLink], set: home, is: false };
    let protected = |family, subject, set, home| {
        let go = Statement::Verdict(Verdict::Goto("foreign-subnet"));
        vec![family, is_in(&[subject], set), elsewhere(), not_home(subject, home), go]
    };
    let advertised = [icmp6(ROUTER_ADVERTISEMENT), vec![is_in(&[Subject::InLink], "bridges"), drop_it()]];
    base(
        "arrive",
        Kind::Filter,
        Point::Prerouting,
        -300,
        vec![
            rule(
                "127/8 is never on a wire",
                vec![ipv4(), elsewhere(), loopback(Subject::Destination4), drop_it()],
            ),
            rule(
                "127/8 is never on a wire",
                vec![ipv4(), elsewhere(), loopback(Subject::Source4), drop_it()],
            ),
            rule("containers are no routers of the host", advertised.concat()),
            rule(
                "internal networks",
                vec![is_in(&[Subject::InLink], "internal"), Statement::Verdict(Verdict::Goto("confined"))],
            ),
            rule("from elsewhere", protected(ipv4(), Subject::Destination4, "protected4", "home4")),
            rule("from elsewhere", protected(ipv6(), Subject::Destination6, "protected6", "home6")),
        ],
    )
}

/// From ports of the host to containers.
fn publish(options: &Options) -> Vec<Chain> {
    use Subject::{Destination4, Destination6, DestinationPort, TransportProtocol};
    let at = |address| vec![TransportProtocol, address, DestinationPort];
    let any = || vec![TransportProtocol, DestinationPort];
    let dnat = |six, key, map| {
        let family = if six { ipv6() } else { ipv4() };
        rule("published", vec![family, Statement::Dnat { six, key, map }])
    };
    let mut rules = vec![
        dnat(false, at(Destination4), "at4"),
        dnat(false, any(), "any4"),
        dnat(false, at(Destination4), "ranges4"),
    ];
    let relay = |key: &[Subject], set| {
        let port = options.relay?;
        let tcp = Statement::Match(TransportProtocol, Test::Number(TCP));
        Some(rule("to the forwarder", vec![ipv6(), tcp, is_in(key, set), Statement::Redirect(port)]))
    };
    let left_alone = |set| {
        options.relay?;
        let udp = Statement::Match(TransportProtocol, Test::Number(UDP));
        let found = is_in(&at(Destination6), set);
        Some(rule("to the forwarder's own socket", vec![ipv6(), udp, found, accept()]))
    };
    // ::1 before the maps that know any address.
    for set in ["relay-at", "relay-ranges"] {
        rules.extend(relay(&at(Destination6), set));
        rules.extend(left_alone(set));
    }
    rules.push(dnat(true, at(Destination6), "at6"));
    rules.push(dnat(true, any(), "any6"));
    rules.push(dnat(true, at(Destination6), "ranges6"));
    rules.extend(relay(&any(), "relay-any"));
    let local = || {
        vec![rule(
            "addresses of the host",
            vec![
                Statement::Match(Subject::DestinationKind, Test::Number(LOCAL)),
                Statement::Verdict(Verdict::Goto("published")),
            ],
        )]
    };
    // The forwarder would speak for them from the host, which may go where they may not.
    let inside = vec![rule(
        "internal networks",
        vec![is_in(&[Subject::InLink], "internal"), Statement::Verdict(Verdict::Accept)],
    )];
    let mut chains = vec![
        plain("published", rules),
        base("publish", Kind::Nat, Point::Prerouting, -100, [inside, local()].concat()),
        base("publish-here", Kind::Nat, Point::Output, -100, local()),
    ];
    chains.extend(options.relay.map(receive));
    chains
}

/// What comes to the forwarder, at its own port and, of UDP, at the published ones.
fn receive(port: u16) -> Chain {
    use Subject::{Destination6, DestinationPort, TransportProtocol};
    let to_it = || {
        vec![
            Statement::Match(TransportProtocol, Test::Number(TCP)),
            Statement::Match(DestinationPort, Test::Number(port.into())),
        ]
    };
    let redirected = Statement::Match(Subject::Status, Test::AnyOf(DNAT));
    let mut rules = vec![
        rule("redirected to the forwarder", [to_it(), vec![redirected, accept()]].concat()),
        rule("the forwarder is nobody's own address", [to_it(), vec![drop_it()]].concat()),
    ];
    let at = || vec![TransportProtocol, Destination6, DestinationPort];
    let any = vec![TransportProtocol, DestinationPort];
    for (set, key) in [("relay-at", at()), ("relay-ranges", at()), ("relay-any", any)] {
        let udp = Statement::Match(TransportProtocol, Test::Number(UDP));
        let inside = is_in(&[Subject::InLink], "internal");
        rules.push(rule("internal networks", vec![ipv6(), udp, inside, is_in(&key, set), drop_it()]));
    }
    base("receive", Kind::Filter, Point::Input, 0, rules)
}

/// Who may go where.
fn forward(options: &Options) -> Vec<Chain> {
    let translated = || Statement::Match(Subject::Status, Test::AnyOf(DNAT));
    let ports = |address| vec![Subject::TransportProtocol, address, Subject::DestinationPort];
    let ping = [
        rule(
            "ping",
            vec![ipv4(), Statement::Match(Subject::TransportProtocol, Test::Number(ICMP)), accept()],
        ),
        rule(
            "ping",
            vec![ipv6(), Statement::Match(Subject::TransportProtocol, Test::Number(ICMP6)), accept()],
        ),
    ];
    let open = [
        rule("published", vec![ipv4(), is_in(&ports(Subject::Destination4), "open4"), accept()]),
        rule("published", vec![ipv6(), is_in(&ports(Subject::Destination6), "open6"), accept()]),
    ];
    let not_published = [rule("not published", vec![drop_it()])];
    let mut nat = vec![rule("published", vec![translated(), accept()])];
    if options.direct_routing {
        nat.extend_from_slice(&open);
    }
    let both = [Subject::InLink, Subject::OutLink];
    let known = Statement::Match(Subject::State, Test::AnyOf(ESTABLISHED_RELATED));
    let into = |map| Statement::Vmap { key: vec![Subject::OutLink], map };
    let mut rules = vec![
        rule("known connections", vec![known, accept()]),
        rule("within a network", vec![is_in(&both, "open"), accept()]),
        rule(
            "within a closed network",
            vec![is_in(&both, "closed"), Statement::Verdict(Verdict::Goto("linked"))],
        ),
        rule("out of an internal network", vec![is_in(&[Subject::InLink], "internal"), drop_it()]),
        rule("into an internal network", vec![is_in(&[Subject::OutLink], "internal"), drop_it()]),
        rule("into a network", vec![ipv4(), into("into4")]),
        rule("into a network", vec![ipv6(), into("into6")]),
        rule("out of a network", vec![is_in(&[Subject::InLink], "bridges"), accept()]),
    ];
    for (on, family) in [(options.guard4, ipv4()), (options.guard6, ipv6())] {
        if on {
            rules.push(rule("strangers: forwarding was off before", vec![family, drop_it()]));
        }
    }
    vec![
        plain("linked", linked()),
        plain("into-nat", [&nat[..], &not_published].concat()),
        plain("into-unprotected", vec![rule("every port is open", vec![accept()])]),
        plain("into-routed", [&ping[..], &open, &not_published].concat()),
        base("forward", Kind::Filter, Point::Forward, 0, rules),
    ]
}

/// Between containers of a closed network, as far as their packets come here.
fn linked() -> Vec<Rule> {
    let link = |family, source, destination, set| {
        let key = [source, destination, Subject::TransportProtocol, Subject::DestinationPort];
        rule("linked", vec![family, is_in(&key, set), accept()])
    };
    let translated = Statement::Match(Subject::Status, Test::AnyOf(DNAT));
    vec![
        rule("who has this address", [icmp6(NEIGHBOUR_SOLICITATION), vec![accept()]].concat()),
        rule("who has this address", [icmp6(NEIGHBOUR_ADVERTISEMENT), vec![accept()]].concat()),
        link(ipv4(), Subject::Source4, Subject::Destination4, "links4"),
        link(ipv6(), Subject::Source6, Subject::Destination6, "links6"),
        rule("published", vec![translated, accept()]),
        rule("closed", vec![drop_it()]),
    ]
}

/// Whose address a packet has when it leaves.
fn leave() -> Chain {
    let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    let masquerade = |family, subject, set, home| {
        let abroad = Statement::In { key: vec![subject, Subject::OutLink], set: home, is: false };
        rule("out of a network", vec![family, is_in(&[subject], set), abroad, Statement::Masquerade])
    };
    // By addresses: with br_netfilter the link that it came in by is not known here.
    let hairpin = |family, subject, home| {
        let translated = Statement::Match(Subject::Status, Test::AnyOf(DNAT));
        let back = is_in(&[subject, Subject::OutLink], home);
        rule("a published port, from the same network", vec![family, translated, back, Statement::Masquerade])
    };
    base(
        "leave",
        Kind::Nat,
        Point::Postrouting,
        100,
        vec![
            rule(
                "a published port, from 127.0.0.1",
                vec![
                    ipv4(),
                    Statement::Match(Subject::Source4, Test::Within(loopback)),
                    is_in(&[Subject::OutLink], "bridges"),
                    Statement::Masquerade,
                ],
            ),
            hairpin(ipv4(), Subject::Source4, "home4"),
            hairpin(ipv6(), Subject::Source6, "home6"),
            masquerade(ipv4(), Subject::Source4, "masquerade4", "home4"),
            masquerade(ipv6(), Subject::Source6, "masquerade6", "home6"),
        ],
    )
}

/// Frames between ports of a bridge that are closed to each other.
fn bridge_chains() -> Vec<Chain> {
    use Subject::{Destination4, Destination6, Source4, Source6, TransportProtocol};
    let ether = |kind| Statement::Match(Subject::EtherType, Test::Number(kind));
    let tcp = || Statement::Match(TransportProtocol, Test::Number(TCP));
    let opening = Statement::Match(Subject::TcpOpening, Test::Number(SYN));
    let neighbour = |kind| {
        vec![
            ether(ETHER_IPV6),
            Statement::Match(TransportProtocol, Test::Number(ICMP6)),
            Statement::Match(Subject::Icmp6Type, Test::Number(kind)),
            accept(),
        ]
    };
    let there = |kind, from, to, set| {
        let key = [from, to, TransportProtocol, Subject::DestinationPort];
        rule("linked", vec![ether(kind), is_in(&key, set), accept()])
    };
    let back = |kind, from, to, set| {
        let key = [to, from, TransportProtocol, Subject::SourcePort];
        rule("answers of the linked", vec![ether(kind), is_in(&key, set), accept()])
    };
    let neighbours = plain(
        "neighbours",
        vec![
            rule("who has this address", vec![ether(ETHER_ARP), accept()]),
            rule("who has this address", neighbour(NEIGHBOUR_SOLICITATION)),
            rule("who has this address", neighbour(NEIGHBOUR_ADVERTISEMENT)),
            there(ETHER_IPV4, Source4, Destination4, "links4"),
            there(ETHER_IPV6, Source6, Destination6, "links6"),
            rule("an answer opens nothing", vec![tcp(), opening, drop_it()]),
            back(ETHER_IPV4, Source4, Destination4, "links4"),
            back(ETHER_IPV6, Source6, Destination6, "links6"),
            rule("closed", vec![drop_it()]),
        ],
    );
    let between = base(
        "between",
        Kind::Filter,
        Point::Forward,
        0,
        vec![rule(
            "ports of closed networks",
            vec![
                is_in(&[Subject::InLink], "closed"),
                is_in(&[Subject::OutLink], "closed"),
                Statement::Verdict(Verdict::Goto("neighbours")),
            ],
        )],
    );
    vec![neighbours, between]
}

fn base(name: &'static str, kind: Kind, point: Point, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name, hook: Some(Hook { kind, point, priority }), rules }
}

fn plain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain { name, hook: None, rules }
}

fn rule(comment: &'static str, statements: Vec<Statement>) -> Rule {
    Rule { statements, comment }
}

fn is_in(key: &[Subject], set: &'static str) -> Statement {
    Statement::In { key: key.to_vec(), set, is: true }
}

fn ipv4() -> Statement {
    Statement::Match(Subject::NetworkProtocol, Test::Number(IPV4))
}

fn ipv6() -> Statement {
    Statement::Match(Subject::NetworkProtocol, Test::Number(IPV6))
}

fn icmp(kind: u32) -> Vec<Statement> {
    vec![
        ipv4(),
        Statement::Match(Subject::TransportProtocol, Test::Number(ICMP)),
        Statement::Match(Subject::IcmpType, Test::Number(kind)),
    ]
}

fn icmp6(kind: u32) -> Vec<Statement> {
    vec![
        ipv6(),
        Statement::Match(Subject::TransportProtocol, Test::Number(ICMP6)),
        Statement::Match(Subject::Icmp6Type, Test::Number(kind)),
    ]
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn drop_it() -> Statement {
    Statement::Verdict(Verdict::Drop)
}
