//! Who asks, and whether they may.
//!
//! ```text
//! passwords ─ names and bcrypt hashes; what was verified lately; a limit on tries
//! rights ──── rules: who × which repositories × pull, push, delete (pure)
//! token ───── signed by the registry itself, and believed in one form only (pure but for the clock)
//! ```
//!
//! A token says what it was given out for, and its owner must still have that right when it is used: who
//! is taken out of a group has lost it with the next reload, whatever tokens are about.

mod passwords;
mod rights;
mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use serde_json::{Value, json};

use super::Auth;
use super::action::{Name, Need, Verb};
use super::answer::{Code, Failure};
use super::pages::Query;
use super::store::{self, StoreError};
use passwords::{Hashes, Passwords, Verdict};
use rights::{Rights, Who};
use token::{Access, Claims, Key};

/// In challenges and in tokens.
const SERVICE: &str = "hull-registry";
/// Scopes of one request for a token.
const SCOPES: usize = 64;

/// Why the files of users are not taken.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("the key of tokens {} is not one: remove it, and a new one is made", .0.display())]
    Key(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who a request is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    #[default]
    Anonymous,
    User(String),
    /// `user` is `None` for a token that was given to somebody without a name.
    Token {
        user: Option<String>,
        access: Arc<[Access]>,
    },
}

/// What a 401 asks for.
pub(crate) enum Challenge {
    Basic,
    Bearer { service: &'static str },
}

/// Who may do what, as the files say that were read last.
enum Known {
    Open,
    /// They all may everything.
    Users(Hashes),
    Ruled(Hashes, Rights),
}

pub(crate) struct Authority {
    known: RwLock<Arc<Known>>,
    passwords: Passwords,
    key: Option<Key>,
}

fn read(auth: &Auth) -> Result<Known, AuthError> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| AuthError::Read { path: path.to_owned(), source })
    };
    let content = |path: &Path| {
        let path = path.to_owned();
        move |why| AuthError::Content { path, why }
    };
    Ok(match auth {
        Auth::Open => Known::Open,
        Auth::Htpasswd(path) => Known::Users(Hashes::of_htpasswd(&text(path)?).map_err(content(path))?),
        Auth::Users(path) => {
            let (hashes, rights) = rights::parse(&text(path)?).map_err(content(path))?;
            Known::Ruled(hashes, rights)
        }
    })
}

impl Authority {
    pub(crate) fn open(auth: &Auth, root: &Path) -> Result<Authority, AuthError> {
        let known = read(auth)?;
        let key = match known {
            Known::Ruled(..) => {
                let path = root.join("token-key");
                let bytes = store::secret(&path, token::new_key)?;
                Some(Key::of(&bytes).ok_or(AuthError::Key(path))?)
            }
            Known::Open | Known::Users(_) => None,
        };
        Ok(Authority { known: RwLock::new(Arc::new(known)), passwords: Passwords::new()?, key })
    }

    pub(crate) fn reload(&self, auth: &Auth) -> Result<(), AuthError> {
        let known = Arc::new(read(auth)?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn challenge(&self) -> Option<Challenge> {
        match *self.known() {
            Known::Open => None,
            Known::Users(_) => Some(Challenge::Basic),
            Known::Ruled(..) => Some(Challenge::Bearer { service: SERVICE }),
        }
    }

    /// Nobody is asked who they are.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.known(), Known::Open)
    }

    /// # Errors
    /// 401 for credentials that are none, 429 for somebody who tries too often.
    pub(crate) async fn identify(&self, headers: &HeaderMap, from: IpAddr) -> Result<Identity, Failure> {
        let known = self.known();
        let hashes = match &*known {
            Known::Open => return Ok(Identity::Anonymous),
            Known::Users(hashes) | Known::Ruled(hashes, _) => hashes,
        };
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Identity::Anonymous) };
        let unread = || Failure::new(Code::Unauthorized, "the credentials cannot be read");
        let (scheme, value) =
            header.to_str().ok().and_then(|header| header.trim().split_once(' ')).ok_or_else(unread)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let (user, password) = basic(value).ok_or_else(unread)?;
            self.verify(hashes, &user, password, from).await?;
            return Ok(Identity::User(user));
        }
        let Some(key) = self.key.as_ref().filter(|_| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(unread());
        };
        let invalid = |why: token::Refused| Failure::new(Code::Unauthorized, why.to_string());
        let claims = key.verify(value.trim(), SERVICE, now()).map_err(invalid)?;
        let user = Some(claims.sub).filter(|user| !user.is_empty());
        if user.as_ref().is_some_and(|user| hashes.get(user).is_none()) {
            return Err(Failure::new(Code::Unauthorized, "the user of this token is no more"));
        }
        Ok(Identity::Token { user, access: claims.access.into() })
    }

    async fn verify(
        &self,
        hashes: &Hashes,
        user: &str,
        password: Vec<u8>,
        from: IpAddr,
    ) -> Result<(), Failure> {
        match self.passwords.verify(hashes, user, password, from).await {
            Verdict::Right => Ok(()),
            Verdict::Wrong => Err(Failure::new(Code::Unauthorized, "the user name or the password is wrong")),
            Verdict::TooMany { seconds } => {
                Err(Failure::new(Code::TooManyRequests, "too many tries with wrong credentials")
                    .header(RETRY_AFTER, &seconds.to_string()))
            }
        }
    }

    pub(crate) fn allows(&self, identity: &Identity, need: Need<'_>) -> bool {
        match &*self.known() {
            Known::Open => true,
            Known::Users(hashes) => matches!(identity, Identity::User(user) if hashes.get(user).is_some()),
            Known::Ruled(_, rights) => match need {
                Need::Known => *identity != Identity::Anonymous,
                Need::Catalog => match identity {
                    Identity::Anonymous => false,
                    Identity::User(_) => true,
                    Identity::Token { access, .. } => access.iter().any(Access::is_catalog),
                },
                Need::Repository(name, verb) => {
                    let claimed = match identity {
                        Identity::Token { access, .. } => {
                            access.iter().any(|access| access.allows(name.as_str(), verb))
                        }
                        Identity::Anonymous | Identity::User(_) => true,
                    };
                    claimed && rights.allows(who(identity), name.as_str(), verb)
                }
            },
        }
    }

    /// Whether a repository may be named to somebody who lists them.
    pub(crate) fn may_list(&self, identity: &Identity, name: &Name) -> bool {
        match &*self.known() {
            Known::Open | Known::Users(_) => true,
            Known::Ruled(_, rights) => rights.allows(who(identity), name.as_str(), Verb::Pull),
        }
    }

    /// Why somebody may not: who could do better by saying who they are, or what for, hears that.
    pub(crate) fn refusal(&self, identity: &Identity, need: Need<'_>) -> Failure {
        let denied = || Failure::new(Code::Denied, "this user has no right to it");
        match identity {
            Identity::Anonymous | Identity::Token { user: None, .. } => {
                Failure::new(Code::Unauthorized, "this is for users that have logged in")
            }
            Identity::User(_) => denied(),
            Identity::Token { user: Some(user), .. } => {
                if self.allows(&Identity::User(user.clone()), need) {
                    return Failure::new(Code::Unauthorized, "the token is not for this");
                }
                denied()
            }
        }
    }

    /// A token, for as much of what is asked for as there is a right to. `None`: none are given out here.
    pub(crate) async fn token(
        &self,
        headers: &HeaderMap,
        query: &Query,
        from: IpAddr,
        form: bool,
    ) -> Result<Option<Value>, Failure> {
        let known = self.known();
        let (Known::Ruled(hashes, rights), Some(key)) = (&*known, &self.key) else { return Ok(None) };
        let identity = if form {
            if query.get("grant_type") != Some("password") {
                // Nobody was given anything else; clients go on with GET.
                return Ok(None);
            }
            let user = query.get("username").unwrap_or_default().to_owned();
            let password = query.get("password").unwrap_or_default().as_bytes().to_vec();
            self.verify(hashes, &user, password, from).await?;
            Identity::User(user)
        } else {
            self.identify(headers, from).await?
        };
        if matches!(identity, Identity::Token { .. }) {
            // A token makes no other tokens: it would live for ever.
            return Err(Failure::new(Code::Unauthorized, "tokens are given for passwords"));
        }
        let scopes = query.all("scope").flat_map(|scopes| scopes.split(' ')).take(SCOPES);
        let access: Vec<Access> =
            scopes.filter_map(|scope| grant(rights, &identity, &token::scope(scope)?)).collect();
        let user = match identity {
            Identity::User(user) => user,
            _ => String::new(),
        };
        let claims = Claims::new(SERVICE, user, access, now());
        let token = key.sign(&claims);
        Ok(Some(json!({ "token": token, "access_token": token, "expires_in": token::LIFE })))
    }
}

/// As much of it as there is a right to.
fn grant(rights: &Rights, identity: &Identity, asked: &Access) -> Option<Access> {
    if asked.is_catalog() {
        return matches!(identity, Identity::User(_)).then(|| asked.clone());
    }
    let name = asked.repository()?;
    let granted = Verb::ALL.into_iter().filter(|verb| asked.allows(name, *verb));
    let verbs: Vec<Verb> = granted.filter(|verb| rights.allows(who(identity), name, *verb)).collect();
    Some(Access::of_repository(name, &verbs))
}

fn who(identity: &Identity) -> Who<'_> {
    match identity {
        Identity::Anonymous | Identity::Token { user: None, .. } => Who::Anonymous,
        Identity::User(user) | Identity::Token { user: Some(user), .. } => Who::User(user),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// RFC 7617: everything behind the first colon is the password.
fn basic(value: &str) -> Option<(String, Vec<u8>)> {
    let bytes = STANDARD.decode(value.trim()).ok()?;
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let user = std::str::from_utf8(&bytes[..colon]).ok()?.to_owned();
    Some((user, bytes[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_have_colons() {
        assert_eq!(basic("YTpiOmM="), Some(("a".to_owned(), b"b:c".to_vec())));
        assert_eq!(basic("YQ=="), None);
        assert_eq!(basic("?"), None);
    }
}
