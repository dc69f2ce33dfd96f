//! The commands about images.

pub(crate) mod archive;
pub(crate) mod bootstrap;
pub(crate) mod list;
pub(crate) mod names;
pub(crate) mod pull;

use hull_oci::reference::Reference;

/// The name with the tag that is meant when none is given; what is no name of
/// an image stays as it is.
pub(crate) fn with_tag(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) => reference.with_default_tag().familiar(),
        Err(_) => name.to_owned(),
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
        assert_eq!(with_tag("Not A Name"), "Not A Name");
    }

    #[test]
    fn platforms_become_documents() {
        for (text, document) in [
            ("linux/arm64", r#"{"architecture":"arm64","os":"linux"}"#),
            ("linux/arm/v7", r#"{"architecture":"arm","os":"linux","variant":"v7"}"#),
            ("arm64", r#"{"architecture":"arm64","os":"linux"}"#),
        ] {
            assert_eq!(platform_document(text), document);
        }
    }
}
