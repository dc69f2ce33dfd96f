//! Paths within a root file system, worked out by their text alone: what an image's configuration and a
//! container's mounts are written with. No link is followed and nothing is looked at.

/// The absolute path without `.`, `..` and doubled slashes; `..` above the root stays there.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The same, where a relative path begins at `folder`.
pub fn clean_from(folder: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{folder}/{path}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, cleaned) in
            [("", "/"), ("/", "/"), ("/a/./b//c/../d", "/a/b/d"), ("/../..", "/"), ("/a/", "/a")]
        {
            assert_eq!(clean(path), cleaned);
        }
        assert_eq!(clean_from("/a", "../b"), "/b");
        assert_eq!(clean_from("", "b"), "/b");
        assert_eq!(clean_from("/a", "/b"), "/b");
    }
}
