//! Answers by value: records in, bytes in, bytes out.

use super::*;
use crate::dns::table::{HOST_NAMES, table};
use crate::record::{Bridge, Driver, Endpoint, GatewayMode, Mac, Network, Subnet};

fn network(id: &str, internal: bool, pools: &[&str]) -> Network {
    let pools = pools.iter().map(|pool| pool.parse::<ipnet::IpNet>().unwrap());
    let subnets = pools.map(|pool| Subnet {
        pool,
        range: None,
        gateway: pool.hosts().next(),
        reserved: Default::default(),
        asked: false,
    });
    Network {
        id: id.to_owned(),
        name: id.to_owned(),
        driver: Driver::Bridge(Bridge {
            link: format!("br-{id}"),
            default: id == "bridge",
            icc: true,
            masquerade: true,
            binding: None,
            mtu: None,
            prefix: "eth".to_owned(),
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            foreign: false,
        }),
        subnets: subnets.collect(),
        ipv4: true,
        ipv6: true,
        internal,
        attachable: false,
        labels: Default::default(),
        options: Default::default(),
        ipam_options: Default::default(),
        created: 0,
    }
}

fn endpoint(network: &str, container: &str, v4: &str, v6: &str, names: &[&str]) -> Endpoint {
    Endpoint {
        id: format!("{network}-{container}"),
        network: network.to_owned(),
        container: container.to_owned(),
        link: "eth0".to_owned(),
        host_link: String::new(),
        mac: Mac::default(),
        address4: v4.parse().ok(),
        address6: v6.parse().ok(),
        link_local: Vec::new(),
        gateway4: None,
        gateway6: None,
        sysctls: Vec::new(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        links: Default::default(),
        published: Vec::new(),
        exposed: Vec::new(),
    }
}

/// `front` (dual stack) and `back` (internal), three containers and one of the default bridge.
fn world() -> Table {
    let networks = [
        network("front", false, &["172.18.0.0/16", "fd00:1::/64"]),
        network("back", true, &["172.19.0.0/16"]),
        network("bridge", false, &["172.17.0.0/16"]),
    ];
    let mut web = endpoint("front", "web", "172.18.0.2/16", "fd00:1::2/64", &["Web", "0123456789ab", "app"]);
    // A router beside the host.
    web.gateway4 = Some([172, 18, 0, 254].into());
    web.links.insert("store".to_owned(), "db".to_owned());
    let endpoints = [
        web,
        endpoint("front", "api", "172.18.0.3/16", "", &["api", "app", "a.b"]),
        endpoint("front", "db", "172.18.0.4/16", "", &["db"]),
        endpoint("back", "db", "172.19.0.4/16", "", &["db", "private"]),
        endpoint("back", "job", "172.19.0.5/16", "", &["job"]),
        endpoint("bridge", "old", "172.17.0.2/16", "", &["old"]),
        endpoint("bridge", "older", "172.17.0.3/16", "", &["older"]),
    ];
    table(&networks, &endpoints)
}

/// A query as a resolver makes it; `edns` is the size it offers.
fn ask(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0x80, 0, 0, 0]);
    }
    bytes
}

static NO_OPTIONS: Options = Options { servers: Vec::new(), keeps_bare_names: false, given: Vec::new() };

fn asker(container: &str) -> Asker<'_> {
    Asker { container, transport: Transport::Udp, turn: 0, options: &NO_OPTIONS }
}

/// The answer as text: `forward`, `nothing`, or the result and its records.
fn text(table: &Table, asker: &Asker<'_>, query: &[u8]) -> String {
    let mut out = vec![7; 3];
    match answer(table, asker, query, &mut out) {
        Answer::Forward { internal: false } => return "forward".to_owned(),
        Answer::Forward { internal: true } => return "within".to_owned(),
        Answer::Nothing => return "nothing".to_owned(),
        Answer::Reply => {}
    }
    assert_eq!(out[..2], query[..2], "the query's id");
    assert_eq!(out[2] & 0x80, 0x80, "a response");
    let mut text = match out[3] & 15 {
        0 => String::new(),
        code => format!("code {code}"),
    };
    if out[2] & 2 != 0 {
        text.push_str("truncated ");
    }
    if out[5] == 0 {
        return text;
    }
    let mut at = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    assert_eq!(out[12..at], query[12..at], "the query's question");
    let mut records = Vec::new();
    for _ in 0..u16::from_be_bytes([out[6], out[7]]) {
        assert_eq!(out[at..at + 2], [0xC0, 12]);
        assert_eq!(out[at + 4..at + 10], [0, 1, 0, 0, 2, 88], "class and seconds");
        let data = &out[at + 12..][..usize::from(out[at + 11])];
        at += 12 + data.len();
        records.push(match (data.len(), out[at - data.len() - 9]) {
            (4, 1) => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            (16, 28) => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            _ => data.escape_ascii().to_string(),
        });
    }
    if out[11] == 1 {
        records.push(format!("opt {}", out[at..].escape_ascii()));
        at += 11;
    }
    assert_eq!(at, out.len());
    text + &records.join(" ")
}

#[track_caller]
fn check(container: &str, name: &str, kind: u16, expected: &str) {
    assert_eq!(text(&world(), &asker(container), &ask(name, kind, None)), expected, "{name} for {container}");
}

const A: u16 = message::A;
const AAAA: u16 = message::AAAA;

#[test]
fn names_ids_and_aliases_of_the_askers_networks_in_any_case() {
    check("api", "web", A, "172.18.0.2");
    check("api", "WEB", A, "172.18.0.2");
    check("api", "0123456789ab", A, "172.18.0.2");
    check("api", "web", AAAA, "fd00:1::2");
    check("api", "a.b", A, "172.18.0.3");
    check("api", "web.front", A, "172.18.0.2");
    check("api", "a.b.front", A, "172.18.0.3");
    check("api", "web.back", A, "forward");
    check("job", "web", A, "code 3");
    check("api", "private", A, "forward");
}

#[test]
fn a_name_without_the_wanted_record_is_an_empty_answer() {
    check("web", "api", AAAA, "");
    check("web", "api", 15, "");
    check("web", "api", 65, "");
    check("api", "web", message::ANY, "172.18.0.2 fd00:1::2");
}

#[test]
fn links_are_known_to_their_owner_only() {
    check("web", "store", A, "172.18.0.4");
    check("api", "store", A, "forward");
}

#[test]
fn the_first_network_that_knows_a_name_answers() {
    check("db", "db", A, "172.18.0.4");
    check("db", "db.back", A, "172.19.0.4");
    check("db", "job", A, "172.19.0.5");
    check("db", "example.com", A, "forward");
}

#[test]
fn internal_networks_never_ask_outside() {
    for name in ["example.com", "nobody", "web", "host.docker.internal", "1.0.19.172.in-addr.arpa", ""] {
        check("job", name, A, "code 3");
    }
    check("job", "8.8.8.8.in-addr.arpa", message::PTR, "code 3");
    check("job", "db", A, "172.19.0.4");
    // A server that it was given may be on them.
    let options = Options { servers: vec![[172, 19, 0, 53].into()], ..NO_OPTIONS.clone() };
    let asker = Asker { options: &options, ..asker("job") };
    assert_eq!(text(&world(), &asker, &ask("example.com", A, None)), "within");
    assert_eq!(text(&world(), &asker, &ask("db", A, None)), "172.19.0.4");
}

#[test]
fn the_default_bridge_has_no_names() {
    check("old", "older", A, "forward");
    check("old", "example.com", A, "forward");
}

#[test]
fn the_host_has_names_on_every_network_that_reaches_it() {
    for name in HOST_NAMES {
        check("web", name, A, "172.18.0.1");
        check("web", name, AAAA, "");
    }
    check("api", "host.docker.internal", A, "forward");
    // One that was asked for is what was asked for.
    let options = Options { given: vec!["Host.docker.internal".to_owned()], ..NO_OPTIONS.clone() };
    let asker = Asker { options: &options, ..asker("web") };
    let told = |name| text(&world(), &asker, &ask(name, AAAA, None));
    assert_eq!((told("host.docker.internal"), told("host.hull.internal")), ("forward".into(), String::new()));
}

#[test]
fn addresses_of_own_networks_have_names() {
    check("api", "2.0.18.172.in-addr.arpa", message::PTR, "\\x03Web\\x05front\\x00");
    check("db", "5.0.19.172.IN-ADDR.ARPA", message::PTR, "\\x03job\\x04back\\x00");
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    check("api", six, message::PTR, "forward");
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa";
    check("api", six, message::PTR, "\\x03Web\\x05front\\x00");
    // Nobody's, but of ours: not to be told to anybody.
    check("api", "99.0.18.172.in-addr.arpa", message::PTR, "code 3");
    check("api", "8.8.8.8.in-addr.arpa", message::PTR, "forward");
    check("api", "8.8.8.in-addr.arpa", message::PTR, "forward");
    check("api", "300.0.18.172.in-addr.arpa", message::PTR, "forward");
    check("api", "2.0.18.172.in-addr.arpa", A, "");
}

#[test]
fn several_of_one_alias_take_turns() {
    let world = world();
    let turn = |turn| text(&world, &Asker { turn, ..asker("db") }, &ask("app", A, None));
    assert_eq!(turn(0), "172.18.0.2 172.18.0.3");
    assert_eq!(turn(1), "172.18.0.3 172.18.0.2");
    assert_eq!(turn(u32::MAX), "172.18.0.3 172.18.0.2");
}

#[test]
fn bare_names_stay_where_the_container_set_ndots() {
    let world = world();
    let options = Options { keeps_bare_names: true, ..NO_OPTIONS.clone() };
    let asker = Asker { options: &options, ..asker("web") };
    assert_eq!(text(&world, &asker, &ask("nas", A, None)), "");
    assert_eq!(text(&world, &asker, &ask("nas.lan", A, None)), "forward");
    assert_eq!(text(&world, &asker, &ask("com", 2, None)), "forward");
}

#[test]
fn a_container_that_is_not_known_yet_gets_a_failure_that_nobody_keeps() {
    check("stranger", "web", A, "code 2");
}

#[test]
fn edns_is_answered_with_edns() {
    let world = world();
    let asker = asker("api");
    let opt = "opt \\x00\\x00)\\x04\\xd0\\x00\\x00\\x80\\x00\\x00\\x00";
    assert_eq!(text(&world, &asker, &ask("web", A, Some(4096))), format!("172.18.0.2 {opt}"));
    let mut later = ask("web", A, Some(4096));
    let version = later.len() - 5;
    later[version] = 1;
    // BADVERS is 16: its low bits are the header's, its high ones stand in the record.
    assert_eq!(text(&world, &asker, &later), opt.replace("\\x04\\xd0\\x00", "\\x04\\xd0\\x01"));
}

#[test]
fn who_comes_and_goes_changes_its_own_names_alone() {
    let front = network("front", false, &["172.18.0.0/16"]);
    let mut world = world();
    let shown = |world: &Table, by: &str| {
        let one = |name: &str| format!("{name}: {}", text(world, &asker(by), &ask(name, A, None)));
        ["web", "app", "store", "db", "2.0.18.172.in-addr.arpa"].map(one).join("; ")
    };
    let before = shown(&world, "api");
    // One that goes leaves what others have, the second owner of a name too.
    world.unset("front", "web");
    assert!(text(&world, &asker("web"), &ask("db", A, None)).contains("code 2"));
    let alone = text(&world, &asker("api"), &ask("app", A, None));
    assert!(alone.contains("172.18.0.3") && !alone.contains("172.18.0.2"), "{alone}");
    assert_eq!(text(&world, &asker("api"), &ask("web", A, None)), "forward");
    // Another has its address and one of its names, then it comes back with another address.
    world.set(&front, &endpoint("front", "new", "172.18.0.2/16", "", &["new", "web"]));
    world.set(&front, &endpoint("front", "web", "172.18.0.9/16", "", &["Web", "app"]));
    let both = text(&world, &asker("api"), &ask("web", A, None));
    assert!(both.contains("172.18.0.2") && both.contains("172.18.0.9"), "{both}");
    world.unset("front", "new");
    let mut web = endpoint("front", "web", "172.18.0.2/16", "fd00:1::2/64", &["Web", "0123456789ab", "app"]);
    web.gateway4 = Some([172, 18, 0, 1].into());
    web.links.insert("store".to_owned(), "db".to_owned());
    // Renamed and put back: the same as at first, but for the order of those who share a name.
    world.set(&front, &endpoint("front", "web", "172.18.0.9/16", "", &["other"]));
    world.set(&front, &web);
    world.set(&front, &endpoint("front", "api", "172.18.0.3/16", "", &["api", "app", "a.b"]));
    assert_eq!(shown(&world, "api"), before);
    // A link leads to whoever is there when it is asked for.
    let link = |world: &Table| text(world, &asker("web"), &ask("store", A, None));
    assert!(link(&world).contains("172.18.0.4"));
    world.unset("front", "db");
    assert_eq!(link(&world), "forward");
    // Of a network that nobody is on, nothing is kept.
    for container in ["web", "api"] {
        world.unset("front", container);
    }
    assert_eq!(text(&world, &asker("db"), &ask("web", A, None)), "code 3");
    assert!(text(&world, &asker("web"), &ask("web", A, None)).contains("code 2"));
}

#[test]
fn what_does_not_fit_is_cut_over_udp_and_whole_over_tcp() {
    let networks = [network("front", false, &["172.18.0.0/16"])];
    let many: Vec<Endpoint> = (1..=100)
        .map(|n| endpoint("front", &format!("c{n}"), &format!("172.18.1.{n}/16"), "", &["all"]))
        .collect();
    let table = table(&networks, &many);
    let count = |edns, transport| {
        let mut out = Vec::new();
        let asker = Asker { transport, ..asker("c1") };
        assert_eq!(answer(&table, &asker, &ask("all", A, edns), &mut out), Answer::Reply);
        (u16::from_be_bytes([out[6], out[7]]), out[2] & 2 != 0, out.len())
    };
    // Twelve of header, nine of question, sixteen a record.
    assert_eq!(count(None, Transport::Udp), (30, true, 501));
    assert_eq!(count(Some(100), Transport::Udp), (30, true, 512));
    assert_eq!(count(Some(1232), Transport::Udp), (75, true, 1232));
    assert_eq!(count(Some(4096), Transport::Udp), (100, false, 1632));
    assert_eq!(count(None, Transport::Tcp), (100, false, 1621));
}

#[test]
fn what_is_no_query_is_refused_or_passed_over() {
    let world = world();
    let asker = asker("api");
    let good = ask("web", A, None);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        text(&world, &asker, &bytes)
    };
    assert_eq!(with(2, 0x81), "nothing", "a reply");
    assert_eq!(with(2, 0x29), "code 4", "an update");
    assert_eq!(with(5, 0), "code 1", "no question");
    assert_eq!(with(5, 2), "code 1", "two questions");
    assert_eq!(with(12, 0xC0), "code 1", "a pointer to nothing before");
    assert_eq!(with(11, 9), "code 1", "records that are not there");
    assert_eq!(with(12, 60), "code 1", "a label over the end");
    assert_eq!(with(13, b'.'), "forward", "a dot within a label is no dot");
    for len in 0..good.len() {
        let expected = if len < 12 { "nothing" } else { "code 1" };
        assert_eq!(text(&world, &asker, &good[..len]), expected, "{len} bytes");
    }
    let long = ask(&["x".repeat(63).as_str(); 4].join("."), A, None);
    assert_eq!(text(&world, &asker, &long), "code 1");
}

#[test]
fn a_reply_belongs_to_its_query() {
    let query = ask("Example.com", A, None);
    let mut reply = ask("example.COM", A, None);
    reply[2] |= 0x80;
    assert!(message::answers(&reply, &query));
    let with = |at: usize, byte: u8| {
        let mut bytes = reply.clone();
        bytes[at] = byte;
        message::answers(&bytes, &query)
    };
    assert!(!with(0, 0) && !with(2, 1) && !with(13, b'f') && !with(26, 28));
    let refused = [0xAB, 0xCD, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(message::answers(&refused, &query));
    assert!(!message::answers(&refused[..11], &query));
}
