//! Content addresses: `algorithm:hex` (image-spec `descriptor.md#digests`).
//!
//! Only the two registered algorithms are known; another one is refused, because a
//! digest that cannot be checked is not an address. The hexadecimal part is lower case
//! and of the algorithm's exact length, so a digest is also safe as a file name.

use std::fmt;
use std::io;
use std::str::FromStr;

use ring::digest::{Context, SHA256, SHA512};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The hash functions a digest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits its digests have.
    pub const fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    fn from_name(name: &str) -> Option<Algorithm> {
        match name {
            "sha256" => Some(Algorithm::Sha256),
            "sha512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }
}

/// Why a text is not a digest. The texts are those of the reference implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("invalid checksum digest format")]
    Format,
    #[error("invalid checksum digest length")]
    Length,
    #[error("unsupported digest algorithm")]
    Algorithm,
}

/// The address of some bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The sha256 of bytes in memory; for streams see [`Hasher`].
    pub fn sha256(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Parses `algorithm:hex` and nothing else.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if !is_algorithm_name(name) || hex.is_empty() {
            return Err(DigestError::Format);
        }
        let algorithm = Algorithm::from_name(name).ok_or(DigestError::Algorithm)?;
        Digest::from_hex(algorithm, hex)
    }

    /// A digest from its parts, as in `blobs/sha256/HEX`.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, DigestError> {
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(is_lower_hex) {
            return Err(DigestError::Format);
        }
        Ok(Digest { algorithm, hex: hex.into() })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal part: a name fit for a file.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 digits, as tables show ids.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// image-spec `descriptor.md#digests`: components of `[a-z0-9]+` joined by one of `+._-`.
fn is_algorithm_name(name: &str) -> bool {
    name.split(['+', '.', '_', '-']).all(|part| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(|error| D::Error::custom(format!("{error}: {text:?}")))
    }
}

/// Computes a digest while bytes pass by. It is an [`io::Write`] that never fails.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Hasher {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Hasher { algorithm, context }
    }

    pub fn sha256() -> Hasher {
        Hasher::new(Algorithm::Sha256)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest { algorithm: self.algorithm, hex: hex(self.context.finish().as_ref()) }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_digests_come_out_right() {
        assert_eq!(Digest::sha256(b"").to_string(), format!("sha256:{EMPTY}"));
        assert_eq!(
            Digest::sha256(b"abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut long = Hasher::new(Algorithm::Sha512);
        long.update(b"a");
        long.update(b"bc");
        let long = long.finish();
        assert!(long.to_string().starts_with("sha512:ddaf35a193617aba"));
        assert_eq!(Digest::parse(&long.to_string()), Ok(long));
    }

    #[test]
    fn only_the_exact_form_is_a_digest() {
        let parse = |text: &str| Digest::parse(text).map(|digest| digest.to_string());
        assert!(parse(&format!("sha256:{EMPTY}")).is_ok());
        assert_eq!(parse(EMPTY), Err(DigestError::Format));
        assert_eq!(parse("sha256:"), Err(DigestError::Format));
        assert_eq!(parse(":abc"), Err(DigestError::Format));
        assert_eq!(parse("sha256:abc"), Err(DigestError::Length));
        assert_eq!(parse(&format!("sha512:{EMPTY}")), Err(DigestError::Length));
        assert_eq!(parse("md5:d41d8cd98f00b204e9800998ecf8427e"), Err(DigestError::Algorithm));
        assert_eq!(parse(&format!("SHA256:{EMPTY}")), Err(DigestError::Format));
        let upper = EMPTY.to_uppercase();
        assert_eq!(parse(&format!("sha256:{upper}")), Err(DigestError::Format));
        let path = format!("sha256:../../{}", &EMPTY[6..]);
        assert_eq!(parse(&path), Err(DigestError::Format));
    }

    #[test]
    fn a_bad_digest_in_json_is_named_in_the_error() {
        let error = serde_json::from_str::<Digest>("\"sha1:00\"").unwrap_err();
        assert_eq!(error.to_string(), "unsupported digest algorithm: \"sha1:00\"");
    }
}
