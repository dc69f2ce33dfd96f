//! What a container wants of networks and ports, from the several places in which the API has it:
//! the mode, the end points by network, the published and the exposed ports, the older links.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hull_api::create::Config;
use hull_api::hostconfig::{HostConfig, PortBinding};
use hull_api::network::{EndpointSettings, NetworkingConfig};
use hull_engine::containers::settings::{NetworkMode, PortRequest};
use hull_engine::networks::Join;
use hull_network::record::{PortRange, Protocol};

use super::Result;
use crate::http::Failure;

/// Most published or exposed ports of one request: every port of every protocol.
const PORTS_MAX: usize = 3 * 65536;

type PortBindings = BTreeMap<String, Option<Vec<PortBinding>>>;

/// What was understood.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub mode: NetworkMode,
    /// The mode's own network first.
    pub joins: Vec<Join>,
    pub ports: Vec<PortRequest>,
    pub exposed: Vec<(Protocol, PortRange)>,
}

/// Fills in the mode's usual name too.
pub(super) fn wanted(
    config: &Config,
    host: &mut HostConfig,
    networking: NetworkingConfig,
    warnings: &mut Vec<String>,
) -> Result<Wanted> {
    let mode = mode(config, host)?;
    let ports = published(host)?;
    let exposed = exposed(config)?;
    conflicts(&mode, config, host, !ports.is_empty() || host.publish_all_ports)?;
    if mode == NetworkMode::Host && (!ports.is_empty() || host.publish_all_ports) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let joins = joins(&mode, config, host, networking)?;
    Ok(Wanted { mode, joins, ports, exposed })
}

fn mode(config: &Config, host: &mut HostConfig) -> Result<NetworkMode> {
    let wanted = if config.network_disabled { "none" } else { host.network_mode.as_str() };
    Ok(match wanted {
        "" | "default" | "bridge" => {
            host.network_mode = "bridge".to_owned();
            NetworkMode::Default
        }
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some("") => return Err(Failure::invalid("invalid container format container:<name|id>")),
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    })
}

fn conflicts(mode: &NetworkMode, config: &Config, host: &HostConfig, published: bool) -> Result<()> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let links = |kind: &str| {
        format!(
            "conflicting options: {kind} can't be used with links. This would result in undefined behavior"
        )
    };
    let text = match mode {
        NetworkMode::Container(_) if !config.hostname.is_empty() => {
            "conflicting options: hostname and the network mode".to_owned()
        }
        NetworkMode::Container(_) if some(&host.links) => links("container type network"),
        NetworkMode::Container(_) if some(&host.dns) => {
            "conflicting options: dns and the network mode".to_owned()
        }
        NetworkMode::Container(_) if some(&host.extra_hosts) => {
            "conflicting options: custom host-to-IP mapping and the network mode".to_owned()
        }
        NetworkMode::Container(_) if !config.mac_address.is_empty() => {
            "conflicting options: mac-address and the network mode".to_owned()
        }
        NetworkMode::Container(_) if published => {
            "conflicting options: port publishing and the container type network mode".to_owned()
        }
        NetworkMode::Container(_) if config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()) => {
            "conflicting options: port exposing and the container type network mode".to_owned()
        }
        NetworkMode::Host if some(&host.links) => links("host type networking"),
        _ => return Ok(()),
    };
    Err(Failure::invalid(text))
}

fn joins(
    mode: &NetworkMode,
    config: &Config,
    host: &HostConfig,
    networking: NetworkingConfig,
) -> Result<Vec<Join>> {
    let name = |key: &str| if matches!(key, "" | "default") { "bridge" } else { key }.to_owned();
    let own = match mode {
        NetworkMode::Default => "bridge",
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Named(name) => name,
        NetworkMode::Container(_) => "",
    };
    let mut others: BTreeMap<String, Join> = BTreeMap::new();
    for (key, endpoint) in networking.endpoints_config.unwrap_or_default() {
        others.insert(name(&key), join(&name(&key), endpoint));
    }
    let mut first = others.remove(own).unwrap_or_else(|| Join { network: own.to_owned(), ..Join::default() });
    if matches!(mode, NetworkMode::Container(_)) {
        return Ok(Vec::new());
    }
    if !config.mac_address.is_empty() {
        if !first.mac.is_empty() && first.mac != config.mac_address {
            return Err(Failure::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, \
                 or be left empty",
            ));
        }
        first.mac.clone_from(&config.mac_address);
    }
    first.links.extend(host.links.iter().flatten().cloned());
    let shared = |name: &str| matches!(name, "host" | "none") || name.starts_with("container:");
    if !others.is_empty() && (shared(own) || others.keys().any(|name| shared(name))) {
        return Err(Failure::invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    Ok(std::iter::once(first).chain(others.into_values()).collect())
}

/// One end point in the caller's words.
pub(crate) fn join(network: &str, endpoint: EndpointSettings) -> Join {
    let ipam = endpoint.ipam_config.unwrap_or_default();
    Join {
        network: network.to_owned(),
        address4: ipam.ipv4_address,
        address6: ipam.ipv6_address,
        link_local: ipam.link_local_ips,
        mac: endpoint.mac_address,
        aliases: endpoint.aliases.unwrap_or_default(),
        links: endpoint.links.unwrap_or_default(),
        driver_options: endpoint.driver_opts.unwrap_or_default(),
        gateway_priority: endpoint.gw_priority,
    }
}

fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(PortRange { first, last })
}

/// `80/tcp`, `80-90/udp`, `80`.
fn port(text: &str) -> Result<(Protocol, PortRange)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(Failure::invalid(format!("invalid port specification: invalid proto: {other}"))),
    };
    match range(ports) {
        Some(range) if range.first > 0 => Ok((protocol, range)),
        _ => Err(Failure::invalid(format!("invalid port specification: {ports:?}"))),
    }
}

fn published(host: &HostConfig) -> Result<Vec<PortRequest>> {
    let mut all = Vec::new();
    for (key, bindings) in host.port_bindings.iter().flatten() {
        let (protocol, container) = port(key)?;
        for binding in bindings.iter().flatten() {
            all.push(binding_of(protocol, container, binding)?);
        }
        if all.len() > PORTS_MAX {
            return Err(Failure::invalid("more ports are published than there are"));
        }
    }
    Ok(folded(all))
}

/// Bindings as the reference shows them: a range that was asked for as one is spelled out.
pub(crate) fn spelled_out(asked: PortBindings) -> PortBindings {
    let mut all = PortBindings::new();
    for (key, bindings) in asked {
        let Some((protocol, ports)) = port(&key).ok().filter(|(_, ports)| ports.count() > 1) else {
            let places = all.entry(key).or_default();
            if let Some(bindings) = bindings {
                places.get_or_insert_default().extend(bindings);
            }
            continue;
        };
        for (step, port) in (ports.first..=ports.last).enumerate() {
            let one = |binding: &PortBinding| PortBinding {
                host_port: match range(&binding.host_port).filter(|host| host.count() == ports.count()) {
                    Some(host) => (usize::from(host.first) + step).to_string(),
                    None => binding.host_port.clone(),
                },
                ..binding.clone()
            };
            let places = all.entry(format!("{port}/{}", protocol.name())).or_default();
            places.get_or_insert_default().extend(bindings.iter().flatten().map(one));
        }
    }
    all
}

fn binding_of(protocol: Protocol, container: PortRange, binding: &PortBinding) -> Result<PortRequest> {
    let PortBinding { host_ip, host_port } = binding;
    let address = match host_ip.as_str() {
        "" => None,
        text => match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => return Err(Failure::invalid(format!("invalid IP address: {text}"))),
        },
    };
    let host = match host_port.as_str() {
        "" | "0" => None,
        text => match range(text) {
            Some(range) if range.first > 0 => Some(range),
            _ => return Err(Failure::invalid(format!("invalid port specification: {text:?}"))),
        },
    };
    Ok(PortRequest { protocol, address, host, container })
}

/// Neighbours become one range: the API spells a range of ports out, one by one.
fn folded(mut all: Vec<PortRequest>) -> Vec<PortRequest> {
    all.sort_by_key(|one| (one.protocol, one.address, one.container, one.host));
    let mut out: Vec<PortRequest> = Vec::new();
    let follows = |before: PortRange, after: PortRange| before.last.checked_add(1) == Some(after.first);
    for one in all {
        let last = out.last_mut().filter(|last| {
            (last.protocol, last.address) == (one.protocol, one.address)
                && follows(last.container, one.container)
        });
        match (last, one.host) {
            (Some(last), Some(host))
                if host.count() == one.container.count()
                    && last.host.is_some_and(|before| {
                        before.count() == last.container.count() && follows(before, host)
                    }) =>
            {
                last.container.last = one.container.last;
                last.host = last.host.map(|before| PortRange { last: host.last, ..before });
            }
            (_, _) => out.push(one),
        }
    }
    out
}

fn exposed(config: &Config) -> Result<Vec<(Protocol, PortRange)>> {
    let mut all = Vec::new();
    for key in config.exposed_ports.iter().flatten().map(|(key, _)| key).take(PORTS_MAX) {
        all.push(port(key)?);
    }
    Ok(hull_engine::networks::joined(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(config: &str, host: &str, networking: &str) -> Result<(Wanted, HostConfig, Vec<String>)> {
        let mut host = serde_json::from_str(host).unwrap();
        let mut warnings = Vec::new();
        let config = serde_json::from_str(config).unwrap();
        let networking = serde_json::from_str(networking).unwrap();
        let wanted = wanted(&config, &mut host, networking, &mut warnings)?;
        Ok((wanted, host, warnings))
    }

    fn ports(bindings: &str) -> String {
        let host = format!(r#"{{"PortBindings":{bindings}}}"#);
        let (wanted, ..) = match understood("{}", &host, "{}") {
            Ok(understood) => understood,
            Err(failure) => return failure.message,
        };
        let range = |range: PortRange| format!("{}-{}", range.first, range.last);
        let one = |one: &PortRequest| {
            let address = one.address.map_or("*".to_owned(), |address| address.to_string());
            let host = one.host.map_or("any".to_owned(), range);
            format!("{address}:{host}:{}/{}", range(one.container), one.protocol.name())
        };
        wanted.ports.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ports_are_read_and_folded() {
        for (given, text) in [
            (r#"{"80/tcp":[{"HostPort":"8080"}]}"#, "*:8080-8080:80-80/tcp"),
            (r#"{"80/tcp":[{"HostPort":"8080"}],"81/tcp":[{"HostPort":"8081"}]}"#, "*:8080-8081:80-81/tcp"),
            (
                r#"{"80/tcp":[{"HostPort":"8080"}],"81/tcp":[{"HostPort":"8082"}]}"#,
                "*:8080-8080:80-80/tcp *:8082-8082:81-81/tcp",
            ),
            (r#"{"99/tcp":[{"HostPort":"9100-9110"}]}"#, "*:9100-9110:99-99/tcp"),
            (
                r#"{"99/tcp":[{"HostPort":"9100-9110"}],"100/tcp":[{"HostPort":"9111"}]}"#,
                "*:9100-9110:99-99/tcp *:9111-9111:100-100/tcp",
            ),
            (r#"{"81/udp":[{"HostIp":"127.0.0.1","HostPort":"8081"}]}"#, "127.0.0.1:8081-8081:81-81/udp"),
            (r#"{"82/tcp":[{"HostPort":""}],"83/tcp":null}"#, "*:any:82-82/tcp"),
            (r#"{"80/tcp":[{"HostIp":"[::1]","HostPort":"7000"}]}"#, "::1:7000-7000:80-80/tcp"),
            (r#"{"80/tcp":[{"HostIp":"x"}]}"#, "invalid IP address: x"),
            (r#"{"80/tcp":[{"HostPort":"99999"}]}"#, "invalid port specification: \"99999\""),
            (r#"{"x/tcp":[]}"#, "invalid port specification: \"x\""),
            (r#"{"80/nope":[]}"#, "invalid port specification: invalid proto: nope"),
        ] {
            assert_eq!(ports(given), text, "{given}");
        }
    }

    fn names(wanted: &Wanted) -> String {
        wanted.joins.iter().map(|join| join.network.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_modes_network_comes_first() {
        let (wanted, host, _) = understood("{}", "{}", "{}").unwrap();
        assert_eq!((wanted.mode.clone(), names(&wanted).as_str()), (NetworkMode::Default, "bridge"));
        assert_eq!(host.network_mode, "bridge");
        let networking = r#"{"EndpointsConfig":{"a":{},"n1":{"Aliases":["x"]},"z":{"GwPriority":3}}}"#;
        let (wanted, ..) = understood(
            r#"{"MacAddress":"02:42:0a:4d:00:32"}"#,
            r#"{"NetworkMode":"n1","Links":["c:d"]}"#,
            networking,
        )
        .unwrap();
        assert_eq!(names(&wanted), "n1 a z");
        let first = &wanted.joins[0];
        assert_eq!(
            (first.mac.as_str(), &first.links[..], &first.aliases[..]),
            ("02:42:0a:4d:00:32", &["c:d".to_owned()][..], &["x".to_owned()][..])
        );
        assert_eq!(wanted.joins[2].gateway_priority, 3);
        let (wanted, ..) = understood(
            "{}",
            r#"{"NetworkMode":"default"}"#,
            r#"{"EndpointsConfig":{"default":{"MacAddress":"02:42:0a:4d:00:33"}}}"#,
        )
        .unwrap();
        assert_eq!((names(&wanted).as_str(), wanted.joins[0].mac.as_str()), ("bridge", "02:42:0a:4d:00:33"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let both = "conflicting options: cannot attach both user-defined and non-user-defined network-modes";
        for (config, host, networking, text) in [
            ("{}", r#"{"NetworkMode":"host"}"#, r#"{"EndpointsConfig":{"n1":{}}}"#, both),
            ("{}", r#"{"NetworkMode":"n1"}"#, r#"{"EndpointsConfig":{"none":{}}}"#, both),
            (
                r#"{"Hostname":"h"}"#,
                r#"{"NetworkMode":"container:x"}"#,
                "{}",
                "conflicting options: hostname and the network mode",
            ),
            (
                "{}",
                r#"{"NetworkMode":"container:x","PublishAllPorts":true}"#,
                "{}",
                "conflicting options: port publishing and the container type network mode",
            ),
            (
                r#"{"ExposedPorts":{"80/tcp":{}}}"#,
                r#"{"NetworkMode":"container:x"}"#,
                "{}",
                "conflicting options: port exposing and the container type network mode",
            ),
            (
                "{}",
                r#"{"NetworkMode":"host","Links":["a"]}"#,
                "{}",
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ),
        ] {
            assert_eq!(understood(config, host, networking).unwrap_err().message, text);
        }
    }

    #[test]
    fn a_range_of_bindings_is_shown_port_by_port() {
        let asked = r#"{"80/tcp":null,"90-91/udp":[{"HostIp":"::1","HostPort":"9000-9001"},{"HostPort":""}],"91/udp":[{"HostPort":"7"}]}"#;
        let shown =
            |asked| serde_json::to_string(&spelled_out(serde_json::from_str(asked).unwrap())).unwrap();
        assert_eq!(
            shown(asked),
            r#"{"80/tcp":null,"90/udp":[{"HostIp":"::1","HostPort":"9000"},{"HostIp":"","HostPort":""}],"91/udp":[{"HostIp":"::1","HostPort":"9001"},{"HostIp":"","HostPort":""},{"HostIp":"","HostPort":"7"}]}"#
        );
        // Either way it is the same request.
        let many = r#"{"10000-59999/tcp":[{"HostPort":"10000-59999"}]}"#;
        assert_eq!(ports(many), ports(&shown(many)));
    }

    #[test]
    fn exposed_ports_are_joined() {
        let (wanted, ..) =
            understood(r#"{"ExposedPorts":{"2000/udp":{},"2001/udp":{},"80/tcp":{}}}"#, "{}", "{}").unwrap();
        assert_eq!(
            wanted.exposed,
            [(Protocol::Tcp, PortRange::one(80)), (Protocol::Udp, PortRange { first: 2000, last: 2001 })]
        );
    }
}
