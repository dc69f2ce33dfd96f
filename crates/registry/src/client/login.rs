//! Whether somebody is known to a registry.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use hull_fetch::Request;

use super::door::Door;
use super::{Client, Error, Result, token};
use crate::Credentials;

impl Client {
    /// Shows credentials to a registry (`HOST[:PORT]`, a name's domain). Gives the token that stands for the password from now
    /// on, if the registry has such.
    ///
    /// # Errors
    /// [`Error::Login`] if it does not know them.
    pub async fn check(&self, domain: &str, credentials: Credentials) -> Result<Option<String>> {
        let Some(server) = self.0.hosts.servers(domain, false).pop() else { return Ok(None) };
        let door = Door::new(Arc::clone(&self.0), server, credentials.clone());
        let open = door.open().await?;
        let mut identity = None;
        let challenge = open.challenge();
        if let Some(challenge) = challenge.as_ref().filter(|challenge| challenge.scheme == "bearer") {
            let mut asked = token::Asked::new(challenge, &[], &credentials, &open.base)?;
            asked.offline = true;
            identity = token::identity(&open.client, &asked).await?;
        }
        let shown = door.authorization(open, challenge.as_ref(), &[], true).await?;
        let mut headers = HeaderMap::new();
        headers.extend(shown.map(|shown| (AUTHORIZATION, shown)));
        let request = Request { method: Method::GET, address: open.base.clone(), headers };
        let answer = open.client.ask(request).await;
        let answer = answer.map_err(|error| Error::unreachable("Get", &open.base, &error))?;
        match answer.status {
            StatusCode::OK => Ok(identity),
            status => Err(Error::Login { address: open.base.to_string(), status }),
        }
    }
}
