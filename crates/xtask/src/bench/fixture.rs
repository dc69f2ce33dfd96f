//! What is run: a root file system of one static busybox, an OCI bundle of it for the runtimes,
//! and a tar of it that engines import. Nothing is fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{cargo, execute};

const APPLETS: [&str; 8] = ["sh", "true", "sleep", "yes", "head", "cat", "echo", "ls"];

const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

pub(crate) struct Fixture {
    /// The folder that all of a benchmark's files are in.
    pub(crate) work: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) tar: PathBuf,
    /// `true` with a new network namespace and the default seccomp profile.
    pub(crate) bundle: PathBuf,
}

/// Makes everything below `work`.
pub(crate) fn make(work: &Path) -> Result<Fixture> {
    let rootfs = work.join("rootfs");
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(folder)).context("create the root file system")?;
    }
    let busybox = static_busybox()?;
    fs::copy(&busybox, rootfs.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    for applet in APPLETS {
        fs::hard_link(rootfs.join("bin/busybox"), rootfs.join("bin").join(applet)).context("link busybox")?;
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").context("write passwd")?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\n").context("write group")?;
    let tar = work.join("rootfs.tar");
    execute(Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg("."))?;
    let bundle = work.join("bundle");
    fs::create_dir_all(&bundle).context("create the bundle")?;
    std::os::unix::fs::symlink(&rootfs, bundle.join("rootfs")).context("link the rootfs")?;
    let spec = serde_json::to_vec(&spec(&rootfs, &seccomp_profile()?)).context("print the bundle")?;
    fs::write(bundle.join("config.json"), spec).context("write config.json")?;
    Ok(Fixture { work: work.to_owned(), rootfs, tar, bundle })
}

fn static_busybox() -> Result<PathBuf> {
    let candidates = ["/usr/bin/busybox", "/bin/busybox", "/usr/sbin/busybox"].map(PathBuf::from);
    for path in candidates.into_iter().filter(|p| p.exists()) {
        // A dynamic program would find no loader in the root file system.
        let dynamic = Command::new("ldd").arg(&path).output().is_ok_and(|o| o.status.success());
        if !dynamic {
            return Ok(path);
        }
    }
    bail!("a static busybox is missing (apt-get install busybox-static)")
}

/// Hull's default profile, for every runtime alike.
fn seccomp_profile() -> Result<Value> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "hull-runtime-lib", "--example", "default_seccomp"]);
    let output = command.output().context("run the example default_seccomp")?;
    if !output.status.success() {
        bail!("default_seccomp: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("read the seccomp profile")
}

/// About what an engine writes for `run busybox true`.
fn spec(rootfs: &Path, seccomp: &Value) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let caps = json!(CAPABILITIES);
    let namespaces: Vec<_> =
        ["pid", "network", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    let device = |kind: &str, major: i64, minor: i64| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm"});
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs, "readonly": false},
        "hostname": "bench",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"], "env": ["PATH=/bin"],
            "noNewPrivileges": false,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": "/hull-bench/runtime",
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                device("c", 1, 3), device("c", 1, 5), device("c", 1, 7), device("c", 1, 8), device("c", 1, 9),
                device("c", 5, 0), device("c", 5, 1), device("c", 5, 2), device("c", 10, 200),
                {"allow": true, "type": "c", "major": 136, "access": "rwm"},
            ]},
            "seccomp": seccomp,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
