//! The older links of the default bridge: variables that tell a container where others are.
//!
//! On networks of one's own a link is a name that the resolver answers; on the default bridge,
//! where no names are answered, it is these variables and lines of /etc/hosts, both of the moment
//! at which the container starts.

use std::net::Ipv4Addr;

use crate::containers::services::Services;
use crate::containers::settings::NetworkMode;
use crate::containers::view::{Record, View};
use crate::{Error, Result};

/// `ALIAS_NAME` and so on for every link, in front of which the container's own variables win.
pub(crate) fn environment(services: &Services, record: &Record) -> Result<Vec<String>> {
    let settings = &record.settings;
    let mut all = Vec::new();
    if settings.network != NetworkMode::Default {
        return Ok(all);
    }
    let own = settings.attachments.iter().find(|own| own.network == "bridge");
    for link in own.iter().flat_map(|own| &own.links) {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        let other = services.registry.find(name)?.view();
        let places = &other.places;
        let address = places.iter().find_map(|place| place.endpoint.as_ref()?.address4).map(|net| net.addr());
        let Some(address) = address.filter(|_| other.is_running()) else {
            return Err(Error::Network(format!(
                "Cannot link to a non running container: /{} AS /{}/{alias}",
                other.name, record.name
            )));
        };
        all.extend(variables(&record.name, alias, address, &other));
    }
    Ok(all)
}

fn variables(own: &str, alias: &str, address: Ipv4Addr, other: &View) -> Vec<String> {
    let prefix = alias.to_ascii_uppercase().replace('-', "_");
    let mut all = Vec::new();
    for (protocol, range) in &other.settings.exposed {
        let protocol = protocol.name();
        for port in range.first..=range.last {
            if all.is_empty() {
                all.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
            }
            let one = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
            all.push(format!("{one}={protocol}://{address}:{port}"));
            all.push(format!("{one}_ADDR={address}"));
            all.push(format!("{one}_PORT={port}"));
            all.push(format!("{one}_PROTO={protocol}"));
        }
    }
    all.push(format!("{prefix}_NAME=/{own}/{alias}"));
    let told = other.settings.env.iter().filter_map(|variable| variable.split_once('='));
    let told = told.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    all.extend(told.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    all
}
