//! `exec`: another process in a running container.

use hull_api::client::{Body, Query, segment};
use serde_json::{Map, Value, json};

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::create;
use crate::flags::{Flag, Given, any};
use crate::run::detach_keys;
use crate::session::Session;
use crate::signals::follow_size;
use crate::streams::{Copying, SessionEnd, Wanted};

pub(crate) static EXEC: Command = Command {
    paths: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    summary: "Run a command in a running container",
    arguments: Arguments::AtLeast(2),
    stop_at_argument: true,
    flags: &[&[
        Flag::switch("detach", "Run in the background").short('d'),
        Flag::text("detach-keys", "Keys that detach from the process"),
        Flag::list("env", create::variable, "Set environment variables").short('e'),
        Flag::list("env-file", any, "Read environment variables from a file"),
        Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
        Flag::switch("privileged", "Give the command extended privileges"),
        Flag::switch("tty", "Give it a terminal").short('t'),
        Flag::text("user", "User name or id (<name|uid>[:<group|gid>])").short('u'),
        Flag::text("workdir", "Working directory in the container").short('w'),
    ]],
    run: |session, given| Box::pin(exec(session, given)) as Outcome<'_>,
};

async fn exec(session: &Session, given: &Given) -> Result<u8, Failure> {
    let keys = detach_keys(session, given);
    let console = crate::terminal::size();
    let request = request(given, &keys, console).map_err(fail)?;
    let detach = given.on("detach");
    let (terminal, stdin) = (given.on("tty"), given.on("interactive") && !detach);
    if terminal && stdin && !crate::terminal::stdin_is_terminal() {
        return Err(fail("the input device is not a TTY"));
    }
    let path = format!("/containers/{}/exec", segment(&given.arguments[0]));
    let created: Value =
        session.client.post(&path, &Query::new(), Body::json(&request)).await?.json().await?;
    let id = created["Id"].as_str().filter(|id| !id.is_empty());
    let path = format!("/exec/{}", id.ok_or_else(|| fail("exec ID empty"))?);
    let mut start = json!({ "Detach": detach, "Tty": terminal });
    if terminal && console != (0, 0) {
        start["ConsoleSize"] = json!([console.0, console.1]);
    }
    let start = Body::json(&start);
    let start_path = format!("{path}/start");
    if detach {
        let answer = session.client.post(&start_path, &Query::new(), start).await?;
        answer.bytes().await?;
        return Ok(0);
    }
    let upgraded = session.client.upgrade(&start_path, &Query::new(), start).await?;
    let wanted = Wanted { stdin, terminal, detach_keys: keys };
    let mut copying = Copying::start(upgraded, &wanted)?;
    let resizing = terminal.then(|| follow_size(&session.client, &path)).flatten();
    let end = copying.finish().await;
    drop(copying);
    if let Some(task) = resizing {
        task.abort();
    }
    match end {
        SessionEnd::Closed => {}
        SessionEnd::Detached => return Err(fail("read escape sequence")),
        SessionEnd::ReaderGone => return Err(Failure::said(141)),
    }
    let answer = session.client.get(&format!("{path}/json"), &Query::new()).await?;
    let exec: Value = answer.json().await?;
    let code = exec["ExitCode"].as_i64().unwrap_or(0);
    Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

/// The body of the create request.
fn request(given: &Given, keys: &str, console: (u16, u16)) -> Result<Value, String> {
    let mut variables = Vec::new();
    for path in given.list("env-file") {
        variables.extend(create::pairs(path, true)?);
    }
    variables.extend(given.strings("env"));
    let detach = given.on("detach");
    let terminal = given.on("tty");
    let mut body = Map::new();
    for (key, value) in [
        ("User", json!(given.text("user"))),
        ("Privileged", json!(given.on("privileged"))),
        ("Tty", json!(terminal)),
        ("AttachStdin", json!(given.on("interactive") && !detach)),
        ("AttachStderr", json!(!detach)),
        ("AttachStdout", json!(!detach)),
        ("Detach", json!(detach)),
        ("DetachKeys", json!(keys)),
        ("Env", if variables.is_empty() { Value::Null } else { json!(variables) }),
        ("WorkingDir", json!(given.text("workdir"))),
        ("Cmd", json!(given.arguments[1..])),
    ] {
        body.insert(key.to_owned(), value);
    }
    if terminal && console != (0, 0) {
        body.insert("ConsoleSize".to_owned(), json!([console.0, console.1]));
    }
    Ok(Value::Object(body))
}
