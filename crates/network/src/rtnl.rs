//! Links, addresses and routes of a network namespace (rtnetlink(7)).
//!
//! A [`Batch`] is a list of changes, sent in one datagram; the kernel works through it before the
//! call returns and answers each change by itself. **A refused change does not stop those behind
//! it**: [`Socket::run`] gives the first refusal, in words, and whoever needs all or nothing undoes
//! the rest. A [`Socket`] works in the namespace in which it was opened, from any thread, for as
//! long as it lives (and keeps that namespace alive).
//!
//! The numbers are those of `linux/rtnetlink.h`, `linux/if_link.h` and `linux/if_addr.h`; nothing
//! outside this module knows them.

mod batch;
mod lock;
mod observe;
mod watch;

pub(crate) use lock::lock;

pub use batch::{Batch, Change, Kind, LinkRef, NewLink, Peer, Route};
pub use observe::{Address, Counters, Link};
pub use watch::Watch;

use std::collections::VecDeque;
use std::fmt;

use hull_sys::Errno;
use hull_sys::netlink::message::{self, Messages};
use hull_sys::netlink::{self, Family};

/// A change or a question that the kernel refused, or a socket that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot {request}: {} ({}){}",
        hull_sys::error::name(*errno),
        hull_sys::error::describe(*errno),
        text.as_ref().map_or(String::new(), |text| format!(": {text}"))
    )]
    Refused {
        /// What was asked for, in words: `set link docker0 up`.
        request: String,
        errno: Errno,
        /// What the kernel says about it.
        text: Option<String>,
    },
    /// The conversation with the kernel failed: what was done is unknown.
    #[error("netlink failed")]
    Socket(#[from] hull_sys::Error),
}

impl Error {
    /// Why it was refused or failed.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Refused { errno, .. } => *errno,
            Error::Socket(error) => error.errno,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Answers that the socket's buffer surely holds: longer batches are sent in parts. An answer takes
/// some 900 bytes of the buffer's 208 KiB (socket(7), `rmem_default`), however short it is.
const PART: usize = 64;

pub struct Socket {
    socket: netlink::Socket,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.socket).finish()
    }
}

impl Socket {
    /// For the network namespace of this thread.
    pub fn open() -> Result<Socket> {
        let socket = netlink::Socket::open(Family::Route)?;
        Ok(Socket { socket, sequence: 1, buffer: vec![0; netlink::DATAGRAM].into_boxed_slice() })
    }

    /// Makes the changes in their order. The first that was refused is the error; those behind it
    /// were tried all the same.
    pub fn run(&mut self, batch: Batch) -> Result<()> {
        let mut refused = None;
        for result in self.each(batch)? {
            if let Err(error) = result {
                refused.get_or_insert(error);
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Makes the changes in their order, and tells of each how it went.
    pub fn each(&mut self, batch: Batch) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(batch.requests.len());
        let mut requests: VecDeque<_> = batch.requests.into();
        while !requests.is_empty() {
            let part: Vec<_> = requests.drain(..requests.len().min(PART)).collect();
            let mut datagram = Vec::new();
            let first = self.sequence;
            for (words, mut messages) in part.into_iter() {
                messages.number_from(self.next_sequence());
                datagram.extend_from_slice(messages.bytes());
                results.push(Err(Error::Refused { request: words, errno: Errno::NODATA, text: None }));
            }
            let _lock = lock();
            self.socket.send(&datagram)?;
            self.answers(first, &mut results)?;
        }
        Ok(results)
    }

    /// Reads the answer to each request since the one numbered `first`; these are the last of
    /// `results`.
    fn answers(&mut self, first: u32, results: &mut [Result<()>]) -> Result<()> {
        let expected = self.sequence.wrapping_sub(first) as usize;
        let start = results.len() - expected;
        let mut missing = expected;
        while missing > 0 {
            let len = self.socket.receive(&mut self.buffer)?;
            for message in message::messages(&self.buffer[..len]) {
                let place = message.sequence.wrapping_sub(first) as usize;
                let Some(answer) = message.answer().filter(|_| place < expected) else { continue };
                missing -= 1;
                let result = &mut results[start + place];
                match (answer.errno, &mut *result) {
                    (None, _) => *result = Ok(()),
                    (Some(why), Err(Error::Refused { errno, text, .. })) => {
                        *errno = why;
                        *text = answer.text;
                    }
                    (Some(_), _) => {}
                }
            }
        }
        Ok(())
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }

    /// The link of this name or number; `None` if there is none.
    pub fn link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Option<Link>> {
        let link = link.into();
        let mut found = None;
        match self.ask(observe::link_request(link), &format!("look up {link}"), |message| {
            found = found.take().or(observe::link(message));
        }) {
            Ok(()) => Ok(found),
            Err(Error::Refused { errno: Errno::NODEV, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links, without their counters.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump(observe::links_request(), "list links", observe::link)
    }

    /// The links in this bridge.
    pub fn ports(&mut self, bridge: u32) -> Result<Vec<Link>> {
        let found = self.dump(observe::ports_request(bridge), "list the ports of a bridge", observe::link)?;
        Ok(found.into_iter().filter(|link| link.master == Some(bridge)).collect())
    }

    /// Of each link its counters.
    pub fn counters(&mut self) -> Result<Vec<Counters>> {
        self.dump(observe::counters_request(), "read the counters of links", observe::counters)
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        self.dump(observe::addresses_request(), "list addresses", observe::address)
    }

    /// The unicast routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        self.dump(observe::routes_request(), "list routes", observe::route)
    }

    fn dump<T>(
        &mut self,
        request: Messages,
        words: &str,
        mut read: impl FnMut(message::Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        // A list that changed while it was read may miss what was there all along: read again. A
        // namespace that changes without a pause gets the last reading.
        const READINGS: u32 = 8;
        let mut found = Vec::new();
        for _ in 0..READINGS {
            found.clear();
            let mut torn = false;
            self.ask(request.clone(), words, |message| {
                torn |= message.flags & message::DUMP_INTERRUPTED != 0;
                found.extend(read(message));
            })?;
            if !torn {
                break;
            }
        }
        Ok(found)
    }

    /// Sends one question and reads to the end of its answer.
    fn ask(
        &mut self,
        mut request: Messages,
        words: &str,
        mut read: impl FnMut(message::Message<'_>),
    ) -> Result<()> {
        let sequence = self.next_sequence();
        request.number_from(sequence);
        let _lock = lock();
        self.socket.send(request.bytes())?;
        loop {
            let len = self.socket.receive(&mut self.buffer)?;
            for message in message::messages(&self.buffer[..len]) {
                // What an interrupted conversation left behind.
                if message.sequence != sequence {
                    continue;
                }
                match message.answer() {
                    None => read(message),
                    Some(message::Answer { errno: Some(errno), text }) => {
                        return Err(Error::Refused { request: words.to_owned(), errno, text });
                    }
                    Some(_) => {
                        if message.kind == message::DONE {
                            read(message);
                        }
                        return Ok(());
                    }
                }
            }
        }
    }
}
