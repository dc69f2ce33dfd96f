//! A container as its record keeps it and as everybody else sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hull_network::record::{Attachment, Endpoint};
use serde::{Deserialize, Serialize};

use super::phase::{Exit, Life, Phase, Time};
use super::settings::{ImageRef, Settings};

/// What the database keeps of a container. Fields added later need a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    pub name: String,
    pub created: Time,
    pub image: ImageRef,
    /// With the image's configuration merged in.
    pub settings: Arc<Settings>,
    /// The API's document of the request, given back as it is.
    pub request: Arc<str>,
    #[serde(default)]
    pub life: Life,
    #[serde(default)]
    pub started: Option<Time>,
    #[serde(default)]
    pub finished: Option<Time>,
    /// The last start failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Its own volumes go with it (`rm -v`).
    #[serde(default)]
    pub take_volumes: bool,
}

/// Why the last start failed, and the exit code that `docker run` and `inspect` give for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    pub code: i32,
}

/// Paths of the root file system's parts on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsPaths {
    /// From the top layer to the base.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// A container at one moment: immutable, so reading it waits for nobody.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// 64 hex digits.
    pub id: String,
    /// Without a leading slash.
    pub name: String,
    pub created: Time,
    pub image: ImageRef,
    /// With the image's configuration merged in.
    pub settings: Arc<Settings>,
    /// The program: the first of entrypoint and cmd.
    pub path: String,
    /// The rest of them.
    pub args: Vec<String>,
    /// The API's document of the request.
    pub request: Arc<str>,
    pub phase: Phase,
    pub started: Option<Time>,
    pub finished: Option<Time>,
    /// The last exit. Absent while a process lives.
    pub exit: Option<Exit>,
    /// Of the last exit, or of a failed start; 0 while running.
    pub exit_code: i32,
    /// The last start's error, or empty.
    pub error: String,
    /// By the restart policy, since somebody last started it.
    pub restart_count: u32,
    /// The folder of the log's segments.
    pub log_dir: PathBuf,
    pub rootfs: RootfsPaths,
    pub hostname_path: PathBuf,
    pub hosts_path: PathBuf,
    pub resolv_path: PathBuf,
    /// Ids of execs that exist, running or not yet started.
    pub execs: Vec<String>,
    pub warnings: Vec<String>,
    /// Where the files of its volumes are, by name.
    pub volumes: BTreeMap<String, PathBuf>,
    /// One for each network that it wants, the mode's own first.
    pub places: Vec<Place>,
}

/// A network that a container wants to be on.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Its `network` is the network's name.
    pub attachment: Attachment,
    /// The network's id, where it exists.
    pub id: Option<String>,
    /// What the container has of it while it runs.
    pub endpoint: Option<Endpoint>,
}

impl View {
    /// Of the first process, where there is one.
    pub fn pid(&self) -> Option<i32> {
        self.phase.live().map(|live| live.pid)
    }

    pub fn is_running(&self) -> bool {
        self.phase.live().is_some()
    }

    /// The host name inside: what was asked for, else the first twelve digits of the id.
    pub fn hostname(&self) -> &str {
        if self.settings.hostname.is_empty() { short(&self.id) } else { &self.settings.hostname }
    }
}

/// The twelve digits that people see.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
