//! The daemon's end: finding or starting the forwarder, and telling it the targets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use hull_sys::{During, Errno, socket};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, SocketType};

use super::{FromForwarder, Target, ToForwarder, VERSION, listen, socket_path};
use crate::protocol::{self, Received};
use crate::spawner;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Targets of one message, which holds 32 KiB.
const CHUNK: usize = 150;

/// The forwarder could not be found, started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("prepare the forwarder's sockets")]
    Prepare { source: hull_sys::Error },
    #[error("have the spawner start the forwarder")]
    Start { source: Box<spawner::Error> },
    #[error("the forwarder did not answer")]
    Silent,
    #[error("speak to the forwarder")]
    Speak {
        #[from]
        source: protocol::Error,
    },
}

/// A connection to the forwarder. Its descriptor becomes readable when the forwarder has gone: then
/// a new [`Client::adopt_or_start`] and [`Client::replace`] help. Calls block until the forwarder has
/// answered, which takes well below a millisecond.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    pub pid: i32,
    /// To which the host's rules redirect.
    pub port: u16,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Connects to the living forwarder, or has one started in the network namespace of the calling
    /// thread, which is to be the spawner's too. One of another version is told to retire: it keeps
    /// its connections and takes no more. Where the host has no IPv6 there is nothing to forward:
    /// the error is [`Error::Prepare`] with EAFNOSUPPORT.
    pub fn adopt_or_start(spawner: &spawner::Client, exec_root: &Path) -> Result<Client, Error> {
        if let Some(client) = Client::adopt(exec_root)? {
            return Ok(client);
        }
        let path = socket_path(exec_root);
        let prepare = |source| Error::Prepare { source };
        let listener = listen().map_err(prepare)?;
        let _ = rustix::fs::unlink(&path);
        let service = socket::listen(&path, SocketType::SEQPACKET, SocketFlags::NONBLOCK).map_err(prepare)?;
        spawner
            .forwarder(listener.as_fd(), service.as_fd())
            .map_err(|source| Error::Start { source: Box::new(source) })?;
        drop((listener, service));
        Client::connect(&path)?.map(|(client, _)| client).ok_or(Error::Silent)
    }

    /// The same where it is not to be started.
    pub fn adopt(exec_root: &Path) -> Result<Option<Client>, Error> {
        let Some((client, version)) = Client::connect(&socket_path(exec_root))? else { return Ok(None) };
        if version == VERSION {
            return Ok(Some(client));
        }
        // Whether it heard is seen by its socket, which is removed in either case.
        let _ = client.retire();
        Ok(None)
    }

    /// `None`: there is none.
    fn connect(path: &Path) -> Result<Option<(Client, u32)>, Error> {
        let prepare = |source| Error::Prepare { source };
        let socket = match socket::connect(path, SocketType::SEQPACKET, SocketFlags::empty()) {
            Ok(socket) => socket,
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(source) => return Err(Error::Prepare { source }),
        };
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(LIMIT))
                .during("setsockopt", || "SO_RCVTIMEO")
                .map_err(prepare)?;
        }
        match protocol::receive(&socket)? {
            Received::Message(FromForwarder::Hello { version, pid, port }, _) => {
                Ok(Some((Client { socket, pid, port }, version)))
            }
            // It was about to leave.
            Received::Closed => Ok(None),
            Received::Message(..) | Received::Nothing => Err(Error::Silent),
        }
    }

    /// From now on connections for these are taken.
    pub fn open(&self, targets: &[Target]) -> Result<(), Error> {
        targets.chunks(CHUNK).try_for_each(|some| self.ask(&ToForwarder::Open { targets: some.to_vec() }))
    }

    /// What arrives at these sockets of UDP is carried to their targets, each of one port. Replaces what
    /// was carried there to another one.
    pub fn carry(&self, ports: &[(Target, OwnedFd)]) -> Result<(), Error> {
        ports.chunks(socket::MAX_FDS).try_for_each(|some| {
            let sockets: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            let targets = some.iter().map(|(target, _)| *target).collect();
            self.ask_with(&ToForwarder::Carry { targets }, &sockets)
        })
    }

    /// Copies of all sockets that it carries from.
    pub fn carried(&self) -> Result<Vec<OwnedFd>, Error> {
        let mut all = Vec::new();
        loop {
            protocol::send(&self.socket, &ToForwarder::Give { from: all.len() }, &[])?;
            match protocol::receive(&self.socket)? {
                Received::Message(FromForwarder::Given, some) if some.is_empty() => return Ok(all),
                Received::Message(FromForwarder::Given, some) => all.extend(some),
                _ => return Err(Error::Silent),
            }
        }
    }

    /// No more are taken, and those that there are end.
    pub fn shut(&self, targets: &[Target]) -> Result<(), Error> {
        targets.chunks(CHUNK).try_for_each(|some| self.ask(&ToForwarder::Shut { targets: some.to_vec() }))
    }

    /// These and no others: connections of all others end. Those of UDP that are not carried yet are
    /// to be told by [`Client::carry`] besides.
    pub fn replace(&self, targets: &[Target]) -> Result<(), Error> {
        let mut left = targets;
        loop {
            let (now, rest) = left.split_at(left.len().min(CHUNK));
            left = rest;
            self.ask(&ToForwarder::Replace { targets: now.to_vec(), more: !left.is_empty() })?;
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    /// It takes no more connections, and leaves with its last one.
    pub fn retire(&self) -> Result<(), Error> {
        self.ask(&ToForwarder::Retire)
    }

    fn ask(&self, message: &ToForwarder) -> Result<(), Error> {
        self.ask_with(message, &[])
    }

    fn ask_with(&self, message: &ToForwarder, sockets: &[BorrowedFd<'_>]) -> Result<(), Error> {
        protocol::send(&self.socket, message, sockets)?;
        match protocol::receive(&self.socket)? {
            Received::Message(FromForwarder::Done, _) => Ok(()),
            _ => Err(Error::Silent),
        }
    }
}
