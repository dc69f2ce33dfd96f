//! A client that kept sending before a port was published, and after it has another holder.

use std::net::UdpSocket;

use hull_network::nft::conntrack;
use hull_network::record::{Endpoint, Protocol};
use hull_network::rules::Options;

use crate::fire_world::{Site, published};
use crate::world::{LIMIT, bridge, endpoint};

/// What the service answers to one datagram; `None`: refused.
fn ask(socket: &UdpSocket) -> Option<String> {
    // An answer to an earlier one may have been a refusal that is told now.
    let mut buffer = [0; 64];
    let answer = socket.send(b"who am I").and_then(|_| socket.recv(&mut buffer));
    Some(String::from_utf8_lossy(&buffer[..answer.ok()?]).into_owned())
}

#[test]
fn a_new_holder_gets_what_an_old_client_sends() {
    let mut site = Site::new();
    let network = site.network(bridge(1, true));
    for (six, host, seen) in [(false, "192.0.2.1:90", "192.0.2.2"), (true, "[2001:db8::1]:90", "2001:db8::2")]
    {
        let any = if six { "[::]:0" } else { "0.0.0.0:0" };
        let socket = site.client.enter(|| UdpSocket::bind(any).unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.connect(host).unwrap();
        site.endpoints.clear();
        site.apply(&Options::default());
        assert_eq!(ask(&socket), None);
        let at = if six { "[::]:90" } else { "0.0.0.0:90" };
        let ports = vec![published(Protocol::Udp, at, 8080)];
        let mut web = Endpoint { published: ports.clone(), ..endpoint(&network, if six { 4 } else { 2 }) };
        let _web = site.container(&network, web.clone());
        site.apply(&Options::default());
        assert_eq!(ask(&socket), None, "the kernel has not forgotten by itself");
        conntrack::forget(&ports).unwrap();
        assert_eq!(ask(&socket).as_deref(), Some(seen));
        // The holder goes: its client is not sent there any longer.
        web.published.clear();
        site.endpoints = vec![web];
        site.apply(&Options::default());
        conntrack::forget(&ports).unwrap();
        assert_eq!(ask(&socket), None);
    }
}
