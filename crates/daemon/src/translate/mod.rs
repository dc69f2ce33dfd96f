//! From Docker's words to the engine's values: `POST /containers/create` becomes
//! [`Create`], which can only be valid, or an error in the reference's text.
//!
//! Pure but for looking whether a bind's source exists. What this build lacks is refused with one
//! line that says so, or, where the container runs well without it, becomes a warning.

mod mounts;
mod network;
mod resources;
mod security;

use hull_api::create::{Config, CreateRequest};
use hull_api::hostconfig::{HostConfig, LogConfig, RestartPolicy as ApiRestart};
use hull_engine::containers::settings::{
    Below, Create, Device, IpcMode, LogDriver, PidMode, RestartPolicy, Settings,
};
use hull_engine::spec;
use hull_oci::runtime::{DeviceRule, Rlimit};
use serde::{Deserialize, Serialize};

use crate::http::Failure;

pub(crate) use network::{join, spelled_out};
pub(crate) use resources::update;

type Result<T> = std::result::Result<T, Failure>;

/// What a translation has to know of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub cpus: u32,
    /// The kernel's list of CPUs that are online.
    pub online: String,
}

/// What inspect gives back: the request as it was understood. Kept by the engine as a text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Echo {
    pub config: Config,
    pub host: HostConfig,
}

/// Bytes of /dev/shm where nobody says otherwise.
const SHM_BYTES: i64 = 64 << 20;

/// The engine's value and the warnings for the caller. `below` is what a read-only bind does to
/// mounts below it unless the request says otherwise: it depends on the API's version.
pub(crate) fn create(
    name: Option<String>,
    request: CreateRequest,
    facts: &Facts,
    below: Below,
) -> Result<(Create, Vec<String>)> {
    let CreateRequest { mut config, mut host_config, networking_config } = request;
    let host = &mut host_config;
    let mut warnings = Vec::new();
    check_config(&config)?;
    not_yet(host)?;
    let network::Wanted { mode, joins, ports, exposed } =
        network::wanted(&config, host, networking_config, &mut warnings)?;
    let resources = resources::resources(host, facts)?;
    if config
        .healthcheck
        .as_ref()
        .is_some_and(|check| check.test.as_ref().is_some_and(|test| !test.is_empty() && test[0] != "NONE"))
    {
        warnings.push("Health checks are not run by this build yet".to_owned());
    }
    let mut settings = Settings {
        network: mode,
        ports,
        publish_all: host.publish_all_ports,
        exposed,
        pid: pid_mode(&host.pid_mode)?,
        ipc: ipc_mode(&host.ipc_mode)?,
        uts_host: two_modes(&host.uts_mode, "UTS")?,
        cgroupns_host: cgroupns(&host.cgroupns_mode)?,
        mounts: mounts::mounts(host, below)?,
        security: security::security(host)?,
        resources,
        restart: restart_policy(&host.restart_policy)?,
        log: log_driver(&host.log_config)?,
        devices: devices(host)?,
        rlimits: rlimits(host)?,
        ..plain(&config, host)
    };
    settings.resources.devices = device_rules(host)?;
    if host.auto_remove && settings.restart != RestartPolicy::No {
        return Err(Failure::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    normalise(&mut config, host);
    let image = config.image.clone();
    let echo = Echo { config, host: host_config };
    let request = serde_json::to_string(&echo).map_err(|error| Failure::internal(error.to_string()))?;
    Ok((Create { name, image, settings, networks: joins, request }, warnings))
}

/// What is taken over as it stands.
fn plain(config: &Config, host: &HostConfig) -> Settings {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let [rows, columns] = host.console_size;
    let size = u16::try_from(rows).ok().zip(u16::try_from(columns).ok()).filter(|size| *size != (0, 0));
    Settings {
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        user: config.user.clone(),
        group_add: list(&host.group_add),
        env: list(&config.env),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        annotations: host.annotations.clone().unwrap_or_default(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        console_size: size,
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout.map(clamp),
        cgroup_parent: host.cgroup_parent.clone(),
        volumes: config.volumes.iter().flatten().map(|(path, _)| path.clone()).collect(),
        volume_driver: host.volume_driver.clone(),
        volumes_from: list(&host.volumes_from),
        extra_hosts: list(&host.extra_hosts),
        dns: list(&host.dns),
        dns_search: list(&host.dns_search),
        dns_options: list(&host.dns_options),
        read_only: host.readonly_rootfs,
        init: host.init.unwrap_or(false),
        oom_score_adj: i32::try_from(host.oom_score_adj).unwrap_or(0),
        shm_bytes: u64::try_from(host.shm_size).unwrap_or(0),
        whole_cpus: host.nano_cpus > 0,
        sysctls: host.sysctls.clone().unwrap_or_default(),
        auto_remove: host.auto_remove,
        runtime: host.runtime.clone(),
        ..Settings::default()
    }
}

fn clamp(seconds: i64) -> i32 {
    i32::try_from(seconds).unwrap_or(if seconds < 0 { -1 } else { i32::MAX })
}

fn check_config(config: &Config) -> Result<()> {
    let invalid = |text: String| Err(Failure::invalid(text));
    if config.image.is_empty() {
        return invalid("no command specified".into());
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return invalid(format!("invalid environment variable: {variable}"));
        }
    }
    if !config.stop_signal.is_empty() && hull_engine::signals::parse(&config.stop_signal).is_none() {
        return invalid(format!("invalid signal: {}", config.stop_signal));
    }
    if let Some(check) = &config.healthcheck {
        const MILLISECOND: i64 = 1_000_000;
        for (name, time) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if time != 0 && time < MILLISECOND {
                return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
            }
        }
        if check.retries < 0 {
            return invalid("Retries in Healthcheck cannot be negative".into());
        }
    }
    Ok(())
}

/// What a later build will have.
fn not_yet(host: &HostConfig) -> Result<()> {
    if host.device_requests.as_ref().is_some_and(|requests| !requests.is_empty()) {
        return Err(Failure::later(
            "device requests (--gpus, names of CDI devices) come in a later build: use --device with a path of the host",
        ));
    }
    if host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(Failure::later(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    if !matches!(host.runtime.as_str(), "" | "hull") {
        return Err(Failure::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Failure::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    for entry in host.extra_hosts.iter().flatten() {
        let (name, address) = entry.split_once([':', '=']).unwrap_or((entry, ""));
        if name.is_empty() || address.is_empty() {
            return Err(Failure::invalid(format!("bad format for add-host: {entry:?}")));
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
            return Err(Failure::invalid(format!("invalid IP address in add-host: {address:?}")));
        }
    }
    Ok(())
}

fn pid_mode(text: &str) -> Result<PidMode> {
    Ok(match text {
        "" | "private" => PidMode::Private,
        "host" => PidMode::Host,
        other => match other.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => PidMode::Container(name.to_owned()),
            None => return Err(Failure::invalid(format!("invalid PID mode: {other}"))),
        },
    })
}

fn ipc_mode(text: &str) -> Result<IpcMode> {
    Ok(match text {
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        other => match other.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => IpcMode::Container(name.to_owned()),
            None => return Err(Failure::invalid(format!("invalid IPC mode: {other}"))),
        },
    })
}

/// `host` or nothing.
fn two_modes(text: &str, what: &str) -> Result<bool> {
    match text {
        "" => Ok(false),
        "host" => Ok(true),
        other => Err(Failure::invalid(format!("invalid {what} mode: {other}"))),
    }
}

fn cgroupns(text: &str) -> Result<bool> {
    match text {
        "" | "private" => Ok(false),
        "host" => Ok(true),
        other => Err(Failure::invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
}

/// Also of `update`.
pub(crate) fn restart_policy(policy: &ApiRestart) -> Result<RestartPolicy> {
    let invalid = |text: &str| Err(Failure::invalid(format!("invalid restart policy: {text}")));
    let attempts = policy.maximum_retry_count;
    let parsed = match policy.name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" if attempts < 0 => return invalid("maximum retry count cannot be negative"),
        "on-failure" => {
            return Ok(RestartPolicy::OnFailure { attempts: u32::try_from(attempts).unwrap_or(u32::MAX) });
        }
        other => {
            return invalid(&format!(
                "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ));
        }
    };
    if attempts != 0 {
        let negative = if attempts < 0 { " and cannot be negative" } else { "" };
        return invalid(&format!("maximum retry count can only be used with 'on-failure'{negative}"));
    }
    Ok(parsed)
}

fn log_driver(log: &LogConfig) -> Result<LogDriver> {
    const OPTIONS: [&str; 10] = [
        "max-size",
        "max-file",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    ];
    let options = log.config.clone().unwrap_or_default();
    match log.kind.as_str() {
        "" | "json-file" | "local" => {
            let name = if log.kind.is_empty() { "json-file" } else { &log.kind };
            if let Some(option) = options.keys().find(|option| !OPTIONS.contains(&option.as_str())) {
                return Err(Failure::invalid(format!("unknown log opt '{option}' for {name} log driver")));
            }
        }
        "none" => {}
        later @ ("syslog" | "journald" | "gelf" | "fluentd" | "splunk" | "awslogs" | "gcplogs"
        | "etwlogs") => {
            return Err(Failure::later(format!("the log driver {later} comes in a later build")));
        }
        other => {
            return Err(Failure::invalid(format!(
                "error looking up logging plugin {other}: plugin {other:?} not found"
            )));
        }
    }
    Ok(LogDriver { name: log.kind.clone(), options })
}

fn devices(host: &HostConfig) -> Result<Vec<Device>> {
    let device = |device: &hull_api::hostconfig::DeviceMapping| {
        let container = if device.path_in_container.is_empty() {
            device.path_on_host.clone()
        } else {
            device.path_in_container.clone()
        };
        let permissions = match device.cgroup_permissions.as_str() {
            "" => "rwm",
            text if text.chars().all(|c| "rwm".contains(c)) => text,
            text => return Err(Failure::invalid(format!("invalid device mode: {text}"))),
        };
        Ok(Device { host: device.path_on_host.clone(), container, permissions: permissions.to_owned() })
    };
    host.devices.iter().flatten().map(device).collect()
}

/// `c 10:200 rwm`: type, numbers (or `*`), access.
fn device_rules(host: &HostConfig) -> Result<Vec<DeviceRule>> {
    let parse = |rule: &String| {
        let parsed = || {
            let mut words = rule.split(' ');
            let kind = words.next().filter(|kind| matches!(*kind, "a" | "b" | "c"))?;
            let (major, minor) = words.next()?.split_once(':')?;
            let access = words.next().filter(|access| access.chars().all(|c| "rwm".contains(c)))?;
            let number = |text: &str| match text {
                "*" => Some(None),
                digits => digits.parse::<u32>().ok().map(|number| Some(i64::from(number))),
            };
            (words.next().is_none() && !access.is_empty()).then_some(())?;
            Some(DeviceRule {
                allow: true,
                kind: kind.to_owned(),
                major: number(major)?,
                minor: number(minor)?,
                access: access.to_owned(),
            })
        };
        parsed().ok_or_else(|| Failure::invalid(format!("invalid device cgroup rule format: '{rule}'")))
    };
    host.device_cgroup_rules.iter().flatten().map(parse).collect()
}

fn rlimits(host: &HostConfig) -> Result<Vec<Rlimit>> {
    let limit = |limit: &hull_api::hostconfig::Ulimit| {
        let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        if soft > hard {
            return Err(Failure::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            )));
        }
        Ok(Rlimit { kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()), hard, soft })
    };
    host.ulimits.iter().flatten().map(limit).collect()
}

/// Fills in what the reference shows for what was not said.
fn normalise(config: &mut Config, host: &mut HostConfig) {
    if host.log_config.kind.is_empty() {
        host.log_config.kind = "json-file".to_owned();
    }
    host.log_config.config.get_or_insert_default();
    if host.runtime.is_empty() {
        host.runtime = "hull".to_owned();
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode = "private".to_owned();
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode = "private".to_owned();
    }
    if host.shm_size == 0 {
        host.shm_size = SHM_BYTES;
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if host.memory_swappiness == Some(-1) {
        host.memory_swappiness = None;
    }
    if host.pids_limit.is_some_and(|limit| limit == 0) {
        host.pids_limit = None;
    }
    host.oom_kill_disable.get_or_insert(false);
    let options = host.security_opt.get_or_insert_default();
    let shares = host.privileged || host.ipc_mode == "host" || host.pid_mode == "host";
    if shares && !options.iter().any(|option| option.split('=').next() == Some("label")) {
        // What reaches the host's own processes has no label of its own (SELinux).
        options.push("label=disable".to_owned());
    }
    host.security_opt.take_if(|options| options.is_empty());
    if !host.privileged {
        if host.masked_paths.is_none() {
            host.masked_paths = Some(spec::MASKED.iter().map(|path| (*path).to_owned()).collect());
        }
        if host.readonly_paths.is_none() {
            host.readonly_paths = Some(spec::READONLY.iter().map(|path| (*path).to_owned()).collect());
        }
    }
    config.labels.get_or_insert_default();
}

#[cfg(test)]
mod tests;
