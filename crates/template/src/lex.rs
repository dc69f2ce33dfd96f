//! Text to tokens. Outside `{{ }}` everything is text; `{{- ` and ` -}}` eat the white
//! space next to them; comments vanish.

/// One token with the byte position it starts at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) pos: usize,
    pub(crate) text: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Open,
    Close,
    Space,
    /// `name`, a function, a keyword, true, false or nil.
    Word,
    /// `.name`
    Field,
    /// `$name` or `$`
    Variable,
    Dot,
    Number,
    /// `'a'`
    Char,
    Quoted,
    RawQuoted,
    Declare,
    Assign,
    Pipe,
    Comma,
    LeftParen,
    RightParen,
    /// Any other ASCII character.
    Other,
    End,
}

/// A lexing error: where and what.
#[derive(Debug)]
pub(crate) struct LexError {
    pub(crate) pos: usize,
    pub(crate) message: String,
}

pub(crate) struct Lexer<'a> {
    input: &'a str,
    pos: usize,
    inside: bool,
    parens: usize,
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

impl<'a> Lexer<'a> {
    pub(crate) fn new(input: &'a str) -> Lexer<'a> {
        Lexer { input, pos: 0, inside: false, parens: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.input[self.pos..]
    }

    fn take(&mut self, kind: Kind, len: usize) -> Token<'a> {
        let pos = self.pos;
        self.pos += len;
        Token { kind, pos, text: &self.input[pos..self.pos] }
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, LexError> {
        Err(LexError { pos: self.pos, message: message.into() })
    }

    pub(crate) fn next(&mut self) -> Result<Token<'a>, LexError> {
        if self.inside {
            return self.action();
        }
        loop {
            let rest = self.rest();
            let Some(open) = rest.find("{{") else {
                let kind = if rest.is_empty() { Kind::End } else { Kind::Text };
                return Ok(self.take(kind, rest.len()));
            };
            let after = &rest[open + 2..];
            let trims = after.starts_with('-') && after[1..].starts_with(SPACE);
            let text = if trims { rest[..open].trim_end_matches(SPACE) } else { &rest[..open] };
            if !text.is_empty() {
                let token = self.take(Kind::Text, text.len());
                self.pos += open - text.len();
                return Ok(token);
            }
            self.pos += open;
            let marker = if trims { 2 } else { 0 };
            if after[marker..].starts_with("/*") {
                self.comment(2 + marker)?;
                continue;
            }
            let token = self.take(Kind::Open, 2);
            self.pos += marker;
            self.inside = true;
            self.parens = 0;
            return Ok(token);
        }
    }

    /// Skips a comment; `start` is the distance to its `/*`.
    fn comment(&mut self, start: usize) -> Result<(), LexError> {
        let rest = &self.rest()[start + 2..];
        let Some(end) = rest.find("*/") else {
            return self.error("unclosed comment");
        };
        let after = &rest[end + 2..];
        let Some((len, trims)) = closing(after) else {
            return self.error("comment ends before closing delimiter");
        };
        self.pos += start + 2 + end + 2 + len;
        if trims {
            self.trim_left();
        }
        Ok(())
    }

    fn trim_left(&mut self) {
        let rest = self.rest();
        self.pos += rest.len() - rest.trim_start_matches(SPACE).len();
    }

    fn action(&mut self) -> Result<Token<'a>, LexError> {
        let rest = self.rest();
        if let Some((len, trims)) = closing(rest) {
            if self.parens > 0 {
                return self.error("unclosed left paren");
            }
            let token = self.take(Kind::Close, len);
            if trims {
                self.trim_left();
            }
            self.inside = false;
            return Ok(token);
        }
        let Some(first) = rest.chars().next() else {
            return self.error("unclosed action");
        };
        match first {
            _ if SPACE.contains(&first) => {
                let mut len = rest.len() - rest.trim_start_matches(SPACE).len();
                // The space that belongs to a trimming close is not an argument's.
                if closing(&rest[len - 1..]).is_some_and(|(_, trims)| trims) {
                    len -= 1;
                }
                if len == 0 {
                    return self.action();
                }
                Ok(self.take(Kind::Space, len))
            }
            '=' => Ok(self.take(Kind::Assign, 1)),
            ':' if rest.starts_with(":=") => Ok(self.take(Kind::Declare, 2)),
            ':' => self.error("expected :="),
            '|' => Ok(self.take(Kind::Pipe, 1)),
            ',' => Ok(self.take(Kind::Comma, 1)),
            '"' => self.quote('"', Kind::Quoted, "unterminated quoted string"),
            '\'' => self.quote('\'', Kind::Char, "unterminated character constant"),
            '`' => match rest[1..].find('`') {
                Some(end) => Ok(self.take(Kind::RawQuoted, end + 2)),
                None => self.error("unterminated raw quoted string"),
            },
            '$' => self.name(Kind::Variable, 1),
            '.' => match rest[1..].chars().next() {
                Some(c) if c.is_ascii_digit() => self.number(),
                Some(c) if is_word(c) => self.name(Kind::Field, 1),
                _ => self.name(Kind::Dot, 1),
            },
            '+' | '-' | '0'..='9' => self.number(),
            '(' => {
                self.parens += 1;
                Ok(self.take(Kind::LeftParen, 1))
            }
            ')' if self.parens == 0 => self.error("unexpected right paren"),
            ')' => {
                self.parens -= 1;
                Ok(self.take(Kind::RightParen, 1))
            }
            c if is_word(c) => self.name(Kind::Word, 0),
            c if c.is_ascii_graphic() => Ok(self.take(Kind::Other, 1)),
            c => self.error(format!("unrecognized character in action: {}", unicode(c))),
        }
    }

    /// `skip` characters and then letters, digits and underscores, up to a separator.
    fn name(&mut self, kind: Kind, skip: usize) -> Result<Token<'a>, LexError> {
        let rest = &self.rest()[skip..];
        let len = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let next = rest[len..].chars().next();
        let ends = |c: char| SPACE.contains(&c) || ".,|:()".contains(c);
        if let Some(bad) = next
            && !ends(bad)
            && closing(&rest[len..]).is_none()
        {
            return self.error(format!("bad character {}", unicode(bad)));
        }
        Ok(self.take(kind, skip + len))
    }

    fn quote(&mut self, mark: char, kind: Kind, unterminated: &'static str) -> Result<Token<'a>, LexError> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == mark => return Ok(self.take(kind, at + 1)),
                _ => {}
            }
        }
        self.error(unterminated)
    }

    /// Everything that may belong to a number; whether it is one the parser says.
    fn number(&mut self) -> Result<Token<'a>, LexError> {
        let rest = self.rest();
        let hex = rest.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
        let mut len = 1;
        let mut before = rest.as_bytes()[0];
        for byte in rest.bytes().skip(1) {
            let exponent = if hex { b"pP".contains(&before) } else { b"eE".contains(&before) };
            let sign = (byte == b'+' || byte == b'-') && exponent;
            if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || sign) {
                break;
            }
            before = byte;
            len += 1;
        }
        if rest[len..].chars().next().is_some_and(is_word) {
            len += rest[len..].chars().next().map_or(0, char::len_utf8);
        }
        Ok(self.take(Kind::Number, len))
    }
}

/// The length of a closing delimiter at the start of `text`, and whether it trims.
fn closing(text: &str) -> Option<(usize, bool)> {
    if text.starts_with("}}") {
        return Some((2, false));
    }
    let trimmed = text.strip_prefix(SPACE)?;
    trimmed.starts_with("-}}").then_some((4, true))
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Go's `%#U`.
fn unicode(c: char) -> String {
    if c.is_control() { format!("U+{:04X}", u32::from(c)) } else { format!("U+{:04X} '{c}'", u32::from(c)) }
}
