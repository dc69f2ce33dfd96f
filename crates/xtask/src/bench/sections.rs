//! The measures, named after the figures of SPECIFICATION.md.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::engines::{Engine, IMAGE, Runtime};
use super::fixture::Fixture;
use super::floor::Floor;
use super::measure::{Column, Row, Subject, interleave, interleave_parts};
use super::memory;

/// Between two samples as a person types them.
pub(crate) const COLD: Duration = Duration::from_millis(100);
pub(crate) const WARM: Duration = Duration::ZERO;
/// Containers at once, and workers, of F6.
const MANY: usize = 50;
const WORKERS: usize = 8;
/// How long an engine has had nothing to do when its memory is looked at.
const SETTLING: Duration = Duration::from_secs(10);
/// Containers over which memory is averaged.
const HELD: usize = 10;

const LINES: &str = "yes 'a line of output as programs write them, about sixty bytes' | head -n 1000000";

fn pace(gap: Duration) -> &'static str {
    if gap.is_zero() { "warm" } else { "cold" }
}

/// F4: the runtimes on one bundle, and the floor.
pub(crate) fn runtimes(runtimes: &[Runtime], fixture: &Fixture, rounds: usize) -> Result<Vec<Row>> {
    let floor = Floor::new(&fixture.rootfs)?;
    let mut rows = Vec::new();
    for gap in [COLD, WARM] {
        let mut subjects: Vec<Subject<'_>> = runtimes
            .iter()
            .map(|runtime| {
                Subject::of_parts(runtime.name, move || {
                    let (millis, usage) = runtime.run(&fixture.bundle)?;
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "microseconds and kilobytes of one process"
                    )]
                    Ok(vec![millis, usage.cpu as f64 / 1000.0, usage.peak_rss as f64 / 1024.0])
                })
            })
            .collect();
        subjects.push(Subject::new("floor", || floor.start()));
        let what = format!("F4 run of a bundle, new netns, seccomp, {}", pace(gap));
        let parts = [
            (what.clone(), "ms"),
            (format!("{what}: CPU"), "ms"),
            (format!("{what}: largest process"), "MiB"),
        ];
        rows.extend(interleave_parts(&parts, rounds, gap, subjects));
    }
    Ok(rows)
}

/// F1: a container from the command line to its end, beside the bare runtime.
pub(crate) fn run(engines: &[Engine], crun: Option<&Runtime>, fixture: &Fixture, rounds: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for network in ["none", "host"] {
        for gap in [COLD, WARM] {
            let mut subjects: Vec<Subject<'_>> = engines
                .iter()
                .map(|engine| {
                    Subject::new(engine.name, move || {
                        engine.time(&["run", "--rm", "--network", network, IMAGE, "/bin/true"])
                    })
                })
                .collect();
            if let Some(crun) = crun {
                subjects.push(Subject::new("bare crun", || Ok(crun.run(&fixture.bundle)?.0)));
            }
            let what = format!("F1 run --rm true, network {network}, {}", pace(gap));
            rows.push(interleave(&what, "ms", rounds, gap, subjects));
        }
    }
    rows
}

/// F2: the same on the default bridge, without and with a published port.
pub(crate) fn bridge(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, flags) in [("bridge", &[][..]), ("bridge with -p", &["-p", "80"])] {
        for gap in [COLD, WARM] {
            let words = [&["run", "--rm"], flags, &[IMAGE, "/bin/true"]].concat();
            let subjects = engines.iter().map(|engine| {
                let words = words.clone();
                Subject::new(engine.name, move || engine.time(&words))
            });
            let what = format!("F2 run --rm true, {what}, {}", pace(gap));
            rows.push(interleave(&what, "ms", rounds, gap, subjects.collect()));
        }
    }
    rows
}

/// F5: the commands of one container's life on the default bridge, each timed by itself.
pub(crate) fn life(engines: &[Engine], rounds: usize) -> Vec<Row> {
    const STEPS: [&str; 6] = ["create", "start", "inspect", "ps", "stop", "rm"];
    // A program that obeys SIGTERM at once, as pid 1 too.
    const OBEYS: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    let create = ["create", "--name", "life", IMAGE, "/bin/sh", "-c", OBEYS];
    let subjects = engines.iter().map(|engine| {
        Subject::of_parts(engine.name, move || {
            let mut times = Vec::new();
            for step in STEPS {
                times.push(match step {
                    "create" => engine.time(&create)?,
                    "ps" => engine.time(&["ps"])?,
                    step => engine.time(&[step, "life"])?,
                });
            }
            times.push(times.iter().sum());
            Ok(times)
        })
    });
    let parts: Vec<_> =
        STEPS.into_iter().chain(["the six together"]).map(|step| (format!("F5 {step}"), "ms")).collect();
    let rows = interleave_parts(&parts, rounds, COLD, subjects.collect());
    clear(engines);
    rows
}

/// A container that sleeps; its id.
fn sleeper(engine: &Engine) -> Result<String> {
    engine.line(&["run", "-d", "--network", "none", IMAGE, "/bin/sleep", "100000"])
}

/// F3: one more process in a running container.
pub(crate) fn exec(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let ids: Vec<_> = engines.iter().map(sleeper).collect();
    let mut rows = Vec::new();
    for gap in [COLD, WARM] {
        let subjects = engines.iter().zip(&ids).map(|(engine, id)| {
            Subject::new(engine.name, move || match id {
                Ok(id) => engine.time(&["exec", id, "/bin/true"]),
                Err(error) => anyhow::bail!("{error:#}"),
            })
        });
        rows.push(interleave(&format!("F3 exec true, {}", pace(gap)), "ms", rounds, gap, subjects.collect()));
    }
    clear(engines);
    rows
}

/// Removes every engine's containers, so that no section pays for another's.
pub(crate) fn clear(engines: &[Engine]) {
    for engine in engines {
        if let Err(error) = engine.clear() {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Runs `commands` with [`WORKERS`] at a time; seconds, and what they printed.
pub(crate) fn at_once(engine: &Engine, commands: &[Vec<&str>]) -> Result<(f64, Vec<String>)> {
    let begin = Instant::now();
    let share = commands.len().div_ceil(WORKERS);
    let lines = std::thread::scope(|scope| {
        let workers: Vec<_> = commands
            .chunks(share.max(1))
            .map(|chunk| {
                scope.spawn(move || chunk.iter().map(|words| engine.line(words)).collect::<Result<Vec<_>>>())
            })
            .collect();
        let results =
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")));
        results.collect::<Result<Vec<_>>>()
    })?;
    Ok((begin.elapsed().as_secs_f64(), lines.concat()))
}

/// F6: fifty containers, eight at a time, and their removal; without a network and on the default
/// bridge.
pub(crate) fn many(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let rounds = rounds.div_ceil(10).max(2);
    let mut rows = Vec::new();
    for network in ["none", "bridge"] {
        let subjects = engines.iter().map(|engine| {
            Subject::of_parts(engine.name, move || {
                let start = vec!["run", "-d", "--network", network, IMAGE, "/bin/sleep", "100000"];
                let (started, ids) = at_once(engine, &vec![start; MANY])?;
                let remove: Vec<_> = ids.iter().map(|id| vec!["rm", "-f", id.as_str()]).collect();
                Ok(vec![started, at_once(engine, &remove)?.0])
            })
        });
        let parts = [
            (format!("F6 {MANY} x run -d, {WORKERS} at a time, {network}"), "s"),
            (format!("F6 rm -f of {MANY}, {WORKERS} at a time, {network}"), "s"),
        ];
        rows.extend(interleave_parts(&parts, rounds, WARM, subjects.collect()));
        clear(engines);
    }
    rows
}

fn single(engine: &Engine, value: Result<f64>) -> Column {
    let (samples, failure) = match value {
        Ok(value) => (vec![value], None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Column { name: engine.name.to_owned(), samples, failure }
}

/// F7: memory of the idle engine and of each running container.
pub(crate) fn memory(engines: &[Engine]) -> Vec<Row> {
    eprintln!("bench: F7 memory");
    let (mut idle, mut each, mut kernel) = (Vec::new(), Vec::new(), Vec::new());
    for engine in engines {
        let held = || -> Result<(f64, f64, f64)> {
            // Idle is who has had nothing to do for a while.
            std::thread::sleep(SETTLING);
            let before = memory::pss(engine.processes)?;
            let available = memory::available()?;
            for _ in 0..HELD {
                sleeper(engine)?;
            }
            std::thread::sleep(SETTLING);
            #[expect(clippy::cast_precision_loss, reason = "ten")]
            let share = |kib: f64| kib / 1024.0 / HELD as f64;
            let after = memory::pss(engine.processes)?;
            Ok((before / 1024.0, share(after - before), share(available - memory::available()?)))
        }();
        let part = |pick: fn(&(f64, f64, f64)) -> f64| match &held {
            Ok(held) => Ok(pick(held)),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        idle.push(single(engine, part(|h| h.0)));
        each.push(single(engine, part(|h| h.1)));
        kernel.push(single(engine, part(|h| h.2)));
    }
    clear(engines);
    let row = |what: &str, columns| Row { what: what.to_owned(), unit: "MiB", columns };
    vec![
        row("F7 idle: PSS of what serves the engine", idle),
        row("F7 per container: PSS", each),
        row("F7 per container: MemAvailable less, container included", kernel),
    ]
}

/// F8: a million lines of output.
pub(crate) fn logs(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let rounds = rounds.div_ceil(10).max(2);
    let attached = engines.iter().map(|engine| {
        Subject::new(engine.name, move || {
            let words = ["run", "--rm", "--network", "none", IMAGE, "/bin/sh", "-c", LINES];
            Ok(engine.time(&words)? / 1000.0)
        })
    });
    let mut rows = vec![interleave("F8 1M lines, run attached", "s", rounds, WARM, attached.collect())];
    let ids: Vec<_> = engines
        .iter()
        .map(|engine| {
            let id = engine.line(&["run", "-d", "--network", "none", IMAGE, "/bin/sh", "-c", LINES])?;
            engine.line(&["wait", &id])?;
            Ok::<_, anyhow::Error>(id)
        })
        .collect();
    let of_log = |words: &'static [&'static str]| {
        engines.iter().zip(&ids).map(move |(engine, id)| {
            Subject::new(engine.name, move || match id {
                Ok(id) => engine.time(&[words, &[id.as_str()]].concat()),
                Err(error) => anyhow::bail!("{error:#}"),
            })
        })
    };
    rows.push(interleave("F8 1M lines, logs replayed", "ms", rounds, WARM, of_log(&["logs"]).collect()));
    let tail = of_log(&["logs", "--tail", "10"]).collect();
    rows.push(interleave("F8 1M lines, logs --tail 10", "ms", rounds * 5, WARM, tail));
    clear(engines);
    rows
}

/// F17: sizes of the executables, and the time of a clean release build if asked for.
pub(crate) fn size(dist: &Path, work: &Path, build: bool) -> Result<Vec<Row>> {
    let column = |value| Column { name: "hull".to_owned(), samples: vec![value], failure: None };
    let mut rows = Vec::new();
    for name in ["hull", "hull-runtime"] {
        let path = dist.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.len();
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let size = bytes as f64 / 1e6;
        rows.push(Row { what: format!("F17 size of {name}"), unit: "MB", columns: vec![column(size)] });
    }
    if build {
        eprintln!("bench: F17 clean build");
        let begin = Instant::now();
        let own = std::env::current_exe().context("find xtask itself")?;
        let status = Command::new(own)
            .arg("build")
            .env("CARGO_TARGET_DIR", work.join("target"))
            .stdout(Stdio::null())
            .status()
            .context("run the build")?;
        anyhow::ensure!(status.success(), "the clean build failed");
        let minutes = begin.elapsed().as_secs_f64() / 60.0;
        rows.push(Row {
            what: "F17 clean release build".to_owned(),
            unit: "min",
            columns: vec![column(minutes)],
        });
    }
    Ok(rows)
}
