//! Who asks a registry, as clients tell it: `X-Registry-Auth`, a document in base64 (RFC 4648; both alphabets).

use hull_api::registry::{AUTH, AuthConfig, from_header};
use hull_engine::registries::Credentials;

use crate::http::Call;

/// What cannot be read is nobody's, as in the reference: the registry says what it thinks of that.
pub(super) fn of(call: &Call) -> Credentials {
    let text = call.headers.get(AUTH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    from(from_header(text))
}

/// The same of a document.
pub(super) fn from(told: AuthConfig) -> Credentials {
    let told = if told.username.is_empty() { told.expanded().unwrap_or_default() } else { told };
    let AuthConfig { username: user, password, identitytoken, registrytoken, .. } = told;
    if !registrytoken.is_empty() {
        return Credentials::RegistryToken(registrytoken);
    }
    if !identitytoken.is_empty() {
        return Credentials::IdentityToken { user, token: identitytoken };
    }
    if user.is_empty() { Credentials::Anonymous } else { Credentials::Password { user, password } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_in_all_their_forms() {
        let read = |document: &str| from(serde_json::from_str(document).unwrap());
        let password = || Credentials::Password { user: "al".into(), password: "s>c?r".into() };
        assert_eq!(read(r#"{"username":"al","password":"s>c?r","serveraddress":"x"}"#), password());
        let auth = hull_api::base64::encode(b"al:s>c?r");
        assert_eq!(read(&format!(r#"{{"auth":"{auth}"}}"#)), password());
        let token = Credentials::IdentityToken { user: String::new(), token: "t".into() };
        assert_eq!(read(r#"{"identitytoken":"t"}"#), token);
        let token = Credentials::RegistryToken("t".into());
        assert_eq!(read(r#"{"registrytoken":"t","username":"x"}"#), token);
        for nobody in ["{}", r#"{"auth":"!!"}"#, r#"{"password":"x"}"#] {
            assert_eq!(read(nobody), Credentials::Anonymous, "{nobody}");
        }
    }
}
