//! A folder tree with a busybox root, specs as the engine makes them, and a way to run one to its
//! end. Everything is in a mount namespace of the test's own.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Capabilities, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec, User};
use hull_runtime::bundle::{Bundle, Rootfs, StartError, Stdio, Upper};
use hull_runtime::cgroup::Hierarchies;
use hull_runtime::container::{self, StartOptions, Started, Streams};
use hull_runtime::seccomp::Program;
use hull_sys::process::{self, Ended};

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) hierarchies: Hierarchies,
    next: std::cell::Cell<u32>,
}

const APPLETS: [&str; 31] = [
    "sh", "ls", "cat", "true", "false", "id", "sleep", "stat", "grep", "echo", "touch", "mkdir", "readlink",
    "hostname", "tty", "stty", "kill", "ps", "pwd", "env", "umask", "head", "wc", "cmp", "mount", "ip", "rm",
    "mv", "ln", "chown", "mknod",
];

/// What docker gives a container.
pub(crate) const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(crate) fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        ..Mount::default()
    }
}

impl World {
    pub(crate) fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        for name in ["bin", "etc", "tmp", "home/user", "proc", "dev", "sys"] {
            std::fs::create_dir_all(lower.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("busybox-static is needed");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            lower.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        World { dir, hierarchies: Hierarchies::detect().unwrap(), next: std::cell::Cell::new(0) }
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    /// A folder of the host that no container may change.
    pub(crate) fn canary(&self) -> PathBuf {
        let canary = self.dir.path().join("canary");
        std::fs::create_dir_all(&canary).unwrap();
        std::fs::write(canary.join("file"), "untouched").unwrap();
        canary
    }

    pub(crate) fn bundle(&self, args: &[&str]) -> Bundle {
        let number = self.next.get() + 1;
        self.next.set(number);
        let id = format!("hull-test-{}-{number}", rustix::process::getpid().as_raw_nonzero());
        let own = self.dir.path().join(&id);
        let upper = Upper { upper: own.join("upper"), work: own.join("work"), volatile: false };
        std::fs::create_dir_all(&upper.upper).unwrap();
        std::fs::create_dir_all(&upper.work).unwrap();
        let rootfs = Rootfs::Overlay { lower: vec![self.lower()], upper: Some(upper) };
        Bundle {
            spec: spec(&id, args),
            id,
            rootfs,
            stdio: Stdio::default(),
            sources: Default::default(),
            log: None,
            init: false,
        }
    }

    pub(crate) fn start(&self, bundle: &Bundle, streams: &Streams) -> Result<Started, StartError> {
        self.start_with(bundle, streams, None, &StartOptions::default())
    }

    pub(crate) fn start_with(
        &self,
        bundle: &Bundle,
        streams: &Streams,
        seccomp: Option<&Program>,
        options: &StartOptions,
    ) -> Result<Started, StartError> {
        container::start(bundle, &self.hierarchies, &[], streams, seccomp, options)
    }

    pub(crate) fn run(&self, bundle: &Bundle) -> Result<Output, StartError> {
        self.run_with(bundle, None)
    }

    /// To its end, with its output.
    pub(crate) fn run_with(&self, bundle: &Bundle, seccomp: Option<&Program>) -> Result<Output, StartError> {
        let (streams, out, err) = pipes();
        let started = self.start_with(bundle, &streams, seccomp, &StartOptions::default())?;
        drop(streams);
        Ok(finish(started, out, err))
    }

    /// The output of a shell script, which must end well.
    pub(crate) fn sh(&self, script: &str) -> String {
        let bundle = self.bundle(&["sh", "-c", script]);
        self.output(&bundle)
    }

    pub(crate) fn output(&self, bundle: &Bundle) -> String {
        let output = self.run(bundle).unwrap();
        assert_eq!((output.code, output.err.as_str()), (0, ""), "{}", output.out);
        output.out
    }
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) warnings: Vec<String>,
}

/// Pipes for a process and the ends to read from.
pub(crate) fn pipes() -> (Streams, std::io::PipeReader, std::io::PipeReader) {
    let (out, stdout) = std::io::pipe().unwrap();
    let (err, stderr) = std::io::pipe().unwrap();
    let stdin = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    (Streams::Files { stdin, stdout: stdout.into(), stderr: stderr.into() }, out, err)
}

pub(crate) fn finish(started: Started, mut out: impl Read, mut err: impl Read) -> Output {
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    out.read_to_end(&mut text).unwrap();
    err.read_to_end(&mut errors).unwrap();
    let code = end(started.pidfd, &started.cgroup);
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code, out: lossy(text), err: lossy(errors), warnings: started.warnings }
}

/// Waits for the container's first process and takes its cgroup away.
pub(crate) fn end(pidfd: OwnedFd, cgroup: &hull_runtime::cgroup::Cgroup) -> i32 {
    let ended: Ended = process::wait(&pidfd, true).unwrap().unwrap();
    let _ = cgroup.kill();
    cgroup.remove().unwrap();
    ended.code()
}

fn spec(id: &str, args: &[&str]) -> Spec {
    let all = || CAPABILITIES.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let kinds = [
        NamespaceKind::Mount,
        NamespaceKind::Pid,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Network,
        NamespaceKind::Cgroup,
    ];
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Spec {
        oci_version: hull_oci::runtime::VERSION.into(),
        process: Some(Process {
            user: User::default(),
            args: strings(args),
            env: strings(&["PATH=/bin", "TERM=xterm"]),
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: all(),
                effective: all(),
                permitted: all(),
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(Root::default()),
        hostname: "box".into(),
        mounts: vec![
            mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=67108864"),
        ],
        linux: Linux {
            namespaces: kinds.map(|kind| Namespace { kind, path: None }).to_vec(),
            cgroups_path: format!("/{id}"),
            masked_paths: strings(&[
                "/proc/kcore",
                "/proc/keys",
                "/proc/acpi",
                "/proc/scsi",
                "/proc/sysrq-nosuch",
                "/sys/firmware",
            ]),
            readonly_paths: strings(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            sysctl: BTreeMap::new(),
            ..Linux::default()
        },
        ..Spec::default()
    }
}

/// All files below `path` with kind, size and content, to compare before and after.
pub(crate) fn snapshot(path: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        let text = String::from_utf8_lossy(&bytes);
        all.push(format!("{} {:o} {} {text}", path.display(), meta.mode(), meta.ino()));
        if meta.is_dir() {
            all.extend(snapshot(&path));
        }
    }
    all.sort();
    all
}
