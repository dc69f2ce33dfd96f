//! The commands about registries.

pub(crate) mod login;
