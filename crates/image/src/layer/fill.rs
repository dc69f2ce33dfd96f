//! What an image has at a place becomes the first content of an empty volume ("copy-up"), with owners,
//! modes, times, extended attributes, links and holes.
//!
//! Containers may use the volume meanwhile, and whoever does this may be killed at any moment. So the
//! copy is made in a folder in the volume and moved into place, name by name, when it is complete:
//!
//! | in the volume | what it means |
//! |---|---|
//! | `.hull-copy-up` | a copy that was not finished: it is removed |
//! | `.hull-copied-up` | one that was: what is in it is still to be moved |
//!
//! [`fill`] and [`settle`] begin with what an earlier one has left. A name that a container has made
//! in the meantime stays as it is.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::apply::remove;
use super::diff::{names, open_folder};
use super::{is_portable, is_whiteout, shown};

/// A copy that is being made, and one that is complete.
const PART: &str = ".hull-copy-up";
const DONE: &str = ".hull-copied-up";

/// Deepest nesting that is copied: each level keeps two descriptors open.
const DEPTH: usize = 400;
/// Bytes moved at once.
const BUFFER: usize = 128 << 10;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// Files, folders, links and devices.
    pub entries: u64,
    /// Of the files, holes counted too.
    pub bytes: u64,
}

/// Why a volume could not be filled. It is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error("cannot {action} \"{name}\" ({errno})")]
    Entry { action: &'static str, name: String, errno: Errno },
    #[error("folders are nested deeper than {limit} at \"{name}\"")]
    Depth { name: String, limit: usize },
}

fn failed(action: &'static str, name: &[u8]) -> impl Fn(Errno) -> FillError {
    move |errno| FillError::Entry { action, name: shown(name), errno }
}

/// Whether an earlier [`fill`] of the volume `target` was interrupted.
pub fn is_unsettled(target: BorrowedFd<'_>) -> bool {
    [PART, DONE].iter().any(|name| rustix::fs::statat(target, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
}

/// Ends what an interrupted [`fill`] has left: undone, or finished if the copy was complete.
pub fn settle(target: BorrowedFd<'_>) -> Result<(), FillError> {
    discard(target, PART)?;
    match open_folder(target, DONE.as_bytes()) {
        Ok(done) => publish(target, &done),
        Err(Errno::NOENT) => Ok(()),
        // No folder: not ours.
        Err(_) => discard(target, DONE),
    }
}

/// Copies the folder `source` into the folder `target` if that is empty. `None`: it is not.
///
/// Whatever a container that uses the volume does meanwhile, nothing outside of `target` is touched:
/// nothing is found by more than one name below a descriptor, and no link is followed.
pub fn fill(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<Option<Filled>, FillError> {
    settle(target)?;
    let root = open_folder(target, b".").map_err(failed("open the folder", b"."))?;
    if !names(&root).map_err(failed("read the folder", b"."))?.is_empty() {
        return Ok(None);
    }
    let copied = make_folder(target, PART.as_bytes()).map_err(failed("make the folder", PART.as_bytes()));
    let copied = copied.and_then(|part| {
        let source = open_folder(source, b".").map_err(failed("open the folder", b"."))?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let mut copy = Copy { root: part.as_fd(), linked: HashMap::new(), buffer, filled: Filled::default() };
        copy.folder(&source, &part, &mut Vec::new(), 0)?;
        let filled = copy.filled;
        if filled.entries > 0 {
            // A volume with names in it is not filled again: their bytes are to outlive a power cut.
            rustix::fs::syncfs(&part).map_err(failed("sync the folder", PART.as_bytes()))?;
        }
        let complete = rustix::fs::renameat(target, PART, target, DONE);
        complete.map_err(failed("rename the folder", PART.as_bytes()))?;
        Ok((part, filled))
    });
    match copied {
        Ok((done, filled)) => publish(target, &done).map(|()| Some(filled)),
        Err(error) => {
            // What made it fail is told, not this.
            let _ = discard(target, PART);
            Err(error)
        }
    }
}

fn discard(target: BorrowedFd<'_>, name: &str) -> Result<(), FillError> {
    match remove(target, name.as_bytes()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("remove", name.as_bytes())(errno)),
    }
}

/// Moves what was copied into place. The volume's own folder becomes like the image's before the mark
/// goes that says so; its times are set once more, for the mark was in it.
fn publish(target: BorrowedFd<'_>, done: &OwnedFd) -> Result<(), FillError> {
    // Before its names go, which is a change of it.
    let stat = rustix::fs::fstat(done).map_err(failed("examine", DONE.as_bytes()))?;
    for name in names(done).map_err(failed("read the folder", DONE.as_bytes()))? {
        match move_new(done, target, &name) {
            Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
            Err(errno) => return Err(failed("move", &name)(errno)),
        }
    }
    let attributes = attributes(done.as_fd(), b".")?;
    let root = open_folder(target, b".").map_err(failed("open the folder", b"."))?;
    dress(&root, &stat, &attributes, b".")?;
    discard(target, DONE)?;
    rustix::fs::futimens(&root, &times(&stat)).map_err(failed("set the times of", b"."))
}

/// EEXIST: `target` has the name.
fn move_new(from: &OwnedFd, target: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, target, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL) => move_unseen(from, target, name),
        moved => moved,
    }
}

/// The same where the file system has no flags of renameat2(2), as NFS: what is made between the look
/// and the move is replaced, there is no better way.
fn move_unseen(from: &OwnedFd, target: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::statat(target, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(from, name, target, name),
        Err(errno) => Err(errno),
    }
}

/// A new folder, for nobody but root as yet.
fn make_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    open_folder(parent, name)
}

struct Copy<'a> {
    /// The folder of the copy.
    root: BorrowedFd<'a>,
    /// First names, below `root`, of files with several, by device and inode of the source.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Box<[u8]>,
    filled: Filled,
}

impl Copy<'_> {
    /// Everything in the folder `path`, and what it is like itself.
    fn folder(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), FillError> {
        if depth > DEPTH {
            return Err(FillError::Depth { name: shown(path), limit: DEPTH });
        }
        for name in names(source).map_err(failed("read the folder", path))? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.entry(source, target, (&name, path), depth)?;
            path.truncate(length);
        }
        let stat = rustix::fs::fstat(source).map_err(failed("examine", path))?;
        dress(target, &stat, &attributes(source.as_fd(), path)?, path)
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        (name, path): (&[u8], &mut Vec<u8>),
        depth: usize,
    ) -> Result<(), FillError> {
        let stat =
            rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("examine", path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket || is_whiteout(&stat) {
            return Ok(());
        }
        self.filled.entries += 1;
        if kind == FileType::Directory {
            let from = open_folder(source.as_fd(), name).map_err(failed("open the folder", path))?;
            let to = make_folder(target.as_fd(), name).map_err(failed("make the folder", path))?;
            return self.folder(&from, &to, path, depth + 1);
        }
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&identity) {
                let linked = rustix::fs::linkat(self.root, &first[..], target, name, AtFlags::empty());
                return linked.map_err(failed("link", path));
            }
            self.linked.insert(identity, path.clone());
        }
        match kind {
            FileType::RegularFile => self.file(source, target, name, path),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new());
                let link = link.map_err(failed("read the link", path))?;
                rustix::fs::symlinkat(&link, target, name).map_err(failed("make the link", path))?;
                dress_node(target, name, &stat, None).map_err(failed("make the link", path))
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                let made = rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev);
                made.and_then(|()| dress_node(target, name, &stat, Some(mode))).map_err(failed("make", path))
            }
        }
    }

    fn file(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), FillError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(source, name, flags, Mode::empty()).map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&from).map_err(failed("examine", path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600));
        let to = to.map_err(failed("create the file", path))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let holes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
        let copied = if holes { self.extents(&from, &to, size) } else { self.bytes(&from, &to, 0, size) };
        copied.map_err(failed("copy", path))?;
        self.filled.bytes += size;
        dress(&to, &stat, &attributes(from.as_fd(), path)?, path)
    }

    /// Only what is no hole; the length makes the last one.
    fn extents(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                start => start?,
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
            self.bytes(from, to, start, end.min(size))?;
            at = end;
        }
        rustix::fs::ftruncate(to, size)
    }

    fn bytes(&mut self, from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut self.buffer[..most], at))?;
            if read == 0 {
                break;
            }
            let mut rest = &self.buffer[..read];
            while !rest.is_empty() {
                let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, rest, at))?;
                rest = &rest[written..];
                at += written as u64;
            }
        }
        Ok(())
    }
}

/// An extended attribute: its name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// The extended attributes that are part of an image.
fn attributes(of: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Attribute>, FillError> {
    let mut list = [0u8; 4096];
    let failed = failed("read the attributes of", path);
    let length = match rustix::fs::flistxattr(of, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length.map_err(&failed)?,
    };
    let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty() && is_portable(name));
    let read = |name: &[u8]| {
        // XATTR_SIZE_MAX (xattr(7)).
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::fgetxattr(of, name, &mut value[..]).map_err(&failed)?;
        value.truncate(length);
        Ok((name.to_vec(), value))
    };
    names.map(read).collect()
}

/// Owner, mode, attributes and times, in an order in which none takes away another.
fn dress(target: &OwnedFd, stat: &Stat, attributes: &[Attribute], path: &[u8]) -> Result<(), FillError> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(target, Some(uid), Some(gid)).map_err(failed("set the owner of", path))?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::fchmod(target, mode).map_err(failed("set the mode of", path))?;
    for (name, value) in attributes {
        match rustix::fs::fsetxattr(target, &name[..], value, XattrFlags::empty()) {
            // The volume's file system has none of this kind.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(failed("set an attribute of", path)(errno)),
        }
    }
    rustix::fs::futimens(target, &times(stat)).map_err(failed("set the times of", path))
}

/// The same of what cannot be opened; links have no mode.
fn dress_node(parent: &OwnedFd, name: &[u8], stat: &Stat, mode: Option<Mode>) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if let Some(mode) = mode {
        // What was made a moment ago is no link, unless a container has put one there: it is the
        // volume's then, and leads nowhere else.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_a_name_that_is_there_is_kept_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["from", "to"] {
            std::fs::create_dir(path(folder)).unwrap();
            std::fs::write(path(folder).join("both"), folder).unwrap();
        }
        std::fs::write(path("from/new"), "from").unwrap();
        std::os::unix::fs::symlink("nowhere", path("to/link")).unwrap();
        std::fs::write(path("from/link"), "from").unwrap();
        let open = |name: &str| OwnedFd::from(std::fs::File::open(path(name)).unwrap());
        let (from, to) = (open("from"), open("to"));
        let moved = |name: &str| move_unseen(&from, to.as_fd(), name.as_bytes());
        assert_eq!([moved("both"), moved("link")], [Err(Errno::EXIST); 2]);
        assert_eq!((moved("new"), moved("gone")), (Ok(()), Err(Errno::NOENT)));
        assert_eq!(std::fs::read_to_string(path("to/both")).unwrap(), "to");
        assert_eq!(std::fs::read_to_string(path("to/new")).unwrap(), "from");
    }
}
