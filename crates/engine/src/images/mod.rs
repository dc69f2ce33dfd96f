//! The images of this host: records in memory, written through the store; blobs and layers
//! through `hull_image`.
//!
//! Everything here that touches the disk blocks; the async methods of [`Images`] run it on
//! threads for blocking work, to the end, even if the caller goes away: a load whose client
//! vanishes sees the end of its stream and cleans up after itself.
//!
//! Order of a new image: its blobs and layers are stored under a lease, the row is committed,
//! memory is changed, the lease ends. Until all of it is on the disk it is marked as what a power
//! cut could take (`sync`). Removal goes the other way: the row first, then a collection of
//! whatever nothing names any more.
//!
//! An image's layers are its archives. Their files, which containers need, are unpacked from them
//! and may come later (`files`).

mod add;
mod build;
mod capture;
pub mod changes;
mod commit;
mod files;
mod hashes;
pub mod history;
mod import;
pub mod list;
mod load;
mod pull;
mod push;
mod remove;
mod save;
mod source;
mod sync;
mod transfer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hull_image::archive;
use hull_image::content::{Content, ContentError};
use hull_image::gc::{GcError, Roots};
use hull_image::layer::Mode;
use hull_image::lease::{Held, Lease, Leases};
use hull_image::snapshot::{Rootfs, SnapshotError, Snapshots};
use hull_oci::image::{Config, Descriptor, DocumentError};
use hull_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::containers::phase::Time;
use crate::events::{Events, Kind};
use crate::store::{Change, Rows, Store};
use crate::{Error, Result};

pub(crate) use build::Hold;
pub use build::Part;
pub use commit::Commit;
pub use import::Import;
pub use list::{ListFilters, Listed};
pub use load::Progress;
pub use pull::Pull;
pub use push::Push;
pub use remove::{Pruned, Removed};
pub use source::{Fed, Source};
pub use transfer::{Transfer, What};

/// An image. Its names are kept apart, because they move from image to image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of the configuration's bytes.
    pub id: Digest,
    pub config: Config,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Descriptor>,
    /// Bytes of the files of each layer, lowest first.
    #[serde(default)]
    pub layer_sizes: Vec<u64>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// The image that this one was made from on this host.
    #[serde(default)]
    pub parent: Option<Digest>,
    /// The manifests and indexes by which it came from registries; kept as they were, so that it goes back under
    /// the same digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<Descriptor>,
    /// What became of layers whose blobs are plain archives on their way to a registry, by diff id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub compressed: BTreeMap<Digest, Descriptor>,
    /// When it came to this host.
    pub stored: Time,
    #[serde(default)]
    pub last_tagged: Option<Time>,
    /// The boot in which it was stored, until it is known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsynced: Option<String>,
}

impl Image {
    /// Chain ids of the layers, lowest first.
    pub fn chain(&self) -> Vec<Digest> {
        self.config.chain_ids()
    }

    /// Seconds since the epoch at which it was made, as its configuration says; 0 if it does not.
    pub fn created(&self) -> i64 {
        let created = self.config.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        created.map_or(0, jiff::Timestamp::as_second)
    }
}

/// A container as far as images are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub container: String,
    pub image: Digest,
    /// Chain ids of the layers below its writable one, lowest first.
    pub layers: Vec<Digest>,
    pub running: bool,
}

/// What came out of an archive; see [`hull_image::layer::Applied`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    pub blob: Digest,
    pub blob_size: u64,
    pub diff_id: Digest,
    pub size: u64,
    /// As [`hull_image::compress::Compression::name`] has it.
    pub compression: String,
}

/// Unpacks a layer's archive (first) into a folder (second), in a jail; blocks. Ends early when the third
/// is closed at its other end. The error is one line for people.
pub type Unpack = Arc<
    dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>, Option<BorrowedFd<'_>>) -> std::result::Result<Unpacked, String>
        + Send
        + Sync,
>;

/// The same of an archive whose digests nobody asks for.
pub type Extract =
    Arc<dyn Fn(Mode, BorrowedFd<'_>, BorrowedFd<'_>) -> std::result::Result<Extracted, String> + Send + Sync>;

/// What came out of one.
pub struct Extracted {
    /// Of a layer: bytes of its files.
    pub size: u64,
    /// Of an archive of files ([`Mode::Files`]).
    pub digests: Option<Digests>,
}

impl std::fmt::Debug for Extracted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extracted").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The digests of large files by their inodes' numbers; blocks until they are known. Dropped, nobody hashes
/// any more.
pub type Digests = Box<dyn FnOnce() -> std::result::Result<BTreeMap<u64, Digest>, String> + Send>;

/// What became of a writable layer; see [`hull_image::layer::Diffed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub diff_id: Digest,
    pub archive_size: u64,
    pub size: u64,
}

/// Why a writable layer was not packed, in one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackError {
    /// What is in it has no place in an image.
    Unfit(String),
    Failed(String),
}

/// Packs a writable layer (first) into an archive (second), in a jail; blocks.
pub type Pack =
    Arc<dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> std::result::Result<Packed, PackError> + Send + Sync>;

/// Bytes of an archive without entries.
const EMPTY: usize = 1024;

/// Chain ids of the layers that the builds' memory names.
pub type Kept = Arc<dyn Fn() -> Vec<Digest> + Send + Sync>;

/// All containers there are, in any phase.
pub type Uses = Arc<dyn Fn() -> Vec<Use> + Send + Sync>;

/// What the service of the images works with.
pub struct Setup {
    pub store: Store,
    pub events: Events,
    /// `<data-root>/image`.
    pub root: PathBuf,
    /// What tells this boot of the machine from all others.
    pub boot: String,
    pub unpack: Unpack,
    pub extract: Extract,
    pub pack: Pack,
    pub uses: Uses,
    pub kept: Kept,
    pub registry: hull_registry::client::Client,
}

/// What goes wrong with images and is not the caller's fault alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Collection(#[from] GcError),
    #[error(transparent)]
    Archive(#[from] archive::ReadError),
    #[error(transparent)]
    Write(#[from] archive::WriteError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// In the words of Go's readers, which the reference gives on.
    #[error("unexpected EOF: the archive broke off: {reason}")]
    Incomplete { reason: String },
    #[error("cannot unpack {what}: {reason}")]
    Unpack { what: String, reason: String },
    /// The same of what is stored, which was whole when it came.
    #[error("cannot unpack layer {layer}: {reason}")]
    Stored { layer: String, reason: String },
    #[error("cannot read the writable layer of container {container}: {reason}")]
    Pack { container: String, reason: String },
    #[error("what container {container} has written cannot become a layer of an image: {reason}")]
    Unfit { container: String, reason: String },
    #[error("layer {index} of the image is {found} when unpacked, but its configuration says {expected}")]
    DiffId { index: usize, expected: Digest, found: Digest },
    #[error("layer {index} of the image is {found}, but its manifest says {expected}")]
    Blob { index: usize, expected: Digest, found: Digest },
    #[error("{what} of the image is compressed with {compression}, which layers cannot be")]
    Compression { what: String, compression: String },
    /// In the reference's words; what a registry has sent.
    #[error(
        "filesystem layer verification failed for digest {expected}: {found_size} bytes of {found} came, not {size}"
    )]
    Fetched { expected: Digest, size: u64, found: Digest, found_size: u64 },
    #[error("layer {layer} is {found} when unpacked, but the image's configuration says {expected}")]
    Unpacked { layer: Digest, expected: Digest, found: Digest },
    #[error("cannot {action}")]
    Io { action: &'static str, source: std::io::Error },
    #[error("cannot describe the image")]
    Json(#[from] serde_json::Error),
}

impl ImageError {
    fn pack(container: &str, error: PackError) -> Self {
        let container = container.to_owned();
        match error {
            PackError::Unfit(reason) => Self::Unfit { container, reason },
            PackError::Failed(reason) => Self::Pack { container, reason },
        }
    }

    /// True if what came in is wrong, false if the host is.
    pub(crate) fn is_input(&self) -> bool {
        matches!(
            self,
            Self::Archive(_)
                | Self::Document(_)
                | Self::Incomplete { .. }
                | Self::Unpack { .. }
                | Self::Unfit { .. }
                | Self::DiffId { .. }
                | Self::Blob { .. }
                | Self::Compression { .. }
                | Self::Fetched { .. }
                | Self::Unpacked { .. }
        )
    }
}

/// `ImageError` of any of its sources to the engine's error.
pub(crate) fn failed<E: Into<ImageError>>(error: E) -> Error {
    Error::Image(Box::new(error.into()))
}

/// The service of the images' room; cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    store: Store,
    events: Events,
    content: Content,
    snapshots: Snapshots,
    leases: Leases,
    unpack: Unpack,
    extract: Extract,
    pack: Pack,
    uses: Uses,
    kept: Kept,
    registry: hull_registry::client::Client,
    pulls: pull::Pulls,
    state: RwLock<State>,
    /// Held while images or names change, over commit and memory together.
    changes: Mutex<()>,
    unpacking: files::Unpacking,
    boot: String,
    pending: Mutex<sync::Pending>,
    /// Held by the one sync that is under way.
    syncing: Mutex<()>,
    sync_wanted: AtomicBool,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Whole name (with tag or digest) to image.
    names: BTreeMap<String, Digest>,
}

impl Images {
    /// Opens the store of blobs and layers, sweeps what a crash has left there and puts right what a
    /// power cut has. Blocks.
    pub fn open(setup: Setup, rows: &Rows) -> Result<Images> {
        let mut state = State::default();
        for (id, record) in &rows.images {
            let image: Image = serde_json::from_str(record).map_err(|source| Error::Record {
                table: "image",
                id: id.clone(),
                source,
            })?;
            state.images.insert(image.id.clone(), Arc::new(image));
        }
        for (name, id) in &rows.names {
            if let Ok(id) = Digest::parse(id) {
                state.names.insert(name.clone(), id);
            }
        }
        let content = Content::open(&setup.root).map_err(failed)?;
        let snapshots = Snapshots::open(&setup.root, &setup.boot).map_err(failed)?;
        let inner = Inner {
            store: setup.store,
            events: setup.events,
            content,
            snapshots,
            leases: Leases::default(),
            unpack: setup.unpack,
            extract: setup.extract,
            pack: setup.pack,
            uses: setup.uses,
            kept: setup.kept,
            registry: setup.registry,
            pulls: pull::Pulls::default(),
            state: RwLock::new(state),
            changes: Mutex::new(()),
            unpacking: files::Unpacking::default(),
            boot: setup.boot,
            pending: Mutex::default(),
            syncing: Mutex::new(()),
            sync_wanted: AtomicBool::new(false),
        };
        inner.restore()?;
        Ok(Images(Arc::new(inner)))
    }

    /// Removes what a killed daemon had stored and not yet named. To be called when all containers
    /// are known, because they keep layers.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            inner.sync_behind();
            inner.sweep()
        })
        .await
    }

    /// By name (any spelling), id, digest or prefix of an id.
    pub fn resolve(&self, key: &str) -> Result<Arc<Image>> {
        self.0.read().resolve(key)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.read().images.len()
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.0.read().images.values().cloned().collect()
    }

    /// The names of an image, sorted.
    pub fn names(&self, id: &Digest) -> Vec<Reference> {
        self.0.read().names_of(id)
    }

    /// The layers' folders, lowest first: `LowerDir` and `UpperDir` of `image inspect`.
    pub fn layer_folders(&self, image: &Image) -> Vec<PathBuf> {
        image.chain().iter().map(|chain| self.0.snapshots.diff(chain)).collect()
    }

    /// The layers and writable layers. (A container's writable layer is its owner's business.)
    pub fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    /// Keeps an image's layers from being collected, until dropped or a container names them. An
    /// image that was removed since it was resolved is an error. Waits while a collection marks.
    pub fn hold(&self, image: &Image) -> Result<Lease> {
        self.0.hold(image)
    }

    /// The same of layers that a container has, and still has when this returns.
    pub(crate) fn keep_layers(&self, layers: &[Digest]) -> Lease {
        let lease = self.0.leases.take();
        if let Some(top) = hull_oci::image::chain_ids(layers).last() {
            lease.hold(Held::Layer(top.clone()));
        }
        lease
    }

    /// Makes a container's writable layer on top of an image's, which the caller holds: a few system
    /// calls, if the image is unpacked. Blocks until it is.
    pub fn prepare(&self, key: &str, image: &Image) -> Result<Rootfs> {
        self.unpack(&image.chain())?;
        self.0.snapshots.prepare(key, &image.chain()).map_err(failed)
    }

    /// Gives an image one more name; a name that another image had moves. Returns the name.
    pub async fn tag(&self, key: &str, name: &Reference) -> Result<Reference> {
        let image = self.resolve(key)?;
        if name.digest.is_some() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".to_owned()));
        }
        let name = name.clone().with_default_tag();
        let inner = Arc::clone(&self.0);
        let given = name.clone();
        blocking(move || {
            let _changing = inner.changing();
            inner.read().images.get(&image.id).ok_or_else(|| Error::NoSuchImage(image.id.to_string()))?;
            inner.put_names(&image.id, std::slice::from_ref(&given))
        })
        .await?;
        Ok(name)
    }
}

/// Runs blocking work to its end, whether or not the caller waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down.
            Err(_) => Err(Error::ShuttingDown),
        },
    }
}

impl Inner {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names an image, in the database and in memory. `changes` is held by the caller.
    fn put_names(&self, id: &Digest, names: &[Reference]) -> Result<()> {
        let mut image = Image::clone(&*self.read().resolve(&id.to_string())?);
        image.last_tagged = Some(hull_sys::time::now());
        let mut rows = vec![put_image(&image)?];
        for name in names {
            rows.push(Change::PutName { name: name.to_string(), image: id.to_string() });
        }
        self.store.commit_blocking(rows)?;
        {
            let mut state = self.write();
            state.images.insert(id.clone(), Arc::new(image));
            for name in names {
                state.names.insert(name.to_string(), id.clone());
            }
        }
        for name in names {
            self.publish("tag", id, &name.familiar());
        }
        Ok(())
    }

    /// See [`Images::hold`].
    fn hold(&self, image: &Image) -> Result<Lease> {
        let lease = self.leases.take();
        if let Some(top) = image.chain().last() {
            lease.hold(Held::Layer(top.clone()));
        }
        // In this order: what is still here now is seen as held by every later collection.
        match self.read().images.contains_key(&image.id) {
            true => Ok(lease),
            false => Err(Error::NoSuchImage(image.id.to_string())),
        }
    }

    /// An event of an image, with its labels while it is here.
    fn publish(&self, action: &str, id: &Digest, name: &str) {
        let known = self.read().images.get(id).cloned();
        let mut attributes = known.map(|image| image.config.config.labels.clone()).unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.events.publish(Kind::Image, action, &id.to_string(), attributes);
    }

    /// That an image came from a registry, by the name under which it did.
    fn publish_pull(&self, image: &Image, name: &Reference) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".to_owned(), name.familiar_name());
        self.events.publish(Kind::Image, "pull", &name.familiar(), attributes);
    }

    /// What must not be collected: all that images, containers and the builds' memory name.
    fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        for image in self.read().images.values() {
            roots.blobs.insert(image.id.clone());
            roots.blobs.extend(image.layers.iter().map(|layer| layer.digest.clone()));
            roots.blobs.extend(image.documents.iter().map(|document| document.digest.clone()));
            roots.layers.extend(image.chain().last().cloned());
        }
        for used in (self.uses)() {
            roots.layers.extend(used.layers.last().cloned());
        }
        roots.layers.extend((self.kept)());
        roots
    }
}

/// The row of an image.
fn put_image(image: &Image) -> Result<Change> {
    let record = serde_json::to_string(image).map_err(failed)?;
    Ok(Change::PutImage { id: image.id.to_string(), record })
}

impl State {
    fn resolve(&self, key: &str) -> Result<Arc<Image>> {
        let missing = || Error::NoSuchImage(shown(key));
        if let Ok(id) = Digest::parse(key) {
            return self.images.get(&id).cloned().ok_or_else(missing);
        }
        let reference = Reference::parse(key);
        if let Ok(reference) = &reference {
            let name = reference.clone().with_default_tag().to_string();
            if let Some(image) = self.names.get(&name).and_then(|id| self.images.get(id)) {
                return Ok(Arc::clone(image));
            }
        }
        if let Some(prefix) = id_prefix(key) {
            let mut found = self.images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
            match (found.next(), found.next()) {
                (Some((_, image)), None) => return Ok(Arc::clone(image)),
                (Some(_), Some(_)) => return Err(Error::AmbiguousId(key.to_owned())),
                _ => return Err(missing()),
            }
        }
        match reference {
            Ok(_) => Err(missing()),
            Err(error) => Err(Error::Invalid(error.to_string())),
        }
    }

    fn names_of(&self, id: &Digest) -> Vec<Reference> {
        let mine = self.names.iter().filter(|(_, image)| *image == id);
        mine.filter_map(|(name, _)| Reference::parse(name).ok()).collect()
    }

    /// Images that were made from this one.
    fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| image.parent.as_ref() == Some(id))
    }
}

/// The hexadecimal digits, if `key` can be the beginning of an id.
fn id_prefix(key: &str) -> Option<&str> {
    let prefix = key.strip_prefix("sha256:").unwrap_or(key);
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (!prefix.is_empty() && prefix.len() <= 64 && prefix.bytes().all(hex)).then_some(prefix)
}

/// As the reference repeats an unknown image's name: with its default tag.
fn shown(key: &str) -> String {
    match Reference::parse(key) {
        Ok(reference) => reference.with_default_tag().familiar(),
        Err(_) => key.to_owned(),
    }
}

/// Where the images of a data root are.
pub fn folder(data_root: &Path) -> PathBuf {
    data_root.join("image")
}
