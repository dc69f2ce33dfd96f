//! Files that clients elsewhere have sent, by their digests: what has come once does not come again.
//!
//! ```text
//! <data root>/contents/      0700
//!   boot                     that in which they came
//!   HEX                      a file's bytes; HEX: their SHA-256
//!   RANDOM.new               one on its way; swept at start
//! ```
//!
//! Nothing is synced, so after a start of the host nothing of it is believed. Whoever may build may have all of it:
//! a client names a digest, and what is built of that is its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hull_context::files::Ask;
use hull_oci::Hasher;
use rustix::fs::{Mode, OFlags};

use crate::containers::{create, files};
use crate::{Error, Result};

/// Bytes that are kept, at most.
const BYTES: u64 = 8 << 30;
/// What a small file costs.
const BLOCK: u64 = 4096;
const BOOT: &str = "boot";
/// How long it is not noted that a file was used once more.
const STALE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Contents {
    folder: PathBuf,
}

impl Contents {
    /// `boot` is the host's. Blocks.
    pub(crate) fn open(data_root: &Path, boot: &str) -> Result<Contents> {
        let contents = Contents { folder: data_root.join("contents") };
        files::private_dir(&contents.folder)?;
        let mark = contents.folder.join(BOOT);
        let known = std::fs::read_to_string(&mark).is_ok_and(|known| known == boot);
        for (path, _, _) in contents.list()? {
            if !known || path.extension().is_some() {
                contents.remove(&path)?;
            }
        }
        if !known {
            std::fs::write(&mark, boot).map_err(contents.failed("write"))?;
        }
        Ok(contents)
    }

    /// Removes everything. Blocks.
    pub(super) fn clear(&self) -> Result<()> {
        self.kept()?.try_for_each(|(path, _, _)| self.remove(&path))
    }

    /// Removes what was not used for longest, as far as there is more than may be kept on a disk of `total` bytes.
    /// Blocks.
    pub(super) fn trim(&self, total: u64) -> Result<()> {
        self.keep(BYTES.min(total / 20))
    }

    fn keep(&self, most: u64) -> Result<()> {
        let mut bytes = 0;
        for (path, size, _) in self.kept()? {
            bytes += size;
            if bytes > most {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    fn failed(&self, call: &'static str) -> impl Fn(io::Error) -> Error {
        let path = self.folder.clone();
        move |source| Error::Io { call, path: path.clone(), source }
    }

    /// Without those on their way: another build waits for them.
    fn kept(&self) -> Result<impl Iterator<Item = (PathBuf, u64, SystemTime)>> {
        Ok(self.list()?.into_iter().filter(|(path, _, _)| path.extension().is_none()))
    }

    /// Each with the bytes that it costs, the one that was used last first.
    fn list(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
        let read = || -> io::Result<Vec<_>> {
            let mut all = Vec::new();
            for entry in std::fs::read_dir(&self.folder)? {
                let entry = entry?;
                match entry.metadata() {
                    // It has got its name, or was removed, meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    _ if entry.file_name() == BOOT => {}
                    about => {
                        let about = about?;
                        all.push((entry.path(), about.len().max(BLOCK), about.modified()?));
                    }
                }
            }
            all.sort_by_key(|(_, _, used)| std::cmp::Reverse(*used));
            Ok(all)
        };
        read().map_err(self.failed("read"))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(error)),
            _ => Ok(()),
        }
    }

    /// The file that is asked for, if it has come before. Blocks.
    pub(super) fn find(&self, ask: &Ask) -> Option<OwnedFd> {
        let file = File::open(self.folder.join(ask.digest.as_ref()?.hex())).ok()?;
        let about = file.metadata().ok()?;
        if about.len() != ask.size {
            return None;
        }
        if about.modified().ok()?.elapsed().is_ok_and(|unused| unused > STALE) {
            // It is younger than those that nobody asks for.
            let _ = file.set_modified(SystemTime::now());
        }
        Some(file.into())
    }

    /// A file that comes now. Blocks.
    pub(super) fn begin(&self) -> io::Result<Coming> {
        let chance = u64::from_ne_bytes(create::random::<8>());
        let path = self.folder.join(format!("{chance:016x}.new"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Coming { path, file: file.into(), hasher: Hasher::sha256() })
    }
}

/// One on its way. Dropped, it goes.
#[derive(Debug)]
pub(super) struct Coming {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

impl Coming {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    /// Keeps it, to be read; `None`: it is not what was asked for.
    pub(super) fn end(mut self, ask: &Ask) -> io::Result<Option<OwnedFd>> {
        let digest = std::mem::replace(&mut self.hasher, Hasher::sha256()).finish();
        if ask.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
            return Ok(None);
        }
        // Nobody who reads it can write to it.
        let read = File::open(&self.path)?;
        std::fs::rename(&self.path, self.path.with_file_name(digest.hex()))?;
        Ok(Some(read.into()))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        // What was kept has another name. The next start sweeps.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::Digest;
    use std::io::Read;

    fn ask(text: &str) -> Ask {
        let digest = Some(Digest::sha256(text.as_bytes()));
        Ask { number: 0, size: text.len() as u64, digest }
    }

    fn keep(contents: &Contents, text: &str) {
        let mut coming = contents.begin().unwrap();
        coming.write(text.as_bytes()).unwrap();
        coming.end(&ask(text)).unwrap().unwrap();
    }

    fn read(contents: &Contents, text: &str) -> Option<String> {
        let mut all = String::new();
        File::from(contents.find(&ask(text))?).read_to_string(&mut all).unwrap();
        Some(all)
    }

    #[test]
    fn what_has_come_is_found_again_in_the_same_boot() {
        let scratch = tempfile::tempdir().unwrap();
        let contents = Contents::open(scratch.path(), "one").unwrap();
        keep(&contents, "a");
        keep(&contents, "");
        std::fs::write(scratch.path().join("contents/x.new"), "half").unwrap();
        let contents = Contents::open(scratch.path(), "one").unwrap();
        assert_eq!((read(&contents, "a"), read(&contents, "")), (Some("a".into()), Some(String::new())));
        assert_eq!((read(&contents, "b"), contents.list().unwrap().len()), (None, 2));
        assert!(contents.find(&Ask { size: 2, ..ask("a") }).is_none());
        let contents = Contents::open(scratch.path(), "two").unwrap();
        assert_eq!((read(&contents, "a"), contents.list().unwrap().len()), (None, 0));
        keep(&contents, "a");
        contents.clear().unwrap();
        assert_eq!(read(&contents, "a"), None);
    }

    #[test]
    fn what_is_not_what_was_asked_for_is_not_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let contents = Contents::open(scratch.path(), "").unwrap();
        let mut coming = contents.begin().unwrap();
        coming.write(b"lie").unwrap();
        assert!(coming.end(&ask("truth")).unwrap().is_none());
        contents.begin().unwrap().write(b"half").unwrap();
        assert_eq!(contents.list().unwrap().len(), 0);
        // Of one that nobody knew the digest of.
        let mut coming = contents.begin().unwrap();
        coming.write(b"new").unwrap();
        assert!(coming.end(&Ask { digest: None, ..ask("new") }).unwrap().is_some());
        assert_eq!(read(&contents, "new").as_deref(), Some("new"));
    }

    #[test]
    fn what_is_on_its_way_is_nobody_elses_to_remove() {
        let scratch = tempfile::tempdir().unwrap();
        let contents = Contents::open(scratch.path(), "").unwrap();
        keep(&contents, "old");
        let mut coming = contents.begin().unwrap();
        coming.write(b"new").unwrap();
        contents.keep(0).unwrap();
        contents.clear().unwrap();
        assert!(coming.end(&ask("new")).unwrap().is_some());
        assert_eq!((read(&contents, "old"), read(&contents, "new")), (None, Some("new".into())));
    }

    #[test]
    fn what_nobody_asks_for_goes_first() {
        let scratch = tempfile::tempdir().unwrap();
        let contents = Contents::open(scratch.path(), "").unwrap();
        for (age, text) in [(1, "a"), (3, "b"), (2, "c")] {
            keep(&contents, text);
            let used = SystemTime::now() - age * 2 * STALE;
            File::from(contents.find(&ask(text)).unwrap()).set_modified(used).unwrap();
        }
        // It is used.
        assert!(read(&contents, "b").is_some());
        contents.keep(2 * BLOCK).unwrap();
        let kept = ["a", "b", "c"].map(|text| read(&contents, text).is_some());
        assert_eq!(kept, [true, true, false]);
    }
}
