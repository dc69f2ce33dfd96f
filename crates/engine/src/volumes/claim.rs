//! A container has its volumes from its creation to its removal.
//!
//! [`Volumes::claim`] gives all that it wishes or nothing, and makes what is missing; the rows of
//! what is new are for the transaction of the container's own record, so that neither is ever there
//! without the other. [`Volumes::settle`] follows the commit, [`Volumes::release`] takes all of it
//! back, before the commit or at the container's end.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::record::{Volume, Wish};
use super::{Entry, Volumes, row};
use crate::containers::phase::Time;
use crate::store::Change;
use crate::{Error, Result};

/// What a container was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// In the order of the wishes.
    pub volumes: Vec<Arc<Volume>>,
    /// For the transaction of the container's record.
    pub rows: Vec<Change>,
}

impl Volumes {
    /// Gives a container all volumes that it wishes, or none. What is new has its folder when this
    /// returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::NotFound`] of a wish for what cannot be made, in the
    /// reference's words; [`Error::Io`].
    pub async fn claim(&self, container: &str, wishes: &[Wish]) -> Result<Claim> {
        if wishes.is_empty() {
            return Ok(Claim { volumes: Vec::new(), rows: Vec::new() });
        }
        let _turn = self.0.turn.lock().await;
        let reserved = reserve(&mut self.table(), container, wishes, hull_sys::time::now());
        let (volumes, new) = reserved?;
        let made = self.blocking(move |files| new.iter().try_for_each(|name| files.make(name))).await;
        let rows = made.and_then(|()| self.rows(container));
        hull_runtime::failpoint!("engine.volume.claimed");
        match rows {
            Ok(rows) => Ok(Claim { volumes, rows }),
            Err(error) => {
                if let Err(error) = self.give_up(container, false).await {
                    tracing::warn!(%error, "a volume that could not be made may be left");
                }
                Err(error)
            }
        }
    }

    /// Of all that a container has and that no row names yet, whoever made it.
    fn rows(&self, container: &str) -> Result<Vec<Change>> {
        let table = self.table();
        let own = table.values().filter(|entry| entry.users.contains_key(container) && !entry.durable);
        own.map(|entry| row(&entry.volume)).collect()
    }

    /// Puts the folder `copy` in the place of a volume's own, in one step. False: that is not empty, or
    /// somebody but `container`, which is being made and has claimed the volume first of all, may have it,
    /// or may be about to.
    pub(crate) fn exchange(&self, name: &str, container: &str, copy: &Path) -> Result<bool> {
        // Nobody claims it meanwhile. Who has the turn may wait for a thread like this one: so that is not
        // waited for.
        let Ok(_turn) = self.0.turn.try_lock() else { return Ok(false) };
        let alone = |entry: &Entry| !entry.durable && entry.users.keys().all(|user| user == container);
        if !self.table().get(name).is_some_and(alone) {
            return Ok(false);
        }
        match std::fs::rename(copy, self.folder(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(source) => Err(Error::Io { call: "rename", path: copy.to_owned(), source }),
        }
    }

    /// The rows of the claim are durable.
    pub async fn settle(&self, container: &str) {
        let mut made = Vec::new();
        for (name, entry) in self.table().iter_mut() {
            if entry.users.contains_key(container) && !entry.durable {
                entry.durable = true;
                made.push(name.clone());
            }
        }
        for name in &made {
            self.publish("create", name);
        }
        if made.is_empty() {
            return;
        }
        let finished = self.blocking(move |files| made.iter().try_for_each(|name| files.finish(name))).await;
        if let Err(error) = finished {
            // The next daemon does it.
            tracing::warn!(error = &error as &dyn std::error::Error, "a volume is still marked as new");
        }
    }

    /// Takes a container's volumes back; with `with_own` those that are its own and nobody else's
    /// are removed. So is, of a claim that was not settled, what it made. Nothing left to do is no
    /// error.
    ///
    /// # Errors
    /// The first of those that could not be removed, which the container keeps.
    pub async fn release(&self, container: &str, with_own: bool) -> Result<()> {
        let _turn = self.0.turn.lock().await;
        self.give_up(container, with_own).await
    }

    async fn give_up(&self, container: &str, with_own: bool) -> Result<()> {
        let going = leave(&mut self.table(), container, with_own);
        if going.is_empty() {
            return Ok(());
        }
        hull_runtime::failpoint!("engine.volume.releasing");
        let (own, volumes): (BTreeMap<_, _>, Vec<_>) =
            going.into_iter().map(|(volume, own)| ((volume.name.clone(), own), volume)).unzip();
        let (stay, outcome) = self.erase(volumes).await;
        let mut table = self.table();
        for volume in stay {
            if let (Some(entry), Some(own)) = (table.get_mut(&volume.name), own.get(&volume.name)) {
                entry.users.insert(container.to_owned(), *own);
            }
        }
        outcome
    }

    /// Tells what a container of an earlier daemon has: names, and whether they are its own. One
    /// that is not there (any more) is nobody's.
    pub fn adopt<'a>(&self, container: &str, volumes: impl Iterator<Item = (&'a str, bool)>) {
        let mut table = self.table();
        for (name, own) in volumes {
            if let Some(entry) = table.get_mut(name) {
                let mine = entry.users.entry(container.to_owned()).or_insert(own);
                *mine &= own;
            }
        }
    }
}

/// All wishes or none. Gives the volumes, and the names of those that are new.
fn reserve(
    table: &mut BTreeMap<String, Entry>,
    container: &str,
    wishes: &[Wish],
    now: Time,
) -> Result<(Vec<Arc<Volume>>, Vec<String>)> {
    let mut new: BTreeMap<String, Volume> = BTreeMap::new();
    let mut given: Vec<(String, bool)> = Vec::new();
    for Wish { volume: wish, own } in wishes {
        let known = wish.name.as_ref().filter(|name| table.contains_key(*name) || new.contains_key(*name));
        let name = match known {
            Some(name) => {
                wish.check_driver(name)?;
                name.clone()
            }
            None => {
                let volume = wish.record(now)?;
                let name = volume.name.clone();
                new.insert(name.clone(), volume);
                name
            }
        };
        given.push((name, *own || wish.name.is_none()));
    }
    let made = new.keys().cloned().collect();
    table.extend(new.into_iter().map(|(name, volume)| (name, Entry::new(volume, false))));
    let mut volumes = Vec::new();
    for (name, own) in given {
        let entry = table.get_mut(&name).ok_or_else(|| Error::NoSuchVolume(name.clone()))?;
        // Named once by the caller, it is not the container's own any more.
        *entry.users.entry(container.to_owned()).or_insert(own) &= own;
        volumes.push(Arc::clone(&entry.volume));
    }
    Ok((volumes, made))
}

/// The container has no volumes any more. Gives those that go with it.
fn leave(table: &mut BTreeMap<String, Entry>, container: &str, with_own: bool) -> Vec<(Arc<Volume>, bool)> {
    let mut going = Vec::new();
    for entry in table.values_mut() {
        let Some(own) = entry.users.remove(container) else { continue };
        if entry.users.is_empty() && (!entry.durable || (own && with_own)) {
            going.push((Arc::clone(&entry.volume), own));
        }
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::Create;

    fn wish(name: &str, own: bool) -> Wish {
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        Wish { volume: Create { name, ..Create::default() }, own }
    }

    fn names(volumes: &[(Arc<Volume>, bool)]) -> Vec<&str> {
        volumes.iter().map(|(volume, _)| volume.name.as_str()).collect()
    }

    #[test]
    fn all_wishes_are_given_or_none() {
        let mut table = BTreeMap::new();
        let wishes = [wish("data", false), wish("", false), wish("data", false)];
        let (volumes, new) = reserve(&mut table, "c1", &wishes, 7).unwrap();
        assert_eq!((volumes.len(), new.len(), table.len()), (3, 2, 2));
        assert_eq!((&volumes[0], volumes[1].is_anonymous()), (&volumes[2], true));
        let before = format!("{table:?}");
        let wishes = [wish("other", false), wish("bad name", false)];
        assert!(reserve(&mut table, "c2", &wishes, 7).is_err());
        assert_eq!(format!("{table:?}"), before);
        let odd = Create { name: Some("data".into()), driver: "nosuch".into(), ..Create::default() };
        assert!(reserve(&mut table, "c2", &[Wish { volume: odd, own: false }], 7).is_err());
    }

    #[test]
    fn what_nobody_named_goes_with_its_last_container() {
        let mut table = BTreeMap::new();
        let (volumes, _) = reserve(&mut table, "c1", &[wish("", false), wish("named", false)], 7).unwrap();
        let own = volumes[0].name.clone();
        reserve(&mut table, "c2", &[wish(&own, true)], 7).unwrap();
        table.values_mut().for_each(|entry| entry.durable = true);
        assert!(leave(&mut table, "c1", true).is_empty(), "c2 still has it");
        assert_eq!(names(&leave(&mut table, "c2", true)), [own.as_str()]);
        assert!(leave(&mut table, "c2", true).is_empty(), "nothing left to do");
        // Whoever names it keeps it from going.
        reserve(&mut table, "c3", &[wish(&own, true), wish(&own, false)], 7).unwrap();
        assert!(leave(&mut table, "c3", true).is_empty());
        reserve(&mut table, "c4", &[wish(&own, true)], 7).unwrap();
        assert!(leave(&mut table, "c4", false).is_empty(), "not asked for");
    }

    #[test]
    fn what_a_failed_creation_made_goes_unless_others_have_it() {
        let mut table = BTreeMap::new();
        reserve(&mut table, "c1", &[wish("shared", false), wish("alone", false)], 7).unwrap();
        reserve(&mut table, "c2", &[wish("shared", false)], 7).unwrap();
        assert_eq!(names(&leave(&mut table, "c1", false)), ["alone"]);
        assert_eq!(names(&leave(&mut table, "c2", false)), ["shared"]);
    }
}
