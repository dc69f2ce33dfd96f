//! What can go wrong in the engine, and of which class it is.
//!
//! Every error says what, which and why; the class is all that the daemon needs to choose a
//! status, so no HTTP is known here. Where Docker's users grep for a text, `Display` is that
//! text.

use std::io;
use std::path::PathBuf;

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
    #[error("No such image: {0}")]
    NoSuchImage(String),
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
    /// The process could not be started; the kind tells the exit code (125, 126, 127).
    #[error("{0}")]
    Start(hull_runtime::bundle::StartError),
    #[error("{call}: {path}")]
    Io { call: &'static str, path: PathBuf, source: io::Error },
    #[error("state database: {what}")]
    Database { what: String, source: rusqlite::Error },
    #[error("state database: {what}: written by a newer build (schema {found}, this build knows {known})")]
    NewerSchema { what: String, found: u32, known: u32 },
    #[error("spawner: {0}")]
    Spawner(String),
    /// The task that owns the thing has ended: the daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Error {
    /// The class of the error, for whoever has to answer a caller.
    pub fn class(&self) -> Class {
        match self {
            Error::NoSuchContainer(_) | Error::NoSuchExec(_) | Error::NoSuchImage(_) => Class::NotFound,
            Error::AmbiguousId(_) | Error::Invalid(_) => Class::Invalid,
            Error::Conflict(_) => Class::Conflict,
            Error::NotImplemented(_) => Class::NotImplemented,
            Error::NotModified(_) => Class::NotModified,
            Error::Start(error) => match error.kind {
                hull_runtime::bundle::StartErrorKind::Host => Class::Internal,
                _ => Class::Invalid,
            },
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Class::Unavailable,
            Error::Io { .. } | Error::Database { .. } | Error::NewerSchema { .. } => Class::Internal,
            Error::Spawner(_) | Error::ShuttingDown => Class::Unavailable,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
