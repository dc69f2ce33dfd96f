//! Containers on the host's own wire (macvlan), forwarding through the host, counters.
//!
//! The wire is a bridge in the test's host; `up0` is the host's own link to it, and `other` is
//! another machine on it.

use hull_network::driver::{DefaultRoute, Driver, Drivers};
use hull_network::forwarding::{self, Before, Before6};
use hull_network::macvlan::{Parent, choose_parent};
use hull_network::namespace::Namespace;
use hull_network::record::{self, Endpoint, Macvlan, MacvlanMode, Network};
use hull_network::rtnl::{Batch, Change, Kind, LinkRef, NewLink, Peer, Route};

use crate::world::{bridge, connect, endpoint, host, ping, reaches, read, rtnl};
use std::os::fd::AsFd;

const BOTH: DefaultRoute = DefaultRoute { v4: true, v6: true };

/// A machine with the link `up0` on a wire, and another machine on that wire with 10.`number`.0.1
/// and fd00:`number`::1. The wire is in a namespace of its own, which is given too.
fn wire(number: u8) -> (Namespace, Namespace) {
    let (wire, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let mut batch = Batch::new();
    batch.add_link(&NewLink { up: true, ..NewLink::new("wire", Kind::Bridge) });
    wire.rtnl().unwrap().run(batch).unwrap();
    let index = wire.rtnl().unwrap().link("wire").unwrap().unwrap().index;
    let here = Namespace::current().unwrap();
    for (port, machine, name) in [("here", &here, "up0"), ("there", &other, "eth0")] {
        let mut batch = Batch::new();
        let peer = Peer { name, mac: None, namespace: Some(machine.as_fd()) };
        batch.add_link(&NewLink { master: Some(index), up: true, ..NewLink::new(port, Kind::Veth(peer)) });
        wire.rtnl().unwrap().run(batch).unwrap();
        up(machine, name);
    }
    address(&other, "eth0", &[format!("10.{number}.0.1/24"), format!("fd00:{number}::1/64")]);
    (wire, other)
}

fn up<'a>(namespace: &Namespace, link: impl Into<LinkRef<'a>>) {
    let mut batch = Batch::new();
    batch.up(link);
    namespace.rtnl().unwrap().run(batch).unwrap();
}

fn address(namespace: &Namespace, link: &str, addresses: &[String]) {
    let mut rtnl = namespace.rtnl().unwrap();
    let index = rtnl.link(link).unwrap().unwrap().index;
    let mut batch = Batch::new();
    for address in addresses {
        batch.add_address(index, address.parse().unwrap());
    }
    rtnl.run(batch).unwrap();
}

fn macvlan(number: u8, parent: &str, mode: MacvlanMode) -> Network {
    let driver =
        record::Driver::Macvlan(Macvlan { parent: parent.into(), mode, made_parent: false, nowhere: false });
    Network { driver, ..bridge(number, true) }
}

fn on_the_wire(network: &Network, number: u8) -> Endpoint {
    Endpoint { host_link: String::new(), ..endpoint(network, number) }
}

#[test]
fn containers_on_the_wire_are_machines_of_their_own() {
    let drivers = host();
    let (_wire, other) = wire(9);
    let network = macvlan(9, "up0", MacvlanMode::Bridge);
    drivers.macvlan.setup(&network).unwrap();
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let (first, second) = (on_the_wire(&network, 2), on_the_wire(&network, 3));
    for (endpoint, namespace) in [(&first, &one), (&second, &two)] {
        drivers.macvlan.attach(&network, endpoint, namespace, BOTH).unwrap();
        // Said again.
        drivers.macvlan.attach(&network, endpoint, namespace, BOTH).unwrap();
    }
    let v4 = |endpoint: &Endpoint| std::net::IpAddr::from(endpoint.address4.unwrap().addr());
    let v6 = |endpoint: &Endpoint| std::net::IpAddr::from(endpoint.address6.unwrap().addr());
    assert_eq!(connect(&other, &one, v4(&first)), Some("10.9.0.1".parse().unwrap()));
    assert_eq!(connect(&other, &one, v6(&first)), Some("fd00:9::1".parse().unwrap()));
    assert_eq!(connect(&one, &two, v4(&second)), Some(v4(&first)));
    assert_eq!(connect(&one, &two, v6(&second)), Some(v6(&first)));
    assert!(reaches(&one, first.gateway4.unwrap()));
    let gateways = |namespace: &Namespace| {
        let routes = namespace.rtnl().unwrap().routes().unwrap();
        routes.into_iter().filter_map(|route| route.gateway).collect::<Vec<_>>()
    };
    assert_eq!(gateways(&one).len(), 2);
    assert_eq!(one.rtnl().unwrap().link("eth0").unwrap().unwrap().mac, Some(first.mac));
    drivers.macvlan.attach(&network, &first, &one, DefaultRoute::default()).unwrap();
    assert_eq!(gateways(&one).len(), 0);
    drivers.macvlan.detach(&network, &first, Some(&one)).unwrap();
    drivers.macvlan.detach(&network, &first, Some(&one)).unwrap();
    assert_eq!(one.rtnl().unwrap().link("eth0").unwrap(), None);
    drivers.macvlan.detach(&network, &second, None).unwrap();
    drivers.macvlan.teardown(&network).unwrap();
    assert!(rtnl().link("up0").unwrap().is_some(), "the parent is the host's");
}

#[test]
fn the_modes_differ_in_who_reaches_whom() {
    let drivers = host();
    let (_wire, other) = wire(9);
    // Private and vepa: the containers of one parent do not see each other (vepa: not by a switch
    // that does not send back). All see the wire.
    for (mode, together) in
        [(MacvlanMode::Bridge, true), (MacvlanMode::Private, false), (MacvlanMode::Vepa, false)]
    {
        let network = macvlan(9, "up0", mode);
        let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let (first, second) = (on_the_wire(&network, 2), on_the_wire(&network, 3));
        drivers.macvlan.attach(&network, &first, &one, BOTH).unwrap();
        drivers.macvlan.attach(&network, &second, &two, BOTH).unwrap();
        assert!(reaches(&one, first.gateway4.unwrap()), "{mode:?}");
        assert!(connect(&other, &two, second.address4.unwrap().addr()).is_some(), "{mode:?}");
        let through = if together { reaches } else { ping };
        assert_eq!(through(&one, second.address4.unwrap().addr()), together, "{mode:?}");
        drivers.macvlan.detach(&network, &first, Some(&one)).unwrap();
        drivers.macvlan.detach(&network, &second, Some(&two)).unwrap();
    }
    let network = macvlan(9, "up0", MacvlanMode::Passthru);
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let (first, second) = (on_the_wire(&network, 2), on_the_wire(&network, 3));
    drivers.macvlan.attach(&network, &first, &one, BOTH).unwrap();
    assert!(reaches(&one, first.gateway4.unwrap()) && reaches(&one, first.gateway6.unwrap()));
    let error = drivers.macvlan.attach(&network, &second, &two, BOTH).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parent link up0 carries a macvlan link already: in passthru mode it carries one container's only"
    );
    let beside = macvlan(9, "up0", MacvlanMode::Bridge);
    let error = drivers.macvlan.attach(&beside, &second, &two, BOTH).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parent link up0 carries a passthru link, beside which there can be no other"
    );
}

#[test]
fn a_vlan_is_made_for_its_network_and_goes_with_it() {
    let drivers = host();
    let (_wire, other) = wire(9);
    let id = "9".repeat(64);
    let parent = choose_parent(&id, Some("up0.7"), false, &["up0".to_owned()]).unwrap();
    assert_eq!(parent, Parent { link: "up0.7".into(), made: true, nowhere: false });
    let mut network = macvlan(9, "up0.7", MacvlanMode::Bridge);
    if let record::Driver::Macvlan(macvlan) = &mut network.driver {
        macvlan.made_parent = true;
    }
    // The other machine on the same VLAN.
    let lower = other.rtnl().unwrap().link("eth0").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_link(&NewLink { up: true, ..NewLink::new("tagged", Kind::Vlan { parent: lower, tag: 7 }) });
    if let Err(error) = other.rtnl().unwrap().run(batch) {
        // Not every kernel has VLANs; then that is what is said.
        assert_eq!(error.errno(), hull_sys::Errno::OPNOTSUPP);
        let error = drivers.macvlan.setup(&network).unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no vlan links (module 8021q)");
        assert_eq!(rtnl().link("up0.7").unwrap(), None);
        return;
    }
    address(&other, "tagged", &["10.9.0.77/24".to_owned()]);
    drivers.macvlan.setup(&network).unwrap();
    drivers.macvlan.setup(&network).unwrap();
    let one = Namespace::new().unwrap();
    let endpoint = on_the_wire(&network, 2);
    drivers.macvlan.attach(&network, &endpoint, &one, BOTH).unwrap();
    // The untagged address of the same subnet is not on this VLAN.
    assert!(reaches(&one, "10.9.0.77".parse::<std::net::IpAddr>().unwrap()));
    assert!(!ping(&one, "10.9.0.1".parse::<std::net::IpAddr>().unwrap()));
    drivers.macvlan.detach(&network, &endpoint, Some(&one)).unwrap();
    drivers.macvlan.teardown(&network).unwrap();
    drivers.macvlan.teardown(&network).unwrap();
    assert_eq!(rtnl().link("up0.7").unwrap(), None);
    assert!(rtnl().link("up0").unwrap().is_some());
}

#[test]
fn a_macvlan_network_without_a_parent_leads_nowhere() {
    let drivers = host();
    let id = "9".repeat(64);
    let parent = choose_parent(&id, None, true, &[]).unwrap();
    assert_eq!(parent, Parent { link: "dm-999999999999".into(), made: true, nowhere: true });
    let mut network = macvlan(9, &parent.link, MacvlanMode::Bridge);
    if let record::Driver::Macvlan(macvlan) = &mut network.driver {
        (macvlan.made_parent, macvlan.nowhere) = (true, true);
    }
    drivers.macvlan.setup(&network).unwrap();
    drivers.macvlan.setup(&network).unwrap();
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let (first, second) = (on_the_wire(&network, 2), on_the_wire(&network, 3));
    drivers.macvlan.attach(&network, &first, &one, DefaultRoute::default()).unwrap();
    drivers.macvlan.attach(&network, &second, &two, DefaultRoute::default()).unwrap();
    assert!(connect(&one, &two, second.address4.unwrap().addr()).is_some());
    assert!(connect(&one, &two, second.address6.unwrap().addr()).is_some());
    drivers.macvlan.teardown(&network).unwrap();
    assert_eq!(rtnl().link(&parent.link).unwrap(), None);
}

#[test]
fn a_parent_that_will_not_do_is_named() {
    let drivers = host();
    let id = "9".repeat(64);
    let choose = |asked: &str| {
        choose_parent(&id, Some(asked), false, &["lo".to_owned()]).map_err(|error| error.to_string())
    };
    assert_eq!(choose("lo"), Ok(Parent { link: "lo".into(), made: false, nowhere: false }));
    assert_eq!(
        choose("nowhere"),
        Err("invalid subinterface vlan name nowhere, example formatting is eth0.10".into())
    );
    assert_eq!(choose("nowhere.7"), Err("parent link nowhere does not exist on this host".into()));
    assert_eq!(
        choose("lo.5000"),
        Err("invalid subinterface vlan name lo.5000, example formatting is eth0.10".into())
    );
    assert!(choose("a-name-much-too-long").unwrap_err().contains("no name of a link"));
    let network = macvlan(9, "gone", MacvlanMode::Bridge);
    let error = drivers.macvlan.setup(&network).unwrap_err();
    assert_eq!(error.to_string(), "parent link gone does not exist on this host");

    let mut batch = Batch::new();
    batch.add_link(&NewLink { up: true, ..NewLink::new("br", Kind::Bridge) });
    batch.add_link(&NewLink::new("port", Kind::Veth(Peer { name: "end", ..Peer::default() })));
    rtnl().run(batch).unwrap();
    let container = Namespace::new().unwrap();
    let network = macvlan(9, "port", MacvlanMode::Bridge);
    let attach = || {
        let endpoint = on_the_wire(&network, 2);
        drivers.macvlan.attach(&network, &endpoint, &container, BOTH).map_err(|error| error.to_string())
    };
    assert_eq!(attach(), Err("parent link port is down: set it up first".into()));
    let master = rtnl().link("br").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.change("port", &Change { up: Some(true), master: Some(Some(master)), ..Change::default() });
    rtnl().run(batch).unwrap();
    assert_eq!(attach(), Err("parent link port is a port of a bridge and cannot carry macvlan links".into()));
    let mut batch = Batch::new();
    batch.change("port", &Change { master: Some(None), ..Change::default() });
    rtnl().run(batch).unwrap();
    attach().unwrap();
    // Two containers with one hardware address.
    let other = Namespace::new().unwrap();
    let mut twin = on_the_wire(&network, 3);
    twin.mac = on_the_wire(&network, 2).mac;
    let error = drivers.macvlan.attach(&network, &twin, &other, BOTH).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parent link port has a link with this hardware address already: choose another --mac-address"
    );
}

/// A container behind this host's bridge 10.7.0.0/24, and another machine that routes to it. The
/// last namespace is the wire between the two.
fn behind_this_host() -> (Drivers, Namespace, Namespace, Endpoint, Namespace) {
    let drivers = host();
    let (wire, other) = wire(9);
    let here = Namespace::current().unwrap();
    address(&here, "up0", &["10.9.0.2/24".to_owned(), "fd00:9::2/64".to_owned()]);
    let index = other.rtnl().unwrap().link("eth0").unwrap().unwrap().index;
    let mut batch = Batch::new();
    for (destination, gateway) in [("10.7.0.0/24", "10.9.0.2"), ("fd00:7::/64", "fd00:9::2")] {
        let gateway = Some(gateway.parse().unwrap());
        let destination = destination.parse().unwrap();
        batch.add_route(&Route { destination, gateway, link: Some(index), onlink: false });
    }
    other.rtnl().unwrap().run(batch).unwrap();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let container = Namespace::new().unwrap();
    let endpoint = endpoint(&network, 2);
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    (drivers, other, container, endpoint, wire)
}

fn enable(v4: bool, v6: bool, before: &mut Before) {
    let off = forwarding::off(v4, v6).unwrap();
    before.add(&off);
    forwarding::enable(&off).unwrap();
}

#[test]
fn forwarding_is_enabled_where_it_was_off() {
    let (_drivers, other, container, endpoint, _wire) = behind_this_host();
    let (v4, v6) = (endpoint.address4.unwrap().addr(), endpoint.address6.unwrap().addr());
    let mut before = Before::default();
    enable(false, false, &mut before);
    assert_eq!(before, Before::default());
    assert!(!ping(&other, v4) && !ping(&other, v6));
    enable(true, false, &mut before);
    assert!(reaches(&other, v4) && !ping(&other, v6));
    enable(true, true, &mut before);
    assert!(connect(&other, &container, v4).is_some() && connect(&other, &container, v6).is_some());
    let here = Namespace::current().unwrap();
    // The host is no IPv6 router by its own lights: it goes on listening to others.
    assert_eq!(read(&here, "/proc/sys/net/ipv6/conf/up0/forwarding"), "0");
    assert_eq!(before, Before { v4: true, v6: Some(Before6::Forced) });
    let text = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<Before>(&text).unwrap(), before);
    // A link that comes later forwards too.
    let mut batch = Batch::new();
    batch.add_link(&NewLink::new("later", Kind::Bridge));
    rtnl().run(batch).unwrap();
    assert_eq!(read(&here, "/proc/sys/net/ipv6/conf/later/force_forwarding"), "1");
    let kept = before.clone();
    enable(true, true, &mut before);
    assert_eq!(before, kept);
    disable();
    assert!(!ping(&other, v4) && !ping(&other, v6));
    // What the administrator has enabled was not off.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let mut before = Before::default();
    enable(true, true, &mut before);
    assert_eq!(before, Before::default());
    assert!(reaches(&other, v4) && reaches(&other, v6));
}

/// As an administrator would.
fn disable() {
    let conf = |link: &str, key: &str| format!("/proc/sys/net/ipv6/conf/{link}/{key}");
    for path in [
        "/proc/sys/net/ipv4/ip_forward".to_owned(),
        conf("all", "force_forwarding"),
        conf("all", "forwarding"),
    ] {
        std::fs::write(path, "0").unwrap();
    }
}

/// A router advertisement (RFC 4861, section 4.2) from another machine gives this host its route.
pub(crate) fn advertise(router: &Namespace) {
    router
        .enter(|| {
            use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
            let icmp = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
            sockopt::set_ipv6_multicast_hops(&icmp, 255).unwrap();
            // Type 134; hop limit 64, router lifetime 1800 s; no timers, no options.
            let message = [134u8, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
            let index = hull_network::rtnl::Socket::open().unwrap().link("eth0").unwrap().unwrap().index;
            let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
            sendto(&icmp, &message, SendFlags::empty(), &all).unwrap();
        })
        .unwrap();
}

fn learnt() -> bool {
    rtnl().routes().unwrap().iter().any(|route| {
        route.destination.prefix_len() == 0 && route.gateway.is_some_and(|gateway| gateway.is_ipv6())
    })
}

/// Waits until an advertisement has been heard. Its sender and this host may still be probing for
/// duplicates of their link-local addresses, so it is sent again until then.
#[track_caller]
fn hear(router: &Namespace) {
    let end = std::time::Instant::now() + crate::world::LIMIT;
    while !learnt() {
        assert!(std::time::Instant::now() < end, "no route is learnt");
        advertise(router);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_host_keeps_the_ipv6_route_that_it_has_learnt() {
    let (_drivers, other, _container, endpoint, _wire) = behind_this_host();
    let v6 = endpoint.address6.unwrap().addr();
    hear(&other);
    let mut before = Before::default();
    enable(true, true, &mut before);
    assert!(learnt() && reaches(&other, v6));
    disable();
    assert!(learnt() && !ping(&other, v6));
    // As on a kernel before 6.17: the route survives the switch that makes every link a router's.
    let listening = forwarding::listening().unwrap();
    forwarding::listen_on(&listening).unwrap();
    assert!(listening.contains(&"up0".to_owned()) && !listening.contains(&"br7".to_owned()), "{listening:?}");
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    assert!(learnt() && reaches(&other, v6));
    let here = Namespace::current().unwrap();
    assert_eq!(read(&here, "/proc/sys/net/ipv6/conf/up0/accept_ra"), "2");
}

#[test]
fn without_that_care_the_learnt_route_would_be_lost() {
    let (_drivers, other, _container, _endpoint, _wire) = behind_this_host();
    hear(&other);
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    assert!(!learnt());
}

#[test]
fn counters_tell_what_went_through_each_link() {
    let drivers = host();
    let network = bridge(7, false);
    drivers.bridge.setup(&network).unwrap();
    let container = Namespace::new().unwrap();
    let endpoint = endpoint(&network, 2);
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    let before = container.counters().unwrap();
    assert_eq!(before.iter().map(|one| one.link.as_str()).collect::<Vec<_>>(), ["eth0"]);
    let here = Namespace::current().unwrap();
    let address = std::net::SocketAddr::new(endpoint.address4.unwrap().addr().into(), 7);
    let receiver = container.enter(|| std::net::UdpSocket::bind(address).unwrap()).unwrap();
    let sender = here.enter(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    receiver.set_read_timeout(Some(crate::world::LIMIT)).unwrap();
    let mut buffer = [0; 2000];
    for _ in 0..10 {
        sender.send_to(&[7; 1000], address).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1000);
    }
    let after = container.counters().unwrap();
    let (received, packets) =
        (after[0].rx_bytes - before[0].rx_bytes, after[0].rx_packets - before[0].rx_packets);
    // Ten datagrams of 1042 bytes with their heads, and perhaps a question who has the address.
    assert!((10_420..11_000).contains(&received) && (10..20).contains(&packets), "{received} {packets}");
    assert_eq!((after[0].rx_errors, after[0].rx_dropped, after[0].tx_errors), (0, 0, 0));
}
