//! Which ports of the host a container gets, and whether somebody else has them.
//!
//! [`Allocation`] knows what Hull's containers publish and is pure. Who else listens is asked of
//! the kernel in one dump, however wide a range is ([`listeners()`]); [`publish`] puts both together.
//!
//! A publication of up to [`RESERVED_MAX`] ports is also held by sockets, bound and never
//! listening ([`reserve`]): a program of the host that wants such a port is told EADDRINUSE, as it
//! is beside the reference's proxy, instead of listening where nothing will ever arrive. The daemon
//! has them, and binds them again when it is the next one. What that does and does not touch:
//!
//! - Packets for a published port never meet these sockets: their destination is rewritten before
//!   a socket is looked for, for those from outside in prerouting and for the host's own in output.
//!   With `iptables=false` a client is refused, as if nobody had the port.
//! - No connection of the host gets such a port as its own: the kernel passes over bound ones.
//! - `SO_REUSEADDR` is off in them, because two sockets that both have it may share a port that
//!   nobody listens on yet. It is on for the moment of binding where nothing but connections in
//!   TIME_WAIT is in the way.
//! - A UDP socket collects what no rule took: its buffer has the least size that the kernel has. That
//!   of an IPv6 address may be the forwarder's, too, which carries what is rightly there: then it has
//!   kept the port while there was no daemon.

pub mod listeners;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use hull_sys::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::record::{PortRange, Protocol, Published};
pub use listeners::{Listener, Process, listeners};

/// The most ports of one container that are held by sockets.
pub const RESERVED_MAX: u32 = 256;

/// How often another random port is tried when somebody has just taken the chosen one.
const ATTEMPTS: u32 = 64;

/// One `-p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub protocol: Protocol,
    /// `None`: the network's default binding.
    pub address: Option<IpAddr>,
    pub host: HostPorts,
    pub container: PortRange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPorts {
    /// These: as many as the container's.
    Exactly(PortRange),
    /// Any free one of these, for each of the container's.
    OneOf(PortRange),
    /// Any free one of the host's ephemeral ports, for each of the container's.
    Random,
}

/// Where a container's network publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The network's default; `None`: every address of both families.
    pub default: Option<IpAddr>,
    pub ipv4: Reach,
    pub ipv6: Reach,
}

/// What a family's publications are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The container cannot be reached by this family at all.
    None,
    /// Ports of the host lead to it.
    Translated,
    /// Its own address is open at the published ports: no port of the host is used, and host ports
    /// of the result are 0.
    Routed,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference's words, then ours.
    #[error("Bind for {address}:{port} failed: port is already allocated: container {holder} publishes it")]
    Allocated { address: IpAddr, port: u16, holder: String },
    #[error("failed to bind host port {}/{}: address already in use{}", .at, .protocol.name(), whose(.by))]
    InUse { at: SocketAddr, protocol: Protocol, by: Option<Process> },
    #[error("failed to bind host port {}/{}: {}", .at, .protocol.name(), .errno.to_string().to_lowercase())]
    Bind { at: SocketAddr, protocol: Protocol, errno: Errno },
    #[error("all ports are allocated: no port of {}-{} is free for {}", .of.first, .of.last, .protocol.name())]
    Exhausted { of: PortRange, protocol: Protocol },
    #[error("invalid ranges specified for container and host Ports: {} and {}", show(*.container), show(*.host))]
    Uneven { container: PortRange, host: PortRange },
    #[error("ask the kernel who listens")]
    Listeners(#[source] hull_sys::Error),
}

fn whose(process: &Option<Process>) -> String {
    process.as_ref().map(|process| format!(" by {process}")).unwrap_or_default()
}

fn show(range: PortRange) -> String {
    if range.count() == 1 { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
}

/// A socket that keeps a port from everybody else.
#[derive(Debug)]
pub struct Reserved {
    pub protocol: Protocol,
    pub at: SocketAddr,
    pub socket: OwnedFd,
}

impl Reserved {
    /// One of UDP that another process has had; `None` if it is not bound.
    pub fn udp(socket: OwnedFd) -> Option<Reserved> {
        let at = rustix::net::getsockname(&socket).ok()?.try_into().ok()?;
        Some(Reserved { protocol: Protocol::Udp, at, socket })
    }

    /// It is one of these ports.
    pub fn is_of(&self, published: &[Published]) -> bool {
        let has = |one: &Published| {
            (one.protocol, one.address) == (self.protocol, self.at.ip()) && one.host.contains(self.at.port())
        };
        published.iter().any(has)
    }
}

/// What Hull's own containers have of the host's ports.
#[derive(Debug, Clone)]
pub struct Allocation {
    ephemeral: PortRange,
    taken: Vec<Taken>,
    /// The random port given last: the next search begins behind it.
    last: BTreeMap<(Protocol, IpAddr), u16>,
}

#[derive(Debug, Clone)]
struct Taken {
    published: Published,
    holder: String,
}

impl Allocation {
    /// `ephemeral`: where random ports come from, see [`ephemeral`].
    pub fn new(ephemeral: PortRange) -> Allocation {
        Allocation { ephemeral, taken: Vec::new(), last: BTreeMap::new() }
    }

    /// Notes what a running container has. `holder` is a name by which a person knows it, or
    /// anything that the caller can make one of.
    pub fn hold(&mut self, holder: &str, published: &[Published]) {
        let of_the_host = published.iter().filter(|published| published.host.first != 0);
        self.taken
            .extend(of_the_host.map(|published| Taken { published: *published, holder: holder.to_owned() }));
    }

    /// These of a container's are free again.
    pub fn release(&mut self, holder: &str, published: &[Published]) {
        self.taken.retain(|taken| taken.holder != holder || !published.contains(&taken.published));
    }

    /// Chooses and notes. `busy` are the ports that others of the host have. Exact ports are
    /// given before others have a choice; IPv4 and IPv6 of one `-p` get the same port.
    pub fn ask(
        &mut self,
        holder: &str,
        wanted: &[Wanted],
        binding: &Binding,
        busy: &[Listener],
    ) -> Result<Vec<Published>, Error> {
        let mut wanted = wanted.to_vec();
        wanted.sort_by_key(|one| {
            (!matches!(one.host, HostPorts::Exactly(_)), one.container, one.protocol, one.host)
        });
        let mut choice = Choice { allocation: self, busy, occupied: BTreeMap::new(), got: Vec::new() };
        for one in &wanted {
            choice.one(one, binding)?;
        }
        let Choice { got, .. } = choice;
        let published = joined(got);
        self.hold(holder, &published);
        Ok(published)
    }

    fn holder(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&Taken> {
        self.taken.iter().find(|taken| {
            taken.published.protocol == protocol
                && taken.published.host.contains(port)
                && collide(taken.published.address, address)
        })
    }
}

/// One call of [`Allocation::ask`] under way.
struct Choice<'a> {
    allocation: &'a mut Allocation,
    busy: &'a [Listener],
    /// What nobody may have any more, for one protocol and address.
    occupied: BTreeMap<(Protocol, IpAddr), Ports>,
    got: Vec<Published>,
}

impl Choice<'_> {
    fn one(&mut self, wanted: &Wanted, binding: &Binding) -> Result<(), Error> {
        let (routed, addresses) = places(wanted.address, binding);
        for address in routed {
            self.got.extend(ports(wanted.container).map(|port| Published {
                protocol: wanted.protocol,
                address,
                host: PortRange::one(0),
                container: PortRange::one(port),
            }));
        }
        if addresses.is_empty() {
            return Ok(());
        }
        match wanted.host {
            HostPorts::Exactly(host) if host.count() != wanted.container.count() => {
                Err(Error::Uneven { container: wanted.container, host })
            }
            HostPorts::Exactly(host) => self.exactly(wanted, host, &addresses),
            HostPorts::OneOf(range) => self.each(wanted, range, false, &addresses),
            HostPorts::Random => self.each(wanted, self.allocation.ephemeral, true, &addresses),
        }
    }

    fn exactly(&mut self, wanted: &Wanted, host: PortRange, addresses: &[IpAddr]) -> Result<(), Error> {
        for &address in addresses {
            if let Some(port) = self.occupied(wanted.protocol, address).first_in(host) {
                return Err(self.refusal(wanted.protocol, address, port));
            }
        }
        for &address in addresses {
            self.take(Published { protocol: wanted.protocol, address, host, container: wanted.container });
        }
        Ok(())
    }

    /// A free port for each of the container's, the same at every address.
    fn each(&mut self, w: &Wanted, range: PortRange, random: bool, at: &[IpAddr]) -> Result<(), Error> {
        for container in ports(w.container) {
            let last = self.allocation.last.get(&(w.protocol, at[0])).copied().filter(|_| random);
            let begin = match last {
                Some(last) if last >= range.first && last < range.last => last + 1,
                _ => range.first,
            };
            let mut free = (begin..=range.last).chain(range.first..begin);
            let exhausted = Error::Exhausted { of: range, protocol: w.protocol };
            let is_free = |port: &u16| {
                at.iter().all(|address| !self.occupied(w.protocol, *address).has(*port)) && *port != 0
            };
            let Some(port) = free.find(is_free) else { return Err(exhausted) };
            for &address in at {
                let (host, container) = (PortRange::one(port), PortRange::one(container));
                self.take(Published { protocol: w.protocol, address, host, container });
                if random {
                    self.allocation.last.insert((w.protocol, address), port);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, published: Published) {
        for ((protocol, address), ports) in &mut self.occupied {
            if *protocol == published.protocol && collide(*address, published.address) {
                ports.add(published.host);
            }
        }
        self.got.push(published);
    }

    fn occupied(&mut self, protocol: Protocol, address: IpAddr) -> &Ports {
        let (allocation, busy, got) = (&*self.allocation, self.busy, &self.got);
        self.occupied.entry((protocol, address)).or_insert_with(|| {
            let mut ports = Ports::default();
            let ours = allocation.taken.iter().map(|taken| &taken.published).chain(got);
            for taken in ours.filter(|taken| taken.protocol == protocol && collide(taken.address, address)) {
                ports.add(taken.host);
            }
            for listener in busy.iter().filter(|one| one.protocol == protocol && one.collides(address)) {
                ports.add(PortRange::one(listener.port));
            }
            ports
        })
    }

    fn refusal(&self, protocol: Protocol, address: IpAddr, port: u16) -> Error {
        if let Some(taken) = self.allocation.holder(protocol, address, port) {
            let holder = taken.holder.clone();
            return Error::Allocated { address, port, holder };
        }
        let listener = self
            .busy
            .iter()
            .find(|one| one.protocol == protocol && one.port == port && one.collides(address));
        match listener {
            Some(listener) => {
                Error::InUse { at: SocketAddr::new(address, port), protocol, by: listener.process() }
            }
            // Twice in one request.
            None => Error::Allocated { address, port, holder: "itself".into() },
        }
    }
}

/// What is published is at the places where these would be published by now, and at no others.
pub fn fits(wanted: &[Wanted], binding: &Binding, published: &[Published]) -> bool {
    let mut due = BTreeSet::new();
    for one in wanted {
        let (routed, translated) = places(one.address, binding);
        due.extend(routed.into_iter().map(|address| (one.protocol, address, false)));
        due.extend(translated.into_iter().map(|address| (one.protocol, address, true)));
    }
    let has = |one: &Published| (one.protocol, one.address, one.host.first != 0);
    due == published.iter().map(has).collect()
}

/// Where one `-p` is published: addresses of routed networks, and addresses of the host.
fn places(address: Option<IpAddr>, binding: &Binding) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let asked = match address.or(binding.default) {
        Some(address) => vec![address],
        None => vec![any4, any6],
    };
    let (mut routed, mut translated) = (Vec::new(), Vec::new());
    for address in asked {
        let (reach, any) = if address.is_ipv4() { (binding.ipv4, any4) } else { (binding.ipv6, any6) };
        match reach {
            Reach::None => {}
            Reach::Translated => translated.push(address),
            // Nothing of the host is bound, so no address of the host has a say.
            Reach::Routed => routed.push(any),
        }
    }
    (routed, translated)
}

/// Joins neighbours: what is one port higher on both sides becomes one range.
fn joined(mut all: Vec<Published>) -> Vec<Published> {
    all.sort_by_key(|one| (one.address, one.protocol, one.container, one.host));
    let mut out: Vec<Published> = Vec::new();
    for one in all {
        match out.last_mut() {
            Some(last)
                if (last.protocol, last.address) == (one.protocol, one.address)
                    && follows(last.host, one.host)
                    && follows(last.container, one.container) =>
            {
                last.host.last = one.host.last;
                last.container.last = one.container.last;
            }
            _ => out.push(one),
        }
    }
    out
}

fn follows(before: PortRange, after: PortRange) -> bool {
    before.last.checked_add(1) == Some(after.first)
}

fn ports(range: PortRange) -> impl Iterator<Item = u16> {
    range.first..=range.last
}

/// Two sockets of these addresses cannot have the same port. Families are apart: what Hull binds
/// is bound for one family.
fn collide(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// Which of all ports: one bit for each.
struct Ports(Box<[u64; 1024]>);

impl Default for Ports {
    fn default() -> Ports {
        Ports(Box::new([0; 1024]))
    }
}

impl Ports {
    fn add(&mut self, range: PortRange) {
        for port in ports(range) {
            self.0[usize::from(port >> 6)] |= 1 << (port & 63);
        }
    }

    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] & (1 << (port & 63)) != 0
    }

    fn first_in(&self, range: PortRange) -> Option<u16> {
        ports(range).find(|port| self.has(*port))
    }
}

/// The ports that the host gives to those who ask for none: `ip_local_port_range`, or what the
/// kernel's own default is.
pub fn ephemeral() -> PortRange {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last && first != 0 => PortRange { first, last },
        _ => PortRange { first: 32768, last: 60999 },
    }
}

/// Chooses ports, and holds them where they are few. In the network namespace of the calling
/// thread, which is to be the host's.
pub fn publish(
    allocation: &mut Allocation,
    holder: &str,
    wanted: &[Wanted],
    binding: &Binding,
) -> Result<(Vec<Published>, Vec<Reserved>), Error> {
    let count: u32 = wanted.iter().map(|one| one.container.count()).sum();
    // Sockets will tell of few; of many the kernel is asked at once.
    let mut busy = if count > RESERVED_MAX { listeners().map_err(Error::Listeners)? } else { Vec::new() };
    let before = allocation.taken.len();
    for _ in 0..ATTEMPTS {
        let published = allocation.ask(holder, wanted, binding, &busy)?;
        match reserve(&published, &mut Vec::new()) {
            Ok(sockets) => return Ok((published, sockets)),
            Err(error) => {
                allocation.taken.truncate(before);
                let Error::InUse { at, protocol, .. } = error else { return Err(error) };
                let exact = wanted.iter().any(|one| {
                    one.protocol == protocol
                        && matches!(one.host, HostPorts::Exactly(host) if host.contains(at.port()))
                });
                let holders = listeners().map_err(Error::Listeners)?;
                let found = holders
                    .into_iter()
                    .find(|one| one.protocol == protocol && one.port == at.port() && one.collides(at.ip()));
                if exact {
                    let by = found.and_then(|listener| listener.process());
                    return Err(Error::InUse { at, protocol, by });
                }
                busy.push(found.unwrap_or_else(|| Listener::unknown(protocol, at)));
            }
        }
    }
    Err(Error::Exhausted { of: allocation.ephemeral, protocol: Protocol::Tcp })
}

/// Binds a socket for each port that is not among `had`, else takes it from there; none where there
/// are more than [`RESERVED_MAX`]. In the network namespace of the calling thread.
pub fn reserve(published: &[Published], had: &mut Vec<Reserved>) -> Result<Vec<Reserved>, Error> {
    let of_the_host = || published.iter().filter(|one| one.host.first != 0);
    if of_the_host().map(|one| one.host.count()).sum::<u32>() > RESERVED_MAX {
        return Ok(Vec::new());
    }
    let mut sockets = Vec::new();
    for one in of_the_host() {
        for port in ports(one.host) {
            let at = SocketAddr::new(one.address, port);
            if let Some(own) = had.iter().position(|own| (own.protocol, own.at) == (one.protocol, at)) {
                sockets.push(had.swap_remove(own));
                continue;
            }
            match bound(one.protocol, at) {
                Ok(socket) => sockets.push(Reserved { protocol: one.protocol, at, socket }),
                Err(Errno::ADDRINUSE) => {
                    return Err(Error::InUse { at, protocol: one.protocol, by: None });
                }
                // Where the kernel has no such sockets nobody can take the port either.
                Err(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) => {}
                Err(errno) => return Err(Error::Bind { at, protocol: one.protocol, errno }),
            }
        }
    }
    Ok(sockets)
}

fn bound(protocol: Protocol, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Udp {
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    match rustix::net::bind(&socket, &at) {
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &at)?;
            sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        other => other?,
    }
    Ok(socket)
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

#[cfg(test)]
mod tests;
