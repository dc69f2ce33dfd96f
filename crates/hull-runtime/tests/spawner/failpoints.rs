//! Spawner and shim killed at each of their named points: the container ends, the end is told, and
//! nothing is left.
//!
//! The variable that names the file of the armed point is read by the spawner from its starter's
//! environment, so these tests run in a child of this executable that has it.

use std::path::Path;
use std::process::Command;

use hull_runtime::failpoint::VARIABLE;
use hull_runtime::shim::{Event, Found};

use crate::house::{House, adopt, hear, kill, runs, until, wait};

#[test]
fn every_point_can_be_died_at() {
    if std::env::var_os(VARIABLE).is_some() {
        shim_points();
        spawner_points();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["failpoints::every_point_can_be_died_at", "--exact", "--nocapture"])
        .env(VARIABLE, dir.path().join("armed"))
        .status()
        .unwrap();
    assert!(status.success());
}

/// What is heard of a container whose program ends with 5: `None` if the connection just closed.
struct Heard {
    pid: Option<i32>,
    exits: Vec<i32>,
}

fn die_at(house: &House, id: &str, point: &str) -> Heard {
    let file = std::env::var_os(VARIABLE).unwrap();
    std::fs::write(&file, point).unwrap();
    let connection = house.launch(&house.bundle(id, "echo hi; exit 5"), &[]);
    let mut heard = Heard { pid: None, exits: Vec::new() };
    while let Some(event) = hear(&connection) {
        match event {
            Event::Started { pid, .. } => heard.pid = Some(pid),
            Event::Exited(exit) => heard.exits.push(exit.code),
            Event::StartFailed(error) => panic!("{point}: {error}"),
            Event::Kept { .. } => panic!("{point}: nobody asked for what is kept"),
        }
    }
    assert!(!Path::new(&file).exists(), "{point} was never passed");
    heard
}

fn shim_points() {
    let house = House::new();
    let points: [(&str, &[i32]); 7] = [
        ("shim.start.before", &[137]),
        ("shim.start.after", &[137]),
        ("shim.started", &[137]),
        ("shim.exit.reaped", &[137]),
        ("shim.exit.before-record", &[137]),
        ("shim.exit.before-announce", &[5]),
        ("shim.exit.announced", &[5, 5]),
    ];
    for (n, (point, exits)) in points.iter().enumerate() {
        let id = format!("c{n}");
        let heard = die_at(&house, &id, point);
        assert_eq!(heard.exits, *exits, "{point}");
        assert!(heard.pid.is_none_or(|pid| !runs(pid)), "{point}");
        let Found::Ended(exit) = house.found(&id) else {
            panic!("{point}: no record");
        };
        assert_eq!(exit.code, exits[0], "{point}");
        let children = format!("/proc/{0}/task/{0}/children", house.client.pid);
        assert_eq!(std::fs::read_to_string(&children).unwrap(), "", "{point}");
        let (output, exit) = house.run(&id, "echo again");
        assert_eq!((output.as_str(), exit.code), ("again\n", 0), "{point}");
    }
}

fn spawner_points() {
    for (point, exits) in [("spawner.launch.before-fork", &[][..]), ("spawner.launch.after-fork", &[5][..])] {
        let house = House::new();
        let heard = die_at(&house, "a", point);
        assert_eq!(heard.exits, exits, "{point}");
        wait(&house.client);
        assert!(!house.client.alive());
        let second = adopt(house.dir.path());
        assert!(second.alive());
        until("the shim's end", || !matches!(house.found("a"), Found::Living(_)));
        kill(second.pid);
    }
}
