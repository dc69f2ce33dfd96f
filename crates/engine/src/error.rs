//! What can go wrong in the engine, and of which class it is.
//!
//! Every error says what, which and why; the class is all that the daemon needs to choose a
//! status, so no HTTP is known here. Where Docker's users grep for a text, `Display` is that
//! text.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hull_runtime::bundle::{StartError, StartErrorKind};

/// Independent of any transport; the daemon maps each to one HTTP status in one `match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The named thing does not exist.
    NotFound,
    /// It exists, but its state or a name in use forbids the request.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// Nothing to do: the thing is already so. Not a failure for most clients.
    NotModified,
    /// Not allowed to this caller or by this build.
    Forbidden,
    /// Valid, but this build cannot do it yet.
    NotImplemented,
    /// The host lacks something right now (disk, memory, a broken spawner).
    Unavailable,
    /// A fault of ours, or of the host where no better word fits.
    Internal,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// Of an exec that has ended; the complete sentence.
    #[error("{0}")]
    NoSuchProcess(String),
    #[error("No such image: {0}")]
    NoSuchImage(String),
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// Several networks' ids begin with the prefix.
    #[error("network {key} is ambiguous ({matches} matches found based on ID prefix)")]
    AmbiguousNetwork { key: String, matches: usize },
    /// Something else that a request names and that is not there; the complete sentence.
    #[error("{0}")]
    NotFound(String),
    /// The complete sentence: what is not allowed, and why.
    #[error("{0}")]
    Forbidden(String),
    /// What the host could not do for a network; the complete sentence. 500 in the reference.
    #[error("{0}")]
    Network(String),
    /// What the host could not do for a volume; the complete sentence. 500 in the reference.
    #[error("{0}")]
    Volume(String),
    /// Several ids begin with the prefix.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// The complete sentence, in the reference's words.
    #[error("{0}")]
    Conflict(String),
    /// The complete sentence: what is wrong with which part of the request.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotImplemented(String),
    /// Already started, already stopped, …
    #[error("{0}")]
    NotModified(String),
    /// The caller's words for ps were not understood; the complete sentence. 500 in the reference.
    #[error("{0}")]
    Ps(String),
    /// An archive could not be put into a container or made of its files; the complete sentence. 500
    /// in the reference, even where the archive is to blame.
    #[error("{0}")]
    Archive(String),
    /// Something could not be had from another host.
    #[error(transparent)]
    Fetch { source: Box<hull_fetch::Error> },
    /// A registry does not give what it was asked for; see its kind. 500 in the reference.
    #[error(transparent)]
    Registry(Arc<hull_registry::client::Error>),
    /// What several have waited for has failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// The reference answers this with 500, not 409.
    #[error("Container {id} is not paused")]
    NotPaused { id: String },
    /// The process could not be started; the kind tells the exit code (125, 126, 127).
    #[error("{0}")]
    Start(StartError),
    #[error("{call} {path}")]
    Io { call: &'static str, path: PathBuf, source: io::Error },
    /// A system call failed; its own text names it with its arguments.
    #[error("{doing}")]
    System { doing: String, source: hull_sys::Error },
    #[error("state database {path}")]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error(
        "the state database {path} is damaged ({what}). Nothing has been changed. Restore it from a copy, or move it \
         and the files {path}-wal and {path}-shm beside it away and start again: images and layers on disk stay, but \
         their names and all container records are then lost"
    )]
    CorruptDatabase { path: PathBuf, what: String },
    #[error(
        "the state database {path} was written by a newer build (schema {found}, this build knows up to {known}): \
         start that build, or use another data root"
    )]
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is an SQLite database of another program: use another data root")]
    ForeignDatabase { path: PathBuf },
    /// A row that cannot be read although the database is whole.
    #[error("the state database holds a record that cannot be read: {table} {id}")]
    Record { table: &'static str, id: String, source: serde_json::Error },
    #[error("another daemon uses the data root {path}")]
    DataRootInUse { path: PathBuf },
    #[error("spawner: {what}")]
    Spawner { what: String, source: Option<Box<hull_runtime::spawner::Error>> },
    #[error("speak to the container's shim")]
    Shim { source: hull_runtime::protocol::Error },
    #[error("the writable layer of the container")]
    Snapshot { source: hull_image::snapshot::SnapshotError },
    #[error("read the container's changes")]
    Changes { source: hull_image::layer::ChangesError },
    #[error("read the container's files")]
    Lookup { source: crate::rootfs::LookupError },
    #[error("the container's cgroup")]
    Cgroup { source: hull_runtime::cgroup::Error },
    #[error("the container's log")]
    Log { source: hull_runtime::log::ReadError },
    /// A volume did not get its first content.
    #[error("fill volume {volume}: {reason}")]
    Fill { volume: String, reason: String },
    #[error(transparent)]
    Image(Box<crate::images::ImageError>),
    /// A program, package or path of this host could not be captured.
    #[error(transparent)]
    Capture(Box<crate::capture::CaptureError>),
    /// The task that owns the thing has ended: the daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Error {
    /// The class of the error, for whoever has to answer a caller.
    pub fn class(&self) -> Class {
        match self {
            Error::NoSuchContainer(_)
            | Error::NoSuchExec(_)
            | Error::NoSuchProcess(_)
            | Error::NoSuchImage(_)
            | Error::NoSuchNetwork(_)
            | Error::NoSuchVolume(_)
            | Error::NotFound(_) => Class::NotFound,
            Error::Forbidden(_) => Class::Forbidden,
            Error::AmbiguousId(_) | Error::AmbiguousNetwork { .. } | Error::Invalid(_) => Class::Invalid,
            Error::Conflict(_) => Class::Conflict,
            Error::NotImplemented(_) => Class::NotImplemented,
            Error::NotModified(_) => Class::NotModified,
            Error::Start(error) => match error.kind {
                StartErrorKind::NotFound | StartErrorKind::NotExecutable => Class::Invalid,
                // The reference answers a bad user or mount source at start with 500.
                StartErrorKind::Invalid | StartErrorKind::Host => Class::Internal,
            },
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Class::Unavailable,
            Error::NotPaused { .. }
            | Error::Ps(_)
            | Error::Network(_)
            | Error::Archive(_)
            | Error::Fetch { .. }
            | Error::Registry(_)
            | Error::Volume(_)
            | Error::Io { .. }
            | Error::System { .. }
            | Error::Database { .. }
            | Error::CorruptDatabase { .. }
            | Error::NewerSchema { .. }
            | Error::ForeignDatabase { .. }
            | Error::Record { .. }
            | Error::DataRootInUse { .. }
            | Error::Shim { .. }
            | Error::Snapshot { .. }
            | Error::Changes { .. }
            | Error::Lookup { .. }
            | Error::Fill { .. }
            | Error::Cgroup { .. }
            | Error::Log { .. } => Class::Internal,
            Error::Shared(error) => error.class(),
            Error::Capture(error) => error.class(),
            Error::Image(error) if error.is_input() => Class::Invalid,
            Error::Image(_) => Class::Internal,
            Error::Spawner { .. } | Error::ShuttingDown => Class::Unavailable,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
