//! What a build context is: a folder as a list of entries, without those that its ignore file names.
//!
//! The client walks a folder with it, and the builder asks it which entries a pattern of a
//! Dockerfile means. It reads metadata and opens nothing else.
