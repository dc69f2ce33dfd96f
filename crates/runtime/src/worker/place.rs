//! What a worker does at one place of its root: say what is there, pack it, unpack into it.
//!
//! The root is the container's, whose processes may rename and replace what they like meanwhile. So a
//! path is resolved once, by the kernel and inside the root; what comes of it is a descriptor of the
//! folder and one name in it, and only they are used further.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicU64;

use hull_image::layer::{self, ApplyError, DiffError, Ids, Limits, Sink, Source};
use hull_image::tar;
use hull_sys::root::open_inside;
use hull_sys::{During, Errno};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatVfsMountFlags};

use super::view::mount_id;
use crate::protocol::{self, Found, Outcome, Place};

/// As the kernel's own limit (path_resolution(7)).
const LINKS: usize = 40;

/// Why a place could not be worked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is nothing at this place")]
    Absent,
    #[error("what is at this place is no folder")]
    NotFolder,
    #[error("what is at this place is read-only")]
    ReadOnly { root: bool },
    #[error(transparent)]
    System {
        #[from]
        source: hull_sys::Error,
    },
    #[error(transparent)]
    Pack {
        #[from]
        source: DiffError,
    },
    #[error(transparent)]
    Unpack {
        #[from]
        source: ApplyError,
    },
    #[error("say what is there")]
    Tell {
        #[from]
        source: protocol::Error,
    },
}

impl Error {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Error::Absent => Outcome::Absent,
            Error::NotFolder => Outcome::NotFolder,
            Error::ReadOnly { root } => Outcome::ReadOnly { root: *root },
            // In the words of Go's archive/tar, which the reference gives on.
            Error::Unpack { source: ApplyError::Archive(tar::Error::Truncated { .. }) } => {
                Outcome::Unfit { message: "unexpected EOF".to_owned() }
            }
            Error::Unpack {
                source: ApplyError::Archive(tar::Error::Malformed { .. } | tar::Error::Limit { .. }),
            }
            | Error::Unpack { source: ApplyError::Overwrite { .. } } => {
                Outcome::Unfit { message: super::told(self) }
            }
            error => super::failed(error),
        }
    }
}

/// A place that was found.
struct There {
    parent: OwnedFd,
    base: Vec<u8>,
    stat: Stat,
}

/// No such thing, as against a failure.
fn absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
}

fn find(root: &OwnedFd, place: &Place) -> Result<There, Error> {
    let path = Path::new(&place.path);
    let (folder, base) = match path.file_name() {
        Some(name) if !place.folder => (path.parent().unwrap_or(Path::new("/")), name.as_bytes()),
        _ => (path, &b"."[..]),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let parent = match open_inside(root, folder, flags, Mode::empty()) {
        Err(errno) if absent(errno) => return Err(Error::Absent),
        opened => opened.during("openat2", || format!("{folder:?}"))?,
    };
    let stat = match rustix::fs::statat(&parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        Err(errno) if absent(errno) => return Err(Error::Absent),
        examined => examined.during("fstatat", || format!("{path:?}"))?,
    };
    Ok(There { parent, base: base.to_vec(), stat })
}

/// What is at the place.
pub(super) fn examine(root: &OwnedFd, place: &Place) -> Result<Found, Error> {
    Ok(describe(root, place, &find(root, place)?))
}

fn describe(root: &OwnedFd, place: &Place, there: &There) -> Found {
    let stat = &there.stat;
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    Found {
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        target: link.then(|| target(root, Path::new(&place.path))).flatten(),
    }
}

/// Tells what is at the place, then packs it into the pipe `archive` under `name`.
pub(super) fn pack(
    root: &OwnedFd,
    (place, name): (&Place, &str),
    ids: Ids<'_>,
    archive: &File,
    tell: impl FnOnce(Found) -> Result<(), protocol::Error>,
) -> Result<(), Error> {
    let there = find(root, place)?;
    tell(describe(root, place, &there))?;
    let archive = Sink::Pipe(archive.as_fd());
    let count = AtomicU64::new(0);
    Ok(layer::pack(there.parent.as_fd(), &there.base, name.as_bytes(), ids, archive, &count).map(drop)?)
}

/// Unpacks what comes out of the pipe `archive` into the folder at `path`.
pub(super) fn unpack(
    root: &OwnedFd,
    path: &str,
    options: &layer::Unpack,
    archive: &File,
) -> Result<(), Error> {
    let place = Path::new(path);
    let there = match open_inside(root, place, OFlags::PATH, Mode::empty()) {
        Err(errno) if absent(errno) => return Err(Error::Absent),
        opened => opened.during("openat2", || format!("{place:?}"))?,
    };
    let stat = rustix::fs::fstat(&there).during("fstat", || format!("{place:?}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::NotFolder);
    }
    let mount = rustix::fs::fstatvfs(&there).during("fstatfs", || format!("{place:?}"))?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::ReadOnly { root: mount_id(&there)? == mount_id(root)? });
    }
    let archive = Source::Pipe(archive.as_fd());
    let (limits, count) = (Limits::default(), AtomicU64::new(0));
    Ok(layer::unpack(archive, root.as_fd(), path.as_bytes(), options, &limits, &count).map(drop)?)
}

/// Where a path leads when all links are followed, whether anything is there or not; `None` when they
/// have no end. For a caller to read: nothing here goes that way.
fn target(root: &OwnedFd, path: &Path) -> Option<String> {
    let mut walked = PathBuf::from("/");
    let mut rest: VecDeque<Vec<u8>> = names(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == b".." {
            walked.pop();
            continue;
        }
        walked.push(OsStr::from_bytes(&name));
        let here = open_inside(root, &walked, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let Ok(link) = here.and_then(|here| rustix::fs::readlinkat(&here, c"", Vec::new())) else { continue };
        links += 1;
        if links > LINKS {
            return None;
        }
        let link = Path::new(OsStr::from_bytes(link.as_bytes()));
        walked.pop();
        if link.is_absolute() {
            walked = PathBuf::from("/");
        }
        for name in names(link).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(name);
        }
    }
    Some(walked.to_string_lossy().into_owned())
}

fn names(path: &Path) -> impl Iterator<Item = Vec<u8>> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.as_bytes().to_vec()),
        Component::ParentDir => Some(b"..".to_vec()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
