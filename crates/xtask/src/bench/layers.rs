//! F10: what is made of a container's writable layer, and what is copied into it and out of it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::engines::{Engine, IMAGE};
use super::measure::{Row, Subject, interleave_parts};
use super::sections::{WARM, clear};

/// What a container does before it is committed, by name.
const CHANGES: [(&str, &str); 2] = [
    ("10,000 files", "mkdir /f; i=0; while [ $i -lt 10000 ]; do echo $i > /f/$i; i=$((i+1)); done"),
    ("one file of 200 MB", "dd if=/dev/urandom of=/big bs=1M count=200"),
];

/// `commit` and `diff` of ended containers, each image removed at once; then `save` and `load` of one.
pub(crate) fn layers(engines: &[Engine], work: &Path, rounds: usize) -> Vec<Row> {
    let rounds = rounds.div_ceil(6).max(3);
    let mut rows = Vec::new();
    for (change, script) in CHANGES {
        let made: Vec<Result<String>> = engines
            .iter()
            .map(|engine| {
                let name = "changed".to_owned();
                let words = ["run", "--name", &name, "--network", "none", IMAGE, "/bin/sh", "-c", script];
                engine.line(&words).map(|_| name)
            })
            .collect();
        let subjects = engines.iter().zip(&made).map(|(engine, made)| {
            Subject::of_parts(engine.name, move || {
                let name = made.as_ref().map_err(|error| anyhow!("{error:#}"))?;
                let times = vec![engine.time(&["commit", name, "committed"])?, engine.time(&["diff", name])?];
                engine.line(&["rmi", "-f", "committed"])?;
                Ok(times)
            })
        });
        let parts = [(format!("F10 commit of {change}"), "ms"), (format!("F10 diff of {change}"), "ms")];
        rows.extend(interleave_parts(&parts, rounds, WARM, subjects.collect()));
        rows.extend(archives(engines, change, work, rounds));
        clear(engines);
    }
    rows
}

/// `save` of an image of the container `changed` into a file, and `load` where only its layer is new.
fn archives(engines: &[Engine], change: &str, work: &Path, rounds: usize) -> Vec<Row> {
    let file = work.join("saved.tar").display().to_string();
    let file = &file;
    let subjects = engines.iter().map(|engine| {
        let made = engine.line(&["commit", "changed", "kept"]);
        Subject::of_parts(engine.name, move || {
            made.as_ref().map_err(|error| anyhow!("{error:#}"))?;
            let saved = engine.time(&["save", "-o", file, "kept"])?;
            engine.line(&["rmi", "-f", "kept"])?;
            let times = vec![saved, engine.time(&["load", "-i", file])?];
            fs::remove_file(file).context("remove the saved image")?;
            Ok(times)
        })
    });
    let parts = [(format!("F10 save of {change}"), "ms"), (format!("F10 load of {change}"), "ms")];
    interleave_parts(&parts, rounds, WARM, subjects.collect())
}

/// `cp` of the same into a container that does not run, and out of it.
pub(crate) fn copies(engines: &[Engine], work: &Path, rounds: usize) -> Vec<Row> {
    let rounds = rounds.div_ceil(6).max(3);
    let mut rows = Vec::new();
    let (source, backs, round) = (work.join("copied"), &apart(work), &Cell::new(0));
    for (change, _) in CHANGES {
        let made = &make(&source, change);
        let from = &source.display().to_string();
        let subjects = engines.iter().map(|engine| {
            Subject::of_parts(engine.name, move || {
                made.as_ref().map_err(|error| anyhow!("{error:#}"))?;
                engine.line(&["create", "--name", "copied", "--network", "none", IMAGE, "/bin/true"])?;
                let into = engine.time(&["cp", from, "copied:/new"])?;
                round.set(round.get() + 1);
                let back = backs.join(round.get().to_string()).display().to_string();
                let out = engine.time(&["cp", "copied:/new", &back])?;
                fs::remove_dir_all(back).context("remove what came back")?;
                engine.line(&["rm", "copied"])?;
                Ok(vec![into, out])
            })
        });
        let parts = [(format!("F10 cp of {change} in"), "ms"), (format!("F10 cp of {change} out"), "ms")];
        rows.extend(interleave_parts(&parts, rounds, WARM, subjects.collect()));
        if let Err(error) = fs::remove_dir_all(&source) {
            eprintln!("bench: {}: {error}", source.display());
        }
        clear(engines);
    }
    rows
}

/// A folder whose folders lie apart on the disk (chattr(1), `T`): an ext4 without a journal looks at each
/// inode that was removed a moment ago for each one that it makes nearby, and a round would measure the
/// last one's removal.
fn apart(work: &Path) -> PathBuf {
    let folder = work.join("copied-back");
    if let Err(error) = fs::create_dir_all(&folder) {
        eprintln!("bench: {}: {error}", folder.display());
    }
    if let Ok(opened) = fs::File::open(&folder)
        && let Ok(flags) = ioctl_getflags(&opened)
    {
        // Other file systems do without.
        let _ = ioctl_setflags(&opened, flags | IFlags::TOPDIR);
    }
    folder
}

/// The files of a change, made here.
fn make(folder: &Path, change: &str) -> Result<()> {
    fs::create_dir_all(folder).context("make the folder to be copied")?;
    if change == CHANGES[0].0 {
        for number in 0..10_000 {
            fs::write(folder.join(number.to_string()), format!("{number}\n"))?;
        }
        return Ok(());
    }
    fs::write(folder.join("big"), vec![0x5a; 200 << 20]).context("make the file to be copied")
}
