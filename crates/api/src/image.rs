//! Images: lists, one in full, its history, and what removing gave back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::create::{Healthcheck, string_or_list};

/// A row of `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSummary {
    /// -1 where it was not counted.
    pub containers: i64,
    /// Seconds since the epoch.
    pub created: i64,
    pub id: String,
    pub labels: Option<BTreeMap<String, String>>,
    pub parent_id: String,
    pub repo_digests: Option<Vec<String>>,
    pub repo_tags: Option<Vec<String>>,
    /// Bytes in layers that another image has too; -1 where it was not reckoned.
    pub shared_size: i64,
    /// Bytes of all layers, unpacked.
    pub size: i64,
}

/// `GET /images/NAME/json`, as 1.52 and later print it; older versions have more names, see
/// [`crate::compat`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    pub size: i64,
    pub graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
    pub config: ImageConfig,
}

/// Where the layers are; keys as the reference's overlay driver names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GraphDriver {
    pub data: Option<BTreeMap<String, String>>,
    pub name: String,
}

/// The layers, from the base up, by diff id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFs {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What only this host knows of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageMetadata {
    pub last_tag_time: String,
}

/// The image's part of a container's configuration, as 1.52 and later print it: without what
/// is not set. Older versions have more names, see [`crate::compat`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "crate::is_false")]
    pub args_escaped: bool,
    #[serde(deserialize_with = "string_or_list", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "string_or_list", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

/// `{}`: the value of a set written as a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A row of `GET /images/NAME/history`, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HistoryEntry {
    pub comment: String,
    /// Seconds since the epoch.
    pub created: i64,
    pub created_by: String,
    /// `<missing>` for all but the image itself.
    pub id: String,
    pub size: i64,
    pub tags: Option<Vec<String>>,
}

/// One thing that removing or pruning an image did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeletedImage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub untagged: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deleted: String,
}

/// `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImagesPruned {
    pub images_deleted: Option<Vec<DeletedImage>>,
    pub space_reclaimed: u64,
}

/// `POST /hull/v1/images/capture`: make an image of programs, packages and paths of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaptureRequest {
    /// The name the image gets.
    pub name: String,
    /// Programs by absolute path or by name on the search path.
    pub programs: Vec<String>,
    /// Installed packages, taken whole with what they depend on.
    pub packages: Vec<String>,
    /// `PATH` or `HOST:INSIDE`.
    pub paths: Vec<String>,
}

/// The answer to a capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Captured {
    pub id: String,
    pub files: u64,
    /// Bytes.
    pub size: u64,
}

/// `POST /hull/v1/images/bootstrap`: make an image of a distribution's package archive. The answer tells what goes
/// on as a build's does, the image's id at last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BootstrapRequest {
    /// The name the image gets.
    pub name: String,
    /// Empty: the name's tag.
    pub suite: String,
    /// `essential`, `minbase`, `important` or `standard`; empty is `minbase`.
    pub variant: String,
    /// Packages besides.
    pub include: Vec<String>,
    /// The archive's address; empty: the host's own.
    pub mirror: String,
    /// A keyring of OpenPGP, binary or in ASCII; empty: the host's own.
    pub keyring: Vec<u8>,
}

/// The answer to `POST /commit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Committed {
    /// Of the image.
    pub id: String,
}
