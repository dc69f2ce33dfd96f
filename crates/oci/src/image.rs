//! Manifests, indexes and image configurations (image-spec `manifest.md`,
//! `image-index.md`, `config.md`, and what Docker's own formats add to them).
//!
//! The bytes as received are the truth: a digest is always of them. These types are for
//! reading, and for writing documents that Hull makes itself. Go programs write `null`
//! for an empty list or map, so `null` reads as empty everywhere; where absent and empty
//! differ (`Cmd`, `Entrypoint`), there is an `Option`.
//!
//! A document that could be read as a manifest by one program and as an index by
//! another is refused (CVE-2021-41190).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Platform;
use crate::digest::{Digest, Hasher};

/// Media types this engine reads or writes.
pub mod media_type {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Asked for when fetching a manifest, best first.
    pub const MANIFESTS: &[&str] = &[OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
}

/// Largest manifest or index, in bytes (distribution-spec recommends at least 4 MiB).
pub const MAX_MANIFEST: usize = 4 << 20;
/// Largest image configuration, in bytes.
pub const MAX_CONFIG: usize = 8 << 20;

/// `null` reads as the default.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Go's `map[string]struct{}`, written `{"80/tcp": {}}`, is a set.
mod key_set {
    use super::*;
    use serde::ser::SerializeMap;

    #[derive(Deserialize, Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(set.len()))?;
        for key in set {
            map.serialize_entry(key, &Empty {})?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, Option<Empty>>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

/// Why bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the {kind} has {size} bytes, more than the allowed {limit}")]
    TooLarge { kind: &'static str, size: usize, limit: usize },
    #[error("the {kind} is not valid")]
    Json {
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the manifest has both {first:?} and {second:?}: it could be read in two ways")]
    Ambiguous { first: &'static str, second: &'static str },
    #[error("the manifest calls itself {media_type:?} but has the fields of {fields}")]
    WrongType { media_type: String, fields: &'static str },
    #[error("manifests of schema version {version} are not supported")]
    Schema { version: i64 },
    #[error("the manifest has neither a config with layers nor manifests")]
    Empty,
    #[error("the image has {layers} layers but its configuration names {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
}

/// Content and how to check it (image-spec `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64, if it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

impl Descriptor {
    /// Describes bytes in memory.
    pub fn of(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: String::new(),
        }
    }
}

/// One image: its configuration and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    #[serde(deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The image that suits `platform` best; the first of equals. An entry without a
    /// platform is taken only if nothing else fits; attestations never are.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(have) => platform.rank(have),
            None => Some(usize::MAX),
        };
        self.manifests
            .iter()
            .filter_map(|entry| Some((rank(entry)?, entry)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }
}

/// What a registry or an archive may keep under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// The fields that decide how a document is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: i64,
    #[serde(default)]
    media_type: String,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a manifest or an index of either family, told apart by their fields; a
    /// `mediaType` inside must agree.
    pub fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
        const KIND: &str = "manifest";
        let shape: Shape = parse_json(KIND, bytes, MAX_MANIFEST)?;
        if shape.schema_version == 1 || shape.fs_layers.is_some() {
            return Err(DocumentError::Schema { version: 1 });
        }
        if shape.schema_version != 2 {
            return Err(DocumentError::Schema { version: shape.schema_version });
        }
        if shape.manifests.is_some() {
            for (present, first) in [(&shape.layers, "layers"), (&shape.config, "config")] {
                if present.is_some() {
                    return Err(DocumentError::Ambiguous { first, second: "manifests" });
                }
            }
            let allowed = ["", media_type::OCI_INDEX, media_type::DOCKER_INDEX];
            if !allowed.contains(&shape.media_type.as_str()) {
                return Err(DocumentError::WrongType { media_type: shape.media_type, fields: "an index" });
            }
            return Ok(Document::Index(parse_json(KIND, bytes, MAX_MANIFEST)?));
        }
        if shape.config.is_none() {
            return Err(DocumentError::Empty);
        }
        let allowed = ["", media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];
        if !allowed.contains(&shape.media_type.as_str()) {
            return Err(DocumentError::WrongType {
                media_type: shape.media_type,
                fields: "an image manifest",
            });
        }
        Ok(Document::Manifest(Box::new(parse_json(KIND, bytes, MAX_MANIFEST)?)))
    }
}

fn parse_json<'a, T: Deserialize<'a>>(
    kind: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<T, DocumentError> {
    if bytes.len() > limit {
        return Err(DocumentError::TooLarge { kind, size: bytes.len(), limit });
    }
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { kind, source })
}

/// An image's configuration: how to run it and what it is made of. The image id is the
/// digest of its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub variant: String,
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_version: String,
    #[serde(
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_features: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub config: RunConfig,
    #[serde(deserialize_with = "null_default")]
    pub rootfs: RootFs,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub history: Vec<History>,
    /// RFC 3339, as written by whoever made the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub author: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub comment: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub docker_version: String,
    /// The id of the container the image was committed from.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub container: String,
}

impl Config {
    pub fn parse(bytes: &[u8]) -> Result<Config, DocumentError> {
        parse_json("image configuration", bytes, MAX_CONFIG)
    }

    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }

    /// The snapshots this image is made of, lowest first.
    pub fn chain_ids(&self) -> Vec<Digest> {
        chain_ids(&self.rootfs.diff_ids)
    }

    /// Refuses an image whose manifest and configuration disagree on the layers.
    pub fn check_layers(&self, layers: usize) -> Result<(), DocumentError> {
        let diff_ids = self.rootfs.diff_ids.len();
        if layers == diff_ids {
            return Ok(());
        }
        Err(DocumentError::LayerCount { layers, diff_ids })
    }
}

/// `config`: the defaults of a container made from the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub hostname: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub domainname: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub user: String,
    /// `80/tcp`.
    #[serde(with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_default")]
    pub args_escaped: bool,
    /// Absolute paths.
    #[serde(with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_default")]
    pub network_disabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub stop_signal: String,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub shell: Vec<String>,
}

/// `HEALTHCHECK`: times are in nanoseconds, zero means the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `[]` inherits, `["NONE"]` disables, `["CMD", …]`, `["CMD-SHELL", command]`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The uncompressed layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// How one layer, or one change without a layer, came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub created_by: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub author: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub comment: String,
    /// No layer belongs to this entry.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_default")]
    pub empty_layer: bool,
}

/// The name of each stack of layers (image-spec `config.md#layer-chainid`): the first is
/// its diff id, the others the digest of the chain below, a space, and the diff id.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let mut hasher = Hasher::new(below.algorithm());
                hasher.update(format!("{below} {diff_id}").as_bytes());
                hasher.finish()
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
