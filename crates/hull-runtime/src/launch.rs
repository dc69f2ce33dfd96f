//! Commands that make processes: create, run, start, exec.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hull_oci::runtime::{NamespaceKind, Process, Spec};
use hull_runtime::bundle::{Bundle, Exec, Rootfs, Stdio};
use hull_runtime::cgroup::Hierarchies;
use hull_runtime::container::{self, StartOptions, Started, Streams, hooks};
use hull_runtime::seccomp::{self, Program};
use hull_sys::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::net::{SocketFlags, SocketType};

use crate::args::{Create, ExecCommand, Global};
use crate::console;
use crate::failure::{Failure, Of, Result};
use crate::manage;
use crate::state::{self, Folder, Record, Status};

/// A container that was made, with what is known of it.
struct Made {
    started: Started,
    folder: Folder,
    bundle: Bundle,
    options: StartOptions,
}

pub(crate) fn create(global: &Global, create: &Create) -> Result<ExitCode> {
    let made = make(global, create, true)?;
    // From now on the container is its parent's: ours, whoever that is after us.
    drop(made);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(global: &Global, create: &Create) -> Result<ExitCode> {
    let signals = if create.detach { None } else { Some(console::Signals::block()?) };
    let made = make(global, create, false)?;
    let record = made.folder.read()?;
    let running = hooks::state(&made.bundle, &made.options, made.started.pid, "running");
    hooks::run(&made.bundle.spec.hooks.poststart, &running).map_err(|error| Failure::start(&error))?;
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    let code = console::attend(&signals, &made.started.pidfd, made.started.terminal)?;
    if !create.keep {
        manage::clean(&made.folder, &record, Some(&made.bundle.spec), Some(made.started.cgroup))?;
    }
    Ok(code)
}

/// Makes the container; on failure nothing is left, the id included.
fn make(global: &Global, create: &Create, hold: bool) -> Result<Made> {
    check_preserved(create.preserve_fds)?;
    let folder = Folder::reserve(&global.root, &create.id)?;
    let made = make_in(&folder, create, hold);
    if made.is_err() {
        // The reason is what is told, not that its traces could not be removed.
        let _ = folder.remove();
    }
    made
}

fn make_in(folder: &Folder, create: &Create, hold: bool) -> Result<Made> {
    let path = std::fs::canonicalize(&create.bundle).of(|| create.bundle.display().to_string())?;
    let spec = state::read_spec(&path)?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let detached = hold || create.detach;
    check_console(terminal, detached, create.console_socket.as_deref())?;
    let joins = open_namespaces(&spec)?;
    let filter = compile(&spec)?;
    let root = spec.root.as_ref().ok_or_else(|| Failure::new("config.json has no root"))?;
    let rootfs = Rootfs::Directory(path.join(&root.path));
    let hierarchies = Hierarchies::detect().of(|| "cgroups".into())?;
    let cgroup = container::cgroup_path(&spec.linux.cgroups_path, &create.id);
    let options = StartOptions {
        shared_memory: None,
        hold: hold.then(|| make_fifo(folder)).transpose()?,
        preserve_fds: create.preserve_fds,
        folder: path.clone(),
    };
    let bundle = Bundle {
        id: create.id.clone(),
        spec,
        rootfs,
        stdio: Stdio::default(),
        sources: Default::default(),
        log: None,
        init: false,
    };
    let streams = if terminal { Streams::Terminal } else { inherited()? };
    let mut started = container::start(&bundle, &hierarchies, &joins, &streams, filter.as_ref(), &options)
        .map_err(|error| Failure::start(&error))?;
    drop(streams);
    let finish = || -> Result<()> {
        folder.write(&Record {
            id: create.id.clone(),
            pid: started.pid,
            start_time: state::start_time(started.pid),
            bundle: path,
            cgroup,
            created: crate::clock::rfc3339(hull_sys::time::now()),
        })?;
        write_pid(create.pid_file.as_deref(), started.pid)?;
        give_terminal(create.console_socket.as_deref(), &mut started.terminal)
    };
    if let Err(error) = finish() {
        let _ = started.cgroup.kill();
        let _ = hull_sys::process::wait(&started.pidfd, true);
        let _ = started.cgroup.remove();
        return Err(error);
    }
    Ok(Made { started, folder: folder.clone(), bundle, options })
}

/// Descriptors that are to be kept must be there: else one of ours would get their number and be
/// kept instead.
fn check_preserved(count: u32) -> Result<()> {
    for fd in 3..3 + count {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            return Err(Failure::new(format!("--preserve-fds {count}: descriptor {fd} is not open")));
        }
    }
    Ok(())
}

fn check_console(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    match (terminal, detached, socket) {
        (true, true, None) => Err(Failure::new(
            "cannot allocate tty if hull-runtime will detach without setting console socket",
        )),
        (false, _, Some(_)) => {
            Err(Failure::new("cannot use console socket if hull-runtime will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

/// The pipe that a created container waits on. Open for reading and writing, so that it neither
/// blocks here nor ends when nobody has it open for writing.
fn make_fifo(folder: &Folder) -> Result<OwnedFd> {
    let path = folder.fifo();
    let shown = || path.display().to_string();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).of(shown)?;
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).of(shown)
}

pub(crate) fn start(global: &Global, id: &str) -> Result<ExitCode> {
    let folder = Folder::find(&global.root, id)?;
    let record = folder.read()?;
    match record.status(&folder, None)? {
        Status::Created => {}
        Status::Stopped => return Err(Failure::new("cannot start a container that has stopped")),
        Status::Running | Status::Paused => {
            return Err(Failure::new("cannot start an already running container"));
        }
    }
    let path = folder.fifo();
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = match rustix::fs::open(&path, flags, Mode::empty()) {
        // Nobody reads: the container has ended since we looked.
        Err(Errno::NXIO) => return Err(Failure::new("cannot start a container that has stopped")),
        fifo => fifo.of(|| path.display().to_string())?,
    };
    // Taken away first: of two that start at once, one succeeds.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new("cannot start an already running container"));
        }
        removed => removed.of(|| path.display().to_string())?,
    }
    rustix::io::write(&fifo, b"0").of(|| path.display().to_string())?;
    let spec = record.spec()?;
    if !spec.hooks.poststart.is_empty() {
        hooks::run(&spec.hooks.poststart, &manage::document(&record, &spec, Status::Running))
            .map_err(|error| Failure::start(&error))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn exec(global: &Global, command: &ExecCommand) -> Result<ExitCode> {
    exec_in(global, command).map_err(|failure| Failure { code: 255, ..failure })
}

fn exec_in(global: &Global, command: &ExecCommand) -> Result<ExitCode> {
    check_preserved(command.preserve_fds)?;
    let folder = Folder::find(&global.root, &command.id)?;
    let record = folder.read()?;
    let Some(target) = record.process()? else {
        return Err(Failure::new("cannot exec a container that has stopped"));
    };
    let spec = record.spec()?;
    let process = process_of(command, &spec)?;
    check_console(process.terminal, command.detach, command.console_socket.as_deref())?;
    let filter = compile(&spec)?;
    let hierarchies = Hierarchies::detect().of(|| "cgroups".into())?;
    let mut linux = spec.linux;
    linux.cgroups_path = record.cgroup;
    let streams = if process.terminal { Streams::Terminal } else { inherited()? };
    let exec = Exec { id: command.id.clone(), process, linux, stdio: Stdio::default() };
    let signals = if command.detach { None } else { Some(console::Signals::block()?) };
    let options = StartOptions { preserve_fds: command.preserve_fds, ..StartOptions::default() };
    let mut started = container::exec(&exec, &hierarchies, &target, &streams, filter.as_ref(), &options)
        .map_err(|error| Failure::new(format!("exec failed: {}", Failure::start(&error).message)))?;
    drop(streams);
    write_pid(command.pid_file.as_deref(), started.pid)?;
    give_terminal(command.console_socket.as_deref(), &mut started.terminal)?;
    match signals {
        Some(signals) => console::attend(&signals, &started.pidfd, started.terminal),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The process of `-p`, or the container's own with what the command line changes.
fn process_of(command: &ExecCommand, spec: &Spec) -> Result<Process> {
    if let Some(path) = &command.process {
        return serde_json::from_slice(&state::read_document(path)?).of(|| path.display().to_string());
    }
    let mut process = spec.process.clone().ok_or_else(|| Failure::new("config.json has no process"))?;
    if command.args.is_empty() {
        return Err(Failure::new("process args cannot be empty"));
    }
    process.args.clone_from(&command.args);
    process.terminal = command.tty;
    process.no_new_privileges |= command.no_new_privileges;
    if let Some(cwd) = &command.cwd {
        process.cwd.clone_from(cwd);
    }
    process.env.extend(command.env.iter().cloned());
    if let Some(user) = &command.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        process.user.uid = uid.parse().of(|| format!("user {user:?}"))?;
        process.user.gid = gid.parse().of(|| format!("user {user:?}"))?;
    }
    process.user.additional_gids.extend(&command.groups);
    for name in &command.capabilities {
        if hull_sys::cred::capability(name).is_none() {
            return Err(Failure::new(format!("unknown capability {name:?}")));
        }
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.clone());
        }
    }
    if let Some(profile) = &command.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &command.label {
        process.selinux_label.clone_from(label);
    }
    Ok(process)
}

fn compile(spec: &Spec) -> Result<Option<Program>> {
    spec.linux.seccomp.as_ref().map(|profile| seccomp::compile(profile).of(|| "seccomp".into())).transpose()
}

fn open_namespaces(spec: &Spec) -> Result<Vec<(NamespaceKind, OwnedFd)>> {
    let mut joins = Vec::new();
    for namespace in &spec.linux.namespaces {
        let Some(path) = namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .of(|| format!("namespace {:?} {}", namespace.kind, path.display()))?;
        joins.push((namespace.kind, fd));
    }
    Ok(joins)
}

/// Our own standard streams; one that is closed is /dev/null.
fn inherited() -> Result<Streams> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| match rustix::io::fcntl_dupfd_cloexec(fd, 3) {
        Err(Errno::BADF) => rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .of(|| "/dev/null".into()),
        copy => copy.of(|| "standard streams".into()),
    };
    Ok(Streams::Files {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

fn write_pid(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    // Published whole: who waits for the file must not read half a number.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    std::fs::write(&new, pid.to_string()).of(|| new.display().to_string())?;
    std::fs::rename(&new, path).of(|| path.display().to_string())
}

/// Sends the terminal's master to who asked for it (`--console-socket`).
fn give_terminal(socket: Option<&Path>, terminal: &mut Option<OwnedFd>) -> Result<()> {
    let (Some(path), Some(master)) = (socket, terminal.as_ref()) else { return Ok(()) };
    let socket = hull_sys::socket::connect(path, SocketType::STREAM, SocketFlags::empty())
        .of(|| "console socket".into())?;
    hull_sys::socket::send(&socket, b"/dev/ptmx", &[master.as_fd()]).of(|| "console socket".into())?;
    *terminal = None;
    Ok(())
}
