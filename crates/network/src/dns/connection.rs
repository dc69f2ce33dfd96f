//! A container's TCP connection: queries and replies behind two bytes of length each (RFC 1035
//! §4.2.2), any number of them, each answered when it can be (RFC 7766 §6).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_sys::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags};

/// A connection on which nothing moves is closed after this (RFC 7766 §6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Bytes read at once.
const PIECE: usize = 4096;
/// Bytes of replies that wait; as long as there are more, no query is taken.
const WAITING_MAX: usize = 128 * 1024;
/// Queries of one connection that may be asked outside at a time.
const ASKED_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Connection {
    /// Whose it is.
    pub(super) seat: u64,
    pub(super) socket: OwnedFd,
    /// When it is closed if nothing moves.
    pub(super) due: Instant,
    /// Queries that are asked outside.
    pub(super) asked: usize,
    /// What is waited for.
    pub(super) interest: EventFlags,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// No more queries come.
    ended: bool,
    broken: bool,
}

/// What [`Connection::hear`] got.
pub(super) enum Heard {
    Query(Vec<u8>),
    /// Nothing for now, or for ever.
    Nothing,
}

impl Connection {
    pub(super) fn new(seat: u64, socket: OwnedFd) -> Connection {
        Connection {
            seat,
            socket,
            due: Instant::now() + IDLE,
            asked: 0,
            interest: EventFlags::IN,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            ended: false,
            broken: false,
        }
    }

    /// The next whole query.
    pub(super) fn hear(&mut self) -> Heard {
        loop {
            if !self.hungry() {
                return Heard::Nothing;
            }
            if let Some(query) = take(&mut self.input) {
                self.due = Instant::now() + IDLE;
                return Heard::Query(query);
            }
            let before = self.input.len();
            self.input.resize(before + PIECE, 0);
            let got = rustix::net::recv(&self.socket, &mut self.input[before..], RecvFlags::DONTWAIT);
            self.input.truncate(before + got.map_or(0, |(_, got)| got));
            match got {
                Ok((_, 0)) => self.ended = true,
                Ok(_) => {}
                Err(Errno::AGAIN) => return Heard::Nothing,
                Err(Errno::INTR) => {}
                Err(_) => self.close(),
            }
        }
    }

    fn hungry(&self) -> bool {
        !self.ended && !self.broken && self.output.len() < WAITING_MAX && self.asked < ASKED_MAX
    }

    /// Queues a reply.
    pub(super) fn say(&mut self, reply: &[u8]) {
        // No reply is longer: it was made for this, or came the same way.
        let length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(&reply[..usize::from(length)]);
        self.due = Instant::now() + IDLE;
    }

    /// Sends what the socket takes, and sets what is waited for.
    pub(super) fn flush(&mut self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while self.sent < self.output.len() && !self.broken {
            match rustix::net::send(&self.socket, &self.output[self.sent..], flags) {
                Ok(sent) => {
                    self.sent += sent;
                    self.due = Instant::now() + IDLE;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => self.close(),
            }
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        self.interest = EventFlags::empty();
        self.interest.set(EventFlags::IN, self.hungry());
        self.interest.set(EventFlags::OUT, !self.output.is_empty());
    }

    /// Gives it up.
    pub(super) fn close(&mut self) {
        self.broken = true;
    }

    /// Nothing more will happen on it.
    pub(super) fn over(&self) -> bool {
        self.broken || (self.ended && self.asked == 0 && self.output.is_empty())
    }
}

/// Takes the first whole message off, if it is there.
pub(super) fn take(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    let message = input.get(2..2 + length)?.to_vec();
    input.drain(..2 + length);
    Some(message)
}
