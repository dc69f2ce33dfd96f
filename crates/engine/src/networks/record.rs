//! A network as its record keeps it, and what may be asked for in one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hull_network::record::{Endpoint, Network};
use serde::{Deserialize, Serialize};

/// What the database keeps of a network. Fields added later need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub network: Network,
    /// One of the three that every host has; its name is what tells them apart.
    #[serde(default)]
    pub predefined: bool,
    /// Only a template for others; nothing can be connected to it.
    #[serde(default)]
    pub config_only: bool,
    /// The name of the network whose settings this one took over; empty: none.
    #[serde(default)]
    pub config_from: String,
    /// Which gateways the caller chose: `inspect` shows no others on subnets that were asked for.
    #[serde(default)]
    pub gateways: BTreeSet<IpAddr>,
    /// The caller named options of the address management, be it none.
    #[serde(default)]
    pub ipam_options: bool,
}

/// A network at one moment, with who is on it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub record: Arc<Record>,
    /// By container id.
    pub endpoints: Vec<Endpoint>,
}

impl View {
    /// How a subnet of this network is used now.
    pub fn usage(&self, subnet: &hull_network::record::Subnet) -> hull_network::ipam::Use {
        let of = |endpoint: &Endpoint| {
            [endpoint.address4.map(|net| net.addr().into()), endpoint.address6.map(|net| net.addr().into())]
        };
        hull_network::ipam::usage(subnet, &self.endpoints.iter().flat_map(of).flatten().collect())
    }
}

/// A request to create a network, in the caller's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Create {
    pub name: String,
    /// Empty: `bridge`.
    pub driver: String,
    pub scope: String,
    /// `None`: the default, which is yes.
    pub ipv4: Option<bool>,
    pub ipv6: Option<bool>,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_only: bool,
    /// Empty: of none.
    pub config_from: String,
    /// Empty: `default`.
    pub ipam_driver: String,
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub pools: Vec<PoolRequest>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A subnet in the caller's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolRequest {
    pub subnet: String,
    pub range: String,
    pub gateway: String,
    pub reserved: BTreeMap<String, String>,
}

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: String,
    /// Empty: all that was asked for has its effect.
    pub warning: String,
}

/// What the daemon's configuration says of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Replaces the built-in pools of each family that it names.
    pub pools: Vec<hull_network::ipam::Pool>,
    /// Address and subnet of the default bridge.
    pub bip: Option<ipnet::Ipv4Net>,
    pub bip6: Option<ipnet::Ipv6Net>,
    /// Automatic addresses on the default bridge come from here.
    pub fixed_cidr: Option<ipnet::Ipv4Net>,
    pub fixed_cidr6: Option<ipnet::Ipv6Net>,
    /// On the default bridge.
    pub ipv6: bool,
    /// Containers of the default bridge may talk to each other.
    pub icc: bool,
    /// Of the default bridge; 0 leaves it to the kernel.
    pub mtu: u32,
    /// Where ports are published that name no address; unspecified: everywhere.
    pub binding: IpAddr,
    /// A bridge of the host's to use for the default network; `none` for no default network.
    pub bridge: String,
    /// For containers of the default bridge.
    pub gateway4: Option<std::net::Ipv4Addr>,
    pub gateway6: Option<std::net::Ipv6Addr>,
    /// What `host-gateway` of an `--add-host` stands for; empty: where the container reaches the
    /// host.
    pub host_gateway: Vec<IpAddr>,
    /// Turn on the host's forwarding where it is needed.
    pub ip_forward: bool,
    /// Masquerade what leaves the default bridge.
    pub ip_masq: bool,
    /// Write firewall rules for IPv4, for IPv6.
    pub rules4: bool,
    pub rules6: bool,
    /// Let others reach containers by their own addresses without a published port.
    pub direct_routing: bool,
}

impl Defaults {
    /// Nothing of networks is made on the host: no default network, no rules, no forwarding.
    pub fn none() -> Defaults {
        Defaults {
            bridge: "none".to_owned(),
            rules4: false,
            rules6: false,
            ip_forward: false,
            ..Defaults::default()
        }
    }
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            pools: Vec::new(),
            bip: None,
            bip6: None,
            fixed_cidr: None,
            fixed_cidr6: None,
            ipv6: false,
            icc: true,
            mtu: 0,
            binding: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            bridge: String::new(),
            gateway4: None,
            gateway6: None,
            host_gateway: Vec::new(),
            ip_forward: true,
            ip_masq: true,
            rules4: true,
            rules6: true,
            direct_routing: false,
        }
    }
}
