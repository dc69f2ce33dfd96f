//! Frames as bytes: how one is laid out, and how it is found again from either end.

/// A longer line is cut into pieces of this size, as the reference does.
pub const LINE_MAX: usize = 16 * 1024;

/// Which of the two output streams a line came from; a terminal has only `Out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// One thing that a log says. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    Line {
        time: i64,
        stream: Stream,
        /// The line does not end here: no newline ends `bytes`.
        partial: bool,
        /// As the container wrote them, newline included.
        bytes: &'a [u8],
    },
    /// So many lines found no room on the disk before this moment.
    Lost { time: i64, lines: u64 },
}

impl Entry<'_> {
    pub fn time(&self) -> i64 {
        match *self {
            Entry::Line { time, .. } | Entry::Lost { time, .. } => time,
        }
    }
}

pub(super) const MAGIC: [u8; 8] = *b"HULLLOG1";
/// Bytes before the first frame of a segment.
pub(super) const SEGMENT_HEAD: usize = 16;
/// Bytes of a frame before its payload, and after it.
pub(super) const HEAD: usize = 12;
pub(super) const TAIL: usize = 4;
/// The largest frame there can be.
pub(super) const FRAME_MAX: usize = HEAD + LINE_MAX + TAIL;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const LOST: u8 = 3;
const PARTIAL: u8 = 0x10;

/// Sixteen bytes for the head of a segment.
pub(super) fn segment_head(time: i64) -> [u8; SEGMENT_HEAD] {
    let mut head = [0; SEGMENT_HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..].copy_from_slice(&time.to_le_bytes());
    head
}

/// The first time of a segment, if these bytes begin one.
pub(super) fn segment_time(head: &[u8]) -> Option<i64> {
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (time, _) = rest.split_first_chunk::<8>()?;
    (*magic == MAGIC).then(|| i64::from_le_bytes(*time))
}

/// Appends a line's frame; `bytes` are at most [`LINE_MAX`].
pub(super) fn put_line(out: &mut Vec<u8>, time: i64, stream: Stream, bytes: &[u8]) {
    let kind = match stream {
        Stream::Out => STDOUT,
        Stream::Err => STDERR,
    };
    let partial = if bytes.last() == Some(&b'\n') { 0 } else { PARTIAL };
    put(out, kind | partial, time, bytes);
}

pub(super) fn put_lost(out: &mut Vec<u8>, time: i64, lines: u64) {
    put(out, LOST, time, &lines.to_le_bytes());
}

fn put(out: &mut Vec<u8>, kind: u8, time: i64, payload: &[u8]) {
    debug_assert!(payload.len() <= LINE_MAX);
    let word = ((payload.len() as u32) << 8 | u32::from(kind)).to_le_bytes();
    out.reserve(HEAD + payload.len() + TAIL);
    out.extend_from_slice(&word);
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&word);
}

/// What the bytes at some place are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A frame of `size` bytes.
    Whole { entry: Entry<'a>, size: usize },
    /// The beginning of what may be a frame.
    Cut,
    /// No frame.
    Torn,
}

/// Reads the frame that `bytes` begin with.
#[inline]
pub(super) fn first(bytes: &[u8]) -> Found<'_> {
    let Some((word, rest)) = bytes.split_first_chunk::<4>() else {
        return Found::Cut;
    };
    let Some((length, kind)) = split(*word) else {
        return Found::Torn;
    };
    let Some((time, rest)) = rest.split_first_chunk::<8>() else {
        return Found::Cut;
    };
    if rest.len() < length + TAIL {
        return Found::Cut;
    }
    let (payload, rest) = rest.split_at(length);
    if rest[..TAIL] != *word {
        return Found::Torn;
    }
    match entry(kind, i64::from_le_bytes(*time), payload) {
        Some(entry) => Found::Whole { entry, size: HEAD + length + TAIL },
        None => Found::Torn,
    }
}

/// The size of the frame that `bytes` end with, judged by its last word alone; the frame's first
/// word must still be compared.
pub(super) fn last_size(bytes: &[u8]) -> Option<usize> {
    let (_, word) = bytes.split_last_chunk::<TAIL>()?;
    split(*word).map(|(length, _)| HEAD + length + TAIL)
}

/// Length and kind; `None` where no writer of ours made the word.
fn split(word: [u8; 4]) -> Option<(usize, u8)> {
    let word = u32::from_le_bytes(word);
    let length = (word >> 8) as usize;
    let kind = word as u8;
    let known = matches!(kind & !PARTIAL, STDOUT | STDERR) || kind == LOST;
    (known && length <= LINE_MAX).then_some((length, kind))
}

fn entry(kind: u8, time: i64, payload: &[u8]) -> Option<Entry<'_>> {
    let stream = match kind & !PARTIAL {
        STDOUT => Stream::Out,
        STDERR => Stream::Err,
        _ => {
            let lines = u64::from_le_bytes(payload.try_into().ok()?);
            return Some(Entry::Lost { time, lines });
        }
    };
    Some(Entry::Line { time, stream, partial: kind & PARTIAL != 0, bytes: payload })
}

/// Bytes from the front of `bytes` that are whole frames, and how many frames they are.
pub(super) fn whole(bytes: &[u8]) -> (usize, u64) {
    let mut at = 0;
    let mut frames = 0;
    while let Found::Whole { size, .. } = first(&bytes[at..]) {
        at += size;
        frames += 1;
    }
    (at, frames)
}

/// Walks any bytes from both ends; whole frames must be the same ones.
#[doc(hidden)]
pub fn fuzz_frames(data: &[u8]) {
    let (end, frames) = whole(data);
    let mut at = end;
    let mut back = 0;
    while back < frames {
        let Some(size) = last_size(&data[..at]) else {
            panic!("a whole frame has no last word");
        };
        at = at.checked_sub(size).unwrap_or_else(|| panic!("frame {back} begins before the data"));
        assert!(matches!(first(&data[at..]), Found::Whole { size: again, .. } if again == size));
        back += 1;
    }
    assert_eq!(at, 0);
    if let Some(size) = last_size(data) {
        assert!(size <= FRAME_MAX);
    }
}
