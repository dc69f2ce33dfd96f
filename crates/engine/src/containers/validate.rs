//! What is refused before anything is made, in the reference's words.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use hull_oci::path;
use hull_oci::runtime::Resources;

use super::settings::{IpcMode, LogDriver, Mount, NetworkMode, RestartPolicy, Settings, VolumeMount};
use crate::host::HostFacts;
use crate::spec::{self, sysctl};
use crate::{Error, Result, signals};

const MIB: i64 = 1 << 20;

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(text.into()))
}

/// Checks merged settings; gives warnings of what this host cannot do.
pub(crate) fn settings(settings: &Settings, host: &HostFacts) -> Result<Vec<String>> {
    if spec::args(settings).is_empty() {
        return refuse("no command specified");
    }
    if spec::args(settings).iter().any(|word| word.contains('\0')) {
        return refuse("the command has a NUL byte in it");
    }
    if !settings.working_dir.is_empty() && !settings.working_dir.starts_with('/') {
        return refuse(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            settings.working_dir
        ));
    }
    if !settings.stop_signal.is_empty() && signals::parse(&settings.stop_signal).is_none() {
        return refuse(format!("invalid signal: {}", settings.stop_signal));
    }
    if let Some(entry) =
        settings.env.iter().find(|entry| entry.is_empty() || entry.starts_with('=') || entry.contains('\0'))
    {
        return refuse(format!("invalid environment variable: {entry}"));
    }
    if settings.hostname.len() > 64
        || settings.hostname.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        return refuse(format!("invalid hostname: {}", settings.hostname));
    }
    if settings.auto_remove && settings.restart != RestartPolicy::No {
        return refuse("can't create 'AutoRemove' container with restart policy");
    }
    if !(-1000..=1000).contains(&settings.oom_score_adj) {
        return refuse(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            settings.oom_score_adj
        ));
    }
    if !matches!(settings.runtime.as_str(), "" | "hull" | "runc" | "io.containerd.runc.v2") {
        return refuse(format!("unknown or invalid runtime name: {}", settings.runtime));
    }
    log(&settings.log)?;
    mounts(&settings.mounts)?;
    let own = sysctl::Own {
        network: settings.network != NetworkMode::Host,
        ipc: settings.ipc != IpcMode::Host,
        uts: !settings.uts_host,
    };
    sysctl::check(&settings.sysctls, own)?;
    let (_, mut warnings) = spec::given_capabilities(settings, host)?;
    warnings.extend(resources(&settings.resources, host)?);
    Ok(warnings)
}

fn log(driver: &LogDriver) -> Result<()> {
    const OPTIONS: &[&str] = &[
        "max-file",
        "max-size",
        "max-buffer-size",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
    ];
    const LATER: &[&str] = &["syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "gcplogs"];
    match driver.name.as_str() {
        "" | "json-file" | "local" => {}
        "none" => return Ok(()),
        name if LATER.contains(&name) => {
            return Err(Error::NotImplemented(format!("this build does not have the log driver {name} yet")));
        }
        name => {
            return refuse(format!("error looking up logging plugin {name}: plugin \"{name}\" not found"));
        }
    }
    let shown = if driver.name.is_empty() { "json-file" } else { &driver.name };
    match driver.options.keys().find(|option| !OPTIONS.contains(&option.as_str())) {
        Some(option) => refuse(format!("unknown log opt '{option}' for {shown} log driver")),
        None => spec::log_settings(driver, std::path::PathBuf::new()).map(drop),
    }
}

fn mounts(mounts: &[Mount]) -> Result<()> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let target = mount.target();
        if !target.starts_with('/') || target.contains('\0') {
            return refuse(format!("invalid mount path: '{target}' mount path must be absolute"));
        }
        let clean = path::clean(target);
        if clean == "/" {
            return refuse("invalid specification: destination can't be '/'");
        }
        if !targets.insert(clean) {
            return refuse(format!("Duplicate mount point: {target}"));
        }
        match mount {
            Mount::Bind { source, propagation, create_source, .. } => {
                bind(source, propagation, *create_source)?
            }
            Mount::Image { subpath, .. } => self::subpath("image", subpath)?,
            Mount::Volume(volume) => self::volume(volume)?,
            Mount::Tmpfs { options, .. } => {
                if let Some(option) = options.iter().find(|option| !is_tmpfs_option(option)) {
                    return refuse(format!("invalid tmpfs option {option:?}"));
                }
            }
        }
    }
    Ok(())
}

fn volume(volume: &VolumeMount) -> Result<()> {
    let wrong = |why: &str| refuse(format!("invalid mount config for type \"volume\": {why}"));
    match volume.name.is_empty() {
        true if volume.read_only => wrong("must not set ReadOnly mode when using anonymous volumes"),
        true if !volume.subpath.is_empty() => wrong("must not set Subpath when using anonymous volumes"),
        _ => subpath("volume", &volume.subpath),
    }
}

/// What is below a volume or an image is named from there.
fn subpath(kind: &str, path: &str) -> Result<()> {
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    match !path.contains('\0') && Path::new(path).components().all(inside) {
        true => Ok(()),
        false => refuse(format!(
            "invalid mount config for type {kind:?}: subpath must be a relative path within the {kind}"
        )),
    }
}

fn bind(source: &str, propagation: &str, create_source: bool) -> Result<()> {
    const PROPAGATION: &[&str] = &["", "private", "rprivate", "shared", "rshared", "slave", "rslave"];
    if !source.starts_with('/') || source.contains('\0') {
        return refuse(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
        ));
    }
    if !PROPAGATION.contains(&propagation) {
        return refuse(format!(
            "invalid mount config for type \"bind\": invalid propagation mode: {propagation}"
        ));
    }
    if !create_source && !Path::new(source).exists() {
        return refuse(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {source}"
        ));
    }
    Ok(())
}

/// tmpfs(5) and the flags of mount(8) that have a meaning for it.
fn is_tmpfs_option(option: &str) -> bool {
    const WORDS: &[&str] = &[
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "ro",
        "rw",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "mand",
        "nomand",
        "remount",
        "defaults",
        "bind",
        "rbind",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
    ];
    match option.split_once('=') {
        Some((key, value)) => {
            matches!(key, "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol")
                && !value.contains(['\0', ','])
        }
        None => WORDS.contains(&option) && !matches!(option, "bind" | "rbind" | "remount"),
    }
}

/// Takes away what this host cannot do and the container runs without; a warning for each.
pub(crate) fn discard(resources: &mut Resources, host: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if resources.block_io.weight.is_some_and(|weight| weight > 0) && !host.io_weight {
        resources.block_io.weight = None;
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .to_owned(),
        );
    }
    let io = &mut resources.block_io;
    let lists = [
        (&mut io.throttle_read_bps_device, "BPS Block I/O read limit", "Block I/O BPS read limit"),
        (&mut io.throttle_write_bps_device, "BPS Block I/O write limit", "Block I/O BPS write limit"),
        (&mut io.throttle_read_iops_device, "IOPS Block read limit", "Block I/O IOPS read limit"),
        (&mut io.throttle_write_iops_device, "IOPS Block write limit", "Block I/O IOPS write limit"),
    ];
    for (list, lacking, discarded) in lists {
        if !list.is_empty() && !host.io_throttle {
            list.clear();
            warnings.push(format!(
                "Your kernel does not support {lacking} or the cgroup is not mounted. {discarded} discarded."
            ));
        }
    }
    if !io.weight_device.is_empty() && !host.io_weight {
        io.weight_device.clear();
        warnings.push(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. \
             Weight-device discarded."
                .to_owned(),
        );
    }
    if resources.memory.disable_oom_killer == Some(true) && !host.oom_kill_disable {
        resources.memory.disable_oom_killer = None;
        warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
    }
    warnings
}

/// Limits that contradict each other or that no host can have; warnings for what this one lacks.
pub(crate) fn resources(resources: &Resources, host: &HostFacts) -> Result<Vec<String>> {
    memory(resources)?;
    let cpu = &resources.cpu;
    if cpu.period.is_some_and(|period| period != 0 && !(1_000..=1_000_000).contains(&period)) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if cpu.quota.is_some_and(|quota| quota > 0 && quota < 1_000) {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    cpuset(
        "cpus",
        &cpu.cpus,
        "/sys/fs/cgroup/cpuset/cpuset.cpus",
        &format!("0-{}", host.cpus.saturating_sub(1)),
        "CPUs",
    )?;
    cpuset("mems", &cpu.mems, "/sys/fs/cgroup/cpuset/cpuset.mems", "0", "memory nodes")?;
    if resources.block_io.weight.is_some_and(|weight| weight > 0 && !(10..=1000).contains(&weight)) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    let weights = resources.block_io.weight_device.iter().filter_map(|device| device.weight);
    if weights.into_iter().any(|weight| weight > 0 && !(10..=1000).contains(&weight)) {
        return refuse("Range of blkio weight of a device is from 10 to 1000");
    }
    let mut warnings = Vec::new();
    if resources.memory.disable_oom_killer == Some(true) && resources.memory.limit.unwrap_or(0) <= 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running \
             out of resources."
                .to_owned(),
        );
    }
    if resources.memory.limit.unwrap_or(0) > 0 && !host.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .to_owned(),
        );
    }
    Ok(warnings)
}

fn memory(resources: &Resources) -> Result<()> {
    let memory = &resources.memory;
    let (limit, swap) = (memory.limit.unwrap_or(0), memory.swap.unwrap_or(0));
    let reservation = memory.reservation.unwrap_or(0);
    if limit > 0 && limit < 6 * MIB {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if limit > 0 && swap > 0 && swap < limit {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limit <= 0 && swap > 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if reservation > 0 && reservation < 6 * MIB {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if limit > 0 && reservation > limit {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if memory.swappiness.is_some_and(|value| value > 100) {
        return refuse(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            memory.swappiness.unwrap_or(0)
        ));
    }
    Ok(())
}

/// `0-3,7` against what the host has.
fn cpuset(which: &str, asked: &str, file: &str, fallback: &str, noun: &str) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let Some(wanted) = parse_set(asked) else {
        return refuse(format!("Invalid value {asked} for cpuset {which}: invalid format: {asked}"));
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let available = Some(text.trim()).filter(|text| !text.is_empty()).unwrap_or(fallback);
    let has = parse_set(available).unwrap_or_default();
    if wanted.is_subset(&has) {
        return Ok(());
    }
    refuse(format!("Requested {noun} are not available - requested {asked}, available: {available}"))
}

/// At most 8192 numbers, which is more than any kernel has.
fn parse_set(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 8192 {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts { cpus: 2, swap_limit: true, ..HostFacts::default() }
    }

    fn plain() -> Settings {
        Settings { cmd: Some(vec!["true".into()]), ..Settings::default() }
    }

    fn check(change: impl FnOnce(&mut Settings), expected: &str) {
        let mut asked = plain();
        change(&mut asked);
        assert_eq!(settings(&asked, &host()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn refusals_have_the_references_words() {
        assert_eq!(settings(&plain(), &host()).unwrap(), [] as [&str; 0]);
        check(|s| s.cmd = None, "no command specified");
        check(
            |s| s.working_dir = "rel".into(),
            "the working directory 'rel' is invalid, it needs to be an absolute path",
        );
        check(|s| s.stop_signal = "NOPE".into(), "invalid signal: NOPE");
        check(|s| s.env = vec!["=x".into()], "invalid environment variable: =x");
        check(|s| s.oom_score_adj = 5000, "Invalid value 5000, range for oom score adj is [-1000, 1000]");
        check(|s| s.runtime = "zz".into(), "unknown or invalid runtime name: zz");
        check(
            |s| (s.auto_remove, s.restart) = (true, RestartPolicy::Always),
            "can't create 'AutoRemove' container with restart policy",
        );
        check(|s| s.log.name = "zz".into(), "error looking up logging plugin zz: plugin \"zz\" not found");
        check(
            |s| drop(s.log.options.insert("nope".into(), "1".into())),
            "unknown log opt 'nope' for json-file log driver",
        );
        check(|s| s.security.cap_add = vec!["ZZ".into()], "invalid CapAdd: unknown capability: \"CAP_ZZ\"");
    }

    #[test]
    fn mounts_are_checked_before_anything_is_made() {
        let bind = |source: &str, target: &str, create_source| Mount::Bind {
            source: source.into(),
            target: target.into(),
            read_only: false,
            propagation: String::new(),
            create_source,
            non_recursive: false,
            below: Default::default(),
            mode: String::new(),
            idmap: false,
        };
        let tmpfs = |target: &str, options: &[&str]| Mount::Tmpfs {
            target: target.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        check(
            |s| s.mounts = vec![bind("/nosuch", "/x", false)],
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuch",
        );
        check(|s| s.mounts = vec![bind("/tmp", "/a", true), tmpfs("/a/", &[])], "Duplicate mount point: /a/");
        check(
            |s| s.mounts = vec![tmpfs("rel", &[])],
            "invalid mount path: 'rel' mount path must be absolute",
        );
        check(|s| s.mounts = vec![tmpfs("/x", &["nonsense"])], "invalid tmpfs option \"nonsense\"");
        check(
            |s| s.mounts = vec![bind("/tmp", "/..", true)],
            "invalid specification: destination can't be '/'",
        );
    }

    #[test]
    fn limits_that_contradict_are_refused() {
        let memory = |limit, swap, reservation| {
            move |s: &mut Settings| {
                s.resources.memory.limit = limit;
                s.resources.memory.swap = swap;
                s.resources.memory.reservation = reservation;
            }
        };
        let m = Some(64 * MIB);
        check(memory(Some(1000), None, None), "Minimum memory limit allowed is 6MB");
        check(
            memory(m, Some(32 * MIB), None),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        );
        check(
            memory(None, m, None),
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
        check(
            memory(m, None, Some(128 * MIB)),
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
        check(|s| s.resources.cpu.cpus = "x".into(), "Invalid value x for cpuset cpus: invalid format: x");
        check(
            |s| s.resources.cpu.period = Some(5),
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
        assert!(parse_set("0-4294967295").is_none());
        assert_eq!(parse_set("0-2,5").unwrap().len(), 4);
    }
}
