//! What is redirected to the forwarder, and what is not: a socket in its place says what it was
//! given.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use hull_network::namespace::Namespace;
use hull_network::record::{PortRange, Protocol, Published};
use hull_network::rules::{self, Options};
use rustix::net::sockopt;

use crate::fire_world::{Fate, Site, ask, published};
use crate::world::{LIMIT, bridge, endpoint};

/// The destination that a connection had before it was redirected.
#[track_caller]
fn meant(relay: &TcpListener, from: &Namespace, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let client = from.enter(|| TcpStream::connect_timeout(&to, LIMIT).unwrap()).unwrap();
    let (taken, peer) = relay.accept().unwrap();
    assert_eq!(client.local_addr().unwrap(), peer, "the client's own address is seen");
    sockopt::ipv6_original_dst(&taken).unwrap().to_string()
}

#[test]
fn ipv6_that_cannot_be_sent_on_comes_to_the_forwarder() {
    let mut site = Site::new();
    let (old, both) = (site.network(bridge(1, false)), site.network(bridge(2, true)));
    let many = PortRange { first: 9400, last: 9600 };
    let mut four = endpoint(&old, 2);
    four.published = vec![
        published(Protocol::Tcp, "[::]:80", 8080),
        published(Protocol::Tcp, "[2001:db8::1]:81", 8080),
        Published { protocol: Protocol::Tcp, address: "::".parse().unwrap(), host: many, container: many },
    ];
    let mut six = endpoint(&both, 2);
    six.published =
        vec![published(Protocol::Tcp, "[::]:90", 8080), published(Protocol::Tcp, "[::1]:91", 8080)];
    let _four = site.container(&old, four.clone());
    let _six = site.container(&both, six.clone());
    let relay = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = relay.local_addr().unwrap().port();
    let options = Options { relay: Some(port), ..Options::default() };
    site.apply(&options);
    // Without IPv6 in the container: from everywhere, for every address.
    for (from, to) in [
        (&site.here, "[::1]:80"),
        (&site.here, "[2001:db8::1]:80"),
        (&site.client, "[2001:db8::1]:80"),
        (&site.client, "[2001:db8::1]:81"),
        (&site.client, "[2001:db8::1]:9500"),
        (&site.here, "[::1]:9500"),
        (&site.here, "[::1]:90"),
        (&site.here, "[::1]:91"),
    ] {
        assert_eq!(meant(&relay, from, to), to);
    }
    // With it: the kernel rewrites, and the client is seen.
    let seen = Fate::Through("2001:db8::2".parse().unwrap());
    assert_eq!(ask(&site.client, Protocol::Tcp, "[2001:db8::1]:90".parse().unwrap(), &seen), seen);
    let refused = |to: &str| ask(&site.client, Protocol::Tcp, to.parse().unwrap(), &Fate::Refused);
    assert_eq!(refused("[2001:db8::1]:91"), Fate::Refused);
    // The forwarder's own port is nobody's.
    let own = SocketAddr::new("2001:db8::1".parse().unwrap(), port);
    assert_eq!(ask(&site.client, Protocol::Tcp, own, &Fate::Silence), Fate::Silence);
    let own = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    let here = site.here.enter(|| TcpStream::connect_timeout(&own, Duration::from_millis(250)).is_err());
    assert!(here.unwrap());
    let told = |network, endpoint| {
        let found = rules::relayed(network, endpoint, &options);
        found
            .iter()
            .map(|(ports, to)| format!("{} {} {to}", ports.address, ports.host.first))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&old, &four), [":: 80 10.1.0.2", "2001:db8::1 81 10.1.0.2", ":: 9400 10.1.0.2"]);
    assert_eq!(told(&both, &six), ["::1 90 fd00:2::2", "::1 91 fd00:2::2"]);
}
