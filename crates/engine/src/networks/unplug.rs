//! An exit: what a container has of networks is given back.
//!
//! ```text
//! leave ─► rules, names, ports ─► (behind the scenes) links cut ─► addresses free
//! ```
//!
//! What others could see or be given goes first; an address is free when no link has it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_network::namespace::Namespace;
use hull_network::nft::conntrack;
use hull_network::record::{ContainerId, Driver};

use super::addresses;
use super::adopt::note;
use super::change::failed;
use super::claim::Place;
use super::plug::follow_links;
use super::publish::release;
use crate::containers::services::Services;
use crate::{Result, chain};

/// Namespaces of running containers with links that can only be deleted from inside (macvlan). By
/// itself such a link goes some time after the last process; until then it has its hardware
/// address, and a passthru one its parent, and the container's next start would be refused.
#[derive(Debug, Default)]
pub(super) struct Inside(Mutex<HashMap<ContainerId, Namespace>>);

impl Inside {
    /// What panics under the lock leaves a map that is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, Namespace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the namespace of a container with these places, if it is needed at their end.
    pub(super) fn keep(&self, container: &str, places: &[Place], namespace: &Namespace) -> Result<()> {
        if needs_inside(places) {
            let namespace = Namespace::from_fd(namespace.try_clone_fd().map_err(failed)?);
            self.lock().insert(container.to_owned(), namespace);
        } else {
            self.lock().remove(container);
        }
        Ok(())
    }
}

pub(super) fn needs_inside(places: &[Place]) -> bool {
    places.iter().any(|place| matches!(place.record.network.driver, Driver::Macvlan(_)))
}

/// The container has no places any more. What others see goes at once, the links after that.
pub(crate) fn unplug(services: &Services, container: &str) {
    let inside = services.wiring.inside.lock().remove(container);
    cut(services, &part(services, container), inside.as_ref());
    if let Err(error) = note(services.exec_root(), container, &[]) {
        tracing::warn!(container, %error, "what a container had of networks stays on record");
    }
}

/// The first half: rules, names and ports go, and the places are nobody's.
fn part(services: &Services, container: &str) -> Vec<Place> {
    let places = services.networks.leave(container, |_| true);
    forbid(services, &places);
    hull_runtime::failpoint!("engine.network.forbidden");
    for place in &places {
        release(services, container, &place.endpoint.published);
    }
    services.wiring.names.forget(container);
    hull_runtime::failpoint!("engine.network.parted");
    places
}

/// Nobody finds these places any more, and the packet filter allows them nothing: before anybody
/// else can be given their ports.
pub(super) fn forbid(services: &Services, places: &[Place]) {
    services.wiring.names.unset(places);
    services.wiring.relay.shut(services, places);
    services.wiring.local.shut(services, places);
    if let Some(filter) = &services.wiring.filter {
        places.iter().for_each(|place| filter.forget(&place.endpoint.id));
    }
    // Others' links to them must not lead to who has their addresses next.
    if let Err(error) = follow_links(services, places) {
        tracing::warn!(%error, "links to what has gone may still be open");
    }
}

/// The second half. With the `namespace`, the links are gone from it too.
pub(super) fn cut(services: &Services, places: &[Place], namespace: Option<&Namespace>) {
    for place in places {
        let network = &place.record.network;
        if let Some(driver) = services.wiring.drivers.of(network)
            && let Err(error) = driver.detach(network, &place.endpoint, namespace)
        {
            let container = &place.endpoint.container;
            tracing::warn!(container, network = network.name, %error, "a link was not cut");
        }
    }
    hull_runtime::failpoint!("engine.network.cut");
    // Before anybody gets their addresses: known connections are let through.
    places.iter().for_each(forget_connections);
    services.networks.free(places);
}

/// Nothing that was meant for this container reaches the next one at its addresses. Only a bridge's
/// addresses are its containers' alone: those of a wire may be anybody's.
fn forget_connections(place: &Place) {
    if !matches!(place.record.network.driver, Driver::Bridge(_)) {
        return;
    }
    for address in addresses(&place.endpoint) {
        if let Err(error) = conntrack::forget_address(address) {
            let error = chain(&error);
            tracing::warn!(%address, error, "connections of an address' former holder are not forgotten");
        }
    }
}

/// Everything of a container that has ended: what others could see or be given when this returns,
/// the links without anybody waiting for that.
pub(crate) async fn unplug_later(services: &Arc<Services>, container: &str) -> Vec<Place> {
    let inside = services.wiring.inside.lock().remove(container);
    let (shared, id) = (Arc::clone(services), container.to_owned());
    let parted = services.blocking(move || Ok(part(&shared, &id))).await;
    // Without an answer the whole engine is on its way out.
    let places = parted.unwrap_or_default();
    if !places.is_empty() {
        let (shared, own) = (Arc::clone(services), places.clone());
        tokio::task::spawn_blocking(move || cut(&shared, &own, inside.as_ref()));
    }
    places
}
