//! Captures of this host become images, and so does the `hello` inside the executable.

use std::sync::Arc;

use hull_image::lease::Held;
use hull_oci::Reference;
use hull_oci::image::Config;

use super::add::{NewLayer, Origin};
use super::{Image, ImageError, Images, Inner, failed};
use crate::capture::{self, Capture, Captured};
use crate::{Error, Result};

impl Images {
    /// Captures programs, packages and paths of this host as an image of one layer. If
    /// `options.created` is absent, the image is of now.
    pub async fn capture(&self, options: Capture, name: Reference) -> Result<(Arc<Image>, Captured)> {
        self.store(move |inner| inner.capture(options, name)).await
    }

    /// The built-in image, named `hello:latest` if nothing is called so yet.
    pub async fn hello(&self) -> Result<Arc<Image>> {
        const NAME: &str = "hello:latest";
        if let Ok(image) = self.resolve(NAME) {
            return Ok(image);
        }
        let name = Reference::parse(NAME).map_err(|error| Error::Invalid(error.to_string()))?;
        self.store(move |inner| {
            let hello = capture::hello();
            let store = |out: &mut dyn std::io::Write| out.write_all(&hello.layer).map(|()| hello.config);
            let io = |source| failed(ImageError::Io { action: "store a layer", source });
            inner.one_layer(name, |out| store(out).map_err(io))
        })
        .await
    }
}

impl Inner {
    fn capture(&self, mut options: Capture, name: Reference) -> Result<(Arc<Image>, Captured)> {
        options.created.get_or_insert_with(|| {
            let now = jiff::Timestamp::from_nanosecond(hull_sys::time::now().into());
            now.unwrap_or_default().to_string()
        });
        let mut captured = None;
        let image = self.one_layer(name, |out| {
            let done = capture::capture(&options, out).map_err(|error| Error::Capture(Box::new(error)))?;
            let config = done.config.clone();
            captured = Some(done);
            Ok(config)
        })?;
        // `one_layer` called the closure, or failed.
        let captured = captured.ok_or(Error::ShuttingDown)?;
        Ok((image, captured))
    }

    /// Stores what `write` writes as the only layer of the image whose configuration it
    /// gives.
    fn one_layer(
        &self,
        name: Reference,
        write: impl FnOnce(&mut dyn std::io::Write) -> Result<Config>,
    ) -> Result<Arc<Image>> {
        let lease = self.leases.take();
        let mut ingest = self.content.ingest().map_err(failed)?;
        let config = write(&mut ingest)?;
        let (blob, _) = ingest.commit(None).map_err(failed)?;
        lease.hold(Held::Blob(blob.clone()));
        let file = self.content.open_blob(&blob).map_err(failed)?;
        let diff_id = config.rootfs.diff_ids.first().cloned();
        let layer = NewLayer { file, diff_id, expected: None, adopt: true, hashes: None };
        let layer = self.add_layer(&lease, 0, None, layer)?;
        let bytes = serde_json::to_vec(&config).map_err(failed)?;
        let name = name.with_default_tag();
        let image =
            self.add_image(&lease, &bytes, &[layer], Origin::default(), std::slice::from_ref(&name))?;
        self.publish("import", &image.id, &image.id.to_string());
        self.publish("tag", &image.id, &name.familiar());
        Ok(image)
    }
}
