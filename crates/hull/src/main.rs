//! The container engine: client and daemon in one executable.

fn main() {}
