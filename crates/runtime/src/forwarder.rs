//! The one process that carries TCP and UDP to containers where the kernel cannot rewrite it.
//!
//! A packet for ::1 cannot be sent on to a container: IPv6 has no `route_localnet`, and a container
//! without IPv6 cannot be sent IPv6 at all. The host's rules redirect TCP to one listening socket
//! here; the address that was meant is the connection's original destination
//! (`IP6T_SO_ORIGINAL_DST`), and a table says which container that is. Bytes go through pipes by
//! splice(2) and are never seen.
//!
//! A redirected datagram does not tell what its destination was, so UDP is not redirected: it arrives
//! at the socket by which the daemon holds the published port, and the forwarder has a copy of that
//! one ([`datagrams`]). With it the port stays held while no daemon runs, and the next one gets it
//! from here.
//!
//! There is one for the whole host, whatever is published. It is forked from the spawner when it is
//! first needed and outlives daemons, so connections do:
//!
//! ```text
//!   daemon                                         forwarder (<exec root>/forwarder.sock)
//!     │── connects ───────────────────────────────────►│  any number of times
//!     │◄── hello {version, pid, port} ─────────────────│
//!     │── open, shut, replace {targets} ──────────────►│  shut ends the connections of a target
//!     │── carry {targets} + UDP sockets ──────────────►│  (since 2)
//!     │◄── done ───────────────────────────────────────│  once for each; new connections see it
//!     │── give {from} ────────────────────────────────►│  (since 2)
//!     │◄── given + the UDP sockets from that number on │  without any: there are no more
//!     │── retire ─────────────────────────────────────►│  takes no more, leaves with its last one
//! ```
//!
//! It needs no right and has none: no capability, no path but its socket's. Of every connection it
//! keeps six descriptors and what two pipes hold (64 KiB each way); past [`CONNECTIONS_MAX`] the next
//! ones wait in the listening socket's queue. One epoll loop, edge-triggered; who has more to send
//! than one round takes goes to the end of the queue.

mod client;
mod datagrams;
mod stream;
mod table;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hull_sys::{During, Errno, socket};
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

pub use client::{Client, Error};
pub use table::Target;

use crate::protocol::{self, Received, Role};
use crate::spawner::{inode, watch_folder};
use datagrams::Datagrams;
use stream::{Pumped, Stream};
use table::Table;

/// Counts the additions to the words below.
pub const VERSION: u32 = 2;
/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 4096;
/// Daemons that are connected at a time; there is one, or two for a moment.
const DAEMONS_MAX: usize = 16;
/// Targets that the table has room for.
const TARGETS_MAX: usize = 1 << 17;
/// Descriptors of one connection: two sockets, two pipes.
const DESCRIPTORS: usize = 6;

/// What is said to the forwarder. Words are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum ToForwarder {
    Open {
        targets: Vec<Target>,
    },
    Shut {
        targets: Vec<Target>,
    },
    /// These, once there are no more to come, instead of all that were.
    Replace {
        targets: Vec<Target>,
        #[serde(default)]
        more: bool,
    },
    /// Of UDP, with the socket of each.
    Carry {
        targets: Vec<Target>,
    },
    /// Asks for the sockets of UDP, but for the first ones.
    Give {
        from: usize,
    },
    Retire,
    #[serde(other)]
    Unknown,
}

/// What the forwarder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum FromForwarder {
    Hello {
        version: u32,
        pid: i32,
        /// To which connections are redirected.
        port: u16,
    },
    Done,
    /// With as many sockets as there are, at most [`socket::MAX_FDS`].
    Given,
    #[serde(other)]
    Unknown,
}

/// Where it is found.
pub(crate) fn socket_path(exec_root: &std::path::Path) -> PathBuf {
    exec_root.join("forwarder.sock")
}

/// The whole life of the forwarder, in a fresh fork of the spawner; gives the exit code.
pub(crate) fn run(path: PathBuf, given: Vec<(Role, OwnedFd)>) -> i32 {
    let (mut listener, mut service) = (None, None);
    for (role, fd) in given {
        match role {
            Role::Relay => listener = Some(fd),
            Role::Service => service = Some(fd),
            _ => {}
        }
    }
    let (Some(listener), Some(service)) = (listener, service) else { return 125 };
    let _ = rustix::thread::set_name(c"hull-forwarder");
    match Forwarder::new(path, listener, service).and_then(Forwarder::serve) {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

const LISTENER: u64 = 0;
const SERVICE: u64 = 1;
const FOLDER: u64 = 2;
/// Daemons have the numbers from here to [`FIRST_STREAM`]; a stream has two, one for each side. Ports
/// and flows of UDP have those from [`FIRST_DATAGRAM`] on.
const FIRST_DAEMON: u64 = 16;
const FIRST_STREAM: u64 = 1 << 32;
const FIRST_DATAGRAM: u64 = 1 << 62;

struct Forwarder {
    path: PathBuf,
    inode: Option<u64>,
    epoll: OwnedFd,
    listener: OwnedFd,
    port: u16,
    /// The listening socket is watched: there is room for more connections.
    accepting: bool,
    /// `None` once retired.
    service: Option<OwnedFd>,
    folder: OwnedFd,
    daemons: HashMap<u64, OwnedFd>,
    table: Table,
    /// Pieces of a table that replaces this one.
    coming: Vec<Target>,
    streams: HashMap<u64, Stream>,
    /// Streams that had more to move when their round was over.
    unfinished: VecDeque<u64>,
    datagrams: Datagrams,
    next_daemon: u64,
    next_stream: u64,
    most: usize,
}

impl Forwarder {
    fn new(path: PathBuf, listener: OwnedFd, service: OwnedFd) -> hull_sys::Result<Forwarder> {
        let address = rustix::net::getsockname(&listener)
            .and_then(SocketAddrV6::try_from)
            .during("getsockname", || "the listening socket")?;
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        // What is left besides is for daemons, and for what they send at a time.
        let files = usize::try_from(files.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).saturating_sub(64);
        let [ports, flows] =
            [datagrams::PORTS_MAX, datagrams::FLOWS_MAX].map(|most| (files / 8).clamp(1, most));
        let most = ((files - ports - flows) / DESCRIPTORS).clamp(1, CONNECTIONS_MAX);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("epoll_create1", || "")?;
        let folder = watch_folder(&path)?;
        for (fd, data) in [(&listener, LISTENER), (&service, SERVICE), (&folder, FOLDER)] {
            watch(&epoll, fd, data, epoll::EventFlags::IN)?;
        }
        let none = CapabilitySet::empty();
        let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, nothing).during("capset", || "none")?;
        Ok(Forwarder {
            inode: inode(&path),
            path,
            epoll,
            listener,
            port: address.port(),
            accepting: true,
            service: Some(service),
            folder,
            daemons: HashMap::new(),
            table: Table::default(),
            coming: Vec::new(),
            streams: HashMap::new(),
            unfinished: VecDeque::new(),
            datagrams: Datagrams::new(FIRST_DATAGRAM, ports, flows),
            next_daemon: FIRST_DAEMON,
            next_stream: FIRST_STREAM,
            most,
        })
    }

    /// Until it has retired and the last connection has ended.
    fn serve(mut self) -> hull_sys::Result<()> {
        while self.service.is_some() || !self.streams.is_empty() {
            let mut events = Vec::with_capacity(64);
            // What is unfinished goes on, but not before others have had their turn.
            let limit =
                if self.unfinished.is_empty() { self.datagrams.limit() } else { Some(Duration::ZERO) };
            let limit = limit.and_then(|limit| rustix::time::Timespec::try_from(limit).ok());
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).during("epoll_wait", || "the forwarder's sources"),
            }
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    SERVICE => self.welcome(),
                    FOLDER => self.look_for_socket(),
                    number if number >= FIRST_DATAGRAM => self.datagrams.pump(&self.epoll, number),
                    number if number >= FIRST_STREAM => self.pump(number & !1),
                    number => self.hear(number),
                }
            }
            for _ in 0..self.unfinished.len() {
                if let Some(number) = self.unfinished.pop_front() {
                    self.pump(number);
                }
            }
            self.datagrams.sweep(Instant::now());
        }
        Ok(())
    }

    /// Whose socket was removed can be found by nobody any more.
    fn look_for_socket(&mut self) {
        let mut events = [0; 4096];
        while rustix::io::read(&self.folder, &mut events).is_ok_and(|got| got > 0) {}
        if inode(&self.path) != self.inode {
            self.retire();
        }
    }

    fn retire(&mut self) {
        if self.service.take().is_some() {
            self.stop_accepting();
            self.datagrams.retain(&self.epoll, |_| false);
            if inode(&self.path) == self.inode {
                let _ = rustix::fs::unlink(&self.path);
            }
        }
    }

    fn welcome(&mut self) {
        let Some(service) = &self.service else { return };
        let Ok(Some(daemon)) = protocol::accept(service) else { return };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let hello = FromForwarder::Hello { version: VERSION, pid, port: self.port };
        if self.daemons.len() < DAEMONS_MAX
            && protocol::send(&daemon, &hello, &[]).is_ok()
            && watch(&self.epoll, &daemon, self.next_daemon, epoll::EventFlags::IN).is_ok()
        {
            self.daemons.insert(self.next_daemon, daemon);
            self.next_daemon += 1;
        }
    }

    fn hear(&mut self, number: u64) {
        while let Some(daemon) = self.daemons.get(&number) {
            match protocol::receive(daemon) {
                Ok(Received::Message(ToForwarder::Give { from }, _)) => {
                    let some = self.datagrams.sockets().skip(from).take(socket::MAX_FDS);
                    let some: Vec<BorrowedFd<'_>> = some.map(AsFd::as_fd).collect();
                    if protocol::send(daemon, &FromForwarder::Given, &some).is_err() {
                        self.daemons.remove(&number);
                    }
                }
                Ok(Received::Message(message, sockets)) => {
                    self.heed(message, sockets);
                    let Some(daemon) = self.daemons.get(&number) else { return };
                    if protocol::send(daemon, &FromForwarder::Done, &[]).is_err() {
                        self.daemons.remove(&number);
                    }
                }
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) | Err(_) => drop(self.daemons.remove(&number)),
            }
        }
    }

    fn heed(&mut self, message: ToForwarder, sockets: Vec<OwnedFd>) {
        match message {
            ToForwarder::Open { targets } => {
                if self.table.len() + targets.len() <= TARGETS_MAX {
                    targets.into_iter().for_each(|target| self.table.open(target));
                }
            }
            ToForwarder::Shut { targets } => {
                targets.iter().for_each(|target| self.table.shut(target));
                self.datagrams.retain(&self.epoll, |target| !targets.contains(target));
            }
            ToForwarder::Carry { targets } => {
                for (target, socket) in targets.into_iter().zip(sockets) {
                    self.datagrams.carry(&self.epoll, target, socket);
                }
            }
            ToForwarder::Replace { targets, more } => {
                if self.coming.len() + targets.len() <= TARGETS_MAX {
                    self.coming.extend(targets);
                }
                if !more {
                    self.table = Table::default();
                    let all: HashSet<Target> = std::mem::take(&mut self.coming).into_iter().collect();
                    self.datagrams.retain(&self.epoll, |target| all.contains(target));
                    all.into_iter().for_each(|target| self.table.open(target));
                }
            }
            ToForwarder::Retire => self.retire(),
            ToForwarder::Give { .. } | ToForwarder::Unknown => {}
        }
        let table = &self.table;
        let over = |(number, stream): (&u64, &Stream)| (!table.has(&stream.target)).then_some(*number);
        for number in self.streams.iter().filter_map(over).collect::<Vec<u64>>() {
            self.end(number, true);
        }
    }

    fn accept(&mut self) {
        while self.accepting {
            if self.streams.len() >= self.most {
                return self.stop_accepting();
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(client) => self.begin(client),
                Err(Errno::AGAIN) => return,
                // Until one of those that there are has ended.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
                    if !self.streams.is_empty() =>
                {
                    return self.stop_accepting();
                }
                // The client has gone again.
                Err(_) => {}
            }
        }
    }

    fn stop_accepting(&mut self) {
        if std::mem::take(&mut self.accepting) {
            let _ = epoll::delete(&self.epoll, &self.listener);
        }
    }

    /// A connection that leads nowhere is refused, as the container's own would be.
    fn begin(&mut self, client: OwnedFd) {
        let meant = sockopt::ipv6_original_dst(&client).ok();
        let found = meant.and_then(|meant| self.table.find(*meant.ip(), meant.port()));
        let Some((target, to)) = found else { return stream::reset(&client) };
        let Ok(server) = connect(to) else { return stream::reset(&client) };
        let Ok(stream) = Stream::new(client, server, target) else { return };
        let number = self.next_stream;
        self.next_stream += 2;
        let sides = stream.sides.iter().zip([number, number + 1]);
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let watched =
            sides.map(|(side, number)| watch(&self.epoll, side, number, flags)).all(|done| done.is_ok());
        self.streams.insert(number, stream);
        if !watched {
            self.end(number, true);
        }
    }

    fn pump(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match stream.pump() {
            Ok(Pumped::Waits) => {}
            Ok(Pumped::More) => {
                if !self.unfinished.contains(&number) {
                    self.unfinished.push_back(number);
                }
            }
            Ok(Pumped::Over) => self.end(number, false),
            Err(_) => self.end(number, true),
        }
    }

    fn end(&mut self, number: u64, abruptly: bool) {
        let Some(stream) = self.streams.remove(&number) else { return };
        if abruptly {
            stream.sides.iter().for_each(stream::reset);
        }
        drop(stream);
        if !self.accepting
            && self.service.is_some()
            && watch(&self.epoll, &self.listener, LISTENER, epoll::EventFlags::IN).is_ok()
        {
            self.accepting = true;
        }
    }
}

fn watch(epoll: &OwnedFd, fd: impl AsFd, data: u64, flags: epoll::EventFlags) -> hull_sys::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(data), flags).during("epoll_ctl", || "EPOLL_CTL_ADD")
}

/// Begins a connection to a container, without waiting for it.
fn connect(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Where the socket may be that connections are redirected to, the highest first: above the ports that
/// the kernel gives to those who ask for none (ip-sysctl, `ip_local_port_range`: up to 60999), so
/// that it is not in the way of a wide range that somebody publishes.
const PORTS: std::ops::RangeInclusive<u16> = 61000..=65535;

/// The socket that connections are redirected to: IPv6 alone.
pub(crate) fn listen() -> hull_sys::Result<OwnedFd> {
    let what = || "the forwarder's socket";
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, Some(ipproto::TCP))
            .during("socket", what)?;
    sockopt::set_ipv6_v6only(&socket, true).during("setsockopt", what)?;
    for port in PORTS.rev().chain([0]) {
        let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
        match rustix::net::bind(&socket, &any) {
            Err(Errno::ADDRINUSE) if port != 0 => {}
            bound => {
                bound.during("bind", what)?;
                break;
            }
        }
    }
    rustix::net::listen(&socket, 1024).during("listen", what)?;
    Ok(socket)
}

#[doc(hidden)]
pub mod fuzz {
    use super::*;

    pub fn fuzz_messages(data: &[u8]) {
        let _ = serde_json::from_slice::<ToForwarder>(data);
        let _ = serde_json::from_slice::<FromForwarder>(data);
    }
}
