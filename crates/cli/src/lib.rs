//! The commands a person types.
//!
//! A command line goes through three steps: the global flags are read and the
//! command is found in a constant tree ([`command`]); its flags are read
//! against its table ([`flags`]); its function sends requests to the daemon and
//! prints the answers. Output is the reference client's where scripts read it:
//! tables, `--format`, identifiers, exit codes, error lines.
//!
//! Starting costs little on purpose: nothing is built before it is needed, no
//! file is read that the command does not use, one thread runs it all.
//!
//! Architecture invariant: the host is reached only through
//! [`hull_api::client::Client`].

mod command;
mod config;
mod container;
mod create;
#[cfg(test)]
mod fake;
mod filters;
mod flags;
mod format;
mod help;
mod image;
mod inspect;
mod moment;
mod progress;
mod prune;
mod run;
mod session;
mod signals;
mod streams;
mod system;
mod table;
mod terminal;
mod units;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use hull_api::client::{Endpoint, Version, choose};

use container::{each, exec, facts, logs, start};
use image::{archive, names};
use system::{events, info};

use command::{Asked, Entry, Failure, Group, fail, resolve};
use flags::{Flag, Given, Stop, any};
use session::{Session, print, say};

/// What `--format` takes, wherever it is taken.
const FORMAT_HELP: &str = "Show as 'table', 'table TEMPLATE', 'json', or by a Go template";

/// Flags that stand before the command.
const GLOBAL: &[Flag] = &[
    Flag::text("config", "Folder of the client's settings"),
    Flag::text("context", "").short('c'),
    Flag::switch("debug", "Say more about what is done").short('D'),
    Flag::list("host", any, "Where the daemon listens (unix://PATH, tcp://HOST:PORT)").short('H'),
    Flag::text("log-level", "").short('l').default("info"),
    Flag::switch("version", "Show the version and end").short('v'),
];

/// Commands of the reference that this build has not got yet.
const LATER: [&str; 23] = [
    "build",
    "builder",
    "buildx",
    "checkpoint",
    "commit",
    "compose",
    "config",
    "context",
    "cp",
    "export",
    "login",
    "logout",
    "manifest",
    "network",
    "node",
    "plugin",
    "push",
    "search",
    "secret",
    "service",
    "stats",
    "swarm",
    "volume",
];

/// Every command.
static TREE: &[Entry] = &[
    Entry::Group(&CONTAINER),
    Entry::Group(&IMAGE),
    Entry::Group(&SYSTEM),
    Entry::Command("attach", &start::ATTACH),
    Entry::Command("create", &create::CREATE),
    Entry::Command("diff", &facts::DIFF),
    Entry::Command("events", &events::EVENTS),
    Entry::Command("exec", &exec::EXEC),
    Entry::Command("history", &names::HISTORY),
    Entry::Command("images", &image::list::LIST),
    Entry::Command("import", &archive::IMPORT),
    Entry::Command("info", &info::INFO),
    Entry::Command("inspect", &inspect::INSPECT),
    Entry::Command("kill", &each::KILL),
    Entry::Command("load", &archive::LOAD),
    Entry::Command("logs", &logs::LOGS),
    Entry::Command("pause", &each::PAUSE),
    Entry::Command("port", &facts::PORT),
    Entry::Command("ps", &container::list::LIST),
    Entry::Command("pull", &image::pull::PULL),
    Entry::Command("rename", &each::RENAME),
    Entry::Command("restart", &each::RESTART),
    Entry::Command("rm", &each::REMOVE),
    Entry::Command("rmi", &names::REMOVE),
    Entry::Command("run", &run::RUN),
    Entry::Command("save", &archive::SAVE),
    Entry::Command("start", &start::START),
    Entry::Command("stop", &each::STOP),
    Entry::Command("tag", &names::TAG),
    Entry::Command("top", &facts::TOP),
    Entry::Command("unpause", &each::UNPAUSE),
    Entry::Command("update", &facts::UPDATE),
    Entry::Command("version", &system::version::VERSION),
    Entry::Command("wait", &each::WAIT),
];

static CONTAINER: Group = Group {
    name: "container",
    summary: "Manage containers",
    commands: &[
        ("attach", &[], &start::ATTACH),
        ("create", &[], &create::CREATE),
        ("diff", &[], &facts::DIFF),
        ("exec", &[], &exec::EXEC),
        ("inspect", &[], &inspect::CONTAINER),
        ("kill", &[], &each::KILL),
        ("logs", &[], &logs::LOGS),
        ("ls", &["list", "ps"], &container::list::LIST),
        ("pause", &[], &each::PAUSE),
        ("port", &[], &facts::PORT),
        ("prune", &[], &prune::CONTAINERS),
        ("rename", &[], &each::RENAME),
        ("restart", &[], &each::RESTART),
        ("rm", &["remove"], &each::REMOVE),
        ("run", &[], &run::RUN),
        ("start", &[], &start::START),
        ("stop", &[], &each::STOP),
        ("top", &[], &facts::TOP),
        ("unpause", &[], &each::UNPAUSE),
        ("update", &[], &facts::UPDATE),
        ("wait", &[], &each::WAIT),
    ],
};

static IMAGE: Group = Group {
    name: "image",
    summary: "Manage images",
    commands: &[
        ("capture", &[], &names::CAPTURE),
        ("history", &[], &names::HISTORY),
        ("import", &[], &archive::IMPORT),
        ("inspect", &[], &inspect::IMAGE),
        ("load", &[], &archive::LOAD),
        ("ls", &["list"], &image::list::LIST),
        ("prune", &[], &prune::IMAGES),
        ("pull", &[], &image::pull::PULL),
        ("rm", &["remove"], &names::REMOVE),
        ("save", &[], &archive::SAVE),
        ("tag", &[], &names::TAG),
    ],
};

static SYSTEM: Group = Group {
    name: "system",
    summary: "Manage the daemon",
    commands: &[("events", &[], &events::EVENTS), ("info", &[], &info::INFO)],
};

/// Runs one command line; the first of `arguments` is the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut words = arguments.into_iter().map(|word| word.to_string_lossy().into_owned());
    let program = words
        .next()
        .and_then(|path| Some(Path::new(&path).file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "hull".to_owned());
    let words: Vec<String> = words.collect();
    match dispatch(&program, &words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(program: &str, words: &[String]) -> Result<u8, Failure> {
    let global = match flags::parse(&[GLOBAL], true, words) {
        Ok(global) => global,
        Err(Stop::Help) => {
            print(&help::top(program));
            return Ok(0);
        }
        Err(Stop::Wrong(message)) => {
            return Err(Failure {
                code: 125,
                message: format!(
                    "{message}\n\nUsage:  {program} [OPTIONS] COMMAND [ARG...]\n\nRun '{program} --help' for more information"
                ),
            });
        }
    };
    if global.on("version") {
        let version = system::version::OWN;
        print(&format!("Hull version {version}\n"));
        return Ok(0);
    }
    if !["debug", "info", "warn", "error", "fatal"].contains(&global.text("log-level")) {
        return Err(fail(format!("Unable to parse logging level: {}", global.text("log-level"))));
    }
    match resolve(TREE, program, &global.arguments) {
        Asked::Show(text) => {
            print(&text);
            Ok(0)
        }
        Asked::Fail(failure) => Err(failure),
        Asked::Do(command, given) => {
            let session = session(program, &global)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on((command.run)(&session, &given));
            // A read of standard input may never end: do not wait for it.
            runtime.shutdown_background();
            outcome
        }
    }
}

fn session(program: &str, global: &Given) -> Result<Session, Failure> {
    let hosts = global.strings("host");
    if hosts.len() > 1 {
        return Err(fail("Specify only one -H"));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let environment = variable("HULL_HOST").or_else(|| variable("DOCKER_HOST"));
    let endpoint: Endpoint = choose(hosts.first().map(String::as_str), environment.as_deref(), Path::exists)?;
    let pinned = match variable("DOCKER_API_VERSION") {
        None => None,
        Some(text) => match Version::parse(&text) {
            Some(version) => Some(version),
            None => {
                return Err(fail(format!("DOCKER_API_VERSION is {text:?}, not a version such as 1.51")));
            }
        },
    };
    let config = Some(global.text("config")).filter(|folder| !folder.is_empty());
    Ok(Session::new(program.to_owned(), endpoint, pinned, config.map(str::to_owned)))
}
