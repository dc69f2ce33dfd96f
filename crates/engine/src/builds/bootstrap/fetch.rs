//! Files of archives, kept by their digests in one folder.
//!
//! A file has its name only when it is whole and is what it is called. It is looked at again before each use:
//! nothing here was synced to a disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;
use hull_debian::Package;
use hull_fetch::{Address, Answer, Client, Request};
use hull_oci::{Digest, Hasher};

use super::archive::without_credentials;
use crate::containers::create;
use crate::containers::services::Services;
use crate::{Error, Result};

/// Where the host's apt keeps packages that it has fetched (apt-get(8)).
const APT: &str = "/var/cache/apt/archives";
/// What the name of a file begins with that is not whole.
const PART: &str = "part-";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    client: Client,
    services: Arc<Services>,
    folder: PathBuf,
}

/// A file on its way, which goes if it does not arrive.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It has its name by now, or is nobody's.
        fs::remove_file(&self.0).ok();
    }
}

impl Fetcher {
    /// `folder` is this one's alone: what somebody who was killed has left half is removed.
    pub(super) fn new(client: Client, services: Arc<Services>, folder: &Path) -> Result<Fetcher> {
        let failed = |source| Error::Io { call: "read", path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(PART) {
                drop(Part(entry.path()));
            }
        }
        Ok(Fetcher { client, services, folder: folder.to_owned() })
    }

    /// A file that has no digest yet, of `most` bytes.
    pub(super) async fn document(&self, address: &str, most: u64) -> Result<Vec<u8>> {
        let mut answer = self.ask(address).await?.ok_or_else(|| absent(address))?;
        let mut bytes = Vec::new();
        answer.save(&mut bytes, most, |_| {}).await.map_err(failed)?;
        Ok(bytes)
    }

    /// Where the file with this digest is, if it is here.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Whether it is here and whole.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool> {
        let (path, digest) = (self.path(digest), digest.clone());
        self.services.blocking(move || Ok(is(&path, &digest))).await
    }

    /// Gets a package's file, from apt's cache or the archive; `true`: from the archive.
    pub(super) async fn package(&self, address: &str, package: &Package) -> Result<bool> {
        if self.has(&package.digest).await? {
            return Ok(false);
        }
        let (from, to) = (Path::new(APT).join(package.file_name()), self.path(&package.digest));
        let (part, digest) = (self.part(), package.digest.clone());
        let adopt = move || {
            // apt may just be writing it.
            let copied = fs::copy(&from, &part.0).is_ok() && is(&part.0, &digest);
            Ok(copied && fs::rename(&part.0, &to).is_ok())
        };
        if self.services.blocking(adopt).await? {
            return Ok(false);
        }
        match self.fetch(address, &package.digest, package.size).await? {
            true => Ok(true),
            false => Err(absent(address)),
        }
    }

    /// Fetches the file; `false`: it is not there.
    pub(super) async fn fetch(&self, address: &str, digest: &Digest, size: u64) -> Result<bool> {
        let Some(mut answer) = self.ask(address).await? else { return Ok(false) };
        let part = self.part();
        let io = |call| {
            let path = part.0.clone();
            move |source| Error::Io { call, path, source }
        };
        let mut out = tokio::fs::File::create_new(&part.0).await.map_err(io("create"))?;
        let mut hasher = Hasher::sha256();
        answer.save(&mut out, size, |piece| hasher.update(piece)).await.map_err(failed)?;
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::Invalid(format!(
                "{}: digest mismatch {found}: the archive's index has {digest}",
                answer.address
            )));
        }
        let to = self.path(digest);
        tokio::fs::rename(&part.0, &to).await.map_err(io("rename"))?;
        Ok(true)
    }

    /// `None`: there is nothing.
    async fn ask(&self, address: &str) -> Result<Option<Answer>> {
        let request = Request::get(Address::parse(address).map_err(failed)?);
        let answer = match self.client.ask(request.clone()).await {
            // A server may just be closing a connection that was kept.
            Err(hull_fetch::Error::Connect { .. }) => self.client.ask(request).await,
            answer => answer,
        };
        let answer = answer.map_err(failed)?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(Error::Invalid(format!("{}: invalid response status {status}", answer.address))),
        }
    }

    /// Runs what may block away from the async threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.services.blocking(work).await
    }

    fn part(&self) -> Part {
        Part(self.folder.join(format!("{PART}{}", create::new_id())))
    }
}

fn is(path: &Path, digest: &Digest) -> bool {
    let mut hasher = Hasher::sha256();
    let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    read.is_ok() && hasher.finish() == *digest
}

fn absent(address: &str) -> Error {
    let shown = without_credentials(address);
    Error::NotFound(format!("{shown} is not there: is it the address of a package archive?"))
}

fn failed(source: hull_fetch::Error) -> Error {
    Error::Fetch { source: Box::new(source) }
}
