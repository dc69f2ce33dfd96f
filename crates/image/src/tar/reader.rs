//! Reads an archive entry by entry from a stream, holding one header at a time.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::header::{Dialect, Header};
use super::name::normalise;
use super::pax::{self, Pax};
use super::{BLOCK, Entry, Error, Extent, Kind, Limits, Malformed, Time, sparse};

/// What an archive is read from.
pub trait Input: BufRead {
    /// Moves at most `count` of the next bytes into `file`, which nobody looks at on the way. `None`:
    /// they have to be read.
    fn move_to(&mut self, _file: BorrowedFd<'_>, _count: u64) -> Result<Option<u64>, Errno> {
        Ok(None)
    }
}

impl Input for &[u8] {}
impl<R: Read> Input for BufReader<R> {}

/// A reader over an uncompressed archive.
///
/// ```text
/// while let Some(entry) = reader.next()? {
///     loop {
///         let bytes = reader.data()?;      // stored bytes of this entry, empty at its end
///         ...
///         reader.consume(bytes.len());
///     }
/// }
/// ```
/// Data that is not consumed is skipped by `next`. Of a sparse file the stored
/// extents come one after the other, without the holes.
pub struct Reader<'a> {
    source: &'a mut dyn Input,
    limits: Limits,
    /// Bytes of the archive consumed so far.
    offset: u64,
    /// Stored bytes of the current entry that have not been consumed.
    left: u64,
    /// Bytes up to the next block boundary after them.
    padding: u64,
    headers: u64,
    total: u64,
    done: bool,
}

/// What the headers before an entry's own header said.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a mut dyn Input, limits: Limits) -> Self {
        Self { source, limits, offset: 0, left: 0, padding: 0, headers: 0, total: 0, done: false }
    }

    /// Bytes of the archive consumed so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, or `None` at the end of the archive: two blocks of zeros,
    /// or the end of the stream at a block boundary. What follows the two blocks
    /// is left unread.
    #[expect(
        clippy::should_implement_trait,
        reason = "a fallible reader; an Iterator would outlive the data"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.skip(self.left)?;
        self.left = 0;
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)?;
        let mut extended = Extended::default();
        loop {
            let at = self.offset;
            let malformed = |reason| Error::Malformed { offset: at, name: Vec::new(), reason };
            let Some(header) = self.header()? else {
                return match extended {
                    Extended { pax: None, long_name: None, long_link: None } => Ok(None),
                    _ => Err(malformed(Malformed::Dangling)),
                };
            };
            self.headers += 1;
            if self.headers > self.limits.entries {
                return Err(Error::Limit { what: "entries", limit: self.limits.entries, name: Vec::new() });
            }
            match header.kind() {
                b'x' => {
                    let bytes = self.meta(&header, at, self.limits.pax)?;
                    let pax = Pax::parse(&bytes).map_err(malformed)?;
                    replace(&mut extended.pax, pax).map_err(malformed)?;
                }
                b'g' => {
                    let bytes = self.meta(&header, at, self.limits.pax)?;
                    pax::check_global(&bytes).map_err(malformed)?;
                }
                b'L' => {
                    let name = self.long(&header, at)?;
                    replace(&mut extended.long_name, name).map_err(malformed)?;
                }
                b'K' => {
                    let name = self.long(&header, at)?;
                    replace(&mut extended.long_link, name).map_err(malformed)?;
                }
                _ => return self.entry(&header, at, extended).map(Some),
            }
        }
    }

    /// Stored bytes of the current entry that are at hand; empty when all have
    /// been consumed.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = fill(self.source, offset)?;
        if bytes.is_empty() {
            return Err(Error::Truncated { offset, what: "an entry's data" });
        }
        Ok(&bytes[..bytes.len().min(left)])
    }

    /// Marks `count` bytes of what `data` gave as used.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.source.consume(count);
        self.left -= count as u64;
        self.offset += count as u64;
    }

    /// Moves stored bytes of the current entry into `file`, where the archive's source can do that
    /// better than by `data`. False: nothing was moved.
    pub fn move_to(&mut self, file: BorrowedFd<'_>) -> Result<bool, Errno> {
        let moved = self.source.move_to(file, self.left)?.unwrap_or(0);
        self.left -= moved;
        self.offset += moved;
        Ok(moved > 0)
    }

    /// The rest of the current entry's data, refused when longer than `limit`.
    pub fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        if self.left > limit {
            return Err(Error::Limit { what: "bytes of a document", limit, name: Vec::new() });
        }
        let mut all = Vec::new();
        loop {
            let bytes = self.data()?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(bytes);
            let count = bytes.len();
            self.consume(count);
        }
    }

    fn skip(&mut self, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            let bytes = fill(self.source, self.offset)?.len();
            if bytes == 0 {
                return Err(Error::Truncated { offset: self.offset, what: "an entry's data" });
            }
            let step = bytes.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.consume(step);
            self.offset += step as u64;
            count -= step as u64;
        }
        Ok(())
    }

    /// One block; `None` when the stream ends before it.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(self.source, self.offset)?;
            if bytes.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(Error::Truncated { offset: self.offset, what });
            }
            let step = bytes.len().min(BLOCK - filled);
            block[filled..filled + step].copy_from_slice(&bytes[..step]);
            self.source.consume(step);
            self.offset += step as u64;
            filled += step;
        }
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.done {
            return Ok(None);
        }
        let at = self.offset;
        let malformed = |reason| Error::Malformed { offset: at, name: Vec::new(), reason };
        let Some(block) = self.block("a header")? else {
            self.done = true;
            return Ok(None);
        };
        if block == [0; BLOCK] {
            self.done = true;
            return match self.block("the archive's end mark")? {
                Some(block) if block != [0; BLOCK] => Err(malformed(Malformed::LoneZeroBlock)),
                _ => Ok(None),
            };
        }
        Header::parse(block).map(Some).map_err(malformed)
    }

    /// The data of an extended header.
    fn meta(&mut self, header: &Header, at: u64, limit: usize) -> Result<Vec<u8>, Error> {
        let malformed = |reason| Error::Malformed { offset: at, name: Vec::new(), reason };
        let size = header.size().map_err(malformed)?;
        if size > limit as u64 {
            return Err(Error::Limit {
                what: "bytes of an extended header",
                limit: limit as u64,
                name: Vec::new(),
            });
        }
        self.left = size;
        let bytes = self.read_all(size)?;
        self.skip(padding(size))?;
        Ok(bytes)
    }

    /// The text of a GNU long name or link: ended by NUL, not empty.
    fn long(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, Error> {
        let mut text = self.meta(header, at, self.limits.name + 1)?;
        let malformed = |reason| Error::Malformed { offset: at, name: Vec::new(), reason };
        if text.last() == Some(&0) {
            text.pop();
        }
        match text {
            text if text.is_empty() => Err(malformed(Malformed::EmptyName)),
            text if text.contains(&0) => Err(malformed(Malformed::NulName)),
            text => Ok(text),
        }
    }

    fn entry(&mut self, header: &Header, at: u64, extended: Extended) -> Result<Entry, Error> {
        let Extended { pax, long_name, long_link } = extended;
        let mut pax = pax.unwrap_or_default();
        let raw = self.raw_name(header, at, &mut pax, long_name)?;
        let malformed = |reason| Error::Malformed { offset: at, name: raw.clone(), reason };
        let name = normalise(&raw).map_err(malformed)?;
        let stored = match pax.size {
            Some(size) => size,
            None => header.size().map_err(malformed)?,
        };
        let kind = match header.kind() {
            // v7 had no folders of their own: a slash at the end made one.
            0 if raw.ends_with(b"/") => self.empty(stored, Kind::Directory, &malformed)?,
            0 | b'0' | b'7' if raw.ends_with(b"/") => return Err(malformed(Malformed::SlashName)),
            0 | b'0' | b'7' => self.file(at, &raw, stored, &pax)?,
            b'S' => self.old_sparse(header, at, &raw, stored, &pax)?,
            b'1' => {
                // Some writers note the size of the file linked to; no data follows.
                let target = self.target(header, &mut pax, long_link, &raw, &malformed)?;
                let target = normalise(&target).map_err(malformed)?;
                if target.is_empty() {
                    return Err(malformed(Malformed::EmptyTarget));
                }
                Kind::Link { target }
            }
            b'2' => {
                let target = self.target(header, &mut pax, long_link, &raw, &malformed)?;
                self.empty(stored, Kind::Symlink { target }, &malformed)?
            }
            b'3' | b'4' => {
                let (major, minor) = header.device().map_err(malformed)?;
                let character = header.kind() == b'3';
                let kind =
                    if character { Kind::Character { major, minor } } else { Kind::Block { major, minor } };
                self.empty(stored, kind, &malformed)?
            }
            b'5' => self.empty(stored, Kind::Directory, &malformed)?,
            b'6' => self.empty(stored, Kind::Fifo, &malformed)?,
            other => return Err(malformed(Malformed::Type(other))),
        };
        if name.is_empty() && kind != Kind::Directory {
            return Err(malformed(Malformed::RootKind));
        }
        if raw.ends_with(b"/") && kind != Kind::Directory {
            return Err(malformed(Malformed::SlashName));
        }
        let seconds = header.mtime().map_err(malformed)?;
        Ok(Entry {
            name,
            kind,
            mode: header.mode().map_err(malformed)?,
            uid: id(pax.uid, header.uid(), "uid").map_err(malformed)?,
            gid: id(pax.gid, header.gid(), "gid").map_err(malformed)?,
            mtime: pax.mtime.unwrap_or(Time { seconds, nanoseconds: 0 }),
            xattrs: pax.xattrs,
        })
    }

    /// The entry's name from the one place that tells it.
    fn raw_name(
        &self,
        header: &Header,
        at: u64,
        pax: &mut Pax,
        long: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Error> {
        let path = pax.sparse.name.take().or_else(|| pax.path.take());
        let raw = match (path, long) {
            (Some(_), Some(name)) => {
                return Err(Error::Malformed { offset: at, name, reason: Malformed::Repeated });
            }
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => header.name(),
        };
        // A leading slash, which is taken away, does not count.
        if raw.len() > self.limits.name + 1 {
            return Err(Error::Limit { what: "bytes of a name", limit: self.limits.name as u64, name: raw });
        }
        Ok(raw)
    }

    fn target(
        &self,
        header: &Header,
        pax: &mut Pax,
        long: Option<Vec<u8>>,
        name: &[u8],
        malformed: &dyn Fn(Malformed) -> Error,
    ) -> Result<Vec<u8>, Error> {
        let target = match (pax.linkpath.take(), long) {
            (Some(_), Some(_)) => return Err(malformed(Malformed::Repeated)),
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => header.link(),
        };
        if target.is_empty() {
            return Err(malformed(Malformed::EmptyTarget));
        }
        if target.len() > self.limits.name {
            let limit = self.limits.name as u64;
            return Err(Error::Limit { what: "bytes of a link's target", limit, name: name.to_vec() });
        }
        Ok(target)
    }

    /// An entry that can have no data. (GNU tar would skip what `size` says, Go's
    /// reader would take it for the next header.)
    fn empty(&self, stored: u64, kind: Kind, malformed: &dyn Fn(Malformed) -> Error) -> Result<Kind, Error> {
        if stored == 0 { Ok(kind) } else { Err(malformed(Malformed::UnexpectedData)) }
    }

    /// A regular file, sparse if the PAX header says so.
    fn file(&mut self, at: u64, name: &[u8], stored: u64, pax: &Pax) -> Result<Kind, Error> {
        let malformed = |reason| Error::Malformed { offset: at, name: name.to_vec(), reason };
        self.left = stored;
        self.padding = padding(stored);
        let sparse = &pax.sparse;
        if sparse.is_empty() {
            self.count(stored, name)?;
            return Ok(Kind::File { size: stored, extents: None });
        }
        let (extents, size) = match (sparse.major.unwrap_or(0), sparse.minor.unwrap_or(0)) {
            (0, 0 | 1) => {
                let map = sparse.map.as_deref().unwrap_or(&[]);
                let count = map.len() as u64 / 2;
                if sparse.numblocks.is_some_and(|blocks| blocks != count) {
                    return Err(malformed(Malformed::SparseMap));
                }
                (sparse::pairs(map).map_err(malformed)?, sparse.size)
            }
            (1, 0) => (self.sparse_map(at, name)?, sparse.realsize),
            _ => return Err(malformed(Malformed::SparseMap)),
        };
        let size = size.ok_or_else(|| malformed(Malformed::SparseMap))?;
        self.sparse_file(at, name, extents, size)
    }

    fn sparse_file(&mut self, at: u64, name: &[u8], extents: Vec<Extent>, size: u64) -> Result<Kind, Error> {
        if extents.len() > self.limits.extents {
            let limit = self.limits.extents as u64;
            return Err(Error::Limit { what: "parts of a sparse file", limit, name: name.to_vec() });
        }
        let extents = sparse::check(extents, size, self.left).map_err(|reason| Error::Malformed {
            offset: at,
            name: name.to_vec(),
            reason,
        })?;
        self.count(size, name)?;
        Ok(Kind::File { size, extents: Some(extents) })
    }

    /// Version 1.0: the map stands before the data, as decimal lines padded to a
    /// block: the count of extents, then offset and length of each.
    fn sparse_map(&mut self, at: u64, name: &[u8]) -> Result<Vec<Extent>, Error> {
        let malformed = |reason| Error::Malformed { offset: at, name: name.to_vec(), reason };
        let limit = self.limits.extents as u64;
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while (numbers.len() as u64) < wanted {
            if self.left < BLOCK as u64 {
                return Err(malformed(Malformed::SparseMap));
            }
            let block = self.block("a sparse file's map")?;
            let block = block.ok_or(Error::Truncated { offset: self.offset, what: "a sparse file's map" })?;
            self.left -= BLOCK as u64;
            for byte in block {
                if numbers.len() as u64 == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(malformed(Malformed::SparseMap));
                    }
                    continue;
                }
                numbers.push(pax::decimal(&line, "sparse map").map_err(malformed)?);
                line.clear();
                if numbers.len() == 1 {
                    if numbers[0] > limit {
                        return Err(Error::Limit {
                            what: "parts of a sparse file",
                            limit,
                            name: name.to_vec(),
                        });
                    }
                    wanted = 1 + 2 * numbers[0];
                }
            }
        }
        sparse::pairs(&numbers[1..]).map_err(malformed)
    }

    /// The old GNU form: four extents in the header, 21 in each block after it.
    fn old_sparse(
        &mut self,
        header: &Header,
        at: u64,
        name: &[u8],
        stored: u64,
        pax: &Pax,
    ) -> Result<Kind, Error> {
        let malformed = |reason| Error::Malformed { offset: at, name: name.to_vec(), reason };
        if header.dialect != Dialect::Gnu || !pax.sparse.is_empty() || name.ends_with(b"/") {
            return Err(malformed(Malformed::SparseMap));
        }
        let size = super::header::unsigned(&header.block[483..495], "sparse size").map_err(malformed)?;
        let mut extents = Vec::new();
        sparse::old_gnu(&header.block[386..482], &mut extents).map_err(malformed)?;
        let mut more = header.block[482] != 0;
        while more {
            if extents.len() > self.limits.extents {
                let limit = self.limits.extents as u64;
                return Err(Error::Limit { what: "parts of a sparse file", limit, name: name.to_vec() });
            }
            let before = extents.len();
            let block = self.block("a sparse file's map")?;
            let block = block.ok_or(Error::Truncated { offset: self.offset, what: "a sparse file's map" })?;
            sparse::old_gnu(&block[..504], &mut extents).map_err(malformed)?;
            more = block[504] != 0;
            // Without this, empty blocks could follow each other for ever.
            if extents.len() == before {
                return Err(malformed(Malformed::SparseMap));
            }
        }
        self.left = stored;
        self.padding = padding(stored);
        self.sparse_file(at, name, extents, size)
    }

    fn count(&mut self, size: u64, name: &[u8]) -> Result<(), Error> {
        self.total = self.total.saturating_add(size);
        if self.total > self.limits.total {
            return Err(Error::Limit {
                what: "bytes of files",
                limit: self.limits.total,
                name: name.to_vec(),
            });
        }
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.data().map_err(std::io::Error::other)?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// What the source has at hand, interrupted calls retried.
fn fill(source: &mut dyn BufRead, offset: u64) -> Result<&[u8], Error> {
    // The first loop finds a call that works; the second call returns its bytes
    // (a borrow cannot leave a loop that may go on).
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { offset, source }),
        }
    }
    source.fill_buf().map_err(|source| Error::Read { offset, source })
}

fn replace<T>(slot: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match slot.replace(value) {
        Some(_) => Err(Malformed::Repeated),
        None => Ok(()),
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// A user or group: PAX before ustar; 2³²-1 means "nobody changes" to chown(2).
fn id(pax: Option<u64>, header: Result<u64, Malformed>, field: &'static str) -> Result<u32, Malformed> {
    let number = match pax {
        Some(number) => number,
        None => header?,
    };
    u32::try_from(number).ok().filter(|&id| id != u32::MAX).ok_or(Malformed::Number(field))
}
