//! What `logs --details` puts before each line: labels and variables of the container that the log
//! driver's options name, and its tag.
//!
//! They are the same for all lines of a container, so they are worked out when a log is read and
//! written into none of its frames.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hull_template::{Options, Template, Value};
use serde_json::json;

use super::view::{View, short};

/// `NAME=VALUE,NAME=VALUE ` in the order of the names, escaped as in a query; a lone space where
/// there is nothing, as in the reference.
pub(super) fn prefix(view: &View) -> String {
    let options = &view.settings.log.options;
    let names = |option: &str| {
        let list = options.get(option).map(String::as_str).unwrap_or_default();
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut details = BTreeMap::new();
    for name in names("labels") {
        if let Some(value) = view.settings.labels.get(&name) {
            details.insert(name, value.clone());
        }
    }
    for name in names("env") {
        // Of several the last is what the program sees.
        let value = view.settings.env.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.to_owned())
        });
        if let Some(value) = value {
            details.insert(name, value);
        }
    }
    if let Some(tag) = options.get("tag").filter(|tag| !tag.is_empty()) {
        details.insert("tag".to_owned(), render(tag, view));
    }
    let mut text = String::new();
    for (name, value) in details {
        if !text.is_empty() {
            text.push(',');
        }
        escape(&name, &mut text);
        text.push('=');
        escape(&value, &mut text);
    }
    text.push(' ');
    text
}

/// A tag that is no template is shown as it was given: it is the reader who asks, not the writer.
fn render(tag: &str, view: &View) -> String {
    let image = view.image.id.hex();
    let data = json!({
        "ID": short(&view.id),
        "FullID": view.id,
        "Name": view.name,
        "ImageID": short(image),
        "ImageFullID": view.image.id.to_string(),
        "ImageName": view.image.name,
        "DaemonName": "docker",
    });
    Template::parse("log-tag", tag)
        .ok()
        .and_then(|template| template.exec(&Value::from(&data), &Options::default()).ok())
        .unwrap_or_else(|| tag.to_owned())
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}
