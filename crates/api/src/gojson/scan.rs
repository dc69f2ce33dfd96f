//! Says where a document breaks the syntax of JSON, in the words of Go's scanner. Runs only after
//! the real parser has refused; recursion is bounded as there.

/// As deep as serde_json goes.
const MAX_DEPTH: usize = 128;

/// The text after `invalid JSON: ` for a document that does not parse.
pub(super) fn complaint(text: &str) -> String {
    let mut scanner = Scanner { rest: text.chars() };
    match scanner.value(0) {
        Err(text) => text,
        // The two parsers disagree only on what the first finds too large.
        Ok(()) => "value out of range".to_owned(),
    }
}

struct Scanner<'a> {
    rest: std::str::Chars<'a>,
}

type Scanned = Result<(), String>;

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.rest.next();
        }
    }

    fn bad(found: Option<char>, context: &str) -> String {
        match found {
            None => "unexpected EOF".to_owned(),
            Some('\'') => format!(r"invalid character '\'' {context}"),
            Some(c) if c.is_control() => {
                format!("invalid character '{}' {context}", c.escape_default())
            }
            Some(c) => format!("invalid character '{c}' {context}"),
        }
    }

    fn value(&mut self, depth: usize) -> Scanned {
        if depth > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.space();
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some('"') => self.string(),
            Some('-' | '0'..='9') => self.number(),
            Some('t') => self.literal("true"),
            Some('f') => self.literal("false"),
            Some('n') => self.literal("null"),
            other => Err(Self::bad(other, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Scanned {
        self.rest.next();
        self.space();
        if self.peek() == Some('}') {
            self.rest.next();
            return Ok(());
        }
        loop {
            self.space();
            match self.peek() {
                Some('"') => self.string()?,
                other => return Err(Self::bad(other, "looking for beginning of object key string")),
            }
            self.space();
            match self.rest.next() {
                Some(':') => {}
                other => return Err(Self::bad(other, "after object key")),
            }
            self.value(depth + 1)?;
            self.space();
            match self.rest.next() {
                Some(',') => {}
                Some('}') => return Ok(()),
                other => return Err(Self::bad(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Scanned {
        self.rest.next();
        self.space();
        if self.peek() == Some(']') {
            self.rest.next();
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            match self.rest.next() {
                Some(',') => {}
                Some(']') => return Ok(()),
                other => return Err(Self::bad(other, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Scanned {
        self.rest.next();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.rest.next() {
                    Some('b' | 'f' | 'n' | 'r' | 't' | '\\' | '/' | '"') => {}
                    Some('u') => {
                        for _ in 0..4 {
                            match self.rest.next() {
                                Some(c) if c.is_ascii_hexdigit() => {}
                                other => return Err(Self::bad(other, "in \\u hexadecimal character escape")),
                            }
                        }
                    }
                    other => return Err(Self::bad(other, "in string escape code")),
                },
                Some(c) if c < ' ' => return Err(Self::bad(Some(c), "in string literal")),
                Some(_) => {}
                None => return Err(Self::bad(None, "")),
            }
        }
    }

    fn digits(&mut self, context: &str) -> Scanned {
        match self.peek() {
            Some('0'..='9') => {}
            other => return Err(Self::bad(other, context)),
        }
        while matches!(self.peek(), Some('0'..='9')) {
            self.rest.next();
        }
        Ok(())
    }

    fn number(&mut self) -> Scanned {
        if self.peek() == Some('-') {
            self.rest.next();
        }
        if self.peek() == Some('0') {
            self.rest.next();
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some('.') {
            self.rest.next();
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.rest.next();
            if matches!(self.peek(), Some('+' | '-')) {
                self.rest.next();
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Scanned {
        for expected in word.chars() {
            match self.rest.next() {
                Some(c) if c == expected => {}
                other => {
                    return Err(Self::bad(other, &format!("in literal {word} (expecting '{expected}')")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn breaks_are_told_as_go_does() {
        let cases = [
            ("bad", "invalid character 'b' looking for beginning of value"),
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            (r#"{"a":"b"#, "unexpected EOF"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            ("[1.x]", "invalid character 'x' after decimal point in numeric literal"),
        ];
        for (text, expected) in cases {
            assert_eq!(complaint(text), expected, "{text}");
        }
    }
}
