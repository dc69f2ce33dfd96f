//! `--progress=rawjson`: one document a line, in the words of BuildKit's `SolveStatus`, which its clients
//! write and other programs read.
//!
//! ```text
//! {"vertexes":[{"digest":"sha256:…","name":"[2/2] RUN make","started":"2026-11-22T05:00:00Z"}]}
//! {"logs":[{"data":"bWFrZQo=","stream":1,"timestamp":"2026-11-22T05:00:01Z","vertex":"sha256:…"}]}
//! {"warnings":[{"level":1,"range":[…],"short":"…","url":"https://…"}]}
//! ```
//!
//! Bytes are in base64 (RFC 4648), times in RFC 3339. A vertex's digest is that of its number and its name: it
//! tells the vertices of one build apart, and says no more.

use std::collections::BTreeMap;

use hull_api::base64;
use hull_api::build::{Finished, Progress, Stream};
use hull_oci::Digest;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What is known of the vertices that have begun, by their steps.
#[derive(Debug, Default)]
pub(super) struct Raw(BTreeMap<u32, Value>);

impl Raw {
    /// The line that follows from what happened, if it has one.
    pub(super) fn show(&mut self, progress: &Progress, now: Timestamp) -> Option<String> {
        let now = &now.to_string();
        let document = match progress {
            Progress::Planned { .. } => return None,
            Progress::Started { step, name } => {
                let vertex = vertex(&format!("{step} {name}"), name, now);
                self.0.insert(*step, vertex.clone());
                json!({ "vertexes": [vertex] })
            }
            Progress::Cached { step } => self.end(*step, now, &[("cached", json!(true))])?,
            Progress::Done { step, .. } => self.end(*step, now, &[])?,
            Progress::Failed { step, message } => self.end(*step, now, &[("error", json!(message))])?,
            Progress::Output { step, stream, bytes } => {
                let vertex = &self.0.get(step)?["digest"];
                let stream = if *stream == Stream::Out { 1 } else { 2 };
                let log = json!({ "vertex": vertex, "stream": stream, "data": base64::encode(bytes), "timestamp": now });
                json!({ "logs": [log] })
            }
            Progress::Warning { message, page, line } => {
                let mut warning = json!({ "level": 1, "short": base64::encode(message.as_bytes()) });
                if !page.is_empty() {
                    warning["url"] = json!(page);
                }
                if *line != 0 {
                    warning["range"] = json!([{ "start": { "line": line }, "end": { "line": line } }]);
                }
                json!({ "warnings": [warning] })
            }
        };
        Some(format!("{document}\n"))
    }

    /// What the image has become, as the vertex that the reference has for it.
    pub(super) fn finished(finished: &Finished, now: Timestamp) -> String {
        let now = &now.to_string();
        let mut vertex = vertex("exporting", "exporting to image", now);
        vertex["completed"] = json!(now);
        let about = |id: String| json!({ "id": id, "vertex": vertex["digest"], "current": 0, "timestamp": now, "started": now, "completed": now });
        let names = finished.names.iter().map(|name| format!("naming to {name}"));
        let ids = std::iter::once(format!("writing image {}", finished.id)).chain(names);
        let statuses: Vec<Value> = ids.map(about).collect();
        format!("{}\n", json!({ "vertexes": [vertex], "statuses": statuses }))
    }

    fn end(&self, step: u32, now: &str, more: &[(&str, Value)]) -> Option<Value> {
        let mut vertex = self.0.get(&step)?.clone();
        vertex["completed"] = json!(now);
        for (name, value) in more {
            vertex[*name] = value.clone();
        }
        Some(json!({ "vertexes": [vertex] }))
    }
}

fn vertex(what: &str, name: &str, now: &str) -> Value {
    json!({ "digest": Digest::sha256(what.as_bytes()), "name": name, "started": now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_api::build::Planned;

    #[test]
    fn lines_are_those_of_the_reference() {
        let now: Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-22T05:00:01.5Z".parse().unwrap();
        let mut raw = Raw::default();
        let mut show = |progress: Progress, at: Timestamp| {
            let line = raw.show(&progress, at)?;
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            Some(serde_json::from_str::<Value>(&line).unwrap())
        };
        let planned = Planned { text: "FROM x".to_owned(), step: Some(0), trigger: false };
        assert_eq!(show(Progress::Planned { instructions: vec![planned] }, now), None);
        let digest = Digest::sha256(b"3 [2/2] RUN make");
        let begun = json!({ "digest": digest, "name": "[2/2] RUN make", "started": "2026-11-22T05:00:00Z" });
        let started = Progress::Started { step: 3, name: "[2/2] RUN make".to_owned() };
        assert_eq!(show(started, now).unwrap(), json!({ "vertexes": [begun] }));
        let output = Progress::Output { step: 3, stream: Stream::Error, bytes: b"make\n\xff".to_vec() };
        assert_eq!(
            show(output, later).unwrap(),
            json!({ "logs": [{
                "vertex": digest, "stream": 2, "data": "bWFrZQr/", "timestamp": "2026-11-22T05:00:01.5Z",
            }] })
        );
        for (progress, name, value) in [
            (Progress::Cached { step: 3 }, "cached", json!(true)),
            (Progress::Failed { step: 3, message: "no".to_owned() }, "error", json!("no")),
            (Progress::Done { step: 3, layer: None }, "name", json!("[2/2] RUN make")),
        ] {
            let mut expected = begun.clone();
            expected["completed"] = json!("2026-11-22T05:00:01.5Z");
            expected[name] = value;
            assert_eq!(show(progress, later).unwrap(), json!({ "vertexes": [expected] }));
        }
        assert_eq!(show(Progress::Done { step: 4, layer: None }, later), None, "it has not begun");
        let warning = Progress::Warning { message: "a".to_owned(), page: "https://x".to_owned(), line: 2 };
        let place = json!({ "line": 2 });
        assert_eq!(
            show(warning, now).unwrap(),
            json!({ "warnings": [{
                "level": 1, "short": "YQ==", "url": "https://x", "range": [{ "start": place, "end": place }],
            }] })
        );
    }

    #[test]
    fn what_was_built_is_a_vertex_with_its_names() {
        let now: Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
        let id = Digest::sha256(b"image");
        let finished = Finished { id: id.clone(), names: vec!["a:b".to_owned()], stored: true };
        let line: Value = serde_json::from_str(&Raw::finished(&finished, now)).unwrap();
        assert_eq!(line["vertexes"][0]["name"], "exporting to image");
        let statuses = line["statuses"].as_array().unwrap();
        let ids: Vec<_> = statuses.iter().filter_map(|status| status["id"].as_str()).collect();
        assert_eq!(ids, [format!("writing image {id}"), "naming to a:b".to_owned()]);
        assert!(statuses.iter().all(|status| status["vertex"] == line["vertexes"][0]["digest"]));
    }
}
