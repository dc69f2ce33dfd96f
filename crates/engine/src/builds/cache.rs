//! What earlier builds did: keys of steps, and the layers that they made.
//!
//! In memory, with a row for each key. What it names is kept from the collection of garbage; so it has
//! limits ([`super::collect`]). A row is written when the bytes that it names are on the disk, behind the
//! build that made them: after a power cut the last steps may be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_builder::{Known, Stack};
use hull_oci::Digest;
use hull_oci::image::chain_ids;
use serde::{Deserialize, Serialize};

use super::books::{Kind, Step};
use crate::containers::phase::Time;
use crate::store::{Change, Rows};
use crate::{Error, Result};

/// What is known of a step, under one of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// What names it to the steps above it, whatever the key.
    step: Digest,
    stack: Stack,
    /// As a person knows it.
    description: String,
    created: Time,
    used: Time,
    uses: u64,
}

impl Entry {
    fn step(&self) -> Step {
        let layers = self.stack.layers();
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let sizes = layers.iter().map(|layer| layer.size);
        Step {
            kind: Kind::Step,
            id: self.step.clone(),
            description: self.description.clone(),
            created: self.created,
            used: self.used,
            uses: 0,
            layers: chain_ids(&diff_ids).into_iter().zip(sizes).collect(),
            changes: self.stack.changes.len(),
            made: self.stack.changes.last().is_some_and(|change| change.layer.is_some()),
            in_use: false,
        }
    }

    fn known(&self) -> Known {
        Known { key: self.step.clone(), stack: self.stack.clone() }
    }

    /// Chain id of the uppermost layer.
    fn top(&self) -> Option<Digest> {
        let layers: Vec<Digest> = self.stack.layers().into_iter().map(|layer| layer.diff_id).collect();
        chain_ids(&layers).pop()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<Digest, Entry>>);

impl Memory {
    pub(crate) fn open(rows: &Rows) -> Result<Memory> {
        let parse = |(key, text): &(String, String)| {
            let damaged = |source| Error::Record { table: "build", id: key.clone(), source };
            let entry: Entry = serde_json::from_str(text).map_err(damaged)?;
            Ok(Digest::parse(key).ok().map(|key| (key, entry)))
        };
        let entries = rows.builds.iter().filter_map(|row| parse(row).transpose());
        Ok(Memory(Mutex::new(entries.collect::<Result<_>>()?)))
    }

    /// What panics under the lock leaves a map that is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Digest) -> Option<Known> {
        self.lock().get(key).map(Entry::known)
    }

    /// Notes that it was used; gives the row that says so.
    pub(super) fn touch(&self, key: &Digest) -> Option<Change> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        entry.used = hull_sys::time::now();
        entry.uses += 1;
        row(key, entry).ok()
    }

    /// Gives the row.
    pub(super) fn put(&self, key: &Digest, known: &Known, description: String) -> Result<Change> {
        let now = hull_sys::time::now();
        let entry = Entry {
            step: known.key.clone(),
            stack: known.stack.clone(),
            description,
            created: now,
            used: now,
            uses: 0,
        };
        let row = row(key, &entry)?;
        self.lock().insert(key.clone(), entry);
        Ok(row)
    }

    pub(super) fn forget(&self, key: &Digest) -> Change {
        self.lock().remove(key);
        Change::DeleteBuild { key: key.to_string() }
    }

    /// Chain ids that must not be collected.
    pub(crate) fn tops(&self) -> Vec<Digest> {
        let tops: BTreeSet<Digest> = self.lock().values().filter_map(Entry::top).collect();
        tops.into_iter().collect()
    }

    /// Each step once; one that was done elsewhere, too, once for each file system that it has come to.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps: BTreeMap<(Digest, Option<Digest>), Step> = BTreeMap::new();
        for entry in self.lock().values() {
            let step = steps.entry((entry.step.clone(), entry.top())).or_insert_with(|| entry.step());
            step.created = step.created.min(entry.created);
            step.used = step.used.max(entry.used);
            step.uses += entry.uses;
        }
        steps.into_values().collect()
    }

    /// Takes out steps; gives the rows that go.
    pub(super) fn forget_steps(&self, ids: &BTreeSet<Digest>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.lock().retain(|key, entry| {
            let stays = !ids.contains(&entry.step);
            if !stays {
                changes.push(Change::DeleteBuild { key: key.to_string() });
            }
            stays
        });
        changes
    }
}

fn row(key: &Digest, entry: &Entry) -> Result<Change> {
    let record = serde_json::to_string(entry).map_err(|source| Error::Record {
        table: "build",
        id: key.to_string(),
        source,
    })?;
    Ok(Change::PutBuild { key: key.to_string(), record })
}

/// Whoever must know what is remembered.
pub(crate) fn kept(memory: &Arc<Memory>) -> crate::images::Kept {
    let memory = Arc::clone(memory);
    Arc::new(move || memory.tops())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_builder::Layer;
    use hull_builder::executor::Change as Made;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn known(step: &str, layers: &[(&str, u64)]) -> Known {
        let layer = |(name, size): &(&str, u64)| Made {
            layer: Some(Layer { diff_id: digest(name), size: *size }),
            created: String::new(),
        };
        let stack = Stack { base: Vec::new(), changes: layers.iter().map(layer).collect() };
        Known { key: digest(step), stack }
    }

    #[test]
    fn what_was_kept_is_found_again_by_another_daemon() {
        let memory = Memory::default();
        let mut rows = Rows::default();
        for (key, step) in [("definition", "a"), ("content", "a")] {
            let put = memory.put(&digest(key), &known(step, &[("1", 5), ("2", 7)]), "RUN x".to_owned());
            let Change::PutBuild { key, record } = put.unwrap() else { panic!() };
            rows.builds.push((key, record));
        }
        let again = Memory::open(&rows).unwrap();
        assert_eq!(again.get(&digest("definition")), Some(known("a", &[("1", 5), ("2", 7)])));
        assert_eq!(again.get(&digest("other")), None);
        assert_eq!(again.tops(), [chain_ids(&[digest("1"), digest("2")])[1].clone()]);
        let listed = again.steps();
        assert_eq!((listed.len(), listed[0].uses, listed[0].changes, listed[0].made), (1, 0, 2, true));
        assert_eq!(listed[0].layers.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [5, 7]);
        assert!(again.touch(&digest("content")).is_some());
        assert_eq!(again.steps()[0].uses, 1);
        assert_eq!(again.forget_steps(&BTreeSet::from([digest("a")])).len(), 2);
        assert!(again.steps().is_empty());
    }
}
