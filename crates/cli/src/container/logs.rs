//! `logs`: what a container has said.

use hull_api::client::{Query, segment};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::flags::{Flag, Given};
use crate::format::now;
use crate::moment::api_time;
use crate::session::Session;
use crate::streams::{Frames, write_stream};

pub(crate) static LOGS: Command = Command {
    paths: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    summary: "Show the logs of a container",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::switch("details", "Show what else the log holds of each line"),
        Flag::switch("follow", "Go on as it grows").short('f'),
        Flag::text("since", "From a moment (\"2013-01-02T13:23:37Z\") or from so long ago (\"42m\")"),
        Flag::text("tail", "Number of lines to show from the end").short('n').default("all"),
        Flag::switch("timestamps", "Show the time of each line").short('t'),
        Flag::text("until", "To a moment (\"2013-01-02T13:23:37Z\") or to so long ago (\"42m\")"),
    ]],
    run: |session, given| Box::pin(logs(session, given)) as Outcome<'_>,
};

async fn logs(session: &Session, given: &Given) -> Result<u8, Failure> {
    let path = format!("/containers/{}", segment(&given.arguments[0]));
    let answer = session.client.get(&format!("{path}/json"), &Query::new()).await?;
    let container: Value = answer.json().await?;
    let mut query = Query::new()
        .with("stdout", "1")
        .with("stderr", "1")
        .with("tail", given.text("tail"))
        .switch("follow", given.on("follow"))
        .switch("timestamps", given.on("timestamps"))
        .switch("details", given.on("details"));
    for name in ["since", "until"] {
        let text = given.text(name);
        if !text.is_empty() {
            let moment = api_time(text, now(), &TimeZone::system())
                .map_err(|reason| fail(format!("invalid value for \"{name}\": {reason}")))?;
            query = query.with(name, moment);
        }
    }
    let terminal = container["Config"]["Tty"] == true;
    // By its ID, lest another take the name in between.
    let path = format!("/containers/{}", container["Id"].as_str().unwrap_or_default());
    let mut answer = session.client.get(&format!("{path}/logs"), &query).await?;
    let mut frames = Frames::default();
    while let Some(piece) = answer.chunk().await? {
        let alive = if terminal { write_stream(1, &piece) } else { frames.feed(&piece, write_stream) };
        if !alive {
            return Err(Failure::said(141));
        }
    }
    Ok(0)
}
