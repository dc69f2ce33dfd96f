//! `network`: networks made, shown, joined, left and removed; ports explained.

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod explain;
pub(crate) mod list;
