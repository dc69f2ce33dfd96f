//! `save`: images as one archive.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_image::archive::{SavedImage, write};
use hull_image::lease::Held;
use hull_oci::Reference;

use super::{ImageError, Images, Inner, blocking, failed, id_prefix};
use crate::{Error, Result};

impl Images {
    /// Finds all images first (so that an unknown one is an error before any byte), then gives a
    /// future that writes the archive to `out` (a pipe, a socket, a file).
    pub fn save(
        &self,
        keys: &[String],
        out: OwnedFd,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let images = self.0.chosen(keys)?;
        let inner = Arc::clone(&self.0);
        // Held from here on: an image that is removed meanwhile is still written.
        let lease = inner.leases.take();
        for image in &images {
            lease.hold(Held::Blob(image.id.clone()));
            image.layers.iter().for_each(|layer| lease.hold(Held::Blob(layer.digest.clone())));
        }
        Ok(blocking(move || {
            let _lease = lease;
            let mut out = BufWriter::with_capacity(64 << 10, File::from(out));
            write(&inner.content, &images, &mut out).map_err(failed)?;
            let io = |source| failed(ImageError::Io { action: "write the archive", source });
            out.flush().map_err(io)
        }))
    }
}

impl Inner {
    /// The images by name or id. A name with a tag brings that tag, a name alone all tags of the
    /// repository, an id none.
    fn chosen(&self, keys: &[String]) -> Result<Vec<SavedImage>> {
        let state = self.read();
        let mut chosen: Vec<SavedImage> = Vec::new();
        for key in keys {
            let missing = || Error::NoSuchImage(key.clone());
            let mut found: Vec<(Reference, _)> = Vec::new();
            if let Ok(reference) = Reference::parse(key) {
                if reference.is_name_only() {
                    let same =
                        state.names.iter().filter_map(|(name, id)| Some((Reference::parse(name).ok()?, id)));
                    found.extend(
                        same.filter(|(name, _)| name.name() == reference.name() && name.tag.is_some()),
                    );
                } else if let Some((_, id)) = state.names.get_key_value(&reference.to_string()) {
                    found.push((reference, id));
                }
            }
            if found.is_empty() {
                let by_id = id_prefix(key).is_some() || key.contains("@sha256:");
                let image = state.resolve(key).map_err(|_| missing())?;
                if !by_id {
                    return Err(missing());
                }
                add(&mut chosen, saved(&image), None);
            }
            for (name, id) in found {
                let image = state.images.get(id).ok_or_else(missing)?;
                add(&mut chosen, saved(image), Some(name));
            }
        }
        Ok(chosen)
    }
}

fn saved(image: &super::Image) -> SavedImage {
    SavedImage { id: image.id.clone(), names: Vec::new(), layers: image.layers.clone() }
}

/// Adds an image once, however often it is named.
fn add(chosen: &mut Vec<SavedImage>, image: SavedImage, name: Option<Reference>) {
    let index = match chosen.iter().position(|known| known.id == image.id) {
        Some(index) => index,
        None => {
            chosen.push(image);
            chosen.len() - 1
        }
    };
    if let Some(name) = name
        && !chosen[index].names.contains(&name)
    {
        chosen[index].names.push(name);
    }
}
