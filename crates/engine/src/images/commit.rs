//! `commit`: the writable layer of a container becomes the uppermost layer of an image.
//!
//! It is answered when the archive is there. The files are unpacked from that right afterwards, for
//! whoever makes a container of the image.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hull_image::lease::{Held, Lease};
use hull_image::snapshot::{Layer, SnapshotError};
use hull_oci::image::{Config, Descriptor, History, RunConfig, media_type};
use hull_oci::{Digest, Reference};
use rustix::io::Errno;

use super::add::{Origin, Stored, chain};
use super::{EMPTY, Image, ImageError, Images, Inner, failed};
use crate::{Error, Result};

/// An image to be made of a container.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The container's id, which is the key of its writable layer.
    pub container: String,
    /// The image that the container was made from.
    pub image: Digest,
    pub config: RunConfig,
    pub name: Option<Reference>,
    pub author: String,
    pub comment: String,
    /// The container's command, for the history.
    pub created_by: String,
}

impl Images {
    pub async fn commit(&self, commit: Commit) -> Result<Arc<Image>> {
        self.store(move |inner| {
            let image = inner.commit(commit)?;
            image.chain().last().cloned().into_iter().for_each(|layer| inner.unpack_behind(layer));
            Ok(image)
        })
        .await
    }
}

impl Inner {
    fn commit(&self, commit: Commit) -> Result<Arc<Image>> {
        let parent = self.read().resolve(&commit.image.to_string())?;
        let lease = self.hold(&parent)?;
        let mut layers = layers(&parent);
        let packed = self.commit_layer(&lease, &commit.container, layers.last())?;
        let names: Vec<Reference> = commit.name.iter().cloned().map(Reference::with_default_tag).collect();
        let config = describe(&parent.config, commit, packed.as_ref());
        layers.extend(packed);
        let bytes = serde_json::to_vec(&config).map_err(failed)?;
        let image =
            self.add_image(&lease, &bytes, &layers, Origin::parent(Some(parent.id.clone())), &names)?;
        hull_runtime::failpoint!("engine.commit.committed");
        self.publish("create", &image.id, &image.id.to_string());
        names.iter().for_each(|name| self.publish("tag", &image.id, &name.familiar()));
        Ok(image)
    }

    /// Stores the writable layer on top of `parent`. `None`: the container has changed nothing.
    fn commit_layer(
        &self,
        lease: &Lease,
        container: &str,
        parent: Option<&Stored>,
    ) -> Result<Option<Stored>> {
        let upper = self.snapshots.writable(container).map_err(failed)?;
        let ingest = self.content.ingest().map_err(failed)?;
        let packed = (self.pack)(upper.as_fd(), ingest.file())
            .map_err(|error| failed(ImageError::pack(container, error)))?;
        hull_runtime::failpoint!("engine.commit.packed");
        self.check_whole(container, &upper)?;
        if packed.diff_id == Digest::sha256(&[0; EMPTY]) {
            return Ok(None);
        }
        let chain = chain(parent.map(|parent| &parent.chain), &packed.diff_id);
        lease.hold(Held::Blob(packed.diff_id.clone()));
        lease.hold(Held::Layer(chain.clone()));
        if let Some(known) = self.known_layer(&chain)? {
            return Ok(Some(known));
        }
        ingest.publish(&packed.diff_id).map_err(failed)?;
        let record = Layer {
            chain: chain.clone(),
            parent: parent.map(|parent| parent.chain.clone()),
            diff_id: packed.diff_id.clone(),
            blob: packed.diff_id.clone(),
            blob_size: packed.archive_size,
            media_type: media_type::OCI_LAYER.to_owned(),
            size: packed.size,
        };
        self.mark_layer(&chain, || self.snapshots.describe(&record))?;
        hull_runtime::failpoint!("engine.commit.published");
        let descriptor = Descriptor::new(media_type::OCI_LAYER, packed.diff_id.clone(), packed.archive_size);
        Ok(Some(Stored { descriptor, diff_id: packed.diff_id, chain, size: packed.size }))
    }

    /// A removal takes the layer's name away before it takes any file: while the name leads to the
    /// folder that was read, all of it was there.
    fn check_whole(&self, container: &str, upper: &OwnedFd) -> Result<()> {
        let removed = || Error::Conflict(format!("container {container} was removed while it was committed"));
        let now = match self.snapshots.writable(container) {
            Err(SnapshotError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(removed());
            }
            now => now.map_err(failed)?,
        };
        let examine = |errno: Errno| {
            failed(ImageError::Io { action: "examine a writable layer", source: errno.into() })
        };
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        match identity(&now).map_err(examine)? == identity(upper).map_err(examine)? {
            true => Ok(()),
            false => Err(removed()),
        }
    }
}

/// The layers of an image that is here, lowest first.
fn layers(image: &Image) -> Vec<Stored> {
    let parts = image.layers.iter().zip(&image.config.rootfs.diff_ids).zip(image.chain());
    let stored =
        |(index, ((descriptor, diff_id), chain)): (usize, ((&Descriptor, &Digest), Digest))| Stored {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            chain,
            size: image.layer_sizes.get(index).copied().unwrap_or(0),
        };
    parts.enumerate().map(stored).collect()
}

/// The configuration of the new image: the parent's, one step further.
fn describe(parent: &Config, commit: Commit, layer: Option<&Stored>) -> Config {
    let now = jiff::Timestamp::from_nanosecond(hull_sys::time::now().into()).unwrap_or_default().to_string();
    let mut config = parent.clone();
    config.history.push(History {
        created: Some(now.clone()),
        created_by: commit.created_by,
        author: commit.author.clone(),
        comment: commit.comment.clone(),
        empty_layer: layer.is_none(),
    });
    config.rootfs.diff_ids.extend(layer.map(|layer| layer.diff_id.clone()));
    config.config = commit.config;
    config.created = Some(now);
    config.author = commit.author;
    config.comment = commit.comment;
    config.container = commit.container;
    config
}
