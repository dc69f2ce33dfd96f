//! What builds leave: writable layers that nobody uses any more become layers as they are, and
//! configurations on top of them images.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hull_image::archive::{ArchivedLayer, SavedImage, open_layer, write};
use hull_image::content::Ingest;
use hull_image::lease::{Held, Lease};
use hull_image::snapshot::{Layer, SnapshotError};
use hull_oci::image::{Config, MAX_CONFIG, media_type};
use hull_oci::{Digest, Reference};

use super::add::{NewLayer, Origin, Stored, chain};
use super::{EMPTY, Image, ImageError, Images, Inner, Packed, blocking, failed};
use crate::Result;

/// A layer by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
}

/// A hold on layers, for somebody who makes several one after the other. They are synced when it goes.
pub(crate) struct Hold {
    lease: Lease,
    images: Arc<Inner>,
    /// Goes after it.
    _then: Box<dyn std::any::Any + Send + Sync>,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Without a runtime the daemon is on its way out, and syncs then.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.images.sync_behind();
        }
    }
}

impl Images {
    /// `then` is dropped when whoever has a part of the hold has given it up, work that goes on behind a
    /// dropped future as well.
    pub(crate) fn hold_until(&self, then: impl std::any::Any + Send + Sync) -> Arc<Hold> {
        Arc::new(Hold { lease: self.0.leases.take(), images: Arc::clone(&self.0), _then: Box::new(then) })
    }

    /// Holds the layers with these diff ids (lowest first), and waits until their files are
    /// unpacked. False: they are not all here.
    pub(crate) async fn hold_layers(&self, hold: &Arc<Hold>, layers: &[Digest]) -> Result<bool> {
        let (inner, hold, layers) = (Arc::clone(&self.0), Arc::clone(hold), layers.to_vec());
        blocking(move || {
            let chain = hull_oci::image::chain_ids(&layers);
            let Some(top) = chain.last() else { return Ok(true) };
            // In this order: what is still here now is seen as held by every later collection, which
            // keeps what is below it, too.
            hold.lease.hold(Held::Layer(top.clone()));
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
        hold: &Arc<Hold>,
        key: &str,
        below: &[Digest],
        archive: Option<(Ingest, Packed)>,
    ) -> Result<Option<Part>> {
        let (hold, key, below) = (Arc::clone(hold), key.to_owned(), below.to_vec());
        self.store_part(move |inner| inner.keep_layer(&hold.lease, &key, &below, archive)).await
    }

    /// Holds the layers with these diff ids (lowest first), waits until their files are
    /// unpacked, and gives the sizes of these (bytes). Those that are not here are taken from the unpacked archive of
    /// images in `folder`, where each must be what it is said to be; `None`: there is no such folder.
    pub(crate) async fn take_layers(
        &self,
        hold: &Arc<Hold>,
        folder: Option<OwnedFd>,
        layers: Vec<ArchivedLayer>,
    ) -> Result<Option<Vec<u64>>> {
        let hold = Arc::clone(hold);
        self.store_part(move |inner| inner.take_layers(&hold.lease, folder.as_ref(), &layers)).await
    }

    /// An image's configuration as it is stored.
    pub(crate) async fn document(&self, id: &Digest) -> Result<Vec<u8>> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || inner.content.read(&id, MAX_CONFIG as u64).map_err(failed)).await
    }

    /// Makes an image of a configuration, whose `rootfs` names layers that are here, and names it.
    pub(crate) async fn add_built(
        &self,
        hold: &Arc<Hold>,
        document: Vec<u8>,
        names: Vec<Reference>,
        parent: Option<Digest>,
    ) -> Result<Arc<Image>> {
        let hold = Arc::clone(hold);
        self.store_part(move |inner| {
            let stored = inner.stored(&document)?;
            let names: Vec<Reference> = names.into_iter().map(Reference::with_default_tag).collect();
            hull_runtime::failpoint!("engine.build.storing");
            let image = inner.add_image(&hold.lease, &document, &stored, Origin::parent(parent), &names)?;
            hull_runtime::failpoint!("engine.build.stored");
            names.iter().for_each(|name| inner.publish("tag", &image.id, &name.familiar()));
            Ok(image)
        })
        .await
    }

    /// Writes the archive of images that are not kept, as [`Images::save`] does of those that are. Their
    /// configurations are stored for as long as the hold lives.
    pub(crate) async fn write_built(
        &self,
        hold: &Arc<Hold>,
        images: Vec<(Vec<u8>, Vec<Reference>)>,
        out: OwnedFd,
    ) -> Result<()> {
        let (inner, hold) = (Arc::clone(&self.0), Arc::clone(hold));
        blocking(move || {
            let saved = |(document, names): (Vec<u8>, Vec<Reference>)| {
                let layers = inner.stored(&document)?.into_iter().map(|layer| layer.descriptor).collect();
                let id = Digest::sha256(&document);
                hold.lease.hold(Held::Blob(id.clone()));
                inner.content.put(&document).map_err(failed)?;
                let names = names.into_iter().map(Reference::with_default_tag).collect();
                Ok(SavedImage { id, names, layers })
            };
            let images = images.into_iter().map(saved).collect::<Result<Vec<SavedImage>>>()?;
            let mut out = BufWriter::with_capacity(64 << 10, File::from(out));
            write(&inner.content, &images, &mut out).map_err(failed)?;
            let io = |source| failed(ImageError::Io { action: "write the archive", source });
            out.flush().map_err(io)
        })
        .await
    }
}

impl Inner {
    /// The layers that a configuration names, lowest first.
    fn stored(&self, document: &[u8]) -> Result<Vec<Stored>> {
        let config = Config::parse(document).map_err(failed)?;
        let stored = |chain: &Digest| {
            let missing = || SnapshotError::Missing { chain: chain.clone() };
            self.known_layer(chain)?.ok_or_else(|| failed(missing()))
        };
        config.chain_ids().iter().map(stored).collect()
    }

    fn take_layers(
        &self,
        lease: &Lease,
        folder: Option<&OwnedFd>,
        layers: &[ArchivedLayer],
    ) -> Result<Option<Vec<u64>>> {
        let mut taken: Vec<Stored> = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let parent = taken.last().map(|layer| layer.chain.clone());
            let chain = chain(parent.as_ref(), &layer.diff_id);
            // Held first, found then: so it stays.
            lease.hold(Held::Layer(chain.clone()));
            let known = match (self.known_layer(&chain)?, folder) {
                (Some(known), _) => known,
                (None, None) => return Ok(None),
                (None, Some(folder)) => {
                    let new = NewLayer {
                        file: open_layer(folder.as_fd(), layer).map_err(failed)?,
                        diff_id: Some(layer.diff_id.clone()),
                        expected: layer.expected.clone(),
                        adopt: false,
                        hashes: None,
                    };
                    self.add_layer(lease, index, parent, new)?
                }
            };
            taken.push(known);
        }
        taken.iter().try_for_each(|layer| self.unpack_layer(&layer.chain))?;
        Ok(Some(taken.into_iter().map(|layer| layer.size).collect()))
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
