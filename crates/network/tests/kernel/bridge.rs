//! Bridge networks: made, used, corrected, taken away.

use hull_network::driver::{DefaultRoute, Driver, Error};
use hull_network::namespace::Namespace;
use hull_network::rtnl::{Batch, Kind, NewLink};

use crate::world::{bridge, bridge_of, connect, endpoint, host, ping, reaches, read, rtnl};

const BOTH: DefaultRoute = DefaultRoute { v4: true, v6: true };

#[test]
fn containers_of_a_network_talk_to_each_other_and_to_the_host() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let here = Namespace::current().unwrap();
    let containers: Vec<_> =
        [2, 3].map(|number| (endpoint(&network, number), Namespace::new().unwrap())).into();
    for (endpoint, namespace) in &containers {
        drivers.bridge.attach(&network, endpoint, namespace, BOTH).unwrap();
    }
    let [(first, one), (second, two)] = &containers[..] else { panic!() };
    let of = |endpoint: &hull_network::record::Endpoint| {
        (endpoint.address4.unwrap().addr(), endpoint.address6.unwrap().addr())
    };
    for (from, to, target) in [(one, two, second), (two, one, first), (&here, two, second)] {
        let (v4, v6) = of(target);
        assert!(reaches(from, v4) && reaches(from, v6));
        assert!(connect(from, to, v4).is_some() && connect(from, to, v6).is_some());
    }
    let (v4, v6) = of(first);
    assert_eq!(connect(one, two, of(second).0), Some(v4.into()));
    assert_eq!(connect(one, two, of(second).1), Some(v6.into()));
    // The gateway answers, and is the way out.
    assert_eq!(connect(one, &here, first.gateway4.unwrap()), Some(v4.into()));
    assert_eq!(connect(one, &here, first.gateway6.unwrap()), Some(v6.into()));
    let routes = one.rtnl().unwrap().routes().unwrap();
    let gateways: Vec<_> = routes.iter().filter_map(|route| route.gateway).collect();
    assert_eq!(
        gateways,
        [first.gateway4.unwrap().to_string(), first.gateway6.unwrap().to_string()]
            .map(|a| a.parse::<std::net::IpAddr>().unwrap())
    );
    let link = one.rtnl().unwrap().link("eth0").unwrap().unwrap();
    assert_eq!(link.mac, Some(first.mac));
}

#[test]
fn the_bridge_is_the_gateway_and_nobodys_router() {
    let drivers = host();
    let mut network = bridge(7, true);
    bridge_of(&mut network).mtu = Some(1300);
    drivers.bridge.setup(&network).unwrap();
    let link = rtnl().link("br7").unwrap().unwrap();
    assert_eq!((link.kind.as_deref(), link.up, link.mtu), (Some("bridge"), true, 1300));
    let mac = link.mac;
    let own = |index| {
        let found = rtnl().addresses().unwrap().into_iter().filter(|found| found.link == index);
        found.map(|found| found.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(own(link.index)[..2], ["10.7.0.1/24", "fd00:7::1/64"]);
    let here = Namespace::current().unwrap();
    assert_eq!(read(&here, "/proc/sys/net/ipv4/conf/br7/route_localnet"), "1");
    assert_eq!(read(&here, "/proc/sys/net/ipv6/conf/br7/accept_ra"), "0");
    // Ports come and go: the bridge's own hardware address stays.
    let container = Namespace::new().unwrap();
    let endpoint = endpoint(&network, 2);
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    assert_eq!(rtnl().link("br7").unwrap().unwrap().mac, mac);
    assert_eq!(container.rtnl().unwrap().link("eth0").unwrap().unwrap().mtu, 1300);
    // Another configuration of the same bridge, as after a change of `bip`.
    let mut moved = network.clone();
    moved.subnets = vec![crate::world::subnet("10.8.0.0/24", "10.8.0.254")];
    moved.ipv6 = false;
    drivers.bridge.setup(&moved).unwrap();
    assert_eq!(own(link.index), ["10.8.0.254/24"]);
    assert_eq!(read(&here, "/proc/sys/net/ipv6/conf/br7/disable_ipv6"), "1");
    drivers.bridge.teardown(&network).unwrap();
    assert_eq!(rtnl().link("br7").unwrap(), None);
    drivers.bridge.teardown(&network).unwrap();
}

#[test]
fn an_isolated_network_has_no_address_on_the_host() {
    let drivers = host();
    let mut network = bridge(7, true);
    bridge_of(&mut network).mode4 = hull_network::record::GatewayMode::Isolated;
    bridge_of(&mut network).mode6 = hull_network::record::GatewayMode::Isolated;
    drivers.bridge.setup(&network).unwrap();
    let index = rtnl().link("br7").unwrap().unwrap().index;
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    drivers.bridge.attach(&network, &endpoint(&network, 2), &one, DefaultRoute::default()).unwrap();
    drivers.bridge.attach(&network, &endpoint(&network, 3), &two, DefaultRoute::default()).unwrap();
    assert!(connect(&one, &two, endpoint(&network, 3).address6.unwrap().addr()).is_some());
    assert!(!rtnl().addresses().unwrap().iter().any(|found| found.link == index));
    assert!(one.rtnl().unwrap().routes().unwrap().iter().all(|route| route.gateway.is_none()));
}

#[test]
fn without_ipv6_a_container_has_no_ipv6_at_all() {
    let drivers = host();
    let network = bridge(7, false);
    drivers.bridge.setup(&network).unwrap();
    let container = Namespace::new().unwrap();
    drivers.bridge.attach(&network, &endpoint(&network, 2), &container, BOTH).unwrap();
    let addresses = container.rtnl().unwrap().addresses().unwrap();
    let addresses: Vec<_> = addresses.iter().map(|found| found.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1/8", "10.7.0.2/24", "::1/128"]);
    assert_eq!(read(&container, "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1");
}

#[test]
fn attaching_again_does_what_is_missing() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let (endpoint, container) = (endpoint(&network, 2), Namespace::new().unwrap());
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    let state = || {
        let mut rtnl = container.rtnl().unwrap();
        (rtnl.links().unwrap(), rtnl.addresses().unwrap(), rtnl.routes().unwrap())
    };
    let whole = state();
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    assert_eq!(state(), whole);
    // Somebody deletes the bridge, and an address inside.
    let mut batch = Batch::new();
    batch.delete_link("br7");
    rtnl().run(batch).unwrap();
    let index = whole.0.iter().find(|link| link.name == "eth0").unwrap().index;
    let mut batch = Batch::new();
    batch.delete_address(index, ipnet::IpNet::V4(endpoint.address4.unwrap()));
    container.rtnl().unwrap().run(batch).unwrap();
    let error = drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap_err();
    assert_eq!(error.to_string(), "network net7 uses link br7, which does not exist");
    drivers.bridge.setup(&network).unwrap();
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    assert!(reaches(&container, endpoint.gateway4.unwrap()));
    assert!(reaches(&container, endpoint.gateway6.unwrap()));
    // The default route moves to another network.
    drivers.bridge.attach(&network, &endpoint, &container, DefaultRoute { v4: false, v6: true }).unwrap();
    let gateways: Vec<_> = state().2.iter().filter_map(|route| route.gateway).collect();
    assert_eq!(gateways, [std::net::IpAddr::V6(endpoint.gateway6.unwrap())]);
}

#[test]
fn an_address_is_free_again_when_its_container_is_detached() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let other = Namespace::new().unwrap();
    drivers.bridge.attach(&network, &endpoint(&network, 9), &other, BOTH).unwrap();
    let mut last = None;
    for round in 0..10 {
        let mut endpoint = endpoint(&network, 2);
        endpoint.mac.0[4] = round;
        let container = Namespace::new().unwrap();
        drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
        // The neighbour had another hardware address for these a moment ago.
        assert!(connect(&other, &container, endpoint.address4.unwrap().addr()).is_some(), "{round}");
        assert!(connect(&other, &container, endpoint.address6.unwrap().addr()).is_some(), "{round}");
        drivers.bridge.detach(&network, &endpoint, Some(&container)).unwrap();
        drivers.bridge.detach(&network, &endpoint, None).unwrap();
        assert!(!ping(&container, endpoint.gateway4.unwrap()));
        // Its namespace lives on: nothing of it may disturb the next.
        last = Some(container);
    }
    drop(last);
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let drivers = host();
    let (first, second) = (bridge(7, true), bridge(8, true));
    drivers.bridge.setup(&first).unwrap();
    drivers.bridge.setup(&second).unwrap();
    // Something lives in it: a listener that must not notice.
    let container = Namespace::new().unwrap();
    let stays = endpoint(&first, 2);
    drivers.bridge.attach(&first, &stays, &container, BOTH).unwrap();
    let here = Namespace::current().unwrap();
    for _ in 0..5 {
        let mut comes = endpoint(&second, 2);
        comes.link = "eth1".into();
        drivers.bridge.attach(&second, &comes, &container, BOTH).unwrap();
        drivers.bridge.attach(&first, &stays, &container, DefaultRoute::default()).unwrap();
        assert_eq!(
            connect(&container, &here, comes.gateway6.unwrap()),
            Some(comes.address6.unwrap().addr().into())
        );
        assert!(connect(&here, &container, stays.address4.unwrap().addr()).is_some());
        let gateways = |namespace: &Namespace| {
            let routes = namespace.rtnl().unwrap().routes().unwrap();
            routes.into_iter().filter_map(|route| route.gateway).collect::<Vec<_>>()
        };
        let of = |endpoint: &hull_network::record::Endpoint| {
            [endpoint.gateway4.unwrap().into(), endpoint.gateway6.unwrap().into()] as [std::net::IpAddr; 2]
        };
        assert_eq!(gateways(&container), of(&comes));
        drivers.bridge.detach(&second, &comes, Some(&container)).unwrap();
        let left = container.rtnl().unwrap().links().unwrap();
        assert_eq!(left.len(), 2, "gone when it is said to be: {left:?}");
        drivers.bridge.attach(&first, &stays, &container, BOTH).unwrap();
        assert_eq!(gateways(&container), of(&stays));
        // Both names are free at once, though nobody waits here.
        drivers.bridge.attach(&second, &comes, &container, BOTH).unwrap();
        drivers.bridge.detach(&second, &comes, None).unwrap();
        drivers.bridge.attach(&second, &comes, &container, BOTH).unwrap();
        assert!(connect(&container, &here, comes.gateway6.unwrap()).is_some());
        drivers.bridge.detach(&second, &comes, Some(&container)).unwrap();
        drivers.bridge.attach(&first, &stays, &container, BOTH).unwrap();
    }
}

/// Router advertisements that were heard (snmp counter of RFC 2466).
fn advertisements(namespace: &Namespace) -> u64 {
    let text = read(namespace, "/proc/thread-self/net/snmp6");
    let line = text.lines().find(|line| line.starts_with("Icmp6InRouterAdvertisements")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_container_becomes_the_router_of_others() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let [liar, other] = [2, 3].map(|number| {
        let container = Namespace::new().unwrap();
        let endpoint = endpoint(&network, number);
        drivers.bridge.attach(&network, &endpoint, &container, DefaultRoute::default()).unwrap();
        container
    });
    let here = Namespace::current().unwrap();
    let learnt = |namespace: &Namespace| {
        let routes = namespace.rtnl().unwrap().routes().unwrap();
        routes.iter().any(|route| route.gateway.is_some())
    };
    let heard = |namespace: &Namespace| advertisements(namespace) > 0;
    let end = std::time::Instant::now() + crate::world::LIMIT;
    while !heard(&here) || !heard(&other) {
        assert!(std::time::Instant::now() < end, "advertisements arrive");
        crate::wire::advertise(&liar);
    }
    assert!(!learnt(&here) && !learnt(&other), "heard, and not believed");
}

#[test]
fn what_a_killed_daemon_has_condemned_goes_with_the_next() {
    let drivers = host();
    drop(drivers);
    // Links in the group of the condemned, as after a kill between cutting and deleting.
    let mut batch = Batch::new();
    for name in ["one", "two"] {
        batch.add_link(&NewLink::new(name, Kind::Bridge));
        let change = hull_network::rtnl::Change { group: Some(0x4855_4c4c), ..Default::default() };
        batch.change(name, &change);
    }
    batch.add_link(&NewLink::new("other", Kind::Bridge));
    rtnl().run(batch).unwrap();
    let _next = hull_network::driver::Drivers::new().unwrap();
    crate::pool::until("the condemned are deleted", |links| links.len() == 2);
    assert!(rtnl().link("other").unwrap().is_some());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let drivers = host();
    let mut network = bridge(7, false);
    bridge_of(&mut network).foreign = true;
    let error = drivers.bridge.setup(&network).unwrap_err();
    assert_eq!(error.to_string(), "network net7 uses link br7, which does not exist");
    let mut batch = Batch::new();
    batch.add_link(&NewLink { mtu: Some(1234), ..NewLink::new("br7", Kind::Bridge) });
    rtnl().run(batch).unwrap();
    let index = rtnl().link("br7").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_address(index, "192.168.9.1/24".parse().unwrap());
    rtnl().run(batch).unwrap();
    drivers.bridge.setup(&network).unwrap();
    let addresses = rtnl().addresses().unwrap();
    let kept: Vec<_> =
        addresses.iter().filter(|found| found.link == index).map(|found| found.address.to_string()).collect();
    assert!(
        kept.contains(&"192.168.9.1/24".to_owned()) && kept.contains(&"10.7.0.1/24".to_owned()),
        "{kept:?}"
    );
    drivers.bridge.teardown(&network).unwrap();
    assert_eq!(rtnl().link("br7").unwrap().unwrap().mtu, 1234);
}

#[test]
fn what_cannot_be_is_refused_and_undone() {
    let drivers = host();
    let mut network = bridge(7, false);
    bridge_of(&mut network).link = "a-name-much-too-long".into();
    let error = drivers.bridge.setup(&network).unwrap_err();
    assert!(error.to_string().contains("use 1 to 15 letters"), "{error}");
    bridge_of(&mut network).link = "lo".into();
    let error = drivers.bridge.setup(&network).unwrap_err();
    assert_eq!(
        error.to_string(),
        "link lo exists and is a device, not a bridge: choose another name or delete it"
    );
    assert_eq!(drivers.bridge.teardown(&network).ok(), Some(()));
    bridge_of(&mut network).link = "br7".into();
    bridge_of(&mut network).mtu = Some(7);
    assert!(drivers.bridge.setup(&network).is_err());
    assert_eq!(rtnl().link("br7").unwrap(), None, "a bridge that cannot be finished goes");

    let network = bridge(7, false);
    drivers.bridge.setup(&network).unwrap();
    let container = Namespace::new().unwrap();
    let mut endpoint = endpoint(&network, 2);
    endpoint.sysctls = vec![("net.ipv4.conf.IFNAME.no_such_thing".into(), "1".into())];
    let error = drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap_err();
    assert!(error.to_string().contains("net.ipv4.conf.eth0.no_such_thing"), "{error}");
    endpoint.sysctls = vec![("net.ipv4.ip_forward".into(), "1".into())];
    let error = drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap_err();
    assert!(matches!(error, Error::Key { .. }), "{error}");
    assert!(rtnl().links().unwrap().iter().all(|link| link.master.is_none() || !link.up), "undone");

    endpoint.sysctls = vec![("net.ipv4.conf.IFNAME.log_martians".into(), "1".into())];
    drivers.bridge.attach(&network, &endpoint, &container, BOTH).unwrap();
    assert_eq!(read(&container, "/proc/sys/net/ipv4/conf/eth0/log_martians"), "1");
    let mut second = crate::world::endpoint(&network, 3);
    let error = drivers.bridge.attach(&network, &second, &container, BOTH).unwrap_err();
    assert_eq!(error.to_string(), "the container has a link eth0 already");
    second.host_link = "br7".into();
    second.link = "eth1".into();
    let error = drivers.bridge.attach(&network, &second, &container, BOTH).unwrap_err();
    assert!(matches!(error, Error::OtherKind { .. }), "{error}");
    second.host_link = endpoint.host_link;
    let elsewhere = Namespace::new().unwrap();
    let error = drivers.bridge.attach(&network, &second, &elsewhere, BOTH).unwrap_err();
    assert!(matches!(error, Error::Elsewhere { .. }), "{error}");
}
