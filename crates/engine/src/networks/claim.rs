//! From what a container wants to its places on networks: decided under the table's lock, so that
//! no two containers are given the same address; nothing of the host is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hull_network::driver::DefaultRoute;
use hull_network::ipam::{self, NoAddress};
use hull_network::record::{Attachment, Driver, Endpoint, GatewayMode, Mac, Network, PortRange, Protocol};
use ipnet::IpNet;

use super::join;
use super::record::{Defaults, Record};
use super::{Networks, Table};
use crate::containers::create::{new_id, random};
use crate::containers::view::short;
use crate::{Error, Result};

/// What of a container its places depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) exposed: &'a [(Protocol, PortRange)],
}

/// A place and the network that it is on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) record: Arc<Record>,
    pub(crate) endpoint: Endpoint,
}

impl Networks {
    /// Gives the container a place on every network it wants, all or none. They are its own from
    /// here on: their addresses are taken and their networks in use.
    pub(crate) fn claim(&self, asker: Asker<'_>, attachments: &[Attachment]) -> Result<Vec<Place>> {
        let mut table = self.write();
        let mut places: Vec<Place> = Vec::new();
        for attachment in attachments {
            let before: Vec<&str> = places.iter().map(|place| place.endpoint.link.as_str()).collect();
            let place = table.place(asker, attachment, &before, &self.defaults)?;
            places.push(place);
        }
        places.iter().for_each(|place| table.join(place.endpoint.clone()));
        Ok(places)
    }

    /// Notes what has become of an endpoint.
    pub(crate) fn update(&self, endpoint: &Endpoint) {
        let mut table = self.write();
        let own = table.endpoints.get_mut(&endpoint.container);
        if let Some(known) = own.into_iter().flatten().find(|known| known.id == endpoint.id) {
            known.clone_from(endpoint);
        }
    }

    /// The container is on these networks no more; its addresses stay taken until [`Networks::free`].
    pub(crate) fn leave(&self, container: &str, which: impl Fn(&Endpoint) -> bool) -> Vec<Place> {
        let mut table = self.write();
        let gone = table.leave(container, which);
        gone.into_iter().filter_map(|endpoint| table.with_record(endpoint)).collect()
    }

    /// The links of these endpoints pass no packet any more: others may have the addresses.
    pub(crate) fn free(&self, places: &[Place]) {
        let mut table = self.write();
        places.iter().for_each(|place| table.free(&place.endpoint.id));
        drop(table);
        self.freed.notify_all();
    }

    /// A container's places, in the order in which they were attached.
    pub(crate) fn places(&self, container: &str) -> Vec<Place> {
        let table = self.read();
        let own = table.endpoints.get(container).cloned().unwrap_or_default();
        own.into_iter().filter_map(|endpoint| table.with_record(endpoint)).collect()
    }

    /// Places of others on the same network with links to this container, or it to them.
    pub(crate) fn linked(&self, endpoint: &Endpoint) -> Vec<Place> {
        let to = |from: &Endpoint, other: &Endpoint| from.links.values().any(|id| *id == other.container);
        let table = self.read();
        let others = table.on(&endpoint.network).filter(|other| other.container != endpoint.container);
        let linked: Vec<Endpoint> =
            others.filter(|other| to(other, endpoint) || to(endpoint, other)).cloned().collect();
        linked.into_iter().filter_map(|endpoint| table.with_record(endpoint)).collect()
    }

    /// Every running container's places.
    pub(crate) fn all_places(&self) -> Vec<Place> {
        let table = self.read();
        let all = table.endpoints.values().flatten().cloned();
        all.filter_map(|endpoint| table.with_record(endpoint)).collect()
    }

    /// Everything that rules and names follow from.
    pub(crate) fn all(&self) -> (Vec<Network>, Vec<Endpoint>) {
        let table = self.read();
        let networks = table.networks.values().filter(|entry| !entry.record.config_only);
        (
            networks.map(|entry| entry.record.network.clone()).collect(),
            table.endpoints.values().flatten().cloned().collect(),
        )
    }

    /// What a daemon before this one had given to a container that runs.
    pub(crate) fn adopt(&self, endpoints: Vec<Endpoint>) {
        let mut table = self.write();
        for endpoint in endpoints {
            if table.networks.contains_key(&endpoint.network) {
                table.join(endpoint);
            }
        }
    }
}

impl Table {
    fn with_record(&self, endpoint: Endpoint) -> Option<Place> {
        let record = Arc::clone(&self.networks.get(&endpoint.network)?.record);
        Some(Place { record, endpoint })
    }

    fn place(
        &self,
        asker: Asker<'_>,
        attachment: &Attachment,
        others: &[&str],
        defaults: &Defaults,
    ) -> Result<Place> {
        let record = Arc::clone(&self.find(&attachment.network)?.record);
        let network = &record.network;
        if record.config_only {
            return Err(Error::Forbidden(format!(
                "network {} is a configuration network: nothing can be connected to it",
                network.name
            )));
        }
        let mut own = self.endpoints.get(asker.id).into_iter().flatten();
        if own.any(|endpoint| endpoint.network == network.id) {
            return Err(Error::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                asker.name, network.name
            )));
        }
        static NOTHING: BTreeSet<IpAddr> = BTreeSet::new();
        let taken = self.members.get(&network.id).map_or(&NOTHING, |members| &members.taken);
        let address4 = self.address(network, false, attachment.address4.map(IpAddr::V4), taken)?;
        let address6 = self.address(network, true, attachment.address6.map(IpAddr::V6), taken)?;
        let own = self.endpoints.get(asker.id).into_iter().flatten().map(|endpoint| endpoint.link.as_str());
        let used: Vec<&str> = own.chain(others.iter().copied()).collect();
        let names = if record.has_names() { names(asker, attachment) } else { Vec::new() };
        let mut endpoint = Endpoint {
            id: new_id(),
            network: network.id.clone(),
            container: asker.id.to_owned(),
            link: link_name(network, attachment, &used)?,
            host_link: String::new(),
            mac: attachment.mac.unwrap_or_else(random_mac),
            address4: address4.and_then(|net| match net {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            }),
            address6: address6.and_then(|net| match net {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            }),
            link_local: attachment.link_local.clone(),
            gateway4: None,
            gateway6: None,
            // What is wrong with them has been told when they were asked for.
            sysctls: join::sysctls(&attachment.driver_options).into_iter().flatten().collect(),
            names,
            links: BTreeMap::new(),
            published: Vec::new(),
            exposed: asker.exposed.to_vec(),
        };
        gateways(&mut endpoint, &record, defaults);
        Ok(Place { record, endpoint })
    }

    /// Who has an address that is in use, in words.
    fn owner(&self, network: &Network, address: IpAddr) -> String {
        let has = |endpoint: &&Endpoint| {
            let own = [endpoint.address4.map(IpNet::V4), endpoint.address6.map(IpNet::V6)];
            endpoint.network == network.id && own.iter().flatten().any(|net| net.addr() == address)
        };
        match self.endpoints.values().flatten().find(has) {
            Some(endpoint) => {
                let name = endpoint.names.first().map_or(short(&endpoint.container), String::as_str);
                format!("container {name} has {address}")
            }
            None => format!("network {} keeps {address} for its gateway or aside", network.name),
        }
    }

    fn address(
        &self,
        network: &Network,
        ipv6: bool,
        asked: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Option<IpNet>> {
        let (enabled, version) = if ipv6 { (network.ipv6, 6) } else { (network.ipv4, 4) };
        if !enabled || !network.subnets.iter().any(|subnet| subnet.pool.addr().is_ipv6() == ipv6) {
            return match asked {
                None => Ok(None),
                Some(address) => Err(Error::Invalid(format!(
                    "invalid address {address}: It does not belong to any of this network's subnets"
                ))),
            };
        }
        ipam::address_of(&network.subnets, ipv6, asked, taken).map(Some).map_err(|reason| match reason {
            NoAddress::InUse => Error::Forbidden(format!(
                "Address already in use: {}",
                asked.map_or_else(String::new, |address| self.owner(network, address))
            )),
            NoAddress::Full => Error::Network(format!(
                "no available IPv{version} addresses on this network's address pools: {} ({})",
                network.name, network.id
            )),
            NoAddress::Outside => Error::Invalid(format!(
                "invalid address {}: It does not belong to any of this network's subnets",
                asked.map_or_else(String::new, |address| address.to_string())
            )),
        })
    }
}

/// The name, the aliases, the short id, the host name: as `inspect` lists them, each once.
pub(super) fn names(asker: Asker<'_>, attachment: &Attachment) -> Vec<String> {
    let mut names = Vec::new();
    let all = std::iter::once(asker.name)
        .chain(attachment.aliases.iter().map(String::as_str))
        .chain([short(asker.id), asker.hostname]);
    for name in all {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// `eth0`, or the first number that is free; or what was asked for.
fn link_name(network: &Network, attachment: &Attachment, used: &[&str]) -> Result<String> {
    if let Some(name) = attachment.driver_options.get(join::LINK_NAME) {
        if used.contains(&name.as_str()) || name == "lo" {
            return Err(Error::Invalid(format!("the container has an interface {name} already")));
        }
        return Ok(name.clone());
    }
    let prefix = match &network.driver {
        Driver::Bridge(bridge) => bridge.prefix.as_str(),
        Driver::Macvlan(_) | Driver::Host | Driver::Null => "eth",
    };
    let mut names = (0..=used.len()).map(|number| format!("{prefix}{number}"));
    // One of n+1 names is not among n.
    Ok(names.find(|name| !used.contains(&name.as_str())).unwrap_or_else(|| format!("{prefix}0")))
}

/// A unicast address that nobody's hardware has: locally administered.
fn random_mac() -> Mac {
    let mut bytes = random::<6>();
    bytes[0] = bytes[0] & 0xfc | 0x02;
    Mac(bytes)
}

/// The ways out, where the network has one.
fn gateways(endpoint: &mut Endpoint, record: &Record, defaults: &Defaults) {
    let network = &record.network;
    let nowhere = matches!(&network.driver, Driver::Macvlan(macvlan) if macvlan.nowhere);
    if network.internal || nowhere {
        return;
    }
    let isolated = |ipv6: bool| match &network.driver {
        Driver::Bridge(bridge) => (if ipv6 { bridge.mode6 } else { bridge.mode4 }) == GatewayMode::Isolated,
        _ => false,
    };
    let of = |address: IpAddr| {
        let subnet = network.subnets.iter().find(|subnet| subnet.pool.contains(&address));
        subnet.and_then(|subnet| subnet.gateway)
    };
    if let Some(address) = endpoint.address4.filter(|_| !isolated(false)) {
        endpoint.gateway4 = match of(address.addr().into()) {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        };
        if record.predefined {
            endpoint.gateway4 = defaults.gateway4.or(endpoint.gateway4);
        }
    }
    if let Some(address) = endpoint.address6.filter(|_| !isolated(true)) {
        endpoint.gateway6 = match of(address.addr().into()) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        };
        if record.predefined {
            endpoint.gateway6 = defaults.gateway6.or(endpoint.gateway6);
        }
    }
}

/// Which of a container's places the default routes lead through: of those that have a gateway the
/// one with the highest priority, of equals the first by the network's name.
pub(super) fn default_routes(places: &[Place], priority: impl Fn(&str) -> i64) -> Vec<DefaultRoute> {
    let best = |has: &dyn Fn(&Endpoint) -> bool| {
        let with = places.iter().enumerate().filter(|(_, place)| has(&place.endpoint));
        let key = |place: &Place| {
            let name = place.record.network.name.clone();
            (std::cmp::Reverse(priority(&name)), name)
        };
        with.min_by_key(|(_, place)| key(place)).map(|(index, _)| index)
    };
    let v4 = best(&|endpoint| endpoint.gateway4.is_some());
    let v6 = best(&|endpoint| endpoint.gateway6.is_some());
    (0..places.len()).map(|index| DefaultRoute { v4: v4 == Some(index), v6: v6 == Some(index) }).collect()
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
