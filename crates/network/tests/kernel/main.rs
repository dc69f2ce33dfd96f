//! Networking for real: links, packets, what the kernel refuses. Needs root and busybox-static.
//!
//! Each test is a host of its own: it begins with [`world::host`], which moves the test's thread
//! into a fresh network namespace. Threads that it starts are in there too; nothing reaches the
//! machine's own network.

mod bridge;
mod fire_conntrack;
mod fire_matrix;
mod fire_relay;
mod fire_tables;
mod fire_world;
mod links;
mod loopback;
mod names;
mod pool;
mod wire;
mod world;
