//! `commit` and `export`: an image of a container, and an archive of its files.

use hull_api::client::{Body, Query, segment};
use hull_oci::reference::Reference;
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::flags::{Flag, Given, any};
use crate::output;
use crate::session::{Session, line};

pub(crate) static COMMIT: Command = Command {
    paths: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    summary: "Make an image of a container with what it has changed",
    arguments: Arguments::Between(1, 2),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("author", "Who made it (\"Jane Doe <jane@example.com>\")").short('a'),
        Flag::list("change", any, "Apply a Dockerfile instruction to the image").short('c'),
        Flag::text("message", "What was done").short('m'),
        Flag::switch("no-pause", "Do not freeze the container meanwhile"),
        Flag::switch("pause", "Freeze the container meanwhile").short('p').default("true"),
    ]],
    run: |session, given| Box::pin(commit(session, given)) as Outcome<'_>,
};

pub(crate) static EXPORT: Command = Command {
    paths: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    summary: "Write the files of a container to an archive",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[Flag::text("output", "Write the archive to this file, not to STDOUT").short('o')]],
    run: |session, given| Box::pin(export(session, given)) as Outcome<'_>,
};

async fn export(session: &Session, given: &Given) -> Result<u8, Failure> {
    const FAILED: &str = "failed to export container";
    let output = given.text("output");
    output::check(output, FAILED)?;
    let path = format!("/containers/{}/export", segment(&given.arguments[0]));
    output::write(session.client.get(&path, &Query::new()).await?, output, FAILED).await
}

async fn commit(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = given.arguments.get(1).map_or("", String::as_str);
    let name = if name.is_empty() { None } else { Some(Reference::parse(name)?.with_default_tag()) };
    let mut query = Query::new()
        .with("author", given.text("author"))
        .with("comment", given.text("message"))
        .with("container", given.arguments[0].as_str());
    for change in given.list("change") {
        query = query.with("changes", change);
    }
    if let Some(name) = &name {
        query = query.with("repo", name.name()).unless_empty("tag", name.tag.as_deref().unwrap_or_default());
    }
    if given.on("no-pause") || !given.on("pause") {
        query = query.with("pause", "0");
    }
    let made: Value = session.client.post("/commit", &query, Body::Empty).await?.json().await?;
    line(made["Id"].as_str().unwrap_or_default());
    Ok(0)
}
