//! The volumes' files.
//!
//! ```text
//! <data-root>/volumes/              0700
//!   NAME/                           0700
//!     _data/                        0755 at first; what containers see, and theirs
//!     new                           no record names it yet: an empty file
//!     filling, filled               its first content is on its way: see [`super::mark`]
//!   .filling/RANDOM/                a copy that is being made
//!   .trash/RANDOM/NAME/             one that was removed, until its space is freed
//! ```
//!
//! What a killed daemon was about is read from here: a folder with `new` in it and no row was never
//! acknowledged and goes; a row whose folder is in the trash was being removed, and goes. Anything
//! else that has no row is somebody's data and becomes a volume, as in the reference.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hull_image::folder;

use crate::containers::create::random;
use crate::containers::files::{keep_apart, private_dir};
use crate::{Error, Result};

const TRASH: &str = ".trash";
const FILLING: &str = ".filling";
const NEW: &str = "new";

fn failed<'a>(call: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { call, path: path.to_owned(), source }
}

/// What is there, by name.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) whole: BTreeSet<String>,
    /// Never acknowledged, unless a row says otherwise.
    pub(super) new: BTreeSet<String>,
    pub(super) trash: BTreeSet<String>,
}

/// `<data-root>/volumes`.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Files> {
        private_dir(&root)?;
        private_dir(&root.join(TRASH))?;
        private_dir(&root.join(FILLING))?;
        keep_apart(&root)?;
        keep_apart(&root.join(FILLING))?;
        Ok(Files(root))
    }

    /// Where copies are made.
    pub(super) fn filling(&self) -> PathBuf {
        self.0.join(FILLING)
    }

    /// The folders of all copies that were begun.
    pub(super) fn copies(&self) -> Result<Vec<String>> {
        names(&self.filling())
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn data(&self, name: &str) -> PathBuf {
        self.folder(name).join("_data")
    }

    /// Makes the folder of a volume that has no row yet. One that somebody has put there meanwhile is
    /// theirs: it is not marked as new.
    pub(super) fn make(&self, name: &str) -> Result<()> {
        let (folder, data) = (self.folder(name), self.data(name));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                let new = folder.join(NEW);
                fs::File::create(&new).map_err(failed("create", &new))?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("mkdir", &folder)(error)),
        }
        match fs::DirBuilder::new().mode(0o755).create(&data) {
            Ok(()) => {}
            // Theirs, with the mode that it has.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(failed("mkdir", &data)(error)),
        }
        // What containers see, whatever the umask.
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(failed("chmod", &data))
    }

    /// A row names it now.
    pub(super) fn finish(&self, name: &str) -> Result<()> {
        let new = self.folder(name).join(NEW);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &new)(error)),
            _ => Ok(()),
        }
    }

    /// A place for what is discarded together; [`Files::empty`] removes it.
    pub(super) fn new_trash(&self) -> Result<PathBuf> {
        let random: String = random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let trash = self.0.join(TRASH).join(random);
        private_dir(&trash).map(|()| trash)
    }

    /// As [`Files::discard`] for what is marked as new alone.
    pub(super) fn undo(&self, name: &str, trash: &Path) -> Result<()> {
        if self.folder(name).join(NEW).exists() { self.discard(name, trash) } else { Ok(()) }
    }

    /// Takes it out of sight, at once. Nothing there is no error.
    pub(super) fn discard(&self, name: &str, trash: &Path) -> Result<()> {
        let from = self.folder(name);
        match fs::rename(&from, trash.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("rename", &from)(error)),
            _ => Ok(()),
        }
    }

    /// Takes back what was discarded.
    pub(super) fn restore(&self, name: &str, trash: &Path) -> Result<()> {
        let from = trash.join(name);
        match fs::rename(&from, self.folder(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("rename", &from)(error)),
            _ => Ok(()),
        }
    }

    /// Frees the space of what was discarded, however deep it is.
    pub(super) fn empty(trash: &Path) -> Result<()> {
        let opened = fs::File::open(trash).map_err(failed("open", trash))?;
        folder::empty(opened.as_fd()).map_err(|errno| failed("empty", trash)(errno.into()))?;
        fs::remove_dir(trash).map_err(failed("remove", trash))
    }

    /// Everything that was discarded.
    pub(super) fn trash(&self) -> Result<Vec<PathBuf>> {
        let trash = self.0.join(TRASH);
        Ok(names(&trash)?.into_iter().map(|name| trash.join(name)).collect())
    }

    pub(super) fn find(&self) -> Result<Found> {
        let mut found = Found::default();
        for name in names(&self.0)?.into_iter().filter(|name| name != TRASH && name != FILLING) {
            let new = self.folder(&name).join(NEW).exists();
            let kind = if new { &mut found.new } else { &mut found.whole };
            kind.insert(name);
        }
        for trash in self.trash()? {
            found.trash.extend(names(&trash)?);
        }
        Ok(found)
    }

    /// Bytes of the files, each once however many names it has.
    pub(super) fn usage(&self, name: &str) -> Result<u64> {
        let data = self.data(name);
        let opened = fs::File::open(&data).map_err(failed("open", &data))?;
        folder::usage(opened.as_fd()).map_err(|errno| failed("measure", &data)(errno.into()))
    }
}

/// Of folders; names that are no text are nobody's.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let entry = entry.map_err(failed("read", folder))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        names.extend(entry.file_name().into_string().ok().filter(|_| is_folder));
    }
    Ok(names)
}
