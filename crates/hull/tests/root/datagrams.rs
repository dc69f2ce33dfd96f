//! Published ports of UDP where the kernel cannot rewrite packets: at ::1, and at the host's IPv6
//! addresses for containers that have none.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use hull_network::namespace::Namespace;
use hull_testkit::Host;

use super::machines::{LIMIT, SILENCE, beside, container, nothing, of_host, udp};
use super::ports::{forwarders, kill};
use super::{CLIENTS, host};

const HERE: [&str; 2] = ["[::1]:5353", "[2001:db8:1::1]:5353"];

/// A container with a program at port 5353 that tells each caller by which port it is seen, and what it
/// said.
#[track_caller]
fn run(host: &Host, name: &str, words: &[&str]) {
    let ports = ["-p", "5353:5353/udp", "busybox", "sleep", "1000"];
    host.hull(&[&["run", "-d", "--name", name], words, &ports].concat()).ok();
    listen(host, name);
}

fn listen(host: &Host, name: &str) {
    let inside = container(host, name, &[]);
    let socket = inside
        .enter(|| UdpSocket::bind("[::]:5353").or_else(|_| UdpSocket::bind("0.0.0.0:5353")).unwrap())
        .unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let _ = socket.send_to(format!("{} {said}", from.port()).as_bytes(), from);
        }
    });
}

/// A socket that takes answers from this address alone.
fn client(from: &Namespace, to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().unwrap();
    let socket =
        from.enter(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap()).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// By which port the program sees the client.
#[track_caller]
fn ask(client: &UdpSocket, text: &str) -> u16 {
    answered(client, text)
        .unwrap_or_else(|error| panic!("{text}: nothing from {:?}: {error}", client.peer_addr()))
}

fn answered(client: &UdpSocket, text: &str) -> std::io::Result<u16> {
    client.send(text.as_bytes())?;
    loop {
        let mut buffer = [0; 64];
        let len = client.recv(&mut buffer)?;
        let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let (port, said) = answer.split_once(' ').unwrap();
        // Else it is the late answer to what was said before.
        if said == text {
            return Ok(port.parse().unwrap());
        }
    }
}

/// The same, said again until it is answered: nobody but the client sends a lost datagram again.
#[track_caller]
fn ask_again(client: &UdpSocket) -> u16 {
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let start = Instant::now();
    for number in 0.. {
        match answered(client, &format!("try {number}")) {
            Ok(port) => {
                client.set_read_timeout(Some(LIMIT)).unwrap();
                return port;
            }
            Err(error) => assert!(start.elapsed() < LIMIT, "nothing from {:?}: {error}", client.peer_addr()),
        }
    }
    unreachable!()
}

#[test]
fn udp_is_carried_at_every_address_and_outlives_the_daemon() {
    let mut host = host();
    let here = of_host(&host);
    let machine = beside(&host, 1, "192.0.2");
    host.hull(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "dual"]).ok();
    for network in ["bridge", "dual"] {
        run(&host, "dns", &["--network", network]);
        let clients: Vec<UdpSocket> =
            HERE.iter().chain(&HERE).map(|to| client(&here, to)).chain([client(&machine, HERE[1])]).collect();
        let seen: Vec<u16> = clients.iter().map(|client| ask(client, "who")).collect();
        let mut apart = seen.clone();
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), seen.len(), "{network}: {seen:?}");
        let again = |moment: &str| {
            let now: Vec<u16> = clients.iter().map(|client| ask(client, moment)).collect();
            assert_eq!(now, seen, "{network}: {moment}");
        };
        host.kill_daemon();
        again("without a daemon");
        host.start_daemon();
        again("with the next one");
        // Another forwarder gets the same sockets; its flows are its own.
        for old in forwarders(&host) {
            kill(old);
        }
        clients.iter().for_each(|client| assert_ne!(ask_again(client), 0));
        host.hull(&["rm", "-f", "dns"]).ok();
        HERE.iter().for_each(|to| nothing(&here, to));
        nothing(&machine, HERE[1]);
        // The ports are free.
        drop(here.enter(|| UdpSocket::bind("[::]:5353").unwrap()).unwrap());
    }
}

#[test]
fn udp_follows_the_container_to_other_networks() {
    let host = host();
    let here = of_host(&host);
    let _machine = beside(&host, 1, "192.0.2");
    host.hull(&["network", "create", "a4"]).ok();
    host.hull(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "b6"]).ok();
    let reached = |moment: &str| {
        for to in HERE.into_iter().chain(["127.0.0.1:5353"]) {
            ask(&client(&here, to), moment);
        }
    };
    for cli in CLIENTS {
        run(&host, "dns", &["--network", "a4"]);
        reached("with IPv4 alone");
        cli(&host, &["network", "connect", "b6", "dns"]).ok();
        reached("with both");
        cli(&host, &["network", "disconnect", "a4", "dns"]).ok();
        reached("on the dual network alone");
        cli(&host, &["network", "connect", "--gw-priority", "1", "a4", "dns"]).ok();
        cli(&host, &["network", "disconnect", "b6", "dns"]).ok();
        reached("with IPv4 alone again");
        cli(&host, &["restart", "-t", "0", "dns"]).ok();
        listen(&host, "dns");
        reached("after a restart");
        cli(&host, &["rm", "-f", "dns"]).ok();
        HERE.iter().for_each(|to| nothing(&here, to));
    }
}

#[test]
fn an_internal_network_does_not_reach_others_by_the_forwarder() {
    let host = host();
    for (name, subnet, kind) in
        [("free", "fd00:80::/64", None), ("closed", "fd00:79::/64", Some("--internal"))]
    {
        let words = ["network", "create", "--ipv6", "--subnet", subnet];
        let words: Vec<&str> = words.into_iter().chain(kind).chain([name]).collect();
        host.hull(&words).ok();
    }
    run(&host, "dns", &[]);
    for (network, gateway, reached) in
        [("free", "[fd00:80::1]:5353", true), ("closed", "[fd00:79::1]:5353", false)]
    {
        host.hull(&["run", "-d", "--name", network, "--network", network, "busybox", "sleep", "1000"]).ok();
        let inside = container(&host, network, &[]);
        if reached {
            udp(&inside, gateway);
        } else {
            nothing(&inside, gateway);
        }
    }
}
