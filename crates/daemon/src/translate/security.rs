//! Capabilities and `--security-opt`.

use hull_api::hostconfig::HostConfig;
use hull_engine::containers::settings::{SeccompChoice, Security, Userns};

use super::Result;
use crate::http::Failure;

/// Every capability of this kernel generation, without the prefix (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

pub(super) fn security(host: &HostConfig) -> Result<Security> {
    let userns = match host.userns_mode.as_str() {
        "" => Userns::Default,
        "host" => Userns::Host,
        "auto" => Userns::Auto,
        other => return Err(Failure::invalid(format!("invalid USER mode: {other}"))),
    };
    let mut security = Security {
        privileged: host.privileged,
        cap_add: capabilities(&host.cap_add, "CapAdd")?,
        cap_drop: capabilities(&host.cap_drop, "CapDrop")?,
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        userns,
        ..Security::default()
    };
    for option in host.security_opt.iter().flatten() {
        apply(&mut security, option)?;
    }
    Ok(security)
}

fn capabilities(list: &Option<Vec<String>>, what: &str) -> Result<Vec<String>> {
    let check = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" || CAPABILITIES.contains(&bare) {
            Ok(bare.to_owned())
        } else {
            Err(Failure::invalid(format!("invalid {what}: unknown capability: \"CAP_{bare}\"")))
        }
    };
    list.iter().flatten().map(check).collect()
}

fn apply(security: &mut Security, option: &str) -> Result<()> {
    let wrong = || Failure::invalid(format!("invalid --security-opt 2: {option:?}"));
    if option == "no-new-privileges" {
        security.no_new_privileges = true;
        return Ok(());
    }
    // `=` since long, `:` from before that.
    let (name, value) = option.split_once('=').or_else(|| option.split_once(':')).ok_or_else(wrong)?;
    match name {
        "no-new-privileges" => {
            security.no_new_privileges = match value {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
                "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
                _ => return Err(wrong()),
            };
        }
        "seccomp" => {
            security.seccomp = match value {
                "unconfined" => SeccompChoice::Unconfined,
                "" | "builtin" => SeccompChoice::Default,
                profile => {
                    serde_json::from_str::<serde_json::Value>(profile).map_err(|error| {
                        Failure::invalid(format!("Decoding seccomp profile failed: {error}"))
                    })?;
                    SeccompChoice::Profile(profile.to_owned())
                }
            };
        }
        "apparmor" => value.clone_into(&mut security.apparmor),
        "label" => security.labels.push(value.to_owned()),
        "systempaths" if value == "unconfined" => {
            security.masked_paths = Some(Vec::new());
            security.readonly_paths = Some(Vec::new());
        }
        _ => return Err(wrong()),
    }
    Ok(())
}
