//! What is remembered of a context's files: the digest of each, as long as the file stays as it was.
//!
//! A file whose [`Stamp`] is the same has the same bytes, if it was not changed shortly before it was read: the
//! clock of file systems stands still for some milliseconds, and a process that has a file mapped may write for
//! half a minute after the times were set (mmap(2), NOTES). Such a digest is not *settled*: it counts for the
//! build alone that has read the bytes. Who reads says so.
//!
//! A build goes by one digest of a file from its beginning to its end. What it went by is marked with its
//! number: a copy that brings other bytes must not be kept under that digest.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hull_oci::Digest;

use crate::listing::{ListingError, Reader, Stamp, Writer};

const MAGIC: &[u8] = b"hull-digests-1\n";
/// Bytes of a table, at most.
pub const DIGESTS_MAX: u64 = 128 << 20;
/// Of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub stamp: Stamp,
    pub digest: Digest,
    /// While the stamp stays, so do the bytes.
    pub settled: bool,
    /// The last build that went by it.
    pub build: u64,
}

/// By path, byte for byte: a [`Path`] is hashed name by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Digests(HashMap<OsString, Remembered>);

impl Digests {
    /// Empty for bytes that are no table: what is forgotten is read again.
    pub fn decode(bytes: &[u8]) -> Digests {
        table(bytes).unwrap_or_default()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(MAGIC.to_vec());
        for (path, Remembered { stamp, digest, settled, build }) in &self.0 {
            out.path(Path::new(path));
            out.number(stamp.size);
            out.number(stamp.inode);
            out.time(stamp.modified);
            out.time(stamp.changed);
            out.number(u64::from(*settled));
            out.number(*build);
            out.path(Path::new(&digest.to_string()));
        }
        out.0
    }

    /// What `build` has gone by already.
    pub fn promised(&self, path: &Path, build: u64) -> Option<&Remembered> {
        self.0.get(path.as_os_str()).filter(|remembered| remembered.build == build)
    }

    /// What `build` goes by, if anything is known of a file with this stamp.
    pub fn promise(&mut self, path: &Path, stamp: Stamp, build: u64) -> Option<&Digest> {
        self.known(path, stamp, build)?;
        let known = self.0.get_mut(path.as_os_str())?;
        known.build = build;
        Some(&known.digest)
    }

    /// The digest of a file with this stamp, whoever went by it.
    pub fn known(&self, path: &Path, stamp: Stamp, build: u64) -> Option<&Digest> {
        let known = self.0.get(path.as_os_str())?;
        (known.build == build || known.stamp == stamp && known.settled).then_some(&known.digest)
    }

    pub fn put(&mut self, path: PathBuf, remembered: Remembered) {
        self.0.insert(path.into_os_string(), remembered);
    }

    /// Forgets files that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&Path) -> bool) {
        self.0.retain(|path, _| is_there(Path::new(path)));
    }
}

fn table(bytes: &[u8]) -> Result<Digests, ListingError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(ListingError::Version)?);
    let mut all = HashMap::new();
    while !reader.0.is_empty() {
        let path = reader.path()?.to_owned();
        let (size, inode) = (reader.number()?, reader.number()?);
        let (modified, changed) = (reader.time()?, reader.time()?);
        let (settled, build) = (reader.number()? == 1, reader.number()?);
        let digest = reader.path()?.to_str().and_then(|text| Digest::parse(text).ok());
        let digest = digest.ok_or(ListingError::Short)?;
        let stamp = Stamp { size, inode, modified, changed };
        all.insert(path.into_os_string(), Remembered { stamp, digest, settled, build });
    }
    Ok(Digests(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { size: 1, inode: 2, modified: (3, 4), changed: (100, 6) };

    fn remembered(settled: bool, build: u64) -> Remembered {
        Remembered { stamp: STAMP, digest: Digest::sha256(b"x"), settled, build }
    }

    fn of(one: Remembered) -> Digests {
        let mut digests = Digests::default();
        digests.put("a".into(), one);
        digests
    }

    #[test]
    fn what_is_written_is_read() {
        let mut digests = of(remembered(false, u64::MAX));
        digests.put("b/c".into(), remembered(true, 0));
        assert_eq!(Digests::decode(&digests.encode()), digests);
        let bytes = digests.encode();
        assert_eq!(Digests::decode(&bytes[..bytes.len() - 1]), Digests::default());
        assert_eq!(Digests::decode(b"something else"), Digests::default());
    }

    #[test]
    fn a_file_that_has_changed_is_unknown() {
        let a = Path::new("a");
        let changes: [fn(&mut Stamp); 5] = [
            |stamp| stamp.size += 1,
            |stamp| stamp.inode += 1,
            |stamp| stamp.modified.1 += 1,
            |stamp| stamp.changed.0 += 1,
            |stamp| stamp.changed.1 += 1,
        ];
        let digest = Digest::sha256(b"x");
        assert_eq!(of(remembered(true, 1)).promise(a, STAMP, 2), Some(&digest));
        assert_eq!(of(remembered(true, 1)).promise(Path::new("b"), STAMP, 2), None);
        for change in changes {
            let mut stamp = STAMP;
            change(&mut stamp);
            assert_eq!(of(remembered(true, 1)).promise(a, stamp, 2), None);
            // The build that has read it goes by what it has read.
            assert_eq!(of(remembered(true, 1)).promise(a, stamp, 1), Some(&digest));
        }
    }

    #[test]
    fn a_digest_that_is_not_settled_counts_for_one_build() {
        let a = Path::new("a");
        assert_eq!(of(remembered(false, 1)).promise(a, STAMP, 2), None);
        assert!(of(remembered(false, 1)).promise(a, STAMP, 1).is_some());
    }

    #[test]
    fn a_promise_is_of_the_build_that_goes_by_it() {
        let a = Path::new("a");
        let mut digests = of(remembered(true, 1));
        assert!(digests.promised(a, 2).is_none());
        digests.promise(a, STAMP, 2);
        assert!(digests.promised(a, 2).is_some() && digests.promised(a, 1).is_none());
        digests.retain(|_| false);
        assert_eq!(digests, Digests::default());
    }
}
