//! What a worker's root is made of: the files of the host or of a container that it works on, and
//! nothing else. Made in a mount namespace of the worker's own, so no table of the host ever has it.
//!
//! | of | how |
//! |---|---|
//! | a folder | a copy of its mount |
//! | a running container | a copy of the mounts of its namespace, made in there: what it sees now, volumes and all. What it mounts later, or moves, does not reach the copy |
//! | one that does not run | [`tree`]: its layers, and what is bound into them |
//!
//! Who writes into a running container with a user namespace of its own joins that as its last step, so
//! ids are those that the container sees, as they are in the layers on the disk. Who reads stays outside:
//! what belongs to nobody of the namespace is closed to its root, and not to the host's. The ids of what is
//! packed are put right on the way ([`hull_image::layer::Ids`]).
//!
//! Of a running container's mounts, those at /dev, /proc and /sys are left out: they are the kernel's
//! answers, no files, and to a container that does not run they do not exist either.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_sys::process::{self, Namespaces, unshare};
use hull_sys::root::Root;
use hull_sys::{During, Errno, cred, mount};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;

use super::JailError;
use crate::bundle::Tree;
use crate::container::tree;
use crate::protocol;

/// What the root is to be.
#[derive(Debug)]
pub(super) enum View {
    Folder(OwnedFd),
    /// Of the process behind this pidfd; with `below` all that is mounted in its root, too, and `inside`
    /// its user namespace.
    Running {
        process: OwnedFd,
        below: bool,
        inside: bool,
    },
    /// As a [`Tree`] in a document says.
    Stopped {
        tree: OwnedFd,
    },
}

/// Makes the view this process' root; the descriptor is of its root folder.
pub(super) fn enter(view: View) -> Result<OwnedFd, JailError> {
    let own = Namespaces::MOUNT | Namespaces::NETWORK | Namespaces::IPC | Namespaces::UTS;
    let mut users = None;
    let root = match view {
        View::Folder(folder) => {
            // Copied while the folder still belongs to the caller's namespace (open_tree(2)).
            let copy = mount::copy_of(&folder, false)?;
            drop(folder);
            unshare(own)?;
            attach(copy)?
        }
        View::Running { process, below, inside } => {
            let copy = copy_of_process(&process, below)?;
            unshare(own)?;
            let root = attach(copy)?;
            for place in ["/dev", "/proc", "/sys"] {
                uncover(&root, Path::new(place))?;
            }
            users = inside.then_some(process);
            root
        }
        View::Stopped { tree } => {
            let tree: Tree = protocol::document(&tree)?;
            unshare(own)?;
            tree::assemble(&tree)?
        }
    };
    mount::set_attributes(&root, &tree::HARMLESS, true)?;
    let root = pivot(&root)?;
    if let Some(process) = users {
        join_users(&process)?;
    }
    Ok(root)
}

/// Joins the user namespace of a container, as its root, where it has one.
fn join_users(target: &OwnedFd) -> Result<(), JailError> {
    match process::join(target, Namespaces::USER) {
        // It is the one that this process is in (setns(2)).
        Err(error) if error.errno == Errno::INVAL => Ok(()),
        Err(error) if error.errno == Errno::SRCH => Err(JailError::Ended),
        joined => Ok(joined.and_then(|()| cred::set_user(0, 0, &[]))?),
    }
}

/// A detached copy of what another process has as its root. Only who is in a namespace may copy its
/// mounts (open_tree(2)), so this process goes there and comes back.
fn copy_of_process(target: &OwnedFd, below: bool) -> Result<OwnedFd, JailError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own =
        rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).during("open", || "/proc/self/ns/mnt")?;
    match process::join(target, Namespaces::MOUNT) {
        Err(error) if error.errno == Errno::SRCH => return Err(JailError::Ended),
        joined => joined?,
    }
    let copy = mount::copy(Path::new("/"), below);
    // Whatever came of it: nothing further is done among the other's files.
    process::join_one(&own)?;
    Ok(copy?)
}

/// Attaches a detached tree over the root of this namespace, which is cut off from all others.
fn attach(tree: OwnedFd) -> hull_sys::Result<Root> {
    let old = Root::open(Path::new("/"))?;
    let private =
        mount::Attributes { propagation: Some(mount::Propagation::Private), ..mount::Attributes::default() };
    mount::set_attributes(&tree, &private, true)?;
    mount::set_attributes(&old, &private, true)?;
    mount::attach(&tree, &old)?;
    Ok(Root { fd: tree })
}

/// More mounts than anybody puts one over the other.
const STACKED: usize = 64;

/// Takes off what is mounted at `place`, until what is there is of the root's own mount.
fn uncover(root: &Root, place: &Path) -> hull_sys::Result<()> {
    for _ in 0..STACKED {
        let there = match root.resolve_nofollow(place) {
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::LOOP) => return Ok(()),
            there => there?,
        };
        if mount_id(&there)? == mount_id(root)? {
            return Ok(());
        }
        rustix::process::fchdir(&there).during("fchdir", || format!("{place:?}"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).during("umount2", || format!("{place:?}"))?;
    }
    Err(Errno::BUSY).during("umount2", || format!("{place:?} has more than {STACKED} mounts"))
}

/// What tells one mount from another (statx(2), Linux 5.8).
pub(super) fn mount_id(fd: impl AsFd) -> hull_sys::Result<u64> {
    let stat = rustix::fs::statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .during("statx", || hull_sys::error::ShowFd(fd.as_fd()))?;
    Ok(stat.stx_mnt_id)
}

/// Makes `root` the root of this namespace, in which nothing else is left.
fn pivot(root: &Root) -> hull_sys::Result<OwnedFd> {
    rustix::process::fchdir(root).during("fchdir", || "the new root")?;
    // The old root lands on the new one, from where it is taken off (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").during("pivot_root", || "., .")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during("umount2", || ".")?;
    rustix::process::chdir("/").during("chdir", || "/")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).during("open", || "/")
}
