//! One reading of what a container uses. Rates are for the caller: they need two.

use hull_runtime::cgroup;

use super::phase::Time;
use super::services::Services;
use super::view::View;
use crate::Result;

/// Counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// When they were read.
    pub read: Time,
    /// Whether the container ran; if not, everything below is zero.
    pub running: bool,
    pub cgroup: cgroup::Stats,
    /// Nanoseconds that all of the host's processors have worked since boot, for the share.
    pub host_cpu: u64,
    pub cpus: u32,
    /// Bytes of the host.
    pub host_memory: u64,
    /// Per interface of the container's network, but for the loopback.
    pub networks: Vec<Interface>,
}

/// Counters of one interface (proc(5), `/proc/PID/net/dev`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Blocks for a few reads of kernel files.
pub(crate) fn read(services: &Services, view: &View, cgroup: &str) -> Result<Stats> {
    let mut stats = Stats { read: hull_sys::time::now(), ..Stats::default() };
    let Some(pid) = view.pid() else { return Ok(stats) };
    stats.running = true;
    stats.cpus = services.facts.cpus;
    stats.host_memory = services.facts.memory;
    stats.host_cpu = host_cpu(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    if let Some(cgroup) = services.cgroup(cgroup) {
        stats.cgroup = cgroup.stats();
    }
    stats.networks = interfaces(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default());
    Ok(stats)
}

/// The first seven columns of the `cpu` line, in ticks of 10 ms (proc(5)).
fn host_cpu(text: &str) -> u64 {
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let ticks: u64 = line
        .unwrap_or_default()
        .split_whitespace()
        .take(7)
        .filter_map(|word| word.parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    ticks.saturating_mul(10_000_000)
}

fn interfaces(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let numbers: Vec<u64> = counters.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let name = name.trim();
        if name == "lo" || numbers.len() < 12 {
            return None;
        }
        Some(Interface {
            name: name.to_owned(),
            rx_bytes: numbers[0],
            rx_packets: numbers[1],
            rx_errors: numbers[2],
            rx_dropped: numbers[3],
            tx_bytes: numbers[8],
            tx_packets: numbers[9],
            tx_errors: numbers[10],
            tx_dropped: numbers[11],
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read_by_their_columns() {
        assert_eq!(host_cpu("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n"), 28 * 10_000_000);
        assert_eq!(host_cpu("nonsense"), 0);
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(
            (found.len(), found[0].name.as_str(), found[0].rx_bytes, found[0].tx_dropped),
            (1, "eth0", 10, 8)
        );
    }
}
