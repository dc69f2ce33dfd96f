//! `push`: an image goes to a registry.
//!
//! What came from a registry goes back bit for bit: its layers are kept as they came, and so are its manifest and its
//! index. What was made here has archives as layers; they are compressed on their way ([`source`]), and the record of
//! the image remembers what came of that, so that the next push knows before it has compressed anything whether the
//! registry has it. Its manifest is of Docker's schema 2, or of OCI where a layer is of a kind that the other does not
//! know.
//!
//! Nothing is sent that is there already: a registry is asked for each blob first, then for those of its other
//! repositories that this host knows to have it (a mount).

mod source;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hull_image::lease::{Held, Lease};
use hull_oci::image::{Descriptor, Document, MAX_MANIFEST, Manifest, media_type};
use hull_oci::{Digest, Reference};
use hull_registry::Credentials;
use hull_registry::client::push::{Mounted, Source};
use hull_registry::client::{self, Access, Repository};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::transfer::{Transfer, What};
use super::{Image, Images, Inner, blocking, failed, put_image};
use crate::store::Change;
use crate::{Error, Result};

/// Layers of one push that are sent at the same time.
const PARALLEL: usize = 4;
/// Repositories that are tried as sources of one blob.
const MOUNTS: usize = 3;
/// How often is told how far a layer has come.
const PACE: Duration = Duration::from_millis(100);
/// Blobs up to this many bytes are documents: they go in one piece.
const SMALL: u64 = 8 << 20;

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Push {
    /// The repository, and the tag; without one all tags of the repository.
    pub name: Reference,
    /// The image alone, though it came as one of several.
    pub single: bool,
    pub credentials: Credentials,
}

impl Images {
    /// Sends an image, or all of a repository. What was sent before something went wrong stays there.
    pub async fn push(&self, push: Push, tell: UnboundedSender<Transfer>) -> Result<()> {
        let line = format!("The push refers to repository [{}]", push.name.name());
        tell.send(Transfer::line(line)).ok();
        let chosen = self.0.to_push(&push.name)?;
        let repository = self.0.registry.repository(&push.name, push.credentials, Access::Push);
        for (tag, image) in chosen {
            let going = Going {
                images: self.clone(),
                repository: repository.clone(),
                name: push.name.clone(),
                // Held from here on: an image that is removed meanwhile is still sent.
                _lease: self.0.hold_blobs(&image),
                image,
                turns: Arc::new(Semaphore::new(PARALLEL)),
                compressed: Mutex::default(),
                tell: tell.clone(),
            };
            let sent = Arc::new(going).send(&tag, push.single).await?;
            let (digest, size) = (sent.digest, sent.size);
            tell.send(Transfer { id: String::new(), what: What::Tagged { tag, digest, size } }).ok();
        }
        Ok(())
    }
}

impl Inner {
    /// Tags of a repository with their images, in order.
    fn to_push(&self, name: &Reference) -> Result<Vec<(String, Arc<Image>)>> {
        let state = self.read();
        let names = state.names.iter().filter_map(|(text, id)| Some((Reference::parse(text).ok()?, id)));
        let wanted = names.filter(|(known, _)| {
            known.name() == name.name()
                && (name.tag.is_none() || known.tag == name.tag)
                && known.digest.is_none()
        });
        let chosen: Vec<(String, Arc<Image>)> =
            wanted.filter_map(|(known, id)| Some((known.tag?, Arc::clone(state.images.get(id)?)))).collect();
        match chosen.is_empty() {
            true => Err(Error::NotFound(format!(
                "An image does not exist locally with the tag: {}",
                name.familiar_name()
            ))),
            false => Ok(chosen),
        }
    }

    fn hold_blobs(&self, image: &Image) -> Lease {
        let lease = self.leases.take();
        lease.hold(Held::Blob(image.id.clone()));
        image
            .layers
            .iter()
            .chain(&image.documents)
            .for_each(|blob| lease.hold(Held::Blob(blob.digest.clone())));
        lease
    }

    /// Other repositories of the same registry that have had this blob: images of theirs are here that have it.
    fn repositories_with(&self, blob: &Digest, beside: &Reference) -> Vec<String> {
        let state = self.read();
        let has = |image: &Image| {
            image.layers.iter().chain(image.compressed.values()).any(|layer| layer.digest == *blob)
        };
        let mut paths: Vec<String> = state
            .names
            .iter()
            .filter(|(_, id)| state.images.get(*id).is_some_and(|image| has(image)))
            .filter_map(|(name, _)| Reference::parse(name).ok())
            .filter(|name| name.digest.is_some() && name.domain == beside.domain && name.path != beside.path)
            .map(|name| name.path)
            .collect();
        paths.dedup();
        paths.truncate(MOUNTS);
        paths
    }

    /// What any image here remembers of a layer's archive as it went to a registry.
    fn compressed(&self, diff_id: &Digest) -> Option<Descriptor> {
        self.read().images.values().find_map(|image| image.compressed.get(diff_id).cloned())
    }

    /// Remembers what a push has come to: the image has a name by digest now, and its layers other forms.
    fn note_pushed(
        &self,
        id: &Digest,
        name: &Reference,
        compressed: BTreeMap<Digest, Descriptor>,
    ) -> Result<()> {
        let _changing = self.changing();
        // One that was removed meanwhile has nothing to remember.
        let Some(known) = self.read().images.get(id).cloned() else { return Ok(()) };
        let mut image = Image::clone(&known);
        image.compressed.extend(compressed);
        let mut rows = Vec::new();
        if image != *known {
            rows.push(put_image(&image)?);
        }
        let text = name.to_string();
        if self.read().names.get(&text) != Some(id) {
            rows.push(Change::PutName { name: text.clone(), image: id.to_string() });
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.store.commit_blocking(rows)?;
        let mut state = self.write();
        state.images.insert(id.clone(), Arc::new(image));
        state.names.insert(text, id.clone());
        Ok(())
    }
}

/// One image on its way.
struct Going {
    images: Images,
    repository: Repository,
    /// The repository's name.
    name: Reference,
    image: Arc<Image>,
    _lease: Lease,
    turns: Arc<Semaphore>,
    /// Layers that were compressed for it, by their diff ids.
    compressed: Mutex<BTreeMap<Digest, Descriptor>>,
    tell: UnboundedSender<Transfer>,
}

impl Going {
    /// Sends layers, configuration, manifest; gives what the tag stands for.
    async fn send(self: Arc<Going>, tag: &str, single: bool) -> Result<Descriptor> {
        let inner = Arc::clone(&self.images.0);
        let image = Arc::clone(&self.image);
        let kept = blocking(move || inner.kept_documents(&image)).await?;
        let layers = match &kept {
            Some((manifest, ..)) => manifest.layers.clone(),
            None => self.image.layers.clone(),
        };
        let sent = self.send_layers(layers, kept.is_some()).await?;
        self.send_config().await?;
        let manifest = match &kept {
            Some((_, document, bytes)) => (document.clone(), bytes.clone()),
            None => self.describe(sent)?,
        };
        let index = if kept.is_some() && !single { self.whole_index().await? } else { None };
        let (document, bytes) = match index {
            Some(index) => {
                self.put(&manifest.0.digest.to_string(), &manifest).await?;
                index
            }
            None => manifest,
        };
        self.put(tag, &(document.clone(), bytes)).await?;
        hull_runtime::failpoint!("engine.push.manifest");
        let name = self.name.with_digest(document.digest.clone());
        let compressed = std::mem::take(&mut *self.compressed.lock().unwrap_or_else(PoisonError::into_inner));
        let (inner, id) = (Arc::clone(&self.images.0), self.image.id.clone());
        blocking(move || inner.note_pushed(&id, &name, compressed)).await?;
        hull_runtime::failpoint!("engine.push.named");
        let named = self.name.with_tag(tag).map_or_else(|_| tag.to_owned(), |name| name.familiar());
        self.images.0.publish("push", &self.image.id, &named);
        Ok(document)
    }

    async fn put(&self, name: &str, (document, bytes): &(Descriptor, Bytes)) -> Result<()> {
        self.repository.put_manifest(name, &document.media_type, bytes.clone()).await.map_err(refused)?;
        Ok(())
    }

    /// Sends all layers; what they are there, lowest first. `bound`: a manifest names them as they are.
    async fn send_layers(self: &Arc<Going>, layers: Vec<Descriptor>, bound: bool) -> Result<Vec<Descriptor>> {
        let diff_ids = &self.image.config.rootfs.diff_ids;
        // The top one is told first, as in the reference; one that is there twice is sent once.
        let mut first: BTreeMap<Digest, usize> = BTreeMap::new();
        for (index, (diff_id, layer)) in diff_ids.iter().zip(&layers).enumerate().rev() {
            self.say(diff_id, What::Preparing);
            first.insert(layer.digest.clone(), index);
        }
        let blobs: Vec<Digest> = layers.iter().map(|layer| layer.digest.clone()).collect();
        let mut going = JoinSet::new();
        for (index, layer) in layers.into_iter().enumerate() {
            let diff_id = diff_ids[index].clone();
            if first.get(&layer.digest) == Some(&index) {
                let this = Arc::clone(self);
                going.spawn(async move {
                    let sent = this.send_layer(&diff_id, &layer, bound).await;
                    (layer.digest, sent)
                });
            }
        }
        let mut sent: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        while let Some(done) = going.join_next().await {
            let (blob, descriptor) = done.map_err(|_| Error::ShuttingDown)?;
            sent.insert(blob, descriptor?);
        }
        Ok(blobs.iter().filter_map(|blob| sent.get(blob).cloned()).collect())
    }

    async fn send_layer(&self, diff_id: &Digest, layer: &Descriptor, bound: bool) -> Result<Descriptor> {
        // It is never closed.
        let _turn = self.turns.acquire().await.map_err(|_| Error::ShuttingDown)?;
        let plain = !bound && is_plain(layer);
        let known = if plain { self.images.0.compressed(diff_id) } else { Some(layer.clone()) };
        let mut session = None;
        if let Some(known) = known {
            if self.repository.has_blob(&known.digest).await.map_err(refused)? {
                self.say(diff_id, What::LayerExists);
                return Ok(self.noted(diff_id, known, plain));
            }
            for path in self.images.0.repositories_with(&known.digest, &self.name) {
                match self.repository.mount(&known.digest, &path).await.map_err(refused)? {
                    Mounted::Yes => {
                        self.say(diff_id, What::MountedFrom(path));
                        return Ok(self.noted(diff_id, known, plain));
                    }
                    Mounted::No(begun) => session = begun,
                }
            }
        }
        let (inner, digest) = (Arc::clone(&self.images.0), layer.digest.clone());
        let file = Arc::new(blocking(move || inner.content.open_blob(&digest).map_err(failed)).await?);
        let tell = self.teller(diff_id, layer.size);
        let source: Box<dyn Source> = match plain {
            true => Box::new(source::Gzipped { file, length: layer.size, tell }),
            false => {
                Box::new(source::Stored { file, digest: layer.digest.clone(), length: layer.size, tell })
            }
        };
        let retry = |seconds| self.say(diff_id, What::Resting { seconds });
        let (digest, size) = self.repository.upload(session, &*source, &retry).await.map_err(refused)?;
        hull_runtime::failpoint!("engine.push.layer");
        self.say(diff_id, What::Pushed);
        let media_type = if plain { media_type::OCI_LAYER_GZIP } else { &layer.media_type };
        Ok(self.noted(diff_id, Descriptor::new(media_type, digest, size), plain))
    }

    /// Remembers a layer that was compressed.
    fn noted(&self, diff_id: &Digest, sent: Descriptor, plain: bool) -> Descriptor {
        if plain {
            let mut compressed = self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
            compressed.insert(diff_id.clone(), sent.clone());
        }
        sent
    }

    async fn send_config(&self) -> Result<()> {
        if self.repository.has_blob(&self.image.id).await.map_err(refused)? {
            return Ok(());
        }
        let (inner, id) = (Arc::clone(&self.images.0), self.image.id.clone());
        let bytes = blocking(move || inner.content.read(&id, SMALL).map_err(failed)).await?;
        self.repository.put_blob(&self.image.id, bytes.into()).await.map_err(refused)?;
        Ok(())
    }

    /// A manifest for an image that came by none.
    fn describe(&self, layers: Vec<Descriptor>) -> Result<(Descriptor, Bytes)> {
        let config = Descriptor::new("", self.image.id.clone(), 0);
        let (inner, id) = (&self.images.0, &self.image.id);
        let size = inner.content.size(id).map_err(failed)?.unwrap_or(0);
        let bytes = manifest(&Descriptor { size, ..config }, &layers);
        let bytes = Bytes::from(bytes.map_err(failed)?);
        let Ok(Document::Manifest(written)) = Document::parse(&bytes) else {
            return Err(Error::Invalid("the image has too many layers for a manifest".to_owned()));
        };
        Ok((Descriptor::of(&written.media_type, &bytes), bytes))
    }

    /// The index by which the image came, if the repository has all other images of it.
    async fn whole_index(&self) -> Result<Option<(Descriptor, Bytes)>> {
        for document in &self.image.documents {
            if ![media_type::OCI_INDEX, media_type::DOCKER_INDEX].contains(&&*document.media_type) {
                continue;
            }
            let (inner, digest) = (Arc::clone(&self.images.0), document.digest.clone());
            let bytes =
                blocking(move || inner.content.read(&digest, MAX_MANIFEST as u64).map_err(failed)).await?;
            let Ok(Document::Index(index)) = Document::parse(&bytes) else { continue };
            let ours = &self.image.documents;
            let mut others =
                index.manifests.iter().filter(|entry| !ours.iter().any(|own| own.digest == entry.digest));
            let all = loop {
                match others.next() {
                    None => break true,
                    Some(entry) if self.repository.has_manifest(&entry.digest).await.map_err(refused)? => {}
                    Some(_) => break false,
                }
            };
            if all {
                return Ok(Some((document.clone(), bytes.into())));
            }
        }
        Ok(None)
    }

    fn say(&self, layer: &Digest, what: What) {
        self.tell.send(Transfer { id: layer.short().to_owned(), what }).ok();
    }

    /// Tells how far a layer has come, now and then.
    fn teller(&self, layer: &Digest, total: u64) -> source::Tell {
        let (tell, id) = (self.tell.clone(), layer.short().to_owned());
        let last = Mutex::new(None::<Instant>);
        Arc::new(move |done| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_none_or(|last| last.elapsed() >= PACE) || done == total {
                *last = Some(Instant::now());
                tell.send(Transfer { id: id.clone(), what: What::Pushing { done, total } }).ok();
            }
        })
    }
}

impl Inner {
    /// The manifest by which an image came, if all that it names is here.
    fn kept_documents(&self, image: &Image) -> Result<Option<(Manifest, Descriptor, Bytes)>> {
        for document in &image.documents {
            let bytes = self.content.read(&document.digest, MAX_MANIFEST as u64).map_err(failed)?;
            let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { continue };
            let same = manifest.config.digest == image.id
                && manifest.layers.len() == image.layers.len()
                && manifest.layers.iter().zip(&image.layers).all(|(its, ours)| its.digest == ours.digest);
            if same {
                return Ok(Some((*manifest, document.clone(), bytes.into())));
            }
        }
        Ok(None)
    }
}

/// In the reference's words, which are the registry's where it has said some.
fn refused(error: client::Error) -> Error {
    match (&error, error.problem()) {
        (client::Error::NoCredentials { .. }, _) => Error::Forbidden("no basic auth credentials".to_owned()),
        (_, Some(problem)) => Error::Forbidden(problem.to_string()),
        _ => Error::Registry(Arc::new(error)),
    }
}

fn is_plain(layer: &Descriptor) -> bool {
    [media_type::OCI_LAYER, media_type::DOCKER_LAYER].contains(&&*layer.media_type)
}

/// A manifest, its fields in the reference's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Part<'a>,
    layers: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a Digest,
}

impl<'a> Part<'a> {
    fn of(of: &'a Descriptor, media_type: &'a str) -> Part<'a> {
        Part { media_type, size: of.size, digest: &of.digest }
    }
}

/// A manifest as the reference writes it, to the last space.
fn manifest(config: &Descriptor, layers: &[Descriptor]) -> serde_json::Result<Vec<u8>> {
    let zstd = layers.iter().any(|layer| layer.media_type.ends_with("zstd"));
    let plain = media_type::DOCKER_LAYER_GZIP;
    let (own, config_type) = match zstd {
        true => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        false => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let written = Written {
        schema_version: 2,
        media_type: own,
        config: Part::of(config, config_type),
        layers: layers
            .iter()
            .map(|layer| Part::of(layer, if zstd { &layer.media_type } else { plain }))
            .collect(),
    };
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    written.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::of(media_type, bytes)
    }

    #[test]
    fn a_manifest_is_written_as_the_reference_writes_it() {
        let digest = |hex| Digest::parse(&format!("sha256:{hex}")).unwrap();
        let config = digest("5c7d7fd7b619166d7be77128d00f4ee1d94ff8266ed8689daa04fc70fa684c59");
        let only = digest("88ebb5ae49061980c6afad0a75abf8ab43d045aab227124acc8cc59b8544212d");
        let layers = vec![Descriptor::new(media_type::OCI_LAYER_GZIP, only, 1_141_301)];
        let bytes = manifest(&Descriptor::new("", config, 960), &layers).unwrap();
        // Size and digest of what the reference has pushed, as recorded.
        let expected = digest("420c5185f9da81b260cc956121b20e2fd955c053439e09ddfa12291bf34c0060");
        assert_eq!((bytes.len(), Digest::sha256(&bytes)), (527, expected));
    }

    #[test]
    fn a_layer_of_zstd_makes_it_a_manifest_of_oci() {
        let layers = vec![layer(media_type::OCI_LAYER_ZSTD, b"z"), layer(media_type::OCI_LAYER_GZIP, b"g")];
        let bytes = manifest(&layer("", b"config"), &layers).unwrap();
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else { panic!("it is no manifest") };
        assert_eq!(
            (&*manifest.media_type, &*manifest.config.media_type),
            (media_type::OCI_MANIFEST, media_type::OCI_CONFIG)
        );
        assert_eq!(manifest.layers, layers);
    }
}
