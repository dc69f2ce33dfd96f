//! Linux made safe; the only home of unsafe.
//!
//! What rustix offers safely is used from rustix by everyone, not wrapped here: epoll, inotify,
//! most of prctl, capabilities, rlimits, sockets' options. This crate adds what rustix lacks
//! (clone3, mount_setattr, signalfd, seccomp, exec), what it cannot make safe by itself (fork), and
//! the few rules that all rooms share: paths resolved by descriptor ([`root`]), messages with
//! descriptors ([`socket`]), errors that name their call ([`error`]).

pub mod bpf;
pub mod cred;
pub mod datagram;
pub mod datagram6;
pub mod error;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod offspring;
pub mod process;
pub mod pty;
pub mod rlimit;
pub mod root;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod time;
pub mod usage;
mod walk;

pub use error::{During, Errno, Error, Result};
