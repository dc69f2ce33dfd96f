//! What of the host a step may have beyond what every step has: only where the Dockerfile asks, whoever
//! builds allows it (`--allow`), and the daemon's configuration does (`builder.entitlements`).

use std::fmt;

/// The words are the reference's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `RUN --network=host`
    NetworkHost,
    /// `RUN --security=insecure`: as a privileged container.
    SecurityInsecure,
}

impl Entitlement {
    pub const ALL: [Entitlement; 2] = [Entitlement::NetworkHost, Entitlement::SecurityInsecure];

    /// As `--allow` has it; `None`: nobody knows it.
    pub fn parse(text: &str) -> Option<Entitlement> {
        Entitlement::ALL.into_iter().find(|entitlement| entitlement.to_string() == text)
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Entitlement::NetworkHost => "network.host",
            Entitlement::SecurityInsecure => "security.insecure",
        })
    }
}
