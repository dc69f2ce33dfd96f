//! Keeps content-addressed blobs and the file systems made of them.
//!
//! Without the feature `store` only what a worker process needs is here: the tar
//! grammar, the compressions, and a layer's application and difference. Nothing
//! in this crate is async, mounts anything or knows of containers.

pub mod compress;
pub mod layer;
pub mod tar;
