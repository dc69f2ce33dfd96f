//! What a build context is: a folder as a list of entries, without those that its ignore file names.
//!
//! ```text
//! folder ──Folder──► entries by descriptor ──walk────► all of them, sorted
//!            ▲                              └─select──► what a pattern of a Dockerfile means
//!          Ignore                                          └─fingerprint──► its digest
//! ```
//!
//! The client walks a folder with it, and the builder asks it what a COPY means. It reads metadata
//! and never opens a file: contents' digests and attributes come from the caller. Paths are relative to the
//! context's root; no link is followed on the way to an entry.

mod fingerprint;
#[doc(hidden)]
pub mod fuzz;
mod ignore;
mod pattern;
mod select;
mod walk;

pub use fingerprint::{Inside, fingerprint};
pub use ignore::{Ignore, IgnoreError};
pub use select::{Matched, SelectError, select};
pub use walk::{Entry, Folder, Kind, Tree, WalkError, walk};
