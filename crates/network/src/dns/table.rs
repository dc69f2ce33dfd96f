//! What each container can ask for by name: a function of networks and endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::record::{ContainerId, Driver, Endpoint, Network};

/// What a name stands for on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
}

impl Addresses {
    fn add(&mut self, endpoint: &Endpoint) {
        let (v4, v6) = (endpoint.address4.map(|net| net.addr()), endpoint.address6.map(|net| net.addr()));
        // Two names of one container that differ in case only are one name with one address.
        self.v4.extend(v4.filter(|address| !self.v4.contains(address)));
        self.v6.extend(v6.filter(|address| !self.v6.contains(address)));
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// One network's names.
#[derive(Debug, Default)]
struct Zone {
    /// In small letters.
    name: Vec<u8>,
    internal: bool,
    pools: Vec<IpNet>,
    names: HashMap<Vec<u8>, Addresses>,
    /// `name.network` of each address.
    pointers: HashMap<IpAddr, Vec<u8>>,
}

/// A container's place on one network.
#[derive(Debug)]
struct Place {
    zone: usize,
    /// Only this container's names for others.
    links: HashMap<Vec<u8>, Addresses>,
    /// Where the host is reached.
    host: Addresses,
}

/// All names of this host's networks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Names>);

#[derive(Debug, Default)]
struct Names {
    zones: Vec<Zone>,
    places: HashMap<ContainerId, Vec<Place>>,
}

/// The names that stand for the host itself, without any flag.
pub const HOST_NAMES: [&str; 3] = ["host.docker.internal", "host.hull.internal", "gateway.docker.internal"];

/// Makes the table. A container's networks are looked at in the order of its endpoints here.
pub fn table(networks: &[Network], endpoints: &[Endpoint]) -> Table {
    let mut zones: Vec<Zone> = networks.iter().map(zone).collect();
    let by_id: HashMap<&str, usize> =
        networks.iter().enumerate().map(|(at, network)| (network.id.as_str(), at)).collect();
    let mut on: HashMap<(usize, &str), &Endpoint> = HashMap::new();
    for endpoint in endpoints {
        let Some(&at) = by_id.get(endpoint.network.as_str()) else { continue };
        on.insert((at, &endpoint.container), endpoint);
        if has_names(&networks[at]) {
            zones[at].add(endpoint);
        }
    }
    let mut places: HashMap<ContainerId, Vec<Place>> = HashMap::new();
    for endpoint in endpoints {
        let Some(&zone) = by_id.get(endpoint.network.as_str()) else { continue };
        let mut links: HashMap<Vec<u8>, Addresses> = HashMap::new();
        for (alias, container) in &endpoint.links {
            if let Some(other) = on.get(&(zone, container.as_str())) {
                links.entry(lower(alias)).or_default().add(other);
            }
        }
        let host = host(&networks[zone], endpoint);
        places.entry(endpoint.container.clone()).or_default().push(Place { zone, links, host });
    }
    Table(Arc::new(Names { zones, places }))
}

fn lower(name: &str) -> Vec<u8> {
    name.to_ascii_lowercase().into_bytes()
}

fn zone(network: &Network) -> Zone {
    Zone {
        name: lower(&network.name),
        internal: network.internal,
        pools: network.subnets.iter().map(|subnet| subnet.pool).collect(),
        ..Zone::default()
    }
}

/// The default bridge answers no names, as in the reference: its containers are strangers to each
/// other, and what they are linked to stands in /etc/hosts.
fn has_names(network: &Network) -> bool {
    match &network.driver {
        Driver::Bridge(bridge) => !bridge.default,
        Driver::Macvlan(_) => true,
        Driver::Host | Driver::Null => false,
    }
}

/// The bridge's own addresses. A macvlan's gateway is somebody else, and the host cannot be reached
/// through one.
fn host(network: &Network, endpoint: &Endpoint) -> Addresses {
    match network.driver {
        Driver::Bridge(_) if !network.internal => Addresses {
            v4: endpoint.gateway4.into_iter().collect(),
            v6: endpoint.gateway6.into_iter().collect(),
        },
        _ => Addresses::default(),
    }
}

impl Zone {
    fn add(&mut self, endpoint: &Endpoint) {
        for name in &endpoint.names {
            self.names.entry(lower(name)).or_default().add(endpoint);
        }
        let Some(first) = endpoint.names.first() else { return };
        let pointer = [first.as_bytes(), b".", &self.name].concat();
        let v4 = endpoint.address4.map(|net| IpAddr::V4(net.addr()));
        let v6 = endpoint.address6.map(|net| IpAddr::V6(net.addr()));
        for address in v4.into_iter().chain(v6) {
            self.pointers.insert(address, pointer.clone());
        }
    }
}

/// One asker's view of a table.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    names: &'a Names,
    places: &'a [Place],
}

/// What an address is to an asker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// `name.network`.
    Name(&'a [u8]),
    /// Of a network of the asker, and nobody has it.
    Nobody,
    Elsewhere,
}

impl Table {
    /// `None` for a container that is on no network, or not known yet.
    pub(super) fn view(&self, container: &str) -> Option<View<'_>> {
        self.0.places.get(container).map(|places| View { names: &self.0, places })
    }
}

impl<'a> View<'a> {
    /// Whether any of the asker's networks leads out.
    pub(super) fn leads_out(self) -> bool {
        self.places.iter().any(|place| !self.names.zones[place.zone].internal)
    }

    /// Everything that a name stands for, network by network: `name`, then `name.network`.
    pub(super) fn find(self, name: &[u8]) -> Vec<&'a Addresses> {
        let mut found: Vec<&Addresses> =
            self.places.iter().filter_map(|place| self.on(place, name)).collect();
        if found.is_empty() && name.contains(&b'.') {
            found.extend(self.places.iter().filter_map(|place| {
                let own = &self.names.zones[place.zone].name;
                let name = name.strip_suffix(own.as_slice())?.strip_suffix(b".")?;
                self.on(place, name)
            }));
        }
        found
    }

    fn on(self, place: &'a Place, name: &[u8]) -> Option<&'a Addresses> {
        place.links.get(name).or_else(|| self.names.zones[place.zone].names.get(name))
    }

    /// The host, if `name` is one of its names.
    pub(super) fn host(self, name: &[u8]) -> Option<&'a Addresses> {
        if !HOST_NAMES.iter().any(|own| own.as_bytes() == name) {
            return None;
        }
        self.places.iter().map(|place| &place.host).find(|host| !host.is_empty())
    }

    pub(super) fn owner(self, address: IpAddr) -> Owner<'a> {
        let zones = || self.places.iter().map(|place| &self.names.zones[place.zone]);
        if let Some(name) = zones().find_map(|zone| zone.pointers.get(&address)) {
            return Owner::Name(name);
        }
        if zones().any(|zone| zone.pools.iter().any(|pool| pool.contains(&address))) {
            return Owner::Nobody;
        }
        Owner::Elsewhere
    }
}
