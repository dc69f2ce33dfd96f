//! The command line, as runc and crun take it. Pure: words in, a [`Command`] out.
//!
//! Options before the command are for all commands (`--root`, `--log`, …); options between the
//! command and the container's id are the command's own; what follows the id belongs to the
//! command's program and is never looked at.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Global {
    /// Where the state of containers is kept.
    pub(crate) root: PathBuf,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) preserve_fds: u32,
    /// Of `run` alone.
    pub(crate) detach: bool,
    pub(crate) keep: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ExecCommand {
    pub(crate) id: String,
    pub(crate) args: Vec<String>,
    pub(crate) process: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) preserve_fds: u32,
    pub(crate) detach: bool,
    pub(crate) tty: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) cwd: Option<String>,
    pub(crate) env: Vec<String>,
    /// `UID[:GID]`.
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<u32>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) apparmor: Option<String>,
    pub(crate) label: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Update {
    pub(crate) id: String,
    /// A file with OCI resources; `-` is standard input.
    pub(crate) resources: Option<PathBuf>,
    /// OCI names and values: `memory`, `1048576`.
    pub(crate) settings: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Create(Create),
    Run(Create),
    Start {
        id: String,
    },
    State {
        id: String,
    },
    Kill {
        id: String,
        signal: String,
        all: bool,
    },
    Delete {
        id: String,
        force: bool,
    },
    Exec(ExecCommand),
    List {
        json: bool,
        quiet: bool,
    },
    /// `options` are words for ps.
    Ps {
        id: String,
        json: bool,
        options: String,
    },
    Pause {
        id: String,
    },
    Resume {
        id: String,
    },
    Update(Update),
    Features,
    Spec {
        bundle: PathBuf,
    },
    Version,
    Help,
}

pub(crate) const HELP: &str = "\
hull-runtime runs containers from bundles (OCI runtime specification).

Usage: hull-runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND

  create [-b BUNDLE] [--pid-file F] [--console-socket S] [--preserve-fds N] ID
  run    the same, and [-d|--detach] [--keep]
  start  ID
  state  ID
  kill   [-a|--all] ID [SIGNAL]
  delete [-f|--force] ID
  exec   [-p PROCESS.json] [-t] [-d] [--cwd D] [-e K=V] [-u UID[:GID]] [-g GID] [-c CAP]
         [--pid-file F] [--console-socket S] [--no-new-privs] ID PROGRAM [ARG…]
  list   [-q] [-f json]
  ps     [-f json] ID [PS OPTIONS]
  pause  ID
  resume ID
  update [-r FILE] [--memory N] [--cpu-shares N] [--pids-limit N] … ID
  spec   [-b BUNDLE]
  features
";

pub(crate) fn parse(words: Vec<OsString>) -> Result<(Global, Command), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut global = Global { root: "/run/hull-runtime".into(), ..Global::default() };
    while let Some(word) = parser.next()? {
        match word {
            Long("root") => global.root = parser.value()?.into(),
            Long("log") => global.log = Some(parser.value()?.into()),
            Long("log-format") => global.log_json = parser.value()? == "json",
            Long("debug") => {}
            Long("rootless") => drop(parser.value()?),
            Long("cgroup-manager") => {
                if parser.value()? == "systemd" {
                    return Err(no_systemd());
                }
            }
            Long("systemd-cgroup") => {
                if parser.optional_value().is_none_or(|value| value != "false") {
                    return Err(no_systemd());
                }
            }
            Long("version") | Short('v') => return Ok((global, Command::Version)),
            Long("help") | Short('h') => return Ok((global, Command::Help)),
            Value(name) => return Ok((global, command(&name.string()?, &mut parser)?)),
            other => return Err(other.unexpected()),
        }
    }
    Ok((global, Command::Help))
}

fn no_systemd() -> lexopt::Error {
    "cgroups through systemd are not supported: use the cgroupfs manager".into()
}

fn command(name: &str, parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    Ok(match name {
        "create" => Command::Create(create(parser, false)?),
        "run" => Command::Run(create(parser, true)?),
        "exec" => Command::Exec(exec(parser)?),
        "update" => Command::Update(update(parser)?),
        "start" => Command::Start { id: only_id(parser)? },
        "state" => Command::State { id: only_id(parser)? },
        "pause" => Command::Pause { id: only_id(parser)? },
        "resume" => Command::Resume { id: only_id(parser)? },
        "kill" => kill(parser)?,
        "delete" => {
            let (id, flags) = with_flag(parser, 'f', "force")?;
            Command::Delete { id, force: flags }
        }
        "list" => list(parser)?,
        "ps" => ps(parser)?,
        "features" => Command::Features,
        "spec" => spec(parser)?,
        "help" => Command::Help,
        other => return Err(format!("unknown command {other:?}").into()),
    })
}

fn no_id() -> lexopt::Error {
    "a container's id is needed".into()
}

fn only_id(parser: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    let mut id = None;
    while let Some(word) = parser.next()? {
        match word {
            Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    id.ok_or_else(no_id)
}

fn with_flag(parser: &mut lexopt::Parser, short: char, long: &str) -> Result<(String, bool), lexopt::Error> {
    let (mut id, mut flag) = (None, false);
    while let Some(word) = parser.next()? {
        match word {
            Short(letter) if letter == short => flag = true,
            Long(name) if name == long => flag = true,
            Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok((id.ok_or_else(no_id)?, flag))
}

fn create(parser: &mut lexopt::Parser, run: bool) -> Result<Create, lexopt::Error> {
    let mut create = Create { bundle: ".".into(), ..Create::default() };
    while let Some(word) = parser.next()? {
        match word {
            Long("bundle") | Short('b') => create.bundle = parser.value()?.into(),
            Long("pid-file") => create.pid_file = Some(parser.value()?.into()),
            Long("console-socket") => create.console_socket = Some(parser.value()?.into()),
            Long("preserve-fds") => create.preserve_fds = parser.value()?.parse()?,
            // The session keyring is left alone, and pivot_root is never avoided.
            Long("no-new-keyring" | "no-subreaper") => {}
            Long("no-pivot") => return Err("--no-pivot is not supported: a container always pivots".into()),
            Long("detach") | Short('d') if run => create.detach = true,
            Long("keep") if run => create.keep = true,
            Value(value) if create.id.is_empty() => create.id = value.string()?,
            other => return Err(other.unexpected()),
        }
    }
    if create.id.is_empty() { Err(no_id()) } else { Ok(create) }
}

fn exec(parser: &mut lexopt::Parser) -> Result<ExecCommand, lexopt::Error> {
    let mut exec = ExecCommand::default();
    while let Some(word) = parser.next()? {
        match word {
            Long("process") | Short('p') => exec.process = Some(parser.value()?.into()),
            Long("pid-file") => exec.pid_file = Some(parser.value()?.into()),
            Long("console-socket") => exec.console_socket = Some(parser.value()?.into()),
            Long("preserve-fds") => exec.preserve_fds = parser.value()?.parse()?,
            Long("detach") | Short('d') => exec.detach = true,
            Long("tty") | Short('t') => exec.tty = true,
            Long("no-new-privs") => exec.no_new_privileges = true,
            Long("cwd") => exec.cwd = Some(parser.value()?.string()?),
            Long("env") | Short('e') => exec.env.push(parser.value()?.string()?),
            Long("user") | Short('u') => exec.user = Some(parser.value()?.string()?),
            Long("additional-gids") | Short('g') => exec.groups.push(parser.value()?.parse()?),
            Long("cap") | Short('c') => exec.capabilities.push(parser.value()?.string()?),
            Long("apparmor") => exec.apparmor = Some(parser.value()?.string()?),
            Long("process-label") => exec.label = Some(parser.value()?.string()?),
            Long("ignore-paused") => {}
            Value(value) => {
                exec.id = value.string()?;
                exec.args = parser.raw_args()?.map(|word| word.string()).collect::<Result<_, _>>()?;
                break;
            }
            other => return Err(other.unexpected()),
        }
    }
    if exec.id.is_empty() { Err(no_id()) } else { Ok(exec) }
}

/// The options of `update` and the OCI resources they are.
const SETTINGS: [&str; 11] = [
    "memory",
    "memory-reservation",
    "memory-swap",
    "cpu-shares",
    "cpu-share",
    "cpu-quota",
    "cpu-period",
    "cpuset-cpus",
    "cpuset-mems",
    "pids-limit",
    "blkio-weight",
];

fn update(parser: &mut lexopt::Parser) -> Result<Update, lexopt::Error> {
    let mut update = Update::default();
    while let Some(word) = parser.next()? {
        match word {
            Long("resources") | Short('r') => update.resources = Some(parser.value()?.into()),
            Long(name) if SETTINGS.contains(&name) => {
                let name = name.to_owned();
                update.settings.push((name, parser.value()?.string()?));
            }
            Value(value) if update.id.is_empty() => update.id = value.string()?,
            other => return Err(other.unexpected()),
        }
    }
    if update.id.is_empty() { Err(no_id()) } else { Ok(update) }
}

fn kill(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut id, mut signal, mut all) = (None, None, false);
    while let Some(word) = parser.next()? {
        match word {
            Long("all") | Short('a') => all = true,
            Value(value) if id.is_none() => id = Some(value.string()?),
            Value(value) if signal.is_none() => signal = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Kill { id: id.ok_or_else(no_id)?, signal: signal.unwrap_or_else(|| "TERM".into()), all })
}

fn list(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut json, mut quiet) = (false, false);
    while let Some(word) = parser.next()? {
        match word {
            Long("format") | Short('f') => json = parser.value()? == "json",
            Long("quiet") | Short('q') => quiet = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::List { json, quiet })
}

fn ps(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut id, mut json) = (None, false);
    while let Some(word) = parser.next()? {
        match word {
            Long("format") | Short('f') => json = parser.value()? == "json",
            Value(value) => {
                id = Some(value.string()?);
                // All that follows is for ps.
                break;
            }
            other => return Err(other.unexpected()),
        }
    }
    let options: Vec<String> = parser.raw_args()?.map(|word| word.string()).collect::<Result<_, _>>()?;
    Ok(Command::Ps { id: id.ok_or_else(no_id)?, json, options: options.join(" ") })
}

fn spec(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut bundle = PathBuf::from(".");
    while let Some(word) = parser.next()? {
        match word {
            Long("bundle") | Short('b') => bundle = parser.value()?.into(),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Spec { bundle })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split(' ').map(OsString::from).collect())
            .map(|(_, command)| command)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn what_podman_says_is_understood() {
        let create = Create {
            id: "abc".into(),
            bundle: "/b".into(),
            pid_file: Some("/p".into()),
            ..Create::default()
        };
        assert_eq!(
            parsed("--root /r --log-format=json create --bundle /b --pid-file /p abc"),
            Ok(Command::Create(create))
        );
        assert_eq!(
            parsed("kill --all abc 15"),
            Ok(Command::Kill { id: "abc".into(), signal: "15".into(), all: true })
        );
        assert_eq!(parsed("delete --force abc"), Ok(Command::Delete { id: "abc".into(), force: true }));
    }

    #[test]
    fn words_after_the_id_belong_to_the_program() {
        let Ok(Command::Exec(exec)) = parsed("exec -t -u 5:6 abc ls -t --user x") else { panic!() };
        assert_eq!((exec.tty, exec.user.as_deref()), (true, Some("5:6")));
        assert_eq!(exec.args, ["ls", "-t", "--user", "x"]);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        assert!(parsed("--systemd-cgroup create x").unwrap_err().contains("systemd"));
        assert!(parsed("create --no-pivot x").unwrap_err().contains("pivot"));
        assert!(parsed("start").is_err());
        assert!(parsed("dance").unwrap_err().contains("dance"));
    }
}
