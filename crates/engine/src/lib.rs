//! The containers, images, volumes and networks of one host, and the rules by which they change.
//!
//! Knows no HTTP, no Docker JSON and no command line: commands flow down as values
//! ([`containers::settings::Create`]), events and exits flow up.

pub mod builds;
pub mod capture;
mod config;
pub mod containers;
mod engine;
mod error;
pub mod events;
pub mod host;
pub mod images;
pub mod names;
pub mod networks;
pub mod rootfs;
mod seccomp;
pub mod signals;
pub mod spec;
pub mod store;
pub mod users;
pub mod volumes;

/// What is told of registries, and shown to them.
pub mod registries {
    pub use hull_registry::Credentials;
    pub use hull_registry::client::push::Mounted;
    pub use hull_registry::client::{Access, Client, Error, Hosts, Kind, Repository};
}

pub use config::Config;
pub use engine::Engine;
pub use error::{Class, Error, Result};
pub use hull_sys::error::chain;
