//! The process that all shims and workers are forked from.
//!
//! Why a process of its own: a fork costs what its parent has mapped, and a daemon has much; a
//! threaded process cannot fork safely at all; and containers must not depend on the daemon's
//! life. So the spawner is small, has one thread, and does next to nothing:
//!
//! - it runs from a sealed copy of its executable in memory, so that whoever gets hold of
//!   `/proc/PID/exe` of a shim finds nothing to write to (class K03 of the attacks we know);
//! - it forks on request, and parses nothing but the request's few words: bundles, and the secrets
//!   in them, are read by the shim, so none is in the memory that the next shim inherits;
//! - it is the reaper of what killed shims leave behind: it kills that, records the exit, and says
//!   so in the shim's place (the table in [`crate::protocol`]).
//!
//! One epoll loop; nothing is ever polled. It leaves when it was told to retire, or its socket was
//! removed, and its last child has ended.

mod client;
mod reaper;

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::runtime::IdMapping;
use hull_sys::offspring::fork_with;
use hull_sys::process::{self, Ended, Forked, Namespaces};
use hull_sys::signal::SignalFd;
use hull_sys::{During, Errno, memfd};
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::process::{Pid, Resource, Rlimit};

pub use client::{Client, Error, Files, Job, Launch, Listed, View, filter_document};

use crate::cgroup::Hierarchies;
use crate::container::users;
use crate::failpoint;
use crate::protocol::{self, FromSpawner, Kind, Outcome, Received, Role, ToSpawner, Work};
use crate::{forwarder, shim, worker};

/// Where a spawner works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub exec_root: PathBuf,
    /// The path of the listening socket that is its standard input.
    pub socket: PathBuf,
}

/// `hull-runtime spawner EXEC_ROOT SOCKET`, with the listening socket as standard input. The
/// process that is called ends at once, its child is the spawner: it belongs to nobody.
pub fn run(options: Options) -> hull_sys::Result<Infallible> {
    if !runs_from_sealed_memory()? {
        return Err(seal_and_execute()?);
    }
    if let Forked::Parent(_) = process::fork()? {
        process::exit_now(0);
    }
    let listener = detach()?;
    let open_files = rustix::process::getrlimit(Resource::Nofile);
    // A descriptor per shim is kept here. The shims get the old limit back.
    let most = Rlimit { current: open_files.maximum, maximum: open_files.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, most);
    let signals = SignalFd::new(&[rustix::process::Signal::CHILD.as_raw()])?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("epoll_create1", || "")?;
    watch(&epoll, &listener, LISTENER)?;
    watch(&epoll, &signals, SIGNALS)?;
    let folder = watch_folder(&options.socket)?;
    let inode = inode(&options.socket);
    watch(&epoll, &folder, FOLDER)?;
    let spawner = Spawner {
        options,
        open_files,
        epoll,
        listener: Some(listener),
        signals,
        folder,
        inode,
        connections: HashMap::new(),
        next: FIRST_CONNECTION,
        children: HashMap::new(),
        // A failure is a shim's to tell, which tries again.
        cgroups: Hierarchies::detect().ok(),
        lost: Vec::new(),
    };
    spawner.serve()
}

fn runs_from_sealed_memory() -> hull_sys::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/exe", flags, Mode::empty()).during("open", || "/proc/self/exe")?;
    // A file that is no memfd has no seals to ask for: EINVAL.
    Ok(rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

/// Comes back only with the error of the exec.
fn seal_and_execute() -> hull_sys::Result<hull_sys::Error> {
    let bytes = std::fs::read("/proc/self/exe").during("read", || "/proc/self/exe")?;
    let sealed = memfd::sealed_executable(c"hull-runtime", &bytes)?;
    drop(bytes);
    let args: Vec<OsString> = std::env::args_os().collect();
    let args = process::Strings::new(args.iter().map(|arg| arg.as_encoded_bytes()))?;
    let kept = std::env::var_os(failpoint::VARIABLE).map(|file| {
        let mut entry = OsString::from(format!("{}=", failpoint::VARIABLE));
        entry.push(file);
        entry
    });
    let env = process::Strings::new(kept.iter().map(|entry| entry.as_encoded_bytes()))?;
    // Of its starter's descriptors the spawner keeps the listener alone.
    process::close_on_exec_from(3)?;
    let errno = process::exec_fd(&sealed, &args, &env);
    Ok(hull_sys::Error::new("execveat", errno, "a sealed copy of /proc/self/exe"))
}

/// Leaves session, folder and streams of whoever called; gives the listener that came as stdin.
fn detach() -> hull_sys::Result<OwnedFd> {
    rustix::process::setsid().during("setsid", || "")?;
    rustix::process::chdir("/").during("chdir", || "/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .during("prctl", || "PR_SET_CHILD_SUBREAPER")?;
    let _ = rustix::thread::set_name(c"hull-spawner");
    let listener =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).during("fcntl", || "F_DUPFD_CLOEXEC")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .during("open", || "/dev/null")?;
    process::set_standard_streams([null.as_fd(), null.as_fd(), null.as_fd()])?;
    Ok(listener)
}

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const FOLDER: u64 = 2;
const FIRST_CONNECTION: u64 = 3;
/// Added to a worker's pid: the copy of its control socket, watched for its requester's end.
const REQUESTER: u64 = 1 << 32;

fn watch(epoll: &OwnedFd, fd: impl AsFd, data: u64) -> hull_sys::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
        .during("epoll_ctl", || "EPOLL_CTL_ADD")
}

pub(crate) fn inode(path: &Path) -> Option<u64> {
    rustix::fs::lstat(path).ok().map(|stat| stat.st_ino)
}

/// The inode of the mount namespace that this process is in (namespaces(7)): what it is given by
/// descriptor it can mount only if daemon and spawner share it (open_tree(2)).
fn mount_namespace() -> Option<u64> {
    rustix::fs::stat("/proc/self/ns/mnt").ok().map(|stat| stat.st_ino)
}

/// An inotify descriptor for removals from the folder that `socket` is in (inotify(7)).
pub(crate) fn watch_folder(socket: &Path) -> hull_sys::Result<OwnedFd> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).during("inotify_init1", || "")?;
    let removals = WatchFlags::DELETE | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    add_watch(&inotify, folder, removals | WatchFlags::ONLYDIR)
        .during("inotify_add_watch", || format!("{folder:?}"))?;
    Ok(inotify)
}

/// A forked child as the spawner knows it.
#[derive(Debug)]
struct Child {
    role: ChildRole,
    /// A copy of its end of the control socket, to speak in its place.
    control: OwnedFd,
}

/// What a child does that ends with its answer.
#[derive(Debug)]
enum Task {
    Work(Work),
    Users { uids: Vec<IdMapping>, gids: Vec<IdMapping> },
}

#[derive(Debug)]
enum ChildRole {
    Shim { kind: Kind, id: String, cgroup: Option<String> },
    Worker,
    Forwarder,
}

struct Spawner {
    options: Options,
    /// The limit that the spawner was started with.
    open_files: Rlimit,
    epoll: OwnedFd,
    /// `None` once retired.
    listener: Option<OwnedFd>,
    signals: SignalFd,
    /// Readable when something in the socket's folder was removed.
    folder: OwnedFd,
    /// Of the socket's path at the start.
    inode: Option<u64>,
    connections: HashMap<u64, OwnedFd>,
    next: u64,
    children: HashMap<Pid, Child>,
    /// In the memory and among the descriptors of each shim.
    cgroups: Option<Hierarchies>,
    /// Shims that were killed, until all that they left behind is reaped.
    lost: Vec<reaper::Lost>,
}

impl Spawner {
    fn serve(mut self) -> hull_sys::Result<Infallible> {
        loop {
            if self.listener.is_none() && self.children.is_empty() && self.lost.is_empty() {
                process::exit_now(0);
            }
            let mut events = Vec::with_capacity(16);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).during("epoll_wait", || "the spawner's sources"),
            }
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    SIGNALS => self.reap()?,
                    FOLDER => self.look_for_socket(),
                    requester if requester >= REQUESTER => self.requester_left(requester - REQUESTER),
                    connection => self.hear(connection),
                }
            }
        }
    }

    /// Whose socket was removed can be found by nobody any more: it retires.
    fn look_for_socket(&mut self) {
        let mut events = [0; 4096];
        while rustix::io::read(&self.folder, &mut events).is_ok_and(|got| got > 0) {}
        // By its inode, as a successor may have bound the path already. The listener keeps the
        // inode from being used again.
        if inode(&self.options.socket) != self.inode {
            self.listener = None;
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        // Whoever is refused, or cannot be served for want of descriptors, sees a closed socket.
        let Ok(Some(connection)) = protocol::accept(listener) else {
            return;
        };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let hello = FromSpawner::Hello { version: protocol::VERSION, pid, mounts: mount_namespace() };
        // Who has left already may have left a word.
        let _ = protocol::send(&connection, &hello, &[]);
        if watch(&self.epoll, &connection, self.next).is_ok() {
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    /// Takes all that a connection has said.
    fn hear(&mut self, number: u64) {
        while let Some(connection) = self.connections.get(&number) {
            match protocol::receive(connection) {
                Ok(Received::Message(message, fds)) => self.heed(message, fds),
                Ok(Received::Nothing) => return,
                // Who does not keep to the protocol is not listened to any more.
                Ok(Received::Closed) | Err(_) => drop(self.connections.remove(&number)),
            }
        }
    }

    fn heed(&mut self, message: ToSpawner, fds: Vec<OwnedFd>) {
        match message {
            ToSpawner::Shim { kind, id, roles, cgroup } => {
                if protocol::valid_id(&id) {
                    self.launch(ChildRole::Shim { kind, id, cgroup }, &roles, fds, None);
                }
            }
            ToSpawner::Worker { work, roles } => {
                self.launch(ChildRole::Worker, &roles, fds, Some(Task::Work(work)));
            }
            ToSpawner::Users { uids, gids, roles } => {
                self.launch(ChildRole::Worker, &roles, fds, Some(Task::Users { uids, gids }));
            }
            ToSpawner::Forwarder { roles } => self.launch(ChildRole::Forwarder, &roles, fds, None),
            ToSpawner::Retire => {
                // In this order: once nobody listens, a successor may bind the same path.
                if self.listener.is_some() {
                    if inode(&self.options.socket) == self.inode {
                        let _ = rustix::fs::unlink(&self.options.socket);
                    }
                    self.listener = None;
                }
            }
            ToSpawner::Unknown => {}
        }
    }

    /// Forks. A request that makes no sense ends with its control socket closed.
    fn launch(&mut self, role: ChildRole, roles: &[Role], fds: Vec<OwnedFd>, task: Option<Task>) {
        failpoint!("spawner.launch.before-fork");
        let Some(at) = roles.iter().position(|role| *role == Role::Control) else {
            return;
        };
        if roles.len() != fds.len() || self.listener.is_none() {
            return;
        }
        let Ok(control) = rustix::io::fcntl_dupfd_cloexec(&fds[at], 3) else {
            return;
        };
        let order = match &role {
            ChildRole::Shim { kind, id, .. } => Some((*kind, id.clone())),
            ChildRole::Worker | ChildRole::Forwarder => None,
        };
        // A worker sees, and may signal, nobody but itself.
        let new = match &task {
            Some(Task::Work(_)) => Namespaces::PID,
            Some(Task::Users { .. }) | None => Namespaces::empty(),
        };
        let exec_root = self.options.exec_root.clone();
        let open_files = self.open_files;
        let cgroups = self.cgroups.clone().filter(|_| order.is_some());
        // Only a shim has them: a worker is in a jail.
        let shared = cgroups.as_ref().map(Hierarchies::descriptors).unwrap_or_default();
        let forked = fork_with(fds, &shared, new, |fds| {
            let given = roles.iter().cloned().zip(fds).collect();
            match (order, task) {
                (Some((kind, id)), _) => {
                    let _ = rustix::process::setrlimit(Resource::Nofile, open_files);
                    shim::run(shim::Order { kind, id, exec_root, given, cgroups: cgroups.clone() })
                }
                (None, Some(Task::Work(work))) => worker::run(work, given),
                (None, Some(Task::Users { uids, gids })) => users::serve(&uids, &gids, given),
                (None, None) => forwarder::run(forwarder::socket_path(&exec_root), given),
            }
        });
        failpoint!("spawner.launch.after-fork");
        match forked {
            Ok(child) => self.note(child.pid, Child { role, control }),
            Err(error) => reaper::refuse(&role, &control, &error),
        }
    }

    fn note(&mut self, pid: Pid, child: Child) {
        if matches!(child.role, ChildRole::Worker) {
            let data = REQUESTER + pid.as_raw_nonzero().get() as u64;
            let data = epoll::EventData::new_u64(data);
            // Nothing is read here; that the other end was closed, or will not be written to any more,
            // which is how a requester has its worker stopped and still hears of its end.
            let _ = epoll::add(&self.epoll, &child.control, data, epoll::EventFlags::RDHUP);
        }
        self.children.insert(pid, child);
    }

    /// A worker whose requester has gone works for nobody.
    fn requester_left(&mut self, pid: u64) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some((pid, child)) = pid.and_then(|pid| Some((pid, self.children.get(&pid)?))) else {
            return;
        };
        let _ = epoll::delete(&self.epoll, &child.control);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// Some children have ended.
    fn reap(&mut self) -> hull_sys::Result<()> {
        while self.signals.read()?.is_some() {}
        while let Some((pid, ended)) = process::reap()? {
            let Some(child) = self.children.remove(&pid) else {
                continue;
            };
            match child.role {
                ChildRole::Shim { kind, id, cgroup } if ended != Ended::Exited(0) => {
                    let folder = kind.folder(&self.options.exec_root, &id);
                    self.lost.push(reaper::Lost::new(folder, cgroup, child.control));
                }
                ChildRole::Worker if ended != Ended::Exited(0) => {
                    let message = reaper::worker_end(ended);
                    let _ = protocol::send(&child.control, &Outcome::Failed { message }, &[]);
                }
                ChildRole::Shim { .. } | ChildRole::Worker | ChildRole::Forwarder => {}
            }
        }
        if !self.lost.is_empty() && !reaper::kill_strangers(&self.children)? {
            for lost in self.lost.drain(..) {
                lost.announce();
            }
        }
        Ok(())
    }
}
