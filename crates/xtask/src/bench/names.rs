//! How many names a second an engine's name server answers, and how long for one. Asked from the
//! network namespace of a container on a network of its own, at the address that its
//! /etc/resolv.conf has.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::engines::{Engine, IMAGE};
use super::inside::{Inside, enter};
use super::measure::{Row, Subject, interleave_parts, median};
use super::sections::{WARM, clear};

const NETWORK: &str = "bench-names";
const ASKED: &str = "bench-asked";
/// Questions under way at a time, over all clients.
const WINDOW: usize = 64;
const CLIENTS: usize = 2;
const TIME: Duration = Duration::from_secs(1);
/// Questions one after the other.
const SINGLE: usize = 5000;

pub(crate) fn names(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let ready: Vec<_> = engines.iter().map(containers).collect();
    let subjects = engines.iter().zip(&ready).map(|(engine, inside)| {
        Subject::of_parts(engine.name, move || match inside {
            Ok(inside) => Ok(vec![flood(inside)?, one_after_the_other(inside)?]),
            Err(error) => bail!("{error:#}"),
        })
    });
    let parts = [
        (format!("names, answers to {WINDOW} at a time"), "answers/s"),
        ("names, one after the other: half of them within".to_owned(), "us"),
    ];
    let rows = interleave_parts(&parts, rounds, WARM, subjects.collect());
    clear(engines);
    for engine in engines {
        engine.quiet(&["network", "rm", NETWORK]);
    }
    rows
}

/// One to be asked for, and one to ask from.
fn containers(engine: &Engine) -> Result<Inside> {
    engine.line(&["network", "create", NETWORK])?;
    let run = ["run", "-d", "--network", NETWORK];
    let sleep = [IMAGE, "/bin/sleep", "100000"];
    engine.line(&[&run[..], &["--name", ASKED], &sleep].concat())?;
    let asker = engine.line(&[&run[..], &sleep].concat())?;
    Inside::of(engine, &asker)
}

fn client(inside: &Inside) -> Result<UdpSocket> {
    enter(&inside.network, || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((inside.resolver, 53))?;
        Ok(socket)
    })
}

/// The median in microseconds.
fn one_after_the_other(inside: &Inside) -> Result<f64> {
    let (socket, query) = (client(inside)?, query(ASKED));
    let mut answer = [0; 512];
    let mut times = Vec::with_capacity(SINGLE);
    for _ in 0..SINGLE {
        let begin = Instant::now();
        socket.send(&query)?;
        let len = socket.recv(&mut answer).context("wait for an answer")?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        ensure!(is_address(&answer[..len]), "{ASKED} has no address");
    }
    median(&times).context("no times")
}

/// Answers a second with [`WINDOW`] under way.
fn flood(inside: &Inside) -> Result<f64> {
    let sockets = (0..CLIENTS).map(|_| client(inside)).collect::<Result<Vec<_>>>()?;
    let query = query(ASKED);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            sockets.iter().map(|socket| scope.spawn(|| flood_one(socket, &query))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a client panicked"))).sum()
    })
}

/// Keeps a client's share of the window under way; gives its answers a second.
fn flood_one(socket: &UdpSocket, query: &[u8]) -> Result<f64> {
    let mut answer = [0; 512];
    let mut answers = 0_u32;
    for _ in 0..WINDOW / CLIENTS {
        socket.send(query)?;
    }
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        match socket.recv(&mut answer) {
            Ok(len) => {
                ensure!(is_address(&answer[..len]), "{ASKED} has no address");
                answers += 1;
            }
            // All that was under way is lost: begun anew.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("wait for an answer"),
        }
        socket.send(query)?;
    }
    Ok(f64::from(answers) / begin.elapsed().as_secs_f64())
}

/// Without an error, and with at least one record (RFC 1035, 4.1.1).
fn is_address(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| flags & 15 == 0) && answer.get(6..8) > Some(&[0, 0])
}

/// For a name's IPv4 address, recursion desired (RFC 1035, 4.1).
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_record_and_no_error() {
        let mut answer = query("a.bc");
        assert_eq!(&answer[12..], b"\x01a\x02bc\0\0\x01\0\x01");
        assert!(!is_address(&answer), "a question is none");
        answer[7] = 1;
        assert!(is_address(&answer));
        answer[3] = 3;
        assert!(!is_address(&answer), "NXDOMAIN");
        assert!(!is_address(&answer[..5]));
    }
}
