//! Being the foreground: signals go to the container's process, its terminal is ours.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use hull_sys::process;
use hull_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios};

use crate::failure::{Failure, Of, Result};

/// All signals but those that cannot or must not be held back, to be passed on.
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocked before the container is made, so that none comes between.
    pub(crate) fn block() -> Result<Signals> {
        // Faults of our own are ours, and stopping is for both: the shell's job control.
        let own = [
            Signal::KILL,
            Signal::STOP,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
            Signal::SEGV,
            Signal::BUS,
            Signal::ILL,
            Signal::FPE,
            Signal::ABORT,
            Signal::PIPE,
        ]
        .map(Signal::as_raw);
        let numbers: Vec<i32> = (1..=31).filter(|number| !own.contains(number)).collect();
        Ok(Signals { fd: SignalFd::new(&numbers).of(|| "signals".into())? })
    }
}

/// Waits for the process, passing on what comes, and ends as it did.
pub(crate) fn attend(signals: &Signals, pidfd: &OwnedFd, terminal: Option<OwnedFd>) -> Result<ExitCode> {
    let raw = terminal.as_ref().and_then(Raw::enter);
    if let Some(master) = &terminal {
        copy_size(master);
    }
    let mut open = true;
    loop {
        let mut polled = vec![PollFd::new(&signals.fd, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        if let Some(master) = terminal.as_ref() {
            polled.push(PollFd::new(master, PollFlags::IN));
            if open {
                polled.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut polled, None)).of(|| "poll".into())?;
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            pass_signals(signals, pidfd, terminal.as_ref())?;
        }
        if let Some(master) = &terminal {
            if ready[2] {
                copy(master.as_fd(), rustix::stdio::stdout());
            }
            if ready.get(3) == Some(&true) {
                open = copy(rustix::stdio::stdin(), master.as_fd());
            }
        }
        if ready[1] {
            break;
        }
    }
    if let Some(master) = &terminal {
        drain(master);
    }
    drop(raw);
    let ended = process::wait(pidfd, true).of(|| "wait".into())?;
    let ended = ended.ok_or_else(|| Failure::new("the process runs on"))?;
    Ok(ExitCode::from(u8::try_from(ended.code() & 0xff).unwrap_or(255)))
}

fn pass_signals(signals: &Signals, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) -> Result<()> {
    while let Some(received) = signals.fd.read().of(|| "signals".into())? {
        if received.number == Signal::CHILD.as_raw() {
            continue;
        }
        if let (true, Some(master)) = (received.number == Signal::WINCH.as_raw(), terminal) {
            copy_size(master);
            continue;
        }
        // A process that has just ended needs none.
        let _ = process::signal(pidfd, received.number);
    }
    Ok(())
}

/// One read passed on; false at the end.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0u8; 16 * 1024];
    let Ok(len) = rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut buffer)) else { return false };
    let mut rest = &buffer[..len];
    while !rest.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(&to, rest)) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return false,
        }
    }
    len > 0
}

/// What the container wrote before it ended. Others of its terminal may live on: nobody waits.
fn drain(master: &OwnedFd) {
    loop {
        let mut polled = [PollFd::new(master, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready =
            poll(&mut polled, Some(&now)).unwrap_or(0) > 0 && polled[0].revents().contains(PollFlags::IN);
        if !ready || !copy(master, rustix::stdio::stdout()) {
            return;
        }
    }
}

fn copy_size(master: &OwnedFd) {
    // Standard input may be no terminal; then the container's keeps its size.
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Our own terminal in raw mode while this lives.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter(_master: &OwnedFd) -> Option<Raw> {
        let before = rustix::termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.before);
    }
}
