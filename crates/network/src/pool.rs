//! Network namespaces made ahead, so that a start need not wait for one.
//!
//! Making a namespace, a pair of links and waiting until the bridge takes packets from it costs
//! milliseconds; taking one that is ready costs nothing. For each bridge network in use a few are
//! kept: loopback up, the inner link up and the outer one in the bridge, IPv6 settled, and inside
//! whatever `prepare` makes there (the sockets and the rule of the DNS). One thread makes new ones
//! when some were taken; it sleeps otherwise.
//!
//! A namespace serves one container and never comes back. A ready one is nothing but descriptors of
//! this process: when the process is killed, or the network goes, the kernel deletes the namespace
//! with its links by itself.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hull_sys::Errno;

use crate::bridge;
use crate::driver::{self, random_name};
use crate::namespace::Namespace;
use crate::record::{self, Bridge, Network, NetworkId};
use crate::rtnl::{self, Link, Peer};

/// Ready namespaces of one network: as many as start before the thread has made another on a small
/// machine. Each costs the kernel some 200 KiB.
pub const DEPTH: usize = 3;

/// Networks for which some are kept: those of which one was taken last. With hundreds of networks
/// the rest are made when they are needed.
pub const NETWORKS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Driver(#[from] driver::Error),
    #[error("cannot prepare a network namespace")]
    Prepare(#[source] Box<dyn StdError + Send + Sync>),
}

impl From<rtnl::Error> for Error {
    fn from(error: rtnl::Error) -> Error {
        Error::Driver(error.into())
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A namespace that is ready for one container.
#[derive(Debug)]
pub struct Ready<P> {
    pub namespace: Namespace,
    /// The outer link of the pair, for [`record::Endpoint::host_link`]; empty for a network that is
    /// no bridge: its driver makes the link.
    pub host_link: String,
    /// What was prepared inside.
    pub prepared: P,
    /// To be kept until the container runs.
    pub turn: Turn,
}

/// When it is dropped, what was taken is made again. Not before, because links are made under one
/// lock of the kernel: making the next would delay the container that is being started.
#[derive(Debug)]
pub struct Turn {
    wake: Arc<Condvar>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.wake.notify_all();
    }
}

/// Makes what else belongs into a namespace, on a thread inside it.
pub type Prepare<P> =
    dyn Fn(&Network) -> std::result::Result<P, Box<dyn StdError + Send + Sync>> + Send + Sync;

pub struct Pool<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    state: Mutex<State<P>>,
    wake: Arc<Condvar>,
    prepare: Box<Prepare<P>>,
}

struct State<P> {
    /// The one that was used last is the last.
    shelves: VecDeque<Shelf<P>>,
    closed: bool,
}

struct Shelf<P> {
    network: Network,
    ready: Vec<Ready<P>>,
    /// The last attempt failed: the next is made when somebody asks, and fails for them too.
    failed: bool,
}

impl<P> Drop for Pool<P> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl<P> std::fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.lock();
        f.debug_map()
            .entries(state.shelves.iter().map(|shelf| (&shelf.network.name, shelf.ready.len())))
            .finish()
    }
}

impl<P: Send + 'static> Pool<P> {
    /// For the network namespace of this thread, which the pool's own thread inherits.
    pub fn new(prepare: Box<Prepare<P>>) -> std::io::Result<Pool<P>> {
        let state = State { shelves: VecDeque::new(), closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Arc::default(), prepare });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("pool".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || own.refill())?;
        Ok(Pool { shared })
    }

    /// A namespace for one container, with a pair to the network's bridge if it has one. Made on
    /// the spot if none is ready: this never waits for the thread. The network must be set up.
    pub fn take(&self, network: &Network) -> Result<Ready<P>> {
        let ready = self.shared.lock().shelf(network).and_then(|shelf| {
            shelf.failed = false;
            shelf.ready.pop()
        });
        match ready {
            Some(ready) => Ok(ready),
            None => make(network, &self.shared),
        }
    }

    /// The same around a fresh namespace of the caller's: one that belongs to a user namespace is
    /// made for one container and cannot be made ahead.
    pub fn furnish(&self, network: &Network, namespace: Namespace) -> Result<Ready<P>> {
        furnish(network, namespace, &self.shared)
    }

    /// Has some made for this network from now on.
    pub fn keep(&self, network: &Network) {
        if let Some(shelf) = self.shared.lock().shelf(network) {
            shelf.failed = false;
        }
        self.shared.wake.notify_all();
    }

    /// Before a network is torn down. Its ready ones go.
    pub fn forget(&self, network: &NetworkId) {
        let mut state = self.shared.lock();
        let at = state.shelves.iter().position(|shelf| shelf.network.id == *network);
        let gone = at.and_then(|at| state.shelves.remove(at));
        drop(state);
        drop(gone);
    }

    /// How many are ready now.
    pub fn ready(&self, network: &NetworkId) -> usize {
        let state = self.shared.lock();
        state.shelves.iter().find(|shelf| shelf.network.id == *network).map_or(0, |shelf| shelf.ready.len())
    }
}

impl<P> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Send> Shared<P> {
    /// The thread: makes one at a time for the network that lacks most, until none lacks any.
    fn refill(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(network) = state.lacking().map(|shelf| shelf.network.clone()) else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let made = make(&network, self);
            state = self.lock();
            // The network may have gone meanwhile; then so does what was made for it.
            if let Some(shelf) = state.shelves.iter_mut().find(|shelf| shelf.network.id == network.id) {
                match made {
                    Ok(ready) => shelf.ready.push(ready),
                    Err(_) => shelf.failed = true,
                }
            }
        }
    }
}

impl<P> State<P> {
    /// The shelf of a bridge network, which is now the one used last.
    fn shelf(&mut self, network: &Network) -> Option<&mut Shelf<P>> {
        if !matches!(network.driver, record::Driver::Bridge(_)) {
            return None;
        }
        let at = self.shelves.iter().position(|shelf| shelf.network.id == network.id);
        let shelf = match at.and_then(|at| self.shelves.remove(at)) {
            Some(shelf) => shelf,
            None => Shelf { network: network.clone(), ready: Vec::with_capacity(DEPTH), failed: false },
        };
        if self.shelves.len() >= NETWORKS {
            self.shelves.pop_front();
        }
        self.shelves.push_back(shelf);
        self.shelves.back_mut()
    }

    fn lacking(&self) -> Option<&Shelf<P>> {
        let lacks = |shelf: &&Shelf<P>| !shelf.failed && shelf.ready.len() < DEPTH;
        self.shelves.iter().filter(lacks).min_by_key(|shelf| shelf.ready.len())
    }
}

fn make<P: Send>(network: &Network, shared: &Shared<P>) -> Result<Ready<P>> {
    furnish(network, Namespace::new().map_err(driver::Error::from)?, shared)
}

fn furnish<P: Send>(network: &Network, namespace: Namespace, shared: &Shared<P>) -> Result<Ready<P>> {
    let prepare = &*shared.prepare;
    let (host_link, prepared) = match &network.driver {
        record::Driver::Bridge(bridge) => make_pair(network, bridge, &namespace, prepare)?,
        _ => (String::new(), namespace.enter(|| prepare(network)).map_err(driver::Error::from)?),
    };
    let prepared = prepared.map_err(Error::Prepare)?;
    Ok(Ready { namespace, host_link, prepared, turn: Turn { wake: Arc::clone(&shared.wake) } })
}

type Prepared<P> = std::result::Result<P, Box<dyn StdError + Send + Sync>>;

fn make_pair<P: Send>(
    network: &Network,
    bridge: &Bridge,
    namespace: &Namespace,
    prepare: &Prepare<P>,
) -> Result<(String, Prepared<P>)> {
    let mut socket = rtnl::Socket::open()?;
    let master = bridge::index(&mut socket, network, bridge)?;
    // The name that the first link of most containers has.
    let inner = format!("{}0", bridge.prefix);
    // From inside, where it can be said what the inner end begins with; the socket is the host's.
    let made = namespace.enter(|| -> driver::Result<_> {
        let ends = || make_ends(&mut socket, (bridge, master), namespace, &inner);
        let outer = driver::born(network.ipv6, ends)??;
        driver::prepare_sysctls(&inner, network.ipv6)?;
        Ok((outer, prepare(network)))
    });
    let (outer, prepared) = made.map_err(driver::Error::from)??;
    let missing = || driver::Error::Elsewhere { name: outer.name.clone() };
    let found = namespace.rtnl().map_err(driver::Error::from)?.link(&inner)?;
    let link = found.ok_or_else(missing)?;
    bridge::connect(&mut socket, &outer, master, namespace, &link, network.ipv6)?;
    Ok((outer.name, prepared))
}

/// The pair, its inner end in `namespace`; gives the outer one, under a name that nobody has.
fn make_ends(
    socket: &mut rtnl::Socket,
    (bridge, master): (&Bridge, u32),
    namespace: &Namespace,
    inner: &str,
) -> driver::Result<Link> {
    let mut attempts = 0;
    loop {
        let name = random_name("veth");
        let peer = Peer { name: inner, mac: None, namespace: Some(namespace.as_fd()) };
        match bridge::make_pair(socket, bridge, &name, peer, master) {
            // One in 2^28 for each link of the host.
            Err(driver::Error::Link(error)) if error.errno() == Errno::EXIST && attempts < 3 => attempts += 1,
            made => return made,
        }
    }
}
