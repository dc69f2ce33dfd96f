//! The containers and images of one host, and the rules by which they change.
