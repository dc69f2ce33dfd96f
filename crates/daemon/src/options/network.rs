//! What the daemon's configuration says of networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_engine::networks::{Defaults, Pool};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Given, Key, Kind, OptionsError, Result, key};

pub(super) const KEYS: &[Key] = &[
    key(
        "bridge",
        Some('b'),
        "bridge",
        Kind::Text,
        "Use this bridge of the host for the default network; none: have no default network",
    ),
    key("bip", None, "bip", Kind::Text, "IPv4 address and subnet of the default bridge, as 172.17.0.1/16"),
    key("bip6", None, "bip6", Kind::Text, "IPv6 address and subnet of the default bridge"),
    key(
        "fixed-cidr",
        None,
        "fixed-cidr",
        Kind::Text,
        "Part of the default bridge's subnet to give addresses from",
    ),
    key("fixed-cidr-v6", None, "fixed-cidr-v6", Kind::Text, "The same for IPv6"),
    key("ipv6", None, "ipv6", Kind::Flag, "IPv6 on the default bridge"),
    key(
        "default-gateway",
        None,
        "default-gateway",
        Kind::Text,
        "Gateway of containers on the default bridge",
    ),
    key("default-gateway-v6", None, "default-gateway-v6", Kind::Text, "The same for IPv6"),
    key(
        "host-gateway-ip",
        None,
        "host-gateway-ips",
        Kind::List,
        "What host-gateway in --add-host stands for; one address of each family [the bridge's own]",
    ),
    key(
        "default-address-pool",
        None,
        "default-address-pools",
        Kind::Pools,
        "Pool that subnets of networks are cut from, as base=10.0.0.0/8,size=24; may be repeated",
    ),
    key("icc", None, "icc", Kind::Flag, "Containers of the default bridge may talk to each other [true]"),
    key("mtu", None, "mtu", Kind::Number, "MTU of the default bridge, in bytes [1500]"),
    key("ip", None, "ip", Kind::Text, "Address at which ports are published that name none [0.0.0.0]"),
    key(
        "ip-forward",
        None,
        "ip-forward",
        Kind::Flag,
        "Turn on the host's forwarding where networks need it [true]",
    ),
    key("ip-masq", None, "ip-masq", Kind::Flag, "Masquerade what leaves the default bridge [true]"),
    key("iptables", None, "iptables", Kind::Flag, "Write firewall rules for IPv4, into nftables [true]"),
    key("ip6tables", None, "ip6tables", Kind::Flag, "Write firewall rules for IPv6, into nftables [true]"),
    key(
        "allow-direct-routing",
        None,
        "allow-direct-routing",
        Kind::Flag,
        "Let other machines reach published ports at containers' own addresses",
    ),
    key(
        "userland-proxy",
        None,
        "userland-proxy",
        Kind::Flag,
        "Accepted; no port has a proxy of its own here",
    ),
    key(
        "userland-proxy-path",
        None,
        "userland-proxy-path",
        Kind::Text,
        "Accepted; there is no such program here",
    ),
    key("dns", None, "dns", Kind::List, "Resolver for containers; may be repeated"),
    key("dns-search", None, "dns-search", Kind::List, "Search domain for containers; may be repeated"),
    key("dns-opt", None, "dns-opts", Kind::List, "Option of the resolver for containers; may be repeated"),
];

/// Resolvers and the like for containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

fn wrong(key: &str, value: &str, why: &str) -> OptionsError {
    OptionsError::Value { key: key.to_owned(), value: value.to_owned(), why: why.to_owned() }
}

type All = BTreeMap<&'static str, Given>;

fn text<'a>(given: &'a All, key: &str) -> Option<&'a str> {
    match given.get(key) {
        Some(Given::Text(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn flag(given: &All, key: &str, default: bool) -> bool {
    match given.get(key) {
        Some(Given::Flag(flag)) => *flag,
        _ => default,
    }
}

fn parsed<T: std::str::FromStr>(given: &All, key: &str, why: &str) -> Result<Option<T>> {
    text(given, key).map(|text| text.parse().map_err(|_| wrong(key, text, why))).transpose()
}

pub(super) fn resolve(given: &All) -> Result<Defaults> {
    let subnet = "use an address and a prefix length, as in 10.9.0.1/24";
    let defaults = Defaults {
        pools: match given.get("default-address-pools") {
            Some(Given::List(list)) => list.iter().map(|text| pool(text)).collect::<Result<_>>()?,
            _ => Vec::new(),
        },
        bip: parsed::<Ipv4Net>(given, "bip", subnet)?,
        bip6: parsed::<Ipv6Net>(given, "bip6", subnet)?,
        fixed_cidr: parsed::<Ipv4Net>(given, "fixed-cidr", subnet)?,
        fixed_cidr6: parsed::<Ipv6Net>(given, "fixed-cidr-v6", subnet)?,
        ipv6: flag(given, "ipv6", false),
        icc: flag(given, "icc", true),
        mtu: parsed(given, "mtu", "use a number of bytes")?.unwrap_or(0),
        binding: parsed(given, "ip", "use an address")?
            .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        bridge: text(given, "bridge").unwrap_or_default().to_owned(),
        gateway4: parsed(given, "default-gateway", "use an IPv4 address")?,
        gateway6: parsed(given, "default-gateway-v6", "use an IPv6 address")?,
        host_gateway: host_gateway(given)?,
        ip_forward: flag(given, "ip-forward", true),
        ip_masq: flag(given, "ip-masq", true),
        rules4: flag(given, "iptables", true),
        rules6: flag(given, "ip6tables", true),
        direct_routing: flag(given, "allow-direct-routing", false),
    };
    // The reference's rules.
    if defaults.bridge != "none"
        && !defaults.bridge.is_empty()
        && (defaults.bip.is_some() || defaults.bip6.is_some())
    {
        return Err(wrong(
            "bip",
            text(given, "bip").or(text(given, "bip6")).unwrap_or_default(),
            "bridge and bip cannot both be given: the bridge of the host has its address already",
        ));
    }
    if !defaults.icc && !defaults.rules4 && !defaults.rules6 {
        return Err(wrong(
            "icc",
            "false",
            "without iptables and ip6tables nothing would keep containers apart: leave one of them on",
        ));
    }
    if defaults.mtu != 0 && !(68..=65535).contains(&defaults.mtu) {
        return Err(wrong("mtu", &defaults.mtu.to_string(), "a bridge takes 68 to 65535"));
    }
    Ok(defaults)
}

/// At most one of each family, as in the reference.
fn host_gateway(given: &All) -> Result<Vec<IpAddr>> {
    let key = "host-gateway-ips";
    let Some(Given::List(list)) = given.get(key) else { return Ok(Vec::new()) };
    let mut all: Vec<IpAddr> = Vec::new();
    for text in list {
        let address: IpAddr = text.parse().map_err(|_| wrong(key, text, "use an address"))?;
        if all.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(wrong(key, text, "only one address of each family is allowed"));
        }
        all.push(address);
    }
    Ok(all)
}

/// `base=10.0.0.0/8,size=24`.
fn pool(text: &str) -> Result<Pool> {
    let bad = |why: &str| wrong("default-address-pools", text, why);
    let (mut base, mut size) = (None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("base", value)) => base = value.parse::<IpNet>().ok(),
            Some(("size", value)) => size = value.parse::<u8>().ok(),
            _ => return Err(bad("use base=SUBNET,size=PREFIX-LENGTH")),
        }
    }
    let (Some(base), Some(size)) = (base, size) else {
        return Err(bad("use base=SUBNET,size=PREFIX-LENGTH"));
    };
    if size < base.prefix_len() || size > base.max_prefix_len() {
        return Err(bad(
            "the size is the prefix length of each subnet: not below the base's, not above the family's",
        ));
    }
    Ok(Pool { base: base.trunc(), size })
}

pub(super) fn names(given: &All) -> Result<Names> {
    let list = |key: &str| match given.get(key) {
        Some(Given::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let servers = list("dns");
    if let Some(bad) = servers.iter().find(|server| server.parse::<IpAddr>().is_err()) {
        return Err(wrong("dns", bad, "use an address"));
    }
    Ok(Names { servers, search: list("dns-search"), options: list("dns-opts") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&'static str, &str)]) -> All {
        let value = |key: &str, text: &str| match key {
            "default-address-pools" | "dns" | "host-gateway-ips" => {
                Given::List(text.split(' ').map(str::to_owned).collect())
            }
            "icc" | "iptables" | "ip6tables" | "ipv6" => Given::Flag(text == "true"),
            _ => Given::Text(text.to_owned()),
        };
        pairs.iter().map(|(key, text)| (*key, value(key, text))).collect()
    }

    #[test]
    fn networks_are_set_up_as_told() {
        let all = given(&[
            ("bip", "10.9.0.5/24"),
            ("default-address-pools", "base=10.0.0.0/8,size=24 base=fd00:7::/48,size=64"),
            ("icc", "false"),
            ("mtu", "1400"),
            ("ip", "127.0.0.1"),
        ]);
        let defaults = resolve(&all).unwrap();
        assert_eq!(defaults.bip.unwrap().to_string(), "10.9.0.5/24");
        let pools: Vec<String> =
            defaults.pools.iter().map(|pool| format!("{} {}", pool.base, pool.size)).collect();
        assert_eq!(pools, ["10.0.0.0/8 24", "fd00:7::/48 64"]);
        assert!(!defaults.icc && defaults.mtu == 1400 && defaults.binding.is_loopback());
        assert_eq!(resolve(&given(&[])).unwrap(), Defaults::default());
        let both = resolve(&given(&[("host-gateway-ips", "192.0.2.7 2001:db8::7")])).unwrap().host_gateway;
        assert_eq!(both, ["192.0.2.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(names(&given(&[("dns", "9.9.9.9 fd00::1")])).unwrap().servers.len(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for pairs in [
            &[("bip", "10.9.0.5")][..],
            &[("bip", "fd00::1/64")],
            &[("mtu", "x")],
            &[("mtu", "7")],
            &[("ip", "everywhere")],
            &[("host-gateway-ips", "gateway")],
            &[("host-gateway-ips", "192.0.2.7 192.0.2.8")],
            &[("default-address-pools", "base=10.0.0.0/16,size=8")],
            &[("default-address-pools", "10.0.0.0/8")],
            &[("bridge", "br0"), ("bip", "10.9.0.5/24")],
            &[("icc", "false"), ("iptables", "false"), ("ip6tables", "false")],
        ] {
            assert!(resolve(&given(pairs)).is_err(), "{pairs:?}");
        }
        assert!(names(&given(&[("dns", "example.com")])).is_err());
    }
}
