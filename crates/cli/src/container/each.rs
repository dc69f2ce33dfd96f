//! Commands that do one thing to each container they are given.
//!
//! Names are worked on side by side and reported in the order given: a name on
//! standard output for each success, the refusals together at the end.

use std::future::Future;

use hull_api::client::{Body, Error, Query, segment};
use tokio::task::JoinSet;

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::flags::{Flag, Given, integer};
use crate::session::{Session, line, say};

/// As many requests are under way at once.
const AT_ONCE: usize = 50;

/// A command over `CONTAINER [CONTAINER...]`.
macro_rules! each {
    ($name:ident, $paths:expr, $usage:expr, $summary:expr, $flags:expr, $run:path) => {
        pub(crate) static $name: Command = Command {
            paths: $paths,
            usage: $usage,
            summary: $summary,
            arguments: Arguments::AtLeast(1),
            stop_at_argument: false,
            flags: $flags,
            run: |session, given| Box::pin($run(session, given)) as Outcome<'_>,
        };
    };
}

const SIGNAL: Flag = Flag::text("signal", "Signal to send").short('s');

const STOPPING: &[Flag] = &[
    SIGNAL,
    Flag::value("timeout", "int", integer, "Seconds to wait before it is killed").short('t'),
    Flag::value("time", "int", integer, ""),
];

each!(
    STOP,
    &["container stop", "stop"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop running containers",
    &[STOPPING],
    stop
);
each!(
    RESTART,
    &["container restart", "restart"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Restart containers",
    &[STOPPING],
    restart
);
each!(
    KILL,
    &["container kill", "kill"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Kill running containers",
    &[&[SIGNAL]],
    kill
);
each!(
    PAUSE,
    &["container pause", "pause"],
    "CONTAINER [CONTAINER...]",
    "Freeze all processes of containers",
    &[],
    pause
);
each!(
    UNPAUSE,
    &["container unpause", "unpause"],
    "CONTAINER [CONTAINER...]",
    "Thaw the processes of containers",
    &[],
    unpause
);
each!(
    WAIT,
    &["container wait", "wait"],
    "CONTAINER [CONTAINER...]",
    "Wait until containers stop and print their exit codes",
    &[],
    wait
);
each!(
    REMOVE,
    &["container rm", "container remove", "rm"],
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove containers",
    &[&[
        Flag::switch("force", "Kill a running container and remove it").short('f'),
        Flag::switch("link", "Remove a link, not the container").short('l'),
        Flag::switch("volumes", "Remove its anonymous volumes, too").short('v'),
    ]],
    remove
);

pub(crate) static RENAME: Command = Command {
    paths: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    summary: "Give a container another name",
    arguments: Arguments::Exactly(2),
    stop_at_argument: false,
    flags: &[],
    run: |session, given| Box::pin(rename(session, given)) as Outcome<'_>,
};

/// Runs `work` for every name at once; the results are in the names' order.
pub(crate) async fn side_by_side<T, F>(names: &[String], work: impl Fn(String) -> F) -> Vec<Result<T, Error>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut results: Vec<Option<Result<T, Error>>> = names.iter().map(|_| None).collect();
    let mut running = JoinSet::new();
    let mut waiting = names.iter().cloned().enumerate();
    loop {
        while running.len() < AT_ONCE {
            let Some((index, name)) = waiting.next() else {
                break;
            };
            let one = work(name);
            running.spawn(async move { (index, one.await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((index, result))) => results[index] = Some(result),
            // A task only ends without a result when the runtime is going away.
            Some(Err(_)) => {}
        }
    }
    results.into_iter().flatten().collect()
}

/// All refusals as one failure.
pub(crate) fn gathered(errors: Vec<String>) -> Result<u8, Failure> {
    if errors.is_empty() { Ok(0) } else { Err(fail(errors.join("\n"))) }
}

/// Posts `verb` for each container and prints those that went well.
async fn post_each(
    session: &Session,
    given: &Given,
    verb: &'static str,
    query: Query,
) -> Result<u8, Failure> {
    let results = side_by_side(&given.arguments, |name| {
        let (client, query) = (session.client.clone(), query.clone());
        async move {
            let path = format!("/containers/{}/{verb}", segment(&name));
            client.post(&path, &query, Body::Empty).await?.bytes().await
        }
    })
    .await;
    let mut errors = Vec::new();
    for (name, result) in given.arguments.iter().zip(results) {
        match result {
            Ok(_) => line(name),
            Err(error) => errors.push(chain(&error)),
        }
    }
    gathered(errors)
}

fn stopping(given: &Given) -> Query {
    let mut query = Query::new().unless_empty("signal", given.text("signal"));
    for flag in ["timeout", "time"] {
        if given.has(flag) {
            query = query.with("t", given.text(flag));
        }
    }
    query
}

async fn stop(session: &Session, given: &Given) -> Result<u8, Failure> {
    if given.has("timeout") && given.has("time") {
        return Err(fail("conflicting options: cannot specify both --timeout and --time"));
    }
    post_each(session, given, "stop", stopping(given)).await
}

async fn restart(session: &Session, given: &Given) -> Result<u8, Failure> {
    if given.has("timeout") && given.has("time") {
        return Err(fail("conflicting options: cannot specify both --timeout and --time"));
    }
    post_each(session, given, "restart", stopping(given)).await
}

async fn kill(session: &Session, given: &Given) -> Result<u8, Failure> {
    let query = Query::new().unless_empty("signal", given.text("signal"));
    post_each(session, given, "kill", query).await
}

async fn pause(session: &Session, given: &Given) -> Result<u8, Failure> {
    post_each(session, given, "pause", Query::new()).await
}

async fn unpause(session: &Session, given: &Given) -> Result<u8, Failure> {
    post_each(session, given, "unpause", Query::new()).await
}

async fn wait(session: &Session, given: &Given) -> Result<u8, Failure> {
    let mut errors = Vec::new();
    for name in &given.arguments {
        let path = format!("/containers/{}", segment(name));
        let waited = match crate::run::wait(session, &path, "").await {
            Ok(answer) => answer.json::<serde_json::Value>().await,
            Err(error) => Err(error),
        };
        match waited {
            Ok(exit) => line(&exit["StatusCode"].to_string()),
            Err(error) => errors.push(chain(&error)),
        }
    }
    gathered(errors)
}

async fn remove(session: &Session, given: &Given) -> Result<u8, Failure> {
    let force = given.on("force");
    let query =
        Query::new().switch("force", force).switch("link", given.on("link")).switch("v", given.on("volumes"));
    let results = side_by_side(&given.arguments, |name| {
        let (client, query) = (session.client.clone(), query.clone());
        async move {
            let path = format!("/containers/{}", segment(name.trim_matches('/')));
            client.delete(&path, &query).await?.bytes().await
        }
    })
    .await;
    let mut errors = Vec::new();
    for (name, result) in given.arguments.iter().zip(results) {
        match result {
            _ if name.trim_matches('/').is_empty() => {
                errors.push("container name cannot be empty".to_owned());
            }
            Ok(_) => line(name),
            Err(error) if force && error.is_not_found() => say(&chain(&error)),
            Err(error) => errors.push(chain(&error)),
        }
    }
    gathered(errors)
}

async fn rename(session: &Session, given: &Given) -> Result<u8, Failure> {
    let (old, new) = (given.arguments[0].trim(), given.arguments[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err(fail("Error: Neither old nor new names may be empty"));
    }
    let path = format!("/containers/{}/rename", segment(old));
    let query = Query::new().with("name", new);
    match session.client.post(&path, &query, Body::Empty).await {
        Ok(_) => Ok(0),
        Err(error) => {
            say(&chain(&error));
            Err(fail(format!("Error: failed to rename container named {old}")))
        }
    }
}
