//! Files of a client elsewhere, given to a worker as those of a client of this host are: opened.
//!
//! ```text
//! worker ──asks──► relay ──numbers of those that are not here──► client
//!        ◄─files──       ◄──bytes, in pieces────────────────────
//!                  └─► contents: written, hashed, named by the digest
//! ```
//!
//! Batches are under way at the same time and are all taken as they come, so that no answer waits behind
//! another's; files are given in the order in which they were asked for. In memory there are only pieces
//! that are not written yet, some of each batch. A file that has not the size or the digest of its ask is not
//! given: the build looks again, or ends. The worker's end is the end of it all.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hull_context::contents::{Part, Parts};
use hull_context::files::{self, Ask, FAR_AHEAD};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::client::Client;
use super::collect;
use super::contents::{Coming, Contents};
use crate::containers::link::{Ready, watch_for};
use crate::containers::services::Services;
use crate::{Error, Result, chain};

/// Opened, or why not.
type File = std::result::Result<OwnedFd, Errno>;

/// The asker's end of a socket at which the files of a context can be asked for. `anew`: what has come before
/// is not believed.
pub(super) fn open(
    services: Arc<Services>,
    client: Arc<dyn Client>,
    context: String,
    anew: bool,
) -> Result<OwnedFd> {
    let failed = |call| move |source| Error::Io { call, path: "a context's files".into(), source };
    let (theirs, ours) = files::pair().map_err(|errno| failed("socketpair")(errno.into()))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| failed("ioctl")(errno.into()))?;
    let socket = watch_for(ours, Interest::READABLE | Interest::WRITABLE).map_err(failed("epoll_ctl"))?;
    let relay = Arc::new(Relay { services, client, context, anew, received: AtomicBool::new(false) });
    tokio::spawn(async move {
        if let Err(error) = serve(&relay, &socket).await {
            // The worker says that its files have not come.
            tracing::warn!(%error, "the files of a build's context do not come any more");
        }
        drop(socket);
        relay.trim().await;
    });
    Ok(theirs)
}

#[derive(Debug)]
struct Relay {
    services: Arc<Services>,
    client: Arc<dyn Client>,
    context: String,
    anew: bool,
    /// Something has come.
    received: AtomicBool,
}

async fn serve(relay: &Arc<Relay>, socket: &AsyncFd<Ready<OwnedFd>>) -> io::Result<()> {
    let mut fetching = JoinSet::new();
    let mut turns: VecDeque<oneshot::Receiver<io::Result<Vec<File>>>> = VecDeque::new();
    loop {
        while fetching.try_join_next().is_some() {}
        tokio::select! {
            asked = socket.async_io(Interest::READABLE, |socket| Ok(files::asked(socket.0.as_fd())?)) => {
                let Some(asks) = asked? else { return Ok(()) };
                if turns.len() >= FAR_AHEAD {
                    return Err(unexpected("a worker asks for too many files at a time"));
                }
                let (tell, told) = oneshot::channel();
                let relay = Arc::clone(relay);
                // Who does not hear it any more has ended.
                fetching.spawn(async move { drop(tell.send(relay.fetch(asks).await)) });
                turns.push_back(told);
            }
            files = first(&mut turns), if !turns.is_empty() => {
                let files = files?;
                let give = |socket: &Ready<OwnedFd>| Ok(files::give(socket.0.as_fd(), &files)?);
                socket.async_io(Interest::WRITABLE, give).await?;
            }
        }
    }
}

/// What was asked for first. May be dropped at any time.
async fn first(turns: &mut VecDeque<oneshot::Receiver<io::Result<Vec<File>>>>) -> io::Result<Vec<File>> {
    let Some(turn) = turns.front_mut() else { return std::future::pending().await };
    let files = turn.await;
    turns.pop_front();
    files.map_err(|_| unexpected("the daemon is on its way out"))?
}

fn unexpected(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

impl Relay {
    /// The files of one message: those that are here, and the others from the client.
    async fn fetch(self: Arc<Relay>, asks: Vec<Ask>) -> io::Result<Vec<File>> {
        let shared = Arc::clone(&self);
        let look = move || {
            let contents = &shared.services.builds.contents;
            let find = |ask: &Ask| if shared.anew { None } else { contents.find(ask) };
            let here: Vec<Option<OwnedFd>> = asks.iter().map(find).collect();
            (asks, here)
        };
        let (asks, here) = blocking(look).await?;
        let missing: Vec<Ask> =
            asks.into_iter().zip(&here).filter(|(_, here)| here.is_none()).map(|(ask, _)| ask).collect();
        let mut received = self.receive(missing).await?.into_iter();
        // As many have come as were missing.
        let files = here.into_iter().map(|here| here.map(Ok).or_else(|| received.next()));
        files.collect::<Option<Vec<File>>>().ok_or_else(|| unexpected("a file is missing"))
    }

    async fn receive(&self, asks: Vec<Ask>) -> io::Result<Vec<File>> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        self.received.store(true, Ordering::Relaxed);
        let told = |error: Error| io::Error::other(chain(&error));
        let numbers = asks.iter().map(|ask| ask.number).collect();
        let mut pieces = self.client.contents(&self.context, numbers).await.map_err(told)?;
        let mut batch = Batch { asks, parts: Parts::default(), coming: None, files: Vec::new() };
        while let Some(piece) = pieces.next().await.map_err(told)? {
            let services = Arc::clone(&self.services);
            let mut taking = batch;
            let take = move || taking.take(&services.builds.contents, &piece).map(|()| taking);
            batch = blocking(take).await??;
        }
        batch.whole()
    }

    async fn trim(self: Arc<Relay>) {
        if !self.received.load(Ordering::Relaxed) {
            return;
        }
        let services = Arc::clone(&self.services);
        let trim = move || services.builds.contents.trim(collect::disk(&services)?.0);
        if let Err(error) = self.services.blocking(trim).await {
            tracing::warn!(%error, "files of contexts take more of the disk than they should");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// The files of one answer, as its pieces come.
#[derive(Debug)]
struct Batch {
    asks: Vec<Ask>,
    parts: Parts,
    /// The file that is coming, or why it cannot be taken.
    coming: Option<std::result::Result<Coming, Errno>>,
    /// Of the first asks.
    files: Vec<File>,
}

impl Batch {
    /// # Errors
    /// It is not what was asked for.
    fn take(&mut self, contents: &Contents, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(part) = self.parts.next(&mut bytes) {
            let Some(ask) = self.asks.get(self.files.len()) else {
                return Err(unexpected("the client sends files that nobody has asked for"));
            };
            match part {
                Part::Missing(errno) => self.files.push(Err(errno)),
                Part::File(size) if size != ask.size => {
                    return Err(unexpected("the client sends a file of another size than it has listed"));
                }
                Part::File(_) => self.coming = Some(contents.begin().map_err(errno)),
                Part::Bytes(bytes) => {
                    if let Some(Ok(coming)) = &mut self.coming
                        && let Err(error) = coming.write(bytes)
                    {
                        self.coming = Some(Err(errno(error)));
                    }
                }
                Part::End => {
                    let coming = self.coming.take().unwrap_or(Err(Errno::PROTO));
                    let ended = coming.and_then(|coming| coming.end(ask).map_err(errno));
                    // The file has changed since its digest was told.
                    self.files.push(ended.and_then(|file| file.ok_or(Errno::STALE)));
                }
            }
        }
        Ok(())
    }

    fn whole(self) -> io::Result<Vec<File>> {
        match self.parts.is_whole() && self.files.len() == self.asks.len() {
            true => Ok(self.files),
            false => Err(unexpected("the client sends less than was asked for")),
        }
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
