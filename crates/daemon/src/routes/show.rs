//! The engine's views in Docker's words: states, times, names, networks, mounts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hull_api::container::{Inspect, MountPoint, NetworkSettings, Port, State};
use hull_api::create::Config;
use hull_api::hostconfig::{HostConfig, PortBinding};
use hull_api::image::{Empty, GraphDriver};
use hull_api::network::{EndpointIpam, EndpointSettings};
use hull_engine::containers::phase::{Phase, Time};
use hull_engine::containers::settings::{Mount, NetworkMode, RestartPolicy, Settings};
use hull_engine::containers::view::{Place, View};
use hull_engine::volumes::DRIVER as DRIVER_OF_VOLUMES;
use hull_network::record::Protocol;

use crate::translate::{Echo, spelled_out};

/// Layers on overlayfs, under the name that tools know.
pub(super) const DRIVER: &str = "overlay2";

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since the epoch.
pub(super) fn now() -> Time {
    hull_sys::time::now()
}

/// RFC 3339 with as many digits as needed; nothing is Go's zero time.
pub(super) fn time(time: Option<Time>) -> String {
    match time.map(|nanos| jiff::Timestamp::from_nanosecond(i128::from(nanos))) {
        Some(Ok(time)) => time.to_string(),
        _ => "0001-01-01T00:00:00Z".to_owned(),
    }
}

/// How long something lasted, from nanoseconds.
fn duration(nanos: i64) -> String {
    hull_api::duration::rough(nanos / SECOND)
}

/// The `STATUS` of a list.
pub(super) fn status(view: &View, now: Time) -> String {
    let up = |started: Time| format!("Up {}", duration(now - started));
    match &view.phase {
        Phase::Running(live) => up(live.started),
        Phase::Paused(live) => format!("{} (Paused)", up(live.started)),
        Phase::Restarting { after, .. } => {
            format!("Restarting ({}) {} ago", after.code, duration(now - after.at))
        }
        Phase::Removing { .. } => "Removal In Progress".to_owned(),
        Phase::Exited(_) | Phase::Starting { last: Some(_) } => match view.finished {
            Some(at) => format!("Exited ({}) {} ago", view.exit_code, duration(now - at)),
            None => String::new(),
        },
        Phase::Created | Phase::Starting { last: None } => "Created".to_owned(),
    }
}

/// Program and arguments in one line; an argument with a space is quoted.
pub(super) fn command(view: &View) -> String {
    let mut line = view.path.clone();
    for arg in &view.args {
        line.push(' ');
        if arg.contains(' ') {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(arg);
        }
    }
    line
}

pub(super) fn echo(view: &View) -> Echo {
    // Written by us; a field of an older build that is gone takes its default.
    serde_json::from_str(&view.request).unwrap_or_default()
}

/// The mode as inspect and list name it.
pub(super) fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

/// A container's ends of its networks, by their names.
pub(super) fn networks(view: &View) -> BTreeMap<String, EndpointSettings> {
    view.places.iter().map(|place| (place.attachment.network.clone(), endpoint(view, place))).collect()
}

fn endpoint(view: &View, place: &Place) -> EndpointSettings {
    let asked = &place.attachment;
    let text = |address: Option<String>| address.unwrap_or_default();
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let ipam = EndpointIpam {
        ipv4_address: text(asked.address4.map(|address| address.to_string())),
        ipv6_address: text(asked.address6.map(|address| address.to_string())),
        link_local_ips: asked.link_local.iter().map(ToString::to_string).collect(),
    };
    let mut shown = EndpointSettings {
        ipam_config: Some(ipam).filter(|ipam| *ipam != EndpointIpam::default()),
        links: some(&asked.links),
        aliases: some(&asked.aliases),
        mac_address: text(asked.mac.map(|mac| mac.to_string())),
        driver_opts: (!asked.driver_options.is_empty()).then(|| asked.driver_options.clone()),
        gw_priority: asked.gateway_priority,
        ..EndpointSettings::default()
    };
    if view.started.is_some() {
        shown.network_id = place.id.clone().unwrap_or_default();
    }
    let Some(has) = &place.endpoint else { return shown };
    shown.endpoint_id.clone_from(&has.id);
    shown.mac_address = has.mac.to_string();
    shown.gateway = text(has.gateway4.map(|gateway| gateway.to_string()));
    shown.ipv6_gateway = text(has.gateway6.map(|gateway| gateway.to_string()));
    if let Some(net) = has.address4 {
        shown.ip_address = net.addr().to_string();
        shown.ip_prefix_len = net.prefix_len().into();
    }
    if let Some(net) = has.address6 {
        shown.global_ipv6_address = net.addr().to_string();
        shown.global_ipv6_prefix_len = net.prefix_len().into();
    }
    shown.dns_names = some(&has.names);
    shown
}

/// Ports of the container and where they are published; none while it does not run.
type Open = BTreeMap<(u16, Protocol), Vec<(IpAddr, u16)>>;

fn open_ports(view: &View) -> Open {
    let mut open = Open::new();
    if !view.is_running() || view.places.iter().all(|place| place.endpoint.is_none()) {
        return open;
    }
    for (protocol, range) in &view.settings.exposed {
        for port in range.first..=range.last {
            open.entry((port, *protocol)).or_default();
        }
    }
    for published in
        view.places.iter().filter_map(|place| place.endpoint.as_ref()).flat_map(|has| &has.published)
    {
        for (step, port) in (published.container.first..=published.container.last).enumerate() {
            let step = u16::try_from(step).unwrap_or(0);
            // Of a routed network no port of the host is used.
            let host = if published.host.first == 0 { 0 } else { published.host.first + step };
            open.entry((port, published.protocol)).or_default().push((published.address, host));
        }
    }
    for places in open.values_mut() {
        places.sort_unstable();
    }
    open
}

/// As inspect shows them.
fn port_map(view: &View) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let binding = |(address, port): &(IpAddr, u16)| PortBinding {
        host_ip: address.to_string(),
        host_port: if *port == 0 { String::new() } else { port.to_string() },
    };
    let bindings = |places: &Vec<(IpAddr, u16)>| {
        (!places.is_empty()).then(|| places.iter().map(binding).collect::<Vec<_>>())
    };
    let open = open_ports(view);
    open.iter()
        .map(|((port, protocol), places)| (format!("{port}/{}", protocol.name()), bindings(places)))
        .collect()
}

/// As a list shows them.
pub(super) fn ports(view: &View) -> Vec<Port> {
    let mut ports = Vec::new();
    for ((private_port, protocol), places) in open_ports(view) {
        let port = Port { private_port, kind: protocol.name().to_owned(), ..Port::default() };
        if places.is_empty() {
            ports.push(port.clone());
        }
        ports.extend(places.into_iter().map(|(address, public_port)| Port {
            ip: address.to_string(),
            public_port,
            ..port.clone()
        }));
    }
    ports
}

/// Names one run's network namespace.
fn sandbox_id(view: &View) -> String {
    match view.phase.live() {
        Some(live) if !matches!(view.settings.network, NetworkMode::Container(_)) => {
            let run = format!("sandbox {} {}", view.id, live.started);
            hull_oci::Digest::sha256(run.as_bytes()).hex().to_owned()
        }
        _ => String::new(),
    }
}

/// `80/tcp` and so on, each by itself.
fn exposed(view: &View) -> Option<BTreeMap<String, Empty>> {
    let each = view.settings.exposed.iter().flat_map(|(protocol, range)| {
        (range.first..=range.last).map(move |port| (format!("{port}/{}", protocol.name()), Empty::default()))
    });
    let all: BTreeMap<_, _> = each.collect();
    (!all.is_empty()).then_some(all)
}

pub(super) fn mounts(view: &View) -> Vec<MountPoint> {
    let point = |mount: &Mount| match mount {
        Mount::Bind { source, target, read_only, propagation, mode, .. } => MountPoint {
            kind: "bind".to_owned(),
            source: source.clone(),
            destination: target.clone(),
            mode: mode.clone(),
            rw: !read_only,
            propagation: propagation.clone(),
            ..MountPoint::default()
        },
        Mount::Tmpfs { target, options } => MountPoint {
            kind: "tmpfs".to_owned(),
            destination: target.clone(),
            mode: String::new(),
            rw: !options.iter().any(|option| option == "ro"),
            ..MountPoint::default()
        },
        Mount::Volume(volume) => MountPoint {
            kind: "volume".to_owned(),
            name: volume.name.clone(),
            source: view.volumes.get(&volume.name).map(|folder| text(folder)).unwrap_or_default(),
            destination: volume.target.clone(),
            driver: DRIVER_OF_VOLUMES.to_owned(),
            mode: volume.mode.clone(),
            rw: !volume.read_only,
            ..MountPoint::default()
        },
        Mount::Image { name, found, target, .. } => MountPoint {
            kind: "image".to_owned(),
            name: name.clone(),
            source: found.as_ref().map(|image| image.id.to_string()).unwrap_or_default(),
            destination: target.clone(),
            ..MountPoint::default()
        },
    };
    view.settings.mounts.iter().map(point).collect()
}

pub(super) fn state(view: &View) -> State {
    let exited = matches!(view.phase, Phase::Exited(_) | Phase::Created | Phase::Restarting { .. });
    let restarting = matches!(view.phase, Phase::Restarting { .. });
    State {
        status: view.phase.status().to_owned(),
        running: view.is_running() || restarting,
        paused: matches!(view.phase, Phase::Paused(_)),
        restarting,
        oom_killed: view.phase.exit().or(view.exit).is_some_and(|exit| exit.oom),
        dead: false,
        pid: view.pid().unwrap_or(0),
        exit_code: if exited || !view.is_running() { view.exit_code } else { 0 },
        error: view.error.clone(),
        started_at: time(view.started),
        finished_at: time(view.finished),
        health: None,
    }
}

/// The configuration as it is now: what was asked, with the image's under it.
fn config(view: &View, asked: Config) -> Config {
    let settings = &view.settings;
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Config {
        hostname: view.hostname().to_owned(),
        domainname: settings.domainname.clone(),
        user: settings.user.clone(),
        env: list(&settings.env),
        cmd: settings.cmd.clone(),
        entrypoint: settings.entrypoint.clone(),
        image: view.image.name.clone(),
        working_dir: settings.working_dir.clone(),
        labels: Some(settings.labels.clone()),
        stop_signal: settings.stop_signal.clone(),
        tty: settings.tty,
        open_stdin: settings.open_stdin,
        stdin_once: settings.stdin_once,
        exposed_ports: exposed(view),
        volumes: Some(settings.volumes.iter().map(|path| (path.clone(), Empty::default())).collect())
            .filter(|volumes: &BTreeMap<_, _>| !volumes.is_empty()),
        ..asked
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn graph_driver(view: &View) -> GraphDriver {
    let lower: Vec<String> = view.rootfs.lower.iter().map(|path| text(path)).collect();
    let data = [
        ("ID", view.id.clone()),
        ("LowerDir", lower.join(":")),
        ("UpperDir", text(&view.rootfs.upper)),
        ("WorkDir", text(&view.rootfs.work)),
    ];
    GraphDriver {
        data: Some(data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        name: DRIVER.to_owned(),
    }
}

/// `GET /containers/ID/json`, without the sizes.
pub(super) fn inspect(view: &View) -> Inspect {
    let Echo { config: asked, host: mut host_config } = echo(view);
    host_config.network_mode = network_mode(&view.settings.network);
    host_config.port_bindings = host_config.port_bindings.map(spelled_out);
    updated(&mut host_config, &view.settings);
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let sandbox = view.pid().map(|pid| format!("/proc/{pid}/ns/net")).unwrap_or_default();
    Inspect {
        id: view.id.clone(),
        created: time(Some(view.created)),
        path: view.path.clone(),
        args: view.args.clone(),
        state: state(view),
        image: view.image.id.to_string(),
        resolv_conf_path: path(&view.resolv_path),
        hostname_path: path(&view.hostname_path),
        hosts_path: path(&view.hosts_path),
        log_path: if view.settings.log.name == "none" { String::new() } else { path(&view.log_dir) },
        name: format!("/{}", view.name),
        restart_count: i64::from(view.restart_count),
        driver: DRIVER.to_owned(),
        platform: "linux".to_owned(),
        exec_ids: (!view.execs.is_empty()).then(|| view.execs.clone()),
        host_config,
        graph_driver: graph_driver(view),
        mounts: mounts(view)
            .into_iter()
            // The reference shows a tmpfs of --tmpfs in HostConfig alone.
            .filter(|mount| mount.kind != "tmpfs" || !host_shows_tmpfs(view, &mount.destination))
            .collect(),
        config: config(view, asked),
        network_settings: NetworkSettings {
            sandbox_id: sandbox_id(view),
            sandbox_key: sandbox,
            ports: port_map(view),
            networks: networks(view),
        },
        ..Inspect::default()
    }
}

/// What `update` may have changed since the request.
fn updated(host: &mut HostConfig, settings: &Settings) {
    let resources = &settings.resources;
    let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    host.memory = resources.memory.limit.unwrap_or(0);
    host.memory_reservation = resources.memory.reservation.unwrap_or(0);
    host.memory_swap = resources.memory.swap.unwrap_or(0);
    host.blkio_weight = resources.block_io.weight.unwrap_or(0);
    host.cpu_shares = number(resources.cpu.shares);
    host.cpuset_cpus.clone_from(&resources.cpu.cpus);
    host.cpuset_mems.clone_from(&resources.cpu.mems);
    host.pids_limit = resources.pids.map(|pids| pids.limit);
    let (quota, period) = (resources.cpu.quota.unwrap_or(0), number(resources.cpu.period));
    if settings.whole_cpus && period > 0 {
        // `--cpus` is kept as the quota that it means.
        host.nano_cpus = quota.saturating_mul(1_000_000_000) / period;
    } else {
        (host.cpu_quota, host.cpu_period) = (quota, period);
    }
    let (name, attempts) = match settings.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { attempts } => ("on-failure", attempts),
    };
    name.clone_into(&mut host.restart_policy.name);
    host.restart_policy.maximum_retry_count = i64::from(attempts);
}

fn host_shows_tmpfs(view: &View, target: &str) -> bool {
    echo(view).host.tmpfs.is_some_and(|tmpfs| tmpfs.keys().any(|known| known.trim_end_matches('/') == target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_changed_is_shown() {
        let mut settings =
            Settings { restart: RestartPolicy::OnFailure { attempts: 3 }, ..Settings::default() };
        settings.resources.memory.limit = Some(1 << 26);
        settings.resources.cpu.quota = Some(50_000);
        settings.resources.cpu.period = Some(100_000);
        settings.whole_cpus = true;
        let mut host = HostConfig { nano_cpus: 1, ..HostConfig::default() };
        updated(&mut host, &settings);
        assert_eq!((host.memory, host.nano_cpus, host.cpu_quota), (1 << 26, 500_000_000, 0));
        assert_eq!(
            (host.restart_policy.name.as_str(), host.restart_policy.maximum_retry_count),
            ("on-failure", 3)
        );
    }

    #[test]
    fn times_are_as_go_prints_them() {
        assert_eq!(time(None), "0001-01-01T00:00:00Z");
        assert_eq!(time(Some(1_795_224_540_832_474_590)), "2026-11-21T01:29:00.83247459Z");
        assert_eq!(time(Some(1_795_224_540_000_000_000)), "2026-11-21T01:29:00Z");
    }
}
