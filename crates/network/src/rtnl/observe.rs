//! Questions about links, addresses and routes, and what is read of the answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_sys::netlink::message::{self, ACK, DUMP, Message, Messages, REQUEST};
use ipnet::IpNet;

use super::batch::{
    AF_INET, AF_INET6, IFA_ADDRESS, IFA_LOCAL, IFF_UP, IFLA_ADDRESS, IFLA_GROUP, IFLA_IFNAME, IFLA_INFO_KIND,
    IFLA_LINK, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, LinkRef, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_OIF,
    RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, Route, everything, link_head, link_ref,
};
use crate::record::Mac;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_STATS64: u16 = 23;
const IFLA_EXT_MASK: u16 = 29;
/// Leaves the counters out of the answer.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const BR_STATE_FORWARDING: u8 = 3;
const IF_OPER_UP: u8 = 6;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// A link as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth` …; `None` for a device.
    pub kind: Option<String>,
    /// Set up by somebody.
    pub up: bool,
    /// It has a carrier and passes packets.
    pub running: bool,
    /// Bytes.
    pub mtu: u32,
    /// `None` for one without an Ethernet address.
    pub mac: Option<Mac>,
    /// Number of the bridge it is in.
    pub master: Option<u32>,
    /// Number of the other end of a pair or of the parent, in the namespace where that is.
    pub lower: Option<u32>,
    pub group: u32,
    /// A port of a bridge that passes packets on.
    pub forwarding: bool,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub link: u32,
    pub address: IpNet,
}

/// What went through a link since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub link: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

fn request(kind: u16, flags: u16, write: impl FnOnce(&mut Messages)) -> Messages {
    let mut request = Messages::default();
    request.begin(kind, REQUEST | flags);
    write(&mut request);
    request.end();
    request
}

fn without_counters(message: &mut Messages) {
    message.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
}

pub(super) fn link_request(link: LinkRef<'_>) -> Messages {
    // With an answer behind it, for the reader to know the end.
    request(RTM_GETLINK, ACK, |message| {
        link_ref(message, link, 0, 0);
        without_counters(message);
    })
}

pub(super) fn links_request() -> Messages {
    request(RTM_GETLINK, DUMP, |message| {
        link_head(message, 0, 0, 0);
        without_counters(message);
    })
}

pub(super) fn ports_request(bridge: u32) -> Messages {
    request(RTM_GETLINK, DUMP, |message| {
        link_head(message, 0, 0, 0);
        without_counters(message);
        message.attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    })
}

pub(super) fn counters_request() -> Messages {
    request(RTM_GETLINK, DUMP, |message| link_head(message, 0, 0, 0))
}

pub(super) fn addresses_request() -> Messages {
    // ifaddrmsg: all families.
    request(RTM_GETADDR, DUMP, |message| message.put(&[0; 8]))
}

pub(super) fn routes_request() -> Messages {
    // rtmsg: all families.
    request(RTM_GETROUTE, DUMP, |message| message.put(&[0; 12]))
}

fn u32_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.try_into().ok()?))
}

pub(super) fn link(message: Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let (head, attributes) = message.split(16)?;
    let mut link =
        Link { index: u32_of(&head[4..8])?, up: u32_of(&head[8..12])? & IFF_UP != 0, ..Link::default() };
    for (kind, payload) in attributes {
        match kind {
            IFLA_IFNAME => link.name = message::string(payload),
            IFLA_MTU => link.mtu = u32_of(payload).unwrap_or(0),
            IFLA_ADDRESS => link.mac = payload.try_into().ok().map(Mac),
            IFLA_MASTER => link.master = u32_of(payload).filter(|index| *index != 0),
            IFLA_LINK => link.lower = u32_of(payload).filter(|index| *index != 0),
            IFLA_GROUP => link.group = u32_of(payload).unwrap_or(0),
            IFLA_OPERSTATE => link.running = payload == [IF_OPER_UP],
            IFLA_LINKINFO => link_info(&mut link, payload),
            _ => {}
        }
    }
    Some(link)
}

fn link_info(link: &mut Link, payload: &[u8]) {
    let mut in_bridge = false;
    for (kind, payload) in message::attributes(payload) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(message::string(payload)),
            IFLA_INFO_SLAVE_KIND => in_bridge = message::string(payload) == "bridge",
            IFLA_INFO_SLAVE_DATA if in_bridge => port(link, payload),
            _ => {}
        }
    }
}

fn port(link: &mut Link, payload: &[u8]) {
    for (kind, payload) in message::attributes(payload) {
        if kind == IFLA_BRPORT_STATE {
            link.forwarding = payload == [BR_STATE_FORWARDING];
        }
    }
}

/// rtnl_link_stats64 (`linux/if_link.h`): packets, bytes, errors and dropped of both directions are
/// its first eight numbers.
pub(super) fn counters(message: Message<'_>) -> Option<Counters> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let (_, attributes) = message.split(16)?;
    let mut counters = Counters::default();
    for (kind, payload) in attributes {
        match kind {
            IFLA_IFNAME => counters.link = message::string(payload),
            IFLA_STATS64 => {
                let number = |place: usize| {
                    let bytes = payload.get(place * 8..place * 8 + 8).and_then(|bytes| bytes.try_into().ok());
                    bytes.map_or(0, u64::from_ne_bytes)
                };
                (counters.rx_packets, counters.tx_packets) = (number(0), number(1));
                (counters.rx_bytes, counters.tx_bytes) = (number(2), number(3));
                (counters.rx_errors, counters.tx_errors) = (number(4), number(5));
                (counters.rx_dropped, counters.tx_dropped) = (number(6), number(7));
            }
            _ => {}
        }
    }
    Some(counters)
}

fn ip(payload: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(payload) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(payload).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

pub(super) fn address(message: Message<'_>) -> Option<Address> {
    if message.kind != RTM_NEWADDR {
        return None;
    }
    let (head, attributes) = message.split(8)?;
    let (mut own, mut other) = (None, None);
    for (kind, payload) in attributes {
        match kind {
            IFA_LOCAL => own = ip(payload),
            // Of a point-to-point link this is the other end; else the same, and IPv6 has no other.
            IFA_ADDRESS => other = ip(payload),
            _ => {}
        }
    }
    let address = IpNet::new(own.or(other)?, head[1]).ok()?;
    Some(Address { link: u32_of(&head[4..8])?, address })
}

pub(super) fn route(message: Message<'_>) -> Option<Route> {
    if message.kind != RTM_NEWROUTE {
        return None;
    }
    let (head, attributes) = message.split(12)?;
    let (family, table, kind) = (head[0], head[4], head[7]);
    if ![AF_INET, AF_INET6].contains(&family) || table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let onlink = u32_of(&head[8..12])? & RTNH_F_ONLINK != 0;
    let mut route = Route { destination: everything(family == AF_INET6), gateway: None, link: None, onlink };
    for (kind, payload) in attributes {
        match kind {
            RTA_DST => route.destination = IpNet::new(ip(payload)?, head[1]).ok()?,
            RTA_GATEWAY => route.gateway = ip(payload),
            RTA_OIF => route.link = u32_of(payload),
            _ => {}
        }
    }
    Some(route)
}
