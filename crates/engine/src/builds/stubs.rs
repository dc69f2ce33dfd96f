//! Places for a step's mounts, which its layer does not get.
//!
//! Where the file system has nothing at a mount's target, something must be made there to mount on. It is
//! made in a layer of its own, between the image's and the writable one: so nothing has to be taken away
//! afterwards, at paths that the process has had in its hands. Folders that are on the way in the image
//! are there again, as they are, for the uppermost one is that which the process sees.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_image::layer::attributes;
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::copy;
use crate::containers::files;
use crate::rootfs::{self, Way};
use crate::{Error, Result};

/// What is mounted there has its own places.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Makes the layer at `folder`, for the targets that `layers` (the uppermost first) have nothing at; each
/// with whether it is a folder. `None`: nothing is missing. Blocks.
pub(super) fn make(
    layers: &[PathBuf],
    folder: &Path,
    targets: &BTreeMap<String, bool>,
) -> Result<Option<PathBuf>> {
    let mut ways = Vec::new();
    for (target, is_folder) in targets {
        if KERNELS.iter().any(|kernel| Path::new(target).starts_with(kernel)) {
            continue;
        }
        let way = rootfs::way(layers, Path::new(target)).map_err(|source| Error::Lookup { source })?;
        ways.extend(way.map(|way| (way, *is_folder)));
    }
    if ways.is_empty() {
        return Ok(None);
    }
    files::private_dir(folder)?;
    let root = copy::open(folder)?;
    let mut there = Vec::new();
    let made = ways.into_iter().try_for_each(|(way, is_folder)| place(&root, way, is_folder, &mut there));
    // The times of folders last: what is made in one changes them.
    let timed = made.and_then(|()| {
        let times = |(folder, times): &(OwnedFd, Timestamps)| rustix::fs::futimens(folder, times);
        there.iter().rev().try_for_each(times)
    });
    let failed =
        |errno: Errno| Error::Io { call: "make places in", path: folder.to_owned(), source: errno.into() };
    timed.map(|()| Some(folder.to_owned())).map_err(failed)
}

/// Makes what is missing, and what is on the way as it is; the latter with their times into `there`.
fn place(
    root: &OwnedFd,
    way: Way,
    is_folder: bool,
    there: &mut Vec<(OwnedFd, Timestamps)>,
) -> std::result::Result<(), Errno> {
    let mut at = root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
    for (name, model) in way.folders {
        let (folder, new) = enter(&at, &name, 0o700)?;
        if new {
            let times = dress(folder.as_fd(), model.as_fd())?;
            let copy = rustix::io::fcntl_dupfd_cloexec(&folder, 3)?;
            there.push((copy, times));
        }
        at = folder;
    }
    let last = way.missing.len().saturating_sub(1);
    for (index, name) in way.missing.iter().enumerate() {
        if index < last || is_folder {
            at = enter(&at, name, 0o755)?.0;
            continue;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&at, name.as_slice(), flags, Mode::from_raw_mode(0o644))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    }
    Ok(())
}

/// The folder, and whether it was made.
fn enter(at: &OwnedFd, name: &[u8], mode: u32) -> std::result::Result<(OwnedFd, bool), Errno> {
    let new = match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(mode)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(at, name, flags, Mode::empty())?;
    if new {
        // Whatever the umask.
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
    }
    Ok((folder, new))
}

/// Gives the folder what the model has, but for its times, which it returns.
fn dress(folder: BorrowedFd<'_>, model: BorrowedFd<'_>) -> std::result::Result<Timestamps, Errno> {
    let stat = rustix::fs::fstat(model)?;
    rustix::fs::fchown(folder, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode))?;
    for (name, value) in attributes(model)? {
        rustix::fs::fsetxattr(folder, name.as_slice(), &value, XattrFlags::empty())?;
    }
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds };
    Ok(Timestamps { last_access: time, last_modification: time })
}
