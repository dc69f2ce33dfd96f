//! What a container has of networks outlives the daemon: how it is noted and taken over.
//!
//! `endpoints.json` lies in the exec root beside the shim's socket, written by rename before
//! anything else can be seen of the container: a daemon that comes after a killed one finds in it
//! what the container has, and a boot forgets it with the container.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hull_network::namespace::Namespace;
use hull_network::record::Endpoint;
use hull_runtime::protocol::Kind;
use hull_runtime::shim;

use super::change::{self, failed};
use super::claim::Place;
use super::names;
use super::settle::{rename, settle_with};
use super::unplug::{cut, forbid, needs_inside};
use crate::containers::services::Services;
use crate::containers::view::Record;
use crate::{Error, Result};

/// The file of a container's places.
fn file(exec_root: &Path, container: &str) -> PathBuf {
    Kind::Container.folder(exec_root, container).join(shim::ENDPOINTS)
}

/// Writes down what the container has; nothing, and the file goes.
pub(super) fn note(exec_root: &Path, container: &str, places: &[Place]) -> Result<()> {
    let path = file(exec_root, container);
    let failed = |call| {
        let path = path.clone();
        move |source| Error::Io { call, path, source }
    };
    if places.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove")(error)),
            _ => Ok(()),
        };
    }
    let endpoints: Vec<&Endpoint> = places.iter().map(|place| &place.endpoint).collect();
    let text = serde_json::to_vec(&endpoints).map_err(|source| Error::Record {
        table: "endpoint",
        id: container.to_owned(),
        source,
    })?;
    let early = path.with_extension("new");
    fs::write(&early, text).map_err(failed("write"))?;
    fs::rename(&early, &path).map_err(failed("rename"))
}

/// What a daemon before this one has noted; nothing readable is nothing.
fn noted(exec_root: &Path, container: &str) -> Vec<Endpoint> {
    /// Bytes. The most ports that one container can publish (65,536 of each protocol, none beside the
    /// other), at both families and 130 bytes each, are half of it.
    const LIMIT: u64 = 128 << 20;
    let path = file(exec_root, container);
    let read = || -> std::io::Result<Vec<Endpoint>> {
        if fs::metadata(&path)?.len() > LIMIT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok(serde_json::from_slice(&fs::read(&path)?)?)
    };
    match read() {
        Ok(endpoints) => endpoints.into_iter().filter(|endpoint| endpoint.container == container).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::error!(container, %error, "what a container has of networks cannot be read");
            Vec::new()
        }
    }
}

/// Takes over what the containers of the last daemon have. Blocks.
pub(crate) fn adopt(services: &Services) -> Result<()> {
    let listed = shim::list(services.exec_root(), Kind::Container);
    let ids =
        listed.map_err(|source| Error::System { doing: "list the shims' folders".to_owned(), source })?;
    let mut found = services.wiring.relay.find(services);
    let mut ports = services.wiring.ports();
    for id in ids {
        let endpoints = noted(services.exec_root(), &id);
        for endpoint in &endpoints {
            ports.adopt(&id, &endpoint.published, &mut found);
        }
        services.networks.adopt(endpoints);
    }
    drop(ports);
    let places: Vec<Place> = services.networks.all_places();
    services.wiring.names.set(&places);
    services.wiring.relay.adopt(services);
    services.wiring.local.lead(services, &places);
    Ok(())
}

/// Names of the host's links. Blocks.
pub(crate) fn links() -> Result<BTreeSet<String>> {
    Ok(change::observe()?.links.into_iter().collect())
}

/// Of a container that outlived its daemon: ends a place that it was about to get or to lose when
/// the daemon died, and makes a link again that has gone. `present` are the host's links.
pub(crate) fn resume(
    services: &Services,
    record: &Record,
    present: &BTreeSet<String>,
    process: &OwnedFd,
) -> Result<()> {
    // Its resolver goes on in this daemon. One without a namespace of ours has none.
    match names::kept(services, &record.id) {
        Ok(Some(sockets)) => services.wiring.names.serve(services, &record.id, &record.settings, sockets),
        Ok(None) => {}
        Err(error) => tracing::error!(container = record.id, %error, "names in a container are not answered"),
    }
    // It may have been renamed without that being noted.
    rename(services, record)?;
    let wanted = |place: &Place| {
        let name = &place.record.network.name;
        record.settings.attachments.iter().any(|own| own.network == *name)
    };
    let places = services.networks.places(&record.id);
    if needs_inside(&places) {
        let namespace = Namespace::of_process(process).map_err(failed)?;
        services.wiring.inside.keep(&record.id, &places, &namespace)?;
    }
    let strays: Vec<String> =
        places.iter().filter(|place| !wanted(place)).map(|place| place.endpoint.id.clone()).collect();
    let broken = places.iter().any(|place| {
        let link = &place.endpoint.host_link;
        wanted(place) && !link.is_empty() && !present.contains(link)
    });
    if strays.is_empty() && !broken {
        return Ok(());
    }
    let gone = services.networks.leave(&record.id, |endpoint| strays.contains(&endpoint.id));
    forbid(services, &gone);
    let namespace = Namespace::of_process(process).map_err(failed)?;
    cut(services, &gone, Some(&namespace));
    let published = gone.into_iter().flat_map(|place| place.endpoint.published).collect();
    settle_with(services, record, &namespace, published)
}
