//! What an answer looks like to a client of an older version of the API, and what a request of an
//! older one means ([`request`]).
//!
//! The types of this crate print what [`ApiVersion::NEWEST`] prints; every difference of an older
//! version is one line here. Up to 1.51 they were recorded from the reference at 1.24, 1.30, 1.40,
//! 1.41, 1.43, 1.44, 1.45, 1.47, 1.49 and 1.51; those of 1.52 and 1.53 are from its version history.

pub mod request;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::ApiVersion;
use crate::stats::Stats;

/// The media type of a stream of a container's output: raw where it has a terminal, and for
/// every client before 1.42, which knew only this name.
pub fn stream_type(version: ApiVersion, terminal: bool) -> &'static str {
    if terminal || version.before(42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    }
}

/// A row of `GET /containers/json`.
pub fn container_row(version: ApiVersion, row: &mut Value) {
    let Some(fields) = row.as_object_mut() else { return };
    if version.before(52) {
        fields.shift_remove("Health");
    }
    if version.before(46)
        && let Some(host) = fields.get_mut("HostConfig").and_then(Value::as_object_mut)
    {
        host.shift_remove("Annotations");
    }
}

/// `GET /containers/ID/json`.
pub fn container(version: ApiVersion, container: &mut Value) {
    if !version.before(52) {
        return;
    }
    let id = container["Id"].as_str().unwrap_or_default().chars().take(12).collect::<String>();
    let hostname = container["Config"]["Hostname"].as_str().unwrap_or_default().to_owned();
    if let Some(config) = container.get_mut("Config").and_then(Value::as_object_mut) {
        config.entry("OnBuild").or_insert(Value::Null);
    }
    let Some(settings) = container.get_mut("NetworkSettings").and_then(Value::as_object_mut) else { return };
    if version.before(45) {
        let networks = settings.get_mut("Networks").and_then(Value::as_object_mut);
        for (_, endpoint) in networks.into_iter().flatten().filter(|(name, _)| !is_built_in(name)) {
            add_aliases(endpoint, [&id, &hostname]);
        }
    }
    bridge_fields(settings);
}

/// The networks that the engine makes itself, or that are no network's name.
fn is_built_in(mode: &str) -> bool {
    matches!(mode, "" | "default" | "bridge" | "host" | "none") || mode.starts_with("container:")
}

/// Before 1.45 the short id and the host name stood among the aliases.
fn add_aliases(endpoint: &mut Value, names: [&str; 2]) {
    let mut aliases = endpoint["Aliases"].as_array().cloned().unwrap_or_default();
    for name in names {
        if !name.is_empty() && !aliases.iter().any(|alias| alias == name) {
            aliases.push(name.into());
        }
    }
    endpoint["Aliases"] = aliases.into();
}

/// Before 1.52 the end at the default bridge was shown a second time, above the networks.
fn bridge_fields(settings: &mut Map<String, Value>) {
    let bridge = settings.get("Networks").and_then(|networks| networks.get("bridge")).cloned();
    for (name, value) in [
        ("Bridge", json!("")),
        ("HairpinMode", json!(false)),
        ("LinkLocalIPv6Address", json!("")),
        ("LinkLocalIPv6PrefixLen", json!(0)),
        ("SecondaryIPAddresses", Value::Null),
        ("SecondaryIPv6Addresses", Value::Null),
    ] {
        settings.insert(name.into(), value);
    }
    for (name, absent) in [
        ("EndpointID", json!("")),
        ("Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
        ("IPAddress", json!("")),
        ("IPPrefixLen", json!(0)),
        ("IPv6Gateway", json!("")),
        ("MacAddress", json!("")),
    ] {
        let value = bridge.as_ref().and_then(|bridge| bridge.get(name)).cloned();
        settings.insert(name.into(), value.unwrap_or(absent));
    }
}

/// `GET /containers/ID/stats`: before 1.52 it did not name the system.
pub fn stats(version: ApiVersion, stats: &mut Stats) {
    if version.before(52) {
        stats.os_type.clear();
    }
}

/// An event: before 1.52 with the names that it had before 1.22, ahead of all others.
pub fn event(version: ApiVersion, event: &mut Value) {
    if !version.before(52) {
        return;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut old = vec![("status", text(&event["Action"])), ("id", text(&event["Actor"]["ID"]))];
    match event["Type"].as_str() {
        Some("container") => old.push(("from", text(&event["Actor"]["Attributes"]["image"]))),
        Some("image") => {}
        _ => return,
    }
    let mut fields: Map<String, Value> = old
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    fields.append(event.as_object_mut().unwrap_or(&mut Map::new()));
    *event = fields.into();
}

/// Whether a client of this version is told of an event at all.
pub fn event_exists(version: ApiVersion, kind: &str, action: &str) -> bool {
    !(version.before(46) && kind == "image" && action == "create")
}

/// A row of `GET /networks`, which shows no containers: before 1.28 it did, and up to 1.51 an
/// empty set stood in their place.
pub fn network_row(version: ApiVersion, row: &mut Value) {
    let Some(fields) = row.as_object_mut() else { return };
    fields.shift_remove("Status");
    if !version.before(52) {
        fields.shift_remove("Containers");
    } else if !version.before(28) {
        fields.insert("Containers".into(), json!({}));
    }
}

/// `GET /networks/NAME`: since 1.52 with how full its subnets are.
pub fn network(version: ApiVersion, network: &mut Value) {
    if let Some(fields) = network.as_object_mut().filter(|_| version.before(52)) {
        fields.shift_remove("Status");
    }
}

/// `GET /info`.
pub fn info(version: ApiVersion, info: &mut Value) {
    let Some(fields) = info.as_object_mut() else { return };
    if version.before(50) {
        fields.insert("BridgeNfIptables".into(), json!(false));
        fields.insert("BridgeNfIp6tables".into(), json!(false));
    }
    if version.before(49) {
        fields.remove("FirewallBackend");
        for name in ["RuncCommit", "ContainerdCommit", "InitCommit"] {
            expected_commit(fields, name);
        }
    }
    if version.before(47)
        && let Some(registry) = fields.get_mut("RegistryConfig").and_then(Value::as_object_mut)
    {
        registry.insert("AllowNondistributableArtifactsCIDRs".into(), Value::Null);
        registry.insert("AllowNondistributableArtifactsHostnames".into(), Value::Null);
    }
    if version.before(42) {
        fields.insert("KernelMemory".into(), json!(true));
    }
    if version < ApiVersion::new(1, 25) {
        // Only the first word of `name=seccomp,profile=…`.
        if let Some(options) = fields.get_mut("SecurityOptions").and_then(Value::as_array_mut) {
            for option in options {
                let word = option.as_str().unwrap_or_default();
                let name = word.split(',').next().unwrap_or_default();
                *option = json!(name.strip_prefix("name=").unwrap_or(name));
            }
        }
    }
}

/// Before 1.49 a commit that is known was also the expected one.
fn expected_commit(fields: &mut Map<String, Value>, name: &str) {
    if let Some(commit) = fields.get_mut(name).and_then(Value::as_object_mut) {
        let id = commit.get("ID").cloned().unwrap_or_default();
        if id.as_str().is_some_and(|id| !id.is_empty()) {
            commit.insert("Expected".into(), id);
        }
    }
}

/// A row of `GET /images/json`: before 1.51 it does not tell how many containers an image has.
pub fn image_row(version: ApiVersion, row: &mut Value) {
    image_summary(version, row);
    if version.before(51)
        && let Some(fields) = row.as_object_mut()
    {
        fields.insert("Containers".into(), Value::from(-1));
    }
}

/// `GET /system/df`. `detailed` is `?verbose=1`, which came with 1.52: without it the single things
/// are listed under their old names, which is all that an older client knows.
pub fn disk_usage(version: ApiVersion, usage: &mut Value, detailed: bool) {
    let Some(fields) = usage.as_object_mut() else { return };
    let old = version.before(52);
    for (name, of_kind) in [
        ("Images", "ImageUsage"),
        ("Containers", "ContainerUsage"),
        ("Volumes", "VolumeUsage"),
        ("BuildCache", "BuildCacheUsage"),
    ] {
        let (mut items, size) = match fields.get_mut(of_kind).and_then(Value::as_object_mut) {
            Some(kind) => (kind.shift_remove("Items"), kind.get("TotalSize").cloned()),
            // Not asked for.
            None if old => (None, Some(json!(0))),
            None => continue,
        };
        for row in items.as_mut().and_then(Value::as_array_mut).into_iter().flatten() {
            match name {
                "Images" => image_summary(version, row),
                "Containers" => container_row(version, row),
                _ => {}
            }
        }
        if detailed && !old {
            if let (Some(kind), Some(items)) = (fields.get_mut(of_kind), items) {
                kind["Items"] = items;
            }
            continue;
        }
        if name == "Images" {
            fields.insert("LayersSize".into(), size.unwrap_or_default());
        }
        fields.insert(name.into(), items.unwrap_or_default());
        if old {
            fields.shift_remove(of_kind);
        }
    }
}

/// One of the images in `GET /system/df`, and most of a row of `GET /images/json`.
pub fn image_summary(version: ApiVersion, row: &mut Value) {
    let Some(fields) = row.as_object_mut() else { return };
    if version.before(44) {
        let size = fields.get("Size").cloned().unwrap_or_default();
        fields.insert("VirtualSize".into(), size);
    }
    if version.before(43) {
        let names = [("RepoTags", "<none>:<none>"), ("RepoDigests", "<none>@<none>")];
        let is_empty =
            |(name, _): &(&str, &str)| fields.get(*name).and_then(Value::as_array).is_none_or(Vec::is_empty);
        let nameless = names.iter().all(is_empty);
        for name in names.into_iter().filter(is_empty).collect::<Vec<_>>() {
            let value = if nameless { json!([name.1]) } else { Value::Null };
            fields.insert(name.0.into(), value);
        }
    }
}

/// `GET /images/NAME/json`.
pub fn image_inspect(version: ApiVersion, image: &mut Value) {
    let Some(fields) = image.as_object_mut() else { return };
    if version.before(44) {
        let size = fields.get("Size").cloned().unwrap_or_default();
        fields.insert("VirtualSize".into(), size);
        fields.entry("Created").or_insert_with(|| json!("0001-01-01T00:00:00Z"));
    }
    if version.before(45) {
        let mut config = json!({
            "Env": null, "Cmd": null, "Volumes": null, "WorkingDir": "", "Entrypoint": null,
            "OnBuild": null, "Labels": null, "User": "",
        });
        container_fields(&mut config);
        fields.insert("ContainerConfig".into(), config);
    }
    if version.before(50)
        && let Some(config) = fields.get_mut("Config")
    {
        container_fields(config);
    }
    if version.before(52) {
        for name in ["Parent", "Comment", "DockerVersion", "Author"] {
            fields.entry(name).or_insert_with(|| json!(""));
        }
        if let Some(config) = fields.get_mut("Config").and_then(Value::as_object_mut) {
            for name in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
                config.entry(name).or_insert(Value::Null);
            }
            for name in ["User", "WorkingDir"] {
                config.entry(name).or_insert_with(|| json!(""));
            }
        }
    }
}

/// The names of a container's configuration that have no meaning in an image's.
fn container_fields(config: &mut Value) {
    let Some(config) = config.as_object_mut() else { return };
    for name in ["Hostname", "Domainname", "Image"] {
        config.insert(name.into(), json!(""));
    }
    for name in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
        config.insert(name.into(), json!(false));
    }
}
