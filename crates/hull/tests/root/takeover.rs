//! Class K19: what a container must not get of others on its networks, nor of those that had its
//! address and ports before. Each refusal beside something that works, so that it means something.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hull_network::namespace::Namespace;
use hull_testkit::Host;

use super::host;

const LIMIT: Duration = Duration::from_secs(20);
/// How long a packet that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// The network namespace of a running container, for sockets as a program inside has them.
pub(crate) fn network_of(host: &Host, name: &str) -> Namespace {
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", name]);
    Namespace::from_fd(File::open(format!("/proc/{}/ns/net", pid.ok())).unwrap().into())
}

/// That of the machine.
pub(crate) fn network(host: &Host) -> Namespace {
    Namespace::from_fd(File::open(format!("/proc/{}/ns/net", host.holder_pid())).unwrap().into())
}

pub(crate) fn udp(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(address).unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Sends until it arrives, or for so long; a refusal that is told is passed over.
fn arrives(from: &UdpSocket, at: &UdpSocket, limit: Duration) -> bool {
    at.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let start = Instant::now();
    while start.elapsed() < limit {
        let _ = from.send(b"a word");
        if at.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

/// A container that sleeps, at the only address that its network gives away.
fn only(host: &Host, name: &str, words: &[&str]) -> Namespace {
    let run = ["run", "-d", "--name", name, "--network", "narrow"];
    host.hull(&[&run, words, &["busybox", "sleep", "1000"]].concat()).ok();
    let format = "{{.NetworkSettings.Networks.narrow.IPAddress}}";
    assert_eq!(host.hull(&["inspect", "-f", format, name]).ok(), "10.99.0.2");
    network_of(host, name)
}

#[test]
fn nobody_gets_the_flows_of_those_who_had_an_address_before() {
    let mut host = host();
    host.hull(&["network", "create", "--subnet", "10.99.0.0/30", "narrow"]).ok();
    let machine = network(&host);
    let outside = udp(&machine, "127.0.0.1:0");
    outside.connect("127.0.0.1:9000").unwrap();
    for killed in [false, true] {
        let former = only(&host, "former", &["-p", "9000:9000/udp", "-p", "9001:9001"]);
        let service = udp(&former, "0.0.0.0:9000");
        assert!(arrives(&outside, &service, LIMIT), "the published port leads nowhere");
        // Out of it, too: the host has a service that goes on answering.
        let answering = udp(&machine, "10.99.0.1:9100");
        let asking = udp(&former, "0.0.0.0:9200");
        asking.connect("10.99.0.1:9100").unwrap();
        asking.send(b"a question").unwrap();
        let (_, asker) = answering.recv_from(&mut [0; 16]).unwrap();
        let listener = former.enter(|| TcpListener::bind("0.0.0.0:9001").unwrap()).unwrap();
        let target = SocketAddr::from(([127, 0, 0, 1], 9001));
        let caller = machine.enter(|| TcpStream::connect_timeout(&target, LIMIT).unwrap()).unwrap();
        drop((listener.accept().unwrap(), service, asking, listener, former));
        if killed {
            host.kill_daemon();
            host.start_daemon();
        }
        host.hull(&["rm", "-f", "former"]).ok();
        let heir = only(&host, "heir", &[]);
        let stolen = udp(&heir, "0.0.0.0:9000");
        assert!(!arrives(&outside, &stolen, SILENCE), "what was sent to the former one's port arrives");
        let port = heir.enter(|| TcpListener::bind("0.0.0.0:9001").unwrap()).unwrap();
        port.set_nonblocking(true).unwrap();
        std::io::Write::write_all(&mut &caller, b"still there?").ok();
        assert!(port.accept().is_err(), "a connection of the former one");
        // Its neighbour on the host still reaches the address itself: nothing else is in the way.
        answering.connect(asker).unwrap();
        let direct = udp(&heir, "0.0.0.0:9200");
        assert!(arrives(&answering, &direct, LIMIT));
        host.hull(&["rm", "-f", "heir"]).ok();
        drop((stolen, direct, heir));
        // And whoever has the port next gets what is sent there, from the same socket.
        let next = only(&host, "next", &["-p", "9000:9000/udp"]);
        assert!(arrives(&outside, &udp(&next, "0.0.0.0:9000"), LIMIT), "the port's next holder gets nothing");
        host.hull(&["rm", "-f", "next"]).ok();
    }
}

#[test]
fn a_container_cannot_change_its_own_network() {
    let host = host();
    let words = ["run", "-d", "--name", "one", "busybox", "sleep", "1000"];
    host.hull(&words).ok();
    for command in [
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 0 > /proc/sys/net/ipv4/conf/eth0/arp_ignore",
        "ip addr add 172.17.0.1/16 dev eth0",
        "ip link set eth0 address 02:42:ac:11:00:99",
        "ip link set eth0 promisc on",
        "ip route add 10.0.0.0/8 via 172.17.0.1",
        "brctl addbr br0",
    ] {
        let refused = host.hull(&["exec", "one", "sh", "-c", command]);
        // busybox's ip says so and ends with 0.
        let said = ["not permitted", "Read-only"].iter().any(|text| refused.stderr.contains(text));
        assert!(said, "{command}: {refused}");
        // With the capability it works: it is not the image that lacks it.
        if !command.starts_with("echo") {
            let words = ["run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", command];
            assert_eq!(host.hull(&words).ok(), "", "{command}");
        }
    }
    host.hull(&["exec", "one", "ping", "-c", "1", "-W", "5", "172.17.0.1"]).ok();
    // Raw sockets are for whoever may have them.
    let words = ["run", "--rm", "--cap-drop", "NET_RAW", "busybox", "arping", "-c", "1", "172.17.0.1"];
    assert_ne!(host.hull(&words).code, 0);
    // The reference's default lets them.
    host.hull(&["run", "--rm", "busybox", "arping", "-c", "1", "-w", "20", "172.17.0.1"]).ok();
}

/// Asks a resolver that the host would ask, by way of 127.0.0.11.
fn looks_up(host: &Host, from: &str, name: &str) {
    let _ = host.hull(&["exec", from, "nslookup", "-type=a", name]);
}

#[test]
fn an_internal_network_leaks_nothing_through_a_flush_and_a_new_daemon() {
    let mut host = host();
    let resolv = host.folder().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.2\n").unwrap();
    host.kill_daemon();
    host.printed(&["mount", "--bind", resolv.to_str().unwrap(), "/etc/resolv.conf"]);
    host.start_daemon();
    let machine = network(&host);
    let resolver = udp(&machine, "127.0.0.2:53");
    host.hull(&["network", "create", "--internal", "--subnet", "10.98.0.0/24", "shut"]).ok();
    host.hull(&["network", "create", "--subnet", "10.97.0.0/24", "open"]).ok();
    for network in ["shut", "open"] {
        host.hull(&["run", "-d", "--name", network, "--network", network, "busybox", "sleep", "1000"]).ok();
    }
    let rules = host.rules();
    for round in ["at first", "after a flush", "of another daemon"] {
        match round {
            "after a flush" => drop(host.printed(&["nft", "flush", "ruleset"])),
            "of another daemon" => {
                host.kill_daemon();
                host.start_daemon();
            }
            _ => {}
        }
        let start = Instant::now();
        while host.rules() != rules {
            assert!(start.elapsed() < LIMIT, "other rules than before {round}");
        }
        resolver.set_read_timeout(Some(SILENCE)).unwrap();
        looks_up(&host, "shut", "secret.tunnel.example");
        assert!(resolver.recv(&mut [0; 512]).is_err(), "a question of an internal network gets out {round}");
        for address in ["172.17.0.1", "10.97.0.1", "10.97.0.2"] {
            let words = ["exec", "shut", "ping", "-c", "1", "-W", "1", address];
            assert_ne!(host.hull(&words).code, 0, "{address} from an internal network {round}");
        }
        for (from, address) in [("shut", "10.98.0.1"), ("open", "172.17.0.1"), ("open", "10.97.0.1")] {
            host.hull(&["exec", from, "ping", "-c", "1", "-W", "5", address]).ok();
        }
        resolver.set_read_timeout(Some(LIMIT)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| looks_up(&host, "open", "any.example"));
            let mut query = [0; 512];
            let (len, from) = resolver.recv_from(&mut query).unwrap();
            // No such name: the client need not ask again.
            let mut reply = query[..len].to_vec();
            (reply[2], reply[3]) = (reply[2] | 0x80, 0x83);
            resolver.send_to(&reply, from).unwrap();
        });
    }
}
