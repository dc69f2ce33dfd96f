//! Connections of the host's own programs to ports at 127.0.0.1: led to containers when they are made.
//!
//! [`hull_network::loopback`] says how. It is a short cut: without it the rules lead there, so what
//! fails here is told and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Mutex, PoisonError};

use hull_network::loopback::{Loopback, Way};
use hull_network::rules;
use hull_runtime::cgroup::Hierarchies;

use super::claim::Place;
use super::record::Defaults;
use crate::chain;
use crate::containers::services::Services;

/// The programs, where the kernel takes them, and what they have been told.
#[derive(Debug, Default)]
pub(crate) struct Local(Option<Mutex<Told>>);

#[derive(Debug)]
struct Told {
    loopback: Loopback,
    /// Whose port it is by now: who had it before must not take it away.
    ways: BTreeMap<SocketAddrV4, SocketAddrV4>,
}

impl Local {
    /// For the network namespace of this thread.
    pub(super) fn open(defaults: &Defaults, cgroups: Option<&Hierarchies>) -> Local {
        let (Some(root), true) = (cgroups.and_then(Hierarchies::unified), defaults.rules4) else {
            return Local::default();
        };
        match Loopback::open(root) {
            Ok(loopback) => Local(Some(Mutex::new(Told { loopback, ways: BTreeMap::new() }))),
            Err(error) => {
                let error = chain(&error);
                tracing::info!(error, "connections to 127.0.0.1 are led by the packet filter alone");
                Local::default()
            }
        }
    }

    /// Leads connections to these places from now on.
    pub(super) fn lead(&self, services: &Services, places: &[Place]) {
        self.change(services, &[], places);
    }

    /// No more to these. When it returns, others may have the ports.
    pub(super) fn shut(&self, services: &Services, places: &[Place]) {
        self.change(services, places, &[]);
    }

    /// For a container that had other places, or published elsewhere.
    pub(super) fn change(&self, services: &Services, before: &[Place], after: &[Place]) {
        let Some(told) = &self.0 else { return };
        let (gone, now) = (ways(services, before), ways(services, after));
        // What panics under the lock leaves a way that the rules know too.
        let Told { loopback, ways } = &mut *told.lock().unwrap_or_else(PoisonError::into_inner);
        for way in gone.iter().filter(|way| !now.contains(way)) {
            if ways.get(&way.from) == Some(&way.to) {
                ways.remove(&way.from);
                forget(loopback, *way);
            }
        }
        for way in now {
            match loopback.set(way) {
                Ok(()) => {
                    ways.insert(way.from, way.to);
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(port = %way.from, error, "connections to a published port take the longer way");
                    ways.remove(&way.from);
                    forget(loopback, way);
                }
            }
        }
    }
}

fn forget(loopback: &Loopback, way: Way) {
    if let Err(error) = loopback.forget(way.from) {
        let error = chain(&error);
        tracing::error!(port = %way.from, error, "connections to a port are led to where it was published before");
    }
}

fn ways(services: &Services, places: &[Place]) -> Vec<Way> {
    let options = rules::Options { ipv4: services.networks.defaults().rules4, ..rules::Options::default() };
    places.iter().flat_map(|place| rules::led(&place.record.network, &place.endpoint, &options)).collect()
}
