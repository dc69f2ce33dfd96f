//! `inspect`: documents as the daemon has them.
//!
//! Without a format the documents are not parsed at all, only indented: what
//! this build does not know is shown, too. A template sees the document as the
//! reference's types: objects are structs, whose unknown fields are an error,
//! but for those that hold names of users' making (labels, networks, …), where
//! a name that is not there is no error.

use hull_api::client::{Client, Error, Query, segment};
use hull_template::{Field, Map, Missing, Options, Struct, Template};
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::flags::{Flag, Given};
use crate::format::indent;
use crate::session::{Session, print, say};

pub(crate) static INSPECT: Command = Command {
    paths: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    summary: "Show all about containers, images and so on",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        FORMAT,
        Flag::switch("size", "Show sizes of containers, too").short('s'),
        Flag::text("type", "Look among these only: container, image, network, volume"),
    ]],
    run: |session, given| Box::pin(any(session, given)) as Outcome<'_>,
};

pub(crate) static CONTAINER: Command = Command {
    paths: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary: "Show all about containers",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[FORMAT, Flag::switch("size", "Show sizes, too").short('s')]],
    run: |session, given| Box::pin(of_kind(session, given, "container")) as Outcome<'_>,
};

pub(crate) static IMAGE: Command = Command {
    paths: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    summary: "Show all about images",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[FORMAT, Flag::text("platform", "The platform to show, as os[/arch[/variant]]")]],
    run: |session, given| Box::pin(of_kind(session, given, "image")) as Outcome<'_>,
};

pub(crate) static NETWORK: Command = Command {
    paths: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    summary: "Show all about networks",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[FORMAT, Flag::switch("verbose", "Show what helps to find faults, too").short('v')]],
    run: |session, given| Box::pin(of_kind(session, given, "network")) as Outcome<'_>,
};

pub(crate) static VOLUME: Command = Command {
    paths: &["volume inspect"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    summary: "Show all about volumes",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[FORMAT]],
    run: |session, given| Box::pin(of_kind(session, given, "volume")) as Outcome<'_>,
};

const FORMAT: Flag = Flag::text("format", "Show as 'json', or by a Go template").short('f');

/// Kinds in the order in which a name is looked up, with their paths.
const KINDS: [(&str, &str, &str); 4] = [
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
];

async fn any(session: &Session, given: &Given) -> Result<u8, Failure> {
    let kind = given.text("type");
    if !kind.is_empty() || given.has("type") {
        let known = KINDS.iter().any(|(name, ..)| *name == kind);
        if !known {
            return Err(fail(format!(
                "unknown type: \"{kind}\": must be one of \"config\", \"container\", \"image\", \
                 \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
            )));
        }
        return of_kind(session, given, kind).await;
    }
    let size = given.on("size");
    let mut found = Found::new(given)?;
    for name in &given.arguments {
        let mut answer = None;
        for (kind, ..) in KINDS {
            match fetch(&session.client, kind, name, size, "").await {
                Err(Failed::Daemon(error)) if looks_elsewhere(&error) => {}
                other => {
                    if size && kind != "container" && other.is_ok() {
                        say(&format!("WARNING: --size ignored for {kind}"));
                    }
                    answer = Some(other);
                    break;
                }
            }
        }
        match answer {
            Some(answer) => found.add(answer),
            None => found.errors.push(format!("Error: No such object: {name}")),
        }
    }
    found.show()
}

/// Not of this kind, or a kind this daemon has not: look among the next.
fn looks_elsewhere(error: &Error) -> bool {
    error.is_not_found() || error.status() == Some(http::StatusCode::NOT_IMPLEMENTED)
}

async fn of_kind(session: &Session, given: &Given, kind: &str) -> Result<u8, Failure> {
    let mut found = Found::new(given)?;
    let size = kind == "container" && given.on("size");
    let platform = if kind == "image" && given.has("platform") {
        crate::image::platform_document(given.text("platform"))
    } else {
        String::new()
    };
    for name in &given.arguments {
        found.add(fetch(&session.client, kind, name, size, &platform).await);
    }
    found.show()
}

enum Failed {
    Daemon(Error),
    Named(&'static str),
}

async fn fetch(
    client: &Client,
    kind: &str,
    name: &str,
    size: bool,
    platform: &str,
) -> Result<Vec<u8>, Failed> {
    if name.trim().is_empty() {
        return Err(Failed::Named("invalid container name or ID: value is empty"));
    }
    let (_, before, after) = KINDS.iter().find(|(one, ..)| *one == kind).unwrap_or(&KINDS[0]);
    let path = format!("{before}{}{after}", segment(name));
    let query = Query::new().switch("size", size && kind == "container").unless_empty("platform", platform);
    let answer = client.get(&path, &query).await.map_err(Failed::Daemon)?;
    let bytes = answer.bytes().await.map_err(Failed::Daemon)?;
    Ok(bytes.to_vec())
}

/// Documents and refusals, to be shown at the end.
struct Found {
    template: Option<Template>,
    json: bool,
    documents: Vec<Vec<u8>>,
    errors: Vec<String>,
}

impl Found {
    fn new(given: &Given) -> Result<Found, Failure> {
        let text = given.text("format");
        let template = match text {
            "" | "json" => None,
            text => {
                let parsed = Template::parse("", text).map_err(|error| Failure {
                    code: 64,
                    message: format!("template parsing error: {error}"),
                })?;
                Some(parsed)
            }
        };
        Ok(Found { template, json: text == "json", documents: Vec::new(), errors: Vec::new() })
    }

    fn add(&mut self, answer: Result<Vec<u8>, Failed>) {
        match answer {
            Ok(document) => self.documents.push(document),
            Err(Failed::Daemon(error)) => self.errors.push(chain(&error)),
            Err(Failed::Named(reason)) => self.errors.push(reason.to_owned()),
        }
    }

    fn show(mut self) -> Result<u8, Failure> {
        let mut out = String::new();
        match &self.template {
            Some(template) => {
                for document in &self.documents {
                    match apply(template, document) {
                        Ok(text) => out.push_str(&text),
                        Err(reason) => {
                            self.errors.push(reason);
                            break;
                        }
                    }
                    out.push('\n');
                }
                if self.documents.is_empty() || !self.errors.is_empty() && out.is_empty() {
                    out.push('\n');
                }
            }
            None => {
                let mut all = vec![b'['];
                for (index, document) in self.documents.iter().enumerate() {
                    if index > 0 {
                        all.push(b',');
                    }
                    all.extend_from_slice(document.trim_ascii());
                }
                all.push(b']');
                if self.json {
                    out.push_str(&String::from_utf8_lossy(&all));
                } else {
                    out.push_str(&indent(&all, 0));
                }
                out.push('\n');
            }
        }
        print(&out);
        crate::container::each::gathered(self.errors)
    }
}

/// Objects that are maps, with what an absent key of them is.
const MAPS: [(&str, bool); 15] = [
    ("Annotations", true),
    ("Data", true),
    ("DriverOpts", true),
    ("ExposedPorts", false),
    ("Labels", true),
    ("Networks", false),
    ("Options", true),
    ("PortBindings", false),
    ("Ports", false),
    ("StorageOpt", true),
    ("Sysctls", true),
    ("Tmpfs", true),
    ("Volumes", false),
    ("LogConfig.Config", true),
    ("Containers", false),
];

/// Values that are `null` for want of a value, not of a list or map.
const POINTERS: [&str; 9] = [
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "ImageManifestDescriptor",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "StopTimeout",
];

/// The document as the reference's types; `path` ends in the value's name.
fn typed(json: &Value, parent: &str, name: &str) -> hull_template::Value {
    let fields = match json {
        Value::Array(items) => {
            return items.iter().map(|item| typed(item, name, "")).collect();
        }
        Value::Object(fields) => fields,
        Value::Null if POINTERS.contains(&name) => return hull_template::Value::NilPointer(""),
        Value::Null if MAPS.iter().any(|(known, _)| *known == name) => {
            return Map { nil: true, ..Map::default() }.into();
        }
        // Everything else that the reference leaves out is a list.
        Value::Null => return hull_template::Value::NilList,
        other => return other.into(),
    };
    let path = format!("{parent}.{name}");
    let map = MAPS.iter().find(|(known, _)| *known == name || *known == path);
    match map {
        Some((_, of_texts)) => Map {
            nil: false,
            entries: fields.iter().map(|(key, value)| (key.clone(), typed(value, name, ""))).collect(),
            zero: if *of_texts { "".into() } else { hull_template::Value::Nil },
        }
        .into(),
        None => Struct {
            type_name: "types.Inspected".into(),
            fields: fields
                .iter()
                .map(|(key, value)| Field {
                    name: key.clone().into(),
                    json: key.clone().into(),
                    value: typed(value, name, key),
                })
                .collect(),
            ..Struct::default()
        }
        .into(),
    }
}

fn apply(template: &Template, document: &[u8]) -> Result<String, String> {
    let json: Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    if let Ok(text) = template.exec(&typed(&json, "", ""), &Options::default()) {
        return Ok(text);
    }
    // The reference tries plain maps when its types fail; so are its errors.
    let options = Options { missing: Missing::Error, ..Options::default() };
    template
        .exec(&hull_template::Value::from(json), &options)
        .map_err(|error| format!("template parsing error: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, document: &str) -> String {
        let template = Template::parse("", text).unwrap();
        apply(&template, document.as_bytes()).unwrap_or_else(|error| error)
    }

    #[test]
    fn templates_reach_into_documents() {
        let document = r#"{"State":{"Pid":42,"Status":"running"},"Config":{"Env":["A=b"],"Labels":{"x":"y"}},"HostConfig":{"Binds":null,"PidsLimit":null},"Name":"/i1"}"#;
        for (text, result) in [
            ("{{.State.Pid}} {{.Name}}", "42 /i1"),
            ("{{json .Config.Env}}", r#"["A=b"]"#),
            ("{{index .Config.Labels \"x\"}}", "y"),
            ("{{index .Config.Labels \"z\"}}.", "."),
            ("{{.Config.Labels.z}}", "<no value>"),
            ("{{.HostConfig.Binds}} {{.HostConfig.PidsLimit}}", "[] <nil>"),
            ("{{json .HostConfig}}", r#"{"Binds":null,"PidsLimit":null}"#),
            ("{{json .State}}", r#"{"Pid":42,"Status":"running"}"#),
            (
                "{{.Nope}}",
                "template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
            ),
        ] {
            assert_eq!(shown(text, document), result, "{text}");
        }
    }
}
