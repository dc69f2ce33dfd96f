//! Links, addresses and routes over our own socket; namespaces.

use std::os::fd::AsFd;

use hull_network::namespace::Namespace;
use hull_network::rtnl::{Batch, Change, Kind, NewLink, Peer, Route};
use hull_sys::Errno;

use crate::world::{host, read, rtnl};

#[test]
fn a_namespace_has_its_loopback_and_nothing_else() {
    host();
    let namespace = Namespace::new().unwrap();
    let links = namespace.rtnl().unwrap().links().unwrap();
    assert_eq!(links.iter().map(|link| (link.name.as_str(), link.up)).collect::<Vec<_>>(), [("lo", true)]);
    let addresses = namespace.rtnl().unwrap().addresses().unwrap();
    let addresses: Vec<_> = addresses.iter().map(|found| found.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1/8", "::1/128"]);
    // The caller has not moved: a link made inside is not seen here.
    let mut batch = Batch::new();
    batch.add_link(&NewLink::new("inside", Kind::Bridge));
    namespace.rtnl().unwrap().run(batch).unwrap();
    assert_eq!(rtnl().link("inside").unwrap(), None);
    let again = Namespace::from_fd(namespace.try_clone_fd().unwrap());
    assert!(again.rtnl().unwrap().link("inside").unwrap().is_some());
}

#[test]
fn a_panic_inside_a_namespace_comes_out() {
    host();
    let namespace = Namespace::new().unwrap();
    let inside = std::panic::AssertUnwindSafe(|| namespace.enter(|| assert_eq!(1, 2, "inside")));
    assert!(std::panic::catch_unwind(inside).is_err());
    assert!(read(&namespace, "/proc/thread-self/net/dev").contains("lo:"));
}

#[test]
fn what_is_no_namespace_is_said() {
    host();
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Namespace::from_fd(file.into()).enter(|| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot enter a network namespace");
}

#[test]
fn every_refusal_says_what_was_asked_for() {
    host();
    let mut socket = rtnl();
    let refusal = |fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        fill(&mut batch);
        rtnl().run(batch).unwrap_err()
    };
    let error = refusal(&|batch| batch.up("nowhere"));
    assert_eq!(error.to_string(), "cannot set link nowhere up: ENODEV (No such device)");
    let error = refusal(&|batch| batch.add_link(&NewLink::new("lo", Kind::Bridge)));
    assert_eq!(error.to_string(), "cannot make bridge lo: EEXIST (File exists)");
    let error = refusal(&|batch| batch.add_link(&NewLink::new("a-name-much-too-long", Kind::Bridge)));
    assert!(error.to_string().starts_with("cannot make bridge a-name-much-too-long: "), "{error}");
    let error = refusal(&|batch| batch.add_address(77, "10.0.0.1/24".parse().unwrap()));
    assert!(
        error.to_string().starts_with("cannot add address 10.0.0.1/24 to link number 77: ENODEV"),
        "{error}"
    );
    let error = refusal(&|batch| batch.add_route(&Route::default_by("10.9.9.9".parse().unwrap(), 1)));
    assert!(
        error.to_string().starts_with("cannot add route 0.0.0.0/0 via 10.9.9.9 by link number 1: "),
        "{error}"
    );
    assert_eq!(socket.link("nowhere").unwrap(), None);
    assert_eq!(socket.link(4711).unwrap(), None);
}

#[test]
fn a_refused_change_does_not_stop_those_behind_it() {
    host();
    let mut socket = rtnl();
    let mut batch = Batch::new();
    batch.add_link(&NewLink::new("one", Kind::Bridge));
    batch.up("nowhere");
    batch.add_link(&NewLink::new("two", Kind::Bridge));
    let results = socket.each(batch).unwrap();
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert!(socket.link("two").unwrap().is_some());
}

#[test]
fn more_changes_than_one_datagram_holds() {
    host();
    let mut socket = rtnl();
    let mut batch = Batch::new();
    for host in 1..=200u8 {
        batch.add_address(1, format!("10.0.0.{host}/32").parse().unwrap());
        batch.add_address(1, format!("fd00::{host}/128").parse().unwrap());
    }
    assert!(socket.each(batch).unwrap().iter().all(Result::is_ok));
    assert_eq!(socket.addresses().unwrap().len(), 402);
}

#[test]
fn links_are_made_changed_moved_and_deleted() {
    host();
    let namespace = Namespace::new().unwrap();
    let mut socket = rtnl();
    let mut batch = Batch::new();
    let mac = "02:00:00:00:00:07".parse().unwrap();
    batch.add_link(&NewLink { mtu: Some(1400), up: true, ..NewLink::new("br", Kind::Bridge) });
    let peer = Peer { name: "inner", mac: Some(mac), namespace: Some(namespace.as_fd()) };
    batch.add_link(&NewLink { mtu: Some(1300), ..NewLink::new("outer", Kind::Veth(peer)) });
    socket.run(batch).unwrap();
    let bridge = socket.link("br").unwrap().unwrap();
    assert_eq!((bridge.kind.as_deref(), bridge.mtu, bridge.up), (Some("bridge"), 1400, true));
    let inner = namespace.rtnl().unwrap().link("inner").unwrap().unwrap();
    assert_eq!(
        (inner.kind.as_deref(), inner.mtu, inner.mac, inner.up),
        (Some("veth"), 1300, Some(mac), false)
    );
    assert_eq!(socket.link("inner").unwrap(), None);

    let outer = socket.link("outer").unwrap().unwrap();
    assert_eq!(inner.lower, Some(outer.index));
    let mut batch = Batch::new();
    batch.change(
        outer.index,
        &Change {
            name: Some("renamed"),
            mtu: Some(1200),
            master: Some(Some(bridge.index)),
            group: Some(5),
            up: Some(true),
            ..Change::default()
        },
    );
    socket.run(batch).unwrap();
    let found = socket.link("renamed").unwrap().unwrap();
    assert_eq!(
        (found.index, found.mtu, found.master, found.group),
        (outer.index, 1200, Some(bridge.index), 5)
    );
    assert_eq!(socket.ports(bridge.index).unwrap(), [found]);

    let mut batch = Batch::new();
    batch.change("br", &Change { namespace: Some(namespace.as_fd()), ..Change::default() });
    assert!(socket.run(batch).is_err(), "a bridge stays where it is");
    let mut batch = Batch::new();
    batch.add_link(&NewLink::new("a", Kind::Veth(Peer { name: "b", ..Peer::default() })));
    batch.change("a", &Change { namespace: Some(namespace.as_fd()), ..Change::default() });
    socket.run(batch).unwrap();
    assert!(namespace.rtnl().unwrap().link("a").unwrap().is_some());

    let mut batch = Batch::new();
    batch.delete_group(5);
    socket.run(batch).unwrap();
    assert_eq!(socket.link("renamed").unwrap(), None);
    assert_eq!(namespace.rtnl().unwrap().link("inner").unwrap(), None);
    let mut batch = Batch::new();
    batch.delete_group(5);
    assert_eq!(socket.run(batch).unwrap_err().errno(), Errno::NODEV);
}

#[test]
fn routes_are_added_replaced_and_removed() {
    host();
    let mut socket = rtnl();
    let mut batch = Batch::new();
    batch.add_link(&NewLink { up: true, ..NewLink::new("br", Kind::Bridge) });
    socket.run(batch).unwrap();
    let link = socket.link("br").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_address(link, "10.0.0.2/24".parse().unwrap());
    batch.add_address(link, "fd00::2/64".parse().unwrap());
    // Said again, it is no error.
    batch.add_address(link, "10.0.0.2/24".parse().unwrap());
    batch.add_address(link, "fd00::2/64".parse().unwrap());
    for gateway in ["10.0.0.1", "10.0.0.9", "fd00::1", "fd00::9"] {
        batch.add_route(&Route::default_by(gateway.parse().unwrap(), link));
    }
    let elsewhere = Route {
        destination: "10.5.0.0/16".parse().unwrap(),
        gateway: Some("172.16.0.1".parse().unwrap()),
        link: Some(link),
        onlink: true,
    };
    batch.add_route(&elsewhere);
    socket.run(batch).unwrap();
    let defaults = |socket: &mut hull_network::rtnl::Socket| {
        let routes = socket.routes().unwrap();
        routes.into_iter().filter(|route| route.gateway.is_some()).collect::<Vec<_>>()
    };
    let v4 = Route::default_by("10.0.0.9".parse().unwrap(), link);
    let v6 = Route::default_by("fd00::9".parse().unwrap(), link);
    let all = defaults(&mut socket);
    assert_eq!(all.iter().collect::<Vec<_>>(), [&v4, &elsewhere, &v6]);
    let mut batch = Batch::new();
    batch.delete_route(&v4);
    batch.delete_route(&v6);
    socket.run(batch).unwrap();
    assert_eq!(defaults(&mut socket), [elsewhere]);
    let mut batch = Batch::new();
    batch.delete_route(&v4);
    assert_eq!(socket.run(batch).unwrap_err().errno(), Errno::SRCH);
    let mut batch = Batch::new();
    batch.delete_address(link, "10.0.0.2/24".parse().unwrap());
    batch.delete_address(link, "10.0.0.2/24".parse().unwrap());
    let results = socket.each(batch).unwrap();
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().errno(), Errno::ADDRNOTAVAIL);
}
