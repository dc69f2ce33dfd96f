//! Which packets may go where: from records to nftables' tables. Pure.
//!
//! Two tables, both called `hull`: `inet` for what the host receives, sends and forwards, `bridge`
//! for frames between the ports of a bridge whose containers may not talk to each other. Chains
//! and rules are always the same ([`frame`] writes them); networks and containers are elements of
//! sets and maps ([`elements`]). So one start is a handful of elements, whatever else runs.
//!
//! ```text
//! from outside ──► arrive (raw) ──► publish (nat) ──► forward ──► leave (nat) ──► bridge
//!                  127/8 and subnets  port → container  who may     masquerade
//!                  from elsewhere: ╳  DNAT by maps      go where
//! from the host ─────────────────► publish (output) ────────────► leave ────────► bridge
//! container ─────► arrive ─► publish ─► forward ─► leave ─► outside, another bridge or its own
//! ```
//!
//! - **Published ports** are looked up by protocol, address and port: `at4` for one host address,
//!   `any4` for all, both hashed; `ranges4` holds a range whose ports are the same on both sides as
//!   one interval, so 50,000 ports are one element. The same with a 6. The client's address is kept:
//!   only what comes from the host's 127/8, and what goes back to the bridge it came from, is
//!   masqueraded, because the answer would not find its way otherwise.
//! - **127.0.0.1** is published through `route_localnet` on the bridges (whoever makes a bridge sets
//!   it). In exchange nothing with an address in 127/8 may come in by any link but `lo`: a port
//!   published there is not reachable from the next machine, nor from a container. TCP of the host's
//!   own programs mostly takes a shorter way ([`crate::loopback`]); these rules are there all the same.
//! - **::1**, and any IPv6 address of the host where the container has none, is redirected to the
//!   one forwarder (`relay…`), for TCP. UDP is left as it is: the forwarder has the socket that holds
//!   the port. Internal networks, whose packets no map rewrites, are kept from it by rules.
//! - **Direct routing**: a packet from elsewhere for an address of a NAT-mode subnet is dropped
//!   before connection tracking, published port or not, as the reference does since version 28.
//!   Where nothing is masqueraded that would be every answer: there `forward` drops what opens a
//!   connection.
//!   Other bridges' containers may talk to a gateway's address: `host-gateway` is one. With
//!   `allow-direct-routing` what is published is open there too, but for what is published on the
//!   host's loopback: that is for the host alone.
//! - **Internal** networks reach nothing but themselves: not other networks, not the host's other
//!   addresses. Their ports are not published.
//! - **`icc=false`** is a matter of the bridge table: between two ports that are `closed` only what a
//!   link opens passes; back comes only what is no opening of a connection.
//!   Where br_netfilter is on (others need it, Hull never does) the same packets also come through
//!   `forward`, which therefore knows the links too. Published ports of a neighbour are then
//!   rewritten while they are bridged: on a closed network that ends at the bridge table, and a
//!   container reaches its own published port because its bridge port reflects (hairpin mode), which
//!   whoever makes the port sees to.
//! - **Strangers**: where it was Hull that switched forwarding on, what neither comes from nor goes
//!   to a bridge of Hull's is dropped as it was before.

mod frame;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::loopback::Way;
use crate::record::{Bridge, Driver, Endpoint, GatewayMode, Network, PortRange, Protocol, Published};
use crate::ruleset::{Element, Elements, Family, Field, RuleSet, SetName, Value, Verdict};

/// Everything that rules follow from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub networks: &'a [Network],
    /// Those of networks that are not among `networks` are passed over.
    pub endpoints: &'a [Endpoint],
    pub options: &'a Options,
}

/// What the daemon's configuration and the host say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `iptables`: without it there are no rules for IPv4.
    pub ipv4: bool,
    /// `ip6tables`.
    pub ipv6: bool,
    /// IPv4 forwarding was off before Hull switched it on: strangers are not forwarded.
    pub guard4: bool,
    /// The same for IPv6.
    pub guard6: bool,
    /// `allow-direct-routing`: containers' own addresses can be reached from elsewhere, as far as
    /// ports are published.
    pub direct_routing: bool,
    /// The forwarder's port; `None`: nothing is redirected to it.
    pub relay: Option<u16>,
}

impl Default for Options {
    fn default() -> Options {
        Options { ipv4: true, ipv6: true, guard4: false, guard6: false, direct_routing: false, relay: None }
    }
}

/// The tables that follow from these records. Equal input gives equal tables, in whatever order
/// the records come.
pub fn compile(input: &Input<'_>) -> RuleSet {
    if !input.options.ipv4 && !input.options.ipv6 {
        return RuleSet::default();
    }
    let mut rules = RuleSet { tables: frame::tables(input.options) };
    let mut all = Elements::new();
    for network in input.networks {
        all.extend(network_elements(network, input.options));
        let on_it = || input.endpoints.iter().filter(|endpoint| endpoint.network == network.id);
        for endpoint in on_it() {
            all.extend(endpoint_elements(network, endpoint, on_it(), input.options));
        }
    }
    for Element { set, key, value } in all {
        if let Some(table) = rules.tables.get_mut(&set.family)
            && let Some(set) = table.sets.get_mut(set.name)
        {
            // Of two that want the same port, one has it: records in which that happens are
            // never made, and the order of elements decides the same way each time.
            set.elements.entry(key).or_insert(value);
        }
    }
    rules
}

/// What stands in the tables for a network without containers.
pub fn network_elements(network: &Network, options: &Options) -> Elements {
    let Driver::Bridge(bridge) = &network.driver else { return Elements::new() };
    let mut all = Elements::new();
    let link = || Field::Link(bridge.link.clone());
    let mut put = |name, key, value| add(&mut all, Family::Inet, name, key, value);
    put("bridges", vec![link()], Value::None);
    put(if bridge.icc { "open" } else { "closed" }, vec![link(), link()], Value::None);
    if network.internal {
        put("internal", vec![link()], Value::None);
    }
    for (six, on, mode) in [(false, options.ipv4, bridge.mode4), (true, options.ipv6, bridge.mode6)] {
        if !on {
            continue;
        }
        let into = match mode {
            // On an internal network nothing comes in, whatever the mode: that is asked first.
            GatewayMode::Nat | GatewayMode::Isolated => "into-nat",
            GatewayMode::NatUnprotected => "into-unprotected",
            GatewayMode::Routed => "into-routed",
        };
        put(pick(six, "into4", "into6"), vec![link()], Value::Verdict(Verdict::Goto(into)));
        for subnet in network.subnets.iter().filter(|subnet| is_six(subnet.pool.addr()) == six) {
            let pool = Field::Addresses(subnet.pool.trunc());
            put(pick(six, "home4", "home6"), vec![pool.clone(), link()], Value::None);
            if network.internal {
                continue;
            }
            if mode == GatewayMode::Nat && bridge.masquerade && !options.direct_routing {
                put(pick(six, "protected4", "protected6"), vec![pool.clone()], Value::None);
            }
            if translates(mode) && bridge.masquerade {
                put(pick(six, "masquerade4", "masquerade6"), vec![pool], Value::None);
            }
        }
    }
    all
}

/// What stands in the tables for one endpoint, and goes with it. `others` are the endpoints of the
/// same network (they may include this one): links between it and them are among its elements.
pub fn endpoint_elements<'a>(
    network: &Network,
    endpoint: &Endpoint,
    others: impl Iterator<Item = &'a Endpoint>,
    options: &Options,
) -> Elements {
    let Driver::Bridge(bridge) = &network.driver else { return Elements::new() };
    let mut all = Elements::new();
    if !network.internal {
        for published in &endpoint.published {
            if published.address.is_ipv6() {
                if options.ipv6 {
                    publish6(&mut all, bridge, endpoint, published, options);
                }
            } else if options.ipv4 {
                publish4(&mut all, bridge, endpoint, published, options);
            }
        }
    }
    if !bridge.icc {
        add(&mut all, Family::Bridge, "closed", vec![Field::Link(endpoint.host_link.clone())], Value::None);
        for other in others.filter(|other| other.id != endpoint.id) {
            link(&mut all, endpoint, other);
            link(&mut all, other, endpoint);
        }
    }
    all
}

/// `from` may reach what `to` exposes, if it has a link to it.
fn link(all: &mut Elements, from: &Endpoint, to: &Endpoint) {
    if !from.links.values().any(|container| *container == to.container) {
        return;
    }
    let pair4 = from.address4.zip(to.address4).map(|(from, to)| (from.addr().into(), to.addr().into()));
    let pair6 = from.address6.zip(to.address6).map(|(from, to)| (from.addr().into(), to.addr().into()));
    for (name, pair) in [("links4", pair4), ("links6", pair6)] {
        let Some((from, target)): Option<(IpAddr, IpAddr)> = pair else { continue };
        for (protocol, ports) in &to.exposed {
            let key = vec![
                Field::Address(from),
                Field::Address(target),
                Field::Protocol(*protocol),
                Field::Ports(*ports),
            ];
            // Frames and, where br_netfilter is on, the packets in them.
            add(all, Family::Inet, name, key.clone(), Value::None);
            add(all, Family::Bridge, name, key, Value::None);
        }
    }
}

/// Other machines may come to the container's own address by this publication.
fn is_direct(published: &Published, options: &Options) -> bool {
    options.direct_routing && !published.address.is_loopback()
}

fn publish4(
    all: &mut Elements,
    bridge: &Bridge,
    endpoint: &Endpoint,
    published: &Published,
    options: &Options,
) {
    let Some(target) = endpoint.address4.map(|net| net.addr().into()) else { return };
    if bridge.mode4 == GatewayMode::Routed || is_direct(published, options) {
        add(all, Family::Inet, "open4", open(target, published), Value::None);
    }
    if bridge.mode4 != GatewayMode::Routed {
        translate(all, ["at4", "any4", "ranges4"], published, target);
    }
}

fn publish6(
    all: &mut Elements,
    bridge: &Bridge,
    endpoint: &Endpoint,
    published: &Published,
    options: &Options,
) {
    let target = endpoint.address6.map(|net| IpAddr::from(net.addr()));
    let routed = bridge.mode6 == GatewayMode::Routed;
    if let Some(target) = target.filter(|_| routed || is_direct(published, options)) {
        add(all, Family::Inet, "open6", open(target, published), Value::None);
    }
    if routed {
        return;
    }
    if let Some(target) = target
        && !published.address.is_loopback()
    {
        translate(all, ["at6", "any6", "ranges6"], published, target);
    }
    if published.protocol != Protocol::Sctp {
        relay(all, published, target.is_some());
    }
}

/// The address at which the forwarder has to take a publication: ::1 always, for no other address
/// can send to it or answer it; every address where the container has no IPv6.
fn relay_address(published: &Published, translated: bool) -> Option<IpAddr> {
    let localhost = IpAddr::V6(Ipv6Addr::LOCALHOST);
    match published.address {
        IpAddr::V4(_) => None,
        address if !translated => Some(address),
        address if address.is_unspecified() || address == localhost => Some(localhost),
        _ => None,
    }
}

fn relay(all: &mut Elements, published: &Published, translated: bool) {
    let Some(address) = relay_address(published, translated) else { return };
    let (protocol, ports) = (Field::Protocol(published.protocol), Field::Ports(published.host));
    let (name, key) = if published.host.count() > 1 {
        ("relay-ranges", vec![protocol, addresses(address), ports])
    } else if address.is_unspecified() {
        ("relay-any", vec![protocol, ports])
    } else {
        ("relay-at", vec![protocol, Field::Address(address), ports])
    };
    add(all, Family::Inet, name, key, Value::None);
}

/// What the forwarder is to be told of an endpoint: ports at an address of the host, and the
/// container's address and ports that they lead to.
pub fn relayed(network: &Network, endpoint: &Endpoint, options: &Options) -> Vec<(Published, IpAddr)> {
    let Driver::Bridge(bridge) = &network.driver else { return Vec::new() };
    let target = endpoint.address6.map(|net| IpAddr::from(net.addr()));
    let reached = target.or(endpoint.address4.map(|net| net.addr().into()));
    let (Some(reached), false, true) = (reached, network.internal, options.ipv6) else { return Vec::new() };
    if bridge.mode6 == GatewayMode::Routed {
        return Vec::new();
    }
    let ports = endpoint.published.iter().filter(|one| one.protocol != Protocol::Sctp);
    ports
        .filter_map(|one| {
            Some((Published { address: relay_address(one, target.is_some())?, ..*one }, reached))
        })
        .collect()
}

/// The most ports of one publication that are led by [`crate::loopback`]: it has an element a port.
const LED_MAX: u32 = 256;

/// The ways of connections that programs of the host open to 127/8: those that [`translate`] makes
/// for their packets, as far as they are few.
pub fn led(network: &Network, endpoint: &Endpoint, options: &Options) -> Vec<Way> {
    let Driver::Bridge(bridge) = &network.driver else { return Vec::new() };
    let (Some(target), false, true) = (endpoint.address4, network.internal, options.ipv4) else {
        return Vec::new();
    };
    if bridge.mode4 == GatewayMode::Routed {
        return Vec::new();
    }
    let led = |one: &&Published| {
        let local = one.address.is_loopback() || one.address.is_unspecified();
        one.protocol == Protocol::Tcp && local && one.host.count() <= LED_MAX
    };
    let ways = |one: &Published| {
        let ports = (one.host.first..=one.host.last).zip(one.container.first..=one.container.last);
        let IpAddr::V4(address) = one.address else { return Vec::new() };
        let way = |(from, to)| Way {
            from: SocketAddrV4::new(address, from),
            to: SocketAddrV4::new(target.addr(), to),
        };
        ports.map(way).collect()
    };
    endpoint.published.iter().filter(led).flat_map(ways).collect()
}

/// The elements by which packets for `published` get to `target`.
fn translate(all: &mut Elements, names: [&'static str; 3], published: &Published, target: IpAddr) {
    let [at, any, ranges] = names;
    let Published { protocol, address, host, container } = *published;
    let protocol = Field::Protocol(protocol);
    if host == container && host.count() > 1 {
        let key = vec![protocol, addresses(address), Field::Ports(host)];
        return add(all, Family::Inet, ranges, key, Value::Fields(vec![Field::Address(target)]));
    }
    // nftables has no arithmetic on ports: a range that is shifted is one element a port.
    for (from, to) in (host.first..=host.last).zip(container.first..=container.last) {
        let from = Field::Ports(PortRange::one(from));
        let to = Value::Fields(vec![Field::Address(target), Field::Ports(PortRange::one(to))]);
        if address.is_unspecified() {
            add(all, Family::Inet, any, vec![protocol.clone(), from], to);
        } else {
            add(all, Family::Inet, at, vec![protocol.clone(), Field::Address(address), from], to);
        }
    }
}

fn open(target: IpAddr, published: &Published) -> Vec<Field> {
    vec![Field::Protocol(published.protocol), Field::Address(target), Field::Ports(published.container)]
}

/// One address as an interval, the unspecified one as all of its family.
fn addresses(address: IpAddr) -> Field {
    if !address.is_unspecified() {
        return Field::Address(address);
    }
    Field::Addresses(match address {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    })
}

fn translates(mode: GatewayMode) -> bool {
    matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
}

fn is_six(address: IpAddr) -> bool {
    address.is_ipv6()
}

fn pick(six: bool, name4: &'static str, name6: &'static str) -> &'static str {
    if six { name6 } else { name4 }
}

fn add(all: &mut Elements, family: Family, name: &'static str, key: Vec<Field>, value: Value) {
    all.insert(Element { set: SetName { family, name }, key, value });
}

#[cfg(test)]
pub(crate) mod tests;
