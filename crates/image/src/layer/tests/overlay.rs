//! Whiteouts.
