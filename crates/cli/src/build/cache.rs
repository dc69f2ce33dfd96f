//! `builder du`: what builds remember, and what that costs.

use hull_api::client::Query;
use serde_json::{Value, json};

use super::show::tame;
use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::format::{self, Format, List, Row, ago, now};
use crate::session::{Session, print};
use crate::units::{duration, human_size};

pub(crate) static USAGE: Command = Command {
    paths: &["builder du"],
    usage: "[OPTIONS]",
    summary: "Show what builds remember",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", check, "Show only what meets a condition (\"type=regular\")").label("filter"),
        Flag::text("format", "Show as 'table', 'pretty', 'json', or by a Go template"),
        Flag::switch("verbose", "The same as --format pretty"),
    ]],
    run: |session, given| Box::pin(usage(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*commands.diskusageContext",
    complaint: "template parsing error",
    headings: &[
        ("ID", "ID"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("LastUsedAt", "LAST ACCESSED"),
        ("CreatedAt", "CREATED AT"),
        ("Description", "DESCRIPTION"),
        ("Mutable", "MUTABLE"),
        ("Parents", "PARENTS"),
        ("Shared", "SHARED"),
        ("Type", "TYPE"),
        ("UsageCount", "USAGE COUNT"),
    ],
};

/// A condition on what builds remember: `NAME=VALUE`, or one of three words.
pub(crate) fn check(text: &str) -> Result<String, String> {
    match text {
        "inuse" | "private" | "shared" => Ok(format!("{text}=true")),
        text => crate::filters::check(text),
    }
}

async fn usage(session: &Session, given: &Given) -> Result<u8, Failure> {
    let answer = session.client.get("/system/df", &Query::new().with("type", "build-cache")).await?;
    let mut answer: Value = answer.json().await?;
    // Since 1.52 in an object of its own.
    let records = match answer["BuildCacheUsage"]["Items"].take() {
        Value::Array(records) => records,
        _ => match answer["BuildCache"].take() {
            Value::Array(records) => records,
            _ => Vec::new(),
        },
    };
    let mut shown: Vec<Value> = Vec::new();
    for record in records {
        let mut holds = true;
        for filter in given.list("filter") {
            holds &= meets(&record, filter)?;
        }
        if holds {
            shown.push(record);
        }
    }
    shown.sort_by_key(|record| (bytes(record), record["ID"].as_str().unwrap_or_default().to_owned()));
    let wanted = if given.on("verbose") { "pretty" } else { given.text("format") };
    if wanted == "pretty" {
        print(&(shown.iter().map(pretty).collect::<String>() + &sums(&shown)));
        return Ok(0);
    }
    let format = Format::parse(wanted);
    let plain = format == Format::Table;
    let rows: Vec<Row> = shown.iter().map(|record| row(record, plain)).collect();
    let columns = ["ID", "Reclaimable", "Size", "LastUsedAt"];
    print(&format::render(&format, &LIST_OF, &columns, &rows)?);
    if plain {
        print(&sums(&shown));
    }
    Ok(0)
}

fn meets(record: &Value, filter: &str) -> Result<bool, Failure> {
    let (name, value) = filter.split_once('=').unwrap_or((filter, ""));
    let begins = |id: &Value| id.as_str().is_some_and(|id| id.starts_with(value));
    Ok(match name {
        "id" => begins(&record["ID"]),
        "parent" | "parents" => record["Parents"].as_array().into_iter().flatten().any(begins),
        "type" => record["Type"] == value,
        "description" => record["Description"] == value,
        "inuse" => record["InUse"] == true,
        "shared" => record["Shared"] == true,
        "private" => record["Shared"] != true,
        "until" => {
            let age = duration(value).map_err(fail)?;
            used(record).is_none_or(|used| now() - used > age / 1_000_000_000)
        }
        name => return Err(fail(format!("invalid filter '{name}'"))),
    })
}

fn bytes(record: &Value) -> u64 {
    record["Size"].as_u64().unwrap_or(0)
}

/// Seconds since the epoch.
fn used(record: &Value) -> Option<i64> {
    let time: jiff::Timestamp = record["LastUsedAt"].as_str()?.parse().ok()?;
    Some(time.as_second())
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn sized(bytes: u64) -> String {
    human_size(bytes as f64, 4)
}

fn row(record: &Value, plain: bool) -> Row {
    let star = if plain && record["Shared"] == true { "*" } else { "" };
    let last = match used(record) {
        Some(used) if plain => json!(ago(used)),
        _ => record["LastUsedAt"].clone(),
    };
    format::row([
        ("CreatedAt", record["CreatedAt"].clone()),
        ("Description", tame(record["Description"].as_str().unwrap_or_default()).into()),
        ("ID", record["ID"].clone()),
        ("LastUsedAt", last),
        ("Mutable", json!(false)),
        ("Parents", record["Parents"].clone()),
        ("Reclaimable", json!(record["InUse"] != true)),
        ("Shared", record["Shared"].clone()),
        ("Size", json!(sized(bytes(record)) + star)),
        ("Type", record["Type"].clone()),
        ("UsageCount", record["UsageCount"].clone()),
    ])
}

/// One record, a line for each of its fields.
fn pretty(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let parents: String = record["Parents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|parent| format!(" - {parent}\n"))
        .collect();
    let heading = if parents.is_empty() { "" } else { "Parents:\n" };
    let last = used(record).map_or_else(String::new, |used| format!("Last used:    {}\n", ago(used)));
    format!(
        "ID:           {}\n{heading}{parents}Created at:   {}\nMutable:      false\nReclaimable:  {}\nShared:       {}\nSize:         {}\nDescription:  {}\nUsage count:  {}\n{last}Type:         {}\n\n",
        text("ID"),
        text("CreatedAt"),
        record["InUse"] != true,
        record["Shared"] == true,
        sized(bytes(record)),
        tame(text("Description")),
        record["UsageCount"],
        text("Type"),
    )
}

fn sums(records: &[Value]) -> String {
    let sum =
        |of: &dyn Fn(&Value) -> bool| sized(records.iter().filter(|record| of(record)).map(bytes).sum());
    format!(
        "Shared:\t\t{}\nPrivate:\t{}\nReclaimable:\t{}\nTotal:\t\t{}\n",
        sum(&|record| record["Shared"] == true),
        sum(&|record| record["Shared"] != true),
        sum(&|record| record["InUse"] != true),
        sum(&|_| true),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Value {
        json!({
            "ID": "ab12", "Parents": ["cd34"], "Type": "regular", "Description": "RUN x", "InUse": false,
            "Shared": true, "Size": 2_065_225, "CreatedAt": "2026-11-21T01:43:04Z",
            "LastUsedAt": "2026-11-21T01:43:05Z", "UsageCount": 3,
        })
    }

    #[test]
    fn a_record_is_shown_in_a_line_and_in_many() {
        let row = row(&record(), true);
        assert_eq!((&row["Size"], &row["Reclaimable"]), (&json!("2.065MB*"), &json!(true)));
        let text = pretty(&record());
        assert!(text.starts_with("ID:           ab12\nParents:\n - cd34\nCreated at:   2026"), "{text}");
        assert!(text.ends_with("Type:         regular\n\n"), "{text}");
        let two = [record(), json!({ "Size": 5, "Shared": false })];
        assert_eq!(
            sums(&two),
            "Shared:\t\t2.065MB\nPrivate:\t5B\nReclaimable:\t2.065MB\nTotal:\t\t2.065MB\n"
        );
    }

    #[test]
    fn conditions_are_met_or_not() {
        for (filter, expected) in [
            ("id=ab", true),
            ("id=cd", false),
            ("parent=cd34", true),
            ("type=regular", true),
            ("type=exec.cachemount", false),
            ("description=RUN x", true),
            ("shared=true", true),
            ("private=true", false),
            ("until=1h", true),
        ] {
            assert_eq!(meets(&record(), filter), Ok(expected), "{filter}");
        }
        assert!(meets(&record(), "color=red").is_err());
        assert!(meets(&record(), "until=x").is_err());
        assert_eq!(check("shared").unwrap(), "shared=true");
    }
}
