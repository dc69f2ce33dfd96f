//! The processes of a container, read from /proc. No `ps` is executed: its place in an engine was
//! once a way in (CVE-2025-52881's family), and it is slow.
//!
//! Understood are the forms people use: `-ef` (the default), `aux`, and `-o` with column names.

use std::collections::BTreeMap;
use std::fs;

/// Ticks in a second of /proc's times; fixed on every architecture Linux has.
const TICKS: u64 = 100;

/// A listing: titles, and one row a process with as many fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

/// The caller's words for ps were not understood; in ps' own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ps: error: {0}")]
pub struct Misunderstood(String);

type Result<T> = std::result::Result<T, Misunderstood>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Uid,
    Gid,
    Group,
    Pid,
    Ppid,
    Pgid,
    Sid,
    C,
    PercentCpu,
    PercentMem,
    Vsz,
    Rss,
    Nice,
    Threads,
    Tty,
    Stat,
    Start,
    Elapsed,
    /// `00:00:00`.
    Time,
    /// `0:00`, as BSD's ps.
    BsdTime,
    Command,
    Args,
}

/// Name for `-o`, title, column.
const COLUMNS: &[(&str, &str, Column)] = &[
    ("user", "USER", Column::User),
    ("euser", "EUSER", Column::User),
    ("uid", "UID", Column::Uid),
    ("euid", "EUID", Column::Uid),
    ("gid", "GID", Column::Gid),
    ("group", "GROUP", Column::Group),
    ("pid", "PID", Column::Pid),
    ("ppid", "PPID", Column::Ppid),
    ("pgid", "PGID", Column::Pgid),
    ("sid", "SID", Column::Sid),
    ("c", "C", Column::C),
    ("pcpu", "%CPU", Column::PercentCpu),
    ("%cpu", "%CPU", Column::PercentCpu),
    ("pmem", "%MEM", Column::PercentMem),
    ("%mem", "%MEM", Column::PercentMem),
    ("vsz", "VSZ", Column::Vsz),
    ("rss", "RSS", Column::Rss),
    ("ni", "NI", Column::Nice),
    ("nlwp", "NLWP", Column::Threads),
    ("tty", "TT", Column::Tty),
    ("stat", "STAT", Column::Stat),
    ("state", "S", Column::Stat),
    ("s", "S", Column::Stat),
    ("stime", "STIME", Column::Start),
    ("start", "STARTED", Column::Start),
    ("etime", "ELAPSED", Column::Elapsed),
    ("time", "TIME", Column::Time),
    ("cputime", "TIME", Column::Time),
    ("comm", "COMMAND", Column::Command),
    ("ucmd", "CMD", Column::Command),
    ("args", "COMMAND", Column::Args),
    ("cmd", "CMD", Column::Args),
    ("command", "COMMAND", Column::Args),
];

const FULL: &[(&str, Column)] = &[
    ("UID", Column::User),
    ("PID", Column::Pid),
    ("PPID", Column::Ppid),
    ("C", Column::C),
    ("STIME", Column::Start),
    ("TTY", Column::Tty),
    ("TIME", Column::Time),
    ("CMD", Column::Args),
];
const BSD: &[(&str, Column)] = &[
    ("USER", Column::User),
    ("PID", Column::Pid),
    ("%CPU", Column::PercentCpu),
    ("%MEM", Column::PercentMem),
    ("VSZ", Column::Vsz),
    ("RSS", Column::Rss),
    ("TTY", Column::Tty),
    ("STAT", Column::Stat),
    ("START", Column::Start),
    ("TIME", Column::BsdTime),
    ("COMMAND", Column::Args),
];

/// Lists processes by their ids on the host. `args` is what the caller would give to ps; `memory`
/// the host's, in bytes.
///
/// # Errors
/// An option or a column is not known.
pub fn list(pids: &[i32], args: &str, memory: u64) -> Result<Table> {
    let columns = columns(args)?;
    let names = Names::read();
    let uptime = hull_sys::time::since_boot();
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    let row = |pid: i32| {
        let process = Process::read(pid)?;
        Some(columns.iter().map(|(_, column)| process.show(*column, &names, uptime, memory)).collect())
    };
    // A process that has ended meanwhile is not listed.
    let processes = pids.into_iter().filter_map(row).collect();
    Ok(Table { titles: columns.into_iter().map(|(title, _)| title).collect(), processes })
}

fn columns(args: &str) -> Result<Vec<(String, Column)>> {
    let owned =
        |list: &[(&str, Column)]| list.iter().map(|&(title, column)| (title.to_owned(), column)).collect();
    let words: Vec<&str> = args.split_whitespace().collect();
    let mut asked = Vec::new();
    let mut shape = None;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if let Some(long) = word.strip_prefix("--") {
            match long.strip_prefix("format=") {
                Some(list) => asked.extend(named(list)?),
                None => return Err(Misunderstood("unknown gnu long option".to_owned())),
            }
            continue;
        }
        let flags = word.trim_start_matches('-');
        if let Some(list) = flags.strip_prefix('o').or_else(|| flags.strip_prefix("eo")) {
            let list = if list.is_empty() { rest.next().copied().unwrap_or_default() } else { list };
            asked.extend(named(list)?);
            continue;
        }
        shape = Some(match flags {
            "ef" | "f" | "e" | "eF" | "A" | "Af" | "fe" => FULL,
            "aux" | "auxw" | "auxww" | "aux-w" | "ax" | "axu" | "u" | "w" | "ww" => BSD,
            _ => return Err(Misunderstood(format!("unsupported option {word:?}"))),
        });
    }
    if !asked.is_empty() {
        return Ok(asked);
    }
    Ok(owned(shape.unwrap_or(FULL)))
}

/// `pid,comm` or `pid=ID`.
fn named(list: &str) -> Result<Vec<(String, Column)>> {
    let one = |name: &str| {
        let (name, title) = match name.split_once('=') {
            Some((name, title)) => (name, Some(title)),
            None => (name, None),
        };
        let known = COLUMNS.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(name));
        let unknown = || Misunderstood(format!("unknown user-defined format specifier \"{name}\""));
        let (_, usual, column) = known.ok_or_else(unknown)?;
        Ok((title.unwrap_or(usual).to_owned(), *column))
    };
    list.split(',').filter(|name| !name.is_empty()).map(one).collect()
}

/// The host's names of users and groups: those in the container may be lies.
struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    fn read() -> Names {
        let table = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = |line: &str| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                Some((fields.nth(1)?.parse().ok()?, name))
            };
            // The first of several names counts, as in getpwuid(3).
            text.lines().rev().filter_map(line).collect()
        };
        Names { users: table("/etc/passwd"), groups: table("/etc/group") }
    }
}

fn name(table: &BTreeMap<u32, String>, id: u32) -> String {
    table.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// What proc(5) tells of one process.
struct Process {
    pid: i32,
    uid: u32,
    gid: u32,
    name: String,
    args: String,
    /// From the state on.
    fields: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let name = head.split_once(" (")?.1.to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let id = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command);
        let args = text.trim_end_matches('\0').replace('\0', " ").replace(|c: char| c.is_control(), "?");
        Some(Process {
            pid,
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            args: if args.is_empty() { format!("[{name}]") } else { args },
            name,
            fields: tail.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// By its number in proc(5), which counts the pid as 1.
    fn field(&self, number: usize) -> i64 {
        self.fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn ticks(&self) -> u64 {
        (self.field(14).max(0) + self.field(15).max(0)).unsigned_abs()
    }

    /// Seconds since its start.
    fn age(&self, uptime: i64) -> u64 {
        let started = self.field(22).max(0) / TICKS as i64;
        (uptime / 1_000_000_000 - started).max(0).unsigned_abs()
    }

    fn show(&self, column: Column, names: &Names, uptime: i64, memory: u64) -> String {
        let seconds = self.ticks() / TICKS;
        let share = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        let cpu = share(self.ticks(), self.age(uptime) * TICKS);
        let rss = self.field(24).max(0).unsigned_abs() * 4096;
        match column {
            Column::User => name(&names.users, self.uid),
            Column::Uid => self.uid.to_string(),
            Column::Gid => self.gid.to_string(),
            Column::Group => name(&names.groups, self.gid),
            Column::Pid => self.pid.to_string(),
            Column::Ppid => self.field(4).to_string(),
            Column::Pgid => self.field(5).to_string(),
            Column::Sid => self.field(6).to_string(),
            Column::C => format!("{}", (cpu as u64).min(99)),
            Column::PercentCpu => format!("{:.1}", cpu.min(999.9)),
            Column::PercentMem => format!("{:.1}", share(rss, memory)),
            Column::Vsz => (self.field(23).max(0) / 1024).to_string(),
            Column::Rss => (rss / 1024).to_string(),
            Column::Nice => self.field(19).to_string(),
            Column::Threads => self.field(20).to_string(),
            Column::Tty => tty(self.field(7)),
            Column::Stat => self.fields.first().cloned().unwrap_or_default(),
            Column::Start => start(self.age(uptime)),
            Column::Elapsed => elapsed(self.age(uptime)),
            Column::Time => format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            Column::BsdTime => format!("{}:{:02}", seconds / 60, seconds % 60),
            Column::Command => self.name.clone(),
            Column::Args => self.args.clone(),
        }
    }
}

/// Bits of the device number as in proc(5), `tty_nr`.
fn tty(device: i64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match (major, minor) {
        (0, _) => "?".to_owned(),
        (136..144, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

/// Hour and minute of today, month and day of this year, else the year.
fn start(age: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let now = hull_sys::time::now() / 1_000_000_000;
    let began = i64::try_from(age).ok().and_then(|age| hull_sys::time::local(now.checked_sub(age)?));
    let (Some(now), Some(began)) = (hull_sys::time::local(now), began) else { return "?".to_owned() };
    let day = |moment: &hull_sys::time::Local| (moment.year, moment.month, moment.day);
    match () {
        () if day(&now) == day(&began) => format!("{:02}:{:02}", began.hour, began.minute),
        () if now.year == began.year => format!("{}{:02}", MONTHS[usize::from(began.month - 1)], began.day),
        () => began.year.to_string(),
    }
}

fn elapsed(age: u64) -> String {
    let (days, hours, minutes, seconds) = (age / 86400, age / 3600 % 24, age / 60 % 60, age % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(args: &str) -> Table {
        list(&[std::process::id() as i32, i32::MAX], args, 1 << 30).unwrap()
    }

    #[test]
    fn the_usual_forms_have_the_references_titles() {
        assert_eq!(own("").titles, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(own("-ef").titles.len(), 8);
        let bsd = own("aux");
        assert_eq!(bsd.titles.join(" "), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!((bsd.processes.len(), bsd.processes[0].len()), (1, 11));
        assert_eq!(bsd.processes[0][1], std::process::id().to_string());
        assert_eq!(own("-o pid,comm").titles, ["PID", "COMMAND"]);
        assert_eq!(own("-eo pid=ID,args").titles, ["ID", "COMMAND"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_as_ps_refuses_it() {
        assert_eq!(columns("--nosuch").unwrap_err().to_string(), "ps: error: unknown gnu long option");
        assert!(columns("-o nosuch").is_err());
        assert!(columns("-q").is_err());
    }

    #[test]
    fn devices_and_times() {
        assert_eq!(
            (tty(0), tty(136 << 8 | 3), tty(4 << 8 | 65)),
            ("?".into(), "pts/3".into(), "ttyS1".into())
        );
        assert_eq!(
            (elapsed(61), elapsed(3661), elapsed(90061)),
            ("01:01".into(), "01:01:01".into(), "1-01:01:01".into())
        );
    }
}
