//! From what was asked for to a network's record: everything is checked, nothing is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hull_network::ipam::{self, Pool};
use hull_network::record::{Driver, Network, Subnet};
use ipnet::IpNet;

use super::options;
use super::record::{Create, PoolRequest, Record};
use crate::containers::phase::Time;
use crate::{Error, Result};

/// Most of what one network may have of each; far above any real one.
const SUBNETS_MAX: usize = 64;
const RESERVED_MAX: usize = 4096;

/// What is there already.
#[derive(Debug, Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) records: &'a [Arc<Record>],
    /// Of the host: automatic subnets stay clear of them.
    pub(super) routes: &'a [IpNet],
    /// Names of the host's links.
    pub(super) links: &'a [String],
    pub(super) pools: &'a [Pool],
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

fn forbidden(text: impl Into<String>) -> Error {
    Error::Forbidden(text.into())
}

/// Checks a request; gives the record and warnings.
pub(super) fn record(id: &str, asked: &Create, world: World<'_>, now: Time) -> Result<(Record, Vec<String>)> {
    name(&asked.name, world.records)?;
    if asked.ingress {
        return Err(forbidden("Ingress network can only be global scope network"));
    }
    match asked.scope.as_str() {
        "" | "local" => {}
        "swarm" | "global" => {
            return Err(forbidden(format!(
                "cannot create a {} scoped network when swarm is not active",
                asked.scope
            )));
        }
        other => return Err(invalid(format!("unknown network scope {other:?}: use local"))),
    }
    let template = template(asked, world.records)?;
    let mut network = plain(id, asked, template.as_deref(), now);
    if !network.ipv4 && !network.ipv6 {
        return Err(invalid("IPv4 or IPv6 must be enabled"));
    }
    if !matches!(asked.ipam_driver.as_str(), "" | "default" | "null") {
        return Err(Error::NotFound(format!("plugin {:?} not found", asked.ipam_driver)));
    }
    let (mut subnets, mut warnings) = subnets(&asked.pools, network.ipv4, network.ipv6)?;
    let mut gateways: BTreeSet<IpAddr> = subnets.iter().filter_map(|subnet| subnet.gateway).collect();
    if let Some(template) = &template {
        subnets.clone_from(&template.network.subnets);
        gateways.clone_from(&template.gateways);
    }
    if !asked.config_only {
        let (driver, more) = driver(id, asked, &network, world)?;
        network.driver = driver;
        warnings.extend(more);
        for other in world.records {
            let conflict = options::conflict(id, &network.driver, &other.network.id, &other.network.driver);
            if let Some(error) = conflict {
                return Err(error);
            }
        }
        network.subnets = give_out(subnets, &network, world)?;
    } else {
        network.subnets = subnets;
    }
    let record = Record {
        network,
        predefined: false,
        config_only: asked.config_only,
        config_from: asked.config_from.clone(),
        gateways,
        ipam_options: asked.ipam_options.is_some(),
    };
    Ok((record, warnings))
}

/// What follows from the request alone, and from the network whose settings are taken over.
fn plain(id: &str, asked: &Create, template: Option<&Record>, now: Time) -> Network {
    let mut network = Network {
        id: id.to_owned(),
        name: asked.name.clone(),
        driver: Driver::Null,
        subnets: Vec::new(),
        ipv4: asked.ipv4.unwrap_or(true),
        ipv6: asked.ipv6.unwrap_or(false),
        internal: asked.internal,
        attachable: asked.attachable,
        labels: asked.labels.clone(),
        options: asked.options.clone(),
        ipam_options: asked.ipam_options.clone().unwrap_or_default(),
        created: now,
    };
    if let Some(template) = template {
        let from = &template.network;
        (network.ipv4, network.ipv6, network.internal) = (from.ipv4, from.ipv6, from.internal);
        network.options.clone_from(&from.options);
        network.ipam_options.clone_from(&from.ipam_options);
        for (label, value) in &from.labels {
            network.labels.entry(label.clone()).or_insert_with(|| value.clone());
        }
    }
    network
}

fn name(name: &str, records: &[Arc<Record>]) -> Result<()> {
    if name.trim().is_empty() {
        return Err(invalid("invalid name: name is empty"));
    }
    if matches!(name, "bridge" | "host" | "none" | "default") {
        return Err(forbidden(format!("operation is not permitted on predefined {name} network ")));
    }
    if name.len() > 255 || name.chars().any(char::is_control) {
        return Err(invalid(
            "invalid name: a network's name has at most 255 bytes, none of them a control character",
        ));
    }
    // What a mode means must not be the name of a network.
    if name.starts_with("container:") {
        return Err(invalid(format!("invalid name: {name} would mean the network of another container")));
    }
    if records.iter().any(|other| other.network.name == name) {
        return Err(Error::Conflict(format!("network with name {name} already exists")));
    }
    Ok(())
}

/// The network whose settings are to be taken over.
fn template(asked: &Create, records: &[Arc<Record>]) -> Result<Option<Arc<Record>>> {
    if asked.config_from.is_empty() {
        return Ok(None);
    }
    if asked.config_only {
        return Err(forbidden("a configuration network cannot depend on another configuration network"));
    }
    let found = records.iter().find(|other| other.network.name == asked.config_from);
    let found = found.ok_or_else(|| {
        Error::NotFound(format!("configuration network {:?} does not exist", asked.config_from))
    })?;
    if !found.config_only {
        return Err(forbidden(format!("{:?} is not a configuration network", asked.config_from)));
    }
    let own = !asked.pools.is_empty()
        || !asked.options.is_empty()
        || asked.internal
        || asked.ipv6 == Some(true)
        || asked.ipam_options.as_ref().is_some_and(|options| !options.is_empty());
    if own {
        return Err(forbidden(
            "user specified configurations are not supported if the network depends on a configuration network",
        ));
    }
    Ok(Some(Arc::clone(found)))
}

fn driver(id: &str, asked: &Create, network: &Network, world: World<'_>) -> Result<(Driver, Vec<String>)> {
    match asked.driver.as_str() {
        "" | "bridge" | "default" => {
            let (bridge, warnings) = options::bridge(id, &network.options, network.internal)?;
            Ok((Driver::Bridge(bridge), warnings))
        }
        "macvlan" => {
            let mut own = options::macvlan(id, &network.options, network.internal, world.links)?;
            for other in world.records {
                // A link that is there may be one that was made for another network.
                if let Driver::Macvlan(other) = &other.network.driver
                    && other.parent == own.parent
                {
                    (own.made_parent, own.nowhere) = (other.made_parent, other.nowhere);
                }
            }
            Ok((Driver::Macvlan(own), Vec::new()))
        }
        name @ ("host" | "null") => {
            Err(forbidden(format!("only one instance of {name:?} network is allowed")))
        }
        "overlay" => Err(forbidden(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
        )),
        "ipvlan" => Err(Error::NotImplemented(
            "the driver ipvlan comes in a later build: use macvlan or bridge".to_owned(),
        )),
        other => Err(Error::NotFound(format!("plugin {other:?} not found"))),
    }
}

/// What was asked for, checked by itself; all faults at once, as the reference tells them.
fn subnets(pools: &[PoolRequest], ipv4: bool, ipv6: bool) -> Result<(Vec<Subnet>, Vec<String>)> {
    if pools.len() > SUBNETS_MAX {
        return Err(invalid(format!("a network has at most {SUBNETS_MAX} subnets")));
    }
    let (mut subnets, mut warnings, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for pool in pools {
        if pool.subnet.is_empty() && *pool == PoolRequest::default() {
            // One that the engine chooses.
            continue;
        }
        let Ok(net) = pool.subnet.parse::<IpNet>() else {
            faults.push(format!("invalid subnet {}: invalid CIDR block notation", pool.subnet));
            continue;
        };
        let family = if net.addr().is_ipv6() { "IPv6" } else { "IPv4" };
        if (net.addr().is_ipv6() && !ipv6) || (net.addr().is_ipv4() && !ipv4) {
            warnings
                .push(format!("the subnet {net} is not used, for {family} is not enabled on this network"));
            continue;
        }
        if net != net.trunc() {
            faults.push(format!("invalid subnet {net}: it should be {}", net.trunc()));
        }
        subnets.push(subnet(pool, net.trunc(), &mut faults));
    }
    match faults.as_slice() {
        [] => Ok((subnets, warnings)),
        faults => Err(invalid(format!("invalid network config:\n{}", list(faults)))),
    }
}

/// One fault as it is, several as a list.
pub(super) fn list(faults: &[String]) -> String {
    match faults {
        [only] => only.clone(),
        several => several.iter().map(|fault| format!("* {fault}")).collect::<Vec<_>>().join("\n"),
    }
}

fn subnet(pool: &PoolRequest, net: IpNet, faults: &mut Vec<String>) -> Subnet {
    let range = (!pool.range.is_empty()).then(|| range(&pool.range, &net)).and_then(|range| match range {
        Ok(range) => Some(range),
        Err(why) => {
            faults.push(format!("invalid ip-range {}: {why}", pool.range));
            None
        }
    });
    let mut address = |text: &str, what: &str| match inside(text, &net) {
        Ok(address) => Some(address),
        Err(why) => {
            faults.push(format!("{what}: {why}"));
            None
        }
    };
    let gateway = &pool.gateway;
    let gateway =
        (!gateway.is_empty()).then(|| address(gateway, &format!("invalid gateway {gateway}"))).flatten();
    let mut reserved = BTreeMap::new();
    for (name, text) in pool.reserved.iter().take(RESERVED_MAX) {
        if let Some(address) = address(text, &format!("invalid auxiliary address {name}")) {
            reserved.insert(name.clone(), address);
        }
    }
    if pool.reserved.len() > RESERVED_MAX {
        faults.push(format!("a subnet has at most {RESERVED_MAX} auxiliary addresses"));
    }
    Subnet { pool: net, range, gateway, reserved, asked: true }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn range(text: &str, net: &IpNet) -> Result<IpNet, String> {
    let range: IpNet = text.parse().map_err(|_| "invalid CIDR block notation".to_owned())?;
    if range.addr().is_ipv6() != net.addr().is_ipv6() {
        return Err(format!("parent subnet is an {} block", family(net.addr())));
    }
    if range.prefix_len() < net.prefix_len() {
        return Err(format!("CIDR block is bigger than its parent subnet {net}"));
    }
    if range != range.trunc() {
        return Err(format!("it should be {}", range.trunc()));
    }
    if !net.contains(&range) {
        return Err(format!("parent subnet {net} doesn't contain ip-range"));
    }
    Ok(range)
}

fn inside(text: &str, net: &IpNet) -> Result<IpAddr, String> {
    // As the reference's client may send it, with a prefix length.
    let bare = text.split_once('/').map_or(text, |(address, _)| address);
    let address: IpAddr = bare.parse().map_err(|_| "invalid address".to_owned())?;
    if address.is_ipv6() != net.addr().is_ipv6() {
        return Err(format!("parent subnet is an {} block", family(net.addr())));
    }
    if !net.contains(&address) {
        return Err(format!("parent subnet {net} doesn't contain this address"));
    }
    Ok(address)
}

/// Adds a subnet of each family that has none, and the gateways that nobody chose.
fn give_out(mut subnets: Vec<Subnet>, network: &Network, world: World<'_>) -> Result<Vec<Subnet>> {
    let others = || {
        let used = world.records.iter().filter(|other| !other.config_only);
        used.flat_map(|other| &other.network.subnets).map(|subnet| subnet.pool)
    };
    for (index, own) in subnets.iter().enumerate() {
        let before = subnets[..index].iter().map(|subnet| subnet.pool);
        if others().chain(before).any(|other| ipam::overlaps(&own.pool, &other)) {
            return Err(forbidden(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
    }
    for (ipv6, enabled) in [(false, network.ipv4), (true, network.ipv6)] {
        if !enabled || subnets.iter().any(|subnet| subnet.pool.addr().is_ipv6() == ipv6) {
            continue;
        }
        let own = subnets.iter().map(|subnet| subnet.pool);
        let taken: Vec<IpNet> = others().chain(own).chain(world.routes.iter().copied()).collect();
        let pool = ipam::free_subnet(world.pools, ipv6, &taken).ok_or_else(|| {
            invalid(
                "all predefined address pools have been fully subnetted: remove networks that are not used \
                     (network prune), name one with --subnet, or add to default-address-pools",
            )
        })?;
        subnets.push(Subnet { pool, range: None, gateway: None, reserved: BTreeMap::new(), asked: false });
    }
    for subnet in &mut subnets {
        let mut taken: BTreeSet<IpAddr> = subnet.gateway.into_iter().collect();
        if !subnet.reserved.values().all(|address| taken.insert(*address)) {
            return Err(forbidden("failed to allocate secondary ip address: Address already in use"));
        }
        if subnet.gateway.is_none() {
            let free = ipam::gateway(subnet);
            subnet.gateway = Some(free.ok_or_else(|| {
                forbidden(format!("failed to allocate gateway: no available address in {}", subnet.pool))
            })?);
        }
    }
    Ok(subnets)
}

#[cfg(test)]
#[path = "make_tests.rs"]
mod tests;
