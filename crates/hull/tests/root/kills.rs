//! The daemon, the spawner and the shims are killed at every point that has a name: what was
//! acknowledged is there, what ran runs, and afterwards the machine is as it was.
//!
//! A point is armed by a file that the process which passes it removes before it dies (see
//! `hull_runtime::failpoint`), so each fires once: the daemon that comes next lives.

mod builds;
mod house;
mod volumes;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Finished, Host, patience};

use self::house::{Act, HOLDING, House};
use super::host;
use super::machines::{container, of_host, tcp};

/// Where the daemon dies, of what, and what the next one shows of the container; "" is nothing.
const DAEMON: [(&str, Act, &str); 30] = [
    ("engine.create.half-way", Act::Create, ""),
    ("engine.create.before-commit", Act::Create, ""),
    ("engine.create.after-commit", Act::Create, "created 0"),
    ("engine.create.before-commit", Act::Run, ""),
    ("engine.network.claimed", Act::Run, "created 0"),
    ("engine.network.noted", Act::Run, "created 0"),
    ("engine.network.attached", Act::Run, "created 0"),
    ("engine.start.before-launch", Act::Run, "created 0"),
    ("engine.start.after-launch", Act::Run, "running 0"),
    ("engine.start.started", Act::Run, "running 0"),
    ("engine.create.before-commit", Act::RunMapped, ""),
    ("engine.users.made", Act::RunMapped, "created 0"),
    ("engine.start.after-launch", Act::RunMapped, "running 0"),
    ("engine.exec.before-launch", Act::Exec, "running 0"),
    ("engine.exec.after-launch", Act::Exec, "running 0"),
    ("engine.exec.started", Act::Exec, "running 0"),
    ("engine.exec.ended", Act::Exec, "running 0"),
    ("engine.archive.after-launch", Act::Copy, "running 0"),
    // A stop that is durable is gone on with.
    ("engine.signal.before", Act::Stop, "exited 5"),
    ("engine.signal.sent", Act::Stop, "exited 5"),
    ("engine.exit.before-commit", Act::Stop, "exited 5"),
    ("engine.exit.committed", Act::Stop, "exited 5"),
    ("engine.exit.before-commit", Act::StopGoing, ""),
    ("engine.exit.committed", Act::StopGoing, ""),
    // A removal that is durable is finished.
    ("engine.signal.before", Act::Remove, ""),
    ("engine.signal.sent", Act::Remove, ""),
    ("engine.remove.committed", Act::Remove, ""),
    ("engine.remove.half-way", Act::Remove, ""),
    ("engine.remove.before-row", Act::Remove, ""),
    ("engine.remove.row-gone", Act::Remove, ""),
];

/// Where a shim dies, of what, how the client ends and what the daemon then shows.
const SHIM: [(&str, Act, i32, &str); 15] = [
    ("shim.start.before", Act::Run, 125, "created 128"),
    ("shim.start.after", Act::Run, 125, "created 128"),
    ("shim.started", Act::Run, 0, "exited 137"),
    ("shim.start.before", Act::Exec, 126, "running 0"),
    ("shim.start.after", Act::Exec, 126, "running 0"),
    ("shim.started", Act::Exec, 137, "running 0"),
    ("shim.exit.reaped", Act::Exec, 137, "running 0"),
    ("shim.exit.before-record", Act::Exec, 137, "running 0"),
    ("shim.exit.before-announce", Act::Exec, 0, "running 0"),
    ("shim.exit.announced", Act::Exec, 0, "running 0"),
    ("shim.exit.reaped", Act::Stop, 0, "exited 137"),
    ("shim.exit.before-record", Act::Stop, 0, "exited 137"),
    ("shim.exit.before-announce", Act::Stop, 0, "exited 5"),
    ("shim.exit.announced", Act::Stop, 0, "exited 5"),
    ("shim.exit.before-record", Act::Remove, 0, ""),
];

/// The same for the spawner.
const SPAWNER: [(&str, Act, i32, &str); 6] = [
    ("spawner.launch.before-fork", Act::Run, 125, "created 128"),
    ("spawner.launch.after-fork", Act::Run, 0, "running 0"),
    // It makes the user namespace first.
    ("spawner.launch.before-fork", Act::RunMapped, 125, "created 128"),
    ("spawner.launch.after-fork", Act::RunMapped, 0, "running 0"),
    ("spawner.launch.before-fork", Act::Exec, 126, "running 0"),
    ("spawner.launch.after-fork", Act::Exec, 0, "running 0"),
];

/// Where the daemon dies of a running container that joins a network or leaves it, and how often it
/// can be on it afterwards: a change that was not acknowledged may be there or not, but not half.
const PLACE: [(&str, Act); 4] = [
    ("engine.network.joining", Act::Connect),
    ("engine.network.joined", Act::Connect),
    ("engine.network.leaving", Act::Disconnect),
    ("engine.network.left", Act::Disconnect),
];

/// Where it dies of one whose published port goes from one place to the other with that.
const MOVES: [(&str, Act); 4] = [
    ("engine.network.joining", Act::PortMove),
    ("engine.network.joined", Act::PortMove),
    ("engine.network.leaving", Act::PortReturn),
    ("engine.network.left", Act::PortReturn),
];

/// Where the daemon dies of a network that comes or goes, and whether the next one has it.
const NETWORK: [(&str, Act, bool); 15] = [
    ("engine.network-create.reserved", Act::NetworkCreate, false),
    ("engine.network-create.committed", Act::NetworkCreate, true),
    ("engine.network-create.linked", Act::NetworkCreate, true),
    ("engine.network-create.made", Act::NetworkCreate, true),
    ("engine.network-remove.before", Act::NetworkRemove, true),
    ("engine.network-remove.closed", Act::NetworkRemove, true),
    ("engine.network-remove.before-row", Act::NetworkRemove, true),
    ("engine.network-remove.before-row", Act::NetworkPrune, true),
    ("engine.network-remove.row-gone", Act::NetworkRemove, false),
    ("engine.network-create.reserved", Act::WireCreate, false),
    ("engine.network-create.committed", Act::WireCreate, true),
    ("engine.network-create.linked", Act::WireCreate, true),
    ("engine.network-remove.closed", Act::WireRemove, true),
    ("engine.network-remove.before-row", Act::WireRemove, true),
    ("engine.network-remove.row-gone", Act::WireRemove, false),
];

/// Where the daemon dies of a container that is about to hold an address and a port, or to give them
/// up, and what the next one shows of it.
const HOLDER: [(&str, Act, &str); 8] = [
    ("engine.relay.started", Act::Publish, "created 0"),
    ("engine.network.published", Act::Publish, "created 0"),
    ("engine.network.linked", Act::Publish, "created 0"),
    ("engine.network.named", Act::Publish, "created 0"),
    ("engine.network.refilling", Act::Publish, "running 0"),
    ("engine.network.forbidden", Act::Unpublish, "exited 5"),
    ("engine.network.parted", Act::Unpublish, "exited 5"),
    ("engine.network.cut", Act::Unpublish, "exited 5"),
];

/// Where the daemon dies of a commit, and whether the next one has the image. The last two come behind
/// the answer.
const COMMIT: [(&str, bool); 7] = [
    ("engine.commit.frozen", false),
    ("engine.commit.packed", false),
    ("engine.commit.published", false),
    ("engine.commit.committed", true),
    ("engine.commit.thawed", true),
    ("engine.images.unpacked", true),
    ("engine.images.synced", true),
];

/// Where it dies of a container that is renamed.
const RENAME: &str = "engine.network.renaming";

/// Where the daemon dies while it makes the host a router.
const FORWARDING: [&str; 2] = ["engine.forwarding.noted", "engine.forwarding.guarded"];

#[allow(clippy::print_stdout, reason = "a test that fails, or is asked, shows how far it came")]
fn covered(point: &str, act: Act, state: &str) {
    println!("{point} in {act:?}, then {state:?}");
}

#[test]
fn the_daemon_may_be_killed_at_every_point() {
    let mut house = House::new();
    let before = Baseline::of(&house.host);
    for (point, act, state) in DAEMON {
        covered(point, act, state);
        let finished = house.die_at(point, act);
        let told =
            ["error during connect", "Cannot connect"].iter().any(|text| finished.stderr.contains(text));
        assert!(finished.code != 0 && told, "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, state);
        house.clear(state);
        before.returns(&house.host);
    }
    house.end();
}

/// What there is of images on the disk: archives, layers, what is being received.
#[derive(Debug, PartialEq)]
struct Stored([BTreeSet<std::ffi::OsString>; 3]);

impl Stored {
    fn now(host: &Host) -> Stored {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(host.data_root().join("image").join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
        };
        Stored(["blobs/sha256", "layers", "ingest"].map(names))
    }

    fn of(host: &Host) -> Stored {
        let mut stored = Stored::now(host);
        // What is being freed by now is not there in the end.
        stored.0[2].clear();
        stored
    }

    /// Waits until no more is there than was: disk is freed behind everybody's back.
    fn returns(&self, host: &Host, point: &str) {
        let start = Instant::now();
        loop {
            let left = Stored::now(host);
            if left == *self {
                return;
            }
            assert!(start.elapsed() < patience(20), "{point}: {left:?} instead of {self:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn the_daemon_may_be_killed_while_a_container_is_committed() {
    let mut house = House::new();
    let before = Stored::of(&house.host);
    for (point, there) in COMMIT {
        covered(point, Act::Commit, if there { "there" } else { "gone" });
        let finished = house.die_at(point, Act::Commit);
        assert!(finished.code != 0 || point.starts_with("engine.images."), "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        // Nobody has paused it: it goes on.
        house.shows(point, "running 0");
        assert_eq!(house.host.hull(&["exec", "victim", "echo", "goes on"]).ok(), "goes on", "{point}");
        let found = house.host.hull(&["run", "--rm", "victims", "echo", "whole"]);
        assert_eq!(found.code == 0, there, "{point}: {found}");
        // It can be committed again at once, and then nothing is left over.
        house.host.hull(&["commit", "victim", "victims"]).ok();
        house.host.hull(&["rm", "-f", "victim"]).ok();
        let images = house.host.hull(&["images", "-aq"]).ok().to_owned();
        let busybox = house.host.hull(&["images", "-q", "busybox"]).ok().to_owned();
        for id in images.lines().filter(|id| *id != busybox) {
            house.host.hull(&["rmi", "-f", id]).ok();
        }
        house.clear("");
        before.returns(&house.host, point);
    }
    house.end();
}

#[test]
fn the_daemon_may_be_killed_while_networks_come_and_go() {
    let mut house = House::new();
    let before = house.links();
    for (point, act, there) in NETWORK {
        covered(point, act, if there { "there" } else { "gone" });
        let finished = house.die_at(point, act);
        assert!(finished.code != 0, "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, "");
        let found = house.host.hull(&["network", "inspect", "-f", "{{.Id}}", "victims"]);
        assert_eq!(found.code == 0, there, "{point}: {found}");
        if there {
            // Whole, and to be had.
            assert!(house.links().len() > before.len(), "{point}");
            house.host.hull(&["network", "rm", "victims"]).ok();
        }
        assert_eq!(house.links(), before, "{point}");
        house.clear("");
    }
    house.end();
}

#[test]
fn the_daemon_may_be_killed_while_addresses_and_ports_change_hands() {
    let mut house = House::new();
    let heir = [&["run", "--rm"], &HOLDING[..], &["busybox", "true"]].concat();
    house.host.hull(&["network", "create", "--subnet", "10.66.0.0/24", "others"]).ok();
    // From the first that needs the forwarder on, which stays.
    let mut before: Option<Baseline> = None;
    for (point, act, state) in HOLDER {
        covered(point, act, state);
        // What happens behind the scenes may come after the answer.
        house.die_at(point, act);
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, state);
        let running = state.starts_with("running");
        if running {
            house.host.hull(&["rm", "-f", "victim"]).ok();
        }
        // What it had, or was about to have, is to be had at once.
        house.host.hull(&heir).ok();
        house.clear(if running { "" } else { state });
        warm_others(&house.host);
        match &before {
            Some(before) => before.returns(&house.host),
            None => before = Some(Baseline::of(&house.host)),
        }
    }
    let processes = before.unwrap().processes;
    assert_eq!(processes.iter().filter(|name| *name == "hull-forwarder").count(), 1, "{processes:?}");
}

fn warm_others(host: &Host) {
    for network in ["bridge", "others"] {
        host.hull(&["run", "--rm", "--network", network, "busybox", "true"]).ok();
    }
}

#[test]
fn the_daemon_may_be_killed_while_a_container_is_renamed() {
    let mut house = House::new();
    house.host.hull(&["network", "create", "others"]).ok();
    house.die_at(RENAME, Act::Rename);
    assert_eq!(house.host.await_daemon(), 137);
    house.host.start_daemon();
    let found = |name: &str| {
        let words = ["run", "--rm", "--network", "others", "busybox", "ping", "-c", "1", "-W", "5", name];
        house.host.hull(&words).code == 0
    };
    assert_eq!(house.host.hull(&["inspect", "-f", "{{.State.Status}}", "risen"]).ok(), "running");
    assert!(found("risen"), "the renamed container is not found by its name");
    assert!(!found("victim"), "it is found by its old name");
    house.host.hull(&["rm", "-f", "risen"]).ok();
    house.host.hull(&["network", "rm", "others"]).ok();
    house.clear("");
    house.end();
}

#[test]
fn the_daemon_may_be_killed_while_a_port_moves() {
    let mut house = House::new();
    let heir = [&["run", "--rm"], &HOLDING[..], &["busybox", "true"]].concat();
    house.host.hull(&["network", "create", "--subnet", "10.66.0.0/24", "others"]).ok();
    for (point, act) in MOVES {
        covered(point, act, "running 0");
        house.die_at(point, act);
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, "running 0");
        // It leads to the container wherever that is by now, and wherever it goes.
        container(&house.host, "victim", &[80]);
        tcp(&of_host(&house.host), "127.0.0.1:8066");
        let _ = house.host.hull(&["network", "disconnect", "bridge", "victim"]);
        tcp(&of_host(&house.host), "127.0.0.1:8066");
        house.host.hull(&["network", "connect", "bridge", "victim"]).ok();
        tcp(&of_host(&house.host), "127.0.0.1:8066");
        house.host.hull(&heir).fails(125, "10.66.0.9");
        house.host.hull(&["rm", "-f", "victim"]).ok();
        house.host.hull(&heir).ok();
        house.clear("");
    }
}

#[test]
fn the_daemon_may_be_killed_while_a_container_joins_and_leaves() {
    let mut house = House::new();
    let before = Baseline::of(&house.host);
    house.host.hull(&["network", "create", "others"]).ok();
    for (point, act) in PLACE {
        covered(point, act, "running 0");
        let finished = house.die_at(point, act);
        assert!(finished.code != 0, "{point}: {finished}");
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        house.host.start_daemon();
        house.shows(point, "running 0");
        // On the default bridge all the time, and on the other network or not, as it can be asked for again.
        let ping = ["exec", "victim", "ping", "-c", "1", "-W", "5", "172.17.0.1"];
        house.host.hull(&ping).ok();
        let _ = house.host.hull(&["network", "disconnect", "others", "victim"]);
        house.host.hull(&["network", "connect", "others", "victim"]).ok();
        let gateway =
            house.host.hull(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "others"]);
        house.host.hull(&["exec", "victim", "ping", "-c", "1", "-W", "5", gateway.ok()]).ok();
        let links = house.host.hull(&["exec", "victim", "sh", "-c", "ip -o link | wc -l"]);
        assert_eq!(links.ok().trim(), "3", "{point}");
        house.clear("running 0");
    }
    house.host.hull(&["network", "rm", "others"]).ok();
    before.returns(&house.host);
    house.end();
}

#[test]
fn the_daemon_may_be_killed_while_it_makes_the_host_a_router() {
    let mut house = House::new();
    let switch = |host: &Host, value: &str| {
        let script = format!("echo {value} > /proc/sys/net/ipv4/ip_forward");
        assert!(host.inside("busybox").args(["sh", "-c", &script]).status().unwrap().success());
    };
    let switched = |host: &Host| {
        let read = host.inside("busybox").args(["cat", "/proc/sys/net/ipv4/ip_forward"]).output().unwrap();
        String::from_utf8(read.stdout).unwrap().trim().to_owned()
    };
    // What else comes through is dropped where the host was no router before.
    let guarded = |host: &Host| {
        let rules = host.inside("nft").args(["list", "table", "inet", "hull"]).output().unwrap();
        String::from_utf8(rules.stdout).unwrap().contains("strangers: forwarding was off before")
    };
    let file = house.host.exec_root().join("forwarding.json");
    house.host.stop_daemon();
    // Of a host that was a router before Hull came.
    switch(&house.host, "1");
    let _ = std::fs::remove_file(&file);
    house.host.start_daemon();
    assert!(!file.exists() && !guarded(&house.host));
    for point in FORWARDING {
        covered(point, Act::NetworkCreate, "noted");
        house.host.stop_daemon();
        switch(&house.host, "0");
        let _ = std::fs::remove_file(&file);
        house.arm(point);
        house.host.launch_daemon();
        assert_eq!(house.host.await_daemon(), 137, "{point}");
        assert_eq!(switched(&house.host), "0", "{point}");
        house.host.start_daemon();
        assert_eq!(switched(&house.host), "1", "{point}");
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"v4\":true"), "{point}");
        assert!(guarded(&house.host), "{point}");
        house.shows(point, "");
        house.clear("");
    }
    house.end();
}

/// What could not be started says so: an exec in the stream of its output, as the reference does.
#[track_caller]
fn ended_with(code: i32, point: &str, finished: &Finished) {
    assert_eq!(finished.code, code, "{point}: {finished}");
    let words = ["the shim ended before", "the worker was killed at its work"];
    let told =
        [&finished.stdout, &finished.stderr].iter().any(|text| words.iter().any(|word| text.contains(word)));
    assert_eq!(told, matches!(code, 125 | 126), "{point}: {finished}");
}

#[test]
fn a_shim_may_be_killed_at_every_point() {
    let mut house = House::new();
    let before = Baseline::of(&house.host);
    for (point, act, code, state) in SHIM {
        covered(point, act, state);
        let finished = house.die_at(point, act);
        ended_with(code, point, &finished);
        house.shows(point, state);
        house.clear(state);
        before.returns(&house.host);
    }
    house.end();
}

#[test]
fn the_spawner_may_be_killed_at_every_point() {
    let mut house = House::new();
    for (point, act, code, state) in SPAWNER {
        covered(point, act, state);
        let finished = house.die_at(point, act);
        ended_with(code, point, &finished);
        house.shows(point, state);
        house.clear(state);
    }
    house.end();
}

#[test]
fn every_point_in_the_code_is_died_at_here_and_described() {
    let mut named = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut named);
    let killed: BTreeSet<String> = DAEMON
        .iter()
        .map(|row| row.0)
        .chain(SHIM.iter().chain(&SPAWNER).map(|row| row.0))
        .chain(NETWORK.iter().map(|row| row.0))
        .chain(PLACE.iter().map(|row| row.0))
        .chain(HOLDER.iter().map(|row| row.0))
        .chain(volumes::POINTS.iter().map(|row| row.0))
        .chain(COMMIT.iter().map(|row| row.0))
        .chain([RENAME])
        .chain(volumes::FILL)
        .chain(builds::DAEMON.iter().map(|row| row.0))
        .chain([crate::filled::SYNCED])
        .chain(crate::push::POINTS.iter().map(|row| row.0))
        .chain(FORWARDING)
        .map(str::to_owned)
        .collect();
    assert_eq!(named, killed, "left: points in the code; right: points of these tests");
    let described = include_str!("../../../runtime/src/failpoint.rs");
    for point in &named {
        assert!(described.contains(&format!("//! | `{point}` |")), "{point} is not described");
    }
}

/// The names of all points below `folder`, in sources of products.
fn collect(folder: &Path, named: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "tests" && name != "target" {
                collect(&path, named);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let calls = text.split("failpoint!(\"").skip(1);
            named.extend(calls.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
}

#[test]
fn a_killed_shim_ends_its_container_and_the_daemon_knows() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    host.hull(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let shim = rustix_pid(&parent);
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    while host.hull(&["inspect", "-f", "{{.State.Status}}", "box"]).ok() != "exited" {
        assert!(start.elapsed().as_secs() < 10, "the daemon never learned of it");
    }
    assert_eq!(host.hull(&["inspect", "-f", "{{.State.ExitCode}}", "box"]).ok(), "137");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the container lives on without its shim");
    host.hull(&["start", "box"]).ok();
    host.hull(&["rm", "-f", "box"]).ok();
    before.returns(&host);
}

/// Nobody is left then to end the container but the daemon.
#[test]
fn a_shim_and_its_spawner_killed_together_end_their_container_too() {
    let mut host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    // First with the connection that launched the shim, then with one that found it again.
    for found_again in [false, true] {
        host.hull(&[
            "run",
            "-d",
            "--name",
            "box",
            "--pid",
            "host",
            "busybox",
            "sh",
            "-c",
            "sleep 1000 & sleep 2000",
        ])
        .ok();
        let mut exec = host.hull_command(&["exec", "box", "sleep", "3000"]).spawn().unwrap();
        let start = Instant::now();
        while !host.hull(&["top", "box"]).ok().contains("3000") {
            assert!(start.elapsed().as_secs() < 10, "the exec never came up");
        }
        if found_again {
            host.kill_daemon();
            host.start_daemon();
        }
        let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok().to_owned();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
        let spawner = host.spawners()[0].to_string();
        for victim in [&spawner, &shim] {
            rustix::process::kill_process(rustix_pid(victim), rustix::process::Signal::KILL).unwrap();
        }
        let start = Instant::now();
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        while host.hull(&["inspect", "-f", format, "box"]).ok() != "exited 137" {
            assert!(start.elapsed().as_secs() < 10, "the daemon never learned of it");
        }
        // Whoever became its parent may take its time to reap it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "the container lives on without its shim: {stat}");
        assert_ne!(exec.wait().unwrap().code(), Some(0));
        host.hull(&["start", "box"]).ok();
        host.hull(&["rm", "-f", "box"]).ok();
        before.returns(&host);
    }
}

fn rustix_pid(text: &str) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(text.parse().unwrap()).unwrap()
}
