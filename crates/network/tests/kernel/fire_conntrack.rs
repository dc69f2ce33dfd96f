//! What the kernel remembers of those who were there before: a client that kept sending before a
//! port was published, and whoever spoke with the former holder of an address.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hull_network::driver::Driver;
use hull_network::namespace::Namespace;
use hull_network::nft::conntrack;
use hull_network::record::{Endpoint, PortRange, Protocol, Published};
use hull_network::rules::Options;

use crate::fire_world::{SILENCE, Site, published};
use crate::world::{LIMIT, bridge, endpoint, read};

/// What the service answers to one datagram; `None`: refused.
fn ask(socket: &UdpSocket) -> Option<String> {
    // An answer to an earlier one may have been a refusal that is told now.
    let mut buffer = [0; 64];
    let answer = socket.send(b"who am I").and_then(|_| socket.recv(&mut buffer));
    Some(String::from_utf8_lossy(&buffer[..answer.ok()?]).into_owned())
}

#[test]
fn a_new_holder_gets_what_an_old_client_sends() {
    let mut site = Site::new();
    let network = site.network(bridge(1, true));
    for (six, host, seen) in [(false, "192.0.2.1:90", "192.0.2.2"), (true, "[2001:db8::1]:90", "2001:db8::2")]
    {
        let any = if six { "[::]:0" } else { "0.0.0.0:0" };
        let socket = site.client.enter(|| UdpSocket::bind(any).unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.connect(host).unwrap();
        site.endpoints.clear();
        site.apply(&Options::default());
        assert_eq!(ask(&socket), None);
        let at = if six { "[::]:90" } else { "0.0.0.0:90" };
        let ports = vec![published(Protocol::Udp, at, 8080)];
        let mut web = Endpoint { published: ports.clone(), ..endpoint(&network, if six { 4 } else { 2 }) };
        let _web = site.container(&network, web.clone());
        site.apply(&Options::default());
        assert_eq!(ask(&socket), None, "the kernel has forgotten by itself");
        conntrack::forget_ports(&ports).unwrap();
        assert_eq!(ask(&socket).as_deref(), Some(seen));
        // The port goes: its client is still led to who has the address, until that is forgotten.
        web.published.clear();
        site.endpoints = vec![web.clone()];
        site.apply(&Options::default());
        assert_eq!(ask(&socket).as_deref(), Some(seen), "the kernel has forgotten by itself");
        conntrack::forget_address(address(&web, six)).unwrap();
        assert_eq!(ask(&socket), None);
    }
}

fn address(endpoint: &Endpoint, six: bool) -> IpAddr {
    if six { endpoint.address6.unwrap().addr().into() } else { endpoint.address4.unwrap().addr().into() }
}

/// A socket of the container at port 4000.
fn speaker(container: &Namespace, six: bool) -> UdpSocket {
    let at = if six { "[::]:4000" } else { "0.0.0.0:4000" };
    let socket = container.enter(|| UdpSocket::bind(at).unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Says a word to the machine until it hears it: the first may be lost while a link comes up. Gives
/// whom it has to answer.
fn greet(speaker: &UdpSocket, machine: &UdpSocket, word: u8) -> SocketAddr {
    machine.set_read_timeout(Some(SILENCE)).unwrap();
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        speaker.send_to(&[word], machine.local_addr().unwrap()).unwrap();
        let mut heard = [0];
        match machine.recv_from(&mut heard) {
            Ok((_, from)) if heard == [word] => return from,
            // Of somebody who had to say it twice.
            _ => {}
        }
    }
    panic!("nothing comes to {machine:?}")
}

/// Whether a word of the machine comes to this socket.
fn hears(socket: &UdpSocket, machine: &UdpSocket, peer: SocketAddr, limit: Duration) -> bool {
    socket.set_read_timeout(Some(limit)).unwrap();
    machine.send_to(b"answer", peer).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

/// TCP segments that a machine has received.
fn segments(machine: &Namespace) -> u64 {
    let text = read(machine, "/proc/thread-self/net/snmp");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "InSegs").unwrap();
    numbers.split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn an_heir_of_an_address_hears_nothing_of_what_its_holder_began() {
    let mut site = Site::new();
    let network = site.network(bridge(1, true));
    for (six, wire) in [(false, "192.0.2.2"), (true, "2001:db8::2")] {
        let wire: IpAddr = wire.parse().unwrap();
        let machine = site.client.enter(|| UdpSocket::bind((wire, 53)).unwrap()).unwrap();
        let listener = site.client.enter(|| TcpListener::bind((wire, 53)).unwrap()).unwrap();
        let number = if six { 6 } else { 4 };
        let old = endpoint(&network, number);
        let (first, other) = (
            site.container(&network, old.clone()),
            site.container(&network, endpoint(&network, 10 + number)),
        );
        site.apply(&Options::default());
        let (own, others) = (speaker(&first, six), speaker(&other, six));
        let (to_own, to_others) = (greet(&own, &machine, 1), greet(&others, &machine, 2));
        assert!(hears(&own, &machine, to_own, LIMIT) && hears(&others, &machine, to_others, LIMIT));
        let at = listener.local_addr().unwrap();
        let _stream = first.enter(|| TcpStream::connect_timeout(&at, LIMIT).unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        site.drivers.bridge.detach(&network, &old, Some(&first)).unwrap();
        let heir = site.container(&network, endpoint(&network, number));
        let its = speaker(&heir, six);
        let mut say = || std::io::Write::write_all(&mut far, b"more").unwrap();
        assert!(hears(&its, &machine, to_own, LIMIT), "the kernel has forgotten by itself");
        conntrack::forget_address(address(&old, six)).unwrap();
        let before = segments(&heir);
        say();
        assert!(!hears(&its, &machine, to_own, SILENCE), "the heir hears what was not for it");
        assert_eq!(segments(&heir), before);
        assert!(hears(&others, &machine, to_others, LIMIT), "another container's answers are lost");
    }
}

/// However many ports are published: what containers ask elsewhere at ports of the same numbers is
/// no concern of theirs.
#[test]
fn ports_elsewhere_are_nobodys_here() {
    let mut site = Site::new();
    let network = site.network(bridge(1, true));
    let own = site.container(&network, endpoint(&network, 4));
    site.apply(&Options::default());
    for (six, wire, any) in [(false, "192.0.2.2", "0.0.0.0"), (true, "2001:db8::2", "::")] {
        let wire: IpAddr = wire.parse().unwrap();
        let machine = site.client.enter(|| UdpSocket::bind((wire, 5353)).unwrap()).unwrap();
        let socket = speaker(&own, six);
        let peer = greet(&socket, &machine, 1);
        let range = PortRange { first: 5000, last: 60_000 };
        let all = Published {
            protocol: Protocol::Udp,
            address: any.parse().unwrap(),
            host: range,
            container: range,
        };
        conntrack::forget_ports(&[all]).unwrap();
        assert!(hears(&socket, &machine, peer, LIMIT));
    }
}
