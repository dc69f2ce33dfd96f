//! The bytes of a file, read once and hashed: by the worker for a client of its host, by the client for a daemon
//! elsewhere. What is remembered of a file is decided here.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use hull_oci::{Digest, Hasher};
use rustix::fs::FileType;
use rustix::io::{Errno, retry_on_intr};
use rustix::time::{ClockId, clock_gettime};

use crate::digests::Remembered;
use crate::listing::Stamp;

/// How long ago a file must have been changed for its digest to be remembered (seconds): for half a minute
/// after its times were set a process that has it mapped may write (mmap(2), NOTES).
pub const SETTLED_AFTER: i64 = 40;

/// The beginning of a file, hashed as it is read: what is made of it is made of these bytes.
#[derive(Debug)]
pub struct Part<'a> {
    file: BorrowedFd<'a>,
    at: u64,
    size: u64,
    hasher: Hasher,
}

impl Part<'_> {
    /// The first `size` bytes, or all if there are less.
    pub fn new(file: BorrowedFd<'_>, size: u64) -> Part<'_> {
        Part { file, at: 0, size, hasher: Hasher::sha256() }
    }

    /// The digest of what was read, and how many bytes that were.
    pub fn hashed(self) -> (Digest, u64) {
        (self.hasher.finish(), self.at)
    }

    /// The same of all of it.
    pub fn hash(mut self, block: &mut [u8]) -> io::Result<(Digest, u64)> {
        while self.read(block)? > 0 {}
        Ok(self.hashed())
    }
}

impl Read for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.size - self.at).unwrap_or(usize::MAX).min(into.len());
        let count = retry_on_intr(|| rustix::io::pread(self.file, &mut into[..most], self.at))?;
        self.hasher.update(&into[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

/// The stamp of what was opened; `None`: it is no regular file.
pub fn stamp(file: BorrowedFd<'_>) -> Result<Option<Stamp>, Errno> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let nanoseconds = |nanoseconds: u64| u32::try_from(nanoseconds).unwrap_or(0);
    Ok(Some(Stamp {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
    }))
}

/// Reads a file for a build; `None`: it is no regular one. `settled`: see [`SETTLED_AFTER`].
pub fn read(
    file: BorrowedFd<'_>,
    (build, settled): (u64, i64),
    block: &mut [u8],
) -> io::Result<Option<Remembered>> {
    let Some(before) = stamp(file)? else { return Ok(None) };
    let (digest, size) = Part::new(file, before.size).hash(block)?;
    let Some(after) = stamp(file)? else { return Ok(None) };
    let old = clock_gettime(ClockId::Realtime).tv_sec.saturating_sub(settled);
    let settled = before == after && after.changed.0 < old && tells_of_changes(file);
    Ok(Some(Remembered { stamp: Stamp { size, ..after }, digest, settled, build }))
}

/// Whether the file system sets a file's times whenever its bytes change. Those in memory alone do not where a
/// process has them mapped, and of those of other hosts nobody knows.
fn tells_of_changes(file: BorrowedFd<'_>) -> bool {
    // ext4, xfs, btrfs, f2fs, zfs, and overlay, which has the times of what it stands on (statfs(2)).
    const KNOWN: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0x794c_7630];
    rustix::fs::fstatfs(file).is_ok_and(|about| KNOWN.contains(&u64::try_from(about.f_type).unwrap_or(0)))
}
