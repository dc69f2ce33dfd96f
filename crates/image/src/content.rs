//! Blobs by their digest: `blobs/ALGORITHM/HEX`, with `ingest/` beside it for what is
//! not finished.
//!
//! A blob is written under a name of no meaning, its digest is computed on the way,
//! and only then it gets its own name. So a name in `blobs` always stands for the
//! bytes that it tells, whatever crashed; what a crash leaves lies in `ingest` and
//! is swept when the store is opened, but for the beginnings of blobs that come from afar ([`Partial`]): the next
//! attempt goes on with them. Documents are checked again whenever they are
//! read; layers when they are applied.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hull_oci::{Algorithm, Digest, Hasher};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::folder;

mod partial;

pub use partial::Partial;

/// Why the store cannot do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("cannot {action} \"{name}\" in the blob store")]
    Io { action: &'static str, name: String, source: io::Error },
    #[error("the content {digest} is missing")]
    Missing { digest: Digest },
    #[error("the bytes are of {found}, not of {expected}")]
    Mismatch { expected: Digest, found: Digest },
    #[error("the content {digest} has {found} bytes, not {expected}")]
    Size { digest: Digest, expected: u64, found: u64 },
    #[error("the content {digest} is longer than {limit} bytes")]
    Limit { digest: Digest, limit: u64 },
    #[error("the stored content {digest} is damaged: its bytes are of {found}")]
    Damaged { digest: Digest, found: Digest },
}

type Result<T> = std::result::Result<T, ContentError>;

fn failed(action: &'static str, name: &str) -> impl Fn(Errno) -> ContentError {
    move |errno| ContentError::Io { action, name: name.to_owned(), source: errno.into() }
}

/// The store. Cheap to share behind an `Arc`; every method takes `&self`.
#[derive(Debug)]
pub struct Content {
    folders: Arc<Folders>,
    serial: AtomicU64,
}

#[derive(Debug)]
struct Folders {
    sha256: OwnedFd,
    sha512: OwnedFd,
    ingest: OwnedFd,
    partials: partial::Open,
}

impl Folders {
    fn of(&self, algorithm: Algorithm) -> &OwnedFd {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }
}

/// What is known of a blob without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// In bytes.
    pub size: u64,
    /// When it came, or was last [refreshed](Content::refresh).
    pub modified: SystemTime,
}

impl Content {
    /// Opens the store in the folder `root` (made if missing) and removes what
    /// unfinished writes have left there.
    pub fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(|source| ContentError::Io {
            action: "make",
            name: root.display().to_string(),
            source,
        })?;
        let root = rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open", "."))?;
        let blobs = folder::open_or_make(&root, "blobs").map_err(failed("open", "blobs"))?;
        let sha256 = folder::open_or_make(&blobs, "sha256").map_err(failed("open", "blobs/sha256"))?;
        let sha512 = folder::open_or_make(&blobs, "sha512").map_err(failed("open", "blobs/sha512"))?;
        let ingest = folder::open_or_make(&root, "ingest").map_err(failed("open", "ingest"))?;
        folder::empty_but(ingest.as_fd(), |name| partial::stays(&ingest, name))
            .map_err(failed("sweep", "ingest"))?;
        let partials = partial::Open::default();
        Ok(Self {
            folders: Arc::new(Folders { sha256, sha512, ingest, partials }),
            serial: AtomicU64::new(0),
        })
    }

    /// Begins a new blob.
    pub fn ingest(&self) -> Result<Ingest> {
        self.ingest_as(Algorithm::Sha256)
    }

    fn ingest_as(&self, algorithm: Algorithm) -> Result<Ingest> {
        let name = format!("blob-{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.folders.ingest, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("create", &name))?;
        Ok(Ingest {
            folders: Arc::clone(&self.folders),
            name: Some(name),
            file: File::from(fd),
            hasher: Hasher::new(algorithm),
            size: 0,
        })
    }

    /// Stores bytes that are in memory.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        self.put_as(Algorithm::Sha256, bytes)
    }

    /// The same under a digest of this kind. What is here already may be on the disk, and stays.
    pub fn put_as(&self, algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let digest = hasher.finish();
        let whole = self.size(&digest)? == Some(bytes.len() as u64);
        if whole && self.read(&digest, bytes.len() as u64).is_ok() && self.refresh(&digest)? {
            return Ok(digest);
        }
        let mut ingest = self.ingest_as(algorithm)?;
        let name = ingest.name.clone().unwrap_or_default();
        ingest.write_all(bytes).map_err(|source| ContentError::Io { action: "write", name, source })?;
        Ok(ingest.commit(None)?.0)
    }

    /// Gives a finished regular file, open as `file` and on the same file system,
    /// its name in the store. The caller has computed its digest (as
    /// [`crate::layer::apply`] does) and nobody may write to it any more. The file
    /// keeps its other names.
    pub fn adopt(&self, file: BorrowedFd<'_>, digest: &Digest) -> Result<()> {
        let (folder, name) = self.place(digest);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, path, folder, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("adopt", name)(errno)),
        }
    }

    /// The same for the file `path`, which then has no other name. A blob of its size that is here already
    /// stays, for it may be on the disk, and the file may not be; one of another size is replaced.
    pub fn take(&self, path: &Path, digest: &Digest) -> Result<()> {
        let (folder, name) = self.place(digest);
        let size = rustix::fs::stat(path).map_err(failed("take", name))?.st_size;
        if self.size(digest)? == u64::try_from(size).ok() && self.refresh(digest)? {
            return rustix::fs::unlink(path).map_err(failed("take", name));
        }
        rustix::fs::renameat(CWD, path, folder, name).map_err(failed("take", name))?;
        self.refresh(digest)?;
        Ok(())
    }

    fn place<'a>(&'a self, digest: &'a Digest) -> (&'a OwnedFd, &'a str) {
        (self.folders.of(digest.algorithm()), digest.hex())
    }

    /// What is known of a blob, if it is here.
    pub fn stat(&self, digest: &Digest) -> Result<Option<Blob>> {
        let (folder, name) = self.place(digest);
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
                let nanos = Duration::from_nanos(stat.st_mtime_nsec);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                Ok(Some(Blob { size, modified: UNIX_EPOCH + seconds + nanos }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("examine", name)(errno)),
        }
    }

    /// The size of a blob (bytes), if it is here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.stat(digest)?.map(|blob| blob.size))
    }

    /// Makes a blob as young as a new one, so that a collection that is under way knows that it has got a
    /// new user. Returns whether it is here.
    pub fn refresh(&self, digest: &Digest) -> Result<bool> {
        let (folder, name) = self.place(digest);
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        match rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("refresh", name)(errno)),
        }
    }

    /// Opens a blob for reading. Its bytes are not checked here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let (folder, name) = self.place(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::NOENT) => Err(ContentError::Missing { digest: digest.clone() }),
            Err(errno) => Err(failed("open", name)(errno)),
        }
    }

    /// A document of at most `limit` bytes; a damaged one is an error.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ContentError::Io { action: "read", name: digest.hex().to_owned(), source })?;
        if bytes.len() as u64 > limit {
            return Err(ContentError::Limit { digest: digest.clone(), limit });
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found == *digest {
            Ok(bytes)
        } else {
            Err(ContentError::Damaged { digest: digest.clone(), found })
        }
    }

    /// Reads a whole blob and checks it (for `fsck`, and after an unclean boot).
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let mut hasher = Hasher::new(digest.algorithm());
        io::copy(&mut self.open_blob(digest)?, &mut hasher).map_err(|source| ContentError::Io {
            action: "read",
            name: digest.hex().to_owned(),
            source,
        })?;
        match hasher.finish() {
            found if found == *digest => Ok(()),
            found => Err(ContentError::Damaged { digest: digest.clone(), found }),
        }
    }

    /// Removes a blob; returns its size, or `None` if it was not here.
    pub fn remove(&self, digest: &Digest) -> Result<Option<u64>> {
        let size = self.size(digest)?;
        let (folder, name) = self.place(digest);
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => Ok(size),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("remove", name)(errno)),
        }
    }

    /// All blobs, sorted.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let names =
                folder::names(self.folders.of(algorithm)).map_err(failed("list", algorithm.name()))?;
            let digest = |name: &std::ffi::CString| {
                name.to_str().ok().and_then(|name| Digest::from_hex(algorithm, name).ok())
            };
            digests.extend(names.iter().filter_map(digest));
        }
        digests.sort();
        Ok(digests)
    }

    /// Waits until everything written to the store's file system so far is on the
    /// disk (syncfs(2)): once for each load, pull or commit, before its row.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.folders.ingest).map_err(failed("sync", "."))
    }
}

/// A blob being written. Dropped without `commit`, it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    folders: Arc<Folders>,
    name: Option<String>,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest {
    /// What was written so far, from its beginning; nothing can be written through it. It is read
    /// after the last write: the position is one for both.
    pub fn reader(&self) -> Result<File> {
        let name = || self.name.clone().unwrap_or_default();
        let io = |source| ContentError::Io { action: "read", name: name(), source };
        let mut file = self.file.try_clone().map_err(io)?;
        io::Seek::rewind(&mut file).map_err(io)?;
        Ok(file)
    }

    /// The file itself, for a process that hashes what it writes.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Publishes what another process has written to the file and computed the digest of.
    pub fn publish(mut self, digest: &Digest) -> Result<()> {
        self.publish_as(digest)
    }

    /// Publishes the blob, if it is what was expected. Returns digest and size.
    pub fn commit(mut self, expected: Option<(&Digest, u64)>) -> Result<(Digest, u64)> {
        let found = self.hasher.clone().finish();
        if let Some((digest, size)) = expected {
            if self.size != size {
                return Err(ContentError::Size { digest: digest.clone(), expected: size, found: self.size });
            }
            if found != *digest {
                return Err(ContentError::Mismatch { expected: digest.clone(), found });
            }
        }
        self.publish_as(&found)?;
        Ok((found, self.size))
    }

    fn publish_as(&mut self, digest: &Digest) -> Result<()> {
        let Some(temporary) = self.name.take() else { return Ok(()) };
        let (folder, name) = (self.folders.of(digest.algorithm()), digest.hex());
        rustix::fs::renameat(&self.folders.ingest, &temporary, folder, name).map_err(failed("publish", name))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What stays is swept when the store is opened next.
            let _ = rustix::fs::unlinkat(&self.folders.ingest, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_visible_only_when_it_is_what_was_expected() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let digest = Digest::sha256(b"bytes");
        let mut ingest = content.ingest().unwrap();
        ingest.write_all(b"bytes").unwrap();
        assert_eq!(content.size(&digest).unwrap(), None);
        let other = Digest::sha256(b"other");
        assert!(matches!(ingest.commit(Some((&other, 5))), Err(ContentError::Mismatch { .. })));
        let mut ingest = content.ingest().unwrap();
        ingest.write_all(b"bytes").unwrap();
        assert!(matches!(ingest.commit(Some((&digest, 6))), Err(ContentError::Size { .. })));
        assert_eq!(content.list().unwrap(), []);
        assert_eq!(content.put(b"bytes").unwrap(), digest);
        assert_eq!(content.put(b"bytes").unwrap(), digest);
        assert_eq!(content.list().unwrap(), std::slice::from_ref(&digest));
        assert_eq!(content.read(&digest, 5).unwrap(), b"bytes");
        assert!(matches!(content.read(&digest, 4), Err(ContentError::Limit { .. })));
        assert_eq!(content.remove(&digest).unwrap(), Some(5));
        assert_eq!(content.remove(&digest).unwrap(), None);
        assert!(matches!(content.read(&digest, 5), Err(ContentError::Missing { .. })));
        assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_may_be_named_by_either_algorithm() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let long = content.put_as(Algorithm::Sha512, b"bytes").unwrap();
        let short = content.put(b"bytes").unwrap();
        assert_eq!(long.algorithm(), Algorithm::Sha512);
        assert_eq!(content.read(&long, 5).unwrap(), b"bytes");
        content.verify(&long).unwrap();
        assert_eq!(content.list().unwrap(), [short.clone(), long.clone()]);
        assert_eq!(content.remove(&long).unwrap(), Some(5));
        assert_eq!(content.list().unwrap(), [short]);
    }

    #[test]
    fn a_file_that_is_taken_replaces_a_damaged_blob_and_is_young() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let digest = content.put(b"bytes").unwrap();
        std::fs::write(scratch.path().join("blobs/sha256").join(digest.hex()), b"").unwrap();
        let staged = scratch.path().join("staged");
        std::fs::write(&staged, b"bytes").unwrap();
        File::options().write(true).open(&staged).unwrap().set_modified(UNIX_EPOCH).unwrap();
        content.take(&staged, &digest).unwrap();
        assert!(!staged.exists());
        assert_eq!(content.read(&digest, 5).unwrap(), b"bytes");
        assert!(content.stat(&digest).unwrap().unwrap().modified > UNIX_EPOCH);
        assert!(!content.refresh(&Digest::sha256(b"other")).unwrap());
    }

    #[test]
    fn a_damaged_document_is_noticed_when_it_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let digest = content.put(b"{\"a\":1}").unwrap();
        std::fs::write(scratch.path().join("blobs/sha256").join(digest.hex()), b"{\"a\":2}").unwrap();
        assert!(matches!(content.read(&digest, 100), Err(ContentError::Damaged { .. })));
        assert!(matches!(content.verify(&digest), Err(ContentError::Damaged { .. })));
    }

    #[test]
    fn what_a_crash_left_is_swept_at_open_and_blobs_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let digest = content.put(b"kept").unwrap();
        let mut ingest = content.ingest().unwrap();
        ingest.write_all(b"half").unwrap();
        // A crash runs no destructor.
        let name = ingest.name.take().unwrap();
        drop(ingest);
        let folder = scratch.path().join("ingest");
        assert!(folder.join(&name).exists());
        std::fs::create_dir_all(folder.join("layer-0/diff/usr")).unwrap();
        let content = Content::open(scratch.path()).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(content.list().unwrap(), [digest]);
    }

    #[test]
    fn an_adopted_file_is_a_blob_of_the_same_bytes() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let staged = scratch.path().join("staged");
        std::fs::write(&staged, b"layer").unwrap();
        let digest = Digest::sha256(b"layer");
        let file = File::open(&staged).unwrap();
        content.adopt(std::os::fd::AsFd::as_fd(&file), &digest).unwrap();
        content.adopt(std::os::fd::AsFd::as_fd(&file), &digest).unwrap();
        std::fs::remove_file(&staged).unwrap();
        assert_eq!(content.read(&digest, 100).unwrap(), b"layer");
    }
}
