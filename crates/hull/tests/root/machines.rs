//! Network namespaces of a test: the host's, its containers', and more machines beside it; and
//! what the programs in them hear from each other. A service tells every caller by which address
//! it is seen.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use hull_network::namespace::Namespace;
use hull_network::rtnl::{Batch, Kind, NewLink, Peer, Route};
use hull_testkit::Host;

/// How long an answer that must come is waited for, and one that must not.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// The namespace that a process is in.
fn of(pid: &str) -> Namespace {
    Namespace::from_fd(File::open(format!("/proc/{pid}/ns/net")).unwrap().into())
}

pub(crate) fn of_host(host: &Host) -> Namespace {
    of(&host.holder_pid().to_string())
}

/// That of a running container, whose program is a service on these ports from now on.
#[track_caller]
pub(crate) fn container(host: &Host, name: &str, ports: &[u16]) -> Namespace {
    let namespace = of(host.hull(&["inspect", "-f", "{{.State.Pid}}", name]).ok());
    serve(&namespace, ports);
    namespace
}

/// A pair of links, the one called `here` on the host and `eth0` on the machine, with addresses
/// in the /24 and the /64 of the wire.
pub(crate) fn wire(host: &Host, here: &str, machine: &Namespace) {
    let fd = machine.try_clone_fd().unwrap();
    let mut batch = Batch::new();
    let peer = Peer { name: "eth0", mac: None, namespace: Some(fd.as_fd()) };
    batch.add_link(&NewLink { up: true, ..NewLink::new(here, Kind::Veth(peer)) });
    of_host(host).rtnl().unwrap().run(batch).unwrap();
    address(machine, "eth0", &[]);
}

/// Sets a link up with these addresses.
pub(crate) fn address(machine: &Namespace, link: &str, addresses: &[&str]) {
    let mut socket = machine.rtnl().unwrap();
    let index = socket.link(link).unwrap().unwrap().index;
    let mut batch = Batch::new();
    for address in addresses {
        batch.add_address(index, address.parse().unwrap());
    }
    batch.up(index);
    socket.run(batch).unwrap();
}

/// A machine on a wire of its own with the host, which is its way to everywhere: it is NET.2 and
/// 2001:db8:NUMBER::2, the host is .1 and ::1.
pub(crate) fn beside(host: &Host, number: u8, net: &str) -> Namespace {
    let machine = Namespace::new().unwrap();
    let here = format!("wan{number}");
    wire(host, &here, &machine);
    let both = |last: u8| [format!("{net}.{last}/24"), format!("2001:db8:{number}::{last}/64")];
    for (end, link, last) in [(&of_host(host), here.as_str(), 1), (&machine, "eth0", 2)] {
        let [four, six] = both(last);
        address(end, link, &[&four, &six]);
    }
    route(&machine, "0.0.0.0/0", &format!("{net}.1"));
    route(&machine, "::/0", &format!("2001:db8:{number}::1"));
    machine
}

pub(crate) fn route(machine: &Namespace, to: &str, gateway: &str) {
    let mut socket = machine.rtnl().unwrap();
    let link = socket.link("eth0").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_route(&Route {
        destination: to.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        link: Some(link),
        onlink: true,
    });
    socket.run(batch).unwrap();
}

/// A service on these ports of the machine, by TCP and UDP, IPv4 and, where there is any, IPv6.
pub(crate) fn serve(machine: &Namespace, ports: &[u16]) {
    for &port in ports {
        let sockets = machine.enter(|| {
            let (six, four) = ((Ipv6Addr::UNSPECIFIED, port), (Ipv4Addr::UNSPECIFIED, port));
            let tcp = TcpListener::bind(six).or_else(|_| TcpListener::bind(four)).unwrap();
            (tcp, UdpSocket::bind(six).or_else(|_| UdpSocket::bind(four)).unwrap())
        });
        let (tcp, udp) = sockets.unwrap();
        let seen = |from: SocketAddr| from.ip().to_canonical().to_string();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                if let Ok(peer) = stream.peer_addr() {
                    let _ = stream.write_all(seen(peer).as_bytes());
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(seen(from).as_bytes(), from);
            }
        });
    }
}

/// The address by which the machine is seen at `to`; it must get there.
#[track_caller]
pub(crate) fn tcp(from: &Namespace, to: &str) -> String {
    ask_tcp(from, to, LIMIT).unwrap_or_else(|error| panic!("nobody answers at {to}/tcp: {error}"))
}

#[track_caller]
pub(crate) fn udp(from: &Namespace, to: &str) -> String {
    ask_udp(from, to, LIMIT).unwrap_or_else(|error| panic!("nobody answers at {to}/udp: {error}"))
}

/// Nothing may come back from `to`, be it by TCP or UDP.
#[track_caller]
pub(crate) fn nothing(from: &Namespace, to: &str) {
    // At once, for each waits for the whole time.
    let answers = std::thread::scope(|scope| {
        let tcp = scope.spawn(|| ask_tcp(from, to, SILENCE));
        let udp = ask_udp(from, to, SILENCE);
        [("tcp", tcp.join().unwrap()), ("udp", udp)]
    });
    for (protocol, answer) in answers {
        assert!(answer.is_err(), "{to}/{protocol} answers: {answer:?}");
    }
}

fn ask_tcp(from: &Namespace, to: &str, limit: Duration) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        // The forwarder takes a connection before it knows whether anybody answers.
        if text.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
    };
    from.enter(ask).unwrap()
}

fn ask_udp(from: &Namespace, to: &str, limit: Duration) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ask = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(limit))?;
        socket.send(b"who am I")?;
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    from.enter(ask).unwrap()
}

/// Writes a sysctl of the machine's namespace.
pub(crate) fn sysctl(machine: &Namespace, key: &str, value: &str) {
    machine.enter(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap()).unwrap();
}

/// Packets that have come in by a link.
pub(crate) fn received(machine: &Namespace, link: &str) -> u64 {
    machine.counters().unwrap().into_iter().find(|one| one.link == link).unwrap().rx_packets
}
