//! The documents that the standards define, as plain data with strict parsers.

pub mod runtime;
