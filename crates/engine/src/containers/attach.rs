//! Streams between a client and a container's process.
//!
//! The shim frames what it writes as Docker does. A local client that sends no input gives its own
//! socket to the shim (a [`Seat`]): its bytes never pass through the daemon, and it goes on reading
//! while daemons come and go. Of all others the daemon carries the bytes, between the client's
//! connection and one end of a socket pair whose other end the shim has. On a container that does
//! not run what the shim is to get waits for the start.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_runtime::protocol::{Attach as Wanted, Framing};
use rustix::net::SendFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::handle::{Command, Handle};
use super::logs;
use super::phase::Phase;
use super::requests::{Attach, Attachment, Logs};
use super::task::{STREAMS_MAX, Task};
use crate::{Error, Result};

fn failed(source: std::io::Error) -> Error {
    Error::Io { call: "make", path: "a socket pair".into(), source }
}

/// The client's end and the shim's; neither blocks.
pub(crate) fn pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    theirs.set_nonblocking(true).map_err(failed)?;
    Ok((UnixStream::from_std(ours).map_err(failed)?, theirs.into()))
}

pub(super) fn framing(tty: bool) -> Framing {
    if tty { Framing::Raw } else { Framing::Multiplexed }
}

impl Task {
    pub(super) fn attach(&mut self, key: &str, asked: Attach) -> Result<Attachment> {
        let wanted = self.admit(key, asked)?;
        let (client, shim) = pair()?;
        if asked.logs {
            self.after_the_log(wanted, shim, asked)?;
        } else if asked.stream {
            self.join(wanted, shim, &[]);
        }
        Ok(Attachment { stream: client, tty: self.record.settings.tty })
    }

    /// For a client that brings its own socket; it gets what comes, and no log.
    pub(super) fn seat(&mut self, key: &str, asked: Attach) -> Result<Seat> {
        let wanted = self.admit(key, Attach { stdin: false, logs: false, ..asked })?;
        Ok(Seat { tty: self.record.settings.tty, wanted, handle: Arc::clone(&self.handle) })
    }

    fn admit(&self, key: &str, asked: Attach) -> Result<Wanted> {
        match self.record.life.phase {
            Phase::Paused(_) => {
                return Err(Error::Conflict(format!(
                    "container {key} is paused, unpause the container before attach"
                )));
            }
            Phase::Restarting { .. } => {
                return Err(Error::Conflict(format!(
                    "container {key} is restarting, wait until the container is running"
                )));
            }
            Phase::Removing { .. } => return Err(Error::NoSuchContainer(key.to_owned())),
            Phase::Created | Phase::Starting { .. } | Phase::Running(_) | Phase::Exited(_) => {}
        }
        self.publish("attach", &[]);
        Ok(Wanted {
            stdin: asked.stdin && self.record.settings.open_stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            framing: framing(self.record.settings.tty),
        })
    }

    /// Hands the shim's end over, now or at the start, with `head` written to it: who reads that
    /// and has the container started then misses nothing.
    pub(super) fn join(&mut self, wanted: Wanted, stream: OwnedFd, head: &[u8]) {
        // A socket without room for a few bytes belongs to a client that reads nothing.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if !head.is_empty() && rustix::net::send(&stream, head, flags) != Ok(head.len()) {
            tracing::debug!(container = %self.record.id, "a client left before it was attached");
            return;
        }
        let outcome = match (&self.link, self.record.life.phase) {
            (Some(link), phase) if phase.live().is_some() => link.attach(wanted, &stream),
            // Dropped ends tell the client so. What is asked for with the launch is heard then.
            _ if self.streams.len() < STREAMS_MAX => {
                self.streams.push((wanted, stream));
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::debug!(container = %self.record.id, %error, "an attached stream found no shim");
        }
    }

    /// Writes what the log holds into the stream, then has it joined.
    fn after_the_log(&self, wanted: Wanted, stream: OwnedFd, asked: Attach) -> Result<()> {
        let options = Logs { stdout: asked.stdout, stderr: asked.stderr, ..Logs::default() };
        let mut log = logs::open(self.handle.view(), options, None);
        let stream = std::os::unix::net::UnixStream::from(stream);
        let mut stream = UnixStream::from_std(stream).map_err(failed)?;
        let handle = Arc::clone(&self.handle);
        tokio::spawn(async move {
            while let Some(Ok(block)) = log.next().await {
                if stream.write_all(&block).await.is_err() {
                    return;
                }
            }
            if let (true, Ok(stream)) = (asked.stream, stream.into_std()) {
                let command = Command::Join { attach: wanted, stream: stream.into(), head: Vec::new() };
                handle.commands.send(command).await.ok();
            }
        });
        Ok(())
    }
}

/// The place that a client's own socket is to take.
#[derive(Debug)]
pub struct Seat {
    pub tty: bool,
    wanted: Wanted,
    handle: Arc<Handle>,
}

impl Seat {
    /// `socket` is the client's connected stream socket; `head` is written to it before anything
    /// else is. The container's end closes it, and so does a container that has gone by now.
    pub async fn take(self, socket: OwnedFd, head: Vec<u8>) {
        let command = Command::Join { attach: self.wanted, stream: socket, head };
        self.handle.commands.send(command).await.ok();
    }
}
