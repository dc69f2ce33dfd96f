//! The container's parent: one small process per container and per exec, forked from the spawner.
//!
//! It holds what must outlive the daemon: the process' exit status (only a parent gets it), the
//! other ends of its pipes or its terminal, and its log. In order:
//!
//! 1. its folder, the empty exit record and the listening socket are made;
//! 2. the bundle or exec is read from its memfd, streams are made, the sockets that came with the
//!    launch are attached, the process is started ([`crate::container`]);
//! 3. `started` is said, and [`life::Life`] passes bytes until the process has ended;
//! 4. the last output is read and logged, the cgroup asked for its out-of-memory kills and removed,
//!    the exit recorded, and only then announced.
//!
//! A shim is a subreaper: what its process leaves behind in a shared pid namespace comes to it and
//! is reaped by it, so that the spawner can take every child it does not know for an orphan.
//!
//! Memory: what the spawner mapped is shared with it; pages are only its own where it wrote. So
//! buffers are made when they are needed and given back after a burst.

mod client;
mod connection;
mod input;
mod keep;
mod life;
pub(crate) mod record;
mod start;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hull_sys::memory::{trim_heap, trim_stack};
use hull_sys::process::Ended;
use hull_sys::{socket, time};
use rustix::net::{SocketFlags, SocketType};

pub use connection::{Connection, Event, Found, Heard, Request, find, kept};
pub use record::{COMMITTING, ENDPOINTS, expect, forget, list};

use crate::bundle::{Exit, StartError, StartErrorKind};
use crate::cgroup::Hierarchies;
use crate::failpoint;
use crate::protocol::{self, FromShim, Kind, Role};

/// What the spawner gives to a new shim.
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) exec_root: PathBuf,
    pub(crate) given: Vec<(Role, OwnedFd)>,
    /// As the spawner has found them, if it could.
    pub(crate) cgroups: Option<Hierarchies>,
}

/// The whole life of a shim, in a fresh fork of the spawner; gives the exit code: 0 unless the
/// requester could not be told how it ended.
pub(crate) fn run(mut order: Order) -> i32 {
    let _ = rustix::thread::set_name(c"hull-shim");
    let Some(at) = order.given.iter().position(|(role, _)| *role == Role::Control) else {
        return 125;
    };
    let (_, control) = order.given.swap_remove(at);
    let folder = order.kind.folder(&order.exec_root, &order.id);
    match live(order, control, &folder) {
        Ok(()) => 0,
        Err((control, error)) => {
            let code = match error.kind {
                StartErrorKind::NotFound => 127,
                StartErrorKind::NotExecutable => 126,
                StartErrorKind::Invalid | StartErrorKind::Host => 128,
            };
            // For a daemon that is killed before it hears.
            let _ = record::write_in(&folder, Exit { code, oom: false, at: time::now() });
            let _ = rustix::fs::unlink(folder.join("shim.sock"));
            match protocol::send(&control, &FromShim::StartFailed(error), &[]) {
                Ok(()) => 0,
                // Nobody there to hear: the record tells.
                Err(protocol::Error::Send { .. }) => 0,
                Err(_) => 125,
            }
        }
    }
}

fn live(order: Order, control: OwnedFd, folder: &Path) -> Result<(), (OwnedFd, StartError)> {
    let prepared = record::create(folder).and_then(|record| {
        let path = folder.join("shim.sock");
        let _ = rustix::fs::unlink(&path);
        let listener = socket::listen(&path, SocketType::SEQPACKET, SocketFlags::NONBLOCK)?;
        Ok((record, listener))
    });
    let (record, listener) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err((control, host(error))),
    };
    failpoint!("shim.start.before");
    let start::Running { mut life, cgroup, shared_pids } = match start::start(order, listener) {
        Ok(running) => running,
        Err(error) => return Err((control, error)),
    };
    failpoint!("shim.start.after");
    life.connections.insert(life::FIRST_NUMBER, control);
    life.begin();
    failpoint!("shim.started");
    // The start was the deepest that this process goes.
    trim_heap();
    trim_stack();
    let ended = life.run();
    failpoint!("shim.exit.reaped");
    if let Some(cgroup) = &cgroup
        && shared_pids
    {
        // With a pid namespace of its own everything has ended with its first process.
        let _ = cgroup.kill();
    }
    life.drain();
    let oom = cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
    if let Some(cgroup) = &cgroup {
        let _ = cgroup.remove();
    }
    let exit = Exit { code: Ended::code(ended), oom, at: time::now() };
    life.end(exit, &record, folder);
    Ok(())
}

/// The host failed the shim itself.
fn host(error: hull_sys::Error) -> StartError {
    StartError { kind: StartErrorKind::Host, message: error.to_string() }
}
