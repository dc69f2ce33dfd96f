//! The terminal the user sits at: its size, raw mode, the keys that detach.

use rustix::stdio;
use rustix::termios::{self, OptionalActions, Termios};

/// Keys that detach unless the user names others.
const DETACH_KEYS: [u8; 2] = [16, 17];

pub(crate) fn stdin_is_terminal() -> bool {
    termios::isatty(stdio::stdin())
}

/// Rows and columns of the terminal on standard output; zeros without one.
pub(crate) fn size() -> (u16, u16) {
    termios::tcgetwinsize(stdio::stdout()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// The same of the one on standard error.
pub(crate) fn size_of_error() -> (u16, u16) {
    termios::tcgetwinsize(stdio::stderr()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// The terminal hands over every key as typed; dropping this ends that.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Switches standard input, if it is a terminal that can be switched.
    pub(crate) fn enter() -> Option<Raw> {
        let before = termios::tcgetattr(stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal does not show what is typed; dropping this ends that.
pub(crate) struct Unseen {
    before: Termios,
}

impl Unseen {
    /// Switches standard input, which has to be a terminal.
    pub(crate) fn enter() -> std::io::Result<Unseen> {
        let before = termios::tcgetattr(stdio::stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &unseen)?;
        Ok(Unseen { before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Watches typed bytes for the detach sequence. Bytes that may begin it are
/// held back until the next byte decides.
#[derive(Debug)]
pub(crate) struct DetachWatch {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachWatch {
    /// `keys` as in `--detach-keys`; an invalid or empty text is the default.
    pub(crate) fn new(keys: &str) -> DetachWatch {
        let keys = parse_keys(keys).unwrap_or_else(|| DETACH_KEYS.to_vec());
        DetachWatch { keys, matched: 0 }
    }

    /// Appends to `pass` what may go on to the container; true means detach.
    pub(crate) fn feed(&mut self, typed: &[u8], pass: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                pass.push(byte);
            }
        }
        false
    }
}

/// `ctrl-p,ctrl-q`, `a,b`, `ctrl-[`: the bytes of the keys.
pub(crate) fn parse_keys(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return None;
    }
    text.split(',')
        .map(|key| match *key.as_bytes() {
            [letter] => Some(letter),
            _ => match key.strip_prefix("ctrl-")?.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [b'@'] => Some(0),
                [b'['] => Some(27),
                [b'\\'] => Some(28),
                [b']'] => Some(29),
                [b'^'] => Some(30),
                [b'_'] => Some(31),
                _ => None,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, pieces: &[&str]) -> (String, bool) {
        let mut watch = DetachWatch::new(keys);
        let mut pass = Vec::new();
        let detached = pieces.iter().any(|piece| watch.feed(piece.as_bytes(), &mut pass));
        (String::from_utf8(pass).unwrap(), detached)
    }

    #[test]
    fn the_sequence_detaches_and_is_not_passed_on() {
        assert_eq!(typed("", &["ab\u{10}", "\u{11}c"]), ("ab".to_owned(), true));
        assert_eq!(typed("a,b", &["xab"]), ("x".to_owned(), true));
        assert_eq!(typed("ctrl-x", &["\u{18}"]), (String::new(), true));
    }

    #[test]
    fn a_broken_sequence_is_passed_on_whole() {
        assert_eq!(typed("", &["\u{10}", "x"]), ("\u{10}x".to_owned(), false));
        assert_eq!(typed("a,b", &["aab"]), ("a".to_owned(), true));
        assert_eq!(typed("a,b", &["ac"]), ("ac".to_owned(), false));
    }

    #[test]
    fn keys_that_do_not_exist_are_none() {
        assert_eq!(parse_keys("nonsense"), None);
        assert_eq!(parse_keys("ctrl-[,q"), Some(vec![27, b'q']));
    }
}
