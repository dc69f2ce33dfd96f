//! Network namespaces: made, entered, and the netlink socket inside (network_namespaces(7)).
//!
//! A namespace lives as long as a process, a descriptor or a socket of it does. A [`Namespace`] is
//! such a descriptor; it names nothing in a file system, so a daemon that is killed leaves none
//! behind. Network namespaces are each thread's own: whatever has to happen *inside* one — making
//! it, opening sockets, writing sysctls — happens on a thread that ends right afterwards, and no
//! thread of the daemon is ever found in the wrong one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hull_sys::During;
use hull_sys::process::{self, Namespaces};
use rustix::fs::{Mode, OFlags};

use crate::rtnl;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a network namespace")]
    Make(#[source] hull_sys::Error),
    #[error("cannot enter a network namespace")]
    Enter(#[source] hull_sys::Error),
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Link(#[from] rtnl::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

/// In every network namespace `lo` is the first link.
const LOOPBACK: u32 = 1;

/// A network namespace, kept by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    /// Opened inside when it is first needed.
    socket: OnceLock<Mutex<rtnl::Socket>>,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Namespace {
    /// A fresh one with nothing but its loopback link, up.
    pub fn new() -> Result<Namespace> {
        let (fd, mut socket) = on_a_thread(|| -> Result<_> {
            process::unshare_network().map_err(Error::Make)?;
            let fd = current().map_err(Error::Make)?;
            Ok((fd, rtnl::Socket::open()?))
        })??;
        raise_loopback(&mut socket)?;
        Ok(Namespace { fd, socket: OnceLock::from(Mutex::new(socket)) })
    }

    /// One that somebody has just made, as [`Namespace::new`] gives it: for those that belong to a
    /// user namespace, which no thread of this process can make.
    pub fn fresh(fd: OwnedFd) -> Result<Namespace> {
        let namespace = Namespace::from_fd(fd);
        raise_loopback(&mut *namespace.rtnl()?)?;
        Ok(namespace)
    }

    /// Of a descriptor of /proc/PID/ns/net. That it is one is seen when it is used.
    pub fn from_fd(fd: OwnedFd) -> Namespace {
        Namespace { fd, socket: OnceLock::new() }
    }

    /// That of a living process, by its pidfd.
    pub fn of_process(pidfd: impl AsFd) -> Result<Namespace> {
        let fd = enter(pidfd, || current().map_err(Error::Enter))??;
        Ok(Namespace::from_fd(fd))
    }

    /// That of the calling thread.
    pub fn current() -> Result<Namespace> {
        Ok(Namespace::from_fd(current().map_err(Error::Enter)?))
    }

    /// Runs `inside` in this namespace, on a thread of its own, and gives what it gives. What it
    /// opens stays usable.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        enter(&self.fd, inside)
    }

    /// The netlink socket in this namespace, one user at a time.
    pub fn rtnl(&self) -> Result<MutexGuard<'_, rtnl::Socket>> {
        let socket = match self.socket.get() {
            Some(socket) => socket,
            None => {
                let opened = self.enter(rtnl::Socket::open)??;
                self.socket.get_or_init(|| Mutex::new(opened))
            }
        };
        // A conversation that a panic cut short is passed over by its numbers.
        Ok(socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What went through each link, the loopback aside, since it was made. A running container is
    /// asked by its process' namespace ([`Namespace::of_process`]).
    pub fn counters(&self) -> Result<Vec<rtnl::Counters>> {
        let mut counters = self.rtnl()?.counters()?;
        counters.retain(|one| one.link != "lo");
        Ok(counters)
    }

    /// Another descriptor of the same namespace.
    pub fn try_clone_fd(&self) -> Result<OwnedFd> {
        self.fd.try_clone().during("fcntl", || "F_DUPFD_CLOEXEC").map_err(Error::Enter)
    }
}

/// Runs `inside` in the network namespace of `fd` — a descriptor of one, or the pidfd of a process
/// in it — on a thread of its own.
pub fn enter<T: Send>(fd: impl AsFd, inside: impl FnOnce() -> T + Send) -> Result<T> {
    let fd = fd.as_fd();
    on_a_thread(|| {
        process::join(fd, Namespaces::NETWORK).map_err(Error::Enter)?;
        Ok(inside())
    })?
}

fn raise_loopback(socket: &mut rtnl::Socket) -> Result<()> {
    let mut batch = rtnl::Batch::new();
    batch.up(LOOPBACK);
    Ok(socket.run(batch).map(drop)?)
}

fn on_a_thread<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, inside)
            .map_err(Error::Thread)?;
        match thread.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Bytes; reserved, not used, and enough for the encoders of this crate.
const STACK: usize = 512 * 1024;

fn current() -> hull_sys::Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", || path)
}
