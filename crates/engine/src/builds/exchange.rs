//! What builds remember, to and from elsewhere (`--cache-to`, `--cache-from`).
//!
//! A cache that leaves is images: the one that was built and, with `mode=max`, one for each stage that files
//! were copied from. In its configuration, an [`Entry`] for each key says how many of the image's layers its step has
//! come to. So a cache can name no layer that it does not bring, its form is that of `save`, and an image that was
//! built with `type=inline` is a cache itself.
//!
//! Nothing of it is believed but that a step leads to those layers, and that by nobody but the build that was
//! told to: what was done elsewhere never gets a row in this daemon's memory. What a build does after it has
//! used anything of it is remembered under keys salted with the digest of what was imported, so builds that import
//! the same find it again, and nobody else. Layers are taken when they are needed, and must have the digests
//! that the configuration has for them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_builder::executor::{Change, Row};
use hull_builder::progress::Report;
use hull_builder::{Built, Known, Layer, Progress, Stack};
use hull_image::archive::{self, ArchivedLayer};
use hull_image::snapshot::MAX_LAYERS;
use hull_oci::image::{Config, History, MAX_CONFIG, RootFs};
use hull_oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

use super::site::Site;
use super::{Build, Context, copy, diff_ids};
use crate::images::failed;
use crate::{Error, Result, chain};

/// Where else a build looks for what was done before.
#[derive(Debug)]
pub enum Import {
    /// Images in a layout, and what people call it. Where it has not come, why.
    Folder(String, std::result::Result<Context, String>),
    /// An image that is here.
    Image(Reference),
}

/// What was done for an image, beside its configuration.
#[derive(Debug, Serialize, Deserialize)]
struct Document<C> {
    #[serde(flatten)]
    config: C,
    #[serde(rename = "hull.build.cache", default, skip_serializing_if = "Vec::is_empty")]
    entries: Vec<Entry>,
}

/// A row of the memory, as far as one image's layers go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: Digest,
    /// What names the step to those above it.
    step: Digest,
    /// How many of the image's layers are the base's.
    base: usize,
    /// Of each step since: when it was done (RFC 3339), and whether the next layer of the image is its.
    changes: Vec<(String, bool)>,
}

impl Entry {
    /// `None`: other layers than the image's are in it, or more steps than are believed of anybody.
    fn of(row: &Row, image: &[Digest]) -> Option<Entry> {
        let Known { key: step, stack } = &row.known;
        if stack.changes.len() > MAX_LAYERS {
            return None;
        }
        image.starts_with(&diff_ids(&stack.layers())).then(|| Entry {
            key: row.key.clone(),
            step: step.clone(),
            base: stack.base.len(),
            changes: stack
                .changes
                .iter()
                .map(|change| (change.created.clone(), change.layer.is_some()))
                .collect(),
        })
    }

    /// `None`: it says what cannot be. Sizes are not known yet.
    fn known(&self, image: &[Digest]) -> Option<Known> {
        if self.changes.len() > MAX_LAYERS {
            return None;
        }
        let layer = |diff_id: &Digest| Layer { diff_id: diff_id.clone(), size: 0 };
        let (base, mut rest) = image.split_at_checked(self.base)?;
        let mut changes = Vec::with_capacity(self.changes.len());
        for (created, has_layer) in &self.changes {
            created.parse::<jiff::Timestamp>().ok()?;
            let made = match has_layer {
                false => None,
                true => {
                    let (first, others) = rest.split_first()?;
                    rest = others;
                    Some(layer(first))
                }
            };
            changes.push(Change { layer: made, created: created.clone() });
        }
        Some(Known {
            key: self.step.clone(),
            stack: Stack { base: base.iter().map(layer).collect(), changes },
        })
    }
}

/// An image's configuration, with what of `rows` was done for it.
pub(super) fn document(config: &Config, rows: &[Row]) -> Result<Vec<u8>> {
    let entries = rows.iter().filter_map(|row| Entry::of(row, &config.rootfs.diff_ids)).collect();
    let bytes = serde_json::to_vec(&Document { config, entries }).map_err(failed)?;
    if bytes.len() > MAX_CONFIG {
        return Err(Error::Invalid(format!(
            "the cache of this build does not fit into {MAX_CONFIG} bytes: build fewer steps at once, or without --cache-to"
        )));
    }
    Ok(bytes)
}

/// The cache of a build: configurations of images. `all`: also of what the image itself has not.
pub(super) fn documents(built: &Built, all: bool) -> Result<Vec<Vec<u8>>> {
    let beside = if all { beside(built) } else { Vec::new() };
    std::iter::once(&built.config).chain(&beside).map(|config| document(config, &built.rows)).collect()
}

/// Images of all that was done and is not in the image that was built.
fn beside(built: &Built) -> Vec<Config> {
    let image = &built.config.rootfs.diff_ids;
    let stacks = built.rows.iter().map(|row| diff_ids(&row.known.stack.layers()));
    let mut stacks: Vec<Vec<Digest>> = stacks.filter(|stack| !image.starts_with(stack)).collect();
    stacks.sort();
    stacks.dedup();
    let config = |layers: &Vec<Digest>| Config {
        architecture: built.config.architecture.clone(),
        variant: built.config.variant.clone(),
        os: built.config.os.clone(),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.clone() },
        history: vec![
            History { created_by: "a stage of a build".to_owned(), ..History::default() };
            layers.len()
        ],
        ..Config::default()
    };
    // What begins another one is right before it.
    let next = stacks.iter().skip(1).map(Some).chain([None]);
    let tops =
        stacks.iter().zip(next).filter(|(stack, next)| !next.is_some_and(|next| next.starts_with(stack)));
    tops.map(|(stack, _)| config(stack)).collect()
}

/// What was done elsewhere, for one build.
pub(super) struct Imports {
    rows: Mutex<HashMap<Digest, Imported>>,
    /// Something of it was used.
    used: AtomicBool,
    /// Of all documents.
    salt: Digest,
    report: Report,
}

/// Of an entry no more is kept than stands in its document: what it means is made of it when it is used.
#[derive(Debug, Clone)]
struct Imported {
    entry: Entry,
    /// The image's, lowest first.
    layers: Arc<[ArchivedLayer]>,
    origin: Arc<Origin>,
}

#[derive(Debug)]
struct Origin {
    name: String,
    /// Without one the layers are here, or nowhere.
    folder: Option<Arc<Site>>,
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").field("used", &self.used).field("salt", &self.salt).finish_non_exhaustive()
    }
}

impl Imports {
    /// What panics under the lock leaves a map that is whole.
    fn rows(&self) -> MutexGuard<'_, HashMap<Digest, Imported>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key under which a step is remembered that is done now.
    pub(super) fn own(&self, key: Digest) -> Digest {
        match self.used.load(Ordering::SeqCst) {
            true => self.salted(&key),
            false => key,
        }
    }

    fn salted(&self, key: &Digest) -> Digest {
        Digest::sha256(format!("{} {key}", self.salt).as_bytes())
    }

    pub(super) async fn find(&self, build: &Build, key: &Digest) -> Option<Known> {
        let known = match build.remembered(&self.salted(key)).await {
            Some(known) => known,
            None => self.take(build, key).await?,
        };
        self.used.store(true, Ordering::SeqCst);
        Some(known)
    }

    /// A row, once its layers are here.
    async fn take(&self, build: &Build, key: &Digest) -> Option<Known> {
        let Imported { entry, layers, origin } = self.rows().get(key).cloned()?;
        let image: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let mut known = entry.known(&image)?;
        let layers = layers[..known.stack.layers().len()].to_vec();
        let sizes = async {
            let folder: Option<OwnedFd> =
                origin.folder.as_ref().map(|site| copy::open(&site.rootfs.upper)).transpose()?;
            build.0.services.images.take_layers(&build.0.hold, folder, layers).await
        };
        match sizes.await {
            Ok(Some(sizes)) => {
                let Stack { base, changes } = &mut known.stack;
                let made = changes.iter_mut().filter_map(|change| change.layer.as_mut());
                base.iter_mut().chain(made).zip(sizes).for_each(|(layer, size)| layer.size = size);
                Some(known)
            }
            Ok(None) => None,
            Err(error) => {
                let mut rows = self.rows();
                let before = rows.len();
                rows.retain(|_, row| !Arc::ptr_eq(&row.origin, &origin));
                if rows.len() < before {
                    warn(&self.report, &origin.name, &error);
                }
                None
            }
        }
    }
}

fn warn(report: &Report, name: &str, error: &Error) {
    let message = format!("the cache {name} is not used: {}", chain(error));
    report(Progress::Warning { message, page: String::new(), line: 0 });
}

impl Build {
    /// Looks at what is to be imported. What cannot be read is warned of: the build goes on without it.
    pub(super) async fn import(&self, report: &Report) {
        let (mut rows, mut ids) = (HashMap::new(), Vec::new());
        for import in &self.0.given.imports {
            let (name, folder, images) = match import {
                Import::Folder(name, context) => {
                    let (folder, images) = match self.cache_folder(context).await {
                        Ok(site) => (Some(Arc::clone(&site)), self.images_in(&site).await),
                        Err(error) => (None, Err(error)),
                    };
                    (name.clone(), folder, images)
                }
                Import::Image(image) => (image.familiar(), None, self.image_here(image).await),
            };
            let origin = Arc::new(Origin { name, folder });
            match images {
                Err(error) => warn(report, &origin.name, &error),
                Ok(images) => {
                    for (bytes, layers) in images {
                        ids.push(Digest::sha256(&bytes).to_string());
                        rows.extend(entries(&bytes, &layers.into(), &origin));
                    }
                }
            }
        }
        if !rows.is_empty() {
            let salt = Digest::sha256(ids.join(" ").as_bytes());
            let (rows, used) = (Mutex::new(rows), AtomicBool::new(false));
            // Nobody else imports.
            let _ = self.0.imports.set(Imports { rows, used, salt, report: Arc::clone(report) });
        }
    }

    async fn cache_folder(&self, context: &std::result::Result<Context, String>) -> Result<Arc<Site>> {
        match context {
            Ok(context) => self.unpacked(context).await,
            Err(why) => Err(Error::Invalid(why.clone())),
        }
    }

    async fn images_in(&self, site: &Site) -> Result<Vec<(Vec<u8>, Vec<ArchivedLayer>)>> {
        let folder = copy::open(&site.rootfs.upper)?;
        let read = move || {
            use std::os::fd::AsFd as _;
            archive::read(folder.as_fd(), &Platform::host()).map_err(failed)
        };
        let images = self.0.services.blocking(read).await?;
        Ok(images.into_iter().map(|image| (image.config_bytes, image.layers)).collect())
    }

    async fn image_here(&self, image: &Reference) -> Result<Vec<(Vec<u8>, Vec<ArchivedLayer>)>> {
        let images = &self.0.services.images;
        let image = images.resolve(&image.to_string())?;
        let layer = |diff_id: &Digest| ArchivedLayer {
            path: String::new(),
            diff_id: diff_id.clone(),
            expected: None,
        };
        let layers = image.config.rootfs.diff_ids.iter().map(layer).collect();
        Ok(vec![(images.document(&image.id).await?, layers)])
    }
}

/// What an image's configuration says was done for it.
fn entries(bytes: &[u8], layers: &Arc<[ArchivedLayer]>, origin: &Arc<Origin>) -> Vec<(Digest, Imported)> {
    // What is no document of ours says nothing.
    let Ok(Document { entries, .. }) = serde_json::from_slice::<Document<Config>>(bytes) else {
        return Vec::new();
    };
    let imported = |entry: Entry| {
        let key = entry.key.clone();
        (key, Imported { entry, layers: Arc::clone(layers), origin: Arc::clone(origin) })
    };
    entries.into_iter().map(imported).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    /// A row on the base `0`; a step `-` changes nothing.
    fn row(path: &str) -> Row {
        let layer = |name: &str| Layer { diff_id: digest(name), size: 5 };
        let change = |name: &str| Change {
            layer: (name != "-").then(|| layer(name)),
            created: "2026-01-01T00:00:00Z".to_owned(),
        };
        let stack = Stack { base: vec![layer("0")], changes: path.split('/').map(change).collect() };
        Row { key: digest(&format!("key {path}")), known: Known { key: digest(path), stack } }
    }

    fn built(layers: &[&str], rows: &[&str]) -> Built {
        let diff_ids = layers.iter().map(|layer| digest(layer)).collect();
        let config = Config { rootfs: RootFs { kind: "layers".to_owned(), diff_ids }, ..Config::default() };
        Built { config, layers: Vec::new(), rows: rows.iter().map(|path| row(path)).collect() }
    }

    fn read(bytes: &[u8]) -> Document<Config> {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn an_image_has_the_rows_of_its_own_layers_and_others_have_the_rest() {
        let built = built(&["0", "a", "b"], &["a", "a/-", "a/-/b", "x", "x/y", "a/z"]);
        let min = documents(&built, false).unwrap();
        assert_eq!(min.len(), 1);
        let Document { config, entries } = read(&min[0]);
        assert_eq!((config, entries.len()), (built.config.clone(), 3));
        for (entry, path) in entries.iter().zip(["a", "a/-", "a/-/b"]) {
            let mut known = row(path).known;
            let layers = known.stack.base.iter_mut();
            let made = known.stack.changes.iter_mut().filter_map(|change| change.layer.as_mut());
            layers.chain(made).for_each(|layer| layer.size = 0);
            assert_eq!(entry.known(&built.config.rootfs.diff_ids), Some(known), "{path}");
        }
        let max = documents(&built, true).unwrap();
        let mut beside: Vec<(usize, usize)> = max[1..]
            .iter()
            .map(|bytes| read(bytes))
            .map(|document| (document.config.rootfs.diff_ids.len(), document.entries.len()))
            .collect();
        beside.sort_unstable();
        // 0/a/z with the rows a, a/- and a/z; 0/x/y with x and x/y.
        assert_eq!(beside, [(3, 2), (3, 3)]);
        let plain = document(&built.config, &[]).unwrap();
        assert_eq!(plain, serde_json::to_vec(&built.config).unwrap(), "without rows it is the image's own");
    }

    #[test]
    fn a_long_build_has_the_rows_that_anybody_would_take() {
        let paths: Vec<String> = (1..=1500).map(|count| vec!["-"; count].join("/")).collect();
        let built = built(&["0"], &paths.iter().map(String::as_str).collect::<Vec<_>>());
        let documents = documents(&built, true).unwrap();
        let Document { entries, .. } = read(&documents[0]);
        assert_eq!(entries.len(), MAX_LAYERS);
        let image = &built.config.rootfs.diff_ids;
        assert!(entries.iter().all(|entry| entry.known(image).is_some()));
    }

    #[test]
    fn an_entry_that_says_what_cannot_be_says_nothing() {
        let image = [digest("0"), digest("a")];
        let entry = |base, changes: &[(&str, bool)]| {
            let changes = changes.iter().map(|(time, layer)| ((*time).to_owned(), *layer)).collect();
            Entry { key: digest("k"), step: digest("s"), base, changes }.known(&image)
        };
        let time = "2026-01-01T00:00:00Z";
        assert!(entry(1, &[(time, false), (time, true)]).is_some());
        assert_eq!(entry(1, &[(time, true), (time, true)]), None, "a layer that the image has not");
        assert_eq!(entry(3, &[]), None);
        assert_eq!(entry(usize::MAX, &[]), None);
        assert_eq!(entry(1, &vec![(time, false); MAX_LAYERS + 1]), None, "more than an image can have");
        assert_eq!(entry(1, &[("soon", true)]), None, "it would be in the image's history");
    }
}
