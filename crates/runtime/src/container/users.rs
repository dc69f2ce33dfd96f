//! Containers in a user namespace (user_namespaces(7)): who is root inside is an ordinary user
//! outside.
//!
//! A process in a user namespace has no power over what lies outside of it: folders of the host
//! that are closed to others are closed to it, it may not map the ids of the host's mounts, and an
//! overlay of its own could not read the attributes of the image's layers. So a process between the
//! shim and init, the host's root still, takes all of the host's that the container shows, as
//! detached mounts, and enters only then:
//!
//! ```text
//! shim              between                              init
//!   clone ────────► cgroups, limits
//!                   takes the root and what is bound
//!                   joins namespaces, the user's last
//!                   becomes root there; clone ─────────►  (the shim's child, not this one's)
//!   ◄── Born ────── + pidfd; ends
//!   ─── go ────────────────────────────────────────────►  attaches what was taken …
//! ```
//!
//! **Ids.** Layers and writable layer have the container's own ids on disk. They are mounted with
//! their ids mapped as the user namespace maps them (mount_setattr(2), `MOUNT_ATTR_IDMAP`), so
//! nothing is ever chowned, one copy of an image serves every mapping, and what reads a stopped
//! container's files reads the container's ids. A bind mount is mapped where `idmap` says so
//! (config.md#posix-platform-mounts), otherwise it shows the host's ids, most of them nobody's.
//!
//! The overlay is made with the container's root as the user of the file system ([`cred::as_file_user`]), with all of the host's capabilities. overlayfs does its own part of the work as
//! who mounted it; the host's root has no id on a mapped mount, and could make no whiteout.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{IdMapping, Linux, Mount, NamespaceKind, Process, Spec};
use hull_sys::error::During;
use hull_sys::mount::{self, Attributes, Propagation};
use hull_sys::process::{self, CloneOptions, Forked, Namespaces};
use hull_sys::root::Root;
use hull_sys::{Errno, cred};
use rustix::fs::{Mode, OFlags};

use super::binds::{self, Taken};
use super::failure::{OrFail, Result, host, invalid};
use super::files;
use super::init::{self, Init, NoReturn, become_opaque, fail};
use super::{Streams, rootfs, sync};
use crate::bundle::{Rootfs, Source, StartError, Upper};
use crate::protocol::{self, Outcome, Role};

/// A user namespace, and a network namespace that belongs to it.
#[derive(Debug)]
pub struct Made {
    pub user: OwnedFd,
    pub network: Option<OwnedFd>,
}

/// Makes a user namespace with these maps; it lives as long as a descriptor of it. The caller has
/// one thread.
///
/// # Errors
/// A map that the kernel does not take, most likely because the host has not got those ids itself.
pub fn make(uids: &[IdMapping], gids: &[IdMapping], network: bool) -> hull_sys::Result<Made> {
    let (ours, theirs) = hull_sys::socket::pair()?;
    let mut new = Namespaces::USER;
    new.set(Namespaces::NETWORK, network);
    let child = match process::clone(&CloneOptions { new, ..CloneOptions::default() })? {
        Forked::Parent(child) => child,
        // It is there for the namespaces' names in /proc, until this side is closed.
        Forked::Child => {
            drop(ours);
            sync::wait_go(&theirs);
            process::exit_now(0)
        }
    };
    let pid = shown_pid(&child.pidfd)?;
    let open = |name: &str, flags: OFlags| {
        let path = format!("/proc/{pid}/{name}");
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).during("open", || path)
    };
    let map = |name: &str, mappings: &[IdMapping]| {
        let lines: String =
            mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect();
        let file = open(name, OFlags::WRONLY)?;
        rustix::io::write(&file, lines.as_bytes())
            .during("write", || format!("{name}, {:?} (are these ids of this host?)", lines.trim_end()))
    };
    let made = map("uid_map", uids).and_then(|_| map("gid_map", gids)).and_then(|_| {
        let user = open("ns/user", OFlags::RDONLY)?;
        let network = network.then(|| open("ns/net", OFlags::RDONLY)).transpose()?;
        Ok(Made { user, network })
    });
    drop(ours);
    process::wait(&child.pidfd, true)?;
    made
}

/// The number that a process has in this mount namespace's /proc, which a worker with a pid namespace of
/// its own sees from outside of that.
fn shown_pid(pidfd: &OwnedFd) -> hull_sys::Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text =
        std::fs::read_to_string(&path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let text = text.during("read", || path.clone())?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or(Errno::SRCH).during("read", || path)
}

/// The ids of a host on which each id of the container and what it is outside have changed places: a
/// mount mapped by it shows the container's files as the container's, and hides none of the others.
/// Where both ranges overlap, it shows the container's alone.
fn swapped(maps: &[IdMapping]) -> Vec<IdMapping> {
    let line = |container_id, host_id, size| IdMapping { container_id, host_id, size };
    let back: Vec<_> = maps.iter().map(|map| line(map.host_id, map.container_id, map.size)).collect();
    let mut lines: Vec<_> = back.iter().copied().chain(maps.iter().copied()).collect();
    lines.sort_by_key(|line| line.container_id);
    // The last one is no id (chown(2)).
    let (mut whole, mut next) = (Vec::new(), 0);
    for here in lines {
        let Some(gap) = here.container_id.checked_sub(next) else { return back };
        if gap > 0 {
            whole.push(line(next, next, gap));
        }
        next = here.container_id.saturating_add(here.size);
        whole.push(here);
    }
    if next < u32::MAX {
        whole.push(line(next, next, u32::MAX - next));
    }
    whole
}

/// A user namespace for mounts by which somebody outside sees ids as a container with these maps does.
/// `None`: this host has none for that.
pub(super) fn inverse(uids: &[IdMapping], gids: &[IdMapping]) -> Option<OwnedFd> {
    make(&swapped(uids), &swapped(gids), false).ok().map(|made| made.user)
}

/// The whole life of the spawner's child that makes a user and a network namespace for the daemon,
/// which has threads and so can make no user namespace itself; gives the exit code.
pub(crate) fn serve(uids: &[IdMapping], gids: &[IdMapping], given: Vec<(Role, OwnedFd)>) -> i32 {
    let Some((_, control)) = given.into_iter().find(|(role, _)| *role == Role::Control) else {
        return 125;
    };
    let made = make(uids, gids, true);
    let (outcome, fds) = match &made {
        Ok(Made { user, network: Some(network) }) => (Outcome::Users, vec![user.as_fd(), network.as_fd()]),
        Ok(Made { network: None, .. }) => return 125,
        Err(error) => (Outcome::Failed { message: hull_sys::error::chain(error) }, Vec::new()),
    };
    if protocol::send(&control, &outcome, &fds).is_ok() { 0 } else { 125 }
}

/// The user namespace that the container is to be in, if any: one to join, or a new one.
pub(super) fn namespace(
    linux: &Linux,
    made: Namespaces,
    joins: &[(NamespaceKind, OwnedFd)],
) -> Result<Option<OwnedFd>> {
    if let Some((_, joined)) = joins.iter().find(|(kind, _)| *kind == NamespaceKind::User) {
        let copy = rustix::io::fcntl_dupfd_cloexec(joined, 3).during("fcntl", || "F_DUPFD_CLOEXEC");
        return copy.or_host().map(Some);
    }
    if !made.contains(Namespaces::USER) {
        return Ok(None);
    }
    let made = make(&linux.uid_mappings, &linux.gid_mappings, false);
    made.map(|made| Some(made.user)).or_invalid(|| "user namespace".into())
}

/// An id of the container as the host has it.
fn outside(id: u32, mappings: &[IdMapping]) -> Option<u32> {
    let map = mappings.iter().find(|map| id >= map.container_id && id - map.container_id < map.size)?;
    map.host_id.checked_add(id - map.container_id)
}

/// Makes the streams the process' user's, as far as they let themselves: inside its user namespace
/// that user is nobody who could open them again by /dev/stdout. /dev/null is everybody's already.
pub(super) fn give_streams(streams: &Streams, process: &Process, linux: &Linux) {
    let Streams::Files { stdin, stdout, stderr } = streams else { return };
    let Some(uid) = outside(process.user.uid, &linux.uid_mappings) else { return };
    for fd in [stdin, stdout, stderr] {
        let device = |stat: rustix::fs::Stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        };
        if !rustix::fs::fstat(fd).is_ok_and(device) {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// What of the host's is taken into a user namespace, as detached mounts.
#[derive(Debug, Default)]
pub(super) struct Luggage {
    pub(super) root: Option<OwnedFd>,
    /// For each mount of the spec, in their order.
    pub(super) mounts: Vec<Option<Taken>>,
    /// A copy of another container's /dev/shm.
    pub(super) shared_memory: Option<OwnedFd>,
    pub(super) warnings: Vec<String>,
}

/// The process between shim and init.
pub(super) fn run(init: &Init<'_>, users: &OwnedFd) -> ! {
    let _guard = NoReturn;
    let Err(error) = enter(init, users.as_fd());
    fail(init.sync, error)
}

fn enter(init: &Init<'_>, users: BorrowedFd<'_>) -> Result<Infallible> {
    become_opaque()?;
    let warnings = init::outside(init)?;
    let luggage = Luggage { warnings, ..take(init, users)? };
    for (kind, fd) in init.joins.iter().filter(|(kind, _)| *kind != NamespaceKind::User) {
        process::join_one(fd).or_invalid(|| format!("joining the {kind:?} namespace"))?;
    }
    process::join_one(users).or_invalid(|| "joining the user namespace".into())?;
    cred::set_user(0, 0, &[]).or_invalid(|| "a user namespace without a root".into())?;
    // Another user's process is not what it was (PR_SET_DUMPABLE(2const)).
    become_opaque()?;
    match process::clone(&CloneOptions { new: init.made, cgroup: None, sibling: true }).or_host()? {
        Forked::Parent(child) => {
            let born = sync::Message::Born { pid: child.pid.as_raw_nonzero().get() };
            sync::send(init.sync, &born, &[child.pidfd.as_fd()])?;
            process::exit_now(0)
        }
        Forked::Child => init::run(init, Some(luggage)),
    }
}

fn take(init: &Init<'_>, users: BorrowedFd<'_>) -> Result<Luggage> {
    let bundle = init.bundle;
    let take = |entry: &Mount| match bundle.sources.get(&entry.destination) {
        // Its layers are mapped with the root's. A file is made inside, by who knows those users.
        Some(Source::Layers { .. } | Source::File { .. }) => Ok(None),
        source => binds::take(entry, source, Some(users)),
    };
    let mut mounts = bundle.spec.mounts.iter().map(take).collect::<Result<Vec<_>>>()?;
    let shared_memory = init.options.shared_memory.as_ref().map(files::copy_shared_memory).transpose()?;
    let mut layers = Layers { spec: &bundle.spec, users, mapped: BTreeSet::new() };
    let root = Some(layers.root(&bundle.rootfs)?);
    for (entry, taken) in bundle.spec.mounts.iter().zip(&mut mounts) {
        if let Some(Source::Layers { lower, path, upper }) = bundle.sources.get(&entry.destination) {
            *taken = Some(binds::image(entry, layers.part(lower, upper.as_ref())?, path)?);
        }
    }
    Ok(Luggage { root, mounts, shared_memory, warnings: Vec::new() })
}

/// Layers whose ids are mapped, in a mount namespace that only this process and init are in.
struct Layers<'a> {
    spec: &'a Spec,
    users: BorrowedFd<'a>,
    /// Those that are so by now.
    mapped: BTreeSet<PathBuf>,
}

impl Layers<'_> {
    fn root(&mut self, root: &Rootfs) -> Result<OwnedFd> {
        let Rootfs::Overlay { lower, upper } = root else {
            return rootfs::detached(root)?.ok_or_else(too_old);
        };
        self.map(lower, upper.as_ref())?;
        self.as_root(|| rootfs::detached(root))?.ok_or_else(too_old)
    }

    /// Another file system.
    fn part(&mut self, lower: &[PathBuf], upper: Option<&Upper>) -> Result<OwnedFd> {
        self.map(lower, upper)?;
        self.as_root(|| rootfs::layers(lower, upper).or_host())?.ok_or_else(too_old)
    }

    /// Parts of an overlay must be attached somewhere (before Linux 6.15): each over itself.
    fn map(&mut self, lower: &[PathBuf], upper: Option<&Upper>) -> Result<()> {
        if self.mapped.is_empty() {
            process::unshare(Namespaces::MOUNT).or_host()?;
            let private = Attributes { propagation: Some(Propagation::Private), ..Attributes::default() };
            mount::set_attributes(Root::open(Path::new("/")).or_host()?, &private, true).or_host()?;
        }
        for layer in lower {
            if self.mapped.insert(layer.clone()) {
                map_in_place(layer, self.users)?;
            }
        }
        if let Some(upper) = upper {
            // One mount for both of its folders, or they could not be one layer.
            match (upper.upper.parent(), upper.work.parent()) {
                (Some(folder), Some(beside)) if folder == beside => map_in_place(folder, self.users)?,
                _ => return Err(invalid("the work folder of a writable layer is not beside it")),
            }
        }
        Ok(())
    }

    /// Makes a file system with the container's root as its user.
    fn as_root<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let linux = &self.spec.linux;
        let owner = |mappings| outside(0, mappings).ok_or_else(|| invalid("a user namespace without a root"));
        cred::as_file_user(owner(&linux.uid_mappings)?, owner(&linux.gid_mappings)?, make).or_host()?
    }
}

fn map_in_place(folder: &Path, users: BorrowedFd<'_>) -> Result<()> {
    let place = Root::open(folder).or_host()?;
    let copy = mount::copy_of(&place, false).or_host()?;
    map(&copy, users, false, folder)?;
    mount::attach(&copy, &place).or_host()
}

fn too_old() -> StartError {
    invalid("a user namespace needs Linux 5.19, or the filter around this engine allows too little of it")
}

/// Maps the ids of a detached mount of `path` as the user namespace maps them.
pub(super) fn map(mount: &OwnedFd, users: BorrowedFd<'_>, recursive: bool, path: &Path) -> Result<()> {
    let attributes = Attributes { idmap: Some(users), ..Attributes::default() };
    match mount::set_attributes(mount, &attributes, recursive) {
        // It is this call's word for "the file system does not know how".
        Err(error) if error.errno == Errno::INVAL => Err(invalid(format!(
            "the file system of {} cannot map user ids (mount_setattr, MOUNT_ATTR_IDMAP: invalid argument); ext4, \
             xfs, btrfs and, from Linux 6.3 on, tmpfs can. Use another one, or --userns=host",
            path.display()
        ))),
        done => done.map_err(|error| host(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_change_places_leave_all_others_where_they_are() {
        let shown = |maps: &[(u32, u32, u32)]| {
            let line =
                |&(container_id, host_id, size): &(u32, u32, u32)| IdMapping { container_id, host_id, size };
            let lines = swapped(&maps.iter().map(line).collect::<Vec<_>>());
            lines.iter().map(|line| (line.container_id, line.host_id, line.size)).collect::<Vec<_>>()
        };
        let rest = u32::MAX - 300_000;
        let one = [
            (0, 200_000, 100_000),
            (100_000, 100_000, 100_000),
            (200_000, 0, 100_000),
            (300_000, 300_000, rest),
        ];
        assert_eq!(shown(&[(0, 200_000, 100_000)]), one);
        let two = [(0, 1000, 1), (1, 500, 9), (10, 10, 490), (500, 1, 9), (509, 509, 491), (1000, 0, 1)];
        assert_eq!(shown(&[(0, 1000, 1), (1, 500, 9)])[..6], two);
        assert_eq!(shown(&[(0, 5, 10)]), [(5, 0, 10)]);
    }
}
