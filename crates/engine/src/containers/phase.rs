//! The life of a container: one enum and one pure function.
//!
//! A pid exists exactly where a process does. [`step`] decides and touches nothing: it says the
//! next phase and which effects the container's task has to perform; each effect that ends in
//! something observable comes back as an [`Input`]. Recovery after a crash is the same function
//! fed with what was observed, so there is no second state machine for bad days.
//!
//! ```text
//!            start              started                pause
//! Created ─────────► Starting ─────────► Running ◄──────────────► Paused
//!                       │ failed            │ exited                 │ exited
//!                       ▼                   ▼                        ▼
//!                    Created/Exited      Exited ──(policy)──► Restarting ──timer──► Starting
//!                                           │ remove
//!                                           ▼
//!                                        Removing ──► gone
//! ```

use serde::{Deserialize, Serialize};

pub use hull_runtime::bundle::Exit;

/// Nanoseconds since the epoch.
pub type Time = i64;

/// A living process: known from the shim's `Started`, or from a shim that was found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Of the first process, in the host's pid namespace.
    pub pid: i32,
    pub started: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Created,
    /// The shim was asked for; no process is known yet. `last` is the exit before this start.
    Starting {
        last: Option<Exit>,
    },
    Running(Live),
    Paused(Live),
    /// Waiting for the restart policy's delay.
    Restarting {
        after: Exit,
        attempt: u32,
        due: Time,
    },
    Exited(Exit),
    /// Being taken away; what is left to do is in the effects.
    Removing {
        last: Option<Exit>,
    },
}

impl Phase {
    /// Docker's word for it.
    pub fn status(&self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Starting { last: None } => "created",
            Phase::Starting { last: Some(_) } => "exited",
            Phase::Running(_) => "running",
            Phase::Paused(_) => "paused",
            Phase::Restarting { .. } => "restarting",
            Phase::Exited(_) => "exited",
            Phase::Removing { .. } => "removing",
        }
    }

    pub fn live(&self) -> Option<Live> {
        match self {
            Phase::Running(live) | Phase::Paused(live) => Some(*live),
            _ => None,
        }
    }

    /// The last exit, where there was one.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Phase::Exited(exit) | Phase::Restarting { after: exit, .. } => Some(*exit),
            Phase::Starting { last } | Phase::Removing { last } => *last,
            Phase::Created | Phase::Running(_) | Phase::Paused(_) => None,
        }
    }
}
