//! The Dockerfile language: bytes become instructions, and each of their parts knows where it stands.
//!
//! Everything is pure. Words stay as they are written, with quotes and variables in them; what a
//! variable is worth is known only while stages are planned.
//!
//! The grammar is that of `docker/dockerfile:1` (docs.docker.com/reference/dockerfile).

pub mod ast;
pub mod span;

pub use ast::{Dockerfile, Instruction, Kind};
pub use span::{Position, Problem, Span};
