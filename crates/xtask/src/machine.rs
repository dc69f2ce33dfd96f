//! What the machine must have: the user's rights, the kernel's features, Debian's packages.
//!
//! Everything is looked at before anything is done, and what is missing is named in one line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Namespaces that every container has.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// What containers need of a machine, as it was seen.
struct Machine {
    root: bool,
    overlay: bool,
    /// Of [`NAMESPACES`].
    namespaces: Vec<&'static str>,
    /// /proc/self/mountinfo (proc_pid_mountinfo(5)).
    mounts: String,
    /// /proc/self/status (proc_pid_status(5)).
    status: String,
}

/// Stops with one line that names what this machine lacks for running containers.
pub(crate) fn must_run_containers() -> Result<()> {
    match lack(&look()?) {
        Some(line) => bail!(line),
        None => Ok(()),
    }
}

fn look() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let root = rustix::process::geteuid().is_root();
    let listed = lists_filesystem(&read("/proc/filesystems")?, "overlay");
    let has = |kind: &&'static str| Path::new("/proc/self/ns").join(kind).exists();
    Ok(Machine {
        root,
        // Nobody else may load modules.
        overlay: listed || root && loads_module("overlay"),
        namespaces: NAMESPACES.into_iter().filter(has).collect(),
        mounts: read("/proc/self/mountinfo")?,
        status: read("/proc/self/status")?,
    })
}

/// One line on the first thing that is missing, and what to do about it.
fn lack(machine: &Machine) -> Option<String> {
    if !machine.root {
        return Some("containers need root here: run this command with sudo".to_owned());
    }
    if !machine.overlay {
        return Some(
            "the kernel lacks overlayfs (CONFIG_OVERLAY_FS): neither built in nor a module".to_owned(),
        );
    }
    if let Some(kind) = NAMESPACES.iter().find(|kind| !machine.namespaces.contains(kind)) {
        return Some(format!("the kernel lacks {kind} namespaces (/proc/self/ns/{kind} is missing)"));
    }
    if !machine.mounts.lines().any(|line| line.contains(" - cgroup")) {
        let line = "no control groups are mounted (/sys/fs/cgroup): mount cgroup2 there, or start systemd";
        return Some(line.to_owned());
    }
    if !has_sys_admin(&machine.status) {
        let line =
            "root here lacks CAP_SYS_ADMIN (a container without --privileged?): namespaces cannot be made";
        return Some(line.to_owned());
    }
    if !machine.status.lines().any(|line| line.starts_with("Seccomp:")) {
        return Some("the kernel lacks seccomp filters (CONFIG_SECCOMP_FILTER)".to_owned());
    }
    None
}

fn lists_filesystem(filesystems: &str, name: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

fn loads_module(name: &str) -> bool {
    let quiet = Command::new("modprobe").arg(name).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn has_sys_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    bits & (1 << 21) != 0
}

/// A program and the Debian package that has it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// Where a program is, looked for as a shell does, `sbin` folders included.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Installs the packages of the programs that are not there, with apt-get.
pub(crate) fn install(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|program| which(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    println!("installing {} (for {})", packages.join(" "), names(&missing));
    apt(&["update", "-qq"])?;
    let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
    words.extend(&packages);
    apt(&words)?;
    let absent: Vec<&Program> = missing.into_iter().filter(|program| which(program.name).is_none()).collect();
    if !absent.is_empty() {
        bail!("still missing after apt-get install: {}", names(&absent));
    }
    Ok(())
}

fn names(programs: &[&Program]) -> String {
    programs.iter().map(|program| program.name).collect::<Vec<_>>().join(", ")
}

fn apt(words: &[&str]) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("apt-get is not here: this command installs from Debian's or Ubuntu's packages only");
    }
    let output = Command::new("apt-get")
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("run apt-get")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} failed: {}", words.join(" "), text.trim());
    }
    Ok(())
}

/// The official `docker` client: the one on PATH, else the one inside Debian's package, unpacked
/// into `folder` and not installed, so that no daemon of it is ever started on this machine.
pub(crate) fn docker_client(folder: &Path) -> Result<PathBuf> {
    if let Some(found) = which("docker") {
        return Ok(found);
    }
    let client = folder.join("usr/bin/docker");
    if client.is_file() {
        return Ok(client);
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    apt(&["update", "-qq"])?;
    for package in ["docker-cli", "docker.io"] {
        let got = Command::new("apt-get")
            .args(["download", "-qq", package])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("run apt-get download")?;
        if !got.success() {
            continue;
        }
        for entry in fs::read_dir(folder)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                crate::execute(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder))?;
                fs::remove_file(&file)?;
            }
        }
        if client.is_file() {
            return Ok(client);
        }
    }
    bail!("no official docker client: neither on PATH nor in the packages docker-cli and docker.io")
}

/// What apt has of the distribution's own archive, as files in `folder`: the suite that this machine is of, its
/// signed Release file, its index, and the packages of a small system. Fetched once.
///
/// ```text
/// folder/{suite,distribution,architecture}   one word each
/// folder/{InRelease,Packages,keyring.gpg}
/// folder/archives/NAME_VERSION_ARCHITECTURE.deb
/// ```
pub(crate) fn archive(folder: &Path) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let value = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
            .with_context(|| format!("/etc/os-release has no {name}"))
    };
    let (suite, distribution) = (value("VERSION_CODENAME")?, value("ID")?);
    for below in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(folder.join(below)).with_context(|| format!("create {}", folder.display()))?;
    }
    let keys = format!("/usr/share/keyrings/{distribution}-archive-keyring.gpg");
    fs::copy(&keys, folder.join("keyring.gpg"))
        .with_context(|| format!("copy {keys}: install {distribution}-archive-keyring"))?;
    let whole = folder.join("whole");
    if whole.is_file() {
        return Ok(folder.to_owned());
    }
    let address = own_address(&suite)?;
    let source = folder.join("sources.list");
    fs::write(&source, format!("deb {address} {suite} main\n")).context("write sources.list")?;
    fs::write(folder.join("status"), "").context("write status")?;
    let set = |name: &str, path: &str| format!("-o{name}={}", folder.join(path).display());
    // A machine of its own, on which nothing is installed: the real one keeps its lists.
    let options = [
        set("Dir::Etc::sourcelist", "sources.list"),
        "-oDir::Etc::sourceparts=-".to_owned(),
        set("Dir::State::lists", "lists"),
        set("Dir::State::status", "status"),
        set("Dir::State::extended_states", "extended"),
        set("Dir::Cache", ""),
        "-oAcquire::GzipIndexes=false".to_owned(),
        "-oAcquire::Languages=none".to_owned(),
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    println!("fetching the packages of a small system of {suite}");
    apt(&[&options[..], &["update", "-qq"]].concat())?;
    let system = ["?essential", "?priority(required)", "apt", "hello"];
    let install = ["install", "-y", "-qq", "--no-install-recommends", "--download-only"];
    apt(&[&options[..], &install, &system].concat())?;
    for (ending, name) in [("_InRelease", "InRelease"), ("_Packages", "Packages")] {
        let lists = fs::read_dir(folder.join("lists"))?.flatten().map(|entry| entry.path());
        let found = lists.into_iter().find(|path| path.to_string_lossy().ends_with(ending));
        let found = found.with_context(|| format!("apt has fetched no {name}"))?;
        fs::rename(&found, folder.join(name)).with_context(|| format!("rename {}", found.display()))?;
    }
    let architecture = Command::new("dpkg").arg("--print-architecture").output().context("run dpkg")?.stdout;
    for (name, text) in [
        ("suite", suite.as_bytes()),
        ("distribution", distribution.as_bytes()),
        ("architecture", &architecture),
    ] {
        fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
    }
    fs::write(&whole, "").context("write whole")?;
    Ok(folder.to_owned())
}

/// Where apt gets the suite from.
fn own_address(suite: &str) -> Result<String> {
    let ask = || -> Result<String> {
        let format = "$(REPO_URI) $(RELEASE)";
        let targets = ["indextargets", "--format", format, "Created-By: Packages", "Component: main"];
        let output = Command::new("apt-get").args(targets).output().context("run apt-get indextargets")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let found = |lines: &str| {
        let words = lines.lines().filter_map(|line| line.split_once(' '));
        words.into_iter().find(|(_, release)| *release == suite).map(|(address, _)| address.to_owned())
    };
    if let Some(address) = found(&ask()?) {
        return Ok(address);
    }
    // Before the first update apt knows of nothing.
    apt(&["update", "-qq"])?;
    found(&ask()?).with_context(|| format!("apt has no source of {suite}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Machine {
        Machine {
            root: true,
            overlay: true,
            namespaces: NAMESPACES.to_vec(),
            mounts: "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n".to_owned(),
            status: "CapEff:\t000001ffffffffff\nSeccomp:\t0\n".to_owned(),
        }
    }

    #[test]
    fn each_lack_is_one_line_that_names_it() {
        assert_eq!(lack(&able()), None);
        let hybrid = "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n".to_owned();
        assert_eq!(lack(&Machine { mounts: hybrid, ..able() }), None);
        let without = |kind| NAMESPACES.into_iter().filter(|have| *have != kind).collect();
        for (machine, named) in [
            (Machine { root: false, ..able() }, "need root here: run this command with sudo"),
            (Machine { overlay: false, ..able() }, "lacks overlayfs (CONFIG_OVERLAY_FS)"),
            (Machine { namespaces: without("cgroup"), ..able() }, "lacks cgroup namespaces"),
            (Machine { namespaces: without("uts"), ..able() }, "lacks uts namespaces"),
            (Machine { mounts: "22 1 8:1 / / rw - ext4 d rw\n".into(), ..able() }, "no control groups are"),
            (
                Machine { status: "CapEff:\t00000000a80425fb\nSeccomp:\t0\n".into(), ..able() },
                "lacks CAP_SYS_ADMIN",
            ),
            (Machine { status: "CapEff:\t000001ffffffffff\n".into(), ..able() }, "lacks seccomp filters"),
        ] {
            let line = lack(&machine).expect(named);
            assert!(line.contains(named) && !line.contains('\n'), "{line:?} does not name {named:?}");
        }
    }

    #[test]
    fn a_filesystem_is_found_with_and_without_nodev() {
        let text = "nodev\tproc\n\text4\nnodev\toverlay\n";
        assert!(lists_filesystem(text, "overlay"));
        assert!(lists_filesystem(text, "ext4"));
        assert!(!lists_filesystem(text, "nodev"));
        assert!(!lists_filesystem(text, "over"));
    }

    #[test]
    fn sys_admin_is_bit_21_of_the_effective_set() {
        assert!(has_sys_admin("CapEff:\t000001fffeffffff\n"));
        assert!(!has_sys_admin("CapEff:\t00000000a80425fb\n"));
        assert!(!has_sys_admin("CapPrm:\t000001ffffffffff\n"));
    }
}
