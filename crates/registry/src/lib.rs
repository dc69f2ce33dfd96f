//! Speaks the distribution protocol (distribution-spec `spec.md`) with registries of images.
//!
//! ```text
//! client       what an engine asks a registry for
//! credentials  who asks
//! ```
//!
//! A registry is a stranger: whatever comes from it is bounded, and nothing is believed that is not of the digest
//! that was asked for.

pub mod client;
mod credentials;

pub use credentials::Credentials;
