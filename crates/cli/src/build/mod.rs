//! `build`: a context goes to the daemon, what happens there is shown.

pub(crate) mod cache;
mod context;

use std::collections::BTreeMap;
use std::io::Read;

use hull_api::client::{Body, Query, stream_of};
use hull_oci::reference::Reference;
use serde_json::{Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create::{reason, size};
use crate::flags::{Flag, Given, any, integer};
use crate::progress::Progress;
use crate::session::{Session, line};
use context::Context;

pub(crate) static BUILD: Command = Command {
    paths: &["image build", "build", "builder build"],
    usage: "[OPTIONS] PATH | -",
    summary: "Build an image from a Dockerfile",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("add-host", any, "Add a line to the hosts of RUN (NAME:ADDRESS)"),
        Flag::list(
            "build-arg",
            any,
            "Give an ARG its value (NAME=VALUE; NAME alone takes the environment's)",
        ),
        Flag::list("cache-from", any, "").label("strings"),
        Flag::switch("compress", ""),
        Flag::value("cpu-period", "int", integer, "Length of a period of the CPU quota (microseconds)"),
        Flag::value("cpu-quota", "int", integer, "CPU time of each period (microseconds)"),
        Flag::value("cpu-shares", "int", integer, "Share of the CPU where it is scarce").short('c'),
        Flag::text("cpuset-cpus", "CPUs to run on (0-3, 0,1)"),
        Flag::text("cpuset-mems", "Memory nodes to run on (0-3, 0,1)"),
        Flag::text("file", "The Dockerfile (default 'PATH/Dockerfile'; - is STDIN)").short('f'),
        Flag::switch("force-rm", ""),
        Flag::text("iidfile", "Write the image's id into this file"),
        Flag::list("label", any, "Give the image a label (NAME=VALUE)"),
        Flag::value("memory", "bytes", size, "Memory of each RUN").short('m'),
        Flag::text("network", "Network of RUN (default, host, none)"),
        Flag::switch("no-cache", "Do everything again"),
        Flag::text("platform", "Build for this platform, as os[/arch[/variant]]"),
        Flag::text("progress", "Show what happens as 'auto', 'plain', 'tty', 'quiet' or 'rawjson'")
            .default("auto"),
        Flag::switch("pull", "Look for newer base images"),
        Flag::switch("quiet", "Show nothing but the image's id").short('q'),
        Flag::switch("rm", "").default("true"),
        Flag::value("shm-size", "bytes", size, "Size of /dev/shm"),
        Flag::list("tag", any, "Name the image (NAME[:TAG])").short('t'),
        Flag::text("target", "Build this stage"),
        Flag::list("ulimit", any, "Limits of RUN (NAME=SOFT[:HARD])"),
    ]],
    run: |session, given| Box::pin(build(session, given)) as Outcome<'_>,
};

/// How what happens is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Lines,
    Nothing,
    Raw,
}

async fn build(session: &Session, given: &Given) -> Result<u8, Failure> {
    let shown = match given.text("progress") {
        _ if given.on("quiet") => Shown::Nothing,
        "auto" | "plain" | "tty" => Shown::Lines,
        "quiet" => Shown::Nothing,
        "rawjson" => Shown::Raw,
        other => {
            return Err(fail(format!(
                "invalid progress mode {other:?}: use auto, plain, tty, quiet or rawjson"
            )));
        }
    };
    for tag in given.list("tag") {
        Reference::parse(tag)
            .map_err(|error| fail(format!("invalid argument {tag:?} for \"-t, --tag\" flag: {error}")))?;
    }
    let query = query(given, shown)?;
    let path = given.arguments[0].as_str();
    if ["http://", "https://", "git://", "git@", "github.com/"].iter().any(|scheme| path.starts_with(scheme))
    {
        let query = query.with("remote", path).unless_empty("dockerfile", given.text("file"));
        return follow(session, &query, Body::Empty, (given, shown)).await;
    }
    if path == "-" {
        let (body, dockerfile) = from_stdin(given.text("file"))?;
        return follow(session, &query.unless_empty("dockerfile", &dockerfile), body, (given, shown)).await;
    }
    let context = Context::open(path, given.text("file"))?;
    let query = query.with("dockerfile", context.dockerfile.as_str());
    let (output, input) = std::io::pipe()?;
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(output.into())?;
    let sending = tokio::task::spawn_blocking(move || context.send(input.into()));
    let answered = follow(session, &query, stream_of(output), (given, shown)).await;
    // Where the daemon has closed its ear, it says why.
    match (sending.await, answered) {
        (Ok(Err(error)), _) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(fail(format!("the context cannot be read: {}", reason(&error))))
        }
        (_, answered) => answered,
    }
}

/// What standard input is: an archive, or a Dockerfile without a context.
fn from_stdin(file: &str) -> Result<(Body, String), Failure> {
    if crate::terminal::stdin_is_terminal() {
        return Err(fail(
            "the context is read from STDIN, but STDIN is a terminal: redirect an archive or a Dockerfile",
        ));
    }
    let mut first = vec![0; 512];
    let mut have = 0;
    while have < first.len() {
        match std::io::stdin().read(&mut first[have..])? {
            0 => break,
            count => have += count,
        }
    }
    first.truncate(have);
    if context::is_archive(&first) {
        let rest = tokio::io::AsyncReadExt::chain(std::io::Cursor::new(first), tokio::io::stdin());
        return Ok((stream_of(rest), file.to_owned()));
    }
    std::io::stdin().read_to_end(&mut first)?;
    let archive = context::alone(&first)?;
    Ok((stream_of(std::io::Cursor::new(archive)), String::new()))
}

fn query(given: &Given, shown: Shown) -> Result<Query, Failure> {
    let mut query = Query::new()
        .with("version", "1")
        .switch("nocache", given.on("no-cache"))
        .switch("pull", given.on("pull"))
        .switch("rm", given.on("rm"))
        .switch("forcerm", given.on("force-rm"))
        .switch("q", shown == Shown::Nothing)
        .unless_empty("target", given.text("target"))
        .unless_empty("networkmode", given.text("network"))
        .unless_empty("platform", given.text("platform"));
    for tag in given.list("tag") {
        query = query.with("t", tag);
    }
    for (flag, name) in [
        ("memory", "memory"),
        ("shm-size", "shmsize"),
        ("cpu-shares", "cpushares"),
        ("cpu-period", "cpuperiod"),
        ("cpu-quota", "cpuquota"),
        ("cpuset-cpus", "cpusetcpus"),
        ("cpuset-mems", "cpusetmems"),
    ] {
        query = query.unless_empty(name, given.text(flag));
    }
    for host in given.list("add-host") {
        query = query.with("extrahosts", host);
    }
    let arguments: BTreeMap<&str, Option<String>> = given
        .list("build-arg")
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, std::env::var(text).ok()),
        })
        .collect();
    let labels: BTreeMap<&str, &str> =
        given.list("label").map(|text| text.split_once('=').unwrap_or((text, ""))).collect();
    let limits = given.list("ulimit").map(limit).collect::<Result<Vec<Value>, Failure>>()?;
    let documents = [
        ("buildargs", json!(arguments), arguments.is_empty()),
        ("labels", json!(labels), labels.is_empty()),
        ("ulimits", json!(limits), limits.is_empty()),
    ];
    for (name, document, _) in documents.into_iter().filter(|(_, _, empty)| !empty) {
        query = query.with(name, document.to_string());
    }
    Ok(query)
}

/// `NAME=SOFT[:HARD]`
fn limit(text: &str) -> Result<Value, Failure> {
    let wrong = || fail(format!("invalid ulimit argument: {text}: it is NAME=SOFT[:HARD]"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    Ok(json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? }))
}

async fn follow(
    session: &Session,
    query: &Query,
    body: Body,
    (given, shown): (&Given, Shown),
) -> Result<u8, Failure> {
    let answer = session.client.post("/build", query, body).await?;
    let mut progress = match shown {
        Shown::Raw => Progress::raw(),
        shown => Progress::new(shown == Shown::Nothing),
    };
    progress.follow(answer).await?;
    let id = progress.id().unwrap_or_default();
    if shown == Shown::Nothing {
        line(&id);
    }
    let file = given.text("iidfile");
    if !file.is_empty() {
        std::fs::write(file, &id).map_err(|error| fail(format!("write {file}: {}", reason(&error))))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        assert_eq!(limit("nofile=1:2").unwrap(), json!({ "Name": "nofile", "Soft": 1, "Hard": 2 }));
        assert_eq!(limit("core=0").unwrap(), json!({ "Name": "core", "Soft": 0, "Hard": 0 }));
        for bad in ["nofile", "nofile=x", "nofile=1:x"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
