//! The daemon's end: finding or starting the spawner, and asking it for shims and workers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hull_oci::runtime::{IdMapping, NamespaceKind};
use hull_sys::{During, Errno, memfd, socket};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, SocketType};
use serde::Serialize;

use crate::bundle::{Bundle, Exec, Source, Tree};
use crate::failpoint;
use crate::protocol::{self, Attach, FromSpawner, Kind, Outcome, Received, Role, ToSpawner, Work};
use crate::seccomp::Program;
use crate::shim::Connection;

/// How long a spawner may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// The spawner could not be found, started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("prepare the spawner's folder")]
    Folder { source: hull_sys::Error },
    #[error("execute {executable}")]
    Execute { executable: PathBuf, source: std::io::Error },
    #[error("{executable} ended with {status} instead of becoming the spawner")]
    Start { executable: PathBuf, status: std::process::ExitStatus },
    #[error("the spawner did not say hello")]
    Hello,
    #[error("speak to the spawner")]
    Speak {
        #[from]
        source: protocol::Error,
    },
    #[error("make a document or socket for a launch")]
    Prepare { source: hull_sys::Error },
    #[error("{id:?} cannot be the id of a container or exec")]
    Id { id: String },
}

/// What is to be launched. All descriptors are borrowed: the launch takes copies.
#[derive(Debug, Clone, Copy)]
pub enum Launch<'a> {
    Container {
        bundle: &'a Bundle,
        /// Namespaces to join instead of making them.
        namespaces: &'a [(NamespaceKind, BorrowedFd<'a>)],
        /// A compiled filter from [`filter_document`]; without it the shim
        /// compiles `spec.linux.seccomp` itself.
        seccomp: Option<BorrowedFd<'a>>,
        /// The program is executed only when this has become readable or was closed.
        hold: Option<BorrowedFd<'a>>,
        /// The mount namespace of the container whose /dev/shm this one shares.
        shared_memory: Option<BorrowedFd<'a>>,
        /// Stream sockets attached before the process starts.
        attach: &'a [(Attach, BorrowedFd<'a>)],
        /// Descriptors that the shim keeps under names, as [`crate::shim::Request::Keep`]. All
        /// descriptors of a launch together are at most [`socket::MAX_FDS`].
        keep: &'a [(&'a str, BorrowedFd<'a>)],
    },
    Exec {
        exec: &'a Exec,
        /// The pidfd of the container's first process.
        target: BorrowedFd<'a>,
        seccomp: Option<BorrowedFd<'a>>,
        attach: &'a [(Attach, BorrowedFd<'a>)],
    },
}

/// What a worker has as its root.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// A folder of the host.
    Folder(BorrowedFd<'a>),
    /// The files of a running container, whose first process this pidfd is of; with `below` what is
    /// mounted in them, too, but for what the kernel shows at /dev, /proc and /sys.
    Running { process: BorrowedFd<'a>, below: bool },
    /// The files of a container that does not run.
    Stopped(&'a Tree),
}

/// What a worker copies from.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    /// A folder of the host.
    Folder(BorrowedFd<'a>),
    /// Of layers.
    Layers(&'a Source),
    /// Of a list.
    Listed(Listed<'a>),
}

/// A context that is known by its list.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Sealed ([`hull_context::listing`]).
    pub list: BorrowedFd<'a>,
    /// Where its files are asked for ([`hull_context::files`]): a new socket for each work.
    pub files: BorrowedFd<'a>,
    /// How many batches of them are asked for before the first has come.
    pub ahead: usize,
    /// What is known of their digests ([`hull_context::Digests`]).
    pub digests: BorrowedFd<'a>,
    /// The number of the build.
    pub build: u64,
    /// How long ago a file must have been changed for its digest to be remembered (seconds).
    pub settled: i64,
}

impl<'a> Listed<'a> {
    fn add(self, roles: &mut Vec<Role>, fds: &mut Vec<BorrowedFd<'a>>) {
        roles.extend([
            Role::Listing { build: self.build, settled: self.settled },
            Role::Files { ahead: self.ahead },
            Role::Digests,
        ]);
        fds.extend([self.list, self.files, self.digests]);
    }
}

/// A connection to the spawner; never blocks after it was made. Its descriptor becomes readable
/// when the spawner has died: then only a new [`Client::adopt_or_start`] helps.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// The spawner's process.
    pub pid: i32,
    /// The version of the protocol that it speaks.
    pub version: u32,
    /// The inode of its mount namespace.
    mounts: Option<u64>,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Connects to the living spawner of this very executable in this mount namespace, or starts
    /// one. Spawners of other builds and namespaces are told to retire: what they run goes on.
    /// Blocks for some milliseconds.
    pub fn adopt_or_start(executable: &Path, exec_root: &Path) -> Result<Client, Error> {
        let folder = exec_root.join("spawner");
        let lock = lock(exec_root, &folder).map_err(|source| Error::Folder { source })?;
        let name = format!("{}.sock", build_id(executable).map_err(|source| Error::Folder { source })?);
        retire_others(&folder, &name).map_err(|source| Error::Folder { source })?;
        let path = folder.join(&name);
        let client = loop {
            let found = match socket::connect(&path, SocketType::SEQPACKET, SocketFlags::empty()) {
                // A spawner that is about to leave closes the connection unanswered: once more,
                // for then its socket is gone or dead.
                // So does one of another namespace when it has been told to.
                Ok(connected) => Client::greet(connected)?.and_then(Client::if_it_shares_mounts),
                Err(error) if matches!(error.errno, Errno::NOENT | Errno::CONNREFUSED) => {
                    Some(Client::start(executable, exec_root, &path)?)
                }
                Err(source) => return Err(Error::Folder { source }),
            };
            if let Some(client) = found {
                break client;
            }
        };
        drop(lock);
        Ok(client)
    }

    /// The socket is bound and listening before the spawner runs, so there is nothing to wait for
    /// but the hello.
    fn start(executable: &Path, exec_root: &Path, path: &Path) -> Result<Client, Error> {
        let _ = rustix::fs::unlink(path);
        let listener = socket::listen(path, SocketType::SEQPACKET, SocketFlags::NONBLOCK)
            .map_err(|source| Error::Folder { source })?;
        let mut command = Command::new(executable);
        command.arg("spawner").arg(exec_root).arg(path).env_clear();
        if let Some(file) = std::env::var_os(failpoint::VARIABLE) {
            command.env(failpoint::VARIABLE, file);
        }
        command.stdin(Stdio::from(listener)).stdout(Stdio::null());
        // The child becomes the spawner's parent and leaves at once.
        let status = command
            .status()
            .map_err(|source| Error::Execute { executable: executable.to_path_buf(), source })?;
        drop(command);
        if !status.success() {
            return Err(Error::Start { executable: executable.to_path_buf(), status });
        }
        let connected = socket::connect(path, SocketType::SEQPACKET, SocketFlags::empty())
            .map_err(|source| Error::Folder { source })?;
        Client::greet(connected)?.ok_or(Error::Hello)
    }

    /// Waits for the hello; `None` if the connection was closed instead.
    fn greet(socket: OwnedFd) -> Result<Option<Client>, Error> {
        let prepare = |source| Error::Prepare { source };
        set_socket_timeout(&socket, Timeout::Recv, Some(HELLO_LIMIT))
            .during("setsockopt", || "SO_RCVTIMEO")
            .map_err(prepare)?;
        let (version, pid, mounts) = match protocol::receive(&socket)? {
            Received::Message(FromSpawner::Hello { version, pid, mounts }, _) => (version, pid, mounts),
            Received::Closed => return Ok(None),
            Received::Message(FromSpawner::Unknown, _) | Received::Nothing => return Err(Error::Hello),
        };
        rustix::io::ioctl_fionbio(&socket, true).during("ioctl", || "FIONBIO").map_err(prepare)?;
        Ok(Some(Client { socket, pid, version, mounts }))
    }

    /// Gives back a spawner of this mount namespace, and retires any other.
    fn if_it_shares_mounts(self) -> Option<Client> {
        if self.mounts.is_some() && self.mounts == super::mount_namespace() {
            return Some(self);
        }
        // It may be gone before it hears; then it is gone.
        let _ = self.retire();
        None
    }

    /// Has a shim started. What becomes of it is heard on the connection. One message is sent;
    /// if the spawner's queue is full the error is [`protocol::Error::Send`] with EAGAIN.
    pub fn launch(&self, launch: Launch<'_>) -> Result<Connection, Error> {
        let mut roles = vec![Role::Control, Role::Document];
        let mut fds = Vec::new();
        let (kind, id, cgroup, document) = match launch {
            Launch::Container { bundle, namespaces, hold, shared_memory, keep, .. } => {
                roles.extend(namespaces.iter().map(|(kind, _)| Role::Namespace(*kind)));
                fds.extend(namespaces.iter().map(|(_, fd)| *fd));
                roles.extend(keep.iter().map(|(name, _)| Role::Keep((*name).to_owned())));
                fds.extend(keep.iter().map(|(_, fd)| *fd));
                if let Some(hold) = hold {
                    roles.push(Role::Hold);
                    fds.push(hold);
                }
                if let Some(shared_memory) = shared_memory {
                    roles.push(Role::SharedMemory);
                    fds.push(shared_memory);
                }
                let cgroup = Some(bundle.spec.linux.cgroups_path.clone()).filter(|path| !path.is_empty());
                (Kind::Container, &bundle.id, cgroup, document(bundle)?)
            }
            Launch::Exec { exec, target, .. } => {
                roles.push(Role::Target);
                fds.push(target);
                (Kind::Exec, &exec.id, None, document(exec)?)
            }
        };
        let (Launch::Container { seccomp, attach, .. } | Launch::Exec { seccomp, attach, .. }) = launch;
        if let Some(seccomp) = seccomp {
            roles.push(Role::Seccomp);
            fds.push(seccomp);
        }
        roles.extend(attach.iter().map(|(attach, _)| Role::Attach(*attach)));
        fds.extend(attach.iter().map(|(_, fd)| *fd));
        if !protocol::valid_id(id) {
            return Err(Error::Id { id: id.clone() });
        }
        let (ours, theirs) = control()?;
        fds.splice(0..0, [theirs.as_fd(), document.as_fd()]);
        protocol::send(&self.socket, &ToSpawner::Shim { kind, id: id.clone(), roles, cgroup }, &fds)?;
        Ok(Connection::new(ours))
    }

    /// Has a worker work on the files of `view`, reading or writing `archive`. It is killed when the
    /// job is dropped.
    pub fn work(&self, work: Work, archive: Option<BorrowedFd<'_>>, view: View<'_>) -> Result<Job, Error> {
        let (ours, theirs) = control()?;
        let (mut roles, mut fds) = (vec![Role::Control], vec![theirs.as_fd()]);
        if let Some(archive) = archive {
            roles.push(Role::Archive);
            fds.push(archive);
        }
        let sealed;
        let (role, fd) = match view {
            View::Folder(folder) => (Role::Folder, folder),
            View::Running { process, below } => (Role::Mounts { below }, process),
            View::Stopped(tree) => {
                sealed = document(tree)?;
                (Role::Document, sealed.as_fd())
            }
        };
        roles.push(role);
        fds.push(fd);
        protocol::send(&self.socket, &ToSpawner::Worker { work, roles }, &fds)?;
        Ok(Job { socket: ours })
    }

    /// Has a worker copy files of `source` into what `view` shows, and pack them into `archive` if it can.
    /// It is killed when the job is dropped.
    pub fn copy(
        &self,
        copy: protocol::Copy,
        source: Files<'_>,
        archive: Option<BorrowedFd<'_>>,
        view: View<'_>,
    ) -> Result<Job, Error> {
        let (ours, theirs) = control()?;
        let (mut roles, mut fds) = (vec![Role::Control], vec![theirs.as_fd()]);
        if let Some(archive) = archive {
            roles.push(Role::Archive);
            fds.push(archive);
        }
        let (layers, tree);
        match source {
            Files::Folder(folder) => {
                roles.push(Role::SourceFolder);
                fds.push(folder);
            }
            Files::Layers(source) => {
                layers = document(source)?;
                roles.push(Role::Source);
                fds.push(layers.as_fd());
            }
            Files::Listed(listed) => listed.add(&mut roles, &mut fds),
        }
        let (role, fd) = match view {
            View::Folder(folder) => (Role::Folder, folder),
            View::Running { process, below } => (Role::Mounts { below }, process),
            View::Stopped(files) => {
                tree = document(files)?;
                (Role::Document, tree.as_fd())
            }
        };
        roles.push(role);
        fds.push(fd);
        protocol::send(&self.socket, &ToSpawner::Worker { work: Work::Copy(copy), roles }, &fds)?;
        Ok(Job { socket: ours })
    }

    /// Has a worker, whose root is the empty `folder`, say the digest of what is selected in a list, and write
    /// what is known then into `learned`.
    pub fn fingerprint(
        &self,
        selection: protocol::Selection,
        listed: Listed<'_>,
        learned: BorrowedFd<'_>,
        folder: BorrowedFd<'_>,
    ) -> Result<Job, Error> {
        let (ours, theirs) = control()?;
        let mut roles = vec![Role::Control, Role::Learned, Role::Folder];
        let mut fds = vec![theirs.as_fd(), learned, folder];
        listed.add(&mut roles, &mut fds);
        let work = Work::Fingerprint(selection);
        protocol::send(&self.socket, &ToSpawner::Worker { work, roles }, &fds)?;
        Ok(Job { socket: ours })
    }

    /// Has a user namespace with these maps made, and a network namespace that belongs to it: their
    /// descriptors come with [`Outcome::Users`].
    pub fn users(&self, uids: &[IdMapping], gids: &[IdMapping]) -> Result<Job, Error> {
        let (ours, theirs) = control()?;
        let (uids, gids, roles) = (uids.to_vec(), gids.to_vec(), vec![Role::Control]);
        protocol::send(&self.socket, &ToSpawner::Users { uids, gids, roles }, &[theirs.as_fd()])?;
        Ok(Job { socket: ours })
    }

    /// Has a worker fill a folder with what is at `source`, or with `repair` bring again what was lost of
    /// that. It is killed when the job is dropped.
    pub fn fill(&self, source: &Source, folder: BorrowedFd<'_>, repair: bool) -> Result<Job, Error> {
        let (ours, theirs) = control()?;
        let sealed = document(source)?;
        let (roles, fds) =
            (vec![Role::Control, Role::Folder, Role::Source], [theirs.as_fd(), folder, sealed.as_fd()]);
        let work = if repair { Work::Repair } else { Work::Fill };
        protocol::send(&self.socket, &ToSpawner::Worker { work, roles }, &fds)?;
        Ok(Job { socket: ours })
    }

    /// Has the forwarder started, with the socket that connections are redirected to and the one at
    /// which it is found.
    pub(crate) fn forwarder(&self, relay: BorrowedFd<'_>, service: BorrowedFd<'_>) -> Result<(), Error> {
        let (_, theirs) = control()?;
        let roles = vec![Role::Control, Role::Relay, Role::Service];
        protocol::send(&self.socket, &ToSpawner::Forwarder { roles }, &[theirs.as_fd(), relay, service])?;
        Ok(())
    }

    /// Tells the spawner to leave with its last shim.
    pub fn retire(&self) -> Result<(), Error> {
        Ok(protocol::send(&self.socket, &ToSpawner::Retire, &[])?)
    }

    /// Whether the spawner is still there; takes whatever it has said.
    pub fn alive(&self) -> bool {
        loop {
            match protocol::receive::<FromSpawner>(&self.socket) {
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return true,
                Ok(Received::Closed) | Err(_) => return false,
            }
        }
    }
}

/// A worker at work. Wait for the descriptor to become readable.
#[derive(Debug)]
pub struct Job {
    socket: OwnedFd,
}

impl AsFd for Job {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Job {
    /// What the worker has said: `None` if nothing yet. A worker that was killed (by its jail, for
    /// example) has [`Outcome::Failed`] said in its place.
    pub fn receive(&self) -> Result<Option<Outcome>, Error> {
        Ok(self.receive_with_fds()?.map(|(outcome, _)| outcome))
    }

    /// The same with the descriptors that came beside it.
    pub fn receive_with_fds(&self) -> Result<Option<(Outcome, Vec<OwnedFd>)>, Error> {
        match protocol::receive::<Outcome>(&self.socket)? {
            Received::Message(outcome, fds) => Ok(Some((outcome, fds))),
            Received::Nothing => Ok(None),
            Received::Closed => {
                let message = "the worker was killed at its work".to_owned();
                Ok(Some((Outcome::Failed { message }, Vec::new())))
            }
        }
    }

    /// Has the worker killed. When it has ended that is told, as any other end is.
    pub fn stop(&self) {
        // It fails for a worker that has ended.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }

    /// Whether the worker has ended and left nothing; takes whatever it has said. The last copy of its
    /// socket is the spawner's, which is closed when the worker is reaped.
    pub fn reaped(&self) -> bool {
        loop {
            match protocol::receive::<Outcome>(&self.socket) {
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return false,
                Ok(Received::Closed) | Err(_) => return true,
            }
        }
    }
}

/// A control socket: the requester's end does not block.
fn control() -> Result<(OwnedFd, OwnedFd), Error> {
    let (ours, theirs) = socket::pair().map_err(|source| Error::Prepare { source })?;
    for end in [&ours, &theirs] {
        rustix::io::ioctl_fionbio(end, true)
            .during("ioctl", || "FIONBIO")
            .map_err(|source| Error::Prepare { source })?;
    }
    Ok((ours, theirs))
}

fn document<T: Serialize>(value: &T) -> Result<OwnedFd, Error> {
    let bytes = serde_json::to_vec(value).map_err(|source| protocol::Error::Malformed { source })?;
    if bytes.len() as u64 > protocol::DOCUMENT_MAX {
        return Err(protocol::Error::TooLong { size: bytes.len() }.into());
    }
    memfd::sealed(c"hull-document", &bytes).map_err(|source| Error::Prepare { source })
}

/// A compiled seccomp filter as a document, to send with any number of launches.
pub fn filter_document(program: &Program) -> Result<OwnedFd, Error> {
    memfd::sealed(c"hull-seccomp", &protocol::filter_to_bytes(program))
        .map_err(|source| Error::Prepare { source })
}

/// Makes the folders, 0700, and keeps other daemons out until dropped.
fn lock(exec_root: &Path, folder: &Path) -> hull_sys::Result<OwnedFd> {
    for dir in [exec_root, folder] {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).during("mkdir", || format!("{dir:?}")),
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(folder, flags, Mode::empty()).during("open", || format!("{folder:?}"))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
        .during("flock", || format!("{folder:?}"))?;
    Ok(lock)
}

/// What tells one build from another: the file's inode, size and time of change. Not a hash of its
/// content, which would cost each start of the daemon a read of the whole file: the worst that a
/// changed inode with the same content does is one more spawner, and no installer keeps all three
/// while it changes the content.
fn build_id(executable: &Path) -> hull_sys::Result<String> {
    let file = std::fs::metadata(executable).during("stat", || format!("{executable:?}"))?;
    let time = file.mtime() as u64 * 1_000_000_000 + file.mtime_nsec() as u64;
    Ok(format!("{:x}-{:x}-{time:x}", file.ino(), file.size()))
}

/// Tells the spawners of other builds to retire and removes sockets that nobody listens on.
fn retire_others(folder: &Path, own: &str) -> hull_sys::Result<()> {
    let entries = std::fs::read_dir(folder).during("open", || format!("{folder:?}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == own || !name.to_string_lossy().ends_with(".sock") {
            continue;
        }
        let path = entry.path();
        match socket::connect(&path, SocketType::SEQPACKET, SocketFlags::empty()) {
            // The hello is taken first: a connection closed with something unread is reset, and
            // what was said on it lost (unix(7)). It may be gone before it hears; then it is gone.
            Ok(other) => {
                if let Ok(Some(other)) = Client::greet(other) {
                    let _ = other.retire();
                }
            }
            Err(error) if error.errno == Errno::CONNREFUSED => drop(rustix::fs::unlink(&path)),
            Err(_) => {}
        }
    }
    Ok(())
}
