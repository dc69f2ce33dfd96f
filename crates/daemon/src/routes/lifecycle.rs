//! What moves a container through its life.

use bytes::Bytes;
use hull_api::compat;
use hull_api::container::{WaitError, WaitResponse};
use hull_api::hostconfig::{UpdateRequest, Updated};
use hull_engine::containers::requests::{Condition, Remove};

use crate::http::{Call, Failure, Handled, blocks, no_content, ok, stream};
use crate::translate;

pub(super) async fn start(mut call: Call, key: &str) -> Handled {
    // Before 1.24 a HostConfig could come here; newer clients send nothing, or an empty document.
    drop(call.bytes(crate::http::JSON_LIMIT).await?);
    call.server.engine.start(key).await?;
    no_content()
}

/// The timeout: seconds, -1 for ever, absent for the container's own.
fn timeout(call: &Call) -> Result<Option<i32>, Failure> {
    let number = call.query.number("t")?;
    number
        .map(|seconds| i32::try_from(seconds).map_err(|_| Failure::invalid("t is out of range")))
        .transpose()
}

/// The signal instead of the container's own; before 1.42 there was no such parameter.
fn signal(call: &Call) -> Option<&str> {
    if call.version.before(42) { None } else { call.query.get("signal") }
}

pub(super) async fn stop(call: &Call, key: &str) -> Handled {
    call.server.engine.stop(key, signal(call), timeout(call)?).await?;
    no_content()
}

pub(super) async fn restart(call: &Call, key: &str) -> Handled {
    call.server.engine.restart(key, signal(call), timeout(call)?).await?;
    no_content()
}

pub(super) async fn kill(call: &Call, key: &str) -> Handled {
    call.server.engine.kill(key, call.query.text("signal")).await?;
    no_content()
}

pub(super) async fn pause(call: &Call, key: &str) -> Handled {
    call.server.engine.pause(key).await?;
    no_content()
}

pub(super) async fn unpause(call: &Call, key: &str) -> Handled {
    call.server.engine.unpause(key).await?;
    no_content()
}

pub(super) async fn rename(call: &Call, key: &str) -> Handled {
    call.server.engine.rename(key, call.query.text("name")).await?;
    no_content()
}

pub(super) async fn remove(call: &Call, key: &str) -> Handled {
    if call.query.flag("link") {
        call.server.engine.unlink(key).await?;
        return no_content();
    }
    let options = Remove { force: call.query.flag("force"), volumes: call.query.flag("v") };
    call.server.engine.remove(key, options).await?;
    no_content()
}

/// Rows and columns of a terminal.
pub(super) fn size(call: &Call) -> Result<(u16, u16), Failure> {
    let number = |name: &str| {
        let text = call.query.text(name);
        text.parse::<u16>().map_err(|_| {
            let what = if name == "h" { "height" } else { "width" };
            Failure::invalid(format!("invalid resize {what} {text:?}: not a number of at most 65535"))
        })
    };
    Ok((number("h")?, number("w")?))
}

pub(super) async fn resize(call: &Call, key: &str) -> Handled {
    let (rows, columns) = size(call)?;
    call.server.engine.resize(key, rows, columns).await?;
    Ok(crate::http::empty(http::StatusCode::OK))
}

pub(super) async fn update(mut call: Call, key: &str) -> Handled {
    let mut request: UpdateRequest = call.json("UpdateConfig").await?;
    compat::request::update(call.version, &mut request);
    let update = translate::update(&request, &call.server.facts)?;
    let warnings = call.server.engine.update(key, update).await?;
    ok(&Updated { warnings: (!warnings.is_empty()).then_some(warnings) })
}

/// The head goes out as soon as the watch is set: the client starts the container after it.
pub(super) async fn wait(call: &Call, key: &str) -> Handled {
    let condition = match call.query.text("condition") {
        // Before 1.30 there was no such parameter.
        _ if call.version.before(30) => Condition::NotRunning,
        "" | "not-running" => Condition::NotRunning,
        "next-exit" => Condition::NextExit,
        "removed" => Condition::Removed,
        other => return Err(Failure::invalid(format!("invalid condition: {other:?}"))),
    };
    let exit = call.server.engine.wait(key, condition).await?;
    let body = blocks(Some(exit), |exit| async move {
        let response = match exit?.await {
            Ok(result) => WaitResponse {
                status_code: i64::from(result.code),
                error: result.error.map(|message| WaitError { message }),
            },
            Err(error) => WaitResponse {
                status_code: -1,
                error: Some(WaitError { message: crate::http::chain(&error) }),
            },
        };
        let mut line = serde_json::to_vec(&response).ok()?;
        line.push(b'\n');
        Some((Bytes::from(line), None))
    });
    Ok(stream("application/json", body))
}
