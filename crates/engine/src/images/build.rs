//! What builds leave: writable layers that nobody uses any more become layers as they are, and
//! configurations on top of them images.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hull_image::archive::{SavedImage, write};
use hull_image::content::Ingest;
use hull_image::lease::{Held, Lease};
use hull_image::snapshot::{Layer, SnapshotError};
use hull_oci::image::{Config, media_type};
use hull_oci::{Digest, Reference};

use super::add::{Stored, chain};
use super::{EMPTY, Image, ImageError, Images, Inner, Packed, blocking, failed};
use crate::Result;

/// A layer by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
}

impl Images {
    /// A hold on layers, for somebody who makes several one after the other.
    pub(crate) fn lease(&self) -> Lease {
        self.0.leases.take()
    }

    /// Has the lease hold the layers with these diff ids (lowest first), and waits until their files are
    /// unpacked. False: they are not all here.
    pub(crate) async fn hold_layers(&self, lease: &Arc<Lease>, layers: &[Digest]) -> Result<bool> {
        let (inner, lease, layers) = (Arc::clone(&self.0), Arc::clone(lease), layers.to_vec());
        blocking(move || {
            let chain = hull_oci::image::chain_ids(&layers);
            let Some(top) = chain.last() else { return Ok(true) };
            // In this order: what is still here now is seen as held by every later collection, which
            // keeps what is below it, too.
            lease.hold(Held::Layer(top.clone()));
            if inner.known_layer(top)?.is_none() {
                return Ok(false);
            }
            chain.iter().try_for_each(|layer| inner.unpack_layer(layer)).map(|()| true)
        })
        .await
    }

    /// A file for the archive of a layer that is packed while it is made, on the layers' file system.
    pub(crate) async fn archive(&self) -> Result<Ingest> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.content.ingest().map_err(failed)).await
    }

    /// Makes the writable layer `key` the layer on top of `below` (diff ids, lowest first), by renaming
    /// it: nothing is copied. Its archive is made of it, if there is none yet. `None`: it has changed
    /// nothing.
    ///
    /// Nobody may have it mounted, and nobody has it afterwards.
    pub(crate) async fn keep_layer(
        &self,
        lease: &Arc<Lease>,
        key: &str,
        below: &[Digest],
        archive: Option<(Ingest, Packed)>,
    ) -> Result<Option<Part>> {
        let (lease, key, below) = (Arc::clone(lease), key.to_owned(), below.to_vec());
        self.store(move |inner| inner.keep_layer(&lease, &key, &below, archive)).await
    }

    /// Makes an image of a configuration, whose `rootfs` names layers that are here, and names it.
    pub(crate) async fn add_built(
        &self,
        lease: &Arc<Lease>,
        config: Config,
        names: Vec<Reference>,
        parent: Option<Digest>,
    ) -> Result<Arc<Image>> {
        let lease = Arc::clone(lease);
        self.store(move |inner| {
            let stored = inner.stored(&config)?;
            let bytes = serde_json::to_vec(&config).map_err(failed)?;
            let names: Vec<Reference> = names.into_iter().map(Reference::with_default_tag).collect();
            hull_runtime::failpoint!("engine.build.storing");
            let image = inner.add_image(&lease, &bytes, &stored, parent, &names)?;
            hull_runtime::failpoint!("engine.build.stored");
            names.iter().for_each(|name| inner.publish("tag", &image.id, &name.familiar()));
            Ok(image)
        })
        .await
    }

    /// Writes the archive of an image that is not kept, as [`Images::save`] does of those that are. Its
    /// configuration is stored for as long as the lease lives.
    pub(crate) async fn write_built(
        &self,
        lease: &Arc<Lease>,
        config: Config,
        names: Vec<Reference>,
        out: OwnedFd,
    ) -> Result<()> {
        let (inner, lease) = (Arc::clone(&self.0), Arc::clone(lease));
        blocking(move || {
            let layers: Vec<_> = inner.stored(&config)?.into_iter().map(|layer| layer.descriptor).collect();
            let bytes = serde_json::to_vec(&config).map_err(failed)?;
            let id = Digest::sha256(&bytes);
            lease.hold(Held::Blob(id.clone()));
            inner.content.put(&bytes).map_err(failed)?;
            let names = names.into_iter().map(Reference::with_default_tag).collect();
            let image = SavedImage { id, names, layers };
            let mut out = BufWriter::with_capacity(64 << 10, File::from(out));
            write(&inner.content, &[image], &mut out).map_err(failed)?;
            let io = |source| failed(ImageError::Io { action: "write the archive", source });
            out.flush().map_err(io)
        })
        .await
    }
}

impl Inner {
    /// The layers that a configuration names, lowest first.
    fn stored(&self, config: &Config) -> Result<Vec<Stored>> {
        let stored = |chain: &Digest| {
            let missing = || SnapshotError::Missing { chain: chain.clone() };
            self.known_layer(chain)?.ok_or_else(|| failed(missing()))
        };
        config.chain_ids().iter().map(stored).collect()
    }

    fn pack_writable(&self, key: &str) -> Result<(Ingest, Packed)> {
        let upper = self.snapshots.writable(key).map_err(failed)?;
        let ingest = self.content.ingest().map_err(failed)?;
        let packed = (self.pack)(upper.as_fd(), ingest.file())
            .map_err(|error| failed(ImageError::pack(key, error)))?;
        Ok((ingest, packed))
    }

    fn keep_layer(
        &self,
        lease: &Lease,
        key: &str,
        below: &[Digest],
        archive: Option<(Ingest, Packed)>,
    ) -> Result<Option<Part>> {
        let parent = hull_oci::image::chain_ids(below).pop();
        let (ingest, packed) = archive.map_or_else(|| self.pack_writable(key), Ok)?;
        hull_runtime::failpoint!("engine.build.packed");
        if packed.diff_id == Digest::sha256(&[0; EMPTY]) {
            return Ok(None);
        }
        let chain = chain(parent.as_ref(), &packed.diff_id);
        lease.hold(Held::Blob(packed.diff_id.clone()));
        lease.hold(Held::Layer(chain.clone()));
        let part = Part { diff_id: packed.diff_id.clone(), size: packed.size };
        if self.known_layer(&chain)?.is_some() {
            self.unpack_layer(&chain)?;
            return Ok(Some(part));
        }
        ingest.publish(&packed.diff_id).map_err(failed)?;
        hull_runtime::failpoint!("engine.build.published");
        let record = Layer {
            chain: chain.clone(),
            parent,
            diff_id: packed.diff_id.clone(),
            blob: packed.diff_id,
            blob_size: packed.archive_size,
            media_type: media_type::OCI_LAYER.to_owned(),
            size: packed.size,
        };
        self.mark_layer(&chain, || self.snapshots.adopt(key, &record))?;
        hull_runtime::failpoint!("engine.build.adopted");
        Ok(Some(part))
    }
}
