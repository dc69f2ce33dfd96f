//! From the words of a launch to a running process with its streams.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use hull_oci::runtime::{Linux, NamespaceKind};
use hull_sys::signal::SignalFd;
use hull_sys::{During, memfd, time};
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;

use super::client::Client;
use super::input::Input;
use super::keep::Keep;
use super::life::{FIRST_NUMBER, Life, Output};
use super::{Order, host};
use crate::bundle::{Bundle, Exec, LogSettings, StartError, StartErrorKind, Stdio};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::container::{self, StartOptions, Started, Streams};
use crate::log::{Stream, Writer};
use crate::protocol::{self, Attach, Kind, Role};
use crate::seccomp::{self, Program};

/// A shim whose process runs.
pub(super) struct Running {
    pub(super) life: Life,
    /// Of a container: to be removed with it.
    pub(super) cgroup: Option<Cgroup>,
    /// Processes of the container may outlive its first one.
    pub(super) shared_pids: bool,
}

/// The descriptors of a launch by what they are.
#[derive(Default)]
struct Given {
    document: Option<OwnedFd>,
    namespaces: Vec<(NamespaceKind, OwnedFd)>,
    target: Option<OwnedFd>,
    seccomp: Option<OwnedFd>,
    hold: Option<OwnedFd>,
    shared_memory: Option<OwnedFd>,
    attach: Vec<(Attach, OwnedFd)>,
    keep: Vec<(String, OwnedFd)>,
}

pub(super) fn start(order: Order, listener: OwnedFd) -> Result<Running, StartError> {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut given = Given::default();
    for (role, fd) in order.given {
        match role {
            Role::Document => given.document = Some(fd),
            Role::Namespace(kind) => given.namespaces.push((kind, fd)),
            Role::Target => given.target = Some(fd),
            Role::Seccomp => given.seccomp = Some(fd),
            Role::Hold => given.hold = Some(fd),
            Role::SharedMemory => given.shared_memory = Some(fd),
            Role::Attach(attach) => given.attach.push((attach, fd)),
            Role::Keep(name) => given.keep.push((name, fd)),
            Role::Control
            | Role::Archive
            | Role::Folder
            | Role::Mounts { .. }
            | Role::Source
            | Role::SourceFolder
            | Role::Listing { .. }
            | Role::Files { .. }
            | Role::Digests
            | Role::Learned
            | Role::Relay
            | Role::Service => {}
        }
    }
    let attached = std::mem::take(&mut given.attach);
    let keep = std::mem::take(&mut given.keep);
    let hierarchies = match order.cgroups {
        Some(found) => found,
        None => Hierarchies::detect().map_err(|error| broken(&error.to_string()))?,
    };
    let begun = match order.kind {
        Kind::Container => start_container(given, &hierarchies)?,
        Kind::Exec => start_exec(given, &hierarchies)?,
    };
    let mut running = assemble(begun, attached, listener)?;
    for (name, fd) in keep {
        running.life.kept.add(&name, fd);
    }
    Ok(running)
}

/// What the two kinds of start have in common.
struct Begun {
    started: Started,
    kept: Kept,
    stdin_once: bool,
    log: Option<LogSettings>,
    container: bool,
    shared_pids: bool,
}

fn start_container(given: Given, hierarchies: &Hierarchies) -> Result<Begun, StartError> {
    let bundle: Bundle = document(given.document.as_ref())?;
    let seccomp = program(given.seccomp.as_ref(), &bundle.spec.linux)?;
    let terminal = bundle.spec.process.as_ref().is_some_and(|process| process.terminal);
    let (streams, kept) = streams(bundle.stdio, terminal).map_err(host)?;
    let own_pids = bundle
        .spec
        .linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
        && !given.namespaces.iter().any(|(kind, _)| *kind == NamespaceKind::Pid);
    let options =
        StartOptions { hold: given.hold, shared_memory: given.shared_memory, ..StartOptions::default() };
    let started =
        container::start(&bundle, hierarchies, &given.namespaces, &streams, seccomp.as_ref(), &options)?;
    Ok(Begun {
        started,
        kept,
        stdin_once: bundle.stdio.stdin_once,
        log: bundle.log,
        container: true,
        shared_pids: !own_pids,
    })
}

fn start_exec(given: Given, hierarchies: &Hierarchies) -> Result<Begun, StartError> {
    let exec: Exec = document(given.document.as_ref())?;
    let seccomp = program(given.seccomp.as_ref(), &exec.linux)?;
    let Some(target) = given.target else {
        return Err(broken("an exec came without its container's pidfd"));
    };
    let (streams, kept) = streams(exec.stdio, exec.process.terminal).map_err(host)?;
    let options = StartOptions::default();
    let started = container::exec(&exec, hierarchies, &target, &streams, seccomp.as_ref(), &options)?;
    Ok(Begun {
        started,
        kept,
        stdin_once: exec.stdio.stdin_once,
        log: None,
        container: false,
        shared_pids: false,
    })
}

fn assemble(
    begun: Begun,
    attached: Vec<(Attach, OwnedFd)>,
    listener: OwnedFd,
) -> Result<Running, StartError> {
    let Begun { started, kept, .. } = begun;
    let started_at = time::now();
    let Some(pid) = Pid::from_raw(started.pid) else {
        return Err(broken("a process was started that has no pid"));
    };
    let mut warnings = started.warnings;
    let (terminal, outputs, input) = match (started.terminal, kept) {
        (Some(master), _) => {
            rustix::io::ioctl_fionbio(&master, true).during("ioctl", || "FIONBIO").map_err(host)?;
            // One for reading, one for writing, one for the size: epoll tells them apart.
            let copy = || {
                rustix::io::fcntl_dupfd_cloexec(&master, 3)
                    .during("fcntl", || "F_DUPFD_CLOEXEC")
                    .map_err(host)
            };
            let output = Output { fd: copy()?, stream: Stream::Out };
            let input = Input::new(Some(copy()?), true);
            (Some(master), [Some(output), None], input)
        }
        (None, Kept { stdin, outputs }) => (None, outputs, Input::new(stdin, false)),
    };
    let log = begun.log.and_then(|settings| match Writer::open(&settings, started_at) {
        Ok(log) => Some(log),
        Err(error) => {
            warnings.push(format!("output is not kept: {error}: {}", error.source));
            None
        }
    });
    let mut clients = BTreeMap::new();
    let mut next = FIRST_NUMBER + 1;
    for (attach, socket) in attached {
        clients.insert(next, Client::new(socket, attach));
        next += 1;
    }
    let life = Life {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC).during("epoll_create1", || "").map_err(host)?,
        signals: SignalFd::new(&[Signal::CHILD.as_raw()]).map_err(host)?,
        listener,
        pid,
        pidfd: started.pidfd,
        root: started.root,
        started_at,
        warnings,
        terminal,
        outputs,
        input,
        stdin_once: begun.stdin_once,
        log,
        clients,
        connections: BTreeMap::new(),
        next,
        kept: Keep::default(),
        buffer: Vec::new(),
        paused: false,
    };
    let cgroup = begun.container.then_some(started.cgroup);
    Ok(Running { life, cgroup, shared_pids: begun.shared_pids })
}

/// The shim's ends of the pipes.
#[derive(Default)]
struct Kept {
    stdin: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
}

/// The process' streams and, unless it gets a terminal, the other ends.
fn streams(stdio: Stdio, terminal: bool) -> hull_sys::Result<(Streams, Kept)> {
    if terminal {
        return Ok((Streams::Terminal, Kept::default()));
    }
    let (stdin, kept_stdin) = if stdio.stdin {
        let (read, write) = pipe()?;
        rustix::io::ioctl_fionbio(&write, true).during("ioctl", || "FIONBIO")?;
        (read, Some(write))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.during("open", || "/dev/null")?, None)
    };
    let output = |stream| {
        let (read, write) = pipe()?;
        rustix::io::ioctl_fionbio(&read, true).during("ioctl", || "FIONBIO")?;
        Ok::<_, hull_sys::Error>((write, Some(Output { fd: read, stream })))
    };
    let (stdout, kept_out) = output(Stream::Out)?;
    let (stderr, kept_err) = output(Stream::Err)?;
    let kept = Kept { stdin: kept_stdin, outputs: [kept_out, kept_err] };
    Ok((Streams::Files { stdin, stdout, stderr }, kept))
}

fn pipe() -> hull_sys::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("pipe2", || "O_CLOEXEC")
}

fn document<T: DeserializeOwned>(fd: Option<&OwnedFd>) -> Result<T, StartError> {
    let Some(fd) = fd else {
        return Err(broken("a launch came without its document"));
    };
    let bytes = memfd::read_sealed(fd, protocol::DOCUMENT_MAX).map_err(host)?;
    serde_json::from_slice(&bytes).map_err(|error| broken(&format!("a launch's document: {error}")))
}

/// The compiled filter that came with the launch, or else that of the spec.
fn program(fd: Option<&OwnedFd>, linux: &Linux) -> Result<Option<Program>, StartError> {
    match (fd, &linux.seccomp) {
        (Some(fd), _) => {
            let bytes = memfd::read_sealed(fd, protocol::DOCUMENT_MAX).map_err(host)?;
            match protocol::filter_from_bytes(&bytes) {
                Some(program) => Ok(Some(program)),
                None => Err(broken("a launch's seccomp filter is none")),
            }
        }
        (None, Some(profile)) => match seccomp::compile(profile) {
            Ok(program) => Ok(Some(program)),
            Err(error) => Err(StartError {
                kind: StartErrorKind::Invalid,
                message: format!("seccomp profile: {error}"),
            }),
        },
        (None, None) => Ok(None),
    }
}

fn broken(message: &str) -> StartError {
    StartError { kind: StartErrorKind::Host, message: message.to_owned() }
}
