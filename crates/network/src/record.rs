//! What is known of networks and of the containers on them, as plain data.
//!
//! A [`Network`] is made by `network create` and lives in the engine's database. An [`Endpoint`]
//! is a running container's place on one network: it comes with the start (or with `network
//! connect`) and goes with the exit. What a container *wants* — names, static addresses, ports —
//! is an [`Attachment`] and lives with the container's settings.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// 64 hexadecimal digits.
pub type NetworkId = String;
/// A container's id: 64 hexadecimal digits.
pub type ContainerId = String;

/// One network of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    pub driver: Driver,
    /// One or more of each family that is enabled; none for `host` and `null`.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    #[serde(default = "yes")]
    pub ipv4: bool,
    #[serde(default)]
    pub ipv6: bool,
    /// No way out: no default route, no forwarding, and names are not asked outside.
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As asked for: `inspect` gives them back. What they mean is in `driver`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Of the address management, as asked for.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub created: i64,
}

fn yes() -> bool {
    true
}

impl Network {
    /// Where a container reaches the host through this endpoint: at the bridge's own addresses,
    /// whoever its default routes lead to. None on a network without a way out, nor on a macvlan:
    /// that one's gateway is somebody else, and the host cannot be reached through it.
    pub fn host_at(&self, endpoint: &Endpoint) -> Vec<IpAddr> {
        if self.internal || !matches!(self.driver, Driver::Bridge(_)) {
            return Vec::new();
        }
        let own = |address: IpAddr| {
            self.subnets
                .iter()
                .find(|subnet| subnet.pool.contains(&address))
                .and_then(|subnet| subnet.gateway)
        };
        let v4 = endpoint.address4.filter(|_| endpoint.gateway4.is_some());
        let v6 = endpoint.address6.filter(|_| endpoint.gateway6.is_some());
        let v4 = v4.and_then(|net| own(net.addr().into()));
        v4.into_iter().chain(v6.and_then(|net| own(net.addr().into()))).collect()
    }
}

/// What makes a network's links, with what the options mean to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    Bridge(Bridge),
    Macvlan(Macvlan),
    /// The host's own namespace.
    Host,
    /// A loopback link and nothing else.
    Null,
}

impl Driver {
    /// As the API says it.
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Bridge(_) => "bridge",
            Driver::Macvlan(_) => "macvlan",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The bridge's name on the host, at most 15 bytes.
    pub link: String,
    /// The network of containers that ask for none: no names are answered on it.
    #[serde(default)]
    pub default: bool,
    /// Its containers may talk to each other.
    pub icc: bool,
    pub masquerade: bool,
    /// Where a published port without an address is bound; `None`: everywhere.
    #[serde(default)]
    pub binding: Option<IpAddr>,
    /// Bytes; `None` leaves it to the kernel (1500).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Of the links inside containers: `eth`.
    pub prefix: String,
    pub mode4: GatewayMode,
    pub mode6: GatewayMode,
    /// The link was there before Hull and stays when the network goes.
    #[serde(default)]
    pub foreign: bool,
}

/// What stands between a bridge and the world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Masquerading out; only published ports in.
    #[default]
    Nat,
    /// As `nat`, but every port of a container can be reached by its own address.
    NatUnprotected,
    /// No translation; only published ports in, at the container's own address.
    Routed,
    /// Of internal networks: the bridge itself has no address.
    Isolated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Macvlan {
    /// The host's link, or `LINK.VLAN` for one that Hull makes.
    pub parent: String,
    pub mode: MacvlanMode,
    /// Hull made the parent (a VLAN, or one that leads nowhere): it goes with the last network that
    /// has it.
    #[serde(default)]
    pub made_parent: bool,
    /// The parent leads nowhere: containers reach each other only.
    #[serde(default)]
    pub nowhere: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// A pool of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub pool: IpNet,
    /// Automatic addresses come from here only.
    #[serde(default)]
    pub range: Option<IpNet>,
    /// `None` only where the driver needs none.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Names of addresses that are never given away (`--aux-address`).
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// The caller chose the pool.
    #[serde(default)]
    pub asked: bool,
}

/// What a container wants of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The network's id; its name until it is resolved.
    pub network: String,
    pub address4: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
    pub mac: Option<Mac>,
    pub aliases: Vec<String>,
    /// `container` or `container:alias`.
    pub links: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    /// The highest one's gateway becomes the default route.
    pub gateway_priority: i64,
}

/// A container's place on a network, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    pub network: NetworkId,
    pub container: ContainerId,
    /// In the container: `eth0`.
    pub link: String,
    /// The other end of the pair, on the host; empty for macvlan.
    #[serde(default)]
    pub host_link: String,
    pub mac: Mac,
    #[serde(default)]
    pub address4: Option<ipnet::Ipv4Net>,
    #[serde(default)]
    pub address6: Option<ipnet::Ipv6Net>,
    /// More addresses, which only this link knows.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    #[serde(default)]
    pub gateway4: Option<Ipv4Addr>,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Of this link: `net.ipv4.conf.IFNAME.forwarding` and its value. `IFNAME` stands for `link`.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// What answers to this container on this network: its name, its short id, its aliases, its
    /// host name; in the order in which `inspect` lists them.
    #[serde(default)]
    pub names: Vec<String>,
    /// Names of others that only this container knows: alias and container.
    #[serde(default)]
    pub links: BTreeMap<String, ContainerId>,
    /// On the network whose gateway is the default route only.
    #[serde(default)]
    pub published: Vec<Published>,
    /// What EXPOSE and `--expose` name: what a link opens where `icc` is off.
    #[serde(default)]
    pub exposed: Vec<(Protocol, PortRange)>,
}

/// An open port (or range) of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    pub protocol: Protocol,
    /// On the host; 0.0.0.0 and :: stand for every address of their family.
    pub address: IpAddr,
    pub host: PortRange,
    /// As many as `host`.
    pub container: PortRange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As `/etc/protocols` has it.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// As the API says it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// By its name, in small or capital letters.
    pub fn named(name: &str) -> Option<Protocol> {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        all.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }
}

/// From `first` to `last`, both included; `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn one(port: u16) -> PortRange {
        PortRange { first: port, last: port }
    }

    /// How many ports: 1 to 65536.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A link's hardware address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMac;

impl std::fmt::Display for NoMac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not six bytes in hexadecimal with colons between them")
    }
}

impl std::error::Error for NoMac {}

impl std::str::FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Mac, NoMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            // A sign would be taken as part of the number.
            let digits = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or(NoMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMac)?;
        }
        if parts.next().is_some() { Err(NoMac) } else { Ok(Mac(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_six_bytes() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac, Mac([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "+2:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(NoMac), "{bad}");
        }
    }

    #[test]
    fn ranges_of_ports() {
        let all = PortRange { first: 0, last: u16::MAX };
        assert_eq!(all.count(), 65536);
        let web = PortRange { first: 80, last: 89 };
        assert!(web.contains(89) && !web.contains(90));
        assert!(web.overlaps(PortRange::one(80)) && !web.overlaps(PortRange::one(79)));
    }
}
