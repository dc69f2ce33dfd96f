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

mod build;
mod command;
mod config;
mod container;
mod create;
mod credentials;
#[cfg(test)]
mod fake;
mod filters;
mod flags;
mod format;
mod help;
mod image;
mod inspect;
mod moment;
mod natural;
mod network;
mod output;
mod progress;
mod prune;
mod registry;
mod run;
mod session;
mod signals;
mod streams;
mod system;
mod table;
mod terminal;
mod units;
mod volume;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use hull_api::ApiVersion;
use hull_api::client::{Endpoint, choose};

use container::{copy, each, exec, facts, layer, logs, start};
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
const LATER: [&str; 11] = [
    "buildx",
    "checkpoint",
    "compose",
    "config",
    "context",
    "node",
    "plugin",
    "secret",
    "service",
    "stats",
    "swarm",
];

/// Every command.
static TREE: &[Entry] = &[
    Entry::Group(&BUILDER),
    Entry::Group(&CONTAINER),
    Entry::Group(&IMAGE),
    Entry::Group(&MANIFEST),
    Entry::Group(&NETWORK),
    Entry::Group(&SYSTEM),
    Entry::Group(&VOLUME),
    Entry::Command("attach", &start::ATTACH),
    Entry::Command("build", &build::BUILD),
    Entry::Command("commit", &layer::COMMIT),
    Entry::Command("cp", &copy::COPY),
    Entry::Command("create", &create::CREATE),
    Entry::Command("diff", &facts::DIFF),
    Entry::Command("events", &events::EVENTS),
    Entry::Command("exec", &exec::EXEC),
    Entry::Command("export", &layer::EXPORT),
    Entry::Command("history", &names::HISTORY),
    Entry::Command("images", &image::list::LIST),
    Entry::Command("import", &archive::IMPORT),
    Entry::Command("info", &info::INFO),
    Entry::Command("inspect", &inspect::INSPECT),
    Entry::Command("kill", &each::KILL),
    Entry::Command("load", &archive::LOAD),
    Entry::Command("login", &registry::login::LOGIN),
    Entry::Command("logout", &registry::login::LOGOUT),
    Entry::Command("logs", &logs::LOGS),
    Entry::Command("pause", &each::PAUSE),
    Entry::Command("port", &facts::PORT),
    Entry::Command("ps", &container::list::LIST),
    Entry::Command("pull", &image::pull::PULL),
    Entry::Command("push", &registry::push::PUSH),
    Entry::Command("rename", &each::RENAME),
    Entry::Command("restart", &each::RESTART),
    Entry::Command("rm", &each::REMOVE),
    Entry::Command("rmi", &names::REMOVE),
    Entry::Command("run", &run::RUN),
    Entry::Command("save", &archive::SAVE),
    Entry::Command("search", &registry::search::SEARCH),
    Entry::Command("start", &start::START),
    Entry::Command("stop", &each::STOP),
    Entry::Command("tag", &names::TAG),
    Entry::Command("top", &facts::TOP),
    Entry::Command("unpause", &each::UNPAUSE),
    Entry::Command("update", &facts::UPDATE),
    Entry::Command("version", &system::version::VERSION),
    Entry::Command("wait", &each::WAIT),
];

static BUILDER: Group = Group {
    name: "builder",
    summary: "Manage builds",
    commands: &[
        ("build", &[], &build::BUILD),
        ("du", &[], &build::cache::USAGE),
        ("prune", &[], &prune::BUILDS),
    ],
};

static CONTAINER: Group = Group {
    name: "container",
    summary: "Manage containers",
    commands: &[
        ("attach", &[], &start::ATTACH),
        ("commit", &[], &layer::COMMIT),
        ("cp", &[], &copy::COPY),
        ("create", &[], &create::CREATE),
        ("diff", &[], &facts::DIFF),
        ("exec", &[], &exec::EXEC),
        ("export", &[], &layer::EXPORT),
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
        ("bootstrap", &[], &image::bootstrap::BOOTSTRAP),
        ("build", &[], &build::BUILD),
        ("capture", &[], &names::CAPTURE),
        ("history", &[], &names::HISTORY),
        ("import", &[], &archive::IMPORT),
        ("inspect", &[], &inspect::IMAGE),
        ("load", &[], &archive::LOAD),
        ("ls", &["list"], &image::list::LIST),
        ("prune", &[], &prune::IMAGES),
        ("pull", &[], &image::pull::PULL),
        ("push", &[], &registry::push::PUSH),
        ("rm", &["remove"], &names::REMOVE),
        ("save", &[], &archive::SAVE),
        ("tag", &[], &names::TAG),
    ],
};

static MANIFEST: Group = Group {
    name: "manifest",
    summary: "Manage manifests and lists of them",
    commands: &[
        ("annotate", &[], &registry::manifest::ANNOTATE),
        ("create", &[], &registry::manifest::CREATE),
        ("inspect", &[], &registry::manifest::INSPECT),
        ("push", &[], &registry::manifest::PUSH),
        ("rm", &[], &registry::manifest::REMOVE),
    ],
};

static NETWORK: Group = Group {
    name: "network",
    summary: "Manage networks",
    commands: &[
        ("connect", &[], &network::change::CONNECT),
        ("create", &[], &network::create::CREATE),
        ("disconnect", &[], &network::change::DISCONNECT),
        ("explain", &[], &network::explain::EXPLAIN),
        ("inspect", &[], &inspect::NETWORK),
        ("ls", &["list"], &network::list::LIST),
        ("prune", &[], &network::change::PRUNE),
        ("rm", &["remove"], &network::change::REMOVE),
    ],
};

static SYSTEM: Group = Group {
    name: "system",
    summary: "Manage the daemon",
    commands: &[("events", &[], &events::EVENTS), ("info", &[], &info::INFO)],
};

static VOLUME: Group = Group {
    name: "volume",
    summary: "Manage volumes",
    commands: &[
        ("create", &[], &volume::CREATE),
        ("inspect", &[], &inspect::VOLUME),
        ("ls", &["list"], &volume::list::LIST),
        ("prune", &[], &prune::VOLUMES),
        ("rm", &["remove"], &volume::REMOVE),
        ("update", &[], &volume::UPDATE),
    ],
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
        Some(text) => match ApiVersion::parse(&text) {
            Some(version) => Some(version),
            None => {
                return Err(fail(format!("DOCKER_API_VERSION is {text:?}, not a version such as 1.53")));
            }
        },
    };
    let config = Some(global.text("config")).filter(|folder| !folder.is_empty());
    Ok(Session::new(program.to_owned(), endpoint, pinned, config.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_command() -> Vec<(String, &'static command::Command)> {
        let mut all = Vec::new();
        for entry in TREE {
            match entry {
                Entry::Command(name, command) => all.push(((*name).to_owned(), *command)),
                Entry::Group(group) => all.extend(
                    group
                        .commands
                        .iter()
                        .map(|(name, _, command)| (format!("{} {name}", group.name), *command)),
                ),
            }
        }
        all
    }

    #[test]
    fn every_command_explains_itself() {
        for (path, command) in every_command() {
            let mut words: Vec<String> = path.split(' ').map(str::to_owned).collect();
            words.push("--help".to_owned());
            let Asked::Show(text) = resolve(TREE, "hull", &words) else {
                panic!("{path} --help shows nothing");
            };
            assert!(text.starts_with(&format!("Usage:  hull {path}")), "{text}");
            assert!(command.paths.contains(&path.as_str()), "{path} is not among its own names");
        }
    }

    #[test]
    fn no_command_declares_a_flag_twice() {
        for (path, command) in every_command() {
            let flags: Vec<&Flag> = command.flags.iter().flat_map(|table| *table).collect();
            for (index, flag) in flags.iter().enumerate() {
                let twice = flags[..index].iter().any(|other| {
                    other.long == flag.long || flag.short.is_some() && other.short == flag.short
                });
                assert!(!twice, "{path}: --{}", flag.long);
            }
        }
    }

    #[test]
    fn what_is_unknown_is_said_as_the_reference_says_it() {
        let said = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            match resolve(TREE, "docker", &words) {
                Asked::Fail(failure) => (failure.code, failure.message),
                Asked::Show(text) => (0, text),
                Asked::Do(..) => (0, String::new()),
            }
        };
        for (line, code, text) in [
            (
                "nosuchcommand",
                1,
                "docker: unknown command: docker nosuchcommand\n\nRun 'docker --help' for more information",
            ),
            (
                "container foo",
                1,
                "docker: unknown command: docker container foo\n\nUsage:  docker container\n\nRun 'docker container --help' for more information",
            ),
            (
                "version --nosuchflag",
                125,
                "unknown flag: --nosuchflag\n\nUsage:  docker version [OPTIONS]\n\nRun 'docker version --help' for more information",
            ),
            (
                "run --rm",
                1,
                "docker: 'docker run' requires at least 1 argument\n\nUsage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nSee 'docker run --help' for more information",
            ),
            (
                "tag busybox",
                1,
                "docker: 'docker tag' requires 2 arguments\n\nUsage:  docker tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]\n\nRun 'docker tag --help' for more information",
            ),
            (
                "ps foo",
                1,
                "docker: 'docker ps' accepts no arguments\n\nUsage:  docker ps [OPTIONS]\n\nRun 'docker ps --help' for more information",
            ),
            ("help nothing", 1, "unknown help topic: nothing"),
        ] {
            assert_eq!(said(line), (code, text.to_owned()), "{line}");
        }
    }
}
