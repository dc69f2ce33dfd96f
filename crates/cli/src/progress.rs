//! The stream of JSON messages by which load, import and pull report.
//!
//! Each message has a text (`stream`, `status` with an optional `id` and
//! `progress`) or an error that ends it all. On a terminal a line with an `id`
//! is written over in place; elsewhere bars are left out, as the reference
//! does, so that logs stay short.

use hull_api::client::Response;
use serde::Deserialize;

use crate::command::{Failure, fail};
use crate::session::print;

/// A message longer than this is not one of ours.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    stream: Option<String>,
    status: Option<String>,
    id: Option<String>,
    progress: Option<String>,
    #[serde(rename = "errorDetail")]
    detail: Option<Detail>,
    error: Option<String>,
    aux: Option<Aux>,
}

/// What is not for people.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Aux {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    message: String,
}

/// What has been shown so far.
pub(crate) struct Progress {
    quiet: bool,
    terminal: bool,
    /// Ids with a line of their own, from the top.
    lines: Vec<String>,
    pending: Vec<u8>,
    /// Of the image that all this was for, once it is told.
    pub(crate) id: String,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress {
            quiet,
            terminal: rustix::termios::isatty(rustix::stdio::stdout()),
            lines: Vec::new(),
            pending: Vec::new(),
            id: String::new(),
        }
    }

    /// Shows all messages of an answer.
    pub(crate) async fn follow(&mut self, mut answer: Response) -> Result<(), Failure> {
        while let Some(piece) = answer.chunk().await? {
            let text = self.feed(&piece)?;
            if !self.quiet && !text.is_empty() {
                print(&text);
            }
        }
        Ok(())
    }

    /// The text for the messages that `bytes` complete.
    fn feed(&mut self, bytes: &[u8]) -> Result<String, Failure> {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let pending = std::mem::take(&mut self.pending);
        let mut messages = serde_json::Deserializer::from_slice(&pending).into_iter::<Message>();
        let mut done = 0;
        while let Some(message) = messages.next() {
            match message {
                Ok(message) => {
                    done = messages.byte_offset();
                    self.show(message, &mut text)?;
                }
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error.into()),
            }
        }
        if pending.len() - done > MESSAGE_BYTES_MAX {
            return Err(fail("the daemon sent a message without an end"));
        }
        self.pending = pending[done..].to_vec();
        Ok(text)
    }

    fn show(&mut self, message: Message, text: &mut String) -> Result<(), Failure> {
        let reason =
            message.detail.map(|detail| detail.message).filter(|reason| !reason.is_empty()).or(message.error);
        if let Some(reason) = reason {
            if !self.quiet && !text.is_empty() {
                print(text);
            }
            return Err(fail(reason));
        }
        if let Some(aux) = message.aux {
            self.id = aux.id;
        }
        if let Some(stream) = message.stream {
            text.push_str(&stream);
            return Ok(());
        }
        let Some(status) = message.status else {
            return Ok(());
        };
        let bar = message.progress.unwrap_or_default();
        let Some(id) = message.id.filter(|id| !id.is_empty()) else {
            text.push_str(&status);
            text.push('\n');
            return Ok(());
        };
        if !self.terminal {
            if bar.is_empty() {
                text.push_str(&format!("{id}: {status}\n"));
            }
            return Ok(());
        }
        let at = self.lines.iter().position(|line| *line == id);
        let up = match at {
            Some(at) => self.lines.len() - at,
            None => {
                self.lines.push(id.clone());
                text.push('\n');
                1
            }
        };
        // Up, clear the line, write, and back down.
        text.push_str(&format!("\x1b[{up}A\x1b[2K\r{id}: {status} {bar}\x1b[{up}B\r"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Progress {
        Progress { quiet: true, terminal: false, lines: Vec::new(), pending: Vec::new(), id: String::new() }
    }

    #[test]
    fn messages_are_shown_in_whatever_pieces_they_arrive() {
        let stream = "{\"stream\":\"Loaded image: b\\n\"}\r\n{\"status\":\"Loading layer\",\"id\":\"4e\",\"progress\":\"[=>]\"}\r\n{\"status\":\"sha256:5c\"}\r\n{\"status\":\"Done\",\"id\":\"4e\"}";
        for size in [1, 5, stream.len()] {
            let mut progress = plain();
            let mut text = String::new();
            for piece in stream.as_bytes().chunks(size) {
                text.push_str(&progress.feed(piece).unwrap());
            }
            assert_eq!(text, "Loaded image: b\nsha256:5c\n4e: Done\n", "{size}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_the_commands_error() {
        let mut progress = plain();
        let failure = progress
            .feed(br#"{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}"#)
            .unwrap_err();
        assert_eq!(failure, fail("unexpected EOF"));
    }
}
