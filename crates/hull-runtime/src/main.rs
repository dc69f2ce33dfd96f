//! The OCI runtime, the spawner, the shims and the workers: everything that touches a container.
//!
//! As `hull-runtime spawner …` it is the engine's: see `hull_runtime::spawner`. With any other word
//! it is a runtime by itself, as runc and crun are, for podman, containerd and people. One thread,
//! always: what forks must have no other.

mod args;
mod clock;
mod console;
mod documents;
mod failure;
mod launch;
mod manage;
mod signals;
mod state;

use std::io::Write;
use std::process::ExitCode;

use hull_runtime::spawner;

use args::{Command, Global};
use failure::{Failure, Of, Result};

/// Writes to standard output; a reader that has gone is no failure of ours.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let [command, exec_root, socket] = words.as_slice()
        && command == "spawner"
    {
        let options = spawner::Options { exec_root: exec_root.into(), socket: socket.into() };
        let Err(error) = spawner::run(options);
        return fail(&Global::default(), &Failure::new(format!("spawner: {error}")));
    }
    let (global, command) = match args::parse(words) {
        Ok(parsed) => parsed,
        Err(error) => return fail(&Global::default(), &Failure::new(error.to_string())),
    };
    match perform(&global, command) {
        Ok(code) => code,
        Err(failure) => fail(&global, &failure),
    }
}

fn fail(global: &Global, failure: &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "hull-runtime: {}", failure.message);
    if let Some(path) = &global.log {
        failure::log(path, global.log_json, "error", &failure.message);
    }
    ExitCode::from(failure.code)
}

fn perform(global: &Global, command: Command) -> Result<ExitCode> {
    match command {
        Command::Create(create) => launch::create(global, &create),
        Command::Run(create) => launch::run(global, &create),
        Command::Start { id } => launch::start(global, &id),
        Command::Exec(exec) => launch::exec(global, &exec),
        Command::State { id } => manage::state(global, &id),
        Command::Kill { id, signal, all } => manage::kill(global, &id, &signal, all),
        Command::Delete { id, force } => manage::delete(global, &id, force),
        Command::List { json, quiet } => manage::list(global, json, quiet),
        Command::Ps { id, json, options } => manage::ps(global, &id, json, &options),
        Command::Pause { id } => manage::pause(global, &id),
        Command::Resume { id } => manage::resume(global, &id),
        Command::Update(update) => manage::update(global, &update),
        Command::Features => print(format!("{:#}\n", documents::features())),
        Command::Spec { bundle } => spec(&bundle.join("config.json")),
        Command::Version => print(format!(
            "hull-runtime version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            hull_oci::runtime::VERSION
        )),
        Command::Help => print(args::HELP.to_owned()),
    }
}

fn print(text: String) -> Result<ExitCode> {
    say(&text);
    Ok(ExitCode::SUCCESS)
}

fn spec(path: &std::path::Path) -> Result<ExitCode> {
    let shown = || path.display().to_string();
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).of(shown)?;
    writeln!(file, "{:#}", documents::example()).of(shown)?;
    Ok(ExitCode::SUCCESS)
}
