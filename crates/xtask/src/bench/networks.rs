//! Networks made and removed, and how long published ports lead nowhere when somebody has deleted
//! Hull's tables of the packet filter.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;

use super::engines::{Engine, IMAGE, on_path};
use super::inside::Inside;
use super::measure::{Row, Subject, interleave, interleave_parts};
use super::sections::{COLD, at_once, clear};
use super::traffic::{Kind, Server};

const NETWORK: &str = "bench-network";
const ENDPOINTS: usize = 500;
const NETWORKS: usize = 5;
const LAST: &str = "bench-last";
/// The host's port of the last endpoint.
const PORT: u16 = 20_000;
/// The tables are made again long before, or never.
const PATIENCE: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_millis(2);
/// How long after the deletion its effects are looked for.
const AFTER: Duration = Duration::from_millis(500);

pub(crate) fn networks(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let subjects = engines.iter().map(|engine| {
        Subject::of_parts(engine.name, || {
            let made = engine.time(&["network", "create", NETWORK])?;
            Ok(vec![made, engine.time(&["network", "rm", NETWORK])?])
        })
    });
    let parts = ["create", "rm"].map(|step| (format!("network {step}"), "ms"));
    let mut rows = interleave_parts(&parts, rounds, COLD, subjects.collect());
    if let Some(hull) = engines.iter().find(|engine| engine.name == "hull") {
        rows.push(reconcile(hull, rounds));
        clear(engines);
        for number in 0..NETWORKS {
            hull.quiet(&["network", "rm", &network(number)]);
        }
    }
    rows
}

fn network(number: usize) -> String {
    format!("{NETWORK}-{number}")
}

/// Many endpoints, each with a published port: for how long the last one's leads nowhere after the
/// deletion of the tables, beside one `network connect` of a running container.
fn reconcile(hull: &Engine, rounds: usize) -> Row {
    let what = format!("{ENDPOINTS} endpoints after a flush of the tables");
    eprintln!("bench: {what}: they are started");
    let server = endpoints(hull);
    let ready = || match &server {
        Ok(_) => Ok(()),
        Err(error) => bail!("{error:#}"),
    };
    let flush = Subject::new("hull", || {
        ready()?;
        outage((Ipv4Addr::LOCALHOST, PORT).into())
    });
    let connect = Subject::new("hull, one network connect", || {
        ready()?;
        let time = hull.time(&["network", "connect", &network(0), LAST])?;
        hull.line(&["network", "disconnect", &network(0), LAST])?;
        Ok(time)
    });
    interleave(&what, "ms", rounds, COLD, vec![flush, connect])
}

/// Starts them all; a server listens in the last one.
fn endpoints(hull: &Engine) -> Result<Server> {
    let names: Vec<String> = (0..NETWORKS).map(network).collect();
    for name in &names {
        hull.line(&["network", "create", name])?;
    }
    let sleep = [IMAGE, "/bin/sleep", "100000"];
    let starts: Vec<Vec<&str>> = (1..ENDPOINTS)
        .map(|n| [&["run", "-d", "--network", &names[n % NETWORKS], "-p", "80"][..], &sleep].concat())
        .collect();
    at_once(hull, &starts)?;
    let published = format!("{PORT}:{}", Kind::Connections.port());
    let last = ["run", "-d", "--name", LAST, "--network", &names[NETWORKS - 1], "-p", &published];
    hull.line(&[&last[..], &sleep].concat())?;
    Server::start(&Inside::of(hull, LAST)?.network, Kind::Connections)
}

/// Deletes Hull's tables; milliseconds. What is measured is the longest time between two
/// connections that work, one tried after the other: what no connection has seen, because the
/// machine was busy, was not longer either.
fn outage(to: SocketAddr) -> Result<f64> {
    let tables = nft("list tables")?;
    let tables = tables.lines().filter(|table| table.ends_with(" hull"));
    let delete: String = tables.map(|table| format!("delete {table};")).collect();
    ensure!(!delete.is_empty() && works(to)?, "{to} does not work before anything is deleted");
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| nft(&delete).map(|_| Instant::now()));
        let (mut worked, mut longest) = (Instant::now(), Duration::ZERO);
        let mut end = worked + PATIENCE;
        let mut deleting = Some(deleting);
        while worked < end {
            if let Some(done) = deleting.take_if(|thread| thread.is_finished()) {
                end = done.join().unwrap_or_else(|_| bail!("a thread panicked"))? + AFTER;
            }
            if works(to)? {
                longest = longest.max(worked.elapsed());
                worked = Instant::now();
            }
            ensure!(worked.elapsed() < PATIENCE, "{to} does not work any more after \"{delete}\"");
        }
        Ok(longest.as_secs_f64() * 1000.0)
    })
}

/// Whether a connection is taken, and at once: one of which the tables are deleted half-way is never
/// answered, and would be tried again after a second.
fn works(to: SocketAddr) -> Result<bool> {
    match TcpStream::connect_timeout(&to, AT_ONCE) {
        Ok(stream) => {
            // By a reset, which leaves nothing behind that a later one could be taken for.
            set_socket_linger(&stream, Some(Duration::ZERO)).context("set SO_LINGER")?;
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("connect to {to}")),
    }
}

fn nft(words: &str) -> Result<String> {
    let program = on_path("nft").context("nft is not on PATH")?;
    let output = Command::new(program).arg(words).output().context("run nft")?;
    ensure!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
