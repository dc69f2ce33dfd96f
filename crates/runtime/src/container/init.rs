//! The first process of a container, from its clone to its program.
//!
//! It is a fork of a single-threaded shim, so it may allocate; everything it opens closes on exec.
//! It is not dumpable until exec, so that nobody in namespaces it has joined can look into it or
//! take its descriptors (ptrace(2), "Ptrace access mode checking").

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_oci::runtime::{NamespaceKind, Process, Spec};
use hull_sys::error::During;
use hull_sys::process::{self, Forked, Namespaces};
use hull_sys::{pty, signal};
use rustix::fs::Mode;

use super::failure::{OrFail, Result, invalid};
use super::files::{self, Site};
use super::sync::{self, Message};
use super::users::Luggage;
use super::{StartOptions, Streams, binds, mounts, program, reaper, rootfs};
use crate::bundle::{Bundle, StartError};
use crate::cgroup::{Cgroup, Join, Mode as CgroupMode};
use crate::seccomp::Program;

/// What the first process was given by its shim.
pub(super) struct Init<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) process: &'a Process,
    pub(super) joins: &'a [(NamespaceKind, OwnedFd)],
    pub(super) streams: &'a Streams,
    pub(super) seccomp: Option<&'a Program>,
    pub(super) options: &'a StartOptions,
    pub(super) cgroup: &'a Cgroup,
    pub(super) cgroup_mode: CgroupMode,
    pub(super) join: &'a Join,
    /// The user namespace aside.
    pub(super) made: Namespaces,
    pub(super) sync: &'a OwnedFd,
}

/// Ends this process when a panic unwinds: a child must never come back into the shim's code, of
/// which it is a copy.
pub(super) struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        process::exit_now(1);
    }
}

/// Builds the container and runs its program; `luggage` is what it brings into a user namespace.
pub(super) fn run(init: &Init<'_>, luggage: Option<Luggage>) -> ! {
    let _guard = NoReturn;
    let Err(error) = prepare(init, luggage).and_then(|()| launch(init));
    fail(init.sync, error)
}

pub(super) fn fail(sync: &OwnedFd, error: StartError) -> ! {
    sync::tell(sync, &Message::Failed(error));
    process::exit_now(1)
}

/// What only the host's root may do: cgroups, out of memory score, limits. Gives warnings.
pub(super) fn outside(init: &Init<'_>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    join_cgroups(init.join)?;
    program::adjust_oom_score(init.process, &mut warnings)?;
    program::raise_limits(init.process, &mut warnings)?;
    Ok(warnings)
}

/// Everything up to the container's own root: nothing of the container runs yet.
fn prepare(init: &Init<'_>, luggage: Option<Luggage>) -> Result<()> {
    let spec = &init.bundle.spec;
    become_opaque()?;
    if init.bundle.init {
        reaper::rename();
    }
    signal::default_disposition(libc_sigpipe());
    signal::block_only(&[]).or_host()?;
    let user_namespace = luggage.is_some();
    let luggage = match luggage {
        Some(luggage) => {
            if !sync::wait_go(init.sync) {
                process::exit_now(1);
            }
            luggage
        }
        None => {
            let warnings = outside(init)?;
            for (kind, fd) in init.joins.iter().filter(|(kind, _)| *kind != NamespaceKind::Pid) {
                process::join_one(fd).or_invalid(|| format!("joining the {kind:?} namespace"))?;
            }
            let shared_memory =
                init.options.shared_memory.as_ref().map(files::copy_shared_memory).transpose()?;
            let mounts = binds::spreading(init.bundle)?;
            Luggage { warnings, mounts, shared_memory, ..Luggage::default() }
        }
    };
    let asked = |kind| spec.linux.namespaces.iter().any(|namespace| namespace.kind == kind);
    let joined = |kind| init.joins.iter().any(|(join, _)| *join == kind);
    if asked(NamespaceKind::Cgroup) && !joined(NamespaceKind::Cgroup) {
        process::unshare(Namespaces::CGROUP).or_host()?;
    }
    rustix::process::setsid().during("setsid", || "").or_host()?;
    name_host(spec, init.made)?;
    if init.made.contains(Namespaces::NETWORK) {
        hull_sys::netlink::loopback_up().or_host()?;
    }
    build_root(init, spec, luggage, user_namespace)
}

/// The number of SIGPIPE, which Rust's start-up ignores, on every Linux that Hull runs on.
fn libc_sigpipe() -> i32 {
    rustix::process::Signal::PIPE.as_raw()
}

/// No tracing and no look into /proc/self by others; exec makes it normal again.
pub(super) fn become_opaque() -> Result<()> {
    let not = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(not).during("prctl", || "PR_SET_DUMPABLE, 0").or_host()
}

/// Moves this single-threaded process itself, which costs nothing, unlike being moved by pid.
pub(super) fn join_cgroups(join: &Join) -> Result<()> {
    for tasks in &join.v1_tasks {
        rustix::io::write(tasks, b"0").during("write", || hull_sys::error::ShowFd(tasks)).or_host()?;
    }
    Ok(())
}

fn name_host(spec: &Spec, made: Namespaces) -> Result<()> {
    if !made.contains(Namespaces::UTS) {
        return match (&*spec.hostname, &*spec.domainname) {
            ("", "") => Ok(()),
            _ => Err(invalid("unable to set hostname without a private UTS namespace")),
        };
    }
    if !spec.hostname.is_empty() {
        process::set_hostname(spec.hostname.as_bytes()).or_invalid(|| "hostname".into())?;
    }
    if !spec.domainname.is_empty() {
        process::set_domainname(spec.domainname.as_bytes()).or_invalid(|| "domainname".into())?;
    }
    Ok(())
}

fn build_root(init: &Init<'_>, spec: &Spec, luggage: Luggage, user_namespace: bool) -> Result<()> {
    let linux = &spec.linux;
    if !init.made.contains(Namespaces::MOUNT) {
        return Err(invalid("a container without a mount namespace of its own is not supported"));
    }
    let umask = rustix::process::umask(Mode::empty());
    let (propagation, recursive) = rootfs::inherited_propagation(&linux.rootfs_propagation)?;
    let api = mounts::spread(propagation, recursive).or_host()?;
    let root = rootfs::make(api, &init.bundle.rootfs, luggage.root)?;
    let site = Site {
        api,
        root: &root,
        spec,
        sources: &init.bundle.sources,
        cgroup: init.cgroup,
        cgroup_mode: init.cgroup_mode,
        user_namespace,
        shared_memory: luggage.shared_memory.as_ref(),
        taken: &luggage.mounts,
    };
    files::build(&site)?;
    let terminal = match init.streams {
        Streams::Terminal => Some(make_terminal(&site, init.process)?),
        Streams::Files { .. } => None,
    };
    let mut empty = None;
    for path in &linux.masked_paths {
        rootfs::mask(api, &root, path, &mut empty)?;
    }
    for path in &linux.readonly_paths {
        rootfs::protect(api, &root, path)?;
    }
    if init.process.cwd != "/" {
        // Made before the root may turn read-only; what is there and is no folder shows at chdir.
        let _ = root.create_dirs(Path::new(&init.process.cwd), Mode::from_raw_mode(0o755));
    }
    if has_hooks(spec) {
        sync::send(init.sync, &Message::Hooks, &[])?;
        if !sync::wait_go(init.sync) {
            process::exit_now(1);
        }
        let state = super::hooks::state(
            init.bundle,
            init.options,
            rustix::process::getpid().as_raw_nonzero().get(),
            "creating",
        );
        super::hooks::run(&spec.hooks.create_container, &state)?;
    }
    rootfs::pivot(api, &root, &linux.rootfs_propagation)?;
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        rootfs::make_read_only(api, &root)?;
    }
    rustix::process::umask(umask);
    let mut fds = vec![root.as_fd()];
    fds.extend(terminal.as_ref().map(AsFd::as_fd));
    let message = Message::Prepared { warnings: luggage.warnings, terminal: terminal.is_some() };
    sync::send(init.sync, &message, &fds)
}

/// Whether hooks are due that run while the container is being made.
pub(super) fn has_hooks(spec: &Spec) -> bool {
    let hooks = &spec.hooks;
    !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && hooks.create_container.is_empty())
}

/// A terminal of the container's own devpts, whose slave becomes the standard streams, the
/// controlling terminal and /dev/console. Its master is returned.
fn make_terminal(site: &Site<'_>, process: &Process) -> Result<OwnedFd> {
    let devpts = site.root.resolve(Path::new("/dev/pts")).or_host()?;
    let pty = pty::open(&devpts).or_invalid(|| "a terminal needs a devpts at /dev/pts".into())?;
    files::bind_console(site, &pty.slave)?;
    use_terminal(&pty, process)?;
    Ok(pty.master)
}

pub(super) fn use_terminal(pty: &pty::Pty, process: &Process) -> Result<()> {
    if let Some(size) = process.console_size.filter(|size| size.height > 0 || size.width > 0) {
        pty::resize(&pty.master, size.height, size.width).or_host()?;
    }
    program::take_streams([&pty.slave, &pty.slave, &pty.slave])?;
    rustix::process::ioctl_tiocsctty(&pty.slave).during("ioctl", || "TIOCSCTTY").or_host()
}

/// From the container's root to its program.
fn launch(init: &Init<'_>) -> Result<Infallible> {
    let process = init.process;
    if let Streams::Files { stdin, stdout, stderr } = init.streams {
        program::take_streams([stdin, stdout, stderr])?;
    }
    let dressed = dress(process, init.seccomp, init.options.preserve_fds)?;
    if let Some(hold) = &init.options.hold {
        sync::tell(init.sync, &Message::Ready);
        // A byte or the end: both are the word to go on.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(hold, &mut [0u8; 1]));
    }
    if !init.bundle.spec.hooks.start_container.is_empty() {
        let state = super::hooks::state(
            init.bundle,
            init.options,
            rustix::process::getpid().as_raw_nonzero().get(),
            "created",
        );
        super::hooks::run(&init.bundle.spec.hooks.start_container, &state)?;
    }
    if init.bundle.init {
        reaper::block()?;
        let terminal = matches!(init.streams, Streams::Terminal);
        let (gone, held) = reaper::pledge()?;
        match process::fork().or_host()? {
            Forked::Parent(child) => reaper::run(child),
            Forked::Child => {
                drop(held);
                reaper::lead(terminal, &gone)?;
            }
        }
    }
    finish(process, init.seccomp, &dressed)
}

/// All that exec needs.
pub(super) struct Dressed {
    path: String,
    strings: program::ExecStrings,
}

/// Gives up what the program must not have and finds it. Without no_new_privs the filter needs a
/// capability that is about to go, so it comes first and sees our own last calls too: those that a
/// filter may well refuse (opening files, marking descriptors) are done before.
pub(super) fn dress(process: &Process, seccomp: Option<&Program>, keep: u32) -> Result<Dressed> {
    program::own_streams(process);
    program::set_label(process)?;
    let strings = program::strings(process)?;
    // Whatever is opened from here on is marked when it is opened.
    process::close_on_exec_from(3 + i32::try_from(keep).unwrap_or(0)).or_host()?;
    program::lower_limits(process)?;
    if let (Some(filter), false) = (seccomp, process.no_new_privileges) {
        program::install(filter)?;
    }
    program::become_user(process)?;
    let path = program::look_up(process)?;
    rustix::process::umask(Mode::from_raw_mode(process.user.umask.unwrap_or(0o022) & 0o777));
    Ok(Dressed { path, strings })
}

/// The last calls: with no_new_privs the filter sees nothing of ours but exec.
pub(super) fn finish(process: &Process, seccomp: Option<&Program>, dressed: &Dressed) -> Result<Infallible> {
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).during("prctl", || "PR_SET_NO_NEW_PRIVS").or_host()?;
        if let Some(filter) = seccomp {
            program::install(filter)?;
        }
    }
    let errno = program::execute(&dressed.path, &dressed.strings);
    program::exec_failed(&dressed.path, errno)
}
