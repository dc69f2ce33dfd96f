//! What is in a repository, and which there are: names as they come, for callers that keep a page of them.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use hull_oci::Digest;

use super::{ALGORITHMS, Kind, Name, Result, Store, found, io, small};

/// The names in a folder, in no order; none if it is not there.
pub(super) fn each(folder: &Path, seen: &mut dyn FnMut(OsString)) -> Result<()> {
    let Some(entries) = found(fs::read_dir(folder), "list", folder)? else { return Ok(()) };
    for entry in entries {
        seen(entry.map_err(io("list", folder))?.file_name());
    }
    Ok(())
}

impl Store {
    /// Each tag of a repository, in no order.
    pub(crate) fn each_tag(&self, name: &Name, seen: &mut dyn FnMut(&str)) -> Result<()> {
        each(&self.repository(name).join("_tags"), &mut |tag| {
            if let Some(tag) = tag.to_str() {
                seen(tag);
            }
        })
    }

    /// Each blob or manifest that a repository has an entry of.
    pub(super) fn each_entry(&self, name: &Name, kind: Kind, seen: &mut dyn FnMut(Digest)) -> Result<()> {
        for algorithm in ALGORITHMS {
            let folder = self.repository(name).join(kind.folder()).join(algorithm.name());
            each(&folder, &mut |hex| {
                if let Some(digest) = hex.to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok()) {
                    seen(digest);
                }
            })?;
        }
        Ok(())
    }

    /// Each repository that has a manifest or had one since garbage was collected last.
    pub(crate) fn each_repository(&self, seen: &mut dyn FnMut(&Name) -> Result<()>) -> Result<()> {
        self.each_folder(&mut |name, folder| {
            if folder.join("_manifests").is_dir() { seen(name) } else { Ok(()) }
        })
    }

    /// Each folder that could be a repository's, inner ones first. One folder of each level is open.
    pub(super) fn each_folder(&self, seen: &mut dyn FnMut(&Name, &Path) -> Result<()>) -> Result<()> {
        walk(&self.root.join("repositories"), "", seen)
    }

    /// The digest of each manifest whose subject this is, in no order.
    pub(crate) fn each_referrer(
        &self,
        name: &Name,
        subject: &Digest,
        seen: &mut dyn FnMut(&str),
    ) -> Result<()> {
        each(&self.referrers(name, subject), &mut |referrer| {
            if let Some(digest) = referrer.to_str() {
                seen(digest);
            }
        })
    }

    /// The descriptor of one of them.
    pub(crate) fn descriptor(
        &self,
        name: &Name,
        subject: &Digest,
        referrer: &str,
    ) -> Result<Option<serde_json::Value>> {
        let text = small(&self.referrers(name, subject).join(referrer))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}

fn walk(folder: &Path, prefix: &str, seen: &mut dyn FnMut(&Name, &Path) -> Result<()>) -> Result<()> {
    let Some(entries) = found(fs::read_dir(folder), "list", folder)? else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(io("list", folder))?;
        let Ok(component) = entry.file_name().into_string() else { continue };
        if component.starts_with('_') {
            continue;
        }
        let text = if prefix.is_empty() { component } else { format!("{prefix}/{component}") };
        let Some(name) = Name::parse(&text) else { continue };
        walk(&entry.path(), &text, seen)?;
        seen(&name, &entry.path())?;
    }
    Ok(())
}
