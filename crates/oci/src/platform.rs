//! Operating system and processor, and which of an index's images suits which host.
//!
//! Names are Go's (`GOOS`, `GOARCH`, image-spec `image-index.md#platform-variants`);
//! other common spellings are accepted and normalised when a person writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::null_default;

/// What an image is made for. Empty strings mean "not said".
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error("{text:?}: unknown operating system or architecture: invalid argument")]
    Unknown { text: String },
    #[error(
        "{text:?} is an invalid component of {whole:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component { text: String, whole: String },
    #[error("{text:?}: cannot parse platform specifier: invalid argument")]
    Shape { text: String },
}

const SYSTEMS: &[&str] = &["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "wasi", "wasip1"];
const PROCESSORS: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
];

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let (architecture, variant) = normalize(architecture, variant);
        Platform { architecture, os: os.to_owned(), variant, ..Platform::default() }
    }

    /// The machine this program was built for.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, "")
    }

    /// Parses `os/architecture[/variant]`, or only one of the first two; what is left
    /// out is the host's.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let parts: Vec<String> = text.split('/').map(str::to_lowercase).collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if let Some(bad) = parts.iter().find(|part| part.is_empty() || !part.chars().all(allowed)) {
            return Err(PlatformError::Component { text: bad.clone(), whole: text.to_owned() });
        }
        match parts.as_slice() {
            [one] => {
                let os = if one == "macos" { "darwin" } else { one };
                if SYSTEMS.contains(&os) {
                    return Ok(Platform { os: os.to_owned(), ..Platform::host() });
                }
                let platform = Platform::new("linux", one, "");
                if PROCESSORS.contains(&platform.architecture.as_str()) {
                    return Ok(platform);
                }
                Err(PlatformError::Unknown { text: text.to_owned() })
            }
            [os, architecture] => Ok(Platform::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant)),
            _ => Err(PlatformError::Shape { text: text.to_owned() }),
        }
    }

    /// How well an image made for `image` suits a wish for `self`: 0 is exact, larger is
    /// worse, `None` not at all. A 64-bit processor also runs its 32-bit ancestor's
    /// images, and an arm one those of older variants.
    pub fn rank(&self, image: &Platform) -> Option<usize> {
        let image = Platform::new(&image.os, &image.architecture, &image.variant);
        if self.os != image.os {
            return None;
        }
        let (architecture, variant) = normalize(&self.architecture, &self.variant);
        compatible(&architecture, &variant)
            .iter()
            .position(|(a, v)| *a == image.architecture && *v == image.variant)
    }
}

/// What runs on a processor, best first.
fn compatible(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let pair = |a: &str, v: &str| (a.to_owned(), v.to_owned());
    let older = |prefix: &str, from: u8, to: u8| -> Vec<(String, String)> {
        (to..=from).rev().map(|n| pair(prefix, &format!("v{n}"))).collect()
    };
    let level = variant.strip_prefix('v').and_then(|n| n.parse::<u8>().ok());
    let mut list = match (architecture, level) {
        ("amd64", level) => {
            let mut list = older("amd64", level.unwrap_or(1), 2);
            list.push(pair("amd64", ""));
            list.push(pair("386", ""));
            list
        }
        ("arm", Some(level @ 5..=8)) => older("arm", level, 5),
        ("arm64", level) => {
            let mut list = match level {
                Some(level @ 9..) => older("arm64", level, 9),
                _ => Vec::new(),
            };
            list.push(pair("arm64", ""));
            list.extend(older("arm", 8, 5));
            list
        }
        _ => Vec::new(),
    };
    // A variant that the table does not know suits itself.
    let exact = pair(architecture, variant);
    if !list.contains(&exact) {
        list.insert(0, exact);
    }
    list
}

/// One spelling for each processor (the table of image-spec and of Go's names).
fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_lowercase();
    let variant = variant.to_lowercase();
    let (a, v) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (a.to_owned(), v.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        Platform::parse(text).map_or_else(|error| error.to_string(), |p| p.to_string())
    }

    #[test]
    fn common_spellings_become_one() {
        assert_eq!(parsed("linux/x86_64"), "linux/amd64");
        assert_eq!(parsed("linux/aarch64"), "linux/arm64");
        assert_eq!(parsed("linux/arm64/v8"), "linux/arm64");
        assert_eq!(parsed("linux/arm"), "linux/arm/v7");
        assert_eq!(parsed("linux/armel"), "linux/arm/v6");
        assert_eq!(parsed("arm64"), "linux/arm64");
        assert_eq!(parsed("Linux/AMD64"), "linux/amd64");
        assert_eq!(
            parsed("toaster"),
            "\"toaster\": unknown operating system or architecture: invalid argument"
        );
        assert_eq!(parsed("a/b/c/d"), "\"a/b/c/d\": cannot parse platform specifier: invalid argument");
        assert!(parsed("linux//x").contains("invalid component"));
    }

    #[test]
    fn older_variants_run_but_rank_lower() {
        let rank =
            |host: &str, image: &str| Platform::parse(host).unwrap().rank(&Platform::parse(image).unwrap());
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64/v2"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm64", "linux/arm/v7"), Some(2));
        assert_eq!(rank("linux/s390x", "linux/s390x"), Some(0));
        assert_eq!(rank("linux/amd64/odd", "linux/amd64/odd"), Some(0));
        assert_eq!(rank("linux/amd64/odd", "linux/amd64"), Some(1));
    }
}
