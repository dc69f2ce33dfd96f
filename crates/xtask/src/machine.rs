//! What the machine must have: the user's rights, the kernel's features, Debian's packages.
//!
//! Everything is looked at before anything is done, and what is missing is named in one line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Stops with one line that names what this machine lacks for running containers.
pub(crate) fn must_run_containers() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("containers need root here: run this command with sudo");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    if !lists_filesystem(&filesystems, "overlay") && !loads_module("overlay") {
        bail!("the kernel lacks overlayfs (CONFIG_OVERLAY_FS): neither built in nor a module");
    }
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            bail!("the kernel lacks {kind} namespaces (/proc/self/ns/{kind} is missing)");
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    if !mounts.lines().any(|line| line.contains(" - cgroup")) {
        bail!("no control groups are mounted (/sys/fs/cgroup): mount cgroup2 there, or start systemd");
    }
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    if !has_sys_admin(&status) {
        bail!("root here lacks CAP_SYS_ADMIN (a container without --privileged?): namespaces cannot be made");
    }
    if !status.lines().any(|line| line.starts_with("Seccomp:")) {
        bail!("the kernel lacks seccomp filters (CONFIG_SECCOMP_FILTER)");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

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
