//! Which container an address and port of the host mean. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Ports of the host and the container that they lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// `::` stands for every address that no other target names.
    pub address: Ipv6Addr,
    pub first: u16,
    /// The last one; `first <= last`.
    pub last: u16,
    pub to: IpAddr,
    /// The container's port for `first`; the following ones follow. Never past 65535.
    pub port: u16,
    /// UDP, of one port; else TCP.
    #[serde(default)]
    pub udp: bool,
}

/// Single ports are looked up, ranges are few and gone through.
#[derive(Debug, Default)]
pub(super) struct Table {
    single: HashMap<(Ipv6Addr, u16), Target>,
    ranges: Vec<Target>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.single.len() + self.ranges.len()
    }

    /// What is already there for the same ports is replaced. A target that makes no sense, or is not
    /// of TCP, is passed over.
    pub(super) fn open(&mut self, target: Target) {
        let count = target.last.checked_sub(target.first);
        if target.udp || count.and_then(|count| target.port.checked_add(count)).is_none() {
            return;
        }
        if target.first == target.last {
            self.single.insert((target.address, target.first), target);
        } else if !self.ranges.contains(&target) {
            self.ranges.push(target);
        }
    }

    pub(super) fn shut(&mut self, target: &Target) {
        if self.single.get(&(target.address, target.first)) == Some(target) {
            self.single.remove(&(target.address, target.first));
        }
        self.ranges.retain(|range| range != target);
    }

    pub(super) fn has(&self, target: &Target) -> bool {
        self.single.get(&(target.address, target.first)) == Some(target) || self.ranges.contains(target)
    }

    /// The target, and where a connection to it goes.
    pub(super) fn find(&self, address: Ipv6Addr, port: u16) -> Option<(Target, SocketAddr)> {
        let target = [address, Ipv6Addr::UNSPECIFIED].into_iter().find_map(|address| {
            let range = |one: &&Target| one.address == address && (one.first..=one.last).contains(&port);
            self.single.get(&(address, port)).or_else(|| self.ranges.iter().find(range))
        })?;
        let port = target.port + (port - target.first);
        Some((*target, SocketAddr::new(target.to, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str, first: u16, last: u16, to: &str) -> Target {
        let to: SocketAddr = to.parse().unwrap();
        Target { address: address.parse().unwrap(), first, last, to: to.ip(), port: to.port(), udp: false }
    }

    #[test]
    fn the_nearest_target_is_found() {
        let mut table = Table::default();
        let web = target("::", 80, 80, "172.17.0.2:8080");
        let own = target("::1", 80, 80, "172.17.0.3:80");
        let range = target("::1", 9000, 9009, "[fd00::2]:1000");
        let absurd = target("::", 7, 3, "172.17.0.9:1");
        let beyond = target("::", 20_000, 30_000, "172.17.0.9:60000");
        let dns = Target { udp: true, ..target("::", 53, 53, "172.17.0.9:53") };
        for one in [web, own, range, absurd, beyond, dns] {
            table.open(one);
        }
        assert_eq!(table.len(), 3);
        let find = |table: &Table, address: &str, port| {
            table.find(address.parse().unwrap(), port).map(|(_, to)| to.to_string())
        };
        assert_eq!(find(&table, "2001:db8::1", 80).as_deref(), Some("172.17.0.2:8080"));
        assert_eq!(find(&table, "::1", 80).as_deref(), Some("172.17.0.3:80"));
        assert_eq!(find(&table, "::1", 9009).as_deref(), Some("[fd00::2]:1009"));
        assert_eq!(find(&table, "::2", 9009), None);
        assert_eq!(find(&table, "::1", 25_000), None);
        table.shut(&own);
        assert!(!table.has(&own) && table.has(&range));
        assert_eq!(find(&table, "::1", 80).as_deref(), Some("172.17.0.2:8080"));
        // One that was replaced is not shut in its successor's place.
        table.open(own);
        let next = target("::1", 80, 80, "172.17.0.4:80");
        table.open(next);
        table.shut(&own);
        assert!(table.has(&next));
    }
}
