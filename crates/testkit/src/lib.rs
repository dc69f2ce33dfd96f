//! Hosts made of namespaces, for the tests of all crates.
//!
//! A test gets a machine of its own: a mount and a network namespace that a holder process keeps
//! alive (so that the daemon can be killed and started again on "the same machine"), a data root,
//! an exec root, a socket and a parent cgroup that nobody else has. Nothing of the real machine is
//! touched but that one cgroup, and [`Host`] takes everything away when it goes, whatever the test
//! did to its daemon.

mod baseline;
mod command;
pub mod fuzz;
mod host;
mod http;
pub mod registry;
mod serve;

pub use baseline::Baseline;
pub use command::{Finished, Terminal, in_time, patience, run};
pub use fuzz::Random;
pub use host::{Executables, Host, Options};
pub use http::{Answer, Connection, ask};
pub use serve::{answer, serve};
