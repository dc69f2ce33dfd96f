//! Stanzas of fields, as control files, indices and apt's newer sources have them (deb822(5)).

use std::io::{self, BufRead, Read as _};

use crate::Error;

/// Bytes of one line.
const LINE: u64 = 1 << 20;
/// Bytes of one stanza: the one of a Release file is the largest, with every index's digests.
const STANZA: usize = 64 << 20;

/// Fields of one stanza, in their order; further lines of a value begin with a line break.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Stanza(Vec<(String, String)>);

impl Stanza {
    /// The field's value, whatever the case of its name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    /// The words of a value; none if there is no such field.
    pub(crate) fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_whitespace()
    }
}

/// Reads one stanza after the other.
pub(crate) struct Stanzas<R> {
    input: R,
    line: usize,
    buffer: Vec<u8>,
}

/// Why the next one cannot be had.
#[derive(Debug)]
pub(crate) enum Failed {
    Read(io::Error),
    Wrong(Error),
}

impl<R: BufRead> Stanzas<R> {
    pub(crate) fn new(input: R) -> Stanzas<R> {
        Stanzas { input, line: 0, buffer: Vec::new() }
    }

    /// `None` at the end. Only fields that are `wanted` are kept.
    pub(crate) fn next(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Option<Stanza>, Failed> {
        let mut stanza = Stanza::default();
        let (mut size, mut seen, mut keeps) = (0, false, false);
        loop {
            self.buffer.clear();
            let count = (&mut self.input).take(LINE).read_until(b'\n', &mut self.buffer);
            let count = count.map_err(Failed::Read)?;
            self.line += 1;
            let wrong = |why| Failed::Wrong(Error::Control { line: self.line, why });
            if count as u64 == LINE {
                return Err(wrong("it is too long"));
            }
            size += count;
            if size > STANZA {
                return Err(wrong("the stanza is too long"));
            }
            let text = String::from_utf8_lossy(&self.buffer);
            let text = text.trim_end();
            if text.is_empty() {
                match (count, seen) {
                    (0, false) => return Ok(None),
                    (_, true) => return Ok(Some(stanza)),
                    (_, false) => continue,
                }
            }
            if text.starts_with('#') {
                continue;
            }
            if text.starts_with([' ', '\t']) {
                if !seen {
                    return Err(wrong("a stanza begins with the rest of a field"));
                }
                if let Some((_, value)) = stanza.0.last_mut().filter(|_| keeps) {
                    value.push('\n');
                    value.push_str(text.trim_start());
                }
                continue;
            }
            let (name, value) = text.split_once(':').ok_or_else(|| wrong("it is no field"))?;
            (seen, keeps) = (true, wanted(name));
            if keeps {
                stanza.0.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
}

/// The next stanza of a text in memory, from which nothing fails to be read.
pub(crate) fn next(stanzas: &mut Stanzas<&[u8]>) -> Result<Option<Stanza>, Error> {
    stanzas.next(|_| true).map_err(|failed| match failed {
        Failed::Wrong(error) => error,
        Failed::Read(_) => Error::Control { line: stanzas.line, why: "it cannot be read" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Stanza>, Error> {
        let mut stanzas = Stanzas::new(text.as_bytes());
        std::iter::from_fn(|| next(&mut stanzas).transpose()).collect()
    }

    #[test]
    fn stanzas_are_parted_by_empty_lines_and_values_go_on_after_spaces() {
        let found = all("\nA: 1\n# no\nB:\n two\n .\n three\n\n\nA:2\r\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].get("a"), Some("1"));
        assert_eq!(found[0].get("B"), Some("\ntwo\n.\nthree"));
        assert_eq!(found[1].get("A"), Some("2"));
        assert_eq!(found[1].words("B").count(), 0);
    }

    #[test]
    fn what_is_no_field_is_refused_with_its_line() {
        assert_eq!(all("A: 1\nB\n"), Err(Error::Control { line: 2, why: "it is no field" }));
        let first = all(" x\n");
        assert_eq!(first, Err(Error::Control { line: 1, why: "a stanza begins with the rest of a field" }));
        let long = "A: ".to_owned() + &"x".repeat(LINE as usize);
        assert_eq!(all(&long), Err(Error::Control { line: 1, why: "it is too long" }));
    }

    #[test]
    fn unwanted_fields_are_not_kept_with_any_of_their_lines() {
        let mut stanzas = Stanzas::new(&b"A: 1\n a\nB: 2\n b\n"[..]);
        let stanza = stanzas.next(|name| name == "A").unwrap().unwrap();
        assert_eq!(stanza.get("A"), Some("1\na"));
        assert_eq!(stanza.get("B"), None);
    }
}
