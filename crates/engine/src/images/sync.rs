//! What was stored comes to the disk a moment after it was answered; what a power cut takes of it is
//! noticed at the next start.
//!
//! Nobody waits for a sync. A layer (`hull_image::snapshot`) and an image's record are marked with the
//! boot that they were stored in; one `syncfs` behind the scenes covers all that came meanwhile, and
//! then the marks go. The record has its mark from the transaction that makes it, so it names no bytes
//! without saying that they may be missing.
//!
//! A daemon that finds marks of its own boot has a killed predecessor: the kernel has everything, and
//! it is synced now. Marks of another boot mean that the power may have gone before the sync. Of what
//! is marked so each blob is read and compared with its digest; a layer's files, which nothing could
//! be compared with, are unpacked again; an image with a damaged blob is removed, and said by name.
//! Only a sync takes a mark off: killed in the midst of this, a daemon leaves it to the next one.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use hull_image::snapshot::{Layer, SnapshotError, Unsynced};
use hull_oci::Digest;
use hull_oci::image::Descriptor;

use super::{Image, Images, Inner, blocking, failed, put_image};
use crate::store::Change;
use crate::{Result, chain};

/// What is marked, and may be synced.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Chain ids.
    layers: BTreeSet<Digest>,
    images: BTreeSet<Digest>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.images.is_empty()
    }
}

impl Images {
    /// Ends what goes on behind the scenes: nothing is unpacked any more, all is on the disk, and no
    /// mark is left.
    pub(crate) async fn close(&self) {
        let inner = Arc::clone(&self.0);
        let closed = blocking(move || {
            inner.stop_unpacking();
            inner.sync()
        });
        if let Err(error) = closed.await {
            tracing::error!(error = chain(&error), "images may not be on the disk");
        }
    }

    /// Runs what stores images to its end, whether or not the caller waits for it; what it has stored
    /// is synced behind the scenes, and what a failed one has left is removed.
    pub(super) async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.store_part(move |inner| {
            let result = work(inner);
            inner.sync_behind();
            result
        })
        .await
    }

    /// The same for one of many parts, whose hold has all of them synced when it goes: a sync makes whoever
    /// changes the file system meanwhile wait for the journal, the next step of a build above all.
    pub(super) async fn store_part<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let result = work(&inner);
            // That this fails, too, changes nothing for the caller: the next collection finds it.
            if result.is_err()
                && let Err(error) = inner.collect()
            {
                tracing::warn!(error = chain(&error), "what a failed load has left cannot be removed");
            }
            result
        })
        .await
    }
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores something of a layer, which gets its mark with it. No mark goes meanwhile: it could be
    /// this one.
    pub(super) fn mark_layer(
        &self,
        layer: &Digest,
        store: impl FnOnce() -> std::result::Result<(), SnapshotError>,
    ) -> Result<()> {
        let mut pending = self.pending();
        store().map_err(failed)?;
        pending.layers.insert(layer.clone());
        Ok(())
    }

    /// The record of an image has its mark. `changes` is held by the caller.
    pub(super) fn note_image(&self, image: &Digest) {
        self.pending().images.insert(image.clone());
    }

    /// Has what is marked synced soon. One such wish is enough for all who have it meanwhile.
    pub(super) fn sync_behind(self: &Arc<Self>) {
        if self.pending().is_empty() || self.sync_wanted.swap(true, Ordering::SeqCst) {
            return;
        }
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            inner.sync_wanted.store(false, Ordering::SeqCst);
            if let Err(error) = inner.sync() {
                tracing::error!(error = chain(&error), "images may not be on the disk");
            }
        });
    }

    /// Brings everything to the disk that is marked by now, then takes the marks off.
    fn sync(&self) -> Result<()> {
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let covered = std::mem::take(&mut *self.pending());
        if covered.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.content.sync() {
            let mut pending = self.pending();
            pending.layers.extend(covered.layers);
            pending.images.extend(covered.images);
            return Err(failed(error));
        }
        hull_runtime::failpoint!("engine.images.synced");
        // What has been marked again since is newer than this sync.
        for layer in &covered.layers {
            let pending = self.pending();
            if !pending.layers.contains(layer) {
                self.snapshots.settle(layer).map_err(failed)?;
            }
        }
        let _changing = self.changing();
        let synced: Vec<Image> = {
            let (state, pending) = (self.read(), self.pending());
            let known = covered.images.difference(&pending.images).filter_map(|id| state.images.get(id));
            known.map(|image| Image { unsynced: None, ..Image::clone(image) }).collect()
        };
        self.store.commit_blocking(synced.iter().map(put_image).collect::<Result<_>>()?)?;
        let mut state = self.write();
        state.images.extend(synced.into_iter().map(|image| (image.id.clone(), Arc::new(image))));
        Ok(())
    }

    /// Finds what is marked when the store is opened, and puts right what a power cut has left.
    pub(super) fn restore(&self) -> Result<()> {
        let (mut whole, mut lost) = (Vec::new(), BTreeSet::new());
        for Unsynced { chain, by_this_boot } in self.snapshots.unsynced().map_err(failed)? {
            if by_this_boot {
                self.pending().layers.insert(chain);
                continue;
            }
            match self.restore_layer(&chain)? {
                true => whole.push(chain),
                false => drop(lost.insert(chain)),
            }
        }
        let images: Vec<Arc<Image>> = self.read().images.values().cloned().collect();
        for image in &images {
            let in_doubt = image.unsynced.as_ref().is_some_and(|boot| *boot != self.boot);
            if in_doubt || image.chain().iter().any(|layer| lost.contains(layer)) {
                match self.damage(image)? {
                    Some(damage) => self.give_up(image, &damage)?,
                    None => self.describe(image)?,
                }
            }
            if image.unsynced.is_some() {
                self.note_image(&image.id);
            }
        }
        // Containers rely on the files of their layers, and those of one may have been thrown away by a
        // daemon that came no further.
        for layer in whole {
            if let Err(error) = self.unpack_layer(&layer) {
                // Who needs it tries again, and is told; so does the next daemon, as the mark stays.
                tracing::warn!(layer = %layer, error = chain(&error), "a layer could not be unpacked again");
            }
        }
        Ok(())
    }

    /// A layer that the power cut may have harmed: if its archive is whole it stays, without its files.
    fn restore_layer(&self, layer: &Digest) -> Result<bool> {
        // A description that cannot be read is lost, too.
        let described = self.snapshots.layer(layer).ok().flatten();
        let whole = described.is_some_and(|described| self.content.verify(&described.blob).is_ok());
        let trash = match whole {
            true => self.snapshots.discard_files(layer),
            false => self.snapshots.discard_layer(layer),
        };
        if let Some(trash) = trash.map_err(failed)? {
            self.snapshots.empty_trash(&trash).map_err(failed)?;
        }
        Ok(whole)
    }

    /// Why an image that the power cut may have harmed cannot be used. Of its layers those are looked
    /// at that are not known to be whole.
    fn damage(&self, image: &Image) -> Result<Option<String>> {
        if let Err(error) = self.content.verify(&image.id) {
            return Ok(Some(chain(&error)));
        }
        for document in &image.documents {
            if let Err(error) = self.content.verify(&document.digest) {
                return Ok(Some(chain(&error)));
            }
        }
        for (layer, descriptor) in image.chain().iter().zip(&image.layers) {
            if self.snapshots.layer(layer).map_err(failed)?.is_none()
                && let Err(error) = self.content.verify(&descriptor.digest)
            {
                return Ok(Some(chain(&error)));
            }
        }
        Ok(None)
    }

    /// Makes anew what the image's record says of its layers, where that is lost.
    fn describe(&self, image: &Image) -> Result<()> {
        let mut parent = None;
        let layers = image.chain().into_iter().zip(&image.config.rootfs.diff_ids).zip(&image.layers);
        for (index, ((chain, diff_id), Descriptor { digest, size, media_type, .. })) in layers.enumerate() {
            if self.snapshots.layer(&chain).map_err(failed)?.is_none() {
                let layer = Layer {
                    chain: chain.clone(),
                    parent,
                    diff_id: diff_id.clone(),
                    blob: digest.clone(),
                    blob_size: *size,
                    media_type: media_type.clone(),
                    size: image.layer_sizes.get(index).copied().unwrap_or(0),
                };
                self.mark_layer(&chain, || self.snapshots.describe(&layer))?;
            }
            parent = Some(chain);
        }
        Ok(())
    }

    fn give_up(&self, image: &Image, damage: &str) -> Result<()> {
        let names: Vec<String> = self.read().names_of(&image.id).iter().map(ToString::to_string).collect();
        let mut rows = vec![Change::DeleteImage { id: image.id.to_string() }];
        rows.extend(names.iter().map(|name| Change::DeleteName { name: name.clone() }));
        self.store.commit_blocking(rows)?;
        let mut state = self.write();
        state.images.remove(&image.id);
        names.iter().for_each(|name| drop(state.names.remove(name)));
        tracing::warn!(
            image = %image.id, names = names.join(", "), damage,
            "an image was stored just before the machine lost its power and is damaged: it is removed; load or make it again"
        );
        Ok(())
    }
}
