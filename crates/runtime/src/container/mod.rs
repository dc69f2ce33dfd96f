//! Making a container's processes: [`start`] the first one, [`exec`] one more.
//!
//! ```text
//! shim                                    init
//!   cgroup, its limits
//!   clone3: namespaces, pidfd, cgroup v2
//!                                         joins v1 cgroups, namespaces; cgroup namespace
//!                                         root file system, mounts, /dev, terminal
//!                                         masks; pivot_root
//!   <- root, terminal --------------------
//!                                         user, capabilities, filters, working directory
//!                                         [hold]
//!   <- end of file, or why not ----------- exec
//! ```
//!
//! One fork is on the way, two where there is a user namespace (`users`). The caller has one thread ([`hull_sys::process`]). The files:
//! `init` and `join` are the two kinds of children step by step, `rootfs`, `files` and `mounts`
//! what they see, `tree` the same without a process, `options` mount options and `devices` access to devices (pure), `program` the last steps that both share,
//! `reaper` the pid 1 of `--init`, `sync` the talk between the two sides, `hooks` the OCI hooks,
//! `failure` the errors and their words.

mod binds;
mod devices;
mod failure;
mod files;
pub mod hooks;
mod init;
mod join;
mod mounts;
mod options;
mod program;
mod reaper;
mod rootfs;
mod sync;
pub(crate) mod tree;
pub mod users;
mod validate;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hull_oci::runtime::{Namespace, NamespaceKind};
use hull_sys::process::{self, CloneOptions, Forked, Namespaces};

use crate::bundle::{Bundle, Exec, StartError};
use crate::cgroup::{Cgroup, Hierarchies, Warning};
use crate::seccomp::Program;
use failure::{OrFail, Result, host, invalid};
use sync::Message;

/// What the program has as descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Streams {
    Files {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// All three are a new terminal of the container's own devpts; its master comes back in
    /// [`Started::terminal`].
    Terminal,
}

/// What of a start is not in the bundle. The default is what a shim wants.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// The program is not executed before this descriptor can be read (a byte or the end of
    /// file); [`start`] returns when everything else is done (OCI create and start).
    pub hold: Option<OwnedFd>,
    /// The mount namespace of another container, whose /dev/shm takes the place of a new one.
    pub shared_memory: Option<OwnedFd>,
    /// Descriptors from 3 on that the program keeps.
    pub preserve_fds: u32,
    /// The bundle's folder, which hooks are told; they get no other use of it.
    pub folder: PathBuf,
}

/// A process that runs the program (or will, after the hold).
#[derive(Debug)]
pub struct Started {
    /// As the caller's pid namespace counts.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The terminal's master side.
    pub terminal: Option<OwnedFd>,
    pub cgroup: Cgroup,
    /// The container's root folder, to resolve paths in; only of a container's first process.
    pub root: Option<OwnedFd>,
    /// What could not be done and was left out, one line each.
    pub warnings: Vec<String>,
}

/// The path below each cgroup hierarchy of a container.
pub fn cgroup_path(asked: &str, id: &str) -> String {
    if asked.is_empty() { format!("hull/{id}") } else { asked.to_owned() }
}

/// The namespaces to make: those of the spec that have no path and are not joined.
fn namespaces(asked: &[Namespace], joins: &[(NamespaceKind, OwnedFd)]) -> Result<Namespaces> {
    let mut made = Namespaces::empty();
    for namespace in asked {
        if joins.iter().any(|(kind, _)| *kind == namespace.kind) {
            continue;
        }
        if let Some(path) = &namespace.path {
            return Err(invalid(format!("namespace {} was not opened", path.display())));
        }
        made |= match namespace.kind {
            NamespaceKind::Pid => Namespaces::PID,
            NamespaceKind::Network => Namespaces::NETWORK,
            NamespaceKind::Mount => Namespaces::MOUNT,
            NamespaceKind::Ipc => Namespaces::IPC,
            NamespaceKind::Uts => Namespaces::UTS,
            NamespaceKind::User => Namespaces::USER,
            // Unshared by the child itself, when it is in its cgroups.
            NamespaceKind::Cgroup => Namespaces::empty(),
            NamespaceKind::Time => return Err(invalid("time namespaces are not supported")),
        };
    }
    Ok(made)
}

/// Makes the container and runs its program. The caller must have one thread; its children's pid
/// namespace changes for good when `joins` has one.
///
/// # Errors
/// Whatever went wrong, with nothing left behind: no process, no cgroup.
pub fn start(
    bundle: &Bundle,
    hierarchies: &Hierarchies,
    joins: &[(NamespaceKind, OwnedFd)],
    streams: &Streams,
    seccomp: Option<&Program>,
    options: &StartOptions,
) -> std::result::Result<Started, StartError> {
    let spec = &bundle.spec;
    let process = spec.process.as_ref().ok_or_else(|| invalid("the bundle has no process"))?;
    let made = namespaces(&spec.linux.namespaces, joins)?;
    validate::start(spec, made, joins, seccomp)?;
    let path = cgroup_path(&spec.linux.cgroups_path, &bundle.id);
    let resources = devices::with_defaults(&spec.linux.resources);
    let (cgroup, limits) = Cgroup::create(hierarchies, &path, &resources).or_invalid(|| "cgroup".into())?;
    let begun = (|| {
        let users = users::namespace(&spec.linux, made, joins)?;
        let made = made.difference(Namespaces::USER);
        if users.is_some() {
            users::give_streams(streams, process, &spec.linux);
        }
        let join = cgroup.join().or_host()?;
        let (ours, theirs) = hull_sys::socket::pair().or_host()?;
        for (_, fd) in joins.iter().filter(|(kind, _)| users.is_none() && *kind == NamespaceKind::Pid) {
            process::join_one(fd).or_invalid(|| "joining the pid namespace".into())?;
        }
        let clone = CloneOptions {
            new: if users.is_some() { Namespaces::empty() } else { made },
            cgroup: join.v2.as_ref().map(std::os::fd::AsFd::as_fd),
            sibling: false,
        };
        let child = match process::clone(&clone).or_host()? {
            Forked::Parent(child) => child,
            Forked::Child => {
                let init = init::Init {
                    bundle,
                    process,
                    joins,
                    streams,
                    seccomp,
                    options,
                    cgroup: &cgroup,
                    cgroup_mode: hierarchies.mode(),
                    join: &join,
                    made,
                    sync: &theirs,
                };
                match &users {
                    Some(users) => users::run(&init, users),
                    None => init::run(&init, None),
                }
            }
        };
        drop(theirs);
        let role = if users.is_some() { Role::Between } else { Role::Init };
        follow(child, role, &ours, options.hold.is_some(), |child| create_hooks(bundle, options, child))
    })();
    match begun {
        Ok(begun) => Ok(started(begun, cgroup, &limits)),
        Err(error) => {
            // The child is reaped by now; a failure to remove an empty cgroup is not the news.
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// The hooks that run between the namespaces and the program, in the runtime's own namespaces.
fn create_hooks(bundle: &Bundle, options: &StartOptions, child: i32) -> Result<()> {
    let state = hooks::state(bundle, options, child, "creating");
    hooks::run(&bundle.spec.hooks.prestart, &state)?;
    hooks::run(&bundle.spec.hooks.create_runtime, &state)
}

fn started(begun: Begun, cgroup: Cgroup, limits: &[Warning]) -> Started {
    let mut warnings: Vec<String> = limits.iter().map(ToString::to_string).collect();
    warnings.extend(begun.warnings);
    let (child, mut fds) = (begun.child, begun.fds.into_iter());
    let root = fds.next();
    let terminal = fds.next();
    Started { pid: child.pid.as_raw_nonzero().get(), pidfd: child.pidfd, terminal, cgroup, root, warnings }
}

/// Runs one more process in the container whose first process is behind `target`.
///
/// # Errors
/// Whatever went wrong; the process is gone then.
pub fn exec(
    exec: &Exec,
    hierarchies: &Hierarchies,
    target: &OwnedFd,
    streams: &Streams,
    seccomp: Option<&Program>,
    options: &StartOptions,
) -> std::result::Result<Started, StartError> {
    validate::exec(exec, seccomp)?;
    let cgroup = Cgroup::open(hierarchies, &exec.linux.cgroups_path).or_host()?;
    let join = cgroup.join().or_host()?;
    let (ours, theirs) = hull_sys::socket::pair().or_host()?;
    let kinds = join::kinds(&exec.linux.namespaces);
    if kinds.contains(Namespaces::PID) {
        process::join(target, Namespaces::PID).or_host()?;
    }
    if kinds.contains(Namespaces::USER) {
        users::give_streams(streams, &exec.process, &exec.linux);
    }
    let clone =
        CloneOptions { cgroup: join.v2.as_ref().map(std::os::fd::AsFd::as_fd), ..CloneOptions::default() };
    let child = match process::clone(&clone).or_host()? {
        Forked::Parent(child) => child,
        Forked::Child => join::run(&join::Joining {
            exec,
            target,
            kinds: kinds.difference(Namespaces::PID),
            streams,
            seccomp,
            preserve_fds: options.preserve_fds,
            join: &join,
            sync: &theirs,
        }),
    };
    drop(theirs);
    let begun = follow(child, Role::Init, &ours, false, |_| Ok(()))?;
    let (child, terminal) = (begun.child, begun.fds.into_iter().next());
    let pid = child.pid.as_raw_nonzero().get();
    Ok(Started { pid, pidfd: child.pidfd, terminal, cgroup, root: None, warnings: begun.warnings })
}

struct Begun {
    child: process::Child,
    fds: Vec<OwnedFd>,
    warnings: Vec<String>,
}

/// What the child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    /// It will make init.
    Between,
}

/// Follows the child's messages to the end; on any failure it is killed and reaped.
fn follow(
    mut child: process::Child,
    role: Role,
    sync: &OwnedFd,
    held: bool,
    mut on_hooks: impl FnMut(i32) -> Result<()>,
) -> Result<Begun> {
    let (mut prepared, mut between) = (None, None);
    let mut hear = || {
        loop {
            if role == Role::Between && between.is_none() && !sync::before(sync, &child.pidfd)? {
                break Err(died(&child));
            }
            match sync::receive(sync)? {
                None if prepared.is_some() => break Ok(()),
                None => break Err(died(&child)),
                Some((Message::Failed(error), _)) => break Err(error),
                Some((Message::Born { pid }, fds)) => {
                    between = Some(std::mem::replace(&mut child, born(pid, fds)?));
                    sync::go(sync)?;
                }
                Some((Message::Hooks, _)) => {
                    on_hooks(child.pid.as_raw_nonzero().get())?;
                    sync::go(sync)?;
                }
                Some((Message::Prepared { warnings, .. }, fds)) => prepared = Some((fds, warnings)),
                Some((Message::Ready, _)) if held => break Ok(()),
                Some((Message::Ready, _)) => {}
            }
        }
    };
    let heard = hear();
    if let Some(between) = between {
        let _ = process::wait(&between.pidfd, true);
    }
    match heard {
        Ok(()) => {
            let (fds, warnings) = prepared.unwrap_or_default();
            Ok(Begun { child, fds, warnings })
        }
        Err(error) => {
            let _ = process::signal(&child.pidfd, rustix::process::Signal::KILL.as_raw());
            let _ = process::wait(&child.pidfd, true);
            Err(error)
        }
    }
}

fn born(pid: i32, fds: Vec<OwnedFd>) -> Result<process::Child> {
    match (rustix::process::Pid::from_raw(pid), fds.into_iter().next()) {
        (Some(pid), Some(pidfd)) => Ok(process::Child { pid, pidfd }),
        _ => Err(invalid("container init was born without a name")),
    }
}

/// The child ended without a word: killed from outside, by a limit of its cgroup most likely.
fn died(child: &process::Child) -> StartError {
    match process::wait(&child.pidfd, true) {
        Ok(Some(process::Ended::Killed(signal))) => {
            let words = "container init was killed while it was being prepared";
            invalid(format!("{words}, by signal {signal} (memory limit too low?)"))
        }
        Ok(_) => invalid("container init ended while it was being prepared"),
        Err(error) => host(&error),
    }
}
