//! What an ended child has used: wait4(2), for measurements.

use rustix::process::Pid;

use crate::error::{During, Errno, Result};
use crate::process::{Ended, last_error};

/// Of a child and of the descendants that it waited for (getrusage(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Microseconds of CPU, user and system together.
    pub cpu: u64,
    /// The largest resident set of any one of them, in KiB.
    pub peak_rss: u64,
}

/// Waits for the end of a child of this process.
pub fn wait_with_usage(pid: Pid) -> Result<(Ended, Usage)> {
    let number = pid.as_raw_nonzero().get();
    let mut status = 0;
    // SAFETY: rusage is plain integers; all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both places are valid for the whole call.
        let done = unsafe { libc::wait4(number, &raw mut status, 0, &raw mut usage) };
        if done == number {
            break;
        }
        match last_error() {
            Errno::INTR => {}
            errno => return Err(errno).during("wait4", || number),
        }
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    let micros = |t: libc::timeval| {
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0)
    };
    let cpu = micros(usage.ru_utime) + micros(usage.ru_stime);
    Ok((ended, Usage { cpu, peak_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
    fn an_ended_child_tells_its_cpu_and_memory() {
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 3";
        let child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let (ended, usage) = wait_with_usage(pid).unwrap();
        assert_eq!(ended, Ended::Exited(3));
        assert!(usage.cpu > 0);
        assert!(usage.peak_rss > 100);
    }
}
