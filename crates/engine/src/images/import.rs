//! `import`: an archive of files becomes an image of one layer.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;

use hull_image::compress::Compression;
use hull_image::content::Ingest;
use hull_image::layer::{Mode, STREAM};
use hull_image::lease::Held;
use hull_image::snapshot::Staging;
use hull_oci::image::{Config, History};
use hull_oci::{Digest, Platform, Reference};
use rustix::fs::{Mode as Bits, OFlags};

use super::add::{NewLayer, Origin};
use super::{ImageError, Images, Inner, Source, changes, failed};
use crate::Result;

/// What an import says about its archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    pub name: Option<Reference>,
    /// Where it comes from, for the comment: `-` or an address.
    pub source: String,
    /// Instead of that comment.
    pub message: String,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    /// The host's, if not given.
    pub platform: Option<Platform>,
}

impl Images {
    /// Reads the archive from `source` to its end, plain or compressed with gzip, zstd, bzip2 or
    /// xz. The first three ways are also ways to keep a layer, so such an archive is the layer as
    /// it came; of the others the uncompressed archive is.
    pub async fn import(&self, source: Source, import: Import) -> Result<Digest> {
        let mut config = Config::default();
        changes::apply(&mut config.config, &import.changes)?;
        self.store(move |inner| inner.import(source, import, config)).await
    }
}

impl Inner {
    fn import(&self, source: Source, import: Import, mut config: Config) -> Result<Digest> {
        let io = |source| failed(ImageError::Io { action: "store the archive", source });
        let lease = self.leases.take();
        let mut ingest = self.content.ingest().map_err(failed)?;
        std::io::copy(&mut source.file(), &mut ingest).map_err(io)?;
        source.end()?;
        let scratch = self.unpacked(&ingest)?;
        let file = match &scratch {
            Some((stream, _)) => stream.try_clone().map_err(io)?,
            None => {
                let (blob, _) = ingest.commit(None).map_err(failed)?;
                lease.hold(Held::Blob(blob.clone()));
                self.content.open_blob(&blob).map_err(failed)?
            }
        };
        let layer = self.add_layer(
            &lease,
            0,
            None,
            NewLayer { file, diff_id: None, expected: None, adopt: true, hashes: None },
        )?;
        drop(scratch);
        let platform = import.platform.unwrap_or_else(Platform::host);
        let now =
            jiff::Timestamp::from_nanosecond(hull_sys::time::now().into()).unwrap_or_default().to_string();
        let comment = match import.message.is_empty() {
            true => format!("Imported from {}", import.source),
            false => import.message,
        };
        config.os = platform.os;
        config.architecture = platform.architecture;
        config.variant = platform.variant;
        config.created = Some(now.clone());
        config.comment.clone_from(&comment);
        config.rootfs.kind = "layers".to_owned();
        config.rootfs.diff_ids = vec![layer.diff_id.clone()];
        config.history = vec![History { created: Some(now), comment, ..History::default() }];
        let bytes = serde_json::to_vec(&config).map_err(failed)?;
        let names: Vec<Reference> = import.name.into_iter().map(Reference::with_default_tag).collect();
        let image = self.add_image(&lease, &bytes, &[layer], Origin::default(), &names)?;
        self.publish("import", &image.id, &image.id.to_string());
        names.iter().for_each(|name| self.publish("tag", &image.id, &name.familiar()));
        Ok(image.id.clone())
    }

    /// What is in an archive whose compression no layer may have, and the folder which that file
    /// is in until it has another name.
    fn unpacked(&self, ingest: &Ingest) -> Result<Option<(File, Staging<'_>)>> {
        let io = |source| failed(ImageError::Io { action: "read the archive", source });
        let mut file = ingest.reader().map_err(failed)?;
        let mut first = Vec::new();
        file.by_ref().take(Compression::FIRST).read_to_end(&mut first).map_err(io)?;
        if !matches!(Compression::detect(&first), Compression::Bzip2 | Compression::Xz) {
            return Ok(None);
        }
        file.rewind().map_err(io)?;
        let scratch = self.snapshots.scratch().map_err(failed)?;
        (self.extract)(Mode::Stream, file.as_fd(), scratch.diff.as_fd())
            .map_err(|reason| failed(ImageError::Unpack { what: "the archive".to_owned(), reason }))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stream = rustix::fs::openat(&scratch.diff, STREAM, flags, Bits::empty());
        Ok(Some((File::from(stream.map_err(|errno| io(errno.into()))?), scratch)))
    }
}
