//! The digest by which a copy is known: of what would be copied, and of nothing else.
//!
//! It is over names, kinds, modes, link targets, contents and extended attributes, and over how many
//! entries each pattern means. Times are not in it, so a fresh clone of
//! a repository copies from the cache; owners are not, because a copy does not keep them. Each field
//! has its length in front, so no two lists read the same.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_oci::{Digest, Hasher};

use crate::select::Matched;
use crate::walk::{Entry, Kind};

/// What only who opens a file or folder knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Of a regular file's bytes.
    pub contents: Option<Digest>,
    /// Those extended attributes that a copy keeps, sorted: names and values.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The digest of what a COPY means. `look` is asked about regular files and folders, by their path in the
/// tree that they were selected from; its errors are given back.
pub fn fingerprint<E>(
    matched: &[Matched],
    mut look: impl FnMut(&Entry, &Path) -> Result<Inside, E>,
) -> Result<Digest, E> {
    let mut hasher = Hasher::sha256();
    for one in matched {
        hasher.update(&(one.below.len() as u64).to_le_bytes());
        add(&mut hasher, &one.name, &one.entry, &one.entry.path, &mut look)?;
        for entry in &one.below {
            let path = one.entry.path.join(&entry.path);
            add(&mut hasher, &entry.path, entry, &path, &mut look)?;
        }
    }
    Ok(hasher.finish())
}

fn add<E>(
    hasher: &mut Hasher,
    name: &Path,
    entry: &Entry,
    path: &Path,
    look: &mut impl FnMut(&Entry, &Path) -> Result<Inside, E>,
) -> Result<(), E> {
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name.as_os_str().as_bytes());
    let device = |major: u32, minor: u32| format!("{major}:{minor}").into_bytes();
    let inside = match &entry.kind {
        Kind::Folder | Kind::File { .. } => look(entry, path)?,
        _ => Inside { contents: None, attributes: Vec::new() },
    };
    let (kind, data) = match &entry.kind {
        Kind::Folder => ("folder", Vec::new()),
        Kind::File { .. } => {
            ("file", inside.contents.map(|digest| digest.to_string().into_bytes()).unwrap_or_default())
        }
        Kind::Link(target) => ("link", target.as_os_str().as_bytes().to_vec()),
        Kind::Fifo => ("fifo", Vec::new()),
        Kind::CharacterDevice(major, minor) => ("character device", device(*major, *minor)),
        Kind::BlockDevice(major, minor) => ("block device", device(*major, *minor)),
    };
    field(kind.as_bytes());
    // All links have the same mode, and it means nothing (symlink(7)).
    let mode = if matches!(entry.kind, Kind::Link(_)) { 0 } else { entry.mode };
    field(&mode.to_le_bytes());
    field(&data);
    field(&(inside.attributes.len() as u64).to_le_bytes());
    for (name, value) in &inside.attributes {
        field(name);
        field(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn file(name: &str) -> Matched {
        let kind = Kind::File { size: 1 };
        let entry =
            Entry { path: name.into(), kind, mode: 0o644, modified: (1, 2), changed: (3, 4), inode: 5 };
        Matched { entry, name: name.into(), below: Vec::new() }
    }

    fn digest(matched: &[Matched], contents: &str) -> Digest {
        with_attributes(matched, contents, &[])
    }

    fn with_attributes(matched: &[Matched], contents: &str, attributes: &[(&str, &str)]) -> Digest {
        let result: Result<_, Infallible> = fingerprint(matched, |_, path| {
            let contents = Some(Digest::sha256(format!("{contents}{}", path.display()).as_bytes()));
            let bytes = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
            Ok(Inside { contents, attributes: attributes.iter().map(bytes).collect() })
        });
        result.unwrap()
    }

    #[test]
    fn attributes_count() {
        let with = |attributes: &[(&str, &str)]| with_attributes(&[file("a")], "", attributes);
        let digests = [
            with(&[]),
            with(&[("user.a", "1")]),
            with(&[("user.a", "2")]),
            with(&[("user.b", "1")]),
            with(&[("user.a", "1"), ("user.b", "1")]),
        ];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
    }

    #[test]
    fn a_file_in_a_folder_is_not_one_beside_it() {
        let folder = |below: Vec<Entry>| {
            let mut one = file("");
            (one.entry.kind, one.entry.path, one.below) = (Kind::Folder, "".into(), below);
            one
        };
        let inside = digest(&[folder(vec![file("a").entry])], "");
        assert_ne!(digest(&[folder(Vec::new()), file("a")], ""), inside);
    }

    #[test]
    fn it_changes_with_what_is_copied_and_with_nothing_else() {
        let before = digest(&[file("a")], "");
        let with = |change: fn(&mut Matched)| {
            let mut one = file("a");
            change(&mut one);
            digest(&[one], "")
        };
        assert_eq!(with(|one| one.entry.modified = (7, 7)), before);
        assert_eq!(with(|one| (one.entry.changed, one.entry.inode) = ((7, 7), 7)), before);
        assert_ne!(digest(&[file("a")], "other bytes"), before);
        assert_ne!(with(|one| one.name = "b".into()), before);
        assert_ne!(with(|one| one.entry.mode = 0o755), before);
        assert_ne!(with(|one| one.entry.kind = Kind::Fifo), before);
        assert_ne!(with(|one| one.entry.kind = Kind::Link("x".into())), before);
        assert_ne!(digest(&[file("a"), file("b")], ""), before);
    }

    #[test]
    fn links_differ_by_target_and_not_by_mode() {
        let link = |target: &str, mode| {
            let mut one = file("a");
            one.entry.kind = Kind::Link(target.into());
            one.entry.mode = mode;
            digest(&[one], "")
        };
        assert_eq!(link("x", 0o777), link("x", 0o755));
        assert_ne!(link("x", 0o777), link("y", 0o777));
    }

    #[test]
    fn the_contents_of_a_folder_count() {
        let folder = |name: &str| {
            let mut one = file("dir");
            one.entry.kind = Kind::Folder;
            one.below = vec![Entry { path: name.into(), ..file("x").entry }];
            digest(&[one], "")
        };
        assert_ne!(folder("x"), folder("y"));
    }
}
