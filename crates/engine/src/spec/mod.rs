//! From a container's settings to the bundle its shim gets: a pure function.
//!
//! Everything that has to be looked up (who the user is, which device has which number, where the
//! layers lie) comes in as a value; what comes out is wholly determined by it, so that a
//! container's isolation can be read in a test's expected text.

pub mod capabilities;
pub mod devices;
mod env;
pub mod identity;
mod limits;
mod mounts;
pub mod sysctl;

use std::collections::BTreeMap;
use std::path::PathBuf;

use hull_oci::path;
use hull_oci::runtime::{
    Capabilities, ConsoleSize, Linux, Mount, Namespace, NamespaceKind, Process, Root, Seccomp, Spec, User,
    VERSION,
};
use hull_runtime::bundle::{Bundle, Exec, LogSettings, Rootfs, Source, Stdio};

use crate::Result;
use crate::containers::requests::ExecSettings;
use crate::containers::settings::{IpcMode, NetworkMode, PidMode, Settings};
use crate::host::HostFacts;
use crate::users::Maps;
use identity::Identity;

pub use env::{DEFAULT_PATH, merge as merge_env, of_exec as exec_env};
pub use limits::{cpu_quota, log as log_settings};

/// Hidden from a container, as the reference hides them, and what later advisories added (K07).
pub const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Shown but not writable.
pub const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The files that a container gets in its `/etc`, on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub resolv: PathBuf,
}

/// Where on the host that lies which mounts show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The folders of volumes, by name.
    pub volumes: BTreeMap<String, PathBuf>,
    /// The folders of mounted images' layers, from the top to the base, by the mount's target.
    pub images: BTreeMap<String, Vec<PathBuf>>,
    /// What only this process is shown, and no settings name.
    pub own: Vec<Own>,
}

/// A mount that the engine makes for one process, and that no record has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// For messages.
    pub name: String,
    /// Absolute in the container.
    pub target: String,
    pub source: Source,
    pub read_only: bool,
}

/// What [`compile`] needs to know.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub id: &'a str,
    pub settings: &'a Settings,
    pub host: &'a HostFacts,
    pub identity: &'a Identity,
    pub files: Files,
    pub rootfs: Rootfs,
    pub shown: Shown,
    pub devices: &'a [devices::Found],
    /// Of the devices of a privileged container.
    pub seccomp: Option<Seccomp>,
    pub log: Option<LogSettings>,
    /// Below each hierarchy's root.
    pub cgroup: String,
}

/// The bundle, and warnings of what this host makes impossible.
pub fn compile(inputs: Inputs<'_>) -> Result<(Bundle, Vec<String>)> {
    let settings = inputs.settings;
    let (capabilities, mut warnings) = given_capabilities(settings, inputs.host)?;
    let (rlimits, limit_warnings) = limits::rlimits(&settings.rlimits, inputs.host);
    warnings.extend(limit_warnings);
    let (oom_score_adj, oom_warning) = limits::oom_score(settings.oom_score_adj, inputs.host);
    warnings.extend(oom_warning);
    let process = Process {
        terminal: settings.tty,
        console_size: settings.console_size.map(|(height, width)| ConsoleSize { height, width }),
        user: user(inputs.identity),
        args: args(settings),
        env: env::of_container(settings, inputs.identity),
        cwd: path::clean(&settings.working_dir),
        capabilities: Some(capability_sets(&capabilities, inputs.identity.uid)),
        rlimits,
        no_new_privileges: settings.security.no_new_privileges,
        apparmor_profile: String::new(),
        selinux_label: String::new(),
        oom_score_adj,
    };
    let spec = Spec {
        oci_version: VERSION.to_owned(),
        process: Some(process),
        root: Some(Root { path: PathBuf::from("rootfs"), readonly: settings.read_only }),
        hostname: if settings.uts_host { String::new() } else { settings.hostname.clone() },
        domainname: if settings.uts_host { String::new() } else { settings.domainname.clone() },
        mounts: mounts::all(settings, &inputs.files, &inputs.shown, inputs.host.recursive_read_only),
        annotations: settings.annotations.clone(),
        linux: linux(&inputs),
        ..Spec::default()
    };
    let bundle = Bundle {
        id: inputs.id.to_owned(),
        spec,
        rootfs: inputs.rootfs,
        sources: mounts::sources(settings, inputs.shown),
        stdio: Stdio { stdin: settings.open_stdin, stdin_once: settings.stdin_once },
        log: inputs.log,
        init: settings.init,
    };
    Ok((bundle, warnings))
}

/// What is bound into a container's own files, and what it shows as in a [`Bundle`]; not what lies over
/// the kernel's.
pub fn bound(
    settings: &Settings,
    files: &Files,
    host: &HostFacts,
    shown: Shown,
) -> (Vec<Mount>, BTreeMap<PathBuf, Source>) {
    let mut mounts = mounts::all(settings, files, &shown, host.recursive_read_only);
    let kernels = ["/dev", "/proc", "/sys"];
    mounts.retain(|mount| {
        mount.kind == "bind" && !kernels.iter().any(|folder| mount.destination.starts_with(folder))
    });
    (mounts, mounts::sources(settings, shown))
}

/// One more process for the container that `inputs` compiles to.
pub fn compile_exec(inputs: &Inputs<'_>, id: &str, exec: &ExecSettings, stdin: bool) -> Result<Exec> {
    let settings = inputs.settings;
    let (mut capabilities, _) = given_capabilities(settings, inputs.host)?;
    if exec.privileged {
        (capabilities, _) = capabilities::compute(true, &[], &[], &inputs.host.capabilities)?;
    }
    let dir = if exec.working_dir.is_empty() { &settings.working_dir } else { &exec.working_dir };
    let process = Process {
        terminal: exec.tty,
        console_size: exec.console_size.map(|(height, width)| ConsoleSize { height, width }),
        user: user(inputs.identity),
        args: exec.cmd.clone(),
        env: exec_env(settings, exec.tty, &exec.env, inputs.identity),
        cwd: path::clean(dir),
        capabilities: Some(capability_sets(&capabilities, inputs.identity.uid)),
        rlimits: limits::rlimits(&settings.rlimits, inputs.host).0,
        no_new_privileges: settings.security.no_new_privileges,
        apparmor_profile: String::new(),
        selinux_label: String::new(),
        oom_score_adj: limits::oom_score(settings.oom_score_adj, inputs.host).0,
    };
    let stdio = Stdio { stdin, stdin_once: true };
    Ok(Exec { id: id.to_owned(), process, linux: linux(inputs), stdio })
}

fn linux(inputs: &Inputs<'_>) -> Linux {
    let settings = inputs.settings;
    let privileged = settings.security.privileged;
    let paths = |chosen: &Option<Vec<String>>, usual: &[&str]| match (privileged, chosen) {
        (true, _) => Vec::new(),
        (false, Some(chosen)) => chosen.clone(),
        (false, None) => usual.iter().map(|&path| path.to_owned()).collect(),
    };
    let mut resources = settings.resources.clone();
    resources.devices = match privileged {
        true => vec![devices::all_rule()],
        false => devices::usual_rules(),
    };
    if !privileged {
        resources.devices.extend(inputs.devices.iter().map(|found| found.rule.clone()));
        // Rules that were asked for come last: the later one wins.
        resources.devices.extend(settings.resources.devices.iter().cloned());
    }
    Linux {
        namespaces: namespaces(settings),
        uid_mappings: settings.users.as_ref().map_or_else(Vec::new, |maps| maps.uids.clone()),
        gid_mappings: settings.users.as_ref().map_or_else(Vec::new, |maps| maps.gids.clone()),
        devices: inputs.devices.iter().map(|found| found.node.clone()).collect(),
        cgroups_path: inputs.cgroup.clone(),
        resources,
        rootfs_propagation: "rprivate".to_owned(),
        seccomp: inputs.seccomp.clone(),
        sysctl: sysctls(settings),
        masked_paths: paths(&settings.security.masked_paths, MASKED),
        readonly_paths: paths(&settings.security.readonly_paths, READONLY),
        ..Linux::default()
    }
}

/// The namespaces that are the container's own or another's; those of the host are not named. To
/// join another's, its descriptor travels beside the bundle.
fn namespaces(settings: &Settings) -> Vec<Namespace> {
    let kinds = [
        (NamespaceKind::Mount, true),
        (NamespaceKind::Network, settings.network != NetworkMode::Host),
        (NamespaceKind::Uts, !settings.uts_host),
        (NamespaceKind::Pid, settings.pid != PidMode::Host),
        (NamespaceKind::Ipc, settings.ipc != IpcMode::Host),
        (NamespaceKind::Cgroup, !settings.cgroupns_host),
    ];
    let user = (NamespaceKind::User, settings.users.is_some());
    kinds
        .into_iter()
        .chain([user])
        .filter(|(_, own)| *own)
        .map(|(kind, _)| Namespace { kind, path: None })
        .collect()
}

fn sysctls(settings: &Settings) -> BTreeMap<String, String> {
    let mut sysctls = settings.sysctls.clone();
    if matches!(settings.network, NetworkMode::Default | NetworkMode::None | NetworkMode::Named(_)) {
        // As the reference: any user may bind low ports and ping in a network of its own.
        // Groups are those that the writer has.
        let last = settings.users.as_ref().map_or(2_147_483_647, Maps::last_gid);
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
            ("net.ipv4.ping_group_range", format!("0 {last}")),
        ] {
            sysctls.entry(name.to_owned()).or_insert(value);
        }
    }
    sysctls
}

/// The capabilities, and warnings.
pub fn given_capabilities(settings: &Settings, host: &HostFacts) -> Result<(Vec<String>, Vec<String>)> {
    let security = &settings.security;
    capabilities::compute(security.privileged, &security.cap_add, &security.cap_drop, &host.capabilities)
}

/// Inheritable and ambient sets stay empty (K05); a user that is not root begins with nothing.
pub fn capability_sets(given: &[String], uid: u32) -> Capabilities {
    let effective = if uid == 0 { given.to_vec() } else { Vec::new() };
    Capabilities {
        bounding: given.to_vec(),
        permitted: effective.clone(),
        effective,
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

pub fn user(identity: &Identity) -> User {
    User { uid: identity.uid, gid: identity.gid, umask: None, additional_gids: identity.groups.clone() }
}

/// Entrypoint and command, one after the other.
pub fn args(settings: &Settings) -> Vec<String> {
    settings.entrypoint.iter().flatten().chain(settings.cmd.iter().flatten()).cloned().collect()
}

#[cfg(test)]
mod tests;
