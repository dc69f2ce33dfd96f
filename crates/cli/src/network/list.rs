//! `network ls`.

use hull_api::client::Query;
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::filters;
use crate::flags::{Flag, Given};
use crate::format::{self, Format, List, Row};
use crate::natural::natural;
use crate::session::{Session, print};

pub(crate) static LIST: Command = Command {
    paths: &["network ls", "network list"],
    usage: "[OPTIONS]",
    summary: "List networks",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", filters::check, "Show only what meets a condition (\"driver=bridge\")")
            .short('f')
            .label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::switch("no-trunc", "Show values in full"),
        Flag::switch("quiet", "Show IDs only").short('q'),
    ]],
    run: |session, given| Box::pin(list(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*formatter.networkContext",
    complaint: "template parsing error",
    headings: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

async fn list(session: &Session, given: &Given) -> Result<u8, Failure> {
    let quiet = given.on("quiet");
    let mut wanted = given.text("format");
    if wanted.is_empty() && !quiet {
        wanted = &session.config().networks_format;
    }
    let format = Format::parse(wanted);
    let query = filters::add(Query::new(), given.list("filter"));
    let answer = session.client.get("/networks", &query).await?;
    let mut networks: Vec<Value> = answer.json().await?;
    let name = |network: &Value| network["Name"].as_str().unwrap_or_default().to_owned();
    networks.sort_by(|a, b| natural(&name(a), &name(b)));
    let full = given.on("no-trunc");
    let rows: Vec<Row> = networks.iter().map(|network| row(network, full)).collect();
    if quiet && matches!(format, Format::Table) {
        let ids: String =
            rows.iter().filter_map(|row| row["ID"].as_str()).map(|id| format!("{id}\n")).collect();
        print(&ids);
        return Ok(0);
    }
    print(&format::render(&format, &LIST_OF, &["ID", "Name", "Driver", "Scope"], &rows)?);
    Ok(0)
}

fn row(network: &Value, full: bool) -> Row {
    let text = |key: &str| network[key].as_str().unwrap_or_default();
    let flag = |key: &str| network[key].as_bool().unwrap_or(false).to_string();
    let id = text("Id");
    let mut labels: Vec<String> = network["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    format::row([
        ("CreatedAt", json!(created(text("Created")))),
        ("Driver", json!(text("Driver"))),
        ("ID", json!(if full { id } else { format::short_id(id) })),
        ("IPv4", json!(flag("EnableIPv4"))),
        ("IPv6", json!(flag("EnableIPv6"))),
        ("Internal", json!(flag("Internal"))),
        ("Labels", json!(labels.join(","))),
        ("Name", json!(text("Name"))),
        ("Scope", json!(text("Scope"))),
    ])
}

/// RFC 3339 as Go prints a time: `2026-11-21 01:42:04.560674399 +0000 UTC`.
fn created(text: &str) -> String {
    match text.strip_suffix('Z').and_then(|text| text.split_once('T')) {
        Some((date, time)) => format!("{date} {time} +0000 UTC"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_references() {
        let network = json!({
            "Name": "n2", "Id": "5992096e82ed9bccc8e2", "Created": "2026-11-21T01:41:49.031230438Z", "Scope": "local",
            "Driver": "bridge", "EnableIPv4": true, "EnableIPv6": false, "Internal": false, "Labels": {"b": "2", "a": "1"}
        });
        assert_eq!(
            serde_json::to_string(&row(&network, false)).unwrap(),
            r#"{"CreatedAt":"2026-11-21 01:41:49.031230438 +0000 UTC","Driver":"bridge","ID":"5992096e82ed","IPv4":"true","IPv6":"false","Internal":"false","Labels":"a=1,b=2","Name":"n2","Scope":"local"}"#
        );
    }
}
