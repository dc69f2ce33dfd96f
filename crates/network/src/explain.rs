//! Why a port of the host is reachable or not, in words: what `hull network explain PORT` prints.
//!
//! Pure: records on one side, what was seen of the host on the other. The order is the packet's
//! way — who publishes it, what rewrites it, what may stop it, who listens at the end — so the first
//! [`Finding::Stops`] is the one to mend.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::nft::foreign::Obstacle;
use crate::ports::{Listener, RESERVED_MAX};
use crate::record::{Bridge, ContainerId, Driver, Endpoint, GatewayMode, Network, Protocol, Published};
use crate::rules::{self, Options};
use crate::ruleset::{Element, Family, Field};

/// What was seen of the host.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// How the tables differ from what was applied ([`crate::firewall::Firewall::observe`]).
    pub tables: Vec<String>,
    /// Others' chains that drop what is forwarded, for each bridge ([`crate::nft::foreign`]).
    pub obstacles: BTreeMap<String, Vec<Obstacle>>,
    /// Who listens in each container's namespace; a container whose namespace could not be looked
    /// into is missing.
    pub inside: BTreeMap<ContainerId, Vec<Listener>>,
    /// Who has ports of the host, the sockets by which published ports are held left out.
    pub host: Vec<Listener>,
    /// Whether packets pass through the host at all ([`crate::forwarding::enabled`]).
    pub forwarding4: bool,
    pub forwarding6: bool,
}

/// One sentence, and what it means for the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A step of the way, and it is open.
    Passes(String),
    /// Here it ends.
    Stops(String),
    /// Something to know.
    Note(String),
}

impl Finding {
    /// What it means for the packet, in one word: `ok`, `stop` or `note`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Finding::Passes(_) => "ok",
            Finding::Stops(_) => "stop",
            Finding::Note(_) => "note",
        }
    }

    pub fn text(&self) -> &str {
        let (Finding::Passes(text) | Finding::Stops(text) | Finding::Note(text)) = self;
        text
    }
}

/// The records of the host, and how a person calls a container.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    pub networks: &'a [Network],
    pub endpoints: &'a [Endpoint],
    pub options: &'a Options,
    pub name: &'a dyn Fn(&str) -> String,
}

/// Whether this place publishes the port, and so whether who listens in its container matters.
pub fn publishes(endpoint: &Endpoint, port: u16, protocol: Option<Protocol>) -> bool {
    publications(endpoint, port, protocol).next().is_some()
}

fn publications(
    endpoint: &Endpoint,
    port: u16,
    protocol: Option<Protocol>,
) -> impl Iterator<Item = &Published> {
    let asked = move |one: &&Published| protocol.is_none_or(|protocol| protocol == one.protocol);
    endpoint.published.iter().filter(asked).filter(move |one| target(one, port).is_some())
}

/// The container's port that `port` leads to. Without a port of the host (a routed network) it is
/// the same one.
fn target(published: &Published, port: u16) -> Option<u16> {
    let Published { host, container, .. } = published;
    if host.first == 0 {
        return container.contains(port).then_some(port);
    }
    host.contains(port).then(|| container.first + (port - host.first))
}

/// What becomes of packets for `port` of the host; of one protocol, or of all.
pub fn explain(
    port: u16,
    protocol: Option<Protocol>,
    records: &Records<'_>,
    observed: &Observed,
) -> Vec<Finding> {
    let asked = |one: Protocol| protocol.is_none_or(|protocol| protocol == one);
    let mut found: Vec<Finding> = Vec::new();
    for endpoint in records.endpoints {
        let Some(network) = records.networks.iter().find(|network| network.id == endpoint.network) else {
            continue;
        };
        for published in publications(endpoint, port, protocol) {
            found.extend(way(port, published, endpoint, network, records, observed));
        }
    }
    if found.is_empty() {
        found.push(Finding::Stops(format!("no running container publishes port {port}")));
        for endpoint in records.endpoints {
            let exposes = |(one, ports): &&(Protocol, _)| {
                let ports: &crate::record::PortRange = ports;
                asked(*one) && ports.contains(port)
            };
            for (protocol, _) in endpoint.exposed.iter().filter(exposes) {
                found.push(Finding::Note(format!(
                    "container {} exposes {port}/{} and does not publish it: -p {port}:{port}/{} would",
                    (records.name)(&endpoint.container),
                    protocol.name(),
                    protocol.name(),
                )));
            }
        }
    }
    let disturbed = observed
        .tables
        .iter()
        .map(|difference| Finding::Stops(format!("{difference}: somebody has changed what the daemon made")));
    found.splice(0..0, disturbed);
    for listener in observed.host.iter().filter(|one| one.port == port && asked(one.protocol)) {
        let who = listener.process().map_or_else(|| "a program".to_owned(), |process| process.to_string());
        let at = std::net::SocketAddr::new(listener.address, port);
        found.push(Finding::Note(format!("on the host {who} has {at}/{}", listener.protocol.name())));
    }
    found
}

/// One publication, from the wire to the program.
fn way(
    port: u16,
    published: &Published,
    endpoint: &Endpoint,
    network: &Network,
    records: &Records<'_>,
    observed: &Observed,
) -> Vec<Finding> {
    let Driver::Bridge(bridge) = &network.driver else { return Vec::new() };
    let Some(target) = target(published, port) else { return Vec::new() };
    let name = (records.name)(&endpoint.container);
    let protocol = published.protocol.name();
    let at = std::net::SocketAddr::new(published.address, port);
    let mut found = vec![Finding::Passes(match published.host.first {
        0 => format!("container {name} opens its own port {target}/{protocol}, on network {}", network.name),
        _ => format!(
            "container {name} publishes {at}/{protocol} to its port {target}, on network {}",
            network.name
        ),
    })];
    if network.internal {
        found.push(Finding::Stops(format!("network {} is internal: nothing comes in", network.name)));
        return found;
    }
    if published.address.is_loopback() {
        found.push(Finding::Note(format!("bound to {}: from this host only", published.address)));
    }
    let six = published.address.is_ipv6();
    if !(if six { records.options.ipv6 } else { records.options.ipv4 }) {
        let key = if six { "ip6tables" } else { "iptables" };
        found
            .push(Finding::Stops(format!("the daemon's configuration says {key}=false: there are no rules")));
        return found;
    }
    let (rewritten, relayed) = rewriting(port, published, endpoint, network, records);
    found.push(rewritten);
    // The forwarder's own connections are the host's: nothing is forwarded.
    if !relayed {
        found.extend(passage(published, bridge, observed));
    }
    found.push(listening(&name, target, published, endpoint, observed));
    found
}

/// What in our tables takes the packet to the container, and whether that is by the forwarder.
fn rewriting(
    port: u16,
    published: &Published,
    endpoint: &Endpoint,
    network: &Network,
    records: &Records<'_>,
) -> (Finding, bool) {
    let alone = Endpoint { published: vec![*published], exposed: Vec::new(), ..endpoint.clone() };
    let elements = rules::endpoint_elements(network, &alone, [].iter(), records.options);
    let ours = |element: &&Element| {
        element.set.family == Family::Inet
            && element.key.iter().any(|field| matches!(field, Field::Ports(ports) if ports.contains(port)))
    };
    let Some(element) = elements.iter().find(ours) else {
        let stops = Finding::Stops(match (published.address.is_ipv6(), published.protocol) {
            (true, Protocol::Sctp) => {
                "the container has no IPv6 address, and the forwarder carries TCP and UDP only".to_owned()
            }
            _ => "the container has no address of this family".to_owned(),
        });
        return (stops, true);
    };
    if element.set.name.starts_with("relay") {
        let wide = published.host.count() > RESERVED_MAX;
        let finding = match records.options.relay {
            Some(_) if published.protocol == Protocol::Udp && wide => Finding::Stops(format!(
                "the forwarder carries UDP of ports that are held: no more than {RESERVED_MAX} of a container"
            )),
            Some(_) if published.protocol == Protocol::Udp => {
                Finding::Passes("the forwarder carries it from the socket that holds the port".to_owned())
            }
            Some(relay) => Finding::Passes(format!(
                "element {element} redirects it to the forwarder (port {relay}), which connects to the container"
            )),
            None => Finding::Stops("IPv6 needs the forwarder here, and it does not run".to_owned()),
        };
        return (finding, true);
    }
    if element.set.name.starts_with("open") {
        return (
            Finding::Passes(format!("element {element} lets it in, at the container's own address")),
            false,
        );
    }
    (Finding::Passes(format!("element {element} rewrites its destination")), false)
}

/// What may stop a packet between the wire and the bridge.
fn passage(published: &Published, bridge: &Bridge, observed: &Observed) -> Vec<Finding> {
    let six = published.address.is_ipv6();
    let mut found = Vec::new();
    let (on, key) = if six {
        (observed.forwarding6, "net.ipv6.conf.all.forwarding")
    } else {
        (observed.forwarding4, "net.ipv4.ip_forward")
    };
    if !on && !published.address.is_loopback() {
        found.push(Finding::Stops(format!("the host forwards nothing: set {key} to 1")));
    }
    let none = Vec::new();
    let obstacles = observed.obstacles.get(&bridge.link).unwrap_or(&none);
    for obstacle in obstacles.iter().filter(|obstacle| obstacle.concerns(six)) {
        found.push(Finding::Stops(format!(
            "{obstacle} drops what is forwarded to {}: accept it there (oifname {:?})",
            bridge.link, bridge.link
        )));
    }
    let mode = if six { bridge.mode6 } else { bridge.mode4 };
    let rule = match mode {
        GatewayMode::Nat | GatewayMode::Isolated => "chain into-nat lets published ports through",
        GatewayMode::NatUnprotected => "chain into-unprotected lets every port through",
        GatewayMode::Routed => "chain into-routed lets published ports through",
    };
    if !found.iter().any(|one| matches!(one, Finding::Stops(_))) {
        found.push(Finding::Passes(rule.to_owned()));
    }
    found
}

/// Whether a program waits at the end.
fn listening(
    name: &str,
    port: u16,
    published: &Published,
    endpoint: &Endpoint,
    observed: &Observed,
) -> Finding {
    let protocol = published.protocol.name();
    let Some(inside) = observed.inside.get(&endpoint.container) else {
        return Finding::Note(format!("who listens in container {name} could not be seen"));
    };
    let four = endpoint.address4.map(|net| IpAddr::from(net.addr()));
    let six = endpoint.address6.map(|net| IpAddr::from(net.addr()));
    let Some(target) = (if published.address.is_ipv6() { six.or(four) } else { four }) else {
        return Finding::Stops(format!("container {name} has no address"));
    };
    let here: Vec<&Listener> =
        inside.iter().filter(|one| one.port == port && one.protocol == published.protocol).collect();
    if here.iter().any(|one| one.collides(target)) {
        return Finding::Passes(format!("in container {name} a program listens at port {port}/{protocol}"));
    }
    match here.first() {
        Some(one) => Finding::Stops(format!(
            "in container {name} the program listens at {} only, not at {target}: it has to listen at {}",
            std::net::SocketAddr::new(one.address, port),
            if target.is_ipv6() { "[::]" } else { "0.0.0.0" },
        )),
        None => Finding::Stops(format!("in container {name} nobody listens at port {port}/{protocol}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::nft::foreign::Cause;
    use crate::record::PortRange;
    use crate::rules::tests::{endpoint, network, published};

    fn listener(protocol: Protocol, at: &str) -> Listener {
        let at: SocketAddr = at.parse().unwrap();
        Listener { protocol, address: at.ip(), port: at.port(), both: at.ip().is_unspecified(), inode: 0 }
    }

    fn healthy() -> Observed {
        Observed {
            forwarding4: true,
            forwarding6: true,
            inside: BTreeMap::from([("web".to_owned(), vec![listener(Protocol::Tcp, "[::]:8080")])]),
            ..Observed::default()
        }
    }

    fn web() -> Endpoint {
        let mut web = endpoint("n", "web", &["172.17.0.2/16"]);
        let one =
            |address, port| published(Protocol::Tcp, address, PortRange::one(port), PortRange::one(8080));
        web.published = vec![one("0.0.0.0", 80), one("::", 80), one("127.0.0.1", 81)];
        web.exposed = vec![(Protocol::Tcp, PortRange::one(8080)), (Protocol::Udp, PortRange::one(53))];
        web
    }

    fn check(port: u16, endpoint: &Endpoint, options: &Options, observed: &Observed, expected: Expect) {
        let networks = [network("n", "br0", &["172.17.0.0/16"])];
        let name = |id: &str| id.to_owned();
        let endpoints = [endpoint.clone()];
        let records = Records { networks: &networks, endpoints: &endpoints, options, name: &name };
        let found = explain(port, None, &records, observed);
        let line = |one: &Finding| format!("{:4}  {}\n", one.outcome(), one.text());
        expected.assert_eq(&found.iter().map(line).collect::<String>());
    }

    const RELAYED: Options = Options {
        ipv4: true,
        ipv6: true,
        guard4: false,
        guard6: false,
        direct_routing: false,
        relay: Some(999),
    };

    #[test]
    fn a_port_that_works() {
        check(
            80,
            &web(),
            &RELAYED,
            &healthy(),
            expect![[r#"
                ok    container web publishes 0.0.0.0:80/tcp to its port 8080, on network n
                ok    element inet hull any4: tcp . 80 : 172.17.0.2 . 8080 rewrites its destination
                ok    chain into-nat lets published ports through
                ok    in container web a program listens at port 8080/tcp
                ok    container web publishes [::]:80/tcp to its port 8080, on network n
                ok    element inet hull relay-any: tcp . 80 redirects it to the forwarder (port 999), which connects to the container
                ok    in container web a program listens at port 8080/tcp
            "#]],
        );
        check(
            81,
            &web(),
            &RELAYED,
            &healthy(),
            expect![[r#"
            ok    container web publishes 127.0.0.1:81/tcp to its port 8080, on network n
            note  bound to 127.0.0.1: from this host only
            ok    element inet hull at4: tcp . 127.0.0.1 . 81 : 172.17.0.2 . 8080 rewrites its destination
            ok    chain into-nat lets published ports through
            ok    in container web a program listens at port 8080/tcp
        "#]],
        );
    }

    #[test]
    fn udp_is_carried_from_ports_that_are_held() {
        let mut web = web();
        let wide = PortRange { first: 1000, last: 1256 };
        web.published = vec![
            published(Protocol::Udp, "::", PortRange::one(53), PortRange::one(53)),
            published(Protocol::Udp, "::", wide, wide),
            published(Protocol::Sctp, "::", PortRange::one(7), PortRange::one(7)),
        ];
        for (port, expected) in [
            (
                53,
                expect![[r#"
            ok    container web publishes [::]:53/udp to its port 53, on network n
            ok    the forwarder carries it from the socket that holds the port
            stop  in container web nobody listens at port 53/udp
        "#]],
            ),
            (
                1100,
                expect![[r#"
            ok    container web publishes [::]:1100/udp to its port 1100, on network n
            stop  the forwarder carries UDP of ports that are held: no more than 256 of a container
            stop  in container web nobody listens at port 1100/udp
        "#]],
            ),
            (
                7,
                expect![[r#"
            ok    container web publishes [::]:7/sctp to its port 7, on network n
            stop  the container has no IPv6 address, and the forwarder carries TCP and UDP only
            stop  in container web nobody listens at port 7/sctp
        "#]],
            ),
        ] {
            check(port, &web, &RELAYED, &healthy(), expected);
        }
    }

    #[test]
    fn a_port_of_a_routed_network_is_the_containers_own() {
        let mut web = web();
        web.published = vec![published(
            Protocol::Tcp,
            "0.0.0.0",
            PortRange::one(0),
            PortRange { first: 8080, last: 8081 },
        )];
        let mut routed = network("n", "br0", &["172.17.0.0/16"]);
        if let Driver::Bridge(bridge) = &mut routed.driver {
            bridge.mode4 = GatewayMode::Routed;
        }
        let name = |id: &str| id.to_owned();
        let (networks, endpoints) = ([routed], [web]);
        let records = Records { networks: &networks, endpoints: &endpoints, options: &RELAYED, name: &name };
        let found = explain(8080, None, &records, &healthy());
        assert!(found.iter().all(|one| one.outcome() == "ok"), "{found:?}");
        assert_eq!(found[0].text(), "container web opens its own port 8080/tcp, on network n");
        assert_eq!(explain(80, None, &records, &healthy())[0].outcome(), "stop");
    }

    #[test]
    fn a_port_that_nobody_publishes() {
        let mut observed = healthy();
        observed.host = vec![listener(Protocol::Tcp, "127.0.0.1:53")];
        check(
            53,
            &web(),
            &RELAYED,
            &observed,
            expect![[r#"
                stop  no running container publishes port 53
                note  container web exposes 53/udp and does not publish it: -p 53:53/udp would
                note  on the host a program has 127.0.0.1:53/tcp
            "#]],
        );
    }

    #[test]
    fn everything_that_can_be_wrong() {
        let mut observed = healthy();
        observed.forwarding4 = false;
        observed.tables = vec!["table inet hull is gone".to_owned()];
        let obstacle = Obstacle {
            family: "ip",
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            cause: Cause::Policy,
        };
        observed.obstacles.insert("br0".to_owned(), vec![obstacle]);
        observed.inside.insert("web".to_owned(), vec![listener(Protocol::Tcp, "127.0.0.1:8080")]);
        let options = Options { relay: None, ..RELAYED };
        check(
            80,
            &web(),
            &options,
            &observed,
            expect![[r#"
                stop  table inet hull is gone: somebody has changed what the daemon made
                ok    container web publishes 0.0.0.0:80/tcp to its port 8080, on network n
                ok    element inet hull any4: tcp . 80 : 172.17.0.2 . 8080 rewrites its destination
                stop  the host forwards nothing: set net.ipv4.ip_forward to 1
                stop  the policy of chain FORWARD in table ip filter drops what is forwarded to br0: accept it there (oifname "br0")
                stop  in container web the program listens at 127.0.0.1:8080 only, not at 172.17.0.2: it has to listen at 0.0.0.0
                ok    container web publishes [::]:80/tcp to its port 8080, on network n
                stop  IPv6 needs the forwarder here, and it does not run
                stop  in container web the program listens at 127.0.0.1:8080 only, not at 172.17.0.2: it has to listen at 0.0.0.0
            "#]],
        );
        let off = Options { ipv4: false, ipv6: false, ..RELAYED };
        check(
            80,
            &web(),
            &off,
            &observed,
            expect![[r#"
                stop  table inet hull is gone: somebody has changed what the daemon made
                ok    container web publishes 0.0.0.0:80/tcp to its port 8080, on network n
                stop  the daemon's configuration says iptables=false: there are no rules
                ok    container web publishes [::]:80/tcp to its port 8080, on network n
                stop  the daemon's configuration says ip6tables=false: there are no rules
            "#]],
        );
        let mut silent = web();
        silent.published.truncate(1);
        observed = healthy();
        observed.inside.insert("web".to_owned(), Vec::new());
        check(
            80,
            &silent,
            &RELAYED,
            &observed,
            expect![[r#"
                ok    container web publishes 0.0.0.0:80/tcp to its port 8080, on network n
                ok    element inet hull any4: tcp . 80 : 172.17.0.2 . 8080 rewrites its destination
                ok    chain into-nat lets published ports through
                stop  in container web nobody listens at port 8080/tcp
            "#]],
        );
    }
}
