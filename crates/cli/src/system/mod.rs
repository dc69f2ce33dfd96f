//! The commands about the daemon and its host.

pub(crate) mod version;
