//! The registry's folder.
//!
//! ```text
//! ROOT/
//!   lock                                      held by who uses it: its process id, if it serves it
//!   token-key                                 what tokens are signed with
//!   blobs/ALGORITHM/HEX, ingest/              the image crate's store of content
//!   repositories/NAME/
//!     _blobs/ALGORITHM/HEX                    this repository has the blob: "SIZE"
//!     _manifests/ALGORITHM/HEX                it has the manifest: "SIZE MEDIA-TYPE"
//!     _tags/TAG                               the digest of a manifest
//!     _referrers/ALGORITHM/HEX/ALGORITHM:HEX  a manifest whose subject that is: its descriptor
//!     _uploads/ID                             what has come of an upload
//! ```
//!
//! No component of a name begins with `_`, so names and what is in them never meet. Every small file is
//! written in `ingest` and renamed to its place, so after a kill it is there whole or not at all, and
//! what is left in `ingest` is swept at the next start. An entry counts only if the blob has the size that
//! it tells: a power failure can leave names of bytes that never came to the disk. What a manifest that is
//! acknowledged needs is on the disk: one `syncfs` for it, shared by those that come at the same time.
//!
//! Who makes an entry holds `gate` for reading from the look at the blob until the entry is there, and
//! makes the blob young; the collection of garbage ([`gc`]) holds it for writing while it looks again and
//! removes. So neither ever waits long for the other.

pub(super) mod gc;
mod list;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use hull_image::content::{Content, ContentError};
use hull_oci::{Algorithm, Digest};
use rustix::fs::FlockOperation;

use super::action::Name;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use already: a registry serves it, or its garbage is collected", root.display())]
    Locked {
        root: PathBuf,
        /// Of the registry that serves it, if it has said so.
        pid: Option<i32>,
    },
    #[error(transparent)]
    Content(#[from] ContentError),
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// The same, but nothing to be found is no error.
fn found<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(action, path)(error)),
    }
}

/// Largest of the small files: a referrer's descriptor has its manifest's annotations.
const SMALL: u64 = 8 << 20;

/// The folder of one registry. Every call blocks.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    content: Content,
    gate: RwLock<()>,
    serial: AtomicU64,
    /// The kernel gives the lock up when the process ends, however it ends.
    lock: File,
}

/// A manifest that is to be stored.
#[derive(Debug)]
pub(crate) struct NewManifest<'a> {
    pub digest: Digest,
    pub media_type: &'a str,
    pub bytes: &'a [u8],
    pub tag: Option<&'a str>,
    /// What it needs to be there: blobs and manifests of the same repository.
    pub blobs: &'a [(Digest, u64)],
    pub manifests: &'a [(Digest, u64)],
    /// Its subject, and its descriptor for the list of the subject's referrers.
    pub subject: Option<(&'a Digest, String)>,
}

/// So many missing parts of a manifest are looked for.
const MISSING: usize = 100;

/// What a manifest lacked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The first of them.
    Missing(BTreeSet<Digest>),
    /// It tells another size than this has.
    Size { digest: Digest, told: u64, found: u64 },
}

/// What can be sent: an open file at its beginning.
#[derive(Debug)]
pub(crate) struct Found {
    pub file: File,
    pub size: u64,
    pub media_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Manifest,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Blob => "_blobs",
            Kind::Manifest => "_manifests",
        }
    }
}

impl Store {
    /// Opens the folder, made if it is missing, for this process alone.
    pub fn open(root: &Path) -> Result<Store> {
        fs::create_dir_all(root).map_err(io("make", root))?;
        let path = root.join("lock");
        let mut lock = File::options().create(true).truncate(false).write(true).read(true).open(&path);
        let lock = lock.as_mut().map_err(|error| io("open", &path)(error.kind().into()))?;
        if rustix::fs::flock(&*lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            // Who has just taken it may not have written yet.
            let _ = lock.read_to_string(&mut text);
            return Err(StoreError::Locked { root: root.to_owned(), pid: text.trim().parse().ok() });
        }
        // Whose was there has ended.
        let lock = lock.set_len(0).and_then(|()| lock.try_clone()).map_err(io("write", &path))?;
        let content = Content::open(root)?;
        let repositories = root.join("repositories");
        fs::create_dir_all(&repositories).map_err(io("make", &repositories))?;
        let (gate, serial) = (RwLock::new(()), AtomicU64::new(0));
        Ok(Store { root: root.to_owned(), content, gate, serial, lock })
    }

    /// Says that this process serves the folder, and takes orders for it.
    pub(crate) fn announce(&self) -> Result<()> {
        let pid = format!("{}\n", std::process::id());
        (&self.lock).write_all(pid.as_bytes()).map_err(io("write", &self.root.join("lock")))
    }

    fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn entry(&self, name: &Name, kind: Kind, digest: &Digest) -> PathBuf {
        self.repository(name).join(kind.folder()).join(digest.algorithm().name()).join(digest.hex())
    }

    fn tag(&self, name: &Name, tag: &str) -> PathBuf {
        self.repository(name).join("_tags").join(tag)
    }

    fn referrers(&self, name: &Name, subject: &Digest) -> PathBuf {
        self.repository(name).join("_referrers").join(subject.algorithm().name()).join(subject.hex())
    }

    pub(crate) fn upload(&self, name: &Name, id: &str) -> PathBuf {
        self.repository(name).join("_uploads").join(id)
    }

    fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A small file, whole or not at all. What is there already, and may be on the disk, is not replaced by
    /// the same that is not, nor by another before that is on the disk.
    fn place(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let old = found(fs::read(path), "read", path)?;
        if old.as_deref() == Some(bytes) {
            return keep_young(path);
        }
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let early = self.root.join("ingest").join(format!("entry-{number}"));
        fs::write(&early, bytes).map_err(io("write", &early))?;
        if old.is_some() {
            File::open(&early).and_then(|file| file.sync_data()).map_err(io("sync", &early))?;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        fs::rename(&early, path).map_err(io("write", path))
    }

    /// What an entry says, if it is there and true.
    fn read_entry(&self, name: &Name, kind: Kind, digest: &Digest) -> Result<Option<(u64, String)>> {
        let Some(text) = small(&self.entry(name, kind, digest))? else { return Ok(None) };
        let (size, media_type) = text.split_once(' ').unwrap_or((&text, ""));
        let told: Option<u64> = size.parse().ok();
        match self.content.size(digest)? {
            Some(size) if told == Some(size) => Ok(Some((size, media_type.to_owned()))),
            _ => Ok(None),
        }
    }

    fn open_entry(&self, name: &Name, kind: Kind, digest: &Digest) -> Result<Option<Found>> {
        let Some((size, media_type)) = self.read_entry(name, kind, digest)? else { return Ok(None) };
        match self.content.open_blob(digest) {
            Ok(file) => Ok(Some(Found { file, size, media_type })),
            Err(ContentError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The repository has something: it is known.
    pub(crate) fn has_repository(&self, name: &Name) -> bool {
        let folder = self.repository(name);
        ["_manifests", "_blobs"].iter().any(|inner| folder.join(inner).is_dir())
    }

    pub(crate) fn open_blob(&self, name: &Name, digest: &Digest) -> Result<Option<Found>> {
        self.open_entry(name, Kind::Blob, digest)
    }

    /// The size of a blob, for somebody who will not send it if it is here: it stays for a while.
    pub(crate) fn promise_blob(&self, name: &Name, digest: &Digest) -> Result<Option<u64>> {
        let _entered = self.enter();
        let Some((size, _)) = self.read_entry(name, Kind::Blob, digest)? else { return Ok(None) };
        keep_young(&self.entry(name, Kind::Blob, digest))?;
        Ok(Some(size))
    }

    /// Makes a blob that `from` has one of `to`, too.
    pub(crate) fn mount(&self, from: &Name, to: &Name, digest: &Digest) -> Result<bool> {
        let _entered = self.enter();
        let Some((size, _)) = self.read_entry(from, Kind::Blob, digest)? else { return Ok(false) };
        if !self.content.refresh(digest)? {
            return Ok(false);
        }
        self.place(&self.entry(to, Kind::Blob, digest), size.to_string().as_bytes())?;
        Ok(true)
    }

    /// Returns whether it was there. The bytes stay until nobody has them.
    pub(crate) fn delete_blob(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let path = self.entry(name, Kind::Blob, digest);
        Ok(found(fs::remove_file(&path), "remove", &path)?.is_some())
    }

    /// A new upload's file, empty.
    pub(crate) fn start_upload(&self, name: &Name, id: &str) -> Result<()> {
        let path = self.upload(name, id);
        let _entered = self.enter();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        File::create_new(&path).map_err(io("make", &path))?;
        Ok(())
    }

    /// Bytes that have come of an upload, if there is one.
    pub(crate) fn upload_length(&self, name: &Name, id: &str) -> Result<Option<u64>> {
        let path = self.upload(name, id);
        Ok(found(fs::metadata(&path), "examine", &path)?.map(|metadata| metadata.len()))
    }

    pub(crate) fn open_upload(&self, name: &Name, id: &str) -> Result<Option<File>> {
        let path = self.upload(name, id);
        found(File::options().read(true).write(true).open(&path), "open", &path)
    }

    pub(crate) fn drop_upload(&self, name: &Name, id: &str) -> Result<bool> {
        let path = self.upload(name, id);
        Ok(found(fs::remove_file(&path), "remove", &path)?.is_some())
    }

    /// Makes an upload, whose bytes are of `digest`, a blob of its repository.
    pub(crate) fn finish_upload(&self, name: &Name, id: &str, digest: &Digest, size: u64) -> Result<()> {
        let _entered = self.enter();
        self.content.take(&self.upload(name, id), digest)?;
        failpoint("registry.blob.taken");
        self.place(&self.entry(name, Kind::Blob, digest), size.to_string().as_bytes())?;
        failpoint("registry.blob.placed");
        Ok(())
    }

    /// Stores a manifest if all is there that it needs. It is not on the disk before [`Store::sync`].
    pub(crate) fn put_manifest(
        &self,
        name: &Name,
        new: &NewManifest<'_>,
    ) -> Result<std::result::Result<(), Lack>> {
        let _entered = self.enter();
        let mut missing = BTreeSet::new();
        let needs = new.blobs.iter().map(|part| (Kind::Blob, part));
        for (kind, (digest, told)) in needs.chain(new.manifests.iter().map(|part| (Kind::Manifest, part))) {
            match self.read_entry(name, kind, digest)? {
                None => {
                    missing.insert(digest.clone());
                    if missing.len() == MISSING {
                        break;
                    }
                }
                Some((size, _)) if size != *told => {
                    return Ok(Err(Lack::Size { digest: digest.clone(), told: *told, found: size }));
                }
                Some(_) => keep_young(&self.entry(name, kind, digest))?,
            }
        }
        if !missing.is_empty() {
            return Ok(Err(Lack::Missing(missing)));
        }
        self.content.put_as(new.digest.algorithm(), new.bytes)?;
        failpoint("registry.manifest.stored");
        let entry = format!("{} {}", new.bytes.len(), new.media_type);
        self.place(&self.entry(name, Kind::Manifest, &new.digest), entry.as_bytes())?;
        if let Some((subject, descriptor)) = &new.subject {
            let path = self.referrers(name, subject).join(new.digest.to_string());
            self.place(&path, descriptor.as_bytes())?;
        }
        failpoint("registry.manifest.placed");
        if let Some(tag) = new.tag {
            self.place(&self.tag(name, tag), new.digest.to_string().as_bytes())?;
        }
        Ok(Ok(()))
    }

    /// Waits until everything that was written is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.content.sync()?;
        failpoint("registry.manifest.synced");
        Ok(())
    }

    pub(crate) fn open_manifest(&self, name: &Name, digest: &Digest) -> Result<Option<Found>> {
        self.open_entry(name, Kind::Manifest, digest)
    }

    pub(crate) fn resolve(&self, name: &Name, tag: &str) -> Result<Option<Digest>> {
        Ok(small(&self.tag(name, tag))?.and_then(|text| Digest::parse(&text).ok()))
    }

    pub(crate) fn delete_tag(&self, name: &Name, tag: &str) -> Result<bool> {
        let path = self.tag(name, tag);
        Ok(found(fs::remove_file(&path), "remove", &path)?.is_some())
    }

    /// Removes a manifest and the tags that stand for it.
    pub(crate) fn delete_manifest(&self, name: &Name, digest: &Digest) -> Result<bool> {
        if !self.entry(name, Kind::Manifest, digest).exists() {
            return Ok(false);
        }
        let mut tags = Vec::new();
        self.each_tag(name, &mut |tag| tags.push(tag.to_owned()))?;
        for tag in tags {
            if self.resolve(name, &tag)?.as_ref() == Some(digest) {
                self.delete_tag(name, &tag)?;
            }
        }
        self.drop_manifest(name, digest)
    }

    /// Removes one that no tag stands for; its place among a subject's referrers goes first.
    fn drop_manifest(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let path = self.entry(name, Kind::Manifest, digest);
        if let Ok(bytes) = self.content.read(digest, hull_oci::image::MAX_MANIFEST as u64)
            && let Some(subject) = gc::links(&bytes).and_then(|links| links.subject)
        {
            let path = self.referrers(name, &subject).join(digest.to_string());
            found(fs::remove_file(&path), "remove", &path)?;
        }
        Ok(found(fs::remove_file(&path), "remove", &path)?.is_some())
    }

    /// Whether it can be written to: for a health check.
    pub(crate) fn is_well(&self) -> bool {
        // Two may ask at the same time.
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("ingest").join(format!("health-{number}"));
        fs::write(&path, b"").and_then(|()| fs::remove_file(&path)).is_ok()
    }
}

/// A small file's text, if it is there.
fn small(path: &Path) -> Result<Option<String>> {
    let Some(file) = found(File::open(path), "open", path)? else { return Ok(None) };
    let mut text = String::new();
    file.take(SMALL).read_to_string(&mut text).map_err(io("read", path))?;
    Ok(Some(text))
}

/// An entry that somebody was told of is not removed for a while, though no manifest names it yet.
fn keep_young(path: &Path) -> Result<()> {
    let Some(file) = found(File::options().write(true).open(path), "open", path)? else { return Ok(()) };
    file.set_modified(SystemTime::now()).map_err(io("touch", path))
}

/// Writes a file that only its owner may read, if there is none; gives what is in it then.
pub(crate) fn secret(path: &Path, make: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(bytes) = found(fs::read(path), "read", path)? {
        return Ok(bytes);
    }
    let bytes = make().map_err(io("make", path))?;
    let early = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&early);
    file.as_mut()
        .map_err(|error| io::Error::from(error.kind()))
        .and_then(|file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&early, path))
        .map_err(io("write", path))?;
    Ok(bytes)
}

/// A place where tests end the process: the one that `HULL_FAILPOINTS` names. Only test builds have them.
///
/// | name | where |
/// |---|---|
/// | `registry.blob.taken` | an upload has its name as a blob, no repository has it |
/// | `registry.blob.placed` | the repository has it, nobody was told |
/// | `registry.manifest.stored` | its bytes are there, the repository has no entry |
/// | `registry.manifest.placed` | it has one, no tag leads to it |
/// | `registry.manifest.synced` | all is on the disk, nobody was told |
/// | `registry.gc.link` | an entry was removed, its blob was not |
/// | `registry.gc.blob` | a blob was removed, others were not |
#[cfg(feature = "failpoints")]
fn failpoint(name: &str) {
    if std::env::var_os("HULL_FAILPOINTS").is_some_and(|point| point == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "failpoints"))]
fn failpoint(_: &str) {}

/// The algorithms that name blobs.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
