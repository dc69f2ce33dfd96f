//! What a container wants of a network: from the caller's words to a value that fits the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_network::record::{Attachment, Mac};
use hull_network::sysctl::Key;

use super::make::list;
use super::record::Record;
use crate::{Error, Result};

/// Most names that a container may have on one network.
const NAMES_MAX: usize = 256;

/// A wish to be on a network, in the caller's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Join {
    /// Name, id, or unambiguous prefix of one.
    pub network: String,
    pub address4: String,
    pub address6: String,
    pub link_local: Vec<String>,
    pub mac: String,
    pub aliases: Vec<String>,
    /// `container` or `container:alias`.
    pub links: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    pub gateway_priority: i64,
}

/// Option of an endpoint: `net.ipv4.conf.IFNAME.forwarding=1,…`.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Option of an endpoint: what its link is called in the container.
pub(super) const LINK_NAME: &str = "com.docker.network.endpoint.ifname";

/// Checks a wish against its network, where there is one by now.
///
/// # Errors
/// Everything that is wrong with it, in the reference's words.
pub(crate) fn attachment(record: Option<&Record>, join: &Join) -> Result<Attachment> {
    let mut faults = Vec::new();
    let asked = !join.address4.is_empty() || !join.address6.is_empty();
    let on_default = record.is_some_and(|record| record.predefined);
    if on_default && asked {
        faults.push("user specified IP address is supported on user defined networks only".to_owned());
    }
    if on_default && !join.aliases.is_empty() {
        faults.push(
            "network-scoped alias is supported only for containers in user defined networks".to_owned(),
        );
    }
    let mut parsed = Attachment {
        network: record.map_or_else(|| join.network.clone(), |record| record.network.name.clone()),
        aliases: join.aliases.clone(),
        links: join.links.clone(),
        driver_options: join.driver_options.clone(),
        gateway_priority: join.gateway_priority,
        ..Attachment::default()
    };
    parsed.address4 = address::<Ipv4Addr>(&join.address4, "IPv4", &mut faults);
    parsed.address6 = address::<Ipv6Addr>(&join.address6, "IPv6", &mut faults);
    for text in &join.link_local {
        parsed.link_local.extend(address::<IpAddr>(text, "link-local IP", &mut faults));
    }
    if !join.mac.is_empty() {
        match join.mac.parse::<Mac>() {
            Ok(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => parsed.mac = Some(mac),
            Ok(_) => faults.push(format!("invalid MAC address: {} is no address of one link", join.mac)),
            Err(_) => faults.push(format!("invalid MAC address: address {}: invalid MAC address", join.mac)),
        }
    }
    if join.aliases.len() > NAMES_MAX || join.links.len() > NAMES_MAX {
        faults.push(format!(
            "a container has at most {NAMES_MAX} aliases and {NAMES_MAX} links on one network"
        ));
    }
    for alias in join.aliases.iter().filter(|alias| alias.is_empty() || alias.len() > 253) {
        faults.push(format!("invalid alias {alias:?}: a name has 1 to 253 characters"));
    }
    if let Some(name) = join.driver_options.get(LINK_NAME)
        && !hull_network::driver::valid_link_name(name)
    {
        faults.push(format!("invalid interface name {name:?}"));
    }
    faults.extend(sysctls(&join.driver_options).into_iter().filter_map(std::result::Result::err));
    if let Some(record) = record {
        faults.extend(in_range(record, &join.address4, false));
        faults.extend(in_range(record, &join.address6, true));
    }
    match faults.as_slice() {
        [] => Ok(parsed),
        faults => Err(Error::Invalid(format!("invalid endpoint settings:\n{}", list(faults)))),
    }
}

/// The sysctls among an endpoint's options, each with its value, or what is wrong with it in the
/// reference's words. The official client may write them in small letters, the stand-in for the
/// link's name as well.
pub(super) fn sysctls(options: &BTreeMap<String, String>) -> Vec<Result<(String, String), String>> {
    let one = |entry: &str| {
        let (key, value) = entry
            .split_once('=')
            .ok_or_else(|| format!("network interface sysctl '{entry}' has no value: write KEY=VALUE"))?;
        let key = key.trim().replace("ifname", "IFNAME");
        match Key::of_link(&key, "eth0") {
            Some(_) => Ok((key, value.trim().to_owned())),
            None => Err(format!(
                "unrecognised network interface sysctl '{entry}'; represent 'net.X.Y.ethN.Z=V' as \
                 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )),
        }
    };
    let text = options.get(SYSCTLS).map_or("", String::as_str);
    text.split(',').filter(|entry| !entry.trim().is_empty()).map(one).collect()
}

fn address<T: std::str::FromStr>(text: &str, what: &str, faults: &mut Vec<String>) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    let parsed = text.parse().ok();
    if parsed.is_none() {
        faults.push(format!("invalid {what} address: {text}"));
    }
    parsed
}

/// An address can be chosen only where the caller chose the subnet.
fn in_range(record: &Record, text: &str, ipv6: bool) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut own = record
        .network
        .subnets
        .iter()
        .filter(|subnet| subnet.asked && !record.predefined && subnet.pool.addr().is_ipv6() == ipv6)
        .peekable();
    if own.peek().is_none() {
        return Some(
            "user specified IP address is supported only when connecting to networks with user configured subnets"
                .to_owned(),
        );
    }
    let address: Option<IpAddr> = text.parse().ok();
    let inside = address.is_none_or(|address| own.any(|subnet| subnet.pool.contains(&address)));
    (!inside).then(|| format!("no configured subnet or ip-range contain the IP address {text}"))
}

#[cfg(test)]
mod tests {
    use hull_network::record::{Driver, Network, Subnet};

    use super::*;

    fn record(predefined: bool, pool: Option<&str>) -> Record {
        let subnet = |pool: &str| Subnet {
            pool: pool.parse().unwrap(),
            range: None,
            gateway: None,
            reserved: BTreeMap::new(),
            asked: true,
        };
        let network = Network {
            id: "1".into(),
            name: "n1".into(),
            driver: Driver::Null,
            subnets: pool.map(subnet).into_iter().collect(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            created: 0,
        };
        Record {
            network,
            predefined,
            config_only: false,
            config_from: String::new(),
            gateways: Default::default(),
            ipam_options: false,
        }
    }

    fn refusal(record: &Record, join: Join) -> String {
        let text = attachment(Some(record), &join).unwrap_err().to_string();
        text.strip_prefix("invalid endpoint settings:\n").unwrap().to_owned()
    }

    #[test]
    fn what_fits_becomes_a_value() {
        let join = Join {
            network: "1".into(),
            address4: "10.77.0.50".into(),
            link_local: vec!["169.254.1.1".into()],
            mac: "02:42:0a:4d:00:32".into(),
            aliases: vec!["a".into()],
            gateway_priority: 5,
            ..Join::default()
        };
        let made = attachment(Some(&record(false, Some("10.77.0.0/24"))), &join).unwrap();
        assert_eq!((made.network.as_str(), made.gateway_priority), ("n1", 5));
        assert_eq!(made.address4, Some("10.77.0.50".parse().unwrap()));
        assert_eq!(made.mac.unwrap().to_string(), "02:42:0a:4d:00:32");
        // The network may come later.
        let made = attachment(None, &Join { network: "later".into(), ..Join::default() }).unwrap();
        assert_eq!(made.network, "later");
    }

    #[test]
    fn what_does_not_fit_is_refused_in_the_references_words() {
        let own = record(false, Some("10.77.0.0/24"));
        let with = |address: &str| Join { address4: address.into(), ..Join::default() };
        assert_eq!(
            refusal(&own, with("10.99.0.1")),
            "no configured subnet or ip-range contain the IP address 10.99.0.1"
        );
        assert_eq!(
            refusal(&own, Join { address6: "fd00::1".into(), ..Join::default() }),
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        );
        assert_eq!(
            refusal(&record(false, None), with("bad")),
            "* invalid IPv4 address: bad\n* user specified IP address is supported only when connecting to networks \
             with user configured subnets"
        );
        assert_eq!(
            refusal(&record(true, Some("172.17.0.0/16")), with("172.17.0.99")),
            "* user specified IP address is supported on user defined networks only\n* user specified IP address is \
             supported only when connecting to networks with user configured subnets"
        );
        let sysctls = |text: &str| Join {
            driver_options: BTreeMap::from([(SYSCTLS.to_owned(), text.to_owned())]),
            ..Join::default()
        };
        assert_eq!(
            refusal(&own, sysctls("net.ipv4.conf.ifname.forwarding=1,net.core.x=1,net.ipv4.conf.IFNAME.x")),
            "* unrecognised network interface sysctl 'net.core.x=1'; represent 'net.X.Y.ethN.Z=V' as \
             'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'\n* network interface sysctl \
             'net.ipv4.conf.IFNAME.x' has no value: write KEY=VALUE"
        );
        for mac in ["nonsense", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert!(
                refusal(&own, Join { mac: mac.into(), ..Join::default() }).starts_with("invalid MAC address")
            );
        }
    }
}
