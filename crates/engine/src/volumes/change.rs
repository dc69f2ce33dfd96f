//! Volumes are found again, created, removed and pruned.
//!
//! A new one has its folder before its row; one that goes loses its folder (into the trash) before
//! its row. [`super::files`] says what a daemon that was killed in between leaves, and what becomes
//! of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, Found};
use super::record::{Create, Volume};
use super::{Entry, Inner, View, Volumes, mounted, row};
use crate::events::{Events, Kind};
use crate::store::{Change, Store};
use crate::{Error, Result};

/// What a prune has removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub names: Vec<String>,
    pub bytes: u64,
}

impl Volumes {
    /// The volumes of the last daemon. `root` is `<data-root>/volumes`. Blocks.
    pub(crate) fn open(
        store: Store,
        events: Events,
        root: PathBuf,
        rows: &[(String, String)],
    ) -> Result<Volumes> {
        let files = Files::open(root)?;
        let mut records = BTreeMap::new();
        for (name, text) in rows {
            let parsed = serde_json::from_str::<Volume>(text);
            let record =
                parsed.map_err(|source| Error::Record { table: "volume", id: name.clone(), source })?;
            records.insert(name.clone(), record);
        }
        let plan = settle(&records.keys().cloned().collect(), &files.find()?);
        let changes = plan.perform(&files, &mut records)?;
        if !changes.is_empty() {
            store.commit_blocking(changes)?;
        }
        let entry = |(name, volume)| (name, Entry::new(volume, true));
        let table = std::sync::Mutex::new(records.into_iter().map(entry).collect());
        let turn = tokio::sync::Mutex::default();
        Ok(Volumes(Arc::new(Inner { store, events, files, table, turn })))
    }

    /// Frees what removed volumes left when the last daemon died, behind everybody's back.
    pub(crate) fn sweep(&self) -> Result<()> {
        for trash in self.0.files.trash()? {
            self.free(trash);
        }
        Ok(())
    }

    /// The same for copies that the last daemon has begun, but those with these names.
    pub(crate) fn sweep_copies(&self, but: &BTreeSet<String>) -> Result<()> {
        for copy in self.0.files.copies()?.into_iter().filter(|name| !but.contains(name)) {
            self.free(self.copies().join(copy));
        }
        Ok(())
    }

    /// One that exists by this name is given as it is, whatever else was asked.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::NotFound`] in the reference's words, [`Error::Io`].
    pub async fn create(&self, asked: &Create) -> Result<Arc<Volume>> {
        let _turn = self.0.turn.lock().await;
        if let Some((known, durable)) = asked.name.as_ref().and_then(|name| self.known(name)) {
            asked.check_driver(&known.name)?;
            if !durable {
                self.keep(&known).await?;
            }
            return Ok(known);
        }
        let volume = asked.record(hull_sys::time::now())?;
        let row = row(&volume)?;
        let name = volume.name.clone();
        let made = self.blocking(move |files| files.make(&name)).await;
        hull_runtime::failpoint!("engine.volume-create.made");
        let made = match made {
            Ok(()) => self.0.store.commit(vec![row]).await,
            failed => failed,
        };
        let name = volume.name.clone();
        if let Err(error) = made {
            // What may be there of it is marked as new: else the next daemon removes it.
            let undone = self.blocking(move |files| {
                let trash = files.new_trash()?;
                files.undo(&name, &trash).map(|()| trash)
            });
            undone.await.into_iter().for_each(|trash| self.free(trash));
            return Err(error);
        }
        hull_runtime::failpoint!("engine.volume-create.committed");
        let entry = Entry::new(volume, true);
        let volume = Arc::clone(&entry.volume);
        self.table().insert(volume.name.clone(), entry);
        self.publish("create", &volume.name);
        self.blocking(move |files| files.finish(&name)).await?;
        Ok(volume)
    }

    /// Also one that is only claimed yet, and so not durable.
    fn known(&self, name: &str) -> Option<(Arc<Volume>, bool)> {
        self.table().get(name).map(|entry| (Arc::clone(&entry.volume), entry.durable))
    }

    /// Makes one durable that a container has only claimed, whatever becomes of that container.
    async fn keep(&self, volume: &Volume) -> Result<()> {
        self.0.store.commit(vec![row(volume)?]).await?;
        let mut made = false;
        if let Some(entry) = self.table().get_mut(&volume.name) {
            // Not if the container has been quicker.
            made = !std::mem::replace(&mut entry.durable, true);
        }
        if made {
            self.publish("create", &volume.name);
        }
        let name = volume.name.clone();
        self.blocking(move |files| files.finish(&name)).await
    }

    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::Conflict`] names who has it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        let View { volume, users } = self.view(name)?;
        if !users.is_empty() {
            let users = users.join(", ");
            return Err(Error::Conflict(format!("remove {name}: volume is in use - [{users}]")));
        }
        self.erase(vec![volume]).await.1
    }

    /// Removes every volume that no container has and that `wanted` accepts.
    pub async fn prune(&self, wanted: impl Fn(&Volume) -> bool) -> Pruned {
        let mut pruned = Pruned::default();
        for View { volume, users } in self.views() {
            if !users.is_empty() || !wanted(&volume) {
                continue;
            }
            let bytes = self.usage(&volume).await.unwrap_or(0);
            match self.remove(&volume.name).await {
                Ok(()) => {
                    pruned.names.push(volume.name.clone());
                    pruned.bytes = pruned.bytes.saturating_add(bytes);
                }
                // Claimed or removed meanwhile: not for us.
                Err(Error::Conflict(_) | Error::NoSuchVolume(_)) => {}
                Err(error) => {
                    tracing::warn!(
                        volume = volume.name,
                        error = &error as &dyn std::error::Error,
                        "not pruned"
                    )
                }
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), pruned.bytes.to_string())]);
        self.0.events.publish(Kind::Volume, "prune", "", attributes);
        pruned
    }

    /// Takes volumes away that nobody has, all in one go; each is there, or wholly gone. In the turn of
    /// the caller. Gives those that stay, and why the first of them does.
    pub(super) async fn erase(&self, going: Vec<Arc<Volume>>) -> (Vec<Arc<Volume>>, Result<()>) {
        let is_durable = |volume: &Arc<Volume>| self.known(&volume.name).is_some_and(|(_, durable)| durable);
        let going: Vec<_> = going.into_iter().map(|volume| (is_durable(&volume), volume)).collect();
        let all = going.iter().map(|(_, volume)| Arc::clone(volume)).collect();
        let Discarded { gone, mut stay, why, trash } =
            match self.blocking(move |files| discard(files, going)).await {
                Ok(discarded) => discarded,
                Err(error) => return (all, Err(error)),
            };
        hull_runtime::failpoint!("engine.volume-remove.discarded");
        let rows = gone.iter().filter(|(durable, _)| *durable);
        let rows: Vec<_> =
            rows.map(|(_, volume)| Change::DeleteVolume { name: volume.name.clone() }).collect();
        if !rows.is_empty()
            && let Err(error) = self.0.store.commit(rows).await
        {
            stay.extend(gone.iter().map(|(_, volume)| Arc::clone(volume)));
            if let Err(error) = self.blocking(move |files| restore(files, &gone, &trash)).await {
                tracing::error!(%error, "volumes that stay lie in the trash");
            }
            return (stay, why.and(Err(error)));
        }
        hull_runtime::failpoint!("engine.volume-remove.row-gone");
        for (durable, volume) in gone {
            self.table().remove(&volume.name);
            if durable {
                self.publish("destroy", &volume.name);
            }
        }
        self.free(trash);
        (stay, why)
    }

    /// Frees space behind everybody's back. What is not done when the daemon ends, the next one
    /// does.
    fn free(&self, trash: PathBuf) {
        tokio::task::spawn_blocking(move || {
            if let Err(error) = Files::empty(&trash) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a removed volume still takes space");
            }
        });
    }
}

/// Volumes of which some are out of sight; with each, whether it has a row.
struct Discarded {
    gone: Vec<(bool, Arc<Volume>)>,
    stay: Vec<Arc<Volume>>,
    /// The first of those that stay.
    why: Result<()>,
    /// Where the others are.
    trash: PathBuf,
}

fn discard(files: &Files, going: Vec<(bool, Arc<Volume>)>) -> Result<Discarded> {
    let places = mounted::places()?;
    let trash = files.new_trash()?;
    let mut discarded = Discarded { gone: Vec::new(), stay: Vec::new(), why: Ok(()), trash };
    for (durable, volume) in going {
        let name = &volume.name;
        let out = mounted::below(&places, &files.folder(name)).and_then(|place| match place {
            Some(place) => Err(Error::Conflict(format!(
                "remove {name}: something is mounted at {}: unmount it first",
                place.display()
            ))),
            None if durable => files.discard(name, &discarded.trash),
            None => files.undo(name, &discarded.trash),
        });
        match out {
            Ok(()) => discarded.gone.push((durable, volume)),
            Err(error) => {
                discarded.stay.push(volume);
                discarded.why = discarded.why.and(Err(error));
            }
        }
    }
    Ok(discarded)
}

fn restore(files: &Files, gone: &[(bool, Arc<Volume>)], trash: &Path) -> Result<()> {
    let each = gone.iter().map(|(_, volume)| files.restore(&volume.name, trash));
    each.fold(Ok(()), Result::and).and_then(|()| Files::empty(trash))
}

/// What is to be done about what a killed daemon has left; see [`super::files`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Settlement {
    finish: Vec<String>,
    remove: Vec<String>,
    adopt: Vec<String>,
    forget: Vec<String>,
    make: Vec<String>,
}

fn settle(rows: &BTreeSet<String>, found: &Found) -> Settlement {
    let mut plan = Settlement::default();
    for name in &found.new {
        let list = if rows.contains(name) { &mut plan.finish } else { &mut plan.remove };
        list.push(name.clone());
    }
    plan.adopt.extend(found.whole.iter().filter(|name| !rows.contains(*name)).cloned());
    for name in rows.iter().filter(|name| !found.whole.contains(*name) && !found.new.contains(*name)) {
        let list = if found.trash.contains(name) { &mut plan.forget } else { &mut plan.make };
        list.push(name.clone());
    }
    plan
}

impl Settlement {
    /// Gives the rows that follow.
    fn perform(self, files: &Files, records: &mut BTreeMap<String, Volume>) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for name in &self.remove {
            match mounted::clear(&files.folder(name), &files.data(name)) {
                Ok(()) => files.discard(name, &files.new_trash()?)?,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(volume = name, error, "what a killed daemon has left of a volume stays");
                }
            }
        }
        for name in &self.forget {
            records.remove(name);
            changes.push(Change::DeleteVolume { name: name.clone() });
        }
        for name in &self.make {
            tracing::warn!(volume = name, "the folder of a volume is not there; it is made again, empty");
            files.make(name)?;
        }
        for name in self.finish.iter().chain(&self.make) {
            files.finish(name)?;
        }
        for name in self.adopt {
            let asked = Create { name: Some(name.clone()), ..Create::default() };
            // Nobody asks for another name, so nobody could use it.
            let Ok(volume) = asked.record(hull_sys::time::now()) else { continue };
            tracing::warn!(volume = name, "a folder without a record becomes a volume");
            // Whoever has put it there may have left that out.
            files.make(&name)?;
            changes.push(row(&volume)?);
            records.insert(name, volume);
        }
        Ok(changes)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
