//! The API's version: `1.24` to `1.53`, compared by number, not by text.

use std::fmt;
use std::str::FromStr;

/// `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
}

impl ApiVersion {
    /// What is served to a client that names no version, and the newest one accepted.
    pub const NEWEST: ApiVersion = ApiVersion::new(1, 53);
    /// The oldest one accepted.
    pub const OLDEST: ApiVersion = ApiVersion::new(1, 24);

    pub const fn new(major: u32, minor: u32) -> ApiVersion {
        ApiVersion { major, minor }
    }

    /// Reads what a user wrote: as [`FromStr`], with an optional `v` before it.
    pub fn parse(text: &str) -> Option<ApiVersion> {
        text.strip_prefix('v').unwrap_or(text).parse().ok()
    }

    /// `true` for versions older than `1.minor`.
    pub fn before(self, minor: u32) -> bool {
        self < ApiVersion::new(1, minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text is not `N` or `N.M`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an API version: {0:?}")]
pub struct NotAVersion(pub String);

impl FromStr for ApiVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<ApiVersion, NotAVersion> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 6 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(ApiVersion { major, minor }),
            _ => Err(NotAVersion(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(parse("1.9") < parse("1.24"));
        assert!(parse("2.0") > ApiVersion::NEWEST);
        assert_eq!(parse("1"), ApiVersion::new(1, 0));
        assert!("1.x".parse::<ApiVersion>().is_err());
        assert!("".parse::<ApiVersion>().is_err());
        assert!("1.2.3".parse::<ApiVersion>().is_err());
        assert!(ApiVersion::new(1, 43).before(44) && !ApiVersion::new(1, 44).before(44));
    }
}
