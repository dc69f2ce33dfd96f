//! The three networks that every host has. Their ids and what was chosen for them once stay; what
//! the daemon's configuration says of the default bridge is put over it at every start.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_network::ipam::{self, Pool};
use hull_network::record::{Bridge, Driver, GatewayMode, Network, Subnet};
use ipnet::IpNet;

use super::options;
use super::record::{Defaults, Record};
use crate::containers::phase::Time;
use crate::{Error, Result};

/// Names of the default bridge's link: the reference's, unless somebody else has it.
const LINKS: [&str; 2] = ["docker0", "hull0"];

/// What is there when the default bridge is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct World<'a> {
    /// Subnets of other networks and of the host's routes.
    pub(super) taken: &'a [IpNet],
    pub(super) pools: &'a [Pool],
    /// Names of the host's links.
    pub(super) links: &'a [String],
    /// Addresses of the host, by the name of their link.
    pub(super) addresses: &'a [(String, IpNet)],
}

/// `host` or `none`.
pub(super) fn plain(id: String, name: &str, driver: Driver, now: Time) -> Record {
    let network = Network {
        id,
        name: name.to_owned(),
        driver,
        subnets: Vec::new(),
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        ipam_options: BTreeMap::new(),
        created: now,
    };
    of(network)
}

fn of(network: Network) -> Record {
    Record {
        network,
        predefined: true,
        config_only: false,
        config_from: String::new(),
        gateways: Default::default(),
        ipam_options: false,
    }
}

/// The default bridge, from the last start's record where there is one.
pub(super) fn bridge(
    before: Option<&Record>,
    id: String,
    defaults: &Defaults,
    world: World<'_>,
    now: Time,
) -> Result<Record> {
    let old = before.map(|record| &record.network);
    let old_bridge = old.and_then(|network| match &network.driver {
        Driver::Bridge(bridge) => Some(bridge),
        _ => None,
    });
    let (link, foreign) = match (defaults.bridge.as_str(), old_bridge) {
        ("", Some(bridge)) if !bridge.foreign => (bridge.link.clone(), false),
        ("", _) => {
            let free = LINKS.iter().find(|name| !world.links.iter().any(|link| link == *name));
            (free.unwrap_or(&"hull0").to_string(), false)
        }
        (name, _) if !options::is_link_name(name) => {
            return Err(Error::Invalid(format!("bridge {name}: no link can have that name")));
        }
        (name, _) => (name.to_owned(), true),
    };
    // Somebody else's bridge keeps the addresses that it has.
    let addresses = |ipv6: bool| -> Vec<IpNet> {
        let on_it = world.addresses.iter().filter(|(name, _)| foreign && *name == link);
        let usable = |net: &IpNet| match net {
            IpNet::V4(_) => !ipv6,
            IpNet::V6(net) => ipv6 && !net.addr().is_unicast_link_local(),
        };
        on_it.map(|(_, net)| *net).filter(usable).collect()
    };
    let mut subnets = vec![subnet(false, old, defaults, (world, &addresses(false)))?];
    if defaults.ipv6 {
        subnets.push(subnet(true, old, defaults, (world, &addresses(true)))?);
    }
    let bridge = Bridge {
        link,
        default: true,
        icc: defaults.icc,
        masquerade: defaults.ip_masq,
        binding: Some(defaults.binding).filter(|address| !address.is_unspecified()),
        mtu: Some(defaults.mtu).filter(|mtu| *mtu != 0),
        prefix: "eth".to_owned(),
        mode4: GatewayMode::Nat,
        mode6: GatewayMode::Nat,
        foreign,
    };
    let mut record = plain(
        old.map_or(id, |network| network.id.clone()),
        "bridge",
        Driver::Null,
        old.map_or(now, |network| network.created),
    );
    record.network.options = options::of_default_bridge(&bridge);
    record.network.driver = Driver::Bridge(bridge);
    record.network.ipv6 = defaults.ipv6;
    record.network.subnets = subnets;
    Ok(record)
}

/// The default bridge's subnet of a family: as configured, else that of an address which a bridge
/// of the host's has, else as it was, else a free one.
fn subnet(
    ipv6: bool,
    old: Option<&Network>,
    defaults: &Defaults,
    (world, addresses): (World<'_>, &[IpNet]),
) -> Result<Subnet> {
    let (own, fixed) = if ipv6 {
        (defaults.bip6.map(IpNet::from), defaults.fixed_cidr6.map(IpNet::from))
    } else {
        (defaults.bip.map(IpNet::from), defaults.fixed_cidr.map(IpNet::from))
    };
    let outer = defaults_gateway(ipv6, defaults);
    let fixed = fixed.map(|range| range.trunc());
    let fits = |net: &&IpNet| fixed.is_none_or(|range| net.contains(&range));
    let own = own.or_else(|| addresses.iter().find(fits).copied());
    let pool = own.map(|own| own.trunc()).or(fixed);
    let before = old.and_then(|network| {
        network.subnets.iter().find(|subnet| subnet.pool.addr().is_ipv6() == ipv6 && !subnet.asked)
    });
    let (pool, asked) = match (pool, before) {
        (Some(pool), _) => (pool, true),
        (None, Some(before)) => (before.pool, false),
        (None, None) => {
            let free = ipam::free_subnet(world.pools, ipv6, world.taken);
            let full = || {
                Error::Invalid(
                    "no subnet is free for the default bridge: all default-address-pools overlap with routes of this \
                     host or with networks; name one with bip"
                        .to_owned(),
                )
            };
            (free.ok_or_else(full)?, false)
        }
    };
    let range = fixed.filter(|range| *range != pool);
    if range.is_some_and(|range| !pool.contains(&range)) {
        return Err(Error::Invalid(format!("fixed-cidr {} is not within {pool}", fixed.unwrap_or(pool))));
    }
    let mut subnet = Subnet { pool, range, gateway: None, reserved: BTreeMap::new(), asked };
    // The gateway is the bridge's own address; it need not be in the range.
    let whole = Subnet { range: None, ..subnet.clone() };
    subnet.gateway = own.map(|own| own.addr()).or_else(|| ipam::gateway(&whole));
    if let Some((name, address)) = outer {
        if !pool.contains(&address) {
            return Err(Error::Invalid(format!("the default gateway {address} is not within {pool}")));
        }
        subnet.reserved.insert(name.to_owned(), address);
    }
    Ok(subnet)
}

/// Containers' gateway where it is not the bridge: an address that is not given away.
fn defaults_gateway(ipv6: bool, defaults: &Defaults) -> Option<(&'static str, IpAddr)> {
    match ipv6 {
        true => defaults.gateway6.map(|address| ("DefaultGatewayIPv6", address.into())),
        false => defaults.gateway4.map(|address| ("DefaultGatewayIPv4", address.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(before: Option<&Record>, defaults: &Defaults, taken: &[&str], links: &[&str]) -> Result<Record> {
        let taken: Vec<IpNet> = taken.iter().map(|text| text.parse().unwrap()).collect();
        let links: Vec<String> = links.iter().map(|&link| link.to_owned()).collect();
        let pools = ipam::default_pools([1, 2, 3, 4, 5]);
        // A bridge that somebody else made, and a link that is none of it.
        let addresses =
            [("lo", "127.0.0.1/8"), ("br9", "fe80::1/64"), ("br9", "10.8.0.9/24"), ("br9", "10.9.0.9/24")]
                .map(|(link, net)| (link.to_owned(), net.parse().unwrap()));
        let world = World { taken: &taken, pools: &pools, links: &links, addresses: &addresses };
        bridge(before, "new".into(), defaults, world, 7)
    }

    fn link(record: &Record) -> &str {
        match &record.network.driver {
            Driver::Bridge(bridge) => &bridge.link,
            _ => panic!("no bridge"),
        }
    }

    fn shown(record: &Record) -> String {
        let one = |subnet: &Subnet| format!("{} {}", subnet.pool, subnet.gateway.unwrap());
        record.network.subnets.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_was_chosen_once_stays() {
        let first = made(None, &Defaults::default(), &["172.17.0.0/16"], &["lo", "docker0"]).unwrap();
        assert_eq!((shown(&first).as_str(), link(&first)), ("172.18.0.0/16 172.18.0.1", "hull0"));
        // By now the bridge's own link and route are there.
        let again = made(Some(&first), &Defaults::default(), &["172.18.0.0/16"], &["hull0"]).unwrap();
        assert_eq!(again, first);
        let usual = made(None, &Defaults::default(), &[], &["lo"]).unwrap();
        assert_eq!((shown(&usual).as_str(), link(&usual)), ("172.17.0.0/16 172.17.0.1", "docker0"));
    }

    #[test]
    fn the_configuration_is_put_over_it_and_taken_off_again() {
        let first = made(None, &Defaults::default(), &[], &[]).unwrap();
        let defaults = Defaults {
            bip: Some("10.9.0.5/24".parse().unwrap()),
            fixed_cidr: Some("10.9.0.128/25".parse().unwrap()),
            ipv6: true,
            icc: false,
            mtu: 1400,
            gateway4: Some("10.9.0.254".parse().unwrap()),
            ..Defaults::default()
        };
        let set = made(Some(&first), &defaults, &[], &[]).unwrap();
        assert_eq!(shown(&set), "10.9.0.0/24 10.9.0.5, fd01:203:405::/64 fd01:203:405::1");
        assert_eq!(set.network.id, "new");
        assert_eq!(set.network.subnets[0].reserved["DefaultGatewayIPv4"].to_string(), "10.9.0.254");
        assert_eq!(set.network.options["com.docker.network.bridge.enable_icc"], "false");
        assert_eq!(set.network.options["com.docker.network.driver.mtu"], "1400");
        let back = made(Some(&set), &Defaults::default(), &[], &[]).unwrap();
        assert_eq!(shown(&back), "172.17.0.0/16 172.17.0.1");
    }

    #[test]
    fn a_bridge_of_the_hosts_keeps_its_address() {
        let own = Defaults { bridge: "br9".into(), ..Defaults::default() };
        let routes = ["10.8.0.0/24", "10.9.0.0/24"];
        let set = made(None, &own, &routes, &["br9"]).unwrap();
        assert_eq!((shown(&set).as_str(), link(&set)), ("10.8.0.0/24 10.8.0.9", "br9"));
        let range = Some("10.9.0.128/25".parse().unwrap());
        let within = made(None, &Defaults { fixed_cidr: range, ..own.clone() }, &routes, &["br9"]).unwrap();
        assert_eq!(shown(&within), "10.9.0.0/24 10.9.0.9");
        // One without any, and the next start without it.
        let bare = made(None, &Defaults { bridge: "br8".into(), ..own }, &routes, &["br8"]).unwrap();
        assert_eq!(shown(&bare), "172.17.0.0/16 172.17.0.1");
        assert_eq!(shown(&made(Some(&set), &Defaults::default(), &routes, &["br9"]).unwrap()), shown(&bare));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bip: Option<ipnet::Ipv4Net> = Some("10.9.0.5/24".parse().unwrap());
        let outside =
            Defaults { bip, fixed_cidr: Some("10.8.0.0/25".parse().unwrap()), ..Defaults::default() };
        assert_eq!(
            made(None, &outside, &[], &[]).unwrap_err().to_string(),
            "fixed-cidr 10.8.0.0/25 is not within 10.9.0.0/24"
        );
        let gateway = Defaults { bip, gateway4: Some("10.8.0.1".parse().unwrap()), ..Defaults::default() };
        assert!(made(None, &gateway, &[], &[]).is_err());
        assert!(made(None, &Defaults { bridge: "a/b".into(), ..Defaults::default() }, &[], &[]).is_err());
        assert!(made(None, &Defaults::default(), &["0.0.0.0/0"], &[]).is_err());
    }
}
