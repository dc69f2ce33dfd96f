//! UDP over IPv4 in batches: many datagrams in one call (recvmmsg(2), sendmmsg(2)), which rustix
//! does not offer; and the namespace of a socket.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::{During, Errno, Result, ShowFd};

/// Datagrams of one call.
pub const BATCH: usize = 32;

/// Room for what one call receives.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    /// Of one datagram.
    room: usize,
    got: [(SocketAddrV4, usize); BATCH],
    count: usize,
}

const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

impl Batch {
    /// For datagrams of at most `room` bytes; what is longer is received as empty.
    pub fn new(room: usize) -> Batch {
        let bytes = vec![0; room * BATCH].into_boxed_slice();
        Batch { bytes, room, got: [(NOBODY, 0); BATCH], count: 0 }
    }

    /// Takes what is there, without waiting: how many, 0 for nothing.
    pub fn receive(&mut self, socket: impl AsFd) -> Result<usize> {
        self.count = 0;
        let mut names = [address(NOBODY); BATCH];
        let mut pieces: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.bytes[at * self.room..].as_mut_ptr().cast(),
            iov_len: self.room,
        });
        let mut messages: [libc::mmsghdr; BATCH] =
            std::array::from_fn(|at| message(&mut names[at], &mut pieces[at]));
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: each message points to a name and a piece of its own; each piece to `room` bytes of
        // `bytes` that no other has. All of them outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                fd,
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if got < 0 {
            return match last() {
                Errno::AGAIN | Errno::INTR => Ok(0),
                errno => Err(errno).during("recvmmsg", || ShowFd(socket.as_fd())),
            };
        }
        self.count = got as usize;
        for at in 0..self.count {
            let from = Ipv4Addr::from(u32::from_be(names[at].sin_addr.s_addr));
            let whole = messages[at].msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let len = if whole { messages[at].msg_len as usize } else { 0 };
            self.got[at] = (SocketAddrV4::new(from, u16::from_be(names[at].sin_port)), len);
        }
        Ok(self.count)
    }

    /// Who sent the one of this number, and what. Panics for a number that was not received.
    pub fn get(&self, at: usize) -> (SocketAddrV4, &[u8]) {
        let (from, len) = self.got[..self.count][at];
        (from, &self.bytes[at * self.room..][..len])
    }
}

/// Sends up to [`BATCH`] datagrams, without waiting; gives how many left. Fails only if the first
/// one did.
pub fn send(socket: impl AsFd, datagrams: &[(SocketAddrV4, &[u8])]) -> Result<usize> {
    let count = datagrams.len().min(BATCH);
    let mut names = [address(NOBODY); BATCH];
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    for (at, (to, bytes)) in datagrams[..count].iter().enumerate() {
        names[at] = address(*to);
        pieces[at] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    }
    let mut messages: [libc::mmsghdr; BATCH] =
        std::array::from_fn(|at| message(&mut names[at], &mut pieces[at]));
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: each message points to a name and a piece of its own, which outlive the call; sending
    // reads the pieces' bytes and writes none.
    let sent = unsafe {
        libc::sendmmsg(
            fd,
            messages.as_mut_ptr(),
            count as u32,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    if sent < 0 {
        return Err(last()).during("sendmmsg", || ShowFd(socket.as_fd()));
    }
    Ok(sent as usize)
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*of.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn message(name: &mut libc::sockaddr_in, piece: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all zeros is a valid `mmsghdr`: numbers, and pointers that may be null. Not written
    // field by field because some C libraries have padding fields in it.
    let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
    message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    message.msg_hdr.msg_iov = piece;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// `SIOCGSKNS` of linux/sockios.h.
const SIOCGSKNS: libc::Ioctl = 0x894C;

/// The network namespace of a socket (needs CAP_NET_ADMIN in the namespace's user namespace).
pub fn namespace(socket: impl AsFd) -> Result<OwnedFd> {
    // SAFETY: this ioctl takes no argument and gives a new descriptor.
    let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(last()).during("ioctl", || format!("{}, SIOCGSKNS", ShowFd(socket.as_fd())));
    }
    // SAFETY: nobody else has it; the kernel makes it close-on-exec (net/socket.c, open_related_ns).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};

    #[test]
    fn datagrams_travel_in_batches_with_their_senders() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let v4 = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!(),
        };
        let texts: Vec<Vec<u8>> = (0..40).map(|n| vec![n; usize::from(n)]).collect();
        let mail: Vec<(SocketAddrV4, &[u8])> = texts.iter().map(|text| (v4(&b), text.as_slice())).collect();
        assert_eq!(send(&a, &mail).unwrap(), BATCH);
        assert_eq!(send(&a, &mail[BATCH..]).unwrap(), 8);
        let mut batch = Batch::new(35);
        let mut got = Vec::new();
        while batch.receive(&b).unwrap() > 0 {
            for at in 0..batch.count {
                let (from, bytes) = batch.get(at);
                assert_eq!(from, v4(&a));
                got.push(bytes.to_vec());
            }
        }
        // What has no room is empty.
        let expected = texts.iter().map(|text| if text.len() > 35 { Vec::new() } else { text.clone() });
        assert_eq!(got, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_sent_says_why() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        assert_eq!(send(&socket, &[(nowhere, b"x")]).unwrap_err().errno, Errno::INVAL);
    }
}
