//! Why a port of the host is reachable or not: looks at the host, for [`hull_network::explain`] to
//! judge. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

use hull_network::explain::{self, Finding, Observed, Records};
use hull_network::nft::foreign::{self, Obstacle};
use hull_network::ports::{Listener, listeners};
use hull_network::record::{ContainerId, Driver, Endpoint, Network, Protocol};
use hull_network::{forwarding, namespace};

use super::change::failed;
use super::filter::Filter;
use crate::Result;
use crate::containers::services::Services;

/// What becomes of packets for `port` of the host; of one protocol, or of all. Blocks.
pub(crate) fn explain(services: &Services, port: u16, protocol: Option<Protocol>) -> Result<Vec<Finding>> {
    let (networks, endpoints) = services.networks.all();
    let publishing: Vec<&Endpoint> =
        endpoints.iter().filter(|endpoint| explain::publishes(endpoint, port, protocol)).collect();
    let (forwarding4, forwarding6) = forwarding::enabled();
    let observed = Observed {
        tables: services.wiring.filter.as_ref().map_or(Ok(Vec::new()), Filter::observe)?,
        obstacles: obstacles(&networks, &publishing)?,
        inside: inside(services, &publishing),
        host: of_the_host(services)?,
        forwarding4,
        forwarding6,
    };
    let name = |id: &str| {
        services.registry.find(id).map_or_else(|_| id.to_owned(), |handle| handle.view().name.clone())
    };
    let options = services.wiring.options(services);
    let records = Records { networks: &networks, endpoints: &endpoints, options: &options, name: &name };
    Ok(explain::explain(port, protocol, &records, &observed))
}

/// By the names of the bridges that the publications lead to.
fn obstacles(networks: &[Network], publishing: &[&Endpoint]) -> Result<BTreeMap<String, Vec<Obstacle>>> {
    let mut found = BTreeMap::new();
    for network in networks {
        let Driver::Bridge(bridge) = &network.driver else { continue };
        if publishing.iter().any(|endpoint| endpoint.network == network.id) {
            found.insert(bridge.link.clone(), foreign::obstacles(&bridge.link).map_err(failed)?);
        }
    }
    Ok(found)
}

/// Who listens in the containers; one that is just ending is left out.
fn inside(services: &Services, publishing: &[&Endpoint]) -> BTreeMap<ContainerId, Vec<Listener>> {
    let containers: BTreeSet<&ContainerId> = publishing.iter().map(|endpoint| &endpoint.container).collect();
    let look = |id: &ContainerId| {
        let process = services.registry.find(id).ok()?.process()?;
        let found = namespace::enter(&*process, listeners).map_err(failed);
        match found.and_then(|found| found.map_err(failed)) {
            Ok(found) => Some((id.clone(), found)),
            Err(error) => {
                tracing::warn!(container = id, %error, "who listens in a container cannot be seen");
                None
            }
        }
    };
    containers.into_iter().filter_map(look).collect()
}

/// Who has ports of the host, without the sockets by which this daemon holds published ones.
fn of_the_host(services: &Services) -> Result<Vec<Listener>> {
    let own = services.wiring.ports().holding();
    let mut found = listeners().map_err(failed)?;
    found.retain(|listener| !own.contains(&u64::from(listener.inode)));
    Ok(found)
}
