//! `--mount`: one mount as `key=value` fields, separated by commas.

use serde_json::{Map, Value, json};

use crate::flags::{boolean, quoted};
use crate::units;

/// Reads the fields into the API's mount document.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut mount = Map::new();
    mount.insert("Type".to_owned(), json!("volume"));
    let mut options: [(&str, &str, Map<String, Value>); 4] = [
        ("bind", "BindOptions", Map::new()),
        ("volume", "VolumeOptions", Map::new()),
        ("image", "ImageOptions", Map::new()),
        ("tmpfs", "TmpfsOptions", Map::new()),
    ];
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None => (field.to_ascii_lowercase(), ""),
        };
        let given = field.contains('=');
        if !given && !SWITCHES.contains(&key.as_str()) {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        }
        let on = || switch(&key, value, given);
        match key.as_str() {
            "type" => set(&mut mount, "Type", value.to_ascii_lowercase()),
            "source" | "src" => set(&mut mount, "Source", absolute(value)),
            "target" | "dst" | "destination" => set(&mut mount, "Target", value.to_owned()),
            "readonly" | "ro" => {
                mount.insert("ReadOnly".to_owned(), json!(on()?));
            }
            "idmap" => {
                options[0].2.insert("IdMap".to_owned(), json!(on()?));
            }
            "consistency" => set(&mut mount, "Consistency", value.to_ascii_lowercase()),
            _ => {
                let kind = key.split('-').next().unwrap_or_default().to_owned();
                let Some((_, _, into)) = options.iter_mut().find(|(name, ..)| *name == kind) else {
                    return Err(format!("unexpected key '{key}' in '{field}'"));
                };
                option(into, &key, value, given, &field)?;
            }
        }
    }
    finish(mount, options)
}

const SWITCHES: [&str; 6] =
    ["readonly", "ro", "idmap", "volume-nocopy", "bind-nonrecursive", "bind-create-src"];

fn set(mount: &mut Map<String, Value>, key: &str, value: String) {
    mount.insert(key.to_owned(), Value::String(value));
}

fn switch(key: &str, value: &str, given: bool) -> Result<bool, String> {
    if !given {
        return Ok(true);
    }
    match boolean(value) {
        Ok(text) => Ok(text == "true"),
        Err(_) => Err(format!("invalid value for {key}: {value}")),
    }
}

/// A source that begins with a point is below the working directory.
fn absolute(source: &str) -> String {
    if source != "." && source != ".." && !source.starts_with("./") && !source.starts_with("../") {
        return source.to_owned();
    }
    match std::path::absolute(source) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => source.to_owned(),
    }
}

/// One field of a kind of mount, such as `bind-propagation`.
fn option(
    into: &mut Map<String, Value>,
    key: &str,
    value: &str,
    given: bool,
    field: &str,
) -> Result<(), String> {
    let invalid = || format!("invalid value for {key}: {value}");
    match key {
        "bind-propagation" => set(into, "Propagation", value.to_ascii_lowercase()),
        "bind-nonrecursive" => {
            into.insert("NonRecursive".into(), json!(switch(key, value, given)?));
        }
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => {
                into.insert("NonRecursive".into(), json!(true));
            }
            "writable" => {
                into.insert("ReadOnlyNonRecursive".into(), json!(true));
            }
            "readonly" => {
                into.insert("ReadOnlyForceRecursive".into(), json!(true));
            }
            _ => {
                return Err(format!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        "bind-create-src" => {
            into.insert("CreateMountpoint".into(), json!(switch(key, value, given)?));
        }
        "volume-subpath" | "image-subpath" => set(into, "Subpath", value.to_owned()),
        "volume-nocopy" => {
            into.insert("NoCopy".into(), json!(switch(key, value, given)?));
        }
        "volume-label" => pair(into, "Labels", value),
        "volume-driver" => set(driver(into), "Name", value.to_owned()),
        "volume-opt" => pair(driver(into), "Options", value),
        "tmpfs-size" => {
            let bytes = units::bytes(value).map_err(|_| invalid())?;
            into.insert("SizeBytes".into(), json!(bytes));
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
            into.insert("Mode".into(), json!(mode));
        }
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn driver(into: &mut Map<String, Value>) -> &mut Map<String, Value> {
    table(into, "DriverConfig")
}

fn pair(into: &mut Map<String, Value>, name: &str, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    table(into, name).insert(key.to_owned(), json!(value));
}

fn table<'a>(into: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let entry = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    match entry {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn finish(
    mut mount: Map<String, Value>,
    options: [(&str, &str, Map<String, Value>); 4],
) -> Result<Value, String> {
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    if kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.get("Target").is_none_or(|target| target == "") {
        return Err("target is required".to_owned());
    }
    for (name, key, mut fields) in options {
        if fields.is_empty() {
            continue;
        }
        if name != kind {
            return Err(format!("cannot mix '{name}-*' options with mount type '{kind}'"));
        }
        if name == "volume" {
            // The reference always sends the driver along.
            table(&mut fields, "DriverConfig");
        }
        mount.insert(key.to_owned(), Value::Object(fields));
    }
    let ordered = [
        "Type",
        "Source",
        "Target",
        "ReadOnly",
        "Consistency",
        "BindOptions",
        "VolumeOptions",
        "ImageOptions",
        "TmpfsOptions",
    ];
    let mut document = Map::new();
    for key in ordered {
        if let Some(value) = mount.remove(key)
            && value != json!(false)
        {
            document.insert(key.to_owned(), value);
        }
    }
    Ok(Value::Object(document))
}

/// Splits at commas; a field may be quoted as in a CSV file.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut after = inner;
            loop {
                let Some(end) = after.find('"') else {
                    return Err(format!(
                        "parse error on line 1: extraneous or missing \" in quoted-field in {}",
                        quoted(text)
                    ));
                };
                field.push_str(&after[..end]);
                after = &after[end + 1..];
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        after = more;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        }
        match rest.split_once(',') {
            Some((field, more)) => {
                fields.push(field.to_owned());
                rest = more;
            }
            None => {
                fields.push(rest.to_owned());
                return Ok(fields);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_become_the_documents_of_the_reference() {
        for (text, document) in [
            (
                "type=bind,src=/tmp/host,dst=/h,readonly",
                r#"{"Type":"bind","Source":"/tmp/host","Target":"/h","ReadOnly":true}"#,
            ),
            (
                "type=volume,src=named,dst=/d,volume-nocopy",
                r#"{"Type":"volume","Source":"named","Target":"/d","VolumeOptions":{"NoCopy":true,"DriverConfig":{}}}"#,
            ),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}"#,
            ),
            ("type=volume,dst=/anon", r#"{"Type":"volume","Target":"/anon"}"#),
            (
                "type=bind,src=/a,dst=/h,bind-propagation=rslave,bind-recursive=disabled",
                r#"{"Type":"bind","Source":"/a","Target":"/h","BindOptions":{"Propagation":"rslave","NonRecursive":true}}"#,
            ),
            (
                "type=bind,src=/a,dst=/h,idmap",
                r#"{"Type":"bind","Source":"/a","Target":"/h","BindOptions":{"IdMap":true}}"#,
            ),
            ("\"src=/a,b\",type=bind,dst=/x,ro=false", r#"{"Type":"bind","Source":"/a,b","Target":"/x"}"#),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), document, "{text}");
        }
        for (text, refusal) in [
            ("x", "invalid field 'x' must be a key=value pair"),
            ("type=bind", "target is required"),
            ("foo=1,dst=/x", "unexpected key 'foo' in 'foo=1'"),
            ("dst=/x,ro=maybe", "invalid value for ro: maybe"),
            ("dst=/x,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
            ("dst=/x,idmap", "cannot mix 'bind-*' options with mount type 'volume'"),
            ("type=tmpfs,tmpfs-size=x,dst=/d", "invalid value for tmpfs-size: x"),
        ] {
            assert_eq!(parse(text).unwrap_err(), refusal, "{text}");
        }
    }
}
