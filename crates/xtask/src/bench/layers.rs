//! F10: what is made of a container's writable layer.

use anyhow::{Result, anyhow};

use super::engines::{Engine, IMAGE};
use super::measure::{Row, Subject, interleave_parts};
use super::sections::{WARM, clear};

/// What a container does before it is committed, by name.
const CHANGES: [(&str, &str); 2] = [
    ("10,000 files", "mkdir /f; i=0; while [ $i -lt 10000 ]; do echo $i > /f/$i; i=$((i+1)); done"),
    ("one file of 200 MB", "dd if=/dev/urandom of=/big bs=1M count=200"),
];

/// `commit` and `diff` of ended containers, each image removed at once.
pub(crate) fn layers(engines: &[Engine], rounds: usize) -> Vec<Row> {
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
        clear(engines);
    }
    rows
}
