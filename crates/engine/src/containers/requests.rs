//! What can be asked of a container, beside its creation ([`super::settings`]), and the answers.

use bytes::Bytes;
use hull_oci::runtime::Resources;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::phase::Time;
use super::settings::RestartPolicy;
use crate::Result;

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: String,
    pub warnings: Vec<String>,
}

/// What a removal takes along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remove {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// New values for a container; what is `None` or absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    pub resources: Resources,
    /// The quota in `resources` was asked for as a number of CPUs.
    pub whole_cpus: bool,
    pub restart: Option<RestartPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// At once if it does not run.
    NotRunning,
    /// The next exit, whatever it does now.
    NextExit,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    pub code: i32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// First what the log holds.
    pub logs: bool,
    /// Then what comes. Without it the stream ends after the log.
    pub stream: bool,
}

/// A client's end of a stream: its bytes are exactly Docker's, multiplexed unless `tty`.
#[derive(Debug)]
pub struct Attachment {
    pub stream: UnixStream,
    pub tty: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Logs {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<Time>,
    pub until: Option<Time>,
    /// Only so many of the last lines.
    pub tail: Option<u64>,
    pub timestamps: bool,
    /// Each line with the labels and variables that the log driver was told to keep.
    pub details: bool,
}

/// Blocks of a log, framed as Docker's clients read them: multiplexed unless `tty`.
#[derive(Debug)]
pub struct LogStream {
    pub tty: bool,
    pub(crate) blocks: mpsc::Receiver<Result<Bytes>>,
}

impl LogStream {
    /// The next block; `None` at the end (when following: at the container's end). Dropping the
    /// stream ends the reading behind it.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.blocks.recv().await
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    pub titles: Vec<String>,
    /// One row a process, as many fields as titles.
    pub processes: Vec<Vec<String>>,
}

/// One more process for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSettings {
    pub cmd: Vec<String>,
    /// Added to the container's.
    pub env: Vec<String>,
    /// Empty: the container's.
    pub user: String,
    /// Empty: the container's.
    pub working_dir: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub privileged: bool,
    /// As the client wrote them; given back by inspect, acted upon by the client's side.
    pub detach_keys: String,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// An exec at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecView {
    pub id: String,
    /// The container's id.
    pub container: String,
    pub running: bool,
    pub exit_code: Option<i32>,
    /// Of the host's pid namespace; 0 before the start.
    pub pid: i32,
    pub settings: ExecSettings,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub ids: Vec<String>,
    pub bytes: u64,
}
