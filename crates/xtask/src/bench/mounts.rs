//! F14, and what mounts add to a start.

use std::path::Path;

use anyhow::{Result, anyhow};

use super::engines::{Engine, IMAGE};
use super::measure::{Row, Subject, interleave};
use super::sections::{WARM, clear};

/// Mounts of a start that has many.
const MANY: usize = 20;

/// A volume that is filled from an image; a start with many mounts beside one with none. Folders of
/// the host are in `work`.
pub(crate) fn mounts(engines: &[Engine], work: &Path, rounds: usize) -> Vec<Row> {
    let mut rows = vec![copy_up(engines, rounds.div_ceil(6).max(3))];
    clear(engines);
    if let Some(hull) = engines.iter().find(|engine| engine.name == "hull") {
        let folder = work.join("bound").display().to_string();
        rows.extend([
            many(hull, "named volumes that exist", rounds, |number| format!("bench-{number}:/mnt/{number}")),
            many(hull, "folders of the host", rounds, |number| format!("{folder}/{number}:/mnt/{number}")),
            many(hull, "volumes that come and go with it", rounds, |number| format!("/mnt/{number}")),
        ]);
    }
    clear(engines);
    rows
}

/// A run of an image with 10,000 files where an empty volume is; the volume goes each time.
fn copy_up(engines: &[Engine], rounds: usize) -> Row {
    let script = "mkdir /f; i=0; while [ $i -lt 10000 ]; do echo $i > /f/$i; i=$((i+1)); done";
    let images: Vec<Result<()>> = engines
        .iter()
        .map(|engine| {
            engine.line(&["run", "--name", "full", "--network", "none", IMAGE, "/bin/sh", "-c", script])?;
            engine.line(&["commit", "full", "bench-full"]).map(|_| ())
        })
        .collect();
    let subjects = engines.iter().zip(&images).map(|(engine, made)| {
        Subject::new(engine.name, move || {
            made.as_ref().map_err(|error| anyhow!("{error:#}"))?;
            let run = ["run", "--rm", "--network", "none", "-v", "bench-fill:/f", "bench-full", "/bin/true"];
            let time = engine.time(&run)?;
            engine.line(&["volume", "rm", "bench-fill"])?;
            Ok(time)
        })
    });
    interleave("F14 copy-up of 10,000 files into a volume", "ms", rounds, WARM, subjects.collect())
}

/// With twenty mounts of one kind, made where they are not there yet, and with none, in turn.
fn many(hull: &Engine, kind: &str, rounds: usize, volume: impl Fn(usize) -> String) -> Row {
    let volumes: Vec<String> = (0..MANY).flat_map(|number| ["-v".to_owned(), volume(number)]).collect();
    let run = |flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        hull.time(&[&["run", "--rm", "--network", "none"], &flags[..], &[IMAGE, "/bin/true"]].concat())
    };
    let subjects = vec![Subject::new("hull", || run(&volumes)), Subject::new("hull, with none", || run(&[]))];
    interleave(&format!("run --rm with {MANY} {kind}, warm"), "ms", rounds, WARM, subjects)
}
