//! The host's side of builds: what `hull_builder` needs done, done.
//!
//! A [`Build`] is what one build has of the host while it goes on: its contexts, a hold on the layers
//! that it uses and makes, its limits. Every step of it works at a [`site`], a writable layer that
//! becomes the next one by a rename.
//!
//! | step | who does it |
//! |---|---|
//! | RUN | [`run`]: a container without a record, with its [`mounts`] |
//! | COPY, ADD, WORKDIR | [`copy`]: a worker whose root is the file system that it changes; a context's files come from the client ([`listed`], [`relay`]) |
//! | FROM | the images' room |
//! | ADD of what other hosts have | [`remote`] |
//! | a distribution's base, with no Dockerfile at all | [`bootstrap`] |
//!
//! What was done elsewhere comes and goes by [`exchange`].
//!
//! Dropped at any moment, a build leaves nothing but what the [`cache`] remembers. [`books`] knows what
//! that costs, [`collect`] keeps it within limits.

mod agent;
mod base;
mod books;
mod bootstrap;
mod cache;
mod caches;
mod client;
mod collect;
mod contents;
mod copy;
mod entitlement;
mod exchange;
mod layout;
mod left;
mod listed;
mod mounts;
mod output;
mod relay;
mod remote;
mod run;
mod site;
mod stubs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use hull_builder::executor::{Base, Copy, Folder, Network, Run, Selection, Source, Wanted};
use hull_builder::progress::{Output, Report};
use hull_builder::solve::Running;
use hull_builder::solve::StepError;
use hull_builder::{BuildError, Built, Cache, Executor, Failure, Known, Layer, Request};
use hull_image::content::Ingest;
use hull_oci::image::Config;
use hull_oci::{Digest, Reference};
use tokio::sync::watch;

use crate::containers::services::Services;
use crate::containers::settings::{NetworkMode, Security};
use crate::images::{Hold, Image, Packed, Part};
use crate::store::Rows;
use crate::{Class, Error, Result, chain};

pub use books::{Cached, Filters, Forget, Kind, Room};
pub use bootstrap::{Bootstrap, Variant};
pub(crate) use cache::{Memory, kept};
pub use caches::CacheMount;
pub(crate) use caches::Caches;
pub use client::{Answer, Client, List, Nobody, Pieces, Place, Secret};
pub use collect::{Forgotten, Limit, Rule, Space};
pub(crate) use collect::{forget, list};
pub(crate) use contents::Contents;
pub use entitlement::Entitlement;
pub use exchange::Import;
pub use layout::Layout;
use listed::Listed;
pub(crate) use listed::Tables;
pub use output::Form;
pub use run::Limits;
use site::Site;

/// What all builds share.
#[derive(Debug)]
pub(crate) struct Builds {
    pub(crate) memory: Arc<Memory>,
    pub(crate) caches: Caches,
    pub(crate) tables: Tables,
    pub(crate) contents: Contents,
    /// Steps that are being done.
    running: Running,
    known: remote::Known,
    /// Each process of a build has a receiver.
    closing: watch::Sender<bool>,
}

impl Builds {
    /// `files`: what is known of contexts' files.
    pub(crate) fn new(memory: Arc<Memory>, caches: Caches, files: (Tables, Contents)) -> Builds {
        let (running, known) = (Running::default(), remote::Known::default());
        let (tables, contents) = files;
        let closing = watch::Sender::new(false);
        Builds { memory, caches, tables, contents, running, known, closing }
    }

    fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Ends what builds are running, and waits until it has gone.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        self.closing.closed().await;
    }
}

/// The builds' memory, as the database has it.
pub(crate) fn memory(rows: &Rows) -> Result<Arc<Memory>> {
    Memory::open(rows).map(Arc::new)
}

/// What whoever builds gives to it.
#[derive(Debug)]
pub struct Given {
    pub limits: Limits,
    /// By name; the main one is `""`.
    pub contexts: BTreeMap<String, Context>,
    /// Images of layouts, by the references that stand for them.
    pub layouts: BTreeMap<Reference, Layout>,
    pub client: Arc<dyn Client>,
    /// Where else is looked for what was done before.
    pub imports: Vec<Import>,
    /// The image says in its configuration what was done for it; [`Request::rows`] are wanted then.
    pub inline_cache: bool,
    /// What its Dockerfile may ask for; the host's network is allowed with that of [`Limits`].
    pub allowed: BTreeSet<Entitlement>,
}

impl From<Limits> for Given {
    /// Nothing but these.
    fn from(limits: Limits) -> Given {
        let allowed =
            (limits.network == NetworkMode::Host).then_some(Entitlement::NetworkHost).into_iter().collect();
        let (contexts, layouts, imports) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Given { limits, contexts, layouts, client: Arc::new(Nobody), imports, inline_cache: false, allowed }
    }
}

/// What one build has of the host. Cheap to clone; it goes with the last clone.
#[derive(Debug, Clone)]
pub struct Build(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    given: Given,
    remote: remote::Remote,
    /// What was done elsewhere, if there is anything.
    imports: OnceLock<exchange::Imports>,
    /// On every layer that it has seen.
    hold: Arc<Hold>,
    /// An image has what was made.
    stored: Arc<AtomicBool>,
}

impl Build {
    pub(crate) fn new(services: &Arc<Services>, given: Given) -> Build {
        let stored = Arc::new(AtomicBool::new(false));
        let afterwards = collect::Afterwards::new(services, &stored);
        let hold = services.images.hold_until(afterwards);
        let (services, remote) = (Arc::clone(services), remote::Remote::default());
        Build(Arc::new(Inner { services, given, remote, imports: OnceLock::new(), hold, stored }))
    }

    /// Builds, makes an image of that, and names it. Dropped, it ends all that it does.
    pub async fn make(
        &self,
        request: &Request,
        names: Vec<Reference>,
        report: Report,
    ) -> std::result::Result<Finished, Unbuilt> {
        if names.iter().any(|name| name.digest.is_some()) {
            let text = "build tag cannot contain a digest: name the image without @";
            return Err(Unbuilt::Store(Error::Invalid(text.to_owned())));
        }
        let built = self.solve(request, report).await?;
        Ok(self.store(&built, names).await?)
    }

    /// Builds. What comes of it is held by this build alone.
    pub async fn solve(&self, request: &Request, report: Report) -> std::result::Result<Built, Unbuilt> {
        self.0.given.allowed.iter().try_for_each(|entitlement| self.grant(*entitlement))?;
        self.import(&report).await;
        let running = &self.0.services.builds.running;
        let mut looks = 1;
        let built = loop {
            match hull_builder::build(request, self, self, running, Arc::clone(&report)).await {
                Err(BuildError::Step(step)) if looks < LOOKS && is_of_changed_files(&step) => {
                    looks += 1;
                    self.look_again(&report).await?;
                }
                built => break built?,
            }
        };
        if built.config.history.is_empty() {
            let text = "No image was generated. Is your Dockerfile empty?";
            return Err(Unbuilt::Store(Error::Invalid(text.to_owned())));
        }
        Ok(built)
    }

    /// Makes an image of it, and names that.
    pub async fn store(&self, built: &Built, names: Vec<Reference>) -> Result<Finished> {
        let names: Vec<Reference> = names.into_iter().map(Reference::with_default_tag).collect();
        let image = self.add(self.document(built)?, names.clone(), None).await?;
        self.0.stored.store(true, Ordering::Relaxed);
        Ok(Finished { id: image.id.clone(), names })
    }

    /// Makes an image of what was built, and names it.
    pub async fn finish(
        &self,
        config: Config,
        names: Vec<Reference>,
        parent: Option<Digest>,
    ) -> Result<Arc<Image>> {
        self.add(serde_json::to_vec(&config).map_err(crate::images::failed)?, names, parent).await
    }

    async fn add(
        &self,
        document: Vec<u8>,
        names: Vec<Reference>,
        parent: Option<Digest>,
    ) -> Result<Arc<Image>> {
        self.0.services.images.add_built(&self.0.hold, document, names, parent).await
    }

    /// The image's configuration, as it is stored.
    fn document(&self, built: &Built) -> Result<Vec<u8>> {
        exchange::document(&built.config, if self.0.given.inline_cache { &built.rows } else { &[] })
    }

    /// The id of the image that this is, kept or not.
    pub fn id(&self, built: &Built) -> Result<Digest> {
        Ok(Digest::sha256(&self.document(built)?))
    }

    /// What this daemon knows under a key, if its layers are there.
    async fn remembered(&self, key: &Digest) -> Option<Known> {
        let Inner { services, hold, .. } = &*self.0;
        let known = services.builds.memory.get(key)?;
        let layers = diff_ids(&known.stack.layers());
        // Held first, found then: so it stays.
        if !services.images.hold_layers(hold, &layers).await.unwrap_or(false) {
            services.store.queue(vec![services.builds.memory.forget(key)]);
            return None;
        }
        services.store.queue(services.builds.memory.touch(key).into_iter().collect());
        Some(known)
    }

    /// A Dockerfile takes no more of the host than whoever builds it gives, and no more than the daemon.
    fn need(&self, entitlement: Entitlement, what: &str) -> std::result::Result<(), Failure> {
        match self.0.given.allowed.contains(&entitlement) {
            true => self.grant(entitlement).map_err(failure),
            false => Err(Failure::Invalid(format!(
                "{entitlement} is not allowed: {what} needs the entitlement; build with --allow {entitlement}"
            ))),
        }
    }

    fn grant(&self, entitlement: Entitlement) -> Result<()> {
        match self.0.services.config.build_entitlements.contains(&entitlement) {
            true => Ok(()),
            false => Err(Error::Forbidden(format!(
                "granting entitlement {entitlement} is not allowed by build daemon configuration"
            ))),
        }
    }

    /// What was written at the site becomes a layer; it is packed, if there is no `archive` of it.
    async fn keep_site(
        &self,
        site: &Site,
        below: &[Digest],
        archive: Option<(Ingest, Packed)>,
    ) -> Result<Option<Layer>> {
        let kept = self.0.services.images.keep_layer(&self.0.hold, &site.id, below, archive).await?;
        Ok(kept.map(|Part { diff_id, size }| Layer { diff_id, size }))
    }
}

/// How often a build looks at files that change while it goes on. What it has done is not done again.
const LOOKS: u32 = 4;

fn is_of_changed_files(step: &StepError) -> bool {
    matches!(step.failure, Failure::Changed(_))
}

/// What a build has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The image's.
    pub id: Digest,
    pub names: Vec<Reference>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Unbuilt {
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] Error),
}

/// A build's context.
#[derive(Debug)]
pub struct Context(Kept);

/// Where its files are.
#[derive(Debug)]
enum Kept {
    /// Here, until it is dropped.
    Folder(Arc<Site>),
    /// With the client.
    Listed(Arc<Listed>),
}

pub use copy::DOCKERFILE_LIMIT;
pub(crate) use copy::receive;

fn diff_ids(layers: &[Layer]) -> Vec<Digest> {
    layers.iter().map(|layer| layer.diff_id.clone()).collect()
}

fn failure(error: Error) -> Failure {
    match error.class() {
        Class::NotFound => Failure::Missing(chain(&error)),
        Class::Invalid | Class::Forbidden | Class::NotImplemented | Class::Conflict => {
            Failure::Invalid(chain(&error))
        }
        Class::NotModified | Class::Unavailable | Class::Internal => Failure::Host(chain(&error)),
    }
}

impl Executor for Build {
    async fn image(&self, wanted: Wanted) -> std::result::Result<Base, Failure> {
        if let Some(layout) = self.0.given.layouts.get(&wanted.reference) {
            return self.layout(layout, wanted.platform).await.map_err(failure);
        }
        let images = &self.0.services.images;
        let image = self.base(&wanted).await.map_err(failure)?;
        if let Some(platform) = &wanted.platform
            && platform.rank(&image.config.platform()).is_none()
        {
            return Err(Failure::Missing(format!(
                "image {} is here for {}, not for {platform}",
                wanted.reference.familiar(),
                image.config.platform()
            )));
        }
        let ids = image.config.rootfs.diff_ids.clone();
        if !images.hold_layers(&self.0.hold, &ids).await.map_err(failure)? {
            return Err(failure(Error::NoSuchImage(wanted.reference.familiar())));
        }
        let sizes = image.layer_sizes.iter().copied().chain(std::iter::repeat(0));
        let layers = ids.into_iter().zip(sizes).map(|(diff_id, size)| Layer { diff_id, size }).collect();
        Ok(Base { id: image.id.clone(), config: image.config.clone(), layers })
    }

    async fn run(&self, run: Run, output: Output) -> std::result::Result<Option<Layer>, Failure> {
        let network = match run.network {
            Network::Default => self.0.given.limits.network.clone(),
            Network::None => NetworkMode::None,
            Network::Host => {
                self.need(Entitlement::NetworkHost, "RUN --network=host")?;
                NetworkMode::Host
            }
        };
        if run.insecure {
            self.need(Entitlement::SecurityInsecure, "RUN --security=insecure")?;
        }
        if let Some((name, _)) = run.devices.iter().find(|(_, required)| *required) {
            return Err(Failure::Invalid(format!(
                "required device {name:?} is not registered: this daemon reads no CDI files yet"
            )));
        }
        let config = left::config(&run);
        let below = diff_ids(&run.below);
        let site = Arc::new(Site::make(&self.0.services, &below).await.map_err(failure)?);
        let mounts = self.mounts(&site, &run.below, run.mounts).await?;
        let process = run::Process {
            arguments: run.arguments,
            environment: run.environment.into_iter().chain(run.proxies).collect(),
            user: run.user,
            folder: run.folder,
            network,
            mounts,
            security: Security { privileged: run.insecure, ..Security::default() },
        };
        let work = (process, self.0.given.limits.clone(), below.clone());
        match run::run(&self.0.services, &site, work, output).await.map_err(failure)? {
            0 => {
                self.clamp(&site, run.newest).await?;
                self.keep_site(&site, &below, None).await.map_err(failure)
            }
            code => Err(Failure::Exit { code, left: self.left(&site, &below, config).await }),
        }
    }

    async fn copy(&self, copy: Copy) -> std::result::Result<Option<Layer>, Failure> {
        self.copy_files(copy).await
    }

    async fn folder(&self, folder: Folder) -> std::result::Result<Option<Layer>, Failure> {
        self.make_folder(folder).await
    }

    async fn fingerprint(
        &self,
        source: Source,
        selection: Selection,
    ) -> std::result::Result<Digest, Failure> {
        self.look_at(source, selection).await
    }
}

impl Cache for Build {
    async fn find(&self, key: &Digest) -> Option<Known> {
        match self.remembered(key).await {
            Some(known) => Some(known),
            None => self.0.imports.get()?.find(self, key).await,
        }
    }

    async fn keep(&self, key: Digest, known: Known, description: String) {
        let key = match self.0.imports.get() {
            Some(imports) => imports.own(key),
            None => key,
        };
        let services = Arc::clone(&self.0.services);
        let row = match services.builds.memory.put(&key, &known, description) {
            Ok(row) => row,
            Err(error) => return tracing::warn!(%error, "a step of a build cannot be remembered"),
        };
        tokio::spawn(async move {
            hull_runtime::failpoint!("engine.build.remembering");
            // A layer that a power cut takes is missed by whoever looks for the step.
            if let Err(error) = services.store.commit(vec![row]).await {
                tracing::warn!(%error, "a step of a build is forgotten with this daemon");
            }
            hull_runtime::failpoint!("engine.build.remembered");
        });
    }
}
