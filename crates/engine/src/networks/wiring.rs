//! The parts of the host that networks are made of, and the rules that follow from all records.
//!
//! What is done with them lies beside: [`super::plug`] at a start, [`super::settle`] while a
//! container runs, [`super::unplug`] at its end, [`super::adopt`] after a daemon's. All of it is
//! plain calls that block; they run away from the async threads.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_network::dns::Sockets;
use hull_network::driver::Drivers;
use hull_network::firewall::Firewall as _;
use hull_network::neighbours;
use hull_network::nft::Nftables;
use hull_network::nft::monitor::Monitor;
use hull_network::pool::Pool;
use hull_network::record::Network;
use hull_network::rules;
use hull_network::ruleset::RuleSet;
use hull_runtime::cgroup::Hierarchies;

use super::change::failed;
use super::filter::Filter;
use super::forward::{Forwarding, forward};
use super::local::Local;
use super::names::{self, Names};
use super::publish::Ports;
use super::record::Defaults;
use super::relay::Relay;
use super::unplug::Inside;
use crate::containers::services::Services;
use crate::{Config, Error, Result};

/// In the exec root: the host has tables of ours. An empty file.
const TABLES: &str = "tables";

/// The parts of the host that networks are made of.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(super) drivers: Drivers,
    pub(super) pool: Pool<Sockets>,
    pub(super) names: Names,
    pub(crate) relay: Relay,
    pub(super) local: Local,
    pub(super) ports: Mutex<Ports>,
    pub(super) inside: Inside,
    /// `None` where the configuration wants no rules.
    pub(super) filter: Option<Filter>,
    pub(super) forwarding: Forwarding,
}

impl Wiring {
    /// For the network namespace of this thread. Blocks.
    pub(crate) fn open(config: &Config, cgroups: Option<&Hierarchies>) -> Result<Wiring> {
        let defaults = &config.network;
        if let Err(error) = neighbours::make_room() {
            let error = crate::chain(&error);
            tracing::warn!(%error, "with hundreds of containers the kernel's table of neighbours may get full");
        }
        let mut drivers = Drivers::new().map_err(failed)?;
        drivers.bridge.loopback = defaults.rules4;
        let pool = Pool::new(Box::new(|_| {
            hull_runtime::failpoint!("engine.network.refilling");
            Ok(names::sockets()?)
        }))
        .map_err(|source| Error::Io {
            call: "start a thread for",
            path: "namespaces".into(),
            source,
        })?;
        let filter = firewall(defaults, &config.exec_root)?;
        let names = Names::open();
        Ok(Wiring {
            drivers,
            pool,
            names,
            relay: Relay::default(),
            local: Local::open(defaults, cgroups),
            ports: Mutex::new(Ports::open()),
            inside: Inside::default(),
            filter,
            forwarding: Forwarding::open(&config.exec_root),
        })
    }

    /// What a network's, and an endpoint's, rules depend on besides the records.
    pub(super) fn options(&self, services: &Services) -> rules::Options {
        let defaults = services.networks.defaults();
        let before = self.forwarding.before();
        rules::Options {
            ipv4: defaults.rules4,
            ipv6: defaults.rules6,
            guard4: before.v4,
            guard6: before.v6.is_some(),
            direct_routing: defaults.direct_routing,
            relay: self.relay.port(),
        }
    }

    // What panics under the lock leaves ports that are merely taken.
    pub(super) fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's packet filter, where the configuration wants rules. Else those are removed that a
/// daemon of another configuration has left.
fn firewall(defaults: &Defaults, exec_root: &Path) -> Result<Option<Filter>> {
    let mark = exec_root.join(TABLES);
    let failed_at = |call| {
        let path = mark.clone();
        move |source| Error::Io { call, path, source }
    };
    if !defaults.rules4 && !defaults.rules6 {
        if mark.exists() {
            Nftables::open().and_then(|mut tables| tables.apply(&RuleSet::default())).map_err(failed)?;
            fs::remove_file(&mark).map_err(failed_at("remove"))?;
        }
        return Ok(None);
    }
    fs::write(&mark, "").map_err(failed_at("write"))?;
    let tables = Nftables::open().map_err(failed)?;
    let monitor = Monitor::open(tables.port().map_err(failed)?).map_err(failed)?;
    let filter = Filter::start(Box::new(tables))?;
    filter.guard(monitor)?;
    Ok(Some(filter))
}

/// The rules of a network, and what it needs of the host's forwarding.
pub(super) fn open_network(services: &Services, network: &Network) -> Result<()> {
    if forward(services, || apply(services))? {
        return Ok(());
    }
    match &services.wiring.filter {
        Some(filter) => {
            let elements = rules::network_elements(network, &services.wiring.options(services));
            filter.set(&network.id, || elements)?.wait()
        }
        None => Ok(()),
    }
}

/// Before a network's links go.
pub(super) fn close_network(services: &Services, network: &Network) {
    services.wiring.pool.forget(&network.id);
    if let Some(filter) = &services.wiring.filter {
        filter.forget(&network.id);
    }
}

/// Makes the tables be what follows from all records. Blocks.
pub(crate) fn apply(services: &Services) -> Result<()> {
    let Some(filter) = &services.wiring.filter else { return Ok(()) };
    let options = services.wiring.options(services);
    filter.whole(|| {
        let (networks, endpoints) = services.networks.all();
        let whole =
            rules::compile(&rules::Input { networks: &networks, endpoints: &endpoints, options: &options });
        let mut owners = HashMap::new();
        for network in &networks {
            owners.insert(network.id.clone(), rules::network_elements(network, &options));
            let on_it = || endpoints.iter().filter(|endpoint| endpoint.network == network.id);
            for endpoint in on_it() {
                let elements = rules::endpoint_elements(network, endpoint, on_it(), &options);
                owners.insert(endpoint.id.clone(), elements);
            }
        }
        (whole, owners)
    })
}
