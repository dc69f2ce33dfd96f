//! The floor of a published port: what the kernel itself takes to rewrite a connection from
//! 127.0.0.1 to a container. Two namespaces, a bridge, a veth pair and three rules, made by `ip`
//! and `nft`, and no engine.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, Result};
use hull_sys::process::unshare_network;

use super::inside::enter;
use super::ports::Served;
use super::traffic::{Kind, Server};
use crate::execute;

const OWN: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
/// Added to a server's port.
const SHIFT: u16 = 1000;
const RULES: &str = "
    table ip floor {
        map ports { type inet_service : ipv4_addr . inet_service; }
        chain publish { type nat hook output priority -100; fib daddr type local dnat to tcp dport map @ports; }
        chain leave {
            type nat hook postrouting priority 100;
            ip saddr 127.0.0.0/8 oifname floor0 masquerade
        }
    }";

pub(crate) fn served() -> Result<Served> {
    let (host, container) = (namespace()?, namespace()?);
    // iproute2 takes a path for a namespace's name.
    let there = format!("/proc/{}/fd/{}", std::process::id(), container.as_raw_fd());
    enter(&host, || {
        ip("link set lo up")?;
        ip("link add floor0 type bridge")?;
        ip("addr add 172.31.0.1/24 dev floor0")?;
        ip("link set floor0 up")?;
        ip(&format!("link add floor1 master floor0 up type veth peer name eth0 netns {there}"))?;
        let elements = Kind::ALL.map(|kind| {
            format!("add element ip floor ports {{ {} : {OWN} . {} }}", kind.port() + SHIFT, kind.port())
        });
        execute(Command::new("nft").arg(format!("{RULES}\n{}", elements.join("\n"))))?;
        let localnet = "/proc/sys/net/ipv4/conf/floor0/route_localnet";
        fs::write(localnet, "1").with_context(|| format!("write {localnet}"))
    })?;
    enter(&container, || {
        ip("link set lo up")?;
        ip(&format!("addr add {OWN}/24 dev eth0"))?;
        ip("link set eth0 up")
    })?;
    let servers = Kind::ALL.into_iter().map(|kind| Server::start(&container, kind));
    let at = |address, shift| Kind::ALL.map(|kind| SocketAddr::from((address, kind.port() + shift)));
    Ok(Served {
        _servers: servers.collect::<Result<_>>()?,
        from: host,
        own: at(OWN, 0).into(),
        published: at(Ipv4Addr::LOCALHOST, SHIFT).into(),
    })
}

/// A new network namespace, which lasts as long as the file.
fn namespace() -> Result<File> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare_network()?;
            File::open("/proc/thread-self/ns/net").context("open a new network namespace")
        });
        thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
    })
}

fn ip(words: &str) -> Result<()> {
    execute(Command::new("ip").args(words.split(' ')))
}
