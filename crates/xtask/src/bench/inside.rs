//! The network namespace of an engine's container, entered from the benchmark's own process: every
//! engine is then measured with the same servers and clients, and no image has to bring any.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::engines::Engine;

const ADDRESS: &str = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";

/// A running container on one network, as it is seen from there.
pub(crate) struct Inside {
    pub(crate) network: File,
    pub(crate) address: Ipv4Addr,
    /// Whom its /etc/resolv.conf names first.
    pub(crate) resolver: Ipv4Addr,
}

impl Inside {
    pub(crate) fn of(engine: &Engine, container: &str) -> Result<Inside> {
        let pid = engine.line(&["inspect", "-f", "{{.State.Pid}}", container])?;
        let address = engine.line(&["inspect", "-f", ADDRESS, container])?;
        let network = format!("/proc/{pid}/ns/net");
        let resolvers = format!("/proc/{pid}/root/etc/resolv.conf");
        let text = fs::read_to_string(&resolvers).with_context(|| format!("read {resolvers}"))?;
        let first = text.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap_or_default();
        Ok(Inside {
            network: File::open(&network).with_context(|| format!("open {network}"))?,
            address: address
                .parse()
                .with_context(|| format!("{container} has no IPv4 address: {address:?}"))?,
            resolver: first.trim().parse().with_context(|| format!("{resolvers} names no IPv4 server"))?,
        })
    }
}

/// Does something on a thread of a network namespace. Sockets opened there stay there, whichever
/// thread uses them.
pub(crate) fn enter<T: Send>(network: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            hull_sys::process::join_one(network)?;
            work()
        });
        thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
    })
}
