//! The containers of this host: what they were asked to be, which phase of their life they are
//! in, and the one task per container that moves them along.

pub(crate) mod handle;
pub(crate) mod link;
pub mod phase;
pub(crate) mod registry;
pub mod requests;
pub mod settings;
pub mod view;
