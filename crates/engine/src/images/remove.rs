//! `rmi` and `image prune`: names and images go, and then what nothing names any more.
//!
//! Which of its conditions forbids what, and in which words, is the reference's: an image that a
//! running container uses or that other images were made from stays even when forced; one with
//! several names or a stopped container goes only when forced.

use std::sync::Arc;

use hull_oci::{Digest, Reference};

use super::{Images, Inner, ListFilters, blocking, failed, id_prefix};
use crate::store::Change;
use crate::{Error, Result};

/// One thing that is gone, in the order in which it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, familiar.
    Untagged(String),
    /// An image, or a layer by its chain id.
    Deleted(Digest),
}

/// What `prune` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    /// Sizes of the layers' files, and of what unfinished pulls have left.
    pub bytes: u64,
}

impl Images {
    /// By a name: takes it away, and the image with its last one. By an id: the image with all its
    /// names. Parents without a name go with it unless `keep_parents`.
    pub async fn remove(&self, key: &str, force: bool, keep_parents: bool) -> Result<Vec<Removed>> {
        let inner = Arc::clone(&self.0);
        let key = key.to_owned();
        blocking(move || {
            let _changing = inner.changing();
            let mut removal = Removal { inner: &inner, force, keep_parents, removed: Vec::new(), bytes: 0 };
            removal.by_key(&key)?;
            Ok(removal.removed)
        })
        .await
    }

    /// Removes images that no container uses: without `all` only those without a tag.
    pub async fn prune(&self, all: bool, filters: &ListFilters) -> Result<Pruned> {
        let inner = Arc::clone(&self.0);
        let filters = filters.clone();
        blocking(move || inner.prune(all, &filters)).await
    }

    /// Removes what nothing names, as it may be left after a crash. Bytes freed.
    pub async fn collect(&self) -> Result<u64> {
        let inner = Arc::clone(&self.0);
        blocking(move || Ok(inner.collect()?.bytes)).await
    }
}

/// What keeps an image from being deleted.
struct Conflict {
    /// Not even `force` helps.
    hard: bool,
    reason: String,
}

impl Conflict {
    fn error(&self, id: &Digest) -> Error {
        let word = if self.hard { "cannot be forced" } else { "must be forced" };
        Error::Conflict(format!("conflict: unable to delete {} ({word}) - {}", id.short(), self.reason))
    }
}

/// One removal; `changes` is held.
struct Removal<'a> {
    inner: &'a Inner,
    force: bool,
    keep_parents: bool,
    removed: Vec<Removed>,
    bytes: u64,
}

impl Removal<'_> {
    fn by_key(&mut self, key: &str) -> Result<()> {
        let image = self.inner.read().resolve(key)?;
        let names = self.inner.read().names_of(&image.id);
        let short = |id: &str| id[..id.len().min(12)].to_owned();
        if id_prefix(key).is_some_and(|prefix| image.id.hex().starts_with(prefix)) {
            if is_single(&names) {
                if let Some(conflict) = self.conflict(&image.id, false).filter(|c| c.hard || !self.force) {
                    return Err(conflict.error(&image.id));
                }
                self.untag(&image.id, &names)?;
            }
            return self.delete(&image.id, false);
        }
        let name =
            Reference::parse(key).map_err(|error| Error::Invalid(error.to_string()))?.with_default_tag();
        if !self.force && is_single(&names) {
            let uses = (self.inner.uses)();
            if let Some(used) = uses.iter().find(|used| used.image == image.id) {
                return Err(Error::Conflict(format!(
                    "conflict: unable to remove repository reference \"{key}\" (must force) - container {} is using its referenced image {}",
                    short(&used.container),
                    image.id.short(),
                )));
            }
        }
        self.untag(&image.id, std::slice::from_ref(&name))?;
        let mut rest = self.inner.read().names_of(&image.id);
        // Digests of a repository without a tag in it name nothing that anybody asked for.
        if !rest.iter().any(|other| other.tag.is_some() && other.name() == name.name()) {
            let (digests, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|other| other.tag.is_none() && other.name() == name.name());
            self.untag(&image.id, &digests)?;
            rest = others;
        }
        if rest.is_empty() { self.delete(&image.id, true) } else { Ok(()) }
    }

    fn untag(&mut self, id: &Digest, names: &[Reference]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let rows = names.iter().map(|name| Change::DeleteName { name: name.to_string() });
        self.inner.store.commit_blocking(rows.collect())?;
        for name in names {
            self.inner.write().names.remove(&name.to_string());
            self.inner.publish("untag", id, &id.to_string());
            self.removed.push(Removed::Untagged(name.familiar()));
        }
        Ok(())
    }

    /// The worst of what forbids the deletion. `named`: names count, too.
    fn conflict(&self, id: &Digest, named: bool) -> Option<Conflict> {
        let short = |id: &str| id[..id.len().min(12)].to_owned();
        let uses = (self.inner.uses)();
        let of = |running| uses.iter().find(|used| used.image == *id && used.running == running);
        let state = self.inner.read();
        if state.has_children(id) {
            return Some(Conflict { hard: true, reason: "image has dependent child images".to_owned() });
        }
        if let Some(used) = of(true) {
            let reason = format!("image is being used by running container {}", short(&used.container));
            return Some(Conflict { hard: true, reason });
        }
        if named && !state.names_of(id).is_empty() {
            let reason = "image is referenced in multiple repositories".to_owned();
            return Some(Conflict { hard: false, reason });
        }
        let used = of(false)?;
        let reason = format!("image is being used by stopped container {}", short(&used.container));
        Some(Conflict { hard: false, reason })
    }

    /// Deletes the image with its last names. `quiet`: a conflict ends it without an error.
    fn delete(&mut self, id: &Digest, quiet: bool) -> Result<()> {
        if let Some(conflict) =
            self.conflict(id, true).filter(|conflict| conflict.hard || !self.force || quiet)
        {
            return if quiet { Ok(()) } else { Err(conflict.error(id)) };
        }
        let Ok(image) = self.inner.read().resolve(&id.to_string()) else { return Ok(()) };
        let names = self.inner.read().names_of(id);
        self.untag(id, &names)?;
        self.inner.store.commit_blocking(vec![Change::DeleteImage { id: id.to_string() }])?;
        self.inner.write().images.remove(id);
        self.inner.publish("delete", id, &id.to_string());
        self.removed.push(Removed::Deleted(id.clone()));
        let swept = self.inner.collect()?;
        self.bytes += swept.layer_bytes;
        self.removed.extend(swept.layers.into_iter().map(Removed::Deleted));
        match &image.parent {
            Some(parent) if !self.keep_parents => self.delete(parent, true),
            _ => Ok(()),
        }
    }
}

/// At most one tag, and all names of one repository: the image as a whole is meant.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.tag.is_some()).count();
    tags <= 1 && names.windows(2).all(|pair| pair[0].name() == pair[1].name())
}

impl Inner {
    fn prune(&self, all: bool, filters: &ListFilters) -> Result<Pruned> {
        let _changing = self.changing();
        let candidates: Vec<_> = {
            let state = self.read();
            let wanted = |image: &&Arc<super::Image>| {
                let created = i128::from(image.created()) * 1_000_000_000;
                filters.until.is_none_or(|until| created < i128::from(until))
                    && filters.labels_match(&image.config.config.labels)
                    && !(state.names_of(&image.id).is_empty() && state.has_children(&image.id))
            };
            state.images.values().filter(wanted).cloned().collect()
        };
        let mut pruned = Pruned::default();
        for image in candidates {
            let names = self.read().names_of(&image.id);
            if !all && names.iter().any(|name| name.tag.is_some()) {
                continue;
            }
            if (self.uses)().iter().any(|used| used.image == image.id) {
                continue;
            }
            let mut removal =
                Removal { inner: self, force: false, keep_parents: false, removed: Vec::new(), bytes: 0 };
            let keys: Vec<String> = match names.is_empty() {
                true => vec![image.id.hex().to_owned()],
                false => names.iter().map(ToString::to_string).collect(),
            };
            for key in keys {
                match removal.by_key(&key) {
                    // In use since it was looked at, or gone with an image before it.
                    Ok(()) | Err(Error::Conflict(_) | Error::NoSuchImage(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            pruned.bytes += removal.bytes;
            pruned.removed.extend(removal.removed);
        }
        // Nobody is at these: the next pull fetches them from their first byte on.
        pruned.bytes += self.content.sweep_partials(true).map_err(failed)?;
        Ok(pruned)
    }
}
