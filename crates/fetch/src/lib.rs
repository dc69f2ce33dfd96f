//! HTTP requests to other hosts: what builds fetch, and what a registry is asked.
//!
//! A [`Client`] follows redirects, goes through the proxies that the environment names, and trusts whom the
//! host trusts. It knows nothing of what it fetches. Three rules keep a hostile server small:
//!
//! - a redirect never leads from https to http, and credentials never go to another host than the one they
//!   were given for;
//! - every wait has an end: for the connection, for the answer's head, for each piece of its body;
//! - a body is read piece by piece and never further than the caller says.
//!
//! Private and loopback addresses are as good as others: whoever may ask for a build may reach them anyway.

mod address;
mod client;
mod connect;
mod error;

pub use address::Address;
pub use client::{Answer, Client, Options, Proxies, Request};
pub use error::Error;
