//! What a container finds in its file system: the mounts of its spec, /dev, the view of its cgroup.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Device, Mount, Spec};
use hull_sys::error::During;
use hull_sys::mount::{self, READ_ONLY};
use hull_sys::root::{Handle, Root};
use hull_sys::{Errno, process};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::binds::{self, Taken};
use super::failure::{OrFail, Result, invalid};
use super::mounts::{self, Api, Source};
use super::options::{self, Change, Options};
use crate::bundle;
use crate::cgroup::{Cgroup, Mode as CgroupMode};

/// Where a container is built.
pub(super) struct Site<'a> {
    pub(super) api: Api,
    pub(super) root: &'a Root,
    pub(super) spec: &'a Spec,
    pub(super) sources: &'a BTreeMap<PathBuf, bundle::Source>,
    pub(super) cgroup: &'a Cgroup,
    pub(super) cgroup_mode: CgroupMode,
    /// In a user namespace device nodes cannot be made: the host's are bound.
    pub(super) user_namespace: bool,
    /// A copy of another container's /dev/shm, to be attached instead of a new one.
    pub(super) shared_memory: Option<&'a OwnedFd>,
    /// For each mount of the spec, in their order: what was taken along for it.
    pub(super) taken: &'a [Option<Taken>],
}

/// Where POSIX' shared memory is (shm_overview(7)).
const SHARED_MEMORY: &str = "/dev/shm";

/// A detached copy of the /dev/shm in another mount namespace. Only who is in a namespace may copy
/// its mounts (open_tree(2)), so this process goes there and comes back.
///
/// # Errors
/// There is none, or what is there is no memory; or the kernel has no such copies.
pub(super) fn copy_shared_memory(namespace: &OwnedFd) -> Result<OwnedFd> {
    let own = rustix::fs::open(c"/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open", || "/proc/self/ns/mnt")
        .or_host()?;
    process::join_one(namespace).or_invalid(|| "joining the mount namespace of another container".into())?;
    let copied = Root::open(Path::new("/")).and_then(|root| {
        let there = root.resolve_nofollow(Path::new(SHARED_MEMORY))?;
        let kind = rustix::fs::fstatfs(&there).during("fstatfs", || SHARED_MEMORY)?.f_type;
        if kind != TMPFS_MAGIC {
            return Err(Errno::NODEV).during("fstatfs", || format!("{SHARED_MEMORY} is no tmpfs"));
        }
        mount::copy_of(&there, false)
    });
    // Whatever came of it: nothing further is done among the other's files.
    process::join_one(&own).or_host()?;
    copied.or_invalid(|| format!("sharing {SHARED_MEMORY} with another container"))
}

/// statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

pub(super) const FOLDER: Mode = Mode::from_raw_mode(0o755);
pub(super) const FILE: Mode = Mode::from_raw_mode(0o644);

/// The devices that every container has (runtime-spec `config-linux.md#default-devices`).
const DEVICES: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// `ptmx` leads to the container's own devpts.
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// All mounts of the spec in their order, kernel settings, then /dev.
pub(super) fn build(site: &Site<'_>) -> Result<()> {
    let mut settings = Settings::of(site.spec);
    for (index, entry) in site.spec.mounts.iter().enumerate() {
        let made = mount_entry(site, entry, site.taken.get(index).and_then(Option::as_ref))?;
        if let (Some(made), "proc") = (made, &*entry.kind) {
            settings.try_through(made);
        }
    }
    settings.write()?;
    // A /dev that is bound from the host is the host's: nothing is made in it.
    let dev = site.spec.mounts.iter().rev().find(|entry| entry.destination == Path::new("/dev"));
    if dev.is_none_or(|dev| options::parse(&dev.kind, &dev.options).bind.is_none()) {
        devices(site)?;
    }
    Ok(())
}

/// Gives the root folder of a new file system.
fn mount_entry(site: &Site<'_>, entry: &Mount, taken: Option<&Taken>) -> Result<Option<Handle>> {
    let options = options::parse(&entry.kind, &entry.options);
    let path = entry.destination.as_path();
    if !entry.uid_mappings.is_empty() || !entry.gid_mappings.is_empty() {
        return Err(invalid(format!("mount {}: id mappings of a mount are not supported", path.display())));
    }
    if options.copy_up {
        return Err(invalid(format!("mount {}: tmpcopyup is not supported", path.display())));
    }
    if options.bind.is_some() {
        let source = site.sources.get(&entry.destination);
        return binds::mount(site.api, site.root, (entry, source), taken).map(|()| None);
    }
    if matches!(&*entry.kind, "cgroup" | "cgroup2") {
        return cgroup_view(site, path, &options).map(|()| None);
    }
    let place = site.root.create_dirs(path, FOLDER).or_host()?;
    binds::keep_proc(&place, path, entry.kind == "proc")?;
    if let Some(shared) = site.shared_memory.filter(|_| path == Path::new(SHARED_MEMORY)) {
        return mount::attach(shared, &place).or_host().map(|()| None);
    }
    if matches!(&*entry.kind, "proc" | "sysfs") {
        // An image may have a symlink here; then what is mounted would not be what later steps and
        // the container's programs take for /proc.
        let itself = site.root.resolve_nofollow(path).or_host()?;
        if !itself.is_dir().or_host()? {
            return Err(invalid(format!(
                "filesystem {:?} must be mounted on ordinary directory",
                entry.kind
            )));
        }
    }
    let made =
        mounts::file_system(site.api, site.root, (&place, path), (&entry.kind, &entry.source), &options);
    let made = match made {
        // A sysfs is of a network namespace, and only who owns that may mount one: without a network
        // of its own a user namespace sees the host's.
        Err(error) if error.errno == Errno::PERM && site.user_namespace && entry.kind == "sysfs" => {
            let all = Options { bind: Some(true), recursive: options.change, ..Options::default() };
            mounts::bind(site.api, site.root, (&place, path), Source::Host(Path::new("/sys")), &all)
                .map(|()| None)
        }
        made => made.map(Some),
    };
    made.or_invalid(|| format!("error mounting {:?} to rootfs at {:?}", entry.source, path.to_string_lossy()))
}

/// The container's own cgroup and nothing else: on v2 its folder, on v1 and hybrid hosts a tmpfs
/// with one folder for each v1 hierarchy, and the names of single controllers as links where a
/// hierarchy has several.
fn cgroup_view(site: &Site<'_>, path: &Path, asked: &Options) -> Result<()> {
    let place = site.root.create_dirs(path, FOLDER).or_host()?;
    let options = Options { bind: Some(false), change: asked.change, ..Options::default() };
    if site.cgroup_mode == CgroupMode::V2 {
        return match site.cgroup.folders().find(|(.., v2)| *v2) {
            Some((_, folder, _)) => {
                mounts::bind(site.api, site.root, (&place, path), Source::Host(Path::new(&folder)), &options)
                    .or_host()
            }
            None => Ok(()),
        };
    }
    let data = vec!["mode=755".to_owned(), "size=64k".to_owned()];
    let writable = Change { set: asked.change.set & !READ_ONLY, clear: asked.change.clear };
    let tmpfs = Options { change: writable, data, ..Options::default() };
    let top =
        mounts::file_system(site.api, site.root, (&place, path), ("tmpfs", "tmpfs"), &tmpfs).or_host()?;
    for (point, folder, _) in site.cgroup.folders().filter(|(.., v2)| !*v2) {
        let Some(name) = Path::new(point).file_name() else { continue };
        let inside = path.join(name);
        // In a tmpfs that was empty a moment ago and is nobody else's.
        let place = top.make_dir(name, FOLDER).or_host()?;
        mounts::bind(site.api, site.root, (&place, &inside), Source::Host(Path::new(&folder)), &options)
            .or_host()?;
        let name = name.to_string_lossy();
        for alias in name.split(',').filter(|_| name.contains(',')) {
            top.make_link(OsStr::new(alias), Path::new(&*name)).or_host()?;
        }
    }
    if asked.change.set & READ_ONLY != 0 {
        super::rootfs::make_read_only(site.api, &Root { fd: top.fd })?;
    }
    Ok(())
}

fn devices(site: &Site<'_>) -> Result<()> {
    let dev = site.root.create_dirs(Path::new("/dev"), FOLDER).or_host()?;
    let asked = &site.spec.linux.devices;
    let named: BTreeSet<&Path> = asked.iter().map(|device| device.path.as_path()).collect();
    for (path, major, minor) in DEVICES.iter().filter(|(path, ..)| !named.contains(Path::new(path))) {
        let device = Device {
            kind: "c".into(),
            path: PathBuf::from(path),
            major: *major,
            minor: *minor,
            file_mode: Some(0o666),
            uid: None,
            gid: None,
        };
        make_device(site, &dev, &device)?;
    }
    for device in asked {
        make_device(site, &dev, device)?;
    }
    // Kernels without this file have nothing that the link could lead to.
    let core = Path::new("/proc/kcore").exists();
    for (name, target) in LINKS.iter().filter(|(name, _)| core || *name != "core") {
        link(&dev, name, target)?;
    }
    Ok(())
}

/// A link in /dev; an image's own file of that name gives way, its own link stays.
fn link(dev: &Handle, name: &str, target: &str) -> Result<()> {
    match dev.make_link(OsStr::new(name), Path::new(target)) {
        Err(error) if error.errno == Errno::EXIST && name == "ptmx" => {
            rustix::fs::unlinkat(dev, name, AtFlags::empty()).or_host()?;
            dev.make_link(OsStr::new(name), Path::new(target)).or_host()
        }
        Err(error) if error.errno == Errno::EXIST => Ok(()),
        made => made.or_host(),
    }
}

fn make_device(site: &Site<'_>, dev: &Handle, device: &Device) -> Result<()> {
    let kind = match &*device.kind {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(invalid(format!("device {}: unknown type {other:?}", device.path.display()))),
    };
    let path = device.path.as_path();
    if site.user_namespace && kind != FileType::Fifo {
        return bind_device(site, path);
    }
    let name = path.file_name().ok_or_else(|| invalid(format!("device {:?} has no name", path)))?;
    let elsewhere = match path.parent() {
        Some(parent) if parent == Path::new("/dev") => None,
        Some(parent) => Some(site.root.create_dirs(parent, FOLDER).or_host()?),
        None => return Err(invalid(format!("device {:?} has no folder", path))),
    };
    let dir = elsewhere.as_ref().unwrap_or(dev);
    let number =
        |n: i64| u32::try_from(n).map_err(|_| invalid(format!("device {}: number {n}", path.display())));
    let id = rustix::fs::makedev(number(device.major)?, number(device.minor)?);
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    match dir.make_node(name, kind, mode, id) {
        Ok(()) => {}
        Err(error) if error.errno == Errno::EXIST => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).or_host()?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != id {
                // Of the image, and not what everybody takes it for.
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).or_host()?;
                dir.make_node(name, kind, mode, id).or_host()?;
            }
        }
        Err(error) if error.errno == Errno::PERM => return bind_device(site, path),
        Err(error) => return Err(error).or_host(),
    }
    match (device.uid.unwrap_or(0), device.gid.unwrap_or(0)) {
        (0, 0) => Ok(()),
        (uid, gid) => dir.set_owner(name, uid, gid).or_host(),
    }
}

fn bind_device(site: &Site<'_>, path: &Path) -> Result<()> {
    let place = site.root.create_file(path, FILE, FOLDER).or_host()?;
    let options = Options { bind: Some(false), ..Options::default() };
    mounts::bind(site.api, site.root, (&place, path), Source::Host(path), &options)
        .or_invalid(|| format!("device {}", path.display()))
}

/// Puts the terminal's slave at /dev/console.
pub(super) fn bind_console(site: &Site<'_>, slave: impl AsFd) -> Result<()> {
    let path = Path::new("/dev/console");
    let place = site.root.create_file(path, FILE, FOLDER).or_host()?;
    let options = Options { bind: Some(false), ..Options::default() };
    mounts::bind(site.api, site.root, (&place, path), Source::Fd(slave.as_fd()), &options).or_host()
}

/// The kernel settings of a spec, as long as they are not written. They are written through a /proc
/// that is sure to be one: the container's own at the moment it is mounted, when nothing can lie on
/// any part of it; else one that is nowhere attached, whose end waits for an RCU grace period. What
/// the image has at /proc is not believed.
struct Settings<'a> {
    left: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Settings<'a> {
    fn of(spec: &'a Spec) -> Settings<'a> {
        let settings = &spec.linux.sysctl;
        Settings { left: (!settings.is_empty()).then_some(settings) }
    }

    /// A /proc may have been asked for read-only, or without `sys`.
    fn try_through(&mut self, proc: Handle) {
        let proc = Root { fd: proc.fd };
        self.left = self.left.filter(|settings| write_settings(&proc, settings).is_err());
    }

    fn write(self) -> Result<()> {
        let Some(settings) = self.left else { return Ok(()) };
        let proc = match mount::new("proc", &[], 0) {
            Ok(fd) => Root { fd },
            // Without the new mount API: the host's own, which is still at its place. What it shows
            // below sys is of the namespaces of who opens it.
            Err(error) if matches!(error.errno, Errno::NOSYS | Errno::PERM) => {
                Root::open(Path::new("/proc")).or_host()?
            }
            Err(error) => return Err(error).or_host(),
        };
        write_settings(&proc, settings)
    }
}

fn write_settings(proc: &Root, settings: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in settings {
        let path = Path::new("sys").join(key.replace('.', "/"));
        let flags = OFlags::WRONLY;
        let fd = proc.open_file(&path, flags, Mode::empty()).or_invalid(|| format!("sysctl {key:?}"))?;
        rustix::io::write(&fd, value.as_bytes()).or_invalid(|| format!("sysctl {key:?}={value:?}"))?;
    }
    Ok(())
}
