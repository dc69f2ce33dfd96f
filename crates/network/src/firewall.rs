//! Who makes the host's packet filter agree with the rules.
//!
//! A [`Firewall`] is given a whole [`RuleSet`] when the daemon starts and a [`Change`] of a few
//! elements whenever a network or a container comes or goes; each is one transaction that either
//! happens or does not. It remembers what it was given, so that it can be made again when somebody
//! has flushed it ([`Firewall::repair`]).

use crate::ruleset::{Change, RuleSet};

/// A packet filter that rules can be given to. nftables is the one there is.
pub trait Firewall {
    /// Makes the host's tables be exactly `wanted`, whatever was there of Hull's before.
    fn apply(&mut self, wanted: &RuleSet) -> Result<(), Error>;

    /// A small step from what was applied. What is already so is passed over.
    fn change(&mut self, change: &Change) -> Result<(), Error>;

    /// How what the host has differs from what was applied, in words; empty: not at all.
    fn observe(&mut self) -> Result<Vec<String>, Error>;

    /// Makes again what was applied.
    fn repair(&mut self) -> Result<(), Error>;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("talk to nftables")]
    Netlink(#[from] hull_sys::Error),
    #[error("nftables did not say whether a transaction happened")]
    Unanswered,
    /// The whole transaction did not happen.
    #[error("nftables refused {what}: {}{}", hull_sys::error::describe(*.errno), words(.text))]
    Refused { what: String, errno: hull_sys::Errno, text: Option<String> },
}

fn words(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}
