//! Which cgroup hierarchies this host has, read out of three texts.
//!
//! A host can have cgroup v1 (each controller a tree of its own), v2 (one tree) or both. Where
//! they are mounted says `/proc/self/mountinfo` (proc_pid_mountinfo(5)), where this process
//! sits in them says `/proc/self/cgroup` (cgroups(7)), and which controllers v2 has says
//! `cgroup.controllers` of its root. [`parse`] is a pure function of the three, so that the
//! layouts of hosts that are not at hand can be tested.

use std::collections::BTreeMap;

/// A controller Hull sets or reads, plus systemd's hierarchy without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Pids,
    Devices,
    Freezer,
    Blkio,
    Hugetlb,
    /// v1's `name=systemd`: it limits nothing, but systemd's tools find processes by it.
    Systemd,
}

impl Controller {
    /// The name in v1's mount options and in `/proc/self/cgroup`.
    pub fn v1_name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Devices => "devices",
            Controller::Freezer => "freezer",
            Controller::Blkio => "blkio",
            Controller::Hugetlb => "hugetlb",
            Controller::Systemd => "name=systemd",
        }
    }

    /// The name in v2's `cgroup.controllers`; `None` for what v2 has in another form.
    pub fn v2_name(self) -> Option<&'static str> {
        match self {
            Controller::Blkio => Some("io"),
            Controller::Cpu
            | Controller::Cpuset
            | Controller::Memory
            | Controller::Pids
            | Controller::Hugetlb => Some(self.v1_name()),
            Controller::Cpuacct | Controller::Devices | Controller::Freezer | Controller::Systemd => None,
        }
    }

    fn all() -> [Controller; 10] {
        use Controller::*;
        [Cpu, Cpuacct, Cpuset, Memory, Pids, Devices, Freezer, Blkio, Hugetlb, Systemd]
    }
}

/// Which versions are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    V1,
    V2,
    /// v1 controllers, and a v2 tree beside them with few or no controllers.
    Hybrid,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    /// The mount point.
    pub(super) point: String,
    /// Those of [`Controller`] that it has.
    pub(super) controllers: Vec<Controller>,
    /// Where this process is below `point`; empty is `point` itself, also when the process is
    /// outside of what is mounted.
    pub(super) own: String,
}

/// All hierarchies in which a container gets a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) v1: Vec<Tree>,
    pub(super) v2: Option<Tree>,
}

impl Layout {
    /// `None` when nothing usable is mounted.
    pub(super) fn mode(&self) -> Option<Mode> {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, true) => Some(Mode::V2),
            (false, true) => Some(Mode::Hybrid),
            (false, false) => Some(Mode::V1),
            (true, false) => None,
        }
    }
}

/// One line of mountinfo.
struct Line<'a> {
    id: &'a str,
    parent: &'a str,
    root: String,
    point: String,
    kind: &'a str,
    super_options: &'a str,
}

fn line(text: &str) -> Option<Line<'_>> {
    let (left, right) = text.split_once(" - ")?;
    let mut left = left.split(' ');
    let (id, parent, _device) = (left.next()?, left.next()?, left.next()?);
    let (root, point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, _source, super_options) = (right.next()?, right.next()?, right.next()?);
    Some(Line { id, parent, root, point, kind, super_options })
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a path look-up of the mount's own point ends on it, that is, nothing is mounted over
/// it or over one of its parents.
fn visible(lines: &[Line<'_>], mount: &Line<'_>) -> bool {
    let Some(root) =
        lines.iter().find(|l| l.point == "/" && !lines.iter().any(|p| p.id == l.parent && p.id != l.id))
    else {
        // Without a root mount in the list (a chroot) there is nothing to tell by.
        return true;
    };
    let mut current = root.id;
    let mut prefix = String::new();
    let parts = std::iter::once("").chain(mount.point.split('/').filter(|p| !p.is_empty()));
    for part in parts {
        if !part.is_empty() {
            prefix.push('/');
            prefix.push_str(part);
        }
        let here = if prefix.is_empty() { "/" } else { &prefix };
        while let Some(next) =
            lines.iter().find(|l| l.parent == current && l.point == here && l.id != current)
        {
            current = next.id;
        }
    }
    current == mount.id
}

/// Where the process is in each hierarchy: by v1 controller name, and v2 under the empty name.
fn own_paths(self_cgroup: &str) -> BTreeMap<&str, &str> {
    let mut paths = BTreeMap::new();
    for line in self_cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        for name in names.split(',') {
            paths.insert(name, path);
        }
    }
    paths
}

/// `path` below a mount whose root is `root`, without slashes at the ends.
fn below(root: &str, path: Option<&&str>) -> String {
    let root = root.trim_end_matches('/');
    path.and_then(|path| path.strip_prefix(root))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .map(|rest| rest.trim_matches('/'))
        // A process outside of its cgroup namespace has a path of dots.
        .filter(|rest| !rest.starts_with(".."))
        .unwrap_or_default()
        .to_owned()
}

/// The mount point of v2, to read its controllers from.
pub(super) fn v2_point(mountinfo: &str) -> Option<String> {
    let lines: Vec<_> = mountinfo.lines().filter_map(line).collect();
    v2_line(&lines).map(|l| l.point.clone())
}

fn v2_line<'a, 'b>(lines: &'b [Line<'a>]) -> Option<&'b Line<'a>> {
    lines.iter().filter(|l| l.kind == "cgroup2" && visible(lines, l)).min_by_key(|l| l.root.len())
}

/// The hierarchies of a host. `v2_controllers` is the text of `cgroup.controllers` at
/// [`v2_point`].
pub(super) fn parse(mountinfo: &str, self_cgroup: &str, v2_controllers: &str) -> Layout {
    let lines: Vec<_> = mountinfo.lines().filter_map(line).collect();
    let own = own_paths(self_cgroup);
    let mut v1: Vec<Tree> = Vec::new();
    for l in lines.iter().filter(|l| l.kind == "cgroup") {
        let controllers: Vec<_> = Controller::all()
            .into_iter()
            .filter(|c| l.super_options.split(',').any(|o| o == c.v1_name()))
            .collect();
        // The same hierarchy can be mounted twice; the first mount serves.
        let known = v1.iter().any(|t| t.controllers == controllers);
        if controllers.is_empty() || known || !visible(&lines, l) {
            continue;
        }
        v1.push(Tree {
            point: l.point.clone(),
            own: below(&l.root, own.get(controllers[0].v1_name())),
            controllers,
        });
    }
    let v2 = v2_line(&lines).map(|l| Tree {
        point: l.point.clone(),
        own: below(&l.root, own.get("")),
        controllers: Controller::all()
            .into_iter()
            .filter(|c| c.v2_name().is_some_and(|name| v2_controllers.split_whitespace().any(|o| o == name)))
            .collect(),
    });
    Layout { v1, v2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(mountinfo: &str, own: &str, controllers: &str, want: Expect) {
        let layout = parse(mountinfo, own, controllers);
        let mut out = format!("{:?}\n", layout.mode());
        for tree in layout.v1.iter().chain(layout.v2.as_ref()) {
            out += &format!("{} {:?} own={:?}\n", tree.point, tree.controllers, tree.own);
        }
        want.assert_eq(&out);
    }

    #[test]
    fn a_systemd_host_with_v2_only() {
        check(
            "22 28 0:20 / /sys rw - sysfs sysfs rw\n\
             28 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
             29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            "0::/system.slice/hull.service\n",
            "cpuset cpu io memory hugetlb pids rdma misc\n",
            expect![[r#"
                Some(V2)
                /sys/fs/cgroup [Cpu, Cpuset, Memory, Pids, Blkio, Hugetlb] own="system.slice/hull.service"
            "#]],
        );
    }

    #[test]
    fn an_old_host_with_v1_only_and_joint_controllers() {
        check(
            "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             24 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             25 24 0:23 / /sys/fs/cgroup/systemd rw shared:8 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd\n\
             26 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             27 24 0:28 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio\n\
             28 24 0:29 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n",
            "5:memory:/user.slice\n4:cpu,cpuacct:/\n1:name=systemd:/user.slice/session-1.scope\n",
            "",
            expect![[r#"
                Some(V1)
                /sys/fs/cgroup/systemd [Systemd] own="user.slice/session-1.scope"
                /sys/fs/cgroup/cpu,cpuacct [Cpu, Cpuacct] own=""
                /sys/fs/cgroup/my memory [Memory] own="user.slice"
            "#]],
        );
    }

    #[test]
    fn a_hybrid_host_has_both_and_the_controllers_of_v2_are_counted_there() {
        check(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             31 27 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "9:name=systemd:/\n4:memory:/a/b\n0::/\n",
            "hugetlb\n",
            expect![[r#"
                Some(Hybrid)
                /sys/fs/cgroup/memory [Memory] own="a/b"
                /sys/fs/cgroup/systemd [Systemd] own=""
                /sys/fs/cgroup/unified [Hugetlb] own=""
            "#]],
        );
    }

    #[test]
    fn a_mount_hidden_under_another_does_not_count() {
        check(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             41 27 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             50 41 0:50 / /sys/fs/cgroup rw - tmpfs none rw\n\
             51 50 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            "4:memory:/\n0::/\n",
            "hugetlb\n",
            expect![[r#"
                Some(V1)
                /sys/fs/cgroup/memory [Memory] own=""
            "#]],
        );
    }

    #[test]
    fn inside_a_container_the_mounts_root_is_cut_off_and_paths_of_dots_are_the_root() {
        check(
            "27 1 254:0 / / rw - overlay overlay rw\n\
             51 27 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             52 27 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n",
            "4:memory:/docker/abc/inner\n0::/../other\n",
            "",
            expect![[r#"
                Some(Hybrid)
                /sys/fs/cgroup/memory [Memory] own="inner"
                /sys/fs/cgroup/unified [] own=""
            "#]],
        );
    }

    #[test]
    fn nothing_mounted_is_no_mode() {
        check(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n",
            "",
            "",
            expect![[r#"
            None
        "#]],
        );
    }
}
