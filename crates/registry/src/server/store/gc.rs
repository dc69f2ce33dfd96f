//! Garbage: what nobody refers to, found and removed while the registry serves.
//!
//! What is kept is decided by [`mark`], over one repository's manifests and nothing else. Then, for each
//! repository: entries of blobs that no manifest names, uploads that nobody goes on with, folders without
//! anything; and in the end blobs that no repository has an entry of. Whatever is younger than the grace
//! stays, because pushes that are under way refer to it: their manifest comes last. Each removal looks
//! once more, with the gate closed for that one moment, whether its file is still as old as it was: who makes
//! or promises an entry makes it young. A kill in between leaves less garbage than there was.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use hull_oci::Digest;
use hull_oci::image::{Document, MAX_MANIFEST, media_type};

use super::list::each;
use super::{ALGORITHMS, Kind, Name, Result, Store, failpoint, found, io};

/// What is garbage.
#[derive(Debug, Clone)]
pub struct Policy {
    /// For so long nothing is removed that no manifest names.
    pub grace: Duration,
    /// An upload to which nothing came for so long is given up.
    pub uploads: Duration,
    /// Manifests that no tag leads to go, too.
    pub untagged: bool,
    /// Only count.
    pub dry_run: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        let hour = Duration::from_secs(3600);
        Policy { grace: hour, uploads: 24 * hour, untagged: false, dry_run: false }
    }
}

/// What a collection removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub bytes: u64,
    /// Entries of repositories.
    pub links: u64,
    pub manifests: u64,
    /// By their ids.
    pub uploads: Vec<String>,
}

/// What a manifest leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Links {
    pub blobs: Vec<Digest>,
    pub manifests: Vec<Digest>,
    pub subject: Option<Digest>,
}

impl Links {
    /// Leaves out what the repository does not have, and what is there twice: memory for what exists.
    fn bound(&mut self, blobs: &HashSet<Digest>, manifests: &BTreeSet<Digest>) {
        self.blobs.retain(|digest| blobs.contains(digest));
        self.manifests.retain(|digest| manifests.contains(digest));
        for links in [&mut self.blobs, &mut self.manifests] {
            links.sort();
            links.dedup();
            links.shrink_to_fit();
        }
    }
}

/// `None` for what is no manifest.
pub(crate) fn links(bytes: &[u8]) -> Option<Links> {
    Some(match Document::parse(bytes).ok()? {
        Document::Manifest(manifest) => Links {
            blobs: std::iter::once(&manifest.config)
                .chain(&manifest.layers)
                .map(|part| part.digest.clone())
                .collect(),
            manifests: Vec::new(),
            subject: manifest.subject.map(|subject| subject.digest),
        },
        Document::Index(index) => {
            // Indexes may name blobs, too: caches of builds do.
            let is_manifest = |kind: &str| media_type::MANIFESTS.contains(&kind) || kind.is_empty();
            let (manifests, blobs): (Vec<_>, Vec<_>) =
                index.manifests.into_iter().partition(|part| is_manifest(&part.media_type));
            let digests = |parts: Vec<hull_oci::image::Descriptor>| parts.into_iter().map(|part| part.digest);
            Links {
                blobs: digests(blobs).collect(),
                manifests: digests(manifests).collect(),
                subject: index.subject.map(|subject| subject.digest),
            }
        }
    })
}

/// One manifest of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub links: Links,
    /// Tagged, or too young to be judged, or one that cannot be read.
    pub root: bool,
}

/// What of a repository is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    pub manifests: BTreeSet<Digest>,
    pub blobs: BTreeSet<Digest>,
}

/// From the roots (all manifests, unless `untagged` ones go) along indexes to manifests, from a subject to
/// its referrers, and from each manifest to its blobs.
pub(crate) fn mark(nodes: &BTreeMap<Digest, Node>, untagged: bool) -> Marked {
    let mut referrers: BTreeMap<&Digest, Vec<&Digest>> = BTreeMap::new();
    for (digest, node) in nodes {
        if let Some(subject) = &node.links.subject {
            referrers.entry(subject).or_default().push(digest);
        }
    }
    let mut marked = Marked::default();
    let mut waiting: Vec<&Digest> =
        nodes.iter().filter(|(_, node)| node.root || !untagged).map(|(digest, _)| digest).collect();
    while let Some(digest) = waiting.pop() {
        let Some(node) = nodes.get(digest) else { continue };
        if !marked.manifests.insert(digest.clone()) {
            continue;
        }
        marked.blobs.extend(node.links.blobs.iter().cloned());
        waiting.extend(&node.links.manifests);
        waiting.extend(referrers.get(digest).into_iter().flatten());
    }
    marked
}

/// The times of one collection.
struct Times {
    grace: SystemTime,
    uploads: SystemTime,
}

impl Store {
    /// Removes what nobody refers to. Others may use the registry meanwhile.
    pub fn collect(&self, policy: &Policy) -> Result<Collected> {
        let before = |age: Duration| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let times = Times { grace: before(policy.grace), uploads: before(policy.uploads) };
        let mut collected = Collected::default();
        let mut used = HashSet::new();
        self.each_folder(&mut |name, folder| {
            let going = self.collect_repository(name, policy, &times, &mut collected)?;
            for kind in [Kind::Blob, Kind::Manifest] {
                self.each_entry(name, kind, &mut |digest| {
                    // Who only counts finds them still there.
                    if !policy.dry_run || !going.contains(&digest) {
                        used.insert(digest);
                    }
                })?;
            }
            if !policy.dry_run {
                self.prune(folder);
            }
            Ok(())
        })?;
        for digest in self.content.list()? {
            if !used.contains(&digest)
                && self.remove_blob(&digest, times.grace, policy.dry_run, &mut collected)?
            {
                failpoint("registry.gc.blob");
            }
        }
        Ok(collected)
    }

    /// Gives what the repository has lost, or would.
    fn collect_repository(
        &self,
        name: &Name,
        policy: &Policy,
        times: &Times,
        collected: &mut Collected,
    ) -> Result<HashSet<Digest>> {
        let mut going = HashSet::new();
        let folder = self.repository(name).join("_uploads");
        let mut uploads = Vec::new();
        each(&folder, &mut |id| uploads.extend(id.into_string().ok()))?;
        for id in uploads {
            if self.remove_old(&folder.join(&id), times.uploads, policy.dry_run)? {
                collected.uploads.push(id);
            }
        }
        let Some(nodes) = self.nodes(name, times.grace)? else {
            tracing::warn!(repository = %name, "a manifest cannot be read: nothing of this repository is removed");
            return Ok(going);
        };
        let marked = mark(&nodes, policy.untagged);
        for digest in nodes.keys().filter(|digest| !marked.manifests.contains(*digest)) {
            if policy.dry_run || self.remove_manifest(name, digest, times.grace)? {
                collected.manifests += 1;
                going.insert(digest.clone());
            }
        }
        let mut unused = Vec::new();
        self.each_entry(name, Kind::Blob, &mut |digest| {
            if !marked.blobs.contains(&digest) {
                unused.push(digest);
            }
        })?;
        for digest in unused {
            if self.remove_old(&self.entry(name, Kind::Blob, &digest), times.grace, policy.dry_run)? {
                collected.links += 1;
                going.insert(digest);
                failpoint("registry.gc.link");
            }
        }
        Ok(going)
    }

    /// The manifests of a repository; `None` if one of them cannot be read.
    fn nodes(&self, name: &Name, grace: SystemTime) -> Result<Option<BTreeMap<Digest, Node>>> {
        let mut tagged = HashSet::new();
        let mut tags = Vec::new();
        self.each_tag(name, &mut |tag| tags.push(tag.to_owned()))?;
        for tag in tags {
            tagged.extend(self.resolve(name, &tag)?);
        }
        let mut digests = BTreeSet::new();
        self.each_entry(name, Kind::Manifest, &mut |digest| {
            digests.insert(digest);
        })?;
        // What comes later is too young to go.
        let mut blobs = HashSet::new();
        self.each_entry(name, Kind::Blob, &mut |digest| {
            blobs.insert(digest);
        })?;
        let mut nodes = BTreeMap::new();
        for digest in &digests {
            if self.read_entry(name, Kind::Manifest, digest)?.is_none() {
                // Deleted meanwhile, or of bytes that a power failure took.
                continue;
            }
            let Some(mut links) =
                self.content.read(digest, MAX_MANIFEST as u64).ok().and_then(|bytes| links(&bytes))
            else {
                return Ok(None);
            };
            links.bound(&blobs, &digests);
            let young = modified(&self.entry(name, Kind::Manifest, digest))?.is_none_or(|at| at >= grace);
            let root = young || tagged.contains(digest);
            nodes.insert(digest.clone(), Node { links, root });
        }
        Ok(Some(nodes))
    }

    fn remove_manifest(&self, name: &Name, digest: &Digest, before: SystemTime) -> Result<bool> {
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if modified(&self.entry(name, Kind::Manifest, digest))?.is_none_or(|at| at >= before) {
            return Ok(false);
        }
        // A tag that came meanwhile would have made it young.
        self.drop_manifest(name, digest)
    }

    /// Removes a file that was not written to since.
    fn remove_old(&self, path: &Path, before: SystemTime, dry_run: bool) -> Result<bool> {
        if modified(path)?.is_none_or(|at| at >= before) {
            return Ok(false);
        }
        if dry_run {
            return Ok(true);
        }
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if modified(path)?.is_none_or(|at| at >= before) {
            return Ok(false);
        }
        Ok(found(fs::remove_file(path), "remove", path)?.is_some())
    }

    fn remove_blob(
        &self,
        digest: &Digest,
        before: SystemTime,
        dry_run: bool,
        collected: &mut Collected,
    ) -> Result<bool> {
        let is_old =
            || Ok::<_, super::StoreError>(self.content.stat(digest)?.filter(|blob| blob.modified < before));
        let Some(blob) = is_old()? else { return Ok(false) };
        if !dry_run {
            let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            if is_old()?.is_none() || self.content.remove(digest)?.is_none() {
                return Ok(false);
            }
        }
        collected.blobs += 1;
        collected.bytes += blob.size;
        Ok(true)
    }

    /// Removes a repository's folders that have nothing in them, the innermost first.
    fn prune(&self, folder: &Path) {
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        for kind in ["_blobs", "_manifests"] {
            for algorithm in ALGORITHMS {
                let _ = fs::remove_dir(folder.join(kind).join(algorithm.name()));
            }
        }
        for algorithm in ALGORITHMS {
            let subjects = folder.join("_referrers").join(algorithm.name());
            let mut names = Vec::new();
            let _ = each(&subjects, &mut |name| names.push(name));
            for name in names {
                let _ = fs::remove_dir(subjects.join(name));
            }
            let _ = fs::remove_dir(subjects);
        }
        for inner in ["_blobs", "_manifests", "_referrers", "_tags", "_uploads"] {
            let _ = fs::remove_dir(folder.join(inner));
        }
        // Only an empty one goes.
        let _ = fs::remove_dir(folder);
    }
}

fn modified(path: &Path) -> Result<Option<SystemTime>> {
    let Some(metadata) = found(fs::symlink_metadata(path), "examine", path)? else { return Ok(None) };
    metadata.modified().map(Some).map_err(io("examine", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    /// A manifest: name, blobs, manifests, subject, whether it is a root.
    type Given = (&'static str, &'static [&'static str], &'static [&'static str], Option<&'static str>, bool);

    /// What is kept of a repository of these: manifests, blobs.
    fn check(nodes: &[Given], untagged: bool) -> [Vec<String>; 2] {
        let digests = |names: &[&str]| names.iter().map(|name| digest(name)).collect();
        let names: Vec<&str> = nodes.iter().flat_map(|node| [&[node.0], node.1].concat()).collect();
        let nodes = nodes.iter().map(|(name, blobs, manifests, subject, root)| {
            let subject = subject.map(digest);
            let links = Links { blobs: digests(blobs), manifests: digests(manifests), subject };
            (digest(name), Node { links, root: *root })
        });
        let marked = mark(&nodes.collect(), untagged);
        let kept = |set: &BTreeSet<Digest>| {
            let mut kept: Vec<String> = names
                .iter()
                .filter(|name| set.contains(&digest(name)))
                .map(|name| (*name).to_owned())
                .collect();
            kept.sort();
            kept.dedup();
            kept
        };
        [kept(&marked.manifests), kept(&marked.blobs)]
    }

    #[test]
    fn all_manifests_are_roots_unless_untagged_ones_go() {
        let nodes: &[Given] =
            &[("tagged", &["a", "b"], &[], None, true), ("untagged", &["b", "c"], &[], None, false)];
        assert_eq!(check(nodes, false), [vec!["tagged", "untagged"], vec!["a", "b", "c"]]);
        assert_eq!(check(nodes, true), [vec!["tagged"], vec!["a", "b"]]);
    }

    #[test]
    fn what_a_manifest_leads_to_takes_no_more_than_what_is_there() {
        let digests = |names: &[&str]| names.iter().map(|name| digest(name)).collect::<Vec<_>>();
        let blobs = digests(&["a", "none", "a", "b"]);
        let mut links = Links { blobs, manifests: digests(&["m", "gone", "m"]), subject: None };
        links.bound(&digests(&["a", "b", "c"]).into_iter().collect(), &[digest("m")].into());
        let mut kept = digests(&["a", "b"]);
        kept.sort();
        assert_eq!(links, Links { blobs: kept, manifests: digests(&["m"]), subject: None });
    }

    #[test]
    fn an_index_keeps_its_manifests_and_a_subject_its_referrers() {
        let nodes: &[Given] = &[
            ("index", &[], &["child", "gone"], None, true),
            ("child", &["a"], &[], None, false),
            ("signature", &["s"], &[], Some("child"), false),
            ("of the signature", &["t"], &[], Some("signature"), false),
            ("of nobody", &["u"], &[], Some("gone"), false),
            // Two that keep each other are kept by nobody.
            ("one", &["v"], &["two"], None, false),
            ("two", &["w"], &["one"], None, false),
        ];
        let kept = ["child", "index", "of the signature", "signature"].map(str::to_owned).to_vec();
        assert_eq!(check(nodes, true), [kept, ["a", "s", "t"].map(str::to_owned).to_vec()]);
        assert_eq!(check(nodes, false)[0].len(), nodes.len());
    }
}
