//! Connections of the host's own programs to a port published on 127.0.0.1, led to the container
//! when they are made.
//!
//! The packet filter does this too ([`crate::rules`]), for every packet: the destination is
//! rewritten, the packet is routed a second time, the answer is rewritten back. That costs a tenth
//! of what one stream could carry. Here connect(2) itself is given the container's address, by a BPF
//! program on the host's cgroup, and the connection is then one like any other to the container.
//!
//! ```text
//! connect(127.0.0.1:8080) ─► ways[namespace, 127.0.0.1, 8080] ─► connect(172.17.0.2:80)
//!                              nothing there: as it was, and the packet filter rewrites
//! getpeername, getsockname ─► taken[socket] ─► 127.0.0.1:8080, 127.0.0.1:…
//! ```
//!
//! It is a short cut and nothing more. The rules stay, and carry what does not come this way: UDP
//! and SCTP, sockets that are bound to an address or a link, ports in ranges that are wide, kernels
//! before 5.14, a daemon without the right to load programs, and everything while there is no
//! daemon: the programs go with it, in whatever way it ends, and connections that it has led go on.
//! Who is in another network namespace is in none of the keys.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};

use hull_sys::bpf::{self, Map, MapKind, SocketHook};

mod program;

/// Ports published at 127/8 of one host. Elements take memory as they are put in.
const WAYS_MAX: u32 = 65_536;

/// Connections whose two ends are told as the program asked for them; of the oldest beyond that the
/// container's address is told.
const TAKEN_MAX: u32 = 8192;

/// Where connections to an address of 127/8 lead; the unspecified address stands for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
}

/// The programs and what they look into.
#[derive(Debug)]
pub struct Loopback {
    ways: Map,
    namespace: u64,
    /// With them the programs go.
    _links: Vec<OwnedFd>,
}

impl Loopback {
    /// For the network namespace of this thread. `cgroup` is the folder of the v2 hierarchy's root,
    /// below which all programs of the host are.
    ///
    /// # Errors
    /// What the kernel says where it has no such programs, or none for us.
    pub fn open(cgroup: impl AsFd) -> hull_sys::Result<Loopback> {
        let namespace = hull_sys::socket::network_namespace()?;
        let ways = Map::new(MapKind::Hash, program::KEY, program::WAY, WAYS_MAX)?;
        let taken = Map::new(MapKind::LruHash, program::COOKIE, program::TAKEN, TAKEN_MAX)?;
        let programs = [
            (SocketHook::PeerName, program::name(&taken, true)),
            (SocketHook::SocketName, program::name(&taken, false)),
            // The last: from here on connections are led.
            (SocketHook::Connect, program::connect(&ways, &taken)),
        ];
        let attach = |(hook, instructions): &(SocketHook, Vec<bpf::Instruction>)| {
            let program = bpf::load_socket_program(*hook, instructions)?;
            bpf::link_socket_program(&cgroup, *hook, &program)
        };
        let links = programs.iter().map(attach).collect::<hull_sys::Result<_>>()?;
        Ok(Loopback { ways, namespace, _links: links })
    }

    /// Connections take this way from now on.
    ///
    /// # Errors
    /// E2BIG when there are too many.
    pub fn set(&self, way: Way) -> hull_sys::Result<()> {
        self.ways.put(&self.key(way.from), &address(way.to))
    }

    /// From this address they are led nowhere any more.
    ///
    /// # Errors
    /// None that a kernel which has taken the map is known to give.
    pub fn forget(&self, from: SocketAddrV4) -> hull_sys::Result<()> {
        self.ways.remove(&self.key(from))
    }

    fn key(&self, from: SocketAddrV4) -> [u8; program::KEY] {
        let mut key = [0; program::KEY];
        key[..8].copy_from_slice(&self.namespace.to_ne_bytes());
        key[8..].copy_from_slice(&address(from));
        key
    }
}

/// Address and port as the kernel has them in `struct bpf_sock_addr`: in network order, the port in
/// four bytes.
fn address(of: SocketAddrV4) -> [u8; program::WAY] {
    let ([a, b, c, d], [high, low]) = (of.ip().octets(), of.port().to_be_bytes());
    [a, b, c, d, high, low, 0, 0]
}
