//! [`StartError`]s: which kind, and in the words that the reference's users know.

use std::error::Error as StdError;

use hull_sys::Errno;
use hull_sys::error::{chain, describe};

use crate::bundle::{StartError, StartErrorKind};

pub(super) type Result<T> = std::result::Result<T, StartError>;

/// Longer messages are cut: they travel in one packet and end in a line for a person.
const MAX_MESSAGE: usize = 4096;

fn failure(kind: StartErrorKind, mut message: String) -> StartError {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    StartError { kind, message }
}

/// Something asked for in the bundle is wrong.
pub(super) fn invalid(message: impl Into<String>) -> StartError {
    failure(StartErrorKind::Invalid, message.into())
}

pub(super) fn not_found(message: impl Into<String>) -> StartError {
    failure(StartErrorKind::NotFound, message.into())
}

pub(super) fn not_executable(message: impl Into<String>) -> StartError {
    failure(StartErrorKind::NotExecutable, message.into())
}

/// The host failed us; the whole chain of causes in one line.
pub(super) fn host(error: &dyn StdError) -> StartError {
    failure(StartErrorKind::Host, chain(error))
}

/// `.or_host()?`, and `.or_invalid(|| "what")?` where the bundle is to blame.
pub(super) trait OrFail<T> {
    fn or_host(self) -> Result<T>;
    fn or_invalid(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + 'static> OrFail<T> for std::result::Result<T, E> {
    fn or_host(self) -> Result<T> {
        self.map_err(|error| host(&error))
    }

    fn or_invalid(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| invalid(format!("{}: {}", what(), host(&error).message)))
    }
}

/// An errno as Go prints it, which the reference's messages end in: `no such file or directory`.
pub(super) fn go_text(errno: Errno) -> String {
    let text = describe(errno);
    let mut letters = text.chars();
    match letters.next() {
        // "RPC struct is bad" and its kin keep their capitals.
        Some(first) if !letters.as_str().starts_with(|c: char| c.is_ascii_uppercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text,
    }
}
