//! Developer commands: everything a person or CI does with this repository, in one place.
//!
//! `cargo xtask demo` and `cargo xtask test` are the two commands of the README: they install
//! what is missing, and stop with one line when the machine cannot run containers. The other
//! commands are their parts.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod bench;
mod build;
mod demo;
mod machine;
mod soak;
mod test;
mod tidy;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

Commands:
  build   Build the release executables (hull, hull-runtime) into target/dist
  demo    Build, start a private daemon, and show what it does
  test    Install what the tests need and run all of them (as root)
  bench   Measure Hull beside the peers of this machine (as root)
  vm      Run privileged tests in a virtual machine with cgroup v2 and Debian's kernel (as root)
  soak    Run the races that chance decides for long, all or those named (as root)
  unit    Run the tests that need no privileges, and the style checks
  tidy    Check the arrows between crates and the house rules
  ci      fmt, clippy, tidy, test: what continuous integration runs";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_str() {
        "build" => build::release().map(|dist| println!("built: {}", dist.display())),
        "demo" => demo::run(&rest),
        "test" => test::all(&rest),
        "bench" => bench::run(&rest),
        "vm" => vm::run(&rest),
        "soak" => soak::run(&rest),
        "unit" => test::unit(),
        "tidy" => tidy::run(),
        "ci" => test::ci(),
        "" | "-h" | "--help" | "help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("unknown command {other:?}\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Runs a command to its end; its output goes where ours goes.
fn execute(command: &mut std::process::Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| anyhow::anyhow!("cannot run {}: {error}", command.get_program().display()))?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        bail!("{} {} ended with {status}", command.get_program().display(), words.join(" "));
    }
    Ok(())
}

/// A `cargo` of the toolchain that built us, in the repository.
fn cargo() -> std::process::Command {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
