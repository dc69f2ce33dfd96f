//! The first content of volumes ("copy-up"): an empty one gets what the image has where it is mounted.
//!
//! It happens when the container is made, as in the reference, so that a start has nothing to copy and
//! whoever uses the volume next finds it filled. The copying is a jailed worker's ([`layer::fill`]), into
//! a folder that only it and the daemon reach. A complete copy becomes the folder of a volume that was
//! made for this very container, in one step; into any other it is moved name by name, as somebody may
//! be looking. Nobody waits for the disk. [`crate::volumes::Mark`] says how far it has come: one that was
//! interrupted is ended by the next container that is made with the volume, or by the next daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hull_image::{folder, layer};
use hull_oci::Digest;
use hull_runtime::bundle::Source;
use hull_sys::root::open_beneath;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use tokio::task::JoinSet;

use super::create::new_id;
use super::files;
use super::services::Services;
use super::settings::{Mount, Settings, VolumeMount};
use super::spawner::Filled;
use crate::images::Image;
use crate::volumes::{Filling, Mark};
use crate::{Error, Result, chain, rootfs};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One at a time fills a volume; the next finds it filled.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    volumes: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// What waits for the disk.
    syncing: Mutex<JoinSet<()>>,
}

impl Turns {
    fn of(&self, volume: &str) -> Arc<Mutex<()>> {
        let mut turns = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(volume.to_owned()).or_default())
    }

    fn behind(&self, work: impl FnOnce() + Send + 'static) {
        let mut syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        while syncing.try_join_next().is_some() {}
        syncing.spawn_blocking(work);
    }

    /// Waits until all is on the disk that volumes were filled with. A mark that is still there when the
    /// machine is started next tells of a power cut.
    pub(crate) async fn close(&self) {
        let mut syncing = std::mem::take(&mut *self.syncing.lock().unwrap_or_else(PoisonError::into_inner));
        while syncing.join_next().await.is_some() {}
    }
}

/// Fills those volumes of a container that are empty. Blocks until it is done.
///
/// # Errors
/// The image has a file where a folder is to be; or there is no room. The volume is as it was then.
pub(super) fn volumes(services: &Services, id: &str, settings: &Settings, image: &Image) -> Result<()> {
    // What is a file system of its own is filled itself, not the folder below it.
    let _held = services.volumes.hold(id)?;
    for volume in settings.mounts.iter().filter_map(Mount::volume) {
        let turn = services.filling.of(&volume.name);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let root = open(&services.volumes.folder(&volume.name))?;
        if is_read_only(&root) {
            continue;
        }
        end(services, &volume.name, &root)?;
        if volume.copy {
            fill(services, id, volume, image, &root)?;
        }
    }
    Ok(())
}

/// The folder of a copy.
struct Copy {
    parent: OwnedFd,
    name: String,
    folder: OwnedFd,
}

impl Copy {
    /// Where `filling` says, for the folder `target`.
    fn parent(services: &Services, filling: &Filling, target: &OwnedFd) -> Result<OwnedFd> {
        match filling.beside {
            true => open(&services.volumes.copies()),
            false => target.try_clone().map_err(|source| io("dup", &filling.copy)(source)),
        }
    }

    fn make(services: &Services, filling: &Filling, target: &OwnedFd) -> Result<Copy> {
        let (parent, name) = (Copy::parent(services, filling, target)?, filling.copy.clone());
        let made = rustix::fs::mkdirat(&parent, &name, Mode::RWXU);
        made.map_err(|errno| io("mkdir", &name)(errno.into()))?;
        let folder = rustix::fs::openat(&parent, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        let folder = folder.map_err(|errno| io("open", &name)(errno.into()))?;
        Ok(Copy { parent, name, folder })
    }

    /// One that was begun, if it is still there.
    fn find(services: &Services, filling: &Filling, target: &OwnedFd) -> Result<Option<Copy>> {
        let (parent, name) = (Copy::parent(services, filling, target)?, filling.copy.clone());
        match rustix::fs::openat(&parent, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => Ok(Some(Copy { parent, name, folder })),
            // No folder: not ours.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(io("open", &name)(errno.into())),
        }
    }

    /// With all that is still in it.
    fn discard(self) -> Result<()> {
        let Copy { parent, name, folder } = self;
        let removed = folder::empty(folder.as_fd())
            .and_then(|()| rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR));
        removed.map_err(|errno| io("remove", &name)(errno.into()))
    }
}

/// Fills the volume, or the part of it that is mounted, if that is empty and the image has something.
fn fill(
    services: &Services,
    container: &str,
    volume: &VolumeMount,
    image: &Image,
    root: &OwnedFd,
) -> Result<()> {
    // What is wrong with a path below the volume, the start says.
    let Some(target) = part(root, &volume.subpath) else { return Ok(()) };
    let layers = image.config.rootfs.diff_ids.clone();
    let lower = lower(services, &layers);
    // What cannot be told here, the worker tells.
    let has = rootfs::has(&lower, Path::new(&volume.target)).unwrap_or(true);
    if !has || !is_empty(&target).map_err(|source| io("read", &volume.name)(source.into()))? {
        return Ok(());
    }
    let source = Source::Layers { lower, path: PathBuf::from(&volume.target), upper: None };
    let beside = same_mount(&target, &open(&services.volumes.copies())?);
    let (subpath, path) = (volume.subpath.clone(), volume.target.clone());
    // In a volume it has a name that says whose it is.
    let copy = if beside { new_id() } else { format!(".hull-{}", new_id()) };
    let filling = Filling { copy, beside, subpath, layers, path, boot: boot() };
    let mark = services.volumes.mark(&volume.name, &filling)?;
    let copied = Copy::make(services, &filling, &target).map(|copy| {
        let filled = std::thread::scope(|scope| {
            let synced = scope.spawn(|| mark.sync());
            let filled = services.spawner.fill(&source, copy.folder.as_fd(), false);
            // A panic is reported by the runtime.
            let synced = synced.join().map_err(|_| Error::ShuttingDown).flatten();
            synced.and_then(|()| filled.map_err(failed(&volume.name)))
        });
        (copy, filled)
    });
    match copied {
        Ok((copy, Ok(Filled::Whole))) => {
            mark.complete()?;
            hull_runtime::failpoint!("engine.fill.copied");
            place(services, (container, volume), (&filling, copy), &target, mark)
        }
        Ok((copy, filled)) => {
            copy.discard()?;
            mark.remove()?;
            match filled? {
                Filled::NoFolder => Err(Error::Invalid(format!(
                    "cannot mount volume over existing file, file exists {}",
                    volume.target
                ))),
                Filled::Whole | Filled::Absent => Ok(()),
            }
        }
        Err(error) => {
            mark.remove()?;
            Err(error)
        }
    }
}

/// A complete copy comes into the volume.
fn place(
    services: &Services,
    (container, volume): (&str, &VolumeMount),
    (filling, copy): (&Filling, Copy),
    target: &OwnedFd,
    mark: Mark,
) -> Result<()> {
    let whole = filling.beside && filling.subpath.is_empty();
    let path = services.volumes.copies().join(&filling.copy);
    if whole && services.volumes.exchange(&volume.name, container, &path)? {
        hull_runtime::failpoint!("engine.fill.placed");
        sync_later(services, &volume.name, mark, copy.folder);
        return Ok(());
    }
    let published = layer::publish(copy.folder.as_fd(), target.as_fd());
    published.map_err(|error| failed(&volume.name)(chain(&error)))?;
    let folder = copy.folder.try_clone().map_err(io("dup", &filling.copy))?;
    copy.discard()?;
    hull_runtime::failpoint!("engine.fill.placed");
    sync_later(services, &volume.name, mark, folder);
    Ok(())
}

/// Has the file system that `folder` is on written to the disk, behind everybody's back, and takes
/// the mark away.
fn sync_later(services: &Services, volume: &str, mark: Mark, folder: OwnedFd) {
    let (volume, turn) = (volume.to_owned(), services.filling.of(volume));
    services.filling.behind(move || {
        let synced = rustix::fs::syncfs(&folder).map_err(|errno| io("syncfs", &volume)(errno.into()));
        hull_runtime::failpoint!("engine.fill.synced");
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = synced.and_then(|()| mark.remove()) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(volume, error, "the first content of a volume may not be on the disk");
        }
    });
}

/// Ends a filling of the volume that somebody has begun, if there is one.
fn end(services: &Services, volume: &str, root: &OwnedFd) -> Result<()> {
    let Some((mark, filling, complete)) = services.volumes.marked(volume)? else { return Ok(()) };
    let known = filling.and_then(|filling| Some((part(root, &filling.subpath)?, filling)));
    let Some((target, filling)) = known else {
        tracing::warn!(volume, "nobody knows any more what a volume was to be filled with");
        return mark.remove();
    };
    if let Some(copy) = Copy::find(services, &filling, &target)? {
        if complete {
            let published = layer::publish(copy.folder.as_fd(), target.as_fd());
            published.map_err(|error| failed(volume)(chain(&error)))?;
        }
        copy.discard()?;
    }
    let lost = filling.boot != boot();
    if lost {
        let path = PathBuf::from(&filling.path);
        let source = Source::Layers { lower: lower(services, &filling.layers), path, upper: None };
        match services.spawner.fill(&source, target.as_fd(), true) {
            Ok(_) => tracing::warn!(volume, "what a power cut may have taken of a volume was brought again"),
            Err(error) => {
                tracing::error!(volume, error, "what a power cut may have taken of a volume stays away")
            }
        }
    }
    if complete || lost {
        sync_later(services, volume, mark, target);
        return Ok(());
    }
    mark.remove()
}

/// The same for somebody who goes on without it.
fn try_end(services: &Services, volume: &str) {
    let ended = open(&services.volumes.folder(volume)).and_then(|root| match is_read_only(&root) {
        true => Ok(()),
        false => end(services, volume, &root),
    });
    if let Err(error) = ended {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(volume, error, "a volume is not filled as it was to be");
    }
}

/// Ends what was begun in those volumes of a container that are file systems of their own and are
/// mounted now: before it uses them, as what it removes is not to come again. Blocks.
pub(super) fn resume(services: &Services, settings: &Settings) {
    for VolumeMount { name, .. } in settings.mounts.iter().filter_map(Mount::volume) {
        let apart = services.volumes.find(name).is_ok_and(|volume| !volume.options.is_empty());
        if !apart || !matches!(services.volumes.marked(name), Ok(Some(_))) {
            continue;
        }
        let turn = services.filling.of(name);
        // Whoever has it is about to do the same.
        if let Ok(_turn) = turn.try_lock() {
            try_end(services, name);
        }
    }
}

/// Ends what the last daemon was about when it was killed; not in file systems of their own, whose
/// server may not answer: the next container that is made or started with such a volume does it.
pub(super) fn settle(services: &Services) -> Result<()> {
    let marked = |name: &str| services.volumes.marked(name).ok().flatten();
    let names: Vec<_> = services.volumes.views().into_iter().map(|view| view.volume).collect();
    let begun: Vec<_> = names.iter().filter_map(|volume| Some((volume, marked(&volume.name)?))).collect();
    let copies = begun.iter().filter_map(|(_, (_, filling, _))| Some(filling.as_ref()?.copy.clone()));
    services.volumes.sweep_copies(&copies.collect::<BTreeSet<_>>())?;
    for (volume, _) in begun.into_iter().filter(|(volume, _)| volume.options.is_empty()) {
        try_end(services, &volume.name);
    }
    Ok(())
}

/// The folders of an image's layers as an overlay has them, the uppermost first.
fn lower(services: &Services, layers: &[Digest]) -> Vec<PathBuf> {
    let chain = hull_oci::image::chain_ids(layers);
    let layers = chain.iter().rev().map(|chain| services.images.snapshots().diff(chain));
    layers.chain([files::init_layer(&services.config.data_root)]).collect()
}

/// A folder in a volume; empty is the volume itself.
fn part(root: &OwnedFd, subpath: &str) -> Option<OwnedFd> {
    let path = if subpath.is_empty() { "." } else { subpath };
    open_beneath(root, Path::new(path), FOLDER, Mode::empty()).ok()
}

fn is_read_only(root: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(root).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn is_empty(folder: &OwnedFd) -> std::result::Result<bool, Errno> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names are moved between folders of one mount alone (rename(2), `EXDEV`).
fn same_mount(one: &OwnedFd, other: &OwnedFd) -> bool {
    const SELF: &CStr = c"";
    let id = |fd: &OwnedFd| rustix::fs::statx(fd, SELF, AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one.stx_mnt_id == other.stx_mnt_id)
}

/// What tells one boot of the host from another; empty where that is not told.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn open(path: &Path) -> Result<OwnedFd> {
    let failed = |errno: Errno| Error::Io { call: "open", path: path.to_owned(), source: errno.into() };
    rustix::fs::open(path, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)
}

fn io(call: &'static str, name: &str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { call, path: name.into(), source }
}

fn failed(volume: &str) -> impl Fn(String) -> Error {
    move |reason| Error::Fill { volume: volume.to_owned(), reason }
}
