//! The writable layer of a container, read: what it changes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use hull_image::layer;
pub use hull_image::layer::{Change, ChangeKind};
use rustix::fs::{CWD, Mode, OFlags};

use super::services::Services;
use crate::{Error, Result};

/// Reads the writable layer alone, and of the image only the folders that it has, too.
pub(crate) async fn changes(services: &Arc<Services>, key: &str) -> Result<Vec<Change>> {
    let view = services.registry.find(key)?.view();
    let shared = Arc::clone(services);
    let read = move || {
        let upper =
            shared.images.snapshots().writable(&view.id).map_err(|source| Error::Snapshot { source })?;
        let layers =
            view.rootfs.lower.iter().map(|path| open_layer(path)).collect::<Result<Vec<OwnedFd>>>()?;
        layer::changes(std::os::fd::AsFd::as_fd(&upper), &layers).map_err(|source| Error::Changes { source })
    };
    services.blocking(read).await
}

fn open_layer(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| Error::Io {
        call: "open",
        path: path.to_owned(),
        source: errno.into(),
    })
}
