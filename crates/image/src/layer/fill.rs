//! What an image has at a place becomes the first content of a volume ("copy-up"), with owners, modes,
//! times, extended attributes, links and holes.
//!
//! Containers may use the volume meanwhile, and whoever does this may be killed at any moment. So
//! [`fill`] makes the copy in a folder that nobody else has, and [`publish`] moves it into place, name by
//! name, when it is complete: a name that a container has made in the meantime stays as it is. What a
//! power cut took of a copy whose bytes were not on the disk yet, [`repair`] brings again.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::diff::{names, open_folder};
use super::{is_portable, is_whiteout, shown};

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

/// Why a volume could not be filled.
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

/// Copies the folder `source` into the folder `target`, which is empty and nobody else's. What fails
/// leaves part of it there.
pub fn fill(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<Filled, FillError> {
    let (source, target) = (open_own(source)?, open_own(target)?);
    let mut copy = Copy::new(&target, false);
    copy.contents(&source, &target, &mut Vec::new(), 0)?;
    dress_like(&target, &source, b".")?;
    Ok(copy.filled)
}

/// Brings again what was lost of a copy of `source` in `target`: what is missing, and files that have
/// lost content (see [`is_lost`]). Whatever else is there, and whatever it is by now, stays as it is.
///
/// Nothing outside of `target` is touched, whoever uses it meanwhile: nothing is found by more than one
/// name below a descriptor, and no link is followed.
pub fn repair(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<Filled, FillError> {
    let (source, target) = (open_own(source)?, open_own(target)?);
    let mut copy = Copy::new(&target, true);
    copy.contents(&source, &target, &mut Vec::new(), 0)?;
    Ok(copy.filled)
}

/// Moves the content of the folder `copy`, which [`fill`] has made, into `target` on the same mount, and
/// makes `target` itself like it. Begun again after it was interrupted, it does the rest.
///
/// No name is found by more than its folder's descriptor, so it leads nowhere else, whoever uses
/// `target` meanwhile.
pub fn publish(copy: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), FillError> {
    let (copy, root) = (open_own(copy)?, open_own(target)?);
    // Before its names go, which is a change of it.
    let stat = rustix::fs::fstat(&copy).map_err(failed("examine", b"."))?;
    for name in names(&copy).map_err(failed("read the folder", b"."))? {
        match move_new(&copy, target, &name) {
            Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
            Err(errno) => return Err(failed("move", &name)(errno)),
        }
    }
    dress(&root, &stat, &attributes(copy.as_fd(), b".")?, b".")
}

/// The folder that a descriptor is of, to be read and changed.
fn open_own(folder: BorrowedFd<'_>) -> Result<OwnedFd, FillError> {
    open_folder(folder, b".").map_err(failed("open the folder", b"."))
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
    /// It is there, and to be mended.
    repair: bool,
    /// First names, below `root`, of files with several, by device and inode of the source.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Box<[u8]>,
    filled: Filled,
}

impl<'a> Copy<'a> {
    fn new(root: &'a OwnedFd, repair: bool) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Copy { root: root.as_fd(), repair, linked: HashMap::new(), buffer, filled: Filled::default() }
    }

    /// Everything in the folder `path`.
    fn contents(
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
        Ok(())
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
        if self.repair && self.mended(source, target, (name, path), &stat, depth)? {
            return Ok(());
        }
        self.filled.entries += 1;
        if kind == FileType::Directory {
            let from = open_folder(source.as_fd(), name).map_err(failed("open the folder", path))?;
            let to = make_folder(target.as_fd(), name).map_err(failed("make the folder", path))?;
            self.contents(&from, &to, path, depth + 1)?;
            return dress_like(&to, &from, path);
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
            FileType::RegularFile => self.file(source, (target, None), name, path).map(drop),
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

    /// Whether there is something by this name, the content of which is all right now.
    fn mended(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        (name, path): (&[u8], &mut Vec<u8>),
        stat: &Stat,
        depth: usize,
    ) -> Result<bool, FillError> {
        let there = match rustix::fs::statat(target, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            there => there.map_err(failed("examine", path))?,
        };
        let kinds = [stat, &there].map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kinds == [FileType::Directory; 2] {
            let from = open_folder(source.as_fd(), name).map_err(failed("open the folder", path))?;
            let to = open_folder(target.as_fd(), name).map_err(failed("open the folder", path))?;
            self.contents(&from, &to, path, depth + 1)?;
        }
        if kinds == [FileType::RegularFile; 2] {
            if stat.st_nlink > 1 {
                self.linked.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
            }
            if is_lost(stat, &there) && self.file(source, (target, Some(&there)), name, path)? {
                self.filled.entries += 1;
            }
        }
        Ok(true)
    }

    /// Makes the file; or gives the one that is there, and has lost content, that again, if it is still
    /// what it was when it was `judged`. False: it is not, and stays as it is.
    fn file(
        &mut self,
        source: &OwnedFd,
        (target, judged): (&OwnedFd, Option<&Stat>),
        name: &[u8],
        path: &[u8],
    ) -> Result<bool, FillError> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(source, name, read, Mode::empty()).map_err(failed("open", path))?;
        let stat = rustix::fs::fstat(&from).map_err(failed("examine", path))?;
        let make = if judged.is_none() { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
        let flags = make | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let to = match rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600)) {
            // Gone, replaced, or executed: somebody's.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::TXTBSY)
                if judged.is_some() =>
            {
                return Ok(false);
            }
            to => to.map_err(failed("create the file", path))?,
        };
        if let Some(judged) = judged
            && !is_unchanged(judged, &rustix::fs::fstat(&to).map_err(failed("examine", path))?)
        {
            return Ok(false);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let holes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
        let copied = if holes { self.extents(&from, &to, size) } else { self.bytes(&from, &to, 0, size) };
        copied.map_err(failed("copy", path))?;
        self.filled.bytes += size;
        if judged.is_some_and(|there| is_dressed(&stat, there)) {
            // The owner and the mode that it has came with the time, or after it.
            rustix::fs::futimens(&to, &times(&stat)).map_err(failed("set the times of", path))?;
        } else {
            dress(&to, &stat, &attributes(from.as_fd(), path)?, path)?;
        }
        Ok(true)
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

/// Whether `there`, a copy of `source` that was interrupted by a power cut, has lost content. File
/// systems may have its length and its times on the disk before its bytes: it is empty, or too short, or
/// its end is a hole. Nobody has written to it since if it has the source's time to the nanosecond.
fn is_lost(source: &Stat, there: &Stat) -> bool {
    let less = there.st_size < source.st_size
        || (there.st_size == source.st_size && there.st_blocks < source.st_blocks);
    source.st_size > 0 && (there.st_size == 0 || (is_dressed(source, there) && less))
}

/// Whether the copy `there` was given everything but, maybe, its content: the times come last.
fn is_dressed(source: &Stat, there: &Stat) -> bool {
    modified(source) == modified(there)
}

/// Whether it is the same file, and nobody has changed it.
fn is_unchanged(before: &Stat, now: &Stat) -> bool {
    let all = |stat: &Stat| {
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        (stat.st_dev, stat.st_ino, stat.st_size, modified(stat), changed)
    };
    all(before) == all(now)
}

fn modified(stat: &Stat) -> (i64, u64) {
    (stat.st_mtime, stat.st_mtime_nsec)
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

/// What the folder `path` is like itself.
fn dress_like(target: &OwnedFd, source: &OwnedFd, path: &[u8]) -> Result<(), FillError> {
    let stat = rustix::fs::fstat(source).map_err(failed("examine", path))?;
    dress(target, &stat, &attributes(source.as_fd(), path)?, path)
}

/// As [`dress`] for what cannot be opened; links have no mode.
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
    fn a_file_that_somebody_has_changed_meanwhile_is_not_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["source", "target"] {
            std::fs::create_dir(path(folder)).unwrap();
        }
        let [source, target] =
            ["source", "target"].map(|name| OwnedFd::from(std::fs::File::open(path(name)).unwrap()));
        let mut copy = Copy::new(&target, true);
        let mut mended = |name: &str, meanwhile: &dyn Fn()| {
            std::fs::write(path("source").join(name), "image").unwrap();
            std::fs::write(path("target").join(name), "").unwrap();
            let judged = rustix::fs::statat(&target, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            meanwhile();
            let done = copy.file(&source, (&target, Some(&judged)), name.as_bytes(), name.as_bytes());
            (done.unwrap(), std::fs::read_to_string(path("target").join(name)).unwrap_or_default())
        };
        let text = |done: bool, text: &str| (done, text.to_owned());
        assert_eq!(mended("left", &|| {}), text(true, "image"));
        let write = || std::fs::write(path("target/written"), "theirs").unwrap();
        assert_eq!(mended("written", &write), text(false, "theirs"));
        let replace = || {
            std::fs::write(path("target/new"), "").unwrap();
            std::fs::rename(path("target/new"), path("target/replaced")).unwrap();
        };
        assert_eq!(mended("replaced", &replace), text(false, ""));
        let remove = || std::fs::remove_file(path("target/removed")).unwrap();
        assert_eq!(mended("removed", &remove), text(false, ""));
    }

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
