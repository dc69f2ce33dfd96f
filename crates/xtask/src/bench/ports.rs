//! F12: what a published port carries beside the container's own address, and beside the same two
//! ways without an engine; what publishing costs: the first port and the thousandth, one port and a
//! range of 50,000.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::engines::{Engine, IMAGE};
use super::inside::{Inside, enter};
use super::measure::{Column, Row, Subject, interleave};
use super::memory;
use super::port_floor;
use super::sections::{COLD, WARM, clear};
use super::traffic::{Kind, Server};

/// What is published besides when the thousandth port is: by nine containers, each port with a
/// `-p` of its own that cannot be joined with the next.
const CONTAINERS: u16 = 9;
const PORTS_EACH: u16 = 111;
/// How often those are started and removed, with a part of the samples before and after.
const BLOCKS: usize = 3;
const ONE: &[&str] = &["-p", "10000:10000"];
const RANGE: &[&str] = &["-p", "10000-59999:10000-59999"];
const NAME: &str = "bench-port";

pub(crate) fn ports(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let mut rows = traffic(engines, rounds);
    clear(engines);
    if let Some(hull) = engines.iter().find(|engine| engine.name == "hull") {
        rows.extend(growth(hull, rounds));
        let subjects = [("hull", RANGE), ("hull, one port", ONE)]
            .map(|(name, flags)| Subject::new(name, move || publish(hull, flags)));
        let what = "F12 run -d -p, 50,000 ports as a range";
        rows.push(interleave(what, "ms", rounds, COLD, subjects.into()));
    }
    rows
}

/// Settings of the clients' namespace without which samples are not alike.
const SETTINGS: [(&str, &str); 2] = [
    // Some hosts' default, BBR, paces by what it believes of the line, and finds none here.
    ("/proc/sys/net/ipv4/tcp_congestion_control", "reno"),
    // Else each closed connection keeps its client's port for ten seconds, and after some samples
    // the kernel searches for ports that it may give to masqueraded connections.
    ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "0"),
];

/// Servers in a network namespace of their own, and the two ways there from another, each in the
/// order of [`Kind::ALL`].
pub(crate) struct Served {
    pub(crate) _servers: Vec<Server>,
    /// Where the clients are.
    pub(crate) from: File,
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) published: Vec<SocketAddr>,
}

impl Served {
    /// Makes samples alike that start from `from`.
    fn settle(self) -> Result<Served> {
        enter(&self.from, || {
            let set =
                |(path, value)| fs::write(path, value).with_context(|| format!("write {value} to {path}"));
            SETTINGS.into_iter().try_for_each(set)
        })?;
        Ok(self)
    }
}

/// A running container of an engine with the servers in it.
fn served(engine: &Engine) -> Result<Served> {
    let ports = Kind::ALL.map(|kind| kind.port().to_string());
    let mut words = vec!["run", "-d"];
    words.extend(ports.iter().flat_map(|port| ["-p", port]));
    words.extend([IMAGE, "/bin/sleep", "100000"]);
    let id = engine.line(&words)?;
    let inside = Inside::of(engine, &id)?;
    let published = |port: &String| {
        let line = engine.line(&["port", &id, port])?;
        let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
        let port: u16 = port.with_context(|| format!("{} port printed {line:?}", engine.name))?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let servers = Kind::ALL.into_iter().map(|kind| Server::start(&inside.network, kind));
    Ok(Served {
        _servers: servers.collect::<Result<_>>()?,
        from: File::open("/proc/self/ns/net").context("open the network namespace")?,
        own: Kind::ALL.map(|kind| (inside.address, kind.port()).into()).into(),
        published: ports.iter().map(published).collect::<Result<_>>()?,
    })
}

fn traffic(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let of = |engine: &Engine| (engine.name, served(engine).and_then(Served::settle));
    let floor = ("floor", port_floor::served().and_then(Served::settle));
    let ready: Vec<_> = engines.iter().map(of).chain([floor]).collect();
    let row = |(index, kind): (usize, Kind)| {
        let subjects = ready.iter().flat_map(|(name, served)| {
            let by = |name: String, way: fn(&Served) -> &[SocketAddr]| {
                Subject::new(&name, move || match served {
                    Ok(served) => enter(&served.from, || kind.rate(way(served)[index])),
                    Err(error) => bail!("{error:#}"),
                })
            };
            [
                by((*name).to_owned(), |served| &served.published),
                by(format!("{name}, own address"), |served| &served.own),
            ]
        });
        let what = format!("F12 published port on 127.0.0.1, {}", kind.name());
        interleave(&what, kind.unit(), rounds, WARM, subjects.collect())
    };
    Kind::ALL.into_iter().enumerate().map(row).collect()
}

/// Starts a container that publishes, and removes it; the start's milliseconds.
fn publish(engine: &Engine, flags: &[&str]) -> Result<f64> {
    let words = [&["run", "-d", "--name", NAME][..], flags, &[IMAGE, "/bin/sleep", "100000"]].concat();
    let time = engine.time(&words)?;
    engine.line(&["rm", "-f", NAME])?;
    Ok(time)
}

/// What [`growth`] finds.
#[derive(Default)]
struct Growth {
    first: Vec<f64>,
    thousandth: Vec<f64>,
    /// MiB a port.
    pss: Vec<f64>,
    available: Vec<f64>,
}

fn growth(hull: &Engine, rounds: usize) -> Vec<Row> {
    let what = "F12 run -d -p, the 1,000th port";
    eprintln!("bench: {what}");
    let mut found = Growth::default();
    let failure = (0..BLOCKS)
        .try_for_each(|_| block(hull, rounds.div_ceil(BLOCKS), &mut found))
        .err()
        .map(|error| format!("{error:#}"));
    clear(std::slice::from_ref(hull));
    let column = |name: &str, samples: Vec<f64>| Column {
        name: name.to_owned(),
        samples: if failure.is_some() { Vec::new() } else { samples },
        failure: failure.clone(),
    };
    let row = |what: &str, unit, columns| Row { what: what.to_owned(), unit, columns };
    vec![
        row(what, "ms", vec![column("hull", found.thousandth), column("hull, the first", found.first)]),
        row("F7 per published port: PSS", "MiB", vec![column("hull", found.pss)]),
        row("F7 per published port: MemAvailable less", "MiB", vec![column("hull", found.available)]),
    ]
}

/// Samples with no other port published, and with 999; what these hold beside as many containers
/// without a port.
fn block(hull: &Engine, rounds: usize, found: &mut Growth) -> Result<()> {
    let sample = |into: &mut Vec<f64>| -> Result<()> {
        // One that does not count; it also starts the forwarder of the first port.
        publish(hull, ONE)?;
        for _ in 0..rounds {
            std::thread::sleep(COLD);
            into.push(publish(hull, ONE)?);
        }
        Ok(())
    };
    sample(&mut found.first)?;
    let (without, free) = held(hull, 0)?;
    clear(std::slice::from_ref(hull));
    let (with, left) = held(hull, PORTS_EACH)?;
    let ports = f64::from(CONTAINERS * PORTS_EACH) * 1024.0;
    found.pss.push((with - without) / ports);
    found.available.push((free - left) / ports);
    sample(&mut found.thousandth)?;
    clear(std::slice::from_ref(hull));
    Ok(())
}

/// Starts [`CONTAINERS`] with so many ports each. KiB: what all of Hull's processes then have, and
/// what the kernel says is left.
fn held(hull: &Engine, ports: u16) -> Result<(f64, f64)> {
    for container in 0..CONTAINERS {
        let port = |n: u16| format!("{}:80", 20_000 + 2 * (container * ports + n));
        let published: Vec<String> = (0..ports).flat_map(|n| ["-p".to_owned(), port(n)]).collect();
        let mut words = vec!["run", "-d"];
        words.extend(published.iter().map(String::as_str));
        words.extend([IMAGE, "/bin/sleep", "100000"]);
        hull.line(&words)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok((memory::pss(hull.processes)?, memory::available()?))
}
