//! Mounting inside a root by descriptor, through the new mount API or, where the kernel refuses
//! that, mount(2).
//!
//! A place is found once ([`hull_sys::root::Root`]) and used as a descriptor. With the new API a
//! mount is complete (options, propagation) before it is attached, so there is no moment at which
//! it is visible with less than what was asked. mount(2) names its target by
//! `/proc/self/fd/N`, which is the same descriptor; its options of bind mounts come in a second
//! step, on the mount found again and compared with the source.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hull_sys::error::{During, Errno};
use hull_sys::mount::{self, Attributes, Propagation};
use hull_sys::root::{Handle, Root};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::options::{Change, Options};

/// Which of the kernel's interfaces is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// fsopen, open_tree, move_mount, mount_setattr: all of Linux 5.12.
    Descriptors,
    /// mount(2), because one of those is missing or a filter around us refuses it.
    Classic,
}

/// What a bind mount shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A path of the host, as the caller of the engine gave it.
    Host(&'a Path),
    /// Something in this mount namespace that is already open.
    Fd(BorrowedFd<'a>),
}

/// Makes all mounts of this process' namespace spread as `propagation` says. The newest call of
/// the new API is used for it, so it tells which interface this kernel has.
pub(super) fn spread(propagation: Propagation, recursive: bool) -> hull_sys::Result<Api> {
    let root = Root::open(Path::new("/"))?;
    let change = Attributes { propagation: Some(propagation), ..Attributes::default() };
    match mount::set_attributes(&root, &change, recursive) {
        Ok(()) => Ok(Api::Descriptors),
        Err(error) if matches!(error.errno, Errno::NOSYS | Errno::PERM) => {
            classic_spread(Path::new("/"), propagation, recursive)?;
            Ok(Api::Classic)
        }
        Err(error) => Err(error),
    }
}

fn classic_spread(path: &Path, propagation: Propagation, recursive: bool) -> hull_sys::Result<()> {
    let mut flags = MountPropagationFlags::from_bits_retain(propagation.bits() as u32);
    flags.set(MountPropagationFlags::REC, recursive);
    rustix::mount::mount_change(path, flags).during("mount", || format!("{path:?}, {flags:?}"))
}

/// `MOUNT_ATTR_…` as `MS_…`.
fn classic_flags(attributes: u64) -> MountFlags {
    [
        (mount::READ_ONLY, MountFlags::RDONLY),
        (mount::NO_SUID, MountFlags::NOSUID),
        (mount::NO_DEV, MountFlags::NODEV),
        (mount::NO_EXEC, MountFlags::NOEXEC),
        (mount::NO_SYMLINKS, MountFlags::NOSYMFOLLOW),
        (mount::NO_DIR_ATIME, MountFlags::NODIRATIME),
        (mount::NO_ATIME, MountFlags::NOATIME),
        (mount::STRICT_ATIME, MountFlags::STRICTATIME),
    ]
    .into_iter()
    .filter(|(attribute, _)| attributes & attribute != 0)
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

/// `key` or `key=value`, as fsconfig(2) takes them.
pub(super) fn split(data: &[String]) -> Vec<(&str, Option<&str>)> {
    data.iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.as_str(), None),
        })
        .collect()
}

/// A new file system at `place`, whose path in `root` is `path`. Gives its root folder.
pub(super) fn file_system(
    api: Api,
    root: &Root,
    (place, path): (&Handle, &Path),
    (kind, source): (&str, &str),
    options: &Options,
) -> hull_sys::Result<Handle> {
    match api {
        Api::Descriptors => {
            let mut data = split(&options.data);
            if !source.is_empty() {
                data.insert(0, ("source", Some(source)));
            }
            let made = mount::new(kind, &data, options.change.set)?;
            change(&made, &Options { change: Change::default(), ..options.clone() })?;
            mount::attach(&made, place)?;
            Ok(Handle { fd: made })
        }
        Api::Classic => {
            let data = std::ffi::CString::new(options.data.join(",")).unwrap_or_default();
            let flags = classic_flags(options.change.set);
            rustix::mount::mount(source, place.magic_path(), kind, flags, &*data)
                .during("mount", || format!("{source:?}, {path:?}, {kind}, {flags:?}, {data:?}"))?;
            let there = root.resolve(path)?;
            for (propagation, recursive) in &options.propagation {
                classic_spread(Path::new(&there.magic_path()), *propagation, *recursive)?;
            }
            Ok(there)
        }
    }
}

/// Shows `source` at `place`, whose path in `root` is `path`.
pub(super) fn bind(
    api: Api,
    root: &Root,
    (place, path): (&Handle, &Path),
    source: Source<'_>,
    options: &Options,
) -> hull_sys::Result<()> {
    let recursive = options.bind.unwrap_or(false);
    if api == Api::Descriptors {
        let copy = match source {
            Source::Host(source) => mount::copy(source, recursive)?,
            Source::Fd(source) => mount::copy_of(source, recursive)?,
        };
        change(&copy, options)?;
        return mount::attach(&copy, place);
    }
    let source = match source {
        Source::Host(source) => Handle { fd: open_path(source)? },
        Source::Fd(fd) => {
            Handle { fd: rustix::io::fcntl_dupfd_cloexec(fd, 3).during("fcntl", || "F_DUPFD")? }
        }
    };
    let (from, to) = (source.magic_path(), place.magic_path());
    let bound = if recursive {
        rustix::mount::mount_bind_recursive(from.as_str(), to.as_str())
    } else {
        rustix::mount::mount_bind(from.as_str(), to.as_str())
    };
    bound.during("mount", || format!("{}, {path:?}, MS_BIND", hull_sys::error::ShowFd(&source)))?;
    // The place's own descriptor is what lies under the mount now. What is found at the path must
    // be what was bound, else somebody moved the path meanwhile.
    let there = root.resolve(path)?;
    let (wanted, found) = (source.stat()?, there.stat()?);
    if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino) {
        return Err(Errno::STALE).during("mount", || format!("{path:?} changed while it was mounted on"));
    }
    classic_change(&there, options)
}

fn open_path(path: &Path) -> hull_sys::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .during("open", || format!("{path:?}, O_PATH"))
}

/// Applies the options to a detached mount.
pub(super) fn change(mount: &OwnedFd, options: &Options) -> hull_sys::Result<()> {
    let of = |change: Change| Attributes { set: change.set, clear: change.clear, ..Attributes::default() };
    if !options.recursive.is_none() {
        mount::set_attributes(mount, &of(options.recursive), true)?;
    }
    if !options.change.is_none() {
        mount::set_attributes(mount, &of(options.change), false)?;
    }
    for (propagation, recursive) in &options.propagation {
        let change = Attributes { propagation: Some(*propagation), ..Attributes::default() };
        mount::set_attributes(mount, &change, *recursive)?;
    }
    Ok(())
}

/// The same to an attached bind mount. Recursive attributes do not exist before mount_setattr(2):
/// they are refused rather than half done.
fn classic_change(there: &Handle, options: &Options) -> hull_sys::Result<()> {
    let path = there.magic_path();
    let change = Change {
        set: options.change.set | options.recursive.set,
        clear: options.change.clear | options.recursive.clear,
    };
    if !options.recursive.is_none() && options.bind == Some(true) {
        return Err(Errno::NOSYS).during("mount_setattr", || "recursive attributes need Linux 5.12");
    }
    if !change.is_none() {
        let present = rustix::fs::fstatvfs(there).during("fstatvfs", || path.clone())?.f_flag;
        let mut flags = MountFlags::BIND | classic_flags(change.set);
        // A remount sets all flags anew: those that are there and were not cleared stay.
        let cleared = classic_flags(change.clear);
        for kept in [MountFlags::RDONLY, MountFlags::NOSUID, MountFlags::NODEV, MountFlags::NOEXEC] {
            if present.bits() & u64::from(kept.bits()) != 0 && !cleared.contains(kept) {
                flags |= kept;
            }
        }
        rustix::mount::mount_remount(path.as_str(), flags, c"")
            .during("mount", || format!("{path}, remount, {flags:?}"))?;
    }
    options
        .propagation
        .iter()
        .try_for_each(|(propagation, recursive)| classic_spread(Path::new(&path), *propagation, *recursive))
}

/// Makes what is at `place` read-only, itself and all below.
pub(super) fn make_read_only(api: Api, root: &Root, (place, path): (&Handle, &Path)) -> hull_sys::Result<()> {
    let read_only = Change { set: mount::READ_ONLY, clear: 0 };
    let options = match api {
        Api::Descriptors => Options { bind: Some(true), recursive: read_only, ..Options::default() },
        Api::Classic => Options { bind: Some(true), change: read_only, ..Options::default() },
    };
    bind(api, root, (place, path), Source::Fd(place.as_fd()), &options)
}
