//! The daemon is killed while volumes come and go.

use hull_testkit::Host;

use super::covered;
use super::house::{Act, House};

/// Where it dies, of what, and whether the next daemon has the volume.
pub(super) const POINTS: [(&str, Act, bool); 4] = [
    ("engine.volume-create.made", Act::VolumeCreate, false),
    ("engine.volume-create.committed", Act::VolumeCreate, true),
    ("engine.volume-remove.discarded", Act::VolumeRemove, false),
    ("engine.volume-remove.row-gone", Act::VolumeRemove, false),
];

/// Names of volumes, and what is in their folder.
fn volumes(host: &Host) -> [Vec<String>; 2] {
    let listed = host.hull(&["volume", "ls", "-q"]).ok().lines().map(str::to_owned).collect();
    let entries = std::fs::read_dir(host.data_root().join("volumes")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    [listed, names.filter(|name| name != ".trash").collect()]
}

#[test]
fn the_daemon_may_be_killed_while_volumes_come_and_go() {
    let mut house = House::new();
    for (point, act, there) in POINTS {
        covered(point, act, if there { "there" } else { "gone" });
        let finished = house.die_at(point, act);
        assert!(finished.code != 0, "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, "");
        let expected = if there { vec!["victims".to_owned()] } else { Vec::new() };
        assert_eq!(volumes(&house.host), [expected.clone(), expected], "{point}");
        house.host.hull(&["volume", "rm", "-f", "victims"]).ok();
        house.clear("");
    }
    house.end();
}
