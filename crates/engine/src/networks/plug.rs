//! A start: what a container needs of its networks before its process can be launched.
//!
//! ```text
//! claim ─► namespace ─► ports ─► endpoints.json ─► links ─► rules ─► names ─► launch
//! ```
//!
//! `endpoints.json` ([`super::adopt`]) is written before anything else can be seen of the
//! container. Whatever fails on the way is undone by the same steps that an exit takes
//! ([`super::unplug`]).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_network::dns::Sockets;
use hull_network::driver::{DefaultRoute, random_name};
use hull_network::namespace::Namespace;
use hull_network::nft::conntrack;
use hull_network::pool::Turn;
use hull_network::record::{Driver, Network, Protocol};
use hull_network::rules;
use hull_network::ruleset::Elements;

use super::adopt::note;
use super::change::failed;
use super::claim::{Asker, Place, default_routes};
use super::filter::Awaited;
use super::names;
use super::publish::publish;
use super::unplug::unplug;
use crate::containers::services::Services;
use crate::containers::settings::Settings;
use crate::containers::view::Record;
use crate::{Error, Result, chain};

/// How long an address or port is waited for whose container has just ended.
const LEAVING_LIMIT: Duration = Duration::from_secs(2);

/// What a start needs of the network.
#[derive(Debug)]
pub(crate) struct Plugged {
    pub(crate) namespace: OwnedFd,
    /// Of its resolver, for the shim to keep.
    pub(crate) sockets: Sockets,
    /// To be kept until the container runs.
    pub(crate) turn: Option<Turn>,
}

/// The reference's words before everything that fails here.
fn in_start(error: Error) -> Error {
    let text = |error: &dyn std::fmt::Display| format!("failed to set up container networking: {error}");
    match error {
        Error::NoSuchNetwork(_) | Error::NotFound(_) => Error::NotFound(text(&error)),
        Error::Forbidden(_) => Error::Forbidden(text(&error)),
        Error::Invalid(_) => Error::Invalid(text(&error)),
        Error::Conflict(_) => Error::Conflict(text(&error)),
        Error::Network(_) => Error::Network(text(&error)),
        other => other,
    }
}

/// Gives a container that is about to start its namespace with everything in it: `own` if that has
/// to be a certain one.
pub(crate) fn plug(services: &Services, record: &Record, own: Option<OwnedFd>) -> Result<Plugged> {
    let settings = &record.settings;
    let asker = Asker {
        id: &record.id,
        name: &record.name,
        hostname: &settings.hostname,
        exposed: &settings.exposed,
    };
    let claimed = patiently(services, || services.networks.claim(asker, &settings.attachments));
    let plugged = claimed.and_then(|places| {
        hull_runtime::failpoint!("engine.network.claimed");
        wire(services, record, places, own).inspect_err(|_| unplug(services, &record.id))
    });
    plugged.map_err(in_start)
}

/// Tries again while somebody is leaving who may have what is asked for.
pub(super) fn patiently<T>(services: &Services, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        // Asked before: who has left by the time of the refusal may have been its reason.
        let leaving = services.networks.leaving();
        match attempt() {
            Err(Error::Forbidden(_) | Error::Network(_))
                if leaving.somebody && start.elapsed() < LEAVING_LIMIT =>
            {
                services.networks.await_freed(leaving, LEAVING_LIMIT.saturating_sub(start.elapsed()));
            }
            other => return other,
        }
    }
}

fn wire(
    services: &Services,
    record: &Record,
    mut places: Vec<Place>,
    own: Option<OwnedFd>,
) -> Result<Plugged> {
    let settings = &record.settings;
    let routes = routes(&places, settings);
    for place in &mut places {
        place.endpoint.links = known(services, settings, place);
    }
    publish(services, record, &mut places, &routes, Vec::new())?;
    hull_runtime::failpoint!("engine.network.published");
    let (namespace, sockets, turn) = namespace(services, &mut places, own)?;
    for place in &places {
        services.networks.update(&place.endpoint);
    }
    note(services.exec_root(), &record.id, &places)?;
    hull_runtime::failpoint!("engine.network.noted");
    let allowed = allow(services, &places)?;
    services.wiring.inside.keep(&record.id, &places, &namespace)?;
    for (place, route) in places.iter().zip(&routes) {
        attach(services, place, &namespace, *route)?;
    }
    hull_runtime::failpoint!("engine.network.linked");
    allowed.into_iter().try_for_each(Awaited::wait)?;
    led_here(&places);
    hull_runtime::failpoint!("engine.network.attached");
    services.wiring.relay.open(services, &places);
    services.wiring.local.lead(services, &places);
    names::write(services, record, &places)?;
    let names = &services.wiring.names;
    names.set(&places);
    names.serve(services, &record.id, settings, sockets.try_clone().map_err(failed)?);
    hull_runtime::failpoint!("engine.network.named");
    Ok(Plugged { namespace: namespace.try_clone_fd().map_err(failed)?, sockets, turn })
}

/// A namespace that is ready for the first place; the other links are made as they are attached.
fn namespace(
    services: &Services,
    places: &mut [Place],
    own: Option<OwnedFd>,
) -> Result<(Namespace, Sockets, Option<Turn>)> {
    let own = own.map(Namespace::fresh).transpose().map_err(failed)?;
    let Some((first, others)) = places.split_first_mut() else {
        let alone = own.map_or_else(Namespace::new, Ok).map_err(failed)?;
        let sockets = alone.enter(names::sockets).map_err(failed)?.map_err(failed)?;
        return Ok((alone, sockets, None));
    };
    let (pool, network) = (&services.wiring.pool, &first.record.network);
    let ready = match own {
        Some(own) => pool.furnish(network, own),
        None => pool.take(network),
    };
    let ready = ready.map_err(failed)?;
    first.endpoint.host_link = ready.host_link;
    for place in others {
        if let Driver::Bridge(_) = place.record.network.driver {
            place.endpoint.host_link = random_name("veth");
        }
    }
    Ok((ready.namespace, ready.prepared, Some(ready.turn)))
}

/// Clients that have been sending to these ports already are led here from now on; nobody waits for
/// that. For a thread of the engine.
pub(super) fn led_here(places: &[Place]) {
    let published: Vec<_> = places.iter().flat_map(|place| &place.endpoint.published).copied().collect();
    if !published.iter().any(|one| one.protocol == Protocol::Udp) {
        return;
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = conntrack::forget_ports(&published) {
            tracing::warn!(error = chain(&error), "earlier clients of a published port may not reach it");
        }
    });
}

/// Tells the packet filter what these places are allowed; each is to be waited for.
pub(super) fn allow(services: &Services, places: &[Place]) -> Result<Vec<Awaited>> {
    let Some(filter) = &services.wiring.filter else { return Ok(Vec::new()) };
    let options = services.wiring.options(services);
    let allow = |place: &Place| {
        let network = &place.record.network;
        filter.set(&place.endpoint.id, || {
            // Others matter only where containers are kept apart.
            let others = if apart(network) { services.networks.on(&network.id) } else { Vec::new() };
            rules::endpoint_elements(network, &place.endpoint, others.iter(), &options)
        })
    };
    places.iter().map(allow).collect()
}

/// Containers of this network reach each other only as far as links allow it.
fn apart(network: &Network) -> bool {
    matches!(&network.driver, Driver::Bridge(bridge) if !bridge.icc)
}

/// Links to these places, or from them, are not what they were: what they open for others follows.
/// The packet filter does so before it hears of anything that comes later.
pub(super) fn follow_links(services: &Services, places: &[Place]) -> Result<()> {
    let Some(filter) = &services.wiring.filter else { return Ok(()) };
    let options = services.wiring.options(services);
    for place in places.iter().filter(|place| apart(&place.record.network)) {
        let network = &place.record.network;
        for other in services.networks.linked(&place.endpoint) {
            filter.set(&other.endpoint.id, || {
                let all = services.networks.on(&network.id);
                // It may have left by now.
                let now = all.iter().find(|now| now.id == other.endpoint.id);
                now.map_or_else(Elements::new, |now| {
                    rules::endpoint_elements(network, now, all.iter(), &options)
                })
            })?;
        }
    }
    Ok(())
}

/// Where the default routes lead.
pub(super) fn routes(places: &[Place], settings: &Settings) -> Vec<DefaultRoute> {
    let priority = |name: &str| {
        let own = settings.attachments.iter().find(|attachment| attachment.network == name);
        own.map_or(0, |attachment| attachment.gateway_priority)
    };
    default_routes(places, priority)
}

/// Makes a place's link in the container, where it is not there yet.
pub(super) fn attach(
    services: &Services,
    place: &Place,
    namespace: &Namespace,
    route: DefaultRoute,
) -> Result<()> {
    let network = &place.record.network;
    match services.wiring.drivers.of(network) {
        // A macvlan link that is just being deleted may have the parent or the hardware address.
        Some(driver) => {
            patiently(services, || driver.attach(network, &place.endpoint, namespace, route).map_err(failed))
        }
        None => Err(Error::Network(format!("no container can be attached to network {}", network.name))),
    }
}

/// Names that only this container knows, by what they stand for. Those that nobody has by now are
/// left out: on networks of one's own the reference lets them come later.
pub(super) fn known(services: &Services, settings: &Settings, place: &Place) -> BTreeMap<String, String> {
    let own = settings.attachments.iter().find(|own| own.network == place.record.network.name);
    let parse = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let handle = services.registry.find(name).ok()?;
        Some((alias.rsplit('/').next().unwrap_or(alias).to_owned(), handle.id.clone()))
    };
    own.map_or_else(BTreeMap::new, |own| own.links.iter().filter_map(parse).collect())
}
