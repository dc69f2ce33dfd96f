//! `images`: the images of the host, a line for each name.

use std::collections::BTreeMap;

use hull_api::client::Query;
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::filters;
use crate::flags::{Flag, Given};
use crate::format::{self, Format, List, Row, ago, moment, short_id};
use crate::session::{Session, print};
use crate::units::human_size;

pub(crate) static LIST: Command = Command {
    paths: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    summary: "List images",
    arguments: Arguments::AtMost(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all", "Show also those between others").short('a'),
        Flag::switch("digests", "Show digests"),
        Flag::list("filter", filters::check, "Show only what meets a condition").short('f').label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::switch("no-trunc", "Show values in full"),
        Flag::switch("quiet", "Show IDs only").short('q'),
    ]],
    run: |session, given| Box::pin(list(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*formatter.imageContext",
    complaint: "template parsing error",
    headings: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("CreatedAt", "CREATED AT"),
        ("Containers", "CONTAINERS"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("VirtualSize", "SIZE"),
    ],
};

const NONE: &str = "<none>";

async fn list(session: &Session, given: &Given) -> Result<u8, Failure> {
    let quiet = given.on("quiet");
    let mut wanted = given.text("format");
    if wanted.is_empty() && !quiet {
        wanted = &session.config().images_format;
    }
    let format = Format::parse(wanted);
    let reference = given.arguments.first().map(|name| format!("reference={name}"));
    let query = filters::add(
        Query::new().switch("all", given.on("all")),
        given.list("filter").chain(reference.as_deref()),
    );
    let answer = session.client.get("/images/json", &query).await?;
    let images: Vec<Value> = answer.json().await?;
    let full = given.on("no-trunc");
    let digests = given.on("digests");
    let rows: Vec<Row> = images
        .iter()
        .flat_map(|image| rows(image, full, digests, digests || format.mentions("Digest")))
        .collect();
    if quiet && matches!(format, Format::Table) {
        let ids: String =
            rows.iter().filter_map(|row| row["ID"].as_str()).map(|id| format!("{id}\n")).collect();
        print(&ids);
        return Ok(0);
    }
    let columns: &[&str] = if digests {
        &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
    } else {
        &["Repository", "Tag", "ID", "CreatedSince", "Size"]
    };
    print(&format::render(&format, &LIST_OF, columns, &rows)?);
    Ok(0)
}

/// A row for each name of the image; `by_digest` makes one for each digest.
fn rows(image: &Value, full: bool, by_digest: bool, digests_wanted: bool) -> Vec<Row> {
    let mut names = Vec::new();
    let mut digests = split(&image["RepoDigests"], '@');
    for (repository, tags) in split(&image["RepoTags"], ':') {
        let of_name = digests.remove(&repository).unwrap_or_default();
        let of_name = if digests_wanted && !of_name.is_empty() { of_name } else { vec![NONE.to_owned()] };
        for tag in &tags {
            for digest in &of_name {
                names.push((repository.clone(), tag.clone(), digest.clone()));
            }
        }
    }
    for (repository, of_name) in digests {
        if by_digest {
            for digest in of_name {
                names.push((repository.clone(), NONE.to_owned(), digest));
            }
        } else {
            names.push((repository, NONE.to_owned(), String::new()));
        }
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    names.into_iter().map(|(repository, tag, digest)| row(image, full, repository, tag, digest)).collect()
}

/// Names and what stands behind the last `at`, gathered by name.
fn split(list: &Value, at: char) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in list.as_array().into_iter().flatten() {
        if let Some((name, rest)) = text.as_str().and_then(|text| text.rsplit_once(at))
            && name != NONE
        {
            all.entry(name.to_owned()).or_default().push(rest.to_owned());
        }
    }
    all
}

fn row(image: &Value, full: bool, repository: String, tag: String, digest: String) -> Row {
    let id = image["Id"].as_str().unwrap_or_default();
    let created = image["Created"].as_i64().unwrap_or(0);
    let size = image["Size"].as_f64().unwrap_or(0.0);
    let counted = |key: &str| match image[key].as_i64() {
        None | Some(-1) => "N/A".to_owned(),
        Some(count) => count.to_string(),
    };
    let shared = image["SharedSize"].as_f64().unwrap_or(-1.0);
    let sized = |bytes: f64| match bytes {
        bytes if bytes < 0.0 => "N/A".to_owned(),
        bytes => human_size(bytes, 3),
    };
    let unique = if shared < 0.0 { -1.0 } else { size - shared };
    format::row([
        ("Repository", json!(repository)),
        ("Tag", json!(tag)),
        ("Digest", json!(digest)),
        ("ID", json!(if full { id } else { short_id(id) })),
        ("CreatedAt", json!(moment(created))),
        ("CreatedSince", json!(ago(created))),
        ("Size", json!(human_size(size, 3))),
        ("Containers", json!(counted("Containers"))),
        ("SharedSize", json!(sized(shared))),
        ("UniqueSize", json!(sized(unique))),
        ("VirtualSize", json!(human_size(size, 4))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(image: &Value, by_digest: bool) -> Vec<String> {
        rows(image, false, by_digest, by_digest)
            .iter()
            .map(|row| {
                ["Repository", "Tag", "Digest", "ID", "Size", "VirtualSize"]
                    .map(|key| row[key].as_str().unwrap_or_default())
                    .join(" ")
            })
            .collect()
    }

    #[test]
    fn an_image_has_a_line_for_each_name() {
        let image = json!({
            "Id": "sha256:5c7d7fd7b619166d7be7", "Created": 0, "Size": 2_065_225,
            "RepoTags": ["h:5000/app:1", "a:1", "a:2"], "RepoDigests": ["h:5000/app@sha256:42"],
            "SharedSize": -1, "Containers": -1
        });
        assert_eq!(
            shown(&image, false),
            [
                "a 1 <none> 5c7d7fd7b619 2.07MB 2.065MB",
                "a 2 <none> 5c7d7fd7b619 2.07MB 2.065MB",
                "h:5000/app 1 <none> 5c7d7fd7b619 2.07MB 2.065MB"
            ]
        );
        assert_eq!(shown(&image, true)[2], "h:5000/app 1 sha256:42 5c7d7fd7b619 2.07MB 2.065MB");
    }

    #[test]
    fn an_image_without_a_name_is_shown_as_none() {
        let image = json!({ "Id": "sha256:9ff91ddf72e0aa", "RepoTags": [], "RepoDigests": [] });
        assert_eq!(shown(&image, false), ["<none> <none> <none> 9ff91ddf72e0 0B 0B"]);
    }
}
