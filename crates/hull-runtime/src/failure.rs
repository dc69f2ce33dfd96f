//! Why a command failed, for people and for the log that conmon and podman read.

use std::io::Write;
use std::path::Path;

use hull_runtime::bundle::StartError;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// What the process exits with.
    pub(crate) code: u8,
    /// There is no such container: nothing to delete by force.
    pub(crate) missing: bool,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 1, missing: false }
    }

    pub(crate) fn missing() -> Failure {
        Failure { missing: true, ..Failure::new("container does not exist") }
    }

    pub(crate) fn start(error: &StartError) -> Failure {
        Failure::new(format!("unable to start container process: {error}"))
    }
}

/// Says what a failed step was about.
pub(crate) trait Of<T> {
    fn of(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> Of<T> for std::result::Result<T, E> {
    fn of(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let message = format!("{}: {}", what(), hull_sys::error::chain(&error));
            Failure::new(message)
        })
    }
}

/// Writes a line to the log (`--log`), in the form that its readers know from runc.
pub(crate) fn log(path: &Path, json: bool, level: &str, message: &str) {
    let time = crate::clock::rfc3339(hull_sys::time::now());
    let line = if json {
        serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
    } else {
        format!("time={time:?} level={level} msg={message:?}")
    };
    // Who asked for a log that cannot be written still gets the message on standard error.
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}
