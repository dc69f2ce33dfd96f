//! The jailed process in which hostile archives are read.
//!
//! A worker is forked from the spawner for one job. Before it looks at the first byte it gives up
//! everything that the job does not need:
//!
//! - its root is the one folder it works on, its mount namespace holds nothing else (no /proc, no
//!   /dev, no host); set-user-id bits and device files on it are dead, and nothing executes;
//! - it is born in a pid namespace of its own, where there is nobody to signal or trace;
//! - it has no network, no System V objects, and no descriptor but the archive, the folder, the
//!   control socket and /dev/null;
//! - of the capabilities only those remain that give files their owners, modes, device numbers and
//!   attributes. CAP_SYS_ADMIN is among them, because `trusted.overlay.*` attributes need it; what
//!   else that capability allows is cut off by
//! - a seccomp filter: the process is killed for any system call that is not in [`CALLS`].
//!
//! It says one thing, the [`Outcome`], and ends. The spawner kills it when its requester goes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use hull_image::layer::{self, Limits, Mode};
use hull_oci::runtime::{Seccomp, SyscallArg, SyscallRule};
use hull_sys::process::{Namespaces, unshare};
use hull_sys::{During, Errno, cred, mount};
use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::protocol::{self, Outcome, Role, Work};
use crate::seccomp;

/// What a worker may have: the most memory (a zstd window is 128 MiB at most) and descriptors
/// (each level of a nested folder holds one).
const MEMORY: u64 = 2 << 30;
const OPEN_FILES: u64 = 1024;

const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Everything a worker calls: files below its root, memory, one thread for digests.
#[rustfmt::skip]
const CALLS: [&str; 92] = [
    // Files.
    "chmod", "chown", "close", "copy_file_range", "dup", "fadvise64", "fallocate", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fgetxattr", "flistxattr", "fsetxattr",
    "fremovexattr", "fstat", "fstatfs", "ftruncate", "getdents64", "getxattr", "lchown",
    "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2",
    "pread64", "preadv", "pwrite64", "pwritev", "read", "readlink", "readlinkat", "readv", "sendfile", "splice", "rename",
    "renameat", "renameat2", "rmdir", "stat", "statx", "symlink", "symlinkat", "unlink", "unlinkat",
    "utimensat", "write", "writev",
    // The answer.
    "sendmsg",
    // Memory and the thread.
    "brk", "exit", "getegid", "geteuid", "getgid", "getuid", "restart_syscall", "exit_group", "futex", "get_robust_list", "getcwd", "getpid",
    "getrandom", "gettid", "madvise", "mmap", "mprotect", "mremap", "munmap", "rseq",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
    "set_robust_list", "sigaltstack", "clock_gettime",
];

/// The whole life of a worker, in a fresh fork of the spawner; gives the exit code.
pub(crate) fn run(work: Work, given: Vec<(Role, OwnedFd)>) -> i32 {
    let (mut control, mut archive, mut folder) = (None, None, None);
    for (role, fd) in given {
        match role {
            Role::Control => control = Some(fd),
            Role::Archive => archive = Some(fd),
            Role::Folder => folder = Some(fd),
            _ => {}
        }
    }
    let Some(control) = control else {
        return 125;
    };
    let outcome = match (archive, folder) {
        (Some(archive), Some(folder)) => match enter(folder) {
            Ok(root) => perform(work, archive, &root),
            Err(error) => failed(&error),
        },
        _ => Outcome::Failed { message: "the work came without archive or folder".to_owned() },
    };
    match protocol::send(&control, &outcome, &[]) {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

/// The worker's jail could not be closed behind it.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("jail a worker")]
    System {
        #[from]
        source: hull_sys::Error,
    },
    #[error("compile the jail's filter")]
    Filter {
        #[from]
        source: seccomp::Error,
    },
}

/// Gives up everything but `folder`, which becomes the root and is returned. Not to be undone:
/// only for a process of one thread that has nothing else to do.
pub fn enter(folder: OwnedFd) -> Result<OwnedFd, JailError> {
    let filter = seccomp::compile(&profile())?;
    let _ = rustix::thread::set_name(c"hull-worker");
    for (resource, most) in [(Resource::Core, 0), (Resource::As, MEMORY), (Resource::Nofile, OPEN_FILES)] {
        // A limit that is lower already stays.
        let now = rustix::process::getrlimit(resource);
        let most = Some(now.maximum.map_or(most, |now| now.min(most)));
        let _ = rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most });
    }
    let root = pivot(folder)?;
    cred::limit_bounding(CAPABILITIES)?;
    cred::set_ambient(CapabilitySet::empty())?;
    cred::set_capabilities(CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    })?;
    rustix::thread::set_no_new_privs(true).during("prctl", || "PR_SET_NO_NEW_PRIVS")?;
    let undumpable = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(undumpable).during("prctl", || "PR_SET_DUMPABLE")?;
    hull_sys::seccomp::install(&filter.filter, filter.flags)?;
    Ok(root)
}

/// Makes a mount of the folder alone, in a namespace that has no other.
fn pivot(folder: OwnedFd) -> hull_sys::Result<OwnedFd> {
    // Copied while the folder still belongs to the caller's namespace (open_tree(2)).
    let copy = mount::copy_of(&folder, false)?;
    drop(folder);
    let attributes = mount::Attributes {
        set: mount::NO_SUID | mount::NO_DEV | mount::NO_EXEC,
        propagation: Some(mount::Propagation::Private),
        ..mount::Attributes::default()
    };
    mount::set_attributes(&copy, &attributes, false)?;
    unshare(Namespaces::MOUNT | Namespaces::NETWORK | Namespaces::IPC | Namespaces::UTS)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).during("open", || "/")?;
    let private =
        mount::Attributes { propagation: Some(mount::Propagation::Private), ..mount::Attributes::default() };
    mount::set_attributes(&old, &private, true)?;
    mount::attach(&copy, &old)?;
    rustix::process::fchdir(&copy).during("fchdir", || "the folder")?;
    // The old root lands on the new one, from where it is taken off (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").during("pivot_root", || "., .")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).during("umount2", || ".")?;
    rustix::process::chdir("/").during("chdir", || "/")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, rustix::fs::Mode::empty()).during("open", || "/")
}

fn profile() -> Seccomp {
    let allow = || "SCMP_ACT_ALLOW".to_owned();
    // A thread, but no namespace (the CLONE_NEW… bits of clone(2)).
    let no_namespace =
        SyscallArg { index: 0, value: 0x7e02_0080, value_two: 0, op: "SCMP_CMP_MASKED_EQ".to_owned() };
    let rules = vec![
        SyscallRule {
            names: CALLS.iter().map(|&name| name.to_owned()).collect(),
            action: allow(),
            ..SyscallRule::default()
        },
        SyscallRule {
            names: vec!["clone".to_owned()],
            action: allow(),
            args: vec![no_namespace],
            ..SyscallRule::default()
        },
        // Its flags lie in memory, out of a filter's sight: the C library goes back to clone.
        SyscallRule {
            names: vec!["clone3".to_owned()],
            action: "SCMP_ACT_ERRNO".to_owned(),
            errno_ret: Some(Errno::NOSYS.raw_os_error() as u32),
            ..SyscallRule::default()
        },
        // The C library names its memory and threads with it, and does not mind.
        SyscallRule {
            names: vec!["prctl".to_owned()],
            action: "SCMP_ACT_ERRNO".to_owned(),
            errno_ret: Some(Errno::INVAL.raw_os_error() as u32),
            ..SyscallRule::default()
        },
    ];
    Seccomp { default_action: "SCMP_ACT_KILL_PROCESS".to_owned(), syscalls: rules, ..Seccomp::default() }
}

fn perform(work: Work, archive: OwnedFd, root: &OwnedFd) -> Outcome {
    let mut archive = File::from(archive);
    let mode = match work {
        Work::ApplyLayer => Mode::Layer,
        Work::ApplyPlain => Mode::Plain,
        Work::ApplyFiles => Mode::Files,
        Work::ApplyStream => Mode::Stream,
        Work::Diff => {
            return match layer::diff(root.as_fd(), &mut archive) {
                Ok(layer::Diffed { diff_id, archive_size, size }) => {
                    Outcome::Diffed { diff_id, archive_size, size }
                }
                Err(error) => failed(&error),
            };
        }
    };
    match layer::apply(&mut archive, root.as_fd(), mode, &Limits::default()) {
        Ok(applied) => Outcome::Applied {
            blob: applied.blob,
            blob_size: applied.blob_size,
            diff_id: applied.diff_id,
            size: applied.size,
            entries: applied.entries,
            compression: applied.compression.name().to_owned(),
        },
        Err(error) => failed(&error),
    }
}

/// The whole chain in one line: it crosses a process border and has no type on the other side.
fn failed(error: &dyn std::error::Error) -> Outcome {
    let mut message = hull_sys::error::chain(error);
    message.truncate(message.floor_char_boundary(4096));
    Outcome::Failed { message }
}
