//! The requester's end of a shim's socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hull_sys::Errno;
use rustix::net::{SocketFlags, SocketType};

use super::record;
use crate::bundle::{Exit, StartError};
use crate::protocol::{self, Attach, Error, FromShim, Kind, Received, ToShim};

/// What can be asked of a shim.
#[derive(Debug)]
pub enum Request<'a> {
    /// Joins a stream socket to the process. Closing its other end detaches.
    Attach { attach: Attach, socket: BorrowedFd<'a> },
    /// Sets the terminal's size in characters.
    Resize { rows: u16, columns: u16 },
}

/// What a shim tells.
#[derive(Debug)]
pub enum Event {
    /// The process runs. Also the first word on each new connection to a running shim's socket.
    Started {
        /// In the host's pid namespace.
        pid: i32,
        /// Nanoseconds since the epoch.
        at: i64,
        /// Readable when the process has ended; signals go through it.
        pidfd: OwnedFd,
        /// The container's root folder, for reading its files; none for an exec.
        root: Option<OwnedFd>,
        /// What could not be done and was left out, one line each.
        warnings: Vec<String>,
    },
    StartFailed(StartError),
    Exited(Exit),
}

/// What [`Connection::receive`] has got.
#[derive(Debug)]
pub enum Heard {
    Event(Event),
    /// Nothing for now: wait until the descriptor is readable.
    Nothing,
    /// The shim has left.
    Closed,
}

/// A connection to a shim; never blocks. Wait for its descriptor to become readable.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Over a control socket that does not block.
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        Connection { socket }
    }

    /// Says something. A shim that has left is [`Error::Send`] with EPIPE.
    pub fn send(&self, request: Request<'_>) -> Result<(), Error> {
        match request {
            Request::Attach { attach, socket } => {
                protocol::send(&self.socket, &ToShim::Attach(attach), &[socket])
            }
            Request::Resize { rows, columns } => {
                protocol::send(&self.socket, &ToShim::Resize { rows, columns }, &[])
            }
        }
    }

    /// Takes what the shim has said, if anything.
    pub fn receive(&self) -> Result<Heard, Error> {
        loop {
            let (message, fds) = match protocol::receive::<FromShim>(&self.socket)? {
                Received::Message(message, fds) => (message, fds),
                Received::Nothing => return Ok(Heard::Nothing),
                Received::Closed => return Ok(Heard::Closed),
            };
            match message {
                FromShim::Started { pid, at, version: _, warnings } => {
                    let got = fds.len();
                    let mut fds = fds.into_iter();
                    let Some(pidfd) = fds.next() else {
                        return Err(Error::Descriptors { message: "started", wanted: 1, got });
                    };
                    let root = fds.next();
                    return Ok(Heard::Event(Event::Started { pid, at, pidfd, root, warnings }));
                }
                FromShim::StartFailed(error) => return Ok(Heard::Event(Event::StartFailed(error))),
                FromShim::Exited(exit) => return Ok(Heard::Event(Event::Exited(exit))),
                FromShim::Unknown => {}
            }
        }
    }
}

/// What became of a container or exec, as a daemon that knows only its id finds it.
#[derive(Debug)]
pub enum Found {
    /// Its first word will be [`Event::Started`].
    Living(Connection),
    Ended(Exit),
    /// No shim and no record: the host was restarted, it was never started, or its shim was killed
    /// so lately that the spawner has not yet noticed. Its cgroup must be killed before its id is
    /// used again.
    Gone,
}

/// Looks for the shim of `id`.
pub fn find(exec_root: &Path, kind: Kind, id: &str) -> Result<Found, hull_sys::Error> {
    let folder = kind.folder(exec_root, id);
    match hull_sys::socket::connect(&folder.join("shim.sock"), SocketType::SEQPACKET, SocketFlags::NONBLOCK) {
        Ok(socket) => Ok(Found::Living(Connection::new(socket))),
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::CONNREFUSED) => {
            Ok(record::read(&folder)?.map_or(Found::Gone, Found::Ended))
        }
        Err(error) => Err(error),
    }
}
