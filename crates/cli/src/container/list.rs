//! `ps`: the containers of the host.

use hull_api::client::Query;
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::filters;
use crate::flags::{Flag, Given, integer, quoted};
use crate::format::{self, Format, List, Row, ago, ellipsis, moment, short_id};
use crate::session::{Session, print};
use crate::units::human_size;

pub(crate) static LIST: Command = Command {
    paths: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    summary: "List containers",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all", "Show also those that do not run").short('a'),
        Flag::list("filter", filters::check, "Show only what meets a condition").short('f').label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::value("last", "int", integer, "Show the n that were created last, running or not")
            .short('n')
            .default("-1"),
        Flag::switch("latest", "Show the one that was created last, running or not").short('l'),
        Flag::switch("no-trunc", "Show values in full"),
        Flag::switch("quiet", "Show IDs only").short('q'),
        Flag::switch("size", "Show how much disk is used").short('s'),
    ]],
    run: |session, given| Box::pin(list(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*formatter.ContainerContext",
    complaint: "failed to execute template",
    headings: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("Size", "SIZE"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("State", "STATE"),
    ],
};

const COLUMNS: [&str; 8] = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", "Size"];

async fn list(session: &Session, given: &Given) -> Result<u8, Failure> {
    let quiet = given.on("quiet");
    let mut wanted = given.text("format");
    if wanted.is_empty() && !quiet {
        wanted = &session.config().ps_format;
    }
    let format = Format::parse(wanted);
    let size = given.on("size") || format.mentions("Size");
    let limit = match given.on("latest") {
        true => 1,
        false => given.number("last"),
    };
    let mut query = Query::new().switch("all", given.on("all")).switch("size", size);
    if limit > 0 {
        query = query.with("limit", limit.to_string());
    }
    query = filters::add(query, given.list("filter"));
    let answer = session.client.get("/containers/json", &query).await?;
    let containers: Vec<Value> = answer.json().await?;
    let full = given.on("no-trunc");
    if quiet && matches!(format, Format::Table) {
        let ids: String = containers.iter().map(|one| id(one, full).to_owned() + "\n").collect();
        print(&ids);
        return Ok(0);
    }
    let rows: Vec<Row> = containers.iter().map(|one| row(one, full)).collect();
    let columns = if given.on("size") { &COLUMNS[..] } else { &COLUMNS[..7] };
    print(&format::render(&format, &LIST_OF, columns, &rows)?);
    Ok(0)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn id(container: &Value, full: bool) -> &str {
    let id = text(container, "Id");
    if full { id } else { short_id(id) }
}

/// The fields of one container, ready to be shown.
pub(crate) fn row(container: &Value, full: bool) -> Row {
    let created = container["Created"].as_i64().unwrap_or(0);
    let command = text(container, "Command");
    let command = if full { quoted(command) } else { quoted(&ellipsis(command, 20)) };
    format::row([
        ("ID", json!(id(container, full))),
        ("Image", json!(image(container, full))),
        ("Command", json!(command)),
        ("CreatedAt", json!(moment(created))),
        ("RunningFor", json!(ago(created))),
        ("Ports", json!(ports(&container["Ports"]))),
        ("State", json!(text(container, "State"))),
        ("Status", json!(text(container, "Status"))),
        ("Size", json!(size(container))),
        ("Names", json!(names(&container["Names"], full))),
        ("Labels", json!(labels(&container["Labels"]))),
        ("Mounts", json!(mounts(&container["Mounts"], full))),
        ("LocalVolumes", json!(local_volumes(&container["Mounts"]))),
        ("Networks", json!(networks(container))),
        ("Platform", Value::Null),
    ])
}

fn image(container: &Value, full: bool) -> String {
    let image = text(container, "Image");
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if full {
        return image.to_owned();
    }
    let by_id = short_id(text(container, "ImageID"));
    if by_id == short_id(image) {
        return by_id.to_owned();
    }
    let untagged = image.split('@').next().unwrap_or(image);
    untagged.to_owned()
}

fn names(names: &Value, full: bool) -> String {
    let names: Vec<&str> = names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        // A name within another is a link to it.
        .filter(|name| full || !name.contains('/'))
        .collect();
    names.join(",")
}

pub(crate) fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs.join(",")
}

fn mounts(mounts: &Value, full: bool) -> String {
    let shown: Vec<String> = mounts
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| match text(mount, "Name") {
            "" => text(mount, "Source"),
            name => name,
        })
        .map(|name| if full { name.to_owned() } else { ellipsis(name, 15) })
        .collect();
    shown.join(",")
}

fn local_volumes(mounts: &Value) -> String {
    let local = mounts.as_array().into_iter().flatten();
    local.filter(|mount| text(mount, "Driver") == "local").count().to_string()
}

fn networks(container: &Value) -> String {
    let mut names: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names.join(",")
}

fn size(container: &Value) -> String {
    let bytes = |key: &str| container[key].as_f64().unwrap_or(0.0);
    let own = human_size(bytes("SizeRw"), 3);
    match bytes("SizeRootFs") {
        all if all > 0.0 => format!("{own} (virtual {})", human_size(all, 3)),
        _ => own,
    }
}

/// Ports with neighbours drawn together: `0.0.0.0:80-81->80-81/tcp`.
fn ports(ports: &Value) -> String {
    struct Port<'a> {
        private: u64,
        public: u64,
        address: &'a str,
        kind: &'a str,
    }
    let mut all: Vec<Port<'_>> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| Port {
            private: port["PrivatePort"].as_u64().unwrap_or(0),
            public: port["PublicPort"].as_u64().unwrap_or(0),
            address: text(port, "IP"),
            kind: text(port, "Type"),
        })
        .collect();
    all.sort_by_key(|port| (port.private, port.address, port.public, port.kind));
    let mut shown = Vec::new();
    let mut moved = Vec::new();
    let mut groups: Vec<(&str, &str, u64, u64)> = Vec::new();
    for port in &all {
        if !port.address.is_empty() && port.public != port.private {
            let outside = joined(port.address, &port.public.to_string());
            moved.push(format!("{outside}->{}/{}", port.private, port.kind));
            continue;
        }
        let group =
            groups.iter_mut().find(|(address, kind, ..)| *address == port.address && *kind == port.kind);
        match group {
            None => groups.push((port.address, port.kind, port.private, port.private)),
            Some((.., last)) if *last + 1 == port.private => *last = port.private,
            Some(group) => {
                shown.push(grouped(*group));
                *group = (port.address, port.kind, port.private, port.private);
            }
        }
    }
    shown.extend(groups.into_iter().map(grouped));
    shown.extend(moved);
    shown.join(", ")
}

fn grouped((address, kind, first, last): (&str, &str, u64, u64)) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    match address {
        "" => format!("{range}/{kind}"),
        address => format!("{}->{range}/{kind}", joined(address, &range)),
    }
}

fn joined(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ports_are_drawn_together() {
        let port = |address: &str, private: u64, public: u64, kind: &str| json!({ "IP": address, "PrivatePort": private, "PublicPort": public, "Type": kind });
        for (given, shown) in [
            (json!([]), ""),
            (json!([{ "PrivatePort": 80, "Type": "tcp" }]), "80/tcp"),
            (
                json!([port("0.0.0.0", 80, 81, "tcp"), port("::", 80, 81, "tcp")]),
                "0.0.0.0:81->80/tcp, [::]:81->80/tcp",
            ),
            (
                json!([
                    port("0.0.0.0", 90, 90, "tcp"),
                    port("0.0.0.0", 91, 91, "tcp"),
                    port("0.0.0.0", 95, 95, "tcp")
                ]),
                "0.0.0.0:90-91->90-91/tcp, 0.0.0.0:95->95/tcp",
            ),
        ] {
            assert_eq!(ports(&given), shown);
        }
    }

    #[test]
    fn a_row_shows_what_people_look_for() {
        let container = json!({
            "Id": "cac31b815b3a5f00aa", "Names": ["/run1", "/other/alias"],
            "Image": "busybox@sha256:00", "ImageID": "sha256:5c7d7fd7b619166d",
            "Command": "sh -c 'echo a long command'", "Created": 0,
            "Ports": [], "Labels": {"b": "2", "a": "1"}, "State": "running",
            "Status": "Up 2 seconds", "Mounts": [{"Name": "", "Source": "/a/very/long/source", "Driver": ""},
            {"Name": "nv", "Driver": "local"}],
            "NetworkSettings": {"Networks": {"bridge": {}}}
        });
        let row = row(&container, false);
        for (key, value) in [
            ("ID", "cac31b815b3a"),
            ("Names", "run1"),
            ("Image", "busybox"),
            ("Command", "\"sh -c 'echo a long …\""),
            ("Labels", "a=1,b=2"),
            ("Mounts", "/a/very/long/s…,nv"),
            ("LocalVolumes", "1"),
            ("Networks", "bridge"),
            ("Size", "0B"),
        ] {
            assert_eq!(row[key], value, "{key}");
        }
    }
}
