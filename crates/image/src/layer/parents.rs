//! Parent folders of a layer's entries, by descriptor.
//!
//! Entries of an archive mostly come folder by folder, so the descriptors of the
//! folders met last are kept: a file in a known folder costs no path walk at all.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Open folders kept at most; well below the usual limit of 1024 descriptors.
const KEPT: usize = 128;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder that entries are made in.
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// New files take the folder's group instead of the process's.
    pub(super) set_gid: bool,
}

pub(super) struct Parents<'a> {
    root: BorrowedFd<'a>,
    /// Where in the root all names begin; empty, or with a slash at its end.
    begin: Vec<u8>,
    kept: HashMap<Vec<u8>, Rc<Parent>>,
}

/// What a missing parent becomes.
pub(super) enum Missing {
    /// An error: the entry refers to something that should be there.
    Fail,
    /// A folder; over a whiteout, an opaque one if that is asked for.
    Create { over_whiteouts: bool },
}

impl<'a> Parents<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, begin: Vec::new(), kept: HashMap::new() }
    }

    /// Names begin at the folder `begin` of the root; links lead to anywhere in the root.
    pub(super) fn within(root: BorrowedFd<'a>, begin: &[u8]) -> Self {
        Self { root, begin: [begin, b"/"].concat(), kept: HashMap::new() }
    }

    /// To be called when a folder or a link has been removed or replaced: paths
    /// may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
    }

    /// The folder with this normalised name (empty: the root itself).
    pub(super) fn open(&mut self, name: &[u8], missing: &Missing) -> Result<Rc<Parent>, Errno> {
        if let Some(parent) = self.kept.get(name) {
            return Ok(Rc::clone(parent));
        }
        let fd = match self.resolve(name) {
            Err(Errno::NOENT | Errno::NOTDIR) if matches!(missing, Missing::Create { .. }) => {
                self.create(name, missing)?
            }
            result => result?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        let parent = Rc::new(Parent { fd, set_gid: stat.st_mode & 0o2000 != 0 });
        if self.kept.len() >= KEPT {
            self.kept.clear();
        }
        self.kept.insert(name.to_vec(), Rc::clone(&parent));
        Ok(parent)
    }

    /// Walks from the root; links are followed, but never out of it.
    fn resolve(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let name = if name.is_empty() { b"." } else { name };
        let path = [&self.begin[..], name].concat();
        let path = Path::new(OsStr::from_bytes(&path));
        hull_sys::root::open_inside(self.root, path, FOLDER, Mode::empty())
    }

    /// Makes the folders that are missing on the way, owned by root, mode 0755.
    fn create(&mut self, name: &[u8], missing: &Missing) -> Result<OwnedFd, Errno> {
        let mut current = self.resolve(b"")?;
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in ends.chain([name.len()]) {
            current = match self.resolve(&name[..end]) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    make_folder(current.as_fd(), &name[start..end], missing)?
                }
                result => result?,
            };
            start = end + 1;
        }
        Ok(current)
    }
}

/// Makes one folder, or replaces a whiteout by one.
fn make_folder(parent: BorrowedFd<'_>, name: &[u8], missing: &Missing) -> Result<OwnedFd, Errno> {
    let mut opaque = false;
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !super::is_whiteout(&stat) || !matches!(missing, Missing::Create { over_whiteouts: true }) {
                return Err(Errno::NOTDIR);
            }
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            opaque = true;
        }
        result => result?,
    }
    let fd = rustix::fs::openat(parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
    if opaque {
        set_opaque(fd.as_fd())?;
    }
    Ok(fd)
}

/// Marks a folder: nothing of it in lower layers is seen.
pub(super) fn set_opaque(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(folder, super::OPAQUE_ATTRIBUTE, b"y", rustix::fs::XattrFlags::empty())
}
