//! Where one step of a build writes: a writable layer on top of others, that belongs to no container.
//!
//! It has the name and the folders of a container without a record, so a daemon that starts sweeps
//! what a killed one has left of it. Dropped, it goes; what a step has made of it has been taken out
//! before ([`crate::images::Images::keep_layer`]).

use std::path::PathBuf;
use std::sync::Arc;

use hull_image::snapshot::Rootfs;
use hull_oci::Digest;
use hull_oci::image::chain_ids;

use crate::containers::services::{Remains, Services};
use crate::containers::{create, files};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Site {
    pub(super) services: Arc<Services>,
    /// As a container's: 64 hex digits.
    pub(super) id: String,
    pub(super) rootfs: Rootfs,
}

impl Site {
    /// On top of `below` (diff ids, lowest first), which somebody holds. A few system calls.
    pub(super) async fn make(services: &Arc<Services>, below: &[Digest]) -> Result<Site> {
        let (id, chain, shared) = (create::new_id(), chain_ids(below), Arc::clone(services));
        let made = move || {
            let snapshots = shared.images.snapshots();
            let rootfs = snapshots.prepare(&id, &chain).map_err(|source| Error::Snapshot { source })?;
            // From here on what fails takes it away again.
            let site = Site { services: Arc::clone(&shared), id, rootfs };
            files::make(&shared.config.data_root, &site.id)?;
            Ok(site)
        };
        services.blocking(made).await
    }

    /// What its process may be shown of the host: goes with it.
    pub(super) fn folder(&self) -> PathBuf {
        files::folder(&self.services.config.data_root, &self.id)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Two renames; the space is freed behind everybody's back.
        let layer = self.services.images.snapshots().discard_writable(&self.id);
        let files = files::discard(&self.services.config.data_root, &self.id);
        if let Err(error) = &files {
            tracing::warn!(%error, "the files of a build's step stay until the next start");
        }
        if let Err(error) = &layer {
            tracing::warn!(%error, "the writable layer of a build's step stays until the next start");
        }
        // Without a runtime the daemon is on its way out: the next one sweeps.
        if tokio::runtime::Handle::try_current().is_ok() {
            let remains = Remains { layer: layer.ok().flatten(), files: files.ok().flatten() };
            self.services.free(remains);
        }
    }
}
