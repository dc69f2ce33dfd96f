//! `volume ls`.

use hull_api::client::Query;
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::filters;
use crate::flags::{Flag, Given};
use crate::format::{self, Format, List, Row};
use crate::natural::natural;
use crate::session::{Session, print};

pub(crate) static LIST: Command = Command {
    paths: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    summary: "List volumes",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", filters::check, "Show only what meets a condition (\"dangling=true\")")
            .short('f')
            .label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::switch("quiet", "Show names only").short('q'),
    ]],
    run: |session, given| Box::pin(list(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*formatter.volumeContext",
    complaint: "template parsing error",
    headings: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Availability", "AVAILABILITY"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
};

async fn list(session: &Session, given: &Given) -> Result<u8, Failure> {
    let quiet = given.on("quiet");
    let mut wanted = given.text("format");
    if wanted.is_empty() && !quiet {
        wanted = &session.config().volumes_format;
    }
    let format = Format::parse(wanted);
    let query = filters::add(Query::new(), given.list("filter"));
    let answer = session.client.get("/volumes", &query).await?;
    let mut listed: Value = answer.json().await?;
    let mut volumes = match listed["Volumes"].take() {
        Value::Array(volumes) => volumes,
        _ => Vec::new(),
    };
    let name = |volume: &Value| volume["Name"].as_str().unwrap_or_default().to_owned();
    volumes.sort_by(|a, b| natural(&name(a), &name(b)));
    if quiet && matches!(format, Format::Table) {
        print(&volumes.iter().map(|volume| name(volume) + "\n").collect::<String>());
        return Ok(0);
    }
    let rows: Vec<Row> = volumes.iter().map(row).collect();
    print(&format::render(&format, &LIST_OF, &["Driver", "Name"], &rows)?);
    Ok(0)
}

fn row(volume: &Value) -> Row {
    let text = |key: &str| json!(volume[key].as_str().unwrap_or_default());
    let mut labels: Vec<String> = volume["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    // What a list of volumes does not tell: of swarms, and of the disk.
    let absent = || json!("N/A");
    format::row([
        ("Availability", absent()),
        ("Driver", text("Driver")),
        ("Group", absent()),
        ("Labels", json!(labels.join(","))),
        ("Links", absent()),
        ("Mountpoint", text("Mountpoint")),
        ("Name", text("Name")),
        ("Scope", text("Scope")),
        ("Size", absent()),
        ("Status", absent()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_references() {
        let volume = json!({
            "CreatedAt": "2026-11-21T01:47:27Z", "Driver": "local", "Labels": {"b": "2", "a": "1"},
            "Mountpoint": "/v/v2/_data", "Name": "v2", "Options": null, "Scope": "local",
        });
        assert_eq!(
            serde_json::to_string(&row(&volume)).unwrap(),
            r#"{"Availability":"N/A","Driver":"local","Group":"N/A","Labels":"a=1,b=2","Links":"N/A","Mountpoint":"/v/v2/_data","Name":"v2","Scope":"local","Size":"N/A","Status":"N/A"}"#
        );
    }
}
