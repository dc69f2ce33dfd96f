//! `hull registry`: the registry's words. What they do is [`hull_registry::server`]'s.
//!
//! A registry is a process of its own, beside a daemon or without one. SIGTERM and SIGINT end it after the
//! requests under way, SIGHUP has it read users and certificates again, SIGUSR1 collects garbage.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use hull_registry::server::{Auth, Options, Order, Policy, Registry, Store, StoreError, Tls};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use crate::units;

const PROGRAM: &str = "hull registry";
const ROOT: &str = "/var/lib/hull-registry";
const ADDRESS: &str = "127.0.0.1:5000";

/// Runs the words after `hull registry`: 0 when it is done or was told to stop, 1 if it failed.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let matches = match command().no_binary_name(true).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // Nobody to tell if even that fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let done = match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("gc", matches)) => collect(matches),
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{PROGRAM}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn value(name: &'static str, metavariable: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).num_args(1).value_name(metavariable).help(help)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn root() -> Arg {
    value("root", "DIR", "Folder that everything is kept in").default_value(ROOT)
}

fn garbage(command: Command) -> Command {
    command
        .arg(value("gc-grace", "TIME", "Keep so long what no manifest names yet").default_value("1h"))
        .arg(flag("delete-untagged", "Also remove manifests that no tag leads to"))
}

fn command() -> Command {
    let serve = Command::new("serve")
        .about("Serve a registry of images")
        .arg(value("addr", "HOST:PORT", "Address to listen on").default_value(ADDRESS))
        .arg(root())
        .arg(value("tls-cert", "FILE", "Certificate chain in PEM").requires("tls-key"))
        .arg(value("tls-key", "FILE", "Its key in PEM").requires("tls-cert"))
        .arg(value("htpasswd", "FILE", "Users, who may do everything (of htpasswd -B)"))
        .arg(value("users", "FILE", "Users, and what each may do; tokens are given out at /token"))
        .group(ArgGroup::new("who").args(["htpasswd", "users"]))
        .arg(value("url", "URL", "How clients reach it, for the address of tokens [as they ask]"))
        .arg(flag("read-only", "Refuse pushes and deletions"))
        .arg(
            value("warning", "TEXT", "Text that clients show to their users; may be repeated")
                .action(ArgAction::Append),
        )
        .arg(value("metrics-addr", "HOST:PORT", "Address of /metrics and /healthz [none]"))
        .arg(
            value("gc-interval", "TIME", "Collect garbage so often; 0: only when asked").default_value("24h"),
        )
        .arg(value("log-level", "LEVEL", "debug, info, warn or error").default_value("info"));
    let gc = Command::new("gc")
        .about(
            "Remove what no manifest names: here, or in the registry that serves the folder (its log tells)",
        )
        .arg(root())
        .arg(flag("dry-run", "Only count"));
    Command::new(PROGRAM)
        .about("A registry of images")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(garbage(serve))
        .subcommand(garbage(gc))
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    text(matches, name).map(PathBuf::from)
}

fn duration(matches: &ArgMatches, name: &str) -> anyhow::Result<Duration> {
    let given = text(matches, name).unwrap_or_default();
    let nanoseconds = if given == "0" { Some(0) } else { units::go_duration(given) };
    match nanoseconds.and_then(|nanoseconds| u64::try_from(nanoseconds).ok()) {
        Some(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        None => bail!("--{name} {given}: not a time such as 90s, 10m or 24h"),
    }
}

fn address(matches: &ArgMatches, name: &str) -> anyhow::Result<Option<SocketAddr>> {
    let Some(given) = text(matches, name) else { return Ok(None) };
    // `:5000` is every address, as elsewhere in the field.
    let whole = if given.starts_with(':') { format!("0.0.0.0{given}") } else { given.to_owned() };
    match whole.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => bail!("--{name} {given}: not an address such as 127.0.0.1:5000, [::]:5000 or :5000"),
    }
}

fn policy(matches: &ArgMatches) -> anyhow::Result<Policy> {
    Ok(Policy {
        grace: duration(matches, "gc-grace")?,
        untagged: matches.get_flag("delete-untagged"),
        ..Policy::default()
    })
}

fn options(matches: &ArgMatches) -> anyhow::Result<Options> {
    let listen = address(matches, "addr")?.context("--addr is missing")?;
    let auth = match (path(matches, "htpasswd"), path(matches, "users")) {
        (Some(file), _) => Auth::Htpasswd(file),
        (None, Some(file)) => Auth::Users(file),
        (None, None) => Auth::Open,
    };
    let tls = match (path(matches, "tls-cert"), path(matches, "tls-key")) {
        (Some(certificates), Some(key)) => Some(Tls { certificates, key }),
        _ => None,
    };
    let every = duration(matches, "gc-interval")?;
    Ok(Options {
        tls,
        auth,
        url: text(matches, "url").map(str::to_owned),
        read_only: matches.get_flag("read-only"),
        warnings: matches
            .get_many::<String>("warning")
            .map(|texts| texts.cloned().collect())
            .unwrap_or_default(),
        metrics: address(matches, "metrics-addr")?,
        collection: policy(matches)?,
        collect_every: Some(every).filter(|every| !every.is_zero()),
        ..Options::open(path(matches, "root").unwrap_or_else(|| ROOT.into()), listen)
    })
}

/// Of the heap. Sixteen clients at once hold a third less than with one for each thread.
const ARENAS: u8 = 2;

fn serve(matches: &ArgMatches) -> anyhow::Result<()> {
    let options = options(matches)?;
    hull_sys::memory::share_arenas(ARENAS);
    let level = match text(matches, "log-level").unwrap_or_default() {
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        other => bail!("--log-level {other}: none of debug, info, warn, error"),
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colours).init();
    crate::open_files::raise();
    // What is kept is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hull-registry")
        .build()
        .context("start the async runtime")?;
    let served = runtime.block_on(serve_until_told(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn serve_until_told(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let (open, tls) = (matches!(options.auth, Auth::Open), options.tls.is_some());
    let registry = Registry::open(options).await?;
    let address = registry.address()?;
    if !address.ip().is_loopback() {
        match (open, tls) {
            (true, _) => tracing::warn!(%address, "whoever reaches this address may push and delete"),
            (false, false) => {
                tracing::warn!(%address, "passwords cross the network as they are: use --tls-cert")
            }
            (false, true) => {}
        }
    }
    tracing::info!(%address, tls, "listening");
    let (orders, received) = mpsc::channel(1);
    let mut serving = tokio::spawn(registry.serve(received));
    loop {
        let order = tokio::select! {
            _ = terminate.recv() => Order::Stop,
            _ = interrupt.recv() => Order::Stop,
            _ = hangup.recv() => Order::Reload,
            _ = user.recv() => Order::Collect,
            ended = &mut serving => return ended.context("the registry failed"),
        };
        if order == Order::Stop {
            tracing::info!("stopping");
        }
        // Only a registry that has ended does not listen.
        let _ = orders.send(order).await;
    }
}

fn collect(matches: &ArgMatches) -> anyhow::Result<()> {
    let root = path(matches, "root").unwrap_or_else(|| ROOT.into());
    let policy = Policy { dry_run: matches.get_flag("dry-run"), ..policy(matches)? };
    if !root.join("repositories").is_dir() {
        bail!("{} is no registry's folder: name it by --root", root.display());
    }
    let store = match Store::open(&root) {
        Ok(store) => store,
        Err(StoreError::Locked { pid: Some(pid), .. }) if !policy.dry_run => return tell(&root, pid),
        Err(error) => return Err(error.into()),
    };
    let collected = store.collect(&policy)?;
    let done = if policy.dry_run { "would remove" } else { "removed" };
    writeln!(
        std::io::stdout(),
        "{done} {} blobs of {} bytes, {} entries, {} manifests, {} uploads",
        collected.blobs,
        collected.bytes,
        collected.links,
        collected.manifests,
        collected.uploads.len()
    )?;
    Ok(())
}

/// The registry that has the folder does it itself, by what it was told when it was started.
fn tell(root: &Path, pid: i32) -> anyhow::Result<()> {
    let process = Pid::from_raw(pid).filter(|_| pid > 0).context("the lock names no process")?;
    // It may be another's number: by a restart meanwhile, or in another container's count.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !is_registry(&line) {
        bail!(
            "process {pid}, which {} names, is no registry here: run it where the registry runs",
            root.join("lock").display()
        );
    }
    kill_process(process, Signal::USR1).with_context(|| format!("signal process {pid}"))?;
    writeln!(
        std::io::stdout(),
        "the registry that serves {} (process {pid}) collects now: its log tells what it removed",
        root.display()
    )?;
    Ok(())
}

/// Whether a command line, as proc(5) has it, is of `hull registry serve`.
fn is_registry(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair == [&b"registry"[..], b"serve"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_collected_in_a_registrys_folder_and_by_a_registry() {
        let folder = tempfile::tempdir().unwrap();
        let line = ["gc", "--root", folder.path().to_str().unwrap()];
        let matches = command().no_binary_name(true).try_get_matches_from(line).unwrap();
        let refused = collect(matches.subcommand().unwrap().1).unwrap_err().to_string();
        assert!(refused.contains("no registry's folder"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(is_registry(b"/usr/bin/hull\0registry\0serve\0--root\0/r\0"));
        assert!(!is_registry(b"/sbin/init\0") && !is_registry(b"hull\0registry\0gc\0") && !is_registry(b""));
        // This process is none, so it is not signalled: that would end it.
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(tell(folder.path(), own).unwrap_err().to_string().contains("is no registry here"));
    }

    fn check(line: &str) -> anyhow::Result<Options> {
        let matches = command().no_binary_name(true).try_get_matches_from(line.split(' '))?;
        options(matches.subcommand().context("no word")?.1)
    }

    #[test]
    fn flags_become_options_or_are_refused_by_name() {
        let plain = check("serve").unwrap();
        assert_eq!((plain.address, plain.root), (ADDRESS.parse().unwrap(), ROOT.into()));
        assert!(matches!(plain.auth, Auth::Open) && plain.collect_every == Some(Duration::from_secs(86_400)));
        let full = check(
            "serve --addr :5001 --users u.json --read-only --warning one --warning two --gc-interval 0 \
             --gc-grace 10m --delete-untagged --metrics-addr [::1]:9 --tls-cert c --tls-key k",
        );
        let full = full.unwrap();
        assert_eq!(full.address, "0.0.0.0:5001".parse().unwrap());
        assert_eq!(full.warnings, ["one", "two"]);
        assert!(matches!(full.auth, Auth::Users(_)) && full.read_only && full.collect_every.is_none());
        assert!(full.collection.untagged && full.collection.grace == Duration::from_secs(600));
        for wrong in [
            "serve --addr nowhere",
            "serve --tls-cert c",
            "serve --htpasswd a --users b",
            "serve --gc-interval soon",
            "serve --no-such-flag",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
