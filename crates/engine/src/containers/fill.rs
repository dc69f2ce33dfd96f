//! The first content of volumes ("copy-up"): an empty one gets what the image has where it is mounted.
//!
//! It happens when the container is made, as in the reference, so that a start has nothing to copy and
//! whoever uses the volume next finds it filled. The copying is a jailed worker's ([`layer::fill`]). One
//! that was interrupted is ended by the next container that is made with the volume, or by the next
//! daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hull_image::layer;
use hull_runtime::bundle::Source;
use hull_sys::root::open_beneath;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::files;
use super::services::Services;
use super::settings::{Mount, Settings, VolumeMount};
use crate::images::Image;
use crate::{Error, Result};

/// One at a time fills a volume; the next finds it filled.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<String, Arc<Mutex<()>>>>);

impl Turns {
    fn of(&self, volume: &str) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(volume.to_owned()).or_default())
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
        if rustix::fs::fstatvfs(&root).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            continue;
        }
        if volume.copy {
            copy(services, volume, image, &root)?;
        } else if layer::is_unsettled(root.as_fd()) {
            services.spawner.fill(None, root.as_fd()).map_err(failed(&volume.name))?;
        }
    }
    Ok(())
}

fn copy(services: &Services, volume: &VolumeMount, image: &Image, root: &OwnedFd) -> Result<()> {
    let path = if volume.subpath.is_empty() { "." } else { &volume.subpath };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    // What is wrong with a path below the volume, the start says.
    let Ok(folder) = open_beneath(root, Path::new(path), flags, Mode::empty()) else { return Ok(()) };
    let mut lower = services.images.layer_folders(image);
    lower.reverse();
    lower.push(files::init_layer(&services.config.data_root));
    let source = Source::Layers { lower, path: PathBuf::from(&volume.target) };
    match services.spawner.fill(Some(&source), folder.as_fd()).map_err(failed(&volume.name))? {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "cannot mount volume over existing file, file exists {}",
            volume.target
        ))),
    }
}

/// Ends what the last daemon was about when it was killed; not in file systems of their own, whose
/// server may not answer: the next container that is made with such a volume does it.
pub(super) fn settle(services: &Services) {
    for view in services.volumes.views().into_iter().filter(|view| view.volume.options.is_empty()) {
        let settled = open(&services.volumes.data(&view.volume)).and_then(|root| {
            match layer::is_unsettled(root.as_fd()) {
                true => services.spawner.fill(None, root.as_fd()).map_err(failed(&view.volume.name)),
                false => Ok(true),
            }
        });
        if let Err(error) = settled {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(volume = %view.volume.name, error, "an interrupted copy is still in a volume");
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| Error::Io { call: "open", path: path.to_owned(), source: errno.into() };
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed)
}

fn failed(volume: &str) -> impl Fn(String) -> Error {
    move |reason| Error::Fill { volume: volume.to_owned(), reason }
}
