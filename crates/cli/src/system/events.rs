//! `events`: what happens on the host, as it happens.

use std::fmt::Write as _;

use hull_api::client::Query;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::command::{Arguments, Command, Failure, Outcome, fail};
use crate::filters;
use crate::flags::{Flag, Given};
use crate::format::{Format, now};
use crate::moment::api_time;
use crate::session::{Session, print};

pub(crate) static EVENTS: Command = Command {
    paths: &["system events", "events"],
    usage: "[OPTIONS]",
    summary: "Show what happens on the host, as it happens",
    arguments: Arguments::None,
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", filters::check, "Show only what meets a condition").short('f').label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::text("since", "From this moment, or from so long ago"),
        Flag::text("until", "To this moment, or to so long ago"),
    ]],
    run: |session, given| Box::pin(events(session, given)) as Outcome<'_>,
};

/// An event longer than this is not one of ours.
const EVENT_BYTES_MAX: usize = 8 << 20;

async fn events(session: &Session, given: &Given) -> Result<u8, Failure> {
    let format = Format::parse(given.text("format"));
    let template = match &format {
        Format::Template { text, .. } => {
            let parsed = hull_template::Template::parse("", text)
                .map_err(|error| Failure { code: 64, message: format!("Error parsing format: {error}") })?;
            Some(parsed)
        }
        Format::Table | Format::Json => None,
    };
    let mut query = Query::new();
    for name in ["since", "until"] {
        let text = given.text(name);
        if !text.is_empty() {
            let moment = api_time(text, now(), &TimeZone::system()).map_err(fail)?;
            query = query.with(name, moment);
        }
    }
    let query = filters::add(query, given.list("filter"));
    let mut answer = session.client.get("/events", &query).await?;
    let mut pending = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        pending.extend_from_slice(&piece);
        let mut done = 0;
        let mut out = String::new();
        let mut stream = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        while let Some(event) = stream.next() {
            let event = match event {
                Ok(event) => event,
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error.into()),
            };
            let end = stream.byte_offset();
            match (&template, &format) {
                (Some(template), _) => {
                    let data = hull_template::Value::from(&event);
                    let text = template
                        .exec(&data, &hull_template::Options::default())
                        .map_err(|error| fail(error.to_string()))?;
                    out.push_str(&text);
                }
                // As it came.
                (None, Format::Json) => {
                    let text = String::from_utf8_lossy(pending[done..end].trim_ascii());
                    out.push_str(&text);
                }
                (None, _) => out.push_str(&shown(&event)),
            }
            out.push('\n');
            done = end;
        }
        print(&out);
        pending.drain(..done);
        if pending.len() > EVENT_BYTES_MAX {
            return Err(fail("the daemon sent an event without an end"));
        }
    }
    Ok(0)
}

/// `MOMENT TYPE ACTION ID (name=value, …)`
fn shown(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let mut out = String::new();
    let moment = match event["timeNano"].as_i64() {
        Some(nanoseconds) if nanoseconds != 0 => {
            jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
        }
        _ => event["time"].as_i64().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()),
    };
    if let Some(moment) = moment {
        let local = moment.to_zoned(TimeZone::system());
        let clock = local.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
        match clock.strip_suffix("+00:00") {
            Some(utc) => {
                let _ = write!(out, "{utc}Z ");
            }
            None => {
                let _ = write!(out, "{clock} ");
            }
        }
    }
    let actor = &event["Actor"];
    let id = actor["ID"].as_str().unwrap_or_default();
    let _ = write!(out, "{} {} {id}", text("Type"), text("Action"));
    let mut attributes: Vec<String> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if !attributes.is_empty() {
        attributes.sort();
        let _ = write!(out, " ({})", attributes.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "Type": "container", "Action": "die", "timeNano": 1_795_225_278_776_013_397_i64,
            "Actor": {"ID": "8ef9", "Attributes": {"name": "ev", "image": "busybox"}}
        });
        let line = shown(&event);
        assert!(line.ends_with(" container die 8ef9 (image=busybox, name=ev)"), "{line}");
        assert!(line.contains(".776013397"), "{line}");
    }
}
