//! Digests of the files of an archive of images, most of which come while the files are used already.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::MetadataExt as _;

use hull_oci::{Digest, Hasher};

use super::Digests;

pub(super) struct Hashes {
    /// Not asked for yet.
    coming: Option<Digests>,
    known: BTreeMap<u64, Digest>,
}

impl Hashes {
    pub(super) fn new(coming: Option<Digests>) -> Hashes {
        Hashes { coming, known: BTreeMap::new() }
    }

    /// The digest of a file of the archive. Waits for all that come; of one that is not among them it is
    /// computed here.
    pub(super) fn of(&mut self, file: &File) -> Result<Digest, String> {
        if let Some(coming) = self.coming.take() {
            self.known = coming()?;
        }
        let read = |error: std::io::Error| format!("read it again: {error}");
        let inode = file.metadata().map_err(read)?.ino();
        if let Some(digest) = self.known.get(&inode) {
            return Ok(digest.clone());
        }
        let (mut file, mut hasher) = (file.try_clone().map_err(read)?, Hasher::sha256());
        file.rewind().map_err(read)?;
        std::io::copy(&mut file, &mut hasher).map_err(read)?;
        Ok(hasher.finish())
    }
}
