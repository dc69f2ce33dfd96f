//! What an answer looks like to a client of an older version of the API.
//!
//! The types of this crate print what [`ApiVersion::NEWEST`] prints; every difference of an older
//! version is one line here. What is listed was recorded from the reference at 1.24, 1.30, 1.40,
//! 1.41, 1.43, 1.44, 1.45, 1.47, 1.49 and 1.51.

use serde_json::{Map, Value, json};

use crate::ApiVersion;

/// The media type of a stream of a container's output: raw where it has a terminal, and for
/// every client before 1.42, which knew only this name.
pub fn stream_type(version: ApiVersion, terminal: bool) -> &'static str {
    if terminal || version.before(42) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
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

/// One of the images in `GET /system/df`, and most of a row of `GET /images/json`.
pub fn image_summary(version: ApiVersion, row: &mut Value) {
    let Some(fields) = row.as_object_mut() else { return };
    if version.before(44) {
        let size = fields.get("Size").cloned().unwrap_or_default();
        fields.insert("VirtualSize".into(), size);
    }
    if version.before(43) {
        for name in ["RepoTags", "RepoDigests"] {
            if fields.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty) {
                fields.insert(name.into(), Value::Null);
            }
        }
    }
}

/// `GET /images/NAME/json`.
pub fn image_inspect(version: ApiVersion, image: &mut Value) {
    let Some(fields) = image.as_object_mut() else { return };
    if version.before(44) {
        let size = fields.get("Size").cloned().unwrap_or_default();
        fields.insert("VirtualSize".into(), size);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minor: u32) -> ApiVersion {
        ApiVersion::new(1, minor)
    }

    #[test]
    fn info_has_the_fields_of_its_version() {
        let newest = json!({
            "RuncCommit": {"ID": "x"}, "ContainerdCommit": {"ID": ""}, "FirewallBackend": {"Driver": "nftables"},
            "RegistryConfig": {"Mirrors": null}, "SecurityOptions": ["name=seccomp,profile=builtin"],
        });
        let view = |minor| {
            let mut value = newest.clone();
            info(at(minor), &mut value);
            value
        };
        assert_eq!(view(51), newest);
        assert_eq!(view(50), newest);
        assert_eq!(view(49)["BridgeNfIptables"], json!(false));
        assert_eq!(view(49)["FirewallBackend"]["Driver"], "nftables");
        assert!(view(48).get("FirewallBackend").is_none());
        assert_eq!(view(48)["RuncCommit"]["Expected"], "x");
        assert!(view(48)["ContainerdCommit"].get("Expected").is_none());
        assert!(view(47)["RegistryConfig"].get("AllowNondistributableArtifactsCIDRs").is_none());
        assert!(view(46)["RegistryConfig"].get("AllowNondistributableArtifactsCIDRs").is_some());
        assert!(view(42).get("KernelMemory").is_none());
        assert_eq!(view(41)["KernelMemory"], json!(true));
        assert_eq!(view(24)["SecurityOptions"], json!(["seccomp"]));
    }

    #[test]
    fn images_have_the_fields_of_their_version() {
        let row = |minor| {
            let mut value = json!({"Containers": 2, "Size": 7, "RepoTags": ["a:1"], "RepoDigests": []});
            image_row(at(minor), &mut value);
            value
        };
        assert_eq!(row(51), json!({"Containers": 2, "Size": 7, "RepoTags": ["a:1"], "RepoDigests": []}));
        assert_eq!(row(50)["Containers"], -1);
        assert_eq!(row(43)["VirtualSize"], 7);
        assert_eq!(row(43)["RepoDigests"], json!([]));
        assert_eq!(row(42)["RepoDigests"], Value::Null);
        let full = |minor| {
            let mut value = json!({"Size": 7, "Config": {"Cmd": ["sh"]}});
            image_inspect(at(minor), &mut value);
            value
        };
        assert_eq!(full(50), json!({"Size": 7, "Config": {"Cmd": ["sh"]}}));
        assert_eq!(full(49)["Config"]["Hostname"], "");
        assert!(full(45).get("ContainerConfig").is_none());
        assert_eq!(full(44)["ContainerConfig"]["Tty"], json!(false));
        assert_eq!(full(43)["VirtualSize"], 7);
    }

    #[test]
    fn multiplexed_streams_have_a_name_since_1_42() {
        assert_eq!(stream_type(at(41), false), "application/vnd.docker.raw-stream");
        assert_eq!(stream_type(at(42), false), "application/vnd.docker.multiplexed-stream");
        assert_eq!(stream_type(at(51), true), "application/vnd.docker.raw-stream");
    }
}
