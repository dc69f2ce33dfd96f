//! The one local format in which a shim keeps a container's output, and from which `logs` and
//! the log drivers read it.
//!
//! Why an own format: the reference's JSON costs two seconds a million lines to write and five to
//! read; text loses times and streams. Here a line costs 16 bytes more than itself, is written by
//! one `pwrite` with all others of a wake-up, and is read without being copied or allocated.
//!
//! A log is a folder of segments, `0000000001.log` and up; only the newest is written to.
//!
//! ```text
//! segment   "HULLLOG1" | first time: i64 | frame | frame | …
//! frame     word: u32 | time: i64 | payload | word: u32          all little-endian
//! word      payload length << 8 | kind
//! kind      1 stdout, 2 stderr, +0x10 the line goes on in the next frame of this stream
//!           3 lost: the payload is a u64, the number of frames that found no room on the disk
//! ```
//!
//! - The payload is the bytes as the container wrote them, newline included: a reader that wants
//!   the bare stream just copies payloads.
//! - A line longer than [`LINE_MAX`] is cut there, as the reference cuts it; so is the last line
//!   before the end of the stream if it has no newline. Both have the flag `0x10`.
//! - The word stands at both ends, so that the last N lines are found by walking backwards, and a
//!   frame that a kill or a full disk tore is recognised.
//! - The first time in a segment's head is the index for `since`: segments before the last one
//!   that begins earlier are not opened. Times are the wall clock's when the bytes were read; a
//!   clock set back is kept as it is, and `since` is then only as good as the clock.
//!
//! Architecture invariant: the writer never blocks its caller on a full disk and never fails; it
//! counts what it dropped ([`Entry::Lost`] tells, once there is room again).

mod frame;
mod reader;
mod watch;
mod writer;

pub use frame::{Entry, LINE_MAX, Stream};
pub use reader::{Cursor, Options, ReadError, Reader};
pub use watch::Watch;
pub use writer::{OpenError, Writer};

/// The entry point for fuzzing: any bytes as a segment's frames.
#[doc(hidden)]
pub mod fuzz {
    pub use super::frame::fuzz_frames;
}

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

/// The name of segment `number` in its folder.
fn segment_name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The number in a segment's name; `None` for other files.
fn segment_number(name: &CStr) -> Option<u64> {
    let digits = name.to_str().ok()?.strip_suffix(".log")?;
    if digits.len() < 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The numbers of the segments in a folder, oldest first.
fn segments(folder: &OwnedFd) -> Result<Vec<u64>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        found.extend(segment_number(entry?.file_name()));
    }
    found.sort_unstable();
    Ok(found)
}

fn open_segment(folder: &OwnedFd, number: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        folder.as_fd(),
        segment_name(number),
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::RUSR | Mode::WUSR,
    )
}

#[cfg(test)]
mod tests;
