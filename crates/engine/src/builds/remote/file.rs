//! ADD of an http or https address: one file, with the name that the address ends with, for root alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderValue, StatusCode};
use hull_context::{Entry, Inside, Kind, Matched, fingerprint};
use hull_fetch::{Address, Answer, Request};
use hull_oci::{Algorithm, Digest, Hasher};
use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps};

use super::super::Build;
use super::super::site::Site;
use super::failed;
use crate::{Error, Result};

/// Root alone reads it.
const MODE: u32 = 0o600;
/// Most bytes of a file.
const MOST: u64 = 64 << 30;
/// What a file is called whose address has no name for it; it never becomes one in a folder.
const UNNAMED: &str = "__unnamed__";
/// Addresses whose validators are remembered; more of them than this, and all are forgotten.
const REMEMBERED: usize = 4096;
/// Seconds that a file must be old for its time to tell it from what it is next (RFC 9110, 8.8.2.2).
const STRONG: i64 = 60;

/// The validators of what was fetched, by address.
#[derive(Debug, Default)]
pub(in super::super) struct Known(Mutex<HashMap<String, Validator>>);

#[derive(Debug, Clone)]
struct Validator {
    /// A condition that only a file of other bytes meets.
    condition: (http::HeaderName, HeaderValue),
    digest: Digest,
}

/// What a build knows of an address.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Of its bytes. Once it is known it does not change within a build.
    digest: Option<Digest>,
    /// With the file, if it had to be fetched.
    site: Option<Arc<Site>>,
}

impl Known {
    fn get(&self, address: &str) -> Option<Validator> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    fn put(&self, address: &str, validator: Option<Validator>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        match validator {
            Some(validator) => known.insert(address.to_owned(), validator),
            None => known.remove(address),
        };
    }
}

impl Build {
    /// The digest of a copy of the file: its name, its mode and its bytes.
    pub(in super::super) async fn address_digest(
        &self,
        address: &str,
        checksum: Option<Digest>,
    ) -> Result<Digest> {
        let name = name(&parse(address)?);
        let digest = match checksum {
            // Whatever is there: with other bytes it is refused.
            Some(checksum) if checksum.algorithm() == Algorithm::Sha256 => checksum,
            checksum => {
                let file = self.0.remote.file(address, checksum.as_ref());
                let mut file = file.lock().await;
                if file.digest.is_none() {
                    let known = self.0.services.builds.known.get(address).filter(|_| checksum.is_none());
                    self.fetch(address, &mut file, known, checksum.as_ref()).await?;
                }
                file.digest.clone().expect("fetching leaves the digest")
            }
        };
        let kind = Kind::File { size: 0 };
        let path = name.clone().into();
        let entry = Entry { path, kind, mode: MODE, modified: (0, 0), changed: (0, 0), inode: 0 };
        let matched = [Matched { entry, name: name.into(), below: Vec::new() }];
        let inside =
            |_: &Entry, _: &Path| Ok(Inside { contents: Some(digest.clone()), attributes: Vec::new() });
        fingerprint::<Error>(&matched, inside)
    }

    /// What the file is called there.
    pub(super) fn address_name(&self, address: &str) -> Result<String> {
        Ok(name(&parse(address)?))
    }

    /// A folder with the file alone. `into_folder`: the file's own name is needed.
    pub(in super::super) async fn address_file(
        &self,
        address: &str,
        checksum: Option<Digest>,
        into_folder: bool,
    ) -> Result<Arc<Site>> {
        if into_folder && parse(address)?.file_name().is_none() {
            return Err(Error::Invalid(format!(
                "cannot determine filename from url: {}: end the address with one, or the destination without /",
                parse(address)?
            )));
        }
        let file = self.0.remote.file(address, checksum.as_ref());
        let mut file = file.lock().await;
        if file.site.is_none() {
            self.fetch(address, &mut file, None, checksum.as_ref()).await?;
        }
        Ok(Arc::clone(file.site.as_ref().expect("without a condition the file comes")))
    }

    /// The folder has become something else: who needs the file fetches it again, and gets the same bytes.
    pub(super) async fn forget_file(&self, address: &str) {
        self.0.remote.file(address, None).lock().await.site = None;
    }

    async fn fetch(
        &self,
        text: &str,
        file: &mut File,
        known: Option<Validator>,
        checksum: Option<&Digest>,
    ) -> Result<()> {
        let address = parse(text)?;
        let mut request = Request::get(address.clone());
        if let Some(Validator { condition: (name, value), .. }) = &known {
            request.headers.insert(name, value.clone());
        }
        let mut answer = self.0.remote.client().await?.ask(request).await.map_err(failed)?;
        let (digest, site) = match (answer.status, known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => (known.digest, None),
            (StatusCode::OK, _) => {
                let (digest, site) = self.save(&mut answer, &name(&address), checksum).await?;
                self.0.services.builds.known.put(text, validator(&answer, &digest));
                (digest, Some(Arc::new(site)))
            }
            (status, _) => {
                return Err(Error::Invalid(format!("{address}: invalid response status {status}")));
            }
        };
        if file.digest.as_ref().is_some_and(|before| *before != digest) {
            return Err(Error::Invalid(format!(
                "{address} has changed while it was built from: build again"
            )));
        }
        *file = File { digest: Some(digest), site };
        Ok(())
    }

    async fn save(
        &self,
        answer: &mut Answer,
        name: &str,
        checksum: Option<&Digest>,
    ) -> Result<(Digest, Site)> {
        let site = Site::make(&self.0.services, &[]).await?;
        let path = site.rootfs.upper.join(name);
        let mut hashers = vec![Hasher::sha256()];
        hashers.extend(checksum.map(|checksum| Hasher::new(checksum.algorithm())));
        let mut out = tokio::fs::File::from_std(create(&path)?);
        let seen = |piece: &[u8]| hashers.iter_mut().for_each(|hasher| hasher.update(piece));
        answer.save(&mut out, MOST, seen).await.map_err(failed)?;
        let mut digests = hashers.into_iter().map(Hasher::finish);
        let digest = digests.next().expect("there is one");
        if let (Some(got), Some(wanted)) = (digests.next(), checksum)
            && got != *wanted
        {
            return Err(Error::Invalid(format!("{}: digest mismatch {got}: {wanted}", answer.address)));
        }
        set_time(&out.into_std().await, &path, modified(answer).unwrap_or(0))?;
        Ok((digest, site))
    }
}

fn parse(address: &str) -> Result<Address> {
    Address::parse(address).map_err(failed)
}

fn name(address: &Address) -> String {
    address.file_name().unwrap_or_else(|| UNNAMED.to_owned())
}

fn create(path: &PathBuf) -> Result<std::fs::File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed =
        |call| move |errno: rustix::io::Errno| Error::Io { call, path: path.clone(), source: errno.into() };
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(MODE)).map_err(failed("open"))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(MODE)).map_err(failed("fchmod"))?;
    Ok(file.into())
}

fn set_time(file: &std::fs::File, path: &Path, seconds: i64) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(file, &times).map_err(|errno| Error::Io {
        call: "futimens",
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Seconds since the epoch.
fn modified(answer: &Answer) -> Option<i64> {
    seconds(answer.header(LAST_MODIFIED)?)
}

/// RFC 9110, section 5.6.7; the obsolete forms are not read.
fn seconds(date: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second())
}

/// What tells these bytes from any others; weak validators do not.
fn validator(answer: &Answer, digest: &Digest) -> Option<Validator> {
    let strong = answer.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    if let Some(tag) = strong {
        return Some(Validator { condition: (IF_NONE_MATCH, tag.clone()), digest: digest.clone() });
    }
    let date = seconds(answer.header(DATE)?)?;
    (modified(answer)? <= date - STRONG).then_some(())?;
    let time = answer.headers.get(LAST_MODIFIED)?.clone();
    Some(Validator { condition: (IF_MODIFIED_SINCE, time), digest: digest.clone() })
}
