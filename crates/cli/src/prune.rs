//! `container prune` and `image prune`.

use hull_api::client::{Body, Query};
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome};
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
    let mut out = String::new();
    let deleted = pruned["ContainersDeleted"].as_array();
    if let Some(ids) = deleted.filter(|ids| !ids.is_empty()) {
        out.push_str("Deleted Containers:\n");
        for id in ids.iter().filter_map(Value::as_str) {
            out.push_str(id);
            out.push('\n');
        }
        out.push('\n');
    }
    print(&(out + &reclaimed(&pruned)));
    Ok(0)
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
