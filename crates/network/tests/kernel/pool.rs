//! Namespaces that are ready: taken, made again, gone with their network or their process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hull_network::driver::{DefaultRoute, Driver};
use hull_network::namespace::Namespace;
use hull_network::pool::{DEPTH, NETWORKS, Pool};
use hull_network::record::{Endpoint, Network};
use hull_network::rtnl::{Batch, Kind, NewLink, Watch};

use crate::world::{LIMIT, bridge, bridge_of, connect, endpoint, host, read, rtnl};

const BOTH: DefaultRoute = DefaultRoute { v4: true, v6: true };

fn pool() -> Pool<()> {
    Pool::new(Box::new(|_| Ok(()))).unwrap()
}

/// Waits until this host's links are as `wanted`.
#[track_caller]
pub(crate) fn until(what: &str, wanted: impl Fn(&[hull_network::rtnl::Link]) -> bool) {
    let mut watch = Watch::links().unwrap();
    let end = Instant::now() + LIMIT;
    loop {
        let links = rtnl().links().unwrap();
        if wanted(&links) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {links:#?}");
        watch.wait(Duration::from_millis(100)).unwrap();
    }
}

/// Waits until the pool is full. It tells nobody, so the bridge's ports are watched.
#[track_caller]
fn full(pool: &Pool<()>, network: &Network) {
    until("the pool is full", |_| pool.ready(&network.id) == DEPTH);
}

fn ports(links: &[hull_network::rtnl::Link], bridge: &str) -> usize {
    let index = links.iter().find(|link| link.name == bridge).map(|link| link.index);
    links.iter().filter(|link| index.is_some() && link.master == index).count()
}

fn taken(network: &Network, number: u8, host_link: &str) -> Endpoint {
    Endpoint { host_link: host_link.to_owned(), ..endpoint(network, number) }
}

#[test]
fn what_is_taken_is_ready_and_made_again() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let pool = pool();
    pool.keep(&network);
    full(&pool, &network);
    let mut names = BTreeSet::new();
    let mut containers = Vec::new();
    // More than are ready: what is missing is made on the spot.
    for number in 2..10 {
        let ready = pool.take(&network).unwrap();
        assert!(names.insert(ready.host_link.clone()));
        // Ready means that the first packet gets through.
        let link = rtnl().link(&ready.host_link).unwrap().unwrap();
        assert!(link.up && link.forwarding);
        let endpoint = taken(&network, number, &ready.host_link);
        drivers.bridge.attach(&network, &endpoint, &ready.namespace, BOTH).unwrap();
        containers.push((endpoint, ready));
    }
    let here = Namespace::current().unwrap();
    assert_eq!(pool.ready(&network.id), 0, "nothing is made while containers are being started");
    for (endpoint, ready) in &containers {
        let namespace = &ready.namespace;
        let link = namespace.rtnl().unwrap().link("eth0").unwrap().unwrap();
        assert_eq!(link.mac, Some(endpoint.mac));
        assert!(connect(&here, namespace, endpoint.address4.unwrap().addr()).is_some());
        assert!(
            connect(namespace, &containers[0].1.namespace, containers[0].0.address6.unwrap().addr())
                .is_some()
        );
        let addresses = namespace.rtnl().unwrap().addresses().unwrap();
        let own: Vec<_> = addresses.iter().filter(|found| found.link == link.index).collect();
        // IPv4, IPv6, and the one link-local address that goes with the hardware address.
        assert_eq!(own.len(), 3, "{own:?}");
    }
    drop(containers);
    full(&pool, &network);
}

#[test]
fn an_endpoint_may_differ_from_what_was_made_ready() {
    let drivers = host();
    let mut network = bridge(7, true);
    bridge_of(&mut network).mtu = Some(1400);
    bridge_of(&mut network).prefix = "net".into();
    drivers.bridge.setup(&network).unwrap();
    let pool = pool();
    // Another name.
    let ready = pool.take(&network).unwrap();
    let mut endpoint = taken(&network, 2, &ready.host_link);
    endpoint.link = "lan".into();
    endpoint.link_local = vec!["169.254.7.7".parse().unwrap(), "fe80::77".parse().unwrap()];
    drivers.bridge.attach(&network, &endpoint, &ready.namespace, BOTH).unwrap();
    let links = ready.namespace.rtnl().unwrap().links().unwrap();
    let links: Vec<_> = links.iter().map(|link| (link.name.as_str(), link.mtu, link.up)).collect();
    assert_eq!(links, [("lo", 65536, true), ("lan", 1400, true)]);
    let addresses = ready.namespace.rtnl().unwrap().addresses().unwrap();
    let addresses: Vec<_> = addresses.iter().map(|found| found.address.to_string()).collect();
    for address in ["10.7.0.2/24", "fd00:7::2/64", "169.254.7.7/16", "fe80::77/64", "fe80::42:aff:fe07:2/64"]
    {
        assert!(addresses.contains(&address.to_owned()), "{address}: {addresses:?}");
    }
    let here = Namespace::current().unwrap();
    assert!(connect(&here, &ready.namespace, endpoint.address6.unwrap().addr()).is_some());
    // A container that has no IPv6 address on a network with IPv6.
    let ready = pool.take(&network).unwrap();
    let mut endpoint = taken(&network, 3, &ready.host_link);
    (endpoint.link, endpoint.address6, endpoint.gateway6) = ("net0".into(), None, None);
    drivers.bridge.attach(&network, &endpoint, &ready.namespace, BOTH).unwrap();
    assert_eq!(read(&ready.namespace, "/proc/sys/net/ipv6/conf/net0/disable_ipv6"), "1");
    assert!(connect(&here, &ready.namespace, endpoint.address4.unwrap().addr()).is_some());
}

#[test]
fn a_link_is_born_with_ipv6_or_without_and_the_namespace_is_as_any_other() {
    let drivers = host();
    let fresh = Namespace::new().unwrap();
    let usual = read(&fresh, "/proc/sys/net/ipv6/conf/default/disable_ipv6");
    for (number, v6) in [(7, false), (8, true)] {
        let network = bridge(number, v6);
        drivers.bridge.setup(&network).unwrap();
        let ready = pool().take(&network).unwrap();
        let of = |link: &str| read(&ready.namespace, &format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"));
        assert_eq!(of("eth0"), if v6 { "0" } else { "1" });
        assert_eq!((of("default"), of("lo").as_str()), (usual.clone(), "0"));
    }
}

#[test]
fn what_is_prepared_comes_with_the_namespace() {
    let drivers = host();
    let network = bridge(7, false);
    drivers.bridge.setup(&network).unwrap();
    let refuse = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuse);
    let pool: Pool<std::net::UdpSocket> = Pool::new(Box::new(move |_| {
        if refusing.load(Ordering::Relaxed) {
            return Err("not this time".into());
        }
        Ok(std::net::UdpSocket::bind("127.0.0.11:5300")?)
    }))
    .unwrap();
    let error = pool.take(&network).unwrap_err();
    assert_eq!(error.to_string(), "cannot prepare a network namespace");
    until("its pair goes with it", |links| ports(links, "br7") == 0);
    refuse.store(false, Ordering::Relaxed);
    let ready = pool.take(&network).unwrap();
    // Bound inside, readable from here.
    let client = ready.namespace.enter(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    client.send_to(b"who", "127.0.0.11:5300").unwrap();
    ready.prepared.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(ready.prepared.recv(&mut buffer).unwrap(), 3);
    // A network without a bridge: the same without a pair.
    let mut null = network;
    null.driver = hull_network::record::Driver::Null;
    let ready = pool.take(&null).unwrap();
    assert_eq!(ready.host_link, "");
}

#[test]
fn a_networks_ready_ones_go_with_it() {
    let drivers = host();
    let network = bridge(7, false);
    drivers.bridge.setup(&network).unwrap();
    let pool = pool();
    pool.keep(&network);
    full(&pool, &network);
    pool.forget(&network.id);
    assert_eq!(pool.ready(&network.id), 0);
    drivers.bridge.teardown(&network).unwrap();
    assert_eq!(rtnl().link("br7").unwrap(), None, "its name is free at once");
    until("the links are gone", |links| links.len() == 1);
    // A network that is not set up: the error comes to whoever asks, and again to the next.
    for _ in 0..2 {
        let error = pool.take(&network).unwrap_err();
        assert_eq!(error.to_string(), "network net7 uses link br7, which does not exist");
    }
    drivers.bridge.setup(&network).unwrap();
    pool.keep(&network);
    full(&pool, &network);
    drop(pool);
    until("the links are gone", |links| links.len() == 2);
}

#[test]
fn only_networks_in_use_have_some_ready() {
    let drivers = host();
    let pool = pool();
    let networks: Vec<_> = (1..=NETWORKS as u8 + 2).map(|number| bridge(number, false)).collect();
    for network in &networks {
        drivers.bridge.setup(network).unwrap();
        pool.keep(network);
    }
    for network in &networks[2..] {
        full(&pool, network);
    }
    let links = networks.len() + 1;
    until("the first two were dropped", |found| found.len() == links + NETWORKS * DEPTH);
    assert_eq!((pool.ready(&networks[0].id), pool.ready(&networks[1].id)), (0, 0));
    drop(pool.take(&networks[0]).unwrap());
    full(&pool, &networks[0]);
    assert_eq!(pool.ready(&networks[2].id), 0);
}

#[test]
fn a_killed_process_leaves_nothing_ready() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pool::process_that_keeps_a_pool", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let name = loop {
        let line = lines.next().expect("the pool fills").unwrap();
        if let Some((_, name)) = line.split_once("taken: ") {
            break name.to_owned();
        }
    };
    let found = rtnl().links().unwrap();
    assert_eq!(ports(&found, "br7"), DEPTH);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the kernel deletes what nobody holds", |links| ports(links, "br7") == 0);
    assert!(!rtnl().links().unwrap().iter().any(|link| link.name == name));
}

#[test]
#[ignore = "a process for a_killed_process_leaves_nothing_ready"]
#[allow(clippy::print_stdout, reason = "its parent reads")]
fn process_that_keeps_a_pool() {
    let network = bridge(7, true);
    let pool = pool();
    pool.keep(&network);
    full(&pool, &network);
    let ready = pool.take(&network).unwrap();
    println!("taken: {}", ready.host_link);
    // Until it is killed.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn links_of_containers_that_are_gone_are_cleared_away() {
    let drivers = host();
    let network = bridge(7, true);
    drivers.bridge.setup(&network).unwrap();
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let (first, second) = (endpoint(&network, 2), endpoint(&network, 3));
    drivers.bridge.attach(&network, &first, &one, BOTH).unwrap();
    drivers.bridge.attach(&network, &second, &two, BOTH).unwrap();
    // Somebody's own port stays.
    let index = rtnl().link("br7").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_link(&NewLink { master: Some(index), ..NewLink::new("own", Kind::Veth(Default::default())) });
    let _ = rtnl().run(batch);
    let kept = BTreeSet::from([first.host_link.clone()]);
    let before = ports(&rtnl().links().unwrap(), "br7");
    let cleared = drivers.bridge.clear(&network, &kept).unwrap();
    assert_eq!(cleared, [second.host_link.as_str()]);
    until("the link is gone", |links| ports(links, "br7") == before - 1);
    assert!(connect(&one, &Namespace::current().unwrap(), first.gateway4.unwrap()).is_some());
    assert!(two.rtnl().unwrap().link("eth0").unwrap().is_none());
}
