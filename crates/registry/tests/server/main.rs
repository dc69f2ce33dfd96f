//! The registry's server over HTTP, as a client that trusts nothing sees it.

mod attacks;
mod discovery;
mod garbage;
mod limits;
mod management;
mod pull;
mod push;
mod support;
mod tokens;
