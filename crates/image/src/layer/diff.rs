//! A folder becomes an archive: what `apply` makes, the other way round.
//!
//! [`diff`] packs one layer by itself, with overlayfs's marks as an archive's, for an image.
//! [`pack`] packs any tree as it is seen, for a person; others may be changing it meanwhile.
//!
//! Entries come in the byte order of their names, each folder before what is in
//! it, so the same folder always gives the same bytes.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use hull_oci::Digest;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::ids::Ids;
use super::stream::{Counted, HashedWriter, Sink};
use super::{OPAQUE, OVERLAY, WHITEOUT, is_portable, is_sparse, is_whiteout, shown};
use crate::tar::{Entry, Extent, Kind, Limits, Output, Time, WriteError, Writer};

/// What `diff` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// Digest of the archive.
    pub diff_id: Digest,
    /// Its length (bytes).
    pub archive_size: u64,
    /// Sum of the sizes of all files, holes counted too (bytes).
    pub size: u64,
}

/// Why a folder could not be written as an archive.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("cannot {action} \"{name}\" ({errno})")]
    Entry { action: &'static str, name: String, errno: Errno },
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A `redirect` or `metacopy`: the folder means more than it holds.
    #[error("\"{name}\" carries the overlay attribute {attribute}, which an archive cannot express")]
    Overlay { name: String, attribute: String },
    #[error(
        "\"{name}\" has a name that means in an image that another file is gone (.wh.*): remove or rename it"
    )]
    Reserved { name: String },
    #[error("folders are nested deeper than {limit} at \"{name}\"")]
    Depth { name: String, limit: usize },
}

impl DiffError {
    /// True if what is in the folder is to blame, and not the host.
    pub fn is_unfit(&self) -> bool {
        match self {
            Self::Overlay { .. } | Self::Reserved { .. } | Self::Depth { .. } => true,
            Self::Write(error) => matches!(error, WriteError::Limit { .. }),
            Self::Entry { .. } => false,
        }
    }
}

/// Deepest nesting that is followed: each level keeps a descriptor open.
pub(super) const DEPTH: usize = 512;
/// Bytes moved at once.
const BUFFER: usize = 128 << 10;

/// Writes the tree below `root` (a folder in overlayfs's conventions, such as a
/// container's upper folder) as a layer's archive. Sockets are left out, as they
/// mean nothing without the process that listened; a whiteout is in their place
/// where layers below may have the name. The root itself has no entry.
///
/// What [`super::apply`] would refuse for its [`Limits`] is an error: nobody could use that archive.
///
/// The tree should be at rest. What goes or becomes something else meanwhile is left
/// out, as by [`pack`].
pub fn diff(root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<Diffed, DiffError> {
    let mut hashed = HashedWriter::new(out);
    let mut walk = Walk::new(&mut hashed, Tree::Layer, Ids::default());
    let folder = open_folder(root, b".").map_err(failed("open the folder", b"."))?;
    walk.folder(Here { folder: &folder, depth: 0, merged: true }, &mut Vec::new())?;
    let Walk { writer, size, .. } = walk;
    writer.finish()?;
    let (diff_id, archive_size) = hashed.finish().map_err(WriteError::Write)?;
    Ok(Diffed { diff_id, archive_size, size })
}

/// Writes what `base` is in the folder `parent`, a folder with all that is in it, as an archive whose
/// names begin with `name` in its place. With an empty `name` a folder has no entry itself. Owners are
/// those that `ids` makes of them. Gives the
/// archive's length in bytes, which `count` is counted up to for who watches.
///
/// The tree may change meanwhile: what has gone or become something else since it was listed is left
/// out, a file that grows is cut off at the size that it had, one that shrinks is filled up with
/// zeros. Sockets are left out. No link is followed.
pub fn pack<'a>(
    parent: BorrowedFd<'_>,
    base: &[u8],
    name: &[u8],
    ids: Ids<'_>,
    out: Sink<'a>,
    count: &'a AtomicU64,
) -> Result<u64, DiffError> {
    let mut out = Counted::new(out, count);
    let mut walk = Walk::new(&mut out, Tree::Seen, ids);
    let parent = open_folder(parent, b".").map_err(failed("open the folder of", name))?;
    if name.is_empty() {
        let folder = open_folder(parent.as_fd(), base).map_err(failed("open the folder", base))?;
        walk.folder(Here { folder: &folder, depth: 0, merged: false }, &mut Vec::new())?;
    } else {
        let here = Here { folder: &parent, depth: 0, merged: false };
        walk.entry(here, base, FileType::Unknown, &mut name.to_vec())?;
    }
    walk.writer.finish()?;
    out.flush().map_err(WriteError::Write)?;
    Ok(count.load(Ordering::Relaxed))
}

/// What is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    /// One layer in overlayfs's conventions.
    Layer,
    /// What a process sees, perhaps changing.
    Seen,
}

/// A folder whose entries are packed.
#[derive(Clone, Copy)]
pub(super) struct Here<'a> {
    pub(super) folder: &'a OwnedFd,
    /// Folders above it.
    pub(super) depth: usize,
    /// Of a layer: layers below have the folder, too, and what they have in it is seen.
    pub(super) merged: bool,
}

pub(super) struct Walk<'a> {
    tree: Tree,
    ids: Ids<'a>,
    pub(super) writer: Writer<'a>,
    /// First names of files with several, by device and inode.
    pub(super) linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Bytes of the files so far.
    pub(super) size: u64,
}

pub(super) fn failed(action: &'static str, name: &[u8]) -> impl Fn(Errno) -> DiffError {
    move |errno| DiffError::Entry { action, name: shown(name), errno }
}

pub(super) fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// The names in a folder, sorted by their bytes, and what it tells of their kinds (`Unknown` on some
/// file systems).
fn entries(folder: &OwnedFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            entries.push((name.to_vec(), entry.file_type()));
        }
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

/// The names alone.
pub(super) fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    Ok(entries(folder)?.into_iter().map(|(name, _)| name).collect())
}

/// Whether the error says that a name is not any more what it was when it was listed.
fn vanished(error: &DiffError) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO, Errno::STALE];
    matches!(error, DiffError::Entry { errno, .. } if gone.contains(errno))
}

impl<'a> Walk<'a> {
    pub(super) fn new(out: &'a mut dyn Output, tree: Tree, ids: Ids<'a>) -> Self {
        let (linked, buffer) = (HashMap::new(), vec![0; BUFFER]);
        let writer = match tree {
            Tree::Layer => Writer::limited(out, Limits::default()),
            Tree::Seen => Writer::new(out),
        };
        Self { tree, ids, writer, linked, buffer, size: 0 }
    }

    /// An entry that has no data.
    pub(super) fn put(&mut self, entry: &Entry) -> Result<(), DiffError> {
        Ok(self.writer.begin(entry)?)
    }

    fn described(&self, name: &[u8], kind: Kind, stat: &Stat, xattrs: Attributes) -> Entry {
        Entry {
            name: name.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: self.ids.uid(stat.st_uid),
            gid: self.ids.gid(stat.st_gid),
            mtime: modified(stat),
            xattrs,
        }
    }

    /// Everything in the folder `prefix`, which is open as `folder`.
    fn folder(&mut self, here: Here<'_>, prefix: &mut Vec<u8>) -> Result<(), DiffError> {
        if here.depth > DEPTH {
            return Err(DiffError::Depth { name: shown(prefix), limit: DEPTH });
        }
        let entries = entries(here.folder).map_err(failed("read the folder", prefix))?;
        let length = prefix.len();
        for (name, kind) in entries {
            if length > 0 && !prefix.ends_with(b"/") {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(&name);
            match self.entry(here, &name, kind, prefix) {
                Err(error) if vanished(&error) => {}
                result => result?,
            }
            prefix.truncate(length);
        }
        Ok(())
    }

    /// `listed` is its kind as the folder tells it.
    pub(super) fn entry(
        &mut self,
        here: Here<'_>,
        base: &[u8],
        listed: FileType,
        name: &mut Vec<u8>,
    ) -> Result<(), DiffError> {
        let folder = here.folder;
        if self.tree == Tree::Layer && base.starts_with(WHITEOUT) {
            return Err(DiffError::Reserved { name: shown(name) });
        }
        // Most entries are files, which are examined when they are open.
        if listed == FileType::RegularFile {
            return self.file(folder, base, name);
        }
        let stat =
            rustix::fs::statat(folder, base, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("examine", name))?;
        if self.tree == Tree::Layer && is_whiteout(&stat) {
            return self.hide(base, name);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => return self.subfolder(here, base, name),
            FileType::RegularFile => return self.file(folder, base, name),
            _ if self.put_again(name, &stat)? => return Ok(()),
            _ => {}
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, base, Vec::new());
                // EINVAL: something else has that name by now, so the link has gone.
                let target = target.map_err(|errno| if errno == Errno::INVAL { Errno::NOENT } else { errno });
                Kind::Symlink { target: target.map_err(failed("read the link", name))?.into_bytes() }
            }
            FileType::CharacterDevice => Kind::Character { major, minor },
            FileType::BlockDevice => Kind::Block { major, minor },
            FileType::Fifo => Kind::Fifo,
            // A socket is left out; what it hides of the layers below must stay hidden.
            _ if here.merged => return self.hide(base, name),
            _ => return Ok(()),
        };
        self.put(&self.described(name, kind, &stat, Vec::new()))?;
        self.remember(name, &stat);
        Ok(())
    }

    /// One more name of what has an entry already is a link to that. True: it was.
    fn put_again(&mut self, name: &[u8], stat: &Stat) -> Result<bool, DiffError> {
        let first = if stat.st_nlink > 1 { self.linked.get(&(stat.st_dev, stat.st_ino)) } else { None };
        let Some(target) = first.cloned() else { return Ok(false) };
        self.put(&self.described(name, Kind::Link { target }, stat, Vec::new()))?;
        Ok(true)
    }

    /// Called when the entry is written: nothing may link to one that was left out.
    fn remember(&mut self, name: &[u8], stat: &Stat) {
        if stat.st_nlink > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), name.to_vec());
        }
    }

    /// Says that the name in the layers below is not seen.
    fn hide(&mut self, base: &[u8], name: &[u8]) -> Result<(), DiffError> {
        let hidden = [&name[..name.len() - base.len()], WHITEOUT, base].concat();
        let kind = Kind::File { size: 0, extents: None };
        self.put(&Entry { mode: 0, ..Entry::new(&hidden, kind) })
    }

    fn subfolder(&mut self, here: Here<'_>, base: &[u8], name: &mut Vec<u8>) -> Result<(), DiffError> {
        let folder = open_folder(here.folder.as_fd(), base).map_err(failed("open the folder", name))?;
        // Of the descriptor, not of the name: it may be another folder by now.
        let (entry, Marks { opaque, origin }) = self.examined(&folder, name)?;
        self.put(&entry)?;
        if opaque {
            let mark = [&name[..], b"/", OPAQUE].concat();
            let kind = Kind::File { size: 0, extents: None };
            self.put(&Entry { mode: 0, ..Entry::new(&mark, kind) })?;
        }
        // overlayfs marks what it copied up with where it came from; a folder of this layer alone is not.
        let merged = here.merged && origin && !opaque;
        self.folder(Here { folder: &folder, depth: here.depth + 1, merged }, name)
    }

    /// What an open folder is.
    pub(super) fn examined(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(Entry, Marks), DiffError> {
        let stat = rustix::fs::fstat(folder).map_err(failed("examine", name))?;
        let (xattrs, marks) = attributes(folder.as_fd(), name, (self.tree, self.ids), &mut self.buffer)?;
        Ok((self.described(name, Kind::Directory, &stat, xattrs), marks))
    }

    fn file(&mut self, folder: &OwnedFd, base: &[u8], name: &[u8]) -> Result<(), DiffError> {
        // NONBLOCK: the name may have become a FIFO's since it was examined.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(folder, base, flags, Mode::empty()).map_err(failed("open", name))?;
        self.opened(fd.as_fd(), name)
    }

    /// A file that is open for reading.
    pub(super) fn opened(&mut self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), DiffError> {
        let stat = rustix::fs::fstat(fd).map_err(failed("examine", name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed("open as a regular file", name)(Errno::STALE));
        }
        if self.put_again(name, &stat)? {
            return Ok(());
        }
        let (xattrs, _) = attributes(fd, name, (self.tree, self.ids), &mut self.buffer)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let extents = match is_sparse(&stat) {
            true => Some(extents(fd, size).map_err(failed("map the holes of", name))?),
            false => None,
        };
        let extents = extents.filter(|e| e[..] != [Extent { offset: 0, length: size }]);
        let whole = [Extent { offset: 0, length: size }];
        let kind = Kind::File { size, extents: extents.clone() };
        let entry = self.described(name, kind, &stat, xattrs);
        self.writer.begin(&entry)?;
        self.size += size;
        for extent in extents.as_deref().unwrap_or(&whole) {
            self.copy(fd, *extent, name)?;
        }
        self.remember(name, &stat);
        Ok(())
    }

    /// The bytes of one extent. A file that shrinks meanwhile is filled up with zeros: the header with
    /// its size is written already.
    fn copy(&mut self, fd: BorrowedFd<'_>, extent: Extent, name: &[u8]) -> Result<(), DiffError> {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let moved = self.writer.move_from(fd, at, end - at)?;
            at += moved;
            if moved > 0 {
                continue;
            }
            let most = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let count = match rustix::io::pread(fd, &mut self.buffer[..most], at) {
                Ok(0) => {
                    self.buffer[..most].fill(0);
                    most
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("read", name)(errno)),
            };
            self.writer.data(&self.buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }
}

pub(super) fn modified(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// The parts of a file that hold data (lseek(2), SEEK_DATA and SEEK_HOLE).
fn extents(fd: BorrowedFd<'_>, size: u64) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            result => result?,
        };
        let end = rustix::fs::seek(fd, SeekFrom::Hole(offset))?.min(size);
        if offset >= end {
            break;
        }
        extents.push(Extent { offset, length: end - offset });
        at = end;
    }
    Ok(extents)
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What overlayfs notes at a folder.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) opaque: bool,
    /// It was copied up from a layer below.
    origin: bool,
}

/// The portable extended attributes, sorted, and overlayfs's own.
fn attributes(
    fd: BorrowedFd<'_>,
    name: &[u8],
    (tree, ids): (Tree, Ids<'_>),
    buffer: &mut [u8],
) -> Result<(Attributes, Marks), DiffError> {
    let error = failed("read the extended attributes of", name);
    // Linux limits both the list and a value to 64 KiB (xattr(7)).
    let length = match rustix::fs::flistxattr(fd, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result.map_err(&error)?,
    };
    if length == 0 {
        return Ok((Vec::new(), Marks::default()));
    }
    let list = buffer[..length].to_vec();
    let mut xattrs = Vec::new();
    let mut marks = Marks::default();
    for attribute in list.split(|&byte| byte == 0).filter(|attribute| !attribute.is_empty()) {
        let overlay = attribute.strip_prefix(OVERLAY);
        // In a tree that is seen they are some other overlay's affair.
        let ours = if overlay.is_some() { tree == Tree::Layer } else { is_portable(attribute) };
        if !ours {
            continue;
        }
        let length = match rustix::fs::fgetxattr(fd, attribute, &mut buffer[..]) {
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            result => result.map_err(&error)?,
        };
        let value = buffer[..length].to_vec();
        match overlay {
            None => xattrs.push((attribute.to_vec(), ids.attribute(attribute, value))),
            Some(b"opaque") => marks.opaque |= value == b"y",
            Some(b"origin") => marks.origin = true,
            Some(b"redirect" | b"metacopy") => {
                let attribute = attribute.escape_ascii().to_string();
                return Err(DiffError::Overlay { name: shown(name), attribute });
            }
            // impure, nlink…: notes of overlayfs to itself.
            Some(_) => {}
        }
    }
    xattrs.sort_unstable();
    Ok((xattrs, marks))
}
