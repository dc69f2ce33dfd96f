//! A context as a list: what a client that walks its folder sends instead of the files.
//!
//! ```text
//! "hull-context-1\n", then for each entry, in the order of walk():
//! kind: u8 | mode: u16 | modified: i64 u32 | changed: i64 u32 | inode: u64 | length: u16 | path
//!   file: size: u64        link: length: u16 | target        device: major: u32 | minor: u32
//! ```
//!
//! Numbers are little endian. The list is not believed: paths are plain names below folders that were listed
//! before, each once, so that whatever is found in it lies inside of the context. An entry's place in the
//! list is its number: by that its reader asks for the bytes of a file.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::walk::{Entry, Kind, Tree, WalkError};

const MAGIC: &[u8] = b"hull-context-1\n";
/// Bytes of a list, at most: some half a million entries. Its reader's memory has a limit.
pub const LISTING_MAX: u64 = 64 << 20;
/// Bytes of a path and of a link's target (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Why bytes are no list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error("the list of the context's files is of another version of the client")]
    Version,
    #[error("the list of the context's files ends in the middle")]
    Short,
    #[error("the list of the context's files has an entry of the unknown kind {0}")]
    Kind(u8),
    #[error("the list of the context's files has {path:?}, which is no path in it")]
    Path { path: PathBuf },
}

/// Who wrote a file last, and when, as far as the file system tells: while it stays, so do the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    pub inode: u64,
    /// Seconds since the epoch and nanoseconds.
    pub modified: (i64, u32),
    /// Of the inode; nobody can set it back.
    pub changed: (i64, u32),
}

impl Entry {
    /// Of a regular file.
    pub fn stamp(&self) -> Option<Stamp> {
        let Kind::File { size } = self.kind else { return None };
        let Entry { inode, modified, changed, .. } = *self;
        Some(Stamp { size, inode, modified, changed })
    }
}

/// Entries as they are sent.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Writer(MAGIC.to_vec());
    for entry in entries {
        let kind = match entry.kind {
            Kind::Folder => 0,
            Kind::File { .. } => 1,
            Kind::Link(_) => 2,
            Kind::Fifo => 3,
            Kind::CharacterDevice(..) => 4,
            Kind::BlockDevice(..) => 5,
        };
        out.0.push(kind);
        // Permission bits: there are twelve.
        out.0.extend((entry.mode as u16).to_le_bytes());
        out.time(entry.modified);
        out.time(entry.changed);
        out.number(entry.inode);
        out.path(&entry.path);
        match &entry.kind {
            Kind::File { size } => out.number(*size),
            Kind::Link(target) => out.path(target),
            Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                out.0.extend(major.to_le_bytes());
                out.0.extend(minor.to_le_bytes());
            }
            Kind::Folder | Kind::Fifo => {}
        }
    }
    out.0
}

pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    pub(crate) fn time(&mut self, (seconds, nanoseconds): (i64, u32)) {
        self.0.extend(seconds.to_le_bytes());
        self.0.extend(nanoseconds.to_le_bytes());
    }

    /// Linux has none that is longer than [`PATH_MAX`].
    pub(crate) fn path(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        self.0.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.0.extend(bytes);
    }
}

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], ListingError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(ListingError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ListingError> {
        self.bytes(N)?.try_into().map_err(|_| ListingError::Short)
    }

    pub(crate) fn number(&mut self) -> Result<u64, ListingError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn time(&mut self) -> Result<(i64, u32), ListingError> {
        Ok((self.array().map(i64::from_le_bytes)?, self.array().map(u32::from_le_bytes)?))
    }

    pub(crate) fn path(&mut self) -> Result<&'a Path, ListingError> {
        let length = usize::from(self.array().map(u16::from_le_bytes)?);
        let path = Path::new(OsStr::from_bytes(self.bytes(length)?));
        match length > PATH_MAX || path.as_os_str().as_bytes().contains(&0) {
            true => Err(ListingError::Path { path: path.to_owned() }),
            false => Ok(path),
        }
    }
}

/// Files that are known by their list alone.
#[derive(Debug)]
pub struct Listing {
    /// As they came, the root in front.
    entries: Vec<Entry>,
    /// For each entry, where in `entries` what lies in it ends.
    ends: Vec<usize>,
    /// By path, byte for byte.
    places: HashMap<OsString, usize>,
}

impl Listing {
    pub fn decode(bytes: &[u8]) -> Result<Listing, ListingError> {
        let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(ListingError::Version)?);
        let root = Entry {
            path: PathBuf::new(),
            kind: Kind::Folder,
            mode: 0o755,
            modified: (0, 0),
            changed: (0, 0),
            inode: 0,
        };
        let mut listing =
            Listing { entries: vec![root], ends: vec![1], places: HashMap::from([(OsString::new(), 0)]) };
        // The folders that the next entry may lie in, the root first.
        let mut open = vec![0];
        while !reader.0.is_empty() {
            let entry = entry(&mut reader)?;
            listing.add(entry, &mut open)?;
        }
        listing.close(&mut open, 0);
        Ok(listing)
    }

    fn add(&mut self, entry: Entry, open: &mut Vec<usize>) -> Result<(), ListingError> {
        let wrong = |entry: &Entry| ListingError::Path { path: entry.path.clone() };
        let above = split(entry.path.as_os_str().as_bytes()).ok_or_else(|| wrong(&entry))?;
        let depth =
            open.iter().rposition(|&folder| self.entries[folder].path.as_os_str().as_bytes() == above);
        let depth = depth.ok_or_else(|| wrong(&entry))?;
        self.close(open, depth + 1);
        let place = self.entries.len();
        if self.places.insert(entry.path.clone().into_os_string(), place).is_some() {
            return Err(wrong(&entry));
        }
        if entry.kind == Kind::Folder {
            open.push(place);
        }
        self.entries.push(entry);
        self.ends.push(place + 1);
        Ok(())
    }

    /// Nothing more comes into the folders from `depth` on.
    fn close(&mut self, open: &mut Vec<usize>, depth: usize) {
        for folder in open.drain(depth..) {
            self.ends[folder] = self.entries.len();
        }
    }

    fn place(&self, path: &Path) -> Option<usize> {
        let plain = || self.places.get(path.components().as_path().as_os_str());
        self.places.get(path.as_os_str()).or_else(plain).copied()
    }

    /// The entry of a number.
    pub fn entry_of(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize + 1)
    }

    /// The entry at a path and its number; the root has none.
    pub fn find(&self, path: &Path) -> Option<(u32, &Entry)> {
        let place = self.place(path)?;
        Some((u32::try_from(place.checked_sub(1)?).ok()?, &self.entries[place]))
    }
}

/// The folder that a path of plain names lies in.
fn split(path: &[u8]) -> Option<&[u8]> {
    if path.split(|&byte| byte == b'/').any(|name| matches!(name, b"" | b"." | b"..")) {
        return None;
    }
    Some(path.iter().rposition(|&byte| byte == b'/').map_or(b"", |at| &path[..at]))
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, ListingError> {
    let [kind] = reader.array()?;
    let mode = u32::from(reader.array().map(u16::from_le_bytes)?) & 0o7777;
    let (modified, changed, inode) = (reader.time()?, reader.time()?, reader.number()?);
    let path = reader.path()?.to_owned();
    let number = |reader: &mut Reader<'_>| reader.array().map(u32::from_le_bytes);
    let kind = match kind {
        0 => Kind::Folder,
        1 => Kind::File { size: reader.number()? },
        2 => Kind::Link(reader.path()?.to_owned()),
        3 => Kind::Fifo,
        4 => Kind::CharacterDevice(number(reader)?, number(reader)?),
        5 => Kind::BlockDevice(number(reader)?, number(reader)?),
        kind => return Err(ListingError::Kind(kind)),
    };
    Ok(Entry { path, kind, mode, modified, changed, inode })
}

impl Tree for Listing {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, WalkError> {
        Ok(self.place(path).map(|place| self.entries[place].clone()))
    }

    fn children(&self, folder: &Path) -> Result<Vec<Entry>, WalkError> {
        let Some(place) = self.place(folder) else { return Ok(Vec::new()) };
        let mut children = Vec::new();
        let mut next = place + 1;
        while next < self.ends[place] {
            children.push(self.entries[next].clone());
            next = self.ends[next];
        }
        // Whoever sent it may have sorted otherwise.
        if !children.is_sorted_by(|one, other| one.path < other.path) {
            children.sort_by(|one, other| one.path.cmp(&other.path));
        }
        Ok(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folder, Ignore, walk};
    use std::os::fd::AsFd;

    fn of(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o644, modified: (1, 2), changed: (3, 4), inode: 5 }
    }

    fn decode(entries: &[Entry]) -> Result<Listing, ListingError> {
        Listing::decode(&encode(entries))
    }

    #[test]
    fn a_folder_and_its_list_are_the_same_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        for name in ["a/b/c", "a/d", "a.x", "e", "f/g/h/i"] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("../e", root.join("a/link")).unwrap();
        std::fs::create_dir(root.join("empty")).unwrap();
        let opened = std::fs::File::open(root).unwrap();
        let folder = Folder::new(opened.as_fd(), Ignore::default());
        let entries = walk(&folder).unwrap();
        let listing = decode(&entries).unwrap();
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(listing.find(&entry.path), Some((u32::try_from(number).unwrap(), entry)));
            assert_eq!(listing.entry(&entry.path).unwrap().as_ref(), Some(entry));
            if entry.kind == Kind::Folder {
                assert_eq!(
                    listing.children(&entry.path).unwrap(),
                    folder.children(&entry.path).unwrap(),
                    "{:?}",
                    entry.path
                );
            }
        }
        let names = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>();
        assert_eq!(
            names(listing.children(Path::new("")).unwrap()),
            names(folder.children(Path::new("")).unwrap())
        );
        assert_eq!(listing.entry(Path::new("")).unwrap().unwrap().kind, Kind::Folder);
        assert_eq!(listing.entry(Path::new("a/link/x")).unwrap(), None);
        assert_eq!(listing.find(Path::new("")), None);
    }

    #[test]
    fn what_leads_out_or_was_not_listed_is_refused() {
        let file = || Kind::File { size: 1 };
        for bad in ["", "/", "/etc", "..", "../x", "a/../b", "a//b", "./a", "a/", "a/b", "nosuch/x", "link/x"]
        {
            let entries =
                [of("a.file", file()), of("link", Kind::Link("/".into())), of("a", file()), of(bad, file())];
            assert_eq!(decode(&entries).unwrap_err(), ListingError::Path { path: bad.into() }, "{bad:?}");
        }
        let twice = [of("d", Kind::Folder), of("d/x", file()), of("d/x", file())];
        assert!(matches!(decode(&twice), Err(ListingError::Path { .. })));
        // A folder that was left is closed: each one's entries lie together.
        let apart = [of("d", Kind::Folder), of("e", Kind::Folder), of("d/x", file())];
        assert!(matches!(decode(&apart), Err(ListingError::Path { .. })));
        let nul = [of("a\0b", file())];
        assert!(matches!(decode(&nul), Err(ListingError::Path { .. })));
        let long = [of(&"x".repeat(5000), file())];
        assert!(matches!(decode(&long), Err(ListingError::Path { .. })));
    }

    #[test]
    fn bytes_that_are_no_list_are_told() {
        assert_eq!(Listing::decode(b"").unwrap_err(), ListingError::Version);
        let whole = encode(&[of("a", Kind::CharacterDevice(1, 3))]);
        for length in MAGIC.len() + 1..whole.len() {
            assert_eq!(Listing::decode(&whole[..length]).unwrap_err(), ListingError::Short, "{length}");
        }
        let mut kind = whole;
        kind[MAGIC.len()] = 9;
        assert_eq!(Listing::decode(&kind).unwrap_err(), ListingError::Kind(9));
    }

    #[test]
    fn children_are_sorted_however_they_came() {
        let listing = decode(&[of("b", Kind::Fifo), of("a", Kind::Fifo)]).unwrap();
        let names: Vec<_> =
            listing.children(Path::new("")).unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(names, [Path::new("a"), Path::new("b")]);
        assert_eq!(listing.find(Path::new("a")).unwrap().0, 1);
    }
}
