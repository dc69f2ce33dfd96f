//! Which kernel parameters a container may set: only those that a namespace of its own holds, so
//! that no value can reach the host.

use std::collections::BTreeMap;

use hull_oci::runtime::IPC_SYSCTLS;

use crate::{Error, Result};

/// Which namespaces are the container's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// Refuses what is not a parameter of one of the container's own namespaces.
pub fn check(sysctls: &BTreeMap<String, String>, own: Own) -> Result<()> {
    sysctls.iter().try_for_each(|(name, value)| check_one(name, value, own))
}

fn check_one(name: &str, value: &str, own: Own) -> Result<()> {
    // Both spellings reach the same file; only one of them must be looked at below.
    let dotted = if name.contains('/') {
        name.replace('.', "\0").replace('/', ".").replace('\0', "/")
    } else {
        name.to_owned()
    };
    let segments_ok = dotted.split('.').all(|segment| !segment.is_empty() && !matches!(segment, "." | ".."));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '*');
    if !segments_ok || !dotted.chars().all(plain) || dotted.split(['.', '/']).any(str::is_empty) {
        return Err(Error::Invalid(format!("sysctl {name:?} is not the name of a kernel parameter")));
    }
    if value.contains(['\n', '\0']) {
        return Err(Error::Invalid(format!("sysctl {name:?}: the value must be one line")));
    }
    let (held, where_) = match dotted.as_str() {
        "kernel.domainname" => (own.uts, "UTS"),
        // The reference's way to a host name is `--hostname`.
        "kernel.hostname" => {
            return Err(Error::Invalid(format!("sysctl {name:?} conflicts with the container's hostname")));
        }
        ipc if IPC_SYSCTLS.contains(&ipc) || ipc.starts_with("fs.mqueue.") => (own.ipc, "IPC"),
        net if net.starts_with("net.") => (own.network, "network"),
        _ => return Err(Error::Invalid(format!("sysctl {name:?} is not in a separate kernel namespace"))),
    };
    if held {
        return Ok(());
    }
    Err(Error::Invalid(match where_ {
        "network" => format!("sysctl {name:?} not allowed in host network namespace"),
        other => format!("sysctl {name:?} is not allowed in the hosts {} namespace", other.to_lowercase()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { network: true, ipc: true, uts: true };

    #[test]
    fn only_what_an_own_namespace_holds_is_allowed() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            check_one(name, "1", OWN).unwrap();
        }
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "kernel.shmmax.x",
            "fs.file-max",
            "",
            ".",
            "net..x",
            "net.ipv4.../../kernel/core_pattern",
            "net/../kernel/core_pattern",
            "net.ipv4/../../kernel.core_pattern",
            "net.a b",
            "net.x\n",
            "../net.x",
            "/net/x",
        ] {
            assert!(check_one(name, "1", OWN).is_err(), "{name:?}");
        }
        assert!(check_one("net.ipv4.ip_forward", "1\n2", OWN).is_err());
    }

    #[test]
    fn what_the_host_shares_is_refused_in_the_references_words() {
        let host = Own { network: false, ..OWN };
        assert_eq!(
            check_one("net.ipv4.ip_forward", "0", host).unwrap_err().to_string(),
            "sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace"
        );
        assert!(check_one("kernel.shmmax", "1", Own { ipc: false, ..OWN }).is_err());
    }
}
