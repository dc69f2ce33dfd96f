//! Hosts, networks and containers of tests, and packets between them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use hull_network::driver::{self, Drivers};
use hull_network::namespace::Namespace;
use hull_network::record::{Bridge, Driver, Endpoint, GatewayMode, Mac, Network, Subnet};
use hull_network::rtnl::Socket;

/// How long a test waits for what must come.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Moves this test into a fresh host with nothing but a loopback link.
#[track_caller]
pub(crate) fn host() -> Drivers {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: use `sudo cargo xtask test`");
    hull_sys::process::unshare_network().unwrap();
    hull_sys::netlink::loopback_up().unwrap();
    Drivers::new().unwrap()
}

pub(crate) fn rtnl() -> Socket {
    Socket::open().unwrap()
}

pub(crate) fn subnet(pool: &str, gateway: &str) -> Subnet {
    Subnet {
        pool: pool.parse().unwrap(),
        range: None,
        gateway: Some(gateway.parse().unwrap()),
        reserved: BTreeMap::new(),
        asked: true,
    }
}

/// 10.`number`.0.0/24 and fd00:`number`::/64 behind the bridge br`number`.
pub(crate) fn bridge(number: u8, v6: bool) -> Network {
    let mut subnets = vec![subnet(&format!("10.{number}.0.0/24"), &format!("10.{number}.0.1"))];
    if v6 {
        subnets.push(subnet(&format!("fd00:{number}::/64"), &format!("fd00:{number}::1")));
    }
    Network {
        id: format!("{number:064x}"),
        name: format!("net{number}"),
        driver: Driver::Bridge(Bridge {
            link: format!("br{number}"),
            default: false,
            icc: true,
            masquerade: true,
            binding: None,
            mtu: None,
            prefix: "eth".into(),
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            foreign: false,
        }),
        subnets,
        ipv4: true,
        ipv6: v6,
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        ipam_options: BTreeMap::new(),
        created: 0,
    }
}

pub(crate) fn bridge_of(network: &mut Network) -> &mut Bridge {
    match &mut network.driver {
        Driver::Bridge(bridge) => bridge,
        other => panic!("no bridge: {other:?}"),
    }
}

/// The `host`th container of a network made by [`bridge`]: its addresses end in `host`.
pub(crate) fn endpoint(network: &Network, host: u8) -> Endpoint {
    let net = |v6: bool| network.subnets.iter().find(|subnet| subnet.pool.addr().is_ipv6() == v6);
    let address4 = net(false).map(|subnet| match subnet.pool {
        ipnet::IpNet::V4(pool) => {
            let [a, b, c, _] = pool.addr().octets();
            ipnet::Ipv4Net::new([a, b, c, host].into(), pool.prefix_len()).unwrap()
        }
        ipnet::IpNet::V6(_) => unreachable!(),
    });
    let address6 = net(true).map(|subnet| match subnet.pool {
        ipnet::IpNet::V6(pool) => {
            let address = u128::from(pool.addr()) | u128::from(host);
            ipnet::Ipv6Net::new(address.into(), pool.prefix_len()).unwrap()
        }
        ipnet::IpNet::V4(_) => unreachable!(),
    });
    let gateway = |v6: bool| net(v6).and_then(|subnet| subnet.gateway);
    let number = u8::from_str_radix(&network.id[62..], 16).unwrap();
    Endpoint {
        id: format!("{number:032x}{host:032x}"),
        network: network.id.clone(),
        container: format!("{host:064x}"),
        link: "eth0".into(),
        host_link: driver::random_name("veth"),
        mac: Mac([2, 0x42, 10, number, 0, host]),
        address4,
        address6,
        link_local: Vec::new(),
        gateway4: gateway(false).map(|address| match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!(),
        }),
        gateway6: gateway(true).map(|address| match address {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => unreachable!(),
        }),
        sysctls: Vec::new(),
        names: Vec::new(),
        links: BTreeMap::new(),
        published: Vec::new(),
        exposed: Vec::new(),
    }
}

/// Whether an echo comes back at the first attempt and within a second: for what must not.
pub(crate) fn ping(from: &Namespace, to: impl Into<IpAddr>) -> bool {
    let to = to.into().to_string();
    from.enter(|| {
        let mut command = std::process::Command::new("busybox");
        command.args(["ping", "-c", "1", "-W", "1", &to]).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).status().expect("busybox-static is needed").success()
    })
    .unwrap()
}

/// Whether an echo comes back in the end, however busy the machine is: for what must.
pub(crate) fn reaches(from: &Namespace, to: impl Into<IpAddr>) -> bool {
    let to = to.into();
    let end = std::time::Instant::now() + LIMIT;
    while !ping(from, to) {
        if std::time::Instant::now() > end {
            return false;
        }
    }
    true
}

/// A connection from one to the other, with a word there and back. Gives the source that the
/// listener saw.
#[track_caller]
pub(crate) fn connect(from: &Namespace, to: &Namespace, address: impl Into<IpAddr>) -> Option<IpAddr> {
    let address = address.into();
    let listener = to.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = SocketAddr::new(address, port);
    let mut client =
        from.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap().ok()?;
    let (mut server, peer) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    client.write_all(b"there").unwrap();
    let mut word = [0; 5];
    server.read_exact(&mut word).unwrap();
    server.write_all(&word).unwrap();
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"there");
    Some(peer.ip())
}

/// The file's text, as seen in the namespace.
pub(crate) fn read(namespace: &Namespace, path: &str) -> String {
    namespace.enter(|| std::fs::read_to_string(path)).unwrap().unwrap().trim_end().to_owned()
}
