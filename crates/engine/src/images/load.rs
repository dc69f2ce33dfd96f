//! `load`: from an archive of images to images.
//!
//! A layer is hashed from the moment that it comes, and unpacked as soon as all of the archive is here,
//! whichever of them is done first; it is stored when it is known to be what it has to be.

use std::os::fd::AsFd;

use hull_image::archive::{self, ArchivedImage};
use hull_image::layer::Mode;
use hull_oci::{Digest, Platform};
use tokio::sync::mpsc::UnboundedSender;

use super::add::{NewLayer, Origin, Stored};
use super::hashes::Hashes;
use super::{ImageError, Images, Inner, Source, failed};
use crate::Result;

/// What a load tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A layer is being unpacked or is there already; the first 12 digits of its diff id.
    Layer { id: String, exists: bool },
    /// A name has moved away from the image that had it.
    Moved { name: String, from: Digest },
    /// An image is there; a name of it, or its id where it has none.
    Loaded { name: Option<String>, id: Digest },
}

impl Progress {
    /// The reference's line, where it has one.
    pub fn line(&self) -> Option<String> {
        match self {
            Progress::Layer { .. } => None,
            Progress::Moved { name, from } => Some(format!(
                "The image {name} already exists, renaming the old one with ID {from} to empty string\n"
            )),
            Progress::Loaded { name: Some(name), .. } => Some(format!("Loaded image: {name}\n")),
            Progress::Loaded { name: None, id } => Some(format!("Loaded image ID: {id}\n")),
        }
    }
}

impl Images {
    /// Loads all images of an archive, compressed or not, that is read from `source` to its end. With platforms, images for others are passed over; what bears
    /// one name on several of them is in the end the first one's.
    pub async fn load(
        &self,
        source: Source,
        platforms: Vec<Platform>,
        progress: UnboundedSender<Progress>,
    ) -> Result<Vec<Digest>> {
        self.store(move |inner| inner.load(source, &platforms, &progress)).await
    }
}

impl Inner {
    fn load(
        &self,
        source: Source,
        platforms: &[Platform],
        progress: &UnboundedSender<Progress>,
    ) -> Result<Vec<Digest>> {
        let scratch = self.snapshots.scratch().map_err(failed)?;
        let broken = |reason| failed(ImageError::Unpack { what: "the archive of images".to_owned(), reason });
        let extracted = (self.extract)(Mode::Files, source.file().as_fd(), scratch.diff.as_fd());
        let mut hashes = Hashes::new(extracted.map_err(broken)?.digests);
        source.end()?;
        let host = [Platform::host()];
        let wanted = if platforms.is_empty() { &host } else { platforms };
        let mut loaded = Vec::new();
        for platform in wanted.iter().rev() {
            for image in archive::read(scratch.diff.as_fd(), platform).map_err(failed)? {
                let other = platform.rank(&image.config.platform()).is_none();
                if (other && !platforms.is_empty()) || loaded.contains(&image.id) {
                    continue;
                }
                loaded.push(image.id.clone());
                self.load_image(scratch.diff.as_fd(), &image, &mut hashes, progress)?;
            }
        }
        Ok(loaded)
    }

    fn load_image(
        &self,
        folder: std::os::fd::BorrowedFd<'_>,
        image: &ArchivedImage,
        hashes: &mut Hashes,
        progress: &UnboundedSender<Progress>,
    ) -> Result<()> {
        // Nobody listening is no reason to stop.
        let tell = |what| drop(progress.send(what));
        let lease = self.leases.take();
        let mut stored: Vec<Stored> = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            let new = NewLayer {
                file: archive::open_layer(folder, layer).map_err(failed)?,
                diff_id: Some(layer.diff_id.clone()),
                expected: layer.expected.clone(),
                adopt: true,
                hashes: Some(&mut *hashes),
            };
            let parent = stored.last().map(|layer| layer.chain.clone());
            let id = layer.diff_id.short().to_owned();
            tell(Progress::Layer { id, exists: false });
            stored.push(self.add_layer(&lease, index, parent, new)?);
        }
        let moved: Vec<_> = {
            let state = self.read();
            let from = |name: &hull_oci::Reference| {
                Some((name.familiar(), state.names.get(&name.to_string())?.clone()))
            };
            image.names.iter().filter_map(from).filter(|(_, from)| *from != image.id).collect()
        };
        self.add_image(&lease, &image.config_bytes, &stored, Origin::default(), &image.names)?;
        moved.into_iter().for_each(|(name, from)| tell(Progress::Moved { name, from }));
        self.publish("load", &image.id, &image.id.to_string());
        if image.names.is_empty() {
            tell(Progress::Loaded { name: None, id: image.id.clone() });
        }
        for name in &image.names {
            tell(Progress::Loaded { name: Some(name.familiar()), id: image.id.clone() });
        }
        Ok(())
    }
}
