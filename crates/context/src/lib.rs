//! What a build context is: a folder as a list of entries, without those that its ignore file names.
//!
//! ```text
//! folder ──Folder──► entries by descriptor ──walk────► all of them, sorted ──encode──► a list
//!            ▲                              └─select──► what a pattern of a Dockerfile means  │
//!          Ignore                   list ──Listing──┘      └─fingerprint──► its digest ◄──────┘
//!                                                                Digests ────────┘
//! ```
//!
//! The client walks a folder with it and sends the list, and the builder asks it what a COPY means and which
//! files it knows the digest of. Walking reads metadata alone; bytes are read where they are asked for
//! (`reading`). Paths are relative to the context's root; no link is followed on the way to an entry.

pub mod contents;
mod digests;
pub mod files;
mod fingerprint;
#[doc(hidden)]
pub mod fuzz;
mod ignore;
pub mod listing;
mod pattern;
pub mod reading;
mod select;
mod walk;

pub use digests::{DIGESTS_MAX, Digests, Remembered};
pub use fingerprint::{Inside, fingerprint};
pub use ignore::{Ignore, IgnoreError};
pub use listing::{LISTING_MAX, Listing, ListingError, Stamp};
pub use select::{Matched, SelectError, select};
pub use walk::{Entry, Folder, Kind, Tree, WalkError, walk};
