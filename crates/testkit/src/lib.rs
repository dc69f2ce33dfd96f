//! Hosts made of namespaces, and images, for the tests of all crates.
