//! Which subnet a network gets and which address a container gets: decided, not remembered.
//!
//! Nothing here keeps state. What is taken is what the records say (other networks, endpoints,
//! addresses whose link is still being taken down) and what the host's routes say; whoever asks
//! hands that in and notes the answer. So there is nothing to recover after a crash and nothing
//! that could leak.
//!
//! The choices are the reference's: pools are cut from the front, an address is the lowest that
//! is free, a gateway is the first of its range. The network's own address and, for IPv4, the
//! broadcast address are never given; RFC 3021 subnets (/31) and single addresses have neither.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::record::Subnet;

/// Addresses that subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub base: IpNet,
    /// Prefix length of each subnet; at least the base's own.
    pub size: u8,
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    #[error("no available address")]
    Full,
    #[error("Address already in use")]
    InUse,
    #[error("no subnet contains the address")]
    Outside,
}

/// The pools of a host that was told nothing. `global` are the 40 bits that make a host's unique
/// local prefix its own (RFC 4193, 3.2): the same at every start.
pub fn default_pools(global: [u8; 5]) -> Vec<Pool> {
    let pool = |octets: [u8; 4], prefix, size| {
        let base = Ipv4Net::new(Ipv4Addr::from(octets), prefix).map(IpNet::V4);
        base.ok().map(|base| Pool { base, size })
    };
    let four = [
        pool([172, 17, 0, 0], 16, 16),
        pool([172, 18, 0, 0], 16, 16),
        pool([172, 19, 0, 0], 16, 16),
        pool([172, 20, 0, 0], 14, 16),
        pool([172, 24, 0, 0], 14, 16),
        pool([172, 28, 0, 0], 14, 16),
        pool([192, 168, 0, 0], 16, 20),
    ];
    let mut octets = [0u8; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&global);
    let six = Ipv6Net::new(Ipv6Addr::from(octets), 48).ok().map(|base| Pool { base: base.into(), size: 64 });
    four.into_iter().chain([six]).flatten().collect()
}

/// The first subnet of the pools, of the family asked for, that overlaps nothing in `taken`.
pub fn free_subnet(pools: &[Pool], ipv6: bool, taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().filter(|pool| is6(pool.base.addr()) == ipv6).find_map(|pool| free_in(pool, taken))
}

fn free_in(pool: &Pool, taken: &[IpNet]) -> Option<IpNet> {
    let bits = width(pool.base.addr());
    let size = pool.size.clamp(pool.base.prefix_len(), bits);
    let (first, last) = bounds(&pool.base);
    // All of the address space is one step of 2^128, which is one step in any case.
    let step = 1u128.checked_shl(u32::from(bits - size)).unwrap_or(u128::MAX);
    let mut start = first;
    loop {
        let end = start.checked_add(step - 1)?;
        if end > last {
            return None;
        }
        // The end of the furthest of those in the way: the next candidate begins behind it.
        let in_way = |net: &&IpNet| {
            let (low, high) = bounds(net);
            is6(net.addr()) == is6(pool.base.addr()) && low <= end && high >= start
        };
        match taken.iter().filter(in_way).map(|net| bounds(net).1).max() {
            None => return IpNet::new(address(start, is6(pool.base.addr())), size).ok(),
            Some(high) => {
                let behind = high.max(end).checked_add(1)?;
                start = behind.checked_sub(first)?.div_ceil(step).checked_mul(step)?.checked_add(first)?;
            }
        }
    }
}

/// Whether two subnets share an address.
pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The gateway of a subnet for which none was asked: the first address of its range.
pub fn gateway(subnet: &Subnet) -> Option<IpAddr> {
    let (first, last) = range(subnet);
    let six = is6(subnet.pool.addr());
    (first..=last).map(|number| address(number, six)).find(|address| !is_reserved(subnet, *address))
}

/// An address of one of the subnets of that family, with the subnet's prefix length: the one
/// asked for, or the lowest that is free.
pub fn address_of(
    subnets: &[Subnet],
    ipv6: bool,
    asked: Option<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<IpNet, NoAddress> {
    let mut subnets = subnets.iter().filter(|subnet| is6(subnet.pool.addr()) == ipv6);
    let with_prefix = |subnet: &Subnet, address| {
        // The prefix is one that the pool has.
        IpNet::new(address, subnet.pool.prefix_len()).map_err(|_| NoAddress::Outside)
    };
    let Some(asked) = asked else {
        return subnets
            .find_map(|subnet| lowest_free(subnet, taken).map(|address| with_prefix(subnet, address)))
            .unwrap_or(Err(NoAddress::Full));
    };
    let subnet = subnets.find(|subnet| subnet.pool.contains(&asked)).ok_or(NoAddress::Outside)?;
    let (first, last) = usable(&subnet.pool);
    let inside = (first..=last).contains(&number(asked));
    if !inside || taken.contains(&asked) || subnet.gateway == Some(asked) || is_reserved(subnet, asked) {
        return Err(NoAddress::InUse);
    }
    with_prefix(subnet, asked)
}

/// How many addresses of a subnet are taken, and how many can still be given without asking for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Of the whole subnet, with those that are nobody's to have.
    pub taken: u128,
    /// Of its range.
    pub free: u128,
}

/// `taken` are the addresses of endpoints, of whatever subnet.
pub fn usage(subnet: &Subnet, taken: &BTreeSet<IpAddr>) -> Use {
    let (lowest, highest) = bounds(&subnet.pool);
    let (first, last) = usable(&subnet.pool);
    let mut own: BTreeSet<IpAddr> =
        taken.iter().chain(&subnet.gateway).chain(subnet.reserved.values()).copied().collect();
    own.retain(|address| subnet.pool.contains(address));
    let edges = (first - lowest) + (highest - last);
    let (low, high) = range(subnet);
    let in_range = own.iter().filter(|address| (low..=high).contains(&number(**address))).count() as u128;
    Use { taken: own.len() as u128 + edges, free: (high - low).saturating_add(1).saturating_sub(in_range) }
}

fn lowest_free(subnet: &Subnet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let six = is6(subnet.pool.addr());
    let (first, last) = range(subnet);
    let mut candidate = first;
    // Both go up: each taken address is looked at once.
    let mut in_the_way = taken.range(address(first, six)..=address(last, six)).peekable();
    while candidate <= last {
        let ip = address(candidate, six);
        if in_the_way.next_if_eq(&&ip).is_none() && subnet.gateway != Some(ip) && !is_reserved(subnet, ip) {
            return Some(ip);
        }
        candidate = candidate.checked_add(1)?;
    }
    None
}

fn is_reserved(subnet: &Subnet, address: IpAddr) -> bool {
    subnet.reserved.values().any(|reserved| *reserved == address)
}

/// Where automatic addresses come from.
fn range(subnet: &Subnet) -> (u128, u128) {
    let (first, last) = usable(&subnet.pool);
    match &subnet.range {
        None => (first, last),
        Some(range) => {
            let (low, high) = bounds(range);
            (low.max(first), high.min(last))
        }
    }
}

/// The addresses of a subnet that a link may have.
fn usable(net: &IpNet) -> (u128, u128) {
    let (first, last) = bounds(net);
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => (first + 1, last - 1),
        // The first is the routers' anycast address (RFC 4291, 2.6.1).
        IpNet::V6(net) if net.prefix_len() < 127 => (first + 1, last),
        _ => (first, last),
    }
}

fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn is6(address: IpAddr) -> bool {
    address.is_ipv6()
}

fn width(address: IpAddr) -> u8 {
    if is6(address) { 128 } else { 32 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(number).into()
    } else {
        // Numbers of this family come from addresses of it.
        Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into()
    }
}

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
