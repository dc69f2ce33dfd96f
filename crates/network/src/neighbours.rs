//! Room for neighbours: whom the kernel has found on links, and at which hardware address.
//!
//! It keeps them in two tables, one for IPv4 and one for IPv6, that all network namespaces share
//! (arp(7); ip-sysctl, `neigh/default/gc_thresh3`). A pair of containers that talk takes two places,
//! so a few hundred containers, or one that looks for others in a large subnet, fill a table of the
//! kernel's usual 1024. From then on nobody on the host finds a neighbour that it does not know yet:
//! connections end with "No route to host", or wait.
//!
//! Only the host's own, initial network namespace can change this: in others the keys do not exist,
//! and nothing is done.

use crate::sysctl::{Key, Result};

/// How many entries the kernel makes before it refuses one. As many as the reference provides for, where it makes its
/// overlay networks: some 30 MB of memory if all are in use.
const HARD: u32 = 65_536;
/// From so many on it looks for old ones that it can drop whenever it needs another.
const SOFT: u32 = 49_152;

/// Raises what is lower.
pub fn make_room() -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        // The hard limit first: it is never below the soft one.
        for (name, least) in [("gc_thresh3", HARD), ("gc_thresh2", SOFT)] {
            let key = Key::of(&["net", family, "neigh", "default", name]);
            if key.exists() && is_below(&key.read()?, least) {
                key.set(&least.to_string())?;
            }
        }
    }
    Ok(())
}

/// Whether a value is a number less than this. The kernel shows numbers that it takes for infinite
/// as negative ones.
fn is_below(value: &str, least: u32) -> bool {
    value.parse().is_ok_and(|value: u32| value < least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lower_is_raised() {
        for (value, below) in
            [("1024", true), ("65535", true), ("65536", false), ("100000", false), ("-1", false)]
        {
            assert_eq!(is_below(value, HARD), below, "{value}");
        }
    }
}
