//! The older links of the default bridge: variables that tell a container where others are.
//!
//! On networks of one's own a link is a name that the resolver answers; on the default bridge,
//! where no names are answered, it is these variables and lines of /etc/hosts. The container has
//! those of the moment at which it starts, an exec those of its own.

use std::net::Ipv4Addr;

use hull_network::record::Protocol;

use crate::containers::services::Services;
use crate::containers::settings::NetworkMode;
use crate::containers::view::{Record, View};
use crate::{Error, Result};

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
    let own = settings.attachments.iter().find(|own| default && own.network == "bridge");
    own.into_iter().flat_map(|own| &own.links).map(|link| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        (name, alias.rsplit('/').next().unwrap_or(alias))
    })
}

fn of_link(services: &Services, record: &Record, name: &str, alias: &str) -> Result<Vec<String>> {
    let other = services.registry.find(name)?.view();
    let address =
        other.places.iter().find_map(|place| place.endpoint.as_ref()?.address4).map(|net| net.addr());
    match address.filter(|_| other.is_running()) {
        Some(address) => Ok(variables(&record.name, alias, address, &other)),
        None => Err(Error::Network(format!(
            "Cannot link to a non running container: /{} AS /{}/{alias}",
            other.name, record.name
        ))),
    }
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
