//! What `GET /events` streams, one JSON document after another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ApiVersion;

/// Something happened. Before 1.52 there were more names, see [`crate::compat`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Seconds since the epoch.
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// Whom it happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of this host, `nanos` nanoseconds after the epoch.
    pub fn new(
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
        nanos: i64,
    ) -> Event {
        Event {
            kind: kind.into(),
            action: action.into(),
            actor: Actor { id: id.into(), attributes },
            scope: "local".into(),
            time: nanos.div_euclid(1_000_000_000),
            time_nano: nanos,
        }
    }
}

/// How one event is parted from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A line each, under a name that promises a single document: the only one before 1.52.
    Json,
    /// The same by its own name, since 1.53.
    Lines,
    /// The same by another name, since 1.52.
    NewlineDelimited,
    /// RFC 7464: a record separator before each, since 1.52.
    Sequence,
}

impl Framing {
    /// What is sent to a client that takes `accept`, the value of its header of that name. As in
    /// the reference the more exact name wins among equals, then the order here.
    pub fn negotiate(version: ApiVersion, accept: &str) -> Framing {
        let offers: &[Framing] = match () {
            () if version.before(52) => &[],
            () if version.before(53) => &[Framing::NewlineDelimited, Framing::Sequence],
            () => &[Framing::Lines, Framing::NewlineDelimited, Framing::Sequence],
        };
        let mut best = (0, 0, Framing::Json);
        for offer in offers {
            for range in accept.split(',') {
                let mut words = range.split(';').map(str::trim);
                let name = words.next().unwrap_or_default().to_ascii_lowercase();
                let exact = match name.as_str() {
                    "*/*" => 1,
                    "application/*" => 2,
                    name if name == offer.content_type() => 3,
                    _ => continue,
                };
                let weight = words.find_map(|word| word.strip_prefix("q=")).map_or(1000, thousandths);
                if weight > 0 && (weight, exact) > (best.0, best.1) {
                    best = (weight, exact, *offer);
                }
            }
        }
        best.2
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Framing::Json => "application/json",
            Framing::Lines => "application/jsonl",
            Framing::NewlineDelimited => "application/x-ndjson",
            Framing::Sequence => "application/json-seq",
        }
    }

    /// One document as it goes over the wire.
    pub fn frame(self, document: &serde_json::Value) -> Vec<u8> {
        const RECORD_SEPARATOR: char = '\u{1e}';
        let before = if self == Framing::Sequence { String::from(RECORD_SEPARATOR) } else { String::new() };
        format!("{before}{document}\n").into_bytes()
    }
}

/// A quality value (RFC 9110 §12.4.2); what is none counts as 1.
fn thousandths(text: &str) -> u32 {
    let value: f32 = text.parse().unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 and 1000")]
    let thousandths = (value.clamp(0.0, 1.0) * 1000.0).round() as u32;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_is_what_client_and_version_agree_on() {
        let agreed = |minor, accept| Framing::negotiate(ApiVersion::new(1, minor), accept);
        let all = "application/json-seq, application/x-ndjson;q=0.5, application/jsonl; q=0.4";
        assert_eq!(agreed(51, all), Framing::Json);
        assert_eq!(agreed(53, all), Framing::Sequence);
        assert_eq!(agreed(53, "application/jsonl"), Framing::Lines);
        assert_eq!(agreed(52, "application/jsonl"), Framing::Json);
        assert_eq!(agreed(52, "application/jsonl, application/x-ndjson"), Framing::NewlineDelimited);
        assert_eq!(agreed(53, ""), Framing::Json);
        assert_eq!(agreed(53, "text/html, application/json"), Framing::Json);
        assert_eq!(agreed(53, "*/*"), Framing::Lines);
        assert_eq!(agreed(52, "*/*"), Framing::NewlineDelimited);
        assert_eq!(agreed(53, "*/*, application/json-seq"), Framing::Sequence);
        assert_eq!(agreed(53, "application/jsonl;q=0, application/*"), Framing::Lines);
    }

    #[test]
    fn a_sequence_begins_each_document_with_a_separator() {
        let document = serde_json::json!({"a": 1});
        assert_eq!(Framing::Sequence.frame(&document), b"\x1e{\"a\":1}\n");
        assert_eq!(Framing::Lines.frame(&document), b"{\"a\":1}\n");
    }
}
