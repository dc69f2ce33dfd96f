//! What each container can ask for by name: networks, and the endpoints on them.
//!
//! A container that comes or goes changes its own names and nobody else's, however many there are
//! on its networks. Whom a link leads to is looked up when it is asked for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::record::{ContainerId, Driver, Endpoint, Network, NetworkId};

/// What a name stands for on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
}

impl Addresses {
    fn of(endpoint: &Endpoint) -> Addresses {
        Addresses {
            v4: endpoint.address4.map(|net| net.addr()).into_iter().collect(),
            v6: endpoint.address6.map(|net| net.addr()).into_iter().collect(),
        }
    }

    fn add(&mut self, more: &Addresses) {
        self.v4.extend(&more.v4);
        self.v6.extend(&more.v6);
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
    /// Containers find each other on it by their names.
    named: bool,
    pools: Vec<IpNet>,
    names: HashMap<Vec<u8>, Name>,
    /// `name.network` of each address, and who has it.
    pointers: HashMap<IpAddr, (ContainerId, Vec<u8>)>,
    members: HashMap<ContainerId, Member>,
}

/// A name that one or more containers have.
#[derive(Debug, Default)]
struct Name {
    containers: Vec<ContainerId>,
    /// All of theirs.
    addresses: Addresses,
}

#[derive(Debug)]
struct Member {
    names: Vec<Vec<u8>>,
    addresses: Addresses,
}

/// A container's place on one network.
#[derive(Debug)]
struct Place {
    network: NetworkId,
    /// Only this container's names for others.
    links: HashMap<Vec<u8>, ContainerId>,
    /// Where the host is reached.
    host: Addresses,
}

/// All names of this host's networks.
#[derive(Debug, Default)]
pub struct Table {
    /// Those that a container is on.
    zones: HashMap<NetworkId, Zone>,
    places: HashMap<ContainerId, Vec<Place>>,
}

/// The names that stand for the host itself, without any flag.
pub const HOST_NAMES: [&str; 3] = ["host.docker.internal", "host.hull.internal", "gateway.docker.internal"];

/// Makes the table. A container's networks are looked at in the order of its endpoints here; those
/// of networks that are not among `networks` are passed over.
pub fn table(networks: &[Network], endpoints: &[Endpoint]) -> Table {
    let by_id: HashMap<&str, &Network> =
        networks.iter().map(|network| (network.id.as_str(), network)).collect();
    let mut table = Table::default();
    for endpoint in endpoints {
        if let Some(network) = by_id.get(endpoint.network.as_str()) {
            table.set(network, endpoint);
        }
    }
    table
}

fn lower(name: &str) -> Vec<u8> {
    name.to_ascii_lowercase().into_bytes()
}

fn zone(network: &Network) -> Zone {
    Zone {
        name: lower(&network.name),
        internal: network.internal,
        named: has_names(network),
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

fn host(network: &Network, endpoint: &Endpoint) -> Addresses {
    let mut host = Addresses::default();
    for address in network.host_at(endpoint) {
        match address {
            IpAddr::V4(address) => host.v4.push(address),
            IpAddr::V6(address) => host.v6.push(address),
        }
    }
    host
}

impl Zone {
    fn add(&mut self, endpoint: &Endpoint) {
        let addresses = Addresses::of(endpoint);
        let mut names: Vec<Vec<u8>> = Vec::new();
        let named = self.named;
        for name in endpoint.names.iter().filter(|_| named).map(|name| lower(name)) {
            // Two names of one container that differ in case only are one name.
            if names.contains(&name) {
                continue;
            }
            let known = self.names.entry(name.clone()).or_default();
            known.containers.push(endpoint.container.clone());
            known.addresses.add(&addresses);
            names.push(name);
        }
        if let Some(first) = endpoint.names.first().filter(|_| named) {
            let pointer = [first.as_bytes(), b".", &self.name].concat();
            let v4 = addresses.v4.iter().copied().map(IpAddr::V4);
            for address in v4.chain(addresses.v6.iter().copied().map(IpAddr::V6)) {
                self.pointers.insert(address, (endpoint.container.clone(), pointer.clone()));
            }
        }
        self.members.insert(endpoint.container.clone(), Member { names, addresses });
    }

    fn remove(&mut self, container: &str) {
        let Some(gone) = self.members.remove(container) else { return };
        for name in gone.names {
            let Some(known) = self.names.get_mut(&name) else { continue };
            known.containers.retain(|other| other != container);
            known.addresses = Addresses::default();
            for other in known.containers.iter().filter_map(|other| self.members.get(other)) {
                known.addresses.add(&other.addresses);
            }
            if known.containers.is_empty() {
                self.names.remove(&name);
            }
        }
        let v4 = gone.addresses.v4.into_iter().map(IpAddr::V4);
        for address in v4.chain(gone.addresses.v6.into_iter().map(IpAddr::V6)) {
            // Somebody else may have been given it since.
            if self.pointers.get(&address).is_some_and(|(owner, _)| owner == container) {
                self.pointers.remove(&address);
            }
        }
    }
}

impl Table {
    /// The container is on the network, and this is what it has there by now.
    pub(super) fn set(&mut self, network: &Network, endpoint: &Endpoint) {
        let zone = self.zones.entry(network.id.clone()).or_insert_with(|| zone(network));
        zone.remove(&endpoint.container);
        zone.add(endpoint);
        let mut links = HashMap::new();
        for (alias, container) in &endpoint.links {
            links.entry(lower(alias)).or_insert_with(|| container.clone());
        }
        let place = Place { network: network.id.clone(), links, host: host(network, endpoint) };
        let places = self.places.entry(endpoint.container.clone()).or_default();
        match places.iter_mut().find(|known| known.network == network.id) {
            Some(known) => *known = place,
            None => places.push(place),
        }
    }

    /// The container is on the network no more.
    pub(super) fn unset(&mut self, network: &str, container: &str) {
        if let Some(zone) = self.zones.get_mut(network) {
            zone.remove(container);
            if zone.members.is_empty() {
                self.zones.remove(network);
            }
        }
        if let Some(places) = self.places.get_mut(container) {
            places.retain(|place| place.network != network);
            if places.is_empty() {
                self.places.remove(container);
            }
        }
    }

    /// `None` for a container that is on no network, or not known yet.
    pub(super) fn view(&self, container: &str) -> Option<View<'_>> {
        self.places.get(container).map(|places| View { table: self, places })
    }
}

/// One asker's view of a table.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    table: &'a Table,
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

impl<'a> View<'a> {
    fn zones(self) -> impl Iterator<Item = (&'a Place, &'a Zone)> {
        self.places.iter().filter_map(move |place| Some((place, self.table.zones.get(&place.network)?)))
    }

    /// Whether any of the asker's networks leads out.
    pub(super) fn leads_out(self) -> bool {
        self.zones().any(|(_, zone)| !zone.internal)
    }

    /// Everything that a name stands for, network by network: `name`, then `name.network`.
    pub(super) fn find(self, name: &[u8]) -> Vec<&'a Addresses> {
        let mut found: Vec<&Addresses> =
            self.zones().filter_map(|(place, zone)| on(place, zone, name)).collect();
        if found.is_empty() && name.contains(&b'.') {
            found.extend(self.zones().filter_map(|(place, zone)| {
                let name = name.strip_suffix(zone.name.as_slice())?.strip_suffix(b".")?;
                on(place, zone, name)
            }));
        }
        found
    }

    /// The host, if `name` is one of its names.
    pub(super) fn host(self, name: &[u8]) -> Option<&'a Addresses> {
        if !HOST_NAMES.iter().any(|own| own.as_bytes() == name) {
            return None;
        }
        self.places.iter().map(|place| &place.host).find(|host| !host.is_empty())
    }

    pub(super) fn owner(self, address: IpAddr) -> Owner<'a> {
        if let Some((_, name)) = self.zones().find_map(|(_, zone)| zone.pointers.get(&address)) {
            return Owner::Name(name);
        }
        if self.zones().any(|(_, zone)| zone.pools.iter().any(|pool| pool.contains(&address))) {
            return Owner::Nobody;
        }
        Owner::Elsewhere
    }
}

/// A link to somebody who is there, else a name of the network.
fn on<'a>(place: &'a Place, zone: &'a Zone, name: &[u8]) -> Option<&'a Addresses> {
    let linked = place.links.get(name).and_then(|container| zone.members.get(container));
    linked.map(|member| &member.addresses).or_else(|| zone.names.get(name).map(|known| &known.addresses))
}
