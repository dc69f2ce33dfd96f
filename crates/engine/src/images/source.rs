//! Where an archive comes from that is read to its end.
//!
//! The end of a pipe does not tell whether all had come: who fills it may have been broken off, and an archive
//! that is cut between two entries reads like a shorter one. So who fills it says afterwards how that
//! ended, and nothing becomes of the archive before.

use std::fs::File;
use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::{ImageError, failed};
use crate::Result;

/// Whether all was passed on, or why not, in one line for people.
pub type Fed = std::result::Result<(), String>;

/// A pipe, a socket or a file with an archive.
#[derive(Debug)]
pub struct Source {
    from: File,
    fed: Option<oneshot::Receiver<Fed>>,
}

impl Source {
    /// A pipe, and the last word of who fills it; without that it was broken off.
    pub fn fed(pipe: OwnedFd, fed: oneshot::Receiver<Fed>) -> Source {
        Source { from: pipe.into(), fed: Some(fed) }
    }

    pub(super) fn file(&self) -> &File {
        &self.from
    }

    /// To be asked when the end was read: whether that was the archive's. Blocks until it is known.
    pub(super) fn end(self) -> Result<()> {
        // Who fills it is not to wait for a reader any more.
        drop(self.from);
        let Some(fed) = self.fed else { return Ok(()) };
        let fed = fed.blocking_recv().unwrap_or_else(|_| Err("its sender has gone".to_owned()));
        fed.map_err(|reason| failed(ImageError::Incomplete { reason }))
    }
}

/// Its end is the archive's end.
impl From<OwnedFd> for Source {
    fn from(from: OwnedFd) -> Source {
        Source { from: from.into(), fed: None }
    }
}
