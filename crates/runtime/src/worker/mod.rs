//! The jailed process in which hostile archives are read and containers' files are looked at.
//!
//! A worker is forked from the spawner for one job. Before it looks at the first byte it gives up
//! everything that the job does not need:
//!
//! - its root is what it works on ([`view`]: a folder, or the files of a container), its mount
//!   namespace holds nothing else (no host); set-user-id bits and device files in it, and in
//!   what it copies from, are dead, and nothing executes;
//! - it is born in a pid namespace of its own, where there is nobody to signal or trace;
//! - it has no network, no System V objects, and no descriptor but the archive, the folder (and the
//!   image's folder that it fills it with, or the list of a context and the socket that gives its files),
//!   the control socket and /dev/null;
//! - of the capabilities only those remain that give files their owners, modes, device numbers and
//!   attributes. CAP_SYS_ADMIN is among them, because `trusted.overlay.*` attributes need it; what
//!   else that capability allows is cut off by
//! - a seccomp filter: the process is killed for any system call that is not in [`CALLS`].
//!
//! So whatever links and mounts lead to, it is in the container: there is nothing else to find.
//!
//! It says what has become of it, the [`Outcome`], and ends. The spawner kills it when its requester goes.

mod build;
mod listed;
mod place;
mod view;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use hull_image::layer::{self, Archive, Ids, Limits, Mode, Owner, Source};
use hull_oci::runtime::{Seccomp, SyscallArg, SyscallRule};
use hull_sys::{During, Errno, cred, mount};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::bundle::StartError;
use crate::container::tree;
use crate::protocol::{self, Outcome, Role, Work};
use crate::seccomp;
use view::View;

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
const CALLS: [&str; 95] = [
    // Files.
    "chmod", "chown", "close", "copy_file_range", "dup", "fadvise64", "fallocate", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fgetxattr", "flistxattr", "fsetxattr",
    "fremovexattr", "fstat", "fstatfs", "ftruncate", "getdents64", "getxattr", "lchown",
    "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2",
    "pread64", "preadv", "pwrite64", "pwritev", "read", "readlink", "readlinkat", "readv", "sendfile", "splice", "rename",
    "renameat", "renameat2", "rmdir", "stat", "statx", "symlink", "symlinkat", "syncfs", "unlink", "unlinkat",
    "utimensat", "write", "writev",
    // The answer, and files of a context.
    "recvmsg", "sendmsg", "sendto",
    // Memory and the thread.
    "brk", "exit", "getegid", "geteuid", "getgid", "getuid", "restart_syscall", "exit_group", "futex", "get_robust_list", "getcwd", "getpid",
    "getrandom", "gettid", "madvise", "mmap", "mprotect", "mremap", "munmap", "rseq",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
    "set_robust_list", "sigaltstack", "clock_gettime",
];

/// The whole life of a worker, in a fresh fork of the spawner; gives the exit code.
pub(crate) fn run(work: Work, given: Vec<(Role, OwnedFd)>) -> i32 {
    let (mut control, mut archive, mut view, mut source) = (None, None, None, None);
    let mut list = listed::Given::default();
    for (role, fd) in given {
        match role {
            Role::Control => control = Some(fd),
            Role::Archive => archive = Some(fd),
            Role::Source => source = Some(source_folder(&fd)),
            Role::SourceFolder => source = Some(folder_of_its_own(&fd)),
            Role::Folder => view = Some(View::Folder(fd)),
            Role::Mounts { below } => {
                let inside = !matches!(work, Work::Examine(_) | Work::Pack { .. });
                view = Some(View::Running { process: fd, below, inside });
            }
            Role::Document => view = Some(View::Stopped { tree: fd }),
            role => list.take(role, fd),
        }
    }
    let Some(control) = control else {
        return 125;
    };
    let source = source.transpose();
    let outcome = match (source, view) {
        (_, None) => Outcome::Failed { message: "the work came without files to work on".to_owned() },
        (Err(error), _) => failed(&error),
        (Ok(source), Some(view)) => match enter_view(view) {
            Ok(root) if matches!(work, Work::Fill | Work::Repair) => fill(&work, source, &root),
            Ok(root) if list.is_there() => build_from_list(&work, list, &root, archive.map(File::from)),
            Ok(root) if matches!(work, Work::Copy(_)) => build(&work, source, &root, archive.map(File::from)),
            Ok(root) => perform(&work, archive, &root, &control),
            Err(JailError::Ended) => Outcome::Ended,
            Err(error) => failed(&error),
        },
    };
    match protocol::send(&control, &outcome, &[]) {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

/// The worker's jail could not be closed behind it.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The container's files could not be put together.
    #[error(transparent)]
    Tree {
        #[from]
        source: StartError,
    },
    #[error("the process whose files were asked for has ended")]
    Ended,
    #[error("read what the container's files are made of")]
    Document {
        #[from]
        source: protocol::Error,
    },
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
    enter_view(View::Folder(folder))
}

fn enter_view(view: View) -> Result<OwnedFd, JailError> {
    let filter = seccomp::compile(&profile())?;
    let _ = rustix::thread::set_name(c"hull-worker");
    for (resource, most) in [(Resource::Core, 0), (Resource::As, MEMORY), (Resource::Nofile, OPEN_FILES)] {
        // A limit that is lower already stays.
        let now = rustix::process::getrlimit(resource);
        let most = Some(now.maximum.map_or(most, |now| now.min(most)));
        let _ = rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most });
    }
    let root = view::enter(view)?;
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

/// A mount of its own has no way out of it either. Copied before this process leaves the namespace that
/// it is in (open_tree(2)).
fn folder_of_its_own(folder: &OwnedFd) -> Result<tree::Part, JailError> {
    let copy = mount::copy_of(folder, false)?;
    mount::set_attributes(&copy, &tree::HARMLESS, true)?;
    Ok(tree::Part::Folder(copy))
}

/// What there is to fill a volume with.
fn source_folder(document: &OwnedFd) -> Result<tree::Part, JailError> {
    Ok(tree::part(&protocol::document(document)?)?)
}

fn fill(work: &Work, source: Option<tree::Part>, root: &OwnedFd) -> Outcome {
    let source = match source {
        None => return Outcome::Failed { message: "the work came without a place in an image".to_owned() },
        Some(tree::Part::Absent) => return Outcome::Absent,
        Some(tree::Part::Other) => return Outcome::NoFolder,
        Some(tree::Part::Folder(source)) => source,
    };
    let filled = match work {
        Work::Repair => layer::repair(source.as_fd(), root.as_fd()),
        _ => layer::fill(source.as_fd(), root.as_fd()),
    };
    match filled {
        Ok(layer::Filled { entries, bytes }) => Outcome::Filled { entries, bytes },
        Err(error) => failed(&error),
    }
}

/// A step of a build.
fn build(work: &Work, source: Option<tree::Part>, root: &OwnedFd, archive: Option<File>) -> Outcome {
    let done = match (work, source) {
        (Work::Copy(copy), Some(tree::Part::Folder(source))) => {
            packed(archive, |archive| build::copy(&source, root, copy, archive))
        }
        (Work::MakeFolder { path, owner, newest }, _) => {
            packed(archive, |archive| build::folder(root, path, *owner, *newest, archive))
        }
        (Work::Fingerprint(selection), _) => {
            build::fingerprint(root, selection).map(|digest| Outcome::Fingerprint { digest, read: 0 })
        }
        (Work::Clamp { newest }, _) => {
            return layer::clamp(root.as_fd(), *newest)
                .map_or_else(|error| failed(&error), |()| Outcome::Made);
        }
        _ => return Outcome::Failed { message: "the work came without a source of its files".to_owned() },
    };
    done.unwrap_or_else(|error| error.outcome())
}

/// What `change` does is packed into the archive, where there is one and it can be packed.
fn packed(
    archive: Option<File>,
    change: impl FnOnce(Option<&mut Archive<'_>>) -> Result<(), build::Error>,
) -> Result<Outcome, build::Error> {
    let Some(mut file) = archive else { return change(None).map(|()| Outcome::Made) };
    let mut archive = Archive::new(&mut file);
    change(Some(&mut archive))?;
    Ok(match archive.finish() {
        Some(layer::Diffed { diff_id, archive_size, size }) => {
            Outcome::Committed { diff_id, archive_size, size }
        }
        None => Outcome::Made,
    })
}

/// A step of a build whose files a client has.
fn build_from_list(work: &Work, given: listed::Given, root: &OwnedFd, archive: Option<File>) -> Outcome {
    let done = given.open().and_then(|(mut listed, learned)| match (work, learned) {
        (Work::Copy(copy), _) => packed(archive, |archive| listed.copy(root, copy, archive)),
        (Work::Fingerprint(selection), Some(learned)) => {
            let (digest, read) = listed.fingerprint(selection, &learned)?;
            Ok(Outcome::Fingerprint { digest, read })
        }
        _ => Err(build::Error::Given),
    });
    done.unwrap_or_else(|error| error.outcome())
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

fn perform(work: &Work, archive: Option<OwnedFd>, root: &OwnedFd, control: &OwnedFd) -> Outcome {
    match (work, archive.map(File::from)) {
        (Work::Examine(place), _) => {
            place::examine(root, place).map_or_else(|error| error.outcome(), Outcome::Found)
        }
        (Work::Fill | Work::Repair, _) => fill(work, None, root),
        (Work::Copy(_) | Work::MakeFolder { .. } | Work::Fingerprint(_) | Work::Clamp { .. }, archive) => {
            build(work, None, root, archive)
        }
        (_, None) => Outcome::Failed { message: "the work came without an archive".to_owned() },
        (Work::Pack { place, name, uids, gids }, Some(archive)) => {
            let ids = Ids { uids, gids };
            let tell = |found| protocol::send(control, &Outcome::Found(found), &[]);
            let packed = place::pack(root, (place, name), ids, &archive, tell);
            packed.map_or_else(|error| error.outcome(), |()| Outcome::Packed)
        }
        (Work::Unpack { path, keep_kinds, owner }, Some(archive)) => {
            let owner = owner.map_or(Owner::Named, |(user, group)| Owner::One(user, group));
            let options = layer::Unpack { keep_kinds: *keep_kinds, owner, ..layer::Unpack::default() };
            let unpacked = place::unpack(root, path, &options, &archive);
            unpacked.map_or_else(|error| error.outcome(), |()| Outcome::Unpacked)
        }
        (Work::ApplyPackage, Some(archive)) => {
            let options = layer::Unpack { keep_links: true, ..layer::Unpack::default() };
            let unpacked = place::unpack(root, "/", &options, &archive);
            unpacked.map_or_else(|error| error.outcome(), |()| Outcome::Unpacked)
        }
        (Work::Commit, Some(mut archive)) => match layer::diff(root.as_fd(), &mut archive) {
            Ok(layer::Diffed { diff_id, archive_size, size }) => {
                Outcome::Committed { diff_id, archive_size, size }
            }
            Err(error) if error.is_unfit() => Outcome::Unfit { message: told(&error) },
            Err(error) => failed(&error),
        },
        (Work::ApplyLayer, Some(archive)) => apply(archive, root),
        (Work::ApplyPlain, Some(archive)) => extract(Mode::Plain, &archive, root),
        (Work::ExtractLayer, Some(archive)) => extract(Mode::Layer, &archive, root),
        (Work::ApplyFiles, Some(archive)) => extract_files(&archive, root, control),
        (Work::ApplyStream, Some(archive)) => extract(Mode::Stream, &archive, root),
    }
}

fn extract(mode: Mode, archive: &File, root: &OwnedFd) -> Outcome {
    let archive = Source::Pipe(archive.as_fd());
    match layer::extract(archive, root.as_fd(), mode, &Limits::default()) {
        Ok(size) if mode == Mode::Layer => Outcome::Extracted { size },
        Ok(_) => Outcome::Unpacked,
        Err(error) => failed(&error),
    }
}

fn extract_files(archive: &File, root: &OwnedFd, control: &OwnedFd) -> Outcome {
    let archive = Source::Pipe(archive.as_fd());
    let behind = match layer::extract_files(archive, root.as_fd(), &Limits::default()) {
        Ok(behind) => behind,
        Err(error) => return failed(&error),
    };
    match protocol::send(control, &Outcome::Unpacked, &[]) {
        Ok(()) => Outcome::Hashed {
            files: behind.map_or_else(Vec::new, |behind| behind.finish().into_iter().collect()),
        },
        Err(error) => failed(&error),
    }
}

fn apply(mut archive: File, root: &OwnedFd) -> Outcome {
    match layer::apply(&mut archive, root.as_fd(), Mode::Layer, &Limits::default()) {
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

fn failed(error: &dyn std::error::Error) -> Outcome {
    Outcome::Failed { message: told(error) }
}

/// The whole chain in one line: it crosses a process border and has no type on the other side.
fn told(error: &dyn std::error::Error) -> String {
    let mut message = hull_sys::error::chain(error);
    message.truncate(message.floor_char_boundary(4096));
    message
}
