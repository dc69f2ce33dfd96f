//! The one forwarder of the host, which carries what the kernel cannot rewrite: TCP and UDP to ::1,
//! and to IPv6 addresses of the host for containers that have none.
//!
//! It is started by the first publication that needs it and outlives daemons. Whenever one is found
//! or started it is told everything that is published now, and from then on what changes. When it
//! dies another is started ([`watch`]), and the rules lead there. Without it everything else goes on.
//!
//! Of UDP it gets copies of the sockets that hold the published ports. They are told to be let go
//! before a port is free for others, and the next daemon finds them there ([`Relay::find`]).

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hull_network::ports::{RESERVED_MAX, Reserved};
use hull_network::record::{Protocol, Published};
use hull_network::rules;
use hull_runtime::forwarder::{self, Client, Target};
use tokio::sync::Notify;

use super::change::failed;
use super::claim::Place;
use super::wiring;
use crate::Result;
use crate::containers::link;
use crate::containers::services::Services;

/// One that lives shorter than this has died of what it was told, or of the host.
const SHORT: Duration = Duration::from_secs(1);

/// How many of those in a row are followed by another; the next one is started when it is needed.
const SHORT_MAX: u32 = 3;

/// The way to the forwarder, where one was needed.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    /// Held from the reading of the records until the forwarder was told what follows from them:
    /// whoever changes a record says so afterwards, and so comes after it.
    client: Mutex<Option<Client>>,
    /// Rung when another forwarder was found or started.
    another: Arc<Notify>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.another.notify_one();
    }
}

impl Relay {
    // What panics under the lock leaves a conversation that fails and is begun anew.
    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
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
        let known = self.lock().is_some();
        if known {
            tell(&mut self.lock(), |client| {
                client.open(&targets)?;
                client.carry(&sockets(services, &targets))
            });
        } else {
            self.start(services);
        }
    }

    /// The same for a container that had other places, or published elsewhere: what is nowhere any more
    /// is shut.
    pub(super) fn change(&self, services: &Services, before: &[Place], after: &[Place]) {
        let mut gone = targets(services, before);
        let now = targets(services, after);
        gone.retain(|target| !now.contains(target));
        if !gone.is_empty() {
            tell(&mut self.lock(), |client| client.shut(&gone));
        }
        self.open(services, after);
    }

    /// No more for these. Blocks.
    pub(super) fn shut(&self, services: &Services, places: &[Place]) {
        let targets = targets(services, places);
        if !targets.is_empty() {
            tell(&mut self.lock(), |client| client.shut(&targets));
        }
    }

    /// What is said to their sockets of UDP is carried no more, and others can have the ports. Blocks.
    pub(super) fn let_go(&self, services: &Services, places: &[Place]) {
        let mut targets = targets(services, places);
        targets.retain(|target| target.udp);
        if !targets.is_empty() {
            tell(&mut self.lock(), |client| client.shut(&targets));
        }
    }

    /// Finds the last daemon's forwarder, if there is one, and gives what it has kept of ports of UDP.
    /// Blocks.
    pub(super) fn find(&self, services: &Services) -> Vec<Reserved> {
        let found = || -> std::result::Result<_, forwarder::Error> {
            let Some(client) = Client::adopt(services.exec_root())? else { return Ok(Vec::new()) };
            let sockets = client.carried()?;
            *self.lock() = Some(client);
            Ok(sockets)
        };
        let sockets = found().unwrap_or_else(|error| {
            tracing::error!(%error, "the last daemon's forwarder does not answer");
            Vec::new()
        });
        sockets.into_iter().filter_map(Reserved::udp).collect()
    }

    /// Tells the forwarder of the last daemon, or another one, what is published by now: be it
    /// nothing. The rules are made afterwards. Blocks.
    pub(super) fn adopt(&self, services: &Services) {
        let targets = targets(services, &services.networks.all_places());
        let known = self.lock().take();
        let found = match known {
            None if targets.is_empty() => return,
            Some(client) => Ok(client),
            None => client(services),
        };
        match found {
            Ok(client) => {
                let mut own = self.lock();
                *own = Some(client);
                replace(&mut own, services, &targets);
                self.another.notify_one();
            }
            Err(error) => tracing::error!(%error, "published ports cannot be reached at ::1"),
        }
    }

    /// Finds or starts a forwarder where none is known, has the rules lead to it and tells it of all
    /// places.
    fn start(&self, services: &Services) {
        let begin = || -> Result<()> {
            {
                let mut own = self.lock();
                if own.is_some() {
                    return Ok(());
                }
                let found = client(services)?;
                hull_runtime::failpoint!("engine.relay.started");
                *own = Some(found);
            }
            self.another.notify_one();
            wiring::apply(services)
        };
        if let Err(error) = begin() {
            tracing::error!(%error, "published ports cannot be reached at ::1");
        }
        let mut own = self.lock();
        let targets = targets(services, &services.networks.all_places());
        replace(&mut own, services, &targets);
    }

    /// Starts another one where this one has gone and is needed.
    fn revive(&self, services: &Services) {
        {
            let mut own = self.lock();
            if own.as_ref().is_some_and(|client| !gone(client)) {
                return;
            }
            *own = None;
        }
        if !targets(services, &services.networks.all_places()).is_empty() {
            tracing::warn!("the forwarder has gone; starting another");
            self.start(services);
        }
    }

    /// Sends the forwarder away: it takes no more connections, and goes with its last one.
    pub(crate) fn leave(&self) {
        if let Some(client) = self.lock().take()
            && let Err(error) = client.retire()
        {
            tracing::warn!(%error, "the forwarder does not answer, and stays");
        }
    }

    fn connection(&self) -> Option<OwnedFd> {
        self.lock().as_ref()?.as_fd().try_clone_to_owned().ok()
    }
}

fn client(services: &Services) -> Result<Client> {
    let spawner = services.spawner.client_blocking()?;
    Client::adopt_or_start(&spawner, services.exec_root()).map_err(failed)
}

fn replace(own: &mut Option<Client>, services: &Services, targets: &[Target]) {
    tell(own, |client| {
        client.replace(targets)?;
        client.carry(&sockets(services, targets))
    });
}

fn tell(own: &mut Option<Client>, say: impl FnOnce(&Client) -> std::result::Result<(), forwarder::Error>) {
    let Some(client) = own else { return };
    if let Err(error) = say(client) {
        tracing::warn!(%error, "the forwarder does not answer");
        *own = None;
    }
}

/// Its end of the connection is closed.
fn gone(connection: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // A hangup is told without being asked for (poll(2)).
    let mut one = [PollFd::new(connection, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Has another forwarder started whenever one dies, until the services are gone.
pub(crate) fn watch(services: &Arc<Services>) {
    let (another, services) = (Arc::clone(&services.wiring.relay.another), Arc::downgrade(services));
    tokio::spawn(async move {
        let mut short = 0;
        loop {
            another.notified().await;
            let Some(connection) = services.upgrade().map(|services| services.wiring.relay.connection())
            else {
                return;
            };
            let Some(connection) = connection else { continue };
            let start = Instant::now();
            hangup(connection).await;
            short = if start.elapsed() < SHORT { short + 1 } else { 0 };
            if short > SHORT_MAX {
                tracing::error!(
                    "forwarders die as soon as they are started; the next port at ::1 starts another"
                );
                short = 0;
            } else if !revive(&services).await {
                return;
            }
        }
    });
}

async fn revive(services: &Weak<Services>) -> bool {
    let Some(services) = services.upgrade() else { return false };
    let shared = Arc::clone(&services);
    let work = move || {
        shared.wiring.relay.revive(&shared);
        Ok(())
    };
    services.blocking(work).await.is_ok()
}

/// Returns when the other end is closed.
async fn hangup(connection: OwnedFd) {
    let Ok(connection) = link::watch(connection) else { return };
    // Answers to others wake this, too, and are not for it to read.
    while let Ok(mut ready) = connection.readable().await {
        if gone(&connection.get_ref().0) {
            return;
        }
        ready.clear_ready();
    }
}

fn targets(services: &Services, places: &[Place]) -> Vec<Target> {
    // Where the forwarder listens does not matter here, and may be asked under its lock.
    let options = rules::Options { ipv6: services.networks.defaults().rules6, ..rules::Options::default() };
    let relayed = |place: &Place| rules::relayed(&place.record.network, &place.endpoint, &options);
    places.iter().flat_map(relayed).flat_map(|(published, to)| wanted(&published, to)).collect()
}

/// What the forwarder is told of one publication. UDP goes by sockets: there is one a port, and none
/// where ports are too many.
fn wanted(published: &Published, to: IpAddr) -> Vec<Target> {
    let IpAddr::V6(address) = published.address else { return Vec::new() };
    let (first, last, port) = (published.host.first, published.host.last, published.container.first);
    let udp = published.protocol == Protocol::Udp;
    let target = Target { address, first, last, to, port, udp };
    if first == 0 || (udp && published.host.count() > RESERVED_MAX) {
        return Vec::new();
    }
    if !udp {
        return vec![target];
    }
    let one = |(host, port)| Target { first: host, last: host, port, ..target };
    (first..=last).zip(published.container.first..=published.container.last).map(one).collect()
}

/// Those of UDP whose ports are held, with the sockets.
fn sockets(services: &Services, targets: &[Target]) -> Vec<(Target, OwnedFd)> {
    let ports = services.wiring.ports();
    let of_udp = targets.iter().filter(|target| target.udp);
    of_udp.filter_map(|target| Some((*target, ports.datagrams(target.address, target.first)?))).collect()
}
