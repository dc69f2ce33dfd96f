//! The container engine: client and daemon in one executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    hull_cli::main(std::env::args_os().collect())
}
