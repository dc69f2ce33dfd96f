//! Bytes, requests and connections over TCP: servers in a container's network namespace, and the
//! clients that count. Both are of this process, so that two ways to the same server differ in
//! nothing but the way.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::set_socket_linger;

use super::inside::enter;

/// What one stream carries, and how much at a time.
const BULK: usize = 1 << 30;
const PIECE: usize = 128 << 10;
/// About a small GET and its answer.
const REQUEST: usize = 64;
const ANSWER: usize = 256;
const CLIENTS: usize = 2;
/// Connections of each client that stay open; a request is under way on every one.
const KEPT: usize = 8;
const ROUNDS: usize = 2000;
/// Connections of each client that carry one request and close.
const SINGLE: usize = 2000;
/// A peer that says nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server does with its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads all that comes.
    Stream,
    /// Answers requests, [`KEPT`] connections to a thread.
    Requests,
    /// Answers one request and closes.
    Connections,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Stream, Kind::Requests, Kind::Connections];

    /// Where servers of this kind listen.
    pub(crate) fn port(self) -> u16 {
        match self {
            Kind::Stream => 7001,
            Kind::Requests => 7002,
            Kind::Connections => 7003,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Stream => "one stream",
            Kind::Requests => "requests",
            Kind::Connections => "connections",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Kind::Stream => "Gbit/s",
            Kind::Requests => "requests/s",
            Kind::Connections => "connections/s",
        }
    }

    /// Measures against a server of this kind, in its unit.
    pub(crate) fn rate(self, to: SocketAddr) -> Result<f64> {
        let rate = match self {
            Kind::Stream => stream(to),
            Kind::Requests => requests(to),
            Kind::Connections => connections(to),
        };
        rate.with_context(|| format!("{} to {to}", self.name()))
    }
}

/// Listens until it is dropped.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(network: &File, kind: Kind) -> Result<Server> {
        let listener = enter(network, || Ok(TcpListener::bind(("0.0.0.0", kind.port()))?))?;
        let listener = Arc::new(listener);
        let threads = if kind == Kind::Connections { CLIENTS } else { 1 };
        let threads = (0..threads).map(|_| {
            let listener = Arc::clone(&listener);
            // Its end is a client that goes away, or the listener's.
            std::thread::spawn(move || drop(serve(kind, &listener)))
        });
        Ok(Server { threads: threads.collect(), listener })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // accept(2) ends with EINVAL.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(kind: Kind, listener: &TcpListener) -> std::io::Result<()> {
    let mut group = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        // A client's end is not heard of where packet filters come and go meanwhile.
        stream.set_read_timeout(Some(PATIENCE))?;
        match kind {
            // A client that breaks off is its own affair, here and below.
            Kind::Stream => drop(swallow(stream)),
            Kind::Connections => drop(answer(&mut stream)),
            Kind::Requests => {
                stream.set_nodelay(true)?;
                group.push(stream);
                if group.len() == KEPT {
                    let mut group = std::mem::take(&mut group);
                    std::thread::spawn(move || while group.iter_mut().all(|one| answer(one).is_ok()) {});
                }
            }
        }
    }
}

fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while stream.read(&mut buffer)? != 0 {}
    Ok(())
}

fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; REQUEST])?;
    stream.write_all(&[0; ANSWER])
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[expect(clippy::cast_precision_loss, reason = "a gigabyte, some ten thousand requests")]
fn per_second(count: usize, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}

fn stream(to: SocketAddr) -> Result<f64> {
    let mut stream = connect(to)?;
    let piece = vec![0; PIECE];
    let begin = Instant::now();
    for _ in 0..BULK / PIECE {
        stream.write_all(&piece)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // The server closes when it has read everything.
    if stream.read(&mut [0; 1])? != 0 {
        bail!("a server that only reads has answered");
    }
    Ok(per_second(BULK * 8, begin) / 1e9)
}

/// Runs [`CLIENTS`] at once, each on what it was given.
fn clients<T: Send>(of: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = of.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}

fn requests(to: SocketAddr) -> Result<f64> {
    let group = || (0..KEPT).map(|_| connect(to)).collect::<Result<Vec<_>>>();
    let groups = (0..CLIENTS).map(|_| group()).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    clients(groups, |mut group| {
        for _ in 0..ROUNDS {
            for stream in &mut group {
                stream.write_all(&[0; REQUEST])?;
            }
            for stream in &mut group {
                stream.read_exact(&mut [0; ANSWER])?;
            }
        }
        Ok(())
    })?;
    Ok(per_second(CLIENTS * KEPT * ROUNDS, begin))
}

fn connections(to: SocketAddr) -> Result<f64> {
    let begin = Instant::now();
    clients(vec![(); CLIENTS], |()| {
        for _ in 0..SINGLE {
            let mut stream = connect(to)?;
            stream.write_all(&[0; REQUEST])?;
            stream.read_exact(&mut [0; ANSWER])?;
            // Closed by a reset: the client's port is free at once.
            set_socket_linger(&stream, Some(Duration::ZERO)).context("set SO_LINGER")?;
        }
        Ok(())
    })?;
    Ok(per_second(CLIENTS * SINGLE, begin))
}
