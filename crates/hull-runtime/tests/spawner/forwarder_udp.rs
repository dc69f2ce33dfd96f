//! The forwarder and UDP: clients of one socket are kept apart, answered from the address that they
//! asked, and end with their port; the sockets outlive daemons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_runtime::forwarder::{Client, Target};

use crate::house::House;

const LIMIT: Duration = Duration::from_secs(20);
/// Flows of one port that the forwarder keeps.
const FLOWS: usize = 256;

fn host() -> (House, Client) {
    hull_sys::process::unshare_network().unwrap();
    hull_sys::netlink::loopback_up().unwrap();
    let house = House::new();
    let forwarder = Client::adopt_or_start(&house.client, &house.exec_root()).unwrap();
    (house, forwarder)
}

/// Says to each datagram by which port it came, and what it was.
fn program() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65535];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let mut answer = format!("{} ", from.port()).into_bytes();
            answer.extend(&buffer[..len]);
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

/// A port that is held for a container, as the daemon does it.
fn held(port: u16) -> UdpSocket {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
}

fn target(address: Ipv6Addr, first: u16, port: u16) -> Target {
    Target { address, first, last: first, to: IpAddr::V4(Ipv4Addr::LOCALHOST), port, udp: true }
}

fn carried(socket: &UdpSocket, target: Target) -> Vec<(Target, OwnedFd)> {
    vec![(target, socket.try_clone().unwrap().into())]
}

fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The port by which the program sees the client.
#[track_caller]
fn ask(client: &UdpSocket, text: &str) -> u16 {
    client.send(text.as_bytes()).unwrap();
    hear(client, text)
}

#[track_caller]
fn hear(client: &UdpSocket, text: &str) -> u16 {
    let mut buffer = vec![0; 65535];
    let len = client.recv(&mut buffer).unwrap();
    let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let (port, rest) = answer.split_once(' ').unwrap();
    assert_eq!(rest.len(), text.len());
    assert!(rest == text, "{rest:.40} instead of {text:.40}");
    port.parse().unwrap()
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn clients_are_kept_apart_and_keep_their_flows() {
    let (_house, forwarder) = host();
    let one = held(5353);
    forwarder.carry(&carried(&one, target(Ipv6Addr::UNSPECIFIED, 5353, program()))).unwrap();
    let (a, b) = (client(5353), client(5353));
    a.send(b"first").unwrap();
    b.send(b"second").unwrap();
    let (of_a, of_b) = (hear(&a, "first"), hear(&b, "second"));
    assert_ne!(of_a, of_b);
    assert_eq!((ask(&a, "again"), ask(&b, "")), (of_a, of_b));
    // Long ones: what an IPv4 packet holds, less the program's own words.
    assert_eq!(ask(&a, &"x".repeat(65_000)), of_a);
    // More at once than a turn takes.
    let texts: Vec<String> = (0..100).map(|number| format!("number {number}")).collect();
    texts.iter().for_each(|text| assert_eq!(a.send(text.as_bytes()).unwrap(), text.len()));
    texts.iter().for_each(|text| assert_eq!(hear(&a, text), of_a));
    // One of ::1 alone.
    let local = held(5354);
    forwarder.carry(&carried(&local, target("2001:db8::1".parse().unwrap(), 5354, program()))).unwrap();
    let c = client(5354);
    c.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    c.send(b"not for this one").unwrap();
    assert!(c.recv(&mut [0; 64]).is_err());
    forwarder.carry(&carried(&local, target(Ipv6Addr::LOCALHOST, 5354, program()))).unwrap();
    c.set_read_timeout(Some(LIMIT)).unwrap();
    ask(&c, "for this one");
}

#[test]
fn the_oldest_flow_makes_room_and_a_refused_one_ends() {
    let (_house, forwarder) = host();
    let one = held(5353);
    let quiet = descriptors(forwarder.pid);
    forwarder.carry(&carried(&one, target(Ipv6Addr::UNSPECIFIED, 5353, program()))).unwrap();
    let clients: Vec<UdpSocket> = (0..FLOWS).map(|_| client(5353)).collect();
    let seen: Vec<u16> = clients.iter().map(|client| ask(client, "here")).collect();
    assert_eq!(descriptors(forwarder.pid), quiet + 1 + FLOWS);
    // The first one is not the oldest any more when another comes.
    assert_eq!(ask(&clients[0], "still here"), seen[0]);
    ask(&client(5353), "one more");
    assert_eq!(descriptors(forwarder.pid), quiet + 1 + FLOWS);
    assert_eq!(ask(&clients[0], "as before"), seen[0]);
    assert_eq!(ask(&clients[2], "as before"), seen[2]);
    // Nobody is behind this one: its flow is gone as soon as the refusal is there.
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let other = held(5354);
    forwarder.carry(&carried(&other, target(Ipv6Addr::UNSPECIFIED, 5354, nobody))).unwrap();
    client(5354).send(b"hello").unwrap();
    let start = Instant::now();
    // It was handled before what came later, or will be.
    ask(&clients[0], "and now");
    while descriptors(forwarder.pid) > quiet + 2 + FLOWS {
        assert!(start.elapsed() < LIMIT, "a refused flow is still there");
        std::thread::yield_now();
    }
}

#[test]
fn the_next_daemon_finds_the_sockets_and_a_shut_one_is_free() {
    let (house, first) = host();
    let (to, nowhere) = (program(), program());
    let quiet = descriptors(first.pid);
    let own: Vec<(Target, OwnedFd)> = (6000..6040)
        .map(|port| {
            (target(Ipv6Addr::UNSPECIFIED, port, if port == 6000 { to } else { nowhere }), held(port).into())
        })
        .collect();
    first.carry(&own).unwrap();
    let (kept, lost) = (client(6000), client(6039));
    let seen = ask(&kept, "first");
    ask(&lost, "first");
    let pid = first.pid;
    drop((own, first));
    // The ports are held while there is no daemon, and are served.
    assert!(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 6000)).is_err());
    assert_eq!(ask(&kept, "without a daemon"), seen);
    let next = Client::adopt_or_start(&house.client, &house.exec_root()).unwrap();
    assert_eq!(next.pid, pid);
    let found: Vec<UdpSocket> = next.carried().unwrap().into_iter().map(UdpSocket::from).collect();
    let at: Vec<SocketAddr> = found.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let expected: Vec<SocketAddr> = (6000..6040).map(|port| (Ipv6Addr::UNSPECIFIED, port).into()).collect();
    assert_eq!(at, expected);
    // One is told again and goes on as it was, the others are gone.
    let stays = target(Ipv6Addr::UNSPECIFIED, 6000, to);
    next.replace(&[stays]).unwrap();
    next.carry(&carried(&found[0], stays)).unwrap();
    drop(found);
    assert_eq!(ask(&kept, "with the next"), seen);
    drop(held(6039));
    assert_eq!(descriptors(pid), quiet + 2, "itself and a flow");
    lost.send(b"anybody?").unwrap();
    assert_eq!(lost.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    next.shut(&[stays]).unwrap();
    drop(held(6000));
    // A retired one has let go of all.
    let again = held(6000);
    next.carry(&carried(&again, stays)).unwrap();
    ask(&client(6000), "once more");
    next.retire().unwrap();
    drop(again);
    drop(held(6000));
}
