//! The archive of what is copied, made while it is copied ([`super::Copying::pack`]).
//!
//! What was just made is packed by the same code as [`diff`](super::diff()) has, out of the kernel's cache
//! and hashed by a thread beside the copying. So the archive is, to the byte, what `diff` would make of the
//! writable layer that the copies lie in. That is so only where
//!
//! - nothing else is in that layer, which is the caller's to know;
//! - the copies come in the archive's order, each once;
//! - no link is on the way to one: its name in the archive would be another;
//! - nothing that is packed changes any more.
//!
//! Where something of this is not so, or cannot be packed, there is no archive, and whoever wants one has
//! the layer packed. Why it could not be is then found again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_sys::root::open_without_links;
use rustix::fs::{FileType, Mode, OFlags, Stat, Timestamps};

use super::WHITEOUT;
use super::diff::{DEPTH, Diffed, Here, Tree, Walk, modified};
use super::ids::Ids;
use super::stream::HashedWriter;
use crate::tar::Time;

/// What a copy is packed into.
pub struct Archive<'a> {
    out: HashedWriter<'a>,
    /// Bytes of the files in it, when it is whole.
    size: Option<u64>,
}

impl<'a> Archive<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out: HashedWriter::new(out), size: None }
    }

    /// `None`: what was written is no archive of what was copied.
    pub fn finish(self) -> Option<Diffed> {
        let size = self.size?;
        let (diff_id, archive_size) = self.out.finish().ok()?;
        Some(Diffed { diff_id, archive_size, size })
    }
}

/// What is in the tree now.
pub(super) enum Made<'a> {
    Folder,
    /// Open for reading.
    File(BorrowedFd<'a>),
    /// The name in the folder.
    Other(&'a OwnedFd, &'a [u8]),
}

pub(super) struct Packing<'a> {
    walk: Walk<'a>,
    size: &'a mut Option<u64>,
    /// The name that was packed last.
    last: Vec<u8>,
    /// The folders that are packed, and the times that they have in the archive.
    folders: BTreeMap<Vec<u8>, Time>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(archive: &'a mut Archive<'_>) -> Self {
        let walk = Walk::new(&mut archive.out, Tree::Layer, Ids::default());
        Self { walk, size: &mut archive.size, last: Vec::new(), folders: BTreeMap::new() }
    }

    /// Packs what is at `name` now, behind those folders above it that are not packed yet. Folders will
    /// have the `times`, where there are any. `None`: there will be no archive.
    pub(super) fn put(
        mut self,
        root: BorrowedFd<'_>,
        times: &BTreeMap<Vec<u8>, Timestamps>,
        name: &[u8],
        made: &Made<'_>,
    ) -> Option<Self> {
        if !is_plain(name) || !precedes(&self.last, name) {
            return None;
        }
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for above in ends.map(|end| &name[..end]) {
            if !is_at_or_below(&self.last, above) {
                self.folder(root, times, above)?;
            }
        }
        match *made {
            Made::Folder => self.folder(root, times, name)?,
            Made::File(file) => self.walk.opened(file, name).ok()?,
            Made::Other(folder, base) => {
                let here = Here { folder, depth: 0, merged: false };
                self.walk.entry(here, base, FileType::Unknown, &mut name.to_vec()).ok()?;
            }
        }
        name.clone_into(&mut self.last);
        Some(self)
    }

    fn folder(
        &mut self,
        root: BorrowedFd<'_>,
        times: &BTreeMap<Vec<u8>, Timestamps>,
        name: &[u8],
    ) -> Option<()> {
        let folder = open(root, name)?;
        let (mut entry, marks) = self.walk.examined(&folder, name).ok()?;
        if marks.opaque {
            return None;
        }
        if let Some(Timestamps { last_modification, .. }) = times.get(name) {
            let nanoseconds = u32::try_from(last_modification.tv_nsec).unwrap_or(0);
            entry.mtime = Time { seconds: last_modification.tv_sec, nanoseconds };
        }
        self.walk.put(&entry).ok()?;
        self.folders.insert(name.to_vec(), entry.mtime);
        Some(())
    }

    /// More names of this file, which is at `name`, link to that.
    pub(super) fn remember(&mut self, made: &Stat, name: &[u8]) {
        self.walk.linked.insert((made.st_dev, made.st_ino), name.to_vec());
    }

    pub(super) fn has_folder(&self, name: &[u8]) -> bool {
        self.folders.contains_key(name)
    }

    /// Ends the archive, if all folders in it are what it says that they are.
    pub(super) fn finish(self, root: BorrowedFd<'_>) -> Option<()> {
        for (name, time) in &self.folders {
            let stat = rustix::fs::fstat(open(root, name)?).ok()?;
            if modified(&stat) != *time {
                return None;
            }
        }
        self.walk.writer.finish().ok()?;
        *self.size = Some(self.walk.size);
        Some(())
    }
}

fn open(root: BorrowedFd<'_>, name: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    open_without_links(root, Path::new(OsStr::from_bytes(name)), flags, Mode::empty()).ok()
}

/// Whether the name is as an archive has it, and `diff` takes it.
fn is_plain(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'/');
    parts.clone().count() <= DEPTH
        && parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.starts_with(WHITEOUT))
}

/// Whether an archive has `one` before `other`: each folder stands before what is in it, and all of that
/// before what comes behind the folder.
fn precedes(one: &[u8], other: &[u8]) -> bool {
    one.split(|&byte| byte == b'/').lt(other.split(|&byte| byte == b'/'))
}

fn is_at_or_below(name: &[u8], folder: &[u8]) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
