//! Commands about containers that are there: state, kill, delete, list, ps, pause, resume, update.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use hull_oci::runtime::{Pids, Resources, Spec, State, VERSION};
use hull_runtime::cgroup::{Cgroup, Hierarchies};
use hull_runtime::container::hooks;
use hull_runtime::processes::{self, Table};
use hull_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use serde_json::json;

use crate::args::{Global, Update};
use crate::failure::{Failure, Of, Result};
use crate::say;
use crate::signals;
use crate::state::{Folder, Record, Status, read_document};

/// A container with its cgroup, if that still exists.
struct Found {
    folder: Folder,
    record: Record,
    cgroup: Option<Cgroup>,
    status: Status,
}

fn find(global: &Global, id: &str) -> Result<Found> {
    let folder = Folder::find(&global.root, id)?;
    let record = folder.read()?;
    let hierarchies = Hierarchies::detect().of(|| "cgroups".into())?;
    let cgroup = record.cgroup(&hierarchies);
    let status = record.status(&folder, cgroup.as_ref())?;
    Ok(Found { folder, record, cgroup, status })
}

impl Found {
    fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| Failure::new("the container's cgroup is gone"))
    }
}

/// What `state` prints and hooks read.
pub(crate) fn document(record: &Record, spec: &Spec, status: Status) -> State {
    State {
        oci_version: VERSION.into(),
        id: record.id.clone(),
        status: status.word().into(),
        pid: if status == Status::Stopped { 0 } else { record.pid },
        bundle: record.bundle.clone(),
        annotations: spec.annotations.clone(),
    }
}

pub(crate) fn state(global: &Global, id: &str) -> Result<ExitCode> {
    let found = find(global, id)?;
    // The bundle may be gone before the container is.
    let spec = found.record.spec().unwrap_or_default();
    let mut value =
        serde_json::to_value(document(&found.record, &spec, found.status)).of(|| "state".into())?;
    value["pid"] = json!(if found.status == Status::Stopped { 0 } else { found.record.pid });
    value["created"] = json!(found.record.created);
    say(&format!("{value:#}\n"));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn kill(global: &Global, id: &str, signal: &str, all: bool) -> Result<ExitCode> {
    let number = signals::number(signal).ok_or_else(|| Failure::new(format!("unknown signal {signal:?}")))?;
    let found = find(global, id)?;
    if all {
        let Some(cgroup) = &found.cgroup else { return Ok(ExitCode::SUCCESS) };
        if number == Signal::KILL.as_raw() {
            cgroup.kill().of(|| "kill".into())?;
        } else {
            for pid in cgroup.processes().of(|| "processes".into())? {
                let _ = process::kill(pid.as_raw_nonzero().get(), number);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(target) = found.record.process()? else { return Err(Failure::new("container not running")) };
    process::signal(&target, number).of(|| "kill".into())?;
    if found.status == Status::Paused && number == Signal::KILL.as_raw() {
        // A frozen process dies only when it is thawed.
        found.cgroup()?.thaw().of(|| "thaw".into())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn delete(global: &Global, id: &str, force: bool) -> Result<ExitCode> {
    let found = match find(global, id) {
        Err(failure) if failure.missing && force => {
            // A create that was killed half way has a folder without a record.
            if let Ok(folder) = Folder::find(&global.root, id) {
                folder.remove()?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        found => found?,
    };
    match found.status {
        Status::Stopped | Status::Created => {}
        Status::Running | Status::Paused if force => {}
        status => {
            let word = status.word();
            return Err(Failure::new(format!("cannot delete container {id} that is not stopped: {word}")));
        }
    }
    if let Some(target) = found.record.process()? {
        let _ = process::signal(&target, Signal::KILL.as_raw());
        if let Some(cgroup) = &found.cgroup {
            cgroup.kill().of(|| "kill".into())?;
        }
        // Not our child: whoever's it is reaps it. It has ended when its descriptor says so.
        let mut polled = [PollFd::new(&target, PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let ended = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&limit))).of(|| "poll".into())?;
        if ended == 0 {
            return Err(Failure::new(format!("container {id} does not end")));
        }
    }
    let spec = found.record.spec().ok();
    clean(&found.folder, &found.record, spec.as_ref(), found.cgroup)?;
    Ok(ExitCode::SUCCESS)
}

/// What is left of a container that has ended: other processes of its cgroup, the cgroup, the id.
pub(crate) fn clean(
    folder: &Folder,
    record: &Record,
    spec: Option<&Spec>,
    cgroup: Option<Cgroup>,
) -> Result<()> {
    if let Some(cgroup) = cgroup
        && cgroup.remove().is_err()
    {
        cgroup.kill().of(|| "kill".into())?;
        cgroup.remove().of(|| "cgroup".into())?;
    }
    folder.remove()?;
    if let Some(spec) = spec.filter(|spec| !spec.hooks.poststop.is_empty()) {
        // The container is gone whatever a hook says (runtime-spec `runtime.md#lifecycle`).
        let _ = hooks::run(&spec.hooks.poststop, &document(record, spec, Status::Stopped));
    }
    Ok(())
}

pub(crate) fn list(global: &Global, json: bool, quiet: bool) -> Result<ExitCode> {
    let names = match std::fs::read_dir(&global.root) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).of(|| global.root.display().to_string()),
    };
    let mut names: Vec<String> = names;
    names.sort();
    // One that is deleted meanwhile is not there.
    let found: Vec<Found> = names.iter().filter_map(|name| find(global, name).ok()).collect();
    if json {
        let all: Vec<_> = found
            .iter()
            .map(|found| {
                let (record, status) = (&found.record, found.status);
                json!({
                    "ociVersion": VERSION,
                    "id": record.id,
                    "pid": if status == Status::Stopped { 0 } else { record.pid },
                    "status": status.word(),
                    "bundle": record.bundle,
                    "created": record.created,
                    "owner": "root",
                })
            })
            .collect();
        say(&format!("{}\n", json!(all)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    if !quiet {
        let _ = writeln!(text, "{:<20} {:<8} {:<10} {:<30} BUNDLE", "ID", "PID", "STATUS", "CREATED");
    }
    for Found { record, status, .. } in &found {
        let pid = if *status == Status::Stopped { 0 } else { record.pid };
        let _ = if quiet {
            writeln!(text, "{}", record.id)
        } else {
            let (status, bundle) = (status.word(), record.bundle.display());
            writeln!(text, "{:<20} {pid:<8} {status:<10} {:<30} {bundle}", record.id, record.created)
        };
    }
    say(&text);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn ps(global: &Global, id: &str, json: bool, options: &str) -> Result<ExitCode> {
    let found = find(global, id)?;
    let pids = found.cgroup()?.processes().of(|| "processes".into())?;
    let pids: Vec<i32> = pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    if json {
        say(&format!("{}\n", json!(pids)));
        return Ok(ExitCode::SUCCESS);
    }
    let table = processes::list(&pids, options, memory()).of(|| "ps".into())?;
    say(&in_columns(&table));
    Ok(ExitCode::SUCCESS)
}

/// Bytes of this host.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// As ps prints its columns: as wide as their widest field and at least as ps' own; numbers stand
/// to the right. The last column has no end.
fn in_columns(table: &Table) -> String {
    /// Titles of the columns that ps widens, and to how much.
    const LEAST: [(&str, usize); 8] =
        [("UID", 8), ("USER", 8), ("PID", 7), ("PPID", 7), ("C", 2), ("STIME", 5), ("TTY", 8), ("TIME", 8)];
    let rows = || std::iter::once(&table.titles).chain(&table.processes);
    let width = |column: usize, title: &str| {
        let least = LEAST.iter().find(|(name, _)| *name == title).map_or(0, |(_, least)| *least);
        rows()
            .filter_map(|row| row.get(column))
            .map(|field| field.chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let left =
        ["UID", "USER", "EUSER", "GROUP", "STIME", "START", "TTY", "TT", "STAT", "S", "COMMAND", "CMD"];
    let shape: Vec<(usize, bool)> = table
        .titles
        .iter()
        .enumerate()
        .map(|(column, title)| (width(column, title), left.contains(&title.as_str())))
        .collect();
    let mut text = String::new();
    for row in rows() {
        let mut line = String::new();
        for (column, (field, (width, left))) in row.iter().zip(&shape).enumerate() {
            let gap = if column == 0 { "" } else { " " };
            let _ = match left {
                true => write!(line, "{gap}{field:<width$}"),
                false => write!(line, "{gap}{field:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

pub(crate) fn pause(global: &Global, id: &str) -> Result<ExitCode> {
    let found = find(global, id)?;
    match found.status {
        Status::Running | Status::Created => found.cgroup()?.freeze().of(|| "freeze".into())?,
        Status::Paused | Status::Stopped => return Err(Failure::new("container not running or created")),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn resume(global: &Global, id: &str) -> Result<ExitCode> {
    let found = find(global, id)?;
    if found.status != Status::Paused {
        return Err(Failure::new("container not paused"));
    }
    found.cgroup()?.thaw().of(|| "thaw".into())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn update(global: &Global, update: &Update) -> Result<ExitCode> {
    let mut resources = match &update.resources {
        None => Resources::default(),
        Some(path) if path == Path::new("-") => {
            use std::io::Read;
            let mut text = Vec::new();
            std::io::stdin().take(1 << 20).read_to_end(&mut text).of(|| "standard input".into())?;
            serde_json::from_slice(&text).of(|| "standard input".into())?
        }
        Some(path) => serde_json::from_slice(&read_document(path)?).of(|| path.display().to_string())?,
    };
    for (name, value) in &update.settings {
        set(&mut resources, name, value)?;
    }
    let found = find(global, &update.id)?;
    let warnings = found.cgroup()?.update(&resources).of(|| "update".into())?;
    // An update is asked for by name: what cannot be done is an error, not a remark.
    match warnings.first() {
        Some(warning) => Err(Failure::new(warning.to_string())),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn set(resources: &mut Resources, name: &str, value: &str) -> Result<()> {
    let number = || value.parse::<i64>().of(|| format!("--{name} {value:?}"));
    let positive = || value.parse::<u64>().of(|| format!("--{name} {value:?}"));
    match name {
        "memory" => resources.memory.limit = Some(number()?),
        "memory-reservation" => resources.memory.reservation = Some(number()?),
        "memory-swap" => resources.memory.swap = Some(number()?),
        "cpu-shares" | "cpu-share" => resources.cpu.shares = Some(positive()?),
        "cpu-quota" => resources.cpu.quota = Some(number()?),
        "cpu-period" => resources.cpu.period = Some(positive()?),
        "cpuset-cpus" => value.clone_into(&mut resources.cpu.cpus),
        "cpuset-mems" => value.clone_into(&mut resources.cpu.mems),
        "pids-limit" => resources.pids = Some(Pids { limit: number()? }),
        "blkio-weight" => {
            resources.block_io.weight = Some(value.parse().of(|| format!("--{name} {value:?}"))?);
        }
        other => return Err(Failure::new(format!("unknown setting {other:?}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_stand_in_the_columns_of_ps() {
        let words = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        let table = Table {
            titles: words("UID|PID|PPID|C|STIME|TTY|TIME|CMD"),
            processes: vec![
                words("root|1|0|0|09:10|?|00:00:01|/sbin/init"),
                words("www-data-long|4194304|1|12|Nov20|pts/0|00:00:00|sleep 10"),
            ],
        };
        let expected = [
            "UID               PID    PPID  C STIME TTY          TIME CMD",
            "root                1       0  0 09:10 ?        00:00:01 /sbin/init",
            "www-data-long 4194304       1 12 Nov20 pts/0    00:00:00 sleep 10",
        ];
        assert_eq!(in_columns(&table).lines().collect::<Vec<_>>(), expected);
    }
}
