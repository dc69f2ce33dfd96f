//! Connections to 127.0.0.1 that are led when they are made. There is no packet filter here: what is
//! not led is refused.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use hull_network::loopback::{Loopback, Way};
use hull_network::namespace::Namespace;
use hull_network::rtnl::{Batch, Kind, NewLink, Peer};
use rustix::net::{AddressFamily, SocketType};

use crate::fire_world::address_of;
use crate::world::{LIMIT, host, reaches};

/// The folder of the v2 hierarchy's root.
fn cgroup() -> File {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("this host has cgroup v2 mounted");
    File::open(line.split(' ').nth(4).unwrap()).unwrap()
}

/// Another machine on a wire with this one, at 10.1.0.2.
fn beside() -> Namespace {
    let other = Namespace::new().unwrap();
    let mut batch = Batch::new();
    let peer = Peer { name: "eth0", mac: None, namespace: Some(other.as_fd()) };
    batch.add_link(&NewLink { up: true, ..NewLink::new("here", Kind::Veth(peer)) });
    let this = Namespace::current().unwrap();
    this.rtnl().unwrap().run(batch).unwrap();
    address_of(&this, "here", &["10.1.0.1/24".to_owned()]);
    address_of(&other, "eth0", &["10.1.0.2/24".to_owned()]);
    assert!(reaches(&this, Ipv4Addr::new(10, 1, 0, 2)));
    other
}

/// A service that tells its name, and by which address it is seen, and then says back what it hears.
fn serve(machine: &Namespace, port: u16, name: &'static str) {
    let listener = machine.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let seen = stream.peer_addr()?.ip();
                stream.write_all(format!("{name} {seen}\n").as_bytes())?;
                let mut back = stream.try_clone()?;
                std::io::copy(&mut stream, &mut back)?;
                Ok(())
            });
        }
    });
}

fn way(from: &str, to: &str) -> Way {
    Way { from: from.parse().unwrap(), to: to.parse().unwrap() }
}

fn line(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn said(to: &str) -> String {
    line(&mut TcpStream::connect(to).unwrap())
}

#[track_caller]
fn refused(to: &str) {
    assert_eq!(TcpStream::connect(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
}

#[test]
fn a_connection_is_led_and_looks_as_if_it_were_not() {
    let _drivers = host();
    let other = beside();
    serve(&other, 80, "web");
    let loopback = Loopback::open(cgroup()).unwrap();
    refused("127.0.0.1:8080");
    loopback.set(way("127.0.0.1:8080", "10.1.0.2:80")).unwrap();
    let mut led = TcpStream::connect("127.0.0.1:8080").unwrap();
    assert_eq!(line(&mut led), "web 10.1.0.1");
    assert_eq!(led.peer_addr().unwrap(), "127.0.0.1:8080".parse().unwrap());
    assert_eq!(led.local_addr().unwrap().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    // The kernel's own list has what is: no packet is rewritten on this way.
    let port = led.local_addr().unwrap().port();
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let own = format!("0100010A:{port:04X} 0200010A:0050");
    assert!(table.contains(&own), "{own} in {table}");
    // One that was made to the container itself is told as it is.
    let direct = TcpStream::connect("10.1.0.2:80").unwrap();
    assert_eq!(direct.peer_addr().unwrap(), "10.1.0.2:80".parse().unwrap());
    assert_eq!(direct.local_addr().unwrap().ip(), IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)));
    // Who ends the programs ends no connection.
    drop(loopback);
    led.write_all(b"still here\n").unwrap();
    assert_eq!(line(&mut led), "still here");
    refused("127.0.0.1:8080");
}

#[test]
fn the_address_that_was_named_comes_before_all_addresses() {
    let _drivers = host();
    let other = beside();
    serve(&other, 80, "all");
    serve(&other, 81, "one");
    let loopback = Loopback::open(cgroup()).unwrap();
    loopback.set(way("0.0.0.0:8080", "10.1.0.2:80")).unwrap();
    for to in ["127.0.0.1:8080", "127.9.9.9:8080"] {
        assert_eq!(said(to), "all 10.1.0.1");
    }
    loopback.set(way("127.0.0.2:8080", "10.1.0.2:81")).unwrap();
    assert_eq!(
        (said("127.0.0.2:8080"), said("127.0.0.1:8080")),
        ("one 10.1.0.1".into(), "all 10.1.0.1".into())
    );
    // Another value in its place, then none.
    loopback.set(way("0.0.0.0:8080", "10.1.0.2:81")).unwrap();
    assert_eq!(said("127.0.0.1:8080"), "one 10.1.0.1");
    loopback.forget("0.0.0.0:8080".parse().unwrap()).unwrap();
    loopback.forget("0.0.0.0:8080".parse().unwrap()).unwrap();
    refused("127.0.0.1:8080");
    assert_eq!(said("127.0.0.2:8080"), "one 10.1.0.1");
    refused("127.0.0.2:8081");
    refused("10.1.0.1:8080");
}

#[test]
fn others_are_left_alone() {
    let _drivers = host();
    let other = beside();
    serve(&other, 80, "web");
    let loopback = Loopback::open(cgroup()).unwrap();
    loopback.set(way("127.0.0.1:8080", "10.1.0.2:80")).unwrap();
    // Another network namespace, in the same cgroups.
    let stranger = Namespace::new().unwrap();
    let refusal = stranger
        .enter(|| {
            hull_sys::netlink::loopback_up().unwrap();
            TcpStream::connect("127.0.0.1:8080").unwrap_err().kind()
        })
        .unwrap();
    assert_eq!(refusal, ErrorKind::ConnectionRefused);
    // A socket that has an address already, which the container could not answer.
    let bound = |kind, address: &str| {
        let socket = rustix::net::socket(AddressFamily::INET, kind, None).unwrap();
        rustix::net::bind(&socket, &address.parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::connect(&socket, &SocketAddr::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080)))
    };
    assert_eq!(bound(SocketType::STREAM, "127.0.0.1:0"), Err(rustix::io::Errno::CONNREFUSED));
    // One that has a port alone goes.
    assert_eq!(bound(SocketType::STREAM, "0.0.0.0:0"), Ok(()));
    // UDP is connected to what it says.
    let datagrams = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    datagrams.connect("127.0.0.1:8080").unwrap();
    assert_eq!(datagrams.peer_addr().unwrap(), "127.0.0.1:8080".parse().unwrap());
    assert_eq!(datagrams.local_addr().unwrap().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    // A program of the host that listens at such a port itself, where nothing is published.
    let own = TcpListener::bind("127.0.0.1:8082").unwrap();
    let stream = TcpStream::connect("127.0.0.1:8082").unwrap();
    assert_eq!(own.accept().unwrap().1, stream.local_addr().unwrap());
}
