//! A running container's places change: one more, one less, other names.

use std::os::fd::OwnedFd;

use hull_network::driver::random_name;
use hull_network::namespace::Namespace;
use hull_network::record::{Attachment, Driver, Published};

use super::adopt::note;
use super::change::failed;
use super::claim::{self, Asker, Place};
use super::filter::Awaited;
use super::names;
use super::plug::{allow, attach, known, led_here, patiently, routes};
use super::publish::{publish, release};
use super::unplug::{cut, forbid};
use crate::Result;
use crate::containers::services::Services;
use crate::containers::view::Record;

/// One more place for a container that runs.
pub(crate) fn connect(
    services: &Services,
    record: &Record,
    attachment: &Attachment,
    process: &OwnedFd,
) -> Result<()> {
    let settings = &record.settings;
    let asker = Asker {
        id: &record.id,
        name: &record.name,
        hostname: &settings.hostname,
        exposed: &settings.exposed,
    };
    let namespace = Namespace::of_process(process).map_err(failed)?;
    let claimed = patiently(services, || services.networks.claim(asker, std::slice::from_ref(attachment)))?;
    let new: Vec<String> = claimed.iter().map(|place| place.endpoint.id.clone()).collect();
    hull_runtime::failpoint!("engine.network.joining");
    let before: Vec<Place> = services
        .networks
        .places(&record.id)
        .into_iter()
        .filter(|place| !new.contains(&place.endpoint.id))
        .collect();
    let settled = settle(services, record, &namespace);
    if settled.is_err() {
        let gone = services.networks.leave(&record.id, |endpoint| new.contains(&endpoint.id));
        forbid(services, &gone);
        // Ports that moved to the new one for its route's sake go back; others were its own.
        let had = |port: &Published| before.iter().any(|place| place.endpoint.published.contains(port));
        let published = gone.iter().flat_map(|place| place.endpoint.published.iter().copied());
        let (kept, own): (Vec<Published>, Vec<Published>) = published.partition(had);
        release(services, &record.id, &own);
        cut(services, &gone, Some(&namespace));
        // Whatever was changed for the sake of the new one goes back to what it was.
        if let Err(error) = settle_with(services, record, &namespace, kept) {
            tracing::warn!(container = record.id, %error, "a container's networks are not as they were");
        }
    }
    hull_runtime::failpoint!("engine.network.joined");
    settled?;
    names::revise(services, record, &before, &services.networks.places(&record.id))
}

/// One place less.
pub(crate) fn disconnect(
    services: &Services,
    record: &Record,
    network: &str,
    process: &OwnedFd,
) -> Result<()> {
    let namespace = Namespace::of_process(process).map_err(failed)?;
    let before = services.networks.places(&record.id);
    let gone = services.networks.leave(&record.id, |endpoint| endpoint.network == network);
    forbid(services, &gone);
    hull_runtime::failpoint!("engine.network.leaving");
    cut(services, &gone, Some(&namespace));
    let published = gone.into_iter().flat_map(|place| place.endpoint.published).collect();
    let settled = settle_with(services, record, &namespace, published);
    hull_runtime::failpoint!("engine.network.left");
    settled?;
    names::revise(services, record, &before, &services.networks.places(&record.id))
}

fn settle(services: &Services, record: &Record, namespace: &Namespace) -> Result<()> {
    settle_with(services, record, namespace, Vec::new())
}

/// Makes all of a running container's places what they are to be by now: default routes and
/// published ports may have moved from one to another. `published` are ports that it has besides.
pub(super) fn settle_with(
    services: &Services,
    record: &Record,
    namespace: &Namespace,
    mut published: Vec<Published>,
) -> Result<()> {
    let before = services.networks.places(&record.id);
    let mut places = before.clone();
    let routes = routes(&places, &record.settings);
    for place in &mut places {
        place.endpoint.links = known(services, &record.settings, place);
        published.append(&mut place.endpoint.published);
        if matches!(place.record.network.driver, Driver::Bridge(_)) && place.endpoint.host_link.is_empty() {
            place.endpoint.host_link = random_name("veth");
        }
    }
    publish(services, record, &mut places, &routes, published)?;
    for place in &places {
        services.networks.update(&place.endpoint);
    }
    note(services.exec_root(), &record.id, &places)?;
    let allowed = allow(services, &places)?;
    services.wiring.inside.keep(&record.id, &places, namespace)?;
    for (place, route) in places.iter().zip(&routes) {
        attach(services, place, namespace, *route)?;
    }
    services.wiring.relay.change(services, &before, &places);
    services.wiring.local.change(services, &before, &places);
    services.wiring.names.set(&places);
    allowed.into_iter().try_for_each(Awaited::wait)?;
    led_here(&places);
    Ok(())
}

/// Gives a container's places the names that it has by now.
pub(crate) fn rename(services: &Services, record: &Record) -> Result<()> {
    let mut places = services.networks.places(&record.id);
    if places.is_empty() {
        return Ok(());
    }
    let mut changed = false;
    for place in &mut places {
        if !place.record.has_names() {
            continue;
        }
        let name = &place.record.network.name;
        let own = record.settings.attachments.iter().find(|attachment| attachment.network == *name);
        let asker = Asker {
            id: &record.id,
            name: &record.name,
            hostname: &record.settings.hostname,
            exposed: &record.settings.exposed,
        };
        let names = claim::names(asker, own.unwrap_or(&Attachment::default()));
        if names != place.endpoint.names {
            place.endpoint.names = names;
            services.networks.update(&place.endpoint);
            changed = true;
        }
    }
    if !changed {
        return Ok(());
    }
    hull_runtime::failpoint!("engine.network.renaming");
    services.wiring.names.set(&places);
    note(services.exec_root(), &record.id, &places)
}
