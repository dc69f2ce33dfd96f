//! One layer on its way: fetched, written, hashed, decompressed and unpacked at the same time.
//!
//! ```text
//! registry ─► pieces ─► file ingest/partial-HEX ─► pipe ─► jailed worker: both digests, the files
//!  (async)            (a thread: write, splice)               (unpacks into a folder without a name)
//! ```
//!
//! The worker reads what the file has, from its first byte on, whether that came now or before a kill: so one pass
//! over the bytes does everything. The file becomes the blob, and the folder the layer, when the worker has
//! found the digests that the image names; before that neither has a name.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hull_image::content::Partial;
use hull_image::lease::Held;
use hull_oci::Digest;
use hull_oci::image::Descriptor;
use hull_registry::client::{Kind, Repository};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use super::feed::{Failed, Progress};
use super::layers::{Arrived, step};
use super::{blocking, failed};
use crate::images::add::Stored;
use crate::images::transfer::What;
use crate::images::{ImageError, Inner};
use crate::{Error, Result};

/// A layer that is missing.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    /// Chain ids: of the layer below, and of this one.
    pub(super) parent: Option<Digest>,
    pub(super) chain: Digest,
}

/// Pieces that may wait to be written (some hundred kilobytes each).
const QUEUE: usize = 8;
/// Bytes that a pipe holds, where the host allows it (pipe(7), `pipe-max-size`).
const PIPE: usize = 1 << 20;
/// A bar moves when so many more bytes are here.
const MOVE: u64 = 512 << 10;

/// Who has not fetched so many bytes in such a time lets others go first who wait for the same blob.
const PACE: (u64, Duration) =
    (1 << 20, if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) });

/// Does all of it; the outcome is the last that is told.
pub(super) async fn run(
    inner: Arc<Inner>,
    repository: Repository,
    job: Job,
    told: watch::Sender<Progress>,
    wanted: Arc<AtomicBool>,
) {
    let job = Arc::new(job);
    let outcome = loop {
        // Given in the order in which it is asked for: whoever gives way is the last.
        let turn = Arc::new(inner.pulls.blob(&job.descriptor.digest).lock_owned().await);
        let (inner, job) = (Arc::clone(&inner), Arc::clone(&job));
        let (repository, wanted) = (repository.clone(), Arc::clone(&wanted));
        let work = Work { inner, repository, job, told: &told, wanted, turn };
        if let Some(outcome) = work.run().await.transpose() {
            break outcome;
        }
    };
    told.send_modify(|progress| progress.outcome = Some(outcome));
}

/// What there is of it.
enum Found {
    Layer(Box<Stored>),
    Blob(File),
    Partial(Partial),
}

struct Work<'a> {
    inner: Arc<Inner>,
    repository: Repository,
    job: Arc<Job>,
    told: &'a watch::Sender<Progress>,
    wanted: Arc<AtomicBool>,
    /// At the blob: kept by whatever is at it, also when this is not waited for any more.
    turn: Arc<OwnedMutexGuard<()>>,
}

/// `None`: it has given way.
type Tried = std::result::Result<Option<Arrived>, Failed>;

impl Work<'_> {
    async fn run(&self) -> Tried {
        let _place = self.inner.pulls.places.acquire().await.map_err(|_| Error::ShuttingDown)?;
        let (inner, job) = (Arc::clone(&self.inner), Arc::clone(&self.job));
        let found = blocking(move || {
            if let Some(stored) = inner.known_layer(&job.chain)? {
                return Ok(Found::Layer(Box::new(stored)));
            }
            let Descriptor { digest, size, .. } = &job.descriptor;
            match inner.content.size(digest).map_err(failed)? {
                Some(found) if found == *size => {
                    return Ok(Found::Blob(inner.content.open_blob(digest).map_err(failed)?));
                }
                // What has this digest has one size: the manifest lies.
                Some(found_size) => {
                    let (expected, found) = (digest.clone(), digest.clone());
                    return Err(failed(ImageError::Fetched { expected, size: *size, found, found_size }));
                }
                None => {}
            }
            let mut partial = inner.content.partial(digest).map_err(failed)?;
            if partial.length() > *size {
                partial.clear().map_err(failed)?;
            }
            Ok(Found::Partial(partial))
        });
        let arrived = match found.await? {
            Found::Layer(stored) => Arrived { stored: *stored, _partial: None },
            Found::Blob(file) => {
                step(self.told, What::Complete);
                let blob = file.try_clone().map_err(io("open a layer"))?;
                let stored = joined(self.storing(file.into(), blob, None).await)??;
                Arrived { stored, _partial: None }
            }
            Found::Partial(partial) => match self.go_on(partial).await? {
                Some(arrived) => arrived,
                None => return Ok(None),
            },
        };
        let total = self.job.descriptor.size;
        step(self.told, What::Extracting { done: total, total });
        step(self.told, What::Pulled);
        Ok(Some(arrived))
    }

    /// From where an earlier attempt was broken off. What that has left may be damaged, or somebody's lie: then
    /// all comes anew, once.
    async fn go_on(&self, partial: Partial) -> Tried {
        let resumed = partial.length() > 0;
        match self.attempt(partial).await {
            Err(Failed::Engine(error)) if resumed => {
                tracing::debug!(%error, "what there was of a layer is of no use");
                let (inner, job) = (Arc::clone(&self.inner), Arc::clone(&self.job));
                let anew = move || {
                    let mut partial = inner.content.partial(&job.descriptor.digest).map_err(failed)?;
                    partial.clear().map_err(failed)?;
                    Ok(partial)
                };
                self.attempt(blocking(anew).await?).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self, mut partial: Partial) -> Tried {
        let (file, blob) = (partial.reader().map_err(failed)?, partial.reader().map_err(failed)?);
        let begun = partial.length();
        if begun == self.job.descriptor.size {
            step(self.told, What::Complete);
            let stored = joined(self.storing(file.into(), blob, None).await)??;
            return Ok(Some(Arrived { stored, _partial: Some(Arc::new(partial)) }));
        }
        let ((read, write), (stop, go)) = (pipe()?, pipe()?);
        // A smaller one does as well, more slowly.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
        let storing = self.storing(read, blob, Some(stop));
        let (pieces, taken) = channel(QUEUE);
        let turn = Arc::clone(&self.turn);
        let pumping = tokio::task::spawn_blocking(move || {
            let pumped = pump(&mut partial, &file, &write, taken);
            drop(turn);
            (partial, pumped)
        });
        let fetched = self.fetch(begun, pieces).await;
        let (mut partial, pumped) = joined(pumping.await)?;
        let failure = match (fetched, pumped) {
            (Ok(true), Ok(())) => None,
            (Ok(false), Ok(())) => Some((true, None)),
            // A registry that cannot be reached any more has not lied about what came before.
            (Err(error), _) => Some((error.kind() == Kind::Unreachable, Some(Failed::from(error)))),
            (_, Err(error)) => Some((false, Some(Failed::from(error)))),
        };
        if let Some((stays, failure)) = failure {
            // The worker is not to unpack what there is. When it has ended, its folder is gone.
            drop(go);
            let _ = storing.await;
            partial.stay(stays);
            return failure.map_or(Ok(None), Err);
        }
        step(self.told, What::Complete);
        let stored = joined(storing.await)??;
        drop(go);
        Ok(Some(Arrived { stored, _partial: Some(Arc::new(partial)) }))
    }

    /// Has an archive unpacked, on a thread of its own, and stores the layer with `blob`, which has the same bytes. A
    /// worker whose `stop` is closed ends.
    fn storing(&self, archive: OwnedFd, blob: File, stop: Option<OwnedFd>) -> JoinHandle<Result<Stored>> {
        let (inner, job, wanted) = (Arc::clone(&self.inner), Arc::clone(&self.job), Arc::clone(&self.wanted));
        let turn = Arc::clone(&self.turn);
        tokio::task::spawn_blocking(move || {
            let stored = store(&inner, &job, (&archive, &blob, stop.as_ref()), &wanted);
            drop(turn);
            // Whoever saw it unwanted before it was there has found nothing to remove.
            if !wanted.load(Ordering::SeqCst) {
                super::layers::collect_behind(&inner);
            }
            stored
        })
    }

    /// Has pieces come until there are no more, or nobody takes them. False: it is too slow for those who wait.
    async fn fetch(
        &self,
        from: u64,
        pieces: Sender<Bytes>,
    ) -> std::result::Result<bool, hull_registry::client::Error> {
        let done = AtomicU64::new(from);
        tokio::select! {
            fetched = self.pieces(&done, pieces) => fetched.map(|()| true),
            () = self.is_in_the_way(&done) => Ok(false),
        }
    }

    async fn pieces(
        &self,
        done: &AtomicU64,
        pieces: Sender<Bytes>,
    ) -> std::result::Result<(), hull_registry::client::Error> {
        let total = self.job.descriptor.size;
        let from = done.load(Ordering::Relaxed);
        let mut shown = from;
        let mut blob = self.repository.blob(&self.job.descriptor, from).await?;
        while let Some(piece) = blob.piece().await? {
            let done = done.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                return Ok(());
            }
            if done - shown >= MOVE || done == total {
                shown = done;
                step(self.told, What::Downloading { done, total });
            }
        }
        Ok(())
    }

    /// Ends when it is slow while others wait for their turn.
    async fn is_in_the_way(&self, done: &AtomicU64) {
        let (bytes, time) = PACE;
        loop {
            let before = done.load(Ordering::Relaxed);
            tokio::time::sleep(time).await;
            let slow = done.load(Ordering::Relaxed) - before < bytes;
            // Each who waits has the lock in his hand.
            if slow && Arc::strong_count(OwnedMutexGuard::mutex(&self.turn)) > 1 {
                return;
            }
        }
    }
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| failed(ImageError::Io { action, source })
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io("make a pipe")(errno.into()))
}

fn joined<T>(ended: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime is going down.
        Err(_) => Error::ShuttingDown,
    })
}

/// Writes pieces behind each other, and passes on to the pipe what the file has, until there are no more, or
/// nobody reads. Blocks.
fn pump(partial: &mut Partial, file: &File, pipe: &OwnedFd, mut pieces: Receiver<Bytes>) -> Result<()> {
    let mut passed = 0;
    loop {
        if !pour(file, &mut passed, partial.length(), pipe)? {
            return Ok(());
        }
        let Some(piece) = pieces.blocking_recv() else { return Ok(()) };
        partial.append(&piece).map_err(failed)?;
    }
}

/// The file's bytes from one place to another into the pipe, without copying them where the file system can do
/// that (splice(2)). False: nobody reads any more.
fn pour(file: &File, from: &mut u64, to: u64, pipe: &OwnedFd) -> Result<bool> {
    while *from < to {
        let count = usize::try_from(to - *from).unwrap_or(usize::MAX);
        let poured = rustix::io::retry_on_intr(|| {
            splice(file, Some(&mut from.clone()), pipe, None, count, SpliceFlags::empty())
        });
        match poured {
            // What is there has been cut off by somebody else.
            Ok(0) => return Err(io("read a layer")(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => *from += count as u64,
            Err(Errno::PIPE) => return Ok(false),
            Err(Errno::INVAL) => match copied(file, *from, count, pipe) {
                Ok(count) => *from += count,
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => return Err(io("read a layer")(error)),
            },
            Err(errno) => return Err(io("read a layer")(errno.into())),
        }
    }
    Ok(true)
}

fn copied(file: &File, from: u64, count: usize, pipe: &OwnedFd) -> std::io::Result<u64> {
    let mut buffer = vec![0; count.min(128 << 10)];
    file.read_exact_at(&mut buffer, from)?;
    let mut rest = &buffer[..];
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(pipe, rest))?;
        rest = &rest[written..];
    }
    Ok(buffer.len() as u64)
}

/// Unpacks an archive, and stores it with its files if it is what it has to be. Blocks.
fn store(
    inner: &Inner,
    job: &Job,
    (archive, blob, stop): (&OwnedFd, &File, Option<&OwnedFd>),
    wanted: &AtomicBool,
) -> Result<Stored> {
    let Job { descriptor, diff_id, parent, chain } = job;
    let lease = inner.leases.take();
    lease.hold(Held::Layer(chain.clone()));
    lease.hold(Held::Blob(descriptor.digest.clone()));
    let staging = inner.snapshots.stage().map_err(failed)?;
    let what = || format!("layer {}", descriptor.digest);
    let unpacked = (inner.unpack)(archive.as_fd(), staging.diff.as_fd(), stop.map(AsFd::as_fd))
        .map_err(|reason| failed(ImageError::Unpack { what: what(), reason }))?;
    if unpacked.blob != descriptor.digest || unpacked.blob_size != descriptor.size {
        return Err(failed(ImageError::Fetched {
            expected: descriptor.digest.clone(),
            size: descriptor.size,
            found: unpacked.blob,
            found_size: unpacked.blob_size,
        }));
    }
    if unpacked.diff_id != *diff_id {
        return Err(failed(ImageError::Unpacked {
            layer: descriptor.digest.clone(),
            expected: diff_id.clone(),
            found: unpacked.diff_id,
        }));
    }
    if !wanted.load(Ordering::SeqCst) {
        return Err(Error::ShuttingDown);
    }
    inner.put_layer((&lease, staging), what(), parent.clone(), unpacked, |digest| {
        inner.content.adopt(blob.as_fd(), digest).map_err(failed)
    })
}
