//! Connections that the kernel still knows, forgotten (ctnetlink; linux/netfilter/nfnetlink_conntrack.h).
//!
//! Where a packet goes is decided by its connection's first one. UDP has no end that would be seen:
//! a client that keeps sending from the same port is sent on to whoever had the host's port before,
//! or to nobody. So when a publication of a datagram protocol comes or goes, what is known of
//! its port is forgotten.

use hull_sys::netlink::message::{self, ACK, Messages, REQUEST};
use hull_sys::netlink::{Family, Socket};
use hull_sys::{During, Errno, Result};

use super::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::record::{Protocol, Published};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 0x0102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Which parts of the tuple are compared: the protocol and the destination's port.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// The most ports that are asked about one by one; of more than these everything of the protocol
/// is forgotten.
const SINGLE_MAX: u32 = 64;

/// Forgets what came for these ports of the host, of datagram protocols. Whole protocols where
/// there are very many.
pub fn forget(published: &[Published]) -> Result<()> {
    let datagrams: Vec<&Published> =
        published.iter().filter(|one| one.protocol == Protocol::Udp && one.host.first != 0).collect();
    if datagrams.is_empty() {
        return Ok(());
    }
    let socket = Socket::open(Family::Netfilter)?;
    for (six, family) in [(false, NFPROTO_IPV4), (true, NFPROTO_IPV6)] {
        let ours = || datagrams.iter().filter(|one| one.address.is_ipv6() == six);
        let count: u32 = ours().map(|one| one.host.count()).sum();
        if count > SINGLE_MAX {
            delete(&socket, family, None)?;
            continue;
        }
        for port in ours().flat_map(|one| one.host.first..=one.host.last) {
            delete(&socket, family, Some(port))?;
        }
    }
    Ok(())
}

fn delete(socket: &Socket, family: u8, port: Option<u16>) -> Result<()> {
    let mut request = Messages::default();
    request.begin(DELETE, REQUEST | ACK);
    request.put(&[family, 0, 0, 0]);
    request.nest(TUPLE_ORIGINAL, |tuple| {
        tuple.nest(TUPLE_PROTOCOL, |inside| {
            inside.attribute(PROTOCOL_NUMBER, &[Protocol::Udp.number()]);
            if let Some(port) = port {
                inside.attribute(DESTINATION_PORT, &port.to_be_bytes());
            }
        });
    });
    let parts = if port.is_some() { BY_PROTOCOL_AND_PORT } else { 1 << 3 };
    request.nest(FILTER, |filter| {
        filter.attribute(FILTER_ORIGINAL, &parts.to_ne_bytes());
        filter.attribute(FILTER_REPLY, &0u32.to_ne_bytes());
    });
    request.end();
    socket.send(request.bytes())?;
    let mut buffer = [0; 4096];
    let len = socket.receive(&mut buffer)?;
    let answer = message::messages(&buffer[..len]).next().and_then(|message| message.answer());
    match answer.map_or(Some(Errno::PROTO), |answer| answer.errno) {
        // Nothing was known.
        None | Some(Errno::NOENT) => Ok(()),
        Some(errno) => Err(errno).during("conntrack", || format!("forget UDP port {port:?}")),
    }
}
