//! What the options of a driver mean. A name that no driver knows is kept and shown, as the
//! reference does; a value that cannot be understood is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_network::record::{Bridge, Driver, GatewayMode, Macvlan, MacvlanMode};

use super::change::failed;
use crate::{Error, Result};

/// Longest name of a link (IFNAMSIZ without its NUL).
pub(super) const LINK_NAME_MAX: usize = 15;

pub(super) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
pub(super) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(super) const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
pub(super) const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Known to the reference and without effect here.
const WITHOUT_EFFECT: [&str; 4] = [
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
    "com.docker.network.bridge.trusted_host_interfaces",
];

fn refused(label: &str, value: &str, why: &str) -> Error {
    Error::Invalid(format!("failed to parse {label} value: {value:?} ({why})"))
}

/// A truth value as Go reads it.
fn boolean(options: &BTreeMap<String, String>, label: &str) -> Result<Option<bool>> {
    let Some(value) = options.get(label) else { return Ok(None) };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        other => Err(refused(label, other, &format!("strconv.ParseBool: parsing {other:?}: invalid syntax"))),
    }
}

fn mode(options: &BTreeMap<String, String>, label: &str, internal: bool) -> Result<GatewayMode> {
    let Some(value) = options.get(label) else { return Ok(GatewayMode::Nat) };
    match value.as_str() {
        "" | "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" if internal => Ok(GatewayMode::Isolated),
        "isolated" => {
            Err(Error::Invalid("gateway mode 'isolated' can only be used for an internal network".to_owned()))
        }
        other => Err(refused(label, other, "use nat, nat-unprotected, routed or isolated")),
    }
}

/// A name that a link can have (dev_valid_name in the kernel).
pub(super) fn is_link_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
    (1..=LINK_NAME_MAX).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(word)
}

/// A bridge by its options; `id` gives the name of the link where none is asked for. Gives
/// warnings too.
pub(super) fn bridge(
    id: &str,
    options: &BTreeMap<String, String>,
    internal: bool,
) -> Result<(Bridge, Vec<String>)> {
    let text = |label: &str| options.get(label).filter(|text| !text.is_empty());
    let link = match text(BRIDGE_NAME) {
        None => format!("br-{}", id.get(..12).unwrap_or(id)),
        Some(name) if is_link_name(name) => name.clone(),
        Some(name) => {
            return Err(Error::Invalid(format!(
                "{BRIDGE_NAME}={name}: a link's name has 1 to {LINK_NAME_MAX} visible characters without / and :"
            )));
        }
    };
    let mtu = match options.get(MTU).map(|text| (text, text.parse::<u32>())) {
        None => None,
        Some((_, Ok(0))) => None,
        Some((_, Ok(mtu @ 68..=65535))) => Some(mtu),
        Some((text, Ok(_))) => return Err(refused(MTU, text, "a bridge takes 68 to 65535")),
        Some((text, Err(_))) => {
            return Err(refused(MTU, text, &format!("strconv.Atoi: parsing {text:?}: invalid syntax")));
        }
    };
    let binding = match text(BINDING) {
        None => None,
        Some(text) => match text.parse::<IpAddr>() {
            Ok(address) => Some(address).filter(|address| !address.is_unspecified()),
            Err(_) => return Err(refused(BINDING, text, "nil ip")),
        },
    };
    // The link's number has to fit behind it.
    let prefix = text(PREFIX).map_or("eth", String::as_str);
    if !is_link_name(&format!("{prefix}000")) {
        return Err(refused(
            PREFIX,
            prefix,
            "a link's name has at most 15 characters, the number among them",
        ));
    }
    let warnings = WITHOUT_EFFECT
        .iter()
        .filter(|label| options.contains_key(**label))
        .map(|label| format!("the option {label} has no effect in this build"))
        .collect();
    let bridge = Bridge {
        link,
        default: boolean(options, DEFAULT_BRIDGE)?.unwrap_or(false),
        icc: boolean(options, ICC)?.unwrap_or(true),
        masquerade: boolean(options, MASQUERADE)?.unwrap_or(true),
        binding,
        mtu,
        prefix: prefix.to_owned(),
        mode4: mode(options, MODE4, internal)?,
        mode6: mode(options, MODE6, internal)?,
        foreign: false,
    };
    if bridge.default {
        return Err(Error::Forbidden(format!("{DEFAULT_BRIDGE} is the option of the network bridge alone")));
    }
    Ok((bridge, warnings))
}

/// A macvlan network by its options, on a host with these `links`.
pub(super) fn macvlan(
    id: &str,
    options: &BTreeMap<String, String>,
    internal: bool,
    links: &[String],
) -> Result<Macvlan> {
    let mode = match options.get("macvlan_mode").map_or("", String::as_str) {
        "" | "bridge" => MacvlanMode::Bridge,
        "private" => MacvlanMode::Private,
        "vepa" => MacvlanMode::Vepa,
        "passthru" => MacvlanMode::Passthru,
        other => {
            return Err(Error::Invalid(format!(
                "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
            )));
        }
    };
    let asked = options.get("parent").map(String::as_str);
    if let Some(parent) = asked.filter(|parent| !parent.is_empty() && !is_link_name(parent)) {
        return Err(refused("parent", parent, "no link can have that name"));
    }
    let parent = hull_network::macvlan::choose_parent(id, asked, internal, links).map_err(failed)?;
    Ok(Macvlan { parent: parent.link, mode, made_parent: parent.made, nowhere: parent.nowhere })
}

/// The options that the default bridge shows.
pub(super) fn of_default_bridge(bridge: &Bridge) -> BTreeMap<String, String> {
    let binding = bridge.binding.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let options = [
        (DEFAULT_BRIDGE, "true".to_owned()),
        (ICC, bridge.icc.to_string()),
        (MASQUERADE, bridge.masquerade.to_string()),
        (BINDING, binding.to_string()),
        (BRIDGE_NAME, bridge.link.clone()),
        (MTU, bridge.mtu.unwrap_or(1500).to_string()),
    ];
    options.into_iter().map(|(label, value)| (label.to_owned(), value)).collect()
}

/// What has to be refused because of another network's links.
pub(super) fn conflict(id: &str, driver: &Driver, other_id: &str, other: &Driver) -> Option<Error> {
    match (driver, other) {
        (Driver::Bridge(own), Driver::Bridge(other)) if own.link == other.link => {
            Some(Error::Forbidden(format!(
                "cannot create network {id} ({}): conflicts with network {other_id} ({}): networks have same bridge name",
                own.link, other.link
            )))
        }
        (Driver::Macvlan(own), Driver::Macvlan(other)) => {
            let alone = own.mode == MacvlanMode::Passthru || other.mode == MacvlanMode::Passthru;
            (own.parent == other.parent && alone).then(|| {
                Error::Forbidden(format!(
                    "network {other_id} is already using parent interface {}",
                    own.parent
                ))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_bridge_without_options() {
        let (bridge, warnings) = bridge(ID, &options(&[("nonsense", "")]), false).unwrap();
        assert_eq!((bridge.link.as_str(), bridge.prefix.as_str()), ("br-0123456789ab", "eth"));
        assert!(bridge.icc && bridge.masquerade && bridge.mtu.is_none() && warnings.is_empty());
    }

    #[test]
    fn a_bridge_with_all_of_them() {
        let given = options(&[
            (BRIDGE_NAME, "br-ref"),
            (MTU, "1400"),
            (ICC, "false"),
            (MASQUERADE, "0"),
            (BINDING, "127.0.0.1"),
            (MODE4, "routed"),
            (MODE6, "nat-unprotected"),
            (PREFIX, "lan"),
        ]);
        let (bridge, _) = bridge(ID, &given, false).unwrap();
        assert_eq!((bridge.link.as_str(), bridge.mtu, bridge.prefix.as_str()), ("br-ref", Some(1400), "lan"));
        assert!(!bridge.icc && !bridge.masquerade);
        assert_eq!(bridge.binding, Some("127.0.0.1".parse().unwrap()));
        assert_eq!((bridge.mode4, bridge.mode6), (GatewayMode::Routed, GatewayMode::NatUnprotected));
    }

    #[test]
    fn bad_values_are_named() {
        let refusal = |label: &str, value: &str| {
            bridge(ID, &options(&[(label, value)]), false).unwrap_err().to_string()
        };
        for (label, value, text) in [
            (
                MTU,
                "x",
                "failed to parse com.docker.network.driver.mtu value: \"x\" (strconv.Atoi: parsing \"x\": invalid syntax)",
            ),
            (
                MTU,
                "-1",
                "failed to parse com.docker.network.driver.mtu value: \"-1\" (strconv.Atoi: parsing \"-1\": invalid syntax)",
            ),
            (
                MTU,
                "7",
                "failed to parse com.docker.network.driver.mtu value: \"7\" (a bridge takes 68 to 65535)",
            ),
            (
                ICC,
                "perhaps",
                "failed to parse com.docker.network.bridge.enable_icc value: \"perhaps\" (strconv.ParseBool: parsing \"perhaps\": invalid syntax)",
            ),
            (
                BINDING,
                "x",
                "failed to parse com.docker.network.bridge.host_binding_ipv4 value: \"x\" (nil ip)",
            ),
            (
                MODE4,
                "x",
                "failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: \"x\" (use nat, nat-unprotected, routed or isolated)",
            ),
            (MODE4, "isolated", "gateway mode 'isolated' can only be used for an internal network"),
        ] {
            assert_eq!(refusal(label, value), text);
        }
        assert!(refusal(BRIDGE_NAME, "a/b").contains("a link's name"));
        assert!(refusal(BRIDGE_NAME, "sixteencharacter").contains("a link's name"));
    }

    #[test]
    fn macvlan_modes_and_parents() {
        let links = ["eth0".to_owned(), "eth1.9".to_owned()];
        let macvlan = |pairs: &[(&str, &str)], internal| {
            let made = macvlan(ID, &options(pairs), internal, &links)?;
            Ok::<_, Error>((made.parent, made.mode, made.made_parent, made.nowhere))
        };
        let bridge = MacvlanMode::Bridge;
        assert_eq!(macvlan(&[], false).unwrap(), ("dm-0123456789ab".into(), bridge, true, true));
        assert_eq!(
            macvlan(&[("parent", "eth0.7"), ("macvlan_mode", "private")], false).unwrap(),
            ("eth0.7".into(), MacvlanMode::Private, true, false)
        );
        for own in ["eth0", "eth1.9"] {
            assert_eq!(macvlan(&[("parent", own)], false).unwrap(), (own.into(), bridge, false, false));
        }
        assert_eq!(macvlan(&[("parent", "void")], true).unwrap(), ("void".into(), bridge, true, true));
        for bad in ["void", "void.7", "eth0.4095", "a/b"] {
            assert!(macvlan(&[("parent", bad)], false).is_err(), "{bad}");
        }
        assert!(macvlan(&[("macvlan_mode", "x")], false).is_err());
    }

    #[test]
    fn a_bridge_has_one_network_and_a_passthru_parent_too() {
        let bridge =
            |name: &str| Driver::Bridge(bridge(ID, &options(&[(BRIDGE_NAME, name)]), false).unwrap().0);
        assert!(conflict("a", &bridge("x"), "b", &bridge("y")).is_none());
        assert_eq!(
            conflict("a", &bridge("x"), "b", &bridge("x")).unwrap().to_string(),
            "cannot create network a (x): conflicts with network b (x): networks have same bridge name"
        );
        let mac = |mode: &str| {
            let options = options(&[("parent", "e"), ("macvlan_mode", mode)]);
            Driver::Macvlan(macvlan(ID, &options, false, &["e".to_owned()]).unwrap())
        };
        assert!(conflict("a", &mac("bridge"), "b", &mac("private")).is_none());
        assert!(conflict("a", &mac("bridge"), "b", &mac("passthru")).is_some());
    }
}
