//! Tables as the kernel has them: what nft(8) reads back, what a change costs, what is repaired.
#![allow(clippy::print_stdout, reason = "times are for whoever runs this with --nocapture")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hull_network::firewall::{Error, Firewall};
use hull_network::namespace::Namespace;
use hull_network::nft::monitor::{Heard, Monitor};
use hull_network::nft::{Nftables, foreign};
use hull_network::record::{Endpoint, GatewayMode, Network, PortRange, Protocol, Published};
use hull_network::rules::{self, Input, Options};
use hull_network::ruleset::{Change, Elements, RuleSet};

use crate::fire_world::published;
use crate::world::{bridge, bridge_of, endpoint, host};

/// nft(8) in this thread's namespace; its output.
#[track_caller]
fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nftables is needed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What nft(8) says of the tables that our encoder made, and of those that it makes itself of the
/// same text.
#[track_caller]
fn same_as_nfts(rules: &RuleSet) {
    let ours = listed();
    let theirs = Namespace::new().unwrap().enter(|| {
        nft(&["-f", "-"], &rules.to_string());
        listed()
    });
    let theirs = theirs.unwrap();
    for (one, other) in ours.iter().zip(&theirs) {
        assert_eq!(one, other);
    }
    assert_eq!(ours.len(), theirs.len());
}

/// Everything that nft(8) lists, one object each, without the kernel's numbers and with the
/// elements of a set in their order.
fn listed() -> Vec<String> {
    let mut document: serde_json::Value =
        serde_json::from_str(&nft(&["-n", "-j", "list", "ruleset"], "")).unwrap();
    let objects = document["nftables"].as_array_mut().unwrap();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in objects.iter_mut() {
        for (_, inside) in object.as_object_mut().unwrap() {
            inside.as_object_mut().unwrap().remove("handle");
            if let Some(elements) = inside.get_mut("elem").and_then(|elements| elements.as_array_mut()) {
                elements.sort_by_key(ToString::to_string);
            }
        }
    }
    objects.iter().map(ToString::to_string).collect()
}

fn some_networks() -> (Vec<Network>, Vec<Endpoint>) {
    let mut internal = bridge(3, true);
    internal.internal = true;
    let mut routed = bridge(4, true);
    bridge_of(&mut routed).mode4 = GatewayMode::Routed;
    bridge_of(&mut routed).mode6 = GatewayMode::NatUnprotected;
    let mut closed = bridge(6, true);
    bridge_of(&mut closed).icc = false;
    // 10.1 and 10.2 lie side by side: the end of one is the beginning of the other.
    let networks = vec![bridge(1, true), bridge(2, false), internal, routed, closed];
    let all = PortRange { first: 10_000, last: 59_999 };
    let mut web = endpoint(&networks[0], 2);
    web.published = vec![
        published(Protocol::Tcp, "0.0.0.0:80", 8080),
        published(Protocol::Udp, "[::]:80", 8080),
        published(Protocol::Sctp, "0.0.0.0:80", 80),
        published(Protocol::Tcp, "[::]:80", 8080),
        published(Protocol::Tcp, "127.0.0.1:81", 81),
        published(Protocol::Tcp, "[2001:db8::1]:81", 81),
        Published { protocol: Protocol::Tcp, address: "0.0.0.0".parse().unwrap(), host: all, container: all },
        Published {
            protocol: Protocol::Udp,
            address: "192.0.2.1".parse().unwrap(),
            host: all,
            container: all,
        },
        Published { protocol: Protocol::Tcp, address: "::".parse().unwrap(), host: all, container: all },
    ];
    let mut own = endpoint(&networks[3], 2);
    own.published = vec![published(Protocol::Tcp, "0.0.0.0:0", 8080)];
    let mut db = endpoint(&networks[4], 2);
    db.exposed =
        vec![(Protocol::Tcp, PortRange::one(5432)), (Protocol::Udp, PortRange { first: 1, last: 9 })];
    let mut client = endpoint(&networks[4], 3);
    client.links.insert("db".into(), db.container.clone());
    (networks, vec![web, own, db, client])
}

const FULL: Options =
    Options { ipv4: true, ipv6: true, guard4: true, guard6: true, direct_routing: false, relay: Some(999) };

fn compiled(networks: &[Network], endpoints: &[Endpoint]) -> RuleSet {
    rules::compile(&Input { networks, endpoints, options: &FULL })
}

#[test]
fn nft_reads_what_we_wrote() {
    host();
    let (networks, endpoints) = some_networks();
    let mut firewall = Nftables::open().unwrap();
    let frame = compiled(&[], &[]);
    firewall.apply(&frame).unwrap();
    same_as_nfts(&frame);
    // From nothing, and by a change of what is there.
    let rules = compiled(&networks, &endpoints);
    firewall.apply(&rules).unwrap();
    same_as_nfts(&rules);
    assert_eq!(firewall.observe().unwrap(), Vec::<String>::new());
    let mut again = Nftables::open().unwrap();
    again.apply(&rules).unwrap();
    same_as_nfts(&rules);
    assert_eq!(nft(&["list", "map", "inet", "hull", "ranges4"], "").matches("10000-59999").count(), 2);
    // Every container goes by itself, and leaves what the others have.
    let mut left = endpoints;
    while let Some(endpoint) = left.pop() {
        let network = networks.iter().find(|network| network.id == endpoint.network).unwrap();
        let others = left.iter().filter(|one| one.network == network.id);
        let remove = rules::endpoint_elements(network, &endpoint, others, &FULL);
        again.change(&Change { remove, add: Elements::new() }).unwrap();
        assert_eq!(*again.applied(), compiled(&networks, &left));
        same_as_nfts(again.applied());
    }
    again.apply(&frame).unwrap();
    same_as_nfts(&frame);
    again.apply(&RuleSet::default()).unwrap();
    assert_eq!(nft(&["list", "ruleset"], ""), "");
}

#[test]
fn what_others_disturb_is_heard_and_repaired() {
    host();
    let (networks, endpoints) = some_networks();
    let rules = compiled(&networks, &endpoints);
    let mut firewall = Nftables::open().unwrap();
    let mut monitor = Monitor::open(firewall.port().unwrap()).unwrap();
    firewall.apply(&rules).unwrap();
    // Our own doing is nothing to hear.
    assert_eq!(monitor.hear().unwrap(), Heard::default());
    let disturbances = [
        "flush ruleset",
        "delete table bridge hull",
        "flush chain inet hull forward",
        "delete element inet hull any4 { tcp . 80 }",
        "add element inet hull bridges { \"eth7\" }",
        "insert rule inet hull forward accept",
        "delete element inet hull protected4 { 10.1.0.0/24 }",
    ];
    for disturbance in disturbances {
        nft(&["-f", "-"], disturbance);
        assert!(monitor.hear().unwrap().ours, "{disturbance}");
        assert_ne!(firewall.observe().unwrap(), Vec::<String>::new(), "{disturbance}");
        firewall.repair().unwrap();
        assert_eq!(monitor.hear().unwrap(), Heard::default(), "{disturbance}");
        assert_eq!(firewall.observe().unwrap(), Vec::<String>::new(), "{disturbance}");
        same_as_nfts(&rules);
    }
    nft(&["add", "table", "inet", "mine"], "");
    assert_eq!(monitor.hear().unwrap(), Heard { ours: false, others: true });
    nft(&["delete", "table", "inet", "mine"], "");
    // A change that meets a flushed table makes everything anew.
    nft(&["flush", "ruleset"], "");
    let mut more = endpoint(&networks[1], 9);
    more.published = vec![published(Protocol::Tcp, "0.0.0.0:99", 99)];
    let add = rules::endpoint_elements(&networks[1], &more, [].iter(), &FULL);
    firewall.change(&Change { add, remove: Elements::new() }).unwrap();
    let all: Vec<Endpoint> = endpoints.into_iter().chain([more]).collect();
    same_as_nfts(&compiled(&networks, &all));
}

#[test]
fn what_the_kernel_refuses_is_said_and_nothing_of_it_happens() {
    host();
    let (networks, endpoints) = some_networks();
    let rules = compiled(&networks, &endpoints);
    let mut firewall = Nftables::open().unwrap();
    firewall.apply(&rules).unwrap();
    // A subnet that overlaps one that is there.
    let mut bad = bridge(7, false);
    bad.subnets[0].pool = "10.1.0.0/16".parse().unwrap();
    let add = rules::network_elements(&bad, &FULL);
    let error = firewall.change(&Change { add, remove: Elements::new() }).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("table inet hull"), "{error}");
    assert_eq!(*firewall.applied(), rules);
    assert_eq!(firewall.observe().unwrap(), Vec::<String>::new());
}

/// Five hundred containers on ten networks, one port each for both families.
fn many() -> (Vec<Network>, Vec<Endpoint>) {
    let networks: Vec<Network> = (1..=10).map(|number| bridge(number, true)).collect();
    let mut endpoints = Vec::new();
    for number in 0..500u16 {
        let network = &networks[usize::from(number / 50)];
        let mut one = endpoint(network, 2 + u8::try_from(number % 50).unwrap());
        one.published = ["0.0.0.0", "::"]
            .map(|address| Published {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
                host: PortRange::one(20_000 + number),
                container: PortRange::one(80),
            })
            .to_vec();
        endpoints.push(one);
    }
    (networks, endpoints)
}

/// The middle of several times, of one start and one stop together.
fn cost(firewall: &mut Nftables, network: &Network) -> Duration {
    let mut one = endpoint(network, 200);
    one.published = vec![published(Protocol::Tcp, "0.0.0.0:80", 80), published(Protocol::Tcp, "[::]:80", 80)];
    let elements = || rules::endpoint_elements(network, &one, [].iter(), &FULL);
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            let begin = Instant::now();
            firewall.change(&Change { add: elements(), remove: Elements::new() }).unwrap();
            firewall.change(&Change { add: Elements::new(), remove: elements() }).unwrap();
            begin.elapsed() / 2
        })
        .collect();
    times.sort();
    times[50]
}

#[test]
fn one_change_among_five_hundred_is_as_small_as_among_none() {
    host();
    let (networks, endpoints) = many();
    let mut firewall = Nftables::open().unwrap();
    firewall.apply(&compiled(&networks[..1], &[])).unwrap();
    let alone = cost(&mut firewall, &networks[0]);
    let rules = compiled(&networks, &endpoints);
    let begin = Instant::now();
    firewall.apply(&rules).unwrap();
    let all = begin.elapsed();
    let among = cost(&mut firewall, &networks[0]);
    nft(&["flush", "ruleset"], "");
    let begin = Instant::now();
    firewall.repair().unwrap();
    let repaired = begin.elapsed();
    assert_eq!(firewall.observe().unwrap(), Vec::<String>::new());
    println!(
        "one change alone {alone:?}, among 500 endpoints {among:?}; 500 endpoints added in {all:?}, \
         made anew after a flush in {repaired:?}"
    );
    // Generous: that it does not grow with their number is what is asserted.
    assert!(among < alone * 4 + Duration::from_millis(5), "{among:?} among 500, {alone:?} alone");
}

#[test]
fn whoever_drops_forwarded_packets_is_named() {
    host();
    let found = |rules: &str| {
        nft(&["flush", "ruleset"], "");
        nft(&["-f", "-"], rules);
        let found = foreign::obstacles("br7").unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let chain = |policy: &str, rules: &str| {
        format!(
            "table inet fw {{ chain sub {{ oifname \"br7\" accept; }}\n\
             chain through {{ type filter hook forward priority 0; policy {policy}; {rules} }}\n }}"
        )
    };
    assert_eq!(found(""), "");
    assert_eq!(found(&chain("accept", "")), "");
    assert_eq!(found(&chain("drop", "")), "the policy of chain through in table inet fw");
    assert_eq!(
        found(&chain("drop", "ct state established accept;")),
        "the policy of chain through in table inet fw"
    );
    assert_eq!(found(&chain("drop", "oifname \"br7\" accept;")), "");
    assert_eq!(found(&chain("drop", "oifname \"br*\" accept;")), "");
    assert_eq!(found(&chain("drop", "jump sub;")), "");
    assert_eq!(found(&chain("accept", "counter drop;")), "a rule of chain through in table inet fw");
    assert_eq!(found(&chain("accept", "reject;")), "a rule of chain through in table inet fw");
    assert_eq!(found(&chain("accept", "oifname \"br8\" drop;")), "");
    assert_eq!(
        found(&chain("accept", "iifname != \"br7\" oifname \"br7\" drop;")),
        "a rule of chain through in table inet fw"
    );
    assert_eq!(found(&chain("accept", "tcp dport 80 drop;")), "");
    // Ours is none of them.
    let (networks, endpoints) = some_networks();
    Nftables::open().unwrap().apply(&compiled(&networks, &endpoints)).unwrap();
    assert_eq!(foreign::obstacles("br7").unwrap(), []);
    let iptables =
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n }";
    assert_eq!(found(iptables), "the policy of chain FORWARD in table ip filter");
}
