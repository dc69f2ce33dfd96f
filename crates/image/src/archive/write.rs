//! Writes images as one archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write};

use hull_oci::image::{Descriptor, Index, Manifest, media_type};
use hull_oci::{Digest, Reference};
use serde::Serialize;

use super::{NAME, REF};
use crate::content::{Content, ContentError};
use crate::tar::{self, Entry, Kind, Writer};

/// An image to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// Digest of the configuration, which is a blob.
    pub id: Digest,
    /// With tags; none for an image that was asked for by its id.
    pub names: Vec<Reference>,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Tar(#[from] tar::WriteError),
    #[error("cannot read the content {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("the content {digest} is shorter than its {size} bytes")]
    Short { digest: Digest, size: u64 },
    #[error("cannot describe the images")]
    Json(#[from] serde_json::Error),
}

/// One image of `manifest.json`, in the reference's field order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<String, Descriptor>,
}

/// The manifest of an image that has none of its own: always the same bytes for the
/// same configuration and layers.
pub fn manifest(
    config: &Digest,
    config_size: u64,
    layers: &[Descriptor],
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: String::new(),
        config: Descriptor::new(media_type::OCI_CONFIG, config.clone(), config_size),
        layers: layers.to_vec(),
        subject: None,
        annotations: BTreeMap::new(),
    })
}

/// Where a blob's bytes come from.
enum Source {
    Stored(u64),
    Memory(Vec<u8>),
}

/// Writes `images` from `content` to `out`: a Docker archive with an OCI layout
/// beside it. Layers go out as they are stored, compressed or not.
pub fn write(content: &Content, images: &[SavedImage], out: &mut dyn Write) -> Result<(), WriteError> {
    let mut blobs = BTreeMap::new();
    let mut items = Vec::new();
    let mut index = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let missing = || ContentError::Missing { digest: image.id.clone() };
        let config_size = content.size(&image.id)?.ok_or_else(missing)?;
        blobs.insert(image.id.clone(), Source::Stored(config_size));
        for layer in &image.layers {
            blobs.insert(layer.digest.clone(), Source::Stored(layer.size));
        }
        let bytes = manifest(&image.id, config_size, &image.layers)?;
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        blobs.insert(descriptor.digest.clone(), Source::Memory(bytes));
        index.extend(described(&descriptor, &image.names));
        for name in &image.names {
            if let (Some(tag), Some(top)) = (&name.tag, image.layers.last()) {
                let tags = repositories.entry(name.familiar_name()).or_default();
                tags.insert(tag.clone(), top.digest.hex().to_owned());
            }
        }
        items.push(item(image));
    }
    let mut out = out;
    let mut writer = Writer::new(&mut out);
    writer.begin(&Entry::new(b"blobs", Kind::Directory))?;
    writer.begin(&Entry::new(b"blobs/sha256", Kind::Directory))?;
    for (digest, source) in &blobs {
        match source {
            Source::Memory(bytes) => file(&mut writer, &path(digest), bytes)?,
            Source::Stored(size) => copy(&mut writer, content, digest, *size)?,
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        artifact_type: String::new(),
        manifests: index,
        subject: None,
        annotations: BTreeMap::new(),
    };
    file(&mut writer, "index.json", &serde_json::to_vec(&index)?)?;
    file(&mut writer, "manifest.json", &line(&items)?)?;
    file(&mut writer, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
    if !repositories.is_empty() {
        file(&mut writer, "repositories", &line(&repositories)?)?;
    }
    Ok(writer.finish()?)
}

/// JSON and a newline, as the reference writes these two.
fn line(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn item(image: &SavedImage) -> Item {
    let tags: Vec<String> = image.names.iter().map(Reference::familiar).collect();
    // Of the layers that several times are the same, one source is enough.
    let sources: BTreeSet<&Digest> = image.layers.iter().map(|layer| &layer.digest).collect();
    let source = |digest: &&Digest| image.layers.iter().find(|layer| layer.digest == **digest);
    Item {
        config: path(&image.id),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: image.layers.iter().map(|layer| path(&layer.digest)).collect(),
        layer_sources: sources
            .iter()
            .filter_map(source)
            .map(|layer| (layer.digest.to_string(), layer.clone()))
            .collect(),
    }
}

/// The index's entries of one image: one for each name, or one without.
fn described(descriptor: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let named = |name: &Reference| {
        let mut descriptor = descriptor.clone();
        let full = format!("{}:{}", name.name(), name.tag.as_deref().unwrap_or_default());
        descriptor.annotations.insert(NAME.to_owned(), full);
        descriptor.annotations.insert(REF.to_owned(), name.tag.clone().unwrap_or_default());
        descriptor
    };
    names.iter().map(named).collect()
}

fn file(writer: &mut Writer<'_>, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
    let kind = Kind::File { size: bytes.len() as u64, extents: None };
    Ok(writer.file(&Entry::new(name.as_bytes(), kind), bytes)?)
}

fn copy(writer: &mut Writer<'_>, content: &Content, digest: &Digest, size: u64) -> Result<(), WriteError> {
    let mut blob = content.open_blob(digest)?.take(size);
    writer.begin(&Entry::new(path(digest).as_bytes(), Kind::File { size, extents: None }))?;
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let count =
            blob.read(&mut buffer).map_err(|source| WriteError::Read { digest: digest.clone(), source })?;
        if count == 0 {
            return Err(WriteError::Short { digest: digest.clone(), size });
        }
        writer.data(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}
