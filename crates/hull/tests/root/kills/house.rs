//! The machine on which processes are killed: with a container that must not notice, one that
//! must not be lost, and a victim.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hull_runtime::failpoint::VARIABLE;
use hull_testkit::{Baseline, Finished, Host, Options};

use crate::executables;

/// What passes a point. All but the first two need a container that runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Act {
    Create,
    Run,
    /// With users of its own.
    RunMapped,
    Exec,
    /// Of a file into it.
    Copy,
    Stop,
    /// Of a container that removes itself.
    StopGoing,
    Remove,
    NetworkCreate,
    NetworkRemove,
    /// To the network `others`.
    Connect,
    Disconnect,
    /// With an address on `others` and a port of the host of its own choice.
    Publish,
    /// A stop of such a one.
    Unpublish,
    /// Of a container on `others`, to `risen`.
    Rename,
    NetworkPrune,
    /// Of a macvlan, whose parent comes and goes with it.
    WireCreate,
    WireRemove,
    /// Of one that holds a port, to `bridge`: its routes lead there, and so the port does.
    PortMove,
    PortReturn,
    VolumeCreate,
    VolumeRemove,
    /// Of a running container, to the image `victims`.
    Commit,
    /// Of the folder `victims`, to the image of that name.
    Build,
    /// With three volumes: `victims`, one without a name, and `ram`, which is to be mounted.
    VolumeRun,
    VolumeStop,
    /// With its own volumes.
    VolumeTake,
}

const WIRE: [&str; 6] = ["network", "create", "-d", "macvlan", "--internal", "victims"];

/// What a container has that is to be had only once.
pub(super) const HOLDING: [&str; 6] = ["--network", "others", "--ip", "10.66.0.9", "-p", "8066:80"];

const VOLUMES: [&str; 8] = ["run", "-d", "-v", "victims:/a", "-v", "/b", "-v", "ram:/c"];

impl Act {
    fn setup(self) -> Option<&'static [&'static str]> {
        match self {
            Act::Create | Act::Run | Act::RunMapped | Act::Publish => None,
            Act::NetworkCreate | Act::NetworkRemove | Act::NetworkPrune | Act::Build => None,
            Act::WireCreate | Act::WireRemove => None,
            Act::VolumeCreate | Act::VolumeRemove | Act::VolumeRun => None,
            Act::VolumeStop | Act::VolumeTake => Some(&VOLUMES),
            Act::Unpublish | Act::PortMove | Act::PortReturn => {
                Some(&["run", "-d", "--network", "others", "--ip", "10.66.0.9", "-p", "8066:80"])
            }
            Act::Rename => Some(&["run", "-d", "--network", "others"]),
            Act::Exec
            | Act::Copy
            | Act::Stop
            | Act::Remove
            | Act::Connect
            | Act::Disconnect
            | Act::Commit => Some(&["run", "-d"]),
            Act::StopGoing => Some(&["run", "-d", "--rm"]),
        }
    }

    fn perform(self, host: &Host) -> Finished {
        match self {
            Act::Create => run(host, &["create"]),
            Act::Commit => {
                host.hull(&["exec", "victim", "sh", "-c", "echo changed > /changed"]).ok();
                host.hull(&["commit", "victim", "victims"])
            }
            Act::Build => host.hull(&["build", "-t", "victims", "victims"]),
            Act::Run => run(host, &["run", "-d"]),
            Act::RunMapped => run(host, &["run", "-d", "--userns=auto"]),
            Act::Exec => host.hull(&["exec", "victim", "true"]),
            Act::Copy => host.hull(&["cp", "/etc/hostname", "victim:/copied"]),
            Act::Publish => run(host, &[&["run", "-d"], &HOLDING[..]].concat()),
            Act::Rename => host.hull(&["rename", "victim", "risen"]),
            Act::Stop | Act::StopGoing | Act::Unpublish | Act::VolumeStop => {
                host.hull(&["stop", "-t", "20", "victim"])
            }
            Act::Remove => host.hull(&["rm", "-f", "victim"]),
            Act::VolumeCreate => host.hull(&["volume", "create", "victims"]),
            Act::VolumeRemove => host.hull(&["volume", "rm", "victims"]),
            Act::VolumeRun => run(host, &VOLUMES),
            Act::VolumeTake => host.hull(&["rm", "-f", "-v", "victim"]),
            Act::NetworkCreate => host.hull(&["network", "create", "victims"]),
            Act::NetworkRemove | Act::WireRemove => host.hull(&["network", "rm", "victims"]),
            Act::WireCreate => host.hull(&WIRE),
            Act::PortMove => host.hull(&["network", "connect", "bridge", "victim"]),
            Act::PortReturn => host.hull(&["network", "disconnect", "bridge", "victim"]),
            Act::NetworkPrune => host.hull(&["network", "prune", "-f"]),
            Act::Connect => host.hull(&["network", "connect", "others", "victim"]),
            Act::Disconnect => host.hull(&["network", "disconnect", "others", "victim"]),
        }
    }
}

/// A container that ends with 5 when it is asked to.
fn run(host: &Host, verb: &[&str]) -> Finished {
    let rest =
        ["--name", "victim", "busybox", "sh", "-c", "trap 'exit 5' TERM; echo ready; sleep 1000 & wait"];
    host.hull(&[verb, &rest].concat())
}

/// What a daemon keeps once it has started a container (the compiled filter), it has then; and if
/// there is no spawner, there is one afterwards.
pub(super) fn warm(host: &Host) {
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
}

/// A machine whose daemon and spawner look for an armed point, with one container that counts
/// and one that was only created.
pub(super) struct House {
    pub(super) host: Host,
    folder: tempfile::TempDir,
    empty: Baseline,
    /// Id and pid of the container that counts.
    counting: (String, String),
    counted: usize,
    created: String,
}

impl House {
    pub(super) fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let armed = folder.path().join("armed").display().to_string();
        let environment = vec![(VARIABLE.to_owned(), armed)];
        let mut host = Host::start(executables(), Options { environment, ..Options::default() });
        host.busybox();
        host.kill_daemon();
        host.start_daemon();
        warm(&host);
        let empty = Baseline::of(&host);
        // No process but the shell's, so that the base line holds still.
        let count = "mkfifo /f; exec 3<>/f; i=0; while :; do echo $i; i=$((i+1)); read -t 0.1 x <&3; done";
        let counting = host.hull(&["run", "-d", "--name", "counting", "busybox", "sh", "-c", count]);
        let counting = counting.ok().to_owned();
        let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", &counting]).ok().to_owned();
        let created = host.hull(&["create", "--name", "created", "busybox", "true"]).ok().to_owned();
        host.kill_daemon();
        host.start_daemon();
        warm(&host);
        House { host, folder, empty, counting: (counting, pid), counted: 0, created }
    }

    fn armed(&self) -> PathBuf {
        self.folder.path().join("armed")
    }

    /// Whoever passes the point next dies at it.
    pub(super) fn arm(&self, point: &str) {
        std::fs::write(self.armed(), point).unwrap();
    }

    /// Names of the links of this machine.
    pub(super) fn links(&self) -> Vec<String> {
        crate::networks::links(&self.host)
    }

    /// Performs the act with the point armed.
    pub(super) fn die_at(&self, point: &str, act: Act) -> Finished {
        if let Some(verb) = act.setup() {
            run(&self.host, verb).ok();
            // Its shim is past its start, and its trap is set.
            let start = Instant::now();
            while self.host.hull(&["logs", "victim"]).ok() != "ready" {
                assert!(start.elapsed() < Duration::from_secs(10), "{point}: the victim says nothing");
            }
        }
        if matches!(act, Act::NetworkRemove | Act::NetworkPrune) {
            self.host.hull(&["network", "create", "victims"]).ok();
        }
        if act == Act::VolumeRemove {
            self.host.hull(&["volume", "create", "victims"]).ok();
        }
        if act == Act::WireRemove {
            self.host.hull(&WIRE).ok();
        }
        if act == Act::PortReturn {
            self.host.hull(&["network", "connect", "bridge", "victim"]).ok();
        }
        if act == Act::Disconnect {
            self.host.hull(&["network", "connect", "others", "victim"]).ok();
        }
        self.arm(point);
        let finished = act.perform(&self.host);
        let start = Instant::now();
        while self.armed().exists() {
            assert!(start.elapsed() < Duration::from_secs(10), "{point} was never passed: {finished}");
            std::thread::sleep(Duration::from_millis(2));
        }
        finished
    }

    /// Waits until the daemon shows this of the victim, then sees to the other two.
    pub(super) fn shows(&mut self, point: &str, state: &str) {
        let start = Instant::now();
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        let mut shown = self.host.hull(&["inspect", "-f", format, "victim"]);
        while shown.stdout.trim_end() != state {
            assert!(start.elapsed() < Duration::from_secs(10), "{point}: not {state:?} but {shown}");
            std::thread::sleep(Duration::from_millis(20));
            shown = self.host.hull(&["inspect", "-f", format, "victim"]);
        }
        let (id, pid) = &self.counting;
        let format = "{{.State.Status}} {{.State.Pid}}";
        assert_eq!(self.host.hull(&["inspect", "-f", format, id]).ok(), format!("running {pid}"), "{point}");
        let old = self.counted;
        while self.counted == old {
            let log = self.host.hull(&["logs", id]);
            self.counted = log.ok().lines().count();
            let unbroken = log.ok().lines().enumerate().all(|(n, line)| line == n.to_string());
            assert!(unbroken && self.counted >= old, "{point}: after {old} lines: {log}");
            assert!(start.elapsed() < Duration::from_secs(20), "{point}: it counts no more: {log}");
        }
        let state = self.host.hull(&["inspect", "-f", "{{.State.Status}}", &self.created]);
        assert_eq!(state.ok(), "created", "{point}");
    }

    /// Whatever is left of the victim can be started, if it does not run, and taken away.
    pub(super) fn clear(&self, state: &str) {
        if state.starts_with("created") || state.starts_with("exited") {
            self.host.hull(&["start", "victim"]).ok();
        }
        if !state.is_empty() {
            self.host.hull(&["rm", "-f", "victim"]).ok();
        }
        assert_eq!(self.host.hull(&["ps", "-aq"]).ok().lines().count(), 2);
        warm(&self.host);
    }

    pub(super) fn end(self) {
        let ids = self.host.hull(&["ps", "-aq"]).ok().to_owned();
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.lines()).collect();
        self.host.hull(&words).ok();
        self.empty.returns(&self.host);
    }
}
