//! Signals as something to read, and their dispositions.
//!
//! Hull handles no signal in a handler. What a process waits for it blocks and reads from a
//! descriptor next to its other descriptors (signalfd(2)). A child that will run someone else's
//! program gives everything back first ([`reset`]): a blocked or ignored signal survives exec
//! (signal(7)), and Rust's start-up ignores SIGPIPE.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{During, Errno, Result};
use crate::process::last_error;

/// Signal numbers: the highest that Linux has.
pub const MAX: i32 = 64;

/// Blocked signals that are read instead.
#[derive(Debug)]
pub struct SignalFd {
    pub fd: OwnedFd,
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A signal that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub number: i32,
    /// The sender, as this pid namespace numbers it; 0 from outside of it or from the kernel.
    pub pid: i32,
}

fn set_of(numbers: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the whole set; sigaddset changes an initialised one and
    // refuses numbers that do not exist.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for number in numbers {
            libc::sigaddset(&raw mut set, *number);
        }
        set
    }
}

/// Blocks exactly these signals in the calling thread (sigprocmask(2) with SIG_SETMASK).
pub fn block_only(numbers: &[i32]) -> Result<()> {
    let set = set_of(numbers);
    // SAFETY: `set` is an initialised signal set; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code)).during("sigprocmask", || format!("{numbers:?}")),
    }
}

impl SignalFd {
    /// Blocks exactly `numbers` in the calling thread and makes a non-blocking descriptor to read
    /// them from, closed on exec.
    pub fn new(numbers: &[i32]) -> Result<Self> {
        block_only(numbers)?;
        let set = set_of(numbers);
        // SAFETY: an initialised set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_error()).during("signalfd", || format!("{numbers:?}"));
        }
        // SAFETY: the kernel has just opened it for us.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal, `None` when none is waiting. SIGCHLD may stand for many children.
    pub fn read(&self) -> Result<Option<Received>> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer)) {
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno).during("read", || format!("signalfd {}", self.fd.as_raw_fd())),
            Ok(_) => {
                let word = |at: usize| i32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap_or([0; 4]));
                // signalfd(2): ssi_signo, ssi_errno, ssi_code, ssi_pid, each of 32 bits.
                Ok(Some(Received { number: word(0), pid: word(12) }))
            }
        }
    }
}

/// Waits for one of these signals, which must be blocked, without a descriptor (sigwaitinfo(2)).
pub fn wait(numbers: &[i32]) -> Result<Received> {
    let set = set_of(numbers);
    loop {
        // SAFETY: siginfo_t is plain data that the call fills in.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: an initialised set and a valid place for the answer.
        let number = unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) };
        if number > 0 {
            // SAFETY: si_pid is set for signals sent by processes and for SIGCHLD, and is zeroed
            // memory otherwise.
            return Ok(Received { number, pid: unsafe { info.si_pid() } });
        }
        match last_error() {
            Errno::INTR => {}
            errno => return Err(errno).during("sigwaitinfo", || format!("{numbers:?}")),
        }
    }
}

/// Gives every signal its default disposition and unblocks all: for a child that will exec.
pub fn reset() -> Result<()> {
    for number in 1..=MAX {
        // SAFETY: SIG_DFL is no handler, so nothing of this process can be called asynchronously;
        // numbers that cannot be changed (KILL, STOP, the C library's own) are refused unharmed.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    block_only(&[])
}

/// Gives back only what this process is known to have changed: SIGPIPE (by Rust's start-up) and the
/// mask. For the hot path, when nothing else can have been ignored.
pub fn default_disposition(number: i32) {
    // SAFETY: as in `reset`.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// Ignores a signal from now on, in programs run by exec too.
pub fn ignore(number: i32) {
    // SAFETY: SIG_IGN is no handler.
    unsafe { libc::signal(number, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_with_its_sender() {
        std::thread::spawn(|| {
            let signals = SignalFd::new(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.read().unwrap(), None);
            // SAFETY: raises a blocked signal in this thread.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            assert_eq!(signals.read().unwrap(), Some(Received { number: libc::SIGUSR1, pid }));
        })
        .join()
        .unwrap();
    }
}
