//! What a build tells, as a person or a program reads it.

use hull_api::build::classic::Classic;
use hull_api::build::{Finished, Progress, Stream};
use serde_json::json;

use crate::session::{line, print};

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Lines,
    Nothing,
    /// One JSON document a line.
    Raw,
}

pub(super) struct Show {
    shown: Shown,
    classic: Classic,
}

impl Show {
    pub(super) fn new(shown: Shown) -> Show {
        Show { shown, classic: Classic::default() }
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        match self.shown {
            Shown::Nothing => {}
            Shown::Lines => print(&self.classic.feed(progress).concat()),
            Shown::Raw => line(&match &progress {
                Progress::Output { step, stream, bytes } => {
                    let stream = if *stream == Stream::Out { 1 } else { 2 };
                    let text = String::from_utf8_lossy(bytes);
                    json!({ "output": { "step": step, "stream": stream, "text": text } }).to_string()
                }
                progress => json!(progress).to_string(),
            }),
        }
    }

    pub(super) fn finished(&mut self, finished: &Finished) {
        match self.shown {
            Shown::Nothing => {}
            Shown::Lines => {
                line(&format!("Successfully built {}", finished.id.short()));
                finished.names.iter().for_each(|name| line(&format!("Successfully tagged {name}")));
            }
            Shown::Raw => line(&json!({ "aux": { "ID": finished.id } }).to_string()),
        }
    }
}
