//! The ports of the host that lead to a container: which, on which of its places, and the sockets
//! that keep others from taking them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_network::driver::DefaultRoute;
use hull_network::nft::foreign;
use hull_network::ports::{self, Allocation, Binding, HostPorts, Reach, Reserved, Wanted};
use hull_network::record::{Attachment, Bridge, Driver, Endpoint, GatewayMode, Network, Protocol, Published};

use super::claim::Place;
use super::plug::patiently;
use super::record::Record as NetworkRecord;
use crate::containers::services::Services;
use crate::containers::settings::{PortRequest, Settings};
use crate::containers::view::Record;
use crate::{Error, Result, chain};

/// Published ports, and the sockets that keep others from taking them, by container.
#[derive(Debug)]
pub(super) struct Ports {
    allocation: Allocation,
    held: HashMap<String, Vec<Reserved>>,
}

impl Ports {
    /// None is published yet.
    pub(super) fn open() -> Ports {
        Ports { allocation: Allocation::new(ports::ephemeral()), held: HashMap::new() }
    }

    /// The sockets that hold published ports, by inode.
    pub(super) fn holding(&self) -> BTreeSet<u64> {
        let inode = |port: &Reserved| rustix::fs::fstat(&port.socket).ok().map(|stat| stat.st_ino);
        self.held.values().flatten().filter_map(inode).collect()
    }

    /// Those that a container has had since before this daemon.
    /// `found` are sockets of the forwarder's, which has kept some ports meanwhile.
    pub(super) fn adopt(&mut self, container: &str, published: &[Published], found: &mut Vec<Reserved>) {
        self.allocation.hold(container, published);
        match ports::reserve(published, found) {
            Ok(sockets) => self.held.entry(container.to_owned()).or_default().extend(sockets),
            // Somebody took it while no daemon ran; the rules lead to the container all the same.
            Err(error) => tracing::warn!(container, %error, "a published port is not held"),
        }
    }

    /// A copy of the socket that holds a port of UDP at this address of the host, or at all of them.
    pub(super) fn datagrams(&self, address: Ipv6Addr, port: u16) -> Option<OwnedFd> {
        let found = self.held.values().flatten().find(|held| match held.at {
            SocketAddr::V6(at) => {
                held.protocol == Protocol::Udp
                    && at.port() == port
                    && (*at.ip() == address || at.ip().is_unspecified())
            }
            SocketAddr::V4(_) => false,
        });
        found.and_then(|held| held.socket.try_clone().ok())
    }

    fn release(&mut self, container: &str, published: &[Published]) {
        self.allocation.release(container, published);
        if let Some(held) = self.held.get_mut(container) {
            held.retain(|port| !port.is_of(published));
            if held.is_empty() {
                self.held.remove(container);
            }
        }
    }
}

/// What others' tables do to packets for a container that publishes ports, as warnings. Blocks.
pub(crate) fn obstacles(services: &Services, settings: &Settings) -> Vec<String> {
    if wanted(settings).is_empty() {
        return Vec::new();
    }
    let defaults = services.networks.defaults();
    let find = |own: &Attachment| Some((own.gateway_priority, services.networks.find(&own.network).ok()?));
    let networks: Vec<(i64, Arc<NetworkRecord>)> = settings.attachments.iter().filter_map(find).collect();
    let mut warnings = BTreeSet::new();
    for six in [false, true] {
        let rules = if six { defaults.rules6 } else { defaults.rules4 };
        let Some(bridge) = through(&networks, six).filter(|_| rules) else { continue };
        match foreign::obstacles(&bridge.link) {
            Ok(found) => warnings.extend(found.iter().filter(|obstacle| obstacle.concerns(six)).map(|obstacle| {
                format!("Published ports cannot be reached from other machines: {obstacle} drops what is forwarded to {}", bridge.link)
            })),
            Err(error) => tracing::warn!(%error, "others' rules cannot be read"),
        }
    }
    warnings.into_iter().collect()
}

/// The bridge that a family's published ports will be on: where the default route is going to lead, as
/// [`default_routes`](super::claim::default_routes) has it of places.
fn through(networks: &[(i64, Arc<NetworkRecord>)], six: bool) -> Option<&Bridge> {
    let leads = |network: &Network| {
        let isolated = match &network.driver {
            Driver::Bridge(bridge) => {
                (if six { bridge.mode6 } else { bridge.mode4 }) == GatewayMode::Isolated
            }
            _ => false,
        };
        (if six { network.ipv6 } else { network.ipv4 }) && !network.internal && !isolated
    };
    let able = networks.iter().filter(|(_, record)| leads(&record.network));
    let (_, record) = able.min_by_key(|(priority, record)| (Reverse(*priority), &record.network.name))?;
    match &record.network.driver {
        Driver::Bridge(bridge) => Some(bridge),
        _ => None,
    }
}

/// The places of a container that clients reach it through: those of its default routes, for its
/// answers take these. By index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carriers {
    ipv4: Option<usize>,
    ipv6: Option<usize>,
}

impl Carriers {
    fn of(places: &[Place], routes: &[DefaultRoute]) -> Carriers {
        let first = |leads: &dyn Fn(&Place, &DefaultRoute) -> bool| {
            places.iter().zip(routes).position(|(place, route)| {
                matches!(place.record.network.driver, Driver::Bridge(_)) && leads(place, route)
            })
        };
        Carriers {
            ipv4: first(&|place, route| route.v4 && place.endpoint.address4.is_some()),
            ipv6: first(&|place, route| route.v6 && place.endpoint.address6.is_some()),
        }
    }

    /// The one for publications at this address of the host. Where the container has no IPv6,
    /// clients that come by it are led to its IPv4 address.
    fn at(self, address: IpAddr) -> Option<usize> {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6.or(self.ipv4) }
    }

    fn binding(self, places: &[Place]) -> Binding {
        let bridge = |index: Option<usize>| match &places.get(index?)?.record.network.driver {
            Driver::Bridge(bridge) => Some(bridge),
            _ => None,
        };
        let (bridge4, bridge6) = (bridge(self.ipv4), bridge(self.ipv6));
        let ipv4 = bridge4.map_or(Reach::None, |bridge| reach(bridge.mode4));
        let ipv6 = match bridge6 {
            Some(bridge) => reach(bridge.mode6),
            None if ipv4 == Reach::Translated => Reach::Translated,
            None => Reach::None,
        };
        Binding { default: bridge4.or(bridge6).and_then(|bridge| bridge.binding), ipv4, ipv6 }
    }
}

fn reach(mode: GatewayMode) -> Reach {
    match mode {
        GatewayMode::Nat | GatewayMode::NatUnprotected => Reach::Translated,
        GatewayMode::Routed => Reach::Routed,
        GatewayMode::Isolated => Reach::None,
    }
}

/// Opens the ports of the host, both families at once, on the places of the default routes. `had` are
/// those that the container has already: where nothing else follows from its networks they stay what
/// they are, and only lead to where these places are by now.
pub(super) fn publish(
    services: &Services,
    record: &Record,
    places: &mut [Place],
    routes: &[DefaultRoute],
    had: Vec<Published>,
) -> Result<()> {
    let wanted = wanted(&record.settings);
    if wanted.is_empty() {
        return Ok(());
    }
    let carriers = Carriers::of(places, routes);
    let binding = carriers.binding(places);
    let published = if !had.is_empty() && ports::fits(&wanted, &binding, &had) {
        had
    } else {
        // The forwarder has copies of the sockets.
        services.wiring.relay.let_go(services, &services.networks.places(&record.id));
        release(services, &record.id, &had);
        for place in places.iter() {
            services.networks.update(&place.endpoint);
        }
        let Some(first) = carriers.ipv4.or(carriers.ipv6).and_then(|index| places.get(index)) else {
            return Ok(());
        };
        patiently(services, || {
            let mut ports = services.wiring.ports();
            let Ports { allocation, held } = &mut *ports;
            let (published, sockets) = ports::publish(allocation, &record.id, &wanted, &binding)
                .map_err(|error| refused(services, record, &first.endpoint, error))?;
            held.entry(record.id.clone()).or_default().extend(sockets);
            Ok(published)
        })?
    };
    for one in published {
        if let Some(place) = carriers.at(one.address).and_then(|index| places.get_mut(index)) {
            place.endpoint.published.push(one);
        }
    }
    // From here on they go with the places, whatever fails next.
    for place in places.iter() {
        services.networks.update(&place.endpoint);
    }
    Ok(())
}

/// The reference's words; who has a port is named as people know it.
fn refused(services: &Services, record: &Record, endpoint: &Endpoint, error: ports::Error) -> Error {
    let error = match error {
        ports::Error::Allocated { address, port, holder } => {
            let name = services.registry.find(&holder).map_or(holder, |handle| handle.view().name.clone());
            ports::Error::Allocated { address, port, holder: name }
        }
        other => other,
    };
    Error::Network(format!(
        "driver failed programming external connectivity on endpoint {} ({}): {}",
        record.name,
        endpoint.id,
        chain(&error)
    ))
}

/// Everything that is to be published: what was asked for, and with `-P` what is exposed besides.
fn wanted(settings: &Settings) -> Vec<Wanted> {
    let asked = |one: &PortRequest| Wanted {
        protocol: one.protocol,
        address: one.address,
        host: match one.host {
            None => HostPorts::Random,
            Some(host) if host.count() == one.container.count() => HostPorts::Exactly(host),
            Some(host) if one.container.count() == 1 => HostPorts::OneOf(host),
            Some(host) => HostPorts::Exactly(host),
        },
        container: one.container,
    };
    let mut wanted: Vec<Wanted> = settings.ports.iter().map(asked).collect();
    if settings.publish_all {
        for (protocol, range) in &settings.exposed {
            for port in range.first..=range.last {
                let own = settings.ports.iter();
                let mut own = own.filter(|one| one.protocol == *protocol && one.container.contains(port));
                if own.next().is_none() {
                    let container = hull_network::record::PortRange::one(port);
                    wanted.push(Wanted {
                        protocol: *protocol,
                        address: None,
                        host: HostPorts::Random,
                        container,
                    });
                }
            }
        }
    }
    wanted
}

/// The container publishes these no more.
pub(super) fn release(services: &Services, container: &str, published: &[Published]) {
    if !published.is_empty() {
        services.wiring.ports().release(container, published);
    }
}
