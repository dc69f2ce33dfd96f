//! Control groups: what a container may use, counting it, freezing and killing it.
//!
//! ```text
//! layout    which hierarchies the host has (pure)          v1, v2, hybrid
//! settings  OCI resources -> files and values (pure)
//! devices   OCI device rules -> v1 lines, v2 program (pure)
//! life      freeze, thaw, kill, processes, remove
//! stats     counters
//! ```
//!
//! [`Hierarchies`] keeps a descriptor of each hierarchy's root, opened once per process (a fork
//! of that process shares them), and a [`Cgroup`] is a path below all of them. So creating one
//! costs a mkdir and a few opens per hierarchy, about 0.2 ms for nine of them.
//!
//! **Joining** is the caller's, because the price depends on who does it: on v1, writing another
//! process' id makes the kernel wait for an RCU grace period (8 ms measured), while a
//! single-threaded process that writes `0` to `tasks` moves itself for 0.01 ms. On v2, clone3
//! with `CLONE_INTO_CGROUP` starts a process right inside. [`Join`] has the descriptors for
//! both. A process must join before it unshares its cgroup namespace, whose root is where it
//! then is.
//!
//! **Limits that the host cannot set** come back as [`Warning`]s; the container starts. Errors
//! are only values that contradict each other or that the kernel refuses, files asked for by
//! the kernel's own name (`unified`), and a device list that cannot be enforced, since that
//! list is a wall and no limit.

mod devices;
mod files;
mod layout;
mod life;
mod settings;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hull_oci::runtime::Resources;
use rustix::fs::{Access, AtFlags, Mode as FileMode, OFlags, accessat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

pub use layout::{Controller, Mode};
use layout::{Layout, Tree};
use settings::{Setting, Site};
pub use stats::{BlkioEntry, CpuStats, MemoryStats, PidsStats, Stats};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no cgroup file system is mounted")]
    NoCgroups,
    #[error("cgroup path {path:?} {reason}")]
    Path { path: String, reason: &'static str },
    #[error("{what}: {reason}")]
    Value { what: &'static str, reason: String },
    #[error("{what}: the kernel refuses {value:?} for {file} of cgroup {path}")]
    Refused { what: &'static str, path: String, file: String, value: String, source: Errno },
    #[error("this host cannot restrict devices: no devices controller and no BPF for cgroups")]
    NoDevices { source: hull_sys::Error },
    /// A cgroup of that path exists and has processes.
    #[error("cgroup {path} is in use")]
    InUse { path: String },
    #[error("cgroup {path} could not be frozen within {seconds} s")]
    Freeze { path: String, seconds: u64 },
    #[error("cgroup {path} still has processes")]
    Occupied { path: String },
    #[error("{call} cgroup {file}")]
    Call { call: &'static str, file: String, source: Errno },
}

/// A limit that was asked for and is not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error("{what}: this host has no {} controller; the limit is ignored", controller.v1_name())]
    NoController {
        /// The OCI name, like `memory.limit`.
        what: &'static str,
        controller: Controller,
    },
    #[error("{what}: this host's cgroups have no such limit; it is ignored")]
    NoKnob { what: &'static str },
    #[error("{what}: not allowed to write {file}; the limit is ignored")]
    Denied { what: &'static str, file: String },
}

/// The cgroup hierarchies of this host, held open. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    roots: Arc<Roots>,
}

#[derive(Debug)]
struct Roots {
    mode: Mode,
    v1: Vec<(Tree, OwnedFd)>,
    v2: Option<(Tree, OwnedFd)>,
}

impl Hierarchies {
    /// Finds and opens what is mounted in this process' mount namespace.
    ///
    /// # Errors
    /// [`Error::NoCgroups`]; [`Error::Call`] when a root cannot be opened.
    pub fn detect() -> Result<Hierarchies, Error> {
        let text = |path: &str| {
            files::get(rustix::fs::CWD, path).map_err(|source| Error::Call {
                call: "read",
                file: path.to_owned(),
                source,
            })
        };
        let mountinfo = text("/proc/self/mountinfo")?;
        let controllers = match layout::v2_point(&mountinfo) {
            Some(point) => text(&format!("{point}/cgroup.controllers"))?,
            None => String::new(),
        };
        let layout = layout::parse(&mountinfo, &text("/proc/self/cgroup")?, &controllers);
        Hierarchies::open(layout)
    }

    fn open(layout: Layout) -> Result<Hierarchies, Error> {
        let mode = layout.mode().ok_or(Error::NoCgroups)?;
        let open = |tree: Tree| match files::folder(rustix::fs::CWD, &tree.point) {
            Ok(fd) => Ok((tree, fd)),
            Err(source) => Err(Error::Call { call: "open", file: tree.point, source }),
        };
        Ok(Hierarchies {
            roots: Arc::new(Roots {
                mode,
                v1: layout.v1.into_iter().map(open).collect::<Result<_, _>>()?,
                v2: layout.v2.map(open).transpose()?,
            }),
        })
    }

    /// The folder of the v2 hierarchy's root, where there is one: for what concerns all processes.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.roots.v2.as_ref().map(|(_, folder)| folder.as_fd())
    }

    pub fn mode(&self) -> Mode {
        self.roots.mode
    }

    /// The descriptors of all roots: who forks a child that goes on to use these keeps them open.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let trees = self.roots.v1.iter().chain(&self.roots.v2);
        trees.map(|(_, fd)| fd.as_fd()).collect()
    }

    /// Whether some hierarchy has the controller.
    pub fn has(&self, controller: Controller) -> bool {
        let v2 = self.roots.v2.iter();
        let mut trees = self.roots.v1.iter().chain(v2);
        trees.any(|(tree, _)| tree.controllers.contains(&controller))
    }

    /// Where this process is below the root of v2, else of v1's memory or first hierarchy;
    /// empty is the root. What a rootless engine may use lies below it.
    pub fn own(&self) -> &str {
        let memory = |(tree, _): &&(Tree, _)| tree.controllers.contains(&Controller::Memory);
        let v1 = || self.roots.v1.iter().find(memory);
        let tree = match self.roots.mode {
            Mode::V2 => self.roots.v2.as_ref(),
            Mode::V1 | Mode::Hybrid => v1().or(self.roots.v1.first()),
        };
        tree.map_or("", |(tree, _)| &tree.own)
    }
}

/// The descriptors through which a process gets into a cgroup.
#[derive(Debug)]
pub struct Join {
    /// `tasks` of each v1 hierarchy: the (single) thread itself writes `0` to each.
    pub v1_tasks: Vec<OwnedFd>,
    /// The v2 folder, for clone3's `CLONE_INTO_CGROUP`.
    pub v2: Option<OwnedFd>,
}

/// One path in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// Relative, without slashes at the ends.
    path: String,
    /// Indices into `roots.v1` where the cgroup exists.
    v1: Vec<usize>,
    v2: bool,
}

/// Checks that `path` stays below the root and has no strange bytes; slashes at the ends are
/// allowed, as OCI paths are often absolute.
fn checked(path: &str) -> Result<String, Error> {
    let wrong = |reason| Error::Path { path: path.to_owned(), reason };
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return Err(wrong("is empty"));
    }
    if trimmed.len() > 2048 {
        return Err(wrong("is longer than 2048 bytes"));
    }
    for part in trimmed.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return Err(wrong("has an empty or dotted part"));
        }
        if part.len() > 255 || part.bytes().any(|b| b.is_ascii_control()) {
            return Err(wrong("has a part that is no file name"));
        }
    }
    Ok(trimmed.to_owned())
}

impl Cgroup {
    /// Makes the cgroup in every hierarchy and sets its limits. Nothing is left behind on an
    /// error. An existing cgroup without processes (left by a crash) is taken over.
    ///
    /// # Errors
    /// See the module: contradictions, refusals, essentials.
    pub fn create(
        hierarchies: &Hierarchies,
        path: &str,
        resources: &Resources,
    ) -> Result<(Cgroup, Vec<Warning>), Error> {
        let mut cgroup = Cgroup {
            hierarchies: hierarchies.clone(),
            path: checked(path)?,
            v1: Vec::with_capacity(hierarchies.roots.v1.len()),
            v2: false,
        };
        let done = cgroup.make(resources).and_then(|()| cgroup.limit(resources, true));
        match done {
            Ok(warnings) => Ok((cgroup, warnings)),
            // What somebody else uses is not ours to remove.
            Err(e @ Error::InUse { .. }) => Err(e),
            Err(e) => {
                for (root, _) in cgroup.roots() {
                    let _ = unlinkat(root, &*cgroup.path, AtFlags::REMOVEDIR);
                }
                Err(e)
            }
        }
    }

    /// Finds an existing cgroup.
    ///
    /// # Errors
    /// [`Error::Path`]; [`Error::Call`] with ENOENT when no hierarchy has it.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Result<Cgroup, Error> {
        let path = checked(path)?;
        let roots = &hierarchies.roots;
        let exists = |root: &OwnedFd| accessat(root, &*path, Access::EXISTS, AtFlags::empty()).is_ok();
        let v1: Vec<_> = (0..roots.v1.len()).filter(|i| exists(&roots.v1[*i].1)).collect();
        let v2 = roots.v2.as_ref().is_some_and(|(_, root)| exists(root));
        if v1.is_empty() && !v2 {
            return Err(Error::Call { call: "open", file: path, source: Errno::NOENT });
        }
        Ok(Cgroup { hierarchies: hierarchies.clone(), path, v1, v2 })
    }

    /// The path below each root, as in `/proc/PID/cgroup` without the first slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Opens the ways in.
    ///
    /// # Errors
    /// [`Error::Call`] when a hierarchy's file cannot be opened.
    pub fn join(&self) -> Result<Join, Error> {
        let mut v1_tasks = Vec::with_capacity(self.v1.len());
        let tasks = format!("{}/tasks", self.path);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        for index in &self.v1 {
            let root = &self.hierarchies.roots.v1[*index].1;
            let fd = openat(root, &*tasks, flags, FileMode::empty());
            v1_tasks.push(fd.map_err(|source| Error::Call { call: "open", file: tasks.clone(), source })?);
        }
        let v2 = self.v2_root().map(|root| files::folder(root, &self.path));
        Ok(Join {
            v1_tasks,
            v2: v2.transpose().map_err(|source| Error::Call {
                call: "open",
                file: self.path.clone(),
                source,
            })?,
        })
    }

    /// Changes the limits of a living cgroup. Device rules stay as they were set at creation.
    ///
    /// # Errors
    /// As [`Self::create`]; limits before the refused one have been changed.
    pub fn update(&self, resources: &Resources) -> Result<Vec<Warning>, Error> {
        self.limit(resources, false)
    }

    /// Each hierarchy's mount point with this cgroup's folder in it, as the process that detected
    /// the hierarchies sees the files; true for v2.
    pub fn folders(&self) -> impl Iterator<Item = (&str, String, bool)> {
        let v1 = self.v1.iter().map(|i| (&self.hierarchies.roots.v1[*i].0, false));
        let v2 = self.hierarchies.roots.v2.as_ref().filter(|_| self.v2).map(|(tree, _)| (tree, true));
        v1.chain(v2).map(|(tree, v2)| (&*tree.point, format!("{}/{}", tree.point, self.path), v2))
    }

    fn v2_root(&self) -> Option<&OwnedFd> {
        let root = self.hierarchies.roots.v2.as_ref().filter(|_| self.v2);
        root.map(|(_, root)| root)
    }

    fn v1_root(&self, controller: Controller) -> Option<&OwnedFd> {
        self.v1
            .iter()
            .map(|i| &self.hierarchies.roots.v1[*i])
            .find(|(tree, _)| tree.controllers.contains(&controller))
            .map(|(_, root)| root)
    }

    fn any_v1_root(&self) -> Option<&OwnedFd> {
        self.v1.first().map(|i| &self.hierarchies.roots.v1[*i].1)
    }

    /// The roots below which the cgroup exists; true for v2.
    fn roots(&self) -> impl Iterator<Item = (&OwnedFd, bool)> {
        let v1 = self.v1.iter().map(|i| (&self.hierarchies.roots.v1[*i].1, false));
        v1.chain(self.v2_root().map(|root| (root, true)))
    }

    /// Makes the folders. A hierarchy in which that is not allowed (read-only in a container,
    /// rootless) is left out; limits that need it then warn.
    fn make(&mut self, resources: &Resources) -> Result<(), Error> {
        let roots = Arc::clone(&self.hierarchies.roots);
        let mut found = false;
        for (index, (tree, root)) in roots.v1.iter().enumerate() {
            match make_folder(root, &self.path, tree, true) {
                Ok(Made::New) => self.v1.push(index),
                Ok(Made::Found) => {
                    found = true;
                    self.v1.push(index);
                }
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                Err(source) => return Err(self.mkdir_error(source)),
            }
        }
        if let Some((tree, root)) = &roots.v2 {
            match make_folder(root, &self.path, tree, false) {
                Ok(made) => {
                    self.v2 = true;
                    found |= made == Made::Found;
                    let wanted = wanted_on_v2(roots.mode, tree, resources);
                    enable(root, &self.path, &wanted);
                }
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                Err(source) => return Err(self.mkdir_error(source)),
            }
        }
        if found && !self.processes()?.is_empty() {
            return Err(Error::InUse { path: self.path.clone() });
        }
        Ok(())
    }

    fn mkdir_error(&self, source: Errno) -> Error {
        Error::Call { call: "mkdir", file: self.path.clone(), source }
    }

    /// Which version of a controller this very cgroup has.
    fn site(&self, v2_controllers: &BTreeSet<&str>, controller: Controller) -> Site {
        if self.v1_root(controller).is_some() {
            Site::V1
        } else if controller.v2_name().is_some_and(|name| v2_controllers.contains(name)) {
            Site::V2
        } else {
            Site::Absent
        }
    }

    fn limit(&self, resources: &Resources, new: bool) -> Result<Vec<Warning>, Error> {
        let text = match self.v2_root() {
            Some(root) => files::get(root, &format!("{}/cgroup.controllers", self.path)).unwrap_or_default(),
            None => String::new(),
        };
        let v2: BTreeSet<&str> = text.split_whitespace().collect();
        let (settings, mut warnings) = settings::settings(resources, &|c| self.site(&v2, c))?;
        let mut again = Vec::new();
        for setting in settings {
            match self.write(&setting) {
                Ok(warning) => warnings.extend(warning),
                // Some pairs (memory and memory+swap, period and quota) are only accepted in
                // one order, which depends on the values in force: the refused ones get a
                // second chance after the others.
                Err(Error::Refused { source: Errno::INVAL | Errno::BUSY, .. }) => {
                    again.push(setting);
                }
                Err(e) => return Err(e),
            }
        }
        for setting in again {
            warnings.extend(self.write(&setting)?);
        }
        if new && !resources.devices.is_empty() {
            self.restrict_devices(&devices::rules(&resources.devices)?)?;
        }
        Ok(warnings)
    }

    fn write(&self, setting: &Setting) -> Result<Option<Warning>, Error> {
        let what = setting.what;
        let root = match setting.site {
            Site::V1 => self.v1_root(setting.controller),
            Site::V2 | Site::Absent => self.v2_root(),
        };
        let mut last = None;
        for (file, value) in &setting.tries {
            let refused = |source| Error::Refused {
                what,
                path: self.path.clone(),
                file: file.clone(),
                value: value.clone(),
                source,
            };
            let Some(root) = root else {
                last = Some(refused(Errno::NOENT));
                continue;
            };
            match files::put(root, &format!("{}/{file}", self.path), value) {
                Ok(()) => return Ok(None),
                Err(e @ (Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)) => {
                    last = Some(refused(e));
                }
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if !setting.essential => {
                    let file = file.clone();
                    return Ok(Some(Warning::Denied { what, file }));
                }
                Err(e) => return Err(refused(e)),
            }
        }
        match last {
            Some(e) if setting.essential => Err(e),
            _ => Ok(Some(Warning::NoKnob { what })),
        }
    }

    /// Puts the device list in force, with v1's controller where the host has it, else with a
    /// program on v2. In a user namespace neither is allowed nor needed: device files cannot be
    /// made there, and those of other mounts are the owner's to give.
    fn restrict_devices(&self, rules: &[devices::Rule]) -> Result<(), Error> {
        if let Some(root) = self.v1_root(Controller::Devices) {
            return self.restrict_devices_v1(root, rules);
        }
        match self.restrict_devices_v2(rules) {
            Err(_) if !initial_user_namespace() => Ok(()),
            done => done.map_err(|source| Error::NoDevices { source }),
        }
    }

    fn restrict_devices_v1(&self, root: &OwnedFd, rules: &[devices::Rule]) -> Result<(), Error> {
        for (file, value) in devices::v1_lines(rules)? {
            let name = format!("{}/{file}", self.path);
            files::put(root, &name, &value).map_err(|source| Error::Refused {
                what: "devices",
                path: self.path.clone(),
                file: file.to_owned(),
                value,
                source,
            })?;
        }
        Ok(())
    }

    fn restrict_devices_v2(&self, rules: &[devices::Rule]) -> Result<(), hull_sys::Error> {
        let folder = match self.v2_root() {
            Some(root) => files::folder(root, &self.path),
            None => Err(Errno::OPNOTSUPP),
        };
        let folder = folder.map_err(|errno| hull_sys::Error::new("open", errno, &self.path))?;
        let program = hull_sys::bpf::load_device_filter(&devices::v2_program(rules))?;
        hull_sys::bpf::attach_device_filter(&folder, &program)
    }
}

/// Whether this process is in the host's user namespace, which alone maps every id to itself
/// (user_namespaces(7)).
fn initial_user_namespace() -> bool {
    let map = files::get(rustix::fs::CWD, "/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[derive(Debug, PartialEq, Eq)]
enum Made {
    New,
    Found,
}

/// mkdir, with the parents if they are missing, and v1's cpuset made usable.
fn make_folder(root: &OwnedFd, path: &str, tree: &Tree, v1: bool) -> Result<Made, Errno> {
    let mode = FileMode::from_raw_mode(0o755);
    let mut made = mkdirat(root, path, mode);
    if made == Err(Errno::NOENT) {
        for (end, _) in path.match_indices('/') {
            match mkdirat(root, &path[..end], mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        made = mkdirat(root, path, mode);
    }
    let made = match made {
        Ok(()) => Made::New,
        Err(Errno::EXIST) => Made::Found,
        Err(e) => return Err(e),
    };
    if v1 && tree.controllers.contains(&Controller::Cpuset) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(root, path, file)?;
        }
    }
    Ok(made)
}

/// A new v1 cpuset has no CPU and no memory node, and accepts no process until it has both:
/// they are taken from the parent, which is first given its own if somebody left it empty.
/// Returns the value now in force.
fn inherit(root: &OwnedFd, path: &str, file: &str) -> Result<String, Errno> {
    let name = format!("{path}/{file}");
    let own = files::get(root, &name)?;
    if !own.trim().is_empty() {
        return Ok(own);
    }
    let above = match path.rsplit_once('/') {
        Some((parent, _)) => inherit(root, parent, file)?,
        None => files::get(root, file)?,
    };
    files::put(root, &name, above.trim())?;
    Ok(above)
}

/// On a pure v2 host a container gets every controller, so that its numbers can be read. On a
/// hybrid host the v2 tree belongs to systemd: only what the limits need is switched on.
fn wanted_on_v2(mode: Mode, tree: &Tree, resources: &Resources) -> Vec<&'static str> {
    let hugetlb = !resources.hugepage_limits.is_empty();
    let asked = |c: Controller, name: &str| {
        (c == Controller::Hugetlb && hugetlb) || resources.unified.keys().any(|k| k.starts_with(name))
    };
    tree.controllers
        .iter()
        .filter_map(|c| Some((*c, c.v2_name()?)))
        .filter(|(c, name)| mode == Mode::V2 || asked(*c, name))
        .map(|(_, name)| name)
        .collect()
}

/// Switches controllers on in every parent, from the root down, unless the cgroup has them
/// already. What a parent refuses (EBUSY: it has processes of its own, so it may not hand out
/// controllers) is missing in the child's `cgroup.controllers` afterwards, and [`settings`]
/// warns for each limit that needs it.
fn enable(root: &OwnedFd, path: &str, wanted: &[&str]) {
    let has = files::get(root, &format!("{path}/cgroup.controllers")).unwrap_or_default();
    let missing: Vec<_> = wanted.iter().filter(|c| !has.split_whitespace().any(|h| h == **c)).collect();
    if missing.is_empty() {
        return;
    }
    let parents = std::iter::once("").chain(path.match_indices('/').map(|(i, _)| &path[..=i]));
    for parent in parents {
        let file = format!("{parent}cgroup.subtree_control");
        let all: Vec<_> = missing.iter().map(|c| format!("+{c}")).collect();
        if files::put(root, &file, &all.join(" ")).is_err() {
            for one in all {
                let _ = files::put(root, &file, &one);
            }
        }
    }
}
