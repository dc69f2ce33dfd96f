//! The shim's loop: from the start of its process until all that it wrote is delivered.
//!
//! Output is read in large pieces, logged, and offered to every client; the log is written once
//! per wake-up. A client that does not keep up stops the process' output once
//! [`BACKLOG_MAX`] bytes wait for it, and only then: an interest in the output that is not there
//! is what stops it. Nothing here has a timer, but for giving memory back after a burst, and for
//! clients that take nothing after the end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use hull_sys::memory::trim_heap;
use hull_sys::process::{self, Ended};
use hull_sys::signal::SignalFd;
use hull_sys::{Errno, time};
use rustix::event::{Timespec, epoll};
use rustix::process::Pid;
use rustix::termios::Winsize;

use super::client::{BACKLOG_MAX, Client, Gone, Sent};
use super::input::{Input, PENDING_MAX};
use super::keep::Keep;
use super::record;
use crate::bundle::Exit;
use crate::failpoint;
use crate::log::{Stream, Writer};
use crate::protocol::{self, FromShim, Received, ToShim};

/// Bytes read from an output at once: what a pipe holds (pipe(7)).
const PIECE: usize = 64 * 1024;
/// Sockets that can be attached at a time.
const CLIENTS_MAX: usize = 256;
/// Seconds of silence after which memory is given back.
const IDLE: i64 = 1;
/// Seconds that clients have, after the end, to take some of what waits for them.
const LINGER: i64 = 10;

const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const INPUT: u64 = 2;
const OUTPUTS: [u64; 2] = [3, 4];
/// Clients and connections are numbered from here, in one sequence.
pub(super) const FIRST_NUMBER: u64 = 8;

/// One output of the process; a terminal is one for both.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
}

/// Everything a shim holds while its process lives.
pub(super) struct Life {
    pub(super) epoll: OwnedFd,
    pub(super) signals: SignalFd,
    pub(super) listener: OwnedFd,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) root: Option<OwnedFd>,
    pub(super) started_at: i64,
    pub(super) warnings: Vec<String>,
    /// Of the terminal, for its size.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) input: Input,
    pub(super) stdin_once: bool,
    pub(super) log: Option<Writer>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) connections: BTreeMap<u64, OwnedFd>,
    pub(super) next: u64,
    pub(super) kept: Keep,
    pub(super) buffer: Vec<u8>,
    /// Some client is too far behind.
    pub(super) paused: bool,
}

impl Life {
    /// Registers all sources and tells the first connection that the process runs.
    pub(super) fn begin(&mut self) {
        self.want(&self.signals, SIGNALS, epoll::EventFlags::IN);
        self.want(&self.listener, LISTENER, epoll::EventFlags::IN);
        for output in 0..2 {
            self.want_output(output);
        }
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            self.greet(number);
        }
        for (number, client) in &self.clients {
            self.want(&client.socket, *number, epoll::EventFlags::empty());
        }
        self.balance();
    }

    /// Runs until the process has ended, and says how.
    pub(super) fn run(&mut self) -> Ended {
        let mut busy = false;
        loop {
            let limit = if busy { Some(Timespec { tv_sec: IDLE, tv_nsec: 0 }) } else { None };
            let events = self.wait(limit.as_ref());
            if events.is_empty() && busy {
                self.rest();
                busy = false;
                continue;
            }
            for (source, flags) in events {
                match source {
                    SIGNALS => {
                        if let Some(ended) = self.reap() {
                            return ended;
                        }
                    }
                    LISTENER => self.accept(),
                    INPUT => self.feed(),
                    3 | 4 => {
                        busy = true;
                        self.read_output((source - OUTPUTS[0]) as usize);
                    }
                    number => self.hear(number, flags),
                }
            }
            if let Some(log) = &mut self.log {
                log.flush();
            }
            self.balance();
        }
    }

    /// After the end: the last output, the log's end.
    pub(super) fn drain(&mut self) {
        for output in 0..2 {
            while self.outputs[output].is_some() && self.read_output(output) {}
        }
        if let Some(log) = &mut self.log {
            log.finish(Stream::Out);
            log.finish(Stream::Err);
            log.flush();
        }
        // Before the exit is announced: what clients can take now they have had before it.
        self.keep(|client| client.flush().is_ok());
    }

    /// Keeps the clients that pass; the others are closed.
    fn keep(&mut self, mut passes: impl FnMut(&mut Client) -> bool) {
        let epoll = &self.epoll;
        self.clients.retain(|_, client| {
            let stays = passes(client);
            if !stays {
                let _ = epoll::delete(epoll, &client.socket);
            }
            stays
        });
    }

    /// To be called before a peer's socket is closed: the spawner or the engine may hold a copy of
    /// it, and epoll goes on telling of a closed descriptor as long as a copy is open (epoll(7),
    /// question 6).
    fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Tells everybody, and stays until clients have had everything or take nothing more.
    pub(super) fn end(&mut self, exit: Exit, record: &OwnedFd, folder: &std::path::Path) {
        failpoint!("shim.exit.before-record");
        // The record's page is there since before the start, so this cannot fail for want of room.
        let _ = record::write(record, exit);
        let _ = rustix::fs::unlink(folder.join("shim.sock"));
        failpoint!("shim.exit.before-announce");
        // Whoever hears of the exit finds what was kept free: ports, for one.
        self.kept = Keep::default();
        // Who connected and was not yet accepted must hear it too.
        self.accept();
        for connection in std::mem::take(&mut self.connections).into_values() {
            let _ = protocol::send(&connection, &FromShim::Exited(exit), &[]);
            self.unwatch(&connection);
        }
        failpoint!("shim.exit.announced");
        self.input.fd = None;
        self.log = None;
        self.keep(|client| client.waiting() > 0);
        for (number, client) in &mut self.clients {
            client.input = false;
            let _ = epoll::modify(
                &self.epoll,
                &client.socket,
                epoll::EventData::new_u64(*number),
                epoll::EventFlags::OUT,
            );
        }
        let _ = epoll::delete(&self.epoll, &self.signals);
        let _ = epoll::delete(&self.epoll, &self.listener);
        while !self.clients.is_empty() {
            if self.wait(Some(&Timespec { tv_sec: LINGER, tv_nsec: 0 })).is_empty() {
                return;
            }
            self.keep(|client| client.flush().is_ok() && client.waiting() > 0);
        }
    }

    fn wait(&self, limit: Option<&Timespec>) -> Vec<(u64, epoll::EventFlags)> {
        let mut events = Vec::with_capacity(16);
        // An interruption is an empty wake-up; nothing else can fail with valid descriptors.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit);
        events.into_iter().map(|event| (event.data.u64(), event.flags)).collect()
    }

    fn want(&self, fd: impl AsFd, source: u64, flags: epoll::EventFlags) {
        // Fails only for want of memory or of watches; then this source stays silent.
        let _ = epoll::add(&self.epoll, fd, epoll::EventData::new_u64(source), flags);
    }

    fn want_output(&self, output: usize) {
        if let Some(found) = &self.outputs[output] {
            self.want(&found.fd, OUTPUTS[output], epoll::EventFlags::IN);
        }
    }

    /// Reaps all children that have ended; the process itself is one of them. Others come here
    /// because the shim is the reaper of what its process leaves in the host's pid namespace.
    fn reap(&self) -> Option<Ended> {
        while let Ok(Some(_)) = self.signals.read() {}
        let mut end = None;
        while let Ok(Some((pid, ended))) = process::reap() {
            if pid == self.pid {
                end = Some(ended);
            }
        }
        end
    }

    fn accept(&mut self) {
        while let Ok(Some(connection)) = protocol::accept(&self.listener) {
            let number = self.next;
            self.next += 1;
            self.connections.insert(number, connection);
            self.greet(number);
        }
    }

    fn greet(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let started = FromShim::Started {
            pid: self.pid.as_raw_nonzero().get(),
            at: self.started_at,
            version: protocol::VERSION,
            warnings: self.warnings.clone(),
        };
        let mut fds = vec![self.pidfd.as_fd()];
        fds.extend(self.root.as_ref().map(AsFd::as_fd));
        if protocol::send(connection, &started, &fds).is_ok() {
            self.want(connection, number, epoll::EventFlags::IN);
        } else {
            self.unwatch(connection);
            self.connections.remove(&number);
        }
    }

    /// A connection has said something, or a client can be read or written.
    fn hear(&mut self, number: u64, flags: epoll::EventFlags) {
        if self.clients.contains_key(&number) {
            return self.serve(number, flags);
        }
        while let Some(connection) = self.connections.get(&number) {
            match protocol::receive(connection) {
                // Who does not take what was asked for has gone, or does not read.
                Ok(Received::Message(ToShim::GiveKept, _)) if self.kept.give(connection).is_err() => {
                    self.unwatch(connection);
                    self.connections.remove(&number);
                }
                Ok(Received::Message(message, fds)) => self.heed(message, fds),
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) | Err(_) => {
                    self.unwatch(connection);
                    self.connections.remove(&number);
                }
            }
        }
    }

    fn heed(&mut self, message: ToShim, mut fds: Vec<OwnedFd>) {
        match message {
            ToShim::Attach(attach) => {
                if let Some(socket) = fds.pop().filter(|_| self.clients.len() < CLIENTS_MAX) {
                    let client = Client::new(socket, attach);
                    self.want(&client.socket, self.next, epoll::EventFlags::empty());
                    self.clients.insert(self.next, client);
                    self.next += 1;
                }
            }
            ToShim::Resize { rows, columns } => {
                if let Some(terminal) = &self.terminal {
                    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = rustix::termios::tcsetwinsize(terminal, size);
                }
            }
            ToShim::Keep { name } => fds.into_iter().for_each(|fd| self.kept.add(&name, fd)),
            ToShim::Drop { name } => self.kept.drop(&name),
            ToShim::GiveKept | ToShim::Unknown => {}
        }
    }

    fn serve(&mut self, number: u64, flags: epoll::EventFlags) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let mut state = Ok(());
        if flags.contains(epoll::EventFlags::OUT) {
            state = client.flush();
        }
        let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if state.is_ok() && client.input && self.input.hungry() {
            state = take_input(client, &mut self.input, self.stdin_once);
            self.feed();
        } else if hung_up && client.input && self.input.fd.is_some() {
            // It sent more than the process has read and has gone: the rest is taken when the
            // process reads on. Until then its hanging up is no news.
            client.hung_up = true;
            let _ = epoll::delete(&self.epoll, &client.socket);
        } else if hung_up {
            state = Err(Gone);
        }
        if state.is_err() {
            self.lose(number);
        }
    }

    /// Drops a client that has gone. Its input ends with it.
    fn lose(&mut self, number: u64) {
        let Some(mut client) = self.clients.remove(&number) else { return };
        self.unwatch(&client.socket);
        if client.input {
            let _ = take_input(&mut client, &mut self.input, self.stdin_once);
            if client.input && self.stdin_once {
                self.input.end();
            }
            self.feed();
        }
    }

    /// Passes pending input on, and takes more from those that have hung up: no event tells of
    /// them any more, so that goes on until either they or the process' pipe are full or empty.
    fn feed(&mut self) {
        self.input.flush();
        while self.input.hungry() && self.clients.values().any(|client| client.hung_up) {
            let input = &mut self.input;
            let once = self.stdin_once;
            self.clients.retain(|_, client| {
                !client.hung_up || (take_input(client, input, once).is_ok() && client.input)
            });
            self.input.flush();
        }
    }

    /// Reads a piece of output and passes it on; says whether there was one.
    fn read_output(&mut self, output: usize) -> bool {
        let Some(source) = &self.outputs[output] else {
            return false;
        };
        self.buffer.resize(PIECE, 0);
        let got = match rustix::io::read(&source.fd, &mut self.buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // A terminal that nobody has open any more says EIO (ioctl_tty(2)).
            Ok(0) | Err(_) => {
                self.outputs[output] = None;
                return false;
            }
            Ok(got) => got,
        };
        let bytes = &self.buffer[..got];
        if let Some(log) = &mut self.log {
            log.push(source.stream, bytes, time::now());
        }
        let mut gone = Vec::new();
        for (number, client) in &mut self.clients {
            if client.offer(source.stream, bytes).is_err() {
                gone.push(*number);
            }
        }
        for number in gone {
            self.lose(number);
        }
        true
    }

    /// Sets what is waited for, by what waits: the one place where interests change.
    fn balance(&mut self) {
        for (number, client) in &mut self.clients {
            let wanted = interest(client, &self.input);
            if wanted != client.armed && !client.hung_up {
                client.armed = wanted;
                let data = epoll::EventData::new_u64(*number);
                let _ = epoll::modify(&self.epoll, &client.socket, data, wanted);
            }
        }
        let behind = self.clients.values().any(|client| client.waiting() > BACKLOG_MAX);
        if behind != self.paused {
            self.paused = behind;
            for output in 0..2 {
                // Taken out, not just without interest: a closed pipe reports its hanging up always.
                match &self.outputs[output] {
                    Some(found) if behind => drop(epoll::delete(&self.epoll, &found.fd)),
                    _ => self.want_output(output),
                }
            }
        }
        let waiting = self.input.waiting() > 0;
        match &self.input.fd {
            Some(fd) if waiting && !self.input.armed => {
                self.want(fd, INPUT, epoll::EventFlags::OUT);
            }
            Some(fd) if !waiting && self.input.armed => drop(epoll::delete(&self.epoll, fd)),
            _ => {}
        }
        self.input.armed = waiting && self.input.fd.is_some();
    }

    /// Gives memory back after a burst.
    fn rest(&mut self) {
        self.buffer = Vec::new();
        if let Some(log) = &mut self.log {
            log.release();
        }
        trim_heap();
    }
}

/// Reads of a client's input what there is room for. Its end is the process' only if the
/// container's input belongs to its first client (`stdin_once`).
fn take_input(client: &mut Client, input: &mut Input, once: bool) -> Result<(), Gone> {
    while client.input && input.hungry() {
        match client.read(input.pending(), PENDING_MAX)? {
            Sent::Bytes(_) => {}
            Sent::Nothing => return Ok(()),
            Sent::End if once => input.end(),
            Sent::End => {}
        }
    }
    Ok(())
}

/// What is waited for on a client's socket.
fn interest(client: &Client, input: &Input) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, client.input && input.hungry());
    flags.set(epoll::EventFlags::OUT, client.waiting() > 0);
    flags
}
