//! The privileged tests on another kernel: Debian's own, with every controller on cgroup v2.
//!
//! The machine that tests run on may have cgroup v1, and always has just one kernel. This boots a
//! virtual machine from Debian's packages (QEMU without KVM, so it needs no rights and is slow),
//! whose memory holds a small Debian, the executables and the tests, and runs those that the
//! command names, those among them that are ignored elsewhere because they need this kernel. A
//! command of its own, not a part of `cargo xtask test`: it takes minutes.
//!
//! ```text
//! target/vm/kernel-…/      Debian's kernel package, unpacked
//! target/vm/root.tar       what mmdebstrap made
//! target/vm/root/          that, with modules, executables and tests: the initial memory's content
//! target/vm/disk           where the tests keep their data: this kernel's tmpfs maps no ids
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::machine::{self, Program};
use crate::test::FAILPOINTS;
use crate::{build, cargo, execute};

const PROGRAMS: &[Program] = &[
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86" },
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "cpio", package: "cpio" },
    Program { name: "depmod", package: "kmod" },
];

/// What the tests call.
const PACKAGES: &str = "util-linux,busybox-static,procps,python3-minimal,kmod,iproute2,nftables,e2fsprogs,\
                        btrfs-progs,nfs-kernel-server";
/// Folders and files of the kernel's modules that the tests need; the others stay out of memory.
const MODULES: &[&str] = &[
    "modules.order",
    "modules.builtin",
    "modules.builtin.modinfo",
    "kernel/fs/btrfs",
    "kernel/fs/fscache",
    "kernel/fs/lockd",
    "kernel/fs/netfs",
    "kernel/fs/nfs",
    "kernel/fs/nfs_common",
    "kernel/fs/nfsd",
    "kernel/fs/overlayfs",
    "kernel/fs/ext4",
    "kernel/fs/jbd2",
    "kernel/fs/mbcache.ko",
    "kernel/net",
    "kernel/crypto",
    "kernel/lib",
    "kernel/drivers/block/loop.ko",
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/drivers/virtio",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/macvlan.ko",
];
/// Seconds until a machine that says nothing more is given up.
const PATIENCE: &str = "3600";
const MEMORY: &str = "4096";
/// Bytes; what is not written takes no room.
const DISK: u64 = 4 << 30;

/// Boots and runs the tests that `filters` name; without any, those of limits and isolation.
pub(crate) fn run(filters: &[String]) -> Result<()> {
    machine::must_run_containers()?;
    machine::install(PROGRAMS)?;
    let docker = machine::docker_client(&build::target_folder().join("tools/docker"))?;
    let folder = build::target_folder().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let kernel = kernel(&folder)?;
    let root = tree(&folder, &kernel)?;
    executables(&root, &docker)?;
    let usual = ["limits::".to_owned(), "isolation::".to_owned()];
    let words = if filters.is_empty() { &usual[..] } else { filters };
    fs::write(
        root.join("words"),
        format!("--include-ignored --test-threads 2 --color never {}\n", words.join(" ")),
    )?;
    let memory = folder.join("memory.cpio");
    pack(&root, &memory)?;
    let disk = folder.join("disk");
    fs::File::create(&disk)
        .and_then(|file| file.set_len(DISK))
        .with_context(|| format!("make {}", disk.display()))?;
    boot(&image(&kernel)?, &memory, &disk)
}

/// Debian's kernel for virtual machines, unpacked.
fn kernel(folder: &Path) -> Result<PathBuf> {
    let depends = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?;
    let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name = name.context("apt-cache knows no linux-image-cloud-amd64")?;
    let kernel = folder.join(format!("kernel-{name}"));
    if !kernel.exists() {
        println!("fetching {name}");
        let fetched = folder.join("fetched");
        fs::create_dir_all(&fetched)?;
        // The folder may be one that apt's own user cannot reach.
        let words = ["-qq", "-o", "APT::Sandbox::User=root", "download", name];
        execute(Command::new("apt-get").args(words).current_dir(&fetched))?;
        let package = fs::read_dir(&fetched)?.next().context("apt-get downloaded nothing")??.path();
        let partial = folder.join("kernel.partial");
        execute(Command::new("dpkg-deb").arg("-x").arg(package).arg(&partial))?;
        fs::rename(&partial, &kernel)?;
        fs::remove_dir_all(&fetched)?;
    }
    Ok(kernel)
}

fn image(kernel: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(kernel.join("boot"))?.flatten().map(|entry| entry.path());
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    files.into_iter().find(named).context("the kernel's package has no vmlinuz")
}

/// A small Debian of this machine's release, in an archive.
fn debian(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("root.tar");
    // What the archive was made of, beside it.
    let made_of = folder.join("root.packages");
    if archive.exists() && fs::read_to_string(&made_of).is_ok_and(|packages| packages == PACKAGES) {
        return Ok(archive);
    }
    println!("making a small Debian");
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"');
    // The packages come from where this machine's do.
    let asked = ["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"];
    let archives = Command::new("apt-get").args(asked).output().context("run apt-get indextargets")?;
    let archives = String::from_utf8_lossy(&archives.stdout).into_owned();
    let mirror = mirror(&archives, suite);
    let mirror = mirror.with_context(|| format!("apt knows no archive of {suite}: run apt-get update"))?;
    let partial = folder.join("partial.tar");
    let include = format!("--include={PACKAGES}");
    let words = ["--quiet", "--variant=minbase", &include, "--aptopt=Acquire::Check-Valid-Until \"false\""];
    execute(Command::new("mmdebstrap").args(words).arg(suite).arg(&partial).arg(mirror))?;
    fs::rename(&partial, &archive)?;
    fs::write(&made_of, PACKAGES)?;
    Ok(archive)
}

/// That Debian with the kernel's modules, unpacked anew each time: tests of an earlier run leave
/// nothing.
fn tree(folder: &Path, kernel: &Path) -> Result<PathBuf> {
    let archive = debian(folder)?;
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir(&root)?;
    execute(
        Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&root).args(["--exclude", "./dev/*"]),
    )?;
    let modules = kernel.join("lib/modules");
    let version = fs::read_dir(&modules)?.next().context("the kernel's package has no modules")??.file_name();
    let target = root.join("lib/modules").join(&version);
    fs::create_dir_all(&target)?;
    let present = MODULES.iter().filter(|path| modules.join(&version).join(path).exists());
    execute(
        Command::new("cp")
            .args(["-a", "--parents"])
            .args(present)
            .arg(&target)
            .current_dir(modules.join(&version)),
    )?;
    execute(Command::new("depmod").arg("-b").arg(&root).arg(&version))?;
    let init = root.join("init");
    fs::write(&init, include_str!("vm/init.sh"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(root)
}

/// The archive of a release, from apt's list of codenames and archives: other archives may be in
/// use beside it.
fn mirror<'a>(archives: &'a str, suite: &str) -> Option<&'a str> {
    archives
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == suite))
        .map(|(_, at)| at)
}

/// The executables and the tests, where the tests were built to look for them.
fn executables(root: &Path, docker: &Path) -> Result<()> {
    let target = build::target_folder();
    let features = ["--features", FAILPOINTS];
    execute(cargo().args(["build", "--quiet", "--workspace", "--bins"]).args(features))?;
    let words = ["test", "--quiet", "--workspace", "--test", "root", "--no-run", "--message-format", "json"];
    let output = cargo().args(words).args(features).stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut tests = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    let tests = tests.next_back().context("cargo built no privileged tests")?;
    let place =
        root.join(target.join("debug").strip_prefix("/").context("the target folder is not absolute")?);
    fs::create_dir_all(&place)?;
    for name in ["hull", "hull-runtime"] {
        slim(&target.join("debug").join(name), &place.join(name))?;
    }
    slim(&tests, &root.join("tests"))?;
    fs::copy(docker, root.join("usr/bin/docker"))?;
    Ok(())
}

/// A copy without what only debuggers read.
fn slim(from: &Path, to: &Path) -> Result<()> {
    execute(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(from))
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let file = fs::File::create(archive)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["-o", "-H", "newc", "--quiet", "--null"]).current_dir(root).stdin(Stdio::piped()).stdout(file);
    let mut cpio = cpio.spawn().context("run cpio")?;
    let names = Command::new("find").args([".", "-print0"]).current_dir(root).output()?.stdout;
    cpio.stdin.take().context("cpio's input")?.write_all(&names)?;
    if !cpio.wait()?.success() {
        bail!("cpio could not pack {}", root.display());
    }
    Ok(())
}

/// Shows what the machine says; its tests must say that they ended well.
fn boot(kernel: &Path, memory: &Path, disk: &Path) -> Result<()> {
    let mut machine = Command::new("timeout");
    machine.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    machine.args(["-m", MEMORY, "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"]);
    machine.args(["-serial", "stdio", "-no-reboot"]);
    machine.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(memory);
    machine.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
    let mut machine = machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run QEMU")?;
    let output = machine.stdout.take().context("the machine's output")?;
    let mut passed = false;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("{line}");
        passed |= line == "the tests ended with 0";
    }
    machine.wait()?;
    if !passed {
        bail!("the tests in the virtual machine failed, or it did not reach their end in {PATIENCE} s");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mirror;

    #[test]
    fn the_archive_is_the_one_of_the_release() {
        let archives = "nodistro https://else.example/\nbookworm-updates http://deb.example/u\n\
                        bookworm http://deb.example/debian/\n";
        assert_eq!(mirror(archives, "bookworm"), Some("http://deb.example/debian/"));
        assert_eq!(mirror(archives, "trixie"), None);
    }
}
