//! Who has which port of the host: one dump of the kernel's sockets (sock_diag(7)), and the process
//! that a socket belongs to where somebody has to be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hull_sys::netlink::message::{self, Messages};
use hull_sys::netlink::{DATAGRAM, Family, Socket};
use hull_sys::{During, Errno, Result};

use crate::record::Protocol;

/// A socket of the host that has a port to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    /// Of `::`: IPv4 as well, as long as nobody said otherwise.
    pub both: bool,
    /// 0: not known.
    pub inode: u32,
}

/// A process, as a person would look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    pub pid: u32,
}

impl Listener {
    /// Somebody who was gone before the kernel could be asked.
    pub fn unknown(protocol: Protocol, at: SocketAddr) -> Listener {
        Listener { protocol, address: at.ip(), port: at.port(), both: false, inode: 0 }
    }

    /// Nobody else can have the same port at `address`.
    pub fn collides(&self, address: IpAddr) -> bool {
        if self.address.is_ipv4() == address.is_ipv4() {
            self.address == address || self.address.is_unspecified() || address.is_unspecified()
        } else {
            self.both && address.is_ipv4()
        }
    }

    /// Whose it is, if that can be seen. Looks through all processes: for an error only.
    pub fn process(&self) -> Option<Process> {
        if self.inode == 0 {
            return None;
        }
        let wanted = format!("socket:[{}]", self.inode);
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(open) = std::fs::read_dir(entry.path().join("fd")) else { continue };
            let has = open.flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
            });
            if has {
                let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
                return Some(Process { name: name.trim_end().to_owned(), pid });
            }
        }
        None
    }
}

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_SKV6ONLY`.
const V6ONLY: u16 = 11;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of inet_diag_sockid and inet_diag_msg (linux/inet_diag.h).
const ID: usize = 48;
const FOUND: usize = 72;

/// States as bits: TCP_LISTEN and bound without listening (since Linux 6.8; older kernels do not
/// tell of them).
const LISTENING: u32 = 1 << 10 | 1 << 13;
/// A datagram socket is "established" once it is connected; it has its port either way.
const DATAGRAMS: u32 = 1 << 1 | 1 << 7;

/// All sockets of this thread's network namespace that have a port to themselves.
pub fn listeners() -> Result<Vec<Listener>> {
    let socket = Socket::open(Family::SockDiag)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for (protocol, states) in
            [(Protocol::Tcp, LISTENING), (Protocol::Udp, DATAGRAMS), (Protocol::Sctp, LISTENING)]
        {
            dump(&socket, family, protocol, states, &mut found)?;
        }
    }
    Ok(found)
}

fn dump(socket: &Socket, family: u8, protocol: Protocol, states: u32, to: &mut Vec<Listener>) -> Result<()> {
    let mut request = Messages::default();
    request.begin(BY_FAMILY, message::REQUEST | message::DUMP);
    // inet_diag_req_v2: family, protocol, attributes wanted, pad; states; an id that is not used.
    request.put(&[family, protocol.number(), 0, 0]);
    request.put(&states.to_ne_bytes());
    request.put(&[0; ID]);
    request.end();
    socket.send(request.bytes())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let len = socket.receive(&mut buffer)?;
        for message in message::messages(&buffer[..len]) {
            match message.answer() {
                // The kernel has no such sockets, or nothing that could tell of them.
                Some(answer) if matches!(answer.errno, Some(Errno::NOENT | Errno::PROTONOSUPPORT)) => {
                    return Ok(());
                }
                Some(answer) => {
                    return match answer.errno {
                        None => Ok(()),
                        Some(errno) => Err(errno).during("sock_diag", || protocol.name()),
                    };
                }
                None => {
                    if let Some((fixed, attributes)) = message.split(FOUND) {
                        to.extend(listener(protocol, fixed, attributes));
                    }
                }
            }
        }
    }
}

fn listener(protocol: Protocol, fixed: &[u8], mut rest: message::Attributes<'_>) -> Option<Listener> {
    // inet_diag_msg: family, state, timer, retransmits; id: ports, addresses …; …; inode.
    let port = u16::from_be_bytes([*fixed.get(4)?, *fixed.get(5)?]);
    let source: [u8; 16] = fixed.get(8..24)?.try_into().ok()?;
    let (address, six) = match fixed[0] {
        AF_INET => (Ipv4Addr::new(source[0], source[1], source[2], source[3]).into(), false),
        AF_INET6 => (IpAddr::V6(Ipv6Addr::from(source)), true),
        _ => return None,
    };
    // A mapped address is an IPv4 socket in all but name.
    let address = match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        four => four,
    };
    let only = rest.find(|(kind, _)| *kind == V6ONLY).is_some_and(|(_, value)| value.first() != Some(&0));
    let inode = u32::from_ne_bytes(fixed.get(68..72)?.try_into().ok()?);
    let both = six && address.is_unspecified() && !only;
    (port != 0).then_some(Listener { protocol, address, port, both, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_program_is_found_by_its_port_and_name() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::]:0").unwrap();
        let found = listeners().unwrap();
        let port = tcp.local_addr().unwrap().port();
        let listener = found.iter().find(|one| one.protocol == Protocol::Tcp && one.port == port).unwrap();
        assert_eq!((listener.address, listener.both), (Ipv4Addr::LOCALHOST.into(), false));
        assert_eq!(listener.process().unwrap().pid, std::process::id());
        let port = udp.local_addr().unwrap().port();
        let socket = found.iter().find(|one| one.protocol == Protocol::Udp && one.port == port).unwrap();
        assert!(socket.both && socket.collides(Ipv4Addr::UNSPECIFIED.into()));
    }
}
