//! Which containers and execs there are, by id, by name and by prefix.
//!
//! A name is reserved here before anything else is made under it, so that of two callers who
//! want the same name at the same moment exactly one gets it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::handle::Handle;
use super::requests::ExecView;
use crate::{Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    handles: BTreeMap<String, Arc<Handle>>,
    /// Name to container id; also of containers that are being made.
    names: HashMap<String, String>,
    execs: HashMap<String, Arc<ExecView>>,
}

impl Registry {
    // No lock is held while anything can panic, so a poisoned one is whole.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By id, name (with or without a slash before it) or an id's unambiguous prefix, in this
    /// order, as the reference does.
    pub(crate) fn find(&self, key: &str) -> Result<Arc<Handle>> {
        let table = self.read();
        if let Some(handle) = table.handles.get(key) {
            return Ok(Arc::clone(handle));
        }
        let missing = || Error::NoSuchContainer(key.to_owned());
        let name = key.strip_prefix('/').unwrap_or(key);
        if let Some(id) = table.names.get(name) {
            return table.handles.get(id).cloned().ok_or_else(missing);
        }
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut found = table.handles.range(key.to_owned()..).take_while(|(id, _)| id.starts_with(key));
        match (found.next(), found.next()) {
            (Some((_, handle)), None) => Ok(Arc::clone(handle)),
            (Some(_), Some(_)) => Err(Error::AmbiguousId(key.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.read().handles.values().cloned().collect()
    }

    /// Takes a name for a container that exists or is being made.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut table = self.write();
        match table.names.get(name) {
            Some(owner) => Err(Error::Conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove \
                 (or rename) that container to be able to reuse that name."
            ))),
            None => {
                table.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a name back, if it is this container's.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut table = self.write();
        if table.names.get(name).is_some_and(|owner| owner == id) {
            table.names.remove(name);
        }
    }

    pub(crate) fn insert(&self, handle: Arc<Handle>) {
        self.write().handles.insert(handle.id.clone(), handle);
    }

    /// Forgets a container and its execs.
    pub(crate) fn remove(&self, id: &str) {
        let mut table = self.write();
        table.handles.remove(id);
        table.names.retain(|_, owner| owner != id);
        table.execs.retain(|_, exec| exec.container != id);
    }

    /// By id or an unambiguous prefix.
    pub(crate) fn exec(&self, id: &str) -> Result<Arc<ExecView>> {
        let table = self.read();
        table.execs.get(id).cloned().ok_or_else(|| Error::NoSuchExec(id.to_owned()))
    }

    pub(crate) fn put_exec(&self, view: ExecView) {
        self.write().execs.insert(view.id.clone(), Arc::new(view));
    }

    pub(crate) fn remove_exec(&self, id: &str) {
        self.write().execs.remove(id);
    }
}
