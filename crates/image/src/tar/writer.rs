//! Writes archives: the same entries always give the same bytes.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use super::{BLOCK, Entry, Extent, Kind, Limits, Time, header, pax};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
    #[error("{left} bytes of data are missing before the next entry")]
    Unfinished { left: u64 },
    #[error("{count} bytes more than the entry's size")]
    Excess { count: u64 },
    #[error(
        "with \"{}\" the archive would exceed the limit of {limit} {what}: remove it, or keep it in a volume",
        name.escape_ascii()
    )]
    Limit { what: &'static str, limit: u64, name: Vec<u8> },
}

/// What an archive is written to.
pub trait Output: Write {
    /// Moves at most `count` bytes, those of `file` from the offset `at` on, without looking at them.
    /// `None`: they have to be written.
    fn move_from(&mut self, _file: BorrowedFd<'_>, _at: u64, _count: u64) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl Output for Vec<u8> {}
impl<W: Write> Output for io::BufWriter<W> {}
impl Output for &mut (dyn Write + '_) {}

/// A writer of ustar archives that adds a PAX header only to entries with a value
/// that ustar cannot hold: long names and targets, large sizes and ids, times with
/// nanoseconds, extended attributes, sparse maps (PAX 1.0).
///
/// ```text
/// writer.begin(&entry)?;  writer.data(bytes)?; …   // as many bytes as entry.kind.stored()
/// writer.finish()?;
/// ```
pub struct Writer<'a> {
    out: &'a mut dyn Output,
    left: u64,
    padding: u64,
    limits: Option<Limits>,
    headers: u64,
    total: u64,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut dyn Output) -> Self {
        Self { out, left: 0, padding: 0, limits: None, headers: 0, total: 0 }
    }

    /// One that writes nothing which a reader with these limits refuses.
    pub fn limited(out: &'a mut dyn Output, limits: Limits) -> Self {
        Self { limits: Some(limits), ..Self::new(out) }
    }

    /// Writes the headers of `entry`. Its stored bytes come next, through `data`.
    pub fn begin(&mut self, entry: &Entry) -> Result<(), WriteError> {
        self.end_entry()?;
        self.check(entry)?;
        let mut name = entry.name.clone();
        match entry.kind {
            Kind::Directory if name.is_empty() => name = b"./".to_vec(),
            // The root of a tree whose names are to begin with a slash.
            Kind::Directory if name == b"/" => {}
            Kind::Directory => name.push(b'/'),
            _ => {}
        }
        let mut block = [0; BLOCK];
        let mut records = Records::default();
        let map = match &entry.kind {
            Kind::File { size, extents: Some(extents) } => {
                records.add(b"GNU.sparse.major", b"1");
                records.add(b"GNU.sparse.minor", b"0");
                records.add(b"GNU.sparse.name", &name);
                records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
                name = beside(b"GNUSparseFile.0", &name);
                sparse_map(extents, *size)
            }
            _ => Vec::new(),
        };
        let stored = entry.kind.stored() + map.len() as u64;
        if !put_name(&mut block, &name) {
            records.add(b"path", &name);
        }
        put_kind(&mut block, &entry.kind, &mut records);
        put_numbers(&mut block, entry, stored, &mut records);
        for (key, value) in &entry.xattrs {
            records.add(&[b"SCHILY.xattr.", &pax::encode(key)[..]].concat(), value);
        }
        if !records.0.is_empty() {
            self.pax(&name, records)?;
        }
        seal(&mut block);
        self.out.write_all(&block)?;
        self.left = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.data(&map)
    }

    /// Adds to the data of the entry begun last.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let count = bytes.len() as u64;
        if count > self.left {
            return Err(WriteError::Excess { count: count - self.left });
        }
        self.out.write_all(bytes)?;
        self.left -= count;
        Ok(())
    }

    /// The same with at most `count` bytes of `file` from `at` on, where what the archive is written to
    /// can take them better than by `data`; how many it took.
    pub fn move_from(&mut self, file: BorrowedFd<'_>, at: u64, count: u64) -> Result<u64, WriteError> {
        let moved = self.out.move_from(file, at, count.min(self.left))?.unwrap_or(0);
        self.left -= moved;
        Ok(moved)
    }

    /// An entry with all its data at hand.
    pub fn file(&mut self, entry: &Entry, data: &[u8]) -> Result<(), WriteError> {
        self.begin(entry)?;
        self.data(data)
    }

    /// Ends the archive: two blocks of zeros.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.end_entry()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(())
    }

    fn end_entry(&mut self) -> Result<(), WriteError> {
        if self.left > 0 {
            return Err(WriteError::Unfinished { left: self.left });
        }
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..padding])?;
        Ok(())
    }

    fn check(&mut self, entry: &Entry) -> Result<(), WriteError> {
        let (size, extents) = match &entry.kind {
            Kind::File { size, extents } => {
                let parts =
                    |extents: &Vec<Extent>| extents.len() + usize::from(end(extents, *size).is_some());
                (*size, extents.as_ref().map_or(0, parts))
            }
            _ => (0, 0),
        };
        let target = match &entry.kind {
            Kind::Symlink { target } | Kind::Link { target } => target.len(),
            _ => 0,
        };
        self.headers += 1;
        self.total = self.total.saturating_add(size);
        let Some(limits) = &self.limits else { return Ok(()) };
        for (what, found, limit) in [
            ("entries", self.headers, limits.entries),
            ("bytes of a name", entry.name.len() as u64, limits.name as u64),
            ("bytes of a link's target", target as u64, limits.name as u64),
            ("parts of a sparse file", extents as u64, limits.extents as u64),
            ("bytes of files", self.total, limits.total),
        ] {
            if found > limit {
                return Err(WriteError::Limit { what, limit, name: entry.name.clone() });
            }
        }
        Ok(())
    }

    fn pax(&mut self, name: &[u8], mut records: Records) -> Result<(), WriteError> {
        records.0.sort();
        let body: Vec<u8> = records.0.into_iter().flat_map(|(_, record)| record).collect();
        self.headers += 1;
        if let Some(limit) = self.limits.as_ref().map(|limits| limits.pax).filter(|limit| body.len() > *limit)
        {
            let (what, limit) = ("bytes of an extended header", limit as u64);
            return Err(WriteError::Limit { what, limit, name: name.to_vec() });
        }
        let mut block = [0; BLOCK];
        let name = beside(b"PaxHeaders", name.strip_suffix(b"/").unwrap_or(name));
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        block[156] = b'x';
        put_octal(&mut block[100..108], 0o644);
        put_octal(&mut block[108..116], 0);
        put_octal(&mut block[116..124], 0);
        put_octal(&mut block[124..136], body.len() as u64);
        put_octal(&mut block[136..148], 0);
        seal(&mut block);
        self.out.write_all(&block)?;
        self.out.write_all(&body)?;
        let padding = body.len().next_multiple_of(BLOCK) - body.len();
        self.out.write_all(&[0; BLOCK][..padding])?;
        Ok(())
    }
}

/// PAX records: the key to sort by, and the complete record.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// A record's length counts its own digits.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let mut record = length.to_string().into_bytes();
        record.push(b' ');
        record.extend_from_slice(key);
        record.push(b'=');
        record.extend_from_slice(value);
        record.push(b'\n');
        self.0.push((key.to_vec(), record));
    }
}

/// `dir/base` → `dir/FOLDER/base`, as pax(1) names its headers.
fn beside(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => [&name[..slash], b"/", folder, &name[slash..]].concat(),
        None => [folder, b"/", name].concat(),
    }
}

/// Puts the name into the name field, or splits it at a slash into prefix and
/// name. False (and a shortened name) if neither holds it.
fn put_name(block: &mut [u8; BLOCK], name: &[u8]) -> bool {
    if name.len() <= 100 {
        block[..name.len()].copy_from_slice(name);
        return true;
    }
    let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for slash in slashes {
        let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
        if !prefix.is_empty() && prefix.len() <= 155 && !rest.is_empty() && rest.len() <= 100 {
            block[345..345 + prefix.len()].copy_from_slice(prefix);
            block[..rest.len()].copy_from_slice(rest);
            return true;
        }
    }
    block[..100].copy_from_slice(&name[..100]);
    false
}

fn put_kind(block: &mut [u8; BLOCK], kind: &Kind, pax: &mut Records) {
    let mut link = |target: &Vec<u8>| {
        let fits = target.len().min(100);
        block[157..157 + fits].copy_from_slice(&target[..fits]);
        if fits < target.len() {
            pax.add(b"linkpath", target);
        }
    };
    match kind {
        Kind::Symlink { target } | Kind::Link { target } => link(target),
        _ => {}
    }
    block[156] = match kind {
        Kind::File { .. } => b'0',
        Kind::Link { .. } => b'1',
        Kind::Symlink { .. } => b'2',
        Kind::Character { .. } => b'3',
        Kind::Block { .. } => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    let (major, minor) = match *kind {
        Kind::Character { major, minor } | Kind::Block { major, minor } => (major, minor),
        _ => (0, 0),
    };
    // Linux device numbers (12 and 20 bits) always fit the 21 bits of the field.
    put_octal(&mut block[329..337], u64::from(major));
    put_octal(&mut block[337..345], u64::from(minor));
}

fn put_numbers(block: &mut [u8; BLOCK], entry: &Entry, stored: u64, pax: &mut Records) {
    put_octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
    let mut number = |field: &mut [u8], value: u64, key: &[u8]| {
        if !put_octal(field, value) {
            pax.add(key, value.to_string().as_bytes());
        }
    };
    number(&mut block[108..116], u64::from(entry.uid), b"uid");
    number(&mut block[116..124], u64::from(entry.gid), b"gid");
    number(&mut block[124..136], stored, b"size");
    let Time { seconds, nanoseconds } = entry.mtime;
    let whole = u64::try_from(seconds).is_ok_and(|seconds| put_octal(&mut block[136..148], seconds));
    if !whole {
        put_octal(&mut block[136..148], 0);
    }
    if !whole || nanoseconds != 0 {
        pax.add(b"mtime", decimal(entry.mtime).as_bytes());
    }
}

/// Octal digits and a NUL. False (and zeros) if the number does not fit.
fn put_octal(field: &mut [u8], number: u64) -> bool {
    let digits = field.len() - 1;
    let fits = number >> (3 * digits).min(63) == 0;
    let text = format!("{:0digits$o}", if fits { number } else { 0 });
    field[..digits].copy_from_slice(text.as_bytes());
    fits
}

/// `-1.5` is written for one and a half seconds before 1970.
fn decimal(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    let text = match (seconds < 0, nanoseconds) {
        (_, 0) => return seconds.to_string(),
        (false, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (true, nanoseconds) => {
            format!("-{}.{:09}", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds)
        }
    };
    text.trim_end_matches('0').to_owned()
}

/// The empty extent that ends a file which ends with a hole: GNU tar takes the file's
/// size from the last extent.
fn end(extents: &[Extent], size: u64) -> Option<Extent> {
    let ends = extents.last().is_some_and(|extent| extent.offset + extent.length == size);
    (!ends).then_some(Extent { offset: size, length: 0 })
}

/// The map of PAX 1.0.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    let last = end(extents, size);
    let mut map = format!("{}\n", extents.len() + usize::from(last.is_some()));
    for Extent { offset, length } in extents.iter().chain(&last) {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Magic and checksum: the last fields to be filled in.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = header::checksum(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
