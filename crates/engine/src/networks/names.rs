//! What a container knows by name: its /etc/hosts, /etc/hostname and /etc/resolv.conf, and the
//! resolver that answers it at 127.0.0.11.
//!
//! The texts follow from the container's places ([`hull_network::etc`]), the answers from all
//! records ([`hull_network::dns`]). The resolver's sockets are made with the namespace, a copy is
//! kept by the container's shim, and each daemon serves them anew.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_network::dns::{self, Sockets};
use hull_network::etc::{self, Hosts, Resolv};
use hull_network::record::Driver;
use hull_runtime::protocol::Kind;
use hull_runtime::shim;

use super::addresses;
use super::change::failed;
use super::claim::Place;
use crate::containers::files;
use crate::containers::services::Services;
use crate::containers::settings::Settings;
use crate::containers::view::{Record, View};
use crate::{Config, Error, Result};

/// Under which a shim keeps its container's two sockets.
pub(crate) const KEPT: &str = "dns";
const HOST_RESOLV: &str = "/etc/resolv.conf";

#[derive(Debug)]
pub(super) struct Names {
    /// The thread that answers; `None` where this host has no networks of ours.
    server: Option<dns::Server>,
    /// Held while some container's /etc/hosts is written: it is written for the container's own sake,
    /// and for that of others which it is linked to.
    hosts: Mutex<()>,
}

impl Names {
    /// In the host's network namespace.
    pub(super) fn open() -> Names {
        match dns::Server::start(Path::new(HOST_RESOLV)) {
            Ok(server) => Names { server: Some(server), hosts: Mutex::default() },
            Err(error) => {
                tracing::error!(%error, "names in containers are not answered");
                Names { server: None, hosts: Mutex::default() }
            }
        }
    }

    /// Answers a container from now on.
    pub(super) fn serve(&self, services: &Services, container: &str, settings: &Settings, sockets: Sockets) {
        let Some(server) = &self.server else { return };
        let asked = asked(&services.config, settings);
        let servers = asked.servers.iter().filter_map(|server| server.parse().ok()).collect();
        let host = host_resolv();
        let keeps_bare_names = asked.over(&host).keeps_bare_names();
        let given = settings.extra_hosts.iter().filter_map(|entry| files::split_host(entry));
        let given = given.map(|(name, _)| name.to_owned()).collect();
        server.add(container, sockets, dns::Options { servers, keeps_bare_names, given });
    }

    fn hosts(&self) -> MutexGuard<'_, ()> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, container: &str) {
        if let Some(server) = &self.server {
            server.remove(container);
        }
    }

    /// These are there, or have changed.
    pub(super) fn set(&self, places: &[Place]) {
        if let Some(server) = &self.server {
            places.iter().for_each(|place| server.set(&place.record.network, &place.endpoint));
        }
    }

    /// These are there no more.
    pub(super) fn unset(&self, places: &[Place]) {
        if let Some(server) = &self.server {
            places.iter().for_each(|place| server.unset(&place.endpoint.network, &place.endpoint.container));
        }
    }
}

/// Sockets on a free port of this thread's namespace, and the rules that lead to them.
pub(super) fn sockets() -> hull_sys::Result<Sockets> {
    let sockets = Sockets::open()?;
    dns::redirect(sockets.port())?;
    Ok(sockets)
}

/// Those that the shim of a container has kept.
pub(super) fn kept(services: &Services, container: &str) -> Result<Option<Sockets>> {
    let kept = shim::kept(services.exec_root(), Kind::Container, container);
    let kept = kept.map_err(|source| Error::Shim { source })?;
    let own: Vec<OwnedFd> = kept.into_iter().filter(|(name, _)| name == KEPT).map(|(_, fd)| fd).collect();
    if own.is_empty() {
        return Ok(None);
    }
    Sockets::from_fds(own).map(Some).map_err(failed)
}

/// The host's file, and its path: that behind systemd's stub where it names nobody else.
fn host_resolv() -> (String, &'static str) {
    let text = fs::read_to_string(HOST_RESOLV).unwrap_or_default();
    if etc::names_stub_only(&text)
        && let Ok(behind) = fs::read_to_string(etc::RESOLVED)
    {
        return (behind, etc::RESOLVED);
    }
    (text, HOST_RESOLV)
}

/// What stands in place of the host's settings.
struct Asked<'a> {
    servers: &'a [String],
    search: &'a [String],
    options: &'a [String],
}

fn asked<'a>(config: &'a Config, settings: &'a Settings) -> Asked<'a> {
    fn first<'a>(own: &'a [String], default: &'a [String]) -> &'a [String] {
        if own.is_empty() { default } else { own }
    }
    Asked {
        servers: first(&settings.dns, &config.dns),
        search: first(&settings.dns_search, &config.dns_search),
        options: first(&settings.dns_options, &config.dns_options),
    }
}

impl Asked<'_> {
    fn over<'a>(&'a self, (host, path): &'a (String, &'static str)) -> Resolv<'a> {
        Resolv { host, path, servers: self.servers, search: self.search, options: self.options }
    }
}

/// Its resolver is 127.0.0.11.
fn has_names(places: &[Place]) -> bool {
    places.iter().any(|place| place.record.has_names())
}

fn resolv(services: &Services, settings: &Settings, places: &[Place]) -> String {
    let (host, asked) = (host_resolv(), asked(&services.config, settings));
    let resolv = asked.over(&host);
    let ipv6 = places.iter().any(|place| place.endpoint.gateway6.is_some());
    if has_names(places) { resolv.embedded() } else { resolv.plain(ipv6) }
}

/// Where the container reaches the host: through the first bridge that leads out, else where its
/// bridges are, else, as in the reference, on the default bridge.
fn gateways(services: &Services, places: &[Place]) -> Vec<IpAddr> {
    let bridges = || {
        let own = places.iter().filter(|place| matches!(place.record.network.driver, Driver::Bridge(_)));
        own.flat_map(|place| &place.record.network.subnets).filter_map(|subnet| subnet.gateway).collect()
    };
    let out = places.iter().map(|place| place.record.network.host_at(&place.endpoint));
    let own = out.chain(std::iter::once_with(bridges)).find(|addresses| !addresses.is_empty());
    own.unwrap_or_else(|| default_gateways(services))
}

/// Where the host is on the default bridge; without one, where it is for itself.
pub(crate) fn default_gateways(services: &Services) -> Vec<IpAddr> {
    services.networks.find("bridge").map_or_else(
        |_| vec![Ipv4Addr::LOCALHOST.into()],
        |record| record.network.subnets.iter().filter_map(|subnet| subnet.gateway).collect(),
    )
}

/// Everything in /etc/hosts that is this container's own.
fn with_hosts<T>(
    services: &Services,
    record: &Record,
    places: &[Place],
    use_: impl FnOnce(&Hosts<'_>) -> T,
) -> T {
    let settings = &record.settings;
    let addresses: Vec<IpAddr> = places.iter().flat_map(|place| addresses(&place.endpoint)).collect();
    let extra: Vec<(&str, &str)> =
        settings.extra_hosts.iter().filter_map(|entry| files::split_host(entry)).collect();
    let linked = linked(services, places);
    let linked: Vec<(IpAddr, Vec<&str>)> = linked
        .iter()
        .map(|(address, names)| (*address, names.iter().map(String::as_str).collect()))
        .collect();
    let links: Vec<(IpAddr, &[&str])> =
        linked.iter().map(|(address, names)| (*address, names.as_slice())).collect();
    use_(&Hosts {
        hostname: &settings.hostname,
        domainname: &settings.domainname,
        addresses: &addresses,
        extra: &extra,
        links: &links,
        gateways: &gateways(services, places),
        host_gateway: &services.config.network.host_gateway,
        host_names: !has_names(places),
    })
}

/// Of links on the default bridge: where the other is, and by what names.
fn linked(services: &Services, places: &[Place]) -> Vec<(IpAddr, Vec<String>)> {
    let mut all = Vec::new();
    for place in places.iter().filter(|place| !place.record.has_names()) {
        for (alias, other) in &place.endpoint.links {
            let on_it = services.networks.places(other);
            let on_it = on_it.iter().find(|theirs| theirs.endpoint.network == place.endpoint.network);
            let (Some(theirs), Ok(handle)) = (on_it, services.registry.find(other)) else { continue };
            let view = handle.view();
            let names = link_names(alias, view.hostname(), &view.name);
            all.extend(addresses(&theirs.endpoint).map(|address| (address, names.clone())));
        }
    }
    all
}

/// By what names a container knows another one that it has a link to.
fn link_names(alias: &str, hostname: &str, name: &str) -> Vec<String> {
    let mut names = vec![alias.to_owned()];
    for more in [hostname, name] {
        if !names.iter().any(|known| known == more) {
            names.push(more.to_owned());
        }
    }
    names
}

/// Has running containers with links to this one on the default bridge follow it to where it is now.
fn tell_linkers(services: &Services, record: &Record, places: &[Place]) {
    for place in places.iter().filter(|place| !place.record.has_names()) {
        let now: Vec<IpAddr> = addresses(&place.endpoint).collect();
        for linker in services.networks.linked(&place.endpoint) {
            let aliases = linker.endpoint.links.iter().filter(|(_, other)| **other == record.id);
            for (alias, _) in aliases {
                let names = link_names(alias, &record.settings.hostname, &record.name);
                if let Err(error) = relink(services, &linker.endpoint.container, &names, &now) {
                    let container = &linker.endpoint.container;
                    tracing::warn!(container, alias, %error, "a link's line in /etc/hosts is not up to date");
                }
            }
        }
    }
}

/// The line of a running container's link to another is gone.
pub(super) fn unlink(services: &Services, linker: &str, alias: &str, other: &View) -> Result<()> {
    relink(services, linker, &link_names(alias, other.hostname(), &other.name), &[])
}

fn relink(services: &Services, linker: &str, names: &[String], addresses: &[IpAddr]) -> Result<()> {
    let path = files::etc(&services.config.data_root, linker).hosts;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _held = services.wiring.names.hosts();
    let hosts = read(&path)?;
    let relinked = etc::relink(&hosts, &names, addresses);
    if relinked == hosts { Ok(()) } else { files::write(&path, &relinked) }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Io { call: "read", path: path.to_owned(), source })
}

/// Writes the three files of a container that is about to start.
pub(super) fn write(services: &Services, record: &Record, places: &[Place]) -> Result<()> {
    let paths = files::etc(&services.config.data_root, &record.id);
    {
        let _held = services.wiring.names.hosts();
        files::write(&paths.hosts, &with_hosts(services, record, places, |hosts| hosts.text()))?;
    }
    files::write(&paths.hostname, &format!("{}\n", record.settings.hostname))?;
    files::write(&paths.resolv, &resolv(services, &record.settings, places))?;
    tell_linkers(services, record, places);
    Ok(())
}

/// Has the files of a running container follow a change of its places; what somebody has edited
/// stays as it is.
pub(super) fn revise(services: &Services, record: &Record, before: &[Place], after: &[Place]) -> Result<()> {
    let paths = files::etc(&services.config.data_root, &record.id);
    {
        let lines = |places: &[Place]| with_hosts(services, record, places, |hosts| hosts.lines());
        let _held = services.wiring.names.hosts();
        let hosts = read(&paths.hosts)?;
        let revised = etc::revise(&hosts, &lines(before), &lines(after));
        if revised != hosts {
            files::write(&paths.hosts, &revised)?;
        }
    }
    let text = |places: &[Place]| resolv(services, &record.settings, places);
    let (old, new) = (text(before), text(after));
    if old != new && read(&paths.resolv)? == old {
        files::write(&paths.resolv, &new)?;
    }
    tell_linkers(services, record, after);
    Ok(())
}
