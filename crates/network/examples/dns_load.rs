//! How many names a second, and how long for one.
//!
//! `dns_load` makes a namespace with a server of ours behind it and 500 endpoints of 100 networks
//! in its table, and asks there. `dns_load ask NAME` only asks, at 127.0.0.11 of wherever it runs:
//! in a container of any engine, for comparison. Needs root for the former.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use hull_network::dns::{Options, Server, Sockets, redirect, table};
use hull_network::namespace::Namespace;
use hull_network::record::{Bridge, Driver, Endpoint, GatewayMode, Mac, Network};

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// Queries under way at a time, over all clients.
const WINDOW: usize = 64;
const CLIENTS: usize = 2;
const TIME: Duration = Duration::from_secs(3);
const SINGLE: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => own(),
        ["ask", name] => ask(name),
        _ => Err("usage: dns_load [ask NAME]".into()),
    }
}

/// With a server of ours.
fn own() -> Result<(), Box<dyn Error>> {
    hull_sys::process::unshare_network()?;
    hull_sys::netlink::loopback_up()?;
    let networks: Vec<Network> = (0..100).map(network).collect();
    let endpoints: Vec<Endpoint> = (0..500).map(|n| endpoint(&networks[n % 100], n)).collect();
    let begin = Instant::now();
    let table = table(&networks, &endpoints);
    let made = begin.elapsed();
    let server = Server::start(std::path::Path::new("/etc/resolv.conf"))?;
    server.set_table(table);
    let namespace = Namespace::new()?;
    let sockets = namespace.enter(|| {
        let sockets = Sockets::open()?;
        redirect(sockets.port())?;
        Ok::<_, hull_sys::Error>(sockets)
    })??;
    server.add("c0", sockets, Options::default());
    let mut out = std::io::stdout().lock();
    writeln!(out, "a table of 500 endpoints   {:>9.1} us", made.as_secs_f64() * 1e6)?;
    drop(out);
    namespace.enter(|| ask("name100").map_err(|error| error.to_string()))??;
    Ok(())
}

fn ask(name: &str) -> Result<(), Box<dyn Error>> {
    let query = query(name);
    let socket = client()?;
    let mut buffer = [0; 512];
    let mut times = Vec::with_capacity(SINGLE);
    for _ in 0..SINGLE {
        let begin = Instant::now();
        socket.send(&query)?;
        let got = socket.recv(&mut buffer)?;
        times.push(begin.elapsed());
        if buffer[3] & 15 != 0 || buffer[7] == 0 || got < query.len() {
            return Err(format!("{name} has no address").into());
        }
    }
    times.sort();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let query = query.clone();
            std::thread::spawn(move || flood(&query).map_err(|error| error.to_string()))
        })
        .collect();
    let mut answers = 0;
    for client in clients {
        answers += client.join().map_err(|_| "a client panicked")??;
    }
    let mut out = std::io::stdout().lock();
    let micros = |at: usize| times[times.len() * at / 100].as_secs_f64() * 1e6;
    writeln!(out, "one after the other, p50   {:>9.1} us", micros(50))?;
    writeln!(out, "                     p99   {:>9.1} us", micros(99))?;
    writeln!(out, "{WINDOW} at a time              {:>9.0} answers/s", answers as f64 / TIME.as_secs_f64())?;
    Ok(())
}

fn client() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(RESOLVER)?;
    Ok(socket)
}

/// Keeps a client's share of the window under way; gives how many answers came.
fn flood(query: &[u8]) -> std::io::Result<u64> {
    let socket = client()?;
    let mut buffer = [0; 512];
    let mut answers = 0;
    for _ in 0..WINDOW / CLIENTS {
        socket.send(query)?;
    }
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        match socket.recv(&mut buffer) {
            Ok(_) => answers += 1,
            // All that was under way is lost: begun anew.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        socket.send(query)?;
    }
    Ok(answers)
}

fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

fn network(n: usize) -> Network {
    Network {
        id: format!("{n:064x}"),
        name: format!("net{n}"),
        driver: Driver::Bridge(Bridge {
            link: format!("br{n}"),
            default: false,
            icc: true,
            masquerade: true,
            binding: None,
            mtu: None,
            prefix: "eth".to_owned(),
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            foreign: false,
        }),
        subnets: Vec::new(),
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        labels: Default::default(),
        options: Default::default(),
        ipam_options: Default::default(),
        created: 0,
    }
}

fn endpoint(network: &Network, n: usize) -> Endpoint {
    let address = Ipv4Addr::new(10, (n % 100) as u8, (n / 100) as u8, 2);
    Endpoint {
        id: format!("{n:064x}"),
        network: network.id.clone(),
        container: format!("c{n}"),
        link: "eth0".to_owned(),
        host_link: String::new(),
        mac: Mac::default(),
        address4: ipnet::Ipv4Net::new(address, 24).ok(),
        address6: None,
        link_local: Vec::new(),
        gateway4: None,
        gateway6: None,
        sysctls: Vec::new(),
        names: vec![format!("name{n}"), format!("{n:012x}")],
        links: Default::default(),
        published: Vec::new(),
        exposed: Vec::new(),
    }
}
