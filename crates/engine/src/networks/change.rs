//! Networks come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hull_network::record::{Driver, Network};
use hull_network::rtnl;
use ipnet::IpNet;

use super::record::{Create, Created, Defaults, Record};
use super::{Entry, Networks, State, forward, make, predefined, wiring};
use crate::containers::create::new_id;
use crate::containers::phase::Time;
use crate::containers::services::Services;
use crate::events::Kind;
use crate::store::Change;
use crate::{Error, Result};

/// What the host has: its own routes (without default ones) and the names of its links.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    pub(crate) routes: Vec<IpNet>,
    pub(crate) links: Vec<String>,
    /// By the name of the link that has it.
    pub(crate) addresses: Vec<(String, IpNet)>,
}

impl Networks {
    /// The networks of the last daemon and the three that always are; gives the rows to write.
    pub(crate) fn open(
        defaults: Defaults,
        global: [u8; 5],
        rows: &[(String, String)],
        observed: &Observed,
    ) -> Result<(Networks, Vec<Change>)> {
        let networks = Networks::new(defaults, global);
        let mut records = BTreeMap::new();
        for (id, text) in rows {
            let parsed = serde_json::from_str::<Record>(text);
            let record =
                parsed.map_err(|source| Error::Record { table: "network", id: id.clone(), source })?;
            records.insert(id.clone(), record);
        }
        let mut changes = Vec::new();
        for record in networks.predefined(&records, observed)? {
            if records.get(&record.network.id) != Some(&record) {
                changes.push(row(&record)?);
            }
            records.insert(record.network.id.clone(), record);
        }
        let ready = |record| Entry { record: Arc::new(record), state: State::Ready };
        networks.write().networks = records.into_iter().map(|(id, record)| (id, ready(record))).collect();
        Ok((networks, changes))
    }

    fn predefined(&self, records: &BTreeMap<String, Record>, observed: &Observed) -> Result<Vec<Record>> {
        let before =
            |name: &str| records.values().find(|record| record.predefined && record.network.name == name);
        let now = hull_sys::time::now();
        let plain = |name: &str, driver: Driver| match before(name) {
            Some(record) => record.clone(),
            None => predefined::plain(new_id(), name, driver, now),
        };
        let mut all = vec![plain("host", Driver::Host), plain("none", Driver::Null)];
        if self.defaults.bridge != "none" {
            let others = records.values().filter(|record| !record.predefined && !record.config_only);
            let mut taken: Vec<IpNet> =
                others.flat_map(|record| &record.network.subnets).map(|subnet| subnet.pool).collect();
            taken.extend(&observed.routes);
            let Observed { links, addresses, .. } = observed;
            let world = predefined::World { taken: &taken, pools: &self.pools, links, addresses };
            all.push(predefined::bridge(before("bridge"), new_id(), &self.defaults, world, now)?);
        }
        Ok(all)
    }

    /// Takes name, subnets and link's name for a network that is to be.
    pub(super) fn reserve(
        &self,
        asked: &Create,
        observed: &Observed,
        now: Time,
    ) -> Result<(Arc<Record>, Vec<String>)> {
        let id = new_id();
        let mut table = self.write();
        let records: Vec<_> = table.networks.values().map(|entry| Arc::clone(&entry.record)).collect();
        let Observed { routes, links, .. } = observed;
        let world = make::World { records: &records, routes, links, pools: &self.pools };
        let (record, warnings) = make::record(&id, asked, world, now)?;
        let record = Arc::new(record);
        table.networks.insert(id, Entry { record: Arc::clone(&record), state: State::Coming });
        Ok((record, warnings))
    }

    #[cfg(test)]
    pub(super) fn ready(&self, id: &str) {
        self.set(id, State::Ready);
    }

    fn set(&self, id: &str, state: State) {
        if let Some(entry) = self.write().networks.get_mut(id) {
            entry.state = state;
        }
    }

    /// Another macvlan network is on the same link.
    fn share_a_parent(&self, network: &Network) -> bool {
        let Driver::Macvlan(own) = &network.driver else { return false };
        let shares =
            |other: &Network| matches!(&other.driver, Driver::Macvlan(it) if it.parent == own.parent);
        let table = self.read();
        let mut others = table.networks.values().map(|entry| &entry.record.network);
        others.any(|other| other.id != network.id && shares(other))
    }

    fn forget(&self, id: &str) {
        self.write().networks.remove(id);
    }

    /// Marks a network as going, if nobody is on it; `name` knows containers.
    pub(super) fn begin_removal(&self, key: &str, name: impl Fn(&str) -> String) -> Result<Arc<Record>> {
        let mut table = self.write();
        let record = Arc::clone(&table.find(key)?.record);
        let network = &record.network;
        if record.predefined {
            return Err(Error::Forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        if let Some(error) = table.in_use(network, name) {
            return Err(error);
        }
        let depends = |entry: &&Entry| record.config_only && entry.record.config_from == network.name;
        if table.ready().any(|entry| depends(&entry)) {
            return Err(Error::Forbidden(format!("configuration network {:?} is in use", network.name)));
        }
        if let Some(entry) = table.networks.get_mut(&network.id) {
            entry.state = State::Going;
        }
        Ok(record)
    }
}

fn row(record: &Record) -> Result<Change> {
    let text = serde_json::to_string(record).map_err(|source| Error::Record {
        table: "network",
        id: record.network.id.clone(),
        source,
    })?;
    Ok(Change::PutNetwork { id: record.network.id.clone(), name: record.network.name.clone(), record: text })
}

/// Publishes an event of a network.
pub(crate) fn publish(services: &Services, record: &Record, action: &str, container: Option<&str>) {
    let mut attributes = BTreeMap::from([
        ("name".to_owned(), record.network.name.clone()),
        ("type".to_owned(), record.network.driver.name().to_owned()),
    ]);
    if let Some(container) = container {
        attributes.insert("container".to_owned(), container.to_owned());
    }
    services.events.publish(Kind::Network, action, &record.network.id, attributes);
}

pub(crate) async fn create(services: &Arc<Services>, asked: Create) -> Result<Created> {
    let observed = services.blocking(observe).await?;
    let (record, warnings) = services.networks.reserve(&asked, &observed, hull_sys::time::now())?;
    let id = &record.network.id;
    hull_runtime::failpoint!("engine.network-create.reserved");
    if let Err(error) = make(services, &record).await {
        services.networks.forget(id);
        return Err(error);
    }
    services.networks.set(id, State::Ready);
    hull_runtime::failpoint!("engine.network-create.made");
    publish(services, &record, "create", None);
    Ok(Created { id: id.clone(), warning: warnings.join("; ") })
}

/// The row, then the links; undone in reverse.
async fn make(services: &Arc<Services>, record: &Arc<Record>) -> Result<()> {
    services.store.commit(vec![row(record)?]).await?;
    hull_runtime::failpoint!("engine.network-create.committed");
    let (shared, own) = (Arc::clone(services), Arc::clone(record));
    let made = services.blocking(move || set_up(&shared, &own)).await;
    let Err(error) = made else { return Ok(()) };
    let undone = services.store.commit(vec![Change::DeleteNetwork { id: record.network.id.clone() }]).await;
    if let Err(error) = undone {
        tracing::warn!(%error, "the record of a network that could not be made stays");
    }
    Err(error)
}

/// Makes what the network has on the host. Blocks.
pub(super) fn set_up(services: &Services, record: &Record) -> Result<()> {
    match services.wiring.drivers.of(&record.network) {
        Some(driver) if !record.config_only => {
            driver.setup(&record.network).map_err(failed)?;
            hull_runtime::failpoint!("engine.network-create.linked");
            wiring::open_network(services, &record.network)
        }
        _ => Ok(()),
    }
}

fn tear_down(services: &Services, network: &Network) -> Result<()> {
    wiring::close_network(services, network);
    hull_runtime::failpoint!("engine.network-remove.closed");
    match services.wiring.drivers.of(network) {
        Some(_) if services.networks.share_a_parent(network) => Ok(()),
        Some(driver) => driver.teardown(network).map_err(failed),
        None => Ok(()),
    }
}

pub(crate) async fn remove(services: &Arc<Services>, key: &str) -> Result<()> {
    let name = |id: &str| match services.registry.find(id) {
        Ok(handle) => handle.view().name.clone(),
        Err(_) => id.to_owned(),
    };
    let record = services.networks.begin_removal(key, name)?;
    let id = &record.network.id;
    hull_runtime::failpoint!("engine.network-remove.before");
    if let Err(error) = unmake(services, &record).await {
        // It stays, with all that it had.
        let (shared, own) = (Arc::clone(services), Arc::clone(&record));
        if let Err(error) = services.blocking(move || set_up(&shared, &own)).await {
            tracing::error!(network = record.network.name, %error, "a network that stays is not whole");
        }
        services.networks.set(id, State::Ready);
        return Err(error);
    }
    services.networks.forget(id);
    hull_runtime::failpoint!("engine.network-remove.row-gone");
    publish(services, &record, "destroy", None);
    Ok(())
}

/// The links, then the row: what is left of a removal that was broken off has a record.
async fn unmake(services: &Arc<Services>, record: &Arc<Record>) -> Result<()> {
    let (shared, own) = (Arc::clone(services), Arc::clone(record));
    services.blocking(move || tear_down(&shared, &own.network)).await?;
    hull_runtime::failpoint!("engine.network-remove.before-row");
    services.store.commit(vec![Change::DeleteNetwork { id: record.network.id.clone() }]).await
}

/// Makes again what networks have on the host: all of it after a boot, nothing otherwise. One that
/// cannot be made is no reason not to start; who connects to it is told. Blocks.
pub(crate) fn reconcile(services: &Services) -> Result<()> {
    let (_, endpoints) = services.networks.all();
    let kept: BTreeSet<String> = endpoints.into_iter().map(|endpoint| endpoint.host_link).collect();
    let mut ready = Vec::new();
    for view in services.networks.views() {
        let network = &view.record.network;
        let Some(driver) = services.wiring.drivers.of(network).filter(|_| !view.record.config_only) else {
            continue;
        };
        match driver.setup(network) {
            Ok(()) => ready.push(view),
            Err(error) => {
                tracing::error!(network = network.name, %error, "a network cannot be made ready")
            }
        }
    }
    if !forward::forward(services, || wiring::apply(services))? {
        wiring::apply(services)?;
    }
    for view in ready {
        let network = &view.record.network;
        if !matches!(network.driver, Driver::Bridge(_)) {
            continue;
        }
        match services.wiring.drivers.bridge.clear(network, &kept) {
            Ok(strays) if strays.is_empty() => {}
            Ok(strays) => tracing::warn!(network = network.name, ?strays, "links of nobody are cut"),
            Err(error) => tracing::warn!(network = network.name, %error, "links of nobody may be left"),
        }
        // Whose containers run by now, and where most will: their next start need not wait.
        if view.record.predefined || !view.endpoints.is_empty() {
            services.wiring.pool.keep(network);
        }
    }
    Ok(())
}

/// Removes all networks that nobody is on and that `wanted` accepts; gives their names.
pub(crate) async fn prune(services: &Arc<Services>, wanted: impl Fn(&Record) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for view in services.networks.views() {
        let record = &view.record;
        if record.predefined || record.config_only || !view.endpoints.is_empty() || !wanted(record) {
            continue;
        }
        // Joined or removed meanwhile: not for us.
        if remove(services, &record.network.id).await.is_ok() {
            names.push(record.network.name.clone());
        }
    }
    let attributes = BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
    services.events.publish(Kind::Network, "prune", "", attributes);
    names
}

/// What the host has now. Blocks.
pub(crate) fn observe() -> Result<Observed> {
    let mut socket = rtnl::Socket::open().map_err(failed)?;
    let routes = socket.routes().map_err(failed)?.into_iter().map(|route| route.destination);
    let routes = routes.filter(|net| net.prefix_len() > 0).collect();
    let links = socket.links().map_err(failed)?;
    let named = |found: rtnl::Address| {
        let link = links.iter().find(|link| link.index == found.link)?;
        Some((link.name.clone(), found.address))
    };
    let addresses = socket.addresses().map_err(failed)?.into_iter().filter_map(named).collect();
    Ok(Observed { routes, links: links.into_iter().map(|link| link.name).collect(), addresses })
}

/// What a driver or the kernel said, as the answer.
pub(super) fn failed(error: impl std::error::Error) -> Error {
    Error::Network(crate::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(networks: &Networks, key: &str) -> Result<Arc<Record>> {
        networks.view(key).map(|view| view.record)
    }

    fn networks(rows: &[(String, String)]) -> (Networks, Vec<Change>) {
        Networks::open(Defaults::default(), [1, 2, 3, 4, 5], rows, &Observed::default()).unwrap()
    }

    fn rows(changes: Vec<Change>) -> Vec<(String, String)> {
        let row = |change| match change {
            Change::PutNetwork { id, record, .. } => (id, record),
            other => panic!("{other:?}"),
        };
        changes.into_iter().map(row).collect()
    }

    #[test]
    fn the_three_are_made_once_and_found_again() {
        let (first, changes) = networks(&[]);
        assert_eq!(changes.len(), 3);
        let kept = rows(changes);
        let (again, changes) = networks(&kept);
        assert!(changes.is_empty(), "{changes:?}");
        for name in ["bridge", "host", "none"] {
            assert_eq!(found(&first, name).unwrap(), found(&again, name).unwrap());
        }
        let id = found(&first, "bridge").unwrap().network.id.clone();
        assert_eq!(found(&again, &id[..12]).unwrap().network.name, "bridge");
        assert_eq!(found(&again, "default").unwrap().network.id, id);
        assert_eq!(found(&again, "nosuch").unwrap_err().to_string(), "network nosuch not found");
    }

    #[test]
    fn a_network_that_comes_or_goes_is_nobodys() {
        let (networks, _) = networks(&[]);
        let create = Create { name: "n1".into(), ..Create::default() };
        let (record, _) = networks.reserve(&create, &Observed::default(), 7).unwrap();
        assert!(found(&networks, "n1").is_err());
        assert_eq!(
            networks.reserve(&create, &Observed::default(), 7).unwrap_err().to_string(),
            "network with name n1 already exists"
        );
        networks.set(&record.network.id, State::Ready);
        assert!(found(&networks, "n1").is_ok());
        networks.begin_removal("n1", |_| String::new()).unwrap();
        assert!(found(&networks, "n1").is_err() && found(&networks, &record.network.id).is_err());
        networks.forget(&record.network.id);
        assert!(networks.reserve(&create, &Observed::default(), 7).is_ok());
        assert_eq!(
            networks.begin_removal("bridge", |_| String::new()).unwrap_err().to_string(),
            "bridge is a pre-defined network and cannot be removed"
        );
    }
}
