//! Who asks a registry, as clients tell it: `X-Registry-Auth`, a document in base64 (RFC 4648; both alphabets).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT};
use hull_engine::registries::Credentials;
use serde::Deserialize;

use crate::http::Call;

const HEADER: &str = "x-registry-auth";

/// The reference's `AuthConfig`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Told {
    username: String,
    password: String,
    /// `USER:PASSWORD` in base64.
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// What cannot be read is nobody's, as in the reference: the registry says what it thinks of that.
pub(super) fn of(call: &Call) -> Credentials {
    let text = call.headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    read(text).unwrap_or_default()
}

fn read(text: &str) -> Option<Credentials> {
    let decoded =
        URL_SAFE_PAD_INDIFFERENT.decode(text).or_else(|_| STANDARD_PAD_INDIFFERENT.decode(text)).ok()?;
    let Told { username, password, auth, identitytoken, registrytoken } =
        serde_json::from_slice(&decoded).ok()?;
    if !registrytoken.is_empty() {
        return Some(Credentials::RegistryToken(registrytoken));
    }
    if !identitytoken.is_empty() {
        return Some(Credentials::IdentityToken { user: username, token: identitytoken });
    }
    if !username.is_empty() {
        return Some(Credentials::Password { user: username, password });
    }
    let pair = String::from_utf8(STANDARD_PAD_INDIFFERENT.decode(auth).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn credentials_are_read_in_all_their_forms() {
        let password = || Credentials::Password { user: "al".into(), password: "s>c?r".into() };
        let document = r#"{"username":"al","password":"s>c?r","serveraddress":"x"}"#;
        assert_eq!(read(&URL_SAFE.encode(document)), Some(password()));
        assert_eq!(read(&STANDARD.encode(document)), Some(password()));
        let auth = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("al:s>c?r"));
        assert_eq!(read(&URL_SAFE.encode(auth)), Some(password()));
        let token = Credentials::IdentityToken { user: String::new(), token: "t".into() };
        assert_eq!(read(&URL_SAFE.encode(r#"{"identitytoken":"t"}"#)), Some(token));
        let token = Credentials::RegistryToken("t".into());
        assert_eq!(read(&URL_SAFE.encode(r#"{"registrytoken":"t","username":"x"}"#)), Some(token));
        for nobody in ["", "e30=", "!!", "bm90IGpzb24="] {
            assert_eq!(read(nobody), None, "{nobody}");
        }
    }
}
