//! What can be refused before anything is touched. Pure.

use std::os::fd::OwnedFd;

use hull_oci::runtime::{IPC_SYSCTLS, NamespaceKind, Process, Spec};
use hull_sys::process::Namespaces;

use super::failure::{Result, invalid};
use crate::bundle::Exec;
use crate::seccomp::{NEW_LISTENER, Program};

/// Longest environment entry or argument that execve(2) takes (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 128 * 1024;

pub(super) fn start(
    spec: &Spec,
    made: Namespaces,
    joins: &[(NamespaceKind, OwnedFd)],
    seccomp: Option<&Program>,
) -> Result<()> {
    if joins.iter().any(|(kind, _)| *kind == NamespaceKind::Mount) {
        return Err(invalid("joining a mount namespace is not supported"));
    }
    let joined = joins.iter().any(|(kind, _)| *kind == NamespaceKind::User);
    if (joined || made.contains(Namespaces::USER))
        && (spec.linux.uid_mappings.is_empty() || spec.linux.gid_mappings.is_empty())
    {
        return Err(invalid("a user namespace needs uidMappings and gidMappings"));
    }
    spec.process.iter().try_for_each(process)?;
    filter(seccomp)?;
    let own = |bit: Namespaces, kind: NamespaceKind| {
        made.contains(bit) || joins.iter().any(|(join, _)| *join == kind)
    };
    for (key, value) in &spec.linux.sysctl {
        let ipc = own(Namespaces::IPC, NamespaceKind::Ipc);
        let network = own(Namespaces::NETWORK, NamespaceKind::Network);
        let uts = own(Namespaces::UTS, NamespaceKind::Uts);
        sysctl(key, value, ipc, network, uts)?;
    }
    Ok(())
}

pub(super) fn exec(exec: &Exec, seccomp: Option<&Program>) -> Result<()> {
    process(&exec.process)?;
    filter(seccomp)
}

fn process(process: &Process) -> Result<()> {
    let user = &process.user;
    // As the reference has it; -1 would mean "leave as it is" to the kernel.
    let odd = |id: &u32| i32::try_from(*id).is_err();
    if odd(&user.uid) || odd(&user.gid) || user.additional_gids.iter().any(odd) {
        return Err(invalid("uids and gids must be in range 0-2147483647"));
    }
    strings(process.args.iter().chain(&process.env))
}

fn strings<'a>(all: impl Iterator<Item = &'a String>) -> Result<()> {
    for text in all {
        if text.len() >= MAX_STRING {
            let head: String = text.chars().take(40).collect();
            return Err(invalid(format!(
                "argument or environment entry {head:?}… is {} bytes long",
                text.len()
            )));
        }
        if text.contains('\0') {
            return Err(invalid(format!("argument or environment entry {text:?} has a zero byte")));
        }
    }
    Ok(())
}

fn filter(seccomp: Option<&Program>) -> Result<()> {
    match seccomp {
        Some(program) if program.flags & NEW_LISTENER != 0 => {
            Err(invalid("seccomp: notification of a listener is not supported"))
        }
        _ => Ok(()),
    }
}

/// Only settings that the container's own namespaces hold; any other would change the host.
fn sysctl(key: &str, value: &str, ipc: bool, network: bool, uts: bool) -> Result<()> {
    let odd = |text: &str| text.bytes().any(|byte| byte.is_ascii_control());
    if odd(key) || odd(value) || key.contains("..") || key.split(['.', '/']).any(str::is_empty) {
        return Err(invalid(format!("sysctl {key:?} is not a name and value")));
    }
    let dotted = key.replace('/', ".");
    let refused = |what: &str| Err(invalid(format!("sysctl {key:?} {what}")));
    if IPC_SYSCTLS.contains(&&*dotted) || dotted.starts_with("fs.mqueue.") {
        return if ipc { Ok(()) } else { refused("is not allowed in the hosts ipc namespace") };
    }
    if dotted.starts_with("net.") {
        return if network { Ok(()) } else { refused("not allowed in host network namespace") };
    }
    if dotted == "kernel.domainname" {
        return if uts { Ok(()) } else { refused("is not allowed in the hosts UTS namespace") };
    }
    refused("is not in a separate kernel namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_settings_pass() {
        assert!(sysctl("net.ipv4.ip_forward", "1", true, true, true).is_ok());
        assert!(sysctl("kernel.shmmax", "1", true, false, false).is_ok());
        let error = sysctl("net.ipv4.ip_forward", "1", true, false, true).unwrap_err();
        assert_eq!(error.message, "sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace");
        for key in ["kernel.core_pattern", "vm.swappiness", "fs.file-max", "kernel.hostname.x", "netx.y"] {
            assert!(sysctl(key, "1", true, true, true).is_err(), "{key}");
        }
    }

    #[test]
    fn a_setting_cannot_climb_out_of_its_prefix() {
        for key in ["net/../kernel/core_pattern", "net...kernel.core_pattern", "net.", "net.a\nb"] {
            assert!(sysctl(key, "1", true, true, true).is_err(), "{key}");
        }
        assert!(sysctl("net.core.somaxconn", "1\n2", true, true, true).is_err());
    }
}
