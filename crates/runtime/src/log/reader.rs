//! Reading a log, while it is written to or not.
//!
//! [`Reader::next`] hands out entries that borrow from one large block, so a line costs neither a
//! call to the kernel nor an allocation. `None` means: nothing more for now. To follow, wait on a
//! [`super::Watch`] and ask again.
//!
//! What the writer does meanwhile needs no lock:
//! - it appends: a frame that is not whole yet is read again, from its beginning, next time;
//! - it begins a new segment: it never goes back, so a reader that sees a newer segment reads the
//!   present one to its end and moves on;
//! - it deletes old segments: an open one stays readable, and the next is the oldest still there.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::frame::{self, Entry, FRAME_MAX, Found, HEAD, SEGMENT_HEAD};
use super::writer::last_whole;
use super::{open_segment, segment_name, segments};

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;

/// A log could not be read.
#[derive(Debug, thiserror::Error)]
#[error("log {dir}: {call} {name}")]
pub struct ReadError {
    pub dir: PathBuf,
    /// The call that failed, and on what.
    pub call: &'static str,
    pub name: String,
    pub source: Errno,
}

/// A place between two entries; a follower keeps it to go on later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub segment: u64,
    /// Bytes from the segment's beginning.
    pub offset: u64,
}

/// Which part of a log to read. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the last so many entries of those that are there when the log is opened.
    pub tail: Option<u64>,
    /// Nothing older than this.
    pub since: Option<i64>,
    /// Nothing younger than this: the reader has ended at the first entry that is.
    pub until: Option<i64>,
    /// Go on here, whatever `tail` says.
    pub from: Option<Cursor>,
}

/// Reads a log from the oldest wanted entry to the newest there is.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    folder: OwnedFd,
    options: Options,
    /// The segment being read; `None` before the writer has made the first.
    segment: Option<Segment>,
    block: Vec<u8>,
    /// `block[at..filled]` is not handed out yet.
    at: usize,
    filled: usize,
    ended: bool,
}

#[derive(Debug)]
struct Segment {
    file: OwnedFd,
    number: u64,
    /// Where `block[at]` is in the file.
    offset: u64,
}

impl Reader {
    /// Opens the log in `dir`. A log without a segment yet is an empty one.
    pub fn open(dir: &Path, options: Options) -> Result<Reader, ReadError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let folder = rustix::fs::open(dir, flags, Mode::empty()).map_err(|source| ReadError {
            dir: dir.to_path_buf(),
            call: "open",
            name: String::from("the folder"),
            source,
        })?;
        let mut reader = Reader {
            dir: dir.to_path_buf(),
            folder,
            options,
            segment: None,
            block: Vec::new(),
            at: 0,
            filled: 0,
            ended: false,
        };
        let start = match (options.from, options.tail) {
            (Some(cursor), _) => Some(cursor),
            (None, Some(count)) => reader.find_tail(count)?,
            (None, None) => reader.find_since()?,
        };
        if let Some(cursor) = start {
            // The segment may have been deleted meanwhile: then the next one is the first.
            reader.segment = reader.open_at(cursor)?;
            if reader.segment.is_none() {
                reader.segment = reader.open_after(cursor.segment)?;
            }
        }
        Ok(reader)
    }

    /// The next entry, or `None` if there is none for now, or, after [`Reader::ended`], ever.
    #[expect(clippy::should_implement_trait, reason = "the entry borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        let since = self.options.since.unwrap_or(i64::MIN);
        let until = self.options.until.unwrap_or(i64::MAX);
        loop {
            if self.ended {
                return Ok(None);
            }
            let begin = self.at;
            match frame::first(&self.block[begin..self.filled]) {
                Found::Whole { entry, size } => {
                    let time = entry.time();
                    if time > until {
                        self.ended = true;
                        return Ok(None);
                    }
                    self.at += size;
                    if let Some(segment) = &mut self.segment {
                        segment.offset += size as u64;
                    }
                    if time >= since {
                        // Parsed again because the borrow checker cannot see that this path
                        // leaves the loop; the branch predictor can.
                        return match frame::first(&self.block[begin..self.filled]) {
                            Found::Whole { entry, .. } => Ok(Some(entry)),
                            Found::Cut | Found::Torn => Ok(None),
                        };
                    }
                }
                Found::Cut | Found::Torn => {
                    if !self.refill()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// An entry after `until` was met: there is nothing to wait for.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Where the next entry begins; `None` while the log has no segment.
    pub fn cursor(&self) -> Option<Cursor> {
        self.segment.as_ref().map(|segment| Cursor { segment: segment.number, offset: segment.offset })
    }

    /// Reads on from the first byte not handed out, in this segment or the next; says whether
    /// that gave a whole frame.
    fn refill(&mut self) -> Result<bool, ReadError> {
        loop {
            let Some(segment) = &self.segment else {
                self.segment = self.open_after(0)?;
                if self.segment.is_none() {
                    return Ok(false);
                }
                continue;
            };
            // Asked before reading: if there is a newer segment now, this one is complete.
            let (number, offset) = (segment.number, segment.offset);
            let next = self.newer_than(number)?;
            self.block.resize(BLOCK, 0);
            let got = self.read(offset)?;
            self.at = 0;
            self.filled = got;
            if let Found::Whole { .. } = frame::first(&self.block[..got]) {
                return Ok(true);
            }
            self.filled = 0;
            if next.is_none() {
                return Ok(false);
            }
            self.segment = self.open_after(number)?;
        }
    }

    fn read(&mut self, offset: u64) -> Result<usize, ReadError> {
        let Some(segment) = &self.segment else {
            return Ok(0);
        };
        let number = segment.number;
        loop {
            match rustix::io::pread(&segment.file, &mut self.block, offset) {
                Ok(got) => return Ok(got),
                Err(Errno::INTR) => {}
                Err(source) => return Err(self.failed("read", segment_name(number), source)),
            }
        }
    }

    fn newer_than(&self, number: u64) -> Result<Option<u64>, ReadError> {
        let numbers = self.numbers()?;
        Ok(numbers.into_iter().find(|&other| other > number))
    }

    fn numbers(&self) -> Result<Vec<u64>, ReadError> {
        segments(&self.folder).map_err(|source| self.failed("list", String::from("the segments"), source))
    }

    /// The oldest segment after `number` that is (still) there, at its first frame.
    fn open_after(&self, number: u64) -> Result<Option<Segment>, ReadError> {
        let mut after = number;
        while let Some(number) = self.newer_than(after)? {
            let offset = SEGMENT_HEAD as u64;
            let opened = self.open_at(Cursor { segment: number, offset })?;
            if opened.is_some() {
                return Ok(opened);
            }
            after = number;
        }
        Ok(None)
    }

    /// `None` if the segment is not there (any more).
    fn open_at(&self, cursor: Cursor) -> Result<Option<Segment>, ReadError> {
        match open_segment(&self.folder, cursor.segment, OFlags::RDONLY) {
            Ok(file) => Ok(Some(Segment {
                file,
                number: cursor.segment,
                offset: cursor.offset.max(SEGMENT_HEAD as u64),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(self.failed("open", segment_name(cursor.segment), source)),
        }
    }

    /// The first frame of the last segment that begins before `since`; of the oldest without.
    fn find_since(&self) -> Result<Option<Cursor>, ReadError> {
        let numbers = self.numbers()?;
        let Some(&oldest) = numbers.first() else {
            return Ok(None);
        };
        let mut start = oldest;
        if let Some(since) = self.options.since {
            for &number in numbers.iter().rev() {
                start = number;
                if self.first_time(number)?.is_some_and(|first| first < since) {
                    break;
                }
            }
        }
        Ok(Some(Cursor { segment: start, offset: SEGMENT_HEAD as u64 }))
    }

    fn first_time(&self, number: u64) -> Result<Option<i64>, ReadError> {
        let Some(segment) = self.open_at(Cursor { segment: number, offset: 0 })? else {
            return Ok(None);
        };
        let mut head = [0; SEGMENT_HEAD];
        let got = rustix::io::pread(&segment.file, &mut head, 0)
            .map_err(|source| self.failed("read", segment_name(number), source))?;
        Ok(frame::segment_time(&head[..got]))
    }

    /// Where the last `count` entries begin.
    fn find_tail(&self, count: u64) -> Result<Option<Cursor>, ReadError> {
        let mut wanted = count;
        let mut start = None;
        for &number in self.numbers()?.iter().rev() {
            let Some(segment) = self.open_at(Cursor { segment: number, offset: 0 })? else {
                continue;
            };
            let failed = |source| self.failed("read", segment_name(number), source);
            let (offset, found) = back(&segment.file, wanted).map_err(failed)?;
            start = Some(Cursor { segment: number, offset });
            wanted -= found;
            if wanted == 0 {
                break;
            }
        }
        Ok(start)
    }

    fn failed(&self, call: &'static str, name: String, source: Errno) -> ReadError {
        ReadError { dir: self.dir.clone(), call, name, source }
    }
}

/// Walks back over at most `count` frames from the end of a segment: where the first of them
/// begins, and how many they are.
fn back(file: &OwnedFd, count: u64) -> Result<(u64, u64), Errno> {
    let size = rustix::fs::fstat(file)?.st_size.max(0) as u64;
    let mut end = size.max(SEGMENT_HEAD as u64);
    // A writer at work, or one that was killed, may have left a torn frame at the end.
    if !ends_whole(file, end)? {
        end = last_whole(file, SEGMENT_HEAD as u64)?;
    }
    let mut block = vec![0; 64 * 1024];
    let mut found = 0;
    while found < count && end > SEGMENT_HEAD as u64 {
        let begin = end.saturating_sub(block.len() as u64).max(SEGMENT_HEAD as u64);
        let want = (end - begin) as usize;
        let got = rustix::io::pread(file, &mut block[..want], begin)?;
        let mut bytes = &block[..got.min(want)];
        let before = end;
        while found < count {
            match frame::last_size(bytes) {
                Some(frame) if frame <= bytes.len() => {
                    bytes = &bytes[..bytes.len() - frame];
                    end -= frame as u64;
                    found += 1;
                }
                _ => break,
            }
        }
        if end == before {
            // Not one whole frame: the segment is damaged here, what is after it can be read.
            break;
        }
    }
    Ok((end, found))
}

/// Whether a whole frame (or nothing) ends at `end`.
fn ends_whole(file: &OwnedFd, end: u64) -> Result<bool, Errno> {
    if end == SEGMENT_HEAD as u64 {
        return Ok(true);
    }
    let mut block = vec![0; FRAME_MAX];
    let begin = end.saturating_sub(FRAME_MAX as u64).max(SEGMENT_HEAD as u64);
    let got = rustix::io::pread(file, &mut block[..(end - begin) as usize], begin)?;
    let bytes = &block[..got];
    Ok(match frame::last_size(bytes) {
        Some(size) if size <= bytes.len() && size >= HEAD => matches!(
            frame::first(&bytes[bytes.len() - size..]),
            Found::Whole { size: again, .. } if again == size
        ),
        _ => false,
    })
}
