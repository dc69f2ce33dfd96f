//! UDP: ports' own sockets, and a flow for each client that has spoken to one.
//!
//! The sockets are those that hold published ports on the host; what the host's rules do not rewrite
//! arrives there, and is answered from there, from the address that was asked. A flow is a socket
//! connected to the container: answers at it are this client's, and nobody else can send to it. It ends
//! when nothing was said for [`IDLE`], when the container refuses, when its port is shut, or when
//! another needs its place.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_sys::Errno;
use hull_sys::datagram6::{self, Asked};
use rustix::event::epoll;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use super::{Target, watch};

/// Flows at a time, in all and of one port.
pub(super) const FLOWS_MAX: usize = 1024;
pub(super) const FLOWS_OF_PORT_MAX: usize = 256;
/// Ports at a time.
pub(super) const PORTS_MAX: usize = 4096;
/// How long a flow is kept in which nothing is said.
const IDLE: Duration = Duration::from_secs(90);
/// Datagrams of one socket before others have their turn.
const TURN: usize = 32;
/// Bytes of the longest datagram.
const LONGEST: usize = 65535;
/// Bytes that wait in a port's socket: what a socket has that nobody has set up (socket(7),
/// `rmem_default`). Until it is carried, and after, it has the least.
const WAITING: usize = 212_992;

#[derive(Debug)]
pub(super) struct Datagrams {
    ports: BTreeMap<u64, Port>,
    flows: HashMap<u64, Flow>,
    /// The flow of a port's client.
    known: HashMap<(u64, Asked), u64>,
    /// Of a port or a flow.
    next: u64,
    ports_max: usize,
    flows_max: usize,
    /// No flow has been idle for long before this.
    sweep: Option<Instant>,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Port {
    socket: OwnedFd,
    target: Target,
    flows: usize,
}

#[derive(Debug)]
struct Flow {
    port: u64,
    asked: Asked,
    socket: OwnedFd,
    last: Instant,
}

impl Datagrams {
    /// Epoll's numbers are from `first` on; each port and each flow has one descriptor.
    pub(super) fn new(first: u64, ports_max: usize, flows_max: usize) -> Datagrams {
        Datagrams {
            ports: BTreeMap::new(),
            flows: HashMap::new(),
            known: HashMap::new(),
            next: first,
            ports_max,
            flows_max,
            sweep: None,
            buffer: vec![0; LONGEST].into_boxed_slice(),
        }
    }

    /// Carries what arrives at a port's socket from now on. Of one that is carried already the flows go
    /// on; one that there is no room for is not carried.
    pub(super) fn carry(&mut self, epoll: &OwnedFd, target: Target, socket: OwnedFd) {
        if self.ports.values().any(|port| port.target == target) {
            return;
        }
        self.retain(epoll, |old| (old.address, old.first) != (target.address, target.first));
        if self.ports.len() >= self.ports_max || datagram6::tell_addresses(&socket).is_err() {
            return;
        }
        let _ = sockopt::set_socket_recv_buffer_size(&socket, WAITING);
        if watch(epoll, &socket, self.next, epoll::EventFlags::IN).is_ok() {
            self.ports.insert(self.next, Port { socket, target, flows: 0 });
            self.next += 1;
        }
    }

    /// Ends the other ports, and their flows.
    pub(super) fn retain(&mut self, epoll: &OwnedFd, keep: impl Fn(&Target) -> bool) {
        let gone = self.ports.extract_if(.., |_, port| !keep(&port.target));
        let gone: Vec<(u64, Port)> = gone.collect();
        for (number, port) in gone {
            // Others have this socket, too: closing it here would leave it among epoll's.
            let _ = epoll::delete(epoll, &port.socket);
            let _ = sockopt::set_socket_recv_buffer_size(&port.socket, 0);
            let of_it = |(flow, one): (&u64, &Flow)| (one.port == number).then_some(*flow);
            for flow in self.flows.iter().filter_map(of_it).collect::<Vec<u64>>() {
                self.end(flow);
            }
        }
    }

    /// The ports' sockets, the oldest first.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ports.values().map(|port| &port.socket)
    }

    /// How long nothing is to be done if nothing arrives.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.sweep.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Ends the flows that have been idle for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.sweep.is_none_or(|at| at > now) {
            return;
        }
        let idle = |(number, flow): (&u64, &Flow)| (flow.last + IDLE <= now).then_some(*number);
        for flow in self.flows.iter().filter_map(idle).collect::<Vec<u64>>() {
            self.end(flow);
        }
        self.sweep = self.flows.values().map(|flow| flow.last + IDLE).min();
    }

    /// Moves what has arrived at a port or at a flow: so much that others are not kept waiting.
    pub(super) fn pump(&mut self, epoll: &OwnedFd, number: u64) {
        for _ in 0..TURN {
            let more =
                if self.ports.contains_key(&number) { self.ask(epoll, number) } else { self.answer(number) };
            if !more {
                return;
            }
        }
    }

    /// Takes one datagram to the container; whether there may be more.
    fn ask(&mut self, epoll: &OwnedFd, number: u64) -> bool {
        let Some(port) = self.ports.get(&number) else { return false };
        let Ok(Some((asked, len))) = datagram6::receive(&port.socket, &mut self.buffer) else { return false };
        // Meant for another address it should have been rewritten before it came here.
        let meant = port.target.address.is_unspecified() || port.target.address == asked.here;
        if !meant || asked.here.is_multicast() {
            return true;
        }
        let flow = self.known.get(&(number, asked)).copied();
        let Some(flow) = flow.or_else(|| self.begin(epoll, number, asked)) else { return true };
        if let Some(one) = self.flows.get_mut(&flow) {
            one.last = Instant::now();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) =
                rustix::net::send(&one.socket, &self.buffer[..len], flags)
            {
                self.end(flow);
            }
        }
        true
    }

    /// Takes one datagram back to the client; whether there may be more.
    fn answer(&mut self, number: u64) -> bool {
        let Some(flow) = self.flows.get_mut(&number) else { return false };
        match rustix::net::recv(&flow.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, len)) => {
                flow.last = Instant::now();
                if let Some(port) = self.ports.get(&flow.port) {
                    // A client that cannot be sent to misses it, as on any way.
                    let _ = datagram6::answer(&port.socket, &flow.asked, &self.buffer[..len]);
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => {
                self.end(number);
                false
            }
        }
    }

    fn begin(&mut self, epoll: &OwnedFd, port: u64, asked: Asked) -> Option<u64> {
        let Port { target, flows, .. } = self.ports.get(&port)?;
        let to = SocketAddr::new(target.to, target.port);
        if *flows >= FLOWS_OF_PORT_MAX {
            self.end_oldest(|flow| flow.port == port);
        } else if self.flows.len() >= self.flows_max {
            self.end_oldest(|_| true);
        }
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP)).ok()?;
        rustix::net::connect(&socket, &to).ok()?;
        let number = self.next;
        watch(epoll, &socket, number, epoll::EventFlags::IN).ok()?;
        self.next += 1;
        let last = Instant::now();
        self.sweep.get_or_insert(last + IDLE);
        self.flows.insert(number, Flow { port, asked, socket, last });
        self.known.insert((port, asked), number);
        self.ports.get_mut(&port)?.flows += 1;
        Some(number)
    }

    fn end_oldest(&mut self, of: impl Fn(&Flow) -> bool) {
        let oldest = self.flows.iter().filter(|(_, flow)| of(flow)).min_by_key(|(_, flow)| flow.last);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.end(number);
        }
    }

    fn end(&mut self, number: u64) {
        let Some(flow) = self.flows.remove(&number) else { return };
        self.known.remove(&(flow.port, flow.asked));
        if let Some(port) = self.ports.get_mut(&flow.port) {
            port.flows -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, UdpSocket};

    #[test]
    fn idle_flows_end_and_all_flows_have_a_bound() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut datagrams = Datagrams::new(7, 2, 2);
        let program = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let to = program.local_addr().unwrap();
        let ports: Vec<SocketAddr> = (0..3)
            .map(|_| {
                let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
                let at = socket.local_addr().unwrap();
                let (first, address) = (at.port(), Ipv6Addr::LOCALHOST);
                let target = Target { address, first, last: first, to: to.ip(), port: to.port(), udp: true };
                datagrams.carry(&epoll, target, socket.into());
                at
            })
            .collect();
        assert_eq!(datagrams.ports.len(), 2, "there is no room for the third");
        let clients: Vec<UdpSocket> =
            (0..3).map(|_| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap()).collect();
        for (client, port) in clients.iter().zip([ports[0], ports[1], ports[1]]) {
            client.send_to(b"x", port).unwrap();
            [7, 8].into_iter().for_each(|number| datagrams.pump(&epoll, number));
        }
        // The third one's is in the first one's place.
        let of = |datagrams: &Datagrams| datagrams.ports.values().map(|port| port.flows).collect::<Vec<_>>();
        assert_eq!((of(&datagrams), datagrams.known.len()), (vec![0, 2], 2));
        let last = datagrams.flows.values().map(|flow| flow.last).max().unwrap();
        assert!(datagrams.limit().is_some_and(|limit| limit <= IDLE));
        datagrams.sweep(last);
        assert_eq!(datagrams.flows.len(), 2);
        datagrams.sweep(last + IDLE);
        assert_eq!((of(&datagrams), datagrams.known.len(), datagrams.limit()), (vec![0, 0], 0, None));
    }
}
