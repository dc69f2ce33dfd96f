//! What a writable layer changes of the layers below it: overlayfs's conventions, read as a list.
//!
//! Only what the writable layer holds is visited, so the cost follows the change. A folder that no
//! layer below has costs no look at them at all. Nothing is opened but folders, each by a path that
//! is resolved inside its layer, and none is kept open while the ones in it are visited: neither
//! many layers nor deep trees exhaust the descriptors. The container may go on changing its files
//! meanwhile; what goes between two looks is not told.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{OPAQUE_ATTRIBUTE, is_whiteout, shown};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there, and is another; a folder also when something in it is.
    Modified,
    Added,
    /// Of a folder only itself is told, not what was in it.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute in the container; any bytes but NUL.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

/// Why the changes cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    #[error("cannot {action} \"{name}\" ({errno})")]
    Entry { action: &'static str, name: String, errno: Errno },
    #[error("more has changed than can be told: more than {paths} paths, or {bytes} bytes of their names")]
    Limit { paths: usize, bytes: usize },
}

/// How much is told at most: a container can change much, and all of it is kept in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) paths: usize,
    /// Of all paths.
    pub(super) bytes: usize,
}

const LIMITS: Limits = Limits { paths: 4_000_000, bytes: 512 << 20 };

/// The changes that `upper` makes to `layers` (top first), each folder before what is in it, names
/// in the order of their bytes.
pub fn changes(upper: BorrowedFd<'_>, layers: &[OwnedFd]) -> Result<Vec<Change>, ChangesError> {
    list(upper, layers, LIMITS)
}

pub(super) fn list(
    upper: BorrowedFd<'_>,
    layers: &[OwnedFd],
    limits: Limits,
) -> Result<Vec<Change>, ChangesError> {
    let mut walk = Walk { upper, layers, limits, found: Vec::new(), seen: 0, bytes: 0 };
    let root = Folder { path: Vec::new(), below: (0..layers.len()).collect(), hidden: false };
    let mut waiting = vec![root];
    while let Some(folder) = waiting.pop() {
        waiting.extend(walk.folder(&folder)?);
    }
    // As if a slash, which begins a path's next name, came before all that can be in one.
    let in_names = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    walk.found.sort_unstable_by(|a, b| a.path.iter().map(in_names).cmp(b.path.iter().map(in_names)));
    Ok(walk.found)
}

/// A folder of the writable layer that is still to be visited.
struct Folder {
    /// Without a slash at either end.
    path: Vec<u8>,
    /// The layers that have a folder there, by their indices.
    below: Vec<usize>,
    /// A folder above it is opaque: nothing of those is seen.
    hidden: bool,
}

/// What the layers below have under a name.
struct Below {
    exists: bool,
    /// The layers that have a folder of that name and whose folders are merged.
    folders: Vec<usize>,
}

struct Walk<'a> {
    upper: BorrowedFd<'a>,
    layers: &'a [OwnedFd],
    limits: Limits,
    found: Vec<Change>,
    /// Names in the writable layer.
    seen: usize,
    bytes: usize,
}

impl Walk<'_> {
    /// Tells what has changed right in a folder; gives the folders in it.
    fn folder(&mut self, folder: &Folder) -> Result<Vec<Folder>, ChangesError> {
        let failed = |action| move |errno| ChangesError::Entry { action, name: shown(&folder.path), errno };
        let upper = match open_folder(self.upper, &folder.path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            result => result.map_err(failed("open the folder"))?,
        };
        let most = self.limits.paths - self.seen;
        let entries = entries(&upper, most.saturating_add(1)).map_err(failed("read the folder"))?;
        if entries.len() > most {
            return Err(self.limit());
        }
        self.seen += entries.len();
        let below = self.open_below(folder).map_err(failed("open in the layers below the folder"))?;
        let hidden = folder.hidden || (!below.is_empty() && is_opaque(&upper));
        let mut inner = Vec::new();
        for (name, kind) in &entries {
            let path = join(&folder.path, name);
            let failed = |errno| ChangesError::Entry { action: "examine", name: shown(&path), errno };
            let Some(kind) = examined(&upper, name, *kind).map_err(failed)? else { continue };
            let was = look(&below, name).map_err(failed)?;
            match kind {
                Upper::Whiteout if was.exists => self.tell(&path, ChangeKind::Deleted)?,
                Upper::Whiteout => {}
                _ if was.exists => self.tell(&path, ChangeKind::Modified)?,
                _ => self.tell(&path, ChangeKind::Added)?,
            }
            if kind == Upper::Folder {
                inner.push(Folder { path, below: was.folders, hidden });
            }
        }
        if hidden {
            for name in gone(&below, &entries).map_err(failed("read in the layers below the folder"))? {
                self.tell(&join(&folder.path, &name), ChangeKind::Deleted)?;
            }
        }
        Ok(inner)
    }

    /// The same folder in the layers that have it, top first, down to one that hides the rest.
    fn open_below(&self, folder: &Folder) -> Result<Vec<(usize, OwnedFd)>, Errno> {
        let mut open = Vec::new();
        for &index in &folder.below {
            let fd = open_folder(self.layers[index].as_fd(), &folder.path)?;
            let last = is_opaque(&fd);
            open.push((index, fd));
            if last {
                break;
            }
        }
        Ok(open)
    }

    fn tell(&mut self, path: &[u8], kind: ChangeKind) -> Result<(), ChangesError> {
        self.bytes += path.len() + 1;
        if self.bytes > self.limits.bytes || self.found.len() >= self.limits.paths {
            return Err(self.limit());
        }
        self.found.push(Change { path: [b"/", path].concat(), kind });
        Ok(())
    }

    fn limit(&self) -> ChangesError {
        let Limits { paths, bytes } = self.limits;
        ChangesError::Limit { paths, bytes }
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn open_folder(layer: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    hull_sys::root::open_inside(layer, Path::new(OsStr::from_bytes(path)), flags, Mode::empty())
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::fgetxattr(folder, OPAQUE_ATTRIBUTE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

/// A name in a folder, and its kind, as the folder itself tells it (`Unknown` on some file systems).
type Named = (Vec<u8>, FileType);

/// At most so many, by their names.
fn entries(folder: &OwnedFd, most: usize) -> Result<Vec<Named>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entries.len() == most {
            break;
        }
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push((entry.file_name().to_bytes().to_vec(), entry.file_type()));
        }
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Upper {
    Whiteout,
    Folder,
    Other,
}

/// Only what may be a whiteout has to be looked at. `None`: it has gone meanwhile.
fn examined(folder: &OwnedFd, name: &[u8], kind: FileType) -> Result<Option<Upper>, Errno> {
    match kind {
        FileType::Directory => return Ok(Some(Upper::Folder)),
        FileType::CharacterDevice | FileType::Unknown => {}
        _ => return Ok(Some(Upper::Other)),
    }
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Upper::Folder,
        _ if is_whiteout(&stat) => Upper::Whiteout,
        _ => Upper::Other,
    }))
}

/// What a name is in the layers whose folders are `below`, top first.
fn look(below: &[(usize, OwnedFd)], name: &[u8]) -> Result<Below, Errno> {
    let mut folders = Vec::new();
    for (index, folder) in below {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let exists = !folders.is_empty() || !is_whiteout(&stat);
            return Ok(Below { exists, folders });
        }
        folders.push(*index);
    }
    Ok(Below { exists: !folders.is_empty(), folders })
}

/// What the layers below show that the hiding folder does not hold.
fn gone(below: &[(usize, OwnedFd)], held: &[Named]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for (_, folder) in below {
        let others = entries(folder, usize::MAX)?.into_iter().map(|(name, _)| name);
        names.extend(others.filter(|name| held.binary_search_by(|(held, _)| held.cmp(name)).is_err()));
    }
    names.sort_unstable();
    names.dedup();
    let mut shown = Vec::new();
    for name in names {
        if look(below, &name)?.exists {
            shown.push(name);
        }
    }
    Ok(shown)
}
