//! `run`: create, attach, start, wait.
//!
//! The order matters. Output is attached to, and the exit is waited for,
//! *before* the start, so that not even the first byte or the fastest exit is
//! missed; both requests are sent at once, each on a connection of its own.

use std::future::Future;

use hull_api::client::{Body, Error, Query, Response};
use serde::Deserialize;
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::create::{self, flags};
use crate::flags::Given;
use crate::session::{Session, line};
use crate::signals::{Forwarding, follow_size};
use crate::streams::{Copying, SessionEnd, Wanted};

pub(crate) static RUN: Command = Command {
    paths: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    summary: "Create a container and run it",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: true,
    flags: &[flags::CREATE, flags::RUN],
    run: |session, given| Box::pin(run(session, given)) as Outcome<'_>,
};

async fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let detach = given.on("detach");
    if detach && given.has("attach") {
        return Err(fail("conflicting options: cannot specify both --attach and --detach"));
    }
    let body = create::prepare(session, given)
        .await
        .map_err(|message| wrong(session, Failure { code: 125, message }))?;
    if body["AttachStdin"] == true && body["Tty"] == true && !crate::terminal::stdin_is_terminal() {
        return Err(fail("the input device is not a TTY"));
    }
    let id = create::send(session, given, &body).await.map_err(|failure| {
        let code = start_code(&failure.message);
        Failure { code, ..wrong(session, failure) }
    })?;
    let forwarding = (!detach && given.on("sig-proxy")).then(|| Forwarding::start(&session.client, &id));
    if detach {
        let started = start(session, &id).await;
        line(&id);
        return match started {
            Ok(()) => Ok(0),
            Err(error) => Err(not_started(session, &error)),
        };
    }
    foreground(session, given, &body, &id, forwarding.as_ref()).await
}

async fn foreground(
    session: &Session,
    given: &Given,
    body: &Value,
    id: &str,
    forwarding: Option<&Forwarding>,
) -> Result<u8, Failure> {
    let path = format!("/containers/{id}");
    let on = |name: &str| body[name] == true;
    let keys = detach_keys(session, given);
    let condition = if given.on("rm") { "removed" } else { "next-exit" };
    let (attached, waiting) = tokio::join!(
        attach(
            session,
            &path,
            Attach {
                stdin: on("AttachStdin"),
                stdout: on("AttachStdout"),
                stderr: on("AttachStderr"),
                terminal: on("Tty"),
                keys: &keys,
            }
        ),
        wait(session, &path, condition),
    );
    let mut copying = attached?;
    let waiting = waiting?;
    if let Err(error) = start(session, id).await {
        drop(copying);
        return Err(not_started(session, &error));
    }
    let resizing = on("Tty").then(|| follow_size(&session.client, &path)).flatten();
    let code = end_of(copying.as_mut(), forwarding, exit_code(waiting)).await;
    if let Some(task) = resizing {
        task.abort();
    }
    match code? {
        Ended::Exited(code) => Ok(code),
        // Whoever detaches is content.
        Ended::Detached => Ok(0),
    }
}

/// How an attached container left us.
pub(crate) enum Ended {
    Exited(u8),
    Detached,
}

/// Waits for the end of the streams, then for the exit; or until the signals that are handed on say
/// that nobody wants to wait any more.
pub(crate) async fn end_of(
    copying: Option<&mut Copying>,
    forwarding: Option<&Forwarding>,
    exit: impl Future<Output = Result<u8, Failure>>,
) -> Result<Ended, Failure> {
    let end = async {
        if let Some(copying) = copying {
            match copying.finish().await {
                SessionEnd::Closed => {}
                SessionEnd::Detached => return Ok(Ended::Detached),
                // As if SIGPIPE had ended us.
                SessionEnd::ReaderGone => return Err(Failure::said(141)),
            }
        }
        exit.await.map(Ended::Exited)
    };
    let Some(forwarding) = forwarding else { return end.await };
    tokio::select! {
        ended = end => ended,
        failure = forwarding.given_up() => Err(failure),
    }
}

/// What to attach to.
#[derive(Clone, Copy)]
pub(crate) struct Attach<'a> {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) terminal: bool,
    pub(crate) keys: &'a str,
}

/// Attaches to the container at `path` and starts to copy.
pub(crate) async fn attach(
    session: &Session,
    path: &str,
    to: Attach<'_>,
) -> Result<Option<Copying>, Failure> {
    if !(to.stdin || to.stdout || to.stderr) {
        return Ok(None);
    }
    let query = Query::new()
        .with("stream", "1")
        .switch("stdin", to.stdin)
        .switch("stdout", to.stdout)
        .switch("stderr", to.stderr)
        .unless_empty("detachKeys", to.keys);
    let upgraded = session.client.upgrade(&format!("{path}/attach"), &query, Body::Empty).await?;
    let wanted = Wanted { stdin: to.stdin, terminal: to.terminal, detach_keys: to.keys.to_owned() };
    Ok(Some(Copying::start(upgraded, &wanted)?))
}

/// Keys that detach: the flag's, else the user's settings'.
pub(crate) fn detach_keys(session: &Session, given: &Given) -> String {
    if given.has("detach-keys") {
        return given.text("detach-keys").to_owned();
    }
    session.config().detach_keys.clone()
}

/// Begins to wait; when this returns the daemon has taken note.
pub(crate) async fn wait(session: &Session, path: &str, condition: &str) -> Result<Response, Error> {
    let query = Query::new().unless_empty("condition", condition);
    session.client.post(&format!("{path}/wait"), &query, Body::Empty).await
}

/// The exit code that a wait ends with.
pub(crate) async fn exit_code(waiting: Response) -> Result<u8, Failure> {
    #[derive(Deserialize)]
    struct Exit {
        #[serde(rename = "StatusCode")]
        code: i64,
        #[serde(rename = "Error", default)]
        error: Option<Reason>,
    }
    #[derive(Deserialize)]
    struct Reason {
        #[serde(rename = "Message", default)]
        message: String,
    }
    let exit: Exit = waiting.json().await.map_err(daemon_gone)?;
    if let Some(reason) = exit.error.filter(|reason| !reason.message.is_empty()) {
        return Err(Failure {
            code: 125,
            message: format!("Error waiting for container: {}", reason.message),
        });
    }
    // A shell sees eight bits of any exit code.
    Ok(u8::try_from(exit.code & 0xff).unwrap_or(u8::MAX))
}

/// The wait broke off: the container does not depend on the daemon's life.
fn daemon_gone(error: Error) -> Failure {
    match error {
        Error::Broken { .. } | Error::Answer { .. } => Failure {
            code: 125,
            message: "error waiting for container: unexpected EOF: the daemon went away; \
                      the container goes on without it"
                .to_owned(),
        },
        other => Failure::from(other),
    }
}

pub(crate) async fn start(session: &Session, id: &str) -> Result<(), Error> {
    let path = format!("/containers/{}/start", hull_api::client::segment(id));
    let answer = session.client.post(&path, &Query::new(), Body::Empty).await?;
    answer.bytes().await?;
    Ok(())
}

/// A failure of `run` itself: 125, named, with a hint.
fn wrong(session: &Session, failure: Failure) -> Failure {
    let program = &session.program;
    Failure {
        code: 125,
        message: format!("{program}: {}\n\nRun '{program} run --help' for more information", failure.message),
    }
}

/// A container that did not start: 127 for a program that is absent, 126 for
/// one that may not be executed, told from the daemon's words.
fn not_started(session: &Session, error: &Error) -> Failure {
    let message = chain(error);
    let code = start_code(&message);
    Failure { code, ..wrong(session, fail(message)) }
}

fn start_code(message: &str) -> u8 {
    let says = |words: &str| message.contains(words);
    if says("executable file not found") || says("no such file or directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        125
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
