//! `.dockerignore` (docs.docker.com/build/concepts/context, ".dockerignore files").
//!
//! One pattern a line. A line with `#` in its first column is a comment; white space around a pattern
//! goes, `.` and `..` are resolved, a `/` in front or at the end means nothing, and a line of which
//! nothing is left is no rule. A pattern matches a path if it matches the path itself or a folder that
//! the path lies in. `!` makes an exception; of all the rules that match, the last one decides.
//!
//! So an exception below an ignored folder works, at any depth; [`Ignore::may_include_below`] tells
//! which ignored folders have to be looked into for it.

use std::path::Path;

use crate::pattern::{MAX_LENGTH, Pattern, clean};

/// Most rules in one file; more would be an attempt to waste time.
const MAX_RULES: usize = 100_000;

/// The rules of one file, in their order. The default has none, and ignores nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    exception: bool,
}

/// Why a file has no rules. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("line {line} of the ignore file: illegal exclusion pattern: {text:?}")]
    Exclusion { line: usize, text: String },
    #[error("line {line} of the ignore file: syntax error in pattern: {text:?}")]
    Pattern { line: usize, text: String },
    #[error("line {line} of the ignore file: it is not UTF-8")]
    Encoding { line: usize },
    #[error("line {line} of the ignore file: the pattern has more than {MAX_LENGTH} bytes")]
    Long { line: usize },
    #[error("the ignore file has more than {MAX_RULES} patterns")]
    TooMany,
}

impl Ignore {
    pub fn parse(file: &[u8]) -> Result<Ignore, IgnoreError> {
        let file = file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file);
        let mut rules = Vec::new();
        for (index, bytes) in file.split(|byte| *byte == b'\n').enumerate() {
            let line = index + 1;
            if bytes.starts_with(b"#") {
                continue;
            }
            let text = std::str::from_utf8(bytes).map_err(|_| IgnoreError::Encoding { line })?.trim();
            rules.extend(rule(line, text)?);
            if rules.len() > MAX_RULES {
                return Err(IgnoreError::TooMany);
            }
        }
        Ok(Ignore { rules })
    }

    /// The rules of `--exclude`: lines of such a file.
    pub(crate) fn of(patterns: &[String]) -> Result<Ignore, IgnoreError> {
        let rules = patterns.iter().enumerate().map(|(index, text)| rule(index + 1, text.trim()));
        Ok(Ignore { rules: rules.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect() })
    }

    /// Whether `path`, relative to the root, is left out.
    pub fn is_ignored(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let decides = self.rules.iter().rev().find(|rule| {
            let found = rule.pattern.run(&path);
            found.itself || found.parent
        });
        decides.is_some_and(|rule| !rule.exception)
    }

    /// Whether an exception could take something in again that lies in this ignored folder.
    pub fn may_include_below(&self, folder: &Path) -> bool {
        let folder = folder.to_string_lossy();
        self.rules.iter().any(|rule| rule.exception && rule.pattern.run(&folder).below)
    }
}

/// The rule that a line without its white space means, if any.
fn rule(line: usize, text: &str) -> Result<Option<Rule>, IgnoreError> {
    let (exception, pattern) = match text.strip_prefix('!') {
        Some("") => return Err(IgnoreError::Exclusion { line, text: text.to_owned() }),
        Some(pattern) => (true, pattern.trim_start()),
        None => (false, text),
    };
    let pattern = clean(pattern);
    if pattern.is_empty() {
        return Ok(None);
    }
    if pattern.len() > MAX_LENGTH {
        return Err(IgnoreError::Long { line });
    }
    let pattern =
        Pattern::parse(&pattern).map_err(|_| IgnoreError::Pattern { line, text: text.to_owned() })?;
    Ok(Some(Rule { pattern, exception }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ignored(file: &str, path: &str) -> bool {
        Ignore::parse(file.as_bytes()).unwrap().is_ignored(Path::new(path))
    }

    #[test]
    fn rules_of_the_documentation() {
        // (file, path, is ignored)
        let cases = [
            // Comments, empty lines, white space, a byte order mark, Windows line ends.
            ("# a\n", "# a", false),
            (" # a\n", "# a", true),
            ("\n \n\t\n", "a", false),
            ("  a  \n", "a", true),
            ("\u{feff}a", "a", true),
            ("\u{feff}# a\nb", "b", true),
            ("a\r\nb\r\n", "a", true),
            // The root, `.` and `..`, slashes in front and at the end.
            (".", "a", false),
            ("/", "a", false),
            ("/foo/bar", "foo/bar", true),
            ("foo/bar", "foo/bar", true),
            ("foo/bar", "x/foo/bar", false),
            ("foo/", "foo", true),
            ("./foo//bar/../baz", "foo/baz", true),
            ("../foo", "foo", false),
            // What lies in an ignored folder.
            ("foo", "foo/a/b", true),
            ("foo", "foobar", false),
            ("*", "a/b", true),
            // The table of the documentation.
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/temp/x", true),
            ("*/temp*", "temp", false),
            ("*/*/temp*", "somedir/subdir/temporary.txt", true),
            ("*/*/temp*", "somedir/temporary.txt", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            // Any number of folders.
            ("**/*.go", "a.go", true),
            ("**/*.go", "x/y/a.go", true),
            ("**", "x", true),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            // Exceptions: the last rule that matches decides.
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "a.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-b.md", false),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("*\n!src", "src/a/b", false),
            ("*\n!src/*.c", "src/a.c", false),
            ("*\n!src/*.c", "src/a.h", true),
            ("foo\n!/foo/bar", "foo/bar/x", false),
            ("foo\n! foo/bar", "foo/bar", false),
            ("foo\n!foo/bar\nfoo/bar/x", "foo/bar/x/y", true),
            ("!a", "a", false),
            // Classes and escapes.
            ("[a-c].txt", "b.txt", true),
            ("[^a-c].txt", "b.txt", false),
            ("\\!a", "!a", true),
            ("\\#a", "#a", true),
        ];
        for (file, path, is_ignored) in cases {
            assert_eq!(ignored(file, path), is_ignored, "{path:?} by {file:?}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let error = |file: &str| Ignore::parse(file.as_bytes()).unwrap_err().to_string();
        assert_eq!(error("a\n!\n"), "line 2 of the ignore file: illegal exclusion pattern: \"!\"");
        assert_eq!(error("a\n\n[x"), "line 3 of the ignore file: syntax error in pattern: \"[x\"");
        assert_eq!(
            Ignore::parse(b"a\n\xff\n").unwrap_err().to_string(),
            "line 2 of the ignore file: it is not UTF-8"
        );
        let long = format!("a\n{}", "b".repeat(MAX_LENGTH + 1));
        assert_eq!(Ignore::parse(long.as_bytes()), Err(IgnoreError::Long { line: 2 }));
        assert_eq!(Ignore::parse("a\n".repeat(MAX_RULES + 1).as_bytes()), Err(IgnoreError::TooMany));
    }

    #[test]
    fn an_ignored_folder_is_looked_into_where_an_exception_reaches() {
        let below = |file: &str, folder: &str| {
            Ignore::parse(file.as_bytes()).unwrap().may_include_below(Path::new(folder))
        };
        assert!(below("*\n!a/b/c", "a"));
        assert!(below("*\n!a/b/c", "a/b"));
        assert!(!below("*\n!a/b/c", "b"));
        assert!(!below("*\n!a/b/c", "a/x"));
        assert!(below("*\n!**/*.py", "any/where"));
        assert!(!below("node_modules", "node_modules"));
    }

    proptest! {
        /// Any file, any path: nothing panics, and a rule at the end decides what it names.
        #[test]
        fn the_last_rule_decides(file in "[a-c/*?!.\\[\\]^\n #-]{0,60}", path in "[a-c]{1,2}(/[a-c]{1,2}){0,3}") {
            if let Ok(ignore) = Ignore::parse(file.as_bytes()) {
                let _ = ignore.may_include_below(Path::new(&path));
                let (ignoring, including) = (format!("{file}\n{path}"), format!("{file}\n!{path}"));
                prop_assert!(ignored(&ignoring, &path));
                prop_assert!(!ignored(&including, &path));
            }
        }

        /// What is taken in although its folder is ignored, is found on the way down.
        #[test]
        fn whatever_is_included_is_reached(
            file in "(!?[a-c*/]{1,5}\n){0,5}",
            path in "[a-c](/[a-c]){1,3}",
        ) {
            let Ok(ignore) = Ignore::parse(file.as_bytes()) else { return Ok(()) };
            if !ignore.is_ignored(Path::new(&path)) {
                let mut folder = Path::new(&path);
                while let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    prop_assert!(
                        !ignore.is_ignored(parent) || ignore.may_include_below(parent),
                        "{:?} hides {path} by {file:?}", parent
                    );
                    folder = parent;
                }
            }
        }
    }
}
