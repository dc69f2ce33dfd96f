//! The OCI runtime, the spawner, the shims and the workers: everything that touches a container.

fn main() {}
