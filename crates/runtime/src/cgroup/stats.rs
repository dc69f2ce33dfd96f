//! The counters of a cgroup, as far as `docker stats` and `inspect` show them.
//!
//! v1 and v2 count much the same under other names and units; [`Stats`] has one unit for each:
//! nanoseconds and bytes. A counter the host does not keep is 0 or absent from the maps: a
//! number that is missing must not fail the others.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::layout::Controller;
use super::{Cgroup, files};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    /// Bytes moved, per device and operation.
    pub blkio_bytes: Vec<BlkioEntry>,
    /// Operations done, per device and operation.
    pub blkio_operations: Vec<BlkioEntry>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    /// v1 only.
    pub per_cpu: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    pub peak: u64,
    /// `None` is without limit.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// `memory.stat` as the kernel prints it, in bytes but for the event counts.
    pub details: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: u64,
    pub limit: Option<u64>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`, on v1 also `Sync`, `Async`, `Discard`, `Total`; in v1's spelling.
    pub operation: String,
    pub value: u64,
}

/// The largest limit v1 prints is `i64::MAX` rounded down to pages: it means none.
const V1_UNLIMITED: u64 = i64::MAX as u64 - (1 << 20);

/// `key value` lines.
fn flat(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 4096` lines; the sum at the end has no device and is left out.
fn blkio_v1(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (major, minor) = device(words.next()?)?;
            Some(BlkioEntry {
                major,
                minor,
                operation: words.next()?.to_owned(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` lines, split into bytes and operations.
fn io_stat(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "read"),
                "wbytes" => (&mut bytes, "write"),
                "rios" => (&mut operations, "read"),
                "wios" => (&mut operations, "write"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            list.push(BlkioEntry { major, minor, operation: operation.to_owned(), value });
        }
    }
    (bytes, operations)
}

impl Cgroup {
    /// All counters, as of now.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(root) = self.v2_root() {
            self.v2_stats(root, &mut stats);
        }
        self.v1_stats(&mut stats);
        stats
    }

    /// How many processes of this cgroup the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let count = |root: &OwnedFd, file: &str| {
            let text = files::get(root, &format!("{}/{file}", self.path)).ok()?;
            flat(&text).get("oom_kill").copied()
        };
        if let Some(root) = self.v1_root(Controller::Memory) {
            return count(root, "memory.oom_control").unwrap_or(0);
        }
        let v2 = self.v2_root();
        v2.and_then(|root| count(root, "memory.events")).unwrap_or(0)
    }

    fn v1_stats(&self, stats: &mut Stats) {
        let number =
            |root: &OwnedFd, file: &str| files::number(root, &format!("{}/{file}", self.path)).unwrap_or(0);
        let text = |root: &OwnedFd, file: &str| {
            files::get(root, &format!("{}/{file}", self.path)).unwrap_or_default()
        };
        if let Some(root) = self.v1_root(Controller::Cpuacct) {
            stats.cpu.total = number(root, "cpuacct.usage");
            stats.cpu.user = number(root, "cpuacct.usage_user");
            stats.cpu.system = number(root, "cpuacct.usage_sys");
            stats.cpu.per_cpu = text(root, "cpuacct.usage_percpu")
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
        }
        if let Some(root) = self.v1_root(Controller::Cpu) {
            let stat = flat(&text(root, "cpu.stat"));
            let get = |key: &str| stat.get(key).copied().unwrap_or(0);
            stats.cpu.periods = get("nr_periods");
            stats.cpu.throttled_periods = get("nr_throttled");
            stats.cpu.throttled = get("throttled_time");
        }
        if let Some(root) = self.v1_root(Controller::Memory) {
            let limit = number(root, "memory.limit_in_bytes");
            stats.memory = MemoryStats {
                usage: number(root, "memory.usage_in_bytes"),
                peak: number(root, "memory.max_usage_in_bytes"),
                limit: (limit < V1_UNLIMITED).then_some(limit),
                failures: number(root, "memory.failcnt"),
                details: flat(&text(root, "memory.stat")),
            };
        }
        if let Some(root) = self.v1_root(Controller::Pids) {
            stats.pids = self.pids_stats(root);
        }
        if let Some(root) = self.v1_root(Controller::Blkio) {
            stats.blkio_bytes = blkio_v1(&text(root, "blkio.throttle.io_service_bytes_recursive"));
            stats.blkio_operations = blkio_v1(&text(root, "blkio.throttle.io_serviced_recursive"));
        }
    }

    fn pids_stats(&self, root: &OwnedFd) -> PidsStats {
        PidsStats {
            current: files::number(root, &format!("{}/pids.current", self.path)).unwrap_or(0),
            limit: files::number(root, &format!("{}/pids.max", self.path)),
        }
    }

    fn v2_stats(&self, root: &OwnedFd, stats: &mut Stats) {
        let text = |file: &str| files::get(root, &format!("{}/{file}", self.path));
        if let Ok(cpu) = text("cpu.stat") {
            let stat = flat(&cpu);
            // Microseconds there.
            let nanos = |key: &str| stat.get(key).map_or(0, |us| us.saturating_mul(1000));
            let get = |key: &str| stat.get(key).copied().unwrap_or(0);
            stats.cpu = CpuStats {
                total: nanos("usage_usec"),
                user: nanos("user_usec"),
                system: nanos("system_usec"),
                per_cpu: Vec::new(),
                periods: get("nr_periods"),
                throttled_periods: get("nr_throttled"),
                throttled: nanos("throttled_usec"),
            };
        }
        let number = |file: &str| files::number(root, &format!("{}/{file}", self.path));
        if let Some(usage) = number("memory.current") {
            let events = flat(&text("memory.events").unwrap_or_default());
            stats.memory = MemoryStats {
                usage,
                peak: number("memory.peak").unwrap_or(0),
                limit: number("memory.max"),
                failures: events.get("max").copied().unwrap_or(0),
                details: flat(&text("memory.stat").unwrap_or_default()),
            };
        }
        if number("pids.current").is_some() {
            stats.pids = self.pids_stats(root);
        }
        if let Ok(io) = text("io.stat") {
            (stats.blkio_bytes, stats.blkio_operations) = io_stat(&io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_of_both_versions_name_device_and_operation() {
        let v1 = blkio_v1("8:0 Read 4096\n8:0 Write 0\n253:1 Total 9\nTotal 4105\n");
        let seen: Vec<_> = v1.iter().map(|e| (e.major, e.minor, e.operation.as_str(), e.value)).collect();
        assert_eq!(seen, [(8, 0, "Read", 4096), (8, 0, "Write", 0), (253, 1, "Total", 9)]);
        let (bytes, operations) =
            io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \nbad\n");
        let seen = |list: &[BlkioEntry]| {
            list.iter().map(|e| (e.minor, e.operation.clone(), e.value)).collect::<Vec<_>>()
        };
        assert_eq!(seen(&bytes), [(0, "read".into(), 1), (0, "write".into(), 2)]);
        assert_eq!(seen(&operations), [(0, "read".into(), 3), (0, "write".into(), 4)]);
    }

    #[test]
    fn lines_that_are_no_counters_are_passed_over() {
        let map = flat("oom_kill_disable 0\nunder_oom 0\noom_kill 3\nbroken\nx y\n");
        assert_eq!(map.len(), 3);
        assert_eq!(map["oom_kill"], 3);
    }
}
