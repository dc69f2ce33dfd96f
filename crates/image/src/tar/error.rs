//! What a reader of archives can say about the bytes it met.

use std::fmt;

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes break the grammar. `offset` is that of the header (in bytes of
    /// the uncompressed archive) that is wrong or belongs to what is wrong.
    #[error("malformed archive at byte {offset}{}: {reason}", Named(name))]
    Malformed { offset: u64, name: Vec<u8>, reason: Malformed },
    #[error("the archive exceeds the limit of {limit} {what}{}", Named(name))]
    Limit { what: &'static str, limit: u64, name: Vec<u8> },
    #[error("the archive ends at byte {offset} in the middle of {what}")]
    Truncated { offset: u64, what: &'static str },
    #[error("cannot read the archive at byte {offset}")]
    Read { offset: u64, source: std::io::Error },
}

/// Which rule of the grammar is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the header's checksum is wrong")]
    Checksum,
    #[error("the header is of no known format")]
    Magic,
    #[error("the field `{0}` is not a number in range")]
    Number(&'static str),
    #[error("unknown entry type {0:#04x}")]
    Type(u8),
    #[error("the name is empty")]
    EmptyName,
    #[error("the name holds `..`")]
    ParentName,
    #[error("a name holds a NUL byte")]
    NulName,
    #[error("a name ends with a slash and is no folder's")]
    SlashName,
    #[error("the root can only be a folder")]
    RootKind,
    #[error("the link has no target")]
    EmptyTarget,
    #[error("an entry without data has a size")]
    UnexpectedData,
    #[error("an extended header has no entry after it")]
    Dangling,
    #[error("two extended headers for one entry")]
    Repeated,
    #[error("a PAX record is not `LENGTH KEY=VALUE`")]
    PaxRecord,
    #[error("a global header changes values of entries")]
    GlobalValue,
    #[error("the map of a sparse file is inconsistent")]
    SparseMap,
    #[error("a lone block of zeros in the middle")]
    LoneZeroBlock,
}

/// ` (NAME)` when there is a name, with unprintable bytes escaped.
struct Named<'a>(&'a [u8]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let shown = &self.0[..self.0.len().min(256)];
        write!(f, " (\"{}\")", shown.escape_ascii())
    }
}
