//! A Dockerfile and a context become an image, and nothing is done twice.
//!
//! ```text
//! bytes ──dockerfile──► instructions ──plan──► graph of vertices ──solve──► layers and a configuration
//!                       (with spans)            (each an operation          │
//!                                                and what it builds on)     ├─ Executor: images, RUN, COPY (the engine)
//!                                                                           └─ Cache: what was done before (the engine)
//! ```
//!
//! [`build`](build()) is all of it. Everything here decides; whatever touches the host is behind [`Executor`] and [`Cache`], which the
//! engine implements. It knows no HTTP: progress goes up as plain [`Progress`] values.

pub mod build;
mod config;
pub mod dockerfile;
pub mod executor;
pub mod graph;
pub mod plan;
pub mod progress;
pub mod solve;

pub use build::{BuildError, Built, Request, build};
pub use executor::{Base, Cache, Executor, Failure, Known, Layer, Row, Selection, Source, Stack, Wanted};
pub use progress::Progress;
