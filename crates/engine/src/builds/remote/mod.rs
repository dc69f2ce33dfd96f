//! What builds get from other hosts.
//!
//! | what | how |
//! |---|---|
//! | ADD of an address ([`file`]) | by `hull_fetch`, into a site of its own |
//! | ADD of a repository ([`git`]) | by the host's `git`, as a stranger |
//! | a [`context`] | either; an archive is unpacked as one that was sent |
//!
//! Within one build an address is fetched once, and what came stays until the build ends: a step is looked
//! for by what is done afterwards. Across builds the validators of HTTP are remembered (ETag, Last-Modified;
//! RFC 9110, section 8.8), in memory alone: whether an address has changed is answered without the file, and
//! where they are forgotten with it, which has the same digest. What came is not kept: a step that has to be
//! done in a later build fetches it again.

mod context;
mod file;
pub(super) mod git;
mod repository;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hull_fetch::Client;
use hull_oci::Digest;
use tokio::sync::OnceCell;

use crate::{Error, Result};

pub(super) use file::Known;

/// What one build has fetched.
#[derive(Debug, Default)]
pub(super) struct Remote {
    client: OnceCell<Client>,
    clones: git::Clones,
    files: Mutex<HashMap<Named, Arc<tokio::sync::Mutex<file::File>>>>,
}

/// An address, and the digest that is asked of what is there.
type Named = (String, Option<Digest>);

impl Remote {
    /// Made when it is first needed: so it trusts whom the host trusts by then.
    pub(super) async fn client(&self) -> Result<&Client> {
        let make = || async { Client::new(hull_fetch::Options::default()).map_err(failed) };
        self.client.get_or_try_init(make).await
    }

    /// Where the one copy of this address is; held while it is fetched.
    fn file(&self, address: &str, checksum: Option<&Digest>) -> Arc<tokio::sync::Mutex<file::File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(files.entry((address.to_owned(), checksum.cloned())).or_default())
    }
}

fn failed(source: hull_fetch::Error) -> Error {
    Error::Fetch { source: Box::new(source) }
}
