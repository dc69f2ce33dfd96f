//! What an engine asks a registry for.
//!
//! ```text
//! hosts      a name → servers; who need not prove themselves, certificates, where a registry may lead
//! door       one server: https or http, and how it wants to be asked
//! challenge  WWW-Authenticate
//! token      tokens, and their memory
//! ask        a request with all that: let in, tried again
//! document   manifests and indexes: verified, bounded, of the type that was asked for
//! blob       everything else: resumed where it broke off
//! tags       lists, page by page
//! login      whether credentials are good
//! push       blobs and manifests on their way there
//! search     what a registry finds by a word
//! ```
//!
//! A [`Repository`] is one repository as one somebody sees it. Its servers are asked in turn (mirrors first);
//! what one of them has counts, because everything but a tag's meaning is verified by its digest.

mod ask;
mod blob;
mod challenge;
mod document;
mod door;
mod error;
mod hosts;
mod login;
pub mod push;
mod range;
mod search;
mod tags;
mod token;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hull_fetch::{Place, Tls};
use hull_oci::Reference;

use crate::Credentials;
use door::Door;

pub use blob::Blob;
pub use document::Fetched;
pub use error::{Error, Kind, Problem};
pub use hosts::Hosts;
pub use search::Found;

type Result<T> = std::result::Result<T, Error>;

/// Keeps connections and tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: Hosts,
    tokens: token::Tokens,
    clients: Mutex<Clients>,
}

/// By server, and where it may lead; each with the certificates that it was made for.
type Clients = BTreeMap<(String, Vec<Place>), (Tls, hull_fetch::Client)>;

/// What is to be done in a repository; tokens are asked for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

impl Client {
    pub fn new(hosts: Hosts) -> Client {
        Client(Arc::new(Inner { hosts, tokens: token::Tokens::default(), clients: Mutex::default() }))
    }

    /// The repository that `reference` names, whatever its tag and digest are. Nobody is asked yet.
    pub fn repository(&self, reference: &Reference, credentials: Credentials, access: Access) -> Repository {
        let servers = self.0.hosts.servers(&reference.domain, access == Access::Pull);
        let doors = servers.into_iter().map(|server| {
            // What somebody has told for a registry is not for its mirrors.
            let credentials = if server.is_mirror() { Credentials::Anonymous } else { credentials.clone() };
            Door::new(Arc::clone(&self.0), server, credentials)
        });
        Repository(Arc::new(Whole { doors: doors.collect(), path: reference.path.clone(), access }))
    }
}

impl Inner {
    /// The client for one server, with its own certificates as they are now. Blocks: files are read.
    fn client(&self, server: String, tls: Tls, places: Vec<Place>) -> Result<hull_fetch::Client> {
        let key = (server, places);
        let lock = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = lock().get(&key).filter(|(known, _)| *known == tls) {
            return Ok(client.clone());
        }
        let mut options = self.hosts.fetch.clone();
        options.hosts.insert(key.0.clone(), tls.clone());
        options.places = Some(key.1.clone());
        let client = hull_fetch::Client::new(options).map_err(Error::Address)?;
        lock().insert(key, (tls, client.clone()));
        Ok(client)
    }
}

/// See [`Client::repository`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    /// In the order in which they are asked; never empty.
    doors: Vec<Door>,
    path: String,
    access: Access,
}

impl Repository {
    /// What a token has to allow (distribution-spec's `auth/scope`).
    fn scope(&self) -> String {
        let actions = match self.0.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.0.path)
    }

    fn hosts(&self) -> &Hosts {
        &self.0.doors[0].inner.hosts
    }

    /// Asks one server after the other until one has it; gives which one.
    async fn each<'a, T, F>(&'a self, ask: impl Fn(&'a Door) -> F) -> Result<(T, usize)>
    where
        F: Future<Output = Result<T>>,
    {
        let last = self.0.doors.len() - 1;
        let mut index = 0;
        loop {
            match ask(&self.0.doors[index]).await {
                Ok(found) => return Ok((found, index)),
                Err(error) if index < last => {
                    tracing::debug!(server = %self.0.doors[index].authority(), %error, "the mirror is passed over");
                    index += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
