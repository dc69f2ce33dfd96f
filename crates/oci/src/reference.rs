//! Names of images: `[domain/]path[:tag][@digest]`.
//!
//! The grammar is the one at <https://pkg.go.dev/github.com/distribution/reference>:
//!
//! ```text
//! reference      := name [ ":" tag ] [ "@" digest ]
//! name           := [ domain "/" ] component [ "/" component ]*
//! domain         := ( label [ "." label ]* | "[" ipv6 "]" ) [ ":" port ]
//! label          := alnum [ ( alnum | "-" )* alnum ]          (either case)
//! component      := lower [ ( "." | "_" | "__" | "-"+ ) lower ]*   lower := [a-z0-9]+
//! tag            := [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! ```
//!
//! People write *familiar* names: `busybox` is `docker.io/library/busybox`. A
//! [`Reference`] always holds the whole name; [`Reference::familiar`] gives back the
//! short form, and only where parsing that gives the same reference again.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};

/// The domain a name without one belongs to.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag a name without one means, where one is needed.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library";
const MAX_NAME: usize = 255;
/// Longer texts are refused before they are looked at: 255 name, 128 tag, a digest.
const MAX_TEXT: usize = 1024;

/// The whole name of an image, valid by construction through [`Reference::parse`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub domain: String,
    /// `library/busybox`.
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// Why a text is not a reference. The texts are those of the reference implementation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase { name: String },
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    Identifier { name: String },
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses a familiar or whole name.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() > MAX_TEXT {
            return Err(ReferenceError::Format);
        }
        if is_identifier(text) {
            return Err(ReferenceError::Identifier { name: text.to_owned() });
        }
        let (domain, rest) = split_domain(text);
        let rest = if domain == DEFAULT_DOMAIN && !rest.contains('/') {
            format!("{OFFICIAL}/{rest}")
        } else {
            rest.to_owned()
        };
        let name = rest.split(':').next().unwrap_or(&rest);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase { name: name.to_owned() });
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (rest.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(domain) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        Ok(Reference {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// `docker.io/library/busybox`: without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `busybox:latest`: the form people read.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// `busybox`: the familiar form without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.split_once('/') {
            Some((OFFICIAL, one)) if !one.contains('/') && !is_identifier(one) => one.to_owned(),
            Some((first, _)) if looks_like_domain(first) => self.name(),
            _ => self.path.clone(),
        }
    }

    /// The same with `:latest`, if there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same name with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Nothing but a name: it says which repository, not which image of it.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// True for 64 lower-case hexadecimal digits: an image id, never a name.
pub fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// True if `text` may be the name of a repository: what stands between a domain and the colon (distribution-spec
/// `spec.md#pulling-manifests`).
pub fn is_path(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_component)
}

/// True if `text` may stand after the colon.
pub fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// A first component is a domain only if it cannot be a component of a path.
fn looks_like_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            let digits = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if address.is_empty() || !address.bytes().all(digits) {
                return false;
            }
            if port.is_empty() {
                return true;
            }
            let Some(port) = port.strip_prefix(':') else {
                return false;
            };
            (None, Some(port))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_component(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !lower(*first) || !lower(*last) {
        return false;
    }
    bytes.split(|byte| lower(*byte)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

/// In a reference a digest of a wrong shape is a wrong reference; one of the right
/// shape but of a wrong length or algorithm is named as such.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let shaped = text
        .split_once(':')
        .is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match Digest::parse(text) {
        Ok(digest) => Ok(digest),
        Err(error) if shaped => Err(ReferenceError::Digest(error)),
        Err(_) => Err(ReferenceError::Format),
    }
}

impl fmt::Display for Reference {
    /// The whole name, `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        Reference::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(input: &str, expected: Expect) {
        let text = match Reference::parse(input) {
            Ok(reference) => format!("{reference} | {}", reference.familiar()),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn familiar_names_become_whole_ones() {
        check("busybox", expect!["docker.io/library/busybox | busybox"]);
        check("busybox:1.36", expect!["docker.io/library/busybox:1.36 | busybox:1.36"]);
        check("user/repo:tag", expect!["docker.io/user/repo:tag | user/repo:tag"]);
        check("docker.io/library/a", expect!["docker.io/library/a | a"]);
        check("index.docker.io/a", expect!["docker.io/library/a | a"]);
        check("library/a/b", expect!["docker.io/library/a/b | library/a/b"]);
        check("docker.io/foo.bar/x", expect!["docker.io/foo.bar/x | docker.io/foo.bar/x"]);
    }

    #[test]
    fn domains_are_told_from_paths() {
        check("localhost/x", expect!["localhost/x | localhost/x"]);
        check("127.0.0.1:5000/ns/app:1", expect!["127.0.0.1:5000/ns/app:1 | 127.0.0.1:5000/ns/app:1"]);
        check("[::1]:5000/x", expect!["[::1]:5000/x | [::1]:5000/x"]);
        check("[fe80::1%eth0]:5000/x", expect!["invalid reference format"]);
        check("[::1]5000/x", expect!["invalid reference format"]);
        check("LOCAL/x", expect!["LOCAL/x | LOCAL/x"]);
        check("reg.io:/x", expect!["invalid reference format"]);
        check("-reg.io/x", expect!["invalid reference format"]);
    }

    #[test]
    fn upper_case_names_say_so() {
        check("Bad", expect!["invalid reference format: repository name (library/Bad) must be lowercase"]);
        check(
            "BUSYBOX:x",
            expect!["invalid reference format: repository name (library/BUSYBOX) must be lowercase"],
        );
        check(
            "localhost:5000/Bad",
            expect!["invalid reference format: repository name (Bad) must be lowercase"],
        );
        check("a:UPPER", expect!["docker.io/library/a:UPPER | a:UPPER"]);
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in
            ["", ":", "a:", "a:-x", "a/", "/a", "a//b", "a b", "a..b", "a___b", "_a", "a_", "a@b", "a@", "é"]
        {
            check(text, expect!["invalid reference format"]);
        }
        check("a--b__c.d_e", expect!["docker.io/library/a--b__c.d_e | a--b__c.d_e"]);
        check(
            HEX,
            expect![
                "invalid repository name (e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855), cannot specify 64-byte hexadecimal strings"
            ],
        );
        check(&"a".repeat(300), expect!["repository name must not be more than 255 characters"]);
        check(&format!("a:{}", "t".repeat(129)), expect!["invalid reference format"]);
        check(&"a/".repeat(900), expect!["invalid reference format"]);
    }

    #[test]
    fn digests_are_checked() {
        check(
            &format!("a:1@sha256:{HEX}"),
            expect![
                "docker.io/library/a:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 | a:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            ],
        );
        check(&format!("a@sha256:{}", &HEX[..40]), expect!["invalid checksum digest length"]);
        check(&format!("a@md5:{}", &HEX[..32]), expect!["unsupported digest algorithm"]);
        check("a@sha256:abc", expect!["invalid reference format"]);
    }

    #[test]
    fn a_default_tag_is_given_only_to_bare_names() {
        let tagged = |text: &str| Reference::parse(text).unwrap().with_default_tag().familiar();
        assert_eq!(tagged("a"), "a:latest");
        assert_eq!(tagged("a:1"), "a:1");
        let pinned = format!("a@sha256:{HEX}");
        assert_eq!(tagged(&pinned), pinned);
    }

    proptest! {
        #[test]
        fn both_forms_parse_back_to_the_same(text in "([a-z0-9.:A-Z-]{1,12}/)?[a-z0-9._-]{1,10}(/[a-z0-9._-]{1,10}){0,2}(:[A-Za-z0-9._-]{1,9})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
