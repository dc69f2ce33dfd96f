//! Garbage collection: a pure mark over roots, then a sweep of all else.

use std::collections::{BTreeMap, BTreeSet};

use hull_oci::Digest;

use crate::content::{Content, ContentError};
use crate::lease::{Held, Leases};
use crate::snapshot::{SnapshotError, Snapshots};

/// What an image, a container or a lease keeps alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Configurations, manifests, layers' archives.
    pub blobs: BTreeSet<Digest>,
    /// Chain ids; all layers below live with them.
    pub layers: BTreeSet<Digest>,
}

/// What must stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    pub blobs: BTreeSet<Digest>,
    pub layers: BTreeSet<Digest>,
}

/// A stored layer as far as the mark needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub parent: Option<Digest>,
    /// The archive it came from, which `save` and `push` need.
    pub blob: Digest,
}

/// Marks all that can be reached: from each layer its parents and their archives.
pub fn mark(roots: &Roots, held: &BTreeSet<Held>, layers: &BTreeMap<Digest, Node>) -> Live {
    let mut live = Live { blobs: roots.blobs.clone(), layers: BTreeSet::new() };
    let mut waiting: Vec<Digest> = roots.layers.iter().cloned().collect();
    for held in held {
        match held {
            Held::Blob(digest) => {
                live.blobs.insert(digest.clone());
            }
            Held::Layer(chain) => waiting.push(chain.clone()),
        }
    }
    while let Some(chain) = waiting.pop() {
        let Some(node) = layers.get(&chain) else { continue };
        if live.layers.insert(chain) {
            live.blobs.insert(node.blob.clone());
            waiting.extend(node.parent.clone());
        }
    }
    live
}

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub blobs: Vec<Digest>,
    /// Chain ids, each before its parent.
    pub layers: Vec<Digest>,
    /// Sizes of the archives, plus the file sizes of the layers.
    pub bytes: u64,
    /// Of `bytes`: the file sizes of the layers alone, as the reference reports.
    pub layer_bytes: u64,
}

/// Why a collection stopped. What it had removed by then is gone.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Removes everything that `roots` and the leases do not keep alive. `roots` is
/// called while the leases are frozen, so that what a load has just turned from a
/// lease into an image is seen as one or the other. So is `gone`, with the chain ids of
/// the layers that have lost their names: none of them can have come again by then.
pub fn collect(
    content: &Content,
    snapshots: &Snapshots,
    leases: &Leases,
    roots: impl FnOnce() -> Roots,
    gone: impl FnOnce(&[Digest]),
) -> Result<Swept, GcError> {
    let mut swept = Swept::default();
    let mut trash = Vec::new();
    {
        let frozen = leases.freeze();
        let roots = roots();
        let mut layers = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for chain in snapshots.layers()? {
            if let Some(layer) = snapshots.layer(&chain)? {
                sizes.insert(chain.clone(), layer.size);
                layers.insert(chain, Node { parent: layer.parent, blob: layer.blob });
            }
        }
        let live = mark(&roots, &frozen.held(), &layers);
        for chain in children_first(&layers) {
            if !live.layers.contains(&chain) {
                trash.extend(snapshots.discard_layer(&chain)?);
                swept.layer_bytes += sizes.get(&chain).copied().unwrap_or(0);
                swept.layers.push(chain);
            }
        }
        gone(&swept.layers);
        for blob in content.list()? {
            if !live.blobs.contains(&blob) {
                swept.bytes += content.remove(&blob)?.unwrap_or(0);
                swept.blobs.push(blob);
            }
        }
    }
    for trash in &trash {
        snapshots.empty_trash(trash)?;
    }
    swept.bytes += swept.layer_bytes;
    Ok(swept)
}

/// All chain ids, each before the layers below it.
fn children_first(layers: &BTreeMap<Digest, Node>) -> Vec<Digest> {
    let depth = |chain: &Digest| {
        let mut depth = 0;
        let mut next = layers.get(chain);
        while let Some(node) = next {
            depth += 1;
            next = node.parent.as_ref().and_then(|parent| layers.get(parent));
            // A damaged store could hold a ring.
            if depth > layers.len() {
                break;
            }
        }
        depth
    };
    let mut order: Vec<(usize, &Digest)> = layers.keys().map(|chain| (depth(chain), chain)).collect();
    order.sort_by(|a, b| b.cmp(a));
    order.into_iter().map(|(_, chain)| chain.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn node(name: &str, parent: Option<&str>) -> (Digest, Node) {
        (digest(name), Node { parent: parent.map(digest), blob: digest(&format!("blob of {name}")) })
    }

    #[test]
    fn a_layer_keeps_its_parents_and_their_archives() {
        let layers =
            BTreeMap::from([node("a", None), node("b", Some("a")), node("c", Some("b")), node("x", None)]);
        let roots = Roots { blobs: [digest("config")].into(), layers: [digest("b")].into() };
        let live = mark(&roots, &BTreeSet::new(), &layers);
        assert_eq!(live.layers, [digest("a"), digest("b")].into());
        assert_eq!(live.blobs, [digest("config"), digest("blob of a"), digest("blob of b")].into());
        let held = BTreeSet::from([Held::Layer(digest("c")), Held::Blob(digest("half"))]);
        let live = mark(&roots, &held, &layers);
        assert_eq!(live.layers, [digest("a"), digest("b"), digest("c")].into());
        assert!(live.blobs.contains(&digest("half")));
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let layers = BTreeMap::from([node("a", Some("b")), node("b", Some("a"))]);
        let roots = Roots { blobs: BTreeSet::new(), layers: [digest("a")].into() };
        assert_eq!(mark(&roots, &BTreeSet::new(), &layers).layers.len(), 2);
        assert_eq!(children_first(&layers).len(), 2);
    }

    #[test]
    fn a_collection_removes_what_nothing_keeps_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let content = Content::open(scratch.path()).unwrap();
        let snapshots = Snapshots::open(scratch.path(), "boot").unwrap();
        let leases = Leases::default();
        let lease = leases.take();
        let publish = |name: &str, parent: Option<&str>| {
            let blob = content.put(name.as_bytes()).unwrap();
            let layer = crate::snapshot::Layer {
                chain: digest(name),
                parent: parent.map(digest),
                diff_id: blob.clone(),
                blob: blob.clone(),
                blob_size: 1,
                media_type: String::new(),
                size: 100,
            };
            snapshots.stage().unwrap().commit(&layer).unwrap();
            blob
        };
        let base = publish("base", None);
        publish("old", Some("base"));
        publish("older", Some("old"));
        let flying = publish("flying", Some("base"));
        lease.hold(Held::Layer(digest("flying")));
        let roots = || Roots { blobs: BTreeSet::new(), layers: [digest("base")].into() };
        let told = |gone: &[Digest]| {
            assert_eq!(gone, [digest("older"), digest("old")]);
            // Their files take time, which nobody has to wait who is to hear of it.
            assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 2);
        };
        let swept = collect(&content, &snapshots, &leases, roots, told).unwrap();
        assert_eq!(swept.layers, [digest("older"), digest("old")]);
        assert_eq!((swept.layer_bytes, swept.bytes), (200, 200 + 3 + 5));
        let mut left = [base, flying];
        left.sort();
        assert_eq!(content.list().unwrap(), left);
        drop(lease);
        let swept = collect(&content, &snapshots, &leases, roots, |_| {}).unwrap();
        assert_eq!(swept.layers, [digest("flying")]);
        assert_eq!(std::fs::read_dir(scratch.path().join("ingest")).unwrap().count(), 0);
    }
}
