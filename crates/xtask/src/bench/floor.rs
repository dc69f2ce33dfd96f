//! The floor: the kernel work of a container's start and nothing else.
//!
//! What [`start`] times is what any runtime must ask of the kernel for the benchmark's bundle on
//! this host: cgroups (joined the cheap way), a clone into new namespaces, mounts, devices, masks,
//! pivot_root, a search-tree seccomp filter of the usual size, exec of `true`, wait. No
//! configuration is parsed and no second program is executed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hull_sys::process::{self, CloneOptions, Forked, Namespaces, Strings};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};

/// The v1 hierarchies a container gets a cgroup in.
const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Ranges of call numbers in the filter: 2 × 190 instructions, as the default profile needs.
const FILTER_RANGES: u32 = 190;

pub(crate) struct Floor {
    rootfs: PathBuf,
    /// Mount points of the hierarchies that this host has.
    cgroups: Vec<PathBuf>,
    filter: Vec<u64>,
    name: String,
}

impl Floor {
    /// Prepares parents and filter; the caller is in a mount namespace of its own.
    pub(crate) fn new(rootfs: &Path) -> Result<Floor> {
        let name = format!("hull-bench-{}", std::process::id());
        let mut cgroups = Vec::new();
        for controller in CONTROLLERS {
            let point = Path::new(CGROUPS).join(controller);
            if point.join("tasks").exists() {
                let parent = point.join(&name);
                fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
                inherit_cpuset(&point, &parent)?;
                cgroups.push(parent);
            }
        }
        let mut filter = vec![instruction(0x20, 0, 0, 0)];
        tree(&mut filter, 0, FILTER_RANGES);
        Ok(Floor { rootfs: rootfs.to_owned(), cgroups, filter, name })
    }

    /// One start, in milliseconds from the first call to the end of `true`. What is torn down
    /// afterwards does not count.
    pub(crate) fn start(&self) -> Result<f64> {
        let begin = Instant::now();
        let mut tasks = Vec::with_capacity(self.cgroups.len());
        for parent in &self.cgroups {
            let own = parent.join("c");
            fs::create_dir(&own).with_context(|| format!("create {}", own.display()))?;
            inherit_cpuset(parent, &own)?;
            tasks.push(fs::File::options().write(true).open(own.join("tasks")).context("open tasks")?);
        }
        let new =
            Namespaces::MOUNT | Namespaces::PID | Namespaces::IPC | Namespaces::UTS | Namespaces::NETWORK;
        let child = match process::clone(&CloneOptions { new, ..CloneOptions::default() })? {
            Forked::Child => {
                let error = self.inside(tasks);
                eprintln!("floor: {error:?}");
                process::exit_now(99);
            }
            Forked::Parent(child) => child,
        };
        drop(tasks);
        let ended = process::wait(&child.pidfd, true)?.context("the child has not ended")?;
        let elapsed = begin.elapsed().as_secs_f64() * 1000.0;
        for parent in &self.cgroups {
            fs::remove_dir(parent.join("c")).with_context(|| format!("remove {}/c", parent.display()))?;
        }
        if ended.code() != 0 {
            bail!("the floor's child ended with {}", ended.code());
        }
        Ok(elapsed)
    }

    /// In the child; comes back only with an error.
    fn inside(&self, tasks: Vec<fs::File>) -> Result<std::convert::Infallible> {
        use std::io::Write;
        for mut file in tasks {
            file.write_all(b"0").context("join a cgroup")?;
        }
        process::unshare(Namespaces::CGROUP)?;
        hull_sys::netlink::loopback_up()?;
        self.mounts()?;
        self.pivot()?;
        let args = Strings::new(["true"])?;
        let env = Strings::new(["PATH=/bin"])?;
        hull_sys::seccomp::install(&self.filter, 0)?;
        let error = process::exec(c"/bin/true", &args, &env);
        bail!("exec true: {error}")
    }

    fn mounts(&self) -> Result<()> {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("make private")?;
        let root = &self.rootfs;
        mount_bind(root, root).context("bind the root")?;
        let hard = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let fresh = |kind: &str, place: &str, flags: MountFlags, data: &str| {
            let place = root.join(place);
            let data = std::ffi::CString::new(data).unwrap_or_default();
            mount(kind, &place, kind, flags, &*data).with_context(|| format!("mount {kind}"))
        };
        fresh("proc", "proc", hard, "")?;
        fresh("tmpfs", "dev", MountFlags::NOSUID, "mode=755,size=65536k")?;
        fresh("sysfs", "sys", hard | MountFlags::RDONLY, "")?;
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let path = root.join("dev").join(name);
            let mode = Mode::from_raw_mode(0o666);
            mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).context("mknod")?;
        }
        for (name, kind, flags, data) in [
            ("pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
            ("mqueue", "mqueue", hard, ""),
            ("shm", "tmpfs", hard, "mode=1777,size=65536k"),
        ] {
            fs::create_dir(root.join("dev").join(name)).context("mkdir in dev")?;
            fresh(kind, &format!("dev/{name}"), flags, data)?;
        }
        let null = root.join("dev/null");
        for masked in ["kcore", "keys", "timer_list"] {
            let place = root.join("proc").join(masked);
            if place.exists() {
                mount_bind(&null, &place).context("mask")?;
            }
        }
        for shown in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
            let place = root.join("proc").join(shown);
            if place.exists() {
                mount_bind(&place, &place).context("bind read-only")?;
                mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY | hard, c"")
                    .context("remount")?;
            }
        }
        Ok(())
    }

    fn pivot(&self) -> Result<()> {
        rustix::process::chdir(&self.rootfs).context("chdir")?;
        rustix::process::pivot_root(".", ".").context("pivot_root")?;
        unmount(".", UnmountFlags::DETACH).context("unmount the old root")?;
        rustix::process::chdir("/").context("chdir /")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for parent in &self.cgroups {
            let _ = fs::remove_dir(parent.join("c"));
            if let Err(error) = fs::remove_dir(parent) {
                eprintln!("bench: remove {} ({}): {error}", parent.display(), self.name);
            }
        }
    }
}

/// A new v1 cpuset is empty and takes no process until it has its parent's values.
fn inherit_cpuset(parent: &Path, own: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), own.join(file));
        if to.exists() {
            let value = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            fs::write(&to, value.trim_ascii()).with_context(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

fn instruction(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(k) << 32
}

/// A balanced search over `high - low` ranges of call numbers; all are allowed, with differing
/// data so that no range is equal to its neighbour.
fn tree(out: &mut Vec<u64>, low: u32, high: u32) {
    if high - low == 1 {
        out.push(instruction(0x06, 0, 0, 0x7fff_0000 | (low % 2)));
        return;
    }
    let middle = low.midpoint(high);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    tree(&mut left, low, middle);
    tree(&mut right, middle, high);
    out.push(instruction(0x35, u8::try_from(left.len()).unwrap_or(u8::MAX), 0, middle * 3));
    out.extend(left);
    out.extend(right);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_of_the_usual_size_and_its_jumps_fit() {
        let mut filter = Vec::new();
        tree(&mut filter, 0, FILTER_RANGES);
        assert_eq!(filter.len(), 379);
        let longest = filter.iter().filter(|w| *w & 0xffff == 0x35).map(|w| w >> 16 & 0xff).max();
        assert!(longest.is_some_and(|l| l < 255));
    }
}
