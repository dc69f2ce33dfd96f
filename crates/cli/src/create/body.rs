//! From the flags of `run` and `create` to the body of the create request.
//!
//! Every field that the reference sends is sent, in the same shape (`null`,
//! `[]` and absent are three things), so that `inspect` shows what was asked
//! for, also where the daemon cannot do it yet.

use serde_json::{Map, Value, json};

use super::devices::{Device, device, gpu_request};
use super::ports;
use crate::flags::{Given, quoted};

/// What the body depends on beside the flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Rows and columns of the terminal on standard output, or zeros.
    pub(crate) console: (u16, u16),
    /// Proxy variables of the user's settings, `NAME=VALUE`.
    pub(crate) proxies: Vec<String>,
    pub(crate) ranges: ports::Ranges,
}

/// The body of the create request.
pub(crate) fn build(given: &Given, around: &Surroundings) -> Result<Value, String> {
    let exposed = exposed(given, around.ranges)?;
    let (volumes, binds) = volumes(given);
    let mut body = config(given, around)?;
    body.insert("Volumes".into(), volumes);
    if !exposed.ports.is_empty() {
        body.insert("ExposedPorts".into(), json!(exposed.ports));
    }
    health(given, &mut body)?;
    if given.has("stop-signal") {
        body.insert("StopSignal".into(), json!(given.text("stop-signal")));
    }
    if given.has("stop-timeout") {
        body.insert("StopTimeout".into(), json!(given.number("stop-timeout")));
    }
    let (mode, endpoints) = super::network::endpoints(given)?;
    let mut host = host_config(given, around, &mode)?;
    host.insert("Binds".into(), binds);
    host.insert("PortBindings".into(), exposed.bindings);
    body.insert("HostConfig".into(), Value::Object(host));
    body.insert("NetworkingConfig".into(), json!({ "EndpointsConfig": endpoints }));
    Ok(body.into_iter().collect())
}

fn config(given: &Given, around: &Surroundings) -> Result<Map<String, Value>, String> {
    let streams: Vec<&str> = given.list("attach").collect();
    let detach = given_on(given, "detach");
    let attached = |name: &str| !detach && (streams.contains(&name) || streams.is_empty());
    let interactive = given.on("interactive");
    let stdin = !detach && (interactive || streams.contains(&"stdin"));
    let arguments = &given.arguments;
    let command = match arguments.get(1..) {
        Some([]) | None => Value::Null,
        Some(words) => json!(words),
    };
    let entrypoint = if given.has("entrypoint") { json!([given.text("entrypoint")]) } else { Value::Null };
    let body = json!({
        "Hostname": given.text("hostname"),
        "Domainname": given.text("domainname"),
        "User": given.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": attached("stdout"),
        "AttachStderr": attached("stderr"),
        "Tty": given.on("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive && stdin,
        "Env": environment(given, around)?,
        "Cmd": command,
        "Image": arguments.first().map_or("", |image| image),
        "Volumes": {},
        "WorkingDir": given.text("workdir"),
        "Entrypoint": entrypoint,
        "OnBuild": null,
        "Labels": labels(given)?,
    });
    match body {
        Value::Object(map) => Ok(map),
        _ => unreachable!("an object was written above"),
    }
}

/// `create` has no `--detach`: a flag that is not declared is off.
pub(crate) fn given_on(given: &Given, long: &str) -> bool {
    given.has(long) && given.on(long)
}

fn environment(given: &Given, around: &Surroundings) -> Result<Value, String> {
    let mut all = Vec::new();
    for path in given.list("env-file") {
        all.extend(super::files::pairs(path, true)?);
    }
    let named: Vec<&str> = given.list("env").collect();
    for proxy in &around.proxies {
        let name = proxy.split('=').next();
        if !named.iter().any(|one| one.split('=').next() == name) {
            all.push(proxy.clone());
        }
    }
    all.extend(named.into_iter().map(str::to_owned));
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

fn labels(given: &Given) -> Result<Value, String> {
    let mut all = Vec::new();
    for path in given.list("label-file") {
        all.extend(super::files::pairs(path, false)?);
    }
    all.extend(given.strings("label"));
    Ok(table(all.iter().map(String::as_str)))
}

/// `KEY[=VALUE]`s as an object.
fn table<'a>(pairs: impl Iterator<Item = &'a str>) -> Value {
    let mut map = Map::new();
    for pair in pairs {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.insert(key.to_owned(), json!(value));
    }
    Value::Object(map)
}

/// Volumes without a source, and binds.
fn volumes(given: &Given) -> (Value, Value) {
    let mut volumes = Map::new();
    let mut binds: Vec<String> = Vec::new();
    for spec in given.list("volume") {
        match spec.split_once(':') {
            None => {
                volumes.insert(spec.to_owned(), json!({}));
            }
            Some((source, rest)) if source.starts_with('.') => {
                let source = std::path::absolute(source)
                    .map_or_else(|_| source.to_owned(), |path| path.display().to_string());
                binds.push(format!("{}:{rest}", source.trim_end_matches("/.")));
            }
            Some(_) => binds.push(spec.to_owned()),
        }
    }
    let binds = if binds.is_empty() { Value::Null } else { json!(binds) };
    (Value::Object(volumes), binds)
}

struct Exposed {
    ports: Map<String, Value>,
    bindings: Value,
}

fn exposed(given: &Given, ranges: ports::Ranges) -> Result<Exposed, String> {
    let mut bindings = ports::Bindings::new();
    for spec in given.list("publish") {
        ports::publish(spec, ranges, &mut bindings)?;
    }
    let mut ports: Map<String, Value> = bindings.keys().map(|port| (port.clone(), json!({}))).collect();
    for spec in given.list("expose") {
        for port in ports::expose(spec, ranges)? {
            ports.insert(port, json!({}));
        }
    }
    let bindings: Map<String, Value> = bindings
        .into_iter()
        .map(|(port, all)| {
            let all: Vec<Value> =
                all.into_iter().map(|one| json!({ "HostIp": one.address, "HostPort": one.port })).collect();
            (port, json!(all))
        })
        .collect();
    Ok(Exposed { ports, bindings: Value::Object(bindings) })
}

fn health(given: &Given, body: &mut Map<String, Value>) -> Result<(), String> {
    const TIMES: [(&str, &str); 4] = [
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ];
    let any = given.has("health-cmd")
        || given.has("health-retries")
        || TIMES.iter().any(|(flag, _)| given.has(flag));
    if given.on("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        body.insert("Healthcheck".into(), json!({ "Test": ["NONE"] }));
        return Ok(());
    }
    if !any {
        return Ok(());
    }
    let mut check = Map::new();
    if given.has("health-cmd") {
        check.insert("Test".into(), json!(["CMD-SHELL", given.text("health-cmd")]));
    }
    for (flag, key) in TIMES {
        let nanoseconds = if given.has(flag) { given.number(flag) } else { 0 };
        if nanoseconds < 0 {
            return Err(format!("--{flag} cannot be negative"));
        }
        if nanoseconds > 0 {
            check.insert(key.into(), json!(nanoseconds));
        }
    }
    let retries = given.number("health-retries");
    if retries < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    if retries > 0 {
        check.insert("Retries".into(), json!(retries));
    }
    body.insert("Healthcheck".into(), Value::Object(check));
    Ok(())
}

fn host_config(given: &Given, around: &Surroundings, mode: &str) -> Result<Map<String, Value>, String> {
    let security = security(given)?;
    let mut host = Map::new();
    let mut put = |key: &str, value: Value| {
        host.insert(key.to_owned(), value);
    };
    put("Binds", Value::Null);
    put("ContainerIDFile", json!(given.text("cidfile")));
    put("LogConfig", logging(given)?);
    put("NetworkMode", json!(mode));
    put("PortBindings", json!({}));
    put("RestartPolicy", restart(given.text("restart"))?);
    put("AutoRemove", json!(given.on("rm")));
    put("VolumeDriver", json!(given.text("volume-driver")));
    put("VolumesFrom", listed(given, "volumes-from"));
    put("ConsoleSize", json!([around.console.0, around.console.1]));
    put_some(&mut put, "Annotations", table(given.list("annotation")));
    put("CapAdd", capabilities(given, "cap-add"));
    put("CapDrop", capabilities(given, "cap-drop"));
    put("CgroupnsMode", cgroup_namespace(given)?);
    put("Dns", json!(given.strings("dns")));
    let options = given.list("dns-opt").chain(given.list("dns-option"));
    put("DnsOptions", json!(options.collect::<Vec<_>>()));
    put("DnsSearch", json!(given.strings("dns-search")));
    put("ExtraHosts", listed(given, "add-host"));
    put("GroupAdd", listed(given, "group-add"));
    put("IpcMode", json!(given.text("ipc")));
    put("Cgroup", json!(""));
    put("Links", listed(given, "link"));
    put("OomScoreAdj", json!(given.number("oom-score-adj")));
    put("PidMode", namespace(given, "pid", "--pid: invalid PID mode")?);
    put("Privileged", json!(given.on("privileged")));
    put("PublishAllPorts", json!(given.on("publish-all")));
    put("ReadonlyRootfs", json!(given.on("read-only")));
    put("SecurityOpt", security.options);
    put_some(&mut put, "StorageOpt", storage(given)?);
    put_some(&mut put, "Tmpfs", tmpfs(given));
    put("UTSMode", own_or_host(given, "uts", "--uts: invalid UTS mode")?);
    put("UsernsMode", users(given)?);
    put("ShmSize", json!(given.number("shm-size")));
    put_some(&mut put, "Sysctls", table(given.list("sysctl")));
    if given.has("runtime") {
        put("Runtime", json!(given.text("runtime")));
    }
    put("Isolation", json!(given.text("isolation")));
    resources(given, &mut put)?;
    put_some(&mut put, "Mounts", mounts(given)?);
    let masked = if security.unmasked { json!([]) } else { Value::Null };
    put("MaskedPaths", masked.clone());
    put("ReadonlyPaths", masked);
    if given.has("init") {
        put("Init", json!(given.on("init")));
    }
    if given.on("rm") && !matches!(given.text("restart"), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    Ok(host)
}

/// Puts a table or list unless it is empty.
fn put_some(put: &mut impl FnMut(&str, Value), key: &str, value: Value) {
    let empty = match &value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null => true,
        _ => false,
    };
    if !empty {
        put(key, value);
    }
}

/// The values of a list flag; `null` if it was not given.
fn listed(given: &Given, flag: &str) -> Value {
    let all = given.strings(flag);
    if all.is_empty() { Value::Null } else { json!(all) }
}

/// Capabilities as `CAP_NAME`, `ALL` as itself.
fn capabilities(given: &Given, flag: &str) -> Value {
    let mut all: Vec<String> = Vec::new();
    for name in given.list(flag) {
        let name = name.trim().to_ascii_uppercase();
        let name = match name.as_str() {
            "ALL" | "RESET" => name,
            other if other.starts_with("CAP_") => name,
            _ => format!("CAP_{name}"),
        };
        if !all.contains(&name) {
            all.push(name);
        }
    }
    if all.is_empty() {
        Value::Null
    } else {
        all.sort();
        json!(all)
    }
}

fn cgroup_namespace(given: &Given) -> Result<Value, String> {
    match given.text("cgroupns") {
        mode @ ("" | "host" | "private") => Ok(json!(mode)),
        _ => Err("--cgroupns: invalid CGROUP mode".to_owned()),
    }
}

fn namespace(given: &Given, flag: &str, refusal: &str) -> Result<Value, String> {
    let mode = given.text(flag);
    let joins = mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    if matches!(mode, "" | "host") || joins { Ok(json!(mode)) } else { Err(refusal.to_owned()) }
}

fn users(given: &Given) -> Result<Value, String> {
    match given.text("userns") {
        "auto" => Ok(json!("auto")),
        _ => own_or_host(given, "userns", "--userns: invalid USER mode"),
    }
}

fn own_or_host(given: &Given, flag: &str, refusal: &str) -> Result<Value, String> {
    match given.text(flag) {
        mode @ ("" | "host") => Ok(json!(mode)),
        _ => Err(refusal.to_owned()),
    }
}

fn logging(given: &Given) -> Result<Value, String> {
    let driver = given.text("log-driver");
    let options = table(given.list("log-opt"));
    if driver == "none" && options != json!({}) {
        return Err(format!("invalid logging opts for driver {driver}"));
    }
    Ok(json!({ "Type": driver, "Config": options }))
}

/// `NAME[:COUNT]`
pub(crate) fn restart(text: &str) -> Result<Value, String> {
    let (name, count): (&str, i64) = match text.split_once(':') {
        None => (text, 0),
        Some(("", _)) => {
            return Err("invalid restart policy format: no policy provided before colon".to_owned());
        }
        Some((name, count)) => (
            name,
            count.parse().map_err(|_| {
                "invalid restart policy format: maximum retry count must be an integer".to_owned()
            })?,
        ),
    };
    Ok(json!({ "Name": name, "MaximumRetryCount": count }))
}

struct Security {
    options: Value,
    /// `systempaths=unconfined`: nothing is masked or read-only.
    unmasked: bool,
}

fn security(given: &Given) -> Result<Security, String> {
    let mut options = Vec::new();
    let mut unmasked = false;
    for option in given.list("security-opt") {
        let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("systempaths", Some("unconfined")) => unmasked = true,
            ("no-new-privileges", None) => options.push(option.to_owned()),
            (_, None) => return Err(format!("Invalid --security-opt: {}", quoted(option))),
            ("seccomp", Some(path)) if path != "unconfined" && path != "builtin" => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    format!(
                        "opening seccomp profile ({path}) failed: open {path}: {}",
                        super::files::reason(&error)
                    )
                })?;
                let document: Value = serde_json::from_str(&text).map_err(|error| {
                    format!("compacting json for seccomp profile ({path}) failed: {error}")
                })?;
                options.push(format!("seccomp={document}"));
            }
            _ => options.push(option.to_owned()),
        }
    }
    let options = if options.is_empty() && !unmasked { Value::Null } else { json!(options) };
    Ok(Security { options, unmasked })
}

fn storage(given: &Given) -> Result<Value, String> {
    if given.list("storage-opt").any(|pair| !pair.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    Ok(table(given.list("storage-opt")))
}

fn tmpfs(given: &Given) -> Value {
    let mut map = Map::new();
    for spec in given.list("tmpfs") {
        let (path, options) = spec.split_once(':').unwrap_or((spec, ""));
        map.insert(path.to_owned(), json!(options));
    }
    Value::Object(map)
}

fn mounts(given: &Given) -> Result<Value, String> {
    let all: Result<Vec<Value>, String> = given.list("mount").map(super::mount::parse).collect();
    all.map(|all| json!(all))
}

fn resources(given: &Given, put: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    for (key, flag) in [("CpuShares", "cpu-shares"), ("Memory", "memory"), ("NanoCpus", "cpus")] {
        put(key, json!(given.number(flag)));
    }
    put("CgroupParent", json!(given.text("cgroup-parent")));
    put("BlkioWeight", json!(given.number("blkio-weight")));
    put("BlkioWeightDevice", rates(given, "blkio-weight-device", "Weight"));
    put("BlkioDeviceReadBps", rates(given, "device-read-bps", "Rate"));
    put("BlkioDeviceWriteBps", rates(given, "device-write-bps", "Rate"));
    put("BlkioDeviceReadIOps", rates(given, "device-read-iops", "Rate"));
    put("BlkioDeviceWriteIOps", rates(given, "device-write-iops", "Rate"));
    for (key, flag) in [
        ("CpuPeriod", "cpu-period"),
        ("CpuQuota", "cpu-quota"),
        ("CpuRealtimePeriod", "cpu-rt-period"),
        ("CpuRealtimeRuntime", "cpu-rt-runtime"),
    ] {
        put(key, json!(given.number(flag)));
    }
    put("CpusetCpus", json!(given.text("cpuset-cpus")));
    put("CpusetMems", json!(given.text("cpuset-mems")));
    let mut devices = Vec::new();
    let mut requests = Vec::new();
    let mut described = Vec::new();
    if given.has("gpus") {
        requests.push(gpu_request(given.text("gpus"))?);
    }
    for spec in given.list("device") {
        match device(spec)? {
            Device::Host(document) => devices.push(document),
            Device::Described(name) => described.push(name),
        }
    }
    if !described.is_empty() {
        requests.push(json!({
            "Driver": "cdi",
            "Count": 0,
            "DeviceIDs": described,
            "Capabilities": null,
            "Options": null,
        }));
    }
    put("Devices", json!(devices));
    put("DeviceCgroupRules", listed(given, "device-cgroup-rule"));
    put("DeviceRequests", if requests.is_empty() { Value::Null } else { json!(requests) });
    put("MemoryReservation", json!(given.number("memory-reservation")));
    put("MemorySwap", json!(given.number("memory-swap")));
    let swappiness = given.number("memory-swappiness");
    if !(-1..=100).contains(&swappiness) {
        return Err(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100"));
    }
    put("MemorySwappiness", json!(swappiness));
    put("OomKillDisable", json!(given.on("oom-kill-disable")));
    put("PidsLimit", json!(given.number("pids-limit")));
    put("Ulimits", ulimits(given));
    for (key, flag) in [
        ("CpuCount", "cpu-count"),
        ("CpuPercent", "cpu-percent"),
        ("IOMaximumIOps", "io-maxiops"),
        ("IOMaximumBandwidth", "io-maxbandwidth"),
    ] {
        put(key, json!(given.number(flag)));
    }
    Ok(())
}

/// `PATH:NUMBER`s, checked when they were given.
fn rates(given: &Given, flag: &str, key: &str) -> Value {
    let all: Vec<Value> = given
        .list(flag)
        .filter_map(|pair| pair.split_once(':'))
        .map(|(path, number)| json!({ "Path": path, key: number.parse::<u64>().unwrap_or_default() }))
        .collect();
    json!(all)
}

/// Limits by name; the last of a name counts.
fn ulimits(given: &Given) -> Value {
    let mut all = std::collections::BTreeMap::new();
    for limit in given.list("ulimit") {
        let Some((name, limits)) = limit.split_once('=') else {
            continue;
        };
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().unwrap_or_default();
        all.insert(name, json!({ "Name": name, "Hard": number(hard), "Soft": number(soft) }));
    }
    json!(all.into_values().collect::<Vec<_>>())
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
