//! `GET /containers/ID/stats`: readings of a container, one after another.

use std::time::Duration;

use bytes::Bytes;
use hull_api::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, Throttling,
};
use hull_api::{ApiVersion, compat};
use hull_engine::Engine;
use hull_engine::containers::stats::{Interface, Stats as Reading};

use super::show;
use crate::http::{Call, Failure, Handled, blocks, ok, stream};

/// Between two readings, as clients expect when they reckon rates.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn stats(call: &Call, key: &str) -> Handled {
    let streaming = call.query.get("stream").is_none() || call.query.flag("stream");
    let one_shot = call.query.flag("one-shot") && !call.version.before(41);
    if one_shot && streaming {
        return Err(Failure::invalid("cannot have stream=true and one-shot=true"));
    }
    let engine = call.server.engine.clone();
    let view = engine.container(key)?;
    let series = Series {
        engine,
        id: view.id.clone(),
        name: format!("/{}", view.name),
        version: call.version,
        before: None,
    };
    if streaming {
        return Ok(stream("application/json", blocks((series, false), next_line)));
    }
    let mut series = series;
    let first = series.next().await?;
    if one_shot || !view.is_running() {
        // The reference names the container in a series only.
        let bare = Stats { name: String::new(), id: String::new(), ..first.clone() };
        return ok(if one_shot { &bare } else { &first });
    }
    tokio::time::sleep(PERIOD).await;
    ok(&series.next().await?)
}

/// The first reading at once, then one each second for as long as the container exists.
async fn next_line((mut series, begun): (Series, bool)) -> Option<(Bytes, (Series, bool))> {
    if begun {
        tokio::time::sleep(PERIOD).await;
    }
    let stats = series.next().await.ok()?;
    let mut line = serde_json::to_vec(&stats).ok()?;
    line.push(b'\n');
    Some((line.into(), (series, true)))
}

struct Series {
    engine: Engine,
    id: String,
    name: String,
    version: ApiVersion,
    before: Option<Reading>,
}

impl Series {
    async fn next(&mut self) -> Result<Stats, hull_engine::Error> {
        let reading = self.engine.stats(&self.id).await?;
        let mut stats = shown(&self.id, &self.name, &reading, self.before.as_ref());
        compat::stats(self.version, &mut stats);
        self.before = reading.running.then_some(reading);
        Ok(stats)
    }
}

/// What is not running has no numbers at all.
fn shown(id: &str, name: &str, reading: &Reading, before: Option<&Reading>) -> Stats {
    let named =
        Stats { name: name.to_owned(), id: id.to_owned(), os_type: "linux".to_owned(), ..Stats::default() };
    if !reading.running {
        return Stats { read: show::time(None), preread: show::time(None), ..named };
    }
    let cgroup = &reading.cgroup;
    let list = |entries: &[hull_runtime::cgroup::BlkioEntry]| {
        let entry = |entry: &hull_runtime::cgroup::BlkioEntry| BlkioEntry {
            major: entry.major,
            minor: entry.minor,
            op: entry.operation.clone(),
            value: entry.value,
        };
        Some(entries.iter().map(entry).collect::<Vec<_>>())
    };
    Stats {
        read: show::time(Some(reading.read)),
        preread: show::time(before.map(|before| before.read)),
        pids_stats: PidsStats { current: cgroup.pids.current, limit: cgroup.pids.limit.unwrap_or(0) },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: list(&cgroup.blkio_bytes),
            io_serviced_recursive: list(&cgroup.blkio_operations),
            io_queue_recursive: list(&[]),
            io_service_time_recursive: list(&[]),
            io_wait_time_recursive: list(&[]),
            io_merged_recursive: list(&[]),
            io_time_recursive: list(&[]),
            sectors_recursive: list(&[]),
        },
        cpu_stats: cpu(reading),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: MemoryStats {
            usage: cgroup.memory.usage,
            max_usage: cgroup.memory.peak,
            stats: cgroup.memory.details.clone(),
            failcnt: cgroup.memory.failures,
            // Without a limit of its own it is the host's memory that limits.
            limit: cgroup.memory.limit.unwrap_or(reading.host_memory).min(reading.host_memory),
        },
        networks: reading.networks.iter().map(network).collect(),
        ..named
    }
}

fn cpu(reading: &Reading) -> CpuStats {
    let cpu = &reading.cgroup.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.system,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: reading.host_cpu,
        online_cpus: u64::from(reading.cpus),
        throttling_data: Throttling {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled,
        },
    }
}

fn network(interface: &Interface) -> (String, NetworkStats) {
    let Interface {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    } = interface.clone();
    let counters = NetworkStats {
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    };
    (name, counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_does_not_run_has_no_numbers() {
        let stats = shown("id", "/name", &Reading::default(), None);
        assert_eq!(stats.read, "0001-01-01T00:00:00Z");
        let value = serde_json::to_value(&stats).unwrap();
        assert_eq!(value["memory_stats"], serde_json::json!({}));
        assert_eq!(value["blkio_stats"]["io_serviced_recursive"], serde_json::Value::Null);
    }

    #[test]
    fn the_limit_is_never_more_than_the_host_has() {
        let mut reading = Reading { running: true, host_memory: 1 << 30, read: 1, ..Reading::default() };
        assert_eq!(shown("i", "n", &reading, None).memory_stats.limit, 1 << 30);
        reading.cgroup.memory.limit = Some(1 << 20);
        let second = shown("i", "n", &reading, Some(&reading));
        assert_eq!(second.memory_stats.limit, 1 << 20);
        assert_eq!(second.preread, second.read);
        assert_eq!(second.blkio_stats.io_queue_recursive, Some(Vec::new()));
    }
}
