//! What earlier builds did: keys of steps, and the layers that they made.
//!
//! In memory, with a row for each key. What it names is kept from the collection of garbage; so it has a
//! limit, over which what was not used for the longest time is forgotten. A row is written when the
//! bytes that it names are on the disk, behind the build that made them: after a power cut the last steps
//! may be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_builder::{Known, Stack};
use hull_oci::Digest;
use hull_oci::image::chain_ids;
use serde::{Deserialize, Serialize};

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
    fn known(&self) -> Known {
        Known { key: self.step.clone(), stack: self.stack.clone() }
    }

    /// Chain id of the uppermost layer.
    fn top(&self) -> Option<Digest> {
        let layers: Vec<Digest> = self.stack.layers().into_iter().map(|layer| layer.diff_id).collect();
        chain_ids(&layers).pop()
    }

    /// Of what the step itself changed.
    fn size(&self) -> u64 {
        self.stack.changes.last().and_then(|change| change.layer.as_ref()).map_or(0, |layer| layer.size)
    }
}

/// A remembered step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub id: Digest,
    pub description: String,
    pub created: Time,
    pub used: Time,
    pub uses: u64,
    /// Bytes of what it changed.
    pub size: u64,
    /// Chain id of its file system; `None` is an empty one.
    pub top: Option<Digest>,
}

/// Which of them are to be forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forget {
    /// Also those whose layers an image has.
    pub all: bool,
    /// Only until no more than this is left (bytes).
    pub keep: u64,
    /// Only those that were last used before.
    pub before: Option<Time>,
    /// Only these, by the beginning of their digits; empty is any.
    pub ids: Vec<String>,
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

    /// Each step once, the one that was used last first.
    pub(crate) fn list(&self) -> Vec<Cached> {
        let mut steps: BTreeMap<Digest, Cached> = BTreeMap::new();
        for entry in self.lock().values() {
            let step = steps.entry(entry.step.clone()).or_insert_with(|| Cached {
                id: entry.step.clone(),
                description: entry.description.clone(),
                created: entry.created,
                used: entry.used,
                uses: 0,
                size: entry.size(),
                top: entry.top(),
            });
            step.created = step.created.min(entry.created);
            step.used = step.used.max(entry.used);
            step.uses += entry.uses;
        }
        let mut steps: Vec<Cached> = steps.into_values().collect();
        steps.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
        steps
    }

    /// Takes out what is to be forgotten; with the rows that go. `shared`: chain ids of images' layers.
    pub(crate) fn forget_some(
        &self,
        forget: &Forget,
        shared: &BTreeSet<Digest>,
    ) -> (Vec<Cached>, Vec<Change>) {
        let gone = choose(self.list(), forget, shared);
        let ids: BTreeSet<&Digest> = gone.iter().map(|step| &step.id).collect();
        let mut changes = Vec::new();
        self.lock().retain(|key, entry| {
            let stays = !ids.contains(&entry.step);
            if !stays {
                changes.push(Change::DeleteBuild { key: key.to_string() });
            }
            stays
        });
        (gone, changes)
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

/// The oldest first, until what is left is no more than is to be kept.
fn choose(steps: Vec<Cached>, forget: &Forget, shared: &BTreeSet<Digest>) -> Vec<Cached> {
    let mut left: u64 = steps.iter().map(|step| step.size).sum();
    let mut gone = Vec::new();
    for step in steps.into_iter().rev() {
        let named = |prefix: &String| step.id.hex().starts_with(prefix.trim_start_matches("sha256:"));
        let wanted = (forget.ids.is_empty() || forget.ids.iter().any(named))
            && forget.before.is_none_or(|before| step.used < before)
            && (forget.all || !step.top.as_ref().is_some_and(|top| shared.contains(top)));
        if wanted && (forget.keep == 0 || left > forget.keep) {
            left -= step.size;
            gone.push(step);
        }
    }
    gone
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
    use hull_builder::executor::Change as Step;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn known(step: &str, layers: &[(&str, u64)]) -> Known {
        let layer = |(name, size): &(&str, u64)| Step {
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
        let listed = again.list();
        assert_eq!((listed.len(), listed[0].size, listed[0].uses), (1, 7, 0));
        assert!(again.touch(&digest("content")).is_some());
        assert_eq!(again.list()[0].uses, 1);
        let (gone, changes) = again.forget_some(&Forget::default(), &BTreeSet::new());
        assert_eq!((gone.len(), changes.len(), again.list().len()), (1, 2, 0));
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_images_have_stays() {
        let step = |name: &str, used: Time, size: u64| Cached {
            id: digest(name),
            description: String::new(),
            created: 0,
            used,
            uses: 0,
            size,
            top: Some(digest(name)),
        };
        let steps = || vec![step("new", 3, 10), step("middle", 2, 10), step("old", 1, 10)];
        let gone = |forget: &Forget, shared: &[&str]| {
            let shared = shared.iter().map(|name| digest(name)).collect();
            choose(steps(), forget, &shared).into_iter().map(|step| step.used).collect::<Vec<_>>()
        };
        assert_eq!(gone(&Forget { keep: 15, ..Forget::default() }, &[]), [1, 2]);
        assert_eq!(gone(&Forget { keep: 30, ..Forget::default() }, &[]), [] as [Time; 0]);
        assert_eq!(gone(&Forget::default(), &["old"]), [2, 3]);
        assert_eq!(gone(&Forget { all: true, ..Forget::default() }, &["old"]), [1, 2, 3]);
        assert_eq!(gone(&Forget { before: Some(2), ..Forget::default() }, &[]), [1]);
        let ids = vec![digest("middle").hex()[..12].to_owned()];
        assert_eq!(gone(&Forget { ids, ..Forget::default() }, &[]), [2]);
    }
}
