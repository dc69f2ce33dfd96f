//! The engine with the real spawner, shims, cgroups and namespaces. Needs root and the
//! `hull-runtime` executable beside this test's folder (`cargo build -p hull-runtime`); fails, and
//! never skips, without them.

mod bootstrap;
mod build_attacks;
mod build_mounts;
mod build_rights;
mod builds;
mod contexts;
mod crash;
mod elsewhere;
mod execs;
mod life;
mod many;
mod remote;
mod repositories;
mod streams;
mod support;
