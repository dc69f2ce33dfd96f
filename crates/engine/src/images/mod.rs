//! The images of this host: records in memory, written through the store.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use hull_oci::image::{Config, Descriptor};
use hull_oci::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::containers::phase::Time;
use crate::store::{Rows, Store};
use crate::{Error, Result};

/// An image. Its names are kept apart, because they move from image to image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of the configuration's bytes.
    pub id: Digest,
    pub config: Config,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Descriptor>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// When it came to this host.
    pub stored: Time,
    #[serde(default)]
    pub last_tagged: Option<Time>,
}

/// The service of the images' room.
#[derive(Debug)]
pub struct Images {
    store: Store,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Canonical name with tag to image.
    names: BTreeMap<String, Digest>,
}

impl Images {
    pub(crate) fn open(store: Store, rows: &Rows) -> Result<Images> {
        let mut state = State::default();
        for (id, record) in &rows.images {
            let image: Image = serde_json::from_str(record).map_err(|source| Error::Record {
                table: "image",
                id: id.clone(),
                source,
            })?;
            state.images.insert(image.id.clone(), Arc::new(image));
        }
        for (name, id) in &rows.names {
            if let Ok(id) = Digest::parse(id) {
                state.names.insert(name.clone(), id);
            }
        }
        Ok(Images { store, state: RwLock::new(state) })
    }

    /// By name (any spelling), id, digest or prefix of an id.
    pub fn resolve(&self, key: &str) -> Result<Arc<Image>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::NoSuchImage(shown(key));
        if let Ok(id) = Digest::parse(key) {
            return state.images.get(&id).cloned().ok_or_else(missing);
        }
        if let Ok(reference) = Reference::parse(key) {
            let name = reference.with_default_tag().to_string();
            if let Some(image) = state.names.get(&name).and_then(|id| state.images.get(id)) {
                return Ok(Arc::clone(image));
            }
        }
        let prefix = key.strip_prefix("sha256:").unwrap_or(key);
        let mut found =
            state.images.iter().filter(|(id, _)| !prefix.is_empty() && id.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some((_, image)), None) => Ok(Arc::clone(image)),
            _ => Err(missing()),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.state.read().unwrap_or_else(PoisonError::into_inner).images.len()
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// As the reference repeats an unknown image's name: with its default tag.
fn shown(key: &str) -> String {
    match Reference::parse(key) {
        Ok(reference) => reference.with_default_tag().familiar(),
        Err(_) => key.to_owned(),
    }
}
