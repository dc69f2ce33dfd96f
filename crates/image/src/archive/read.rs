//! Reads an unpacked archive of images.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use hull_oci::image::{Config, Descriptor, Document, DocumentError, Index, MAX_CONFIG, MAX_MANIFEST};
use hull_oci::reference::ReferenceError;
use hull_oci::{Digest, Platform, Reference};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::{NAME, REF};
use crate::snapshot::MAX_LAYERS;

/// Images in one archive at most.
const MAX_IMAGES: usize = 1000;
/// Bytes of all images' configurations together, which are held in memory.
const MAX_CONFIGS: usize = 64 << 20;
/// Indexes within indexes at most.
const MAX_DEPTH: usize = 4;

/// An image of an archive; its layers are still files of the archive.
#[derive(Debug, Clone)]
pub struct ArchivedImage {
    /// Digest of the configuration's bytes.
    pub id: Digest,
    /// With tags.
    pub names: Vec<Reference>,
    pub config: Config,
    pub config_bytes: Vec<u8>,
    /// Lowest first, one for each diff id of the configuration.
    pub layers: Vec<ArchivedLayer>,
}

/// A layer of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedLayer {
    /// For [`open_layer`].
    pub path: String,
    /// What the uncompressed archive must be.
    pub diff_id: Digest,
    /// What the file itself must be, where the archive says so.
    pub expected: Option<Expected>,
}

/// What a descriptor promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub digest: Digest,
    pub size: Option<u64>,
}

/// Why an archive holds no images that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the archive holds neither manifest.json nor index.json: it is no archive of images")]
    NoImages,
    #[error("the layout has no image {what:?} for this platform: name a tag or a digest of its index.json")]
    NotThere { what: String },
    #[error("the archive lacks \"{path}\"")]
    Missing { path: String },
    #[error("cannot read \"{path}\" of the archive")]
    Io { path: String, source: std::io::Error },
    #[error("\"{path}\" of the archive is no regular file")]
    Kind { path: String },
    #[error("\"{path}\" of the archive is longer than {limit} bytes")]
    Limit { path: String, limit: u64 },
    #[error("\"{path}\" of the archive is damaged")]
    Json { path: String, source: serde_json::Error },
    #[error("\"{path}\" of the archive is damaged")]
    Document { path: String, source: DocumentError },
    #[error("\"{path}\" of the archive holds bytes of {found}, not of {expected}")]
    Mismatch { path: String, expected: String, found: Digest },
    #[error("\"{name}\" in the archive is no name of an image")]
    Name { name: String, source: ReferenceError },
    #[error("the archive holds more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("cannot load an image for {os} on linux")]
    Os { os: String },
    #[error("the image \"{id}\" is described in two ways that differ")]
    Ambiguous { id: Digest },
}

type Result<T> = std::result::Result<T, ReadError>;

/// The images of the archive that is unpacked in `folder`. From indexes of several
/// platforms the best for `platform` is taken; one without a fitting image is
/// passed over.
pub fn read(folder: BorrowedFd<'_>, platform: &Platform) -> Result<Vec<ArchivedImage>> {
    if let Some(bytes) = document(folder, "manifest.json", MAX_MANIFEST)? {
        return docker(folder, &bytes);
    }
    match document(folder, "index.json", MAX_MANIFEST)? {
        Some(bytes) => oci(folder, &bytes, platform),
        None => Err(ReadError::NoImages),
    }
}

/// The one image of an OCI layout whose manifest has this digest, or, without one, that has this tag; without
/// either it is `latest`, or the only one.
pub fn find(folder: BorrowedFd<'_>, platform: &Platform, tag: &str, digest: &str) -> Result<ArchivedImage> {
    let index = parse_index("index.json", &required(folder, "index.json", MAX_MANIFEST)?)?;
    let is_meant = |descriptor: &&Descriptor| match (tag, digest) {
        ("", "") => descriptor.annotations.get(REF).is_some_and(|known| known == "latest"),
        (tag, "") => descriptor.annotations.get(REF).is_some_and(|known| known == tag),
        (_, digest) => descriptor.digest.to_string() == digest,
    };
    let only = || index.manifests.first().filter(|_| (tag, digest) == ("", "") && index.manifests.len() == 1);
    let missing = || ReadError::NotThere { what: if digest.is_empty() { tag } else { digest }.to_owned() };
    let found = index.manifests.iter().find(is_meant).or_else(only).ok_or_else(missing)?;
    follow(folder, found, platform, MAX_DEPTH)?.ok_or_else(missing)
}

/// Opens a layer's file for reading, wherever the archive's own links lead.
pub fn open_layer(folder: BorrowedFd<'_>, layer: &ArchivedLayer) -> Result<File> {
    open(folder, &layer.path)?.ok_or_else(|| ReadError::Missing { path: layer.path.clone() })
}

/// Resolves inside the folder, looks what it is, and only then opens it: an
/// archive may hold a FIFO that would block, or a device.
fn open(folder: BorrowedFd<'_>, path: &str) -> Result<Option<File>> {
    let io = |errno: Errno| ReadError::Io { path: path.to_owned(), source: errno.into() };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found: OwnedFd = match hull_sys::root::open_inside(folder, Path::new(path), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        result => result.map_err(io)?,
    };
    let stat = rustix::fs::fstat(&found).map_err(io)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ReadError::Kind { path: path.to_owned() });
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
    Ok(Some(File::from(file)))
}

fn document(folder: BorrowedFd<'_>, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(folder, path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    if bytes.len() > limit {
        return Err(ReadError::Limit { path: path.to_owned(), limit: limit as u64 });
    }
    Ok(Some(bytes))
}

fn required(folder: BorrowedFd<'_>, path: &str, limit: usize) -> Result<Vec<u8>> {
    document(folder, path, limit)?.ok_or_else(|| ReadError::Missing { path: path.to_owned() })
}

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn items(bytes: &[u8]) -> Result<Vec<Item>> {
    let path = "manifest.json".to_owned();
    let items: Vec<Item> =
        serde_json::from_slice(bytes).map_err(|source| ReadError::Json { path, source })?;
    limit(items.len(), "images", MAX_IMAGES)?;
    Ok(items)
}

fn limit(count: usize, what: &'static str, limit: usize) -> Result<()> {
    if count > limit { Err(ReadError::TooMany { what, limit }) } else { Ok(()) }
}

fn docker(folder: BorrowedFd<'_>, bytes: &[u8]) -> Result<Vec<ArchivedImage>> {
    let mut images = Vec::new();
    for item in items(bytes)? {
        let bytes = required(folder, &item.config, MAX_CONFIG)?;
        let id = Digest::sha256(&bytes);
        if let Some(told) = told_digest(&item.config)
            && told != id.hex()
        {
            let expected = told.to_owned();
            return Err(ReadError::Mismatch { path: item.config, expected, found: id });
        }
        let names = item.repo_tags.unwrap_or_default();
        let names = names.iter().map(|name| parse_name(name)).collect::<Result<_>>()?;
        let layers = item.layers.unwrap_or_default().into_iter().map(|path| {
            // Where a path is a digest, the file must be what it says.
            let expected = path
                .strip_prefix("blobs/sha256/")
                .and_then(|hex| Digest::from_hex(hull_oci::Algorithm::Sha256, hex).ok())
                .map(|digest| Expected { digest, size: None });
            (path, expected)
        });
        keep(&mut images, assemble(&item.config, id, bytes, names, layers.collect())?)?;
    }
    Ok(images)
}

/// The digest in a configuration's path: `HEX.json`, `blobs/sha256/HEX`.
fn told_digest(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.strip_suffix(".json").unwrap_or(name);
    hull_oci::reference::is_identifier(name).then_some(name)
}

fn parse_name(name: &str) -> Result<Reference> {
    let reference =
        Reference::parse(name).map_err(|source| ReadError::Name { name: name.to_owned(), source })?;
    Ok(reference.with_default_tag())
}

/// Puts an image together and checks that its parts agree.
fn assemble(
    path: &str,
    id: Digest,
    config_bytes: Vec<u8>,
    names: Vec<Reference>,
    layers: Vec<(String, Option<Expected>)>,
) -> Result<ArchivedImage> {
    let document = |source| ReadError::Document { path: path.to_owned(), source };
    let config = Config::parse(&config_bytes).map_err(document)?;
    config.check_layers(layers.len()).map_err(document)?;
    limit(layers.len(), "layers in one image", MAX_LAYERS)?;
    if !config.os.is_empty() && config.os != "linux" {
        return Err(ReadError::Os { os: config.os });
    }
    let pairs = layers.into_iter().zip(&config.rootfs.diff_ids);
    let layers = pairs
        .map(|((path, expected), diff_id)| ArchivedLayer { path, diff_id: diff_id.clone(), expected })
        .collect();
    Ok(ArchivedImage { id, names, config, config_bytes, layers })
}

fn oci(folder: BorrowedFd<'_>, bytes: &[u8], platform: &Platform) -> Result<Vec<ArchivedImage>> {
    let index = parse_index("index.json", bytes)?;
    limit(index.manifests.len(), "images", MAX_IMAGES)?;
    let mut images: Vec<ArchivedImage> = Vec::new();
    for descriptor in &index.manifests {
        let names = names(descriptor)?;
        let Some(mut image) = follow(folder, descriptor, platform, MAX_DEPTH)? else { continue };
        image.names = names;
        keep(&mut images, image)?;
    }
    Ok(images)
}

/// Adds an image; one with several names can be listed once for each of them.
fn keep(images: &mut Vec<ArchivedImage>, image: ArchivedImage) -> Result<()> {
    match images.iter_mut().find(|known| known.id == image.id) {
        None => {
            let held: usize = images.iter().map(|known| known.config_bytes.len()).sum();
            limit(held + image.config_bytes.len(), "bytes of configurations", MAX_CONFIGS)?;
            images.push(image);
        }
        Some(known) if known.layers == image.layers => {
            for name in image.names {
                if !known.names.contains(&name) {
                    known.names.push(name);
                }
            }
        }
        Some(known) => return Err(ReadError::Ambiguous { id: known.id.clone() }),
    }
    Ok(())
}

fn parse_index(path: &str, bytes: &[u8]) -> Result<Index> {
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => Ok(index),
        Ok(Document::Manifest(_)) => {
            Err(ReadError::Document { path: path.to_owned(), source: DocumentError::Empty })
        }
        Err(source) => Err(ReadError::Document { path: path.to_owned(), source }),
    }
}

/// The names that a layout's index gives to an image. A mere tag names nothing:
/// which repository's it is, the layout does not say.
fn names(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    if let Some(name) = descriptor.annotations.get(NAME) {
        return Ok(vec![parse_name(name)?]);
    }
    match descriptor.annotations.get(REF) {
        Some(name) if name.contains([':', '/']) => Ok(vec![parse_name(name)?]),
        _ => Ok(Vec::new()),
    }
}

/// From a descriptor down to one image, or to none that fits the platform.
fn follow(
    folder: BorrowedFd<'_>,
    descriptor: &Descriptor,
    platform: &Platform,
    depth: usize,
) -> Result<Option<ArchivedImage>> {
    if depth == 0 {
        return Err(ReadError::TooMany { what: "indexes within each other", limit: MAX_DEPTH });
    }
    if descriptor.platform.as_ref().is_some_and(|have| platform.rank(have).is_none()) {
        return Ok(None);
    }
    let (path, bytes) = blob(folder, descriptor, MAX_MANIFEST)?;
    let document = Document::parse(&bytes);
    let document = document.map_err(|source| ReadError::Document { path: path.clone(), source })?;
    let manifest = match document {
        Document::Index(index) => {
            return match index.select(platform) {
                Some(chosen) => follow(folder, chosen, platform, depth - 1),
                None => Ok(None),
            };
        }
        Document::Manifest(manifest) => manifest,
    };
    let (_, config) = blob(folder, &manifest.config, MAX_CONFIG)?;
    let layers = manifest.layers.iter().map(|layer| {
        let expected = Expected { digest: layer.digest.clone(), size: Some(layer.size) };
        (blob_path(&layer.digest), Some(expected))
    });
    let id = manifest.config.digest.clone();
    assemble(&path, id, config, Vec::new(), layers.collect()).map(Some)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A document by its descriptor, checked against it.
fn blob(folder: BorrowedFd<'_>, descriptor: &Descriptor, limit: usize) -> Result<(String, Vec<u8>)> {
    let path = blob_path(&descriptor.digest);
    let bytes = required(folder, &path, limit)?;
    let mut hasher = hull_oci::Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    let found = hasher.finish();
    if found != descriptor.digest || bytes.len() as u64 != descriptor.size {
        let expected = format!("{} ({} bytes)", descriptor.digest, descriptor.size);
        return Err(ReadError::Mismatch { path, expected, found });
    }
    Ok((path, bytes))
}

/// For fuzzing: whatever the bytes are, parsing ends and does not panic.
pub fn fuzz_docker(data: &[u8]) {
    for item in items(data).into_iter().flatten() {
        let _ = told_digest(&item.config);
        for name in item.repo_tags.iter().flatten() {
            let _ = parse_name(name);
        }
    }
}

/// See [`fuzz_docker`].
pub fn fuzz_oci(data: &[u8]) {
    if let Ok(index) = parse_index("index.json", data) {
        for descriptor in &index.manifests {
            let _ = names(descriptor);
        }
        let _ = index.select(&Platform::host());
    }
}
