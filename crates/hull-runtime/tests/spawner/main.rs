//! Spawner, shims and workers as real processes: started, attached to, killed at every point.
//!
//! Needs root. The containers are busybox in a folder of its own.

mod attach;
mod death;
mod exec;
#[cfg(feature = "failpoints")]
mod failpoints;
mod forwarder;
mod forwarder_udp;
mod hostile;
mod house;
mod keep;
mod life;
mod views;
mod work;
