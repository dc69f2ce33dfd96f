//! What others' tables do to packets that are forwarded to containers.
//!
//! A packet has to pass every table: what one drops no other can let in. So a host whose firewall
//! drops what it does not know of — iptables' FORWARD policy, a table of one's own — keeps
//! published ports shut, and nothing of Hull's would show why. This reads those tables as far as
//! it takes to say which chain it is. Rules that look at anything but the links are not judged: a
//! chain is only named where a packet that none of them is about is dropped.

use std::fmt;

use hull_sys::Result;
use hull_sys::netlink::message::{Attributes, attributes, string};
use hull_sys::netlink::{Family as Netlink, Socket};

use super::dump::{self, FoundChain, FoundRule};
use super::element;
use super::{NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, read_number};
use crate::ruleset::TABLE;

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// Jumps that are followed; the kernel allows 16.
const DEPTH: u32 = 16;
/// `meta iifname` and `meta oifname`.
const IN_LINK: u32 = 6;
const OUT_LINK: u32 = 7;

/// Somebody else's chain that drops what is forwarded to a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// As nft(8) says it: `ip`, `ip6`, `inet`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Policy,
    Rule,
}

impl Obstacle {
    /// The packets of this family are meant.
    pub fn concerns(&self, six: bool) -> bool {
        self.family == "inet" || (self.family == "ip6") == six
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle { family, table, chain, cause } = self;
        match cause {
            Cause::Policy => write!(f, "the policy of chain {chain} in table {family} {table}"),
            Cause::Rule => write!(f, "a rule of chain {chain} in table {family} {table}"),
        }
    }
}

/// The chains of others that drop a new connection which is forwarded to the link `bridge`. In the
/// network namespace of the calling thread.
pub fn obstacles(bridge: &str) -> Result<Vec<Obstacle>> {
    let socket = Socket::open(Netlink::Netfilter)?;
    let mut found = Vec::new();
    for (family, name) in [(NFPROTO_IPV4, "ip"), (NFPROTO_IPV6, "ip6"), (NFPROTO_INET, "inet")] {
        let chains = dump::chains(&socket, family)?;
        let in_the_way =
            |chain: &&FoundChain| chain.table != TABLE && chain.hook.is_some_and(|(hook, _)| hook == FORWARD);
        for base in chains.iter().filter(in_the_way) {
            let rules = dump::rules(&socket, family, Some(&base.table))?;
            let cause = match fate(&rules, &base.name, bridge, DEPTH) {
                Some(Fate::Dropped) => Cause::Rule,
                None if base.drops => Cause::Policy,
                _ => continue,
            };
            found.push(Obstacle { family: name, table: base.table.clone(), chain: base.name.clone(), cause });
        }
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
}

/// What the chain does with the packet; `None`: it goes on behind the chain.
fn fate(rules: &[FoundRule], chain: &str, bridge: &str, depth: u32) -> Option<Fate> {
    let depth = depth.checked_sub(1)?;
    for rule in rules.iter().filter(|rule| rule.chain == chain) {
        match outcome(&rule.expressions, bridge) {
            Outcome::Next => {}
            Outcome::Return => return None,
            Outcome::End(fate) => return Some(fate),
            Outcome::Goto(chain) => return fate(rules, &chain, bridge, depth),
            Outcome::Jump(chain) => {
                if let Some(fate) = fate(rules, &chain, bridge, depth) {
                    return Some(fate);
                }
            }
        }
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Next,
    Return,
    End(Fate),
    Jump(String),
    Goto(String),
}

/// One rule. Whatever it looks at that is not known of the packet makes it another packet's rule.
fn outcome(expressions: &[u8], bridge: &str) -> Outcome {
    let mut loaded = None;
    for (_, expression) in attributes(expressions) {
        let mut name = String::new();
        let mut data = Attributes::default();
        for (kind, payload) in attributes(expression) {
            match kind {
                1 => name = string(payload),
                2 => data = attributes(payload),
                _ => {}
            }
        }
        match name.as_str() {
            "counter" | "log" | "comment" => {}
            "meta" => {
                loaded = data.clone().find(|(kind, _)| *kind == 2).and_then(|(_, key)| read_number(key))
            }
            "cmp" => match compare(loaded, data, bridge) {
                true => {}
                false => return Outcome::Next,
            },
            "reject" => return Outcome::End(Fate::Dropped),
            "immediate" => return verdict(data),
            // iptables' REJECT, before it was translated.
            "target" if names_reject(data) => return Outcome::End(Fate::Dropped),
            _ => return Outcome::Next,
        }
    }
    Outcome::Next
}

/// Whether a comparison of links holds for a packet from outside to the bridge.
fn compare(loaded: Option<u32>, data: Attributes<'_>, bridge: &str) -> bool {
    let mut equal = true;
    let mut value: &[u8] = &[];
    for (kind, payload) in data {
        match kind {
            // NFT_CMP_EQ is 0, NFT_CMP_NEQ 1.
            2 => equal = read_number(payload) == Some(0),
            3 => value = attributes(payload).next().map_or(&[][..], |(_, bytes)| bytes),
            _ => {}
        }
    }
    // A name with `+` or `*` is shorter than a link's 16 bytes.
    let is_bridge = element::link(bridge).starts_with(value);
    match loaded {
        Some(OUT_LINK) => is_bridge == equal,
        // It comes from somewhere else; from where is not known.
        Some(IN_LINK) => !equal && is_bridge,
        _ => false,
    }
}

fn verdict(data: Attributes<'_>) -> Outcome {
    let (mut code, mut chain) = (None, String::new());
    for (_, data) in data.filter(|(kind, _)| *kind == 2) {
        for (_, verdict) in attributes(data).filter(|(kind, _)| *kind == 2) {
            for (kind, payload) in attributes(verdict) {
                match kind {
                    1 => code = read_number(payload).map(u32::cast_signed),
                    2 => chain = string(payload),
                    _ => {}
                }
            }
        }
    }
    match code {
        Some(0) => Outcome::End(Fate::Dropped),
        Some(1) => Outcome::End(Fate::Accepted),
        Some(-3) => Outcome::Jump(chain),
        Some(-4) => Outcome::Goto(chain),
        Some(-5) => Outcome::Return,
        _ => Outcome::Next,
    }
}

fn names_reject(mut data: Attributes<'_>) -> bool {
    data.find(|(kind, _)| *kind == 1).is_some_and(|(_, name)| string(name) == "REJECT")
}
