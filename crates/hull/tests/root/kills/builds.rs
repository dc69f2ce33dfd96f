//! Daemon, spawner and shims are killed while an image is built: nothing is left of it but what is
//! remembered, and the same build then goes on from there.

use hull_testkit::{Baseline, Finished, Host};

use super::house::{Act, House};
use super::{Stored, covered};
use crate::builds::{context, said};

/// Where the daemon dies, whether the next one has the image (`None`: the point is passed beside the build,
/// which may be through by then), and how many steps the next build finds done at least: at the point that so
/// many pass, it is the last one of them that dies there.
pub(super) const DAEMON: [(&str, Option<bool>, usize); 13] = [
    ("engine.build.receiving", Some(false), 0),
    ("engine.build.copying", Some(false), 0),
    ("engine.build.packed", Some(false), 0),
    ("engine.build.published", Some(false), 0),
    ("engine.build.adopted", Some(false), 0),
    ("engine.build.remembering", None, 0),
    ("engine.build.remembered", None, 1),
    ("engine.start.before-launch", Some(false), 0),
    ("engine.start.after-launch", Some(false), 0),
    ("engine.build.storing", Some(false), 0),
    ("engine.build.stored", Some(true), 0),
    // What was done before the last one's end, too.
    ("engine.images.synced", None, 0),
    ("engine.build.remembered", None, STEPS),
];

/// Where a shim or the spawner dies, and how the client ends.
const OTHERS: [(&str, i32); 9] = [
    ("spawner.launch.before-fork", 1),
    ("spawner.launch.after-fork", 0),
    ("shim.start.before", 137),
    ("shim.start.after", 137),
    ("shim.started", 137),
    ("shim.exit.reaped", 137),
    ("shim.exit.before-record", 137),
    ("shim.exit.before-announce", 0),
    ("shim.exit.announced", 0),
];

/// A build of four steps.
fn furnish(host: &Host) {
    let script = "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nWORKDIR /w\nADD a c\n";
    context(host, "victims", &[("Dockerfile", script), ("a", "content\n")]);
}

const STEPS: usize = 4;

fn cached(built: &Finished) -> usize {
    said(built).matches(" CACHED\n").count()
}

/// The build is done once more, to its end; then all of it goes.
fn again(host: &Host, point: &str, known: usize) {
    let built = host.hull(&["build", "-t", "victims", "victims"]);
    assert!(cached(&built) >= known, "{point}: {known} steps were done before: {built}");
    let looks = ["run", "--rm", "--network", "none", "victims", "sh", "-c", "pwd; cat /a /b c"];
    assert_eq!(host.hull(&looks).ok(), "/w\ncontent\ncontent\ncontent", "{point}");
    assert_eq!(cached(&host.hull(&["build", "victims"])), STEPS, "{point}");
    host.hull(&["rmi", "-f", "victims"]).ok();
    host.hull(&["image", "prune", "-f"]).ok();
    host.hull(&["builder", "prune", "-af"]).ok();
}

#[test]
fn the_daemon_may_be_killed_while_an_image_is_built() {
    let mut house = House::new();
    furnish(&house.host);
    let (before, stored) = (Baseline::of(&house.host), Stored::of(&house.host));
    for (point, there, known) in DAEMON {
        covered(point, Act::Build, there.map_or("either", |there| if there { "there" } else { "gone" }));
        let finished = house.die_at(&format!("{point} {}", known.max(1)), Act::Build);
        assert!(finished.code != 0 || there.is_none(), "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, "");
        let found = house.host.hull(&["run", "--rm", "--network", "none", "victims", "cat", "/b"]);
        assert!(there.is_none_or(|there| there == (found.code == 0)), "{point}: {found}");
        again(&house.host, point, known);
        house.clear("");
        stored.returns(&house.host, point);
        before.returns(&house.host);
    }
    house.end();
}

#[test]
fn shims_and_the_spawner_may_be_killed_while_an_image_is_built() {
    let mut house = House::new();
    furnish(&house.host);
    let stored = Stored::of(&house.host);
    let mut before = Baseline::of(&house.host);
    for (point, code) in OTHERS {
        covered(point, Act::Build, "");
        let finished = house.die_at(point, Act::Build);
        assert_eq!(finished.code, code, "{point}: {finished}");
        house.shows(point, "");
        again(&house.host, point, 0);
        house.clear("");
        stored.returns(&house.host, point);
        if point.starts_with("spawner.") {
            // Another one has not as many descriptors as the first.
            before = Baseline::of(&house.host);
        } else {
            before.returns(&house.host);
        }
    }
    house.end();
}
