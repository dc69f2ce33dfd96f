//! What is done for shims and workers that cannot do it themselves any more.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hull_sys::process::Ended;
use hull_sys::{During, time};
use rustix::process::{Pid, Signal};

use super::{Child, ChildRole};
use crate::bundle::{Exit, StartError, StartErrorKind};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::protocol::{self, FromShim, Outcome};
use crate::shim::record;

/// A shim that was killed. Its record is written at once, so that whoever sees the process end
/// finds it; its requester is told when everything it left is reaped.
#[derive(Debug)]
pub(super) struct Lost {
    folder: PathBuf,
    cgroup: Option<Cgroup>,
    control: OwnedFd,
    exit: Exit,
}

impl Lost {
    pub(super) fn new(folder: PathBuf, cgroup: Option<String>, control: OwnedFd) -> Lost {
        let exit = Exit { code: 128 + Signal::KILL.as_raw(), oom: false, at: time::now() };
        // Without a record the shim had not even begun; its requester is told all the same.
        let _ = record::write_in(&folder, exit);
        let exit = record::read(&folder).ok().flatten().unwrap_or(exit);
        let cgroup = cgroup.and_then(|path| Cgroup::open(&Hierarchies::detect().ok()?, &path).ok());
        if let Some(cgroup) = &cgroup {
            // Also what is frozen, and what shares the host's pid namespace.
            let _ = cgroup.kill();
        }
        Lost { folder, cgroup, control, exit }
    }

    pub(super) fn announce(self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.remove();
        }
        let _ = rustix::fs::unlink(self.folder.join("shim.sock"));
        let _ = protocol::send(&self.control, &FromShim::Exited(self.exit), &[]);
    }
}

/// Kills every child of the spawner that it did not fork: those were the children of killed shims
/// (living shims are subreapers, so theirs never come here). Says whether there were any; each
/// brings another SIGCHLD when it has ended, and its own children here.
pub(super) fn kill_strangers(known: &HashMap<Pid, Child>) -> hull_sys::Result<bool> {
    let mut any = false;
    for pid in children()? {
        if !known.contains_key(&pid) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            any = true;
        }
    }
    Ok(any)
}

/// This process' children (proc(5), `/proc/PID/task/TID/children`; where the kernel is built
/// without that file, every process that names this one as its parent).
fn children() -> hull_sys::Result<Vec<Pid>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let path = format!("/proc/self/task/{own}/children");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return Ok(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").during("open", || "/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may contain anything: the state and parent follow the last one.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        if parent == Some(own) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Tells a requester that nothing could be forked.
pub(super) fn refuse(role: &ChildRole, control: &OwnedFd, error: &hull_sys::Error) {
    let message = format!("fork from the spawner: {error}");
    let _ = match role {
        ChildRole::Shim { .. } => {
            let refused = StartError { kind: StartErrorKind::Host, message };
            protocol::send(control, &FromShim::StartFailed(refused), &[])
        }
        // Its requester finds nobody at its socket.
        ChildRole::Forwarder => Ok(()),
        ChildRole::Worker => protocol::send(control, &Outcome::Failed { message }, &[]),
    };
}

/// Why a worker ended that said nothing, for a reader.
pub(super) fn worker_end(ended: Ended) -> String {
    match ended {
        Ended::Killed(signal) if signal == Signal::SYS.as_raw() => {
            "the worker was killed for a system call that its jail forbids".to_owned()
        }
        Ended::Killed(signal) => format!("the worker was killed by signal {signal}"),
        Ended::Exited(code) => format!("the worker ended with code {code} and no result"),
    }
}
