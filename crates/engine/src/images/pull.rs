//! `pull`: an image comes from a registry.
//!
//! ```text
//! tag or digest ─► manifest, or index ─► manifest of a platform ─► configuration ─► layers ─► the record
//!                  (kept: it is the image's address there)          (chain ids)     (those that are missing)
//! ```
//!
//! The configuration comes before the layers and names what each has to be, so they come in any order, several at a
//! time ([`layers`]), and each is stored as soon as it is known to be the right one. Somebody who goes away takes
//! with him what nobody else is waiting for.

mod choose;
mod feed;
mod layer;
mod layers;

use std::sync::Arc;

use hull_image::lease::{Held, Lease};
use hull_oci::image::{Config, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest};
use hull_oci::{Digest, Platform, Reference};
use hull_registry::Credentials;
use hull_registry::client::{self, Access, Fetched, Repository};
use tokio::sync::mpsc::UnboundedSender;

use super::add::{Origin, Stored, chain};
use super::transfer::{Transfer, What};
use super::{Image, Images, blocking, failed};
use crate::{Error, Result};

pub(super) use layers::Pulls;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Without tag and digest: all tags.
    pub reference: Reference,
    /// `None`: the host's.
    pub platform: Option<Platform>,
    pub credentials: Credentials,
}

impl Images {
    /// What asks registries.
    pub fn registry(&self) -> &client::Client {
        &self.0.registry
    }

    /// Fetches an image, or all of a repository. What is here already is not fetched. Dropped, it ends, unless others
    /// want the same, and leaves nothing.
    pub async fn pull(&self, pull: Pull, tell: UnboundedSender<Transfer>) -> Result<Vec<Arc<Image>>> {
        let Pull { reference, platform, credentials } = pull;
        let asker = layers::Asker::new(&reference, credentials.clone());
        let repository = self.registry().repository(&reference, credentials, Access::Pull);
        let tidy = Tidy(Some(self.clone()));
        let wanted = if reference.is_name_only() {
            let tags = repository.tags().await.map_err(|error| choose::refused(&reference, error))?;
            let named = tags.iter().map(|tag| reference.with_tag(tag));
            named
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| Error::Invalid(error.to_string()))?
        } else {
            vec![reference.clone()]
        };
        let (mut images, mut newer) = (Vec::new(), false);
        for reference in wanted {
            let one = One { images: self, repository: &repository, asker: &asker, tell: &tell, reference };
            let (image, is_newer) = one.pull(platform.as_ref()).await?;
            images.push(image);
            newer |= is_newer;
        }
        let (name, is) =
            (reference.familiar(), if newer { "Downloaded newer image" } else { "Image is up to date" });
        // Nobody listening is no reason to stop.
        let _ = tell.send(Transfer::line(format!("Status: {is} for {name}")));
        tidy.done();
        Ok(images)
    }
}

/// Removes what an unfinished pull has stored.
struct Tidy(Option<Images>);

impl Tidy {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if let Some(images) = self.0.take() {
            layers::collect_behind(&images.0);
        }
    }
}

/// One image on its way.
struct One<'a> {
    images: &'a Images,
    repository: &'a Repository,
    asker: &'a layers::Asker,
    tell: &'a UnboundedSender<Transfer>,
    reference: Reference,
}

impl One<'_> {
    fn tell(&self, id: &str, what: What) {
        let _ = self.tell.send(Transfer { id: id.to_owned(), what });
    }

    /// Gives whether its name stood for something else before.
    async fn pull(&self, platform: Option<&Platform>) -> Result<(Arc<Image>, bool)> {
        let (reference, inner) = (&self.reference, &self.images.0);
        let tag = reference.tag.clone().unwrap_or_default();
        let asked = reference.digest.as_ref().map_or(tag.clone(), Digest::to_string);
        let top =
            self.repository.manifest(&asked).await.map_err(|error| choose::refused(reference, error))?;
        let id = if reference.digest.is_some() { reference.familiar() } else { tag };
        self.tell(&id, What::Line(format!("Pulling from {}", reference.path)));
        let lease = inner.leases.take();
        let mut documents = vec![top.descriptor.clone()];
        self.keep(&lease, &top).await?;
        let digest = top.descriptor.digest.clone();
        let manifest = self.manifest(&lease, top, platform, &mut documents).await?;
        let config = self.config(&lease, &manifest.config).await?;
        let parsed = Config::parse(&config).map_err(failed)?;
        choose::fit(&parsed, &manifest)?;
        let layers = self.layers(&lease, &manifest, &parsed).await?;
        self.tell("", What::Line(format!("Digest: {digest}")));
        let by_digest = reference.with_digest(digest);
        let mut names = vec![by_digest];
        if reference.digest.is_none() {
            names.push(reference.clone());
        }
        let newer = self.is_newer(reference, &manifest.config.digest);
        let stored = layers.iter().map(|layer| layer.stored.clone()).collect::<Vec<_>>();
        let origin = Origin { parent: None, documents };
        let image =
            self.images.store(move |inner| inner.add_image(&lease, &config, &stored, origin, &names)).await?;
        // Until now they were kept for whoever begins anew.
        drop(layers);
        inner.publish_pull(&image, reference);
        Ok((image, newer))
    }

    fn is_newer(&self, reference: &Reference, id: &Digest) -> bool {
        self.images.0.read().names.get(&reference.to_string()) != Some(id)
    }

    /// Stores a document, for as long as somebody has the lease.
    async fn keep(&self, lease: &Lease, fetched: &Fetched) -> Result<()> {
        lease.hold(Held::Blob(fetched.descriptor.digest.clone()));
        choose::is_nameable(&fetched.descriptor)?;
        let (inner, bytes) = (Arc::clone(&self.images.0), fetched.bytes.clone());
        blocking(move || inner.content.put(&bytes).map_err(failed).map(drop)).await
    }

    /// The manifest of the platform that is wanted; what leads there is kept.
    async fn manifest(
        &self,
        lease: &Lease,
        mut fetched: Fetched,
        platform: Option<&Platform>,
        documents: &mut Vec<Descriptor>,
    ) -> Result<Manifest> {
        let host = Platform::host();
        for _ in 0..choose::DEPTH {
            let index = match fetched.document {
                Document::Manifest(manifest) => return Ok(*manifest),
                Document::Index(index) => index,
            };
            let entry = choose::entry(&index, platform.unwrap_or(&host))?;
            fetched = match self.known(lease, entry).await {
                Some(known) => known,
                None => {
                    let fetched = self.repository.document(entry).await;
                    fetched.map_err(|error| choose::refused(&self.reference, error))?
                }
            };
            self.keep(lease, &fetched).await?;
            documents.push(fetched.descriptor.clone());
        }
        Err(Error::Invalid(format!("{}: an index of indexes of indexes", self.reference.familiar())))
    }

    /// A document that is here already, and whole.
    async fn known(&self, lease: &Lease, wanted: &Descriptor) -> Option<Fetched> {
        lease.hold(Held::Blob(wanted.digest.clone()));
        let (inner, digest) = (Arc::clone(&self.images.0), wanted.digest.clone());
        let bytes =
            blocking(move || inner.content.read(&digest, MAX_MANIFEST as u64).map_err(failed)).await.ok()?;
        Fetched::described("the store", wanted, bytes.into()).ok()
    }

    async fn config(&self, lease: &Lease, wanted: &Descriptor) -> Result<Vec<u8>> {
        choose::is_image(wanted)?;
        lease.hold(Held::Blob(wanted.digest.clone()));
        let (inner, digest) = (Arc::clone(&self.images.0), wanted.digest.clone());
        let known = blocking(move || inner.content.read(&digest, MAX_CONFIG as u64).map_err(failed)).await;
        if let Some(known) = known.ok().filter(|known| known.len() as u64 == wanted.size) {
            return Ok(known);
        }
        let fetched = self.repository.bytes(wanted, MAX_CONFIG as u64).await;
        fetched.map(Into::into).map_err(|error| choose::refused(&self.reference, error))
    }

    /// All layers, lowest first: those that are here, and those that come.
    async fn layers(
        &self,
        lease: &Lease,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<Vec<layers::Arrived>> {
        let mut parent: Option<Digest> = None;
        let mut jobs = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let chain = chain(parent.as_ref(), diff_id);
            lease.hold(Held::Layer(chain.clone()));
            lease.hold(Held::Blob(descriptor.digest.clone()));
            let (descriptor, diff_id) = (descriptor.clone(), diff_id.clone());
            jobs.push(layer::Job { descriptor, diff_id, parent: parent.take(), chain: chain.clone() });
            parent = Some(chain);
        }
        let whole_image = self.images.0.read().images.contains_key(&manifest.config.digest);
        let inner = Arc::clone(&self.images.0);
        let chains: Vec<Digest> = jobs.iter().map(|job| job.chain.clone()).collect();
        let known = move || chains.iter().map(|chain| inner.known_layer(chain)).collect::<Result<Vec<_>>>();
        let known: Vec<Option<Stored>> = blocking(known).await?;
        let mut coming = Vec::new();
        for (job, known) in jobs.into_iter().zip(known) {
            let id = job.descriptor.digest.short().to_owned();
            coming.push(match known {
                Some(stored) => {
                    // Of an image that is here all of, nothing is told.
                    if !whole_image {
                        self.tell(&id, What::Exists);
                    }
                    layers::Coming::Here(Box::new(stored))
                }
                None => {
                    self.tell(&id, What::Waiting);
                    let from = (self.repository, self.asker);
                    layers::Coming::Fetched(self.images.0.pulls.join(&self.images.0, from, job))
                }
            });
        }
        let arrived = layers::follow(coming, self.tell).await;
        arrived.map_err(|error| match error {
            layers::Failed::Registry(error) => choose::refused_shared(&self.reference, error),
            layers::Failed::Engine(error) => Error::Shared(error),
        })
    }
}
