//! One connection: two sockets, and a pipe for each way.

use std::os::fd::OwnedFd;

use hull_sys::Errno;
use rustix::net::{Shutdown, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::Target;

/// Bytes that a pipe holds (pipe(7)).
const PIPE: usize = 64 * 1024;
/// How often a way is gone before others have their turn: 1 MiB at most.
const ROUNDS: u32 = 16;

#[derive(Debug)]
pub(super) struct Stream {
    /// The client's and the container's.
    pub(super) sides: [OwnedFd; 2],
    /// From the client to the container, and back.
    ways: [Way; 2],
    connecting: bool,
    pub(super) target: Target,
}

#[derive(Debug)]
struct Way {
    out: OwnedFd,
    inlet: OwnedFd,
    /// Bytes in the pipe.
    held: usize,
    /// The sender has ended.
    ended: bool,
    /// The receiver knows.
    told: bool,
}

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing can be moved before the next event.
    Waits,
    More,
    /// Both have ended.
    Over,
}

impl Stream {
    pub(super) fn new(client: OwnedFd, server: OwnedFd, target: Target) -> Result<Stream, Errno> {
        for side in [&client, &server] {
            // A peer that vanished without a word is noticed in the end.
            sockopt::set_socket_keepalive(side, true)?;
            sockopt::set_tcp_nodelay(side, true)?;
        }
        Ok(Stream { sides: [client, server], ways: [Way::new()?, Way::new()?], connecting: true, target })
    }

    /// Moves what can be moved. An error is the end of both sides.
    pub(super) fn pump(&mut self) -> Result<Pumped, Errno> {
        let [client, server] = &self.sides;
        if self.connecting {
            sockopt::socket_error(server)??;
            if rustix::net::getpeername(server).is_err() {
                return Ok(Pumped::Waits);
            }
            self.connecting = false;
        }
        let [there, back] = &mut self.ways;
        let more = [there.pump(client, server)?, back.pump(server, client)?];
        if there.told && back.told {
            return Ok(Pumped::Over);
        }
        Ok(if more.contains(&true) { Pumped::More } else { Pumped::Waits })
    }
}

impl Way {
    fn new() -> Result<Way, Errno> {
        let (out, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Way { out, inlet, held: 0, ended: false, told: false })
    }

    /// Whether there is more to move right now.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Errno> {
        for _ in 0..ROUNDS {
            let mut moved = false;
            if !self.ended && self.held < PIPE {
                match carry(from, &self.inlet, PIPE - self.held)? {
                    Some(0) => self.ended = true,
                    Some(count) => {
                        self.held += count;
                        moved = true;
                    }
                    None => {}
                }
            }
            if self.held > 0
                && let Some(count) = carry(&self.out, to, self.held)?
            {
                self.held -= count;
                moved |= count > 0;
            }
            if self.ended && self.held == 0 && !self.told {
                // A receiver that has gone already needs no telling.
                let _ = rustix::net::shutdown(to, Shutdown::Write);
                self.told = true;
            }
            if !moved {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// `None`: not now.
fn carry(from: &OwnedFd, to: &OwnedFd, most: usize) -> Result<Option<usize>, Errno> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    match rustix::io::retry_on_intr(|| splice(from, None, to, None, most, flags)) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Has the peer told that this connection was refused or broken off, when it is closed.
pub(super) fn reset(side: &OwnedFd) {
    let _ = sockopt::set_socket_linger(side, Some(std::time::Duration::ZERO));
}
