//! The network's sysctls: those of one link, and of all.
//!
//! /proc/sys/net shows the network namespace of the thread that looks.

use std::fmt;
use std::path::{Path, PathBuf};

use hull_sys::{During, Errno};

use crate::rtnl;

/// A sysctl that could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} sysctl {key}")]
pub struct Error {
    /// `set … to …` or `read`.
    verb: String,
    key: Key,
    source: hull_sys::Error,
}

impl Error {
    pub fn errno(&self) -> Errno {
        self.source.errno
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A sysctl below /proc/sys; shown with dots, as sysctl(8) does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(PathBuf);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name with a dot in it (eth0.10) has a slash there, as sysctl(8) has it.
        let parts: Vec<_> = self.0.iter().map(|part| part.to_string_lossy().replace('.', "/")).collect();
        f.write_str(&parts.join("."))
    }
}

/// Which stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }
}

impl Key {
    /// By its parts.
    pub fn of(parts: &[&str]) -> Key {
        Key(PathBuf::from_iter(parts))
    }

    /// `net.FAMILY.conf.LINK.NAME`; `LINK` may be `all` or `default`.
    pub fn conf(family: Family, link: &str, name: &str) -> Key {
        Key(PathBuf::from_iter(["net", family.name(), "conf", link, name]))
    }

    /// Of a key as a person writes it, with `IFNAME` for the link's name:
    /// `net.ipv4.conf.IFNAME.forwarding`. `None` for any other: only sysctls of a link may be set
    /// so, below `net.ipv4`, `net.ipv6` or `net.mpls`.
    pub fn of_link(text: &str, link: &str) -> Option<Key> {
        let parts: Vec<_> = text.split(['.', '/']).collect();
        let [net, family @ ("ipv4" | "ipv6" | "mpls"), kind @ ("conf" | "neigh"), "IFNAME", name] = parts[..]
        else {
            return None;
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if net != "net" || name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        Some(Key(PathBuf::from_iter([net, family, kind, link, name])))
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/sys").join(&self.0)
    }

    pub fn set(&self, value: &str) -> Result<()> {
        let _lock = rtnl::lock();
        std::fs::write(self.path(), value)
            .during("write", || self.path().display().to_string())
            .map_err(|source| Error { verb: format!("set to {value:?} the"), key: self.clone(), source })
    }

    /// Sets what has another value. Reading takes no lock of the kernel's, writing some keys does.
    pub fn ensure(&self, value: &str) -> Result<()> {
        if self.read()? == value { Ok(()) } else { self.set(value) }
    }

    /// Without the end of line.
    pub fn read(&self) -> Result<String> {
        std::fs::read_to_string(self.path())
            .map(|text| text.trim_end().to_owned())
            .during("read", || self.path().display().to_string())
            .map_err(|source| Error { verb: "read".to_owned(), key: self.clone(), source })
    }

    /// Whether this kernel has it (here).
    pub fn exists(&self) -> bool {
        self.path().exists()
    }
}

/// Whether there is IPv6 at all: a kernel may be started without.
pub fn ipv6_present() -> bool {
    Key::conf(Family::V6, "all", "disable_ipv6").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_link_are_taken() {
        let key = |text: &str| Key::of_link(text, "eth0.7").map(|key| key.to_string());
        assert_eq!(
            key("net.ipv4.conf.IFNAME.forwarding").as_deref(),
            Some("net.ipv4.conf.eth0/7.forwarding")
        );
        assert_eq!(
            key("net/ipv6/neigh/IFNAME/gc_stale_time").as_deref(),
            Some("net.ipv6.neigh.eth0/7.gc_stale_time")
        );
        for bad in [
            "",
            "net.ipv4.conf.all.forwarding",
            "net.ipv4.ip_forward",
            "net.ipv4.conf.IFNAME",
            "net.ipv4.conf.IFNAME.",
            "net.ipv4.conf.IFNAME.a.b",
            "net.core.conf.IFNAME.x",
            "kernel.ipv4.conf.IFNAME.x",
            "net.ipv4.conf.IFNAME...",
        ] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}
