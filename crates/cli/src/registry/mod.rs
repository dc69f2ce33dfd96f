//! The commands about registries.

pub(crate) mod login;
pub(crate) mod manifest;
pub(crate) mod push;
pub(crate) mod search;
