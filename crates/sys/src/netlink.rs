//! The one change that every new network namespace needs: its loopback link, up (rtnetlink(7)).

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{During, Errno, Result};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// In every network namespace `lo` is the first link.
const LOOPBACK_INDEX: i32 = 1;

/// Sets the loopback link of this thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0 is NETLINK_ROUTE.
        None,
    )
    .during("socket", || "AF_NETLINK, NETLINK_ROUTE")?;
    // nlmsghdr: length, type, flags, sequence, port; then ifinfomsg: family, pad, type, index,
    // flags, change mask.
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32u32.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    let what = || "RTM_NEWLINK lo up";
    rustix::net::send(&socket, &message, SendFlags::empty()).during("send", what)?;
    let mut answer = [0u8; 128];
    let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).during("recv", what)?;
    // The answer: nlmsghdr of type NLMSG_ERROR, then a negative errno or 0.
    if len < 20 || u16::from_ne_bytes([answer[4], answer[5]]) != NLMSG_ERROR {
        return Err(Errno::PROTO).during("recv", what);
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(-code)).during("netlink", what),
    }
}
