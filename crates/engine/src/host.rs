//! Facts of the host: read once at start, and the counts for `info`.

use std::path::{Path, PathBuf};

use hull_oci::Platform;
use hull_runtime::cgroup::{Controller, Hierarchies, Mode};
use rustix::process::Resource;

use crate::spec::capabilities;

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
    /// Containers that say nothing have one.
    pub user_namespaces: bool,
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
    /// A share of block I/O can be given.
    pub io_weight: bool,
    /// Rates of single block devices can be limited.
    pub io_throttle: bool,
    /// The OOM killer can be switched off for a control group.
    pub oom_kill_disable: bool,
    /// What is mounted below a mount can be made read-only with it (mount_setattr(2)).
    pub recursive_read_only: bool,
    /// With the level of the processor that Go calls its variant.
    pub platform: Platform,
    /// Largest hard limits that this daemon may set (it may lack CAP_SYS_RESOURCE).
    pub rlimits: Vec<(String, u64)>,
    pub may_raise_limits: bool,
    /// `RLIMIT_NOFILE` (soft, hard) that the daemon was started with, if it has raised its own since.
    pub open_files: Option<(u64, u64)>,
    /// Of this process: a container cannot be given a lower score without CAP_SYS_RESOURCE.
    pub oom_score_adj: i32,
}

impl HostFacts {
    /// Reads them. What cannot be read is left at its default and told in `warnings`.
    pub fn gather(cgroups: Option<&Hierarchies>) -> HostFacts {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding =
            field(&status, "CapBnd:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let effective =
            field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&memory, "MemTotal:")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let sys_resource = 1u64 << 24;
        let has = |controller| cgroups.is_some_and(|cgroups| cgroups.has(controller));
        let v2 = cgroups.is_some_and(|cgroups| cgroups.mode() == Mode::V2);
        HostFacts {
            kernel: text(uname.release()),
            machine: text(uname.machine()),
            hostname: text(uname.nodename()),
            operating_system: operating_system(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
            memory: kib * 1024,
            capabilities: names(bounding),
            cgroup_version: if v2 { "2" } else { "1" }.to_owned(),
            seccomp: field(&status, "Seccomp:").is_some(),
            warnings: warnings(has),
            swap_limit: has(Controller::Memory) && (v2 || v1_swap()),
            io_weight: io_weight(Path::new(if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/blkio" })),
            io_throttle: has(Controller::Blkio)
                && (v2 || Path::new("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device").exists()),
            oom_kill_disable: !v2 && has(Controller::Memory),
            recursive_read_only: recursive_read_only(),
            platform: Platform {
                variant: processor_level(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
                ..Platform::host()
            },
            rlimits: rlimits(),
            may_raise_limits: effective & sys_resource != 0,
            open_files: None,
            oom_score_adj: std::fs::read_to_string("/proc/self/oom_score_adj")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        }
    }
}

/// The value of a `Name:\tvalue` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn names(mask: u64) -> Vec<String> {
    let set = |number: usize| mask & (1 << number) != 0;
    capabilities::ALL
        .iter()
        .enumerate()
        .filter(|(number, _)| set(*number))
        .map(|(_, &name)| name.to_owned())
        .collect()
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// v1 counts swap only where the kernel was built and started for it.
fn v1_swap() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

/// Whether the kernel has a scheduler that knows weights. The weights themselves are in no root of
/// a hierarchy, which may be all there is: there its other files tell.
fn io_weight(hierarchy: &Path) -> bool {
    const FILES: [&str; 6] = [
        "blkio.weight",
        "blkio.bfq.weight",
        "blkio.bfq.io_serviced",
        "io.weight",
        "io.bfq.weight",
        "io.cost.qos",
    ];
    let has = |folder: &Path| FILES.iter().any(|file| folder.join(file).exists());
    let below = std::fs::read_dir(hierarchy).into_iter().flatten().flatten();
    has(hierarchy) || below.map(|entry| entry.path()).any(|folder| has(&folder))
}

/// Asks for no change at all: only a kernel, or a filter around us, without the call refuses.
fn recursive_read_only() -> bool {
    let nothing = hull_sys::mount::Attributes::default();
    let refused = |error: &hull_sys::Error| {
        matches!(error.errno, hull_sys::error::Errno::NOSYS | hull_sys::error::Errno::PERM)
    };
    hull_sys::root::Root::open(Path::new("/"))
        .and_then(|root| hull_sys::mount::set_attributes(&root, &nothing, true))
        .map_or_else(|error| !refused(&error), |()| true)
}

/// `v1` to `v4` of the x86-64 ABI, from the `flags` of /proc/cpuinfo; empty elsewhere.
fn processor_level(cpuinfo: &str) -> String {
    const LEVELS: [&[&str]; 3] = [
        &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ];
    if std::env::consts::ARCH != "x86_64" {
        return String::new();
    }
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("flags"));
    let flags: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    let reached = LEVELS.iter().take_while(|level| level.iter().all(|flag| flags.contains(flag))).count();
    format!("v{}", reached + 1)
}

/// The reference's lines of `docker info`.
fn warnings(has: impl Fn(Controller) -> bool) -> Vec<String> {
    let lines = [
        (Controller::Memory, "WARNING: No memory limit support"),
        (Controller::Cpu, "WARNING: No cpu cfs quota support"),
        (Controller::Cpuset, "WARNING: No cpuset support"),
        (Controller::Pids, "WARNING: No pids limit support"),
    ];
    lines.into_iter().filter(|(controller, _)| !has(*controller)).map(|(_, line)| line.to_owned()).collect()
}

fn rlimits() -> Vec<(String, u64)> {
    let all = [
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_STACK", Resource::Stack),
    ];
    let hard = |resource| rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    all.into_iter().map(|(name, resource)| (name.to_owned(), hard(resource))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_processor_has_the_level_all_of_whose_flags_it_has() {
        let second = "flags\t\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
        assert_eq!(processor_level("flags\t\t: fpu sse2\n"), "v1");
        assert_eq!(processor_level(second), "v2");
        assert_eq!(processor_level(&format!("{second} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave\n")), "v3");
        // Without the third the fourth counts for nothing.
        assert_eq!(processor_level(&format!("{second} avx512f avx512bw avx512cd avx512dq avx512vl")), "v2");
    }

    #[test]
    fn weights_are_looked_for_below_the_root_too() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!io_weight(folder.path()));
        std::fs::create_dir(folder.path().join("some")).unwrap();
        std::fs::write(folder.path().join("some/io.bfq.weight"), "").unwrap();
        assert!(io_weight(folder.path()));
    }

    #[test]
    fn this_host_has_facts() {
        let cgroups = Hierarchies::detect().ok();
        let facts = HostFacts::gather(cgroups.as_ref());
        assert!(!facts.kernel.is_empty() && facts.cpus > 0 && facts.memory > 1 << 20);
        assert!(facts.capabilities.iter().any(|name| name == "CAP_CHOWN"), "these tests run as root");
        assert!(facts.rlimits.iter().any(|(name, hard)| name == "RLIMIT_NOFILE" && *hard > 0));
    }
}
