//! Connections that the kernel still knows, forgotten (ctnetlink; linux/netfilter/nfnetlink_conntrack.h).
//!
//! Where a packet goes is decided by its connection's first one, and two things change under it:
//!
//! - **A port gets a holder.** UDP has no end that would be seen: a client that has been sending
//!   from the same port is still not led anywhere. So what the host itself was sent at that port
//!   is forgotten, when UDP is published.
//! - **An address loses its container.** Whoever the container spoke with, or was spoken to by, may
//!   go on; all of that is forgotten before the address is given to anybody else.
//!
//! Nobody else's connections are touched: each is asked for by its own address or port.

use std::net::{IpAddr, Ipv4Addr};

use hull_sys::netlink::message::{self, ACK, Attributes, DUMP, Message, Messages, REQUEST, attributes};
use hull_sys::netlink::{DATAGRAM, Family, Socket};
use hull_sys::{During, Errno};

use super::NFPROTO_IPV4;
use crate::record::{Protocol, Published};
use crate::rtnl::{self, Result};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
/// `CTA_TUPLE_ORIG`: the first packet; `CTA_TUPLE_REPLY`: what an answer to it looks like.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
/// In a tuple.
const ADDRESSES: u16 = 1;
const TRANSPORT: u16 = 2;
/// In its addresses: `CTA_IP_V4_SRC` and those that follow.
const SOURCE4: u16 = 1;
const DESTINATION4: u16 = 2;
const SOURCE6: u16 = 3;
const DESTINATION6: u16 = 4;
/// In its transport.
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const FILTER: u16 = 25;
/// The part of a tuple that the kernel is to compare: its source.
const BY_SOURCE: u32 = 1 << 0;
/// Bytes of nfgenmsg.
const HEAD: usize = 4;

/// Forgets UDP that was sent to these ports of the host and led nowhere else.
pub fn forget_ports(published: &[Published]) -> Result<()> {
    let datagrams: Vec<&Published> =
        published.iter().filter(|one| one.protocol == Protocol::Udp && one.host.first != 0).collect();
    if datagrams.is_empty() {
        return Ok(());
    }
    let own: Vec<IpAddr> =
        rtnl::Socket::open()?.addresses()?.into_iter().map(|own| own.address.addr()).collect();
    let was_sent_to = |one: &Published, flow: &Flow| {
        let to = flow.original.destination;
        let all = one.address.is_unspecified() && one.address.is_ipv4() == to.is_ipv4();
        let at = one.address == to || all && (to.is_loopback() || own.contains(&to));
        let itself = flow.reply.source == to;
        at && itself
            && flow.protocol == Protocol::Udp.number()
            && flow.port.is_some_and(|port| one.host.contains(port))
    };
    let wanted = |flow: &Flow| datagrams.iter().any(|one| was_sent_to(one, flow));
    forget(&Socket::open(Family::Netfilter)?, wanted)
}

/// Forgets what the holder of this address began, and what others began with it, translated or not:
/// in one the address is where the first packet comes from, in the other where the answers do.
pub fn forget_address(address: IpAddr) -> Result<()> {
    let socket = Socket::open(Family::Netfilter)?;
    match address {
        IpAddr::V4(v4) if flush(&socket, v4)? => Ok(()),
        _ => forget(&socket, |flow| flow.original.source == address || flow.reply.source == address),
    }
}

/// Has the kernel do it by itself, which takes a tenth of the time. `false`: it cannot (before Linux
/// 6.8; 6.1 takes the tuple for a whole one, which lacks its ports). Not for IPv6: asked to compare
/// such addresses it takes all but the equal ones (seen in 6.18).
fn flush(socket: &Socket, address: Ipv4Addr) -> Result<bool> {
    for side in [ORIGINAL, REPLY] {
        let asked = delete(socket, NFPROTO_IPV4, |request| {
            let source = |inside: &mut Messages| inside.attribute(SOURCE4, &address.octets());
            request.nest(side, |tuple| tuple.nest(ADDRESSES, source));
            request.nest(FILTER, |filter| {
                // `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS` are numbered like the sides.
                for each in [ORIGINAL, REPLY] {
                    let parts = if each == side { BY_SOURCE } else { 0 };
                    filter.attribute(each, &parts.to_ne_bytes());
                }
            });
        });
        match asked {
            Err(error) if matches!(error.errno(), Errno::OPNOTSUPP | Errno::INVAL) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
}

/// A connection that the kernel knows.
struct Flow {
    protocol: u8,
    original: Tuple,
    reply: Tuple,
    /// Where the first packet went, of protocols with ports.
    port: Option<u16>,
}

struct Tuple {
    source: IpAddr,
    destination: IpAddr,
}

/// Goes through all connections and forgets each that is `wanted`.
fn forget(socket: &Socket, wanted: impl Fn(&Flow) -> bool) -> Result<()> {
    let mut request = Messages::default();
    request.begin(GET, REQUEST | DUMP);
    // Of whatever family.
    request.put(&[0; HEAD]);
    request.end();
    socket.send(request.bytes())?;
    let mut buffer = vec![0; DATAGRAM];
    let mut found = Vec::new();
    'dump: loop {
        let len = socket.receive(&mut buffer)?;
        for message in message::messages(&buffer[..len]) {
            match message.answer().map(|answer| answer.errno) {
                Some(None) => break 'dump,
                Some(Some(errno)) => return Err(errno).during("conntrack", || "list").map_err(Into::into),
                None => {}
            }
            let flow = flow(&message).filter(|(flow, _, _)| wanted(flow));
            found.extend(flow.map(|(_, family, original)| (family, original.to_vec())));
        }
    }
    for (family, original) in found {
        match delete(socket, family, |request| request.nest(ORIGINAL, |tuple| tuple.put(&original))) {
            // It has ended meanwhile.
            Err(error) if error.errno() == Errno::NOENT => {}
            other => other?,
        }
    }
    Ok(())
}

/// A connection, its family and its first packet as the kernel calls it.
fn flow<'a>(message: &Message<'a>) -> Option<(Flow, u8, &'a [u8])> {
    let (head, rest) = message.split(HEAD)?;
    let original = of(rest, ORIGINAL)?;
    let transport = attributes(of(attributes(original), TRANSPORT)?);
    let flow = Flow {
        protocol: *of(transport, PROTOCOL_NUMBER)?.first()?,
        original: tuple(original)?,
        reply: tuple(of(rest, REPLY)?)?,
        port: of(transport, DESTINATION_PORT)
            .and_then(|port| Some(u16::from_be_bytes(port.try_into().ok()?))),
    };
    Some((flow, head[0], original))
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = attributes(of(attributes(bytes), ADDRESSES)?);
    let v4 = |kind| <[u8; 4]>::try_from(of(addresses, kind)?).ok().map(IpAddr::from);
    let v6 = |kind| <[u8; 16]>::try_from(of(addresses, kind)?).ok().map(IpAddr::from);
    Some(Tuple {
        source: v4(SOURCE4).or_else(|| v6(SOURCE6))?,
        destination: v4(DESTINATION4).or_else(|| v6(DESTINATION6))?,
    })
}

fn of(mut attributes: Attributes<'_>, wanted: u16) -> Option<&[u8]> {
    attributes.find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
}

fn delete(socket: &Socket, family: u8, write: impl FnOnce(&mut Messages)) -> Result<()> {
    let mut request = Messages::default();
    request.begin(DELETE, REQUEST | ACK);
    request.put(&[family, 0, 0, 0]);
    write(&mut request);
    request.end();
    socket.send(request.bytes())?;
    let mut buffer = [0; 4096];
    let len = socket.receive(&mut buffer)?;
    let answer = message::messages(&buffer[..len]).next().and_then(|message| message.answer());
    match answer.map_or(Some(Errno::PROTO), |answer| answer.errno) {
        None => Ok(()),
        Some(errno) => Err(errno).during("conntrack", || "delete").map_err(Into::into),
    }
}
