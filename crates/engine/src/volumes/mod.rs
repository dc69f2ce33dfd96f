//! The volumes of this host: data that outlives the containers that use it.
//!
//! ```text
//! record    what is kept, what may be asked
//! options   what the options of the driver mean: pure
//! files     the folders
//! mark      how far the first content of a volume has come
//! claim     a container has its volumes, from its creation to its removal
//! change    volumes are found again, created, removed, pruned
//! mounted   volumes that are file systems of their own, while containers that run have them
//! ```
//!
//! Records are in memory, asked under a short lock, and written through the store. Which container
//! has which volumes is kept in memory alone: it follows from the containers' records, and is told
//! anew when the daemon starts ([`Volumes::adopt`]). Everything that makes or removes a volume
//! happens one after the other, folder and row together, so that nobody is given one that is on its
//! way out.

mod change;
mod claim;
mod files;
mod mark;
mod mounted;
mod options;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::events::{Events, Kind};
use crate::store::{Change, Store};
use crate::{Error, Result};

pub use change::Pruned;
pub use claim::Claim;
pub(crate) use mark::{Filling, Mark};
pub(crate) use mounted::Held;
pub use record::{ANONYMOUS, Create, DRIVER, Volume, Wish};

use files::Files;
use mounted::Mounted;

/// All volumes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    events: Events,
    files: Files,
    table: Mutex<BTreeMap<String, Entry>>,
    /// Held while volumes come, go or are claimed: folder, row and memory together.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    volume: Arc<Volume>,
    /// It has a row. Before that it goes with the container that has claimed it, if that cannot be made.
    durable: bool,
    /// The containers that have it, by id, and whether it is their own (see [`Wish::own`]).
    users: BTreeMap<String, bool>,
    mounted: Mounted,
}

/// A volume at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub volume: Arc<Volume>,
    /// The ids of the containers that have it.
    pub users: Vec<String>,
}

impl Volumes {
    // Nothing under this lock panics, so a poisoned one is whole.
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub fn find(&self, name: &str) -> Result<Arc<Volume>> {
        Ok(self.view(name)?.volume)
    }

    /// The same with who has it.
    pub fn view(&self, name: &str) -> Result<View> {
        let table = self.table();
        table.get(name).map(Entry::view).ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    /// By name.
    pub fn views(&self) -> Vec<View> {
        self.table().values().map(Entry::view).collect()
    }

    /// The folder with what containers see of it.
    pub fn data(&self, volume: &Volume) -> PathBuf {
        self.folder(&volume.name)
    }

    /// The same of one with this name, be there one or not.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.files.data(name)
    }

    /// Where copies are made that become the first content of volumes.
    pub(crate) fn copies(&self) -> PathBuf {
        self.0.files.filling()
    }

    /// Begins to fill the volume `name`.
    pub(crate) fn mark(&self, name: &str, filling: &Filling) -> Result<Mark> {
        Mark::begin(&self.0.files.folder(name), filling)
    }

    /// What filling it has come to, if that is not over; see [`Mark::find`].
    pub(crate) fn marked(&self, name: &str) -> Result<Option<(Mark, Option<Filling>, bool)>> {
        Mark::find(&self.0.files.folder(name))
    }

    /// Bytes of its files, each once however many names it has.
    pub async fn usage(&self, volume: &Volume) -> Result<u64> {
        let name = volume.name.clone();
        self.blocking(move |files| files.usage(&name)).await
    }

    /// Runs what touches the disk away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = self.0.files.clone();
        // A panic in the work is reported by the runtime; the caller sees an engine that leaves.
        tokio::task::spawn_blocking(move || work(&files)).await.map_err(|_| Error::ShuttingDown)?
    }

    fn publish(&self, action: &str, name: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), DRIVER.to_owned())]);
        self.0.events.publish(Kind::Volume, action, name, attributes);
    }
}

impl Entry {
    fn new(volume: Volume, durable: bool) -> Entry {
        Entry { volume: Arc::new(volume), durable, users: BTreeMap::new(), mounted: Mounted::default() }
    }

    fn view(&self) -> View {
        View { volume: Arc::clone(&self.volume), users: self.users.keys().cloned().collect() }
    }
}

fn row(volume: &Volume) -> Result<Change> {
    let record = serde_json::to_string(volume).map_err(|source| Error::Record {
        table: "volume",
        id: volume.name.clone(),
        source,
    })?;
    Ok(Change::PutVolume { name: volume.name.clone(), record })
}
