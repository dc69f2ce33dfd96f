//! Why a capture failed. Each error names the file or package it is about.

use std::io;
use std::path::{Path, PathBuf};

use crate::Class;

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("no program, package or path to capture was named")]
    Nothing,
    #[error("program {name:?} is not found in {search:?}")]
    NoProgram { name: String, search: Vec<PathBuf> },
    #[error("{path:?} is neither a program nor a script")]
    NotAProgram { path: PathBuf },
    #[error("{path:?} needs the library {library:?}, which is not found")]
    NoLibrary { library: String, path: PathBuf },
    #[error("package {package:?} is not installed on this host")]
    NoPackage { package: String },
    #[error("package {package:?} depends on {dependency:?}, which is not installed")]
    NoDependency { package: String, dependency: String },
    #[error("{path:?} cannot be captured: it belongs to the running system")]
    Pseudo { path: PathBuf },
    #[error("{path:?} is not an absolute path without '..'")]
    NotAbsolute { path: PathBuf },
    #[error("{path:?} leads through more than {limit} symbolic links")]
    Loop { path: PathBuf, limit: usize },
    #[error("the capture has more than {limit} files")]
    TooMany { limit: usize },
    #[error("{path:?} changed while it was read")]
    Changed { path: PathBuf },
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the layer")]
    Write(#[from] hull_image::tar::WriteError),
}

impl CaptureError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> CaptureError {
        let path = path.to_owned();
        move |source| CaptureError::Read { path, source }
    }

    /// What kind of failure it is, for the status of an answer.
    pub fn class(&self) -> Class {
        match self {
            CaptureError::NoProgram { .. } | CaptureError::NoPackage { .. } => Class::NotFound,
            CaptureError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Class::NotFound,
            CaptureError::Read { .. } | CaptureError::Write(_) | CaptureError::Changed { .. } => {
                Class::Internal
            }
            CaptureError::Nothing
            | CaptureError::NotAProgram { .. }
            | CaptureError::NoLibrary { .. }
            | CaptureError::NoDependency { .. }
            | CaptureError::Pseudo { .. }
            | CaptureError::NotAbsolute { .. }
            | CaptureError::Loop { .. }
            | CaptureError::TooMany { .. } => Class::Invalid,
        }
    }
}
