//! The commands about containers.

pub(crate) mod copy;
pub(crate) mod each;
pub(crate) mod exec;
pub(crate) mod facts;
pub(crate) mod layer;
pub(crate) mod list;
pub(crate) mod logs;
mod meter;
pub(crate) mod start;
