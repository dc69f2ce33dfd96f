//! Three machines on one wire: the host with its containers, a client that knows nothing of them,
//! and a neighbour that routes to their addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hull_network::driver::{DefaultRoute, Driver, Drivers};
use hull_network::firewall::Firewall;
use hull_network::namespace::Namespace;
use hull_network::nft::Nftables;
use hull_network::record::{Endpoint, Network, PortRange, Protocol, Published};
use hull_network::rtnl::{Batch, Kind, NewLink, Peer, Route};
use hull_network::rules::{self, Input, Options};

use crate::world::{self, LIMIT, rtnl};

/// How long a packet that must not arrive is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(250);

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// The address of the same machine in 2001:db8::/64.
fn six(of: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, of.octets()[3].into())
}

/// The wire, what hangs on it, and the host that this thread is in.
pub(crate) struct Site {
    pub(crate) drivers: Drivers,
    pub(crate) here: Namespace,
    pub(crate) client: Namespace,
    pub(crate) neighbour: Namespace,
    pub(crate) firewall: Nftables,
    pub(crate) networks: Vec<Network>,
    pub(crate) endpoints: Vec<Endpoint>,
    _wire: Namespace,
}

impl Site {
    /// The calling thread is in the host from now on. br_netfilter is off.
    #[track_caller]
    pub(crate) fn new() -> Site {
        let drivers = world::host();
        filter_bridged(false);
        let here = Namespace::current().unwrap();
        let wire = Namespace::new().unwrap();
        wire.enter(|| {
            let mut batch = Batch::new();
            batch.add_link(&NewLink { up: true, ..NewLink::new("wire", Kind::Bridge) });
            rtnl().run(batch).unwrap();
        })
        .unwrap();
        let (client, neighbour) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for (machine, address) in [(&here, HOST), (&client, CLIENT), (&neighbour, NEIGHBOUR)] {
            plug(&wire, machine, address);
        }
        for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
            std::fs::write(file, "1").unwrap();
        }
        // The neighbour believes that the host is the way to all containers.
        for (to, by) in [
            ("10.0.0.0/8", IpAddr::V4(HOST)),
            ("fd00::/8", six(HOST).into()),
            ("198.51.100.0/24", HOST.into()),
        ] {
            add_route(&neighbour, to, by);
        }
        let firewall = Nftables::open().unwrap();
        Site {
            drivers,
            here,
            client,
            neighbour,
            firewall,
            networks: Vec::new(),
            endpoints: Vec::new(),
            _wire: wire,
        }
    }

    /// Makes a network on the host.
    #[track_caller]
    pub(crate) fn network(&mut self, network: Network) -> Network {
        self.drivers.bridge.setup(&network).unwrap();
        self.networks.push(network.clone());
        network
    }

    /// A running container with services that tell whom they see.
    #[track_caller]
    pub(crate) fn container(&mut self, network: &Network, endpoint: Endpoint) -> Namespace {
        let namespace = Namespace::new().unwrap();
        let both = DefaultRoute { v4: true, v6: network.ipv6 };
        self.drivers.bridge.attach(network, &endpoint, &namespace, both).unwrap();
        serve(&namespace, &[8080, 8081, 9500]);
        self.endpoints.push(endpoint);
        namespace
    }

    #[track_caller]
    pub(crate) fn apply(&mut self, options: &Options) {
        let rules = rules::compile(&Input { networks: &self.networks, endpoints: &self.endpoints, options });
        self.firewall.apply(&rules).unwrap();
    }
}

/// Whether packets between ports of a bridge go through the host's chains (br_netfilter). Gives
/// whether they do now: without the module they never do.
pub(crate) fn filter_bridged(on: bool) -> bool {
    for kind in ["iptables", "ip6tables"] {
        let file = format!("/proc/sys/net/bridge/bridge-nf-call-{kind}");
        if std::fs::write(file, if on { "1" } else { "0" }).is_err() {
            return false;
        }
    }
    on
}

fn plug(wire: &Namespace, machine: &Namespace, address: Ipv4Addr) {
    let end = format!("to-{}", address.octets()[3]);
    wire.enter(|| {
        let master = rtnl().link("wire").unwrap().unwrap().index;
        let fd = machine.try_clone_fd().unwrap();
        let peer = Peer { name: "wan", mac: None, namespace: Some(std::os::fd::AsFd::as_fd(&fd)) };
        let mut batch = Batch::new();
        batch.add_link(&NewLink { master: Some(master), up: true, ..NewLink::new(&end, Kind::Veth(peer)) });
        rtnl().run(batch).unwrap();
    })
    .unwrap();
    address_of(machine, "wan", &[format!("{address}/24"), format!("{}/64", six(address))]);
}

/// Gives a link of the machine addresses and sets it up.
pub(crate) fn address_of(machine: &Namespace, link: &str, addresses: &[String]) {
    let mut socket = machine.rtnl().unwrap();
    let index = socket.link(link).unwrap().unwrap().index;
    let mut batch = Batch::new();
    for address in addresses {
        batch.add_address(index, address.parse().unwrap());
    }
    batch.up(index);
    socket.run(batch).unwrap();
}

pub(crate) fn add_route(machine: &Namespace, to: &str, gateway: IpAddr) {
    let mut batch = Batch::new();
    let mut socket = machine.rtnl().unwrap();
    let link = ["wan", "eth0", "lo"].iter().find_map(|name| socket.link(*name).unwrap()).unwrap();
    batch.add_route(&Route {
        destination: to.parse().unwrap(),
        gateway: Some(gateway),
        link: Some(link.index),
        onlink: true,
    });
    socket.run(batch).unwrap();
}

/// Tells every caller by TCP and UDP which address it is seen by.
pub(crate) fn serve(machine: &Namespace, ports: &[u16]) {
    for &port in ports {
        let (tcp, udp) = machine
            .enter(|| {
                let any = (Ipv6Addr::UNSPECIFIED, port);
                // Without IPv6 in the container there is no such address.
                let tcp =
                    TcpListener::bind(any).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
                let udp = UdpSocket::bind(any).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
                (tcp.unwrap(), udp.unwrap())
            })
            .unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                let seen = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
                let _ = stream.write_all(seen.unwrap_or_default().as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(from.ip().to_canonical().to_string().as_bytes(), from);
            }
        });
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrived, seen as coming from here.
    Through(IpAddr),
    /// Nothing came back.
    Silence,
    /// Somebody said no.
    Refused,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fate::Through(seen) => write!(f, "as {seen}"),
            Fate::Silence => f.write_str("-"),
            Fate::Refused => f.write_str("refused"),
        }
    }
}

/// Asks a service. How long an answer is waited for depends on what is expected, not what comes
/// of it: too little time cannot fail a test that expects an answer.
pub(crate) fn ask(from: &Namespace, protocol: Protocol, to: SocketAddr, expected: &Fate) -> Fate {
    let limit = if *expected == Fate::Silence { SILENCE } else { LIMIT };
    let answer = from.enter(|| match protocol {
        Protocol::Tcp => ask_tcp(to, limit),
        Protocol::Udp => ask_udp(to, limit),
        Protocol::Sctp => panic!("there is no service for SCTP"),
    });
    match answer.unwrap() {
        Ok(text) => Fate::Through(text.parse().unwrap_or_else(|_| panic!("an address, not {text:?}"))),
        Err(error) => match error.kind() {
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Fate::Silence,
            _ => Fate::Refused,
        },
    }
}

fn ask_tcp(to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(b"who am I")?;
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

pub(crate) fn published(protocol: Protocol, at: &str, container: u16) -> Published {
    let at: SocketAddr = at.parse().unwrap();
    Published {
        protocol,
        address: at.ip(),
        host: PortRange::one(at.port()),
        container: PortRange::one(container),
    }
}
