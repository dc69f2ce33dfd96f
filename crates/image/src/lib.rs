//! Keeps content-addressed blobs and the file systems made of them.
//!
//! Without the feature `store` only what a worker process needs is here: the tar
//! grammar, the compressions, and a layer's application and difference. Nothing
//! in this crate is async, mounts anything or knows of containers.
//!
//! ```text
//! IMAGE-ROOT/blobs/sha256/HEX     `content`: documents and layers' archives
//! IMAGE-ROOT/ingest/              what is not finished; swept at open
//! IMAGE-ROOT/layers/CHAINHEX/     `snapshot`: extracted layers
//! IMAGE-ROOT/active/KEY/          `snapshot`: writable layers
//! ```

pub mod compress;
pub mod layer;
pub mod tar;

#[cfg(feature = "store")]
pub mod archive;
#[cfg(feature = "store")]
pub mod content;
#[cfg(feature = "store")]
pub mod folder;
#[cfg(feature = "store")]
pub mod gc;
#[cfg(feature = "store")]
pub mod lease;
#[cfg(feature = "store")]
pub mod snapshot;

/// Entry points for fuzzing; the harness lives in the test kit.
#[doc(hidden)]
pub mod fuzz;
