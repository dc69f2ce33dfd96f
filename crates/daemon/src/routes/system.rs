//! The daemon itself: ping, version, info, what is on disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, PRAGMA};
use http::{Method, Response};
use hull_api::system::{
    Commit, Component, DiskUsage, IndexConfig, Info, Plugins, RegistryConfig, Runtime, Swarm, Version,
};
use hull_api::{ApiVersion, compat};
use hull_engine::registries::Hosts;
use serde_json::Value;

use super::{build_cache, containers, images, show, volumes};
use crate::http::{Answer, Body, Call, Failure, Handled, ok, set};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn ping(method: &Method) -> Answer {
    let text = (*method != Method::HEAD).then(|| "OK".into());
    let mut answer = Response::new(Body::Whole(text));
    set(&mut answer, CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut answer, CACHE_CONTROL, "no-cache, no-store, must-revalidate");
    set(&mut answer, PRAGMA, "no-cache");
    // The classic builder's number: a client then does not try BuildKit, which comes later.
    set(&mut answer, HeaderName::from_static("builder-version"), "1");
    set(&mut answer, HeaderName::from_static("swarm"), "inactive");
    answer
}

/// Go's name of the machine.
pub(super) fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn version(call: &Call) -> Handled {
    let facts = call.server.engine.host().facts;
    let arch = architecture(&facts.machine).to_owned();
    let details = [
        ("ApiVersion", ApiVersion::NEWEST.to_string()),
        ("Arch", arch.clone()),
        ("BuildTime", String::new()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", String::new()),
        ("KernelVersion", facts.kernel.clone()),
        ("MinAPIVersion", ApiVersion::OLDEST.to_string()),
        ("Os", "linux".to_owned()),
    ];
    let component = |name: &str, details: BTreeMap<String, String>| Component {
        name: name.to_owned(),
        version: VERSION.to_owned(),
        details,
    };
    ok(&Version {
        components: vec![
            component("Engine", details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            component("hull-runtime", BTreeMap::from([("GitCommit".to_owned(), String::new())])),
        ],
        version: VERSION.to_owned(),
        api_version: ApiVersion::NEWEST.to_string(),
        min_api_version: ApiVersion::OLDEST.to_string(),
        os: "linux".to_owned(),
        arch,
        kernel_version: facts.kernel,
        ..Version::default()
    })
}

pub(super) fn info(call: &Call) -> Handled {
    let mut value = value_of(&info_of(call))?;
    compat::info(call.version, &mut value);
    ok(&value)
}

/// A document that is still to be fitted to a version.
pub(super) fn value_of<T: serde::Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::internal(error.to_string()))
}

fn info_of(call: &Call) -> Info {
    let server = &call.server;
    let host = server.engine.host();
    let facts = host.facts;
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let security = [
        (facts.seccomp, "name=seccomp,profile=builtin"),
        (host.user_namespaces, "name=userns"),
        (true, "name=cgroupns"),
    ];
    let security = security.iter().filter(|(has, _)| *has).map(|(_, name)| (*name).to_owned()).collect();
    Info {
        id: server.id.clone(),
        containers: number(host.containers),
        containers_running: number(host.running),
        containers_paused: number(host.paused),
        containers_stopped: number(host.stopped),
        images: number(host.images),
        driver: show::DRIVER.to_owned(),
        driver_status: vec![["Supports d_type".to_owned(), "true".to_owned()]],
        plugins: Plugins {
            volume: words(&[volumes::DRIVER]),
            network: words(&["bridge", "host", "macvlan", "null"]),
            authorization: None,
            log: words(&["json-file", "local"]),
        },
        memory_limit: true,
        swap_limit: facts.swap_limit,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
            .is_ok_and(|text| text.trim() == "1"),
        debug: server.debug.load(Ordering::Relaxed),
        n_fd: number(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
        oom_kill_disable: facts.cgroup_version == "1",
        system_time: show::time(Some(show::now())),
        logging_driver: "json-file".to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: facts.cgroup_version,
        n_events_listener: i64::try_from(server.listeners.load(Ordering::Relaxed)).unwrap_or(i64::MAX),
        kernel_version: facts.kernel,
        operating_system: facts.operating_system,
        os_type: "linux".to_owned(),
        architecture: facts.machine,
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: registries(&server.engine.config().registries),
        ncpu: i64::from(facts.cpus),
        mem_total: i64::try_from(facts.memory).unwrap_or(i64::MAX),
        docker_root_dir: host.data_root.to_string_lossy().into_owned(),
        name: facts.hostname,
        server_version: VERSION.to_owned(),
        runtimes: BTreeMap::from([("hull".to_owned(), Runtime { path: "hull-runtime".to_owned() })]),
        default_runtime: "hull".to_owned(),
        swarm: Swarm { local_node_state: "inactive".to_owned(), ..Swarm::default() },
        // Containers never depend on the daemon's life.
        live_restore_enabled: true,
        init_binary: "hull-runtime".to_owned(),
        // One build is all three; other engines give the commits of three programs.
        containerd_commit: Commit { id: VERSION.to_owned() },
        runc_commit: Commit { id: VERSION.to_owned() },
        init_commit: Commit { id: VERSION.to_owned() },
        security_options: security,
        warnings: Some(facts.warnings).filter(|warnings| !warnings.is_empty()),
        ..Info::default()
    }
}

fn registries(hosts: &Hosts) -> RegistryConfig {
    let hub = IndexConfig {
        mirrors: hosts.mirrors.clone(),
        name: "docker.io".to_owned(),
        official: true,
        secure: true,
    };
    let (networks, names): (Vec<&String>, Vec<&String>) =
        hosts.insecure.iter().partition(|rule| rule.parse::<ipnet::IpNet>().is_ok());
    let insecure = |name: &String| {
        let config = IndexConfig { mirrors: Vec::new(), name: name.clone(), official: false, secure: false };
        (name.clone(), config)
    };
    let known = ["::1/128", "127.0.0.0/8"].map(str::to_owned);
    RegistryConfig {
        index_configs: names.into_iter().map(insecure).chain([("docker.io".to_owned(), hub)]).collect(),
        insecure_registry_cidrs: known.into_iter().chain(networks.into_iter().cloned()).collect(),
        mirrors: Some(hosts.mirrors.clone()).filter(|mirrors| !mirrors.is_empty()),
    }
}

pub(super) async fn disk_usage(call: &Call) -> Handled {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    // Before 1.42 there was no such parameter.
    let wanted: Vec<&str> =
        if call.version.before(42) { Vec::new() } else { call.query.all("type").collect() };
    if let Some(unknown) = wanted.iter().find(|kind| !KINDS.contains(kind)) {
        return Err(Failure::invalid(format!("unknown object type: {unknown}")));
    }
    let asked = |kind: &str| wanted.is_empty() || wanted.contains(&kind);
    let image_usage = if asked("image") { Some(images::usage(call)?) } else { None };
    let container_usage = if asked("container") { Some(containers::usage(call).await) } else { None };
    let volume_usage = if asked("volume") { Some(volumes::usage(call).await) } else { None };
    let usage = DiskUsage {
        image_usage,
        container_usage,
        volume_usage,
        build_cache_usage: asked("build-cache").then(|| build_cache::usage(call)),
    };
    let mut value = value_of(&usage)?;
    compat::disk_usage(call.version, &mut value, call.query.flag("verbose"));
    ok(&value)
}
