//! New images: layers applied, blobs stored, the record committed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use hull_image::archive::Expected;
use hull_image::compress::Compression;
use hull_image::layer::Mode;
use hull_image::lease::{Held, Lease};
use hull_image::snapshot::{Layer, Staging};
use hull_oci::image::{Config, Descriptor, media_type};
use hull_oci::{Digest, Reference};

use super::hashes::Hashes;
use super::{Image, ImageError, Images, Inner, Unpacked, failed, put_image};
use crate::Result;
use crate::store::Change;

/// A layer that is not stored yet, as a regular file on the store's file system or elsewhere.
pub(super) struct NewLayer<'a> {
    pub(super) file: File,
    /// What it must be when unpacked, where that is known.
    pub(super) diff_id: Option<Digest>,
    pub(super) expected: Option<Expected>,
    /// The file may get a second name as the blob: nobody will write to it any more.
    pub(super) adopt: bool,
    /// Has the file's own digest, or will have it.
    pub(super) hashes: Option<&'a mut Hashes>,
}

/// A layer that is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) chain: Digest,
    pub(super) size: u64,
}

/// Where a new image comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// The image that it was made from on this host.
    pub(super) parent: Option<Digest>,
    /// Manifests and indexes of a registry by which it came; they are stored.
    pub(super) documents: Vec<Descriptor>,
}

impl Origin {
    pub(super) fn parent(parent: Option<Digest>) -> Origin {
        Origin { parent, documents: Vec::new() }
    }
}

impl Images {
    /// Makes an image of archives that are regular files (lowest layer first; memfds will do) and
    /// of a configuration, whose `rootfs.diff_ids` are filled in here.
    pub async fn add_layer_image(
        &self,
        config: Config,
        layers: Vec<File>,
        name: Option<Reference>,
    ) -> Result<Arc<Image>> {
        self.store(move |inner| inner.add_layers(config, layers, name)).await
    }
}

impl Inner {
    fn add_layers(
        &self,
        mut config: Config,
        layers: Vec<File>,
        name: Option<Reference>,
    ) -> Result<Arc<Image>> {
        let lease = self.leases.take();
        let mut stored: Vec<Stored> = Vec::new();
        for file in layers {
            let layer = NewLayer { file, diff_id: None, expected: None, adopt: false, hashes: None };
            let parent = stored.last().map(|layer| layer.chain.clone());
            stored.push(self.add_layer(&lease, stored.len(), parent, layer)?);
        }
        config.rootfs.kind = "layers".to_owned();
        config.rootfs.diff_ids = stored.iter().map(|layer| layer.diff_id.clone()).collect();
        let bytes = serde_json::to_vec(&config).map_err(failed)?;
        let names: Vec<Reference> = name.into_iter().map(Reference::with_default_tag).collect();
        self.add_image(&lease, &bytes, &stored, Origin::default(), &names)
    }

    /// Removes blobs and layers that nothing names: what was being stored when the last daemon was
    /// killed.
    pub(super) fn sweep(&self) -> Result<()> {
        let swept = self.collect()?;
        if !swept.blobs.is_empty() || !swept.layers.is_empty() {
            let (blobs, layers) = (swept.blobs.len(), swept.layers.len());
            tracing::info!(blobs, layers, bytes = swept.bytes, "removed what no image names");
        }
        Ok(())
    }

    /// Stores one layer on top of `parent`. One that is there already is not unpacked again.
    pub(super) fn add_layer(
        &self,
        lease: &Lease,
        index: usize,
        parent: Option<Digest>,
        layer: NewLayer<'_>,
    ) -> Result<Stored> {
        if let Some(diff_id) = &layer.diff_id {
            let chain = chain(parent.as_ref(), diff_id);
            lease.hold(Held::Layer(chain.clone()));
            if let Some(known) = self.known_layer(&chain)? {
                return Ok(known);
            }
        }
        let io = |source| failed(ImageError::Io { action: "read a layer", source });
        std::io::Seek::rewind(&mut &layer.file).map_err(io)?;
        let staging = self.snapshots.stage().map_err(failed)?;
        let unpacked = match layer.hashes {
            Some(hashes) if is_plain(&layer.file).map_err(io)? => {
                self.unpack_plain(&layer.file, staging.diff.as_fd(), hashes)
            }
            _ => (self.unpack)(layer.file.as_fd(), staging.diff.as_fd(), None),
        };
        let unpacked = unpacked
            .map_err(|reason| failed(ImageError::Unpack { what: format!("layer {index}"), reason }))?;
        if let Some(expected) = layer.diff_id.filter(|expected| *expected != unpacked.diff_id) {
            return Err(failed(ImageError::DiffId { index, expected, found: unpacked.diff_id }));
        }
        if let Some(Expected { digest, size }) = layer.expected
            && (digest != unpacked.blob || size.is_some_and(|size| size != unpacked.blob_size))
        {
            return Err(failed(ImageError::Blob { index, expected: digest, found: unpacked.blob }));
        }
        let (file, size) = (layer.file, unpacked.blob_size);
        self.put_layer((lease, staging), format!("layer {index}"), parent, unpacked, |digest| {
            match layer.adopt {
                true => self.content.adopt(file.as_fd(), digest).map_err(failed),
                false => self.copy_blob(&file, digest, size),
            }
        })
    }

    /// Stores a layer that is unpacked, and its archive, which `keep` gives its name in the store.
    pub(super) fn put_layer(
        &self,
        (lease, staging): (&Lease, Staging<'_>),
        what: String,
        parent: Option<Digest>,
        unpacked: Unpacked,
        keep: impl FnOnce(&Digest) -> Result<()>,
    ) -> Result<Stored> {
        let media_type = match &unpacked.compression[..] {
            "plain" => media_type::OCI_LAYER,
            "gzip" => media_type::OCI_LAYER_GZIP,
            "zstd" => media_type::OCI_LAYER_ZSTD,
            other => {
                return Err(failed(ImageError::Compression { what, compression: other.to_owned() }));
            }
        };
        lease.hold(Held::Blob(unpacked.blob.clone()));
        let chain = chain(parent.as_ref(), &unpacked.diff_id);
        lease.hold(Held::Layer(chain.clone()));
        keep(&unpacked.blob)?;
        let descriptor = Descriptor::new(media_type, unpacked.blob.clone(), unpacked.blob_size);
        let record = Layer {
            chain: chain.clone(),
            parent,
            diff_id: unpacked.diff_id.clone(),
            blob: unpacked.blob,
            blob_size: unpacked.blob_size,
            media_type: media_type.to_owned(),
            size: unpacked.size,
        };
        self.mark_layer(&chain, || staging.commit(&record))?;
        Ok(Stored { descriptor, diff_id: record.diff_id, chain, size: unpacked.size })
    }

    /// A layer that is an archive and no more has one digest, which is computed elsewhere meanwhile.
    fn unpack_plain(
        &self,
        file: &File,
        folder: BorrowedFd<'_>,
        hashes: &mut Hashes,
    ) -> std::result::Result<Unpacked, String> {
        let size = (self.extract)(Mode::Layer, file.as_fd(), folder)?.size;
        let blob_size = file.metadata().map_err(|error| error.to_string())?.len();
        let (blob, compression) = (hashes.of(file)?, Compression::Plain.name().to_owned());
        Ok(Unpacked { diff_id: blob.clone(), blob, blob_size, size, compression })
    }

    /// A layer that is stored with its archive.
    pub(super) fn known_layer(&self, chain: &Digest) -> Result<Option<Stored>> {
        let Some(layer) = self.snapshots.layer(chain).map_err(failed)? else { return Ok(None) };
        if self.content.size(&layer.blob).map_err(failed)? != Some(layer.blob_size) {
            return Ok(None);
        }
        let descriptor = Descriptor::new(&layer.media_type, layer.blob, layer.blob_size);
        Ok(Some(Stored { descriptor, diff_id: layer.diff_id, chain: layer.chain, size: layer.size }))
    }

    /// Copies a file into the store, checked against what was unpacked from it.
    fn copy_blob(&self, file: &File, digest: &Digest, size: u64) -> Result<()> {
        if self.content.size(digest).map_err(failed)? == Some(size) {
            return Ok(());
        }
        let io = |source| failed(ImageError::Io { action: "copy a layer into the store", source });
        let mut file = file.try_clone().map_err(io)?;
        std::io::Seek::rewind(&mut file).map_err(io)?;
        let mut ingest = self.content.ingest().map_err(failed)?;
        std::io::copy(&mut file, &mut ingest).map_err(io)?;
        ingest.commit(Some((digest, size))).map_err(failed)?;
        Ok(())
    }

    /// Makes a record of a configuration and its stored layers, and names it. An image that is
    /// here already only gets the names.
    pub(super) fn add_image(
        &self,
        lease: &Lease,
        config_bytes: &[u8],
        layers: &[Stored],
        origin: Origin,
        names: &[Reference],
    ) -> Result<Arc<Image>> {
        let Origin { parent, documents } = origin;
        let config = Config::parse(config_bytes).map_err(failed)?;
        config.check_layers(layers.len()).map_err(failed)?;
        let id = Digest::sha256(config_bytes);
        lease.hold(Held::Blob(id.clone()));
        self.content.put(config_bytes).map_err(failed)?;
        let _changing = self.changing();
        let known = self.read().images.get(&id).cloned();
        let now = hull_sys::time::now();
        let mut image = match known {
            Some(known) => Image::clone(&known),
            None => Image {
                id: id.clone(),
                config,
                layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
                layer_sizes: layers.iter().map(|layer| layer.size).collect(),
                size: layers.iter().map(|layer| layer.size).sum(),
                parent,
                documents: Vec::new(),
                compressed: BTreeMap::new(),
                stored: now,
                last_tagged: None,
                unsynced: None,
            },
        };
        for document in documents {
            if !image.documents.iter().any(|known| known.digest == document.digest) {
                image.documents.push(document);
            }
        }
        // Also of one that is here already: its configuration has just been stored anew.
        image.unsynced = Some(self.boot.clone());
        if !names.is_empty() {
            image.last_tagged = Some(now);
        }
        let mut rows = vec![put_image(&image)?];
        for name in names {
            rows.push(Change::PutName { name: name.to_string(), image: id.to_string() });
        }
        self.store.commit_blocking(rows)?;
        self.note_image(&id);
        let image = Arc::new(image);
        let mut state = self.write();
        state.images.insert(id.clone(), Arc::clone(&image));
        for name in names {
            state.names.insert(name.to_string(), id.clone());
        }
        Ok(image)
    }
}

/// Whether it is an archive and no more. One with holes is longer than what came: that is a jailed process's
/// to read, however long it takes.
fn is_plain(file: &File) -> std::io::Result<bool> {
    let stat = file.metadata()?;
    if stat.blocks().saturating_mul(512) < stat.size() {
        return Ok(false);
    }
    // More than it takes.
    let mut first = [0; 16];
    let count = file.read_at(&mut first, 0)?;
    Ok(Compression::detect(&first[..count]) == Compression::Plain)
}

/// The chain id of a layer on its parent.
pub(super) fn chain(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        // image-spec `config.md#layer-chainid`
        Some(parent) => Digest::sha256(format!("{parent} {diff_id}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_step_by_step_is_the_chain_of_the_standard() {
        let diff_ids = [b"1", b"2", b"3"].map(|layer| Digest::sha256(layer));
        let mut parent = None;
        let mut chains = Vec::new();
        for diff_id in &diff_ids {
            parent = Some(chain(parent.as_ref(), diff_id));
            chains.extend(parent.clone());
        }
        assert_eq!(chains, hull_oci::chain_ids(&diff_ids));
    }
}
