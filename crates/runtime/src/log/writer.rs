//! The shim's end of a log.
//!
//! [`Writer::push`] cuts what was read from the container into lines and lays their frames into
//! one buffer; [`Writer::flush`], called once per wake-up, puts that buffer on the disk by one
//! `pwrite`. Whole lines never wait; the beginning of a line waits for its newline, for
//! [`LINE_MAX`] bytes or for the end of the stream.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use memchr::memchr;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::frame::{self, LINE_MAX, SEGMENT_HEAD, Stream};
use super::{open_segment, segment_name, segments};
use crate::bundle::LogSettings;

/// A container's log could not be opened for writing.
#[derive(Debug, thiserror::Error)]
#[error("log {dir}: {call}")]
pub struct OpenError {
    pub dir: PathBuf,
    /// The call that failed.
    pub call: &'static str,
    pub source: Errno,
}

/// Appends to a log. There is one writer per log at a time: the container's shim.
#[derive(Debug)]
pub struct Writer {
    folder: OwnedFd,
    segment_bytes: u64,
    segments: u32,
    file: OwnedFd,
    number: u64,
    /// Where the next frame goes in `file`.
    end: u64,
    /// Whole frames that are not on the disk yet.
    staged: Vec<u8>,
    staged_frames: u64,
    /// Beginnings of lines, per stream.
    begun: [Vec<u8>; 2],
    /// Frames dropped since the last [`super::Entry::Lost`] that reached the disk.
    lost: u64,
    last_time: i64,
}

impl Writer {
    /// Opens the log in `settings.dir`, which is made if it is missing; `now` is in nanoseconds
    /// since the epoch. What a killed writer left torn at the end is cut off.
    pub fn open(settings: &LogSettings, now: i64) -> Result<Writer, OpenError> {
        let failed = |call| {
            let dir = settings.dir.clone();
            move |source| OpenError { dir, call, source }
        };
        let folder = folder(&settings.dir).map_err(failed("open the folder"))?;
        let numbers = segments(&folder).map_err(failed("list the segments"))?;
        let number = numbers.last().copied().unwrap_or(1);
        let file = open_segment(&folder, number, OFlags::RDWR | OFlags::CREATE)
            .map_err(failed("open the last segment"))?;
        let end = repair(&file, now).map_err(failed("repair the last segment"))?;
        Ok(Writer {
            folder,
            segment_bytes: settings.segment_bytes.max(4 * 1024),
            segments: settings.segments.max(1),
            file,
            number,
            end,
            staged: Vec::new(),
            staged_frames: 0,
            begun: [Vec::new(), Vec::new()],
            lost: 0,
            last_time: now,
        })
    }

    /// Takes what one read(2) of a stream gave, at `time` in nanoseconds since the epoch.
    pub fn push(&mut self, stream: Stream, mut bytes: &[u8], time: i64) {
        self.last_time = time;
        let begun = &mut self.begun[stream as usize];
        if !begun.is_empty() {
            let room = LINE_MAX - begun.len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = memchr(b'\n', window).map(|at| at + 1);
            let (taken, rest) = bytes.split_at(newline.unwrap_or(window.len()));
            begun.extend_from_slice(taken);
            bytes = rest;
            if newline.is_none() && begun.len() < LINE_MAX {
                return;
            }
            frame::put_line(&mut self.staged, time, stream, begun);
            self.staged_frames += 1;
            begun.clear();
        }
        while !bytes.is_empty() {
            let window = &bytes[..bytes.len().min(LINE_MAX)];
            let size = match memchr(b'\n', window) {
                Some(newline) => newline + 1,
                None if window.len() == LINE_MAX => LINE_MAX,
                None => break,
            };
            let (line, rest) = bytes.split_at(size);
            frame::put_line(&mut self.staged, time, stream, line);
            self.staged_frames += 1;
            bytes = rest;
        }
        self.begun[stream as usize].extend_from_slice(bytes);
    }

    /// The stream has ended: its last line counts even without a newline.
    pub fn finish(&mut self, stream: Stream) {
        let begun = std::mem::take(&mut self.begun[stream as usize]);
        if !begun.is_empty() {
            frame::put_line(&mut self.staged, self.last_time, stream, &begun);
            self.staged_frames += 1;
        }
    }

    /// Puts all whole lines on the disk. Where there is no room they are counted and dropped.
    pub fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        if self.end + self.staged.len() as u64 > self.segment_bytes && self.end > SEGMENT_HEAD as u64 {
            self.rotate();
        }
        let mut counted = self.staged_frames;
        if self.lost > 0 {
            let mut marked = Vec::with_capacity(self.staged.len() + 32);
            frame::put_lost(&mut marked, self.last_time, self.lost);
            marked.extend_from_slice(&self.staged);
            self.staged = marked;
            counted += 1;
        }
        let written = self.write();
        let (kept, frames) = if written == self.staged.len() {
            (written, counted)
        } else {
            frame::whole(&self.staged[..written])
        };
        if kept < written {
            // A piece of a frame is on the disk: the next write goes over it, and a reader takes
            // it for torn until then.
            let _ = rustix::fs::ftruncate(&self.file, self.end + kept as u64);
        }
        self.end += kept as u64;
        if self.lost > 0 {
            if frames > 0 {
                self.lost = counted - frames;
            } else {
                self.lost += self.staged_frames;
            }
        } else {
            self.lost = counted - frames;
        }
        self.staged.clear();
        self.staged_frames = 0;
        if self.staged.capacity() > 256 * 1024 {
            self.staged = Vec::new();
        }
    }

    /// Gives buffers back to the system; for a container that has fallen silent.
    pub fn release(&mut self) {
        self.staged.shrink_to_fit();
        for begun in &mut self.begun {
            begun.shrink_to_fit();
        }
    }

    /// Bytes of `staged` that reached the file.
    fn write(&self) -> usize {
        let mut written = 0;
        while written < self.staged.len() {
            let at = self.end + written as u64;
            match rustix::io::pwrite(&self.file, &self.staged[written..], at) {
                Ok(0) => break,
                Ok(size) => written += size,
                Err(Errno::INTR) => {}
                // No room, no quota, a bad disk: all the same to the container.
                Err(_) => break,
            }
        }
        written
    }

    /// Begins the next segment and deletes what is too old. If that cannot be done the present
    /// segment goes on growing: a line kept is worth more than a limit.
    fn rotate(&mut self) {
        let number = self.number + 1;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let Ok(file) = open_segment(&self.folder, number, flags) else {
            return;
        };
        let head = frame::segment_head(self.last_time);
        if rustix::io::pwrite(&file, &head, 0) != Ok(SEGMENT_HEAD) {
            let _ = rustix::fs::unlinkat(&self.folder, segment_name(number), AtFlags::empty());
            return;
        }
        self.file = file;
        self.number = number;
        self.end = SEGMENT_HEAD as u64;
        for old in segments(&self.folder).unwrap_or_default() {
            if old + u64::from(self.segments) <= number {
                let _ = rustix::fs::unlinkat(&self.folder, segment_name(old), AtFlags::empty());
            }
        }
    }
}

fn folder(dir: &Path) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(dir, flags, Mode::empty())
}

/// Cuts a segment after its last whole frame and returns where that is; a new or headless one
/// gets a head.
fn repair(file: &OwnedFd, now: i64) -> Result<u64, Errno> {
    let size = rustix::fs::fstat(file)?.st_size.max(0) as u64;
    let mut head = [0; SEGMENT_HEAD];
    let got = rustix::io::pread(file, &mut head, 0)?;
    if frame::segment_time(&head[..got]).is_none() {
        rustix::fs::ftruncate(file, 0)?;
        rustix::io::pwrite(file, &frame::segment_head(now), 0)?;
        return Ok(SEGMENT_HEAD as u64);
    }
    let end = last_whole(file, SEGMENT_HEAD as u64)?;
    if end < size {
        rustix::fs::ftruncate(file, end)?;
    }
    Ok(end)
}

/// Where the last whole frame of a segment ends, walking from `start`.
pub(super) fn last_whole(file: &OwnedFd, start: u64) -> Result<u64, Errno> {
    let mut block = vec![0; 256 * 1024];
    let mut end = start;
    loop {
        let got = rustix::io::pread(file, &mut block, end)?;
        let (whole, _) = frame::whole(&block[..got]);
        if whole == 0 {
            return Ok(end);
        }
        end += whole as u64;
    }
}
