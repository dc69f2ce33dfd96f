//! Turns a bundle into a process and tells how it ended.

pub mod bundle;
pub mod cgroup;
pub mod container;
pub mod failpoint;
pub mod forwarder;
pub mod log;
pub mod processes;
pub mod protocol;
pub mod seccomp;
pub mod shim;
pub mod spawner;
pub mod worker;
