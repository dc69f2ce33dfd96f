//! `start` and `attach`: joining a container that exists.

use hull_api::client::{Query, segment};
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, chain, fail};
use crate::flags::{Flag, Given};
use crate::run::{self, Attach, Ended, detach_keys, end_of, exit_code};
use crate::session::{Session, line, say};
use crate::signals::{Forwarding, follow_size};

pub(crate) static START: Command = Command {
    paths: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    summary: "Start stopped containers",
    arguments: Arguments::AtLeast(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("attach", "Show its output and hand signals on").short('a'),
        Flag::text("detach-keys", "Keys that detach from the container"),
        Flag::switch("interactive", "Attach its input").short('i'),
    ]],
    run: |session, given| Box::pin(start(session, given)) as Outcome<'_>,
};

pub(crate) static ATTACH: Command = Command {
    paths: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    summary: "Join the streams of a running container",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::text("detach-keys", "Keys that detach from the container"),
        Flag::switch("no-stdin", "Leave its input alone"),
        Flag::switch("sig-proxy", "Hand signals on to the process").default("true"),
    ]],
    run: |session, given| Box::pin(attach(session, given)) as Outcome<'_>,
};

async fn inspect(session: &Session, name: &str) -> Result<Value, Failure> {
    if name.trim().is_empty() {
        return Err(fail("invalid container name or ID: value is empty"));
    }
    let path = format!("/containers/{}/json", segment(name));
    Ok(session.client.get(&path, &Query::new()).await?.json().await?)
}

async fn start(session: &Session, given: &Given) -> Result<u8, Failure> {
    if given.on("attach") || given.on("interactive") {
        if given.arguments.len() > 1 {
            return Err(fail("you cannot start and attach multiple containers at once"));
        }
        return start_attached(session, given).await;
    }
    let mut failed = Vec::new();
    for name in &given.arguments {
        match run::start(session, name).await {
            Ok(()) => line(name),
            Err(error) => {
                say(&chain(&error));
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(0)
    } else {
        Err(fail(format!("Error: failed to start containers: {}", failed.join(", "))))
    }
}

async fn start_attached(session: &Session, given: &Given) -> Result<u8, Failure> {
    let container = inspect(session, &given.arguments[0]).await?;
    let id = container["Id"].as_str().unwrap_or_default();
    let path = format!("/containers/{id}");
    let config = &container["Config"];
    let terminal = config["Tty"] == true;
    let stdin = given.on("interactive") && config["OpenStdin"] == true;
    let keys = detach_keys(session, given);
    let forwarding = (!terminal).then(|| Forwarding::start(&session.client, id));
    let condition = if container["HostConfig"]["AutoRemove"] == true { "removed" } else { "next-exit" };
    let to = Attach { stdin, stdout: true, stderr: true, terminal, keys: &keys };
    let (attached, waiting) =
        tokio::join!(run::attach(session, &path, to), run::wait(session, &path, condition),);
    let (mut copying, waiting) = (attached?, waiting?);
    run::start(session, id).await?;
    let resizing = terminal.then(|| follow_size(&session.client, &path)).flatten();
    let ended = end_of(copying.as_mut(), forwarding.as_ref(), exit_code(waiting)).await;
    if let Some(task) = resizing {
        task.abort();
    }
    match ended? {
        Ended::Exited(code) => Ok(code),
        Ended::Detached => Ok(0),
    }
}

async fn attach(session: &Session, given: &Given) -> Result<u8, Failure> {
    let name = given.arguments[0].as_str();
    let container = inspect(session, name).await?;
    let state = &container["State"];
    if state["Running"] != true {
        return Err(fail("You cannot attach to a stopped container, start it first"));
    }
    if state["Paused"] == true {
        return Err(fail("You cannot attach to a paused container, unpause it first"));
    }
    if state["Restarting"] == true {
        return Err(fail("You cannot attach to a restarting container, wait until it is running"));
    }
    let config = &container["Config"];
    let terminal = config["Tty"] == true;
    let stdin = !given.on("no-stdin") && config["OpenStdin"] == true;
    if terminal && stdin && !crate::terminal::stdin_is_terminal() {
        return Err(fail("the input device is not a TTY"));
    }
    let keys = detach_keys(session, given);
    let path = format!("/containers/{}", segment(name));
    let forwarding = (given.on("sig-proxy") && !terminal).then(|| Forwarding::start(&session.client, name));
    let to = Attach { stdin, stdout: true, stderr: true, terminal, keys: &keys };
    let (attached, waiting) = tokio::join!(run::attach(session, &path, to), run::wait(session, &path, ""),);
    let (mut copying, waiting) = (attached?, waiting?);
    let resizing = if terminal {
        // A size that differs makes the program draw its screen anew.
        crate::signals::nudge_size(&session.client, &path).await;
        follow_size(&session.client, &path)
    } else {
        None
    };
    let ended = end_of(copying.as_mut(), forwarding.as_ref(), exit_code(waiting)).await;
    if let Some(task) = resizing {
        task.abort();
    }
    drop(copying);
    match ended? {
        Ended::Exited(code) => Ok(code),
        Ended::Detached => Err(fail("read escape sequence")),
    }
}
