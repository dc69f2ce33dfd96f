//! One thread that answers every container of the host.
//!
//! It waits on all sockets at once and never for one of them: UDP queries are taken and answered
//! in batches, connections are read and written as far as they go, and what is asked outside
//! ([`super::forward`]) is remembered as a flight until an answer or its time comes. Every round
//! gives each socket one turn, so a container that asks without pause delays nobody for longer
//! than a batch.
//!
//! Everyone else speaks to it by orders: they are queued under a lock that is held for a push, and
//! taken when the thread wakes.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use hull_sys::datagram::{self, BATCH, Batch};
use hull_sys::{During, Errno};
use rustix::event::{EventfdFlags, Timespec, epoll};

use super::answer::{Answer, Asker, Options, answer};
use super::connection::{Connection, Heard};
use super::forward::{self, Flights, From};
use super::message::{Code, Transport};
use super::sockets::Sockets;
use super::table::Table;
use super::upstreams::{self, Upstreams};
use crate::record::{ContainerId, Endpoint, Network, NetworkId};

/// Bytes of the longest query over UDP; queries have one question and a few options.
const QUERY_MAX: usize = 4096;
/// Events taken in one round.
const EVENTS: usize = 64;
/// Connections of one container, and of all.
const CONNECTIONS_EACH: usize = 64;
const CONNECTIONS_MAX: usize = 1024;

enum Order {
    Add(String, Sockets, Options),
    Remove(String),
    Table(Table),
    Set(Box<(Network, Endpoint)>),
    Unset { network: NetworkId, container: ContainerId },
    Stop,
}

struct Orders {
    queue: Mutex<Vec<Order>>,
    /// An eventfd: readable when there are some.
    bell: OwnedFd,
}

/// The running thread; it ends when this is dropped. Copies of sockets that others hold stay open,
/// and what is asked waits in them for the next server.
pub struct Server {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts the thread. `resolv_conf` is the host's, read and followed; the calling thread's
    /// network namespace is where the host's resolvers are asked from.
    pub fn start(resolv_conf: &Path) -> hull_sys::Result<Server> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = rustix::event::eventfd(0, flags).during("eventfd2", || "")?;
        let orders = Arc::new(Orders { queue: Mutex::new(Vec::new()), bell });
        let mut life = Life::new(orders.clone(), Upstreams::follow(resolv_conf)?)?;
        let thread = std::thread::Builder::new()
            .name("hull-dns".to_owned())
            .spawn(move || life.run())
            .during("clone", || "a thread for names")?;
        Ok(Server { orders, thread: Some(thread) })
    }

    /// Serves a container. The table should know it already: until it does, its queries fail.
    /// One that was added before is served on the new sockets from now on.
    pub fn add(&self, container: &str, sockets: Sockets, options: Options) {
        self.order(Order::Add(container.to_owned(), sockets, options));
    }

    /// Serves it no longer; this side's copies of its sockets are closed.
    pub fn remove(&self, container: &str) {
        self.order(Order::Remove(container.to_owned()));
    }

    /// Answers by this table from now on.
    pub fn set_table(&self, table: Table) {
        self.order(Order::Table(table));
    }

    /// A container is on a network, or what it has there has changed.
    pub fn set(&self, network: &Network, endpoint: &Endpoint) {
        self.order(Order::Set(Box::new((network.clone(), endpoint.clone()))));
    }

    /// It is on it no more.
    pub fn unset(&self, network: &str, container: &str) {
        self.order(Order::Unset { network: network.to_owned(), container: container.to_owned() });
    }

    fn order(&self, order: Order) {
        let mut queue = self.orders.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(order);
        drop(queue);
        // Fails only when the count would overflow, and then the bell rings already.
        let _ = rustix::io::write(&self.orders.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What an event is about: three bits of kind below a number that is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Bell,
    Upstreams,
    Udp(u64),
    Listener(u64),
    Connection(u64),
    /// A query on its way to a server.
    Attempt(u64),
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Token::Bell => (0, 0),
            Token::Upstreams => (1, 0),
            Token::Udp(number) => (2, number),
            Token::Listener(number) => (3, number),
            Token::Connection(number) => (4, number),
            Token::Attempt(number) => (5, number),
        };
        epoll::EventData::new_u64(number << 3 | kind)
    }

    fn of(data: u64) -> Token {
        let number = data >> 3;
        match data & 7 {
            0 => Token::Bell,
            1 => Token::Upstreams,
            2 => Token::Udp(number),
            3 => Token::Listener(number),
            4 => Token::Connection(number),
            _ => Token::Attempt(number),
        }
    }
}

/// The sockets that are waited on, and the numbers they get.
pub(super) struct Interests {
    epoll: OwnedFd,
    next: u64,
}

impl Interests {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, flags: epoll::EventFlags) -> hull_sys::Result<()> {
        epoll::add(&self.epoll, fd, token.data(), flags).during("epoll_ctl", || "EPOLL_CTL_ADD")
    }

    pub(super) fn change(&self, fd: impl AsFd, token: Token, flags: epoll::EventFlags) {
        // It was added, so there is nothing to allocate.
        let _ = epoll::modify(&self.epoll, fd, token.data(), flags);
    }

    /// To be called before closing: others hold copies of some sockets, and epoll goes on telling
    /// of a closed descriptor as long as a copy is open (epoll(7), question 6).
    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }
}

/// A container that is served.
pub(super) struct Seat {
    container: String,
    pub(super) sockets: Sockets,
    pub(super) options: Options,
    turn: u32,
    connections: usize,
}

impl Seat {
    fn asker(&mut self, transport: Transport) -> Asker<'_> {
        self.turn = self.turn.wrapping_add(1);
        Asker { container: &self.container, transport, turn: self.turn, options: &self.options }
    }
}

struct Life {
    interests: Interests,
    orders: Arc<Orders>,
    table: Table,
    upstreams: Upstreams,
    numbers: HashMap<String, u64>,
    seats: HashMap<u64, Seat>,
    connections: BTreeMap<u64, Connection>,
    flights: Flights,
    batch: Batch,
    /// Buffers of replies, used again and again.
    replies: Vec<Vec<u8>>,
}

impl Life {
    fn new(orders: Arc<Orders>, upstreams: Upstreams) -> hull_sys::Result<Life> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("epoll_create1", || "")?;
        let interests = Interests { epoll, next: 0 };
        interests.add(&orders.bell, Token::Bell, epoll::EventFlags::IN)?;
        interests.add(&upstreams, Token::Upstreams, epoll::EventFlags::IN)?;
        Ok(Life {
            interests,
            orders,
            table: Table::default(),
            upstreams,
            numbers: HashMap::new(),
            seats: HashMap::new(),
            connections: BTreeMap::new(),
            flights: Flights::new()?,
            batch: Batch::new(QUERY_MAX),
            replies: vec![Vec::new(); BATCH],
        })
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let limit = self.patience();
            events.clear();
            // An interruption is an empty round; nothing else can fail with valid descriptors.
            let _ = epoll::wait(
                &self.interests.epoll,
                rustix::buffer::spare_capacity(&mut events),
                limit.as_ref(),
            );
            for event in &events {
                match Token::of(event.data.u64()) {
                    Token::Bell => {
                        if self.obey() {
                            return;
                        }
                    }
                    Token::Upstreams => self.upstreams.heed(),
                    Token::Udp(number) => self.serve(number),
                    Token::Listener(number) => self.accept(number),
                    Token::Connection(number) => self.converse(number),
                    Token::Attempt(number) => self.flights.hear(number, &mut self.interests, &self.seats),
                }
            }
            self.flights.expire(Instant::now(), &mut self.interests, &self.seats);
            self.deliver();
            self.hang_up();
        }
    }

    /// How long nothing has to happen by itself.
    fn patience(&self) -> Option<Timespec> {
        let idle = self.connections.values().map(|connection| connection.due).min();
        let due = self.flights.due().into_iter().chain(idle).min()?;
        // Rounded up: waking before the time would wait again for the rest.
        let left = due.saturating_duration_since(Instant::now()).as_millis() as i64 + 1;
        Some(Timespec { tv_sec: left / 1000, tv_nsec: left % 1000 * 1_000_000 })
    }

    /// Does what was ordered; says whether to stop.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&self.orders.bell, &mut [0; 8]);
        let orders = std::mem::take(&mut *self.orders.queue.lock().unwrap_or_else(PoisonError::into_inner));
        for order in orders {
            match order {
                Order::Add(container, sockets, options) => self.add(container, sockets, options),
                Order::Remove(container) => self.remove(&container),
                Order::Table(table) => self.table = table,
                Order::Set(place) => self.table.set(&place.0, &place.1),
                Order::Unset { network, container } => self.table.unset(&network, &container),
                Order::Stop => return true,
            }
        }
        false
    }

    fn add(&mut self, container: String, sockets: Sockets, options: Options) {
        self.remove(&container);
        let number = self.interests.number();
        let watched =
            self.interests.add(&sockets.udp, Token::Udp(number), epoll::EventFlags::IN).and_then(|()| {
                self.interests.add(&sockets.listener, Token::Listener(number), epoll::EventFlags::IN)
            });
        // For want of memory or watches: the container's resolver is silent then.
        if watched.is_err() {
            self.interests.remove(&sockets.udp);
            return;
        }
        self.numbers.insert(container.clone(), number);
        self.seats.insert(number, Seat { container, sockets, options, turn: 0, connections: 0 });
    }

    fn remove(&mut self, container: &str) {
        let Some(number) = self.numbers.remove(container) else { return };
        if let Some(seat) = self.seats.remove(&number) {
            self.interests.remove(&seat.sockets.udp);
            self.interests.remove(&seat.sockets.listener);
        }
        // Its connections and flights are nobody's now.
        let interests = &self.interests;
        self.connections.retain(|_, connection| {
            let stays = connection.seat != number;
            if !stays {
                interests.remove(&connection.socket);
            }
            stays
        });
        self.flights.forget(number, &self.interests);
    }

    /// Takes a batch of a container's queries and answers what can be answered here.
    fn serve(&mut self, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        let count = self.batch.receive(&seat.sockets.udp).unwrap_or(0);
        let mut out: [(SocketAddrV4, &[u8]); BATCH] =
            [(SocketAddrV4::new([0, 0, 0, 0].into(), 0), &[]); BATCH];
        let mut replies = 0;
        let mut outside = [(0, false); BATCH];
        let mut forwards = 0;
        for (at, reply) in self.replies[..count].iter_mut().enumerate() {
            let (from, query) = self.batch.get(at);
            match answer(&self.table, &seat.asker(Transport::Udp), query, reply) {
                Answer::Reply => {
                    out[replies] = (from, reply);
                    replies += 1;
                }
                Answer::Forward { internal } => {
                    outside[forwards] = (at, internal);
                    forwards += 1;
                }
                Answer::Nothing => {}
            }
        }
        let mut left = &out[..replies];
        while !left.is_empty() {
            // One that cannot be sent is lost as any datagram may be; the others are not.
            let sent = datagram::send(&seat.sockets.udp, left).unwrap_or(0);
            left = &left[sent.max(1)..];
        }
        for (at, internal) in &outside[..forwards] {
            let (from, query) = self.batch.get(*at);
            let (from, query) = (From::Datagram(number, from), query.to_vec());
            self.forward(from, query, *internal);
        }
    }

    fn forward(&mut self, from: From, query: Vec<u8>, internal: bool) {
        let Some(seat) = self.seats.get(&from.seat()) else { return };
        let own = upstreams::addresses(&seat.options.servers);
        let nobody = if internal { Code::NameError } else { Code::ServerFailure };
        let order = if own.is_empty() {
            forward::Servers { inside: false, list: self.upstreams.servers.clone(), nobody }
        } else {
            forward::Servers { inside: true, list: own, nobody }
        };
        self.flights.begin(from, query, order, &mut self.interests, &self.seats);
    }

    fn accept(&mut self, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        for _ in 0..BATCH {
            let socket = match rustix::net::accept_with(&seat.sockets.listener, flags) {
                Ok(socket) => socket,
                // For want of descriptors: those who hang up make room.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::MFILE | Errno::NFILE) => return,
                Err(_) => {
                    // A container with the right to do so has ended its listener (ss -K): it would
                    // be reported for ever.
                    self.interests.remove(&seat.sockets.listener);
                    return;
                }
            };
            if seat.connections >= CONNECTIONS_EACH || self.connections.len() >= CONNECTIONS_MAX {
                continue;
            }
            let token = self.interests.number();
            let watched = self.interests.add(&socket, Token::Connection(token), epoll::EventFlags::IN);
            if watched.is_ok() {
                seat.connections += 1;
                self.connections.insert(token, Connection::new(number, socket));
            }
        }
    }

    /// Reads and writes a connection as far as it goes.
    fn converse(&mut self, number: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            let query = match connection.hear() {
                Heard::Query(query) => query,
                Heard::Nothing => break,
            };
            let Some(seat) = self.seats.get_mut(&connection.seat) else { return };
            match answer(&self.table, &seat.asker(Transport::Tcp), &query, &mut self.replies[0]) {
                Answer::Reply => connection.say(&self.replies[0]),
                Answer::Forward { internal } => {
                    connection.asked += 1;
                    let from = From::Connection(connection.seat, number);
                    self.forward(from, query, internal);
                }
                Answer::Nothing => connection.close(),
            }
        }
        self.settle(number);
    }

    /// Writes what waits, and closes or waits on.
    fn settle(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let before = connection.interest;
        connection.flush();
        if connection.over() {
            self.drop_connection(number);
        } else if connection.interest != before {
            self.interests.change(&connection.socket, Token::Connection(number), connection.interest);
        }
    }

    fn drop_connection(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        self.interests.remove(&connection.socket);
        if let Some(seat) = self.seats.get_mut(&connection.seat) {
            seat.connections -= 1;
        }
    }

    /// Passes on what servers have answered.
    fn deliver(&mut self) {
        while let Some((from, reply)) = self.flights.landed.pop_front() {
            match from {
                From::Datagram(seat, to) => {
                    if let Some(seat) = self.seats.get(&seat) {
                        let _ = rustix::net::sendto(
                            &seat.sockets.udp,
                            &reply,
                            rustix::net::SendFlags::DONTWAIT,
                            &SocketAddr::V4(to),
                        );
                    }
                }
                From::Connection(_, number) => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.asked -= 1;
                        connection.say(&reply);
                    }
                    // Questions that were too many at once may wait behind this one.
                    self.converse(number);
                }
            }
        }
    }

    /// Closes connections on which nothing was said for long.
    fn hang_up(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let now = Instant::now();
        let late = |(number, connection): (&u64, &Connection)| (connection.due <= now).then_some(*number);
        let late: Vec<u64> = self.connections.iter().filter_map(late).collect();
        late.into_iter().for_each(|number| self.drop_connection(number));
    }
}
