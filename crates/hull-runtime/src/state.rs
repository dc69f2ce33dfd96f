//! What is kept of a container between two calls of the command line.
//!
//! ```text
//! <root>/ID/            made exclusively: it is the id's reservation
//!   state.json          published by rename
//!   exec.fifo           there while the container is created and not started
//! ```
//!
//! Nothing here says whether a container runs: that is asked of the kernel each time, by pid and
//! start time, because a pid alone may have become somebody else's.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_oci::runtime::Spec;
use hull_runtime::cgroup::{Cgroup, Hierarchies};
use serde_json::{Value, json};

use crate::failure::{Failure, Of, Result};

/// config.json and process.json above this are refused.
const MAX_DOCUMENT: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: String,
    /// RFC 3339.
    pub(crate) created: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's folder below the root.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

/// Ids become file names and parts of cgroup paths.
fn check_id(id: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > 1024 || !id.bytes().all(good) || id.bytes().all(|byte| byte == b'.') {
        return Err(Failure::new(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

impl Folder {
    /// Reserves the id.
    pub(crate) fn reserve(root: &Path, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = root.join(id);
        let mut builder = fs::DirBuilder::new();
        let made = match builder.mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                builder.recursive(true).create(root).of(|| root.display().to_string())?;
                builder.recursive(false).create(&path)
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(Folder { path }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::new("container with given ID already exists"))
            }
            Err(error) => Err(error).of(|| path.display().to_string()),
        }
    }

    pub(crate) fn find(root: &Path, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = root.join(id);
        if path.is_dir() { Ok(Folder { path }) } else { Err(Failure::missing()) }
    }

    pub(crate) fn fifo(&self) -> PathBuf {
        self.path.join("exec.fifo")
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let document = json!({
            "id": record.id,
            "pid": record.pid,
            "startTime": record.start_time,
            "bundle": record.bundle,
            "cgroup": record.cgroup,
            "created": record.created,
        });
        let (new, path) = (self.path.join("state.new"), self.path.join("state.json"));
        fs::write(&new, document.to_string()).of(|| new.display().to_string())?;
        fs::rename(&new, &path).of(|| path.display().to_string())
    }

    pub(crate) fn read(&self) -> Result<Record> {
        let path = self.path.join("state.json");
        let document: Value = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).of(|| path.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Failure::missing()),
            Err(error) => return Err(error).of(|| path.display().to_string()),
        };
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        Ok(Record {
            id: text("id"),
            pid: document["pid"].as_i64().and_then(|pid| pid.try_into().ok()).unwrap_or(0),
            start_time: document["startTime"].as_u64().unwrap_or(0),
            bundle: text("bundle").into(),
            cgroup: text("cgroup"),
            created: text("created"),
        })
    }

    /// Gives the id back.
    pub(crate) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path).of(|| self.path.display().to_string())
    }
}

/// The state letter and start time of a process, `None` when there is none.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything, so from its end on (proc_pid_stat(5)).
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

pub(crate) fn start_time(pid: i32) -> u64 {
    stat(pid).map_or(0, |(_, time)| time)
}

impl Record {
    /// A descriptor of the container's first process, `None` when it has ended.
    pub(crate) fn process(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno).of(|| format!("pidfd_open({})", self.pid)),
        };
        // Looked at after the descriptor is open: it is of the process that is seen here.
        match stat(self.pid) {
            Some((state, time)) if time == self.start_time && !matches!(state, 'Z' | 'X') => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    pub(crate) fn status(&self, folder: &Folder, cgroup: Option<&Cgroup>) -> Result<Status> {
        Ok(if self.process()?.is_none() {
            Status::Stopped
        } else if folder.fifo().exists() {
            Status::Created
        } else if cgroup.is_some_and(Cgroup::frozen) {
            Status::Paused
        } else {
            Status::Running
        })
    }

    /// The container's cgroup, `None` when it is gone.
    pub(crate) fn cgroup(&self, hierarchies: &Hierarchies) -> Option<Cgroup> {
        Cgroup::open(hierarchies, &self.cgroup).ok()
    }

    pub(crate) fn spec(&self) -> Result<Spec> {
        read_spec(&self.bundle)
    }
}

pub(crate) fn read_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    serde_json::from_slice(&read_document(&path)?).of(|| path.display().to_string())
}

pub(crate) fn read_document(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let shown = || path.display().to_string();
    let file = fs::File::open(path).of(shown)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).of(shown)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Failure::new(format!("{}: longer than {MAX_DOCUMENT} bytes", path.display())));
    }
    Ok(bytes)
}
