//! The containers of this host: what they were asked to be, which phase of their life they are
//! in, and the one task per container that moves them along.
//!
//! ```text
//! settings requests view   values: what is asked, what is answered, what is seen
//! phase                    the pure step
//! create validate mounts fill   a record is made
//! task commands attach execs networking   the task of each container
//! launch link spawner      the way to the shims
//! recover                  containers are found again
//! logs details stats layer reading, past the task
//! archive                  files in and out, past the task
//! ```

pub mod archive;
pub mod attach;
mod commands;
pub(crate) mod create;
mod details;
mod execs;
pub(crate) mod files;
pub(crate) mod fill;
pub(crate) mod handle;
pub(crate) mod launch;
pub mod layer;
pub(crate) mod link;
pub(crate) mod logs;
mod mounts;
pub(crate) mod networking;
pub mod phase;
pub(crate) mod recover;
pub(crate) mod registry;
pub mod requests;
pub(crate) mod services;
pub mod settings;
pub(crate) mod spawner;
pub mod stats;
mod task;
pub(crate) mod validate;
pub mod view;
