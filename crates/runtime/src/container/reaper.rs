//! `--init`: a pid 1 of ours that starts the program, passes signals on and reaps orphans.
//!
//! It is the container's first process itself, which forked once more instead of executing: no file
//! of the image or the host is run. It has dropped everything the program has dropped, has no
//! descriptor but the standard streams, and stays not dumpable, so the container cannot look into
//! what it is a copy of. The program is executed only when those descriptors are gone.

use std::convert::Infallible;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use hull_sys::error::During;
use hull_sys::process::{self, Child};
use hull_sys::signal;

use super::failure::{OrFail, Result};

/// Set once before [`reap_forever`], which can be given nothing.
static CHILD: OnceLock<i32> = OnceLock::new();

/// What `ps` in the container shows of pid 1.
const NAME: &[u8] = b"hull-init";
/// Longer command lines are left as they are; the spawner's is two paths.
const COMMAND_LINE_MAX: u64 = 1 << 20;

/// Overwrites the command line: it is the spawner's, with paths of the host that the container has
/// no business to read. While /proc is still the host's. `None` if that failed: the container runs
/// all the same.
pub(super) fn rename() -> Option<()> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // proc_pid_stat(5): fields 48 and 49 bound the arguments; the one after the name is the third.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let start: u64 = fields.nth(45)?.parse().ok()?;
    let end: u64 = fields.next()?.parse().ok()?;
    let length = end.checked_sub(start).filter(|length| *length <= COMMAND_LINE_MAX)?;
    let mut words = vec![0; usize::try_from(length).ok()?];
    let kept = NAME.len().min(words.len().saturating_sub(1));
    words.get_mut(..kept)?.copy_from_slice(NAME.get(..kept)?);
    fs::OpenOptions::new().write(true).open("/proc/self/mem").ok()?.write_all_at(&words, start).ok()
}

/// Blocks all signals, so that none is lost between the fork and the loop.
pub(super) fn block() -> Result<()> {
    signal::block_only(&all()).or_host()
}

fn all() -> Vec<i32> {
    (1..=signal::MAX).collect()
}

/// A pipe whose end comes when the reaper has closed all that it has: it keeps the second
/// descriptor, which goes with the others.
pub(super) fn pledge() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("pipe2", || "O_CLOEXEC").or_host()
}

/// In the child: signals as they were, and the leader of the terminal's foreground group. Comes
/// back when `gone` has ended: nothing of the container runs beside a reaper with descriptors.
pub(super) fn lead(terminal: bool, gone: &OwnedFd) -> Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::read(gone, &mut [0u8; 1]))
        .during("read", || "a pipe")
        .or_host()?;
    rustix::process::setpgid(None, None).during("setpgid", || "0, 0").or_host()?;
    if terminal {
        let group = rustix::process::getpgrp();
        // SIGTTOU is blocked here still: a background group may take the terminal.
        rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group)
            .during("ioctl", || "TIOCSPGRP")
            .or_host()?;
    }
    signal::block_only(&[]).or_host()
}

/// Never comes back: ends with the program's code.
pub(super) fn run(child: Child) -> ! {
    let _ = CHILD.set(child.pid.as_raw_nonzero().get());
    let _ = rustix::thread::set_name(c"hull-init");
    process::close_from_and(3, reap_forever)
}

fn reap_forever() -> Infallible {
    let child = CHILD.get().copied().unwrap_or(0);
    let child_signal = rustix::process::Signal::CHILD.as_raw();
    let all = all();
    loop {
        let Ok(received) = signal::wait(&all) else { process::exit_now(255) };
        if received.number != child_signal {
            // Sent to us means sent to the program; one that has ended is reaped in a moment.
            let _ = process::kill(child, received.number);
            continue;
        }
        while let Ok(Some((pid, ended))) = process::reap() {
            if pid.as_raw_nonzero().get() == child {
                process::exit_now(ended.code());
            }
        }
    }
}
