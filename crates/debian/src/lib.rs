//! What an archive of Debian packages says: who signed it, what it has, what a package needs.
//!
//! ```text
//! apt's sources ──► where it is, and whose signature counts
//! InRelease ──signature──► Release: digests of the indices, for how long they hold
//! Packages  ──digest─────► packages: digests of their files, what each needs
//! names     ──resolve────► packages in the order in which they can be installed
//! .deb      ──digest─────► deb: where in the file the package's own files are
//! ```
//!
//! Each line is believed because of the one above it, and the first because of keys that the host has.
//! Everything here is pure and reads bytes of strangers: lengths have limits, names are checked before
//! anybody makes a path or an address of them. The formats are those of the Debian Policy Manual, of
//! sources.list(5), of deb(5) and of wiki.debian.org/DebianRepository/Format.

mod control;
pub mod deb;
mod error;
pub mod fuzz;
pub mod packages;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod signature;
pub mod sources;
pub mod version;

pub use error::Error;
pub use packages::{Index, Package, Priority};
pub use release::Release;
pub use signature::Keyring;
pub use sources::Source;
