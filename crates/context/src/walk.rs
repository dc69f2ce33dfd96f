//! A folder as entries, by descriptor.
//!
//! Every step on the way to an entry is `openat(…, O_NOFOLLOW)` from the root's descriptor, so nothing
//! that others do to the folder meanwhile leads out of it: where a folder becomes a link, the walk fails.
//! No descriptor is held between two calls, so depth costs none.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::Ignore;

/// Deepest folder below the root. Linux' own limit on a path (`PATH_MAX`) allows 2048.
const MAX_DEPTH: usize = 2048;

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; the root itself is empty.
    pub path: PathBuf,
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Last change: seconds since the epoch and nanoseconds.
    pub modified: (i64, u32),
    /// Last change of the inode; as `inode` it only tells whether the file is the same as before.
    pub changed: (i64, u32),
    pub inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Folder,
    /// In bytes.
    File {
        size: u64,
    },
    /// Where it leads, as it stands.
    Link(PathBuf),
    Fifo,
    /// Major and minor number.
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// Why a folder could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{call} {path:?}")]
pub struct WalkError {
    call: &'static str,
    /// Relative to the root.
    path: PathBuf,
    #[source]
    source: Errno,
}

/// Files that can be looked at: a folder of this host, or a list that somebody sent.
pub trait Tree {
    /// What is there, if anything. No part of `path` before the last is taken for a folder if it is a
    /// link.
    fn entry(&self, path: &Path) -> Result<Option<Entry>, WalkError>;

    /// What lies in a folder, sorted by name (bytes).
    fn children(&self, folder: &Path) -> Result<Vec<Entry>, WalkError>;
}

/// A folder of this host without what is ignored. An ignored folder is there as long as something in
/// it might be included again. Sockets are not there: no archive has them.
#[derive(Debug)]
pub struct Folder<'a> {
    root: BorrowedFd<'a>,
    ignore: Ignore,
}

impl<'a> Folder<'a> {
    pub fn new(root: BorrowedFd<'a>, ignore: Ignore) -> Folder<'a> {
        Folder { root, ignore }
    }

    fn shows(&self, entry: &Entry) -> bool {
        !self.ignore.is_ignored(&entry.path)
            || entry.kind == Kind::Folder && self.ignore.may_include_below(&entry.path)
    }

    fn open(&self, folder: &Path) -> Result<OwnedFd, WalkError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let step = |from: BorrowedFd<'_>, name: &OsStr| {
            openat(from, name, flags, Mode::empty()).map_err(|source| failed("open", folder, source))
        };
        let mut at = step(self.root, OsStr::new("."))?;
        for part in names(folder)? {
            at = step(at.as_fd(), part)?;
        }
        Ok(at)
    }
}

impl Tree for Folder<'_> {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, WalkError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = match self.open(parent) {
            Err(WalkError { source: Errno::NOENT | Errno::NOTDIR | Errno::LOOP, .. }) => return Ok(None),
            folder => folder?,
        };
        let name = path.file_name().unwrap_or(OsStr::new("."));
        match stat(folder.as_fd(), path, name) {
            Err(WalkError { source: Errno::NOENT, .. }) => Ok(None),
            entry => Ok(entry?.filter(|entry| self.shows(entry))),
        }
    }

    fn children(&self, folder: &Path) -> Result<Vec<Entry>, WalkError> {
        let at = self.open(folder)?;
        let mut names: Vec<CString> = Vec::new();
        for item in Dir::read_from(&at).map_err(|source| failed("read", folder, source))? {
            let item = item.map_err(|source| failed("read", folder, source))?;
            if !matches!(item.file_name().to_bytes(), b"." | b"..") {
                names.push(item.file_name().to_owned());
            }
        }
        names.sort();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let name = OsStr::from_bytes(name.as_bytes());
            let entry = stat(at.as_fd(), &folder.join(name), name)?;
            entries.extend(entry.filter(|entry| self.shows(entry)));
        }
        Ok(entries)
    }
}

/// All that is in `folder`, each folder in front of what lies in it, sorted by name within each. A
/// folder that is ignored is there if something in it is not.
pub fn walk(folder: &Folder<'_>) -> Result<Vec<Entry>, WalkError> {
    let mut found: Vec<Entry> = Vec::new();
    // Entries that are to be visited, the next one last.
    let mut ahead = folder.children(Path::new(""))?;
    ahead.reverse();
    while let Some(entry) = ahead.pop() {
        // Ignored folders that turned out to have nothing: the way on does not lead through them.
        while found.last().is_some_and(|last| {
            last.kind == Kind::Folder
                && !entry.path.starts_with(&last.path)
                && folder.ignore.is_ignored(&last.path)
        }) {
            found.pop();
        }
        if entry.kind == Kind::Folder {
            if entry.path.components().count() > MAX_DEPTH {
                return Err(failed("open", &entry.path, Errno::NAMETOOLONG));
            }
            ahead.extend(folder.children(&entry.path)?.into_iter().rev());
        }
        found.push(entry);
    }
    while found.last().is_some_and(|last| folder.ignore.is_ignored(&last.path)) {
        found.pop();
    }
    Ok(found)
}

/// A path's names; what is no name (`..`, `/`) is refused.
fn names(path: &Path) -> Result<Vec<&OsStr>, WalkError> {
    let name = |part| match part {
        Component::Normal(name) => Ok(name),
        _ => Err(failed("open", path, Errno::INVAL)),
    };
    path.components().map(name).collect()
}

/// `None` is a socket.
fn stat(folder: BorrowedFd<'_>, path: &Path, name: &OsStr) -> Result<Option<Entry>, WalkError> {
    let status =
        statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|source| failed("stat", path, source))?;
    let device = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File { size: status.st_size.try_into().unwrap_or(0) },
        FileType::Symlink => {
            let target =
                readlinkat(folder, name, Vec::new()).map_err(|source| failed("readlink", path, source))?;
            Kind::Link(std::ffi::OsString::from_vec(target.into_bytes()).into())
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharacterDevice(device.0, device.1),
        FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
        FileType::Socket | FileType::Unknown => return Ok(None),
    };
    let time = |seconds, nanoseconds: u64| (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    Ok(Some(Entry {
        path: path.to_owned(),
        kind,
        mode: status.st_mode & 0o7777,
        modified: time(status.st_mtime, status.st_mtime_nsec),
        changed: time(status.st_ctime, status.st_ctime_nsec),
        inode: status.st_ino,
    }))
}

fn failed(call: &'static str, path: &Path, source: Errno) -> WalkError {
    WalkError { call, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn paths(root: &Path, ignore: &str) -> Vec<String> {
        let root = fs::File::open(root).unwrap();
        let folder = Folder::new(root.as_fd(), Ignore::parse(ignore.as_bytes()).unwrap());
        walk(&folder).unwrap().into_iter().map(|entry| entry.path.to_str().unwrap().to_owned()).collect()
    }

    fn files(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        root
    }

    #[test]
    fn folders_come_first_and_names_are_sorted() {
        let root = files(&["b", "a/z", "a/b/c", "a.x", "B"]);
        assert_eq!(paths(root.path(), ""), ["B", "a", "a/b", "a/b/c", "a/z", "a.x", "b"]);
    }

    #[test]
    fn an_ignored_folder_is_there_if_something_in_it_is_included() {
        let root = files(&["src/a.c", "src/deep/b.h", "src/deep/b.c", "doc/deep/x", "top"]);
        assert_eq!(paths(root.path(), "*\n!src/deep/*.c"), ["src", "src/deep", "src/deep/b.c"]);
        assert_eq!(paths(root.path(), "*\n!**/*.none"), Vec::<String>::new());
        assert_eq!(paths(root.path(), "*\n!**/x"), ["doc", "doc/deep", "doc/deep/x"]);
        assert_eq!(paths(root.path(), "src\ndoc/*\n!src/a.c"), ["doc", "src", "src/a.c", "top"]);
    }

    #[test]
    fn a_folder_without_anything_to_include_is_not_looked_into() {
        let root = files(&["a", "deep/b"]);
        let folder = fs::File::open(root.path()).unwrap();
        let folder = Folder::new(folder.as_fd(), Ignore::parse(b"deep\n!deeper").unwrap());
        let children = folder.children(Path::new("")).unwrap();
        assert_eq!(children.len(), 1);
        assert_eq!(children[0].path, Path::new("a"));
    }

    #[test]
    fn links_are_entries_and_lead_nowhere() {
        let root = files(&["a/b"]);
        symlink("/etc", root.path().join("out")).unwrap();
        let folder = fs::File::open(root.path()).unwrap();
        let folder = Folder::new(folder.as_fd(), Ignore::default());
        let entry = folder.entry(Path::new("out")).unwrap().unwrap();
        assert_eq!(entry.kind, Kind::Link("/etc".into()));
        assert_eq!(folder.entry(Path::new("out/passwd")).unwrap(), None);
        assert!(folder.children(Path::new("out")).is_err());
        assert!(folder.children(Path::new("..")).is_err());
        assert_eq!(folder.entry(Path::new("a/b/c")).unwrap(), None);
        assert_eq!(paths(root.path(), ""), ["a", "a/b", "out"]);
    }

    #[test]
    fn an_entry_has_what_an_archive_needs() {
        let root = files(&["a"]);
        fs::set_permissions(root.path().join("a"), fs::Permissions::from_mode(0o4751)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let folder = fs::File::open(root.path()).unwrap();
        let entries = walk(&Folder::new(folder.as_fd(), Ignore::default())).unwrap();
        let summary: Vec<_> = entries.iter().map(|entry| (&entry.kind, entry.mode)).collect();
        assert_eq!(summary, [(&Kind::File { size: 1 }, 0o4751), (&Kind::Fifo, 0o600)]);
        assert!(entries[0].modified.0 > 1_600_000_000);
    }
}
