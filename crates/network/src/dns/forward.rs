//! Queries on their way to the resolvers of the host: raw bytes there, raw bytes back.
//!
//! A query that is asked outside is a *flight*; each server that it was sent to is an *attempt*
//! with a socket of its own, connected, so that the kernel lets only that server's answers in, from
//! a port that the kernel chose at random, under an id drawn at random. An answer counts only with
//! this id and the same question: whoever wants to forge one has to guess 31 bits (RFC 5452).
//!
//! ```text
//!   0 s        first server     an answer, or NXDOMAIN: it lands
//!   +1 s       next server      a failure (SERVFAIL, REFUSED, unreachable): the next one at once
//!   +1 s       … twice round    all have failed: the last failure lands
//!   8 s        SERVFAIL lands
//! ```
//!
//! Attempts stay open while later ones are made: the first answer wins, so one dead server costs a
//! second and never the answer. TCP is asked over TCP, and a UDP answer that says it was cut is
//! passed on as it is: the client comes back over TCP by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_sys::{During, Errno, datagram};
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

use super::connection::take;
use super::message::{self, Code};
use super::server::{Interests, Seat, Token};

/// After which the next server is asked as well.
const NEXT: Duration = Duration::from_secs(1);
/// After which it is given up.
const LIMIT: Duration = Duration::from_secs(8);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// Flights of one container, and of all: the oldest gives way.
const FLIGHTS_EACH: usize = 128;
const FLIGHTS_MAX: usize = 2048;
/// Bytes of any message.
const MESSAGE_MAX: usize = 65_535;

/// Who waits for an answer: the seat's number, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Datagram(u64, SocketAddrV4),
    Connection(u64, u64),
}

impl From {
    pub(super) fn seat(self) -> u64 {
        let (From::Datagram(seat, _) | From::Connection(seat, _)) = self;
        seat
    }
}

/// Who is asked, in this order.
#[derive(Debug)]
pub(super) struct Servers {
    /// From the container's namespace, not the host's.
    pub(super) inside: bool,
    pub(super) list: Vec<SocketAddr>,
    /// What is told if nobody is there.
    pub(super) nobody: Code,
}

#[derive(Debug)]
struct Flight {
    from: From,
    /// With the client's id.
    query: Vec<u8>,
    servers: Servers,
    attempts: Vec<u64>,
    /// Attempts made, of all rounds.
    made: usize,
    /// When the next attempt is due, or the end.
    due: Instant,
    end: Instant,
    /// The last refusal, to be told if nobody answers.
    failure: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Attempt {
    flight: u64,
    id: [u8; 2],
    socket: OwnedFd,
    /// Over TCP: what is still to be sent, and what has come.
    stream: Option<(Vec<u8>, Vec<u8>)>,
}

/// All queries that are under way.
pub(super) struct Flights {
    /// The host's namespace, to come back to.
    home: OwnedFd,
    flights: BTreeMap<u64, Flight>,
    attempts: HashMap<u64, Attempt>,
    due: BTreeSet<(Instant, u64)>,
    each: HashMap<u64, VecDeque<u64>>,
    buffer: Vec<u8>,
    /// Replies to be passed on, with the client's id.
    pub(super) landed: VecDeque<(From, Vec<u8>)>,
}

impl Flights {
    /// The calling thread's namespace is the host's.
    pub(super) fn new() -> hull_sys::Result<Flights> {
        let path = "/proc/thread-self/ns/net";
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let home = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).during("open", || path)?;
        Ok(Flights {
            home,
            flights: BTreeMap::new(),
            attempts: HashMap::new(),
            due: BTreeSet::new(),
            each: HashMap::new(),
            buffer: vec![0; MESSAGE_MAX],
            landed: VecDeque::new(),
        })
    }

    /// When something is to be done without being told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Sends a query out.
    pub(super) fn begin(
        &mut self,
        from: From,
        query: Vec<u8>,
        servers: Servers,
        interests: &mut Interests,
        seats: &HashMap<u64, Seat>,
    ) {
        // A client that asks again on the same socket is waiting already (with the same id).
        let again = |number: &u64| self.flights[number].from == from && self.flights[number].query == query;
        if matches!(from, From::Datagram(..))
            && self.each.get(&from.seat()).is_some_and(|of| of.iter().any(again))
        {
            return;
        }
        if self.flights.len() >= FLIGHTS_MAX
            && let Some(oldest) = self.flights.keys().next().copied()
        {
            self.give_up(oldest, interests);
        }
        if let Some(own) = self.each.get(&from.seat())
            && own.len() >= FLIGHTS_EACH
            && let Some(oldest) = own.front().copied()
        {
            self.give_up(oldest, interests);
        }
        let number = interests.number();
        let now = Instant::now();
        let flight = Flight {
            from,
            query,
            servers,
            attempts: Vec::new(),
            made: 0,
            due: now,
            end: now + LIMIT,
            failure: None,
        };
        self.due.insert((now, number));
        self.each.entry(from.seat()).or_default().push_back(number);
        self.flights.insert(number, flight);
        self.advance(number, now, interests, seats);
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, now: Instant, interests: &mut Interests, seats: &HashMap<u64, Seat>) {
        while let Some((due, number)) = self.due.first().copied()
            && due <= now
        {
            self.advance(number, now, interests, seats);
        }
    }

    /// Asks the next server; without one, ends when the time or the last attempt is over.
    fn advance(&mut self, number: u64, now: Instant, interests: &mut Interests, seats: &HashMap<u64, Seat>) {
        loop {
            let Some(flight) = self.flights.get_mut(&number) else { return };
            let list = &flight.servers.list;
            let more = flight.made < list.len() * ROUNDS;
            if now >= flight.end || (!more && flight.attempts.is_empty()) {
                return self.give_up(number, interests);
            }
            if !more {
                return self.delay(number, now + LIMIT);
            }
            let server = list[flight.made % list.len()];
            flight.made += 1;
            let attempt = interests.number();
            if let Ok(made) = attempt_at(&self.home, number, flight, server, seats)
                && interests.add(&made.socket, Token::Attempt(attempt), awaited(&made)).is_ok()
            {
                flight.attempts.push(attempt);
                self.attempts.insert(attempt, made);
                return self.delay(number, now + NEXT);
            }
        }
    }

    /// Sets when a flight is looked at again, if nobody answers.
    fn delay(&mut self, number: u64, until: Instant) {
        if let Some(flight) = self.flights.get_mut(&number) {
            self.due.remove(&(flight.due, number));
            flight.due = until.min(flight.end);
            self.due.insert((flight.due, number));
        }
    }

    /// A server has said something, or cannot be reached.
    pub(super) fn hear(&mut self, number: u64, interests: &mut Interests, seats: &HashMap<u64, Seat>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let flight = attempt.flight;
        let Some(asked) = self.flights.get_mut(&flight) else { return };
        let mut sent = asked.query.clone();
        sent[..2].copy_from_slice(&attempt.id);
        match listen(attempt, &sent, &mut self.buffer) {
            Said::Nothing => {
                interests.change(&attempt.socket, Token::Attempt(number), awaited(attempt));
            }
            Said::Reply(mut reply) => {
                reply[..2].copy_from_slice(&asked.query[..2]);
                let failed = [Code::ServerFailure, Code::NotImplemented, Code::Refused];
                if failed.iter().all(|code| *code as u8 != message::code(&reply)) {
                    return self.land(flight, reply, interests);
                }
                asked.failure = Some(reply);
                self.fail(number, interests, seats);
            }
            Said::Failure => self.fail(number, interests, seats),
        }
    }

    /// This attempt will bring nothing: the next one is due now.
    fn fail(&mut self, number: u64, interests: &mut Interests, seats: &HashMap<u64, Seat>) {
        let Some(attempt) = self.attempts.remove(&number) else { return };
        interests.remove(&attempt.socket);
        let Some(flight) = self.flights.get_mut(&attempt.flight) else { return };
        flight.attempts.retain(|other| *other != number);
        // A server that has failed is not asked a second time, unless others are waited for.
        if flight.attempts.is_empty() && flight.made >= flight.servers.list.len() {
            self.give_up(attempt.flight, interests);
        } else {
            self.advance(attempt.flight, Instant::now(), interests, seats);
        }
    }

    /// Ends a flight with the last failure, or one of our own.
    fn give_up(&mut self, number: u64, interests: &Interests) {
        let Some(flight) = self.flights.get_mut(&number) else { return };
        let reply = flight.failure.take().unwrap_or_else(|| {
            let mut reply = Vec::new();
            message::fail(&flight.query, flight.servers.nobody, &mut reply);
            reply
        });
        self.land(number, reply, interests);
    }

    fn land(&mut self, number: u64, reply: Vec<u8>, interests: &Interests) {
        if let Some(from) = self.end(number, interests) {
            self.landed.push_back((from, reply));
        }
    }

    /// Forgets a flight and all of its attempts.
    fn end(&mut self, number: u64, interests: &Interests) -> Option<From> {
        let flight = self.flights.remove(&number)?;
        self.due.remove(&(flight.due, number));
        for attempt in &flight.attempts {
            if let Some(attempt) = self.attempts.remove(attempt) {
                interests.remove(&attempt.socket);
            }
        }
        let seat = flight.from.seat();
        if let Some(own) = self.each.get_mut(&seat) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.each.remove(&seat);
            }
        }
        Some(flight.from)
    }

    /// The container is served no more.
    pub(super) fn forget(&mut self, seat: u64, interests: &Interests) {
        for number in self.each.get(&seat).cloned().unwrap_or_default() {
            self.end(number, interests);
        }
    }
}

/// Sends a flight's query to `server`.
fn attempt_at(
    home: &OwnedFd,
    number: u64,
    flight: &Flight,
    server: SocketAddr,
    seats: &HashMap<u64, Seat>,
) -> hull_sys::Result<Attempt> {
    let tcp = matches!(flight.from, From::Connection(..));
    let socket = if flight.servers.inside {
        let seat = seats
            .get(&flight.from.seat())
            .ok_or(Errno::NOENT)
            .during("setns", || "a container's namespace")?;
        let namespace = datagram::namespace(&seat.sockets.udp)?;
        inside(home, &namespace, || socket(server, tcp))??
    } else {
        socket(server, tcp)?
    };
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).during("getrandom", || "2")?;
    let mut query = flight.query.clone();
    query[..2].copy_from_slice(&id);
    match rustix::net::connect(&socket, &server) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) if tcp => {}
        Err(errno) => return Err(errno).during("connect", || server),
    }
    let stream = if tcp {
        let length = (query.len() as u16).to_be_bytes();
        Some(([&length, query.as_slice()].concat(), Vec::new()))
    } else {
        rustix::net::send(&socket, &query, SendFlags::DONTWAIT).during("send", || server)?;
        None
    };
    Ok(Attempt { flight: number, id, socket, stream })
}

fn socket(server: SocketAddr, tcp: bool) -> hull_sys::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, kind, flags, None).during("socket", || server)
}

/// Makes something in another network namespace. A socket stays in the one it was made in.
///
/// Panics if the thread cannot come back: it would ask for other containers from the wrong place.
fn inside<T>(home: &OwnedFd, namespace: &OwnedFd, make: impl FnOnce() -> T) -> hull_sys::Result<T> {
    let enter =
        |namespace| rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network));
    enter(std::os::fd::AsFd::as_fd(namespace)).during("setns", || "a container's network namespace")?;
    let made = make();
    let home = enter(std::os::fd::AsFd::as_fd(home));
    assert!(home.is_ok(), "the thread for names cannot come back to the host's network: {home:?}");
    Ok(made)
}

fn awaited(attempt: &Attempt) -> EventFlags {
    match &attempt.stream {
        Some((unsent, _)) if !unsent.is_empty() => EventFlags::OUT,
        _ => EventFlags::IN,
    }
}

/// What a server has said.
enum Said {
    Nothing,
    Reply(Vec<u8>),
    Failure,
}

/// Takes what has come; what does not answer `sent` was not said.
fn listen(attempt: &mut Attempt, sent: &[u8], buffer: &mut [u8]) -> Said {
    if let Some((unsent, come)) = &mut attempt.stream {
        while !unsent.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&attempt.socket, unsent, flags) {
                Ok(sent) => drop(unsent.drain(..sent)),
                Err(Errno::AGAIN) => return Said::Nothing,
                Err(Errno::INTR) => {}
                Err(_) => return Said::Failure,
            }
        }
        return match rustix::net::recv(&attempt.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Said::Failure,
            Ok((_, got)) => {
                come.extend_from_slice(&buffer[..got]);
                match take(come) {
                    Some(reply) if message::answers(&reply, sent) => Said::Reply(reply),
                    Some(_) => Said::Failure,
                    None => Said::Nothing,
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => Said::Nothing,
            Err(_) => Said::Failure,
        };
    }
    loop {
        match rustix::net::recv(&attempt.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, got)) if message::answers(&buffer[..got], sent) => {
                return Said::Reply(buffer[..got].to_vec());
            }
            // Somebody guesses; the right answer may still come.
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Said::Nothing,
            Err(_) => return Said::Failure,
        }
    }
}
