//! `network explain`: why a port of the host is reachable or not.

use hull_api::client::Query;
use hull_api::network::{Explained, Finding};
use serde_json::json;

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::flags::{Flag, Given};
use crate::format::{self, Format, List, Row};
use crate::session::{Session, print};

pub(crate) static EXPLAIN: Command = Command {
    paths: &["network explain"],
    usage: "[OPTIONS] PORT[/PROTOCOL]",
    summary: "Show what lets packets for a port of the host in, or stops them",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[Flag::text("format", crate::FORMAT_HELP)]],
    run: |session, given| Box::pin(explain(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "explain.finding",
    complaint: "template parsing error",
    headings: &[("Outcome", "OUTCOME"), ("Text", "FINDING")],
};

/// The exit code is 1 where something stops the packets.
async fn explain(session: &Session, given: &Given) -> Result<u8, Failure> {
    let format = Format::parse(given.text("format"));
    let (port, protocol) = given.arguments[0].split_once('/').unwrap_or((given.arguments[0].as_str(), ""));
    let query = Query::new().with("port", port).unless_empty("protocol", protocol);
    let answer = session.client.get("/hull/v1/networks/explain", &query).await?;
    let explained: Explained = answer.json().await?;
    let rows: Vec<Row> = explained.findings.iter().map(row).collect();
    print(&format::render(&format, &LIST_OF, &["Outcome", "Text"], &rows)?);
    Ok(u8::from(explained.findings.iter().any(|one| one.outcome == "stop")))
}

fn row(finding: &Finding) -> Row {
    format::row([("Outcome", json!(finding.outcome)), ("Text", json!(finding.text))])
}
