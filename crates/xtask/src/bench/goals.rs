//! The figures to reach, and whether a run's rows reach them.

use super::measure::{Column, Row, median};

/// How Hull's median, as a share of another column's, is to be.
#[derive(Clone, Copy)]
enum Share {
    AtMost(f64),
    /// Of what is better when there is more of it.
    AtLeast(f64),
}
use Share::{AtLeast, AtMost};

/// A row, the column that Hull's is compared with, and the share to reach.
const SHARES: &[(&str, &str, Share)] = &[
    ("F1 run --rm true, network none, cold", "docker", AtMost(1.0 / 12.0)),
    ("F1 run --rm true, network none, warm", "docker", AtMost(1.0 / 12.0)),
    ("F1 run --rm true, network host, cold", "docker", AtMost(1.0 / 12.0)),
    ("F1 run --rm true, network host, warm", "docker", AtMost(1.0 / 12.0)),
    ("F1 run --rm true, network none, cold", "bare crun", AtMost(1.0)),
    ("F2 run --rm true, bridge, cold", "docker", AtMost(1.0 / 15.0)),
    ("F2 run --rm true, bridge, warm", "docker", AtMost(1.0 / 15.0)),
    ("F2 run --rm true, bridge with -p, cold", "docker", AtMost(1.0 / 15.0)),
    ("F2 run --rm true, bridge with -p, warm", "docker", AtMost(1.0 / 15.0)),
    ("F3 exec true, cold", "docker", AtMost(1.0 / 12.0)),
    ("F3 exec true, warm", "docker", AtMost(1.0 / 12.0)),
    ("F4 run of a bundle, new netns, seccomp, cold", "crun", AtMost(0.5)),
    ("F4 run of a bundle, new netns, seccomp, warm", "crun", AtMost(0.8)),
    ("F4 run of a bundle, new netns, seccomp, cold", "floor", AtMost(2.0)),
    ("F4 run of a bundle, new netns, seccomp, warm", "floor", AtMost(2.0)),
    ("F4 run of a bundle, new netns, seccomp, warm: CPU", "crun", AtMost(0.8)),
    ("F4 run of a bundle, new netns, seccomp, warm: largest process", "crun", AtMost(1.0)),
    ("F5 create", "docker", AtMost(1.0 / 10.0)),
    ("F5 start", "docker", AtMost(1.0 / 15.0)),
    ("F5 inspect", "docker", AtMost(1.0 / 4.0)),
    ("F5 ps", "docker", AtMost(1.0 / 4.0)),
    ("F5 stop", "docker", AtMost(1.0 / 12.0)),
    ("F5 rm", "docker", AtMost(1.0 / 10.0)),
    ("F6 50 x run -d, 8 at a time, none", "docker", AtMost(1.0 / 12.0)),
    ("F6 rm -f of 50, 8 at a time, none", "docker", AtMost(1.0 / 12.0)),
    ("F6 50 x run -d, 8 at a time, bridge", "docker", AtMost(1.0 / 12.0)),
    ("F6 rm -f of 50, 8 at a time, bridge", "docker", AtMost(1.0 / 12.0)),
    ("F7 idle: PSS of what serves the engine", "docker", AtMost(0.1)),
    ("F8 1M lines, run attached", "podman", AtMost(0.65)),
    ("F8 1M lines, logs replayed", "podman", AtMost(1.0 / 12.0)),
    ("F8 1M lines, logs --tail 10", "docker", AtMost(1.0 / 2.5)),
    ("F10 commit of 10,000 files", "docker", AtMost(1.0 / 5.0)),
    ("F10 diff of 10,000 files", "docker", AtMost(1.0 / 8.0)),
    ("F10 commit of one file of 200 MB", "docker", AtMost(1.0 / 2.0)),
    ("F10 save of 10,000 files", "docker", AtMost(1.0 / 4.0)),
    ("F10 save of one file of 200 MB", "docker", AtMost(1.0 / 4.0)),
    ("F10 load of 10,000 files", "docker", AtMost(1.0 / 2.5)),
    ("F10 load of one file of 200 MB", "docker", AtMost(1.0 / 2.5)),
    ("F10 cp of 10,000 files in", "docker", AtMost(1.0 / 4.0)),
    ("F10 cp of 10,000 files out", "docker", AtMost(1.0 / 4.0)),
    ("F10 cp of one file of 200 MB in", "docker", AtMost(1.0 / 2.0)),
    ("F10 cp of one file of 200 MB out", "docker", AtMost(1.0 / 2.0)),
    ("F11 10 RUN, no cache", "docker", AtMost(1.0 / 8.0)),
    ("F11 10 RUN, all cached", "docker", AtMost(1.0 / 8.0)),
    ("F11 COPY of 20,000 files, no cache", "docker", AtMost(1.0 / 4.0)),
    ("F11 COPY of 20,000 files, one changed", "docker", AtMost(1.0 / 6.0)),
    ("F11 COPY of 20,000 files, nothing changed", "docker", AtMost(1.0 / 8.0)),
    ("F14 copy-up of 10,000 files into a volume", "docker", AtMost(1.0 / 3.0)),
    ("run --rm with 20 named volumes that exist, warm", "hull, with none", AtMost(1.5)),
    ("run --rm with 20 folders of the host, warm", "hull, with none", AtMost(1.5)),
    ("F12 published port on 127.0.0.1, one stream", "hull, own address", AtLeast(0.95)),
    ("F12 published port on 127.0.0.1, one stream", "floor", AtLeast(0.95)),
    ("F12 published port on 127.0.0.1, requests", "hull, own address", AtLeast(0.95)),
    ("F12 published port on 127.0.0.1, connections", "hull, own address", AtLeast(0.95)),
    ("F12 published port on 127.0.0.1, connections", "floor", AtLeast(0.95)),
    ("F12 run -d -p, the 1,000th port", "hull, the first", AtMost(1.2)),
    ("F12 run -d -p, 50,000 ports as a range", "hull, one port", AtMost(3.0)),
    ("network create", "docker", AtMost(1.0 / 5.0)),
    ("network rm", "docker", AtMost(1.0 / 5.0)),
    ("names, answers to 64 at a time", "docker", AtLeast(3.0)),
    ("names, one after the other: half of them within", "docker", AtMost(1.0 / 2.0)),
    ("run --rm true with users of its own, network none", "hull, the host's users", AtMost(1.3)),
    ("run --rm true with users of its own, bridge", "hull, the host's users", AtMost(1.3)),
    ("registry, 16 clients push 32 MiB each", "docker-registry", AtLeast(1.5)),
    ("registry, 16 clients pull 32 MiB each", "docker-registry", AtLeast(1.5)),
    ("registry, 16 clients push 16 small images each", "docker-registry", AtLeast(1.5)),
    ("500 endpoints after a flush of the tables", "hull, one network connect", AtMost(10.0)),
];

/// A row, and the most that Hull's median may be, in the row's unit.
const LIMITS: &[(&str, f64)] = &[
    ("F7 per container: PSS", 0.3),
    ("F7 per published port: PSS", 0.02),
    ("registry, peak while layers passed", 64.0),
    ("F11 4 stages of sleep 2", 2200.0),
    ("F11 2 GB of context: the daemon's peak", 64.0),
];

/// A line for each figure that the rows have.
pub(crate) fn verdicts(rows: &[Row]) -> Vec<String> {
    let shares = SHARES.iter().filter_map(|(what, peer, share)| {
        let row = rows.iter().find(|row| row.what == *what)?;
        let theirs = row.columns.iter().find(|c| c.name == *peer).and_then(|c| median(&c.samples))?;
        let ratio = hull(row)? / theirs;
        let (reached, bound) = match share {
            AtMost(most) => (ratio <= *most, format!("at most {most:.3}")),
            AtLeast(least) => (ratio >= *least, format!("at least {least:.3}")),
        };
        Some(format!("- {what}: {ratio:.3} of {peer}, to reach {bound}: {}", word(reached)))
    });
    let limits = LIMITS.iter().filter_map(|(what, most)| {
        let row = rows.iter().find(|row| row.what == *what)?;
        let value = hull(row)?;
        Some(format!("- {what}: {value:.3} {}, to reach at most {most}: {}", row.unit, word(value <= *most)))
    });
    shares.chain(limits).collect()
}

fn word(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

fn hull(row: &Row) -> Option<f64> {
    let ours: &Column = row.columns.first().filter(|c| c.name.starts_with("hull"))?;
    median(&ours.samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &str, columns: &[(&str, f64)]) -> Row {
        let column = |(name, value): &(&str, f64)| Column {
            name: (*name).to_owned(),
            samples: vec![*value],
            failure: None,
        };
        Row { what: what.to_owned(), unit: "MiB", columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn more_is_better_or_worse_as_the_figure_says() {
        let rows = [
            row("F5 rm", &[("hull", 1.0), ("docker", 9.0)]),
            row("names, answers to 64 at a time", &[("hull", 30.0), ("docker", 10.0)]),
            row("network rm", &[("hull", 1.0), ("podman", 10.0)]),
            row("F7 per published port: PSS", &[("hull", 0.01)]),
        ];
        assert_eq!(
            verdicts(&rows),
            [
                "- F5 rm: 0.111 of docker, to reach at most 0.100: missed",
                "- names, answers to 64 at a time: 3.000 of docker, to reach at least 3.000: reached",
                "- F7 per published port: PSS: 0.010 MiB, to reach at most 0.02: reached",
            ]
        );
    }
}
