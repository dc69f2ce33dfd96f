//! The commands about the daemon and its host.

pub(crate) mod events;
pub(crate) mod info;
pub(crate) mod version;
