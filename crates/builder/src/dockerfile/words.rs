//! How an instruction's text falls into words: by space, by space outside of quotes, or as JSON.

use super::ast::Word;
use super::lines::Part;
use super::span::Span;

/// Words by space alone: quotes mean nothing.
pub(super) fn plain(part: Part<'_>) -> Vec<Part<'_>> {
    let mut words = Vec::new();
    let (mut word, mut rest) = part.split_word();
    while !word.text().is_empty() {
        words.push(word);
        (word, rest) = rest.split_word();
    }
    words
}

/// Words by space outside of quotes, which stay in them. A quote that is not closed lasts to the end.
pub(super) fn quoted(text: &str, escape: char) -> Vec<Span> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(Span::new(start, at));
            }
            continue;
        }
        start.get_or_insert(at);
        if c == escape {
            chars.next();
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
        }
    }
    if let Some(start) = start {
        words.push(Span::new(start, text.len()));
    }
    words
}

/// The same of a part.
pub(super) fn quoted_parts(part: Part<'_>, escape: char) -> Vec<Part<'_>> {
    quoted(part.text(), escape).into_iter().map(|span| part.sub(span.start, span.end)).collect()
}

/// Without quotes and escapes; nothing is replaced.
pub(super) fn unquote(text: &str, escape: char) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c == escape && quote != Some('\'') => out.extend(chars.next()),
            c if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            c => out.push(c),
        }
    }
    out
}

/// What a text that may be a JSON array is.
pub(super) enum Json {
    /// Not an array: it is meant as something else.
    No,
    Strings(Vec<Word>),
    /// An array of more than strings.
    Mixed,
}

/// Reads an array of strings. What follows the array is ignored, as the reference does.
pub(super) fn json(part: Part<'_>) -> Json {
    let part = part.trim();
    if !part.text().starts_with('[') {
        return Json::No;
    }
    let mut values = serde_json::Deserializer::from_str(part.text()).into_iter::<Vec<serde_json::Value>>();
    let Some(Ok(values)) = values.next() else { return Json::No };
    let mut strings = Vec::new();
    let mut at = 0;
    for value in values {
        let serde_json::Value::String(text) = value else { return Json::Mixed };
        let length = string_length(&part.text()[at..]);
        let start = at + length.start;
        at += length.end;
        strings.push(Word { text, span: part.sub(start, at).span() });
    }
    Json::Strings(strings)
}

/// Where the next string literal of valid JSON stands.
fn string_length(text: &str) -> Span {
    let start = text.find('"').unwrap_or(text.len());
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(start + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Span::new(start, at + 1),
            _ => {}
        }
    }
    Span::new(start, text.len())
}
