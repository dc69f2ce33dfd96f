//! `tag`, `rmi`, `history`, `capture`: images by their names.

use hull_api::client::{Body, Query, segment};
use hull_oci::reference::{DEFAULT_TAG, Reference};
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::flags::{Flag, Given, any};
use crate::format::{self, Format, List, Row, ago, ellipsis, short_id};
use crate::session::{Session, line, print, say};
use crate::units::human_size;

pub(crate) static TAG: Command = Command {
    paths: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    summary: "Give an image another name",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(tag(session, given)) as Outcome<'_>,
};

/// `rmi`; in the group it is called `rm`.
pub(crate) static REMOVE: Command = Command {
    paths: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    summary: "Remove images",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("force", "Remove it although it has other names or is used").short('f'),
        Flag::switch("no-prune", "Keep parents that have no name"),
        Flag::list("platform", any, "Remove this platform only, as os[/arch[/variant]]").label("strings"),
    ]],
    run: |session, given| Box::pin(remove(session, given)) as Outcome<'_>,
};

pub(crate) static HISTORY: Command = Command {
    paths: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    summary: "Show how an image was made",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("format", crate::FORMAT_HELP),
        Flag::switch("human", "Show sizes and times for people").short('H').default("true"),
        Flag::switch("no-trunc", "Show values in full"),
        Flag::text("platform", "Show this platform, as os[/arch[/variant]]"),
        Flag::switch("quiet", "Show IDs only").short('q'),
    ]],
    run: |session, given| Box::pin(history(session, given)) as Outcome<'_>,
};

pub(crate) static CAPTURE: Command = Command {
    paths: &["image capture"],
    usage: "[OPTIONS] NAME [PROGRAM...]",
    summary: "Make an image of programs of this host with the libraries they need",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("add", any, "Add a file or folder (PATH or PATH:INSIDE)"),
        Flag::list("package", any, "Add an installed package whole, with what it depends on"),
    ]],
    run: |session, given| Box::pin(capture(session, given)) as Outcome<'_>,
};

async fn tag(session: &Session, given: &Given) -> Result<u8, Failure> {
    let target = given.arguments[1].as_str();
    let parsed = Reference::parse(target).map_err(|reason| {
        fail(format!(
            "Error parsing reference: {} is not a valid repository/tag: {reason}",
            crate::flags::quoted(target)
        ))
    })?;
    if parsed.digest.is_some() {
        return Err(fail("refusing to create a tag with a digest reference"));
    }
    let path = format!("/images/{}/tag", segment(&given.arguments[0]));
    let query =
        Query::new().with("repo", parsed.name()).with("tag", parsed.tag.as_deref().unwrap_or(DEFAULT_TAG));
    let answer = session.client.post(&path, &query, Body::Empty).await?;
    answer.bytes().await?;
    Ok(0)
}

async fn remove(session: &Session, given: &Given) -> Result<u8, Failure> {
    let force = given.on("force");
    let mut query = Query::new().switch("force", force).switch("noprune", given.on("no-prune"));
    for platform in given.list("platform") {
        query = query.with("platforms", super::platform_document(platform));
    }
    let mut errors = Vec::new();
    let mut grave = false;
    for name in &given.arguments {
        let path = format!("/images/{}", segment(name));
        let answer = match session.client.delete(&path, &query).await {
            Ok(answer) => answer.json::<Vec<Value>>().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(removed) => {
                for one in &removed {
                    for (key, word) in [("Deleted", "Deleted"), ("Untagged", "Untagged")] {
                        if let Some(what) = one[key].as_str().filter(|what| !what.is_empty()) {
                            line(&format!("{word}: {what}"));
                        }
                    }
                }
            }
            Err(error) => {
                grave |= !error.is_not_found();
                errors.push(chain(&error));
            }
        }
    }
    if !errors.is_empty() && force && !grave {
        say(&errors.join("\n"));
        return Ok(0);
    }
    crate::container::each::gathered(errors)
}

const HISTORY_OF: List = List {
    kind: "*formatter.historyContext",
    complaint: "template parsing error",
    headings: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

async fn history(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/images/{}/history", segment(&given.arguments[0]));
    let platform = match given.text("platform") {
        "" => String::new(),
        text => super::platform_document(text),
    };
    let query = Query::new().unless_empty("platform", &platform);
    let answer = session.client.get(&path, &query).await?;
    let steps: Vec<Value> = answer.json().await?;
    let (full, human) = (given.on("no-trunc"), given.on("human"));
    let rows: Vec<Row> = steps.iter().map(|step| history_row(step, full, human)).collect();
    let format = Format::parse(given.text("format"));
    if given.on("quiet") && matches!(format, Format::Table) {
        let ids = rows.iter().filter_map(|row| row["ID"].as_str());
        print(&ids.map(|id| format!("{id}\n")).collect::<String>());
        return Ok(0);
    }
    let created = if human { "CreatedSince" } else { "CreatedAt" };
    let columns = ["ID", created, "CreatedBy", "Size", "Comment"];
    print(&format::render(&format, &HISTORY_OF, &columns, &rows)?);
    Ok(0)
}

fn history_row(step: &Value, full: bool, human: bool) -> Row {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let created = step["Created"].as_i64().unwrap_or(0);
    let id = text("Id");
    let by = text("CreatedBy").replace('\t', " ");
    let size = match human {
        true => human_size(step["Size"].as_f64().unwrap_or(0.0), 3),
        false => step["Size"].as_i64().unwrap_or(0).to_string(),
    };
    format::row([
        ("ID", json!(if full { id } else { short_id(id) })),
        ("CreatedSince", json!(if human { ago(created) } else { rfc3339(created) })),
        ("CreatedAt", json!(rfc3339(created))),
        ("CreatedBy", json!(if full { by } else { ellipsis(&by, 45) })),
        ("Size", json!(size)),
        ("Comment", json!(text("Comment"))),
    ])
}

/// A moment in the local zone, as `2026-11-21T01:47:01Z`.
fn rfc3339(seconds: i64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let Ok(moment) = jiff::Timestamp::from_second(seconds) else {
        return String::new();
    };
    let text = moment.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    match text.strip_suffix("+00:00") {
        Some(utc) => format!("{utc}Z"),
        None => text,
    }
}

async fn capture(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = &given.arguments[0];
    Reference::parse(name)?;
    let programs = &given.arguments[1..];
    let packages = given.strings("package");
    if programs.is_empty() && packages.is_empty() && !given.has("add") {
        return Err(fail(format!(
            "nothing to capture: name a program, a package (--package) or a path (--add), as in '{} image capture {name} bash'",
            session.program
        )));
    }
    let body = json!({
        "Name": name,
        "Programs": programs.iter().map(|one| from_here(one)).collect::<Vec<_>>(),
        "Packages": packages,
        "Paths": given.list("add").map(added).collect::<Vec<_>>(),
    });
    let answer = session.client.post("/hull/v1/images/capture", &Query::new(), Body::json(&body)).await?;
    let captured: Value = answer.json().await?;
    let files = captured["Files"].as_u64().unwrap_or(0);
    let size = captured["Size"].as_f64().unwrap_or(0.0);
    say(&format!("{name}: {files} files, {}", human_size(size, 3)));
    line(captured["Id"].as_str().unwrap_or_default());
    Ok(0)
}

/// A program by path is meant from here; one by name is looked up.
fn from_here(program: &str) -> String {
    if program.contains('/') { absolute(program) } else { program.to_owned() }
}

fn added(spec: &str) -> String {
    match spec.split_once(':') {
        Some((path, inside)) => format!("{}:{inside}", absolute(path)),
        None => absolute(spec),
    }
}

fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shown_short_or_in_full() {
        let step = json!({
            "Id": "sha256:05cc92b4ae2fd95f0c", "Created": 0, "Size": 2_065_225, "Comment": "c",
            "CreatedBy": "a\tvery long command that nobody wants to read to its end"
        });
        let row = history_row(&step, false, true);
        assert_eq!(row["ID"], "05cc92b4ae2f");
        assert_eq!(row["Size"], "2.07MB");
        assert_eq!(row["CreatedBy"], "a very long command that nobody wants to rea…");
        let row = history_row(&step, true, false);
        assert_eq!(row["Size"], "2065225");
        assert_eq!(row["ID"], "sha256:05cc92b4ae2fd95f0c");
        let missing = history_row(&json!({ "Id": "<missing>" }), false, true);
        assert_eq!(missing["ID"], "<missing>");
    }
}
