//! `container prune`, `image prune`, `volume prune` and `builder prune`.

use hull_api::client::{Body, Query};
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create::size;
use crate::filters;
use crate::flags::{Flag, Given};
use crate::session::{Session, confirm, print};
use crate::units::human_size;

pub(crate) static CONTAINERS: Command = Command {
    paths: &["container prune"],
    usage: "[OPTIONS]",
    summary: "Remove all stopped containers",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[FILTER, FORCE]],
    run: |session, given| Box::pin(containers(session, given)) as Outcome<'_>,
};

pub(crate) static IMAGES: Command = Command {
    paths: &["image prune"],
    usage: "[OPTIONS]",
    summary: "Remove unused images",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all", "Remove all that no container uses, not only those without a name").short('a'),
        FILTER,
        FORCE,
    ]],
    run: |session, given| Box::pin(images(session, given)) as Outcome<'_>,
};

pub(crate) static VOLUMES: Command = Command {
    paths: &["volume prune"],
    usage: "[OPTIONS]",
    summary: "Remove unused volumes",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all", "Remove those that have a name, too").short('a'),
        Flag::list("filter", filters::check, "Remove only what meets a condition (\"label=<label>\")")
            .label("filter"),
        FORCE,
    ]],
    run: |session, given| Box::pin(volumes(session, given)) as Outcome<'_>,
};

pub(crate) static BUILDS: Command = Command {
    paths: &["builder prune"],
    usage: "[OPTIONS]",
    summary: "Remove what builds remember",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("all", "Remove what images have as well, too").short('a'),
        Flag::list(
            "filter",
            crate::build::cache::check,
            "Remove only what meets a condition (\"until=24h\")",
        )
        .label("filter"),
        FORCE,
        Flag::value("keep-storage", "bytes", size, "The older name of --reserved-space"),
        Flag::value("max-used-space", "bytes", size, "Keep no more than this"),
        Flag::value("min-free-space", "bytes", size, "Keep so much of the disk free"),
        Flag::value("reserved-space", "bytes", size, "Keep this much in any case"),
    ]],
    run: |session, given| Box::pin(builds(session, given)) as Outcome<'_>,
};

const FORCE: Flag = Flag::switch("force", "Do not ask first").short('f');
const FILTER: Flag =
    Flag::list("filter", filters::check, "Remove only what meets a condition (\"until=<time>\")")
        .label("filter");

const SURE: &str = "Are you sure you want to continue?";

async fn containers(session: &Session, given: &Given) -> Result<u8, Failure> {
    let question = format!("WARNING! This will remove all stopped containers.\n{SURE}");
    if !given.on("force") && !confirm(&question) {
        return Ok(0);
    }
    let query = filters::add(Query::new(), given.list("filter"));
    let answer = session.client.post("/containers/prune", &query, Body::Empty).await?;
    let pruned: Value = answer.json().await?;
    print(&(named("Deleted Containers", &pruned["ContainersDeleted"]) + &reclaimed(&pruned)));
    Ok(0)
}

async fn volumes(session: &Session, given: &Given) -> Result<u8, Failure> {
    let all = given.on("all");
    let chosen = given.list("filter").any(|pair| pair.split('=').next() == Some("all"));
    if all && chosen {
        return Err(fail("conflicting options: cannot specify both --all and --filter all=1"));
    }
    let what = if all { "all" } else { "anonymous" };
    let question =
        format!("WARNING! This will remove {what} local volumes not used by at least one container.\n{SURE}");
    if !given.on("force") && !confirm(&question) {
        return Ok(0);
    }
    let query = filters::add(Query::new(), given.list("filter").chain(all.then_some("all=true")));
    let answer = session.client.post("/volumes/prune", &query, Body::Empty).await?;
    let pruned: Value = answer.json().await?;
    print(&(named("Deleted Volumes", &pruned["VolumesDeleted"]) + &reclaimed(&pruned)));
    Ok(0)
}

async fn builds(session: &Session, given: &Given) -> Result<u8, Failure> {
    let all = given.on("all");
    let what = if all { "all build cache" } else { "all dangling build cache" };
    if !given.on("force") && !confirm(&format!("WARNING! This will remove {what}. {SURE}")) {
        return Ok(0);
    }
    let mut query = filters::add(Query::new(), given.list("filter")).switch("all", all);
    for name in ["keep-storage", "reserved-space", "max-used-space", "min-free-space"] {
        query = query.unless_empty(name, given.text(name));
    }
    let answer = session.client.post("/build/prune", &query, Body::Empty).await?;
    let pruned: Value = answer.json().await?;
    print(&(named("Deleted build cache objects", &pruned["CachesDeleted"]) + &reclaimed(&pruned)));
    Ok(0)
}

/// A heading, and names one a line; nothing where there is none.
fn named(heading: &str, deleted: &Value) -> String {
    let names: Vec<&str> = deleted.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() { String::new() } else { format!("{heading}:\n{}\n\n", names.join("\n")) }
}

async fn images(session: &Session, given: &Given) -> Result<u8, Failure> {
    let all = given.on("all");
    let what = if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    if !given.on("force") && !confirm(&format!("WARNING! This will remove {what}.\n{SURE}")) {
        return Ok(0);
    }
    let dangling = format!("dangling={}", !all);
    let pairs = given.list("filter").chain([dangling.as_str()]);
    let query = filters::add(Query::new(), pairs);
    let answer = session.client.post("/images/prune", &query, Body::Empty).await?;
    let pruned: Value = answer.json().await?;
    print(&(deleted_images(&pruned["ImagesDeleted"]) + &reclaimed(&pruned)));
    Ok(0)
}

fn deleted_images(deleted: &Value) -> String {
    let Some(all) = deleted.as_array().filter(|all| !all.is_empty()) else {
        return String::new();
    };
    let mut out = String::from("Deleted Images:\n");
    for one in all {
        for (key, word) in [("Untagged", "untagged"), ("Deleted", "deleted")] {
            if let Some(name) = one[key].as_str().filter(|name| !name.is_empty()) {
                out.push_str(&format!("{word}: {name}\n"));
            }
        }
    }
    out.push('\n');
    out
}

fn reclaimed(pruned: &Value) -> String {
    let bytes = pruned["SpaceReclaimed"].as_f64().unwrap_or(0.0);
    format!("Total reclaimed space: {}\n", human_size(bytes, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_removed_is_listed() {
        let deleted = json!([{"Untagged": "imp:2"}, {"Deleted": "sha256:39"}]);
        assert_eq!(deleted_images(&deleted), "Deleted Images:\nuntagged: imp:2\ndeleted: sha256:39\n\n");
        assert_eq!(deleted_images(&Value::Null), "");
        assert_eq!(reclaimed(&json!({ "SpaceReclaimed": 2_065_225 })), "Total reclaimed space: 2.065MB\n");
    }
}
