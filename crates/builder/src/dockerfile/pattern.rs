//! Patterns of `${x#p}`, `${x%p}` and `${x/p/w}`: `*`, `?`, and `\` that makes both literal.
//!
//! A pattern is run as a set of states over the value, so that its time is bounded by their product, and
//! the products that one expansion may take have a limit.

/// Steps of one expansion: some milliseconds, as a file may have ten thousand of them.
const MAX_STEPS: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
}

#[derive(Debug)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn new(text: &str) -> Pattern {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => Token::Char(chars.next().unwrap_or('\\')),
                c => Token::Char(c),
            });
        }
        // Several in a row mean the same as one.
        tokens.dedup_by(|a, b| *a == Token::Many && *b == Token::Many);
        Pattern(tokens)
    }

    /// How many characters of the beginning match: the fewest, or the most. `Err` if it takes too long.
    fn matched(&self, text: &[char], longest: bool, steps: &mut usize) -> Result<Option<usize>, ()> {
        let accepting = self.0.len();
        let (mut states, mut next) = (vec![false; accepting + 1], vec![false; accepting + 1]);
        states[0] = true;
        let mut found = None;
        for length in 0..=text.len() {
            *steps += accepting + 1;
            if *steps > MAX_STEPS {
                return Err(());
            }
            // `*` may match nothing.
            for (index, token) in self.0.iter().enumerate() {
                states[index + 1] |= states[index] && *token == Token::Many;
            }
            if states[accepting] {
                found = Some(length);
                if !longest {
                    break;
                }
            }
            let Some(&c) = text.get(length) else { break };
            next.fill(false);
            for (index, token) in self.0.iter().enumerate().filter(|(index, _)| states[*index]) {
                match token {
                    Token::Many => next[index] = true,
                    Token::One => next[index + 1] = true,
                    Token::Char(wanted) => next[index + 1] |= *wanted == c,
                }
            }
            if !next.contains(&true) {
                break;
            }
            std::mem::swap(&mut states, &mut next);
        }
        Ok(found)
    }

    /// `None` if it takes too long.
    pub(super) fn strip_prefix(&self, value: &str, longest: bool) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let length = self.matched(&chars, longest, &mut 0).ok()?.unwrap_or(0);
        Some(chars[length..].iter().collect())
    }

    /// `None` if it takes too long.
    pub(super) fn strip_suffix(&self, value: &str, longest: bool) -> Option<String> {
        let reversed = Pattern(self.0.iter().rev().copied().collect());
        let chars: Vec<char> = value.chars().rev().collect();
        let length = reversed.matched(&chars, longest, &mut 0).ok()?.unwrap_or(0);
        Some(chars[length..].iter().rev().collect())
    }

    /// Of the matches at one place the longest counts; one of no characters is none. `None` if it takes too long, or
    /// grows beyond `limit` bytes.
    pub(super) fn replace(&self, value: &str, with: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let (mut at, mut steps, mut done) = (0, 0, false);
        while at < chars.len() {
            let found = if done { None } else { self.matched(&chars[at..], true, &mut steps).ok()? };
            match found {
                Some(length) if length > 0 => {
                    out.push_str(with);
                    at += length;
                    done = !all;
                }
                _ => {
                    out.push(chars[at]);
                    at += 1;
                }
            }
            if out.len() > limit {
                return None;
            }
        }
        Some(out)
    }
}
