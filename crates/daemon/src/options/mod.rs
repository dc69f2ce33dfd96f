//! What the daemon is told: flags, `daemon.json`, defaults, and what may change while it runs.
//!
//! A key may be given in one of the two places only, so that nobody has to know which wins; a key
//! that nobody knows is refused by name.

mod builder;
mod network;
mod registries;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use hull_engine::builds::{Entitlement, Limit};
use hull_engine::networks::Defaults;
use serde_json::Value;
use tracing_subscriber::filter::LevelFilter;

pub(crate) use network::Names;
pub(crate) use registries::Registries;

/// Where the configuration is looked for when no flag names a file.
pub(crate) const CONFIG_FILE: &str = "/etc/hull/daemon.json";

/// Everything the daemon needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// What must survive a boot.
    pub data_root: PathBuf,
    /// What must not: sockets of shims, exit records.
    pub exec_root: PathBuf,
    pub listen: Vec<Listen>,
    pub pidfile: Option<PathBuf>,
    /// Whose members may use the socket; `None` is `hull`, else `docker`, where there is one.
    pub group: Option<String>,
    pub config_file: PathBuf,
    pub log_level: Level,
    pub debug: bool,
    /// Below each hierarchy's root.
    pub cgroup_parent: String,
    /// As the engine's configuration has it.
    pub userns_remap: String,
    /// The runtime's executable.
    pub runtime: PathBuf,
    pub build_cache: Limit,
    pub build_entitlements: BTreeSet<Entitlement>,
    pub network: Defaults,
    pub names: Names,
    pub registries: Registries,
    /// Only say whether the configuration is good.
    pub validate: bool,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    Unix(PathBuf),
    /// Loopback only, because there is no TLS yet.
    Tcp(SocketAddr),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl Level {
    pub(crate) fn filter(self) -> LevelFilter {
        match self {
            Level::Trace => LevelFilter::TRACE,
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
        }
    }

    fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "trace" => Level::Trace,
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" | "warning" => Level::Warn,
            // The reference's two levels above an error.
            "error" | "fatal" | "panic" => Level::Error,
            _ => return None,
        })
    }
}

/// How the daemon was called.
#[derive(Debug)]
pub(crate) struct CommandLine {
    /// In its own messages.
    pub program: &'static str,
    /// What came after that.
    pub args: Vec<OsString>,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    /// Help, version, or a wrong command line: clap prints it and knows the exit code.
    #[error("{0}")]
    CommandLine(#[from] clap::Error),
    #[error("unable to configure the daemon with file {}: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("unable to configure the daemon with file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("invalid value {value:?} for {key}: {why}")]
    Value { key: String, value: String, why: String },
}

type Result<T, E = OptionsError> = std::result::Result<T, E>;

/// A key: its flag, its name in the file, and what it holds.
struct Key {
    flag: &'static str,
    short: Option<char>,
    file: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    List,
    Flag,
    /// In the file a number, or a text with one.
    Number,
    /// In the file a list of objects with `base` and `size`; kept as `base=…,size=…`.
    Pools,
    /// In the file alone: an object, kept as its text.
    Document,
}

const fn key(
    flag: &'static str,
    short: Option<char>,
    file: &'static str,
    kind: Kind,
    help: &'static str,
) -> Key {
    Key { flag, short, file, kind, help }
}

const KEYS: &[Key] = &[
    key("data-root", None, "data-root", Kind::Text, "Folder of images, containers and state [/var/lib/hull]"),
    key("exec-root", None, "exec-root", Kind::Text, "Folder of running state, on a tmpfs [/run/hull]"),
    key(
        "host",
        Some('H'),
        "hosts",
        Kind::List,
        "Address to listen on, unix://PATH or tcp://HOST:PORT; may be repeated [unix:///var/run/hull.sock]",
    ),
    key("pidfile", Some('p'), "pidfile", Kind::Text, "File to write the process id to"),
    key("group", Some('G'), "group", Kind::Text, "Group that may use the Unix socket [hull, else docker]"),
    key("log-level", Some('l'), "log-level", Kind::Text, "debug, info, warn, error or fatal [info]"),
    key("debug", Some('D'), "debug", Kind::Flag, "Log what helps to find faults"),
    key(
        "userns-remap",
        None,
        "userns-remap",
        Kind::Text,
        "Users of containers: default, auto, or USER[:GROUP] of this host [the host's]",
    ),
    key(
        "builder",
        None,
        "builder",
        Kind::Document,
        "What of the builds' cache stays, and what builds may allow",
    ),
    key("cgroup-parent", None, "cgroup-parent", Kind::Text, "Parent of all containers' cgroups [hull]"),
    key(
        "runtime-executable",
        None,
        "runtime-executable",
        Kind::Text,
        "hull-runtime [beside this program, else on PATH]",
    ),
];

/// All keys.
fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(network::KEYS).chain(registries::KEYS)
}

fn command(program: &'static str) -> Command {
    let mut command = Command::new(program)
        .about("Runs the engine: serves the API, owns the containers and images of this host")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(
            Arg::new("config-file")
                .long("config-file")
                .num_args(1)
                .value_name("FILE")
                .default_value(CONFIG_FILE)
                .help("Configuration file; the default one need not exist"),
        )
        .arg(
            Arg::new("validate")
                .long("validate")
                .action(ArgAction::SetTrue)
                .help("Check the configuration and leave"),
        );
    for key in keys().filter(|key| key.kind != Kind::Document) {
        let mut arg = Arg::new(key.flag).long(key.flag).help(key.help);
        if let Some(short) = key.short {
            arg = arg.short(short);
        }
        command = command.arg(match key.kind {
            Kind::Text | Kind::Number | Kind::Document => arg.num_args(1).value_name("VALUE"),
            Kind::List | Kind::Pools => arg.num_args(1).value_name("VALUE").action(ArgAction::Append),
            Kind::Flag => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(clap::value_parser!(bool)),
        });
    }
    command
}

/// A key's value, wherever it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Text(String),
    List(Vec<String>),
    Flag(bool),
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Given::Text(text) => f.write_str(text),
            Given::List(items) => write!(f, "[{}]", items.join(" ")),
            Given::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// Reads the command line and the file it names: one that is named has to be there.
pub(crate) fn read(line: &CommandLine) -> Result<Options> {
    let matches = command(line.program).no_binary_name(true).try_get_matches_from(&line.args)?;
    let named = matches.value_source("config-file") == Some(ValueSource::CommandLine);
    let config_file = PathBuf::from(matches.get_one::<String>("config-file").map_or(CONFIG_FILE, |s| s));
    let flags = from_flags(&matches);
    let text = match std::fs::read_to_string(&config_file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
        Err(source) => return Err(OptionsError::Read { path: config_file, source }),
    };
    let file =
        from_file(&text, &flags).map_err(|what| OptionsError::File { path: config_file.clone(), what })?;
    let mut given = flags;
    given.extend(file);
    resolve(&given, config_file, matches.get_flag("validate"))
}

fn from_flags(matches: &ArgMatches) -> BTreeMap<&'static str, Given> {
    let mut given = BTreeMap::new();
    for key in keys().filter(|key| key.kind != Kind::Document) {
        if matches.value_source(key.flag) != Some(ValueSource::CommandLine) {
            continue;
        }
        let value = match key.kind {
            Kind::Text | Kind::Number => matches.get_one::<String>(key.flag).cloned().map(Given::Text),
            Kind::List | Kind::Pools => {
                matches.get_many::<String>(key.flag).map(|items| Given::List(items.cloned().collect()))
            }
            Kind::Flag => matches.get_one::<bool>(key.flag).copied().map(Given::Flag),
            Kind::Document => None,
        };
        if let Some(value) = value {
            given.insert(key.file, value);
        }
    }
    given
}

/// The file's keys; the message is in the reference's words.
fn from_file(
    text: &str,
    flags: &BTreeMap<&'static str, Given>,
) -> Result<BTreeMap<&'static str, Given>, String> {
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let entries = value.as_object().ok_or("it is not a JSON object")?;
    let unknown: Vec<&str> =
        entries.keys().map(String::as_str).filter(|name| !keys().any(|key| key.file == *name)).collect();
    if !unknown.is_empty() {
        return Err(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        ));
    }
    let mut given = BTreeMap::new();
    let mut twice = Vec::new();
    for key in keys() {
        let Some(value) = entries.get(key.file) else { continue };
        let wrong = || format!("{}: {value} is not {}", key.file, key.kind.noun());
        let value = match (key.kind, value) {
            (Kind::Text, Value::String(text)) => Given::Text(text.clone()),
            (Kind::Flag, Value::Bool(flag)) => Given::Flag(*flag),
            (Kind::Number, Value::Number(number)) => Given::Text(number.to_string()),
            (Kind::Document, Value::Object(_)) => Given::Text(value.to_string()),
            (Kind::Pools, Value::Array(items)) => Given::List(
                items.iter().map(|item| pool_text(item).ok_or_else(wrong)).collect::<Result<_, _>>()?,
            ),
            (Kind::List, Value::Array(items)) => Given::List(
                items
                    .iter()
                    .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                    .collect::<Result<_, _>>()?,
            ),
            _ => return Err(wrong()),
        };
        if let Some(flag) = flags.get(key.file) {
            twice.push(format!("{}: (from flag: {flag}, from file: {value})", key.file));
        }
        given.insert(key.file, value);
    }
    if !twice.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            twice.join(", ")
        ));
    }
    Ok(given)
}

/// `{"base": "10.0.0.0/8", "size": 24}` as the flag has it.
fn pool_text(item: &Value) -> Option<String> {
    let known = item.as_object()?.keys().all(|key| matches!(key.as_str(), "base" | "size"));
    known.then_some(())?;
    Some(format!("base={},size={}", item["base"].as_str()?, item["size"].as_u64()?))
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Text => "a string",
            Kind::List => "a list of strings",
            Kind::Flag => "true or false",
            Kind::Number => "a number",
            Kind::Pools => "a list of objects with a base and a size",
            Kind::Document => "an object",
        }
    }
}

fn resolve(given: &BTreeMap<&'static str, Given>, config_file: PathBuf, validate: bool) -> Result<Options> {
    let text = |key: &str| match given.get(key) {
        Some(Given::Text(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let absolute = |key: &str, default: &str| {
        let path = PathBuf::from(text(key).unwrap_or_else(|| default.into()));
        std::path::absolute(&path).map_err(|source| OptionsError::Read { path, source })
    };
    let listen = match given.get("hosts") {
        Some(Given::List(hosts)) if !hosts.is_empty() => {
            hosts.iter().map(|host| address(host)).collect::<Result<_>>()?
        }
        _ => vec![Listen::Unix("/var/run/hull.sock".into())],
    };
    let log_level = match text("log-level") {
        None => Level::default(),
        Some(word) => Level::parse(&word).ok_or_else(|| OptionsError::Value {
            key: "log-level".into(),
            value: word,
            why: "use debug, info, warn, error or fatal".into(),
        })?,
    };
    let runtime = match text("runtime-executable") {
        Some(path) => PathBuf::from(path),
        None => beside_us("hull-runtime").unwrap_or_else(|| "hull-runtime".into()),
    };
    let (build_cache, build_entitlements) = builder::resolve(&text("builder").unwrap_or_default())?;
    Ok(Options {
        data_root: absolute("data-root", "/var/lib/hull")?,
        exec_root: absolute("exec-root", "/run/hull")?,
        listen,
        pidfile: text("pidfile").map(PathBuf::from),
        group: text("group"),
        config_file,
        log_level,
        debug: matches!(given.get("debug"), Some(Given::Flag(true))),
        cgroup_parent: text("cgroup-parent").unwrap_or_else(|| "hull".into()),
        userns_remap: text("userns-remap").unwrap_or_default(),
        runtime,
        build_cache,
        build_entitlements,
        network: network::resolve(given)?,
        names: network::names(given)?,
        registries: registries::resolve(given)?,
        validate,
    })
}

/// The executable of that name next to our own, else on PATH.
fn beside_us(name: &str) -> Option<PathBuf> {
    let ours = std::env::current_exe().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    std::iter::once(ours.with_file_name(name))
        .chain(on_path.map(|folder| folder.join(name)))
        .find(|path| path.is_file())
}

fn address(text: &str) -> Result<Listen> {
    let wrong =
        |why: &str| OptionsError::Value { key: "host".into(), value: text.to_owned(), why: why.to_owned() };
    match text.split_once("://") {
        Some(("unix", path)) if Path::new(path).is_absolute() => Ok(Listen::Unix(path.into())),
        Some(("unix", _)) => Err(wrong("the path must be absolute")),
        Some(("tcp", rest)) => {
            let address: SocketAddr = rest
                .trim_end_matches('/')
                .parse()
                .map_err(|_| wrong("use an address and a port, as in tcp://127.0.0.1:2375"))?;
            if address.ip().is_loopback() {
                Ok(Listen::Tcp(address))
            } else {
                Err(wrong(
                    "without TLS, which this build does not have yet, everyone who reaches that address is root \
                     here: use a Unix socket, or 127.0.0.1 and a tunnel",
                ))
            }
        }
        Some(("fd", _)) => Err(wrong("socket activation comes with a later build")),
        _ => Err(wrong("use unix://PATH or tcp://ADDRESS:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], file: Option<&str>) -> Result<Options> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.json");
        std::fs::write(&path, file.unwrap_or("{}")).unwrap();
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend([OsString::from("--config-file"), path.into_os_string()]);
        read(&CommandLine { program: "hull daemon", args })
    }

    fn complaint(words: &[&str], file: Option<&str>) -> String {
        let text = parse(words, file).unwrap_err().to_string();
        text.split_once("daemon.json: ").map_or(text.clone(), |(_, rest)| rest.to_owned())
    }

    #[test]
    fn flags_and_file_each_set_what_the_other_does_not() {
        let options = parse(
            &["-H", "unix:///a.sock", "--host=tcp://127.0.0.1:7", "-D", "-l", "warn"],
            Some(r#"{"data-root": "/d", "pidfile": "/p"}"#),
        )
        .unwrap();
        assert_eq!(
            options.listen,
            [Listen::Unix("/a.sock".into()), Listen::Tcp("127.0.0.1:7".parse().unwrap())]
        );
        assert_eq!(options.data_root, Path::new("/d"));
        assert_eq!(options.pidfile.as_deref(), Some(Path::new("/p")));
        assert!(options.debug && options.log_level == Level::Warn);
        assert_eq!(parse(&[], None).unwrap().listen, [Listen::Unix("/var/run/hull.sock".into())]);
    }

    #[test]
    fn a_key_in_both_places_is_refused_by_name() {
        assert_eq!(
            complaint(&["--data-root", "/a", "-D"], Some(r#"{"data-root": "/b", "debug": false}"#)),
            "the following directives are specified both as a flag and in the configuration file: \
             data-root: (from flag: /a, from file: /b), debug: (from flag: true, from file: false)"
        );
        assert_eq!(
            complaint(&["-H", "unix:///a"], Some(r#"{"hosts": ["unix:///b"]}"#)),
            "the following directives are specified both as a flag and in the configuration file: \
             hosts: (from flag: [unix:///a], from file: [unix:///b])"
        );
    }

    #[test]
    fn an_unknown_key_or_a_wrong_type_is_refused_by_name() {
        assert_eq!(
            complaint(&[], Some(r#"{"no-such-key": 1, "debug": true}"#)),
            "the following directives don't match any configuration option: no-such-key"
        );
        assert_eq!(complaint(&[], Some(r#"{"debug": "yes"}"#)), "debug: \"yes\" is not true or false");
        assert_eq!(complaint(&[], Some("[]")), "it is not a JSON object");
        assert_eq!(complaint(&[], Some(r#"{"builder": true}"#)), "builder: true is not an object");
        assert!(complaint(&[], Some(r#"{"builder": {"gc": 1}}"#)).contains("builder"));
    }

    #[test]
    fn an_address_open_to_others_is_refused() {
        for host in ["tcp://0.0.0.0:2375", "tcp://[::]:2375", "tcp://localhost", "unix://rel", "x"] {
            assert!(complaint(&["-H", host], None).starts_with("invalid value"), "{host}");
        }
    }
}
