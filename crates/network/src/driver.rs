//! What makes a network's links: the trait, and what all drivers share.
//!
//! A driver makes the kernel agree with records. All four verbs may be said again at any time —
//! after a kill, a reboot, somebody's `ip link delete` — and then do what is missing and nothing
//! else; that is all there is to reconciling. A verb that fails undoes what it has done itself.
//!
//! ```text
//! network create   setup(network)        a bridge with its gateway's addresses; a VLAN link
//! start, connect   attach(…)             a link in the container's namespace, with addresses
//! priority changes attach(…) again       routes follow
//! exit, disconnect detach(…)             the link is cut off at once and deleted behind the scenes
//! network rm       teardown(network)
//! ```
//!
//! `host` and `null` have no links and no driver.

use std::net::IpAddr;
use std::sync::Arc;

use hull_sys::Errno;
use ipnet::IpNet;

use crate::namespace::{self, Namespace};
use crate::record::{self, Endpoint, Network};
use crate::rtnl::{self, Batch, Change, Link, Route};
use crate::sysctl::{self, Family, Key};
use crate::{bridge, macvlan, reaper};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Link(#[from] rtnl::Error),
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error("{0:?} is no name of a link: use 1 to 15 letters, digits and marks, without spaces, '/' and ':'")]
    Name(String),
    #[error("link {name} exists and is {found}, not {wanted}: choose another name or delete it")]
    OtherKind { name: String, found: String, wanted: &'static str },
    #[error("network {network} uses link {name}, which does not exist")]
    Missing { network: String, name: String },
    #[error("the other end of link {name} is not in the container's network namespace")]
    Elsewhere { name: String },
    #[error("the container has a link {0} already")]
    Taken(String),
    #[error("{key} is no sysctl of a link: write net.ipv4.conf.IFNAME.… or net.ipv6.conf.IFNAME.…")]
    Key { key: String },
    #[error("parent link {parent} {why}")]
    Parent { parent: String, why: &'static str },
    #[error("this kernel has no {kind} links (module {module})")]
    Unsupported { kind: &'static str, module: &'static str },
    #[error("invalid subinterface vlan name {0}, example formatting is eth0.10")]
    Vlan(String),
    #[error("the records of network {0} are not those of this driver")]
    OtherDriver(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Whose gateways the container's default routes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DefaultRoute {
    pub v4: bool,
    pub v6: bool,
}

pub trait Driver: Send + Sync {
    /// Makes what the network has on the host.
    fn setup(&self, network: &Network) -> Result<()>;

    /// Takes it away. That it has gone already is no error. Endpoints must be detached before.
    fn teardown(&self, network: &Network) -> Result<()>;

    /// Gives the namespace its link with everything that `endpoint` says, and announces it to the
    /// neighbours. A link that is there is used and corrected; only routes of a default that is no
    /// longer wanted are removed.
    fn attach(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        namespace: &Namespace,
        default: DefaultRoute,
    ) -> Result<()>;

    /// Cuts the link off: when this returns no packet passes and the addresses may be used again.
    /// With the `namespace` of a container that lives on, the link is gone from it too; `None` where
    /// the namespace is gone or about to go, and nobody looks. A link that has gone is no error.
    fn detach(&self, network: &Network, endpoint: &Endpoint, namespace: Option<&Namespace>) -> Result<()>;
}

/// The drivers of this host, with the one thread that deletes links for them.
#[derive(Debug)]
pub struct Drivers {
    pub bridge: bridge::Driver,
    pub macvlan: macvlan::Driver,
}

impl Drivers {
    /// For the network namespace of this thread.
    pub fn new() -> Result<Drivers> {
        let reaper = Arc::new(reaper::Reaper::start()?);
        Ok(Drivers {
            bridge: bridge::Driver::new(Arc::clone(&reaper)),
            macvlan: macvlan::Driver::new(reaper),
        })
    }

    /// `None` for `host` and `null`.
    pub fn of(&self, network: &Network) -> Option<&dyn Driver> {
        match network.driver {
            record::Driver::Bridge(_) => Some(&self.bridge),
            record::Driver::Macvlan(_) => Some(&self.macvlan),
            record::Driver::Host | record::Driver::Null => None,
        }
    }
}

/// Longest name of a link in bytes (`IFNAMSIZ` without the zero byte).
pub const LINK_NAME: usize = 15;

/// Whether the kernel takes it as a link's name (`dev_valid_name`), and sysctl paths too.
pub fn valid_link_name(name: &str) -> bool {
    let bad = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '/' | ':' | '%');
    !name.is_empty() && name.len() <= LINK_NAME && name != "." && name != ".." && !name.contains(bad)
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if valid_link_name(name) { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

/// `prefix` and seven random hexadecimal digits: a name for a link on the host.
pub fn random_name(prefix: &str) -> String {
    let mut bytes = [0; 4];
    // The kernel's generator fails only before it has been seeded at boot; then a name that is
    // taken makes the next call fail, and nothing worse.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{prefix}{:07x}", u32::from_ne_bytes(bytes) & 0xfff_ffff)
}

/// The link-local address that goes with a hardware address (RFC 4291, appendix A).
pub fn link_local(mac: record::Mac) -> std::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    std::net::Ipv6Addr::from(bytes)
}

/// Whether a link of this network in a container speaks IPv6.
pub(crate) fn speaks_v6(endpoint: &Endpoint) -> bool {
    endpoint.address6.is_some() || endpoint.link_local.iter().any(IpAddr::is_ipv6)
}

/// Sysctls of a link that is new in a container, to be written in its namespace before it is up.
pub(crate) fn prepare_sysctls(link: &str, v6: bool) -> sysctl::Result<()> {
    // A changed hardware address is announced, which makes neighbours forget who had the
    // container's addresses before (ip-sysctl: arp_notify, ndisc_notify).
    Key::conf(Family::V4, link, "arp_notify").set("1")?;
    if sysctl::ipv6_present() {
        // No router but the engine's gateway: any neighbour could claim to be one.
        Key::conf(Family::V6, link, "accept_ra").set("0")?;
        Key::conf(Family::V6, link, "ndisc_notify").set("1")?;
        Key::conf(Family::V6, link, "disable_ipv6").ensure(if v6 { "0" } else { "1" })?;
    }
    Ok(())
}

/// Has `make` make links in the namespace of this thread, which nobody else uses yet, that speak
/// IPv6 or do not from their birth.
///
/// To change that of a link the kernel needs its one lock of all links, and does not sleep until it
/// gets it: it starts the write again and again (`restart_syscall` in `addrconf_disable_ipv6`). A
/// dozen containers that start at the same moment would so take the processors from the very
/// thread that has the lock, for seconds on a busy machine. What new links begin with is changed
/// without the lock (since Linux 6.9).
pub(crate) fn born<T>(v6: bool, make: impl FnOnce() -> T) -> sysctl::Result<T> {
    let begin = Key::conf(Family::V6, "default", "disable_ipv6");
    if v6 || !sysctl::ipv6_present() {
        return Ok(make());
    }
    let usual = begin.read()?;
    begin.ensure("1")?;
    let made = make();
    begin.ensure(&usual)?;
    Ok(made)
}

/// Gives `link`, which is in `namespace`, its name, addresses and routes. It has been prepared
/// ([`prepare_sysctls`]) with this `v6`.
pub(crate) fn configure(
    namespace: &Namespace,
    link: &Link,
    endpoint: &Endpoint,
    default: DefaultRoute,
    prepared_v6: bool,
) -> Result<()> {
    let name = endpoint.link.as_str();
    check_name(name)?;
    let renamed = link.name != name;
    if renamed {
        let mut batch = Batch::new();
        // Kernels before 6.2 rename only what is down.
        batch.down(link.index);
        batch.change(link.index, &Change { name: Some(name), ..Change::default() });
        namespace.rtnl()?.run(batch).map_err(|error| match error.errno() {
            Errno::EXIST => Error::Taken(name.to_owned()),
            _ => error.into(),
        })?;
    }
    let v6 = speaks_v6(endpoint);
    let sysctls = own_sysctls(endpoint)?;
    if prepared_v6 != v6 || !sysctls.is_empty() {
        namespace.enter(|| {
            if prepared_v6 != v6 {
                prepare_sysctls(name, v6)?;
            }
            sysctls.iter().try_for_each(|(key, value)| key.set(value))
        })??;
    }
    let mut batch = Batch::new();
    addresses(&mut batch, link.index, endpoint, v6);
    routes(&mut batch, link.index, endpoint, default);
    let mut rtnl = namespace.rtnl()?;
    rtnl.run(batch)?;
    // Only what another network's gateway has replaced; most often it was never there.
    for result in rtnl.each(unwanted_routes(link.index, endpoint, default))? {
        match result {
            Err(error) if error.errno() != Errno::SRCH => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn own_sysctls(endpoint: &Endpoint) -> Result<Vec<(Key, &str)>> {
    let mut sysctls = Vec::new();
    for (text, value) in &endpoint.sysctls {
        let key = Key::of_link(text, &endpoint.link).ok_or_else(|| Error::Key { key: text.clone() })?;
        sysctls.push((key, value.as_str()));
    }
    Ok(sysctls)
}

/// Up, with all addresses; the hardware address last, because its change announces them.
fn addresses(batch: &mut Batch, link: u32, endpoint: &Endpoint, v6: bool) {
    let own_link_local = v6.then_some(false);
    batch.change(link, &Change { up: Some(true), own_link_local, ..Change::default() });
    if let Some(address) = endpoint.address4 {
        batch.add_address(link, IpNet::V4(address));
    }
    if let Some(address) = endpoint.address6 {
        batch.add_address(link, IpNet::V6(address));
    }
    for address in &endpoint.link_local {
        let length = if address.is_ipv4() { 16 } else { 64 };
        if let Ok(address) = IpNet::new(*address, length) {
            batch.add_address(link, address);
        }
    }
    if v6 && let Ok(address) = IpNet::new(link_local(endpoint.mac).into(), 64) {
        batch.add_address(link, address);
    }
    // From here on the kernel may make the link-local address by itself again: it is the same one,
    // should a process in the container set the link down and up.
    let own_link_local = v6.then_some(true);
    batch.change(link, &Change { mac: Some(endpoint.mac), own_link_local, ..Change::default() });
}

fn gateways(endpoint: &Endpoint, default: DefaultRoute) -> [(Option<IpAddr>, bool); 2] {
    [(endpoint.gateway4.map(IpAddr::V4), default.v4), (endpoint.gateway6.map(IpAddr::V6), default.v6)]
}

fn routes(batch: &mut Batch, link: u32, endpoint: &Endpoint, default: DefaultRoute) {
    for (gateway, wanted) in gateways(endpoint, default) {
        if let Some(gateway) = gateway.filter(|_| wanted) {
            let covered = match gateway {
                IpAddr::V4(gateway) => endpoint.address4.is_some_and(|net| net.contains(&gateway)),
                IpAddr::V6(gateway) => {
                    gateway.is_unicast_link_local()
                        || endpoint.address6.is_some_and(|net| net.contains(&gateway))
                }
            };
            batch.add_route(&Route { onlink: !covered, ..Route::default_by(gateway, link) });
        }
    }
}

fn unwanted_routes(link: u32, endpoint: &Endpoint, default: DefaultRoute) -> Batch {
    let mut batch = Batch::new();
    for (gateway, wanted) in gateways(endpoint, default) {
        if let Some(gateway) = gateway.filter(|_| !wanted) {
            batch.delete_route(&Route::default_by(gateway, link));
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links() {
        for good in ["eth0", "veth0123456", "a.100", "br-0123456789ab", "x"] {
            assert!(valid_link_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "eth%d", "sixteen-letters!", "a\n"] {
            assert!(!valid_link_name(bad), "{bad}");
        }
        let name = random_name("veth");
        assert!(valid_link_name(&name) && name.len() == 11, "{name}");
    }

    #[test]
    fn a_link_local_address_follows_from_the_hardware_address() {
        let address = link_local("02:42:ac:11:00:02".parse().unwrap());
        assert_eq!(address.to_string(), "fe80::42:acff:fe11:2");
    }
}
