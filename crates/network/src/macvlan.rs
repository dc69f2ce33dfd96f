//! Networks whose containers are on the host's own wire, each with a hardware address of its own.
//!
//! ```text
//!  container
//!  eth0 (macvlan) ── parent: eth0, or eth0.100 that Hull makes ── the wire
//! ```
//!
//! The host itself cannot talk to such containers: that is how macvlan links are. A network without
//! a parent of the host's has one that leads nowhere: its containers reach each other only.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hull_sys::Errno;

use crate::driver::{self, DefaultRoute, Error, Result, check_name, random_name};
use crate::namespace::Namespace;
use crate::reaper::Reaper;
use crate::record::{self, Endpoint, Macvlan, MacvlanMode, Network};
use crate::rtnl::{self, Batch, Change, Kind, Link, NewLink, Peer, Watch};
use crate::sysctl::{self, Family, Key};

#[derive(Debug)]
pub struct Driver {
    reaper: Arc<Reaper>,
}

impl Driver {
    pub(crate) fn new(reaper: Arc<Reaper>) -> Driver {
        Driver { reaper }
    }
}

/// What a network's parent is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// For [`Macvlan::parent`].
    pub link: String,
    /// For [`Macvlan::made_parent`].
    pub made: bool,
    /// For [`Macvlan::nowhere`].
    pub nowhere: bool,
}

/// Decides about the parent of a network to be created, on a host with these `links`. Without
/// `asked`, or for an internal network with the name of a link that is not there, it leads nowhere.
/// A name that is not there is else `LINK.VLAN` of a link that is.
pub fn choose_parent(network: &str, asked: Option<&str>, internal: bool, links: &[String]) -> Result<Parent> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        // As the reference calls it: `dm-` and the id as far as it fits.
        let link = format!("dm-{}", network.get(..12).unwrap_or(network));
        return Ok(Parent { link, made: true, nowhere: true });
    };
    check_name(asked)?;
    let there = |name: &str| links.iter().any(|link| link == name);
    let link = asked.to_owned();
    if there(asked) {
        return Ok(Parent { link, made: false, nowhere: false });
    }
    if internal {
        return Ok(Parent { link, made: true, nowhere: true });
    }
    let (base, _) = vlan(asked)?;
    if !there(base) {
        return Err(Error::Parent { parent: base.to_owned(), why: "does not exist on this host" });
    }
    Ok(Parent { link, made: true, nowhere: false })
}

/// `eth0.100`: the link and the tag.
fn vlan(name: &str) -> Result<(&str, u16)> {
    let bad = || Error::Vlan(name.to_owned());
    let (base, tag) = name.rsplit_once('.').ok_or_else(bad)?;
    let tag = tag.parse().ok().filter(|tag| (1..=4094).contains(tag) && !base.is_empty()).ok_or_else(bad)?;
    Ok((base, tag))
}

fn macvlan(network: &Network) -> Result<&Macvlan> {
    match &network.driver {
        record::Driver::Macvlan(macvlan) => Ok(macvlan),
        _ => Err(Error::OtherDriver(network.name.clone())),
    }
}

impl driver::Driver for Driver {
    fn setup(&self, network: &Network) -> Result<()> {
        let macvlan = macvlan(network)?;
        check_name(&macvlan.parent)?;
        let mut socket = rtnl::Socket::open()?;
        let mut batch = Batch::new();
        match socket.link(&macvlan.parent)? {
            Some(found) if macvlan.made_parent && !found.up => batch.up(found.index),
            Some(_) => {}
            None if !macvlan.made_parent => return Err(missing(&macvlan.parent)),
            None if macvlan.nowhere => return nowhere(&mut socket, &macvlan.parent),
            None => {
                let (base, tag) = vlan(&macvlan.parent)?;
                let parent = socket.link(base)?.ok_or_else(|| missing(base))?;
                if !parent.up {
                    return Err(down(base));
                }
                let kind = Kind::Vlan { parent: parent.index, tag };
                batch.add_link(&NewLink { up: true, ..NewLink::new(&macvlan.parent, kind) });
            }
        }
        socket.run(batch).map_err(|error| match error.errno() {
            Errno::OPNOTSUPP => Error::Unsupported { kind: "vlan", module: "8021q" },
            _ => error.into(),
        })
    }

    fn teardown(&self, network: &Network) -> Result<()> {
        let macvlan = macvlan(network)?;
        let mut socket = rtnl::Socket::open()?;
        let ours = |link: &Link| matches!(link.kind.as_deref(), Some("vlan" | "dummy" | "veth"));
        match socket.link(&macvlan.parent)?.filter(ours) {
            Some(link) if macvlan.made_parent => {
                Ok(self.reaper.condemn_and_rename(&mut socket, link.index)?)
            }
            _ => Ok(()),
        }
    }

    fn attach(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        namespace: &Namespace,
        default: DefaultRoute,
    ) -> Result<()> {
        let macvlan = macvlan(network)?;
        check_name(&endpoint.link)?;
        let mut socket = rtnl::Socket::open()?;
        let parent = socket.link(&macvlan.parent)?.ok_or_else(|| missing(&macvlan.parent))?;
        if !parent.up {
            return Err(down(&macvlan.parent));
        }
        let found = namespace.rtnl()?.link(&endpoint.link)?;
        let (link, made) = match found {
            Some(link) if link.kind.as_deref() == Some("macvlan") && link.lower == Some(parent.index) => {
                (link, false)
            }
            Some(_) => return Err(Error::Taken(endpoint.link.clone())),
            None => (make(&mut socket, macvlan, &parent, endpoint, namespace)?, true),
        };
        let v6 = driver::speaks_v6(endpoint);
        let finish = || {
            if made {
                connect(namespace, &link, v6)?;
            }
            driver::configure(namespace, &link, endpoint, default, v6)
        };
        finish().map_err(|error| {
            if made {
                // What went wrong first is the answer.
                let _ = delete(namespace, &endpoint.link);
            }
            match error {
                // It is seen when the link goes up.
                Error::Link(error) if error.errno() == Errno::ADDRINUSE => twin(&macvlan.parent),
                error => error,
            }
        })
    }

    /// Without a namespace the link goes with the last process and descriptor of the container's;
    /// with one, it is deleted when this returns (some 20 ms).
    fn detach(&self, network: &Network, endpoint: &Endpoint, namespace: Option<&Namespace>) -> Result<()> {
        macvlan(network)?;
        namespace.map_or(Ok(()), |namespace| delete(namespace, &endpoint.link))
    }
}

fn missing(parent: &str) -> Error {
    Error::Parent { parent: parent.to_owned(), why: "does not exist on this host" }
}

fn down(parent: &str) -> Error {
    Error::Parent { parent: parent.to_owned(), why: "is down: set it up first" }
}

fn twin(parent: &str) -> Error {
    let why = "has a link with this hardware address already: choose another --mac-address";
    Error::Parent { parent: parent.to_owned(), why }
}

fn make(
    socket: &mut rtnl::Socket,
    macvlan: &Macvlan,
    parent: &Link,
    endpoint: &Endpoint,
    namespace: &Namespace,
) -> Result<Link> {
    let kind = Kind::Macvlan { parent: parent.index, mode: macvlan.mode };
    // A passthru link has its parent's address until it is given another.
    let mac = Some(endpoint.mac).filter(|_| macvlan.mode != MacvlanMode::Passthru);
    let mut batch = Batch::new();
    batch.add_link(&NewLink {
        mac,
        namespace: Some(namespace.as_fd()),
        ..NewLink::new(&endpoint.link, kind)
    });
    socket.run(batch).map_err(|error| {
        let why = match error.errno() {
            Errno::BUSY if parent.master.is_some() => "is a port of a bridge and cannot carry macvlan links",
            Errno::BUSY => "is in use by another kind of link (a bond, a bridge, ipvlan)",
            Errno::INVAL if macvlan.mode == MacvlanMode::Passthru => {
                "carries a macvlan link already: in passthru mode it carries one container's only"
            }
            Errno::INVAL => "carries a passthru link, beside which there can be no other",
            Errno::OPNOTSUPP => return Error::Unsupported { kind: "macvlan", module: "macvlan" },
            _ => return Error::from(error),
        };
        Error::Parent { parent: macvlan.parent.clone(), why }
    })?;
    let made = namespace.rtnl()?.link(&endpoint.link)?;
    made.ok_or_else(|| Error::Elsewhere { name: endpoint.link.clone() })
}

/// How long a new link may take to pass packets: it takes the kernel's next work item.
const RUNNING: Duration = Duration::from_secs(1);

/// Sets a new link up and waits until packets get through: those sent before would be lost, the
/// announcement of its addresses first of all.
fn connect(namespace: &Namespace, link: &Link, v6: bool) -> Result<()> {
    let mut watch = namespace.enter(|| -> Result<Watch> {
        driver::prepare_sysctls(&link.name, v6)?;
        Ok(Watch::links()?)
    })??;
    let mut rtnl = namespace.rtnl()?;
    let mut batch = Batch::new();
    let own_link_local = v6.then_some(false);
    batch.change(link.index, &Change { up: Some(true), own_link_local, ..Change::default() });
    rtnl.run(batch)?;
    watch.until(&mut rtnl, link.index, RUNNING, |link| link.running)?;
    Ok(())
}

fn delete(namespace: &Namespace, link: &str) -> Result<()> {
    let mut rtnl = namespace.rtnl()?;
    if rtnl.link(link)?.is_none_or(|link| link.kind.as_deref() != Some("macvlan")) {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.delete_link(link);
    Ok(rtnl.run(batch)?)
}

/// Makes a parent that leads nowhere: a dummy, or where the kernel has none, a pair of which
/// nothing is done with the other end.
fn nowhere(socket: &mut rtnl::Socket, name: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.add_link(&NewLink::new(name, Kind::Dummy));
    let made = socket.run(batch);
    let other = random_name("veth");
    let mut ends = vec![name];
    match made {
        Err(error) if error.errno() == Errno::OPNOTSUPP => {
            let mut batch = Batch::new();
            let peer = Peer { name: &other, ..Peer::default() };
            batch.add_link(&NewLink::new(name, Kind::Veth(peer)));
            socket.run(batch)?;
            ends.push(&other);
        }
        result => result?,
    }
    let mut finish = || {
        let mut batch = Batch::new();
        for end in &ends {
            // The host says nothing on it.
            if sysctl::ipv6_present() {
                Key::conf(Family::V6, end, "disable_ipv6").set("1")?;
            }
            batch.change(*end, &Change { up: Some(true), ..Change::default() });
        }
        Ok(socket.run(batch)?)
    };
    finish().inspect_err(|_: &Error| {
        let mut batch = Batch::new();
        batch.delete_link(name);
        // What went wrong first is the answer.
        let _ = socket.run(batch);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_a_link_and_a_tag() {
        assert_eq!(vlan("eth0.100").ok(), Some(("eth0", 100)));
        assert_eq!(vlan("br.lan.4094").ok(), Some(("br.lan", 4094)));
        for bad in ["eth0", "eth0.", "eth0.0", "eth0.4095", "eth0.x", ".7", "eth0.-1"] {
            assert!(vlan(bad).is_err(), "{bad}");
        }
    }
}
