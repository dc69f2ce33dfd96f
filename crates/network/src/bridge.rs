//! Networks that are a bridge on the host, with a veth pair for each container.
//!
//! ```text
//!  container          host
//!  eth0 ───────────── veth0a1b2c3 ┐
//!                                 ├─ br-0123456789ab 172.18.0.1/16 ─ routing, nftables ─ uplink
//!  eth0 ───────────── veth4d5e6f0 ┘
//! ```
//!
//! The bridge has the gateway's addresses; an isolated family has none. It stays up without
//! containers. Names: `br-` and twelve digits of the network's id, or what the user chose; host
//! ends `veth` and seven random digits.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hull_sys::Errno;
use ipnet::IpNet;

use crate::driver::{self, DefaultRoute, Error, Result, check_name, random_name};
use crate::namespace::Namespace;
use crate::reaper::Reaper;
use crate::record::{self, Bridge, Endpoint, GatewayMode, Mac, Network};
use crate::rtnl::{self, Batch, Change, Kind, Link, NewLink, Peer, Watch};
use crate::sysctl::{self, Family, Key};

#[derive(Debug)]
pub struct Driver {
    reaper: Arc<Reaper>,
    /// Packets to and from 127.0.0.1 may use the bridges, for ports published there. Only where
    /// rules drop what others send to 127/8: else a container would reach what listens there.
    pub loopback: bool,
}

impl Driver {
    pub(crate) fn new(reaper: Arc<Reaper>) -> Driver {
        Driver { reaper, loopback: true }
    }
}

fn bridge(network: &Network) -> Result<&Bridge> {
    match &network.driver {
        record::Driver::Bridge(bridge) => Ok(bridge),
        _ => Err(Error::OtherDriver(network.name.clone())),
    }
}

/// The addresses that the host has on this network's bridge.
pub fn host_addresses(network: &Network) -> Vec<IpNet> {
    let record::Driver::Bridge(bridge) = &network.driver else { return Vec::new() };
    let wanted = |address: &IpNet| match address {
        IpNet::V4(_) => network.ipv4 && bridge.mode4 != GatewayMode::Isolated,
        IpNet::V6(_) => network.ipv6 && bridge.mode6 != GatewayMode::Isolated,
    };
    let of = |subnet: &record::Subnet| IpNet::new(subnet.gateway?, subnet.pool.prefix_len()).ok();
    network.subnets.iter().filter_map(of).filter(wanted).collect()
}

/// A bridge takes the lowest hardware address of its ports unless it was given one; then containers
/// would lose their gateway whenever a port comes or goes. Made of the id, it is also the same
/// after a reboot. The first byte marks it as locally administered.
fn mac(network: &Network) -> Mac {
    let mut bytes = [0x02, 0x42, 0, 0, 0, 0];
    for (place, byte) in bytes[2..].iter_mut().enumerate() {
        let digits = network.id.get(place * 2..place * 2 + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    Mac(bytes)
}

fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
}

fn other_kind(link: &Link, wanted: &'static str) -> Error {
    let found = link.kind.clone().map_or("a device".to_owned(), |kind| format!("of kind {kind}"));
    Error::OtherKind { name: link.name.clone(), found, wanted }
}

impl driver::Driver for Driver {
    fn setup(&self, network: &Network) -> Result<()> {
        let bridge = bridge(network)?;
        check_name(&bridge.link)?;
        let mut socket = rtnl::Socket::open()?;
        match socket.link(&bridge.link)? {
            Some(found) if !is_bridge(&found) => Err(other_kind(&found, "a bridge")),
            Some(found) => settle(&mut socket, network, bridge, (found.index, self.loopback)),
            None if bridge.foreign => {
                Err(Error::Missing { network: network.name.clone(), name: bridge.link.clone() })
            }
            None => {
                let mut batch = Batch::new();
                batch.add_link(&NewLink {
                    mac: Some(mac(network)),
                    mtu: bridge.mtu,
                    ..NewLink::new(&bridge.link, Kind::Bridge)
                });
                socket.run(batch)?;
                let made = socket.link(&bridge.link)?;
                let index = made.map(|link| link.index).ok_or_else(|| missing(network, bridge))?;
                settle(&mut socket, network, bridge, (index, self.loopback)).inspect_err(|_| {
                    let mut batch = Batch::new();
                    batch.delete_link(index);
                    // What went wrong first is the answer.
                    let _ = socket.run(batch);
                })
            }
        }
    }

    fn teardown(&self, network: &Network) -> Result<()> {
        let bridge = bridge(network)?;
        if bridge.foreign {
            return Ok(());
        }
        let mut socket = rtnl::Socket::open()?;
        // Somebody else's link of this name is not ours to delete.
        match socket.link(&bridge.link)?.filter(is_bridge) {
            Some(link) => Ok(self.reaper.condemn_and_rename(&mut socket, link.index)?),
            None => Ok(()),
        }
    }

    fn attach(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        namespace: &Namespace,
        default: DefaultRoute,
    ) -> Result<()> {
        let bridge = bridge(network)?;
        check_name(&endpoint.host_link)?;
        let mut socket = rtnl::Socket::open()?;
        let master = index(&mut socket, network, bridge)?;
        let mut found = socket.link(&endpoint.host_link)?;
        if let Some(old) = found.take_if(|link| Reaper::has_condemned(link)) {
            self.reaper.condemn_and_rename(&mut socket, old.index)?;
        }
        let (outer, made) = match found {
            Some(found) if found.kind.as_deref() != Some("veth") => {
                return Err(other_kind(&found, "one end of a pair"));
            }
            Some(found) => (found, false),
            None => (pair(&mut socket, bridge, endpoint, master, namespace)?, true),
        };
        let mut finish = || {
            let v6 = driver::speaks_v6(endpoint);
            let link = inner(&outer, namespace)?;
            if made {
                namespace.enter(|| driver::prepare_sysctls(&link.name, v6))??;
                connect(&mut socket, &outer, master, namespace, &link, v6)?;
            } else {
                join(&mut socket, &outer, master)?;
            }
            let prepared = if made { v6 } else { network.ipv6 };
            driver::configure(namespace, &link, endpoint, default, prepared)
        };
        finish().inspect_err(|_| {
            if made {
                // What went wrong first is the answer.
                let _ = self.cut(&mut socket, &endpoint.host_link, Some(namespace));
            }
        })
    }

    fn detach(&self, network: &Network, endpoint: &Endpoint, namespace: Option<&Namespace>) -> Result<()> {
        bridge(network)?;
        self.cut(&mut rtnl::Socket::open()?, &endpoint.host_link, namespace)
    }
}

impl Driver {
    /// Cuts off what is in the network's bridge and belongs to no container: a namespace may
    /// outlive its container where a stray process keeps it. `kept` are the outer links of all
    /// endpoints that are on record. Call it before the pool makes any. Gives the names.
    pub fn clear(&self, network: &Network, kept: &BTreeSet<String>) -> Result<Vec<String>> {
        let bridge = bridge(network)?;
        // In somebody else's bridge there may be links with names like ours.
        if bridge.foreign {
            return Ok(Vec::new());
        }
        let mut socket = rtnl::Socket::open()?;
        let Some(master) = socket.link(&bridge.link)?.filter(is_bridge) else { return Ok(Vec::new()) };
        let stray = |link: &Link| is_containers(link) && !kept.contains(&link.name);
        let strays: Vec<_> = socket.ports(master.index)?.into_iter().filter(stray).collect();
        for link in &strays {
            self.reaper.condemn(&mut socket, link.index)?;
        }
        Ok(strays.into_iter().map(|link| link.name).collect())
    }

    fn cut(&self, socket: &mut rtnl::Socket, host_link: &str, namespace: Option<&Namespace>) -> Result<()> {
        let found = socket.link(host_link)?;
        let Some(outer) = found.filter(|link| link.kind.as_deref() == Some("veth")) else { return Ok(()) };
        let inner = namespace.and_then(|namespace| Some((namespace, inner(&outer, namespace).ok()?)));
        let Some((namespace, inner)) = inner else { return Ok(self.reaper.condemn(socket, outer.index)?) };
        // The container lives on: what it is told to have lost, it must not see any more.
        let mut watch = namespace.enter(Watch::links)??;
        self.reaper.condemn(socket, outer.index)?;
        let mut rtnl = namespace.rtnl()?;
        watch.until(&mut rtnl, inner.index, DELETION, |_| false)?;
        Ok(())
    }
}

/// By its name, the host's end of a pair that was made for a container.
fn is_containers(link: &Link) -> bool {
    let digits = link.name.strip_prefix("veth").filter(|_| link.kind.as_deref() == Some("veth"));
    digits.is_some_and(|digits| digits.len() == 7)
}

/// How long a link may take to be deleted: until those before it are, which is some 20 ms.
const DELETION: Duration = Duration::from_secs(2);

/// The number of the network's bridge, which must be there.
pub(crate) fn index(socket: &mut rtnl::Socket, network: &Network, bridge: &Bridge) -> Result<u32> {
    let found = socket.link(&bridge.link)?.filter(is_bridge);
    found.map(|link| link.index).ok_or_else(|| missing(network, bridge))
}

fn missing(network: &Network, bridge: &Bridge) -> Error {
    Error::Missing { network: network.name.clone(), name: bridge.link.clone() }
}

/// Sysctls, addresses and the state of a bridge that is there.
fn settle(
    socket: &mut rtnl::Socket,
    network: &Network,
    bridge: &Bridge,
    (index, loopback): (u32, bool),
) -> Result<()> {
    let link = bridge.link.as_str();
    Key::conf(Family::V4, link, "route_localnet").set(if loopback { "1" } else { "0" })?;
    if !bridge.foreign && sysctl::ipv6_present() {
        // No container is the host's router.
        Key::conf(Family::V6, link, "accept_ra").set("0")?;
        // The subnets are ours: no probing before their addresses may be used.
        Key::conf(Family::V6, link, "accept_dad").set("0")?;
        // Else containers of an IPv4 network would reach the host by link-local addresses, which
        // the network's rules know nothing of.
        let v6 = network.ipv6 && bridge.mode6 != GatewayMode::Isolated;
        Key::conf(Family::V6, link, "disable_ipv6").set(if v6 { "0" } else { "1" })?;
    }
    let wanted = host_addresses(network);
    let mut batch = Batch::new();
    if !bridge.foreign {
        for found in socket.addresses()?.into_iter().filter(|found| found.link == index) {
            // Of another configuration, or somebody's mistake. Link-local ones are the kernel's.
            let kernels = matches!(found.address, IpNet::V6(net) if net.addr().is_unicast_link_local());
            if !kernels && !wanted.contains(&found.address) {
                batch.delete_address(index, found.address);
            }
        }
    }
    for address in wanted {
        batch.add_address(index, address);
    }
    let mtu = bridge.mtu.filter(|_| !bridge.foreign);
    batch.change(index, &Change { up: Some(true), mtu, ..Change::default() });
    socket.run(batch)?;
    if bridged_packets_are_filtered() {
        reflect_all(socket, index)?;
    }
    Ok(())
}

/// Has all ports reflect that containers have: they may be older than the reason for it.
fn reflect_all(socket: &mut rtnl::Socket, bridge: u32) -> Result<()> {
    let mut batch = Batch::new();
    for port in socket.ports(bridge)?.iter().filter(|port| is_containers(port)) {
        batch.reflect(port.index);
    }
    for result in socket.each(batch)? {
        match result {
            // Its container has just gone.
            Err(error) if error.errno() != Errno::NODEV => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the pair, its inner end in `namespace` with its name; the outer one in the bridge.
fn pair(
    socket: &mut rtnl::Socket,
    bridge: &Bridge,
    endpoint: &Endpoint,
    master: u32,
    namespace: &Namespace,
) -> Result<Link> {
    check_name(&endpoint.link)?;
    free(socket, namespace, &endpoint.link)?;
    let peer = Peer { name: &endpoint.link, mac: None, namespace: Some(namespace.as_fd()) };
    make_pair(socket, bridge, &endpoint.host_link, peer, master)
}

/// Sees to it that no link of the container has this name. One whose pair is being deleted gives its
/// name up.
fn free(socket: &mut rtnl::Socket, namespace: &Namespace, name: &str) -> Result<()> {
    let mut rtnl = namespace.rtnl()?;
    let Some(found) = rtnl.link(name)? else { return Ok(()) };
    let taken = || Error::Taken(name.to_owned());
    let outer = found.lower.filter(|_| found.kind.as_deref() == Some("veth")).ok_or_else(taken)?;
    if !socket.link(outer)?.is_none_or(|outer| Reaper::has_condemned(&outer)) {
        return Err(taken());
    }
    let mut batch = Batch::new();
    batch.down(found.index);
    batch.change(found.index, &Change { name: Some(&random_name("gone")), ..Change::default() });
    match rtnl.run(batch) {
        Err(error) if error.errno() != Errno::NODEV => Err(error.into()),
        _ => Ok(()),
    }
}

pub(crate) fn make_pair(
    socket: &mut rtnl::Socket,
    bridge: &Bridge,
    host_link: &str,
    peer: Peer<'_>,
    master: u32,
) -> Result<Link> {
    let mut batch = Batch::new();
    batch.add_link(&NewLink {
        mtu: bridge.mtu,
        master: Some(master),
        ..NewLink::new(host_link, Kind::Veth(peer))
    });
    socket.run(batch)?;
    socket.link(host_link)?.ok_or_else(|| Error::Elsewhere { name: host_link.to_owned() })
}

/// How long a bridge may take to pass packets of a new port on: it takes the kernel's next work
/// item. A port that is slower (with somebody's spanning tree) is none the worse for it, only its
/// first packets are lost.
const FORWARDING: Duration = Duration::from_secs(1);

/// Packets between ports of a bridge pass the host's chains (br_netfilter). Then one from a
/// container to its own published port is rewritten while it is bridged, and comes back to it only
/// by the port it left by. Elsewhere a port that reflects would do harm: whoever speaks to all
/// hears himself, and a bridge inside the container learns wrong ways. The kernel tells nobody when
/// this changes: it is looked at when a container starts and when the network is made ready.
fn bridged_packets_are_filtered() -> bool {
    let on = |name| Key::of(&["net", "bridge", name]).read().is_ok_and(|value| value == "1");
    on("bridge-nf-call-iptables") || on("bridge-nf-call-ip6tables")
}

/// Sets both ends of a new pair up and waits until the bridge takes packets from it: what a
/// container sends before, its own announcement first of all, would be lost.
pub(crate) fn connect(
    socket: &mut rtnl::Socket,
    outer: &Link,
    master: u32,
    namespace: &Namespace,
    inner: &Link,
    v6: bool,
) -> Result<()> {
    let mut watch = Watch::links()?;
    // The host speaks by the bridge, not by its ports.
    let own_link_local = sysctl::ipv6_present().then_some(false);
    let mut batch = Batch::new();
    batch.change(
        outer.index,
        &Change { up: Some(true), master: Some(Some(master)), own_link_local, ..Change::default() },
    );
    if bridged_packets_are_filtered() {
        batch.reflect(outer.index);
    }
    socket.run(batch)?;
    let mut batch = Batch::new();
    let own_link_local = v6.then_some(false);
    batch.change(inner.index, &Change { up: Some(true), own_link_local, ..Change::default() });
    namespace.rtnl()?.run(batch)?;
    watch.until(socket, outer.index, FORWARDING, |link| link.forwarding)?;
    Ok(())
}

/// Sees to it that the outer end is in the bridge and up.
fn join(socket: &mut rtnl::Socket, outer: &Link, master: u32) -> Result<()> {
    // A pair of the pool may be older than the reason to reflect.
    let reflects = bridged_packets_are_filtered();
    if outer.master == Some(master) && outer.up && !reflects {
        return Ok(());
    }
    let mut batch = Batch::new();
    let master = Some(Some(master));
    batch.change(outer.index, &Change { up: Some(true), master, ..Change::default() });
    if reflects {
        batch.reflect(outer.index);
    }
    socket.run(batch)?;
    Ok(())
}

/// The other end of `outer`, which must be in `namespace`.
fn inner(outer: &Link, namespace: &Namespace) -> Result<Link> {
    let links = namespace.rtnl()?.links()?;
    let other = |link: &Link| link.kind.as_deref() == Some("veth") && link.lower == Some(outer.index);
    links.into_iter().find(other).ok_or_else(|| Error::Elsewhere { name: outer.name.clone() })
}
