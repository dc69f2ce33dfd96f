//! What is chosen, what is refused and in which words.

use std::net::{TcpListener, UdpSocket};

use expect_test::{Expect, expect};

use super::*;

const DUAL: Binding = Binding { default: None, ipv4: Reach::Translated, ipv6: Reach::Translated };
const EPHEMERAL: PortRange = PortRange { first: 32768, last: 32800 };

fn tcp(host: HostPorts, container: PortRange) -> Wanted {
    Wanted { protocol: Protocol::Tcp, address: None, host, container }
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn exactly(port: u16, container: u16) -> Wanted {
    tcp(HostPorts::Exactly(PortRange::one(port)), PortRange::one(container))
}

fn at(address: &str, wanted: Wanted) -> Wanted {
    Wanted { address: Some(address.parse().unwrap()), ..wanted }
}

/// Asks one after the other and shows what each got.
fn check(asked: &[(&str, &[Wanted])], binding: &Binding, busy: &[Listener], expected: Expect) {
    let mut allocation = Allocation::new(EPHEMERAL);
    let mut out = String::new();
    for (holder, wanted) in asked {
        match allocation.ask(holder, wanted, binding, busy) {
            Ok(published) => {
                for Published { protocol, address, host, container } in published {
                    let at = SocketAddr::new(address, host.first);
                    let more = if host.count() > 1 { format!("-{}", host.last) } else { String::new() };
                    out += &format!("{holder}: {at}{more} -> {}/{}\n", show(container), protocol.name());
                }
            }
            Err(error) => out += &format!("{holder}: {error}\n"),
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn exact_ports_at_every_address() {
    check(
        &[("p1", &[exactly(8080, 80)]), ("p2", &[exactly(8080, 81)]), ("p3", &[exactly(8081, 80)])],
        &DUAL,
        &[],
        expect![[r#"
            p1: 0.0.0.0:8080 -> 80/tcp
            p1: [::]:8080 -> 80/tcp
            p2: Bind for 0.0.0.0:8080 failed: port is already allocated: container p1 publishes it
            p3: 0.0.0.0:8081 -> 80/tcp
            p3: [::]:8081 -> 80/tcp
        "#]],
    );
}

#[test]
fn one_address_stands_in_the_way_of_all() {
    let local = at("127.0.0.1", exactly(80, 80));
    check(
        &[
            ("local", &[local]),
            ("lan", &[at("192.0.2.1", exactly(80, 80))]),
            ("all", &[exactly(80, 80)]),
            ("all4", &[at("0.0.0.0", exactly(81, 80))]),
            ("local2", &[at("127.0.0.1", exactly(81, 80))]),
            ("six", &[at("::", exactly(80, 80))]),
            ("udp", &[Wanted { protocol: Protocol::Udp, ..exactly(80, 80) }]),
        ],
        &DUAL,
        &[],
        expect![[r#"
            local: 127.0.0.1:80 -> 80/tcp
            lan: 192.0.2.1:80 -> 80/tcp
            all: Bind for 0.0.0.0:80 failed: port is already allocated: container local publishes it
            all4: 0.0.0.0:81 -> 80/tcp
            local2: Bind for 127.0.0.1:81 failed: port is already allocated: container all4 publishes it
            six: [::]:80 -> 80/tcp
            udp: 0.0.0.0:80 -> 80/udp
            udp: [::]:80 -> 80/udp
        "#]],
    );
}

#[test]
fn random_ports_go_on_behind_the_last() {
    let random = |port| tcp(HostPorts::Random, PortRange::one(port));
    let udp = Wanted { protocol: Protocol::Udp, ..random(53) };
    let busy = [Listener::unknown(Protocol::Tcp, "[::]:32769".parse().unwrap())];
    check(
        &[
            ("p1", &[random(82), exactly(32771, 1)]),
            ("p2", &[random(80), random(443), udp]),
            ("p3", &[at("127.0.0.1", random(80))]),
        ],
        &DUAL,
        &busy,
        expect![[r#"
            p1: 0.0.0.0:32771 -> 1/tcp
            p1: 0.0.0.0:32768 -> 82/tcp
            p1: [::]:32771 -> 1/tcp
            p1: [::]:32768 -> 82/tcp
            p2: 0.0.0.0:32770 -> 80/tcp
            p2: 0.0.0.0:32772 -> 443/tcp
            p2: 0.0.0.0:32768 -> 53/udp
            p2: [::]:32770 -> 80/tcp
            p2: [::]:32772 -> 443/tcp
            p2: [::]:32768 -> 53/udp
            p3: 127.0.0.1:32769 -> 80/tcp
        "#]],
    );
}

#[test]
fn ranges() {
    let singles: Vec<Wanted> = (9000..=9002).zip(90..=92).map(|(host, port)| exactly(host, port)).collect();
    let many = range(10000, 59999);
    let one_of = |first, last, port| tcp(HostPorts::OneOf(range(first, last)), PortRange::one(port));
    check(
        &[
            ("rng", &singles),
            ("rng", &[one_of(9000, 9010, 99), one_of(9000, 9010, 99)]),
            ("many", &[tcp(HostPorts::Exactly(many), many)]),
            ("late", &[exactly(20000, 80)]),
            ("none", &[one_of(9000, 9002, 1)]),
            ("odd", &[tcp(HostPorts::Exactly(range(9100, 9101)), range(90, 92))]),
            ("low", &[tcp(HostPorts::Exactly(range(9100, 9101)), range(90, 91))]),
        ],
        &Binding { ipv6: Reach::None, ..DUAL },
        &[],
        expect![[r#"
            rng: 0.0.0.0:9000-9002 -> 90-92/tcp
            rng: 0.0.0.0:9003 -> 99/tcp
            rng: 0.0.0.0:9004 -> 99/tcp
            many: 0.0.0.0:10000-59999 -> 10000-59999/tcp
            late: Bind for 0.0.0.0:20000 failed: port is already allocated: container many publishes it
            none: all ports are allocated: no port of 9000-9002 is free for tcp
            odd: invalid ranges specified for container and host Ports: 90-92 and 9100-9101
            low: 0.0.0.0:9100-9101 -> 90-91/tcp
        "#]],
    );
}

#[test]
fn a_networks_binding_and_mode_decide_where() {
    let routed = Binding { default: None, ipv4: Reach::Translated, ipv6: Reach::Routed };
    check(
        &[("a", &[exactly(80, 8080)]), ("b", &[at("2001:db8::1", exactly(81, 8081))])],
        &routed,
        &[],
        expect![[r#"
            a: 0.0.0.0:80 -> 8080/tcp
            a: [::]:0 -> 8080/tcp
            b: [::]:0 -> 8081/tcp
        "#]],
    );
    let local = Binding { default: Some(Ipv4Addr::LOCALHOST.into()), ..DUAL };
    check(
        &[("a", &[exactly(80, 80)]), ("b", &[at("::", exactly(80, 80))])],
        &local,
        &[],
        expect![[r#"
            a: 127.0.0.1:80 -> 80/tcp
            b: [::]:80 -> 80/tcp
        "#]],
    );
}

#[test]
fn what_is_released_is_free() {
    let mut allocation = Allocation::new(EPHEMERAL);
    let wanted = [exactly(80, 80)];
    let first = allocation.ask("a", &wanted, &DUAL, &[]).unwrap();
    let more = allocation.ask("a", &[exactly(81, 81)], &DUAL, &[]).unwrap();
    assert!(allocation.ask("b", &wanted, &DUAL, &[]).is_err());
    allocation.release("b", &first);
    allocation.release("a", &more);
    assert!(allocation.ask("b", &wanted, &DUAL, &[]).is_err());
    allocation.ask("b", &[exactly(81, 81)], &DUAL, &[]).unwrap();
    allocation.release("a", &first);
    let published = allocation.ask("b", &wanted, &DUAL, &[]).unwrap();
    // A new daemon reads what a running container has.
    let mut next = Allocation::new(EPHEMERAL);
    next.hold("b", &published);
    assert!(next.ask("a", &wanted, &DUAL, &[]).is_err());
}

#[test]
fn a_program_of_the_host_is_named() {
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = program.local_addr().unwrap().port();
    let mut allocation = Allocation::new(EPHEMERAL);
    let only4 = Binding { ipv6: Reach::None, ..DUAL };
    let error = publish(&mut allocation, "web", &[exactly(port, 80)], &only4).unwrap_err();
    let start = format!("failed to bind host port 0.0.0.0:{port}/tcp: address already in use by ");
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(error.to_string().ends_with(&format!("(process {})", std::process::id())), "{error}");
    // Nothing is left of the attempt; and the same by a dump, where there are too many for sockets.
    drop(allocation.ask("web", &[exactly(port, 80)], &only4, &[]).unwrap());
    let many = range(port.saturating_sub(300).max(1024), port);
    let mut allocation = Allocation::new(EPHEMERAL);
    let error = publish(&mut allocation, "web", &[tcp(HostPorts::Exactly(many), many)], &only4).unwrap_err();
    assert!(error.to_string().contains("address already in use by "), "{error}");
}

#[test]
fn published_ports_are_held_against_programs() {
    let mut allocation = Allocation::new(ephemeral());
    let udp = Wanted { protocol: Protocol::Udp, ..tcp(HostPorts::Random, PortRange::one(53)) };
    let wanted = [tcp(HostPorts::Random, PortRange::one(80)), udp];
    let (published, mut sockets) = publish(&mut allocation, "web", &wanted, &DUAL).unwrap();
    assert_eq!((published.len(), sockets.len()), (4, 4));
    for one in &published {
        let at = SocketAddr::new(one.address, one.host.first);
        let refused = match one.protocol {
            Protocol::Tcp => TcpListener::bind(at).err(),
            _ => UdpSocket::bind(at).err(),
        };
        assert_eq!(refused.unwrap().kind(), std::io::ErrorKind::AddrInUse, "{at}");
    }
    // Their end is the port's freedom, each its own's.
    let (first, other) = (published[0], published[published.len() - 1]);
    sockets.retain(|port| !port.is_of(&[first]));
    assert_eq!(sockets.len(), 3);
    let bind = |one: &Published| match one.protocol {
        Protocol::Tcp => TcpListener::bind((one.address, one.host.first)).map(drop),
        _ => UdpSocket::bind((one.address, one.host.first)).map(drop),
    };
    bind(&first).unwrap();
    assert!(bind(&other).is_err());
}

#[test]
fn a_range_of_fifty_thousand_is_chosen_in_one_piece() {
    let mut allocation = Allocation::new(EPHEMERAL);
    let singles: Vec<Wanted> = (10000..60000).map(|port| exactly(port, port)).collect();
    let published = allocation.ask("many", &singles, &DUAL, &[]).unwrap();
    assert_eq!(published.len(), 2);
    assert!(published.iter().all(|one| one.host.count() == 50_000));
}

#[test]
fn what_is_published_fits_until_the_networks_say_otherwise() {
    let wanted = [exactly(8080, 80), at("127.0.0.1", tcp(HostPorts::Random, PortRange::one(81)))];
    let published = |binding: &Binding| Allocation::new(EPHEMERAL).ask("p1", &wanted, binding, &[]).unwrap();
    let loopback = Binding { default: Some("127.0.0.1".parse().unwrap()), ..DUAL };
    let routed4 = Binding { ipv4: Reach::Routed, ..DUAL };
    let only4 = Binding { ipv6: Reach::None, ..DUAL };
    let none = Binding { ipv4: Reach::None, ..only4 };
    let all = [DUAL, loopback, routed4, only4, none];
    for had in &all {
        for now in &all {
            assert_eq!(fits(&wanted, now, &published(had)), had == now, "{had:?} {now:?}");
        }
    }
}
