//! Places in the code at which a test can kill the process (compiled in by the feature
//! `failpoints`, which only test builds have; without it a failpoint is nothing).
//!
//! The environment variable `HULL_FAILPOINTS` of the daemon, handed on to the spawner it starts, is
//! either a point's name: every process that passes it kills itself with SIGKILL. Or it is the
//! absolute path of a file that holds one line, `NAME` or `NAME COUNT`: the process that passes
//! that point (for the COUNT-th time, counted over all processes) removes the file before it kills
//! itself. So a test arms a point by writing the file, at any time, and it fires once.
//!
//! The names that exist:
//!
//! | name | where |
//! |---|---|
//! | `spawner.launch.before-fork` | spawner: a launch was understood, nothing is forked |
//! | `spawner.launch.after-fork` | spawner: the shim is forked, not yet noted |
//! | `shim.start.before` | shim: its folder, record and socket are made, the process is not |
//! | `shim.start.after` | shim: the process runs, nobody was told |
//! | `shim.started` | shim: started was said |
//! | `shim.exit.reaped` | shim: the process has ended, its output is not yet read to the end |
//! | `shim.exit.before-record` | shim: log and cgroup are done with, the exit is not recorded |
//! | `shim.exit.before-announce` | shim: the exit is recorded and not announced |
//! | `shim.exit.announced` | shim: the exit was announced, the shim still there |

/// The environment variable that names the file.
pub const VARIABLE: &str = "HULL_FAILPOINTS";

/// Kills this process if a test has armed the point `$name`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// The process has come to the point `name`.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    let Some(file) = std::env::var_os(VARIABLE) else {
        return;
    };
    if file == name {
        die();
    }
    let Ok(text) = std::fs::read_to_string(&file) else {
        return;
    };
    let (armed, count) = text.trim().split_once(' ').unwrap_or((text.trim(), "1"));
    if armed != name {
        return;
    }
    match count.parse::<u32>() {
        Ok(count) if count > 1 => {
            let _ = std::fs::write(&file, format!("{name} {}", count - 1));
        }
        _ => {
            let _ = std::fs::remove_file(&file);
            die();
        }
    }
}

#[cfg(feature = "failpoints")]
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}
