//! The container engine: client, daemon and registry in one executable.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as_daemon =
        arguments.first().and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == "dockerd");
    // The daemon is given its flags only.
    if called_as_daemon {
        return hull_daemon::main("dockerd", arguments.into_iter().skip(1).collect());
    }
    if arguments.get(1).is_some_and(|word| word == "daemon") {
        return hull_daemon::main("hull daemon", arguments.into_iter().skip(2).collect());
    }
    if arguments.get(1).is_some_and(|word| word == "registry") {
        return hull_daemon::registry::main(arguments.into_iter().skip(2).collect());
    }
    hull_cli::main(arguments)
}
