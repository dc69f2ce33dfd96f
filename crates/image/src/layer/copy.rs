//! Files of one tree are copied into another: COPY and ADD of a build.
//!
//! Both trees are at rest, but neither is trusted. A place in the target is found by the kernel inside of
//! its root (openat2(2), `RESOLVE_IN_ROOT`), so that links in it mean what they mean in a container; the
//! name itself is never written through a link.
//!
//! The same files copied onto the same tree give the same layer: a folder that was there keeps its times
//! though names are added to it, and one that is made only because something is to be in it has those of
//! the folder above.
//!
//! Most of what is copied are small files, many in a folder: the folders that were copied from and into
//! last stay open, and a file is asked for nothing that is known of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use hull_sys::root::open_inside;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::apply::{ApplyError, Limits, Owner, Unpack, unpack};
use super::mode::ModeChange;
use super::packing::{Archive, Made, Packing};
use super::stream::Source;
use super::{is_portable, is_sparse, is_whiteout, shown};
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
    /// Whatever is copied keeps the owner that it has, and the root becomes like a folder that is copied onto
    /// it; `owner` is that of folders that are made on the way.
    pub keep_owners: bool,
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
#[derive(Clone)]
struct First {
    to: Vec<u8>,
    /// The copy's.
    identity: Identity,
}

/// A folder below one of the roots, by its path.
type Kept = Option<(Vec<u8>, Rc<OwnedFd>)>;

/// Where something is copied to.
struct Place<'a> {
    folder: Rc<OwnedFd>,
    name: &'a [u8],
    /// The whole path, for errors.
    path: &'a [u8],
}

/// Something that has no bytes of its own.
#[derive(Debug, Clone, Copy)]
pub enum Bare<'a> {
    Folder,
    /// The folder that all is in: nobody knows how old it is.
    Root,
    /// With where it leads.
    Link(&'a [u8]),
    Node,
}

/// A copy that is going on; it is done with [`Copying::finish`].
pub struct Copying<'a> {
    /// `None`: what is copied comes piece by piece, without extended attributes.
    source: Option<BorrowedFd<'a>>,
    root: BorrowedFd<'a>,
    dress: &'a Dress,
    /// Files of the source with several names, as long as their first copies are there.
    linked: HashMap<Identity, First>,
    /// Times that folders are to have in the end, by path.
    times: BTreeMap<Vec<u8>, Timestamps>,
    /// The folder of the source that something was copied from last.
    from: Kept,
    /// The folder that something was copied into last.
    into: Kept,
    packing: Option<Packing<'a>>,
    buffer: Box<[u8]>,
}

impl<'a> Copying<'a> {
    pub fn new(source: BorrowedFd<'a>, root: BorrowedFd<'a>, dress: &'a Dress) -> Copying<'a> {
        Copying { source: Some(source), ..Copying::piece_by_piece(root, dress) }
    }

    /// For [`Copying::opened`] and [`Copying::bare`] alone.
    pub fn piece_by_piece(root: BorrowedFd<'a>, dress: &'a Dress) -> Copying<'a> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let (linked, times) = (HashMap::new(), BTreeMap::new());
        Copying { source: None, root, dress, linked, times, from: None, into: None, packing: None, buffer }
    }

    /// Has the copies packed into `archive`, too. Nothing may be in the writable layer that they go to.
    pub fn pack(&mut self, archive: &'a mut Archive<'_>) {
        self.packing = Some(Packing::new(archive));
    }

    /// Whether there is a folder at `to`, links followed.
    pub fn is_folder(&self, to: &[u8]) -> bool {
        open_inside(self.root, path(to), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).is_ok()
    }

    /// Copies one entry of the source, a folder without what is in it. `from` and `to` are below the two
    /// roots; missing folders are made.
    pub fn entry(&mut self, from: &[u8], to: &[u8]) -> Result<(), CopyError> {
        let (folder, name) = self.source_of(from)?;
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(failed("examine", from))?;
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(failed("open", from))
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let known = !from.is_empty();
                self.folder_entry(|| open(OFlags::DIRECTORY).map(Some), (&stat, known), to)
            }
            FileType::RegularFile => {
                let source = open(OFlags::empty())?;
                let stat = rustix::fs::fstat(&source).map_err(failed("examine", from))?;
                self.opened(source.as_fd(), &stat, to)
            }
            FileType::Socket => Ok(()),
            _ if is_whiteout(&stat) || self.again(&stat, to)? => Ok(()),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&folder, name, Vec::new());
                let link = link.map_err(failed("read the link", from))?;
                self.bare(Bare::Link(link.as_bytes()), &stat, to)
            }
            _ => self.bare(Bare::Node, &stat, to),
        }
    }

    /// Makes what has no bytes, as `stat` has it.
    pub fn bare(&mut self, what: Bare<'_>, stat: &Stat, to: &[u8]) -> Result<(), CopyError> {
        match what {
            Bare::Folder => self.folder_entry(|| Ok(None), (stat, true), to),
            Bare::Root => self.folder_entry(|| Ok(None), (stat, false), to),
            Bare::Link(target) => {
                let place = self.place(to)?;
                let make = || rustix::fs::symlinkat(target, &place.folder, place.name);
                self.make("make the link", &place, make)?;
                self.dress_node(&place, stat, None)
            }
            Bare::Node => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                let (place, mode) = (self.place(to)?, Mode::from_raw_mode(self.mode(stat)));
                let make = || rustix::fs::mknodat(&place.folder, place.name, kind, mode, stat.st_rdev);
                self.make("make", &place, make)?;
                self.dress_node(&place, stat, Some(mode))
            }
        }
    }

    /// Copies a regular file that is open; `stat` is what fstat(2) says of it.
    pub fn opened(&mut self, source: BorrowedFd<'_>, stat: &Stat, to: &[u8]) -> Result<(), CopyError> {
        if self.again(stat, to)? {
            return Ok(());
        }
        let (place, mode) = (self.place(to)?, self.mode(stat));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A change of owner takes the other bits away (chown(2)).
        let first = Mode::from_raw_mode(mode & 0o777);
        let make = || rustix::fs::openat(&place.folder, place.name, flags, first);
        let target = self.make("create the file", &place, make)?;
        self.bytes(source, &target, stat).map_err(failed("copy", to))?;
        let made = rustix::fs::fstat(&target).map_err(failed("examine", to))?;
        if (made.st_uid, made.st_gid) != self.owner(Some(stat)) {
            self.own(&target, Some(stat)).map_err(failed("set the owner of", to))?;
        }
        if made.st_mode & 0o7777 != mode {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::fchmod(&target, mode).map_err(failed("set the mode of", to))?;
        }
        if self.source.is_some() {
            copy_attributes(source, target.as_fd()).map_err(failed("set the attributes of", to))?;
        }
        let times = self.times_of(stat);
        rustix::fs::futimens(&target, &times).map_err(failed("set the times of", to))?;
        self.remember(stat, &made, to);
        self.packed(to, &Made::File(target.as_fd()));
        Ok(())
    }

    /// Unpacks the archive `from` into the folder `to`. False: it is no archive.
    pub fn archive(&mut self, from: &[u8], to: &[u8]) -> Result<bool, CopyError> {
        let source = self.source.ok_or_else(|| failed("open", from)(Errno::BADF))?;
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW;
            open_inside(source, path(from), flags, Mode::empty()).map_err(failed("open", from))
        };
        // Opening a device can do things.
        let stat = rustix::fs::fstat(open(OFlags::PATH)?).map_err(failed("examine", from))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let open = || Ok(std::fs::File::from(open(OFlags::RDONLY | OFlags::NONBLOCK)?));
        if !is_archive(&mut open()?) {
            return Ok(false);
        }
        self.unpack(&mut open()?, from, to).map(|()| true)
    }

    /// Unpacks an archive into the folder `to`; `from` is its name, for errors.
    pub fn unpack(&mut self, source: &mut dyn Read, from: &[u8], to: &[u8]) -> Result<(), CopyError> {
        self.packing = None;
        self.open_or_make(to)?;
        let owner = self.dress.owner.map_or(Owner::Named, |(user, group)| Owner::One(user, group));
        let options = Unpack { owner, ..Unpack::default() };
        let source = Source::Stream(source);
        let count = AtomicU64::new(0);
        let unpacked = unpack(source, self.root, to, &options, &Limits::default(), &count);
        unpacked.map_err(|source| CopyError::Unpack { name: shown(from), source })?;
        // It may have replaced any of them.
        self.linked.clear();
        self.into = None;
        Ok(())
    }

    /// Has a folder at `to`, made with its parents if it is missing.
    pub fn folder(&mut self, to: &[u8]) -> Result<(), CopyError> {
        let existed = self.is_folder(to);
        self.open_or_make(to)?;
        if !existed {
            self.packed(to, &Made::Folder);
        }
        Ok(())
    }

    fn open_or_make(&mut self, to: &[u8]) -> Result<OwnedFd, CopyError> {
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
                let parent = self.open_or_make(above)?;
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
                self.own(&folder, None).map_err(failed("set the owner of", to))?;
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
    pub fn finish(mut self) -> Result<(), CopyError> {
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
                // Or it is, and has an entry for that alone.
                self.packing = self.packing.take().filter(|packing| to.is_empty() || packing.has_folder(to));
            }
        }
        self.packing.take().and_then(|packing| packing.finish(self.root));
        Ok(())
    }

    /// A folder that was there stays as it is. One whose age nobody knows is as old as the one above it.
    fn folder_entry(
        &mut self,
        open: impl FnOnce() -> Result<Option<OwnedFd>, CopyError>,
        (stat, known): (&Stat, bool),
        to: &[u8],
    ) -> Result<(), CopyError> {
        let existed = self.is_folder(to);
        let folder = self.open_or_make(to)?;
        if existed && !(self.dress.keep_owners && to.is_empty()) {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(self.mode(stat));
        if self.dress.keep_owners {
            self.own(&folder, Some(stat)).map_err(failed("set the owner of", to))?;
        }
        rustix::fs::fchmod(&folder, mode).map_err(failed("set the mode of", to))?;
        if let Some(source) = open()? {
            let copied = copy_attributes(source.as_fd(), folder.as_fd());
            copied.map_err(failed("set the attributes of", to))?;
        }
        if known {
            self.times.insert(to.to_vec(), self.times_of(stat));
        }
        self.packed(to, &Made::Folder);
        Ok(())
    }

    /// What was made is as it will be.
    fn packed(&mut self, to: &[u8], made: &Made<'_>) {
        let (root, times) = (self.root, &self.times);
        self.packing = self.packing.take().and_then(|packing| packing.put(root, times, to, made));
    }

    /// The folder of the source that something is in, and its name there.
    fn source_of<'n>(&mut self, from: &'n [u8]) -> Result<(Rc<OwnedFd>, &'n [u8]), CopyError> {
        let (folder, name) = match split(from) {
            // Of a folder without a name the path is all there is.
            (_, b"" | b"." | b"..") => (from, &b"."[..]),
            split => split,
        };
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let source = self.source.ok_or_else(|| failed("open", from)(Errno::BADF))?;
            open_inside(source, path(folder), flags, Mode::empty()).map_err(failed("open", from))
        };
        Ok((kept(&mut self.from, folder, open)?, name))
    }

    /// Where `to` is; missing folders are made.
    fn place<'n>(&mut self, to: &'n [u8]) -> Result<Place<'n>, CopyError> {
        let (folder, name) = split(to);
        let mut into = self.into.take();
        let found = kept(&mut into, folder, || self.open_or_make(folder));
        self.into = into;
        Ok(Place { folder: found?, name, path: to })
    }

    /// One more name of a file that has been copied is a link to the copy. True: it was.
    fn again(&mut self, stat: &Stat, to: &[u8]) -> Result<bool, CopyError> {
        let first = if stat.st_nlink > 1 { self.linked.get(&identity(stat)) } else { None };
        let Some(First { to: first, identity: copy }) = first.cloned() else { return Ok(false) };
        let place = self.place(to)?;
        let there = rustix::fs::statat(&place.folder, place.name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| identity(&there) == copy) {
            return Ok(true);
        }
        let (folder, first) = split(&first);
        let folder = self.open_or_make(folder)?;
        let make = || rustix::fs::linkat(&folder, first, &place.folder, place.name, AtFlags::empty());
        self.make("link", &place, make)?;
        self.packed(to, &Made::Other(&place.folder, place.name));
        Ok(true)
    }

    /// What more names of this file of the source link to; `made` is its copy at `to`.
    fn remember(&mut self, stat: &Stat, made: &Stat, to: &[u8]) {
        if stat.st_nlink > 1 {
            self.linked.insert(identity(stat), First { to: to.to_vec(), identity: identity(made) });
            if let Some(packing) = &mut self.packing {
                packing.remember(made, to);
            }
        }
    }

    /// Makes something new. What has the name is removed, but no folder.
    fn make<T>(
        &mut self,
        action: &'static str,
        place: &Place<'_>,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, CopyError> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.make_room(place)?;
                make()
            }
            made => made,
        };
        made.map_err(failed(action, place.path))
    }

    fn make_room(&mut self, place: &Place<'_>) -> Result<(), CopyError> {
        let Place { folder, name, path } = place;
        let stat = rustix::fs::statat(folder, *name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(failed("examine", path))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(CopyError::Folder { name: shown(path) });
        }
        rustix::fs::unlinkat(folder, *name, AtFlags::empty()).map_err(failed("replace", path))?;
        // It may have been a first copy, and its number is free for the next file.
        self.linked.retain(|_, first| first.identity != identity(&stat));
        // Or a link, and its name leads nowhere any more.
        self.into = None;
        Ok(())
    }

    /// Only what is no hole; the length makes the last one.
    fn bytes(&mut self, from: BorrowedFd<'_>, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let sparse = is_sparse(stat);
        let mut at = 0;
        while at < size {
            let mut end = size;
            if sparse {
                at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                    Err(Errno::NXIO) => break,
                    start => start?,
                };
                end = rustix::fs::seek(from, SeekFrom::Hole(at))?.min(size);
            }
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
        if at == size { Ok(()) } else { rustix::fs::ftruncate(to, size) }
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mode = stat.st_mode & 0o7777;
        self.dress.mode.as_ref().map_or(mode, |change| change.apply(mode, is_folder))
    }

    /// Of a copy of what `of` tells; of what is no copy without.
    fn owner(&self, of: Option<&Stat>) -> (u32, u32) {
        let kept = of.filter(|_| self.dress.keep_owners).map(|of| (of.st_uid, of.st_gid));
        kept.or(self.dress.owner).unwrap_or((0, 0))
    }

    /// Before the mode: a change of owner takes bits of it away (chown(2)).
    fn own(&self, target: &OwnedFd, of: Option<&Stat>) -> Result<(), Errno> {
        let (user, group) = self.owner(of);
        rustix::fs::fchown(target, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
    }

    /// What cannot be opened; links have no mode.
    fn dress_node(&mut self, place: &Place<'_>, stat: &Stat, mode: Option<Mode>) -> Result<(), CopyError> {
        let Place { folder, name, path } = place;
        let ((user, group), flags) = (self.owner(Some(stat)), AtFlags::SYMLINK_NOFOLLOW);
        let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        rustix::fs::chownat(folder, *name, owner.0, owner.1, flags)
            .map_err(failed("set the owner of", path))?;
        if let Some(mode) = mode {
            let set = rustix::fs::chmodat(folder, *name, mode, AtFlags::empty());
            set.map_err(failed("set the mode of", path))?;
        }
        let times = self.times_of(stat);
        let set = rustix::fs::utimensat(folder, *name, &times, flags);
        set.map_err(failed("set the times of", path))?;
        if stat.st_nlink > 1 {
            let made = rustix::fs::statat(folder, *name, flags).map_err(failed("examine", path))?;
            self.remember(stat, &made, path);
        }
        self.packed(path, &Made::Other(folder, name));
        Ok(())
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

/// The folder at `path`: the one that is kept, or else what `open` opens, which is kept from then on.
fn kept(
    kept: &mut Kept,
    path: &[u8],
    open: impl FnOnce() -> Result<OwnedFd, CopyError>,
) -> Result<Rc<OwnedFd>, CopyError> {
    if let Some((known, folder)) = kept
        && known == path
    {
        return Ok(Rc::clone(folder));
    }
    let folder = Rc::new(open()?);
    *kept = Some((path.to_vec(), Rc::clone(&folder)));
    Ok(folder)
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
pub fn is_archive(file: &mut dyn Read) -> bool {
    let mut source = BufReader::with_capacity(BUFFER, file);
    let Ok(first) = source.fill_buf() else { return false };
    let compression = Compression::detect(first);
    let Ok(decoder) = compression.decoder(&mut source) else { return false };
    let mut plain = BufReader::with_capacity(BUFFER, decoder);
    matches!(tar::Reader::new(&mut plain, tar::Limits::default()).next(), Ok(Some(_)))
}
