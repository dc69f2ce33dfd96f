//! Packets through the host: enabled only where a network needs it, with what was before on record.
//!
//! Enabling makes the host a router. Who may use it is the firewall's business: it drops what
//! neither comes from nor goes to a network of Hull, if forwarding was off before ([`Before`]).
//!
//! IPv4 has one switch, `net.ipv4.ip_forward`. IPv6 has two, and the well-known one has side
//! effects: with `net.ipv6.conf.all.forwarding` a link is a router's, and so ignores the
//! advertisements of other routers — a host that has learnt its default route from one loses it
//! (ip-sysctl, `accept_ra`: 1 "if forwarding is disabled", 2 "even if enabled"). Linux 6.17 has
//! `force_forwarding`, which forwards and changes nothing else. Where that is missing, the links
//! that listen to advertisements are told to go on doing so first.

use serde::{Deserialize, Serialize};

use crate::rtnl;
use crate::sysctl::{self, Family, Key};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error(transparent)]
    Link(#[from] rtnl::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

/// What was off on this host, and was changed. Kept with the records that a reboot forgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    /// `net.ipv4.ip_forward` was 0.
    pub v4: bool,
    pub v6: Option<Before6>,
}

/// How IPv6 forwarding was enabled where it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before6 {
    /// `net.ipv6.conf.all.force_forwarding` was 0.
    Forced,
    /// `net.ipv6.conf.all.forwarding` was 0; these links had `accept_ra` 1 and were given 2.
    Routed { listening: Vec<String> },
}

fn ip_forward() -> Key {
    Key::of(&["net", "ipv4", "ip_forward"])
}

fn all(name: &str) -> Key {
    Key::conf(Family::V6, "all", name)
}

/// Whether IPv4 and IPv6 packets pass through the host by now.
pub fn enabled() -> (bool, bool) {
    let on = |key: Key| key.read().is_ok_and(|value| value != "0");
    (on(ip_forward()), on(all("forwarding")) || on(all("force_forwarding")))
}

/// Enables what is asked for and is off, and adds it to `before`. That there is no IPv6 is no error.
pub fn enable(v4: bool, v6: bool, before: &mut Before) -> Result<()> {
    if v4 && ip_forward().read()? == "0" {
        ip_forward().set("1")?;
        before.v4 = true;
    }
    if v6 && sysctl::ipv6_present() && all("forwarding").read()? == "0" {
        enable_v6(before)?;
    }
    Ok(())
}

fn enable_v6(before: &mut Before) -> Result<()> {
    let forced = all("force_forwarding");
    if forced.exists() {
        if forced.read()? == "0" {
            // Those that will come, and those that are there.
            Key::conf(Family::V6, "default", "force_forwarding").set("1")?;
            forced.set("1")?;
            before.v6 = Some(Before6::Forced);
        }
        return Ok(());
    }
    let listening = listen_on()?;
    before.v6 = Some(Before6::Routed { listening });
    Ok(all("forwarding").set("1")?)
}

/// Has every link that listens to router advertisements go on with it as a router's. Gives them.
pub fn listen_on() -> Result<Vec<String>> {
    let mut listening = Vec::new();
    for link in rtnl::Socket::open()?.links()? {
        let accept = Key::conf(Family::V6, &link.name, "accept_ra");
        // A link may go meanwhile, or have no IPv6.
        if accept.read().is_ok_and(|value| value == "1") {
            accept.set("2")?;
            listening.push(link.name);
        }
    }
    Ok(listening)
}

/// Puts back what [`enable`] has changed. What has been changed by others since stays.
pub fn restore(before: &Before) -> Result<()> {
    if before.v4 {
        ip_forward().set("0")?;
    }
    match &before.v6 {
        None => {}
        Some(Before6::Forced) => {
            Key::conf(Family::V6, "default", "force_forwarding").set("0")?;
            all("force_forwarding").set("0")?;
        }
        Some(Before6::Routed { listening }) => {
            all("forwarding").set("0")?;
            for link in listening {
                let accept = Key::conf(Family::V6, link, "accept_ra");
                if accept.read().is_ok_and(|value| value == "2") {
                    accept.set("1")?;
                }
            }
        }
    }
    Ok(())
}
