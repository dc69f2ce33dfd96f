//! An exit: what a container has of networks is given back.
//!
//! ```text
//! leave ─► rules, names, ports ─► (behind the scenes) links cut ─► addresses free
//! ```
//!
//! What others could see or be given goes first; an address is free when no link has it any more.

use std::sync::Arc;

use hull_network::namespace::Namespace;
use hull_network::record::Endpoint;

use super::adopt::note;
use super::claim::Place;
use super::plug::forget_connections;
use super::publish::release;
use crate::containers::services::Services;

/// The container has no places any more. What others see goes at once, the links after that.
pub(crate) fn unplug(services: &Services, container: &str) {
    cut(services, &part(services, container, |_| true), None);
    if let Err(error) = note(services.exec_root(), container, &[]) {
        tracing::warn!(container, %error, "what a container had of networks stays on record");
    }
}

/// The quick half: rules, names and ports go, and the places are nobody's.
pub(super) fn part(services: &Services, container: &str, which: impl Fn(&Endpoint) -> bool) -> Vec<Place> {
    let places = services.networks.leave(container, which);
    forbid(services, &places);
    // A start that failed early has ports that stand in no place yet.
    let alone = services.networks.places(container).is_empty();
    if alone || places.iter().any(|place| !place.endpoint.published.is_empty()) {
        release(services, container);
    }
    let names = &services.wiring.names;
    if alone {
        names.forget(container);
    }
    if !places.is_empty() {
        names.publish(services);
    }
    places
}

/// Takes what these places were allowed from the packet filter, before anybody else can be given
/// their ports.
pub(super) fn forbid(services: &Services, places: &[Place]) {
    services.wiring.relay.shut(services, places);
    if let Some(filter) = &services.wiring.filter {
        places.iter().for_each(|place| filter.forget(&place.endpoint.id));
    }
}

/// The slow half. With the `namespace` of a container that lives on, the links are gone from it too.
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
    // Before anybody gets their addresses: known connections are let through.
    forget_connections(places);
    services.networks.free(places);
}

/// Everything of a container that has ended, without waiting for it.
pub(crate) fn unplug_later(services: &Arc<Services>, container: &str) -> Vec<Place> {
    let places = part(services, container, |_| true);
    if !places.is_empty() {
        let (shared, own) = (Arc::clone(services), places.clone());
        tokio::task::spawn_blocking(move || cut(&shared, &own, None));
    }
    places
}
