//! Ports published at 127.0.0.1 of the host: the short cut and the rules beside it.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use hull_network::namespace::Namespace;

use super::host;
use super::machines::{LIMIT, container, of_host, tcp};
use super::reach::run;

/// Whether a connection to this port of 127.0.0.1 goes to a container without being rewritten: the
/// kernel's list has its own ends. To its program it is one to 127.0.0.1 in any case.
#[track_caller]
fn is_led(here: &Namespace, port: u16) -> bool {
    here.enter(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        assert_eq!(stream.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        let own = stream.local_addr().unwrap();
        assert_eq!(own.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let local = format!(":{:04X}", own.port());
        let mut ends = table.lines().map(|line| line.split_whitespace().skip(1));
        let mut ends =
            ends.find(|ends| ends.clone().next().is_some_and(|end| end.ends_with(&local))).unwrap();
        let ends = (ends.next().unwrap(), ends.next().unwrap());
        !(ends.0.starts_with("0100007F") && ends.1.starts_with("0100007F"))
    })
    .unwrap()
}

#[test]
fn programs_of_the_host_are_led_to_where_a_port_is_by_now() {
    let mut host = host();
    let here = of_host(&host);
    run(&host, "one", &["-p", "8080:80", "-p", "127.0.0.1:8081:81", "-p", "9000-9300:9000-9300"]);
    container(&host, "one", &[80, 81, 9000]);
    let seen = tcp(&here, "127.0.0.1:8080");
    assert!(is_led(&here, 8080) && is_led(&here, 8081));
    // A wide range is left to the rules: to both ends it is the same.
    assert!(!is_led(&here, 9000));
    assert_eq!((tcp(&here, "127.0.0.1:9000"), tcp(&here, "127.0.0.1:8081")), (seen.clone(), seen.clone()));
    // Without a daemon the rules are there.
    host.kill_daemon();
    assert!(!is_led(&here, 8080) && !is_led(&here, 8081));
    assert_eq!(tcp(&here, "127.0.0.1:8080"), seen);
    host.start_daemon();
    assert!(is_led(&here, 8080) && is_led(&here, 8081));
    // The port is somebody else's.
    host.hull(&["rm", "-f", "one"]).ok();
    let refused = here.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 8080)).unwrap_err().kind()).unwrap();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    host.hull(&["network", "create", "--subnet", "10.88.0.0/24", "n1"]).ok();
    run(&host, "two", &["--network", "n1", "-p", "8080:80"]);
    container(&host, "two", &[80]);
    assert!(is_led(&here, 8080));
    assert_eq!(tcp(&here, "127.0.0.1:8080"), "10.88.0.1");
    // It moves while it runs: to a network whose gateway comes first.
    host.hull(&["network", "create", "--subnet", "10.89.0.0/24", "n2"]).ok();
    host.hull(&["network", "connect", "--gw-priority", "9", "n2", "two"]).ok();
    assert_eq!(tcp(&here, "127.0.0.1:8080"), "10.89.0.1");
    assert!(is_led(&here, 8080));
    host.hull(&["network", "disconnect", "n2", "two"]).ok();
    assert_eq!(tcp(&here, "127.0.0.1:8080"), "10.88.0.1");
}
