//! An image of an OCI layout that a build was given as files (`--build-context NAME=oci-layout://PATH`): it is
//! this build's alone, and no image of the host's.

use std::os::fd::AsFd as _;

use hull_builder::Layer;
use hull_builder::executor::Base;
use hull_image::archive;
use hull_oci::Platform;

use super::{Build, Context, copy};
use crate::images::failed;
use crate::{Error, Result};

/// Which image, and where. Empty words say nothing.
#[derive(Debug)]
pub struct Layout {
    pub files: Context,
    pub tag: String,
    /// Its manifest's.
    pub digest: String,
}

impl Build {
    /// Its layers are held by this build from now on.
    pub(super) async fn layout(&self, layout: &Layout, platform: Option<Platform>) -> Result<Base> {
        let site = self.unpacked(&layout.files).await?;
        let folder = copy::open(&site.rootfs.upper)?;
        let (tag, digest) = (layout.tag.clone(), layout.digest.clone());
        let find = move || {
            let platform = platform.unwrap_or_else(Platform::host);
            let image = archive::find(folder.as_fd(), &platform, &tag, &digest).map_err(failed)?;
            Ok((folder, image))
        };
        let (folder, image) = self.0.services.blocking(find).await?;
        let images = &self.0.services.images;
        let sizes = images.take_layers(&self.0.hold, Some(folder), image.layers).await?;
        let missing = || Error::NoSuchImage(image.id.to_string());
        let ids = image.config.rootfs.diff_ids.iter().cloned();
        let layers = ids.zip(sizes.ok_or_else(missing)?).map(|(diff_id, size)| Layer { diff_id, size });
        Ok(Base { id: image.id.clone(), layers: layers.collect(), config: image.config })
    }
}
