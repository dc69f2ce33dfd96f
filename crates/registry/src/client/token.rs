//! Tokens: had from where a registry says, shown to that registry alone, and remembered until they end
//! (distribution-spec's `auth/token` and `auth/oauth`).
//!
//! A registry names the place itself (`realm`), so the place is looked at before anybody's password goes there:
//! not without TLS if the registry has it, and not nearer than the registry itself ([`super::hosts::places`]).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hull_fetch::{Address, Answer, Body, Request};
use serde::Deserialize;

use super::challenge::Challenge;
use super::{Error, Result, door};
use crate::Credentials;

/// How this client calls itself where tokens are had.
const CLIENT: &str = "hull";
/// Longest answer with a token (bytes).
const LONGEST: u64 = 1 << 20;
/// A token lives so long if nobody says how long.
const USUAL: Duration = Duration::from_secs(60);
/// None is believed to live longer.
const MOST: Duration = Duration::from_secs(60 * 60);
/// It is not shown in the last part of its life: it may end on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// Tokens that are remembered at most.
const REMEMBERED: usize = 1000;

/// A wish for a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    realm: String,
    service: String,
    /// Parted by spaces.
    scope: String,
    credentials: Credentials,
    /// A token to get tokens by is wanted, too.
    pub(super) offline: bool,
}

impl Asked {
    /// # Errors
    /// [`Error::Realm`] for a place where nobody may be sent from `base`.
    pub(super) fn new(
        challenge: &Challenge,
        scopes: &[String],
        credentials: &Credentials,
        base: &Address,
    ) -> Result<Asked> {
        let parameter = |name: &str| challenge.parameters.get(name).cloned().unwrap_or_default();
        let realm = base.join(&parameter("realm")).map_err(Error::Address)?;
        if base.is_https() && !realm.is_https() {
            return Err(Error::Realm {
                registry: base.to_string(),
                realm: realm.to_string(),
                why: "whoever listens on the way could read them",
            });
        }
        let (realm, service) = (realm.to_string(), parameter("service"));
        let credentials = credentials.clone();
        Ok(Asked { realm, service, scope: scopes.join(" "), credentials, offline: false })
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Asked, Token>>);

struct Token {
    text: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An answer with a token.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    /// In seconds.
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn get(
        &self,
        client: &hull_fetch::Client,
        asked: &Asked,
        fresh: bool,
    ) -> Result<String> {
        let now = Instant::now();
        if let Some(token) = self.lock().get(asked).filter(|token| !fresh && token.until > now) {
            return Ok(token.text.clone());
        }
        let (given, address) = ask(client, asked).await?;
        let text = if given.token.is_empty() { given.access_token } else { given.token };
        if text.is_empty() {
            let why = "it gives no token".to_owned();
            return Err(Error::Nonsense { address: address.to_string(), why });
        }
        let life = given.expires_in.map_or(USUAL, Duration::from_secs).min(MOST);
        let mut known = self.lock();
        known.retain(|_, token| token.until > now);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(asked.clone(), Token { text: text.clone(), until: now + life.saturating_sub(MARGIN) });
        Ok(text)
    }
}

/// A token to get tokens by, if the place gives such, for whoever logs in.
pub(super) async fn identity(client: &hull_fetch::Client, asked: &Asked) -> Result<Option<String>> {
    let (given, _) = ask(client, asked).await?;
    Ok(Some(given.refresh_token).filter(|token| !token.is_empty()))
}

async fn ask(client: &hull_fetch::Client, asked: &Asked) -> Result<(Given, Address)> {
    let realm = Address::parse(&asked.realm).map_err(Error::Address)?;
    let (method, sent) = match &asked.credentials {
        Credentials::IdentityToken { token, .. } => ("POST", post(client, asked, &realm, token).await),
        _ => ("GET", get(client, asked, &realm).await),
    };
    let mut answer = sent.map_err(|error| Error::unreachable(method, &realm, &error))?;
    if answer.status != StatusCode::OK {
        let (status, problem) = (answer.status, door::problem(&mut answer).await);
        return Err(Error::NoToken {
            method: super::error::shown(method),
            address: realm.to_string(),
            status,
            problem,
        });
    }
    let mut body = Vec::new();
    let read = answer.save(&mut body, LONGEST, |_| {}).await;
    read.map_err(|error| Error::unreachable(method, &realm, &error))?;
    let nonsense =
        |_| Error::Nonsense { address: realm.to_string(), why: "it is no document with a token".to_owned() };
    Ok((serde_json::from_slice(&body).map_err(nonsense)?, realm))
}

type Sent = std::result::Result<Answer, hull_fetch::Error>;

async fn get(client: &hull_fetch::Client, asked: &Asked, realm: &Address) -> Sent {
    let mut query = vec![("service", asked.service.as_str())];
    query.extend(asked.scope.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
    query.extend(asked.credentials.user().map(|user| ("account", user)));
    if asked.offline {
        query.extend([("offline_token", "true"), ("client_id", CLIENT)]);
    }
    let text = realm.to_string();
    let sign = if text.contains('?') { '&' } else { '?' };
    let address = Address::parse(&format!("{text}{sign}{}", form(&query)))?;
    let mut headers = HeaderMap::new();
    headers.extend(basic(&asked.credentials).map(|shown| (AUTHORIZATION, shown)));
    client.ask(Request { method: Method::GET, address, headers }).await
}

async fn post(client: &hull_fetch::Client, asked: &Asked, realm: &Address, token: &str) -> Sent {
    let fields = [
        ("grant_type", "refresh_token"),
        ("service", &asked.service),
        ("client_id", CLIENT),
        ("scope", &asked.scope),
        ("refresh_token", token),
    ];
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))];
    let headers = headers.into_iter().collect();
    let request = Request { method: Method::POST, address: realm.clone(), headers };
    client.send(request, Body::Bytes(Bytes::from(form(&fields)))).await
}

/// `application/x-www-form-urlencoded`; fit for a query, too.
fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => text.push(byte.into()),
                byte => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

/// RFC 7617; `None`: there is nobody to be told.
pub(super) fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let Credentials::Password { user, password } = credentials else { return None };
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 6750, 2.1.
pub(super) fn bearer(token: &str, base: &Address) -> Result<HeaderValue> {
    let wrong = |_| Error::Nonsense { address: base.to_string(), why: "its token is none".to_owned() };
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::challenge::parse;

    fn asked(base: &str, realm: &str) -> Result<Asked> {
        let challenge = parse(&format!("Bearer realm=\"{realm}\",service=\"s\"")).remove(0);
        let base = Address::parse(base).unwrap();
        Asked::new(&challenge, &["a".to_owned(), "b".to_owned()], &Credentials::Anonymous, &base)
    }

    #[test]
    fn tokens_are_not_asked_for_where_others_listen() {
        let found = asked("https://r.example", "https://a.example/token").unwrap();
        assert_eq!((&*found.realm, &*found.service, &*found.scope), ("https://a.example/token", "s", "a b"));
        assert_eq!(asked("http://r.example", "http://a.example/t").unwrap().realm, "http://a.example/t");
        assert_eq!(asked("https://r.example", "/token").unwrap().realm, "https://r.example/token");
        let refused = asked("https://r.example", "http://a.example/token").unwrap_err();
        assert!(matches!(refused, Error::Realm { .. }), "{refused}");
        assert!(asked("https://r.example", "file:///etc/shadow").is_err());
    }

    #[test]
    fn forms_carry_whatever_is_in_a_field() {
        assert_eq!(form(&[("a", "b c&d=e+é"), ("f", "")]), "a=b%20c%26d%3De%2B%C3%A9&f=");
    }

    #[test]
    fn headers_for_credentials_are_secret() {
        let credentials = Credentials::Password { user: "Aladdin".into(), password: "open sesame".into() };
        let shown = basic(&credentials).unwrap();
        assert!(shown == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" && shown.is_sensitive());
        let base = Address::parse("https://r.example").unwrap();
        assert!(bearer("t", &base).unwrap().is_sensitive());
        assert!(bearer("a\r\nHost: b", &base).is_err());
        assert_eq!(basic(&Credentials::Anonymous), None);
    }
}
