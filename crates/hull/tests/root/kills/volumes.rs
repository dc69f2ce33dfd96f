//! The daemon is killed while volumes come and go, alone and with their containers.

use hull_testkit::{Baseline, Host};

use super::covered;
use super::house::{Act, House, warm};
use crate::filled::{alike, content, data, image, listing};

/// Where it dies while a new or an existing volume is filled.
pub(super) const FILL: [&str; 2] = ["engine.fill.copied", "engine.fill.placed"];

/// Where it dies, of what, what the next daemon shows of the container, and which volumes it has:
/// `ram` was there before, `?` has no name.
pub(super) const POINTS: [(&str, Act, &str, &[&str]); 14] = [
    ("engine.volume-create.made", Act::VolumeCreate, "", &["ram"]),
    ("engine.volume-create.committed", Act::VolumeCreate, "", &["ram", "victims"]),
    ("engine.volume-remove.discarded", Act::VolumeRemove, "", &["ram"]),
    ("engine.volume-remove.row-gone", Act::VolumeRemove, "", &["ram"]),
    // What was not acknowledged leaves nothing, but what was there.
    ("engine.volume.claimed", Act::VolumeRun, "", &["ram"]),
    ("engine.create.before-commit", Act::VolumeRun, "", &["ram"]),
    ("engine.create.after-commit", Act::VolumeRun, "created 0", &["?", "ram", "victims"]),
    ("engine.volume.mounted", Act::VolumeRun, "", &["ram"]),
    ("engine.start.after-launch", Act::VolumeRun, "running 0", &["?", "ram", "victims"]),
    ("engine.volume.unmounting", Act::VolumeStop, "exited 5", &["?", "ram", "victims"]),
    // Its own go with it, the others stay.
    ("engine.remove.committed", Act::VolumeTake, "", &["ram", "victims"]),
    ("engine.volume.releasing", Act::VolumeTake, "", &["ram", "victims"]),
    ("engine.volume-remove.discarded", Act::VolumeTake, "", &["ram", "victims"]),
    ("engine.volume-remove.row-gone", Act::VolumeTake, "", &["ram", "victims"]),
];

/// Names of volumes, and what is in their folder.
fn volumes(host: &Host) -> [Vec<String>; 2] {
    let mark = |name: &str| if name.len() == 64 { "?".to_owned() } else { name.to_owned() };
    let listed: Vec<String> = host.hull(&["volume", "ls", "-q"]).ok().lines().map(mark).collect();
    let entries = std::fs::read_dir(host.data_root().join("volumes")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| !name.starts_with('.')).map(|name| mark(&name)).collect();
    [listed, names].map(|mut names: Vec<String>| {
        names.sort();
        names
    })
}

/// The file system of `ram` is there to be seen on the host.
fn mounted(host: &Host) -> bool {
    host.printed(&["cat", "/proc/mounts"]).contains("/volumes/ram/_data tmpfs ")
}

#[test]
fn the_daemon_may_be_killed_while_volumes_come_and_go() {
    let mut house = House::new();
    house.host.hull(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "ram"]).ok();
    let before = Baseline::of(&house.host);
    for (point, act, state, expected) in POINTS {
        covered(point, act, state);
        // What happens behind the scenes may come after the answer.
        house.die_at(point, act);
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, state);
        assert_eq!(volumes(&house.host), [expected, expected], "{point}");
        assert_eq!(mounted(&house.host), state.starts_with("running"), "{point}");
        if expected.contains(&"victims") && !state.is_empty() {
            house.host.hull(&["volume", "rm", "victims"]).fails(1, "volume is in use");
        }
        house.clear(state);
        assert!(!mounted(&house.host), "{point}");
        house.host.hull(&["volume", "prune", "-f"]).ok();
        house.host.hull(&["volume", "rm", "-f", "victims"]).ok();
        assert_eq!(volumes(&house.host), [["ram"]; 2], "{point}");
        before.returns(&house.host);
    }
    house.host.hull(&["volume", "rm", "ram"]).ok();
    house.end();
}

#[test]
fn what_a_new_volume_binds_outlives_a_kill() {
    let mut house = House::new();
    let canary = house.host.folder().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "theirs").unwrap();
    let options = format!("volume-opt=type=none,volume-opt=o=bind,volume-opt=device={}", canary.display());
    let mount = format!("type=volume,src=victims,dst=/d,{options}");
    house.arm("engine.volume.mounted");
    house.host.hull(&["run", "-d", "--mount", &mount, "busybox", "true"]);
    assert_eq!(house.host.await_daemon(), 137);
    let is_mounted = |host: &Host| host.printed(&["cat", "/proc/mounts"]).contains("/volumes/victims/_data");
    assert!(is_mounted(&house.host), "it did not die in between");
    house.host.start_daemon();
    assert!(!is_mounted(&house.host));
    assert_eq!(volumes(&house.host), [[""; 0]; 2]);
    // What is thrown away, is so behind the scenes.
    let trash = house.host.data_root().join("volumes/.trash");
    let start = std::time::Instant::now();
    while std::fs::read_dir(&trash).unwrap().next().is_some() {
        assert!(start.elapsed() < hull_testkit::patience(20), "the trash is not emptied");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "theirs");
    house.shows("engine.volume.mounted", "");
    house.clear("");
    house.end();
}

#[test]
fn a_volume_is_filled_whenever_the_daemon_is_killed() {
    let mut house = House::new();
    let content = content(&house.host, 30);
    image(&house.host, "full", &content, &[]);
    let expected = listing(&content.join("data"));
    house.host.kill_daemon();
    house.host.start_daemon();
    warm(&house.host);
    let before = Baseline::of(&house.host);
    for point in FILL {
        for known in [false, true] {
            if known {
                house.host.hull(&["volume", "create", "victims"]).ok();
            }
            let create = ["create", "--name", "victim", "-v", "victims:/data", "full", "/bin/true"];
            house.arm(point);
            house.host.hull(&create);
            assert_eq!(house.host.await_daemon(), 137, "{point}");
            house.host.start_daemon();
            house.shows(point, "");
            // What was not acknowledged is not there; what was there is as if it had been.
            let expected_names: &[&str] = if known { &["victims"] } else { &[] };
            assert_eq!(volumes(&house.host), [expected_names; 2], "{point}");
            if known {
                alike(&listing(&data(&house.host, "victims")), &expected);
            }
            house.host.hull(&create).ok();
            alike(&listing(&data(&house.host, "victims")), &expected);
            house.host.hull(&["rm", "victim"]).ok();
            house.host.hull(&["volume", "rm", "victims"]).ok();
            let copies = house.host.data_root().join("volumes/.filling");
            let start = std::time::Instant::now();
            while std::fs::read_dir(&copies).unwrap().next().is_some() {
                assert!(start.elapsed() < hull_testkit::patience(20), "{point}: a copy is left");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
    warm(&house.host);
    before.returns(&house.host);
    house.host.hull(&["rmi", "full"]).ok();
    house.end();
}
