//! F11: what builds take, beside BuildKit, and what of the daemon's memory a large context takes.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::engines::{Engine, IMAGE};
use super::measure::{Column, Row, Subject, interleave};
use super::memory;
use super::sections::WARM;

/// Files of the large context, how many of them are in a folder, and the bytes of each.
const FILES: usize = 20_000;
const FOLDER: usize = 200;
const BYTES: usize = 10_240;
/// MiB of the context that passes while the daemon's memory is looked at.
const LARGE: usize = 2048;

/// The contexts, as folders.
struct Contexts {
    steps: String,
    stages: String,
    files: PathBuf,
}

pub(crate) fn builds(engines: &[Engine], work: &Path, rounds: usize) -> Vec<Row> {
    let contexts = match contexts(work) {
        Ok(contexts) => contexts,
        Err(error) => {
            eprintln!("bench: {error:#}");
            return Vec::new();
        }
    };
    let Contexts { steps, stages, files } = &contexts;
    let folder = files.display().to_string();
    let (folder, rounds) = (folder.as_str(), rounds.div_ceil(6).max(3));
    // Podman builds as slowly as the classic builder: it would take most of the time.
    let rivals: Vec<&Engine> = engines.iter().filter(|engine| engine.name != "podman").collect();
    let row = |what: &str, rounds: usize, sample: &dyn Fn(&Engine) -> Result<f64>| {
        let subjects = rivals.iter().map(|engine| Subject::new(engine.name, move || sample(engine)));
        interleave(what, "ms", rounds, WARM, subjects.collect())
    };
    let changes = Cell::new(0_u64);
    let mut rows = vec![
        row("F11 10 RUN, no cache", rounds, &|engine| build(engine, "steps", steps, false)),
        row("F11 10 RUN, all cached", rounds, &|engine| build(engine, "steps", steps, true)),
        row("F11 4 stages of sleep 2", 2, &|engine| build(engine, "stages", stages, false)),
        row("F11 COPY of 20,000 files, no cache", rounds, &|engine| build(engine, "files", folder, false)),
        row("F11 COPY of 20,000 files, one changed", rounds, &|engine| {
            changes.set(changes.get() + 1);
            fill(&files.join("d7/f1400"), changes.get())?;
            build(engine, "files", folder, true)
        }),
        row("F11 COPY of 20,000 files, nothing changed", rounds, &|engine| {
            build(engine, "files", folder, true)
        }),
    ];
    for engine in &rivals {
        engine.quiet(&["rmi", "-f", "built-steps", "built-stages", "built-files"]);
        engine.quiet(&["builder", "prune", "-af"]);
    }
    let hull = rivals.iter().find(|engine| engine.name == "hull");
    rows.extend(hull.map(|hull| peak(hull, work)));
    rows
}

/// Milliseconds.
fn build(engine: &Engine, name: &str, folder: &str, cached: bool) -> Result<f64> {
    let name = format!("built-{name}");
    let mut words = vec!["build", "-q", "-t", &name];
    if !cached {
        words.push("--no-cache");
    }
    words.push(folder);
    engine.time(&words)
}

fn contexts(work: &Path) -> Result<Contexts> {
    let folder = |name: &str, dockerfile: String| -> Result<PathBuf> {
        let folder = work.join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("Dockerfile"), dockerfile))
            .with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    };
    let (mut steps, mut stages) = (format!("FROM {IMAGE}\n"), String::new());
    for step in 0..10 {
        writeln!(steps, "RUN echo {step} > /f{step}")?;
    }
    for stage in 0..4 {
        write!(stages, "FROM {IMAGE} AS s{stage}\nRUN sleep 2 && echo {stage} > /o\n")?;
    }
    writeln!(stages, "FROM {IMAGE}")?;
    for stage in 0..4 {
        writeln!(stages, "COPY --from=s{stage} /o /o{stage}")?;
    }
    let files = folder("context-files", format!("FROM {IMAGE}\nCOPY . /src\nRUN ls /src | wc -l > /n\n"))?;
    for number in 0..FILES {
        let below = files.join(format!("d{}", number / FOLDER));
        if number % FOLDER == 0 {
            fs::create_dir_all(&below).with_context(|| format!("make {}", below.display()))?;
        }
        fill(&below.join(format!("f{number}")), number as u64)?;
    }
    Ok(Contexts {
        steps: folder("context-steps", steps)?.display().to_string(),
        stages: folder("context-stages", stages)?.display().to_string(),
        files,
    })
}

/// Digits that differ from seed to seed, so that they can be compressed to a half and no further.
fn fill(file: &Path, seed: u64) -> Result<()> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let digits: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"0123456789abcdef"[(state >> 60) as usize]
    })
    .take(BYTES)
    .collect();
    fs::write(file, digits).with_context(|| format!("write {}", file.display()))
}

/// How much more the daemon has held than before, while a large context passed.
fn peak(hull: &Engine, work: &Path) -> Row {
    eprintln!("bench: F11 a context of 2 GB");
    let folder = work.join("context-large");
    let sample = || -> Result<f64> {
        fs::create_dir_all(&folder).context("make the large context")?;
        fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY large /\n")?;
        let mut large = File::create(folder.join("large")).context("make the large file")?;
        let block = vec![0x5a; 1 << 20];
        (0..LARGE).try_for_each(|_| large.write_all(&block)).context("fill the large file")?;
        let before = memory::forget_peaks(&["hull"])?;
        build(hull, "large", &folder.display().to_string(), true)?;
        let peak = memory::peaks(&["hull"])?;
        hull.quiet(&["rmi", "-f", "built-large"]);
        Ok((peak - before) / 1024.0)
    };
    let (samples, failure) = match sample() {
        Ok(value) => (vec![value], None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    fs::remove_dir_all(&folder).ok();
    let column = Column { name: hull.name.to_owned(), samples, failure };
    Row { what: "F11 2 GB of context: the daemon's peak".to_owned(), unit: "MiB", columns: vec![column] }
}
