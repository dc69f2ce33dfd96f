//! HTTP routes, daemon.json and the wiring of one host's services: `hull daemon`.
//!
//! ```text
//! options ── flags and daemon.json → Options
//! listen ─── sockets and the pid file
//! open_files  as many as the host allows
//! serve ──── accept, one task a connection, HTTP/1.1 with limits
//! hijack ─── a connection becomes a container's stream; detach: the keys that leave it
//! http ───── one request: query, body, failure → status
//! translate  Docker's words → the engine's values
//! routes ─── one module per resource; show: the engine's views → Docker's words
//! registry ─ the words of `hull registry`, which is a process of its own
//! ```
//!
//! Start: options are read and everything is checked that can be, then the engine opens (and
//! finds its containers again), and only then do the sockets appear: who can connect is served.

mod detach;
mod hijack;
mod http;
mod listen;
mod open_files;
mod options;
mod piped;
pub mod registry;
mod routes;
mod serve;
mod translate;
mod units;
mod upload;
#[cfg(test)]
mod wire_tests;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hull_engine::{Config, Engine};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::listen::PidFile;
use crate::options::{CommandLine, Listen, Options, OptionsError};
use crate::serve::Listener;

/// What the handlers of all requests share.
pub(crate) struct Server {
    pub engine: Engine,
    /// Of this data root; made once.
    pub id: String,
    pub facts: translate::Facts,
    /// The log level is `debug`.
    pub debug: AtomicBool,
    /// Clients that listen for events now.
    pub listeners: AtomicU64,
}

/// How long requests that run when the daemon is told to stop may still take.
const GRACE: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to stop. `args` are the words after `program`, which is what it
/// was called: `hull daemon` or `dockerd`. 0 after SIGTERM or SIGINT, 1 if it could not start.
pub fn main(program: &'static str, args: Vec<OsString>) -> ExitCode {
    let line = CommandLine { program, args };
    let options = match options::read(&line) {
        Ok(options) => options,
        Err(OptionsError::CommandLine(error)) => {
            // Nobody to tell if even that fails.
            let _ = error.print();
            // The reference's daemon ends with 1 for a wrong flag, too; help is no failure.
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
        Err(error) => return fail(program, &http::chain(&error)),
    };
    if options.validate {
        let _ = writeln!(std::io::stdout(), "configuration OK");
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        return fail(program, "the daemon needs root: start it with sudo, or as a service");
    }
    match run(&line, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, &format!("{error:#}")),
    }
}

fn fail(program: &str, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{program}: {message}");
    ExitCode::FAILURE
}

/// Of the heap. One for each of the ten threads held 0.3 MiB more when nothing ran.
const ARENAS: u8 = 2;

type LogHandle = tracing_subscriber::reload::Handle<LevelFilter, tracing_subscriber::Registry>;

fn run(line: &CommandLine, options: &Options) -> anyhow::Result<()> {
    hull_sys::memory::share_arenas(ARENAS);
    let log = start_log(options);
    let open_files = open_files::raise();
    // Every file made from here on is root's alone unless it says otherwise.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    listen::check(&options.listen)?;
    folder(&options.data_root, 0o711)?;
    folder(&options.exec_root, 0o711)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hull-daemon")
        .build()
        .context("start the async runtime")?;
    let result = runtime.block_on(serve_until_told(line, options, open_files, &log));
    // A blocking task that hangs does not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve_until_told(
    line: &CommandLine,
    options: &Options,
    open_files: (u64, u64),
    log: &LogHandle,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let engine = Engine::open(config(options, open_files)).await.context("open the engine")?;
    let server = Arc::new(Server {
        id: engine_id(&options.data_root)?,
        facts: facts(&engine),
        engine: engine.clone(),
        debug: AtomicBool::new(options.debug),
        listeners: AtomicU64::new(0),
    });
    let pidfile = options.pidfile.as_deref().map(PidFile::write).transpose()?;
    let listeners: Vec<Listener> = options
        .listen
        .iter()
        .map(|address| listen::open(address, options.group.as_deref()))
        .collect::<Result<_, _>>()?;
    let (stop, stopped) = watch::channel(false);
    let places = serve::places();
    for listener in listeners {
        tokio::spawn(serve::accept(Arc::clone(&server), listener, Arc::clone(&places), stopped.clone()));
    }
    for address in &options.listen {
        tracing::info!(?address, "listening");
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(line, options, log, &server),
        }
    }
    tracing::info!("stopping; containers go on");
    for address in &options.listen {
        if let Listen::Unix(path) = address {
            // Somebody may have taken it away already.
            let _ = std::fs::remove_file(path);
        }
    }
    // Ignored only if no connection is left to hear it.
    let _ = stop.send(true);
    drop(stopped);
    if tokio::time::timeout(GRACE, stop.closed()).await.is_err() {
        tracing::info!("some clients were cut off");
    }
    engine.close().await;
    drop(pidfile);
    Ok(())
}

fn config(options: &Options, open_files: (u64, u64)) -> Config {
    Config {
        data_root: options.data_root.clone(),
        exec_root: options.exec_root.clone(),
        runtime: options.runtime.clone(),
        cgroup_parent: options.cgroup_parent.clone(),
        userns_remap: options.userns_remap.clone(),
        build_cache: options.build_cache.clone(),
        build_entitlements: options.build_entitlements.clone(),
        network: options.network.clone(),
        dns: options.names.servers.clone(),
        dns_search: options.names.search.clone(),
        dns_options: options.names.options.clone(),
        open_files: Some(open_files),
        registries: options.registries.hosts(),
        ..Config::default()
    }
}

/// What the host has, for checking requests.
fn facts(engine: &Engine) -> translate::Facts {
    let cpus = engine.host().facts.cpus.max(1);
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    translate::Facts { cpus, online: online.trim().to_owned() }
}

/// SIGHUP: reads the file again. The log's level changes; what cannot change while running keeps
/// its value and is named.
fn reload(line: &CommandLine, before: &Options, log: &LogHandle, server: &Server) {
    let after = match options::read(line) {
        Ok(after) => after,
        Err(error) => {
            tracing::error!(error = %http::chain(&error), "the configuration is not reloaded");
            return;
        }
    };
    for (key, same) in [
        ("data-root", before.data_root == after.data_root),
        ("exec-root", before.exec_root == after.exec_root),
        ("hosts", before.listen == after.listen),
        ("pidfile", before.pidfile == after.pidfile),
        ("group", before.group == after.group),
        ("cgroup-parent", before.cgroup_parent == after.cgroup_parent),
        ("userns-remap", before.userns_remap == after.userns_remap),
        ("runtime-executable", before.runtime == after.runtime),
        (
            "builder",
            before.build_cache == after.build_cache && before.build_entitlements == after.build_entitlements,
        ),
        ("the keys of networks", before.network == after.network && before.names == after.names),
    ] {
        if !same {
            tracing::warn!(key, "changed in the file; it takes a restart");
        }
    }
    server.debug.store(after.debug, Ordering::Relaxed);
    if let Err(error) = log.reload(filter(&after)) {
        tracing::error!(%error, "the log's level is not changed");
    }
    tracing::info!("configuration reloaded");
}

fn start_log(options: &Options) -> LogHandle {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter(options));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second one in the same process is only a test's.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    handle
}

fn filter(options: &Options) -> LevelFilter {
    if options.debug { LevelFilter::DEBUG } else { options.log_level.filter() }
}

/// Makes a folder, or corrects the mode of one that is there: others may pass, not look.
fn folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .with_context(|| format!("make {}", path.display()))
}

/// The engine's own id, made once for a data root.
fn engine_id(data_root: &Path) -> anyhow::Result<String> {
    let path = data_root.join("engine-id");
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("get random bytes")?;
    // A UUID of version 4 (RFC 9562).
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let early = data_root.join("engine-id.new");
    std::fs::write(&early, format!("{id}\n"))
        .and_then(|()| std::fs::rename(&early, &path))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(id)
}

#[doc(hidden)]
pub mod fuzz {
    //! Entry points for a fuzzer.

    /// A whole creation: decoding and translation. May refuse, may not panic.
    pub fn fuzz_create(data: &[u8]) {
        if let Ok(request) = hull_api::create::CreateRequest::decode(data) {
            let facts = crate::translate::Facts { cpus: 2, online: "0-1".into() };
            let _ = crate::translate::create(None, request, &facts, Default::default());
        }
    }

    /// A query string and what is read from it.
    pub fn fuzz_query(data: &[u8]) {
        if let Ok(text) = std::str::from_utf8(data) {
            let query = crate::http::Query::parse(text);
            let _ = (query.flag("all"), query.number("limit"), query.filters());
            let _ = crate::detach::Keys::parse(query.text("detachKeys"));
        }
    }
}
