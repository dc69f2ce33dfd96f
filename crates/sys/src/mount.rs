//! Mounts by descriptor: what rustix' `mount` module lacks, with errors that say what was asked.
//!
//! `fsopen`, `open_tree` and `move_mount` come from rustix; here are [`set_attributes`]
//! (mount_setattr(2), Linux 5.12) and the three shapes in which Hull uses the new mount API
//! (fsopen(2), open_tree(2)): a new file system, a copy of a tree, and attaching either to a place
//! found by descriptor. A mount made here is detached: it is nowhere in the file tree and vanishes
//! with its descriptor until it is attached.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::error::{During, Errno, Error, Result, ShowFd};
use crate::process::last_error;

/// How mounts and unmounts spread between copies of a tree (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    /// The `MS_…` bit, as mount(2) and mount_setattr(2) have it.
    pub fn bits(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Changes of a mount's attributes. Bits are `MOUNT_ATTR_…`; in `set`, the atime bits are one
/// value, so changing them needs [`ATIME`] in `clear`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    pub set: u64,
    pub clear: u64,
    pub propagation: Option<Propagation>,
    /// Map the mount's ids as this user namespace does (`MOUNT_ATTR_IDMAP`); detached mounts only.
    pub idmap: Option<BorrowedFd<'a>>,
}

pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
pub const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
pub const NO_SYMLINKS: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
pub const NO_DIR_ATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
pub const NO_ATIME: u64 = libc::MOUNT_ATTR_NOATIME;
pub const STRICT_ATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
/// The bits that together hold the atime mode; relatime is zero.
pub const ATIME: u64 = 0x70;

/// Sets attributes of the mount that `fd` is the root of, with `recursive` of all below it too.
pub fn set_attributes(fd: impl AsFd, attributes: &Attributes<'_>, recursive: bool) -> Result<()> {
    let fd = fd.as_fd();
    // SAFETY: mount_attr is plain integers; all zeros is a valid value.
    let mut request: libc::mount_attr = unsafe { std::mem::zeroed() };
    request.attr_set = attributes.set;
    request.attr_clr = attributes.clear;
    request.propagation = attributes.propagation.map_or(0, Propagation::bits);
    if let Some(user) = attributes.idmap {
        request.attr_set |= libc::MOUNT_ATTR_IDMAP;
        request.userns_fd = user.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string as the path, and a mount_attr of the size given that outlives the
    // call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(last_error())
        .during("mount_setattr", || format!("{}, {attributes:?}, recursive {recursive}", ShowFd(fd)))
}

/// A new detached mount of file system type `kind`. `options` are the file system's own: a key
/// alone, or a key with a value; keys may repeat (`lowerdir+`). `attributes` are `MOUNT_ATTR_…`.
///
/// When the file system says why it refused, the error's arguments carry its words.
pub fn new(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).during("fsopen", || kind)?;
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, *key, *value),
            None => rustix::mount::fsconfig_set_flag(&context, *key),
        }
        .map_err(|errno| {
            let value = value.map_or(String::new(), |value| format!("={value}"));
            explain("fsconfig", errno, kind, &format!("{key}{value}"), &context)
        })?;
    }
    rustix::mount::fsconfig_create(&context)
        .map_err(|errno| explain("fsconfig", errno, kind, "FSCONFIG_CMD_CREATE", &context))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| explain("fsmount", errno, kind, &format!("{attributes:?}"), &context))
}

/// The error with what the file system wrote into its context's log (fsopen(2), "Message
/// retrieval interface"): lines like `e overlay: …`.
fn explain(call: &'static str, errno: Errno, kind: &str, what: &str, context: &OwnedFd) -> Error {
    let mut text = format!("{kind}, {what}");
    let mut line = [0u8; 512];
    for _ in 0..16 {
        match rustix::io::read(context, &mut line) {
            Ok(len) if len > 2 => {
                text.push_str("; ");
                text.push_str(String::from_utf8_lossy(&line[2..len]).trim_end());
            }
            _ => break,
        }
    }
    Error::new(call, errno, text)
}

/// A detached copy of the mount tree at `path` of the caller's own files (a bind mount before it
/// is attached), with `recursive` of all that is mounted below too.
pub fn copy(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let flags = copy_flags(recursive);
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .during("open_tree", || format!("{path:?}, {flags:?}"))
}

/// The same of what `fd` is open on; it must be attached in this mount namespace.
pub fn copy_of(fd: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let (fd, flags) = (fd.as_fd(), copy_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH);
    rustix::mount::open_tree(fd, c"", flags).during("open_tree", || format!("{}, {flags:?}", ShowFd(fd)))
}

fn copy_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches a detached mount to the very folder or file that `place` is open on. Afterwards
/// `mount` is the root of the attached mount; `place` is still what lies under it.
pub fn attach(mount: impl AsFd, place: impl AsFd) -> Result<()> {
    let (mount, place) = (mount.as_fd(), place.as_fd());
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", place, c"", flags)
        .during("move_mount", || format!("{}, {}", ShowFd(mount), ShowFd(place)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Root;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn a_detached_file_system_is_usable_and_in_no_table() {
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let mount = new("tmpfs", &[("size", Some("64k")), ("mode", Some("0711"))], NO_EXEC).unwrap();
        let root = Root { fd: mount };
        let flags = OFlags::CREATE | OFlags::WRONLY;
        root.open_file(Path::new("/file"), flags, Mode::from_raw_mode(0o600)).unwrap();
        set_attributes(&root, &Attributes { set: READ_ONLY, ..Default::default() }, false).unwrap();
        let error = root.open_file(Path::new("/other"), flags, Mode::from_raw_mode(0o600)).unwrap_err();
        assert_eq!(error.errno, Errno::ROFS);
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), before);
    }

    #[test]
    fn the_file_systems_own_words_are_in_the_error() {
        let error = new("tmpfs", &[("size", Some("lots"))], 0).unwrap_err();
        assert_eq!((error.call, error.errno), ("fsconfig", Errno::INVAL));
        assert!(error.args.starts_with("tmpfs, size=lots; "), "{error}");
    }
}
