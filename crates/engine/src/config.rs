//! How an engine is set up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::builds::{Entitlement, Limit};
use crate::containers::settings::LogDriver;
use crate::networks::Defaults;

#[derive(Debug, Clone)]
pub struct Config {
    /// What must outlive a boot: records, images, containers' files. 0700.
    pub data_root: PathBuf,
    /// On tmpfs: sockets and exit records. 0700.
    pub exec_root: PathBuf,
    /// The `hull-runtime` executable.
    pub runtime: PathBuf,
    /// The cgroup below which each container gets its own, relative to each hierarchy's root.
    pub cgroup_parent: String,
    /// For containers that name no log driver.
    pub default_log: LogDriver,
    /// Nameservers and the like for containers' resolv.conf; empty: the host's.
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Put on every container that does not set them: `RLIMIT_NOFILE` → (soft, hard).
    pub default_rlimits: BTreeMap<String, (u64, u64)>,
    /// `RLIMIT_NOFILE` (soft, hard) of every process in a container that has none by its settings;
    /// absent, they inherit the spawner's.
    pub open_files: Option<(u64, u64)>,
    /// Bytes of /dev/shm where a container says nothing.
    pub default_shm_bytes: u64,
    /// `--init` for all containers.
    pub init: bool,
    pub network: Defaults,
    /// Whose ids containers' users have that say nothing of it: empty for the host's, `auto`,
    /// `default`, or `user[:group]` of the host.
    pub userns_remap: String,
    /// What of the builds' memory stays.
    pub build_cache: Limit,
    /// What builds may allow their Dockerfiles to ask for.
    pub build_entitlements: BTreeSet<Entitlement>,
    /// How long ago a file of a build's folder must have been changed for its digest to be remembered (seconds): longer
    /// than the kernel lets a process write to a mapped file before it sets the times again (30 and 5 seconds,
    /// `dirty_expire_centisecs`, `dirty_writeback_centisecs`).
    pub settled_after: i64,
    /// How registries are reached.
    pub registries: hull_registry::client::Hosts,
    /// How long a stop waits at shutdown and by default, in seconds.
    pub stop_timeout: i32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_root: PathBuf::from("/var/lib/hull"),
            exec_root: PathBuf::from("/run/hull"),
            runtime: PathBuf::from("hull-runtime"),
            cgroup_parent: "hull".to_owned(),
            default_log: LogDriver::default(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            default_rlimits: BTreeMap::new(),
            open_files: None,
            default_shm_bytes: 64 << 20,
            init: false,
            network: Defaults::default(),
            userns_remap: String::new(),
            build_cache: Limit::default(),
            build_entitlements: BTreeSet::from([Entitlement::NetworkHost]),
            settled_after: 40,
            registries: hull_registry::client::Hosts::default(),
            stop_timeout: 10,
        }
    }
}
