//! Loops too long for each push: races that are won or lost by chance, run until chance has had its
//! say.
//!
//! The same tests run a bounded number of rounds in `cargo xtask test`; here the environment
//! variable `HULL_SOAK` makes them go on. Each has a control that must succeed, so a loop that met
//! no race fails.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{cargo, execute, machine, test};

/// One loop.
struct Loop {
    name: &'static str,
    about: &'static str,
    run: Run,
}

enum Run {
    /// A test that knows `HULL_SOAK`, by the words of its `cargo test`.
    Long(&'static [&'static str]),
    /// Privileged tests, so many times.
    Repeated(&'static str, u32),
}

const LOOPS: &[Loop] = &[
    Loop {
        name: "path-swap",
        about: "10 000 starts while a folder of a volume and a symlink to the host change places (K01)",
        run: Run::Long(&[
            "--package=hull-runtime-lib",
            "--test=container",
            "--",
            "a_volume_that_swaps_folder_and_symlink",
        ]),
    },
    Loop {
        name: "thief",
        about: "3 000 execs while the container's root looks into all that join it (K04)",
        run: Run::Long(&["--package=hull-runtime-lib", "--test=container", "--", "whoever_joins_cannot"]),
    },
    Loop {
        name: "walk",
        about: "1 000 000 paths resolved by hand while one of their folders becomes a symlink and back",
        run: Run::Long(&["--package=hull-sys", "--lib", "--", "no_race_of_renames"]),
    },
    Loop {
        name: "kills",
        about: "daemon, spawner and shims killed at every named point, ten times over",
        run: Run::Repeated("kills::", 10),
    },
];

/// All loops, or those that are named.
pub(crate) fn run(names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !LOOPS.iter().any(|one| one.name == name.as_str())) {
        let list: Vec<_> = LOOPS.iter().map(|one| format!("  {:<10} {}", one.name, one.about)).collect();
        bail!("no loop is called {unknown:?}; there are\n{}", list.join("\n"));
    }
    machine::must_run_containers()?;
    for one in LOOPS.iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.name)) {
        println!("soak {}: {}", one.name, one.about);
        let start = Instant::now();
        match one.run {
            Run::Long(words) => execute(cargo().args(["test", "--quiet"]).args(words).env("HULL_SOAK", "1"))?,
            Run::Repeated(filter, times) => {
                (0..times).try_for_each(|_| test::all(&[filter.to_owned()]))?;
            }
        }
        println!("soak {}: held for {} s", one.name, start.elapsed().as_secs());
    }
    Ok(())
}
