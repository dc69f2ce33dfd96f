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

/// What was off on this host, and was or is to be changed. Kept with the records that a reboot
/// forgets: whoever switches writes it down first, for nobody can tell afterwards what was off.
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

impl Before {
    /// Adds what was found off later.
    pub fn add(&mut self, off: &Before) {
        self.v4 |= off.v4;
        match (&mut self.v6, &off.v6) {
            (own @ None, _) => own.clone_from(&off.v6),
            (Some(Before6::Routed { listening }), Some(Before6::Routed { listening: more })) => {
                let new: Vec<String> =
                    more.iter().filter(|link| !listening.contains(link)).cloned().collect();
                listening.extend(new);
            }
            (Some(_), _) => {}
        }
    }
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

/// What of this is off now. That there is no IPv6 is no error.
pub fn off(v4: bool, v6: bool) -> Result<Before> {
    Ok(Before {
        v4: v4 && ip_forward().read()? == "0",
        v6: if v6 && sysctl::ipv6_present() { off_v6()? } else { None },
    })
}

fn off_v6() -> Result<Option<Before6>> {
    if all("forwarding").read()? != "0" {
        return Ok(None);
    }
    let forced = all("force_forwarding");
    if forced.exists() {
        return Ok((forced.read()? == "0").then_some(Before6::Forced));
    }
    Ok(Some(Before6::Routed { listening: listening()? }))
}

/// Enables what [`off`] has found.
pub fn enable(off: &Before) -> Result<()> {
    if off.v4 {
        ip_forward().set("1")?;
    }
    match &off.v6 {
        None => {}
        Some(Before6::Forced) => {
            // Those that will come, and those that are there.
            Key::conf(Family::V6, "default", "force_forwarding").set("1")?;
            all("force_forwarding").set("1")?;
        }
        Some(Before6::Routed { listening }) => {
            listen_on(listening)?;
            all("forwarding").set("1")?;
        }
    }
    Ok(())
}

/// The links that listen to router advertisements as long as they are no router's.
pub fn listening() -> Result<Vec<String>> {
    // A link may go meanwhile, or have no IPv6.
    let listens = |link: &String| accept_ra(link).read().is_ok_and(|value| value == "1");
    Ok(rtnl::Socket::open()?.links()?.into_iter().map(|link| link.name).filter(listens).collect())
}

fn accept_ra(link: &str) -> Key {
    Key::conf(Family::V6, link, "accept_ra")
}

/// Has these links go on listening as a router's.
pub fn listen_on(links: &[String]) -> Result<()> {
    for accept in links.iter().map(|link| accept_ra(link)) {
        if accept.read().is_ok_and(|value| value == "1") {
            accept.set("2")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_off_once_is_not_forgotten() {
        let routed = |links: &[&str]| Before {
            v4: false,
            v6: Some(Before6::Routed { listening: links.iter().map(|&link| link.to_owned()).collect() }),
        };
        let mut before = Before { v4: true, v6: None };
        before.add(&Before::default());
        assert_eq!(before, Before { v4: true, v6: None });
        before.add(&routed(&["a", "b"]));
        // A daemon was killed before it had switched, and the next finds one more.
        before.add(&routed(&["b", "c"]));
        assert_eq!(before, Before { v4: true, ..routed(&["a", "b", "c"]) });
    }
}
