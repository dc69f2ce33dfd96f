//! Patterns of paths: Go's `filepath.Match` (pkg.go.dev/path/filepath#Match), and `**` for any
//! number of folders (docs.docker.com/build/concepts/context, "Syntax").
//!
//! `*` and `?` stop at `/`; `[a-z]` and `[^a-z]` are classes; `\` takes the next character as it
//! is. `**/` and `**` before other characters mean any number of whole folders, none included; `**`
//! at the end means all that follows.
//!
//! A pattern is run as the finite automaton that it is: all its places at once, character by
//! character. So no pattern takes more time than its length times the path's, and the same run
//! answers whether a parent folder matches and whether anything below could.

/// Most bytes of a pattern: no path is longer (`PATH_MAX`, limits.h).
pub(crate) const MAX_LENGTH: usize = 4096;

/// A compiled pattern. No more than two of its tokens in a row match nothing: `**` twice is `**`, and one
/// `*` stands before another character or at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Some,
    /// Ranges of characters, both ends included.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `**` with something after it.
    Folders,
    /// `**` at the end.
    All,
}

/// A pattern that means nothing: an open class, a range that runs backwards, a `\` at the end. The text
/// is Go's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub(crate) struct BadPattern;

/// What one run of a pattern over a path has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The path matches.
    pub(crate) itself: bool,
    /// A folder that it lies in matches.
    pub(crate) parent: bool,
    /// Something that lies in it could match.
    pub(crate) below: bool,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Pattern, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let token = match c {
                '*' if rest.next_if_eq(&'*').is_some() => {
                    rest.next_if_eq(&'/');
                    if rest.peek().is_some() { Token::Folders } else { Token::All }
                }
                '*' => Token::Some,
                '?' => Token::One,
                '[' => class(&mut rest)?,
                '\\' => Token::Literal(rest.next().ok_or(BadPattern)?),
                c => Token::Literal(c),
            };
            if token != Token::Folders || tokens.last() != Some(&Token::Folders) {
                tokens.push(token);
            }
        }
        Ok(Pattern { tokens })
    }

    pub(crate) fn run(&self, path: &str) -> Found {
        let mut found = Found::default();
        let mut places = vec![false; self.tokens.len() + 1];
        self.enter(&mut places, 0);
        let mut next = vec![false; places.len()];
        for c in path.chars() {
            found.parent |= c == '/' && places[self.tokens.len()];
            self.step(&places, &mut next, c);
            std::mem::swap(&mut places, &mut next);
        }
        found.itself = places[self.tokens.len()];
        self.step(&places, &mut next, '/');
        // A place at the end alone would match `path/`, which is no path.
        found.below = next[..self.tokens.len()].contains(&true);
        found
    }

    /// Where the pattern can be after one more character.
    fn step(&self, places: &[bool], next: &mut [bool], c: char) {
        next.fill(false);
        for (place, token) in self.tokens.iter().enumerate().filter(|(place, _)| places[*place]) {
            match token {
                Token::Literal(literal) if *literal == c => self.enter(next, place + 1),
                Token::One if c != '/' => self.enter(next, place + 1),
                Token::Some if c != '/' => self.enter(next, place),
                Token::Class { negated, ranges } => {
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated {
                        self.enter(next, place + 1);
                    }
                }
                Token::All => self.enter(next, place),
                Token::Folders => {
                    next[place] = true;
                    if c == '/' {
                        self.enter(next, place + 1);
                    }
                }
                Token::Literal(_) | Token::One | Token::Some => {}
            }
        }
    }

    /// Adds a place, and those that are reached from it by nothing. It is one loop because only runs of
    /// tokens that match nothing lead further.
    fn enter(&self, places: &mut [bool], mut place: usize) {
        loop {
            places[place] = true;
            match self.tokens.get(place) {
                Some(Token::Some | Token::Folders | Token::All) => place += 1,
                _ => return,
            }
        }
    }
}

/// After a `[`: `^` or not, then characters and ranges, at least one, then `]`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let low = class_character(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => class_character(rest)?,
            None => low,
        };
        if high < low {
            return Err(BadPattern);
        }
        ranges.push((low, high));
    }
    Ok(Token::Class { negated, ranges })
}

fn class_character(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match rest.next() {
        Some('\\') => rest.next().ok_or(BadPattern),
        Some('-' | ']') | None => Err(BadPattern),
        Some(c) => Ok(c),
    }
}

/// Whether a text means more than one path: it has `*`, `?` or `[`, or a `\`.
pub(crate) fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Go's `filepath.Clean` of a relative path: no `.`, no empty parts, no `..` but at the start. Empty
/// if it is the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_go_says() {
        // (pattern, path, matches)
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "x", true),
            ("**", "a/b/c", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/bc", false),
            ("**c", "a/c", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("a/**/c", "a/bc", false),
            ("**/*.go", "x/y.go", true),
            ("**/*.go", "y.go", true),
            ("**/a/**/b", "x/a/y/z/b", true),
            ("**/**/b", "b", true),
            ("**/**/b", "a/a/b", true),
            ("**/**/b", "ab", false),
            ("*****/b", "a/ab/b", true),
            ("**/**", "a/b", true),
        ];
        for (pattern, path, matches) in cases {
            let found = Pattern::parse(pattern).unwrap().run(path);
            assert_eq!(found.itself, matches, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_pattern_that_means_nothing_is_refused() {
        for pattern in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "[a-", "\\", "[z-a]"]
        {
            assert_eq!(Pattern::parse(pattern), Err(BadPattern), "{pattern}");
        }
    }

    #[test]
    fn one_run_tells_of_parents_and_of_what_is_below() {
        let run = |pattern: &str, path: &str| Pattern::parse(pattern).unwrap().run(path);
        assert_eq!(run("a/b", "a/b/c"), Found { parent: true, ..Found::default() });
        assert_eq!(run("a/b", "a"), Found { below: true, ..Found::default() });
        assert_eq!(run("a/b", "b"), Found::default());
        assert_eq!(run("a", "a"), Found { itself: true, ..Found::default() });
        assert!(run("**/x.py", "any/folder").below);
        assert!(!run("a/*/x", "a/b/c").below);
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let pattern = Pattern::parse(&"**/*a".repeat(2000)).unwrap();
        assert!(!pattern.run(&"a/".repeat(1000)).itself);
        for text in ["*".repeat(4001), "*".repeat(4000), "**/".repeat(4000)] {
            assert_eq!(Pattern::parse(&text).unwrap().tokens.len(), 2);
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        let cases = [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/../a", "a"),
            ("/a/../../b", "b"),
        ];
        for (path, cleaned) in cases {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
