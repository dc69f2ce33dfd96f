//! The commands about images.

pub(crate) mod list;
pub(crate) mod pull;

/// The name with the tag that is meant when none is given.
pub(crate) fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

/// Name and tag, the default tag if there is none. A digest stays with the
/// name; then there is no tag.
pub(crate) fn name_and_tag(reference: &str) -> (&str, &str) {
    if reference.contains('@') {
        return (reference, "");
    }
    let name_start = reference.rfind('/').map_or(0, |at| at + 1);
    match reference[name_start..].rfind(':') {
        Some(at) => (&reference[..name_start + at], &reference[name_start + at + 1..]),
        None => (reference, "latest"),
    }
}

/// `linux/arm64` as the document the API takes.
pub(crate) fn platform_document(text: &str) -> String {
    let mut parts = text.split('/');
    let mut document = serde_json::Map::new();
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let (os, architecture) = match second {
        Some(architecture) => (first, architecture),
        None if first == "linux" => (first, ""),
        None => ("linux", first),
    };
    for (key, value) in
        [("architecture", architecture), ("os", os), ("variant", parts.next().unwrap_or_default())]
    {
        if !value.is_empty() {
            document.insert(key.to_owned(), value.into());
        }
    }
    serde_json::Value::Object(document).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(with_tag("h:5000/a"), "h:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(name_and_tag("h:5000/a"), ("h:5000/a", "latest"));
        assert_eq!(name_and_tag("h:5000/a:b"), ("h:5000/a", "b"));
        assert_eq!(name_and_tag("a@sha256:00"), ("a@sha256:00", ""));
    }
}
