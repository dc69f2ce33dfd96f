//! Profiles in Docker's JSON, as `--security-opt seccomp=FILE` takes them: OCI's document with
//! conditions on architecture, capabilities and kernel for each rule, and a map of which other
//! architectures a machine runs.

use std::collections::BTreeSet;

use hull_oci::runtime::{Seccomp, SyscallArg, SyscallRule};
use serde::Deserialize;

use super::{Arch, Kernel};

/// Larger files are no profiles (Docker's own has 15 KB).
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("decoding seccomp profile failed")]
    Json { source: serde_json::Error },
    #[error("seccomp profile of {bytes} bytes is larger than {MAX_BYTES}")]
    TooLarge { bytes: usize },
    #[error("both '{one}' and '{two}' are specified in the seccomp profile, use either '{one}' or '{two}'")]
    Both { one: &'static str, two: &'static str },
    #[error("seccomp profile: {text:?} is no kernel version")]
    Kernel { text: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<String>>,
    listener_path: String,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    name: String,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<SyscallArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// `4.8` and longer texts that begin so.
fn version(text: &str) -> Result<Kernel, ProfileError> {
    let mut parts = text.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(ProfileError::Kernel { text: text.to_owned() }),
    }
}

struct Host<'a> {
    caps: &'a BTreeSet<String>,
    kernel: Kernel,
    arch: Arch,
}

impl Host<'_> {
    /// All that the condition names must be here.
    fn meets(&self, condition: &Condition) -> Result<bool, ProfileError> {
        let mut arches = condition.arches.iter().flatten().peekable();
        if arches.peek().is_some() && !arches.any(|a| a == self.arch.go_name()) {
            return Ok(false);
        }
        if condition.caps.iter().flatten().any(|cap| !self.caps.contains(cap)) {
            return Ok(false);
        }
        match condition.min_kernel.as_deref().filter(|v| !v.is_empty()) {
            Some(least) => Ok(self.kernel >= version(least)?),
            None => Ok(true),
        }
    }

    /// Anything that the condition names is here.
    fn touches(&self, condition: &Condition) -> Result<bool, ProfileError> {
        let arch = condition.arches.iter().flatten().any(|a| a == self.arch.go_name());
        let cap = condition.caps.iter().flatten().any(|cap| self.caps.contains(cap));
        if arch || cap {
            return Ok(true);
        }
        match condition.min_kernel.as_deref().filter(|v| !v.is_empty()) {
            Some(least) => Ok(self.kernel >= version(least)?),
            None => Ok(false),
        }
    }
}

/// The OCI profile for a container with these capabilities (its bounding set) on this host.
///
/// # Errors
/// What is no profile, or says a thing in both of two ways, in Docker's words.
pub fn profile_from_docker_json(
    json: &[u8],
    caps: &BTreeSet<String>,
    kernel: Kernel,
    arch: Arch,
) -> Result<Seccomp, ProfileError> {
    if json.len() > MAX_BYTES {
        return Err(ProfileError::TooLarge { bytes: json.len() });
    }
    let profile: Profile = serde_json::from_slice(json).map_err(|source| ProfileError::Json { source })?;
    let host = Host { caps, kernel, arch };
    let mut out = Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures: profile.architectures.unwrap_or_default(),
        flags: profile.flags.unwrap_or_default(),
        listener_path: profile.listener_path,
        syscalls: Vec::new(),
    };
    let map = profile.arch_map.unwrap_or_default();
    if !map.is_empty() && !out.architectures.is_empty() {
        return Err(ProfileError::Both { one: "architectures", two: "archMap" });
    }
    for entry in map.into_iter().filter(|e| e.architecture == arch.scmp_name()) {
        out.architectures.push(entry.architecture);
        out.architectures.extend(entry.sub_architectures.unwrap_or_default());
    }
    for entry in profile.syscalls.unwrap_or_default() {
        let mut names = entry.names.unwrap_or_default();
        if !entry.name.is_empty() {
            if !names.is_empty() {
                return Err(ProfileError::Both { one: "name", two: "names" });
            }
            names.push(entry.name);
        }
        let excluded = entry.excludes.as_ref().map(|c| host.touches(c)).transpose()?;
        let included = entry.includes.as_ref().map(|c| host.meets(c)).transpose()?;
        if excluded == Some(true) || included == Some(false) {
            continue;
        }
        out.syscalls.push(SyscallRule {
            names,
            action: entry.action,
            errno_ret: entry.errno_ret,
            args: entry.args.unwrap_or_default(),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_MKNOD"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}}]}"#;

    fn names(caps: &[&str], kernel: Kernel, arch: Arch) -> String {
        let caps = caps.iter().map(|c| (*c).to_owned()).collect();
        let profile = profile_from_docker_json(TEXT.as_bytes(), &caps, kernel, arch).unwrap();
        let names: Vec<_> = profile.syscalls.iter().flat_map(|s| s.names.clone()).collect();
        format!("{} | {}", profile.architectures.join(" "), names.join(" "))
    }

    #[test]
    fn conditions_choose_the_rules() {
        assert_eq!(
            names(&[], (4, 7), Arch::X86_64),
            "SCMP_ARCH_X86_64 SCMP_ARCH_X86 | read write clone3 arch_prctl clone"
        );
        assert_eq!(
            names(&["CAP_SYS_ADMIN", "CAP_MKNOD"], (6, 1), Arch::X86_64),
            "SCMP_ARCH_X86_64 SCMP_ARCH_X86 | read write ptrace mount arch_prctl clone"
        );
        assert_eq!(
            names(&["CAP_MKNOD"], (4, 8), Arch::Aarch64),
            "SCMP_ARCH_AARCH64 | read write ptrace clone3"
        );
    }

    #[test]
    fn a_profile_that_says_a_thing_twice_is_refused_in_dockers_words() {
        let error = |text: &str| {
            let got = profile_from_docker_json(text.as_bytes(), &BTreeSet::new(), (6, 1), Arch::X86_64);
            got.unwrap_err().to_string()
        };
        assert_eq!(
            error(
                r#"{"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#
            ),
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
        );
        assert_eq!(
            error(r#"{"syscalls": [{"name": "a", "names": ["b"]}]}"#),
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        );
        assert_eq!(error("{"), "decoding seccomp profile failed");
        assert!(
            error(r#"{"syscalls": [{"name": "a", "includes": {"minKernel": "x"}}]}"#)
                .contains("kernel version")
        );
    }
}
