//! From OCI resources to the files of a cgroup and the values written into them.
//!
//! Pure: [`settings`] is told which version each controller has on this host and returns an
//! ordered list of writes, or the reason why the values can never work. The names are those of
//! runtime-spec `config-linux.md#control-groups`; the files are those of the kernel's
//! `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

use hull_oci::runtime::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

use super::layout::Controller;
use super::{Error, Warning};

/// Which version of a controller a cgroup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    V1,
    V2,
    Absent,
}

/// One value to write. Of `tries`, the first file that exists takes its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controller,
    pub(super) site: Site,
    /// The OCI name, for messages.
    pub(super) what: &'static str,
    pub(super) tries: Vec<(String, String)>,
    /// Asked for by the kernel's own name: a missing file is an error.
    pub(super) essential: bool,
}

/// Collects writes and what has to be dropped.
struct List<'a> {
    site: &'a dyn Fn(Controller) -> Site,
    settings: Vec<Setting>,
    warnings: Vec<Warning>,
}

impl List<'_> {
    /// Adds what the host's version of the controller needs: `v1` and `v2` are files and values,
    /// empty where that version has no such knob.
    fn put(
        &mut self,
        controller: Controller,
        what: &'static str,
        v1: Vec<(&str, String)>,
        v2: Vec<(&str, String)>,
    ) {
        let site = (self.site)(controller);
        let tries = match site {
            Site::V1 => v1,
            Site::V2 => v2,
            Site::Absent => {
                self.warnings.push(Warning::NoController { what, controller });
                return;
            }
        };
        if tries.is_empty() {
            self.warnings.push(Warning::NoKnob { what });
            return;
        }
        self.settings.push(Setting {
            controller,
            site,
            what,
            tries: tries.into_iter().map(|(file, value)| (file.to_owned(), value)).collect(),
            essential: false,
        });
    }
}

/// The writes for `resources` but the device rules (see [`super::devices`]), in an order that
/// a new cgroup accepts.
///
/// # Errors
/// [`Error::Value`] for numbers that contradict each other and for names that are no plain file
/// names.
pub(super) fn settings(
    resources: &Resources,
    site: &dyn Fn(Controller) -> Site,
) -> Result<(Vec<Setting>, Vec<Warning>), Error> {
    let mut list = List { site, settings: Vec::new(), warnings: Vec::new() };
    memory(&mut list, &resources.memory)?;
    cpu(&mut list, &resources.cpu);
    if let Some(pids) = &resources.pids {
        let limit = max_or(pids.limit, pids.limit <= 0);
        list.put(
            Controller::Pids,
            "pids.limit",
            vec![("pids.max", limit.clone())],
            vec![("pids.max", limit)],
        );
    }
    block_io(&mut list, &resources.block_io);
    for page in &resources.hugepage_limits {
        plain_name("hugepageLimits", &page.page_size)?;
        list.put(
            Controller::Hugetlb,
            "hugepageLimits",
            vec![(&format!("hugetlb.{}.limit_in_bytes", page.page_size), page.limit.to_string())],
            vec![(&format!("hugetlb.{}.max", page.page_size), page.limit.to_string())],
        );
    }
    for (file, value) in &resources.unified {
        plain_name("unified", file)?;
        list.settings.push(Setting {
            controller: unified_controller(file),
            site: Site::V2,
            what: "unified",
            tries: vec![(file.clone(), value.clone())],
            essential: true,
        });
    }
    Ok((list.settings, list.warnings))
}

/// The controller whose file `name` is, so that it gets enabled; files of the core need none,
/// and any v2 controller stands for them.
fn unified_controller(name: &str) -> Controller {
    match name.split('.').next() {
        Some("cpuset") => Controller::Cpuset,
        Some("io") => Controller::Blkio,
        Some("memory") => Controller::Memory,
        Some("pids") => Controller::Pids,
        Some("hugetlb") => Controller::Hugetlb,
        Some("cpu") => Controller::Cpu,
        _ => Controller::Systemd,
    }
}

/// A name that becomes part of a path must not lead elsewhere.
fn plain_name(what: &'static str, name: &str) -> Result<(), Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Error::Value { what, reason: format!("{name:?} is no file name of a cgroup") });
    }
    Ok(())
}

fn max_or(value: i64, unlimited: bool) -> String {
    if unlimited { "max".to_owned() } else { value.to_string() }
}

/// What v2 takes as `memory.swap.max`: swap alone, where OCI counts memory and swap together.
/// `None` leaves the kernel's value. 0 means "not given", as everywhere in the spec's memory.
fn swap_v2(memory: &Memory) -> Result<Option<String>, Error> {
    let limit = memory.limit.unwrap_or(0);
    let swap = memory.swap.unwrap_or(0);
    let wrong = |reason: &str| Error::Value { what: "memory.swap", reason: reason.to_owned() };
    match (limit, swap) {
        (-1, 0) | (_, -1) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (_, ..0) => Err(wrong("it is negative")),
        (..=0, _) => Err(wrong("it needs a memory limit")),
        _ if swap < limit => Err(wrong("memory and swap together are less than memory alone")),
        _ => Ok(Some((swap - limit).to_string())),
    }
}

fn memory(list: &mut List<'_>, memory: &Memory) -> Result<(), Error> {
    use Controller::Memory as M;
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let unlimited = |value: i64| max_or(value, value < 0);
    let on_v2 = (list.site)(M) == Site::V2;
    let swap_v2 = swap_v2(memory)?;
    if let Some(limit) = given(memory.limit) {
        list.put(
            M,
            "memory.limit",
            vec![("memory.limit_in_bytes", limit.max(-1).to_string())],
            vec![("memory.max", unlimited(limit))],
        );
    }
    // Lifting the memory limit alone must not leave the old sum of memory and swap in place.
    let swap_v1 = given(memory.swap).or(memory.limit.filter(|l| *l == -1));
    let swap = if on_v2 {
        swap_v2.map(|value| ("memory.swap.max", value))
    } else {
        swap_v1.map(|value| ("memory.memsw.limit_in_bytes", value.max(-1).to_string()))
    };
    if let Some((file, value)) = swap {
        let one = vec![(file, value)];
        list.put(M, "memory.swap", one.clone(), one);
    }
    if let Some(reservation) = given(memory.reservation) {
        list.put(
            M,
            "memory.reservation",
            vec![("memory.soft_limit_in_bytes", reservation.max(-1).to_string())],
            vec![("memory.low", unlimited(reservation))],
        );
    }
    // Kernels since 5.4 ignore it, those since 6.1 refuse it.
    if memory.kernel.is_some_and(|k| k > 0) {
        list.warnings.push(Warning::NoKnob { what: "memory.kernel" });
    }
    if let Some(swappiness) = memory.swappiness {
        list.put(M, "memory.swappiness", vec![("memory.swappiness", swappiness.to_string())], vec![]);
    }
    if memory.disable_oom_killer == Some(true) {
        list.put(M, "memory.disableOOMKiller", vec![("memory.oom_control", "1".to_owned())], vec![]);
    }
    Ok(())
}

/// v2's weight (1–10000, default 100) for v1's shares (2–262144, default 1024). The curve goes
/// through (2, 1), (1024, 100) and (262144, 10000), so that the defaults meet; runc since
/// 1.3.2 and crun since 1.23 use it.
fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "below 2^18, exact in an f64")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000 by the range of the curve"
            )]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
    }
}

fn cpu(list: &mut List<'_>, cpu: &Cpu) {
    use Controller::{Cpu as C, Cpuset};
    if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
        list.put(
            C,
            "cpu.shares",
            vec![("cpu.shares", shares.to_string())],
            vec![("cpu.weight", weight(shares).to_string())],
        );
    }
    let period = cpu.period.filter(|p| *p != 0);
    let quota = cpu.quota.filter(|q| *q != 0);
    if (list.site)(C) == Site::V2 {
        if period.is_some() || quota.is_some() {
            let quota = quota.unwrap_or(-1);
            let value = format!("{} {}", max_or(quota, quota < 0), period.unwrap_or(100_000));
            list.put(C, "cpu.quota", vec![], vec![("cpu.max", value)]);
        }
    } else {
        if let Some(period) = period {
            let value = vec![("cpu.cfs_period_us", period.to_string())];
            list.put(C, "cpu.period", value, vec![]);
        }
        if let Some(quota) = quota {
            let value = vec![("cpu.cfs_quota_us", quota.max(-1).to_string())];
            list.put(C, "cpu.quota", value, vec![]);
        }
    }
    if let Some(burst) = cpu.burst {
        list.put(
            C,
            "cpu.burst",
            vec![("cpu.cfs_burst_us", burst.to_string())],
            vec![("cpu.max.burst", burst.to_string())],
        );
    }
    if let Some(period) = cpu.realtime_period.filter(|p| *p != 0) {
        let value = vec![("cpu.rt_period_us", period.to_string())];
        list.put(C, "cpu.realtimePeriod", value, vec![]);
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|r| *r != 0) {
        let value = vec![("cpu.rt_runtime_us", runtime.to_string())];
        list.put(C, "cpu.realtimeRuntime", value, vec![]);
    }
    if let Some(idle) = cpu.idle {
        let value = vec![("cpu.idle", idle.to_string())];
        list.put(C, "cpu.idle", value.clone(), value);
    }
    if !cpu.cpus.is_empty() {
        let value = vec![("cpuset.cpus", cpu.cpus.clone())];
        list.put(Cpuset, "cpu.cpus", value.clone(), value);
    }
    if !cpu.mems.is_empty() {
        let value = vec![("cpuset.mems", cpu.mems.clone())];
        list.put(Cpuset, "cpu.mems", value.clone(), value);
    }
}

/// `io.weight` is 1–10000 where `blkio.weight` is 10–1000.
fn io_weight(weight: u16) -> String {
    (1 + (u32::from(weight.max(10)) - 10) * 9999 / 990).to_string()
}

fn block_io(list: &mut List<'_>, io: &BlockIo) {
    use Controller::Blkio;
    if let Some(weight) = io.weight.filter(|w| *w != 0) {
        list.put(
            Blkio,
            "blockIO.weight",
            vec![("blkio.weight", weight.to_string()), ("blkio.bfq.weight", weight.to_string())],
            vec![("io.bfq.weight", weight.to_string()), ("io.weight", io_weight(weight))],
        );
    }
    for device in &io.weight_device {
        let Some(weight) = device.weight else {
            continue;
        };
        let id = format!("{}:{}", device.major, device.minor);
        list.put(
            Blkio,
            "blockIO.weightDevice",
            vec![
                ("blkio.weight_device", format!("{id} {weight}")),
                ("blkio.bfq.weight_device", format!("{id} {weight}")),
            ],
            vec![
                ("io.bfq.weight", format!("{id} {weight}")),
                ("io.weight", format!("{id} {}", io_weight(weight))),
            ],
        );
    }
    throttles(list, io);
}

/// Bytes and operations a second, of each device.
fn throttles(list: &mut List<'_>, io: &BlockIo) {
    use Controller::Blkio;
    let throttles: [(&[ThrottleDevice], _, _, _); 4] = [
        (
            &io.throttle_read_bps_device,
            "blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
        ),
        (
            &io.throttle_write_bps_device,
            "blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
        ),
        (
            &io.throttle_read_iops_device,
            "blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
        ),
        (
            &io.throttle_write_iops_device,
            "blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
        ),
    ];
    for (devices, what, v1, v2) in throttles {
        for device in devices {
            let id = format!("{}:{}", device.major, device.minor);
            // 0 lifts the limit on v1, where v2 has a word for it.
            let rate = match device.rate {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            list.put(
                Blkio,
                what,
                vec![(v1, format!("{id} {}", device.rate))],
                vec![("io.max", format!("{id} {v2}={rate}"))],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use hull_oci::runtime::{HugepageLimit, Pids};

    fn check(resources: &Resources, site: Site, want: Expect) {
        let out = match settings(resources, &|_| site) {
            Ok((settings, warnings)) => {
                let mut out = String::new();
                for s in settings {
                    for (file, value) in s.tries {
                        out += &format!("{file}={value} ");
                    }
                    out += "\n";
                }
                for w in warnings {
                    out += &format!("{w}\n");
                }
                out
            }
            Err(e) => format!("{e}\n"),
        };
        want.assert_eq(&out);
    }

    fn json(text: &str) -> Resources {
        serde_json::from_str(text).unwrap()
    }

    const MUCH: &str = r#"{
        "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432, "swappiness": 10, "disableOOMKiller": true},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0-1", "mems": "0", "idle": 1},
        "pids": {"limit": 100},
        "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}], "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]
    }"#;

    #[test]
    fn v1_takes_the_values_as_they_are() {
        check(
            &json(MUCH),
            Site::V1,
            expect![[r#"
                memory.limit_in_bytes=67108864 
                memory.memsw.limit_in_bytes=100663296 
                memory.soft_limit_in_bytes=33554432 
                memory.swappiness=10 
                memory.oom_control=1 
                cpu.shares=512 
                cpu.cfs_period_us=100000 
                cpu.cfs_quota_us=50000 
                cpu.cfs_burst_us=1000 
                cpu.idle=1 
                cpuset.cpus=0-1 
                cpuset.mems=0 
                pids.max=100 
                blkio.weight=500 blkio.bfq.weight=500 
                blkio.weight_device=8:0 10 blkio.bfq.weight_device=8:0 10 
                blkio.throttle.read_bps_device=8:0 1024 
                blkio.throttle.write_iops_device=8:0 0 
                hugetlb.2MB.limit_in_bytes=4194304 
            "#]],
        );
    }

    #[test]
    fn v2_takes_them_converted_and_says_what_it_lacks() {
        check(
            &json(MUCH),
            Site::V2,
            expect![[r#"
                memory.max=67108864 
                memory.swap.max=33554432 
                memory.low=33554432 
                cpu.weight=59 
                cpu.max=50000 100000 
                cpu.max.burst=1000 
                cpu.idle=1 
                cpuset.cpus=0-1 
                cpuset.mems=0 
                pids.max=100 
                io.bfq.weight=500 io.weight=4950 
                io.bfq.weight=8:0 10 io.weight=8:0 1 
                io.max=8:0 rbps=1024 
                io.max=8:0 wiops=max 
                hugetlb.2MB.max=4194304 
                memory.swappiness: this host's cgroups have no such limit; it is ignored
                memory.disableOOMKiller: this host's cgroups have no such limit; it is ignored
            "#]],
        );
    }

    #[test]
    fn a_missing_controller_is_a_warning_for_each_limit() {
        check(
            &json(r#"{"memory": {"limit": 1048576}, "pids": {"limit": 3}}"#),
            Site::Absent,
            expect![[r#"
                memory.limit: this host has no memory controller; the limit is ignored
                pids.limit: this host has no pids controller; the limit is ignored
            "#]],
        );
    }

    #[test]
    fn minus_one_lifts_a_limit_and_zero_leaves_it() {
        let lift = json(
            r#"{"memory": {"limit": -1, "reservation": -1}, "cpu": {"quota": -1}, "pids": {"limit": 0}}"#,
        );
        check(
            &lift,
            Site::V1,
            expect![[r#"
                memory.limit_in_bytes=-1 
                memory.memsw.limit_in_bytes=-1 
                memory.soft_limit_in_bytes=-1 
                cpu.cfs_quota_us=-1 
                pids.max=max 
            "#]],
        );
        check(
            &lift,
            Site::V2,
            expect![[r#"
                memory.max=max 
                memory.swap.max=max 
                memory.low=max 
                cpu.max=max 100000 
                pids.max=max 
            "#]],
        );
        let zero = json(
            r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0}, "blockIO": {"weight": 0}}"#,
        );
        check(&zero, Site::V1, expect![""]);
        check(&zero, Site::V2, expect![""]);
    }

    #[test]
    fn swap_on_v2_is_the_rest_of_the_sum() {
        let swap = |limit, swap| {
            swap_v2(&Memory { limit: Some(limit), swap: Some(swap), ..Memory::default() })
                .map_err(|e| e.to_string())
        };
        assert_eq!(swap(100, 100), Ok(Some("0".into())));
        assert_eq!(swap(100, 300), Ok(Some("200".into())));
        assert_eq!(swap(100, -1), Ok(Some("max".into())));
        assert_eq!(swap(0, 0), Ok(None));
        assert!(swap(100, 99).unwrap_err().contains("less than memory"));
        assert!(swap(0, 99).unwrap_err().contains("needs a memory limit"));
        assert!(swap(-1, 99).unwrap_err().contains("needs a memory limit"));
    }

    #[test]
    fn shares_become_weights_so_that_the_defaults_meet() {
        let pairs = [0, 1, 2, 512, 1024, 2000, 2048, 262_143, 262_144, u64::MAX].map(weight);
        assert_eq!(pairs, [1, 1, 1, 59, 100, 170, 174, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn names_that_lead_out_of_the_cgroup_are_refused() {
        let mut resources = Resources { pids: Some(Pids { limit: 1 }), ..Resources::default() };
        resources.unified.insert("../other/memory.max".into(), "1".into());
        check(
            &resources,
            Site::V2,
            expect![[r#"
                unified: "../other/memory.max" is no file name of a cgroup
            "#]],
        );
        let resources = Resources {
            hugepage_limits: vec![HugepageLimit { page_size: "2MB/../x".into(), limit: 1 }],
            ..Resources::default()
        };
        assert!(settings(&resources, &|_| Site::V1).is_err());
    }
}
