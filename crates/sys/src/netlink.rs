//! Netlink sockets and the shape of their messages (netlink(7), rtnetlink(7)).
//!
//! A [`Socket`] belongs to the network namespace of the thread that opens it and stays there,
//! whoever uses it later. It talks to the kernel alone: it is connected to port 0, so a process
//! with CAP_NET_ADMIN in the same namespace cannot answer in the kernel's place.
//! [`message`] builds and reads messages; what their numbers mean is the user's business. The
//! runtime needs one thing only, [`loopback_up`].

pub mod message;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{During, Errno, Result};
use crate::process::last_error;
use message::{Answer, Messages};

/// What a socket can talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes (rtnetlink(7)).
    Route,
    /// Sockets of this namespace (sock_diag(7)).
    SockDiag,
    /// nf_tables, conntrack.
    Netfilter,
}

/// Bytes of the largest datagram that is read. A dump comes in pieces of at most 32 KiB, or of one
/// message where that alone is longer.
pub const DATAGRAM: usize = 64 * 1024;

/// An option of `SOL_NETLINK` with a number as its value.
const NETLINK_ADD_MEMBERSHIP: libc::c_int = 1;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;

#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opened in this thread's network namespace, closed on exec. Refusals come with the kernel's
    /// words where it has some (`NETLINK_EXT_ACK`) and without a copy of the request
    /// (`NETLINK_CAP_ACK`).
    pub fn open(family: Family) -> Result<Socket> {
        let protocol: Option<Protocol> = match family {
            // Number 0 is NETLINK_ROUTE.
            Family::Route => None,
            Family::SockDiag => Some(netlink::SOCK_DIAG),
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let what = || format!("AF_NETLINK, {family:?}");
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .during("socket", what)?;
        rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0)).during("connect", what)?;
        let socket = Socket { fd };
        socket.set(NETLINK_EXT_ACK, 1)?;
        socket.set(NETLINK_CAP_ACK, 1)?;
        Ok(socket)
    }

    /// Has the notifications of one multicast group delivered here as well.
    pub fn join(&self, group: u32) -> Result<()> {
        self.set(NETLINK_ADD_MEMBERSHIP, group)
    }

    fn set(&self, option: libc::c_int, value: u32) -> Result<()> {
        // SAFETY: the pointer and the length are those of a u32 that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const value).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(last_error()).during("setsockopt", || format!("SOL_NETLINK, {option}, {value}"))
        }
    }

    /// Sends one datagram of one or more messages. The kernel works through them, in their order,
    /// before this returns (most families; a refused one does not stop those behind it).
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))
            .during("send", || format!("netlink, {} bytes", bytes.len()))?;
        Ok(())
    }

    /// Receives one datagram and gives its length. ENOBUFS: the kernel dropped some for want of
    /// room; EMSGSIZE: it was longer than `buffer` (see [`DATAGRAM`]).
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        let size = buffer.len();
        let (_, len) = rustix::io::retry_on_intr(|| {
            // TRUNC: the datagram's own length is given, not the part that fits.
            rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::TRUNC)
        })
        .during("recv", || "netlink")?;
        if len > size {
            return Err(Errno::MSGSIZE).during("recv", || format!("netlink, {len} bytes"));
        }
        Ok(len)
    }
}

const RTM_NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;
/// In every network namespace `lo` is the first link.
const LOOPBACK_INDEX: u32 = 1;

/// Sets the loopback link of this thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    let socket = Socket::open(Family::Route)?;
    let mut request = Messages::default();
    request.begin(RTM_NEWLINK, message::REQUEST | message::ACK);
    // ifinfomsg: family, pad, type; index; flags; which of the flags to change.
    for word in [0, LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        request.put(&word.to_ne_bytes());
    }
    request.end();
    socket.send(request.bytes())?;
    let mut buffer = [0; 256];
    let len = socket.receive(&mut buffer)?;
    match message::messages(&buffer[..len]).next().and_then(|message| message.answer()) {
        Some(Answer { errno: None, .. }) => Ok(()),
        answer => Err(answer.and_then(|answer| answer.errno).unwrap_or(Errno::PROTO))
            .during("netlink", || "RTM_NEWLINK lo up"),
    }
}
