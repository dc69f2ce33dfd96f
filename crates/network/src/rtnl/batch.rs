//! Changes to links, addresses and routes, as messages with words for errors.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use hull_sys::netlink::message::{ACK, CREATE, EXCLUSIVE, Messages, REPLACE, REQUEST};
use ipnet::IpNet;

use crate::record::{Mac, MacvlanMode};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINK: u16 = 5;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
/// `IFLA_BRPORT_MODE`.
const HAIRPIN: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_EUI64: u8 = 0;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
pub(super) const IFF_UP: u32 = 1;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Usable at once: no probing whether somebody else has the address (RFC 4862, section 5.4).
const IFA_F_NODAD: u8 = 2;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RT_TABLE_MAIN: u8 = 254;
/// Who made the route: the same as `ip route` and the reference say.
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// The gateway is a neighbour though no address of this link says so.
const RTNH_F_ONLINK: u32 = 4;

const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// A link by its name or its number (ifindex).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRef<'a> {
    Name(&'a str),
    Index(u32),
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        LinkRef::Name(name)
    }
}

impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        LinkRef::Name(name)
    }
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        LinkRef::Index(index)
    }
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkRef::Name(name) => write!(f, "link {name}"),
            LinkRef::Index(index) => write!(f, "link number {index}"),
        }
    }
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Default)]
pub struct Peer<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    /// Born in this network namespace instead of beside its other end.
    pub namespace: Option<BorrowedFd<'a>>,
}

#[derive(Debug, Clone)]
pub enum Kind<'a> {
    Bridge,
    Veth(Peer<'a>),
    /// On top of the link with this number.
    Macvlan {
        parent: u32,
        mode: MacvlanMode,
    },
    /// Of the link with this number, with this tag (1 to 4094).
    Vlan {
        parent: u32,
        tag: u16,
    },
    /// A link that leads nowhere.
    Dummy,
}

impl Kind<'_> {
    /// As the kernel calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Bridge => "bridge",
            Kind::Veth(_) => "veth",
            Kind::Macvlan { .. } => "macvlan",
            Kind::Vlan { .. } => "vlan",
            Kind::Dummy => "dummy",
        }
    }
}

/// A link to make. It is down unless `up`.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    pub name: &'a str,
    pub kind: Kind<'a>,
    /// Bytes; of both ends of a pair.
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    /// The bridge to join.
    pub master: Option<u32>,
    /// Born in this network namespace; its parent stays in the socket's.
    pub namespace: Option<BorrowedFd<'a>>,
    pub up: bool,
}

impl<'a> NewLink<'a> {
    pub fn new(name: &'a str, kind: Kind<'a>) -> NewLink<'a> {
        NewLink { name, kind, mtu: None, mac: None, master: None, namespace: None, up: false }
    }
}

/// What is to be different about a link; what is `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Only for a link that is given by its number.
    pub name: Option<&'a str>,
    pub up: Option<bool>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    /// The bridge to join; `Some(None)`: none.
    pub master: Option<Option<u32>>,
    /// Links of one group can be deleted at once ([`Batch::delete_group`]).
    pub group: Option<u32>,
    /// Whether the kernel gives it an IPv6 link-local address by itself when it comes up.
    pub own_link_local: Option<bool>,
    /// Moves it; its addresses and routes are lost, its name must be free there.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.name.map(|name| format!("name {name}")));
        words.extend(self.mtu.map(|mtu| format!("mtu {mtu}")));
        words.extend(self.mac.map(|mac| format!("address {mac}")));
        words.extend(self.master.map(|master| match master {
            Some(index) => format!("master number {index}"),
            None => "no master".to_owned(),
        }));
        words.extend(self.group.map(|group| format!("group {group:#x}")));
        words.extend(self.own_link_local.map(|own| format!("own link-local address: {own}")));
        words.extend(self.namespace.map(|_| "network namespace".to_owned()));
        words.extend(self.up.map(|up| if up { "up" } else { "down" }.to_owned()));
        f.write_str(&words.join(", "))
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// Number of the link it leaves by.
    pub link: Option<u32>,
    /// No address of the link covers the gateway.
    pub onlink: bool,
}

impl Route {
    /// Everything that no other route takes, by this gateway.
    pub fn default_by(gateway: IpAddr, link: u32) -> Route {
        Route {
            destination: everything(gateway.is_ipv6()),
            gateway: Some(gateway),
            link: Some(link),
            onlink: false,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match self.link {
            Some(link) => write!(f, " by link number {link}"),
            None => Ok(()),
        }
    }
}

/// 0.0.0.0/0 or ::/0.
pub(super) fn everything(v6: bool) -> IpNet {
    if v6 { ipnet::Ipv6Net::default().into() } else { ipnet::Ipv4Net::default().into() }
}

/// Changes to make together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What each does in words, and the message.
    pub(super) requests: Vec<(String, Messages)>,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn push(&mut self, words: String, kind: u16, flags: u16, write: impl FnOnce(&mut Messages)) {
        let mut message = Messages::default();
        message.begin(kind, REQUEST | ACK | flags);
        write(&mut message);
        message.end();
        self.requests.push((words, message));
    }

    /// EEXIST if there is a link of this name.
    pub fn add_link(&mut self, link: &NewLink<'_>) {
        let words = format!("make {} {}", link.kind.name(), link.name);
        self.push(words, RTM_NEWLINK, CREATE | EXCLUSIVE, |message| {
            link_head(message, 0, if link.up { IFF_UP } else { 0 }, if link.up { IFF_UP } else { 0 });
            link_attributes(message, link.name, link.mtu, link.mac, link.namespace);
            if let Some(master) = link.master {
                message.attribute(IFLA_MASTER, &master.to_ne_bytes());
            }
            if let Kind::Macvlan { parent, .. } | Kind::Vlan { parent, .. } = link.kind {
                message.attribute(IFLA_LINK, &parent.to_ne_bytes());
            }
            message.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, link.kind.name());
                link_data(info, link);
            });
        });
    }

    /// For a bridge its ports leave it; a pair loses both its ends. The call waits for the kernel's
    /// last reader of the link (some 20 ms), though it is gone at once.
    pub fn delete_link<'a>(&mut self, link: impl Into<LinkRef<'a>>) {
        let link = link.into();
        self.push(format!("delete {link}"), RTM_DELLINK, 0, |message| link_ref(message, link, 0, 0));
    }

    /// Has a bridge send packets out by the port that they came in by, too (hairpin mode). The port
    /// has to be in its bridge before this batch.
    pub fn reflect(&mut self, port: u32) {
        self.push(format!("make link number {port} reflect"), RTM_NEWLINK, 0, |message| {
            link_head(message, port, 0, 0);
            message.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_SLAVE_KIND, "bridge");
                info.nest(IFLA_INFO_SLAVE_DATA, |data| data.attribute(HAIRPIN, &[1]));
            });
        });
    }

    /// Deletes all links of a group with one wait. ENODEV if it has none.
    pub fn delete_group(&mut self, group: u32) {
        self.push(format!("delete the links of group {group:#x}"), RTM_DELLINK, 0, |message| {
            link_head(message, 0, 0, 0);
            message.attribute(IFLA_GROUP, &group.to_ne_bytes());
        });
    }

    pub fn change<'a>(&mut self, link: impl Into<LinkRef<'a>>, change: &Change<'_>) {
        let link = link.into();
        // In one request the kernel would set the link up first, with an address of its own.
        if change.own_link_local.is_some() && change.up.is_some() {
            self.change(link, &Change { own_link_local: change.own_link_local, ..Change::default() });
            return self.change(link, &Change { own_link_local: None, ..*change });
        }
        self.push(format!("set {link} {change}"), RTM_SETLINK, 0, |message| {
            let (flags, mask) = match change.up {
                Some(up) => (if up { IFF_UP } else { 0 }, IFF_UP),
                None => (0, 0),
            };
            link_ref(message, link, flags, mask);
            // Where no number is given, the name is that of the link to change.
            if let (LinkRef::Index(_), Some(name)) = (link, change.name) {
                message.text(IFLA_IFNAME, name);
            }
            change_attributes(message, change);
        });
    }

    pub fn up<'a>(&mut self, link: impl Into<LinkRef<'a>>) {
        self.change(link, &Change { up: Some(true), ..Change::default() });
    }

    pub fn down<'a>(&mut self, link: impl Into<LinkRef<'a>>) {
        self.change(link, &Change { up: Some(false), ..Change::default() });
    }

    /// Usable at once, IPv6 without duplicate address detection. One that is there already with the
    /// same prefix is no error.
    pub fn add_address(&mut self, link: u32, address: IpNet) {
        let words = format!("add address {address} to link number {link}");
        self.push(words, RTM_NEWADDR, CREATE | REPLACE, |message| {
            address_message(message, link, address);
            if let IpNet::V4(net) = address
                && net.prefix_len() < 31
            {
                message.attribute(IFA_BROADCAST, &net.broadcast().octets());
            }
        });
    }

    /// EADDRNOTAVAIL if the link does not have it.
    pub fn delete_address(&mut self, link: u32, address: IpNet) {
        let words = format!("remove address {address} from link number {link}");
        self.push(words, RTM_DELADDR, 0, |message| address_message(message, link, address));
    }

    /// Takes the place of a route to the same destination.
    pub fn add_route(&mut self, route: &Route) {
        self.push(format!("add {route}"), RTM_NEWROUTE, CREATE | REPLACE, |message| {
            route_message(message, route);
        });
    }

    /// ESRCH if there is none.
    pub fn delete_route(&mut self, route: &Route) {
        self.push(format!("remove {route}"), RTM_DELROUTE, 0, |message| route_message(message, route));
    }
}

/// ifinfomsg: family u8, pad u8, type u16; index; flags; which of the flags to change.
pub(super) fn link_head(message: &mut Messages, index: u32, flags: u32, mask: u32) {
    for word in [u32::from(AF_UNSPEC), index, flags, mask] {
        message.put(&word.to_ne_bytes());
    }
}

pub(super) fn link_ref(message: &mut Messages, link: LinkRef<'_>, flags: u32, mask: u32) {
    match link {
        LinkRef::Index(index) => link_head(message, index, flags, mask),
        LinkRef::Name(name) => {
            link_head(message, 0, flags, mask);
            message.text(IFLA_IFNAME, name);
        }
    }
}

fn link_attributes(
    message: &mut Messages,
    name: &str,
    mtu: Option<u32>,
    mac: Option<Mac>,
    namespace: Option<BorrowedFd<'_>>,
) {
    message.text(IFLA_IFNAME, name);
    if let Some(mtu) = mtu {
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    if let Some(Mac(bytes)) = mac {
        message.attribute(IFLA_ADDRESS, &bytes);
    }
    if let Some(namespace) = namespace {
        message.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    }
}

fn link_data(info: &mut Messages, link: &NewLink<'_>) {
    match &link.kind {
        Kind::Bridge | Kind::Dummy => {}
        Kind::Veth(peer) => info.nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |message| {
                link_head(message, 0, 0, 0);
                link_attributes(message, peer.name, link.mtu, peer.mac, peer.namespace);
            });
        }),
        Kind::Macvlan { mode, .. } => info.nest(IFLA_INFO_DATA, |data| {
            let mode: u32 = match mode {
                MacvlanMode::Private => 1,
                MacvlanMode::Vepa => 2,
                MacvlanMode::Bridge => 4,
                MacvlanMode::Passthru => 8,
            };
            data.attribute(IFLA_MACVLAN_MODE, &mode.to_ne_bytes());
        }),
        Kind::Vlan { tag, .. } => info.nest(IFLA_INFO_DATA, |data| {
            data.attribute(IFLA_VLAN_ID, &tag.to_ne_bytes());
        }),
    }
}

fn change_attributes(message: &mut Messages, change: &Change<'_>) {
    if let Some(mtu) = change.mtu {
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    if let Some(Mac(bytes)) = change.mac {
        message.attribute(IFLA_ADDRESS, &bytes);
    }
    if let Some(master) = change.master {
        message.attribute(IFLA_MASTER, &master.unwrap_or(0).to_ne_bytes());
    }
    if let Some(group) = change.group {
        message.attribute(IFLA_GROUP, &group.to_ne_bytes());
    }
    if let Some(own) = change.own_link_local {
        message.nest(IFLA_AF_SPEC, |families| {
            families.nest(u16::from(AF_INET6), |v6| {
                let mode = if own { IN6_ADDR_GEN_MODE_EUI64 } else { IN6_ADDR_GEN_MODE_NONE };
                v6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[mode]);
            });
        });
    }
    if let Some(namespace) = change.namespace {
        message.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    }
}

/// ifaddrmsg: family, prefix length, flags, scope, index; and the address.
fn address_message(message: &mut Messages, link: u32, address: IpNet) {
    let (family, flags) = match address {
        IpNet::V4(_) => (AF_INET, 0),
        IpNet::V6(_) => (AF_INET6, IFA_F_NODAD),
    };
    let link_local = match address.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let scope = if link_local { SCOPE_LINK } else { SCOPE_UNIVERSE };
    message.put(&[family, address.prefix_len(), flags, scope]);
    message.put(&link.to_ne_bytes());
    put_ip(message, IFA_LOCAL, address.addr());
    put_ip(message, IFA_ADDRESS, address.addr());
}

/// rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type; flags.
fn route_message(message: &mut Messages, route: &Route) {
    let family = if route.destination.addr().is_ipv6() { AF_INET6 } else { AF_INET };
    let length = route.destination.prefix_len();
    // IPv4 wants to know that a route without a gateway ends at the link.
    let scope = if route.gateway.is_none() && family == AF_INET { SCOPE_LINK } else { SCOPE_UNIVERSE };
    message.put(&[family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST]);
    message.put(&if route.onlink { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
    if length > 0 {
        put_ip(message, RTA_DST, route.destination.network());
    }
    if let Some(gateway) = route.gateway {
        put_ip(message, RTA_GATEWAY, gateway);
    }
    if let Some(link) = route.link {
        message.attribute(RTA_OIF, &link.to_ne_bytes());
    }
}

fn put_ip(message: &mut Messages, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.attribute(kind, &address.octets()),
        IpAddr::V6(address) => message.attribute(kind, &address.octets()),
    }
}
