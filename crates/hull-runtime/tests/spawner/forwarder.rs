//! The forwarder: what is redirected to it reaches the right program, whole, in both directions, and
//! daemons come and go meanwhile. Needs nftables.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hull_runtime::forwarder::{Client, Target};

use crate::house::House;

const LIMIT: Duration = Duration::from_secs(20);
/// Bytes that no buffer on the way holds.
const MUCH: usize = 16 << 20;

fn target(first: u16, last: u16, port: u16) -> Target {
    Target {
        address: Ipv6Addr::LOCALHOST,
        first,
        last,
        to: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        udp: false,
    }
}

/// A host of its own, with ports 80 to 99 of ::1 redirected.
fn host() -> (House, Client) {
    hull_sys::process::unshare_network().unwrap();
    hull_sys::netlink::loopback_up().unwrap();
    let house = House::new();
    let forwarder = Client::adopt_or_start(&house.client, &house.exec_root()).unwrap();
    let rules = format!(
        "table ip6 t {{ chain o {{ type nat hook output priority -100\n ip6 daddr ::1 tcp dport 80-99 redirect to :{}\n }}\n }}",
        forwarder.port
    );
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nftables is needed");
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    (house, forwarder)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Answers every connection with its own name, then with everything that it was sent.
fn program(name: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.write_all(name);
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all);
                let _ = stream.write_all(&all);
            });
        }
    });
    port
}

fn name(stream: &mut TcpStream) -> String {
    let mut word = [0; 3];
    stream.read_exact(&mut word).unwrap();
    String::from_utf8_lossy(&word).into_owned()
}

/// Whether the other side has ended or broken it off.
fn over(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn much_goes_both_ways_and_ends_where_it_ended() {
    let (_house, forwarder) = host();
    let (one, two) = (program(b"one"), program(b"two"));
    forwarder.open(&[target(80, 80, one), target(81, 85, two - 3)]).unwrap();
    assert_eq!(name(&mut connect(84)), "two");
    let sent: Vec<u8> = (0..MUCH).map(|number| ((number * 31) >> 3) as u8).collect();
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let sent = sent.clone();
            std::thread::spawn(move || {
                let mut stream = connect(80);
                assert_eq!(name(&mut stream), "one");
                stream.write_all(&sent).unwrap();
                // Our end is not theirs: everything still comes back.
                stream.shutdown(Shutdown::Write).unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                assert!(back == sent);
            })
        })
        .collect();
    streams.into_iter().for_each(|stream| stream.join().unwrap());
    // Clients that ask for much and go without a word.
    for _ in 0..4 {
        let mut stream = connect(80);
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        drop(stream);
    }
    assert_eq!(name(&mut connect(80)), "one");
    // Its descriptors are those of an idle one again.
    let start = Instant::now();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", forwarder.pid)).unwrap().count();
    while open() > 12 {
        assert!(start.elapsed() < LIMIT, "{} descriptors are left", open());
        std::thread::yield_now();
    }
}

#[test]
fn what_leads_nowhere_is_refused() {
    let (_house, forwarder) = host();
    assert!(over(&mut connect(80)));
    // Nobody listens behind it.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    forwarder.open(&[target(80, 80, nobody)]).unwrap();
    assert!(over(&mut connect(80)));
    // Its own port means nothing.
    assert!(over(&mut connect(forwarder.port)));
    let one = program(b"one");
    forwarder.open(&[target(80, 80, one)]).unwrap();
    let mut stream = connect(80);
    assert_eq!(name(&mut stream), "one");
    forwarder.shut(&[target(80, 80, one)]).unwrap();
    assert!(over(&mut stream) && over(&mut connect(80)));
}

#[test]
fn it_outlives_daemons_and_leaves_when_told() {
    let (house, first) = host();
    let (one, two) = (program(b"one"), program(b"two"));
    first.open(&[target(80, 80, one), target(81, 81, two)]).unwrap();
    let (mut kept, mut lost) = (connect(81), connect(80));
    assert_eq!((name(&mut kept), name(&mut lost)), ("two".into(), "one".into()));
    let pid = first.pid;
    drop(first);
    let next = Client::adopt_or_start(&house.client, &house.exec_root()).unwrap();
    assert_eq!(next.pid, pid);
    // The next daemon says what there is: more than one message, and one target less.
    let mut all: Vec<Target> = (1000..2000).map(|port| target(port, port, 1)).collect();
    all.push(target(81, 81, two));
    next.replace(&all).unwrap();
    assert!(over(&mut lost) && over(&mut connect(80)));
    // One of another version retires so.
    std::fs::remove_file(house.exec_root().join("forwarder.sock")).unwrap();
    let fresh = Client::adopt_or_start(&house.client, &house.exec_root()).unwrap();
    assert_ne!(fresh.pid, pid);
    kept.write_all(b"still").unwrap();
    kept.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    kept.read_to_string(&mut back).unwrap();
    assert_eq!(back, "still");
    drop(kept);
    let start = Instant::now();
    while alive(pid) {
        assert!(start.elapsed() < LIMIT, "the retired forwarder is still there");
        std::thread::yield_now();
    }
    let pid = fresh.pid;
    drop(fresh);
    drop(house);
    while alive(pid) {
        assert!(start.elapsed() < LIMIT, "a forwarder whose folder is gone is still there");
        std::thread::yield_now();
    }
}
