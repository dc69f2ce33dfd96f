//! What a worker does for a step of a build: files copied into its root, a folder made, a digest said.
//!
//! Which files a pattern means is `hull_context`'s to decide; here they are found, read and written.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_context::{
    Folder, Ignore, Inside, Kind, ListingError, Matched, SelectError, Tree, fingerprint as digest_of, select,
};
use hull_image::layer::{self, Archive, CopyError, Copying, Dress, ModeChange};
use hull_oci::{Digest, Hasher};
use hull_sys::root::open_inside;
use rustix::fs::{Mode, OFlags};

use crate::protocol::{Copy, Outcome, Selection};

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error("invalid chmod parameter: '{text}': it should be octal digits up to 07777, or as in chmod(1)")]
    Mode { text: String },
    #[error("read {path:?}")]
    Read { path: String, source: io::Error },
    #[error(transparent)]
    List(#[from] ListingError),
    #[error("read what came with the work")]
    Document(#[from] hull_sys::Error),
    #[error("{path:?} has changed while the build went on: build again, or name it in .dockerignore")]
    Changed { path: String },
    #[error("the client gives no more files")]
    Client { source: io::Error },
    #[error("read or write the table of the files' digests")]
    Table { source: io::Error },
    #[error("the work came without what it needs")]
    Given,
}

impl Error {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Error::Copy(CopyError::Entry { .. })
            | Error::Select(SelectError::Walk(_))
            | Error::Read { .. }
            | Error::Document(_)
            | Error::Client { .. }
            | Error::Table { .. }
            | Error::Given => super::failed(self),
            Error::Changed { .. } => Outcome::Changed { message: super::told(self) },
            // The Dockerfile or the context is to blame.
            _ => Outcome::Unfit { message: super::told(self) },
        }
    }
}

/// A path as the functions that copy want it: below the root.
fn below(path: &str) -> &[u8] {
    path.trim_matches('/').as_bytes()
}

/// `name` in the folder `base`.
pub(super) fn join(base: &[u8], name: &Path) -> Vec<u8> {
    let name = name.as_os_str().as_bytes();
    match (base, name) {
        (b"", name) => name.to_vec(),
        (base, b"") => base.to_vec(),
        (base, name) => [base, b"/", name].concat(),
    }
}

pub(super) fn chosen(tree: &dyn Tree, selection: &Selection) -> Result<Vec<Matched>, SelectError> {
    let everything = ["*".to_owned()];
    let patterns = if selection.patterns.is_empty() { &everything } else { &selection.patterns[..] };
    select(tree, patterns, &selection.exclude, selection.parents)
}

pub(super) fn dress(copy: &Copy) -> Result<Dress, Error> {
    let parse = |text: &String| ModeChange::parse(text).ok_or_else(|| Error::Mode { text: text.clone() });
    let mode = copy.mode.as_ref().map(parse).transpose()?;
    let (owner, keep_owners, newest) = (copy.owner, copy.keep_owners, copy.newest);
    Ok(Dress { owner, keep_owners, mode, newest })
}

/// Where each thing that is meant goes.
pub(super) struct Targets<'a> {
    copy: &'a Copy,
    /// The destination.
    pub(super) to: &'a [u8],
    into: bool,
}

impl<'a> Targets<'a> {
    pub(super) fn new(copy: &'a Copy, matched: &[Matched], copying: &Copying<'_>) -> Targets<'a> {
        let to = below(&copy.destination);
        let into = copy.several
            || matched.len() > 1
            || copy.selection.parents
            || copy.destination.ends_with('/')
            || copying.is_folder(to);
        Targets { copy, to, into }
    }

    pub(super) fn of(&self, one: &Matched) -> Vec<u8> {
        let is_folder = one.entry.kind == Kind::Folder;
        if is_folder || self.into { join(self.to, &one.name) } else { self.to.to_vec() }
    }

    /// Whether it is unpacked if it is an archive.
    pub(super) fn unpacks(&self, one: &Matched) -> bool {
        self.copy.unpack && one.entry.kind != Kind::Folder
    }
}

pub(super) fn copy(
    source: &OwnedFd,
    root: &OwnedFd,
    copy: &Copy,
    archive: Option<&mut Archive<'_>>,
) -> Result<(), Error> {
    let dress = dress(copy)?;
    let matched = chosen(&Folder::new(source.as_fd(), Ignore::default()), &copy.selection)?;
    let mut copying = Copying::new(source.as_fd(), root.as_fd(), &dress);
    if let Some(archive) = archive {
        copying.pack(archive);
    }
    let targets = Targets::new(copy, &matched, &copying);
    for one in &matched {
        let from = one.entry.path.as_os_str().as_bytes();
        if targets.unpacks(one) && copying.archive(from, targets.to)? {
            continue;
        }
        let target = targets.of(one);
        copying.entry(from, &target)?;
        for entry in &one.below {
            copying.entry(&join(from, &entry.path), &join(&target, &entry.path))?;
        }
    }
    Ok(copying.finish()?)
}

pub(super) fn folder(
    root: &OwnedFd,
    path: &str,
    owner: (u32, u32),
    newest: Option<i64>,
    archive: Option<&mut Archive<'_>>,
) -> Result<(), Error> {
    let dress = Dress { owner: Some(owner), newest, ..Dress::default() };
    let mut copying = Copying::new(root.as_fd(), root.as_fd(), &dress);
    if let Some(archive) = archive {
        copying.pack(archive);
    }
    copying.folder(below(path))?;
    Ok(copying.finish()?)
}

pub(super) fn fingerprint(root: &OwnedFd, selection: &Selection) -> Result<Digest, Error> {
    let matched = chosen(&Folder::new(root.as_fd(), Ignore::default()), selection)?;
    digest_of(&matched, |entry, path| {
        let failed = |source| Error::Read { path: path.display().to_string(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let file = open_inside(root, place, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let attributes = layer::attributes(file.as_fd()).map_err(|errno| failed(errno.into()))?;
        if entry.kind == Kind::Folder {
            return Ok(Inside { contents: None, attributes });
        }
        let mut hasher = Hasher::sha256();
        io::copy(&mut std::fs::File::from(file), &mut hasher).map_err(failed)?;
        Ok(Inside { contents: Some(hasher.finish()), attributes })
    })
}
