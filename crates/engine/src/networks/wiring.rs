//! What a container's places are on the host: its namespace, links, ports, rules and names. Plain
//! calls that block; they run away from the async threads.
//!
//! ```text
//! start      claim ─► namespace ─► ports ─► endpoints.json ─► links ─► rules ─► names ─► launch
//! exit       leave ─► rules, names, ports ─► (behind the scenes) links cut ─► addresses free
//! ```
//!
//! `endpoints.json` lies in the exec root beside the shim's socket, written by rename before
//! anything else can be seen of the container: a daemon that comes after a killed one finds in it
//! what the container has, and a boot forgets it with the container. Whatever fails on the way is
//! undone by the same steps that an exit takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hull_network::dns::Sockets;
use hull_network::driver::{DefaultRoute, Drivers, random_name};
use hull_network::forwarding::{self, Before};
use hull_network::namespace::Namespace;
use hull_network::nft::monitor::Monitor;
use hull_network::nft::{Nftables, conntrack, foreign};
use hull_network::pool::{Pool, Turn};
use hull_network::ports::{self, Allocation, Binding, HostPorts, Reach, Wanted};
use hull_network::record::{Attachment, Bridge, Driver, Endpoint, GatewayMode, Network, Published};
use hull_network::rules;
use hull_runtime::protocol::Kind;
use hull_runtime::shim;

use super::change::failed;
use super::claim::{self, Asker, Place, default_routes};
use super::filter::{Awaited, Filter};
use super::names::{self, Names};
use super::record::Defaults;
use super::relay::Relay;
use crate::containers::services::Services;
use crate::containers::settings::{PortRequest, Settings};
use crate::containers::view::Record;
use crate::{Error, Result};

/// In the exec root: what of the host's forwarding was off before it was needed.
const FORWARDING: &str = "forwarding.json";

/// How long an address or port is waited for whose container has just ended.
const LEAVING_LIMIT: Duration = Duration::from_secs(2);

/// The parts of the host that networks are made of.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(super) drivers: Drivers,
    pool: Pool<Sockets>,
    pub(super) names: Names,
    relay: Relay,
    ports: Mutex<Ports>,
    /// `None` where the configuration wants no rules.
    filter: Option<Filter>,
    /// What of the host's forwarding was off.
    forwarding: Mutex<Before>,
}

/// Published ports, and the sockets that keep others from taking them, by container.
#[derive(Debug)]
struct Ports {
    allocation: Allocation,
    held: HashMap<String, Vec<OwnedFd>>,
}

impl Wiring {
    /// For the network namespace of this thread. Blocks.
    pub(crate) fn open(defaults: &Defaults) -> Result<Wiring> {
        let mut drivers = Drivers::new().map_err(failed)?;
        drivers.bridge.loopback = defaults.rules4;
        let pool = Pool::new(Box::new(|_| Ok(names::sockets()?))).map_err(|source| Error::Io {
            call: "start a thread for",
            path: "namespaces".into(),
            source,
        })?;
        let filter = if defaults.rules4 || defaults.rules6 { firewall()? } else { None };
        let ports = Ports { allocation: Allocation::new(ports::ephemeral()), held: HashMap::new() };
        let names = Names::open();
        Ok(Wiring {
            drivers,
            pool,
            names,
            relay: Relay::default(),
            ports: Mutex::new(ports),
            filter,
            forwarding: Mutex::default(),
        })
    }

    /// What a network's, and an endpoint's, rules depend on besides the records.
    pub(super) fn options(&self, services: &Services) -> rules::Options {
        let defaults = services.networks.defaults();
        let before = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        rules::Options {
            ipv4: defaults.rules4,
            ipv6: defaults.rules6,
            guard4: before.v4,
            guard6: before.v6.is_some(),
            direct_routing: defaults.direct_routing,
            relay: self.relay.port(),
        }
    }

    // What panics under the lock leaves ports that are merely taken.
    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's packet filter.
fn firewall() -> Result<Option<Filter>> {
    let tables = Nftables::open().map_err(failed)?;
    let monitor = Monitor::open(tables.port().map_err(failed)?).map_err(failed)?;
    let filter = Filter::start(Box::new(tables))?;
    filter.guard(monitor)?;
    Ok(Some(filter))
}

/// What others' tables do to packets for a container that publishes ports, as warnings. Blocks.
pub(crate) fn obstacles(services: &Services, settings: &Settings) -> Vec<String> {
    let defaults = services.networks.defaults();
    let first = settings.attachments.first();
    let record = first.and_then(|own| services.networks.find(&own.network).ok());
    let Some(record) = record.filter(|_| !wanted(settings).is_empty()) else { return Vec::new() };
    let Driver::Bridge(bridge) = &record.network.driver else { return Vec::new() };
    let concerns = |obstacle: &foreign::Obstacle| {
        (defaults.rules4 && record.network.ipv4 && obstacle.concerns(false))
            || (defaults.rules6 && record.network.ipv6 && obstacle.concerns(true))
    };
    match foreign::obstacles(&bridge.link) {
        Ok(found) => found
            .iter()
            .filter(|obstacle| concerns(obstacle))
            .map(|obstacle| {
                format!("Published ports cannot be reached from other machines: {obstacle} drops what is forwarded to {}", bridge.link)
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "others' rules cannot be read");
            Vec::new()
        }
    }
}

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

/// Gives a container that is about to start its namespace with everything in it.
pub(crate) fn plug(services: &Services, record: &Record) -> Result<Plugged> {
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
        wire(services, record, places).inspect_err(|_| unplug(services, &record.id))
    });
    plugged.map_err(in_start)
}

/// Tries again while somebody is leaving who may have what is asked for.
fn patiently<T>(services: &Services, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(Error::Forbidden(_) | Error::Network(_))
                if services.networks.somebody_leaves() && start.elapsed() < LEAVING_LIMIT =>
            {
                services.networks.await_freed(Duration::from_millis(100));
            }
            other => return other,
        }
    }
}

fn wire(services: &Services, record: &Record, mut places: Vec<Place>) -> Result<Plugged> {
    let settings = &record.settings;
    let routes = routes(&places, settings);
    for place in &mut places {
        place.endpoint.links = known(services, settings, place);
    }
    publish(services, record, &mut places, &routes)?;
    let (namespace, sockets, turn) = namespace(services, &mut places)?;
    for place in &places {
        services.networks.update(&place.endpoint);
    }
    note(services.exec_root(), &record.id, &places)?;
    hull_runtime::failpoint!("engine.network.noted");
    let allowed = allow(services, &places)?;
    for (place, route) in places.iter().zip(&routes) {
        attach(services, place, &namespace, *route)?;
    }
    allowed.into_iter().try_for_each(Awaited::wait)?;
    forget_connections(&places);
    hull_runtime::failpoint!("engine.network.attached");
    services.wiring.relay.open(services, &places);
    names::write(services, record, &places)?;
    let names = &services.wiring.names;
    names.publish(services);
    names.serve(services, &record.id, settings, sockets.try_clone().map_err(failed)?);
    Ok(Plugged { namespace: namespace.try_clone_fd().map_err(failed)?, sockets, turn })
}

/// A namespace that is ready for the first place; the other links are made as they are attached.
fn namespace(services: &Services, places: &mut [Place]) -> Result<(Namespace, Sockets, Option<Turn>)> {
    let Some((first, others)) = places.split_first_mut() else {
        let alone = Namespace::new().map_err(failed)?;
        let sockets = alone.enter(names::sockets).map_err(failed)?.map_err(failed)?;
        return Ok((alone, sockets, None));
    };
    let ready = services.wiring.pool.take(&first.record.network).map_err(failed)?;
    first.endpoint.host_link = ready.host_link;
    for place in others {
        if let Driver::Bridge(_) = place.record.network.driver {
            place.endpoint.host_link = random_name("veth");
        }
    }
    Ok((ready.namespace, ready.prepared, Some(ready.turn)))
}

/// Clients that had these ports of somebody else before are led here from now on.
fn forget_connections(places: &[Place]) {
    for place in places {
        if let Err(error) = conntrack::forget(&place.endpoint.published) {
            tracing::warn!(%error, "connections of a port's former holder are not forgotten");
        }
    }
}

/// Tells the packet filter what these places are allowed; each is to be waited for.
fn allow(services: &Services, places: &[Place]) -> Result<Vec<Awaited>> {
    let Some(filter) = &services.wiring.filter else { return Ok(Vec::new()) };
    let options = services.wiring.options(services);
    let allow = |place: &Place| {
        let network = &place.record.network;
        // Others matter only where containers are kept apart.
        let apart = matches!(&network.driver, Driver::Bridge(bridge) if !bridge.icc);
        let others = if apart { services.networks.on(&network.id) } else { Vec::new() };
        let elements = rules::endpoint_elements(network, &place.endpoint, others.iter(), &options);
        filter.set(&place.endpoint.id, elements)
    };
    places.iter().map(allow).collect()
}

/// The rules of a network, and what it needs of the host's forwarding.
pub(super) fn open_network(services: &Services, network: &Network) -> Result<()> {
    let before = forward(services)?;
    match &services.wiring.filter {
        // What the guard against strangers is made of has changed.
        Some(_) if before => apply(services),
        Some(filter) => {
            let elements = rules::network_elements(network, &services.wiring.options(services));
            filter.set(&network.id, elements)?.wait()
        }
        None => Ok(()),
    }
}

/// Before a network's links go.
pub(super) fn close_network(services: &Services, network: &Network) {
    services.wiring.pool.forget(&network.id);
    if let Some(filter) = &services.wiring.filter {
        filter.forget(&network.id);
    }
}

/// Enables forwarding as far as networks need it; tells whether that changed anything. What was
/// off is on record where a boot forgets it.
pub(super) fn forward(services: &Services) -> Result<bool> {
    if !services.networks.defaults().ip_forward {
        return Ok(false);
    }
    let (networks, _) = services.networks.all();
    let leads_out = |network: &&Network| !network.internal && matches!(network.driver, Driver::Bridge(_));
    let v4 = networks.iter().filter(leads_out).any(|network| network.ipv4);
    let v6 = networks.iter().filter(leads_out).any(|network| network.ipv6);
    let mut before = services.wiring.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
    let path = services.exec_root().join(FORWARDING);
    if *before == Before::default()
        && let Ok(text) = fs::read(&path)
    {
        *before = serde_json::from_slice(&text).unwrap_or_default();
    }
    let old = before.clone();
    forwarding::enable(v4, v6, &mut before).map_err(failed)?;
    if *before == old {
        return Ok(false);
    }
    let text = serde_json::to_vec(&*before).unwrap_or_default();
    fs::write(&path, text).map_err(|source| Error::Io { call: "write", path, source })?;
    Ok(true)
}

/// Makes the tables be what follows from all records. Blocks.
pub(crate) fn apply(services: &Services) -> Result<()> {
    let Some(filter) = &services.wiring.filter else { return Ok(()) };
    let options = services.wiring.options(services);
    filter.whole(|| {
        let (networks, endpoints) = services.networks.all();
        let whole =
            rules::compile(&rules::Input { networks: &networks, endpoints: &endpoints, options: &options });
        let mut owners = HashMap::new();
        for network in &networks {
            owners.insert(network.id.clone(), rules::network_elements(network, &options));
            let on_it = || endpoints.iter().filter(|endpoint| endpoint.network == network.id);
            for endpoint in on_it() {
                let elements = rules::endpoint_elements(network, endpoint, on_it(), &options);
                owners.insert(endpoint.id.clone(), elements);
            }
        }
        (whole, owners)
    })
}

fn routes(places: &[Place], settings: &Settings) -> Vec<DefaultRoute> {
    let priority = |name: &str| {
        let own = settings.attachments.iter().find(|attachment| attachment.network == name);
        own.map_or(0, |attachment| attachment.gateway_priority)
    };
    default_routes(places, priority)
}

fn attach(services: &Services, place: &Place, namespace: &Namespace, route: DefaultRoute) -> Result<()> {
    let network = &place.record.network;
    match services.wiring.drivers.of(network) {
        Some(driver) => driver.attach(network, &place.endpoint, namespace, route).map_err(failed),
        None => Err(Error::Network(format!("no container can be attached to network {}", network.name))),
    }
}

/// Names that only this container knows, by what they stand for. Those that nobody has by now are
/// left out: on networks of one's own the reference lets them come later.
fn known(services: &Services, settings: &Settings, place: &Place) -> BTreeMap<String, String> {
    let own = settings.attachments.iter().find(|own| own.network == place.record.network.name);
    let parse = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let handle = services.registry.find(name).ok()?;
        Some((alias.rsplit('/').next().unwrap_or(alias).to_owned(), handle.id.clone()))
    };
    own.map_or_else(BTreeMap::new, |own| own.links.iter().filter_map(parse).collect())
}

/// Opens the ports of the host on the place that the default route leads through.
fn publish(
    services: &Services,
    record: &Record,
    places: &mut [Place],
    routes: &[DefaultRoute],
) -> Result<()> {
    let wanted = wanted(&record.settings);
    if wanted.is_empty() {
        return Ok(());
    }
    for (place, route) in places.iter_mut().zip(routes) {
        let Driver::Bridge(bridge) = &place.record.network.driver else { continue };
        let binding = binding(bridge, &place.endpoint, *route);
        if binding.ipv4 == Reach::None && binding.ipv6 == Reach::None {
            continue;
        }
        let got = patiently(services, || {
            let mut ports = services.wiring.ports();
            let Ports { allocation, held } = &mut *ports;
            let (published, sockets) = ports::publish(allocation, &record.id, &wanted, &binding)
                .map_err(|error| refused(services, record, &place.endpoint, error))?;
            held.entry(record.id.clone()).or_default().extend(sockets);
            Ok(published)
        });
        place.endpoint.published = got?;
    }
    Ok(())
}

/// The reference's words; who has a port is named as people know it.
fn refused(services: &Services, record: &Record, endpoint: &Endpoint, error: ports::Error) -> Error {
    let error = match error {
        ports::Error::Allocated { address, port, holder } => {
            let name = services.registry.find(&holder).map_or(holder, |handle| handle.view().name.clone());
            ports::Error::Allocated { address, port, holder: name }
        }
        other => other,
    };
    Error::Network(format!(
        "driver failed programming external connectivity on endpoint {} ({}): {}",
        record.name,
        endpoint.id,
        chain(&error)
    ))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Everything that is to be published: what was asked for, and with `-P` what is exposed besides.
fn wanted(settings: &Settings) -> Vec<Wanted> {
    let asked = |one: &PortRequest| Wanted {
        protocol: one.protocol,
        address: one.address,
        host: match one.host {
            None => HostPorts::Random,
            Some(host) if host.count() == one.container.count() => HostPorts::Exactly(host),
            Some(host) if one.container.count() == 1 => HostPorts::OneOf(host),
            Some(host) => HostPorts::Exactly(host),
        },
        container: one.container,
    };
    let mut wanted: Vec<Wanted> = settings.ports.iter().map(asked).collect();
    if settings.publish_all {
        for (protocol, range) in &settings.exposed {
            for port in range.first..=range.last {
                let own = settings.ports.iter();
                let mut own = own.filter(|one| one.protocol == *protocol && one.container.contains(port));
                if own.next().is_none() {
                    let container = hull_network::record::PortRange::one(port);
                    wanted.push(Wanted {
                        protocol: *protocol,
                        address: None,
                        host: HostPorts::Random,
                        container,
                    });
                }
            }
        }
    }
    wanted
}

fn binding(bridge: &Bridge, endpoint: &Endpoint, route: DefaultRoute) -> Binding {
    let reach = |mode: GatewayMode| match mode {
        GatewayMode::Nat | GatewayMode::NatUnprotected => Reach::Translated,
        GatewayMode::Routed => Reach::Routed,
        GatewayMode::Isolated => Reach::None,
    };
    let ipv4 = if route.v4 { reach(bridge.mode4) } else { Reach::None };
    let ipv6 = match endpoint.address6 {
        Some(_) if route.v6 => reach(bridge.mode6),
        Some(_) => Reach::None,
        // Clients that come by IPv6 are led to the container's IPv4 address.
        None if ipv4 == Reach::Translated => Reach::Translated,
        None => Reach::None,
    };
    Binding { default: bridge.binding, ipv4, ipv6 }
}

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
    /// Bytes; far above what the largest range of names and ports takes.
    const LIMIT: u64 = 4 << 20;
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
    let mut ports = services.wiring.ports();
    for id in ids {
        let endpoints = noted(services.exec_root(), &id);
        for endpoint in &endpoints {
            ports.allocation.hold(&id, &endpoint.published);
            hold(&mut ports.held, &id, &endpoint.published);
        }
        services.networks.adopt(endpoints);
    }
    services.wiring.names.publish(services);
    drop(ports);
    let places: Vec<Place> = services.networks.all_places();
    services.wiring.relay.replace(services, &places);
    Ok(())
}

fn hold(held: &mut HashMap<String, Vec<OwnedFd>>, container: &str, published: &[Published]) {
    match ports::reserve(published) {
        Ok(sockets) => held.entry(container.to_owned()).or_default().extend(sockets),
        // Somebody took it while no daemon ran; the rules lead to the container all the same.
        Err(error) => tracing::warn!(container, %error, "a published port is not held"),
    }
}

/// The container has no places any more. What others see goes at once, the links after that.
pub(crate) fn unplug(services: &Services, container: &str) {
    cut(services, &part(services, container, |_| true));
    if let Err(error) = note(services.exec_root(), container, &[]) {
        tracing::warn!(container, %error, "what a container had of networks stays on record");
    }
}

/// The quick half: rules, names and ports go, and the places are nobody's.
pub(crate) fn part(services: &Services, container: &str, which: impl Fn(&Endpoint) -> bool) -> Vec<Place> {
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
fn forbid(services: &Services, places: &[Place]) {
    services.wiring.relay.shut(services, places);
    if let Some(filter) = &services.wiring.filter {
        places.iter().for_each(|place| filter.forget(&place.endpoint.id));
    }
}

/// The slow half.
pub(crate) fn cut(services: &Services, places: &[Place]) {
    for place in places {
        let network = &place.record.network;
        if let Some(driver) = services.wiring.drivers.of(network)
            && let Err(error) = driver.detach(network, &place.endpoint, None)
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
        tokio::task::spawn_blocking(move || cut(&shared, &own));
    }
    places
}

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
        let gone = part(services, &record.id, |endpoint| new.contains(&endpoint.id));
        cut(services, &gone);
        // Whatever was changed for the sake of the new one goes back to what it was.
        if let Err(error) = settle(services, record, &namespace) {
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
    cut(services, &gone);
    let published = gone.into_iter().flat_map(|place| place.endpoint.published).collect();
    let settled = settle_with(services, record, &namespace, published);
    hull_runtime::failpoint!("engine.network.left");
    settled?;
    names::revise(services, record, &before, &services.networks.places(&record.id))
}

/// Names of the host's links. Blocks.
pub(crate) fn links() -> Result<BTreeSet<String>> {
    Ok(super::change::observe()?.links.into_iter().collect())
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
    let wanted = |place: &Place| {
        let name = &place.record.network.name;
        record.settings.attachments.iter().any(|own| own.network == *name)
    };
    let places = services.networks.places(&record.id);
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
    cut(services, &gone);
    let published = gone.into_iter().flat_map(|place| place.endpoint.published).collect();
    let namespace = Namespace::of_process(process).map_err(failed)?;
    settle_with(services, record, &namespace, published)
}

fn settle(services: &Services, record: &Record, namespace: &Namespace) -> Result<()> {
    settle_with(services, record, namespace, Vec::new())
}

/// Makes all of a running container's places what they are to be by now: default routes and
/// published ports may have moved from one to another. `published` are ports that it has besides.
fn settle_with(
    services: &Services,
    record: &Record,
    namespace: &Namespace,
    mut published: Vec<Published>,
) -> Result<()> {
    let mut places = services.networks.places(&record.id);
    let routes = routes(&places, &record.settings);
    for place in &mut places {
        place.endpoint.links = known(services, &record.settings, place);
        published.append(&mut place.endpoint.published);
        if matches!(place.record.network.driver, Driver::Bridge(_)) && place.endpoint.host_link.is_empty() {
            place.endpoint.host_link = random_name("veth");
        }
    }
    let through = |route: &DefaultRoute| route.v4 || route.v6;
    let target = places.iter().zip(&routes).position(|(place, route)| {
        through(route) && matches!(place.record.network.driver, Driver::Bridge(_))
    });
    match target {
        Some(index) if !published.is_empty() => places[index].endpoint.published = published,
        Some(_) => publish(services, record, &mut places, &routes)?,
        None if published.is_empty() => {}
        None => release(services, &record.id),
    }
    for place in &places {
        services.networks.update(&place.endpoint);
    }
    note(services.exec_root(), &record.id, &places)?;
    let allowed = allow(services, &places)?;
    for (place, route) in places.iter().zip(&routes) {
        attach(services, place, namespace, *route)?;
    }
    services.wiring.relay.open(services, &places);
    services.wiring.names.publish(services);
    allowed.into_iter().try_for_each(Awaited::wait)
}

fn release(services: &Services, container: &str) {
    let mut ports = services.wiring.ports();
    ports.allocation.release(container);
    ports.held.remove(container);
}

/// Gives a container's places the names that it has by now.
pub(crate) fn rename(services: &Services, record: &Record) -> Result<()> {
    let mut places = services.networks.places(&record.id);
    if places.is_empty() {
        return Ok(());
    }
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
        place.endpoint.names = claim::names(asker, own.unwrap_or(&Attachment::default()));
        services.networks.update(&place.endpoint);
    }
    services.wiring.names.publish(services);
    note(services.exec_root(), &record.id, &places)
}
