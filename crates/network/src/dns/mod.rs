//! Names in containers: 127.0.0.11 as their resolver.
//!
//! ```text
//!   container's namespace                          daemon
//!   resolver ─► 127.0.0.11:53                      ┌────────────────────────────┐
//!                  │ redirect()                    │ Server: one thread, epoll  │
//!                  ▼                               │   query ─► answer() ─ ours │
//!   Sockets on 127.0.0.11:PORT, UDP and TCP ◄────► │              │ Forward     │
//!     (a copy is kept by the container's shim)     │              ▼             │
//!                                                  │   resolvers of the host    │
//!                                                  └────────────────────────────┘
//! ```
//!
//! The sockets are opened in the container's namespace before its process runs, on a port that
//! was free, and a rule there leads 127.0.0.11:53 to it: the container itself may bind port 53 of
//! every address. Sockets outlive the daemon: the shim holds copies and hands them to the next
//! one. What is asked meanwhile waits in their queues.
//!
//! What a name means is a [`Table`], made from records; [`answer()`] looks it up and touches nothing.

mod answer;
mod connection;
mod forward;
mod message;
mod server;
mod sockets;
mod table;
mod upstreams;

pub use answer::{Answer, Asker, answer};
pub use message::Transport;
pub use server::{Options, Server};
pub use sockets::{ADDRESS, Sockets};
pub use table::{HOST_NAMES, Table, table};
