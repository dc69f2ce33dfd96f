//! What is in flight: content that no image names yet and that garbage collection
//! must leave alone.
//!
//! Leases live in memory only. A crash loses them, and the next collection sweeps
//! what they held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_oci::Digest;

/// Something that a lease can hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    Blob(Digest),
    /// A layer's folder, by chain id; its parents are held with it.
    Layer(Digest),
}

/// All leases of one store.
#[derive(Debug, Clone, Default)]
pub struct Leases(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: BTreeMap<u64, BTreeSet<Held>>,
}

impl Leases {
    /// A new lease; it holds until it is dropped.
    pub fn take(&self) -> Lease {
        let mut table = self.lock();
        let key = table.next;
        table.next += 1;
        table.held.insert(key, BTreeSet::new());
        Lease { leases: self.clone(), key }
    }

    /// Stops everyone who wants to hold something more until the result is
    /// dropped: between the mark and the sweep of a collection, content must not
    /// be found "already there" by a load.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen(self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is consistent after each statement, so a panic elsewhere
        // while it was locked has not harmed it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Leases::freeze`].
#[derive(Debug)]
pub struct Frozen<'a>(MutexGuard<'a, Table>);

impl Frozen<'_> {
    /// Everything that any lease holds.
    pub fn held(&self) -> BTreeSet<Held> {
        self.0.held.values().flatten().cloned().collect()
    }
}

/// One operation's hold on content.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    key: u64,
}

impl Lease {
    /// Holds `what` from now on. Only after this it may be relied upon that
    /// content found in the store stays there.
    pub fn hold(&self, what: Held) {
        if let Some(held) = self.leases.lock().held.get_mut(&self.key) {
            held.insert(what);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().held.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_until_it_is_dropped() {
        let leases = Leases::default();
        let blob = Held::Blob(Digest::sha256(b"a"));
        let (first, second) = (leases.take(), leases.take());
        first.hold(blob.clone());
        second.hold(blob.clone());
        second.hold(Held::Layer(Digest::sha256(b"b")));
        assert_eq!(leases.freeze().held().len(), 2);
        drop(second);
        assert_eq!(leases.freeze().held(), BTreeSet::from([blob]));
        drop(first);
        assert_eq!(leases.freeze().held(), BTreeSet::new());
    }
}
