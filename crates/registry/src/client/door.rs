//! One server of a registry: how it is reached, and how it wants to be asked.
//!
//! The first question is the base of the protocol (distribution-spec `spec.md#endpoints`, end-1): its answer
//! tells whether somebody is there, by https or, where that is allowed, by http, and what to show at each
//! further request. It is asked once for each [`super::Repository`].

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use hull_fetch::{Address, Answer, Request};
use tokio::sync::OnceCell;

use super::challenge::{self, Challenge};
use super::error::Problem;
use super::hosts::Server;
use super::{Error, Inner, Result, token};
use crate::Credentials;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) inner: Arc<Inner>,
    server: Server,
    pub(super) credentials: Credentials,
    open: OnceCell<Open>,
}

/// A server that has answered.
#[derive(Debug)]
pub(super) struct Open {
    /// `https://HOST[:PORT][/PATH]/v2`.
    pub(super) root: String,
    /// The same as an address.
    pub(super) base: Address,
    pub(super) client: hull_fetch::Client,
    /// How it wants to be asked, as far as it has said; `None`: it lets everybody in.
    challenge: Mutex<Option<Challenge>>,
}

impl Open {
    pub(super) fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Some servers say it only where it matters. What can be sent but once is to be right then.
    pub(super) fn learn(&self, challenge: &Challenge) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge.clone());
    }
}

impl Door {
    pub(super) fn new(inner: Arc<Inner>, server: Server, credentials: Credentials) -> Door {
        Door { inner, server, credentials, open: OnceCell::new() }
    }

    pub(super) fn authority(&self) -> &str {
        &self.server.authority
    }

    pub(super) async fn open(&self) -> Result<&Open> {
        self.open.get_or_try_init(|| self.knock()).await
    }

    async fn knock(&self) -> Result<Open> {
        let (host, port) = (self.server.host(), self.server.port());
        // Whom only a proxy can find is out in the world.
        let found = hull_fetch::look_up(host, port).await.unwrap_or_default();
        let addresses: Vec<IpAddr> = found.into_iter().map(|address| address.ip()).collect();
        let insecure = self.inner.hosts.is_insecure(&self.server, &addresses);
        let bases = match &self.server.base {
            Some(base) => vec![base.clone()],
            None if insecure => {
                ["https", "http"].map(|by| format!("{by}://{}", self.server.authority)).to_vec()
            }
            None => vec![format!("https://{}", self.server.authority)],
        };
        let client = self.client(insecure, self.inner.hosts.places(&self.server, &addresses)).await?;
        let mut last = None;
        for base in bases {
            match self.first(&client, &base).await {
                Ok(open) => return Ok(open),
                Err(error) => last = Some(error),
            }
        }
        // There is one base at least.
        Err(last.unwrap_or_else(|| Error::Nonsense {
            address: self.server.authority.clone(),
            why: "it has no address".to_owned(),
        }))
    }

    async fn client(&self, insecure: bool, places: Vec<hull_fetch::Place>) -> Result<hull_fetch::Client> {
        let (inner, server) = (Arc::clone(&self.inner), self.server.clone());
        let make = move || {
            let mut tls = inner.hosts.certificates(&server)?;
            tls.unverified = insecure;
            let bracketed = if server.host().contains(':') {
                format!("[{}]", server.host())
            } else {
                server.host().to_ascii_lowercase()
            };
            inner.client(format!("{bracketed}:{}", server.port()), tls, places)
        };
        match tokio::task::spawn_blocking(make).await {
            Ok(client) => client,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => {
                    Err(Error::Nonsense { address: self.authority().to_owned(), why: error.to_string() })
                }
            },
        }
    }

    async fn first(&self, client: &hull_fetch::Client, base: &str) -> Result<Open> {
        let address = Address::parse(&format!("{base}/v2/")).map_err(Error::Address)?;
        let answer = client.ask(Request::get(address.clone())).await;
        let answer = answer.map_err(|error| Error::unreachable("GET", &address, &error))?;
        // Who is sent elsewhere by the very first answer would show his credentials there.
        let challenge = match answer.status {
            StatusCode::UNAUTHORIZED if answer.address.same_origin(&address) => choose(&answer),
            _ => None,
        };
        Ok(Open {
            root: format!("{base}/v2"),
            base: address,
            client: client.clone(),
            challenge: Mutex::new(challenge),
        })
    }

    /// What is to be shown for a request that needs `scopes`. With `fresh` no token will do that is remembered.
    pub(super) async fn authorization(
        &self,
        open: &Open,
        challenge: Option<&Challenge>,
        scopes: &[String],
        fresh: bool,
    ) -> Result<Option<HeaderValue>> {
        if let Credentials::RegistryToken(text) = &self.credentials {
            return Ok(Some(token::bearer(text, &open.base)?));
        }
        match challenge {
            None => Ok(None),
            Some(challenge) if challenge.scheme == "basic" => Ok(token::basic(&self.credentials)),
            Some(challenge) => {
                let asked = token::Asked::new(challenge, scopes, &self.credentials, &open.base)?;
                let text = self.inner.tokens.get(&open.client, &asked, fresh).await?;
                Ok(Some(token::bearer(&text, &open.base)?))
            }
        }
    }
}

/// The challenge that is answered best: tokens before passwords. Others are not for us.
pub(super) fn choose(answer: &Answer) -> Option<Challenge> {
    let values = answer.headers.get_all(WWW_AUTHENTICATE).iter();
    let all: Vec<Challenge> =
        values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
    let known = |scheme: &str| {
        all.iter().find(|challenge| challenge.scheme == scheme && (scheme == "basic" || has_realm(challenge)))
    };
    known("bearer").or_else(|| known("basic")).cloned()
}

fn has_realm(challenge: &Challenge) -> bool {
    challenge.parameters.contains_key("realm")
}

/// Bytes of an answer's body that are read to learn what is wrong.
const PROBLEM: u64 = 64 << 10;

/// What an answer says that is an error.
pub(super) async fn problem(answer: &mut Answer) -> Problem {
    let mut body = Vec::new();
    // Whatever has come of it tells enough.
    let _ = answer.save(&mut body, PROBLEM, |_| {}).await;
    let problem = Problem::read(answer.status, &body);
    // RFC 6750, 3.1: a token that is good, but not for this.
    let short = |challenge: &Challenge| {
        challenge.parameters.get("error").is_some_and(|error| error == "insufficient_scope")
    };
    match choose(answer) {
        Some(challenge) if answer.status == StatusCode::UNAUTHORIZED && short(&challenge) => {
            Problem::read(StatusCode::FORBIDDEN, b"")
        }
        _ => problem,
    }
}
