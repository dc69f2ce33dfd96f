//! Suites of archives, from the signature down to the files of packages.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use hull_debian::resolve::System;
use hull_debian::{Index, Release, Source, signature};
use hull_image::compress::Compression;
use hull_oci::{Digest, Platform};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fetch::Fetcher;
use super::host::Trusted;
use super::wrong;
use crate::{Error, Result};

/// Bytes of a signed Release file; the largest known have a few hundred thousand.
const RELEASE: u64 = 16 << 20;
/// Bytes of an index, whatever it is packed with.
const INDEX: u64 = 1 << 30;
/// Files at a time.
const PARALLEL: usize = 4;

/// A suite whose signature is good.
#[derive(Debug)]
pub(super) struct Archive {
    source: Source,
    pub(super) release: Release,
}

impl Archive {
    /// `now` is in seconds since the epoch.
    pub(super) async fn open_all(fetcher: &Fetcher, sources: Vec<Trusted>, now: i64) -> Result<Vec<Archive>> {
        let mut archives = Vec::new();
        for Trusted { source, keyring } in sources {
            let address = format!("{}/dists/{}/InRelease", source.address, source.suite);
            let bytes = fetcher.document(&address, RELEASE).await?;
            let read = move || {
                let release = signature::verify(&bytes, &keyring, now)
                    .and_then(|text| Release::parse(&text))
                    .and_then(|release| release.check(&source.suite, now).map(|()| release));
                let release = release.map_err(|error| wrong(&without_credentials(&address), &error))?;
                Ok(Archive { source, release })
            };
            archives.push(fetcher.blocking(read).await?);
        }
        Ok(archives)
    }

    /// The digest of a component's index, which is here then.
    async fn index(&self, fetcher: &Fetcher, component: &str) -> Result<Digest> {
        let forms = self.release.packages(component, &architecture());
        let folder = format!("{}/dists/{}", self.source.address, self.source.suite);
        for form in forms.iter().filter(|form| form.size <= INDEX) {
            if fetcher.has(&form.digest).await? {
                return Ok(form.digest.clone());
            }
        }
        for form in forms.into_iter().filter(|form| form.size <= INDEX) {
            let below = form.path.rsplit_once('/').map_or("", |(below, _)| below);
            let address = match self.release.by_hash {
                true => format!("{folder}/{below}/by-hash/SHA256/{}", form.digest.hex()),
                false => format!("{folder}/{}", form.path),
            };
            if fetcher.fetch(&address, &form.digest, form.size).await? {
                return Ok(form.digest);
            }
        }
        Err(Error::NotFound(format!(
            "{} has no packages of {component:?} for {}",
            without_credentials(&folder),
            architecture()
        )))
    }
}

/// All packages of all archives.
pub(super) async fn index(fetcher: &Fetcher, archives: &[Archive]) -> Result<Index> {
    let mut files = Vec::new();
    for (number, archive) in archives.iter().enumerate() {
        for component in &archive.source.components {
            let digest = archive.index(fetcher, component).await?;
            files.push((number, fetcher.path(&digest), format!("{} {component}", archive.source.suite)));
        }
    }
    let read = move || {
        let mut index = Index::default();
        for (number, path, name) in files {
            let io = |source| Error::Io { call: "read", path: path.clone(), source };
            let mut file = BufReader::new(File::open(&path).map_err(io)?);
            let first = std::io::BufRead::fill_buf(&mut file).map_err(io)?;
            let compression = Compression::detect(first);
            let mut unpacked = std::io::Read::take(compression.decoder(&mut file).map_err(io)?, INDEX + 1);
            let read = index.read(BufReader::new(&mut unpacked), &architecture(), number);
            read.map_err(|error| wrong(&format!("the index of {name}"), &error))?;
            if unpacked.limit() == 0 {
                return Err(Error::Invalid(format!("the index of {name} is longer than {INDEX} bytes")));
            }
        }
        Ok(index)
    };
    fetcher.blocking(read).await
}

/// Gets the files of all packages; how many of them came from the archives.
pub(super) async fn packages(fetcher: &Fetcher, archives: &[Archive], system: &System) -> Result<usize> {
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut tasks = JoinSet::new();
    for package in system.packages() {
        let address = format!("{}/{}", archives[package.archive].source.address, package.path);
        let (fetcher, package, permits) = (fetcher.clone(), package.clone(), Arc::clone(&permits));
        tasks.spawn(async move {
            // Nobody closes it.
            let _permit = permits.acquire_owned().await;
            fetcher.package(&address, &package).await
        });
    }
    let mut fetched = 0;
    while let Some(done) = tasks.join_next().await {
        fetched += usize::from(done.map_err(|_| Error::ShuttingDown)??);
    }
    Ok(fetched)
}

/// Where the system's own apt gets its packages from.
pub(super) fn sources_list(archives: &[Archive]) -> String {
    let line = |Archive { source, .. }: &Archive| {
        let address = without_credentials(&source.address);
        format!("deb {} {} {}\n", address.trim_end_matches('/'), source.suite, source.components.join(" "))
    };
    archives.iter().map(line).collect()
}

/// The host's, as Debian calls it.
pub(super) fn architecture() -> String {
    match Platform::host().architecture.as_str() {
        "386" => "i386",
        "arm" => "armhf",
        "ppc64le" => "ppc64el",
        same => same,
    }
    .to_owned()
}

/// For people; of what is no address nothing is shown, for it can hold a password all the same.
pub(super) fn without_credentials(address: &str) -> String {
    hull_fetch::Address::parse(address)
        .map_or_else(|_| "the archive".to_owned(), |address| address.to_string())
}
