//! Registries: who somebody is to them (`X-Registry-Auth`, `X-Registry-Config`, `POST /auth`), and what the
//! daemon tells of them.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderName;
use hull_oci::image::{Descriptor, Index};
use hull_oci::{Digest, Platform};
use serde::{Deserialize, Serialize};

use crate::base64;

/// The header with an [`AuthConfig`].
pub const AUTH: HeaderName = HeaderName::from_static("x-registry-auth");
/// The header with an [`AuthConfigs`], of a classic build.
pub const CONFIG: HeaderName = HeaderName::from_static("x-registry-config");

/// What the registry that names without a domain belong to is called where credentials are kept.
pub const DEFAULT_SERVER: &str = "https://index.docker.io/v1/";

/// What the credentials for a registry, as names of images have it (`HOST[:PORT]`), are kept under.
pub fn server_of(domain: &str) -> &str {
    if domain == hull_oci::reference::DEFAULT_DOMAIN { DEFAULT_SERVER } else { domain }
}

/// Who somebody is to one registry. Printed for debugging, it tells no secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct AuthConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// `USER:PASSWORD` in base64: the form in which `config.json` has the two.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    /// Stands for user and password where tokens are given out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// Is sent to the registry as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

/// By the name of the server ([`server_of`]).
pub type AuthConfigs = BTreeMap<String, AuthConfig>;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl AuthConfig {
    /// Takes `auth` apart into user and password. `None` if it is not what it should be.
    #[must_use]
    pub fn expanded(mut self) -> Option<AuthConfig> {
        if self.auth.is_empty() {
            return Some(self);
        }
        let text = String::from_utf8(base64::decode(&std::mem::take(&mut self.auth))?).ok()?;
        let (user, password) = text.split_once(':')?;
        self.username = user.to_owned();
        self.password = password.trim_end_matches('\0').to_owned();
        Some(self)
    }

    /// Puts user and password together into `auth`.
    #[must_use]
    pub fn folded(mut self) -> AuthConfig {
        if !self.username.is_empty() || !self.password.is_empty() {
            self.auth = base64::encode(format!("{}:{}", self.username, self.password).as_bytes());
        }
        (self.username, self.password) = (String::new(), String::new());
        self
    }
}

/// A document as the text of a header: base64 with the alphabet for addresses (RFC 4648, section 5).
pub fn to_header(document: &impl Serialize) -> String {
    // The documents sent are trees of strings: they always encode.
    let bytes = serde_json::to_vec(document).unwrap_or_default();
    base64::encode(&bytes).replace('+', "-").replace('/', "_")
}

/// What a header says, in either alphabet; what is no such document says nothing, as in the reference.
pub fn from_header<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
    let bytes = base64::decode(&text.trim().replace('-', "+").replace('_', "/"));
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The answer to `POST /auth`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Authenticated {
    pub identity_token: String,
    pub status: String,
}

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated").field("status", &self.status).finish_non_exhaustive()
    }
}

/// `GET /distribution/NAME/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DistributionInspect {
    pub descriptor: Descriptor,
    pub platforms: Vec<Platform>,
}

/// A row of `GET /images/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    pub star_count: i64,
    pub is_official: bool,
    pub name: String,
    pub is_automated: bool,
    pub description: String,
}

/// `GET /hull/v1/manifests/NAME`: what a registry has under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManifestInspect {
    /// Of one image with its platform.
    pub descriptor: Descriptor,
    /// The document itself: JSON.
    pub raw: String,
}

/// `POST /hull/v1/manifests/NAME`: a list of manifests, to be known under that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManifestList {
    pub children: Vec<Child>,
    pub index: Index,
}

/// A manifest that the list names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Child {
    /// The repository of the same registry that has it.
    pub repository: String,
    pub descriptor: Descriptor,
}

/// What has come of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManifestPushed {
    /// Of the list.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> AuthConfig {
        let (username, password) = ("alice".to_owned(), "secret".to_owned());
        AuthConfig { username, password, serveraddress: "127.0.0.1:5001".to_owned(), ..AuthConfig::default() }
    }

    #[test]
    fn headers_are_those_of_the_reference() {
        // As recorded.
        const HEADER: &str = "eyJ1c2VybmFtZSI6ImFsaWNlIiwicGFzc3dvcmQiOiJzZWNyZXQiLCJzZXJ2ZXJhZGRyZXNzIjoiMTI3LjAuMC4xOjUwMDEifQ==";
        assert_eq!(to_header(&alice()), HEADER);
        assert_eq!(from_header::<AuthConfig>(HEADER), alice());
        assert_eq!(from_header::<AuthConfig>(HEADER.trim_end_matches('=')), alice());
        assert_eq!(to_header(&AuthConfig::default()), "e30=");
        for nothing in ["", "e30=", "bm90IGpzb24=", "%"] {
            assert_eq!(from_header::<AuthConfig>(nothing), AuthConfig::default(), "{nothing}");
        }
        // Bytes whose text needs both signs that the alphabets do not share.
        let odd = AuthConfig { password: "\u{fb}?>ÿ~~?".to_owned(), ..AuthConfig::default() };
        let header = to_header(&odd);
        assert!(!header.contains(['+', '/']), "{header}");
        assert_eq!(from_header::<AuthConfig>(&header), odd);
        assert_eq!(from_header::<AuthConfig>(&header.replace('-', "+").replace('_', "/")), odd);
        let all: AuthConfigs = [(DEFAULT_SERVER.to_owned(), alice())].into();
        assert_eq!(from_header::<AuthConfigs>(&to_header(&all)), all);
    }

    #[test]
    fn user_and_password_are_kept_as_one_text() {
        let folded = alice().folded();
        assert_eq!((folded.auth.as_str(), folded.password.as_str()), ("YWxpY2U6c2VjcmV0", ""));
        assert_eq!(folded.expanded().unwrap(), alice());
        let odd = AuthConfig { password: "a:b".to_owned(), ..alice() };
        assert_eq!(odd.clone().folded().expanded().unwrap(), odd);
        // Tokens stand beside.
        let token = AuthConfig { identitytoken: "t".to_owned(), ..AuthConfig::default() };
        assert_eq!(token.clone().folded(), token);
        for broken in ["%", "YWxpY2U="] {
            let broken = AuthConfig { auth: broken.to_owned(), ..AuthConfig::default() };
            assert_eq!(broken.expanded(), None);
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let all = AuthConfig {
            auth: "hidden".to_owned(),
            password: "hidden".to_owned(),
            identitytoken: "hidden".to_owned(),
            registrytoken: "hidden".to_owned(),
            ..alice()
        };
        assert!(!format!("{all:?}").contains("hidden"));
        let answer = Authenticated { identity_token: "hidden".to_owned(), status: String::new() };
        assert!(!format!("{answer:?}").contains("hidden"));
    }

    #[test]
    fn the_default_registry_has_another_name_where_credentials_are_kept() {
        assert_eq!(server_of("docker.io"), DEFAULT_SERVER);
        assert_eq!(server_of("127.0.0.1:5001"), "127.0.0.1:5001");
    }
}
