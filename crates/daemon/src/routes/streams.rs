//! What goes on for as long as somebody listens: attach, logs, events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, UPGRADE};
use hull_api::event::{Event as ApiEvent, Framing};
use hull_api::filters::Filters;
use hull_api::{ApiVersion, compat};
use hull_engine::containers::phase::Time;
use hull_engine::containers::requests::{Attach, LogStream, Logs};
use hull_engine::events::{Event, Next, Subscription};
use tokio::time::Instant;

use super::{identity, show};
use crate::Server;
use crate::detach::Keys;
use crate::hijack::{Takeover, Then, head};
use crate::http::{Answer, Call, Failure, Handled, blocks, empty, stream};

/// Takes the connection over. As in the reference, even a refusal is a raw stream: status, text,
/// end.
pub(super) async fn attach(call: &Call, key: &str) -> Answer {
    let upgrade = call.headers.contains_key(UPGRADE);
    let takeover = match attached(call, key).await {
        Ok((then, tty)) => {
            // A client that asks for no upgrade knows the old name only.
            let content_type = if upgrade {
                compat::stream_type(call.version, tty)
            } else {
                "application/vnd.docker.raw-stream"
            };
            Takeover { head: head(upgrade, content_type, &identity()), then }
        }
        Err(failure) => Takeover {
            head: format!(
                "HTTP/1.1 {} {}\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n",
                failure.status.as_u16(),
                failure.status.canonical_reason().unwrap_or_default()
            )
            .into_bytes(),
            then: Then::Say(format!("{}\r\n", failure.message).into_bytes()),
        },
    };
    call.slot.put(takeover);
    empty(StatusCode::OK)
}

async fn attached(call: &Call, key: &str) -> Result<(Then, bool), Failure> {
    let query = &call.query;
    let text = query.text("detachKeys");
    let keys = Keys::parse(text)
        .ok_or_else(|| Failure::invalid(format!("Invalid detach keys ({text}) provided")))?;
    let attach = Attach {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
    };
    let stdin = attach.stdin && attach.stream;
    if attach.stream && !stdin && !attach.logs && call.slot.is_local() {
        let seat = call.server.engine.seat(key, attach).await?;
        let tty = seat.tty;
        return Ok((Then::Seat(seat), tty));
    }
    let attachment = call.server.engine.attach(key, attach).await?;
    let tty = attachment.tty;
    Ok((Then::Stream { stream: attachment.stream, stdin, keys: tty.then_some(keys) }, tty))
}

pub(super) async fn logs(call: &Call, key: &str) -> Handled {
    let query = &call.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Failure::invalid("Bad parameters: you must choose at least one stream"));
    }
    let options = Logs {
        stdout,
        stderr,
        follow: query.flag("follow"),
        since: time_parameter(query.text("since"))?,
        until: time_parameter(query.text("until"))?,
        // What is no number means all, as in the reference.
        tail: query.text("tail").parse::<u64>().ok(),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let lines = call.server.engine.logs(key, options).await?;
    let content_type = compat::stream_type(call.version, lines.tty);
    Ok(stream(content_type, blocks(lines, next_block)))
}

async fn next_block(mut lines: LogStream) -> Option<(Bytes, LogStream)> {
    match lines.next().await? {
        Ok(block) => Some((block, lines)),
        Err(error) => {
            // The status is sent: the client sees the end, the operator why.
            tracing::warn!(error = %crate::http::chain(&error), "a log cannot be read further");
            None
        }
    }
}

/// `SECONDS[.FRACTION]` since the epoch, in nanoseconds.
pub(super) fn timestamp(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Absent, empty and 0 are no limit.
fn time_parameter(text: &str) -> Result<Option<Time>, Failure> {
    if matches!(text, "" | "0") {
        return Ok(None);
    }
    let time = timestamp(text)
        .ok_or_else(|| Failure::invalid(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
    Ok(Some(time).filter(|time| *time != 0))
}

/// A listener on its way: what is left of the past, then the present, until the time is over.
struct Listening {
    past: VecDeque<Arc<Event>>,
    live: Subscription,
    filters: Filters,
    /// For the filter by container name: events carry ids and names.
    until: Option<Time>,
    version: ApiVersion,
    framing: Framing,
    _counted: Counted,
}

/// Counts a listener while it is there.
struct Counted(Arc<Server>);

impl Counted {
    fn new(server: &Arc<Server>) -> Counted {
        server.listeners.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(server))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn events(call: &Call) -> Handled {
    let filters = call.query.filters()?;
    let since = time_parameter(call.query.text("since"))?;
    let until = time_parameter(call.query.text("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Failure::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.text("since"),
            call.query.text("until")
        )));
    }
    let mut live = call.server.engine.events(since);
    let past = std::mem::take(&mut live.past).into();
    let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let framing = Framing::negotiate(call.version, accept);
    let listening = Listening {
        past,
        live,
        filters,
        until,
        version: call.version,
        framing,
        _counted: Counted::new(&call.server),
    };
    Ok(stream(framing.content_type(), blocks(listening, next_event)))
}

async fn next_event(mut listening: Listening) -> Option<(Bytes, Listening)> {
    loop {
        let event = match listening.past.pop_front() {
            Some(event) => event,
            None => live_event(&mut listening).await?,
        };
        if listening.until.is_some_and(|until| event.time > until) {
            return None;
        }
        if !admits(&listening.filters, &event)
            || !compat::event_exists(listening.version, event.kind.word(), &event.action)
        {
            continue;
        }
        let shown =
            ApiEvent::new(event.kind.word(), &event.action, &event.id, event.attributes.clone(), event.time);
        let mut value = serde_json::to_value(&shown).ok()?;
        compat::event(listening.version, &mut value);
        return Some((listening.framing.frame(&value).into(), listening));
    }
}

async fn live_event(listening: &mut Listening) -> Option<Arc<Event>> {
    loop {
        let next = match listening.until {
            None => listening.live.next().await,
            Some(until) => {
                let left = u64::try_from(until.saturating_sub(show::now())).unwrap_or(0);
                let end = Instant::now() + Duration::from_nanos(left);
                tokio::time::timeout_at(end, listening.live.next()).await.ok()?
            }
        };
        match next {
            Next::Event(event) => return Some(event),
            Next::Lost(count) => tracing::warn!(count, "a listener for events was too slow and lost some"),
            Next::End => return None,
        }
    }
}

/// Values of one name are alternatives; unknown names and kinds match nothing or everything, as
/// in the reference.
fn admits(filters: &Filters, event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let any = |name: &str, fits: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(fits);
    let kind = event.kind.word();
    let is = |wanted: &str, value: &str| {
        kind == wanted
            && !value.is_empty()
            && (event.id == value || event.id.starts_with(value) || attribute("name") == value)
    };
    // `exec_start: sh -c x` is found by its first word too.
    let action = |value: &str| event.action == value || event.action.split(':').next() == Some(value);
    filters.admits("type", kind)
        && any("event", &action)
        && any("action", &action)
        && any("container", &|value| is("container", value))
        && any("image", &|value| {
            let name = if kind == "image" { attribute("name") } else { attribute("image") };
            is("image", value) || name == value || name.split(':').next() == Some(value)
        })
        && filters.admits("scope", "local")
        && any("network", &|value| is("network", value))
        && any("volume", &|value| is("volume", value))
        && ["daemon", "plugin", "node", "service", "secret", "config"].iter().all(|other| !filters.has(other))
        && filters.labels_match("label", &event.attributes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hull_engine::events::Kind;

    use super::*;

    #[test]
    fn timestamps_have_up_to_nine_digits_after_the_point() {
        assert_eq!(timestamp("1.5"), Some(1_500_000_000));
        assert_eq!(timestamp("946684800.000000001"), Some(946_684_800_000_000_001));
        for bad in ["abc", "1.x", "1.1234567890", "", "99999999999999999999", "9999999999999"] {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
        assert_eq!(time_parameter("0").unwrap(), None);
        assert_eq!(
            time_parameter("abc").unwrap_err().message,
            "strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
    }

    #[test]
    fn events_are_filtered_by_all_names_and_any_of_their_values() {
        let attributes = BTreeMap::from([
            ("name".to_owned(), "ev".to_owned()),
            ("image".to_owned(), "busybox:latest".to_owned()),
            ("a".to_owned(), "b".to_owned()),
        ]);
        let event = Event {
            kind: Kind::Container,
            action: "exec_start: sh".to_owned(),
            id: "abcdef".to_owned(),
            attributes,
            time: 1,
        };
        let check = |text: &str| admits(&Filters::parse(text).unwrap(), &event);
        for yes in [
            "{}",
            r#"{"type":["container"],"event":["die","exec_start"]}"#,
            r#"{"container":["abc"]}"#,
            r#"{"container":["ev"]}"#,
            r#"{"image":["busybox"]}"#,
            r#"{"label":["a=b"]}"#,
            r#"{"nosuch":["1"]}"#,
        ] {
            assert!(check(yes), "{yes}");
        }
        for no in [
            r#"{"type":["image"]}"#,
            r#"{"event":["die"]}"#,
            r#"{"container":["x"]}"#,
            r#"{"image":["other"]}"#,
            r#"{"label":["a=c"]}"#,
            r#"{"network":["n"]}"#,
        ] {
            assert!(!check(no), "{no}");
        }
    }
}
