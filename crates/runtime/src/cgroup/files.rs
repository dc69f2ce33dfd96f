//! Reading and writing the small files of a cgroup through a kept directory descriptor.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read, write};

/// Writes `value` in one write(2), as cgroup files need it.
pub(super) fn put(dir: impl AsFd, path: &str, value: &str) -> Result<(), Errno> {
    let file = openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, value.as_bytes()).map(drop)
}

/// The whole text of a file; what is not UTF-8 (nothing in a cgroup is) reads as replacement
/// characters.
pub(super) fn get(dir: impl AsFd, path: &str) -> Result<String, Errno> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match read(&file, &mut part)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            n => text.extend_from_slice(&part[..n]),
        }
    }
}

/// A file with one number. `max` and what does not fit is `None`.
pub(super) fn number(dir: impl AsFd, path: &str) -> Option<u64> {
    get(dir, path).ok()?.trim().parse().ok()
}

/// A folder as a descriptor for look-ups and for `CLONE_INTO_CGROUP`.
pub(super) fn folder(dir: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}
