//! The Docker Engine API: wire types and a client.
