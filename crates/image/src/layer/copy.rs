//! Files of one tree are copied into another: COPY and ADD of a build.
//!
//! Both trees are at rest, but neither is trusted. A place in the target is found by the kernel inside of
//! its root (openat2(2), `RESOLVE_IN_ROOT`), so that links in it mean what they mean in a container; the
//! name itself is never written through a link.
//!
//! The same files copied onto the same tree give the same layer: a folder that was there keeps its times
//! though names are added to it, and one that is made only because something is to be in it has those of
//! the folder above.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_sys::root::open_inside;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::apply::{ApplyError, Limits, Owner, Unpack, unpack};
use super::mode::ModeChange;
use super::stream::Source;
use super::{is_portable, is_whiteout, shown};
use crate::compress::Compression;
use crate::tar;

/// Bytes moved at once.
const BUFFER: usize = 128 << 10;

/// The time of what nobody knows a better one of: the beginning of 1970.
const UNKNOWN: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 0, tv_nsec: 0 },
};

/// What the copies are like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dress {
    /// Everything's; `None` is root, but for what comes out of an archive.
    pub owner: Option<(u32, u32)>,
    pub mode: Option<ModeChange>,
    /// Nothing is newer (seconds since the epoch).
    pub newest: Option<i64>,
}

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("cannot {action} \"{name}\" ({errno})")]
    Entry { action: &'static str, name: String, errno: Errno },
    /// In the reference's words.
    #[error("cannot copy to non-directory: {name}")]
    NotFolder { name: String },
    /// In the reference's words.
    #[error("cannot replace to directory {name} with file")]
    Folder { name: String },
    #[error("cannot unpack \"{name}\"")]
    Unpack { name: String, source: ApplyError },
}

fn failed(action: &'static str, name: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Entry { action, name: shown(name), errno }
}

/// Below a root, which is itself the empty path.
fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if bytes.is_empty() { b"." } else { bytes }))
}

/// Folder and name of a path.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (b"", name),
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// A file with several names, where it was copied to first.
struct First {
    to: Vec<u8>,
    /// The copy's.
    identity: Identity,
}

/// A copy that is going on; it is done with [`Copying::finish`].
pub struct Copying<'a> {
    source: BorrowedFd<'a>,
    root: BorrowedFd<'a>,
    dress: &'a Dress,
    /// Files of the source with several names, as long as their first copies are there.
    linked: HashMap<Identity, First>,
    /// Times that folders are to have in the end, by path.
    times: BTreeMap<Vec<u8>, Timestamps>,
    buffer: Box<[u8]>,
}

impl<'a> Copying<'a> {
    pub fn new(source: BorrowedFd<'a>, root: BorrowedFd<'a>, dress: &'a Dress) -> Copying<'a> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Copying { source, root, dress, linked: HashMap::new(), times: BTreeMap::new(), buffer }
    }

    /// Whether there is a folder at `to`, links followed.
    pub fn is_folder(&self, to: &[u8]) -> bool {
        open_inside(self.root, path(to), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).is_ok()
    }

    /// Copies one entry of the source, a folder without what is in it. `from` and `to` are below the two
    /// roots; missing folders are made.
    pub fn entry(&mut self, from: &[u8], to: &[u8]) -> Result<(), CopyError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let here =
            open_inside(self.source, path(from), flags, Mode::empty()).map_err(failed("open", from))?;
        let stat = rustix::fs::fstat(&here).map_err(failed("examine", from))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.folder_entry(from, to, &stat);
        }
        if kind == FileType::Socket || is_whiteout(&stat) {
            return Ok(());
        }
        let (folder, name) = split(to);
        let parent = self.folder(folder)?;
        if self.is_copy(&stat, &parent, name) {
            return Ok(());
        }
        self.make_room(&parent, name, to)?;
        if let Some(First { to: first, .. }) = self.linked.get(&identity(&stat)) {
            let first = first.clone();
            let (folder, first) = split(&first);
            let folder = self.folder(folder)?;
            let linked = rustix::fs::linkat(&folder, first, &parent, name, AtFlags::empty());
            return linked.map_err(failed("link", to));
        }
        self.node(from, &here, &stat, (&parent, name, to))?;
        if stat.st_nlink > 1 {
            let made = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
            let made = identity(&made.map_err(failed("examine", to))?);
            self.linked.insert(identity(&stat), First { to: to.to_vec(), identity: made });
        }
        Ok(())
    }

    /// Makes what is no folder, where nothing has the name.
    fn node(
        &mut self,
        from: &[u8],
        here: &OwnedFd,
        stat: &Stat,
        (parent, name, to): (&OwnedFd, &[u8], &[u8]),
    ) -> Result<(), CopyError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(from, parent, name, to),
            FileType::Symlink => {
                let link =
                    rustix::fs::readlinkat(here, c"", Vec::new()).map_err(failed("read the link", from))?;
                rustix::fs::symlinkat(&link, parent, name).map_err(failed("make the link", to))?;
                self.dress_node(parent, name, stat, None).map_err(failed("make the link", to))
            }
            kind => {
                let mode = Mode::from_raw_mode(self.mode(stat));
                let made = rustix::fs::mknodat(parent, name, kind, mode, stat.st_rdev);
                made.and_then(|()| self.dress_node(parent, name, stat, Some(mode)))
                    .map_err(failed("make", to))
            }
        }
    }

    /// Unpacks the archive `from` into the folder `to`. False: it is no archive.
    pub fn archive(&mut self, from: &[u8], to: &[u8]) -> Result<bool, CopyError> {
        let source = self.source;
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW;
            open_inside(source, path(from), flags, Mode::empty()).map_err(failed("open", from))
        };
        // Opening a device can do things.
        let stat = rustix::fs::fstat(open(OFlags::PATH)?).map_err(failed("examine", from))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let open = || open(OFlags::RDONLY | OFlags::NONBLOCK);
        if !is_archive(&mut std::fs::File::from(open()?)) {
            return Ok(false);
        }
        self.folder(to)?;
        let owner = self.dress.owner.map_or(Owner::Named, |(user, group)| Owner::One(user, group));
        let options = Unpack { owner, ..Unpack::default() };
        let mut file = std::fs::File::from(open()?);
        let source = Source::Stream(&mut file);
        let unpacked = unpack(source, self.root, to, &options, &Limits::default());
        unpacked.map_err(|source| CopyError::Unpack { name: shown(from), source })?;
        // It may have replaced any of them.
        self.linked.clear();
        Ok(true)
    }

    /// The folder at `to`, made with its parents if it is missing.
    pub fn folder(&mut self, to: &[u8]) -> Result<OwnedFd, CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open_inside(self.root, path(to), flags, Mode::empty()) {
            Ok(folder) => {
                if !self.times.contains_key(to) {
                    let stat = rustix::fs::fstat(&folder).map_err(failed("examine", to))?;
                    // The root is in no archive, and is as old as the layer that is being made.
                    let times = if to.is_empty() { UNKNOWN } else { self.times_of(&stat) };
                    self.times.insert(to.to_vec(), times);
                }
                Ok(folder)
            }
            Err(Errno::NOENT) if !to.is_empty() => {
                let (above, name) = split(to);
                let parent = self.folder(above)?;
                let stat = rustix::fs::fstat(&parent).map_err(failed("examine", above))?;
                let times = self.times.get(above).cloned().unwrap_or_else(|| self.times_of(&stat));
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    // A link that leads nowhere.
                    Err(Errno::EXIST) => return Err(CopyError::NotFolder { name: shown(to) }),
                    made => made.map_err(failed("make the folder", to))?,
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = rustix::fs::openat(&parent, name, flags, Mode::empty());
                let folder = folder.map_err(failed("open the folder", to))?;
                self.own(&folder).map_err(failed("set the owner of", to))?;
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))
                    .map_err(failed("set the mode of", to))?;
                self.times.insert(to.to_vec(), times);
                Ok(folder)
            }
            Err(Errno::NOTDIR) => Err(CopyError::NotFolder { name: shown(to) }),
            Err(errno) => Err(failed("open the folder", to)(errno)),
        }
    }

    /// Gives folders the times that they are to have.
    pub fn finish(self) -> Result<(), CopyError> {
        // What is in a folder comes before it: setting times below changes none above.
        for (to, times) in self.times.iter().rev() {
            let name = path(to);
            let folder = open_inside(self.root, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            let folder = folder.map_err(failed("open the folder", to))?;
            let now = rustix::fs::fstat(&folder).map_err(failed("examine", to))?;
            // One that nothing was changed in is not copied up by that.
            if (now.st_mtime, i64::try_from(now.st_mtime_nsec).unwrap_or(0))
                != (times.last_modification.tv_sec, times.last_modification.tv_nsec)
            {
                rustix::fs::futimens(&folder, times).map_err(failed("set the times of", to))?;
            }
        }
        Ok(())
    }

    fn folder_entry(&mut self, from: &[u8], to: &[u8], stat: &Stat) -> Result<(), CopyError> {
        let existed = self.is_folder(to);
        let folder = self.folder(to)?;
        if existed {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let source =
            open_inside(self.source, path(from), flags, Mode::empty()).map_err(failed("open", from))?;
        let mode = Mode::from_raw_mode(self.mode(stat));
        rustix::fs::fchmod(&folder, mode).map_err(failed("set the mode of", to))?;
        copy_attributes(source.as_fd(), folder.as_fd()).map_err(failed("set the attributes of", to))?;
        self.times.insert(to.to_vec(), self.times_of(stat));
        Ok(())
    }

    /// Whether the name is one of those that this file of the source has been copied to.
    fn is_copy(&self, stat: &Stat, parent: &OwnedFd, name: &[u8]) -> bool {
        self.linked.get(&identity(stat)).is_some_and(|first| {
            let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
            there.is_ok_and(|there| identity(&there) == first.identity)
        })
    }

    /// Removes what has the name, but no folder.
    fn make_room(&mut self, parent: &OwnedFd, name: &[u8], to: &[u8]) -> Result<(), CopyError> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("examine", to)(errno)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(CopyError::Folder { name: shown(to) })
            }
            Ok(stat) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed("replace", to))?;
                // It may have been a first copy, and its number is free for the next file.
                self.linked.retain(|_, first| first.identity != identity(&stat));
                Ok(())
            }
        }
    }

    fn file(&mut self, from: &[u8], parent: &OwnedFd, name: &[u8], to: &[u8]) -> Result<(), CopyError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let source =
            open_inside(self.source, path(from), flags, Mode::empty()).map_err(failed("open", from))?;
        let stat = rustix::fs::fstat(&source).map_err(failed("examine", from))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let target = target.map_err(failed("create the file", to))?;
        self.bytes(&source, &target, &stat).map_err(failed("copy", to))?;
        self.own(&target).map_err(failed("set the owner of", to))?;
        let mode = Mode::from_raw_mode(self.mode(&stat));
        rustix::fs::fchmod(&target, mode).map_err(failed("set the mode of", to))?;
        copy_attributes(source.as_fd(), target.as_fd()).map_err(failed("set the attributes of", to))?;
        rustix::fs::futimens(&target, &self.times_of(&stat)).map_err(failed("set the times of", to))
    }

    /// Only what is no hole; the length makes the last one.
    fn bytes(&mut self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                start => start?,
            };
            at = start;
            let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                let read =
                    rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut self.buffer[..most], at))?;
                if read == 0 {
                    return rustix::fs::ftruncate(to, size);
                }
                let mut rest = &self.buffer[..read];
                while !rest.is_empty() {
                    let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, rest, at))?;
                    rest = &rest[written..];
                    at += written as u64;
                }
            }
        }
        rustix::fs::ftruncate(to, size)
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mode = stat.st_mode & 0o7777;
        self.dress.mode.as_ref().map_or(mode, |change| change.apply(mode, is_folder))
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        let (user, group) = self.dress.owner.unwrap_or((0, 0));
        (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
    }

    /// Before the mode: a change of owner takes bits of it away (chown(2)).
    fn own(&self, target: &OwnedFd) -> Result<(), Errno> {
        let (user, group) = self.owner();
        rustix::fs::fchown(target, user, group)
    }

    /// What cannot be opened; links have no mode.
    fn dress_node(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        mode: Option<Mode>,
    ) -> Result<(), Errno> {
        let (user, group) = self.owner();
        rustix::fs::chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(mode) = mode {
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &self.times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn times_of(&self, stat: &Stat) -> Timestamps {
        let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let time = match self.dress.newest {
            Some(newest) if stat.st_mtime >= newest => Timespec { tv_sec: newest, tv_nsec: 0 },
            _ => Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds },
        };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// An extended attribute's name and value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// The extended attributes that are part of an image, and that a copy keeps, sorted.
pub fn attributes(of: BorrowedFd<'_>) -> Result<Vec<Attribute>, Errno> {
    let mut list = [0u8; 4096];
    let length = match rustix::fs::flistxattr(of, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut found = Vec::new();
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty() && is_portable(name)) {
        // XATTR_SIZE_MAX (xattr(7)).
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(of, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    for (name, value) in attributes(from)? {
        rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Whether the file is an archive, compressed or not: what begins with a header that can be read.
fn is_archive(file: &mut dyn Read) -> bool {
    let mut source = BufReader::with_capacity(BUFFER, file);
    let Ok(first) = source.fill_buf() else { return false };
    let compression = Compression::detect(first);
    let Ok(decoder) = compression.decoder(&mut source) else { return false };
    let mut plain = BufReader::with_capacity(BUFFER, decoder);
    matches!(tar::Reader::new(&mut plain, tar::Limits::default()).next(), Ok(Some(_)))
}
