//! Beginnings of blobs: `ingest/partial-HEX`, written from its first byte on, so that whatever is there is how the
//! blob begins, as far as its sender is to be believed: its digest is known when all of it is there.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hull_oci::{Algorithm, Digest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Content, ContentError, Folders, Result, failed};
use crate::folder;

const PREFIX: &str = "partial-";
/// One that nobody has gone on with for so long goes when the store is opened or swept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many have one open, by its name.
pub(super) type Open = Mutex<BTreeMap<String, usize>>;

/// One such file. When the last who has it open drops it, it goes, unless somebody has said that it stays; its bytes stay as a blob if they
/// were adopted.
#[derive(Debug)]
pub struct Partial {
    folders: Arc<Folders>,
    name: String,
    file: File,
    length: u64,
    stays: bool,
}

impl Content {
    /// The beginning of a blob, which may be empty. One of those who have it open may write, and no longer than
    /// until the blob is whole. What has become a blob under this name is no beginning any more: another file takes
    /// its place.
    pub fn partial(&self, digest: &Digest) -> Result<Partial> {
        let name = format!("{PREFIX}{}", digest.hex());
        let mut known = self.folders.partials.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = open(&self.folders, &name)?;
        let mut found = file.metadata().map_err(|source| io("examine", &name, source))?;
        if found.nlink() > 1 {
            rustix::fs::unlinkat(&self.folders.ingest, &name, AtFlags::empty())
                .map_err(failed("remove", &name))?;
            file = open(&self.folders, &name)?;
            found = file.metadata().map_err(|source| io("examine", &name, source))?;
        }
        let length = found.len();
        *known.entry(name.clone()).or_default() += 1;
        drop(known);
        Ok(Partial { folders: Arc::clone(&self.folders), name, file, length, stays: false })
    }
}

impl Content {
    /// Removes the beginnings that nobody has open: those that are old, or `all`. Gives their bytes.
    pub fn sweep_partials(&self, all: bool) -> Result<u64> {
        let known = self.folders.partials.lock().unwrap_or_else(PoisonError::into_inner);
        let ingest = &self.folders.ingest;
        let mut bytes = 0;
        for name in folder::names(ingest).map_err(failed("list", "ingest"))? {
            let Some(text) = name.to_str().ok().filter(|text| text.starts_with(PREFIX)) else { continue };
            if known.contains_key(text) || (!all && stays(ingest, &name)) {
                continue;
            }
            let found = rustix::fs::statat(ingest, text, AtFlags::SYMLINK_NOFOLLOW);
            let found = found.map_err(failed("examine", text))?;
            rustix::fs::unlinkat(ingest, text, AtFlags::empty()).map_err(failed("remove", text))?;
            bytes += u64::try_from(found.st_size).unwrap_or(0);
        }
        Ok(bytes)
    }
}

fn open(folders: &Folders, name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(&folders.ingest, name, flags, Mode::RUSR | Mode::WUSR);
    fd.map(File::from).map_err(failed("create", name))
}

fn io(action: &'static str, name: &str, source: std::io::Error) -> ContentError {
    ContentError::Io { action, name: name.to_owned(), source }
}

impl Partial {
    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file from its first byte on; its position is its own.
    pub fn reader(&self) -> Result<File> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        File::open(path).map_err(|source| io("open", &self.name, source))
    }

    /// What is there is not how the blob begins. Another file takes its place: nobody who has this one open, or
    /// another name for it, is to see it change.
    pub fn clear(&mut self) -> Result<()> {
        rustix::fs::unlinkat(&self.folders.ingest, &self.name, AtFlags::empty())
            .map_err(failed("remove", &self.name))?;
        self.file = open(&self.folders, &self.name)?;
        self.length = 0;
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.length).map_err(|source| io("write", &self.name, source))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether it is still there when this is dropped.
    pub fn stay(&mut self, stays: bool) {
        self.stays = stays;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let mut known = self.folders.partials.lock().unwrap_or_else(PoisonError::into_inner);
        let others = known.get(&self.name).map_or(0, |count| count - 1);
        if others > 0 {
            known.insert(self.name.clone(), others);
            return;
        }
        known.remove(&self.name);
        if !self.stays || self.length == 0 {
            // What stays is swept when it is old.
            let _ = rustix::fs::unlinkat(&self.folders.ingest, &self.name, AtFlags::empty());
        }
    }
}

/// Whether an opened store goes on with what is called so.
pub(super) fn stays(ingest: &OwnedFd, name: &CStr) -> bool {
    let hex = name.to_str().ok().and_then(|name| name.strip_prefix(PREFIX));
    let is_digest = |hex| {
        [Algorithm::Sha256, Algorithm::Sha512]
            .iter()
            .any(|algorithm| Digest::from_hex(*algorithm, hex).is_ok())
    };
    if !hex.is_some_and(is_digest) {
        return false;
    }
    let young = |stat: rustix::fs::Stat| {
        let changed = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        let age = SystemTime::UNIX_EPOCH.elapsed().ok().and_then(|now| now.checked_sub(changed));
        // One from the future is as old as any.
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && age.is_some_and(|age| age < KEPT)
    };
    let found: std::result::Result<_, Errno> = rustix::fs::statat(ingest, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(young)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_gone_on_with_until_it_is_old() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let digest = Digest::sha256(b"all of it");
        let path = scratch.path().join(format!("ingest/partial-{}", digest.hex()));
        drop(content.partial(&digest).unwrap());
        assert!(!path.exists(), "nothing has come of it");
        let mut partial = content.partial(&digest).unwrap();
        partial.append(b"all ").unwrap();
        partial.stay(true);
        drop(partial);
        std::fs::write(scratch.path().join("ingest/partial-x"), "x").unwrap();
        let folder = format!("ingest/partial-{}", Digest::sha256(b"folder").hex());
        std::fs::create_dir(scratch.path().join(folder)).unwrap();
        let content = Content::open(scratch.path()).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 1);
        let mut partial = content.partial(&digest).unwrap();
        assert_eq!(partial.length(), 4);
        partial.append(b"of it").unwrap();
        assert_eq!(std::io::read_to_string(partial.reader().unwrap()).unwrap(), "all of it");
        let file = partial.reader().unwrap();
        content.adopt(std::os::fd::AsFd::as_fd(&file), &digest).unwrap();
        let mut anew = content.partial(&digest).unwrap();
        assert_eq!(anew.length(), 0, "nobody writes to a blob");
        anew.append(b"none of it, but longer").unwrap();
        drop(anew);
        drop(partial);
        assert!(!path.exists());
        assert_eq!(content.read(&digest, 100).unwrap(), b"all of it");
        let mut partial = content.partial(&digest).unwrap();
        partial.append(b"wrong").unwrap();
        partial.clear().unwrap();
        assert_eq!(partial.length(), 0);
        partial.append(b"old").unwrap();
        partial.stay(true);
        drop(partial);
        let yesterday = SystemTime::now() - KEPT - Duration::from_secs(60);
        File::options().write(true).open(&path).unwrap().set_modified(yesterday).unwrap();
        let opened = content.partial(&digest).unwrap();
        assert_eq!((content.sweep_partials(true).unwrap(), path.exists()), (0, true), "somebody has it open");
        let young = Digest::sha256(b"young");
        let mut partial = content.partial(&young).unwrap();
        partial.append(b"young").unwrap();
        partial.stay(true);
        drop(partial);
        drop(opened);
        std::fs::write(&path, "old").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(yesterday).unwrap();
        assert_eq!((content.sweep_partials(false).unwrap(), path.exists()), (3, false));
        assert_eq!(content.partial(&young).unwrap().length(), 5);
        std::fs::write(&path, "old").unwrap();
        assert_eq!((content.sweep_partials(true).unwrap(), path.exists()), (3, false));
        std::fs::write(&path, "old").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(yesterday).unwrap();
        Content::open(scratch.path()).unwrap();
        assert!(!path.exists(), "nobody has gone on with it");
    }
}
