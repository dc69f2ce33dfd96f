//! Streams between a client and a container's process.
//!
//! One end of a socket pair is the client's; the other goes to the shim, which frames what it
//! writes there as Docker does. So bytes never pass through the daemon's own code, and a daemon
//! that dies does not break the container's side. On a container that does not run the shim's end
//! waits for the start.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_runtime::protocol::{Attach as Wanted, Framing};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::handle::Command;
use super::logs;
use super::phase::Phase;
use super::requests::{Attach, Attachment, Logs};
use super::task::{STREAMS_MAX, Task};
use crate::{Error, Result};

fn failed(source: std::io::Error) -> Error {
    Error::Io { call: "make", path: "a socket pair".into(), source }
}

/// The client's end and the shim's; neither blocks.
pub(super) fn pair() -> Result<(UnixStream, OwnedFd)> {
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
        let tty = self.record.settings.tty;
        let (client, shim) = pair()?;
        let wanted = Wanted {
            stdin: asked.stdin && self.record.settings.open_stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            framing: framing(tty),
        };
        if asked.logs {
            self.after_the_log(wanted, shim, asked)?;
        } else if asked.stream {
            self.join(wanted, shim);
        }
        self.publish("attach", &[]);
        Ok(Attachment { stream: client, tty })
    }

    /// Hands the shim's end over, now or at the start.
    pub(super) fn join(&mut self, wanted: Wanted, stream: OwnedFd) {
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
                let command = Command::Join { attach: wanted, stream: stream.into() };
                handle.commands.send(command).await.ok();
            }
        });
        Ok(())
    }
}
