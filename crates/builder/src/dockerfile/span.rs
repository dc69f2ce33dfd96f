//! Where something stands in a Dockerfile, and how a problem there is shown.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// Bytes of a Dockerfile: from `start`, up to and without `end`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The smallest span that has both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The lines that it is on, from 1.
    pub fn lines(self, text: &str) -> RangeInclusive<usize> {
        let line = |offset| Position::of(text, offset).line;
        line(self.start)..=line(self.end.max(self.start))
    }

    /// What stands there. Empty if `text` is not the one that the span is of.
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// Line and column (in characters), both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// Of the byte at `offset`; of the end if there are fewer.
    pub fn of(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().filter(|&c| c != '\u{feff}').count() + 1,
        }
    }
}

/// What is wrong at one place of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub span: Span,
    /// In the reference's words where it has any.
    pub message: String,
    /// What to do now; empty where the message says it.
    pub remedy: String,
}

impl Problem {
    pub fn new(span: Span, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { span, message: message.into(), remedy: remedy.into() }
    }

    /// With place, line and marker, in several lines, the last one without its end:
    ///
    /// ```text
    /// Dockerfile:3:1: dockerfile parse error on line 3: unknown instruction: FORM (did you mean FROM?)
    ///    3 | FORM alpine
    ///      | ^^^^
    /// ```
    ///
    /// `text` is the Dockerfile, `name` what it is called.
    pub fn show(&self, name: &str, text: &str) -> String {
        let at = Position::of(text, self.span.start);
        let message = format!("dockerfile parse error on line {}: {}", at.line, self.message);
        pointed(name, text, self.span, &message, &self.remedy)
    }
}

/// Lines of a Dockerfile with those beside them, as the reference shows what an error is about:
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM alpine
///    2 | >>> RUN make
///    3 |     CMD ["x"]
/// --------------------
/// ```
///
/// The last line has no end. `name` is what the file is called, `lines` are counted from 1.
pub fn excerpt(name: &str, text: &str, lines: &RangeInclusive<usize>) -> String {
    /// More of them are not shown.
    const MOST: usize = 40;
    const RULE: &str = "--------------------";
    let (first, last) = (*lines.start(), (*lines.end()).min(*lines.start() + MOST));
    let beside = if first == last { 2 } else { 1 };
    let mut out = format!("{name}:{first}\n{RULE}\n");
    for (number, line) in (1..).zip(text.split('\n')) {
        if number + beside >= first && number <= last + beside {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            let line = format!(" {number:3} | {mark} {}", plain(line));
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out + RULE
}

/// A line as a terminal may show it: no control character steers it, and one that is too long is cut.
fn plain(line: &str) -> String {
    /// Characters.
    const WIDTH: usize = 160;
    let line = line.trim_start_matches('\u{feff}').trim_end_matches('\r');
    line.chars().take(WIDTH).map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A message about a place, with the line it is on, a marker below, and what to do.
fn pointed(name: &str, text: &str, span: Span, message: &str, remedy: &str) -> String {
    let at = Position::of(text, span.start);
    let shown = plain(text.split('\n').nth(at.line - 1).unwrap_or_default());
    // Tabs keep their width in the marker's line.
    let before: String = shown.chars().take(at.column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
    let marked = span.of(text).chars().take_while(|c| *c != '\n' && *c != '\r').count();
    let room = shown.chars().count().saturating_sub(at.column - 1);
    let marker = "^".repeat(marked.clamp(1, room.max(1)));
    let mut out = format!("{name}:{}:{}: {message}\n", at.line, at.column);
    let _ = write!(out, "{:4} | {shown}\n     | {before}{marker}", at.line);
    if !remedy.is_empty() {
        let _ = write!(out, "\n     = {remedy}");
    }
    out
}
