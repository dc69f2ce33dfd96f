//! `cargo xtask bench`: Hull beside the peers that this machine has, and beside the kernel's
//! floor, in one interleaved run. Prints the tables of SPECIFICATION.md.
//!
//! The bench moves itself into a mount and a network namespace of its own before it starts
//! anything, so that nothing touches the host's network, and hides the v2 cgroup mount of a
//! hybrid host there where crun or podman are measured, because crun refuses such hosts. Without
//! it Hull leads connections to 127.0.0.1 by the packet filter alone: F12 is measured without those
//! two. All data is in one folder, all daemons are children, everything is ended by pid and removed.
//!
//! Figures are medians with (min–max; p10–p90). Cold samples are 100 ms apart, as a person types;
//! warm ones follow each other at once.

mod builds;
mod engines;
mod fixture;
mod floor;
mod goals;
mod inside;
mod layers;
mod measure;
mod memory;
mod mounts;
mod names;
mod networks;
mod port_floor;
mod ports;
mod registry;
mod sections;
mod traffic;
mod users;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hull_sys::process::{Namespaces, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use crate::build;
use engines::{Engine, Runtime, on_path};
use fixture::Fixture;
use measure::Row;

const SECTIONS: [&str; 18] = [
    "runtime", "run", "bridge", "exec", "life", "many", "memory", "logs", "layers", "copies", "mounts",
    "builds", "ports", "names", "networks", "users", "registry", "size",
];

const USAGE: &str = "\
Usage: cargo xtask bench [OPTIONS] [SECTION...]

Sections: runtime run bridge exec life many memory logs layers copies mounts builds ports names networks users
registry size (all by default)

Options:
  --samples N     samples of each measure (default 30)
  --without NAME  leave out hull, podman, docker, crun or runc
  --dist DIR      use the executables in DIR instead of building them
  --clean-build   also time a clean release build (minutes)";

struct Options {
    sections: Vec<String>,
    samples: usize,
    without: Vec<String>,
    dist: Option<PathBuf>,
    clean_build: bool,
}

fn options(arguments: &[String]) -> Result<Option<Options>> {
    use lexopt::Arg::{Long, Short, Value};
    let mut options =
        Options { sections: Vec::new(), samples: 30, without: Vec::new(), dist: None, clean_build: false };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("samples") => {
                options.samples =
                    parser.value()?.to_string_lossy().parse().context("--samples takes a number")?;
            }
            Long("without") => options.without.push(parser.value()?.to_string_lossy().into_owned()),
            Long("dist") => options.dist = Some(parser.value()?.into()),
            Long("clean-build") => options.clean_build = true,
            Long("help") | Short('h') => return Ok(None),
            Value(section) if SECTIONS.iter().any(|s| section == *s) => {
                options.sections.push(section.to_string_lossy().into_owned());
            }
            other => bail!("{}\n\n{USAGE}", other.unexpected()),
        }
    }
    if options.sections.is_empty() {
        options.sections = SECTIONS.map(str::to_owned).to_vec();
    }
    Ok(Some(options))
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = options(arguments)? else {
        println!("{USAGE}");
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() {
        bail!("the benchmark needs root");
    }
    let dist = match &options.dist {
        Some(dist) => fs::canonicalize(dist).with_context(|| format!("find {}", dist.display()))?,
        None if options.without.iter().any(|w| w == "hull") => PathBuf::new(),
        None => build::release()?,
    };
    let work = build::target_folder().join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let fixture = fixture::make(&work)?;
    let crun = ["crun", "podman"].iter().any(|name| !options.without.iter().any(|w| w == name));
    own_world(&work, crun)?;
    let before = parent_cgroups();
    let done = measure_all(&options, &dist, &fixture);
    if let Err(error) = clean_up(&work, &before) {
        eprintln!("bench: {error:#}");
    }
    done
}

/// Namespaces of our own, with a loopback link, where asked only v1's cgroups in sight, and a tmpfs
/// for the engines' run-time files, as /run is one.
fn own_world(work: &Path, v1_only: bool) -> Result<()> {
    unshare(Namespaces::MOUNT | Namespaces::NETWORK)?;
    let recursive = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", recursive).context("make the mounts private")?;
    hull_sys::netlink::loopback_up()?;
    let unified = Path::new("/sys/fs/cgroup/unified");
    if v1_only && unified.join("cgroup.controllers").exists() {
        unmount(unified, UnmountFlags::DETACH).context("hide the v2 cgroups")?;
    }
    let run = engines::run_folder(work);
    fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
    mount("tmpfs", &run, "tmpfs", MountFlags::empty(), c"mode=755").context("mount a tmpfs")
}

fn measure_all(options: &Options, dist: &Path, fixture: &Fixture) -> Result<()> {
    let wanted = |name: &str| !options.without.iter().any(|w| w == name);
    let chosen = |name: &str| options.sections.iter().any(|s| s == name);
    let work = &fixture.work;
    let mut runtimes = Vec::new();
    if wanted("hull") {
        runtimes.push(Runtime::hull(dist, work));
    }
    for name in ["crun", "runc"].into_iter().filter(|name| wanted(name)) {
        match Runtime::found(name, work) {
            Some(runtime) => runtimes.push(runtime),
            None => eprintln!("bench: {name} is not on PATH"),
        }
    }
    let mut tables = Vec::new();
    if chosen("runtime") {
        tables.push(sections::runtimes(&runtimes, fixture, options.samples)?);
    }
    if chosen("registry") && wanted("hull") {
        tables.push(registry::registry(dist, work, options.samples)?);
    }
    if SECTIONS
        .into_iter()
        .any(|section| !["runtime", "registry", "size"].contains(&section) && chosen(section))
    {
        let mut engines = start_engines(&wanted, dist, fixture)?;
        let crun = runtimes.iter().find(|r| r.name == "crun");
        tables.push(measure_engines(&chosen, &engines, crun, fixture, options.samples));
        for engine in &mut engines {
            engine.stop();
        }
    }
    if chosen("size") && wanted("hull") {
        tables.push(sections::size(dist, work, options.clean_build)?);
    }
    print(options, &tables)
}

/// The sections of engines. Memory first: what a run leaves behind must not count as idle.
fn measure_engines(
    chosen: &dyn Fn(&str) -> bool,
    engines: &[Engine],
    crun: Option<&Runtime>,
    fixture: &Fixture,
    samples: usize,
) -> Vec<Row> {
    type Section<'a> = (&'static str, &'a dyn Fn() -> Vec<Row>);
    let in_order: [Section<'_>; 15] = [
        ("memory", &|| sections::memory(engines)),
        ("run", &|| sections::run(engines, crun, fixture, samples)),
        ("bridge", &|| sections::bridge(engines, samples)),
        ("life", &|| sections::life(engines, samples)),
        ("exec", &|| sections::exec(engines, samples)),
        ("many", &|| sections::many(engines, samples)),
        ("logs", &|| sections::logs(engines, samples)),
        ("layers", &|| layers::layers(engines, &fixture.work, samples)),
        ("copies", &|| layers::copies(engines, &fixture.work, samples)),
        ("mounts", &|| mounts::mounts(engines, &fixture.work, samples)),
        ("builds", &|| builds::builds(engines, &fixture.work, samples)),
        ("ports", &|| ports::ports(engines, samples)),
        ("names", &|| names::names(engines, samples)),
        ("networks", &|| networks::networks(engines, samples)),
        ("users", &|| users::users(engines, samples)),
    ];
    in_order.into_iter().filter(|(name, _)| chosen(name)).flat_map(|(_, measure)| measure()).collect()
}

/// The engines of this machine; a peer that does not come up is named and left out.
fn start_engines(wanted: &dyn Fn(&str) -> bool, dist: &Path, fixture: &Fixture) -> Result<Vec<Engine>> {
    type Start<'a> = (&'static str, Box<dyn Fn() -> Result<Engine> + 'a>);
    let work = &fixture.work;
    let starts: [Start<'_>; 3] = [
        ("hull", Box::new(|| Engine::hull(dist, work))),
        ("docker", Box::new(|| Engine::docker(work))),
        ("podman", Box::new(|| Engine::podman(work))),
    ];
    let mut engines = Vec::new();
    for (name, start) in starts.into_iter().filter(|(name, _)| wanted(name)) {
        let ready = start().and_then(|mut engine| match engine.import(&fixture.tar) {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.stop();
                Err(error)
            }
        });
        match ready {
            Ok(engine) => engines.push(engine),
            Err(error) if name == "hull" => return Err(error.context("Hull's daemon")),
            Err(error) => eprintln!("bench: without {name}: {error:#}"),
        }
    }
    Ok(engines)
}

fn print(options: &Options, tables: &[Vec<Row>]) -> Result<()> {
    let version = |name: &str| -> Option<String> {
        let output = std::process::Command::new(on_path(name)?).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    };
    let peers: Vec<_> = ["dockerd", "podman", "crun", "runc"].into_iter().filter_map(version).collect();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    println!("Kernel {kernel}; {}; {} samples each.\n", peers.join("; "), options.samples);
    println!("Medians with (min–max; p10–p90); cold: samples 100 ms apart, warm: back to back.\n");
    for rows in tables {
        println!("{}", measure::table(rows));
    }
    let all: Vec<Row> = tables.concat();
    for line in goals::verdicts(&all) {
        println!("{line}");
    }
    let failed =
        all.iter().flat_map(|row| &row.columns).any(|c| c.name.starts_with("hull") && c.failure.is_some());
    if failed {
        bail!("Hull failed a measure");
    }
    Ok(())
}

/// The cgroups below which engines and our bundles put theirs, as far as they exist.
fn parent_cgroups() -> Vec<PathBuf> {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else {
        return Vec::new();
    };
    let names = ["hull", "hull-bench", "docker", "libpod_parent"];
    let paths = hierarchies.flatten().flat_map(|h| names.map(|name| h.path().join(name)));
    paths.filter(|path| path.is_dir()).collect()
}

/// Removes a cgroup and those below it, as far as no process is in them.
fn remove_cgroup(path: &Path) {
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for child in below.filter(|child| child.is_dir()) {
        remove_cgroup(&child);
    }
    let _ = fs::remove_dir(path);
}

/// Ends what is left of the engines in our network namespace (monitors, shims), and removes the
/// folder and the cgroups that were not there `before`.
fn clean_up(work: &Path, before: &[PathBuf]) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/net").context("read the network namespace")?;
    let me = std::process::id().to_string();
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == own);
        let pid = name.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid.filter(|_| ours && name != me) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    // What engines mounted below the folder: later mounts first.
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for point in points.iter().rev().filter(|point| Path::new(point).starts_with(work)) {
        let _ = unmount(*point, UnmountFlags::DETACH);
    }
    for path in parent_cgroups().iter().filter(|path| !before.contains(path)) {
        remove_cgroup(path);
    }
    fs::remove_dir_all(work).with_context(|| format!("remove {}", work.display()))
}
