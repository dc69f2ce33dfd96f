//! What a shim says, as the container's task hears it.

use std::os::fd::OwnedFd;

use hull_runtime::bundle::{Exit, StartError};

/// One word of a shim.
#[derive(Debug)]
pub(crate) enum Word {
    Started {
        pid: i32,
        at: i64,
        pidfd: OwnedFd,
        root: Option<OwnedFd>,
        warnings: Vec<String>,
    },
    StartFailed(StartError),
    Exited(Exit),
    /// The shim has left without a last word.
    Closed,
}
