//! UDP over IPv6 with the address of the host that was asked (`IPV6_PKTINFO`, ipv6(7)), which rustix
//! does not offer: a socket of every address is to answer from that one.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use crate::error::{During, Errno, Result, ShowFd};

/// Who sent a datagram, and to which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    pub client: SocketAddrV6,
    pub here: Ipv6Addr,
    /// By which link, where `here` is an address of a link; else 0.
    pub link: u32,
}

/// Words for what the kernel tells beside a datagram, aligned as its headers are (cmsg(3)).
type Control = [u64; 8];

/// Has the kernel tell the address that each datagram was sent to.
pub fn tell_addresses(socket: impl AsFd) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(last()).during("setsockopt", || format!("{}, IPV6_RECVPKTINFO", ShowFd(socket.as_fd())));
    }
    Ok(())
}

/// Takes one datagram, without waiting: its bytes are the first of `buffer`, as many as it has room
/// for. `None`: there is none. Of a socket that was not asked to [`tell_addresses`], `here` is `::`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<(Asked, usize)>> {
    let mut name = address(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let mut control: Control = [0; 8];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message(&mut name, &mut piece, &mut control);
    // SAFETY: the message points to a name, a buffer and room for control messages, with their true
    // lengths; all of them outlive the call, and nobody else has them.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    if got < 0 {
        return match last() {
            Errno::AGAIN | Errno::INTR => Ok(None),
            errno => Err(errno).during("recvmsg", || ShowFd(socket.as_fd())),
        };
    }
    let (here, link) = told(&message);
    let link = if here.is_unicast_link_local() { link } else { 0 };
    let from = Ipv6Addr::from(name.sin6_addr.s6_addr);
    let client = SocketAddrV6::new(from, u16::from_be(name.sin6_port), 0, name.sin6_scope_id);
    Ok(Some((Asked { client, here, link }, got as usize)))
}

/// Sends one datagram back, without waiting, from the address that was asked.
pub fn answer(socket: impl AsFd, to: &Asked, bytes: &[u8]) -> Result<()> {
    let mut name = address(to.client);
    let mut control: Control = [0; 8];
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut name, &mut piece, &mut control);
    let info =
        libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: to.here.octets() }, ipi6_ifindex: to.link };
    const LEN: u32 = size_of::<libc::in6_pktinfo>() as u32;
    // SAFETY: `control` is aligned for a header and longer than CMSG_SPACE of the one value that is
    // written, so the first header is there, and its data within `control`. Sending reads the bytes
    // and writes none.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::IPPROTO_IPV6;
        (*header).cmsg_type = libc::IPV6_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(LEN) as _;
        libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
        message.msg_controllen = libc::CMSG_SPACE(LEN) as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags)
    };
    if sent < 0 {
        return Err(last()).during("sendmsg", || format!("{}, to {}", ShowFd(socket.as_fd()), to.client));
    }
    Ok(())
}

/// The address that the kernel told, and the link's number.
fn told(message: &libc::msghdr) -> (Ipv6Addr, u32) {
    // SAFETY: the message is as recvmsg(2) has left it: its headers lie within the control room, and a
    // header of this kind is followed by the whole value (it is passed over where it is shorter).
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(one) = header.as_ref() {
            let whole = libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as u32);
            if (one.cmsg_level, one.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                && one.cmsg_len >= whole as _
            {
                let info = libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned();
                return (Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    (Ipv6Addr::UNSPECIFIED, 0)
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn address(of: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as u16,
        sin6_port: of.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: of.ip().octets() },
        sin6_scope_id: of.scope_id(),
    }
}

fn message(name: &mut libc::sockaddr_in6, piece: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeros is a valid `msghdr`: numbers, and pointers that may be null. Not written
    // field by field because some C libraries have padding fields in it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = std::ptr::from_mut(name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("[::]:0").unwrap();
        tell_addresses(&server).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(&server, &mut buffer).unwrap(), None);
        let client = UdpSocket::bind("[::1]:0").unwrap();
        let port = server.local_addr().unwrap().port();
        client.connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        client.send(b"question").unwrap();
        let (asked, len) = receive(&server, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..len], b"question");
        assert_eq!((asked.here, asked.link), (Ipv6Addr::LOCALHOST, 0));
        assert_eq!(std::net::SocketAddr::V6(asked.client), client.local_addr().unwrap());
        answer(&server, &asked, b"answer").unwrap();
        // A connected socket takes it from nobody else.
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"answer");
        let nobodys = Asked { here: "2001:db8::9".parse().unwrap(), ..asked };
        assert_eq!(answer(&server, &nobodys, b"x").unwrap_err().errno, Errno::INVAL);
    }
}
