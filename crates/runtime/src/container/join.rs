//! The child of exec: a process that joins a running container.
//!
//! The container's processes are its enemies until its own exec: it is not dumpable (no ptrace, no
//! look at its descriptors), believes no path of the container without looking at what is there,
//! and takes its label through a /proc that nobody can have mounted over.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_oci::runtime::{Namespace, NamespaceKind};
use hull_sys::error::During;
use hull_sys::process::{self, Namespaces};
use hull_sys::root::Root;
use hull_sys::{pty, signal};

use super::failure::{OrFail, Result};
use super::init::{NoReturn, become_opaque, dress, fail, finish, join_cgroups, use_terminal};
use super::sync::{self, Message};
use super::{Streams, program};
use crate::bundle::Exec;
use crate::cgroup::Join;
use crate::seccomp::Program;

pub(super) struct Joining<'a> {
    pub(super) exec: &'a Exec,
    pub(super) target: &'a OwnedFd,
    /// To join; the pid namespace is joined by being born in it.
    pub(super) kinds: Namespaces,
    pub(super) streams: &'a Streams,
    pub(super) seccomp: Option<&'a Program>,
    pub(super) preserve_fds: u32,
    pub(super) join: &'a Join,
    pub(super) sync: &'a OwnedFd,
}

/// All namespaces that the container does not share with the host, by making or by joining.
pub(super) fn kinds(namespaces: &[Namespace]) -> Namespaces {
    let of = |namespace: &Namespace| match namespace.kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NETWORK,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::User => Namespaces::USER,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
    };
    namespaces.iter().map(of).fold(Namespaces::empty(), |all, one| all | one)
}

pub(super) fn run(joining: &Joining<'_>) -> ! {
    let _guard = NoReturn;
    let Err(error) = enter(joining);
    fail(joining.sync, error)
}

fn enter(joining: &Joining<'_>) -> Result<Infallible> {
    let process = &joining.exec.process;
    let mut warnings = Vec::new();
    become_opaque()?;
    signal::default_disposition(rustix::process::Signal::PIPE.as_raw());
    signal::block_only(&[]).or_host()?;
    join_cgroups(joining.join)?;
    program::adjust_oom_score(process, &mut warnings)?;
    program::raise_limits(process, &mut warnings)?;
    process::join(joining.target, joining.kinds).or_host()?;
    if joining.kinds.contains(Namespaces::USER) {
        hull_sys::cred::set_user(0, 0, &[]).or_host()?;
        become_opaque()?;
    }
    rustix::process::setsid().during("setsid", || "").or_host()?;
    let terminal = match joining.streams {
        Streams::Files { stdin, stdout, stderr } => {
            program::take_streams([stdin, stdout, stderr])?;
            None
        }
        Streams::Terminal => {
            let root = Root::open(Path::new("/")).or_host()?;
            let devpts = root.resolve_nofollow(Path::new("/dev/pts")).or_host()?;
            let pty = pty::open(&devpts).or_invalid(|| "a terminal needs a devpts at /dev/pts".into())?;
            use_terminal(&pty, process)?;
            Some(pty.master)
        }
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    sync::send(joining.sync, &Message::Prepared { warnings, terminal: terminal.is_some() }, &fds)?;
    drop(fds);
    let dressed = dress(process, joining.seccomp, joining.preserve_fds)?;
    finish(process, joining.seccomp, &dressed)
}
