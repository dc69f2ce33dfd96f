//! Limits: checked against the host and turned into the runtime's document.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use hull_api::hostconfig::{HostConfig, ThrottleDevice, UpdateRequest, WeightDevice};
use hull_engine::containers::requests::Update;
use hull_oci::runtime::{self, Pids, Resources};

use super::{Facts, Result, restart_policy};
use crate::http::Failure;

/// Below it a container cannot even be started.
const LEAST_MEMORY: i64 = 6 << 20;
/// Microseconds: what `--cpus` is measured in.
const PERIOD: u64 = 100_000;

/// The limits asked for. What this host lacks the engine tells.
pub(super) fn resources(host: &HostConfig, facts: &Facts) -> Result<Resources> {
    check_memory(host)?;
    check_cpu(host, facts)?;
    if host.shm_size < 0 {
        return Err(Failure::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Failure::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    let mut resources = Resources::default();
    let memory = &mut resources.memory;
    memory.limit = positive(host.memory);
    memory.reservation = positive(host.memory_reservation);
    memory.swap = match host.memory_swap {
        0 if host.memory > 0 => Some(host.memory.saturating_mul(2)),
        0 => None,
        bytes => Some(bytes.max(-1)),
    };
    memory.swappiness = host.memory_swappiness.and_then(|value| u64::try_from(value).ok());
    memory.disable_oom_killer = host.oom_kill_disable.filter(|disable| *disable);
    let cpu = &mut resources.cpu;
    cpu.shares = positive(host.cpu_shares).and_then(|shares| u64::try_from(shares).ok());
    (cpu.quota, cpu.period) = quota(host.nano_cpus, host.cpu_quota, host.cpu_period);
    cpu.realtime_period = u64::try_from(host.cpu_realtime_period).ok().filter(|period| *period > 0);
    cpu.realtime_runtime = positive(host.cpu_realtime_runtime);
    cpu.cpus.clone_from(&host.cpuset_cpus);
    cpu.mems.clone_from(&host.cpuset_mems);
    resources.pids = pids(host.pids_limit);
    resources.block_io.weight = Some(host.blkio_weight).filter(|weight| *weight > 0);
    let io = &mut resources.block_io;
    io.weight_device = weights(host.blkio_weight_device.as_deref())?;
    io.throttle_read_bps_device = rates(host.blkio_device_read_bps.as_deref())?;
    io.throttle_write_bps_device = rates(host.blkio_device_write_bps.as_deref())?;
    io.throttle_read_iops_device = rates(host.blkio_device_read_iops.as_deref())?;
    io.throttle_write_iops_device = rates(host.blkio_device_write_iops.as_deref())?;
    Ok(resources)
}

fn weights(asked: Option<&[WeightDevice]>) -> Result<Vec<runtime::WeightDevice>> {
    let one = |asked: &WeightDevice| {
        let (major, minor) = block_device(&asked.path)?;
        Ok(runtime::WeightDevice { major, minor, weight: Some(asked.weight) })
    };
    asked.unwrap_or_default().iter().map(one).collect()
}

fn rates(asked: Option<&[ThrottleDevice]>) -> Result<Vec<runtime::ThrottleDevice>> {
    let one = |asked: &ThrottleDevice| {
        let (major, minor) = block_device(&asked.path)?;
        Ok(runtime::ThrottleDevice { major, minor, rate: asked.rate })
    };
    asked.unwrap_or_default().iter().map(one).collect()
}

/// The numbers of a device of the host.
fn block_device(path: &str) -> Result<(i64, i64)> {
    let failed = |why: &str| Failure::invalid(format!("cannot limit the block device {path:?}: {why}"));
    let found = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("no such file or directory"),
        _ => failed(&error.to_string()),
    })?;
    if !found.file_type().is_block_device() {
        return Err(failed("it is no block device"));
    }
    Ok((rustix::fs::major(found.rdev()).into(), rustix::fs::minor(found.rdev()).into()))
}

fn positive(number: i64) -> Option<i64> {
    (number > 0).then_some(number)
}

/// 0 says nothing, less is without limit.
fn pids(limit: Option<i64>) -> Option<Pids> {
    limit.filter(|limit| *limit != 0).map(|limit| Pids { limit: limit.max(-1) })
}

fn quota(nano_cpus: i64, quota: i64, period: i64) -> (Option<i64>, Option<u64>) {
    if nano_cpus > 0 {
        let microseconds = i128::from(nano_cpus) * i128::from(PERIOD) / 1_000_000_000;
        return (i64::try_from(microseconds).ok(), Some(PERIOD));
    }
    (Some(quota).filter(|quota| *quota != 0), u64::try_from(period).ok().filter(|period| *period > 0))
}

fn check_memory(host: &HostConfig) -> Result<()> {
    let HostConfig { memory, memory_swap: swap, memory_reservation: reservation, .. } = *host;
    let invalid = |text: &str| Err(Failure::invalid(text));
    if memory != 0 && memory < LEAST_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if reservation != 0 && reservation < LEAST_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && memory < reservation {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    match host.memory_swappiness {
        Some(value) if !(-1..=100).contains(&value) => {
            invalid(&format!("Invalid value: {value}, valid memory swappiness range is 0-100"))
        }
        _ => Ok(()),
    }
}

fn check_cpu(host: &HostConfig, facts: &Facts) -> Result<()> {
    let invalid = |text: String| Err(Failure::invalid(text));
    if host.nano_cpus != 0 && host.cpu_period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set".into());
    }
    if host.nano_cpus != 0 && host.cpu_quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set".into());
    }
    let most = i64::from(facts.cpus) * 1_000_000_000;
    if host.nano_cpus < 0 || host.nano_cpus > most {
        return invalid(format!(
            "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            facts.cpus
        ));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".into(),
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    let asked = &host.cpuset_cpus;
    let wanted = cpu_list(asked).ok_or_else(|| {
        Failure::invalid(format!("Invalid value {asked} for cpuset cpus: invalid format: {asked}"))
    })?;
    let online = cpu_list(&facts.online).unwrap_or_default();
    if wanted.iter().any(|cpu| !online.contains(cpu)) {
        return invalid(format!(
            "Requested CPUs are not available - requested {asked}, available: {}",
            facts.online
        ));
    }
    let mems = &host.cpuset_mems;
    if cpu_list(mems).is_none() {
        return invalid(format!("Invalid value {mems} for cpuset mems: invalid format: {mems}"));
    }
    Ok(())
}

/// `0-2,5`; `None` if it is not such a list. At most as many as a kernel may have.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 8192;
    let mut list = Vec::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        list.extend(first..=last);
        if list.len() > MOST as usize {
            return None;
        }
    }
    Some(list)
}

/// `POST /containers/ID/update`: the same checks on the values that are given.
pub(crate) fn update(request: &UpdateRequest, facts: &Facts) -> Result<Update> {
    let host = HostConfig {
        cpu_shares: request.cpu_shares,
        memory: request.memory,
        nano_cpus: request.nano_cpus,
        blkio_weight: request.blkio_weight,
        cpu_period: request.cpu_period,
        cpu_quota: request.cpu_quota,
        cpu_realtime_period: request.cpu_realtime_period,
        cpu_realtime_runtime: request.cpu_realtime_runtime,
        cpuset_cpus: request.cpuset_cpus.clone(),
        cpuset_mems: request.cpuset_mems.clone(),
        memory_reservation: request.memory_reservation,
        // Without a new memory limit this is measured against the old one, by the kernel.
        memory_swap: if request.memory == 0 { 0 } else { request.memory_swap },
        memory_swappiness: request.memory_swappiness,
        pids_limit: request.pids_limit,
        ..HostConfig::default()
    };
    let mut resources = resources(&host, facts)?;
    resources.memory.swap = Some(request.memory_swap).filter(|swap| *swap != 0);
    let restart = match request.restart_policy.name.as_str() {
        "" if request.restart_policy.maximum_retry_count == 0 => None,
        _ => Some(restart_policy(&request.restart_policy)?),
    };
    Ok(Update { resources, whole_cpus: request.nano_cpus > 0, restart })
}
