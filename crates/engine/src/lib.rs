//! The containers and images of one host, and the rules by which they change.
//!
//! Knows no HTTP, no Docker JSON and no command line: commands flow down as values
//! ([`containers::settings::Create`]), events and exits flow up.

pub mod containers;
mod error;

pub use error::{Class, Error, Result};
