//! What a shim says, as the container's task hears it: the runtime's plain connection under
//! tokio's reactor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_runtime::bundle::{Exit, StartError};
use hull_runtime::protocol::{Attach, Kind};
use hull_runtime::shim::{self, Connection, Event, Heard, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::phase::SIGKILL;
use crate::{Error, Result};

/// How long a spawner may take to write the record of a killed shim, in steps.
const STEPS: u32 = 50;
const STEP: Duration = Duration::from_millis(20);

/// One word of a shim.
#[derive(Debug)]
pub(crate) enum Word {
    Started {
        pid: i32,
        at: i64,
        pidfd: OwnedFd,
        warnings: Vec<String>,
    },
    StartFailed(StartError),
    Exited(Exit),
    /// The shim has left without telling an exit (never after [`Word::Exited`]).
    Closed,
}

/// A descriptor for the reactor.
#[derive(Debug)]
pub(crate) struct Ready<T: AsFd>(pub(crate) T);

impl<T: AsFd> AsRawFd for Ready<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Has the reactor watch for input.
pub(crate) fn watch<T: AsFd>(inner: T) -> std::io::Result<AsyncFd<Ready<T>>> {
    watch_for(inner, Interest::READABLE)
}

#[expect(
    deprecated,
    reason = "the replacement is unsafe because of AsRawFd's that lie; Ready holds an AsFd by value and cannot"
)]
pub(crate) fn watch_for<T: AsFd>(inner: T, interest: Interest) -> std::io::Result<AsyncFd<Ready<T>>> {
    AsyncFd::with_interest(Ready(inner), interest)
}

/// A conversation with one shim.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<Ready<Connection>>,
}

impl Link {
    pub(crate) fn new(connection: Connection) -> Result<Link> {
        let socket = watch(connection).map_err(|source| Error::Io {
            call: "register",
            path: PathBuf::from("a shim's socket"),
            source,
        })?;
        Ok(Link { socket })
    }

    /// The next word. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> Word {
        loop {
            let Ok(mut guard) = self.socket.readable().await else { return Word::Closed };
            match self.socket.get_ref().0.receive() {
                Ok(Heard::Event(Event::Started { pid, at, pidfd, warnings, .. })) => {
                    return Word::Started { pid, at, pidfd, warnings };
                }
                // Asked for on connections of their own.
                Ok(Heard::Event(Event::Kept { .. })) => {}
                Ok(Heard::Event(Event::StartFailed(error))) => return Word::StartFailed(error),
                Ok(Heard::Event(Event::Exited(exit))) => return Word::Exited(exit),
                Ok(Heard::Nothing) => guard.clear_ready(),
                Ok(Heard::Closed) => return Word::Closed,
                Err(error) => {
                    tracing::warn!(%error, "a shim's socket cannot be read");
                    return Word::Closed;
                }
            }
        }
    }

    pub(crate) fn attach(&self, attach: Attach, socket: &impl AsFd) -> Result<()> {
        self.send(Request::Attach { attach, socket: socket.as_fd() })
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.send(Request::Resize { rows, columns })
    }

    fn send(&self, request: Request<'_>) -> Result<()> {
        self.socket.get_ref().0.send(request).map_err(|source| Error::Shim { source })
    }
}

/// The exit of a process whose shim left without a word. Nobody holds its streams or can tell how
/// it ends any more, so it is ended: by the shim's spawner, which writes the record first; and from
/// here, because the spawner may have been killed together with the shim. (A parent death signal
/// on the process would reach it before there is a record, and each set-user-id program would get
/// rid of it: prctl(2), PR_SET_PDEATHSIG.)
pub(crate) async fn exit_of(exec_root: &Path, kind: Kind, id: &str, pidfd: Option<OwnedFd>) -> Exit {
    if let Some(pidfd) = pidfd {
        // It may have ended by itself.
        hull_sys::process::signal(&pidfd, SIGKILL).ok();
        if let Ok(pidfd) = watch(pidfd) {
            // An error means that the reactor is going away, and everything with it.
            drop(pidfd.readable().await.map(drop));
        }
    }
    for _ in 0..STEPS {
        if let Ok(shim::Found::Ended(exit)) = shim::find(exec_root, kind, id) {
            return exit;
        }
        tokio::time::sleep(STEP).await;
    }
    Exit { code: 128 + SIGKILL, oom: false, at: hull_sys::time::now() }
}
