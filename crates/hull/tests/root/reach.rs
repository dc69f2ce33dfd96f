//! Who reaches whom through published ports, between containers and from other machines, with real
//! packets at networks as people make them.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hull_network::namespace::Namespace;
use hull_testkit::{Host, Options};

use super::machines::{
    LIMIT, SILENCE, beside, container, nothing, of_host, received, route, serve, sysctl, tcp, udp,
};
use super::names::upstream::{Told, Upstream};
use super::{CLIENTS, executables, host};

/// A container that does nothing; with these words of `run`.
#[track_caller]
pub(super) fn run(host: &Host, name: &str, words: &[&str]) {
    host.hull(&[&["run", "-d", "--name", name], words, &["busybox", "sleep", "1000"]].concat()).ok();
}

#[track_caller]
fn address(host: &Host, name: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    host.hull(&["inspect", "-f", &format, name]).ok().to_owned()
}

/// Whether bridged packets pass the host's chains (br_netfilter), for both families.
fn filter_bridged(host: &Host, on: bool) {
    for kind in ["iptables", "ip6tables"] {
        sysctl(&of_host(host), &format!("net/bridge/bridge-nf-call-{kind}"), if on { "1" } else { "0" });
    }
}

#[test]
fn a_published_port_is_there_at_every_address_of_the_host() {
    let host = host();
    let here = of_host(&host);
    let _machine = beside(&host, 1, "192.0.2");
    host.hull(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "dual"]).ok();
    let both = ["-p", "8080:80", "-p", "8080:80/udp"];
    run(&host, "four", &both);
    run(&host, "six", &["--network", "dual", "-p", "8081:80", "-p", "8081:80/udp"]);
    container(&host, "four", &[80]);
    container(&host, "six", &[80]);
    for port in [8080, 8081] {
        for at in ["127.0.0.1", "172.17.0.1", "192.0.2.1"] {
            let to = format!("{at}:{port}");
            let (by_tcp, by_udp) = (tcp(&here, &to), udp(&here, &to));
            assert!(by_tcp == by_udp && !by_tcp.starts_with("127."), "{to}: {by_tcp}, {by_udp}");
        }
        // By the forwarder.
        tcp(&here, &format!("[::1]:{port}"));
        tcp(&here, &format!("[2001:db8:1::1]:{port}"));
        udp(&here, &format!("[::1]:{port}"));
        udp(&here, &format!("[2001:db8:1::1]:{port}"));
    }
    // What is bound to one address is there and nowhere else.
    run(&host, "one", &["-p", "192.0.2.1:8082:80", "-p", "192.0.2.1:8082:80/udp"]);
    container(&host, "one", &[80]);
    tcp(&here, "192.0.2.1:8082");
    udp(&here, "192.0.2.1:8082");
    nothing(&here, "127.0.0.1:8082");
    nothing(&here, "172.17.0.1:8082");
}

#[test]
fn a_port_is_published_at_one_ipv6_address_of_the_host() {
    let host = host();
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    host.hull(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "dual"]).ok();
    for (client, network, seen) in
        [(CLIENTS[0], "bridge", "172.17.0.1"), (CLIENTS[1], "dual", "2001:db8:1::2")]
    {
        let ports = ["-p", "[::1]:8083:80", "-p", "[2001:db8:1::1]:8084:81"];
        let words = [&["run", "-d", "--name", "one", "--network", network], &ports[..]].concat();
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        container(&host, "one", &[80, 81]);
        let shown = "80/tcp -> [::1]:8083\n81/tcp -> [2001:db8:1::1]:8084";
        assert_eq!(client(&host, &["port", "one"]).ok(), shown);
        tcp(&here, "[::1]:8083");
        tcp(&here, "[2001:db8:1::1]:8084");
        assert_eq!(tcp(&outside, "[2001:db8:1::1]:8084"), seen);
        for to in ["[::1]:8084", "127.0.0.1:8083", "192.0.2.1:8084", "[2001:db8:1::1]:8083"] {
            nothing(&here, to);
        }
        nothing(&outside, "[2001:db8:1::1]:8083");
        host.hull(&["rm", "-f", "one"]).ok();
    }
}

#[test]
fn another_machine_reaches_what_is_published_and_nothing_else() {
    let mut host = host();
    // It was no router before Hull.
    host.kill_daemon();
    sysctl(&of_host(&host), "net/ipv4/ip_forward", "0");
    host.start_daemon();
    let client = beside(&host, 1, "192.0.2");
    let other = beside(&host, 2, "198.51.100");
    serve(&other, &[80]);
    // The host itself gets there: whatever fails below is not for want of a way.
    tcp(&of_host(&host), "198.51.100.2:80");
    tcp(&of_host(&host), "[2001:db8:2::2]:80");
    host.hull(&[
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.78.0.0/24",
        "--subnet",
        "fd00:78::/64",
        "dual",
    ])
    .ok();
    let words =
        ["-p", "8080:80", "-p", "8080:80/udp", "-p", "127.0.0.1:8081:80", "-p", "127.0.0.1:8081:80/udp"];
    run(&host, "web", &words);
    run(&host, "six", &["--network", "dual", "-p", "8082:80", "-p", "8082:80/udp"]);
    let web = container(&host, "web", &[80, 81]);
    container(&host, "six", &[80, 81]);
    // Seen by its own address, whichever family.
    for (at, seen) in [
        ("192.0.2.1:8080", "192.0.2.2"),
        ("192.0.2.1:8082", "192.0.2.2"),
        ("[2001:db8:1::1]:8082", "2001:db8:1::2"),
    ] {
        assert_eq!((tcp(&client, at).as_str(), udp(&client, at).as_str()), (seen, seen), "{at}");
    }
    // To a container without IPv6 the forwarder speaks for it.
    assert_eq!(tcp(&client, "[2001:db8:1::1]:8080"), "172.17.0.1");
    // The container's own address, be its port published or not.
    let own = address(&host, "web", "bridge");
    for to in [format!("{own}:80"), format!("{own}:81"), "[fd00:78::2]:80".into(), "[fd00:78::2]:81".into()] {
        nothing(&client, &to);
    }
    // What is published on the host's loopback.
    nothing(&client, "192.0.2.1:8081");
    nothing(&client, "172.17.0.1:8081");
    tcp(&of_host(&host), "127.0.0.1:8081");
    // The host is no router between the two, neither before nor after a container asked both.
    for to in ["198.51.100.2:80", "[2001:db8:2::2]:80"] {
        nothing(&client, to);
    }
    assert_eq!(tcp(&web, "198.51.100.2:80"), "198.51.100.1");
    nothing(&client, "198.51.100.2:80");
    to_the_loopback_by_wire(&host);
}

/// A machine that sends packets for 127.0.0.1 to the host: they arrive and end there.
fn to_the_loopback_by_wire(host: &Host) {
    let stranger = beside(host, 3, "203.0.113");
    // Without its loopback link 127/8 is nothing of its own.
    let mut socket = stranger.rtnl().unwrap();
    let mut batch = hull_network::rtnl::Batch::new();
    batch.down("lo");
    socket.run(batch).unwrap();
    drop(socket);
    sysctl(&stranger, "net/ipv4/conf/all/route_localnet", "1");
    route(&stranger, "127.0.0.1/32", "203.0.113.1");
    assert_eq!(tcp(&stranger, "203.0.113.1:8080"), "203.0.113.2");
    let before = received(&of_host(host), "wan3");
    nothing(&stranger, "127.0.0.1:8081");
    assert!(received(&of_host(host), "wan3") > before, "nothing was sent");
}

#[test]
fn an_internal_network_has_no_way_in_or_out() {
    let host = host();
    let machine = beside(&host, 1, "192.0.2");
    serve(&machine, &[80]);
    let outside = Upstream::start(&machine, "192.0.2.2:53", |_| Told::address("198.51.100.7"));
    host.hull(&["network", "create", "--internal", "--subnet", "10.77.0.0/24", "quiet"]).ok();
    host.hull(&["network", "create", "open"]).ok();
    let dns = ["--dns", "192.0.2.2"];
    run(&host, "one", &[&["--network", "quiet", "-p", "8080:80"], &dns[..]].concat());
    run(&host, "two", &[&["--network", "quiet"], &dns[..]].concat());
    run(&host, "free", &[&["--network", "open", "-p", "8081:80"], &dns[..]].concat());
    let one = container(&host, "one", &[80]);
    let two = container(&host, "two", &[80]);
    let free = container(&host, "free", &[80]);
    let (at_one, at_two) = (address(&host, "one", "quiet"), address(&host, "two", "quiet"));
    let at_free = address(&host, "free", "open");
    assert_eq!(tcp(&one, &format!("{at_two}:80")), at_one);
    assert_eq!(udp(&two, &format!("{at_one}:80")), at_two);
    // Out: to another machine, another network, and what that one publishes.
    for to in
        ["192.0.2.2:80".to_owned(), format!("{at_free}:80"), "192.0.2.1:8081".into(), "10.77.0.1:8081".into()]
    {
        nothing(&one, &to);
    }
    assert_eq!(tcp(&free, "192.0.2.2:80"), "192.0.2.1");
    // In: from another machine and another network, by address and by port.
    let direct = format!("{at_one}:80");
    for (from, to) in [
        (&machine, direct.as_str()),
        (&free, direct.as_str()),
        (&machine, "192.0.2.1:8080"),
        (&free, "192.0.2.1:8080"),
        (&of_host(&host), "127.0.0.1:8080"),
    ] {
        nothing(from, to);
    }
    // Names of the network are known, those of the world are nobody's, and nobody is asked.
    let look_up = |from: &str, name: &str| host.hull(&["exec", from, "nslookup", name]);
    assert!(look_up("one", "two").ok().contains(&at_two));
    let told = look_up("one", "outside.example");
    assert!(format!("{told}").contains("NXDOMAIN"), "{told}");
    assert_eq!(outside.asked(), [""; 0], "the question has leaked out");
    assert!(look_up("free", "outside.example").ok().contains("198.51.100.7"));
    assert_ne!(outside.asked(), [""; 0]);
}

/// A container at its own published port, and at a neighbour's, by an address of the host.
#[test]
fn published_ports_are_reached_from_behind() {
    for bridged in [false, true] {
        let host = host();
        filter_bridged(&host, bridged);
        let _machine = beside(&host, 1, "192.0.2");
        host.hull(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "dual"]).ok();
        for (network, at) in [("bridge", "172.17.0.1"), ("dual", "[2001:db8:1::1]")] {
            let words = ["--network", network, "-p", "8080:80", "-p", "8080:80/udp"];
            run(&host, "own", &words);
            run(&host, "next", &["--network", network, "-p", "8081:80", "-p", "8081:80/udp"]);
            let own = container(&host, "own", &[80]);
            let next = container(&host, "next", &[80]);
            for at in [at, "192.0.2.1"] {
                for (from, port) in [(&own, 8081), (&next, 8080), (&own, 8080), (&next, 8081)] {
                    let to = format!("{at}:{port}");
                    tcp(from, &to);
                    udp(from, &to);
                }
            }
            host.hull(&["rm", "-f", "own", "next"]).ok();
        }
    }
}

/// Somebody switches br_netfilter on while containers run.
#[test]
fn own_ports_are_reached_from_behind_whatever_is_filtered_later() {
    let mut host = host();
    host.kill_daemon();
    filter_bridged(&host, false);
    host.start_daemon();
    run(&host, "own", &["-p", "8080:80"]);
    let own = container(&host, "own", &[80]);
    tcp(&own, "172.17.0.1:8080");
    filter_bridged(&host, true);
    // Its port of the bridge is as it was: without what follows there is no way back.
    nothing(&own, "172.17.0.1:8080");
    // A namespace that was ready before that.
    run(&host, "next", &["-p", "8081:80"]);
    let next = container(&host, "next", &[80]);
    tcp(&next, "172.17.0.1:8081");
    tcp(&next, "172.17.0.1:8080");
    host.kill_daemon();
    host.start_daemon();
    tcp(&own, "172.17.0.1:8080");
}

#[test]
fn containers_that_are_kept_apart_reach_what_a_link_opens() {
    let apart = Options { daemon: vec!["--icc=false".to_owned()], ..Options::default() };
    for bridged in [false, true] {
        let host = Host::start(executables(), apart.clone());
        host.busybox();
        filter_bridged(&host, bridged);
        let off = "com.docker.network.bridge.enable_icc=false";
        host.docker(&["network", "create", "-o", off, "closed"]).ok();
        for (network, client) in [("bridge", CLIENTS[0]), ("closed", CLIENTS[1])] {
            run(&host, "db", &["--network", network, "--expose", "80", "--expose", "82/udp"]);
            run(&host, "stranger", &["--network", network]);
            let words = ["run", "-d", "--name", "friend", "--network", network, "--link", "db:store"];
            client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
            let db = container(&host, "db", &[80, 81, 82]);
            let stranger = container(&host, "stranger", &[80]);
            let friend = container(&host, "friend", &[80]);
            let at = |name: &str, port: u16| format!("{}:{port}", address(&host, name, network));
            for port in [80, 81, 82] {
                nothing(&stranger, &at("db", port));
            }
            assert_eq!(tcp(&friend, &at("db", 80)), address(&host, "friend", network));
            assert_eq!(udp(&friend, &at("db", 82)), address(&host, "friend", network));
            nothing(&friend, &at("db", 81));
            for from in [&db, &stranger] {
                nothing(from, &at("friend", 80));
            }
            // The host and the world are not meant.
            tcp(&of_host(&host), &at("db", 80));
            host.hull(&["rm", "-f", "db", "stranger", "friend"]).ok();
        }
    }
}

/// A socket of the container that speaks to everybody.
fn speaker(container: &Namespace, at: &str) -> UdpSocket {
    container.enter(|| UdpSocket::bind(at).unwrap()).unwrap()
}

/// Whether a word that the machine sends to `peer` comes to this socket.
fn hears(socket: &UdpSocket, machine: &UdpSocket, peer: SocketAddr, limit: Duration) -> bool {
    socket.set_read_timeout(Some(limit)).unwrap();
    machine.send_to(b"answer", peer).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

/// Who spoke with a container goes on when another one has its address.
#[test]
fn an_heir_of_an_address_hears_nothing_of_what_its_holder_began() {
    let host = host();
    let outside = beside(&host, 1, "192.0.2");
    let subnets = ["--subnet", "10.77.0.0/24", "--ipv6", "--subnet", "fd00:77::/64"];
    host.hull(&[&["network", "create"], &subnets[..], &["lan"]].concat()).ok();
    run(&host, "other", &["--network", "lan"]);
    let other = container(&host, "other", &[]);
    for (client, wire, any) in
        [(CLIENTS[0], "192.0.2.2:53", "0.0.0.0:4000"), (CLIENTS[1], "[2001:db8:1::2]:53", "[::]:4000")]
    {
        let place = ["--network", "lan", "--ip", "10.77.0.50", "--ip6", "fd00:77::50"];
        let words =
            |name| [&["run", "-d", "--name", name], &place[..], &["busybox", "sleep", "1000"]].concat();
        client(&host, &words("old")).ok();
        let old = container(&host, "old", &[]);
        let machine = speaker(&outside, wire);
        machine.set_read_timeout(Some(SILENCE)).unwrap();
        // The first word may be lost while a link comes up.
        let greet = |socket: &UdpSocket, word: u8| {
            let end = Instant::now() + LIMIT;
            loop {
                socket.send_to(&[word], wire).unwrap();
                let mut heard = [0];
                match machine.recv_from(&mut heard) {
                    Ok((_, from)) if heard == [word] => return from,
                    _ => assert!(Instant::now() < end, "nothing comes to {wire}"),
                }
            }
        };
        let (own, others) = (speaker(&old, any), speaker(&other, any));
        let (to_own, to_others) = (greet(&own, 1), greet(&others, 2));
        assert!(hears(&own, &machine, to_own, LIMIT) && hears(&others, &machine, to_others, LIMIT));
        client(&host, &["rm", "-f", "old"]).ok();
        client(&host, &words("heir")).ok();
        let heir = container(&host, "heir", &[]);
        let its = speaker(&heir, any);
        assert!(!hears(&its, &machine, to_own, SILENCE), "the heir hears what was not for it");
        assert!(hears(&others, &machine, to_others, LIMIT), "another container's answers are lost");
        // Its own are its own.
        let to_its = greet(&its, 3);
        assert!(hears(&its, &machine, to_its, LIMIT));
        client(&host, &["rm", "-f", "heir"]).ok();
    }
}

/// An association's first packet (RFC 9260, sections 3.1 and 3.3.2): INIT, with its checksum, without
/// which the kernel's connection tracking takes it for broken.
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let ports = (u32::from(source) << 16) | u32::from(destination);
    let mut packet = Vec::new();
    // Ports, verification tag, checksum; then INIT of 20 bytes: tag, window, one stream each way, TSN.
    for word in [ports, 0, 0, 0x0100_0014, 0x1234, 65535, 0x0001_0001, 1] {
        packet.extend(word.to_be_bytes());
    }
    let crc32c = packet.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    });
    packet[8..12].copy_from_slice(&(!crc32c).to_le_bytes());
    packet
}

/// By packets made by hand: not every kernel has sockets of it.
#[test]
fn sctp_is_led_to_the_container() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketType, ipproto, sockopt};
    let raw = || rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP)).unwrap();
    let host = host();
    let here = of_host(&host);
    for client in CLIENTS {
        let words = ["run", "-d", "--name", "assoc", "-p", "9000:9/sctp", "busybox", "sleep", "1000"];
        client(&host, &words).ok();
        assert_eq!(client(&host, &["port", "assoc"]).ok(), "9/sctp -> 0.0.0.0:9000\n9/sctp -> [::]:9000");
        let shown = client(&host, &["ps", "--format", "{{.Ports}}"]).ok().to_owned();
        assert_eq!(shown, "0.0.0.0:9000->9/sctp, [::]:9000->9/sctp");
        let receiver = container(&host, "assoc", &[]).enter(raw).unwrap();
        sockopt::set_socket_timeout(&receiver, sockopt::Timeout::Recv, Some(LIMIT)).unwrap();
        let send = || {
            let to = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
            rustix::net::sendto(raw(), &sctp_init(5555, 9000), SendFlags::empty(), &to).unwrap();
        };
        here.enter(send).unwrap();
        let mut packet = [0; 128];
        let (_, len) = rustix::net::recv(&receiver, &mut packet, RecvFlags::empty()).unwrap();
        // Behind twenty bytes of IPv4: the source port may be another by now, the destination's is the container's.
        assert_eq!((len, &packet[22..24], packet[32]), (52, &[0, 9][..], 1), "{:?}", &packet[..len]);
        client(&host, &["rm", "-f", "assoc"]).ok();
    }
}
