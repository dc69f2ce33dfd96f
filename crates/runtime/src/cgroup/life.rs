//! Stopping, killing and removing what runs in a cgroup.
//!
//! Where the kernel announces a change, we wait for the announcement: v2's `cgroup.events`
//! (poll(2) with POLLPRI) tells of frozen and of empty, a pidfd tells of the end of a process.
//! v1's freezer and v1's rmdir announce nothing; these two are asked again after growing pauses,
//! for a bounded time.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::layout::Controller;
use super::{Cgroup, Error, files};

/// For a process to reach a point where it can be frozen: one in the middle of a slow disk
/// operation cannot.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// For killed processes to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// For an emptied cgroup to become removable.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);
/// How deep a container may nest cgroups of its own before we refuse to walk them.
const MAX_DEPTH: usize = 64;

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}

/// Waits until `key value` stands in v2's `cgroup.events`.
///
/// # Errors
/// [`Errno::TIMEDOUT`] at `deadline`.
fn wait_event(root: &OwnedFd, path: &str, event: &str, deadline: Instant) -> Result<(), Errno> {
    let name = format!("{path}/cgroup.events");
    let file = openat(root, &*name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 512];
    loop {
        let n = rustix::io::pread(&file, &mut text, 0)?;
        if text[..n].split(|b| *b == b'\n').any(|l| l == event.as_bytes()) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The names of the cgroups directly below.
fn children(root: &OwnedFd, path: &str) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(files::folder(root, path)?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(format!("{path}/{name}"));
        }
    }
    Ok(names)
}

/// The cgroup and all below it, children after their parents.
fn tree(root: &OwnedFd, path: &str) -> Result<Vec<String>, Errno> {
    let mut all = vec![path.to_owned()];
    let depth = |p: &str| p.matches('/').count();
    let mut next = 0;
    while let Some(at) = all.get(next).cloned() {
        if depth(&at) - depth(path) > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        match children(root, &at) {
            Ok(more) => all.extend(more),
            Err(Errno::NOENT) if next > 0 => {}
            Err(e) => return Err(e),
        }
        next += 1;
    }
    Ok(all)
}

impl Cgroup {
    fn call(&self, call: &'static str, file: &str, source: Errno) -> Error {
        Error::Call { call, file: format!("{}/{file}", self.path), source }
    }

    /// v2's root if this kernel's v2 has the file (`cgroup.kill` is of 5.14, `cgroup.freeze`
    /// of 5.2).
    fn v2_with(&self, file: &str) -> Option<&OwnedFd> {
        let root = self.v2_root()?;
        let name = format!("{}/{file}", self.path);
        rustix::fs::accessat(root, &*name, rustix::fs::Access::EXISTS, AtFlags::empty()).ok().map(|()| root)
    }

    /// Stops every process in the cgroup and below, until [`Self::thaw`].
    ///
    /// # Errors
    /// [`Error::Freeze`] when a process cannot be stopped in time; the cgroup is then thawed.
    pub fn freeze(&self) -> Result<(), Error> {
        let deadline = Instant::now() + FREEZE_LIMIT;
        let done = if let Some(root) = self.v2_with("cgroup.freeze") {
            files::put(root, &format!("{}/cgroup.freeze", self.path), "1")
                .and_then(|()| wait_event(root, &self.path, "frozen 1", deadline))
        } else if let Some(root) = self.v1_root(Controller::Freezer) {
            self.freeze_v1(root, deadline)
        } else {
            Err(Errno::OPNOTSUPP)
        };
        match done {
            Ok(()) => Ok(()),
            Err(Errno::TIMEDOUT) => {
                self.thaw()?;
                Err(Error::Freeze { path: self.path.clone(), seconds: FREEZE_LIMIT.as_secs() })
            }
            Err(e) => Err(self.call("freeze", "", e)),
        }
    }

    /// A v1 cgroup stays FREEZING while a process cannot stop, or while new ones are forked
    /// into it; writing FROZEN again takes in the newcomers.
    fn freeze_v1(&self, root: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
        let state = format!("{}/freezer.state", self.path);
        let mut pause = Duration::from_micros(50);
        loop {
            files::put(root, &state, "FROZEN")?;
            if files::get(root, &state)?.trim() == "FROZEN" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Errno::TIMEDOUT);
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// [`Error::Call`] where the host has no freezer.
    pub fn thaw(&self) -> Result<(), Error> {
        let done = if let Some(root) = self.v2_with("cgroup.freeze") {
            files::put(root, &format!("{}/cgroup.freeze", self.path), "0")
        } else if let Some(root) = self.v1_root(Controller::Freezer) {
            files::put(root, &format!("{}/freezer.state", self.path), "THAWED")
        } else {
            Err(Errno::OPNOTSUPP)
        };
        done.map_err(|e| self.call("thaw", "", e))
    }

    /// Whether the processes are stopped by [`Self::freeze`] of this cgroup.
    pub fn frozen(&self) -> bool {
        if let Some(root) = self.v2_with("cgroup.freeze") {
            files::number(root, &format!("{}/cgroup.freeze", self.path)) == Some(1)
        } else if let Some(root) = self.v1_root(Controller::Freezer) {
            files::get(root, &format!("{}/freezer.state", self.path))
                .is_ok_and(|state| state.trim() != "THAWED")
        } else {
            false
        }
    }

    /// The processes in the cgroup and below, in no order. Where the host's hierarchies differ,
    /// the one that kills is asked.
    ///
    /// # Errors
    /// [`Error::Call`]; a cgroup that is gone has no processes.
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let Some(root) = self.process_root() else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        let cgroups = match tree(root, &self.path) {
            Err(Errno::NOENT) => return Ok(pids),
            other => other.map_err(|e| self.call("list", "", e))?,
        };
        for cgroup in cgroups {
            match files::get(root, &format!("{cgroup}/cgroup.procs")) {
                Ok(text) => pids.extend(
                    text.lines()
                        .filter_map(|line| line.parse().ok())
                        // 0 is a process outside of our pid namespace: not ours to signal.
                        .filter_map(Pid::from_raw),
                ),
                // Gone in between; or a threaded cgroup, whose processes its parent lists.
                Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(self.call("read", "cgroup.procs", e)),
            }
        }
        pids.sort_unstable_by_key(|pid: &Pid| pid.as_raw_nonzero());
        pids.dedup();
        Ok(pids)
    }

    /// The tree that knows all processes: v2 where we are in it, else the freezer's or any v1.
    fn process_root(&self) -> Option<&OwnedFd> {
        self.v2_root()
            .or_else(|| self.v1_root(Controller::Freezer))
            .or_else(|| self.v1_root(Controller::Pids))
            .or_else(|| self.any_v1_root())
    }

    /// Kills every process in the cgroup and below with SIGKILL, frozen ones too, and waits for
    /// their end.
    ///
    /// v2 does it in the kernel, where no fork can escape. On v1 the cgroup is frozen first, so
    /// that nobody forks between the listing and the signal; the signal works after the thaw.
    ///
    /// # Errors
    /// [`Error::Occupied`] when some do not end in time (stuck in the kernel).
    pub fn kill(&self) -> Result<(), Error> {
        let deadline = Instant::now() + KILL_LIMIT;
        if let Some(root) = self.v2_with("cgroup.kill") {
            return files::put(root, &format!("{}/cgroup.kill", self.path), "1")
                .and_then(|()| wait_event(root, &self.path, "populated 0", deadline))
                .map_err(|e| match e {
                    Errno::TIMEDOUT => self.occupied(),
                    e => self.call("kill", "cgroup.kill", e),
                });
        }
        while Instant::now() < deadline {
            // A freezer that is absent or stuck must not keep us from killing: then the loop
            // alone has to outrun the forks.
            let _ = self.freeze();
            let pids = self.processes()?;
            let mut ends = Vec::with_capacity(pids.len());
            for pid in &pids {
                // Frozen, the process cannot have ended between listing and opening.
                if let Ok(pidfd) = pidfd_open(*pid, PidfdFlags::empty()) {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    ends.push(pidfd);
                }
            }
            let _ = self.thaw();
            if pids.is_empty() {
                return Ok(());
            }
            wait_ends(&ends, deadline);
        }
        Err(self.occupied())
    }

    fn occupied(&self) -> Error {
        Error::Occupied { path: self.path.clone() }
    }

    /// Removes the cgroup, and those that the container made below it, from every hierarchy.
    /// Already gone is fine.
    ///
    /// rmdir says EBUSY while a process is in. A process that was just waited for can still be
    /// counted for a moment (the kernel takes it out on its last switch away from it), thus
    /// EBUSY is asked again after a wait for v2's "populated 0", or on v1 after pauses that grow
    /// from 0.1 to 20 ms.
    ///
    /// # Errors
    /// [`Error::Occupied`] if processes remain; the other hierarchies are removed even so.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_LIMIT;
        let mut first = None;
        for (root, v2) in self.roots() {
            if let Err(e) = remove_in(root, &self.path, v2, deadline) {
                first.get_or_insert(match e {
                    Errno::BUSY | Errno::TIMEDOUT => self.occupied(),
                    e => self.call("rmdir", "", e),
                });
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn remove_in(root: &OwnedFd, path: &str, v2: bool, deadline: Instant) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(100);
    loop {
        match unlinkat(root, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(e) => return Err(e),
        }
        if Instant::now() > deadline {
            return Err(Errno::BUSY);
        }
        let below = tree(root, path)?;
        if below.len() > 1 {
            for child in below.iter().skip(1).rev() {
                // Those that are still busy come round again.
                let _ = unlinkat(root, &**child, AtFlags::REMOVEDIR);
            }
            if unlinkat(root, path, AtFlags::REMOVEDIR).is_ok() {
                return Ok(());
            }
        }
        if v2 {
            wait_event(root, path, "populated 0", deadline)?;
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits until every process of `pidfds` has ended, or the deadline.
fn wait_ends(pidfds: &[OwnedFd], deadline: Instant) {
    for pidfd in pidfds {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut one = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            match poll(&mut one, Some(&timespec(left))) {
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
    }
}
