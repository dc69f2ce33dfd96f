//! Folders that RUN steps leave to later ones (`--mount=type=cache`).
//!
//! ```text
//! <data root>/caches/        0700
//!   KEY-N/                   KEY: the digest of all that names it; N counts private ones
//!     files/                 what the process sees
//!     about.json             what people know it by, and how it was used
//!   new-RANDOM/              one in the making; swept at start
//! ```
//!
//! A name is data: it is hashed, and never part of a path. What is on the disk is all there is; no other
//! record names it, so none can be wrong.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_builder::executor::Sharing;
use hull_image::folder;
use hull_oci::Digest;
use rustix::fs::{Gid, Mode, Uid};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::containers::phase::Time;
use crate::containers::services::{Remains, Services};
use crate::containers::{create, files};
use crate::{Error, Result};

/// What makes two mounts show the same folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Name {
    /// As the Dockerfile has it.
    pub(super) id: String,
    /// What a new one begins as; `None` is empty.
    pub(super) from: Option<String>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Name {
    fn key(&self) -> String {
        let fields = (&self.id, &self.from, self.mode, self.uid, self.gid);
        Digest::sha256(format!("{fields:?}").as_bytes()).hex().to_owned()
    }
}

/// A folder that was kept, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    pub id: Digest,
    /// As the Dockerfile has it.
    pub name: String,
    pub created: Time,
    pub used: Time,
    pub uses: u64,
    /// Bytes, as they were when it was last used.
    pub size: u64,
    /// By a step that runs now.
    pub in_use: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    id: String,
    created: Time,
    used: Time,
    uses: u64,
    size: u64,
}

/// A place for a folder.
#[derive(Debug, Default)]
struct Slot {
    turn: Arc<RwLock<()>>,
    /// `None`: there is no folder.
    about: Mutex<Option<About>>,
}

impl Slot {
    fn about(&self) -> MutexGuard<'_, Option<About>> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_made(&self) -> bool {
        self.about().is_some()
    }
}

#[derive(Debug)]
pub(crate) struct Caches {
    folder: PathBuf,
    /// By the folder's name. They stay when their folder goes: somebody may wait for a turn.
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// Held for their sakes alone.
#[derive(Debug)]
enum Turn {
    Shared { _turn: OwnedRwLockReadGuard<()> },
    Alone { _turn: OwnedRwLockWriteGuard<()> },
}

/// A folder that a step uses, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    name: String,
    slot: Arc<Slot>,
    _turn: Turn,
    /// What the step sees.
    pub(super) files: PathBuf,
}

impl Caches {
    /// Finds those that are there. Blocks.
    pub(crate) fn open(data_root: &Path) -> Result<Caches> {
        let folder = data_root.join("caches");
        files::private_dir(&folder)?;
        let mut slots = BTreeMap::new();
        let failed = |source| Error::Io { call: "read", path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let about = std::fs::read(entry.path().join("about.json")).ok();
            let about: Option<About> = about.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match (entry.file_name().into_string(), about) {
                (Ok(name), Some(about)) if !name.starts_with("new-") => {
                    let slot = Slot { about: Mutex::new(Some(about)), ..Slot::default() };
                    slots.insert(name, Arc::new(slot));
                }
                // Half made, or half written when the power went: nobody relies on it.
                _ => files::empty_trash(&entry.path())?,
            }
        }
        Ok(Caches { folder, slots: Mutex::new(slots) })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        Arc::clone(self.slots().entry(name.to_owned()).or_default())
    }

    /// Waits for the folder, and makes it if there is none: `seed` then gives it its first content.
    pub(super) async fn take(
        &self,
        services: &Arc<Services>,
        name: &Name,
        sharing: Sharing,
        seed: impl AsyncFnOnce(OwnedFd) -> Result<()>,
    ) -> Result<Taken> {
        let key = name.key();
        let first = format!("{key}-0");
        if sharing == Sharing::Shared {
            let slot = self.slot(&first);
            let turn = Arc::clone(&slot.turn).read_owned().await;
            if slot.is_made() {
                return Ok(self.taken(first, slot, Turn::Shared { _turn: turn }));
            }
        }
        let (place, slot, turn) = match sharing {
            Sharing::Private => self.free(&key),
            Sharing::Shared | Sharing::Locked => {
                let slot = self.slot(&first);
                let turn = Arc::clone(&slot.turn).write_owned().await;
                (first, slot, turn)
            }
        };
        if !slot.is_made() {
            self.make(services, (name, &place), &slot, seed).await?;
        }
        let turn = match sharing {
            Sharing::Shared => Turn::Shared { _turn: turn.downgrade() },
            Sharing::Private | Sharing::Locked => Turn::Alone { _turn: turn },
        };
        Ok(self.taken(place, slot, turn))
    }

    /// The first one that nobody uses.
    fn free(&self, key: &str) -> (String, Arc<Slot>, OwnedRwLockWriteGuard<()>) {
        let mut number = 0_u64;
        loop {
            let place = format!("{key}-{number}");
            let slot = self.slot(&place);
            if let Ok(turn) = Arc::clone(&slot.turn).try_write_owned() {
                return (place, slot, turn);
            }
            number += 1;
        }
    }

    fn taken(&self, name: String, slot: Arc<Slot>, turn: Turn) -> Taken {
        let files = self.folder.join(&name).join("files");
        Taken { name, slot, _turn: turn, files }
    }

    async fn make(
        &self,
        services: &Arc<Services>,
        (name, place): (&Name, &str),
        slot: &Arc<Slot>,
        seed: impl AsyncFnOnce(OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let making = Making { services, path: self.folder.join(format!("new-{}", create::new_id())) };
        let path = making.path.clone();
        let root = services
            .blocking(move || {
                files::private_dir(&path)?;
                files::private_dir(&path.join("files"))?;
                open(&path.join("files"))
            })
            .await?;
        let copy = root.try_clone();
        seed(copy.map_err(|source| Error::Io { call: "dup", path: making.path.clone(), source })?).await?;
        let now = hull_sys::time::now();
        let about = About { id: name.id.clone(), created: now, used: now, uses: 0, size: 0 };
        let (path, place, name, slot) =
            (making.path.clone(), self.folder.join(place), name.clone(), Arc::clone(slot));
        // Done to its end even when whoever waits for it has gone: the folder is not there without the slot
        // saying so.
        let publish = move || {
            if name.from.is_none() {
                let failed = |errno: rustix::io::Errno| Error::Io {
                    call: "dress",
                    path: path.clone(),
                    source: errno.into(),
                };
                let owner = (Some(Uid::from_raw(name.uid)), Some(Gid::from_raw(name.gid)));
                rustix::fs::fchown(&root, owner.0, owner.1).map_err(failed)?;
                rustix::fs::fchmod(&root, Mode::from_raw_mode(name.mode)).map_err(failed)?;
            }
            write(&path, &about)?;
            let mut made = slot.about();
            // By somebody who has gone since, and whose turn it was before.
            if made.is_none() {
                std::fs::rename(&path, &place).map_err(|source| Error::Io {
                    call: "rename",
                    path,
                    source,
                })?;
                *made = Some(about);
            }
            Ok(())
        };
        services.blocking(publish).await
    }

    /// Notes the use, and how large the folder has become; others may use it then.
    pub(super) async fn give_back(&self, services: &Services, taken: Taken) {
        let path = self.folder.join(&taken.name);
        let noted = services.blocking(move || {
            let root = open(&taken.files)?;
            let size = folder::usage(root.as_fd());
            let mut about = taken.slot.about();
            let Some(about) = about.as_mut() else { return Ok(()) };
            about.used = hull_sys::time::now();
            about.uses += 1;
            about.size = size.unwrap_or(about.size);
            write(&path, about)
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "the use of a cache mount is not noted");
        }
    }

    /// The one that was used last first.
    pub(crate) fn list(&self) -> Vec<CacheMount> {
        let mount = |(name, slot): (&String, &Arc<Slot>)| {
            let About { id, created, used, uses, size } = slot.about().clone()?;
            // Whoever has a turn, or waits for one, has one of these.
            let in_use = Arc::strong_count(&slot.turn) > 1;
            Some(CacheMount { id: digest(name), name: id, created, used, uses, size, in_use })
        };
        let mut mounts: Vec<CacheMount> = self.slots().iter().filter_map(mount).collect();
        mounts.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
        mounts
    }

    /// Takes those away that nobody uses; gives them. Their space is freed behind everybody's back.
    pub(crate) async fn forget(
        &self,
        services: &Arc<Services>,
        wanted: impl Fn(&CacheMount) -> bool,
    ) -> Result<Vec<CacheMount>> {
        let mut gone = Vec::new();
        for mount in self.list().into_iter().filter(wanted) {
            let found = self
                .slots()
                .iter()
                .find(|(name, _)| digest(name) == mount.id)
                .map(|(name, slot)| (name.clone(), Arc::clone(slot)));
            let Some((name, slot)) = found else { continue };
            let Ok(_turn) = Arc::clone(&slot.turn).try_write_owned() else { continue };
            let mut about = slot.about();
            if about.is_some() {
                discard(services, &self.folder.join(&name))?;
                *about = None;
                gone.push(mount);
            }
        }
        Ok(gone)
    }
}

/// What people call it by.
fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

/// A folder that has no name yet; goes with this.
struct Making<'a> {
    services: &'a Arc<Services>,
    path: PathBuf,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if let Err(error) = discard(self.services, &self.path) {
            tracing::warn!(%error, "a cache mount that was not made stays until the next start");
        }
    }
}

/// Out of sight; nothing there is no error.
fn discard(services: &Arc<Services>, path: &Path) -> Result<()> {
    let trash = files::trash(&services.config.data_root).join(create::new_id());
    match std::fs::rename(path, &trash) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        moved => moved.map_err(|source| Error::Io { call: "rename", path: path.to_owned(), source })?,
    }
    // Without a runtime the daemon is on its way out: the next one sweeps.
    if tokio::runtime::Handle::try_current().is_ok() {
        services.free(Remains { layer: None, files: Some(trash) });
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd> {
    super::copy::open(path)
}

/// Replaces what was written before, in one step.
fn write(folder: &Path, about: &About) -> Result<()> {
    let text = serde_json::to_string(about).map_err(|source| Error::Record {
        table: "cache mount",
        id: about.id.clone(),
        source,
    })?;
    let (new, path) = (folder.join("about.json.new"), folder.join("about.json"));
    files::write(&new, &text)?;
    std::fs::rename(&new, &path).map_err(|source| Error::Io { call: "rename", path, source })
}
