//! File systems made of layers.
//!
//! ```text
//! layers/CHAINHEX/layer.json    what the layer is: parent, diff id, blob, size
//! layers/CHAINHEX/diff/         its files in overlayfs's conventions (see `layer`), once unpacked
//! layers/CHAINHEX/unsynced      a link to no file: the boot in which what is here was written
//! active/KEY/upper/ work/       the writable layer of one container
//! ingest/layer-N/diff/          a layer being extracted
//! ingest/trash-N/               something being removed
//! ```
//!
//! A layer is named by its chain id (image-spec `config.md#layer-chainid`): the same
//! layer on the same parents is stored once. What it is, its blob holds; its files are
//! unpacked from that and can be thrown away and unpacked again. The layer appears by
//! one rename, its files by another when they are complete, and both disappear by one
//! before they are removed, so a crash never leaves half a layer under its name.
//!
//! Nothing is synced here: until the caller has done that, and has said so by [`Snapshots::settle`],
//! a layer is marked as unsynced. The mark has its name before what it is about has one. ext4, xfs
//! and btrfs bring names to the disk in the order in which they were given, and the target of so
//! short a link is part of its inode: after a power cut what is there without a mark is whole.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hull_oci::{Algorithm, Digest};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::folder;

/// Why a snapshot cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {action} \"{name}\" in the layer store")]
    Io { action: &'static str, name: String, source: std::io::Error },
    #[error("the layer {chain} is missing")]
    Missing { chain: Digest },
    #[error("the description of layer {chain} is damaged")]
    Damaged { chain: Digest, source: serde_json::Error },
    #[error("the chain of layer {chain} is longer than {limit}")]
    Chain { chain: Digest, limit: usize },
    #[error("a writable layer with the key \"{key}\" exists already")]
    Exists { key: String },
    #[error("\"{key}\" cannot be the key of a writable layer")]
    Key { key: String },
}

type Result<T> = std::result::Result<T, SnapshotError>;

fn failed(action: &'static str, name: &str) -> impl Fn(Errno) -> SnapshotError {
    move |errno| SnapshotError::Io { action, name: name.to_owned(), source: errno.into() }
}

/// overlayfs takes at most 500 lower folders (OVL_MAX_STACK in fs/overlayfs).
pub const MAX_LAYERS: usize = 500;

/// What is known of a stored layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub chain: Digest,
    /// Chain id of the layer below.
    pub parent: Option<Digest>,
    pub diff_id: Digest,
    /// The archive it was extracted from, as it came.
    pub blob: Digest,
    pub blob_size: u64,
    /// Of the archive: plain, gzip or zstd.
    pub media_type: String,
    /// Sum of the sizes of its files (bytes).
    pub size: u64,
}

/// Plain paths for an overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Top layer first, as overlayfs wants them.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// The layer store.
#[derive(Debug)]
pub struct Snapshots {
    path: PathBuf,
    layers: OwnedFd,
    active: OwnedFd,
    ingest: OwnedFd,
    serial: AtomicU64,
    boot: String,
}

/// Names in a layer's folder.
const DESCRIPTION: &str = "layer.json";
const FILES: &str = "diff";
const MARK: &str = "unsynced";

impl Snapshots {
    /// Opens the store in the folder `root`, after [`crate::content::Content::open`]
    /// has made that and swept its `ingest`. `boot` tells this boot of the machine from all others.
    pub fn open(root: &Path, boot: &str) -> Result<Self> {
        let fd = rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open", "."))?;
        let part = |name: &str| folder::open_or_make(&fd, name).map_err(failed("open", name));
        let (layers, active, ingest) = (part("layers")?, part("active")?, part("ingest")?);
        // Where layers are filled; `layers` only gets them by rename.
        for filled in [&active, &ingest] {
            folder::keep_apart(filled);
        }
        let path = std::path::absolute(root).map_err(|source| SnapshotError::Io {
            action: "find",
            name: root.display().to_string(),
            source,
        })?;
        Ok(Self { path, layers, active, ingest, serial: AtomicU64::new(0), boot: boot.to_owned() })
    }

    /// A new empty folder to extract a layer into.
    pub fn stage(&self) -> Result<Staging<'_>> {
        let name = self.unused("layer");
        let make = || {
            rustix::fs::mkdirat(&self.ingest, &name, folder::PRIVATE)?;
            let fd = folder::open(&self.ingest, &name)?;
            rustix::fs::mkdirat(&fd, FILES, folder::PRIVATE)?;
            let diff = folder::open(&fd, FILES)?;
            // What containers see as `/`, whatever the umask.
            rustix::fs::fchmod(&diff, Mode::from_raw_mode(0o755))?;
            Ok((fd, diff))
        };
        let (folder, diff) = make().map_err(failed("make", &name))?;
        Ok(Staging { snapshots: self, name, folder, diff })
    }

    /// A new empty folder for anything that is not a layer (an unpacked archive of
    /// images, say). Its `diff` is the folder to use.
    pub fn scratch(&self) -> Result<Staging<'_>> {
        self.stage()
    }

    fn unused(&self, kind: &str) -> String {
        format!("{kind}-{}", self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// Stores what a layer is, without its files; one that is stored already stays as it is.
    pub fn describe(&self, layer: &Layer) -> Result<()> {
        let name = name(&layer.chain);
        let io = |source| SnapshotError::Io { action: "describe", name: name.to_owned(), source };
        let bytes = serde_json::to_vec(layer).map_err(|error| io(error.into()))?;
        let new = self.unused("layer");
        let describe = || {
            rustix::fs::mkdirat(&self.ingest, &new, folder::PRIVATE)?;
            let folder = folder::open(&self.ingest, &new)?;
            rustix::fs::symlinkat(&self.boot, &folder, MARK)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, DESCRIPTION, flags, Mode::RUSR | Mode::WUSR)
        };
        let described = describe().map_err(failed("describe", name)).and_then(|file| {
            std::io::Write::write_all(&mut std::fs::File::from(file), &bytes).map_err(io)?;
            match rustix::fs::renameat(&self.ingest, &new, &self.layers, name) {
                Ok(()) => Ok(true),
                // A folder with contents cannot be replaced: somebody was first.
                Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
                Err(errno) => Err(failed("publish", name)(errno)),
            }
        });
        if !matches!(described, Ok(true)) {
            // What stays is swept when the store is opened next.
            let _ = self.empty_trash(&Trash(new));
        }
        described.map(drop)
    }

    /// Whether a layer's files are unpacked.
    pub fn has_files(&self, chain: &Digest) -> Result<bool> {
        let path = format!("{}/{FILES}", name(chain));
        match rustix::fs::statat(&self.layers, &path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("examine", &path)(errno)),
        }
    }

    /// Marks a layer as not synced in this boot. The mark of another boot gives way in one step.
    fn mark(&self, chain: &Digest) -> Result<()> {
        let path = format!("{}/{MARK}", name(chain));
        let replace = || {
            let new = self.unused("mark");
            rustix::fs::symlinkat(&self.boot, &self.ingest, &new)?;
            rustix::fs::renameat(&self.ingest, &new, &self.layers, &path).inspect_err(|_| {
                // What stays is swept when the store is opened next.
                let _ = rustix::fs::unlinkat(&self.ingest, &new, AtFlags::empty());
            })
        };
        let marked = match rustix::fs::symlinkat(&self.boot, &self.layers, &path) {
            Err(Errno::EXIST) => replace(),
            marked => marked,
        };
        marked.map_err(|errno| match errno {
            Errno::NOENT => SnapshotError::Missing { chain: chain.clone() },
            errno => failed("mark", &path)(errno),
        })
    }

    /// The caller knows that all of the layer is on the disk. It may have gone meanwhile.
    pub fn settle(&self, chain: &Digest) -> Result<()> {
        let path = format!("{}/{MARK}", name(chain));
        match rustix::fs::unlinkat(&self.layers, &path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("take the mark off", &path)(errno)),
        }
    }

    /// The layers that may not be on the disk.
    pub fn unsynced(&self) -> Result<Vec<Unsynced>> {
        let mut found = Vec::new();
        for chain in self.layers()? {
            let path = format!("{}/{MARK}", name(&chain));
            match rustix::fs::readlinkat(&self.layers, &path, Vec::new()) {
                Ok(boot) => {
                    found.push(Unsynced { chain, by_this_boot: boot.as_bytes() == self.boot.as_bytes() })
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("read the mark", &path)(errno)),
            }
        }
        Ok(found)
    }

    /// The layer with this chain id.
    pub fn layer(&self, chain: &Digest) -> Result<Option<Layer>> {
        let name = name(chain);
        let folder = match folder::open(&self.layers, name) {
            Err(Errno::NOENT) => return Ok(None),
            result => result.map_err(failed("open", name))?,
        };
        let file = rustix::fs::openat(&folder, DESCRIPTION, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open the description of", name))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(file), 1 << 16), &mut bytes)
            .map_err(|source| SnapshotError::Io { action: "read", name: name.to_owned(), source })?;
        let layer = serde_json::from_slice(&bytes)
            .map_err(|source| SnapshotError::Damaged { chain: chain.clone(), source })?;
        Ok(Some(layer))
    }

    /// A layer and all below it, top first.
    pub fn chain(&self, top: &Digest) -> Result<Vec<Layer>> {
        let mut chain = Vec::new();
        let mut next = Some(top.clone());
        while let Some(current) = next {
            if chain.len() == MAX_LAYERS {
                return Err(SnapshotError::Chain { chain: top.clone(), limit: MAX_LAYERS });
            }
            let layer = self.layer(&current)?.ok_or(SnapshotError::Missing { chain: current })?;
            next = layer.parent.clone();
            chain.push(layer);
        }
        Ok(chain)
    }

    /// Where a layer's files are.
    pub fn diff(&self, chain: &Digest) -> PathBuf {
        self.path.join("layers").join(name(chain)).join(FILES)
    }

    /// The paths of a writable layer on top of `chain` (chain ids, lowest first).
    pub fn rootfs(&self, key: &str, chain: &[Digest]) -> Rootfs {
        let active = self.path.join("active").join(key);
        Rootfs {
            lower: chain.iter().rev().map(|chain| self.diff(chain)).collect(),
            upper: active.join("upper"),
            work: active.join("work"),
        }
    }

    /// Makes the writable layer `key` on top of `chain` (chain ids, lowest first).
    pub fn prepare(&self, key: &str, chain: &[Digest]) -> Result<Rootfs> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if key.is_empty() || key.len() > 128 || key.starts_with('.') || !key.bytes().all(valid) {
            return Err(SnapshotError::Key { key: key.to_owned() });
        }
        let make = || {
            rustix::fs::mkdirat(&self.active, key, folder::PRIVATE)?;
            let fd = folder::open(&self.active, key)?;
            rustix::fs::mkdirat(&fd, "work", folder::PRIVATE)?;
            rustix::fs::mkdirat(&fd, "upper", Mode::from_raw_mode(0o755))?;
            // The upper folder's mode is that of `/` in the container.
            rustix::fs::chmodat(&fd, "upper", Mode::from_raw_mode(0o755), AtFlags::empty())
        };
        match make() {
            Ok(()) => Ok(self.rootfs(key, chain)),
            Err(Errno::EXIST) => Err(SnapshotError::Exists { key: key.to_owned() }),
            Err(errno) => Err(failed("make the writable layer", key)(errno)),
        }
    }

    /// Takes away the mark that a volatile mount of this writable layer has left (`work/incompat`
    /// in its work folder; overlayfs.rst, "Volatile mount"): the kernel refuses to mount what has
    /// one, as it may have lost bytes with the machine's power. To be called for a layer of which
    /// nothing is promised after that.
    pub fn forget_volatile(&self, key: &str) -> Result<()> {
        let forget = || {
            let work = folder::open(folder::open(folder::open(&self.active, key)?, "work")?, "work")?;
            folder::empty(folder::open(&work, "incompat")?.as_fd())?;
            rustix::fs::unlinkat(&work, "incompat", AtFlags::REMOVEDIR)
        };
        match forget() {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("forget the volatile mount of", key)(errno)),
        }
    }

    /// Publishes the writable layer `key`, which nobody has mounted any more, as the layer; what it
    /// had beside is left, to be discarded. If the same layer is there already, that one stays.
    pub fn adopt(&self, key: &str, layer: &Layer) -> Result<()> {
        let staging = self.stage()?;
        let active = folder::open(&self.active, key).map_err(failed("open", key))?;
        // The empty folder there is replaced.
        rustix::fs::renameat(&active, "upper", &staging.folder, "diff").map_err(failed("adopt", key))?;
        staging.commit(layer)
    }

    /// Removes a writable layer; one that is not there is gone already.
    pub fn remove(&self, key: &str) -> Result<()> {
        let trash = self.discard_writable(key)?;
        trash.map_or(Ok(()), |trash| self.empty_trash(&trash))
    }

    /// Takes a writable layer's name away, at once; the files are removed by
    /// [`Self::empty_trash`]. `None`: there is no such layer.
    pub fn discard_writable(&self, key: &str) -> Result<Option<Trash>> {
        self.discard(&self.active, key)
    }

    /// Takes a layer's name away, at once; the files are removed by
    /// [`Self::empty_trash`]. `None`: there is no such layer.
    pub fn discard_layer(&self, chain: &Digest) -> Result<Option<Trash>> {
        self.discard(&self.layers, name(chain))
    }

    /// The same with its files alone; they can be unpacked again. `None`: they are not.
    pub fn discard_files(&self, chain: &Digest) -> Result<Option<Trash>> {
        self.discard(&self.layers, &format!("{}/{FILES}", name(chain)))
    }

    fn discard(&self, from: &OwnedFd, name: &str) -> Result<Option<Trash>> {
        let trash = self.unused("trash");
        match rustix::fs::renameat(from, name, &self.ingest, &trash) {
            Ok(()) => Ok(Some(Trash(trash))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("remove", name)(errno)),
        }
    }

    /// Removes what was discarded from the disk.
    pub fn empty_trash(&self, Trash(name): &Trash) -> Result<()> {
        let remove = || {
            folder::empty(folder::open(&self.ingest, name)?.as_fd())?;
            rustix::fs::unlinkat(&self.ingest, name, AtFlags::REMOVEDIR)
        };
        remove().map_err(failed("remove", name))
    }

    /// Chain ids of all stored layers, sorted.
    pub fn layers(&self) -> Result<Vec<Digest>> {
        let names = folder::names(&self.layers).map_err(failed("list", "layers"))?;
        let digest = |name: &CString| Digest::from_hex(Algorithm::Sha256, name.to_str().ok()?).ok();
        let mut chains: Vec<Digest> = names.iter().filter_map(digest).collect();
        chains.sort();
        Ok(chains)
    }

    /// Keys of all writable layers, sorted.
    pub fn keys(&self) -> Result<Vec<String>> {
        let names = folder::names(&self.active).map_err(failed("list", "active"))?;
        let mut keys: Vec<String> =
            names.iter().filter_map(|name| name.to_str().ok().map(str::to_owned)).collect();
        keys.sort();
        Ok(keys)
    }

    /// The folder that holds what the writable layer `key` changes, in overlayfs's conventions.
    pub fn writable(&self, key: &str) -> Result<OwnedFd> {
        let upper = folder::open(&self.active, key).and_then(|active| folder::open(&active, "upper"));
        upper.map_err(failed("open", key))
    }

    /// Bytes of the files in the writable layer `key`; folders count nothing.
    pub fn usage(&self, key: &str) -> Result<u64> {
        folder::usage(self.writable(key)?.as_fd()).map_err(failed("measure", key))
    }
}

/// The folder name of a chain id.
fn name(chain: &Digest) -> &str {
    chain.hex()
}

/// Something without a name that still takes space.
#[derive(Debug)]
pub struct Trash(String);

/// A layer of which something may not be on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    pub chain: Digest,
    /// Written since the machine was started: unless its power goes, nothing can be missing.
    pub by_this_boot: bool,
}

/// A folder in the making. Removed when it is dropped, but for what was published of it.
#[derive(Debug)]
pub struct Staging<'a> {
    snapshots: &'a Snapshots,
    name: String,
    folder: OwnedFd,
    /// To extract into.
    pub diff: OwnedFd,
}

impl Staging<'_> {
    /// The path of `diff`.
    pub fn path(&self) -> PathBuf {
        self.snapshots.path.join("ingest").join(&self.name).join(FILES)
    }

    /// Publishes a layer with its files. If it is stored already, what is there stays.
    pub fn commit(self, layer: &Layer) -> Result<()> {
        self.snapshots.describe(layer)?;
        self.fill(&layer.chain)
    }

    /// Gives a layer that is stored its files. If it has them already, those stay: somebody may be
    /// using them.
    pub fn fill(self, chain: &Digest) -> Result<()> {
        let Self { snapshots, folder, .. } = &self;
        snapshots.mark(chain)?;
        let files = format!("{}/{FILES}", name(chain));
        match rustix::fs::renameat_with(folder, FILES, &snapshots.layers, &files, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::NOENT) => Err(SnapshotError::Missing { chain: chain.clone() }),
            Err(errno) => Err(failed("publish", &files)(errno)),
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // What stays is swept when the store is opened next.
        let _ = self.snapshots.empty_trash(&Trash(std::mem::take(&mut self.name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(chain: &Digest, parent: Option<&Digest>) -> Layer {
        Layer {
            chain: chain.clone(),
            parent: parent.cloned(),
            diff_id: Digest::sha256(b"diff"),
            blob: Digest::sha256(b"blob"),
            blob_size: 4,
            media_type: "plain".to_owned(),
            size: 0,
        }
    }

    fn publish(snapshots: &Snapshots, layer: &Layer, file: &str) {
        let staging = snapshots.stage().unwrap();
        std::fs::write(staging.path().join(file), file).unwrap();
        staging.commit(layer).unwrap();
    }

    #[test]
    fn a_layer_appears_when_it_is_committed_and_the_first_of_two_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(scratch.path(), "this boot").unwrap();
        let chain = Digest::sha256(b"1");
        drop(snapshots.stage().unwrap());
        assert_eq!(snapshots.layer(&chain).unwrap(), None);
        publish(&snapshots, &layer(&chain, None), "first");
        publish(&snapshots, &layer(&chain, None), "second");
        assert!(snapshots.diff(&chain).join("first").exists());
        assert_eq!(snapshots.layers().unwrap(), [chain]);
        assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 0);
    }

    #[test]
    fn the_files_of_a_layer_come_and_go_without_it_and_are_marked_until_they_are_synced() {
        let scratch = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(scratch.path(), "this boot").unwrap();
        let chain = Digest::sha256(b"1");
        let empty = || std::fs::read_dir(scratch.path().join("ingest")).unwrap().count() == 0;
        let staged = |file: &str| {
            let staging = snapshots.stage().unwrap();
            std::fs::write(staging.path().join(file), file).unwrap();
            staging
        };
        assert!(matches!(staged("early").fill(&chain), Err(SnapshotError::Missing { .. })));
        snapshots.describe(&layer(&chain, None)).unwrap();
        snapshots.describe(&layer(&chain, None)).unwrap();
        assert!(snapshots.layer(&chain).unwrap().is_some() && !snapshots.has_files(&chain).unwrap());
        let marked = |by_this_boot| vec![Unsynced { chain: chain.clone(), by_this_boot }];
        assert_eq!(snapshots.unsynced().unwrap(), marked(true));
        assert_eq!(Snapshots::open(scratch.path(), "the next").unwrap().unsynced().unwrap(), marked(false));
        snapshots.settle(&chain).unwrap();
        snapshots.settle(&chain).unwrap();
        assert_eq!(snapshots.unsynced().unwrap(), []);
        staged("first").fill(&chain).unwrap();
        staged("second").fill(&chain).unwrap();
        assert!(snapshots.diff(&chain).join("first").exists() && empty());
        assert_eq!(snapshots.unsynced().unwrap(), marked(true), "the files are new");
        let trash = snapshots.discard_files(&chain).unwrap().unwrap();
        snapshots.empty_trash(&trash).unwrap();
        assert!(snapshots.discard_files(&chain).unwrap().is_none() && empty());
        let snapshots = Snapshots::open(scratch.path(), "the next").unwrap();
        let staging = snapshots.stage().unwrap();
        std::fs::write(staging.path().join("again"), "").unwrap();
        staging.fill(&chain).unwrap();
        assert!(snapshots.has_files(&chain).unwrap() && snapshots.diff(&chain).join("again").exists());
        assert_eq!((snapshots.unsynced().unwrap(), empty()), (marked(true), true), "made in this boot");
    }

    #[test]
    fn a_writable_layer_stands_on_its_chain_top_first() {
        let scratch = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(scratch.path(), "this boot").unwrap();
        let (low, top) = (Digest::sha256(b"low"), Digest::sha256(b"top"));
        publish(&snapshots, &layer(&low, None), "low");
        publish(&snapshots, &layer(&top, Some(&low)), "top");
        let names: Vec<Digest> = snapshots.chain(&top).unwrap().into_iter().map(|l| l.chain).collect();
        assert_eq!(names, [top.clone(), low.clone()]);
        let rootfs = snapshots.prepare("key", &[low.clone(), top.clone()]).unwrap();
        assert!(rootfs.lower[0].join("top").exists() && rootfs.lower[1].join("low").exists());
        std::fs::write(rootfs.upper.join("file"), vec![1; 10_000]).unwrap();
        assert!(rootfs.work.exists());
        std::fs::create_dir(rootfs.upper.join("folder")).unwrap();
        std::fs::hard_link(rootfs.upper.join("file"), rootfs.upper.join("folder/again")).unwrap();
        assert_eq!(snapshots.usage("key").unwrap(), 10_000);
        assert!(matches!(snapshots.prepare("key", &[]), Err(SnapshotError::Exists { .. })));
        for bad in ["", "..", "a/b", ".hidden"] {
            assert!(matches!(snapshots.prepare(bad, &[]), Err(SnapshotError::Key { .. })), "{bad}");
        }
        assert_eq!(snapshots.keys().unwrap(), ["key"]);
        snapshots.forget_volatile("key").unwrap();
        std::fs::create_dir_all(rootfs.work.join("work/incompat/volatile")).unwrap();
        std::fs::write(rootfs.work.join("work/incompat/volatile/dirty"), "").unwrap();
        snapshots.forget_volatile("key").unwrap();
        assert_eq!(std::fs::read_dir(rootfs.work.join("work")).unwrap().count(), 0);
        snapshots.remove("key").unwrap();
        snapshots.remove("key").unwrap();
        assert!(!rootfs.upper.exists());
        let trash = snapshots.discard_layer(&low).unwrap().unwrap();
        assert!(matches!(snapshots.chain(&top), Err(SnapshotError::Missing { chain }) if chain == low));
        snapshots.empty_trash(&trash).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 0);
    }
}
