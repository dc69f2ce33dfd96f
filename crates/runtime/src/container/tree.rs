//! A container's files without the container: its layers, and what is bound into them, put together
//! for a moment in a mount namespace where nobody else is.
//!
//! A tree that is only looked at does not touch the writable layer: that is the uppermost of the
//! read-only ones then, and what has to be made (places for mounts) is made in memory and goes with
//! the namespace. So any number of readers, and a start beside them, are in nobody's way; two
//! overlays with one `upperdir` would be (overlayfs.rst, "Sharing and copying layers").

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_sys::mount::{self, Propagation};
use hull_sys::root::{Handle, Root, open_inside};
use hull_sys::{During, Errno};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::failure::{OrFail, Result, invalid};
use super::mounts::Api;
use super::{binds, mounts, rootfs, users};
use crate::bundle::{Rootfs, Source, StartError, Tree, Upper};

/// Puts the tree together and attaches it at `/`, over what is there. The caller is in a mount
/// namespace of its own, which is cut off from all others now.
pub(crate) fn assemble(tree: &Tree) -> std::result::Result<Root, StartError> {
    let api = mounts::spread(Propagation::Private, true).or_host()?;
    let seen = match tree.uids.is_empty() {
        true => None,
        false => users::inverse(&tree.uids, &tree.gids),
    };
    let scratch = match &tree.rootfs {
        Rootfs::Overlay { lower, upper: Some(own) } if !tree.writable => Some(Scratch::over(own, lower)?),
        _ => None,
    };
    let root = rootfs::make(api, scratch.as_ref().map_or(&tree.rootfs, |scratch| &scratch.rootfs), None)?;
    for entry in &tree.mounts {
        let source = tree.sources.get(&entry.destination);
        let taken = match &seen {
            Some(seen) if api != Api::Classic => binds::take_as_seen(entry, source, seen.as_fd())?,
            _ => None,
        };
        binds::mount(api, &root, (entry, source), taken.as_ref())?;
    }
    if tree.read_only {
        rootfs::make_read_only(api, &root)?;
    }
    Ok(root)
}

/// For what is only read or unpacked: a device file in it opens nothing, and nothing in it executes.
pub(crate) const HARMLESS: mount::Attributes<'static> = mount::Attributes {
    set: mount::NO_SUID | mount::NO_DEV | mount::NO_EXEC,
    clear: 0,
    propagation: Some(Propagation::Private),
    idmap: None,
};

/// What there is at a place of an image's file system.
#[derive(Debug)]
pub(crate) enum Part {
    Folder(OwnedFd),
    /// Something else.
    Other,
    Absent,
}

/// Finds a place in layers, which are put together read-only and attached nowhere. Links are followed
/// as in a container that has them as its root.
pub(crate) fn part(source: &Source) -> std::result::Result<Part, StartError> {
    let Source::Layers { lower, path, .. } = source else {
        return Err(invalid("only what an image has can be copied into a volume"));
    };
    let whole = rootfs::layers(lower, None).or_host()?.ok_or_else(|| invalid("too many layers"))?;
    mount::set_attributes(&whole, &HARMLESS, true).or_host()?;
    match open_inside(&whole, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(folder) => Ok(Part::Folder(folder)),
        Err(Errno::NOENT) => Ok(Part::Absent),
        Err(Errno::NOTDIR) => Ok(Part::Other),
        Err(errno) => Err(errno).during("openat2", || format!("{path:?} in an image")).or_host(),
    }
}

/// An upper layer in memory, where what is made over layers that must not be written to goes.
struct Scratch {
    rootfs: Rootfs,
    /// Its descriptor's number is in `rootfs`.
    _memory: Root,
}

impl Scratch {
    fn over(own: &Upper, lower: &[PathBuf]) -> Result<Scratch> {
        let memory = Root { fd: mount::new("tmpfs", &[("mode", Some("0700"))], 0).or_host()? };
        // Overlayfs takes layers from this namespace alone.
        mount::attach(&memory, Root::open(Path::new("/")).or_host()?).or_host()?;
        let upper = memory.create_dirs(Path::new("/upper"), Mode::RWXU).or_host()?;
        memory.create_dirs(Path::new("/work"), Mode::RWXU).or_host()?;
        resemble(&upper, &own.upper).or_host()?;
        let path = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", memory.fd.as_raw_fd()));
        let scratch = Upper { upper: path("upper"), work: path("work"), volatile: false };
        let lower = std::iter::once(&own.upper).chain(lower).cloned().collect();
        Ok(Scratch { rootfs: Rootfs::Overlay { lower, upper: Some(scratch) }, _memory: memory })
    }
}

/// The root of an overlay has owner, mode and times of the uppermost layer's.
fn resemble(folder: &Handle, model: &Path) -> hull_sys::Result<()> {
    let stat = rustix::fs::stat(model).during("stat", || format!("{model:?}"))?;
    let time = |tv_sec, nanos: u64| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let folder = folder.reopen(OFlags::RDONLY)?;
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::fchown(&folder, owner.0, owner.1).during("fchown", || "a folder in memory")?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(stat.st_mode))
        .during("fchmod", || "a folder in memory")?;
    rustix::fs::futimens(&folder, &times).during("futimens", || "a folder in memory")
}
