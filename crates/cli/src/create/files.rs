//! Files that flags name: variables and labels, one a line.

use std::io;

/// A file larger than this holds no variables.
const BYTES_MAX: u64 = 16 << 20;

/// Why a file could not be opened, in the words of the C library.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// The `NAME=VALUE` lines of a file. A name alone takes its value from this
/// environment if `inherit`, and is left out if it has none there.
pub(crate) fn pairs(path: &str, inherit: bool) -> Result<Vec<String>, String> {
    let opened = std::fs::File::open(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(opened, BYTES_MAX), &mut bytes)
        .map_err(|error| format!("read {path}: {}", reason(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("invalid env file ({path}): it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut pairs = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, given) = match line.split_once('=') {
            Some((name, _)) => (name, true),
            None => (line, false),
        };
        if name.is_empty() {
            return Err(format!("invalid env file ({path}): no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("invalid env file ({path}): variable '{name}' contains whitespaces"));
        }
        if given || !inherit {
            pairs.push(line.to_owned());
        } else if let Ok(value) = std::env::var(name) {
            pairs.push(format!("{name}={value}"));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_names_without_a_value_are_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}A=1\n# no\n\n  B=two words\nHULL_SURELY_UNSET\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(pairs(path, true).unwrap(), ["A=1", "B=two words"]);
        assert_eq!(pairs(path, false).unwrap(), ["A=1", "B=two words", "HULL_SURELY_UNSET"]);
        std::fs::write(file.path(), "=x\n").unwrap();
        assert!(pairs(path, true).unwrap_err().contains("no variable name"));
        assert_eq!(pairs("/nonexistent", true).unwrap_err(), "open /nonexistent: no such file or directory");
    }
}
