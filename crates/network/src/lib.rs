//! Gives a network namespace its links, addresses, names and open ports.
//!
//! Everything here follows from [`record`]s: which bridges stand, which addresses are taken, what
//! the firewall lets through, what a name means. The records are plain data that the engine keeps;
//! this crate decides (pure functions) and makes the kernel agree (plain calls, no async):
//!
//! ```text
//! record ──► ipam     which subnet, which address                       pure
//!        ──► rules    the nftables tables as a value                    pure
//!        ──► dns      the answer to a question                          pure
//!        ──► driver   bridges, veth pairs, macvlan links  ── rtnl ──► kernel
//!        ──► firewall difference of two rule sets         ── nft  ──► kernel
//! ```
//!
//! What the kernel has can be read back, so a daemon that was killed reconciles: records on one
//! side, what is observed on the other, the difference is done.

pub mod bridge;
pub mod dns;
pub mod driver;
pub mod etc;
pub mod explain;
pub mod firewall;
pub mod forwarding;
pub mod ipam;
pub mod loopback;
pub mod macvlan;
pub mod namespace;
pub mod neighbours;
pub mod nft;
pub mod pool;
pub mod ports;
pub mod reaper;
pub mod record;
pub mod rtnl;
pub mod rules;
pub mod ruleset;
pub mod sysctl;
