//! The networks of this host: which there are, who is on them, and how they change.
//!
//! ```text
//! record    what is kept, what may be asked
//! make      a request becomes a record: pure
//! options   what the drivers' options mean: pure
//! predefined  bridge, host and none, from the daemon's configuration: pure
//! join      what a container wants, checked: pure
//! links     the older links of the default bridge
//! claim     what it gets: pure but for the table
//! names     the files of names, and the resolver behind 127.0.0.11
//! relay     the way to the one forwarder of the host
//! local     the short cut from 127.0.0.1
//! filter    the thread that tells the packet filter
//! wiring    the parts of the host that all of the following use, and the rules of all records
//! forward   the host's forwarding
//! publish   a container's ports
//! plug      a container starts
//! settle    a running container's places change
//! unplug    a container ends
//! adopt     a container has outlived its daemon
//! explain   why a port of the host is reachable or not
//! change    create, remove, prune: record, link and rules follow one another
//! ```
//!
//! The copy in memory ([`Networks`]) is the authoritative one and is asked under a short lock that
//! is never held over slow work; a row of the database follows each change. A record is durable
//! before its links exist and outlives them when it goes, so whatever a killed daemon leaves has a
//! record that says what to do with it.

pub(crate) mod adopt;
pub(crate) mod change;
pub(crate) mod claim;
pub(crate) mod explain;
mod filter;
mod forward;
pub(crate) mod join;
pub(crate) mod links;
pub(crate) mod local;
mod make;
mod names;
mod options;
pub(crate) mod plug;
mod predefined;
pub(crate) mod publish;
mod record;
pub(crate) mod relay;
pub(crate) mod settle;
pub(crate) mod unplug;
pub(crate) mod wiring;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hull_network::ipam;
use hull_network::record::{ContainerId, Driver, Endpoint, Network, NetworkId, PortRange, Protocol};

pub use hull_network::ipam::Pool;
pub use join::Join;
pub(crate) use names::{KEPT as KEPT_SOCKETS, default_gateways};
pub use record::{Create, Created, Defaults, PoolRequest, Record, View};

use crate::containers::view::short;
use crate::{Error, Result};

/// Where in its life a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its name and subnets are taken; nobody can find it yet.
    Coming,
    Ready,
    /// On its way out: nobody can join it any more.
    Going,
}

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    state: State,
}

#[derive(Debug, Default)]
struct Table {
    networks: BTreeMap<NetworkId, Entry>,
    /// Of running containers, in the order in which they were attached.
    endpoints: BTreeMap<ContainerId, Vec<Endpoint>>,
    /// Of containers that have left, while their links are being cut: the addresses are still taken.
    leaving: Vec<Endpoint>,
    /// Follows from the endpoints, so that nobody has to look through all of them.
    members: HashMap<NetworkId, Members>,
}

/// Who is on a network.
#[derive(Debug, Default)]
struct Members {
    containers: BTreeSet<ContainerId>,
    /// What nobody may be given now, those who are leaving included.
    taken: BTreeSet<IpAddr>,
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let v4 = endpoint.address4.map(|net| net.addr().into());
    v4.into_iter().chain(endpoint.address6.map(|net| net.addr().into()))
}

/// What wakes those who wait for an address or a port.
#[derive(Debug, Default)]
struct Freed {
    /// How often something has left for good.
    times: Mutex<u64>,
    changed: Condvar,
}

impl Freed {
    fn times(&self) -> MutexGuard<'_, u64> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify_all(&self) {
        *self.times() += 1;
        self.changed.notify_all();
    }
}

/// Whether links of some container are being cut at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    pub(crate) somebody: bool,
    /// Of [`Freed`], from before.
    times: u64,
}

/// All networks, and every running container's places on them.
#[derive(Debug)]
pub(crate) struct Networks {
    table: RwLock<Table>,
    /// Signals that something has left for good.
    freed: Freed,
    defaults: Defaults,
    pools: Vec<Pool>,
}

/// `80/tcp`, `80-90/udp`, `80`: a protocol and its ports.
pub fn exposed_port(text: &str) -> Option<(Protocol, PortRange)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::named(protocol)?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((protocol, PortRange { first, last }))
}

/// Ports in their order, neighbours and what overlaps joined.
pub fn joined(mut ports: Vec<(Protocol, PortRange)>) -> Vec<(Protocol, PortRange)> {
    ports.sort_unstable();
    let mut out: Vec<(Protocol, PortRange)> = Vec::new();
    for (protocol, range) in ports {
        match out.last_mut() {
            Some((before, last))
                if *before == protocol && u32::from(range.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(range.last);
            }
            _ => out.push((protocol, range)),
        }
    }
    out
}

/// The pools of the configuration; a family that it does not name keeps the built-in ones.
fn pools(defaults: &Defaults, global: [u8; 5]) -> Vec<Pool> {
    let mut pools = defaults.pools.clone();
    let six = |pool: &Pool| pool.base.addr().is_ipv6();
    for family in [false, true] {
        if !defaults.pools.iter().any(|pool| six(pool) == family) {
            pools.extend(ipam::default_pools(global).into_iter().filter(|pool| six(pool) == family));
        }
    }
    pools
}

impl Networks {
    /// `global` makes this host's unique local addresses its own; the same at every start.
    pub(crate) fn new(defaults: Defaults, global: [u8; 5]) -> Networks {
        let pools = pools(&defaults, global);
        Networks { table: RwLock::default(), freed: Freed::default(), defaults, pools }
    }

    // Nothing under these locks panics, so a poisoned one is whole.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By id, by name, or by an id's unambiguous prefix, in this order, as the reference does.
    pub(crate) fn find(&self, key: &str) -> Result<Arc<Record>> {
        self.read().find(key).map(|entry| Arc::clone(&entry.record))
    }

    /// The same with who is on it.
    pub(crate) fn view(&self, key: &str) -> Result<View> {
        let table = self.read();
        let record = Arc::clone(&table.find(key)?.record);
        Ok(table.view_of(record))
    }

    pub(super) fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Everybody on a network.
    pub(super) fn on(&self, network: &str) -> Vec<Endpoint> {
        self.read().on(network).cloned().collect()
    }

    pub(crate) fn leaving(&self) -> Leaving {
        let times = *self.freed.times();
        Leaving { somebody: !self.read().leaving.is_empty(), times }
    }

    /// Waits until something has left for good since then, or so long.
    pub(crate) fn await_freed(&self, since: Leaving, limit: Duration) {
        let nothing = |times: &mut u64| *times == since.times;
        // Whoever woke us or did not: the caller looks again.
        drop(self.freed.changed.wait_timeout_while(self.freed.times(), limit, nothing));
    }

    /// By id.
    pub(crate) fn views(&self) -> Vec<View> {
        let table = self.read();
        let ready = table.networks.values().filter(|entry| entry.state == State::Ready);
        ready.map(|entry| table.view_of(Arc::clone(&entry.record))).collect()
    }
}

impl Table {
    fn ready(&self) -> impl Iterator<Item = &Entry> {
        self.networks.values().filter(|entry| entry.state == State::Ready)
    }

    fn find(&self, key: &str) -> Result<&Entry> {
        let missing = || Error::NoSuchNetwork(key.to_owned());
        if let Some(entry) = self.networks.get(key) {
            return if entry.state == State::Ready { Ok(entry) } else { Err(missing()) };
        }
        // The name that a container's mode may have for the default network.
        let name = if key == "default" { "bridge" } else { key };
        if let Some(entry) = self.ready().find(|entry| entry.record.network.name == name) {
            return Ok(entry);
        }
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut found = self.ready().filter(|entry| entry.record.network.id.starts_with(key));
        match (found.next(), found.count()) {
            (Some(entry), 0) => Ok(entry),
            (Some(_), more) => Err(Error::AmbiguousNetwork { key: key.to_owned(), matches: more + 1 }),
            (None, _) => Err(missing()),
        }
    }

    fn on(&self, network: &str) -> impl Iterator<Item = &Endpoint> {
        let containers = self.members.get(network).into_iter().flat_map(|members| &members.containers);
        let own = containers.filter_map(|container| self.endpoints.get(container)).flatten();
        own.filter(move |endpoint| endpoint.network == network)
    }

    fn join(&mut self, endpoint: Endpoint) {
        let members = self.members.entry(endpoint.network.clone()).or_default();
        members.containers.insert(endpoint.container.clone());
        members.taken.extend(addresses(&endpoint));
        self.endpoints.entry(endpoint.container.clone()).or_default().push(endpoint);
    }

    /// Gives those that have left; their addresses stay taken.
    fn leave(&mut self, container: &str, which: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
        let Some(own) = self.endpoints.remove(container) else { return Vec::new() };
        let (gone, stay): (Vec<Endpoint>, Vec<Endpoint>) = own.into_iter().partition(which);
        if !stay.is_empty() {
            self.endpoints.insert(container.to_owned(), stay);
        }
        for endpoint in &gone {
            if let Some(members) = self.members.get_mut(&endpoint.network) {
                members.containers.remove(container);
            }
        }
        self.leaving.extend(gone.iter().cloned());
        gone
    }

    fn free(&mut self, id: &str) {
        let Some(at) = self.leaving.iter().position(|endpoint| endpoint.id == id) else { return };
        let gone = self.leaving.swap_remove(at);
        let Some(members) = self.members.get_mut(&gone.network) else { return };
        for address in addresses(&gone) {
            members.taken.remove(&address);
        }
        if members.containers.is_empty() && members.taken.is_empty() {
            self.members.remove(&gone.network);
        }
    }

    fn view_of(&self, record: Arc<Record>) -> View {
        let endpoints = self.on(&record.network.id).cloned().collect();
        View { record, endpoints }
    }

    /// The 403 of a network that is in use; `name` knows containers.
    fn in_use(&self, network: &Network, name: impl Fn(&str) -> String) -> Option<Error> {
        let on = |endpoint: &Endpoint| {
            format!("name:\"{}\" id:\"{}\"", name(&endpoint.container), short(&endpoint.id))
        };
        let mut users: Vec<String> = self.on(&network.id).map(on).collect();
        users.sort();
        (!users.is_empty()).then(|| {
            Error::Forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                users.join(", ")
            ))
        })
    }
}

impl Record {
    /// A subnet's gateway as `inspect` shows it.
    pub fn shown_gateway(&self, subnet: &hull_network::record::Subnet) -> Option<IpAddr> {
        subnet.gateway.filter(|gateway| !subnet.asked || self.predefined || self.gateways.contains(gateway))
    }

    /// Containers find each other on it by their names.
    pub fn has_names(&self) -> bool {
        match &self.network.driver {
            Driver::Bridge(bridge) => !bridge.default,
            Driver::Macvlan(_) => true,
            Driver::Host | Driver::Null => false,
        }
    }
}
