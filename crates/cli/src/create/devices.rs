//! `--device` and `--gpus`.

use serde_json::{Map, Value, json};

use super::mount::fields;
use crate::flags::quoted;

/// A device of the host, or a device that a vendor's CDI file describes.
pub(crate) enum Device {
    Host(Value),
    Described(String),
}

pub(crate) fn device(text: &str) -> Result<Device, String> {
    if described(text) {
        return Ok(Device::Described(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let mode = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b)) && text.len() <= 3;
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        // One letter or three that are all access letters: not a path.
        [source, access] if mode(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if mode(access) => (source, target, access),
        [_, _, access] => return Err(format!("bad mode specified: {access}")),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if target != source && !target.starts_with('/') {
        return Err(format!("{target} is not an absolute path"));
    }
    Ok(Device::Host(json!({
        "PathOnHost": source,
        "PathInContainer": target,
        "CgroupPermissions": access,
    })))
}

/// `vendor/class=name`, which no path is.
fn described(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    kind.split_once('/')
        .is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty() && !class.contains('/'))
        && !name.is_empty()
}

/// What `--gpus` asks for, as a device request.
pub(crate) fn gpu_request(text: &str) -> Result<Value, String> {
    let mut count = None;
    let mut driver = String::new();
    let mut devices = Value::Null;
    let mut capabilities = vec!["gpu".to_owned()];
    let mut options = Map::new();
    let mut seen = Vec::new();
    for field in fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", field.as_str()));
        if seen.contains(&key.to_owned()) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        match key {
            "driver" => value.clone_into(&mut driver),
            "count" => count = Some(gpu_count(value)?),
            "device" => devices = json!(value.split(',').collect::<Vec<_>>()),
            "capabilities" => capabilities.extend(value.split(',').map(str::to_owned)),
            "options" => {
                for option in value.split(',').filter(|option| !option.is_empty()) {
                    let (name, value) = option.split_once('=').unwrap_or((option, ""));
                    options.insert(name.to_owned(), json!(value));
                }
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let count = match (count, devices.is_null()) {
        (Some(count), _) => count,
        (None, true) => 1,
        (None, false) => 0,
    };
    Ok(json!({
        "Driver": driver,
        "Count": count,
        "DeviceIDs": devices,
        "Capabilities": [capabilities],
        "Options": options,
    }))
}

fn gpu_count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| {
        format!(
            "invalid count ({text}): value must be either {} or an integer: invalid syntax",
            quoted("all")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> String {
        match device(text) {
            Ok(Device::Host(value)) => value.to_string(),
            Ok(Device::Described(name)) => format!("described {name}"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn devices_are_paths_or_descriptions() {
        for (text, result) in [
            (
                "/dev/null:/dev/x:rw",
                r#"{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"rw"}"#,
            ),
            (
                "/dev/null:r",
                r#"{"PathOnHost":"/dev/null","PathInContainer":"/dev/null","CgroupPermissions":"r"}"#,
            ),
            ("/dev/null:/dev/x:zzz", "bad mode specified: zzz"),
            ("vendor.com/class=dev", "described vendor.com/class=dev"),
        ] {
            assert_eq!(host(text), result, "{text}");
        }
    }

    #[test]
    fn gpus_are_asked_for_as_the_reference_asks() {
        assert_eq!(
            gpu_request("all").unwrap().to_string(),
            r#"{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}}"#
        );
        assert_eq!(gpu_request("nonsense=1").unwrap_err(), "unexpected key 'nonsense' in 'nonsense=1'");
    }
}
