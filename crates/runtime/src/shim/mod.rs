//! The container's parent: one small process per container and per exec, forked from the spawner.

mod connection;
pub mod record;

pub use connection::{Connection, Event, Found, Heard, Request, find};
pub use record::{forget, list};
