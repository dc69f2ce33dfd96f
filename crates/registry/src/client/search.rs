//! What a registry finds by a word: no part of the distribution protocol, only some have it (`/v1/search`).

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use hull_fetch::Request;
use hull_oci::reference::DEFAULT_DOMAIN;
use serde::Deserialize;
use std::sync::Arc;

use super::ask::accept;
use super::document::whole;
use super::door::Door;
use super::{Client, Error, Result, token};
use crate::Credentials;

/// Where the default registry is searched.
const DEFAULT_INDEX: &str = "index.docker.io";
/// Bytes of an answer.
const MOST: u64 = 4 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    pub name: String,
    pub description: String,
    pub star_count: i64,
    pub is_official: bool,
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    results: Vec<Found>,
}

impl Client {
    /// Searches the registry of a name's domain; gives `most` results at most.
    pub async fn search(
        &self,
        domain: &str,
        term: &str,
        most: u32,
        credentials: Credentials,
    ) -> Result<Vec<Found>> {
        let index = if domain == DEFAULT_DOMAIN { DEFAULT_INDEX } else { domain };
        let Some(server) = self.0.hosts.servers(index, false).pop() else { return Ok(Vec::new()) };
        let door = Door::new(Arc::clone(&self.0), server, credentials);
        let open = door.open().await?;
        let path = format!("/v1/search?q={}&n={most}", encoded(term));
        let address = open.base.join(&path).map_err(Error::Address)?;
        let mut headers = HeaderMap::new();
        headers.extend(token::basic(&door.credentials).map(|shown| (AUTHORIZATION, shown)));
        let request = Request { method: Method::GET, address: address.clone(), headers };
        let answer = open.client.ask(request).await;
        let answer = answer.map_err(|error| Error::unreachable("Get", &address, &error))?;
        let mut answer = accept("Get", answer, &[StatusCode::OK]).await?;
        let bytes = whole(&mut answer, MOST).await?;
        let listed: Listed = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Nonsense { address: address.to_string(), why: error.to_string() })?;
        let mut results = listed.results;
        results.truncate(most as usize);
        Ok(results)
    }
}

/// As a value in a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_cannot_say_more_than_a_term() {
        assert_eq!(encoded("a b&n=1#ä"), "a%20b%26n%3D1%23%C3%A4");
    }
}
