//! Speaks the distribution protocol (distribution-spec `spec.md`), both sides.
//!
//! ```text
//! client       what an engine asks a registry for
//! credentials  who asks
//! server       a registry over a folder
//! ```
//!
//! A registry is a stranger: whatever comes from it is bounded, and nothing is believed that is not of the digest
//! that was asked for. So are the clients of ours.

pub mod client;
mod credentials;
pub mod server;

pub use credentials::Credentials;
