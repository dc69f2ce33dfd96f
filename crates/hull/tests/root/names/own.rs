//! Names of a container's own networks: which there are, what they stand for, and in which order.

use std::collections::BTreeSet;

use hull_testkit::Host;

use super::super::machines::of_host;
use super::upstream::{Told, Upstream};
use super::{addresses, getent, in_order, inside, nslookup, resolving, sleeper};

/// A resolver of the host that knows nobody.
fn nobody(host: &Host) -> Upstream {
    Upstream::start(&of_host(host), "127.0.0.2:53", |_| Told::Code(3))
}

const DUAL: [&str; 8] =
    ["network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "dual"];

#[test]
fn a_name_is_known_where_its_container_is_and_nowhere_else() {
    let host = resolving("nameserver 127.0.0.2\n", &[]);
    let outside = nobody(&host);
    host.docker(&DUAL).ok();
    host.docker(&["network", "create", "--subnet", "10.78.0.0/24", "other"]).ok();
    let place = "name=dual,ip=10.77.0.50,ip6=fd77::50,alias=Store";
    let words = ["--network", place, "--network", "name=other,ip=10.78.0.50,alias=back"];
    let words = [&["run", "-d", "--name", "Web", "--hostname", "shop.example"], &words[..]].concat();
    let id = host.docker(&[&words[..], &["names", "sleep", "1000"]].concat()).ok().to_owned();
    sleeper(&host, "me", &["--network", "dual", "--link", "Web:friend"]);
    sleeper(&host, "far", &["--network", "other"]);
    let both = ["10.77.0.50", "fd77::50"];
    for name in ["web", "WEB", "Store", "friend", &id[..12], "shop.example", "web.dual", "STORE.Dual"] {
        assert_eq!(addresses(&host, "me", name), both, "{name} of busybox");
        let mut told = getent(&host, "me", "ahosts", name);
        told.sort();
        assert_eq!(told, both, "{name} of glibc");
    }
    assert_eq!(getent(&host, "me", "ahostsv6", "web"), ["fd77::50"]);
    assert_eq!(getent(&host, "me", "hosts", "10.77.0.50"), ["10.77.0.50"]);
    for (address, name) in [("10.77.0.50", "Web.dual"), ("fd77::50", "Web.dual")] {
        let told = nslookup(&host, "me", &[address]);
        assert!(told.ok().contains(&format!("name = {name}")), "{told}");
        assert!(inside(&host, "me", &format!("getent hosts {address}")).ends_with(name));
    }
    for name in ["Web", "back", "back.other", "shop.example"] {
        assert_eq!(addresses(&host, "far", name), ["10.78.0.50"], "{name}");
    }
    // On both networks it is told of both. busybox completes names without a dot by the domain of
    // its host's name, if there is one.
    assert_eq!(addresses(&host, "Web", "me.").len(), 2);
    assert_eq!(addresses(&host, "Web", "far.").len(), 1);
    assert_eq!(getent(&host, "Web", "ahostsv4", "far").len(), 1);
    // An address of the network that nobody has is nobody's business outside either.
    assert_eq!(host.hull(&["exec", "me", "getent", "hosts", "10.77.0.99"]).code, 2);
    assert_eq!(outside.asked(), [""; 0], "what is known was asked outside");
    // Names of a network that one is not on are like any other's, and so are others' links.
    for (from, name) in
        [("me", "far"), ("me", "back"), ("far", "store"), ("far", "friend"), ("Web", "friend")]
    {
        assert_eq!(getent(&host, from, "ahosts", name), [""; 0], "{name} from {from}");
        assert_eq!(addresses(&host, from, name), [""; 0], "{name} from {from}");
        assert!(outside.asked().contains(&format!("a {name} udp")), "{name} from {from}");
    }
}

/// TCP connections that a container has ever opened (RFC 4022, tcpActiveOpens).
fn connections(host: &Host, name: &str) -> u32 {
    let counted = inside(host, name, "awk '/^Tcp:/ {opens = $6} END {print opens}' /proc/net/snmp");
    counted.trim().parse().unwrap()
}

#[test]
fn many_of_one_name_take_turns_and_come_by_tcp_when_they_are_too_many() {
    let host = resolving("", &[]);
    host.docker(&DUAL).ok();
    // With a question this long ten IPv6 addresses are more than fits into a datagram.
    let crowd = ["crowd-of-many-with-a-very-long-name-that-fills-the-whole-label"; 4].join(".");
    std::thread::scope(|scope| {
        for number in 0..10 {
            let (host, crowd) = (&host, &crowd);
            scope.spawn(move || {
                let all = ["--network-alias", "all"];
                let all = if number < 3 { &all[..] } else { &[] };
                let words = [&["--network", "dual", "--network-alias", crowd], all].concat();
                sleeper(host, &format!("c{number}"), &words);
            });
        }
    });
    sleeper(&host, "me", &["--network", "dual"]);
    sleeper(&host, "vc", &["--network", "dual", "--dns-option", "use-vc"]);
    // Each comes first at times; both resolvers pass on the order of the answer.
    let rounds =
        "for i in 1 2 3 4 5 6; do nslookup -type=a all; echo Name; getent ahostsv4 all | head -1; done";
    let told = inside(&host, "me", rounds);
    let first: BTreeSet<String> =
        told.split("Name").filter_map(|part| in_order(&format!("Name{part}")).into_iter().next()).collect();
    assert_eq!(first.len(), 3, "{told}");
    assert_eq!(getent(&host, "me", "ahosts", "all").len(), 6);
    assert_eq!(connections(&host, "me"), 0, "what fits comes by UDP");
    // busybox's resolver knows no TCP.
    let cut = in_order(&nslookup(&host, "me", &["-type=aaaa", &crowd]).stdout);
    assert!(cut.len() < 10, "{cut:?}");
    assert_eq!(connections(&host, "me"), 0);
    assert_eq!(getent(&host, "me", "ahostsv6", &crowd).len(), 10);
    assert_eq!(connections(&host, "me"), 1, "what was cut is asked again by TCP");
    assert_eq!(getent(&host, "vc", "ahostsv4", "c7").len(), 1);
    assert_eq!(connections(&host, "vc"), 1, "it asked for TCP");
}

/// Binds port 53 of an address and answers whoever comes.
const SERVER: &str = "
import socket, sys, threading
at = (sys.argv[1], 53)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(at)
listener = socket.create_server(at)
def by_udp():
    while True:
        _, peer = datagrams.recvfrom(64)
        datagrams.sendto(b'own udp', peer)
threading.Thread(target=by_udp).start()
while True:
    stream, _ = listener.accept()
    stream.sendall(b'own tcp')
    stream.close()
";

/// Asks it, once it is there; and Python's resolver.
const CLIENT: &str = "
import socket, sys, time
end = time.monotonic() + 20
while True:
    try:
        stream = socket.create_connection(('127.0.0.1', 53))
        break
    except ConnectionRefusedError:
        if time.monotonic() > end: raise
        time.sleep(0.01)
print(stream.recv(64).decode())
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(20)
datagrams.sendto(b'?', ('127.0.0.1', 53))
print(datagrams.recv(64).decode())
print(socket.gethostbyname('WEB'), socket.gethostbyaddr(socket.gethostbyname('web'))[0])
";

#[test]
fn a_container_may_have_port_53_of_its_own() {
    let host = resolving("", &[]);
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    sleeper(&host, "web", &["--network", "name=n1,ip=10.77.0.50"]);
    for (name, address) in [("narrow", "127.0.0.1"), ("wide", "0.0.0.0")] {
        // The host's Python: to capture it takes longer than all the rest.
        let words = ["run", "-d", "--name", name, "--network", "n1", "-v", "/usr:/usr:ro", "names"];
        host.docker(&[&words[..], &["python3", "-c", SERVER, address]].concat()).ok();
        let told = host.hull(&["exec", name, "python3", "-c", CLIENT]);
        assert_eq!(told.ok(), "own tcp\nown udp\n10.77.0.50 web.n1", "on {address}");
        let told = host.hull(&["exec", name, "busybox", "nslookup", "web"]);
        assert_eq!(in_order(told.ok()), ["10.77.0.50"]);
        assert_eq!(addresses(&host, "web", name).len(), 1);
    }
}
