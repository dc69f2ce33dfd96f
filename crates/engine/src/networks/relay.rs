//! The one forwarder of the host, which carries what the kernel cannot rewrite: TCP to ::1, and to
//! IPv6 addresses of the host for containers that have none.
//!
//! It is started by the first publication that needs it and outlives daemons; each daemon tells it
//! what is published now. Without it everything else goes on.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_network::rules;
use hull_runtime::forwarder::{Client, Target};

use super::claim::Place;
use super::wiring;
use crate::Result;
use crate::containers::services::Services;

/// The way to the forwarder, where one was needed.
#[derive(Debug, Default)]
pub(super) struct Relay(Mutex<Option<Client>>);

impl Relay {
    // What panics under the lock leaves a conversation that fails and is begun anew.
    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the forwarder listens.
    pub(super) fn port(&self) -> Option<u16> {
        self.lock().as_ref().map(|client| client.port)
    }

    /// Leads connections to these places. Blocks, the first time for the forwarder's start.
    pub(super) fn open(&self, services: &Services, places: &[Place]) {
        let targets = targets(services, places);
        if targets.is_empty() {
            return;
        }
        match self.start(services) {
            Ok(false) => {}
            // The rules have to lead to it.
            Ok(true) => {
                if let Err(error) = wiring::apply(services) {
                    tracing::error!(%error, "published ports cannot be reached at ::1");
                }
            }
            Err(error) => {
                tracing::error!(%error, "published ports cannot be reached at ::1");
                return;
            }
        }
        self.tell(|client| client.open(&targets));
    }

    /// No more for these.
    pub(super) fn shut(&self, services: &Services, places: &[Place]) {
        let targets = targets(services, places);
        if !targets.is_empty() {
            self.tell(|client| client.shut(&targets));
        }
    }

    /// Those of all running containers and no others: of a daemon that has just come.
    pub(super) fn replace(&self, services: &Services, places: &[Place]) {
        let targets = targets(services, places);
        if targets.is_empty() {
            return;
        }
        match self.start(services) {
            Ok(_) => self.tell(|client| client.replace(&targets)),
            Err(error) => tracing::error!(%error, "published ports cannot be reached at ::1"),
        }
    }

    /// Tells whether it was not known before.
    fn start(&self, services: &Services) -> Result<bool> {
        let mut client = self.lock();
        if client.is_some() {
            return Ok(false);
        }
        let spawner = services.spawner.client_blocking()?;
        let found = Client::adopt_or_start(&spawner, services.exec_root()).map_err(super::change::failed)?;
        *client = Some(found);
        Ok(true)
    }

    fn tell(&self, say: impl FnOnce(&Client) -> std::result::Result<(), hull_runtime::forwarder::Error>) {
        let mut client = self.lock();
        let Some(found) = &*client else { return };
        if let Err(error) = say(found) {
            tracing::warn!(%error, "the forwarder does not answer; it is looked for again when it is needed");
            *client = None;
        }
    }
}

fn targets(services: &Services, places: &[Place]) -> Vec<Target> {
    let options = services.wiring.options(services);
    let relayed = |place: &Place| rules::relayed(&place.record.network, &place.endpoint, &options);
    let target = |(published, to): (hull_network::record::Published, IpAddr)| {
        let IpAddr::V6(address) = published.address else { return None };
        let (first, last, port) = (published.host.first, published.host.last, published.container.first);
        (first != 0).then_some(Target { address, first, last, to, port })
    };
    places.iter().flat_map(relayed).filter_map(target).collect()
}
