//! A spawner with an exec root of its own, and what tests do with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hull_oci::runtime::{Linux, Namespace, NamespaceKind, Process, Root, Spec};
use hull_runtime::bundle::{Bundle, Exit, LogSettings, Rootfs, Stdio};
use hull_runtime::cgroup::{Cgroup, Hierarchies};
use hull_runtime::log::{Entry, Options, Reader};
use hull_runtime::protocol::{Attach, Framing, Kind};
use hull_runtime::shim::{self, Connection, Event, Found, Heard};
use hull_runtime::spawner::{Client, Launch};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const RAW: Attach = Attach { stdin: false, stdout: true, stderr: true, framing: Framing::Raw };

/// Killed and removed when dropped.
pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
    /// The parent of the containers' cgroups.
    pub(crate) cgroup: String,
}

impl House {
    pub(crate) fn new() -> House {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let client = adopt(dir.path());
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let cgroup = format!("hull-test-{}", name.trim_start_matches('.'));
        House { dir, client, cgroup }
    }

    pub(crate) fn exec_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn log_settings(&self, id: &str) -> LogSettings {
        LogSettings { dir: self.dir.path().join(format!("log-{id}")), segment_bytes: 64 << 20, segments: 5 }
    }

    /// A container that runs `script` in busybox' shell.
    pub(crate) fn bundle(&self, id: &str, script: &str) -> Bundle {
        let namespace = |kind| Namespace { kind, path: None };
        let process = Process {
            args: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
            ..Process::default()
        };
        let kinds = [NamespaceKind::Mount, NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Uts];
        Bundle {
            sources: Default::default(),
            id: id.to_owned(),
            spec: Spec {
                oci_version: hull_oci::runtime::VERSION.to_owned(),
                process: Some(process),
                root: Some(Root { readonly: false, ..Root::default() }),
                linux: Linux {
                    namespaces: kinds.map(namespace).to_vec(),
                    cgroups_path: format!("{}/{id}", self.cgroup),
                    ..Linux::default()
                },
                ..Spec::default()
            },
            rootfs: Rootfs::Directory(self.dir.path().join("root")),
            stdio: Stdio::default(),
            log: Some(self.log_settings(id)),
            init: false,
        }
    }

    pub(crate) fn launch(&self, bundle: &Bundle, attach: &[(Attach, &UnixStream)]) -> Connection {
        self.launch_keeping(bundle, attach, &[])
    }

    pub(crate) fn launch_keeping(
        &self,
        bundle: &Bundle,
        attach: &[(Attach, &UnixStream)],
        keep: &[(&str, BorrowedFd<'_>)],
    ) -> Connection {
        let attach: Vec<_> = attach.iter().map(|(attach, socket)| (*attach, socket.as_fd())).collect();
        let launch = Launch::Container {
            bundle,
            namespaces: &[],
            seccomp: None,
            hold: None,
            shared_memory: None,
            attach: &attach,
            keep,
        };
        self.client.launch(launch).unwrap()
    }

    /// Runs `script` to its end: what it wrote and how it ended.
    pub(crate) fn run(&self, id: &str, script: &str) -> (String, Exit) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = self.launch(&self.bundle(id, script), &[(RAW, &theirs)]);
        drop(theirs);
        let output = std::io::read_to_string(&ours).unwrap();
        started(&connection);
        (output, exited(&connection))
    }

    /// A script that runs until it is told otherwise.
    pub(crate) fn sleeper(&self, id: &str) -> (Connection, i32, OwnedFd) {
        let connection = self.launch(&self.bundle(id, "echo up; exec /bin/busybox sleep 1000"), &[]);
        let (pid, pidfd) = started(&connection);
        (connection, pid, pidfd)
    }

    pub(crate) fn found(&self, id: &str) -> Found {
        shim::find(&self.exec_root(), Kind::Container, id).unwrap()
    }

    /// The shim of a living container: its pid, as the owner of the listening socket.
    pub(crate) fn shim_pid(&self, id: &str) -> i32 {
        self.shim_of(Kind::Container, id)
    }

    pub(crate) fn shim_of(&self, kind: Kind, id: &str) -> i32 {
        let path = kind.folder(&self.exec_root(), id).join("shim.sock");
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(path).unwrap()).unwrap();
        // A listener's credentials are those of the process that called listen(2).
        rustix::net::sockopt::socket_peercred(&socket).unwrap().pid.as_raw_nonzero().get()
    }

    pub(crate) fn log(&self, id: &str) -> String {
        let mut reader = Reader::open(&self.log_settings(id).dir, Options::default()).unwrap();
        let mut text = String::new();
        while let Some(entry) = reader.next().unwrap() {
            match entry {
                Entry::Line { bytes, .. } => text.push_str(&String::from_utf8_lossy(bytes)),
                Entry::Lost { lines, .. } => panic!("{lines} lines lost"),
            }
        }
        text
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for id in shim::list(&self.exec_root(), Kind::Container).unwrap_or_default() {
            if let Ok(Found::Living(connection)) = shim::find(&self.exec_root(), Kind::Container, &id)
                && let Some(Event::Started { pid, .. }) = hear(&connection)
            {
                kill(pid);
                while hear(&connection).is_some() {}
            }
        }
        if self.client.alive() {
            kill(self.client.pid);
        }
        if let Ok(hierarchies) = Hierarchies::detect()
            && let Ok(cgroup) = Cgroup::open(&hierarchies, &self.cgroup)
        {
            let _ = cgroup.remove();
        }
    }
}

pub(crate) fn adopt(dir: &Path) -> Client {
    Client::adopt_or_start(Path::new(env!("CARGO_BIN_EXE_hull-runtime")), &dir.join("run")).unwrap()
}

pub(crate) fn kill(pid: i32) {
    let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

/// Waits until `fd` can be read; panics if that takes too long.
pub(crate) fn wait(fd: impl AsFd) {
    let limit = Timespec::try_from(LIMIT).unwrap();
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, Some(&limit)).unwrap(), 1, "nothing came");
}

/// The next event; `None` when the shim has left.
pub(crate) fn hear(connection: &Connection) -> Option<Event> {
    loop {
        wait(connection);
        match connection.receive().unwrap() {
            Heard::Event(event) => return Some(event),
            Heard::Nothing => {}
            Heard::Closed => return None,
        }
    }
}

pub(crate) fn started(connection: &Connection) -> (i32, OwnedFd) {
    match hear(connection) {
        Some(Event::Started { pid, pidfd, .. }) => (pid, pidfd),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn exited(connection: &Connection) -> Exit {
    match hear(connection) {
        Some(Event::Exited(exit)) => exit,
        other => panic!("{other:?}"),
    }
}

/// Waits until `done`, asking again and again: for what the kernel tells nobody about.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "{what} did not come to pass");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process that is neither gone nor a zombie.
pub(crate) fn runs(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => false,
    }
}

/// What a process has open, as the targets of /proc/PID/fd, in order.
pub(crate) fn descriptors(pid: i32) -> Vec<String> {
    let mut numbers: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    let target = |fd: i32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
    numbers.into_iter().filter_map(|fd| Some(target(fd).ok()?.to_string_lossy().into_owned())).collect()
}
