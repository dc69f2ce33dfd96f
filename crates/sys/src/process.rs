//! Processes: made (fork, clone3), moved between namespaces, signalled, reaped, replaced.
//!
//! What rustix has safely is used from there and not wrapped: `prctl` (subreaper, dumpable,
//! no_new_privs, name, parent death signal), `setsid`, `pidfd_open`, `setns` of one descriptor.
//!
//! **Forking is safe here because it is refused where it is not.** A child of a threaded process
//! holds copies of locks whose owners do not exist in it. So [`fork`] and [`clone`] ask the kernel
//! first whether this process has one thread; with more they fail (EBUSY) and nothing happened. In
//! a single-threaded process the child is a full copy and may do anything the parent may, allocate
//! included. (The C library's own fork handlers do not run; Hull registers none.)

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::error::{During, Errno, Result, ShowFd};

/// clone3(2); libc's constant of this name does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

bitflags::bitflags! {
    /// Kinds of namespaces, as the `CLONE_NEW…` bits of clone(2), setns(2) and unshare(2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Namespaces: u64 {
        const MOUNT = libc::CLONE_NEWNS as u64;
        const CGROUP = libc::CLONE_NEWCGROUP as u64;
        const UTS = libc::CLONE_NEWUTS as u64;
        const IPC = libc::CLONE_NEWIPC as u64;
        const USER = libc::CLONE_NEWUSER as u64;
        const PID = libc::CLONE_NEWPID as u64;
        const NETWORK = libc::CLONE_NEWNET as u64;
        const TIME = 0x80;
    }
}

/// How a child is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneOptions<'a> {
    /// Namespaces that the child gets fresh. `TIME` cannot be made here: [`unshare`] it before.
    pub new: Namespaces,
    /// A cgroup v2 folder to be born in (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Become the child's sibling: its parent is the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
}

/// Where a fork has come back.
#[derive(Debug)]
pub enum Forked {
    Parent(Child),
    Child,
}

/// A child seen from its parent. Dropping it neither kills nor reaps.
#[derive(Debug)]
pub struct Child {
    /// As the parent's pid namespace numbers it.
    pub pid: Pid,
    /// Becomes readable when the child has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// As a shell counts: the exit code, or 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + signal,
        }
    }
}

/// Copies this process (fork(2)) with a pidfd for the parent. EBUSY with more than one thread.
pub fn fork() -> Result<Forked> {
    clone(&CloneOptions::default())
}

/// clone3(2) as a fork: a copy of the caller with namespaces of its own. EBUSY with more than one
/// thread. `options.cgroup` on a kernel without `CLONE_INTO_CGROUP` is EINVAL or E2BIG.
pub fn clone(options: &CloneOptions<'_>) -> Result<Forked> {
    let args = || format!("{:?}", options);
    if threads()? != 1 {
        return Err(Errno::BUSY).during("clone3", || "the caller has more than one thread");
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers; all zeros is a valid value.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = libc::CLONE_PIDFD as u64 | options.new.bits();
    request.pidfd = &raw mut pidfd as u64;
    if options.sibling {
        request.flags |= libc::CLONE_PARENT as u64;
    } else {
        request.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = options.cgroup {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `request` is a valid clone_args that outlives the call, and `pidfd` a valid place for
    // the result. Without CLONE_VM the child has its own copy of memory and runs on a copy of this
    // stack, so returning from here twice is as sound as fork(2); with one thread in this process
    // (checked above) no lock can be held by a thread that the child lacks.
    let mut result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut request, size_of::<libc::clone_args>()) };
    if result < 0 && last_error() == Errno::NOSYS && options.cgroup.is_none() {
        // Docker's seccomp profile answers clone3 so, for C libraries to fall back on clone(2),
        // whose flags a filter can read; the reaping pid 1 of `--init` runs under that filter.
        let flags = request.flags | request.exit_signal;
        // SAFETY: as above; a null stack means the caller's, and the third argument is where
        // CLONE_PIDFD writes on every architecture.
        result = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) };
    }
    match result {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::OVERFLOW);
            Ok(Forked::Parent(Child { pid: pid.during("clone3", args)?, pidfd }))
        }
        _ => Err(last_error()).during("clone3", args),
    }
}

pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Threads of this process: /proc/self/task has a folder for each, and its link count is two more
/// (proc(5); `proc_task_getattr` in the kernel).
fn threads() -> Result<u64> {
    let stat = rustix::fs::stat("/proc/self/task").during("stat", || "/proc/self/task")?;
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "nlink_t differs between architectures"
    )]
    Ok((stat.st_nlink as u64).saturating_sub(2))
}

/// Moves this process into fresh namespaces (unshare(2)); a new pid namespace is for its next
/// children. EBUSY with more than one thread: the others would stay behind.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    if threads()? != 1 {
        return Err(Errno::BUSY).during("unshare", || "the caller has more than one thread");
    }
    let flags = rustix::thread::UnshareFlags::from_bits_retain(namespaces.bits() as u32);
    // SAFETY: the danger of unshare is CLONE_FILES (descriptors that other threads use turn into
    // others); `Namespaces` has no such bit.
    unsafe { rustix::thread::unshare_unsafe(flags) }.during("unshare", || format!("{namespaces:?}"))
}

/// Moves this one thread into a fresh network namespace (unshare(2)). A network namespace is each
/// thread's own; this one is left behind by ending it, or with [`join_one`].
pub fn unshare_network() -> Result<()> {
    // SAFETY: the danger of unshare is CLONE_FILES; only the network namespace changes here.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .during("unshare", || "CLONE_NEWNET")
}

/// Joins these namespaces of the process behind `pidfd` (setns(2)).
pub fn join(pidfd: impl AsFd, namespaces: Namespaces) -> Result<()> {
    let flags = rustix::thread::ThreadNameSpaceType::from_bits_retain(namespaces.bits() as u32);
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), flags)
        .during("setns", || format!("{}, {namespaces:?}", ShowFd(pidfd.as_fd())))
}

/// Joins the one namespace that `fd` stands for.
pub fn join_one(fd: impl AsFd) -> Result<()> {
    rustix::thread::move_into_link_name_space(fd.as_fd(), None).during("setns", || ShowFd(fd.as_fd()))
}

/// Waits for the child behind `pidfd` and reaps it. `None` only if `block` is false and it runs.
pub fn wait(pidfd: impl AsFd, block: bool) -> Result<Option<Ended>> {
    let mut options = WaitIdOptions::EXITED;
    options.set(WaitIdOptions::NOHANG, !block);
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options))
        .during("waitid", || ShowFd(pidfd.as_fd()))?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or(0)),
    }))
}

/// Reaps one ended child of this process, whichever; `None` when none has ended or there is none.
pub fn reap() -> Result<Option<(Pid, Ended)>> {
    match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        Ok(None) | Err(Errno::CHILD) => Ok(None),
        Ok(Some((pid, status))) => Ok(Some((pid, ended(status)))),
        Err(errno) => Err(errno).during("wait4", || "-1, WNOHANG"),
    }
}

/// Reaps the child `pid` and waits for it if need be.
pub fn wait_pid(pid: Pid) -> Result<Ended> {
    let options = rustix::process::WaitOptions::empty();
    let status = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), options))
        .during("wait4", || pid.as_raw_nonzero())?;
    Ok(status.map_or(Ended::Exited(0), |(_, status)| ended(status)))
}

fn ended(status: rustix::process::WaitStatus) -> Ended {
    match status.exit_status() {
        Some(code) => Ended::Exited(code),
        None => Ended::Killed(status.terminating_signal().unwrap_or(0)),
    }
}

/// Sends the signal with this number, real-time ones included (pidfd_send_signal(2)).
pub fn signal(pidfd: impl AsFd, number: i32) -> Result<()> {
    let fd = pidfd.as_fd();
    // SAFETY: integers and a null siginfo: the kernel fills in that of kill(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_error()).during("pidfd_send_signal", || format!("{}, {number}", ShowFd(fd)))
    }
}

/// Sends a signal by number to a pid (kill(2)); -1 is everything in this pid namespace that may be
/// signalled, but init and the caller.
pub fn kill(pid: i32, number: i32) -> Result<()> {
    // SAFETY: two integers.
    let result = unsafe { libc::kill(pid, number) };
    if result == 0 { Ok(()) } else { Err(last_error()).during("kill", || format!("{pid}, {number}")) }
}

/// Marks every descriptor from `first` on to be closed by the next exec. Nothing is closed now, so
/// no descriptor that something in this process owns goes away under it. (close_range(2), Linux
/// 5.11; before that each descriptor of /proc/self/fd is marked.)
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: integers; with CLOSE_RANGE_CLOEXEC only flags of descriptors change.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match if result == 0 { Ok(()) } else { Err(last_error()) } {
        Err(Errno::NOSYS | Errno::INVAL) => each_close_on_exec_from(first),
        result => result.during("close_range", || format!("{first}, ~0, CLOSE_RANGE_CLOEXEC")),
    }
}

fn each_close_on_exec_from(first: RawFd) -> Result<()> {
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .during("open", || "/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .filter(|fd| *fd >= first)
        .collect();
    for fd in names {
        // SAFETY: F_SETFD on a number changes a flag at most; the listing's own descriptor is gone
        // by now and gives EBADF, which is as good.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes every descriptor from `first` on and runs `then`, which never returns. A function that
/// captures nothing and comes back to nobody cannot use what was closed under its owners.
pub fn close_from_and(first: RawFd, then: fn() -> std::convert::Infallible) -> ! {
    // SAFETY: integers. Owners of the closed descriptors are on stack frames that are never
    // returned to, and `then` has no way to name them.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } != 0 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        for fd in first..limit.map_or(65536, |limit| limit.min(1 << 20) as RawFd) {
            // SAFETY: as above; a number that is not open is EBADF.
            unsafe { libc::close(fd) };
        }
    }
    match then() {}
}

/// Strings for [`exec`], made ready with their array of pointers.
#[derive(Debug, Default)]
pub struct Strings {
    strings: Vec<CString>,
}

impl Strings {
    /// EINVAL if one contains a zero byte.
    pub fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Result<Self> {
        let strings = strings
            .into_iter()
            .map(|s| CString::new(s.as_ref()).map_err(|_| Errno::INVAL))
            .collect::<std::result::Result<Vec<_>, _>>()
            .during("execve", || "a string with a zero byte")?;
        Ok(Self { strings })
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// Replaces this process' program (execve(2)); comes back only with an error.
pub fn exec(path: &CStr, args: &Strings, env: &Strings) -> Errno {
    let (argv, envp) = (args.pointers(), env.pointers());
    // SAFETY: the path is a C string; both arrays end in a null pointer and point to C strings that
    // live in `args` and `env` until after the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_error()
}

/// The same for the program that `fd` is open on (execveat(2) with AT_EMPTY_PATH).
pub fn exec_fd(fd: impl AsFd, args: &Strings, env: &Strings) -> Errno {
    let (argv, envp) = (args.pointers(), env.pointers());
    // SAFETY: as in `exec`; the empty path is a C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// Ends this process at once, without exit handlers: the only right end of a forked child.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// The numbers of the descriptors that stand for 0, 1 and 2 afterwards: each of `streams` is
/// duplicated onto its place without the close-on-exec flag.
pub fn set_standard_streams(streams: [BorrowedFd<'_>; 3]) -> Result<()> {
    // A stream may itself be descriptor 0–2 (a tool that was started with its own stdin passes it
    // on): it is moved out of the way first.
    let mut kept = Vec::new();
    let mut sources = streams.map(|fd| fd.as_raw_fd());
    for (place, source) in sources.iter_mut().enumerate() {
        if *source <= 2 && *source != place as RawFd {
            let copy =
                rustix::io::fcntl_dupfd_cloexec(streams[place], 3).during("fcntl", || "F_DUPFD_CLOEXEC")?;
            *source = copy.as_raw_fd();
            kept.push(copy);
        }
    }
    for (place, source) in sources.into_iter().enumerate() {
        let place = place as RawFd;
        let result = if source == place {
            // SAFETY: clears a flag of a descriptor that `streams` borrows.
            unsafe { libc::fcntl(place, libc::F_SETFD, 0) }
        } else {
            // SAFETY: 0, 1 and 2 are nobody's property in Rust (std's handles to them expect them
            // to be replaced); `source` is open as it is borrowed or kept above.
            unsafe { libc::dup2(source, place) }
        };
        if result < 0 {
            return Err(last_error()).during("dup2", || format!("{source}, {place}"));
        }
    }
    Ok(())
}

/// Makes the host's name in this uts namespace (sethostname(2)).
pub fn set_hostname(name: &[u8]) -> Result<()> {
    rustix::system::sethostname(name).during("sethostname", || String::from_utf8_lossy(name).into_owned())
}

/// The same for the NIS domain (setdomainname(2)).
pub fn set_domainname(name: &[u8]) -> Result<()> {
    rustix::system::setdomainname(name).during("setdomainname", || String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The test harness has threads, so real forks are tested by crates/sys/tests/fork.rs, which
    // has none.
    #[test]
    fn a_process_with_threads_cannot_fork() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        assert_eq!(fork().unwrap_err().errno, Errno::BUSY);
        assert_eq!(unshare(Namespaces::UTS).unwrap_err().errno, Errno::BUSY);
        drop(stop);
        let _ = thread.join();
    }
}
