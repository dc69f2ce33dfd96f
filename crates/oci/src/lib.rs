//! The documents that the standards define, as plain data with strict parsers.
//!
//! Strict means: what comes from a registry, an archive or a person is either a value
//! that every other room may rely on, or an error that says what is wrong. Sizes are
//! bounded before anything is parsed.

pub mod digest;
#[doc(hidden)]
pub mod fuzz;
pub mod image;
pub mod path;
pub mod platform;
pub mod reference;
pub mod runtime;

pub use digest::{Algorithm, Digest, Hasher};
pub use image::chain_ids;
pub use platform::Platform;
pub use reference::Reference;
