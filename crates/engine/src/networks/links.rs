//! The older links of the default bridge: variables that tell a container where others are.
//!
//! On networks of one's own a link is a name that the resolver answers; on the default bridge,
//! where no names are answered, it is these variables and lines of /etc/hosts. The container has
//! the variables of the moment at which it starts, an exec those of its own; the lines follow the
//! others wherever they go ([`super::names`]).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use hull_network::namespace::Namespace;
use hull_network::record::Protocol;

use super::change::failed;
use super::names;
use super::plug::follow_links;
use super::settle::settle_with;
use crate::containers::services::Services;
use crate::containers::settings::{NetworkMode, Settings};
use crate::containers::view::{Record, View};
use crate::{Error, Result};

/// The name of the default bridge's network.
const NETWORK: &str = "bridge";

/// `ALIAS_NAME` and so on for every link, in front of which the container's own variables win.
///
/// # Errors
/// In the reference's words where one of those linked to does not run.
pub(crate) fn environment(services: &Services, record: &Record) -> Result<Vec<String>> {
    let all = links(record).map(|(name, alias)| of_link(services, record, name, alias));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

/// The same for an exec. A link to what does not run any more tells nothing: it is not the exec's
/// fault, and whoever looks for the fault needs it.
pub(crate) fn present(services: &Services, record: &Record) -> Vec<String> {
    links(record)
        .flat_map(|(name, alias)| of_link(services, record, name, alias).unwrap_or_default())
        .collect()
}

/// Names of others, with what this container calls them.
fn links(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let settings = &record.settings;
    let default = settings.network == NetworkMode::Default;
    let own = settings.attachments.iter().find(|own| default && own.network == NETWORK);
    own.into_iter().flat_map(|own| &own.links).map(|link| split(link))
}

/// `NAME:ALIAS`, or `NAME` for both.
fn split(link: &str) -> (&str, &str) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    (name, alias.rsplit('/').next().unwrap_or(alias))
}

fn of_link(services: &Services, record: &Record, name: &str, alias: &str) -> Result<Vec<String>> {
    // A link goes with the other, as in the reference.
    let Ok(other) = services.registry.find(name) else { return Ok(Vec::new()) };
    let other = other.view();
    if !other.is_running() {
        return Err(Error::Network(format!(
            "Cannot link to a non running container: /{} AS /{}/{alias}",
            other.name, record.name
        )));
    }
    // Where both are, whatever other networks it is on.
    let place = other.places.iter().find(|place| place.attachment.network == NETWORK);
    match place.and_then(|place| place.endpoint.as_ref()?.address4) {
        Some(net) => Ok(variables(&record.name, alias, net.addr(), &other)),
        None => Err(Error::Network(format!(
            "Cannot link to /{}, as it does not belong to the default network",
            other.name
        ))),
    }
}

/// Takes a link out of what a container wants; whether it had it.
pub(crate) fn remove(settings: &mut Settings, alias: &str) -> bool {
    let default = settings.network == NetworkMode::Default;
    let own = settings.attachments.iter_mut().find(|own| default && own.network == NETWORK);
    let Some(own) = own else { return false };
    let before = own.links.len();
    own.links.retain(|link| split(link).1 != alias);
    own.links.len() < before
}

/// A running container has this link no more: its line in /etc/hosts goes, and what it opened where
/// containers are kept apart. The container's program keeps the variables that it was given.
pub(crate) fn unlink(services: &Services, record: &Record, alias: &str, process: &OwnedFd) -> Result<()> {
    let namespace = Namespace::of_process(process).map_err(failed)?;
    let before = services.networks.places(&record.id);
    settle_with(services, record, &namespace, Vec::new())?;
    // If the other came later, what the link opened is among what is the other's.
    follow_links(services, &before)?;
    for place in before.iter().filter(|place| !place.record.has_names()) {
        let other = place.endpoint.links.get(alias).map(|other| services.registry.find(other));
        if let Some(Ok(other)) = other {
            names::unlink(services, &record.id, alias, &other.view())?;
        }
    }
    Ok(())
}

fn variables(own: &str, alias: &str, address: Ipv4Addr, other: &View) -> Vec<String> {
    let prefix = alias.to_ascii_uppercase().replace('-', "_");
    let exposed = other.settings.exposed.iter();
    let mut ports: Vec<(u16, Protocol)> = exposed
        .flat_map(|(protocol, range)| (range.first..=range.last).map(|port| (port, *protocol)))
        .collect();
    ports.sort_unstable();
    let mut all = Vec::new();
    for (port, protocol) in ports {
        let protocol = protocol.name();
        // The lowest one is the port of the whole.
        if all.is_empty() {
            all.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
        }
        let one = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
        all.push(format!("{one}={protocol}://{address}:{port}"));
        all.push(format!("{one}_ADDR={address}"));
        all.push(format!("{one}_PORT={port}"));
        all.push(format!("{one}_PROTO={protocol}"));
    }
    all.push(format!("{prefix}_NAME=/{own}/{alias}"));
    let told = other.settings.env.iter().filter_map(|variable| variable.split_once('='));
    let told = told.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    all.extend(told.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    all
}
