//! Facts of the host: read once at start, and the counts for `info`.

use std::path::PathBuf;

/// What `info` tells, as far as the engine knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    pub data_root: PathBuf,
    pub facts: HostFacts,
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    pub hostname: String,
    /// `PRETTY_NAME` of /etc/os-release.
    pub operating_system: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Capabilities of our bounding set, with the `CAP_` prefix, in the kernel's order.
    pub capabilities: Vec<String>,
    /// `1` or `2`; hybrid is `1`.
    pub cgroup_version: String,
    pub seccomp: bool,
    /// This host cannot do it: one line each, as `info` shows them.
    pub warnings: Vec<String>,
    /// Swap is limited by the memory controller.
    pub swap_limit: bool,
    /// Largest hard limits that this daemon may set (it may lack CAP_SYS_RESOURCE).
    pub rlimits: Vec<(String, u64)>,
    pub may_raise_limits: bool,
    /// Of this process: a container cannot be given a lower score without CAP_SYS_RESOURCE.
    pub oom_score_adj: i32,
}
