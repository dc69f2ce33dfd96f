//! Bytes become logical lines: what belongs to one instruction, joined.
//!
//! ```text
//! # escape=`               directives, only at the very top
//!
//! RUN first `              a line that ends with the escape goes on in the next one
//!   # comment              comments between continued lines vanish,
//!                          and so do empty lines, which a check warns of
//!   second <<EOF           after the last one come the here-documents, as they are
//! body
//! EOF
//! ```
//!
//! Each logical line remembers where its pieces came from, so that every word of it has a span.
//! Two escapes at the end of a line are an escaped escape, and the line ends there.

use super::ast::Directive;
use super::span::{Problem, Span};
use super::words;

/// Longest line, in bytes without its end; the reference's limit.
const MAX_LINE: usize = 65535;
/// Here-documents of one instruction.
const MAX_HEREDOCS: usize = 256;

/// One instruction's text, joined.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) text: String,
    /// Offset in `text`, and in the file, of each piece that was joined; ascending.
    pieces: Vec<(usize, usize)>,
    /// With the here-documents, without the last newline.
    pub(super) span: Span,
    pub(super) heredocs: Vec<Body>,
}

/// A here-document.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// The word that announces it, in `Line::text`.
    pub(super) word: Span,
    pub(super) name: String,
    pub(super) quoted: bool,
    pub(super) strip: bool,
    /// As it is written, with newlines.
    pub(super) raw: String,
    pub(super) span: Span,
}

/// A part of a logical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) line: &'a Line,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Line {
    pub(super) fn whole(&self) -> Part<'_> {
        Part { line: self, start: 0, end: self.text.len() }
    }

    /// Where the byte of `text` stands in the file.
    fn place(&self, offset: usize) -> usize {
        let after = self.pieces.partition_point(|(text, _)| *text <= offset);
        match after.checked_sub(1).map(|index| self.pieces[index]) {
            Some((text, file)) => file + (offset - text),
            None => self.span.start,
        }
    }

    fn push(&mut self, piece: &str, file: usize) {
        if !piece.is_empty() {
            self.pieces.push((self.text.len(), file));
            self.text.push_str(piece);
        }
    }
}

impl<'a> Part<'a> {
    pub(super) fn text(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    /// A part of this one, by offsets in it.
    pub(super) fn sub(self, start: usize, end: usize) -> Part<'a> {
        Part { line: self.line, start: self.start + start, end: self.start + end }
    }

    pub(super) fn trim(self) -> Part<'a> {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.sub(start, start + text.trim().len())
    }

    /// The first word, and what follows it, both without space around.
    pub(super) fn split_word(self) -> (Part<'a>, Part<'a>) {
        let part = self.trim();
        let end = part.text().find(char::is_whitespace).unwrap_or(part.text().len());
        (part.sub(0, end), part.sub(end, part.text().len()).trim())
    }

    pub(super) fn span(self) -> Span {
        let start = self.line.place(self.start);
        // The end is behind the last byte, which may stand in another piece than what follows.
        let end = if self.end > self.start { self.line.place(self.end - 1) + 1 } else { start };
        Span { start, end: end.max(start) }
    }

    pub(super) fn word(self) -> super::ast::Word {
        super::ast::Word { text: self.text().to_owned(), span: self.span() }
    }
}

/// What a file is made of.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) directives: Vec<Directive>,
    pub(super) escape: char,
    pub(super) lines: Vec<Line>,
    /// Empty lines between continued ones.
    pub(super) blanks: Vec<Span>,
}

/// Reads physical lines one by one.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    problems: &'a mut Vec<Problem>,
}

/// A physical line: where it starts, and its text without its end.
#[derive(Clone, Copy)]
struct Physical<'a> {
    start: usize,
    text: &'a str,
}

impl Physical<'_> {
    fn span(self) -> Span {
        Span::new(self.start, self.start + self.text.len())
    }

    fn is_blank(self) -> bool {
        self.text.trim().is_empty()
    }

    fn is_comment(self) -> bool {
        self.text.trim_start().starts_with('#')
    }
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<Physical<'a>> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let line = rest.split('\n').next().unwrap_or_default();
        Some(Physical { start: self.at, text: line.strip_suffix('\r').unwrap_or(line) })
    }

    fn next(&mut self) -> Option<Physical<'a>> {
        let line = self.peek()?;
        let length = self.text[self.at..].find('\n').map_or(self.text.len() - self.at, |newline| newline + 1);
        self.at += length;
        if line.text.len() > MAX_LINE {
            self.problems.push(Problem::new(
                Span::new(line.start, line.start + 1),
                format!("dockerfile line greater than maximum allowed size of {MAX_LINE}"),
                "break the line with line continuations, or put its content into a file and COPY it",
            ));
        }
        Some(line)
    }
}

/// Takes a file apart. What is wrong goes to `problems`, and the rest is still taken apart.
pub(super) fn read(text: &str, problems: &mut Vec<Problem>) -> Lines {
    let mut reader = Reader { text, at: 0, problems };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    let mut lines = Lines { escape: '\\', ..Lines::default() };
    directives(&mut reader, &mut lines);
    while let Some(first) = reader.next() {
        if first.is_blank() || first.is_comment() {
            continue;
        }
        let mut line = join(first, &mut reader, lines.escape, &mut lines.blanks);
        if takes_heredocs(line.whole()) {
            heredocs(&mut line, &mut reader, lines.escape);
        }
        lines.lines.push(line);
    }
    lines
}

fn directives(reader: &mut Reader<'_>, lines: &mut Lines) {
    while let Some(line) = reader.peek() {
        let Some(directive) = directive(line) else { return };
        reader.next();
        if lines.directives.iter().any(|known| known.name == directive.name) {
            reader.problems.push(Problem::new(
                directive.span,
                format!("only one {} parser directive can be used", directive.name),
                "keep one of them",
            ));
            continue;
        }
        if directive.name == "escape" {
            match directive.value.as_str() {
                "\\" => lines.escape = '\\',
                "`" => lines.escape = '`',
                other => reader.problems.push(Problem::new(
                    directive.span,
                    format!("invalid escape token '{other}' does not match ` or \\"),
                    "write # escape=` or leave the directive out",
                )),
            }
        }
        lines.directives.push(directive);
    }
}

/// `# name=value` with a name that means something; everything else is a comment, and ends them.
fn directive(line: Physical<'_>) -> Option<Directive> {
    let (name, value) = line.text.trim_start().strip_prefix('#')?.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    let value = value.trim();
    if value.is_empty() || !["syntax", "escape", "check"].contains(&name.as_str()) {
        return None;
    }
    Some(Directive { name, value: value.to_owned(), span: line.span() })
}

/// Joins the physical lines of one instruction.
fn join(first: Physical<'_>, reader: &mut Reader<'_>, escape: char, blanks: &mut Vec<Span>) -> Line {
    let indentation = first.text.len() - first.text.trim_start().len();
    let start = first.start + indentation;
    let mut line = Line { span: Span::new(start, start), ..Line::default() };
    let (mut text, mut at) = (&first.text[indentation..], start);
    loop {
        line.span.end = at + text.trim_end().len();
        let Some(kept) = continued(text, escape) else {
            line.push(text, at);
            return line;
        };
        line.push(kept, at);
        let next = loop {
            match reader.next() {
                Some(next) if next.is_blank() => blanks.push(next.span()),
                Some(next) if next.is_comment() => {}
                other => break other,
            }
        };
        let Some(next) = next else { return line };
        (text, at) = (next.text, next.start);
    }
}

/// The line without its escape, if the next one belongs to it.
fn continued(text: &str, escape: char) -> Option<&str> {
    let kept = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!kept.ends_with(escape)).then_some(kept)
}

/// Only RUN, COPY and ADD have here-documents, also as triggers.
fn takes_heredocs(line: Part<'_>) -> bool {
    let (mut name, rest) = line.split_word();
    if name.text().eq_ignore_ascii_case("ONBUILD") {
        name = rest.split_word().0;
    }
    ["RUN", "COPY", "ADD"].iter().any(|known| name.text().eq_ignore_ascii_case(known))
}

fn heredocs(line: &mut Line, reader: &mut Reader<'_>, escape: char) {
    let announced: Vec<Body> = words::quoted(&line.text, escape)
        .into_iter()
        .filter_map(|word| announcement(word.of(&line.text), word, escape))
        .collect();
    if announced.len() > MAX_HEREDOCS {
        reader.problems.push(Problem::new(
            line.span,
            format!("more than {MAX_HEREDOCS} here-documents in one instruction"),
            "split the instruction",
        ));
    }
    for mut body in announced.into_iter().take(MAX_HEREDOCS) {
        let word = Part { line, start: body.word.start, end: body.word.end }.span();
        body.span = Span::new(reader.at, reader.at);
        loop {
            let Some(next) = reader.next() else {
                reader.problems.push(Problem::new(
                    word,
                    "unterminated heredoc",
                    format!("end it by a line that holds nothing but {}", body.name),
                ));
                line.span.end = reader.text.trim_end().len().max(line.span.end);
                break;
            };
            let text = if body.strip { next.text.trim_start_matches('\t') } else { next.text };
            if text == body.name {
                line.span.end = next.span().end;
                break;
            }
            body.raw.push_str(next.text);
            body.raw.push('\n');
            body.span.end = reader.at;
        }
        line.heredocs.push(body);
    }
}

/// `[number]<<[-]name`, where quotes around any of the name mean that nothing is expanded.
fn announcement(text: &str, word: Span, escape: char) -> Option<Body> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strip, raw) = rest.strip_prefix('-').map_or((false, rest), |raw| (true, raw));
    let name = words::unquote(raw, escape);
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let quoted = name != raw;
    Some(Body { word, name, quoted, strip, raw: String::new(), span: Span::default() })
}
