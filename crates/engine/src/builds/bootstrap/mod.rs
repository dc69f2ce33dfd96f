//! Base images out of a distribution's package archive, as debootstrap(8) and mmdebstrap(1) make them.
//!
//! ```text
//! host's apt ─► archives ─InRelease─► indices ─resolve─► packages        by hull_debian, checked to the key
//! packages ─► kept folder, by digest                                     fetched once; apt's own cache is asked first
//! core     ─► site                                                       a jailed worker for each package
//! all      ─► site, by its own dpkg                                      RUN: a container without network
//! site     ─► the one layer of the image
//! ```
//!
//! Nothing of an archive is run or unpacked on the host: what packages hold is read by workers, and their
//! scripts run in the system that they belong to. The site is that system from the first file on; so the
//! image has one layer, which holds each file once.
//!
//! The same archive gives the same image: its time is that of the archive, no file is newer, and what a
//! machine writes down while it installs (logs, caches) is taken away.

mod archive;
mod fetch;
mod host;
mod install;

use std::sync::Arc;
use std::time::Duration;

use hull_builder::executor::Sharing;
use hull_builder::progress::{Output, Progress, Report, Room, Step};
pub use hull_debian::resolve::Variant;
use hull_debian::resolve::resolve;
use hull_debian::sources::{Keys, is_suite};
use hull_oci::image::{Config, History, RootFs, RunConfig};
use hull_oci::{Digest, Platform, Reference};

use super::caches::{Name, Taken};
use super::site::Site;
use super::{Build, Finished};
use crate::{Error, Result, chain};
use archive::Archive;
use fetch::Fetcher;

/// How long one waits for another before it says so, and before it gives up.
const MOMENT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1800);
/// Where programs of such a system are.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub name: Reference,
    /// The release of the distribution: `bookworm`, `stable`, `noble`.
    pub suite: String,
    pub variant: Variant,
    /// Packages besides the variant's, by name.
    pub include: Vec<String>,
    /// The archive's address; `None`: where the host's apt gets that suite from, and its updates.
    pub mirror: Option<String>,
    /// Whose signature counts, as a keyring of OpenPGP; `None`: those that the host's apt trusts for it, and of a
    /// mirror the distribution's own, as the host has them.
    pub keyring: Option<Vec<u8>>,
}

/// Tells where the work is.
#[derive(Clone)]
struct Told {
    report: Report,
}

impl Told {
    fn begin(&self, step: Step, text: String) {
        (self.report)(Progress::Started { step, name: text });
    }

    fn end(&self, step: Step) {
        (self.report)(Progress::Done { step, layer: None });
    }

    fn output(&self, step: Step) -> Output {
        Output::new(step, Arc::clone(&self.report), Room::default())
    }
}

impl Build {
    /// Makes the image and names it. Dropped, it ends all that it does; what it has fetched is kept for the
    /// next time.
    pub async fn bootstrap(&self, wanted: &Bootstrap, report: Report) -> Result<Finished> {
        if !is_suite(&wanted.suite) {
            return Err(Error::Invalid(format!("{:?} cannot be the name of a suite", wanted.suite)));
        }
        let told = Told { report };
        let distribution = wanted.name.name().rsplit('/').next().unwrap_or_default().to_owned();
        let (asked, services) = (wanted.clone(), Arc::clone(&self.0.services));
        let warn = {
            let report = Arc::clone(&told.report);
            move |message| report(Progress::Warning { message, page: String::new(), line: 0 })
        };
        let sources = services.blocking(move || host::sources(&asked, &distribution, &warn)).await?;
        let kept = self.kept_folder(&told).await?;
        let fetcher =
            Fetcher::new(self.0.remote.client().await?.clone(), Arc::clone(&services), &kept.files)?;

        told.begin(0, format!("Reading {}", host::shown(&sources)));
        let archives =
            Archive::open_all(&fetcher, sources, hull_sys::time::now().div_euclid(1_000_000_000)).await?;
        let index = archive::index(&fetcher, &archives).await?;
        let asked = wanted.clone();
        let choose = move || {
            resolve(&index, asked.variant, &asked.include)
                .map_err(|error| Error::Invalid(format!("{}: {error}", asked.suite)))
        };
        let system = services.blocking(choose).await?;
        if system.core.is_empty() {
            let text = format!("{} has no essential packages: it is no distribution", wanted.suite);
            return Err(Error::Invalid(text));
        }
        told.end(0);

        let bytes: u64 = system.packages().map(|package| package.size).sum();
        let count = system.packages().count();
        told.begin(1, format!("Fetching {count} packages ({} MB)", bytes.div_ceil(1_000_000)));
        let fetched = archive::packages(&fetcher, &archives, &system).await?;
        (told.report)(Progress::Output {
            step: 1,
            stream: hull_builder::progress::Stream::Out,
            bytes: format!("{fetched} of them from the archive\n").into_bytes().into(),
        });
        told.end(1);

        let site = Arc::new(Site::make(&services, &[]).await?);
        told.begin(2, format!("Unpacking {} packages", system.core.len()));
        self.unpack_core(&site, &fetcher, &system).await?;
        told.end(2);

        told.begin(3, "Installing".to_owned());
        let newest = archives.iter().map(|archive| archive.release.date).max().unwrap_or_default();
        let script = install::script(&system, newest, &archive::sources_list(&archives));
        self.install(&site, kept, script, told.output(3)).await?;
        self.clamp(&site, Some(newest)).await.map_err(|failure| Error::Archive(failure.to_string()))?;
        told.end(3);

        let empty = || Error::Archive("the packages have left nothing".to_owned());
        let layer = self.keep_site(&site, &[], None).await?.ok_or_else(empty)?;
        let names = vec![wanted.name.clone().with_default_tag()];
        let image = self.finish(config(wanted, layer.diff_id, newest), names.clone(), None).await?;
        Ok(Finished { id: image.id.clone(), names })
    }

    /// Where packages are kept for the next time, by digest. Nobody else's build can name it, for nothing
    /// that a mount can begin as is called so.
    async fn kept_folder(&self, told: &Told) -> Result<Taken> {
        let name = Name {
            id: "packages of image bootstrap".to_owned(),
            from: Some("package archives".to_owned()),
            mode: 0o700,
            uid: 0,
            gid: 0,
        };
        let services = &self.0.services;
        // One at a time: what a killed one has left half can be told from what somebody fetches.
        let mut taking =
            std::pin::pin!(services.builds.caches.take(services, &name, Sharing::Locked, async |_| Ok(())));
        if let Ok(taken) = tokio::time::timeout(MOMENT, &mut taking).await {
            return taken;
        }
        let message = "another base image is being made: this one waits for its end".to_owned();
        (told.report)(Progress::Warning { message, page: String::new(), line: 0 });
        tokio::time::timeout(PATIENCE, taking).await.unwrap_or_else(|_| {
            let text = format!("another base image is still being made after {} s", PATIENCE.as_secs());
            Err(Error::Conflict(text))
        })
    }
}

fn config(wanted: &Bootstrap, diff_id: Digest, created: i64) -> Config {
    let platform = Platform::host();
    let created = jiff::Timestamp::from_second(created).unwrap_or_default().to_string();
    let include = wanted.include.iter().map(|name| format!(" --include {name}")).collect::<String>();
    let created_by = format!("hull image bootstrap {}{include}", wanted.suite);
    Config {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config: RunConfig {
            cmd: Some(vec!["bash".to_owned()]),
            env: vec![PATH.to_owned()],
            ..RunConfig::default()
        },
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History { created: Some(created.clone()), created_by, ..History::default() }],
        created: Some(created),
        ..Config::default()
    }
}

/// What is wrong with something of an archive, and where it is.
fn wrong(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Invalid(format!("{what}: {}", chain(error)))
}
