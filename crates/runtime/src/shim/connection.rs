//! The requester's end of a shim's socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hull_sys::{During, Errno};
use rustix::event::{PollFd, PollFlags, Timespec};
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
    /// Has the shim keep copies under a name (1 to 64 bytes), beside what it keeps there already;
    /// at most [`hull_sys::socket::MAX_FDS`] at a time and [`protocol::KEPT_MAX`] in all. Shims
    /// before [`protocol::VERSION_KEEPS`] do not listen.
    Keep { name: &'a str, fds: &'a [BorrowedFd<'a>] },
    /// Has it close what it keeps under a name.
    Drop { name: &'a str },
    /// Asks for everything it keeps: one or more [`Event::Kept`].
    GiveKept,
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
        /// Of the shim's protocol.
        version: u32,
    },
    /// Answers [`Request::GiveKept`]: names and copies of what is kept under them.
    Kept {
        kept: Vec<(String, OwnedFd)>,
        /// Another one follows.
        more: bool,
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
            Request::Keep { name, fds } => {
                protocol::send(&self.socket, &ToShim::Keep { name: name.to_owned() }, fds)
            }
            Request::Drop { name } => {
                protocol::send(&self.socket, &ToShim::Drop { name: name.to_owned() }, &[])
            }
            Request::GiveKept => protocol::send(&self.socket, &ToShim::GiveKept, &[]),
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
                FromShim::Started { pid, at, version, warnings } => {
                    let got = fds.len();
                    let mut fds = fds.into_iter();
                    let Some(pidfd) = fds.next() else {
                        return Err(Error::Descriptors { message: "started", wanted: 1, got });
                    };
                    let root = fds.next();
                    return Ok(Heard::Event(Event::Started { pid, at, pidfd, root, warnings, version }));
                }
                FromShim::Kept { names, more } => {
                    let (wanted, got) = (names.len(), fds.len());
                    if wanted != got {
                        return Err(Error::Descriptors { message: "kept", wanted, got });
                    }
                    let kept = names.into_iter().zip(fds).collect();
                    return Ok(Heard::Event(Event::Kept { kept, more }));
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

/// How long a living shim may take to give what it keeps.
const GIVE_LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Copies of everything that the shim of `id` keeps, with their names; nothing if there is no
/// living shim, or only one that is older than the word. For a daemon that comes back: it asks on a
/// connection of its own and waits for the answer.
pub fn kept(exec_root: &Path, kind: Kind, id: &str) -> Result<Vec<(String, OwnedFd)>, Error> {
    let found = find(exec_root, kind, id).map_err(|source| Error::Send { source })?;
    let Found::Living(connection) = found else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    loop {
        match connection.receive()? {
            Heard::Event(Event::Started { version, .. }) if version < protocol::VERSION_KEEPS => {
                return Ok(all);
            }
            Heard::Event(Event::Started { .. }) => connection.send(Request::GiveKept)?,
            Heard::Event(Event::Kept { kept, more }) => {
                all.extend(kept);
                if !more {
                    return Ok(all);
                }
            }
            // It ended meanwhile, and nothing is kept any more.
            Heard::Event(Event::StartFailed(_) | Event::Exited(_)) | Heard::Closed => return Ok(Vec::new()),
            Heard::Nothing => {
                let mut wait = [PollFd::new(&connection, PollFlags::IN)];
                let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut wait, Some(&GIVE_LIMIT)));
                let ready = ready.and_then(|ready| if ready == 0 { Err(Errno::TIMEDOUT) } else { Ok(()) });
                ready.during("poll", || "a shim's socket").map_err(|source| Error::Receive { source })?;
            }
        }
    }
}
