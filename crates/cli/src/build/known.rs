//! Digests of the files of folders that are built by daemons elsewhere: they are told with the list, so that only
//! files that the daemon has not got travel.
//!
//! ```text
//! $XDG_CACHE_HOME/hull/contexts/KEY    hull_context::Digests; KEY: the digest of device and inode
//! ```
//!
//! What is remembered spares reading; nothing relies on it. The daemon checks what it gets.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use hull_context::reading::{SETTLED_AFTER, read};
use hull_context::{Digests, Entry, Kind, Remembered, files};
use hull_oci::Digest;

/// Most that are read at a time.
const READERS: usize = 4;
/// Bytes read at once.
const BLOCK: usize = 128 << 10;
/// Folders that are remembered.
const FOLDERS: usize = 64;

/// Where the user's caches are (XDG Base Directory Specification).
pub(super) fn folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("hull/contexts"))
}

/// What is known of the files of `root`, by their digests: those that are not remembered in `cache` are read. An
/// entry whose file has changed since becomes what was read.
///
/// `again`: a daemon did not get what it was told. Nothing that is remembered is believed then: a file whose bytes
/// have changed under the same times (a clock that was set back, a disk that was written past the file system)
/// would be told wrongly for ever.
pub(super) fn digests(
    root: &File,
    entries: &mut [Entry],
    cache: Option<&Path>,
    again: bool,
) -> io::Result<Digests> {
    let about = root.metadata()?;
    let key = Digest::sha256(format!("{} {}", about.dev(), about.ino()).as_bytes());
    let table = cache.map(|cache| cache.join(key.hex()));
    let remembered = table.as_ref().filter(|_| !again);
    let bytes = remembered.and_then(|table| std::fs::read(table).ok()).unwrap_or_default();
    let mut digests = Digests::decode(&bytes);
    // No build that was before this one.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let build = u64::try_from(now.as_nanos()).unwrap_or(0);
    let unknown: Vec<usize> = (0..entries.len())
        .filter(|&at| {
            let Entry { path, .. } = &entries[at];
            entries[at].stamp().is_some_and(|stamp| digests.promise(path, stamp, build).is_none())
        })
        .collect();
    for (at, remembered) in read_all(root, entries, &unknown, build) {
        let (entry, stamp) = (&mut entries[at], remembered.stamp);
        entry.kind = Kind::File { size: stamp.size };
        (entry.inode, entry.modified, entry.changed) = (stamp.inode, stamp.modified, stamp.changed);
        digests.put(entry.path.clone(), remembered);
    }
    let mut told = Digests::default();
    for entry in &*entries {
        if let Some(known) = digests.promised(&entry.path, build) {
            // It counts for this build, which has it from nobody else.
            told.put(entry.path.clone(), Remembered { settled: true, build: 0, ..known.clone() });
        }
    }
    if let Some(table) = table.filter(|_| !unknown.is_empty()) {
        digests.retain(|path| told.promised(path, 0).is_some());
        // Without it the files are read once more.
        let _ = keep(&table, &digests.encode());
    }
    Ok(told)
}

/// Those that can be read, and by their places. Who asks for another's bytes hears why there are none.
fn read_all(root: &File, entries: &[Entry], unknown: &[usize], build: u64) -> Vec<(usize, Remembered)> {
    let next = AtomicUsize::new(0);
    let reader = || {
        let (mut all, mut block) = (Vec::new(), vec![0; BLOCK]);
        while let Some(&at) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Ok(file) = files::open(root.as_fd(), &entries[at].path) else { continue };
            if let Ok(Some(remembered)) = read(file.as_fd(), (build, SETTLED_AFTER), &mut block) {
                all.push((at, remembered));
            }
        }
        all
    };
    let readers = std::thread::available_parallelism().map_or(1, |count| count.get().min(READERS));
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..readers.min(unknown.len())).map(|_| scope.spawn(reader)).collect();
        reading.into_iter().flat_map(|reader| reader.join().unwrap_or_default()).collect()
    })
}

/// Writes a table; those that were not written for longest go.
fn keep(table: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(folder) = table.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = table.with_extension(format!("{}.new", std::process::id()));
    let written = File::create(&new).and_then(|mut file| file.write_all(bytes));
    if let Err(error) = written.and_then(|()| std::fs::rename(&new, table)) {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    let mut all: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    all.iter().rev().skip(FOLDERS).try_for_each(|(_, old)| std::fs::remove_file(old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_context::{Folder, Ignore, walk};

    fn look(root: &Path) -> (File, Vec<Entry>) {
        let root = File::open(root).unwrap();
        let entries = walk(&Folder::new(root.as_fd(), Ignore::default())).unwrap();
        (root, entries)
    }

    fn digest(told: &Digests, entries: &[Entry], name: &str) -> Option<Digest> {
        let entry = entries.iter().find(|entry| entry.path == Path::new(name)).unwrap();
        told.known(&entry.path, entry.stamp()?, 7).cloned()
    }

    #[test]
    fn every_file_that_can_be_read_is_known_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, cache) = (scratch.path().join("f"), scratch.path().join("caches/hull"));
        std::fs::create_dir_all(folder.join("d")).unwrap();
        std::fs::write(folder.join("a"), "a").unwrap();
        std::fs::write(folder.join("d/b"), "b").unwrap();
        std::os::unix::fs::symlink("a", folder.join("link")).unwrap();
        let (root, mut entries) = look(&folder);
        // It has changed since it was listed.
        std::fs::write(folder.join("a"), "longer").unwrap();
        let told = digests(&root, &mut entries, Some(&cache), false).unwrap();
        assert_eq!(digest(&told, &entries, "a"), Some(Digest::sha256(b"longer")));
        assert_eq!(digest(&told, &entries, "d/b"), Some(Digest::sha256(b"b")));
        assert_eq!(digest(&told, &entries, "link"), None);
        assert_eq!(entries[0].kind, Kind::File { size: 6 });
        // What is remembered of it is too young to be relied on: it is read again.
        std::fs::write(folder.join("a"), "others").unwrap();
        let (root, mut entries) = look(&folder);
        let told = digests(&root, &mut entries, Some(&cache), false).unwrap();
        assert_eq!(digest(&told, &entries, "a"), Some(Digest::sha256(b"others")));
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
    }

    #[test]
    fn what_is_settled_is_not_read_again() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, cache) = (scratch.path().join("f"), scratch.path().join("c"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), "a").unwrap();
        let (root, mut entries) = look(&folder);
        let remember = |settled| {
            let mut table = Digests::default();
            let stamp = entries[0].stamp().unwrap();
            table.put(
                "a".into(),
                Remembered { stamp, digest: Digest::sha256(b"remembered"), settled, build: 1 },
            );
            let about = root.metadata().unwrap();
            let key = Digest::sha256(format!("{} {}", about.dev(), about.ino()).as_bytes());
            keep(&cache.join(key.hex()), &table.encode()).unwrap();
        };
        remember(true);
        let told = digests(&root, &mut entries.clone(), Some(&cache), false).unwrap();
        assert_eq!(digest(&told, &entries, "a"), Some(Digest::sha256(b"remembered")));
        // Who asks again is told what was read now, and so is who asks after that.
        for again in [true, false] {
            let told = digests(&root, &mut entries.clone(), Some(&cache), again).unwrap();
            assert_eq!(digest(&told, &entries, "a"), Some(Digest::sha256(b"a")));
        }
        remember(false);
        let told = digests(&root, &mut entries, Some(&cache), false).unwrap();
        assert_eq!(digest(&told, &entries, "a"), Some(Digest::sha256(b"a")));
    }

    #[test]
    fn folders_that_nobody_builds_are_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..FOLDERS + 3 {
            keep(&scratch.path().join(format!("k{number}")), b"x").unwrap();
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), FOLDERS);
    }
}
