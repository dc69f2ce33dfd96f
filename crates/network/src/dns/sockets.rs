//! The two sockets of one namespace on which names are asked for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_sys::{During, Errno};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// Where containers ask; the reference's address, which resolv.conf of images and scripts know.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Connections that may wait for being accepted, as when the daemon is away.
const BACKLOG: i32 = 128;
/// How many ports are tried until both protocols have the same one.
const TRIES: u32 = 64;

/// A UDP socket and a TCP listener on one free port of 127.0.0.11. They do not block.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: OwnedFd,
    pub(super) listener: OwnedFd,
    port: u16,
}

impl Sockets {
    /// Opens them in the namespace of the calling thread. Its loopback link must be up.
    pub fn open() -> hull_sys::Result<Sockets> {
        let mut tries = 0;
        loop {
            let udp = bound(SocketType::DGRAM, ipproto::UDP, 0)?;
            let port = port(&udp)?;
            match bound(SocketType::STREAM, ipproto::TCP, port) {
                Ok(listener) => {
                    rustix::net::listen(&listener, BACKLOG)
                        .during("listen", || format!("{ADDRESS}:{port}"))?;
                    return Ok(Sockets { udp, listener, port });
                }
                Err(error) if error.errno == Errno::ADDRINUSE && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Those that [`Sockets::fds`] gave away, in any order; EINVAL for any others: whoever hands
    /// them over cannot make the daemon serve a socket of another kind.
    pub fn from_fds(fds: Vec<OwnedFd>) -> hull_sys::Result<Sockets> {
        let wrong = || Err(Errno::INVAL).during("getsockname", || "not the two sockets of a resolver");
        let mut udp = None;
        let mut listener = None;
        for fd in fds {
            let kind = sockopt::socket_type(&fd).during("getsockopt", || "SO_TYPE")?;
            match kind {
                SocketType::DGRAM => udp = Some(fd),
                SocketType::STREAM => listener = Some(fd),
                _ => return wrong(),
            }
        }
        let (Some(udp), Some(listener)) = (udp, listener) else { return wrong() };
        let (port, other) = (port(&udp)?, port(&listener)?);
        let listens = sockopt::socket_acceptconn(&listener).during("getsockopt", || "SO_ACCEPTCONN")?;
        if port != other || !listens {
            return wrong();
        }
        Ok(Sockets { udp, listener, port })
    }

    /// For the shim to keep.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.udp.as_fd(), self.listener.as_fd()]
    }

    /// Of both protocols.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Copies of the same two.
    pub fn try_clone(&self) -> hull_sys::Result<Sockets> {
        let copy = |fd: &OwnedFd| fd.try_clone().during("fcntl", || "F_DUPFD_CLOEXEC");
        Ok(Sockets { udp: copy(&self.udp)?, listener: copy(&self.listener)?, port: self.port })
    }
}

fn bound(kind: SocketType, protocol: rustix::net::Protocol, port: u16) -> hull_sys::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, Some(protocol))
        .during("socket", || "AF_INET")?;
    let address = SocketAddrV4::new(ADDRESS, port);
    rustix::net::bind(&socket, &address).during("bind", || address)?;
    Ok(socket)
}

/// The port of a socket that is bound to [`ADDRESS`]; EINVAL for any other.
fn port(socket: &OwnedFd) -> hull_sys::Result<u16> {
    let name = rustix::net::getsockname(socket).during("getsockname", || "a resolver's socket")?;
    match SocketAddr::try_from(name) {
        Ok(address) if address.ip() == IpAddr::V4(ADDRESS) => Ok(address.port()),
        _ => Err(Errno::INVAL).during("getsockname", || format!("a socket that is not bound to {ADDRESS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_one_port_and_are_known_again() {
        let sockets = Sockets::open().unwrap();
        let copies = |sockets: &Sockets| -> Vec<OwnedFd> {
            sockets.fds().iter().rev().map(|fd| fd.try_clone_to_owned().unwrap()).collect()
        };
        let again = Sockets::from_fds(copies(&sockets)).unwrap();
        assert_eq!((again.port(), again.try_clone().unwrap().port()), (sockets.port(), sockets.port()));
        let other = Sockets::open().unwrap();
        let mut mixed = copies(&sockets);
        mixed[0] = copies(&other).remove(0);
        assert_eq!(Sockets::from_fds(mixed).unwrap_err().errno, Errno::INVAL);
        assert_eq!(Sockets::from_fds(copies(&sockets).split_off(1)).unwrap_err().errno, Errno::INVAL);
        let pipe: Vec<OwnedFd> = std::io::pipe().map(|(a, b)| vec![a.into(), b.into()]).unwrap();
        assert_eq!(Sockets::from_fds(pipe).unwrap_err().errno, Errno::NOTSOCK);
    }
}
