//! Tokens, as the Docker token specification has them: a JWT (RFC 7519) with `access` claims, signed with
//! Ed25519 (RFC 8037) by the registry's own key.
//!
//! A token's header is compared, not read: there is one that the registry writes, and a token with any other
//! (another `alg`, a `jwk`, a `kid`) is none of its own. So nothing in a token says how it is to be checked.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::server::action::{Name, Verb};

/// Seconds; clients take one of less than a minute for an error.
pub(super) const LIFE: u64 = 300;

const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;
/// Longer ones are not ours.
const MOST: usize = 16 << 10;

/// A resource and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Access {
    pub(super) fn of_repository(name: &str, verbs: &[Verb]) -> Access {
        let actions = verbs.iter().map(|verb| verb.name().to_owned()).collect();
        Access { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    pub(super) fn is_catalog(&self) -> bool {
        self.kind == "registry" && self.name == "catalog" && self.actions.iter().any(|action| action == "*")
    }

    pub(super) fn repository(&self) -> Option<&str> {
        (self.kind == "repository").then_some(self.name.as_str())
    }

    pub(super) fn allows(&self, name: &str, verb: Verb) -> bool {
        self.kind == "repository"
            && self.name == name
            && self.actions.iter().any(|action| action == verb.name())
    }
}

/// `repository:NAME:pull,push`; `*` is all of them.
pub(super) fn scope(text: &str) -> Option<Access> {
    let (kind, rest) = text.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let mut access = Access {
        kind: kind.to_owned(),
        name: name.to_owned(),
        actions: actions.split(',').map(str::to_owned).collect(),
    };
    match kind {
        "registry" => access.is_catalog().then_some(access),
        "repository" => {
            Name::parse(name)?;
            if access.actions.iter().any(|action| action == "*") {
                access.actions = Verb::ALL.map(|verb| verb.name().to_owned()).to_vec();
            }
            Some(access)
        }
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// Empty for somebody without a name.
    pub sub: String,
    aud: String,
    /// Seconds since 1970, as the others.
    exp: u64,
    nbf: u64,
    iat: u64,
    pub access: Vec<Access>,
}

impl Claims {
    pub(super) fn new(service: &str, user: String, access: Vec<Access>, now: u64) -> Claims {
        let service = service.to_owned();
        Claims { iss: service.clone(), sub: user, aud: service, exp: now + LIFE, nbf: now, iat: now, access }
    }
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the token is none of this registry")]
    Foreign,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
}

/// The key that tokens are signed with; it stays in the registry's folder.
pub(super) struct Key(Ed25519KeyPair);

/// A new one, in PKCS #8.
pub(super) fn new_key() -> io::Result<Vec<u8>> {
    let random = SystemRandom::new();
    let none = |_| io::Error::other("no random bytes");
    random.fill(&mut [0]).map_err(none)?;
    Ok(Ed25519KeyPair::generate_pkcs8(&random).map_err(none)?.as_ref().to_vec())
}

impl Key {
    pub(super) fn of(bytes: &[u8]) -> Option<Key> {
        Ed25519KeyPair::from_pkcs8(bytes).ok().map(Key)
    }

    pub(super) fn sign(&self, claims: &Claims) -> String {
        let claims = serde_json::to_string(claims).unwrap_or_default();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(super) fn verify(&self, token: &str, service: &str, now: u64) -> Result<Claims, Refused> {
        if token.len() > MOST {
            return Err(Refused::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Foreign)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Foreign)?;
        if header != URL_SAFE_NO_PAD.encode(HEADER) {
            return Err(Refused::Foreign);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Foreign)?;
        UnparsedPublicKey::new(&ED25519, self.0.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Refused::Foreign)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Refused::Foreign)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Foreign)?;
        if claims.iss != service || claims.aud != service {
            return Err(Refused::Foreign);
        }
        if claims.exp <= now {
            return Err(Refused::Expired);
        }
        if claims.nbf > now {
            return Err(Refused::Early);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> Key {
        Key::of(&new_key().unwrap()).unwrap()
    }

    fn claims() -> Claims {
        Claims::new("here", "alice".to_owned(), vec![Access::of_repository("a/b", &[Verb::Pull])], NOW)
    }

    #[test]
    fn a_token_is_valid_for_its_time_and_its_place() {
        let key = key();
        let token = key.sign(&claims());
        assert_eq!(key.verify(&token, "here", NOW), Ok(claims()));
        assert_eq!(key.verify(&token, "here", NOW + LIFE - 1), Ok(claims()));
        assert_eq!(key.verify(&token, "here", NOW + LIFE), Err(Refused::Expired));
        assert_eq!(key.verify(&token, "here", NOW - 1), Err(Refused::Early));
        assert_eq!(key.verify(&token, "there", NOW), Err(Refused::Foreign));
    }

    #[test]
    fn a_forged_token_is_none() {
        let (ours, theirs) = (key(), key());
        let token = ours.sign(&claims());
        let verify = |token: &str| ours.verify(token, "here", NOW);
        assert_eq!(verify(&theirs.sign(&claims())), Err(Refused::Foreign));
        let parts: Vec<&str> = token.split('.').collect();
        let [header, body, signature] = parts[..] else { panic!("{token}") };
        // `none`, with and without a signature; a key of the forger's own in the header.
        let public = URL_SAFE_NO_PAD.encode(theirs.0.public_key().as_ref());
        for other in [
            r#"{"alg":"none"}"#.to_owned(),
            r#"{"alg":"HS256","typ":"JWT"}"#.to_owned(),
            r#"{"typ":"JWT","alg":"EdDSA"}"#.to_owned(),
            format!(r#"{{"alg":"EdDSA","typ":"JWT","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{public}"}}}}"#),
        ] {
            let other = URL_SAFE_NO_PAD.encode(other);
            for signature in ["", signature] {
                assert_eq!(verify(&format!("{other}.{body}.{signature}")), Err(Refused::Foreign));
            }
            let signed = format!("{other}.{body}");
            let by_them = URL_SAFE_NO_PAD.encode(theirs.0.sign(signed.as_bytes()));
            assert_eq!(verify(&format!("{signed}.{by_them}")), Err(Refused::Foreign));
        }
        let mut more = claims();
        more.sub = "root".to_owned();
        let more = URL_SAFE_NO_PAD.encode(serde_json::to_string(&more).unwrap());
        assert_eq!(verify(&format!("{header}.{more}.{signature}")), Err(Refused::Foreign));
        for text in ["", ".", "..", "a.b.c", &"a".repeat(MOST + 1)] {
            assert_eq!(verify(text), Err(Refused::Foreign));
        }
    }

    #[test]
    fn scopes_name_a_repository_and_verbs() {
        let access = scope("repository:a/b:pull,push").unwrap();
        assert!(access.allows("a/b", Verb::Pull) && access.allows("a/b", Verb::Push));
        assert!(!access.allows("a/b", Verb::Delete) && !access.allows("a", Verb::Pull));
        assert!(scope("repository:a:*").unwrap().allows("a", Verb::Delete));
        assert!(scope("registry:catalog:*").unwrap().is_catalog());
        for text in
            ["", "repository:a", "repository:../a:pull", "repository:A:pull", "registry:x:*", "x:a:pull"]
        {
            assert_eq!(scope(text), None, "{text}");
        }
    }
}
