//! The OCI runtime, the spawner, the shims and the workers: everything that touches a container.

use std::ffi::OsString;
use std::process::ExitCode;

use hull_runtime::spawner;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [command, exec_root, socket] if command == "spawner" => {
            let options = spawner::Options { exec_root: exec_root.into(), socket: socket.into() };
            let Err(error) = spawner::run(options);
            complain(&format!("spawner: {error}"))
        }
        _ => complain("usage: hull-runtime spawner EXEC_ROOT SOCKET"),
    }
}

#[expect(clippy::print_stderr, reason = "the edge at which errors are printed")]
fn complain(message: &str) -> ExitCode {
    eprintln!("hull-runtime: {message}");
    ExitCode::FAILURE
}
