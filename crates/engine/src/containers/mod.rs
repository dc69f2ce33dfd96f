//! The containers of this host: what they were asked to be, which phase of their life they are
//! in, and the one task per container that moves them along.

pub mod phase;
pub mod settings;
