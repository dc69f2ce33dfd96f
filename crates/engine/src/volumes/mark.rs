//! How far the first content of a volume has come ([`crate::containers::fill`]): a file beside its
//! `_data`, where no container gets.
//!
//! | in `volumes/NAME` | what it means |
//! |---|---|
//! | `filling` | a copy is being made that is not in the volume yet: it is undone |
//! | `filled` | it is complete; what is not in its place is still to be moved there, and its bytes may not be on the disk |
//!
//! The file goes when the bytes are on the disk, which nobody waits for. A kill takes nothing out of the
//! kernel's memory, a power cut does: so the mark of another boot means that files may be missing or
//! empty, and it says where they were copied from. It is on the disk itself before the copy is used.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hull_oci::Digest;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const FILLING: &str = "filling";
const FILLED: &str = "filled";

/// What is copied, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filling {
    /// The name of the copy's folder.
    pub(crate) copy: String,
    /// That folder is in `volumes/.filling`; else in the folder that is filled, which is on another
    /// mount.
    pub(crate) beside: bool,
    /// The folder in the volume that is filled; empty is all of it.
    pub(crate) subpath: String,
    /// The image's layers, the base first, and the place in them.
    pub(crate) layers: Vec<Digest>,
    pub(crate) path: String,
    /// The host's boot (proc_sys_kernel(5), `random/boot_id`) in which that is.
    pub(crate) boot: String,
}

/// A volume's mark. It belongs to this folder, whatever volume has the name later.
#[derive(Debug)]
pub(crate) struct Mark {
    folder: OwnedFd,
    file: File,
    path: PathBuf,
}

impl Mark {
    /// A copy into the volume with this folder begins.
    pub(crate) fn begin(path: &Path, filling: &Filling) -> Result<Mark> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = open_folder(path)?;
        let file = rustix::fs::openat(&folder, FILLING, flags, Mode::RUSR | Mode::WUSR);
        let mut mark =
            Mark { folder, file: file.map_err(failed("create", path))?.into(), path: path.to_owned() };
        let text = serde_json::to_vec(filling).map_err(std::io::Error::from);
        let written = text.and_then(|text| mark.file.write_all(&text));
        written.map_err(|source| Error::Io { call: "write", path: path.join(FILLING), source })?;
        Ok(mark)
    }

    /// The mark in a volume's folder, what it says, and whether the copy is complete. One that says
    /// nothing was never on the disk as a whole, and is given as `None` for that.
    pub(crate) fn find(path: &Path) -> Result<Option<(Mark, Option<Filling>, bool)>> {
        let folder = open_folder(path)?;
        for (name, complete) in [(FILLED, true), (FILLING, false)] {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file: File = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(failed("open", path))?.into(),
            };
            let mut text = Vec::new();
            let read = file.read_to_end(&mut text);
            read.map_err(|source| Error::Io { call: "read", path: path.join(name), source })?;
            let filling = serde_json::from_slice(&text).ok();
            return Ok(Some((Mark { folder, file, path: path.to_owned() }, filling, complete)));
        }
        Ok(None)
    }

    /// Waits until the mark is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let synced = rustix::fs::fsync(&self.file).and_then(|()| rustix::fs::fsync(&self.folder));
        synced.map_err(failed("fsync", &self.path))
    }

    /// The copy is whole.
    pub(crate) fn complete(&self) -> Result<()> {
        let renamed = rustix::fs::renameat(&self.folder, FILLING, &self.folder, FILLED);
        renamed.map_err(failed("rename", &self.path))
    }

    /// There is nothing more to be done. A later mark of the volume stays; the caller has its turn, so
    /// none comes meanwhile.
    pub(crate) fn remove(&self) -> Result<()> {
        let own = rustix::fs::fstat(&self.file).map_err(failed("fstat", &self.path))?;
        for name in [FILLING, FILLED] {
            match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if there.st_ino == own.st_ino => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("stat", &self.path)(errno)),
            }
            let removed = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
            removed.map_err(failed("unlink", &self.path))?;
        }
        Ok(())
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))
}

fn failed<'a>(call: &'static str, path: &'a Path) -> impl Fn(Errno) -> Error + 'a {
    move |errno| Error::Io { call, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_begun_and_how_far_it_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let found = || Mark::find(dir.path()).unwrap().map(|(_, filling, complete)| (filling, complete));
        let filling = Filling {
            copy: "c0".to_owned(),
            beside: true,
            subpath: String::new(),
            layers: vec![Digest::sha256(b"layer")],
            path: "/data".to_owned(),
            boot: "b1".to_owned(),
        };
        assert_eq!(found(), None);
        let mark = Mark::begin(dir.path(), &filling).unwrap();
        mark.sync().unwrap();
        assert_eq!(found(), Some((Some(filling.clone()), false)));
        mark.complete().unwrap();
        assert_eq!(found(), Some((Some(filling.clone()), true)));
        mark.remove().unwrap();
        mark.remove().unwrap();
        assert_eq!(found(), None);
        // So has the next copy into the volume.
        let old = Mark::begin(dir.path(), &filling).unwrap();
        old.complete().unwrap();
        let mark = Mark::begin(dir.path(), &filling).unwrap();
        mark.complete().unwrap();
        old.remove().unwrap();
        assert_eq!(found(), Some((Some(filling.clone()), true)));
        mark.remove().unwrap();
        // And another volume of the name.
        let mark = Mark::begin(dir.path(), &filling).unwrap();
        let old = tempfile::tempdir().unwrap();
        std::fs::rename(dir.path(), old.path().join("old")).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
        std::fs::write(dir.path().join("filled"), "").unwrap();
        mark.remove().unwrap();
        assert_eq!(found(), Some((None, true)));
    }
}
