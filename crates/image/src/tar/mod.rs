//! One strict grammar for tar archives, read and written by our own code.
//!
//! Archives are the most attacked input of a container engine, and most of the
//! attacks live in the places where two readers disagree about the same bytes.
//! So this module accepts the forms that GNU tar, Go's archive/tar and libarchive
//! write and agree upon, and refuses what they read differently:
//!
//! - ustar (POSIX.1-1988), PAX extended headers (POSIX.1-2001) with
//!   `SCHILY.xattr.*`, GNU long names and long links, old GNU sparse files (`S`),
//!   PAX sparse 0.0, 0.1 and 1.0, base-256 numbers, and v7 headers;
//! - the `size` of a PAX header always wins over the ustar field;
//! - every header's checksum is verified; a number field holds digits or nothing;
//! - names lose a leading `/` and every `.` component (as Docker does) and may
//!   not hold `..`, a NUL byte or nothing at all; the root itself has the empty
//!   name and can only be a folder;
//! - global PAX headers may carry comments, not values;
//! - two extended headers for one entry, a folder or symbolic link with data, a
//!   lone zero block in the middle are refused.
//!
//! Sources: POSIX.1-2017 pax(1) "ustar Interchange Format" and "pax Extended
//! Header"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

mod error;
mod header;
mod name;
mod pax;
mod reader;
mod sparse;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Error, Malformed};
pub use name::normalise;
pub use reader::{Input, Reader};
pub use writer::{Output, WriteError, Writer};

/// The unit of the format: headers and data are padded to it (bytes).
pub const BLOCK: usize = 512;

/// One member of an archive, after all its headers have been combined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, normalised: no leading or trailing slash, no `.` or `..`; empty
    /// for the root folder itself. Bytes, because Linux names are bytes.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky (12 bits).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Extended attributes in the archive's order, unfiltered.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// An entry of root's, of the year 1970, with the usual mode of its kind.
    pub fn new(name: &[u8], kind: Kind) -> Self {
        let mode = match kind {
            Kind::Directory => 0o755,
            Kind::Symlink { .. } => 0o777,
            _ => 0o644,
        };
        Self { name: name.to_vec(), kind, mode, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
    }
}

/// What an entry is, with the data that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File {
        /// Bytes of the file as a reader of it sees them.
        size: u64,
        /// Of a sparse file: the parts that are stored, ascending and not
        /// touching; all else is holes. `None`: everything is stored.
        extents: Option<Vec<Extent>>,
    },
    Directory,
    /// The target as it stands; it may be anything but empty and holds no NUL.
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an entry of the same archive, normalised as names are.
    Link {
        target: Vec<u8>,
    },
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Kind {
    /// Bytes of data that follow the entry's header (sparse maps not counted).
    pub fn stored(&self) -> u64 {
        match self {
            Self::File { extents: Some(extents), .. } => extents.iter().map(|extent| extent.length).sum(),
            Self::File { size, extents: None } => *size,
            _ => 0,
        }
    }
}

/// A stored part of a sparse file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What a reader puts up with before it refuses an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries, extended headers counted too.
    pub entries: u64,
    /// Bytes of a name or a link's target (Linux: PATH_MAX).
    pub name: usize,
    /// Bytes of one PAX header.
    pub pax: usize,
    /// Stored parts of one sparse file.
    pub extents: usize,
    /// Sum of all files' sizes, holes counted too (bytes).
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, name: 4095, pax: 1 << 20, extents: 1 << 18, total: 1 << 40 }
    }
}
