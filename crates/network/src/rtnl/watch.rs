//! Waiting for a link to change, without asking again and again.

use std::fmt;
use std::time::{Duration, Instant};

use hull_sys::netlink::{self, Family};
use hull_sys::{During, Errno};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Link, Result, Socket};

/// The multicast group of changes to links.
const RTNLGRP_LINK: u32 = 1;

/// Notifications of changes to links of one namespace, from its making on.
pub struct Watch {
    socket: netlink::Socket,
    buffer: Box<[u8]>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.socket).finish()
    }
}

impl Watch {
    /// For the network namespace of this thread.
    pub fn links() -> Result<Watch> {
        let socket = netlink::Socket::open(Family::Route)?;
        socket.join(RTNLGRP_LINK)?;
        Ok(Watch { socket, buffer: vec![0; netlink::DATAGRAM].into_boxed_slice() })
    }

    /// Waits until the link number `index` is as `wanted`. `false`: it has gone, or `limit` passed.
    /// `socket` must be of the same namespace.
    pub fn until(
        &mut self,
        socket: &mut Socket,
        index: u32,
        limit: Duration,
        wanted: impl Fn(&Link) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            match socket.link(index)? {
                None => return Ok(false),
                Some(link) if wanted(&link) => return Ok(true),
                Some(_) => {}
            }
            if !self.next(end)? {
                return Ok(false);
            }
        }
    }

    /// Waits for a change of any link, for at most `limit`; `false`: there was none.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        self.next(Instant::now() + limit)
    }

    /// Waits for a notification, whichever; `false` at `end`.
    fn next(&mut self, end: Instant) -> Result<bool> {
        let rest = end.saturating_duration_since(Instant::now());
        let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&rest)));
        if ready.during("poll", || "netlink")? == 0 {
            return Ok(false);
        }
        match self.socket.receive(&mut self.buffer) {
            // Too many to keep, or one too long: something has changed, and that is all we want.
            Err(error) if [Errno::NOBUFS, Errno::MSGSIZE].contains(&error.errno) => Ok(true),
            result => Ok(result.map(|_| true)?),
        }
    }
}
