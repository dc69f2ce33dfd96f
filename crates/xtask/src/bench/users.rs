//! What a user namespace costs a start, on an image of four layers.

use anyhow::Result;

use super::engines::{Engine, IMAGE};
use super::measure::{Row, Subject, interleave};
use super::sections::{COLD, clear};

const LAYERED: &str = "four-layers";

pub(crate) fn users(engines: &[Engine], rounds: usize) -> Vec<Row> {
    let Some(hull) = engines.iter().find(|engine| engine.name == "hull") else { return Vec::new() };
    let made = add_layers(hull);
    clear(engines);
    if let Err(error) = made {
        eprintln!("bench: without users: {error:#}");
        return Vec::new();
    }
    let measure = |network: &str, shown: &str| {
        let start = |userns: &'static str| {
            let words =
                ["run", "--rm", "--network", network, userns, LAYERED, "/bin/true"].map(str::to_owned);
            move || hull.time(&words.each_ref().map(String::as_str))
        };
        let subjects = vec![
            Subject::new("hull", start("--userns=auto")),
            Subject::new("hull, the host's users", start("--userns=host")),
        ];
        let what = format!("run --rm true with users of its own, {shown}");
        interleave(&what, "ms", rounds, COLD, subjects)
    };
    vec![measure("none", "network none"), measure("bridge", "bridge")]
}

/// The image that everybody has is one layer.
fn add_layers(hull: &Engine) -> Result<()> {
    let mut image = IMAGE;
    for name in ["layer-2", "layer-3", "layer-4"] {
        let script = format!("echo {name} > /{name}");
        hull.line(&["run", "--name", name, "--network", "none", image, "/bin/sh", "-c", &script])?;
        hull.line(&["commit", name, LAYERED])?;
        image = LAYERED;
    }
    Ok(())
}
