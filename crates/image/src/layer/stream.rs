//! The bytes of a layer on their way: read in large pieces, hashed by a thread of
//! their own while the caller works on the same memory, counted, bounded. Where nobody
//! hashes them and they come or go through a pipe, those of large files are not even
//! looked at: they go from pipe to file, or from file to pipe, in the kernel.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use hull_oci::{Digest, Hasher};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use crate::compress::Unfolding;
use crate::tar;

/// Bytes of a piece: small enough to stay in the processor's cache between
/// hashing and writing.
const PIECE: usize = 128 << 10;
/// Pieces that may wait for the hashing thread.
const QUEUE: usize = 8;

/// Fewer bytes than these are copied sooner than moved.
const WORTH_MOVING: u64 = 64 << 10;

/// Where an archive comes from.
pub enum Source<'a> {
    Stream(&'a mut dyn Read),
    /// A pipe, which gives its bytes to files without a copy between. Anything else is read.
    Pipe(BorrowedFd<'a>),
}

/// Where an archive goes.
pub enum Sink<'a> {
    Stream(&'a mut dyn Write),
    /// A pipe, which takes files' bytes without a copy between. What is written into a file
    /// before the pipe is read may then be in the archive.
    Pipe(BorrowedFd<'a>),
}

/// A pipe as a plain stream.
pub(super) struct Piped<'a>(pub(super) BorrowedFd<'a>);

impl Read for Piped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

/// `None`: splice(2) cannot do this with these files.
fn moved(
    from: BorrowedFd<'_>,
    at: Option<u64>,
    to: BorrowedFd<'_>,
    count: u64,
) -> Result<Option<u64>, Errno> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let splice = || splice(from, at.clone().as_mut(), to, None, count, SpliceFlags::empty());
    match rustix::io::retry_on_intr(splice) {
        Err(Errno::INVAL) => Ok(None),
        moved => moved.map(|count| Some(count as u64)),
    }
}

/// Which of the two digests of a compressed layer a piece belongs to.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// The bytes as read.
    Blob,
    /// The uncompressed bytes.
    Diff,
}

type Pieces = SyncSender<(Side, Arc<Vec<u8>>, usize)>;

/// Two digests, computed beside the caller's work, or in it where no thread can
/// be had (a worker's seccomp filter may forbid it).
pub(super) enum Hashing {
    Thread {
        pieces: Pieces,
        thread: JoinHandle<[Hasher; 2]>,
    },
    Inline(Box<[Hasher; 2]>),
    /// Nobody asks for digests.
    Nothing,
}

impl Hashing {
    pub(super) fn start() -> Self {
        let (pieces, receiver) = sync_channel::<(Side, Arc<Vec<u8>>, usize)>(QUEUE);
        let work = move || {
            let mut hashers = [Hasher::sha256(), Hasher::sha256()];
            for (side, piece, length) in receiver {
                hashers[side as usize].update(&piece[..length]);
            }
            hashers
        };
        match std::thread::Builder::new().name("layer-hash".to_owned()).spawn(work) {
            Ok(thread) => Self::Thread { pieces, thread },
            Err(_) => Self::Inline(Box::new([Hasher::sha256(), Hasher::sha256()])),
        }
    }

    fn add(&mut self, side: Side, piece: &Arc<Vec<u8>>, length: usize) -> io::Result<()> {
        match self {
            Self::Thread { pieces, .. } => pieces
                .send((side, Arc::clone(piece), length))
                .map_err(|_| io::Error::other("the hashing thread is gone")),
            Self::Inline(hashers) => {
                hashers[side as usize].update(&piece[..length]);
                Ok(())
            }
            Self::Nothing => Ok(()),
        }
    }

    /// The digests of the blob's bytes and of the uncompressed ones.
    pub(super) fn finish(self) -> io::Result<[Digest; 2]> {
        let hashers = match self {
            Self::Thread { pieces, thread } => {
                drop(pieces);
                thread.join().map_err(|_| io::Error::other("the hashing thread panicked"))?
            }
            Self::Inline(hashers) => *hashers,
            Self::Nothing => return Err(io::Error::other("nothing was hashed")),
        };
        Ok(hashers.map(Hasher::finish))
    }
}

/// Pieces of memory that go to the hashing and come back.
#[derive(Default)]
struct Pool(Vec<Arc<Vec<u8>>>);

impl Pool {
    /// The index of a piece that nobody else looks at any more, else of a new one.
    fn free(&mut self) -> usize {
        match self.0.iter_mut().position(|piece| Arc::get_mut(piece).is_some()) {
            Some(index) => index,
            None => {
                self.0.push(Arc::new(vec![0; PIECE]));
                self.0.len() - 1
            }
        }
    }

    fn get_mut(&mut self, index: usize) -> io::Result<&mut Vec<u8>> {
        Arc::get_mut(&mut self.0[index])
            .ok_or_else(|| io::Error::other("a piece in use was taken for a free one"))
    }
}

/// A buffered reader that hands what it reads to the hashing.
pub(super) struct Hashed<'a> {
    source: Box<dyn Read + 'a>,
    /// What `source` reads from, where its bytes may go past this reader.
    pub(super) pipe: Option<BorrowedFd<'a>>,
    side: Side,
    hashing: &'a std::cell::RefCell<Hashing>,
    pool: Pool,
    /// Index in the pool of the piece being consumed, and its unread part.
    current: usize,
    start: usize,
    end: usize,
    /// Bytes read so far.
    count: &'a AtomicU64,
    bound: Option<Bound<'a>>,
}

/// What holds for uncompressed bytes only.
pub(super) struct Bound<'a> {
    pub(super) unfolding: Unfolding,
    pub(super) compressed: &'a AtomicU64,
}

impl<'a> Hashed<'a> {
    pub(super) fn new(
        source: Box<dyn Read + 'a>,
        side: Side,
        hashing: &'a std::cell::RefCell<Hashing>,
        count: &'a AtomicU64,
        bound: Option<Bound<'a>>,
    ) -> Self {
        let (pool, current, start, end) = (Pool::default(), 0, 0, 0);
        Self { source, pipe: None, side, hashing, pool, current, start, end, count, bound }
    }

    /// Reads to the end of the stream, so that digests cover all of it.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Hashed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            let index = self.pool.free();
            let piece = self.pool.get_mut(index)?;
            let mut filled = 0;
            while filled < PIECE {
                match self.source.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let count = self.count.fetch_add(filled as u64, Ordering::Relaxed) + filled as u64;
            if let Some(Bound { unfolding, compressed }) = &self.bound {
                unfolding.check(compressed.load(Ordering::Relaxed), count).map_err(io::Error::other)?;
            }
            if filled > 0 {
                self.hashing.borrow_mut().add(self.side, &self.pool.0[index], filled)?;
            }
            (self.current, self.start, self.end) = (index, 0, filled);
        }
        Ok(&self.pool.0[self.current][self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

impl tar::Input for Hashed<'_> {
    fn move_to(&mut self, file: BorrowedFd<'_>, count: u64) -> Result<Option<u64>, Errno> {
        let (Some(pipe), true) = (self.pipe, self.start == self.end && count >= WORTH_MOVING) else {
            return Ok(None);
        };
        let moved = moved(pipe, None, file, count)?;
        self.count.fetch_add(moved.unwrap_or(0), Ordering::Relaxed);
        Ok(moved)
    }
}

/// A buffered writer that counts.
pub(super) struct Counted<'a> {
    sink: Sink<'a>,
    buffer: Vec<u8>,
    /// Bytes written so far.
    count: &'a AtomicU64,
}

impl<'a> Counted<'a> {
    pub(super) fn new(sink: Sink<'a>, count: &'a AtomicU64) -> Self {
        Self { sink, buffer: Vec::with_capacity(PIECE), count }
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stream(stream) => stream.write_all(&self.buffer)?,
            Sink::Pipe(pipe) => {
                let mut rest = &self.buffer[..];
                while !rest.is_empty() {
                    let written = rustix::io::retry_on_intr(|| rustix::io::write(*pipe, rest))?;
                    rest = &rest[written..];
                }
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

impl tar::Output for Counted<'_> {
    fn move_from(&mut self, file: BorrowedFd<'_>, at: u64, count: u64) -> io::Result<Option<u64>> {
        let (Sink::Pipe(pipe), true) = (&self.sink, count >= WORTH_MOVING) else { return Ok(None) };
        let pipe = *pipe;
        self.flush()?;
        let moved = moved(file, Some(at), pipe, count)?;
        self.count.fetch_add(moved.unwrap_or(0), Ordering::Relaxed);
        Ok(moved)
    }
}

/// A buffered writer that hands what it writes to the hashing.
pub(super) struct HashedWriter<'a> {
    out: &'a mut dyn Write,
    hashing: Hashing,
    pool: Pool,
    /// Index in the pool of the piece being filled, and how much of it is.
    current: usize,
    filled: usize,
    count: u64,
}

impl<'a> HashedWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        let mut pool = Pool::default();
        let current = pool.free();
        Self { out, hashing: Hashing::start(), pool, current, filled: 0, count: 0 }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        self.hashing.add(Side::Blob, &self.pool.0[self.current], self.filled)?;
        self.out.write_all(&self.pool.0[self.current][..self.filled])?;
        self.current = self.pool.free();
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left; gives the digest of all that was written, and its length (bytes).
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.pass_on()?;
        let [digest, _] = self.hashing.finish()?;
        Ok((digest, self.count))
    }
}

impl tar::Output for HashedWriter<'_> {}

impl Write for HashedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.filled);
        let (current, filled) = (self.current, self.filled);
        self.pool.get_mut(current)?[filled..filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        self.count += count as u64;
        if self.filled == PIECE {
            self.pass_on()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.out.flush()
    }
}
