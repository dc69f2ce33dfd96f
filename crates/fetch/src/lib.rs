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
//! Private and loopback addresses are as good as others, unless [`Options::places`] says where a client may go:
//! whoever may ask for a build may reach them anyway, but a registry may not lead there.

mod address;
mod body;
mod client;
mod connect;
mod error;
mod near;
mod tls;

pub use address::Address;
pub use body::Body;
pub use client::{Answer, Client, Options, Proxies, Request};
pub use error::Error;
pub use near::{Place, look_up};
pub use tls::{Identity, Tls};
