//! What is asked of a shim, as plain data: a [`Bundle`] for a container, an [`Exec`] for one
//! more process in it.
//!
//! Both travel as JSON in a sealed memfd next to the descriptors they name (see
//! [`crate::protocol`]). Every field that is not in the first version must have a default,
//! because shims of old builds and daemons of new ones read each other's documents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hull_oci::runtime::{IdMapping, Linux, Mount, Process, Spec};
use serde::{Deserialize, Serialize};

/// A container to run. The OCI spec says what the process sees; the other fields say what the
/// spec has no words for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// The container's id, for messages only.
    pub id: String,
    /// `spec.root` gives `readonly` alone; where the files are is `rootfs`.
    pub spec: Spec,
    pub rootfs: Rootfs,
    /// What the spec's mounts show where that is not simply their `source`, by destination.
    #[serde(default)]
    pub sources: BTreeMap<PathBuf, Source>,
    pub stdio: Stdio,
    /// Where the output is kept; `None` keeps nothing.
    #[serde(default)]
    pub log: Option<LogSettings>,
    /// Run a reaping pid 1 of ours (`--init`): the process becomes its child.
    #[serde(default)]
    pub init: bool,
}

/// Where the container's root file system comes from. Mounted by the container's first process
/// inside its own mount namespace; the host's table never sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootfs {
    /// `lower` from the top layer to the base; without an upper layer the mount is read-only.
    Overlay {
        lower: Vec<PathBuf>,
        #[serde(default)]
        upper: Option<Upper>,
    },
    /// A folder of the host, bound.
    Directory(PathBuf),
}

/// What a mount shows, in words that the spec has not got. `path` is found by descriptor when the
/// container starts, and no link leads out of what it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// What is at `path` inside of the folder that the spec's `source` names.
    Inside { path: PathBuf },
    /// A file system, read-only without `upper`: `lower` from the top layer to the base, and of that
    /// what is at `path`; empty is all. Of an absolute `path` links are followed as in a container that
    /// has these layers as its root.
    Layers {
        lower: Vec<PathBuf>,
        path: PathBuf,
        #[serde(default)]
        upper: Option<Upper>,
    },
    /// A file in memory, that never was on a disk. Whose it is: as the container numbers its users.
    File { contents: Vec<u8>, mode: u32, uid: u32, gid: u32 },
}

/// The writable layer: `work` is overlayfs' scratch folder on the same file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Nothing of this layer has to survive a power cut: fsync(2) inside does nothing, and the
    /// mount's end does not write the host's whole file system to its disk (overlayfs.rst,
    /// "Volatile mount"). Without the new mount API it is mounted as ever.
    #[serde(default)]
    pub volatile: bool,
}

/// The files of a container that does not run, for a worker to look at or to write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    pub rootfs: Rootfs,
    /// Bind mounts of the container's spec, in their order.
    pub mounts: Vec<Mount>,
    /// As the bundle's.
    #[serde(default)]
    pub sources: BTreeMap<PathBuf, Source>,
    /// The root is read-only to the container.
    pub read_only: bool,
    /// Without it the container's layer is not written to: what is made goes with the worker. With
    /// it nobody else may have mounted the layer.
    pub writable: bool,
    /// The maps of the container's user namespace, where it has one: a bind that is not mapped has the
    /// host's ids, and the files are to have the container's.
    #[serde(default)]
    pub uids: Vec<IdMapping>,
    #[serde(default)]
    pub gids: Vec<IdMapping>,
}

/// What the process has as its standard streams. Whether it is a terminal says
/// `spec.process.terminal`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Keep standard input open for attached clients; else it is /dev/null.
    pub stdin: bool,
    /// Close standard input when the first attached client that writes has left.
    pub stdin_once: bool,
}

/// The shim's own log of a container's output (format: [`crate::log`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// The folder of the segments, absolute on the host.
    pub dir: PathBuf,
    /// Bytes after which a segment is closed and the next begun.
    pub segment_bytes: u64,
    /// Segments kept; older ones are deleted.
    pub segments: u32,
}

/// One more process in a running container. Namespaces are joined through the pidfd of the
/// container's first process that travels beside this document, never by a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The exec's own id, for messages only.
    pub id: String,
    pub process: Process,
    /// Of the container's spec: namespaces to join, cgroup, seccomp.
    pub linux: Linux,
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0–255 as given to exit(2), or 128 + the signal's number.
    pub code: i32,
    /// The kernel killed a process of this container's cgroup for want of memory.
    pub oom: bool,
    /// Nanoseconds since the epoch, when the shim reaped the process.
    pub at: i64,
}

/// Why a container or exec could not be started; `code` is what `docker run` exits with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    pub kind: StartErrorKind,
    /// One line without a final full stop, in the reference's words where it has some:
    /// `exec: "nosuch": executable file not found in $PATH`.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartErrorKind {
    /// The program is not there: exit code 127.
    NotFound,
    /// It is there but cannot be executed: exit code 126.
    NotExecutable,
    /// Anything asked for in the bundle that is wrong (user, mount source, working directory):
    /// exit code 125 from `docker run`, 126 from `docker exec`.
    Invalid,
    /// The host failed us: exit code 125.
    Host,
}
