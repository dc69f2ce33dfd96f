//! What the options of the local driver mean: pure.

use std::collections::BTreeMap;

/// What `type` needs beside it, and so on; the reference's table.
const MANDATORY: [(&str, &[&str]); 3] =
    [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];

/// # Errors
/// In the reference's words.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), String> {
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str()))
    {
        return Err(format!("invalid option: {unknown:?}"));
    }
    for (option, others) in MANDATORY {
        let missing = others.iter().find(|other| !options.contains_key(**other));
        if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
            return Err(format!("missing required option: {missing:?}"));
        }
    }
    if let Some(size) = options.get("size") {
        if !size.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(format!("invalid size: '{size}'"));
        }
        // A folder has no size of its own to limit.
        if options.get("type").map(String::as_str) != Some("tmpfs") {
            return Err("quota size requested but no quota support".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn options_are_checked_in_the_references_words() {
        let refused = |pairs: &[(&str, &str)]| check(&map(pairs)).unwrap_err();
        assert_eq!(refused(&[("nope", "1")]), "invalid option: \"nope\"");
        assert_eq!(refused(&[("type", "tmpfs")]), "missing required option: \"device\"");
        assert_eq!(refused(&[("o", "bind"), ("device", "/x")]), "missing required option: \"type\"");
        assert_eq!(refused(&[("size", "1m")]), "quota size requested but no quota support");
        assert_eq!(refused(&[("size", "big")]), "invalid size: 'big'");
        for good in [&[][..], &[("type", "none"), ("device", "/x"), ("o", "bind")]] {
            assert_eq!(check(&map(good)), Ok(()));
        }
        assert_eq!(check(&map(&[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m")])), Ok(()));
    }
}
