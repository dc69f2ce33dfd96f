//! Names asked by real resolvers in a container's namespace, and resolvers of the host that answer,
//! fail, keep silent and lie.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hull_network::dns::{Options, Server, Sockets, Table, redirect, table};
use hull_network::namespace::Namespace;

use crate::world::{LIMIT, bridge, endpoint, host};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

/// A host with a server of names and one container, `me`, on net1 with `web` and `api` of one
/// alias; `shut` is on an internal network.
struct Home {
    server: Server,
    me: Namespace,
    sockets: Sockets,
    dir: tempfile::TempDir,
}

fn names() -> Table {
    let (net1, mut net2) = (bridge(1, true), bridge(2, false));
    net2.internal = true;
    let mut me = endpoint(&net1, 2);
    me.container = "me".into();
    me.names = vec!["me".into()];
    let mut web = endpoint(&net1, 3);
    web.names = vec!["web".into(), "all".into()];
    let mut api = endpoint(&net1, 4);
    api.names = vec!["api".into(), "all".into()];
    api.address6 = None;
    let mut shut = endpoint(&net2, 5);
    shut.container = "shut".into();
    table(&[net1, net2], &[me, web, api, shut])
}

/// A namespace whose resolver is ready.
fn container() -> (Namespace, Sockets) {
    let namespace = Namespace::new().unwrap();
    let sockets = namespace
        .enter(|| {
            let sockets = Sockets::open().unwrap();
            redirect(sockets.port()).unwrap();
            sockets
        })
        .unwrap();
    (namespace, sockets)
}

fn home(resolv: &str) -> Home {
    drop(host());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("resolv.conf"), resolv).unwrap();
    let server = Server::start(&dir.path().join("resolv.conf")).unwrap();
    server.set_table(names());
    let (me, sockets) = container();
    server.add("me", sockets.try_clone().unwrap(), Options::default());
    Home { server, me, sockets, dir }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn udp(from: &Namespace) -> UdpSocket {
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    // Connected: an answer from any other address or port is not taken.
    from.enter(|| socket.connect(RESOLVER).unwrap()).unwrap();
    socket
}

/// The reply's result, and its last four bytes: an address, where there is one.
fn told(reply: &[u8]) -> (u8, bool, [u8; 4]) {
    assert_eq!(reply[..2], [0x12, 0x34]);
    (reply[3] & 15, reply[7] > 0, reply[reply.len() - 4..].try_into().unwrap())
}

fn ask(from: &Namespace, name: &str, kind: u16) -> (u8, bool, [u8; 4]) {
    let socket = udp(from);
    socket.send(&query(name, kind)).unwrap();
    let mut reply = [0; 1500];
    let got = socket.recv(&mut reply).unwrap();
    told(&reply[..got])
}

fn tcp(from: &Namespace) -> TcpStream {
    let stream = from.enter(|| TcpStream::connect(RESOLVER).unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn send_framed(mut to: &TcpStream, message: &[u8]) {
    let length = (message.len() as u16).to_be_bytes();
    to.write_all(&[&length, message].concat()).unwrap();
}

fn receive_framed(mut from: &TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    from.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    from.read_exact(&mut message).unwrap();
    message
}

fn ask_tcp(from: &Namespace, name: &str, kind: u16) -> (u8, bool, [u8; 4]) {
    let stream = tcp(from);
    send_framed(&stream, &query(name, kind));
    told(&receive_framed(&stream))
}

const WEB: (u8, bool, [u8; 4]) = (0, true, [10, 1, 0, 3]);

/// A command in the namespace, with this resolv.conf over the machine's.
fn run(home: &Home, script: &str) -> String {
    let path = home.dir.path().join("container.conf");
    std::fs::write(&path, "nameserver 127.0.0.11\noptions ndots:0 timeout:20\n").unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf && {script}", path.display());
    let output = home
        .me
        .enter(|| Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap())
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn resolvers_of_busybox_glibc_and_python_find_names() {
    let home = home("nameserver 127.0.0.2\n");
    let text = run(&home, "busybox nslookup web");
    assert!(text.contains("Address: 10.1.0.3") && text.contains("Address: fd00:1::3"), "{text}");
    let text = run(&home, "busybox nslookup 10.1.0.3");
    assert!(text.contains("name = web.net1"), "{text}");
    let text = run(&home, "busybox nslookup api 127.0.0.11");
    assert!(text.contains("Address: 10.1.0.4") && !text.contains("fd00"), "{text}");
    let text = run(&home, "getent ahosts all | grep STREAM | sort");
    assert_eq!(text.split_whitespace().filter(|word| word.starts_with("10.1.0.")).count(), 2, "{text}");
    assert!(text.contains("fd00:1::3"), "{text}");
    assert!(run(&home, "getent hosts 10.1.0.4").contains("api.net1"));
    // Not ahostsv4: glibc takes a namespace with nothing but loopback addresses for one without IPv4.
    let text = run(&home, "getent ahosts host.docker.internal");
    assert!(text.contains("10.1.0.1 ") && text.contains("fd00:1::1 "), "{text}");
    let program =
        "import socket; print(socket.gethostbyname('WEB.Net1'), socket.gethostbyaddr('10.1.0.3')[0])";
    assert_eq!(run(&home, &format!("python3 -c \"{program}\"")), "10.1.0.3 web.net1\n");
}

#[test]
fn tcp_carries_several_questions_on_one_connection() {
    let home = home("");
    let stream = tcp(&home.me);
    let all: Vec<u8> = [query("web", A), query("api", A)]
        .iter()
        .flat_map(|query| [&(query.len() as u16).to_be_bytes()[..], query].concat())
        .collect();
    // In pieces that have nothing to do with messages.
    for piece in all.chunks(7) {
        (&stream).write_all(piece).unwrap();
    }
    assert_eq!(told(&receive_framed(&stream)), WEB);
    assert_eq!(told(&receive_framed(&stream)).2, [10, 1, 0, 4]);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&stream).read(&mut [0; 9]).unwrap(), 0, "closed when all is said");
}

#[test]
fn a_container_may_bind_port_53_itself() {
    let home = home("");
    let own = home.me.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let listener = home.me.enter(|| TcpListener::bind("0.0.0.0:53").unwrap()).unwrap();
    own.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(ask(&home.me, "web", A), WEB);
    assert_eq!(ask_tcp(&home.me, "web", A), WEB);
    let client = home.me.enter(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    client.send_to(b"to the container's own", "127.0.0.1:53").unwrap();
    let mut text = [0; 64];
    let (got, from) = own.recv_from(&mut text).unwrap();
    assert_eq!((&text[..got], from), (&b"to the container's own"[..], client.local_addr().unwrap()));
    home.me.enter(|| TcpStream::connect("127.0.0.1:53").unwrap()).unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_container_with_a_stateful_firewall_of_its_own_still_resolves() {
    let home = home("");
    let port = home.sockets.port();
    let rules = format!(
        "table inet own {{ chain in {{ type filter hook input priority 0; policy drop; \
         ct state established accept; udp dport {port} accept; tcp dport {port} accept; }}; }}"
    );
    let status = home.me.enter(|| Command::new("nft").arg(&rules).status().unwrap()).unwrap();
    assert!(status.success());
    assert_eq!(ask(&home.me, "web", A), WEB);
    assert_eq!(ask_tcp(&home.me, "web", A), WEB);
}

#[test]
fn the_next_server_answers_what_was_asked_meanwhile() {
    let home = home("");
    let Home { server, me, sockets, dir } = home;
    drop(server);
    let socket = udp(&me);
    for name in ["web", "api"] {
        socket.send(&query(name, A)).unwrap();
    }
    let stream = tcp(&me);
    send_framed(&stream, &query("web", A));
    // As the shim hands them over.
    let fds: Vec<OwnedFd> = sockets.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    let next = Server::start(&dir.path().join("resolv.conf")).unwrap();
    next.set_table(names());
    next.add("me", Sockets::from_fds(fds).unwrap(), Options::default());
    let mut reply = [0; 512];
    let got = socket.recv(&mut reply).unwrap();
    assert_eq!(told(&reply[..got]), WEB);
    let got = socket.recv(&mut reply).unwrap();
    assert_eq!(told(&reply[..got]).2, [10, 1, 0, 4]);
    assert_eq!(told(&receive_framed(&stream)), WEB);
    next.remove("me");
    drop(next);
}

/// A resolver of the host at 127.0.0.`number`:53, over both protocols; ends with its namespace's
/// threads when the test's process ends. Counts the queries.
fn resolver(number: u8, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Arc<AtomicUsize> {
    let address = SocketAddr::from(([127, 0, 0, number], 53));
    let socket = UdpSocket::bind(address).unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let answer = Arc::new(answer);
    let (seen, also) = (Arc::clone(&count), Arc::clone(&answer));
    std::thread::spawn(move || {
        let mut query = [0; 4096];
        while let Ok((got, from)) = socket.recv_from(&mut query) {
            seen.fetch_add(1, Ordering::SeqCst);
            for reply in answer(&query[..got]) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    let seen = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, Ordering::SeqCst);
            for mut reply in also(&receive_framed(&stream)) {
                // Nothing needs to be cut here.
                reply[2] &= !2;
                send_framed(&stream, &reply);
            }
        }
    });
    count
}

/// The query as its reply, with this result, and an address where that is none.
fn reply(query: &[u8], code: u8, address: [u8; 4]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | code;
    if code == 0 {
        reply[7] = 1;
        reply.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        reply.extend_from_slice(&address);
    }
    reply
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers_in_order() {
    let home = home("nameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.4\n");
    // Nobody listens on 127.0.0.2; 127.0.0.3 refuses one name and denies another.
    let second = resolver(3, |query| {
        vec![match query[13] {
            b'r' => reply(query, 5, [0; 4]),
            b'n' => reply(query, 3, [0; 4]),
            _ => reply(query, 0, [3, 3, 3, 3]),
        }]
    });
    let third = resolver(4, |query| vec![reply(query, if query[13] == b's' { 2 } else { 0 }, [4, 4, 4, 4])]);
    assert_eq!(ask(&home.me, "example.com", A), (0, true, [3, 3, 3, 3]));
    assert_eq!(ask_tcp(&home.me, "example.com", A), (0, true, [3, 3, 3, 3]));
    assert_eq!(ask(&home.me, "bare", A), (0, true, [3, 3, 3, 3]));
    assert_eq!(ask(&home.me, "no.example.com", A).0, 3);
    assert_eq!(third.load(Ordering::SeqCst), 0);
    assert_eq!(ask(&home.me, "refused.example.com", A), (0, true, [4, 4, 4, 4]));
    assert_eq!(second.load(Ordering::SeqCst), 5);
    // What everybody refuses is refused.
    std::fs::write(home.dir.path().join("resolv.conf"), "nameserver 127.0.0.4").unwrap();
    let end = Instant::now() + LIMIT;
    while ask(&home.me, "example.com", A).2 != [4, 4, 4, 4] {
        assert!(Instant::now() < end, "the change of resolv.conf was not followed");
    }
    assert_eq!(ask(&home.me, "server.fails", A).0, 2);
    // Nobody there at all.
    std::fs::write(home.dir.path().join("resolv.conf"), "nameserver 127.0.0.9").unwrap();
    while ask(&home.me, "example.com", A).0 != 2 {
        assert!(Instant::now() < end, "the change of resolv.conf was not followed");
    }
}

#[test]
fn a_silent_resolver_delays_nobody_and_the_next_one_answers() {
    let home = home("nameserver 127.0.0.2\nnameserver 127.0.0.3\n");
    let silent = resolver(2, |_| Vec::new());
    let _second = resolver(3, |query| vec![reply(query, 0, [3, 3, 3, 3])]);
    let waiting: Vec<UdpSocket> = (0..50)
        .map(|n| {
            let socket = udp(&home.me);
            socket.send(&query(&format!("n{n}.example.com"), A)).unwrap();
            socket
        })
        .collect();
    // While those wait, local names are answered long before the first second is over.
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&home.me, "web", A), WEB);
    }
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    for socket in waiting {
        let mut reply = [0; 512];
        let got = socket.recv(&mut reply).unwrap();
        assert_eq!(told(&reply[..got]), (0, true, [3, 3, 3, 3]));
    }
    assert!(silent.load(Ordering::SeqCst) >= 50);
}

#[test]
fn answers_that_do_not_belong_to_the_question_are_not_believed() {
    let home = home("nameserver 127.0.0.2\n");
    let _liar = resolver(2, |query| {
        let lie = reply(query, 0, [6, 6, 6, 6]);
        let (mut id, mut name, mut kind) = (lie.clone(), lie.clone(), lie.clone());
        id[0] ^= 1;
        name[13] ^= 2;
        kind[query.len() - 3] = 28;
        let mut question = lie;
        question[2] &= 0x7F;
        vec![id, name, kind, question, b"short".to_vec(), reply(query, 0, [7, 7, 7, 7])]
    });
    assert_eq!(ask(&home.me, "example.com", A), (0, true, [7, 7, 7, 7]));
    // From any other address nothing gets in at all: the kernel drops it before the true one.
    let ports = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&ports);
    let other = UdpSocket::bind("127.0.0.5:53").unwrap();
    let true_one = UdpSocket::bind("127.0.0.6:53").unwrap();
    std::fs::write(home.dir.path().join("resolv.conf"), "nameserver 127.0.0.6").unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((got, from)) = true_one.recv_from(&mut query) {
            seen.lock().unwrap().push((from.port(), [query[0], query[1]]));
            other.send_to(&reply(&query[..got], 0, [6, 6, 6, 6]), from).unwrap();
            true_one.send_to(&reply(&query[..got], 0, [8, 8, 8, 8]), from).unwrap();
        }
    });
    let end = Instant::now() + LIMIT;
    while ask(&home.me, "example.com", A).2 != [8, 8, 8, 8] {
        assert!(Instant::now() < end, "the change of resolv.conf was not followed");
    }
    for _ in 0..20 {
        assert_eq!(ask(&home.me, "example.com", A).2, [8, 8, 8, 8]);
    }
    let seen = ports.lock().unwrap().clone();
    let ports: std::collections::BTreeSet<u16> = seen.iter().map(|(port, _)| *port).collect();
    let ids: std::collections::BTreeSet<[u8; 2]> = seen.iter().map(|(_, id)| *id).collect();
    assert!(ports.len() > 15 && ids.len() > 15, "ports and ids are drawn anew: {seen:?}");
}

#[test]
fn what_was_cut_is_passed_on_and_asked_again_over_tcp() {
    let home = home("nameserver 127.0.0.2\n");
    let _cuts = resolver(2, |query| {
        let mut cut = reply(query, 0, [2, 2, 2, 2]);
        cut[2] |= 2;
        vec![cut]
    });
    let text = run(&home, "getent ahosts example.com");
    assert!(text.starts_with("2.2.2.2"), "{text}");
}

#[test]
fn nothing_of_an_internal_network_leaves() {
    let home = home("nameserver 127.0.0.2\n");
    let outside = resolver(2, |query| vec![reply(query, 0, [2, 2, 2, 2])]);
    let (shut, sockets) = container();
    home.server.add("shut", sockets, Options { servers: vec![[127, 0, 0, 2].into()], ..Options::default() });
    for name in ["example.com", "secret.data.tunnel.example.com", "web", "host.docker.internal"] {
        assert_eq!(ask(&shut, name, A), (3, false, ask(&shut, name, A).2), "{name}");
        assert_eq!(ask_tcp(&shut, name, AAAA).0, 3);
    }
    assert_eq!(ask(&shut, "8.8.8.8.in-addr.arpa", PTR).0, 3);
    assert_eq!(outside.load(Ordering::SeqCst), 0);
}

#[test]
fn servers_that_the_container_chose_are_asked_from_its_namespace() {
    let home = home("nameserver 127.0.0.2\n");
    let outside = resolver(2, |query| vec![reply(query, 0, [2, 2, 2, 2])]);
    let (other, sockets) = container();
    // The same address in the container's namespace is another machine.
    let _inside = other.enter(|| resolver(2, |query| vec![reply(query, 0, [5, 5, 5, 5])])).unwrap();
    let servers: Vec<IpAddr> = vec![[127, 0, 0, 2].into()];
    let table = {
        let net = bridge(1, false);
        let mut one = endpoint(&net, 2);
        one.container = "me".into();
        let mut two = endpoint(&net, 3);
        two.container = "other".into();
        table(&[net], &[one, two])
    };
    home.server.set_table(table);
    home.server.add("other", sockets, Options { servers, keeps_bare_names: true, ..Options::default() });
    assert_eq!(ask(&other, "example.com", A), (0, true, [5, 5, 5, 5]));
    assert_eq!(ask_tcp(&other, "example.com", A), (0, true, [5, 5, 5, 5]));
    assert!(!ask(&other, "bare", A).1);
    assert_eq!(outside.load(Ordering::SeqCst), 0);
    assert_eq!(ask(&home.me, "example.com", A), (0, true, [2, 2, 2, 2]));
}

/// Sends as fast as it can and takes what comes: a flood of one container's own making.
#[test]
fn a_flood_of_one_container_leaves_the_others_alone() {
    let home = home("nameserver 127.0.0.2\n");
    let _silent = resolver(2, |_| Vec::new());
    let table = {
        let net = bridge(1, false);
        let mut one = endpoint(&net, 2);
        one.container = "me".into();
        let mut web = endpoint(&net, 3);
        web.names = vec!["web".into()];
        let mut two = endpoint(&net, 4);
        two.container = "loud".into();
        table(&[net], &[one, web, two])
    };
    home.server.set_table(table);
    let (loud, sockets) = container();
    home.server.add("loud", sockets, Options::default());
    let flood = udp(&loud);
    let connections: Vec<TcpStream> = (0..100).map(|_| tcp(&loud)).collect();
    for round in 0..100 {
        for n in 0..100 {
            flood.send(&query(&format!("x{round}y{n}.example.com"), A)).unwrap();
        }
        let begin = Instant::now();
        assert_eq!(ask(&home.me, "web", A), WEB);
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    assert_eq!(ask_tcp(&home.me, "web", A), WEB);
    drop(connections);
}
