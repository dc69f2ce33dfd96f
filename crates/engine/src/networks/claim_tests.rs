//! What containers are given, and what is left for the next.

use std::collections::BTreeMap;

use super::super::change::Observed;
use super::super::record::{Create, PoolRequest};
use super::*;

fn networks() -> Networks {
    let (networks, _) =
        Networks::open(Defaults::default(), [1, 2, 3, 4, 5], &[], &Observed::default()).unwrap();
    networks
}

fn with(networks: &Networks, name: &str, subnet: &str, more: Create) {
    let pools = vec![PoolRequest { subnet: subnet.to_owned(), ..PoolRequest::default() }];
    let create = Create { name: name.to_owned(), pools, ..more };
    let (record, _) = networks.reserve(&create, &Observed::default(), 7).unwrap();
    networks.ready(&record.network.id);
}

fn asker(id: &str) -> Asker<'_> {
    Asker { id, name: id, hostname: "", exposed: &[] }
}

fn on(network: &str) -> Attachment {
    Attachment { network: network.to_owned(), ..Attachment::default() }
}

fn shown(places: &[Place]) -> String {
    let one = |place: &Place| {
        let endpoint = &place.endpoint;
        let gateway = endpoint.gateway4.map_or("-".to_owned(), |gateway| gateway.to_string());
        format!("{} {} {gateway}", endpoint.link, endpoint.address4.unwrap())
    };
    places.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn places_are_given_in_order_and_given_back() {
    let networks = networks();
    with(&networks, "n1", "10.77.0.0/24", Create::default());
    let first = networks.claim(asker("a"), &[on("bridge"), on("n1")]).unwrap();
    assert_eq!(shown(&first), "eth0 172.17.0.2/16 172.17.0.1, eth1 10.77.0.2/24 10.77.0.1");
    let second = networks.claim(asker("b"), &[on("n1")]).unwrap();
    assert_eq!(shown(&second), "eth0 10.77.0.3/24 10.77.0.1");
    assert!(first[0].endpoint.mac != first[1].endpoint.mac && first[0].endpoint.mac.0[0] & 3 == 2);
    let gone = networks.leave("a", |_| true);
    assert_eq!(gone.len(), 2);
    // Its links may still answer for the address.
    let third = networks.claim(asker("c"), &[on("n1")]).unwrap();
    assert_eq!(shown(&third), "eth0 10.77.0.4/24 10.77.0.1");
    networks.free(&gone);
    assert_eq!(shown(&networks.claim(asker("d"), &[on("n1")]).unwrap()), "eth0 10.77.0.2/24 10.77.0.1");
}

#[test]
fn all_or_none() {
    let networks = networks();
    with(&networks, "n1", "10.77.0.0/24", Create::default());
    let error = networks.claim(asker("a"), &[on("n1"), on("nosuch")]).unwrap_err();
    assert_eq!(error.to_string(), "network nosuch not found");
    assert!(networks.places("a").is_empty());
    assert_eq!(shown(&networks.claim(asker("b"), &[on("n1")]).unwrap()), "eth0 10.77.0.2/24 10.77.0.1");
}

#[test]
fn an_address_has_one_owner() {
    let networks = networks();
    with(&networks, "n1", "10.77.0.0/29", Create::default());
    let fixed = |address: &str| Attachment { address4: Some(address.parse().unwrap()), ..on("n1") };
    networks.claim(asker("a"), &[fixed("10.77.0.5")]).unwrap();
    for (taken, owner) in [
        ("10.77.0.5", "container a has 10.77.0.5"),
        ("10.77.0.1", "network n1 keeps 10.77.0.1 for its gateway or aside"),
    ] {
        let error = networks.claim(asker("b"), &[fixed(taken)]).unwrap_err();
        assert_eq!(
            (error.class(), error.to_string()),
            (crate::Class::Forbidden, format!("Address already in use: {owner}"))
        );
    }
    for id in ["b", "c", "d", "e"] {
        networks.claim(asker(id), &[on("n1")]).unwrap();
    }
    let error = networks.claim(asker("f"), &[on("n1")]).unwrap_err().to_string();
    assert!(
        error.starts_with("no available IPv4 addresses on this network's address pools: n1 ("),
        "{error}"
    );
    let error = networks.claim(asker("e"), &[on("n1")]).unwrap_err().to_string();
    assert_eq!(error, "endpoint with name e already exists in network n1");
}

#[test]
fn a_network_in_use_is_not_removed() {
    let networks = networks();
    with(&networks, "n1", "10.77.0.0/24", Create::default());
    let places = networks.claim(asker("a"), &[on("n1")]).unwrap();
    let error = networks.begin_removal("n1", |id| format!("name-{id}")).unwrap_err();
    let id = short(&places[0].endpoint.id);
    assert_eq!(
        error.to_string(),
        format!(
            "error while removing network: network n1 has active endpoints (name:\"name-a\" id:\"{id}\")"
        )
    );
    networks.leave("a", |_| true);
    assert!(networks.begin_removal("n1", |_| String::new()).is_ok());
}

#[test]
fn names_are_the_references_in_order() {
    let attachment = Attachment { aliases: vec!["x".into(), "y".into(), "x".into()], ..on("n1") };
    let asker = Asker { id: "3d079195be93aa", name: "net2", hostname: "3d079195be93", exposed: &[] };
    assert_eq!(names(asker, &attachment), ["net2", "x", "y", "3d079195be93"]);
    assert_eq!(names(Asker { hostname: "h", ..asker }, &on("n1")), ["net2", "3d079195be93", "h"]);
}

#[test]
fn links_get_free_names_or_their_own() {
    let networks = networks();
    with(&networks, "n1", "10.77.0.0/24", Create::default());
    let options = BTreeMap::from([
        ("com.docker.network.endpoint.ifname".to_owned(), "lan0".to_owned()),
        (
            "com.docker.network.endpoint.sysctls".to_owned(),
            "net.ipv4.conf.IFNAME.forwarding=1,net.ipv4.conf.IFNAME.rp_filter=0".to_owned(),
        ),
    ]);
    let own = Attachment { driver_options: options, ..on("n1") };
    let places = networks.claim(asker("a"), &[own, on("bridge")]).unwrap();
    assert_eq!(shown(&places), "lan0 10.77.0.2/24 10.77.0.1, eth0 172.17.0.2/16 172.17.0.1");
    assert_eq!(places[0].endpoint.sysctls[1], ("net.ipv4.conf.IFNAME.rp_filter".to_owned(), "0".to_owned()));
}

#[test]
fn the_default_route_follows_priority_then_name() {
    let networks = networks();
    with(&networks, "a", "10.1.0.0/24", Create { internal: true, ..Create::default() });
    with(&networks, "b", "10.2.0.0/24", Create::default());
    with(&networks, "c", "10.3.0.0/24", Create::default());
    let places = networks.claim(asker("x"), &[on("c"), on("a"), on("b")]).unwrap();
    let chosen = |priority: &dyn Fn(&str) -> i64| {
        let routes = default_routes(&places, priority);
        places
            .iter()
            .zip(routes)
            .filter(|(_, route)| route.v4)
            .map(|(place, _)| place.record.network.name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(chosen(&|_| 0), "b");
    assert_eq!(chosen(&|name| i64::from(name == "c")), "c");
    // An internal network leads nowhere.
    assert_eq!(chosen(&|name| i64::from(name == "a")), "b");
    assert!(places[1].endpoint.gateway4.is_none());
}
