//! Device nodes and the rules of the device cgroup.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Device as Node, DeviceRule};
use hull_runtime::bundle::{StartError, StartErrorKind};

use crate::containers::settings::Device;

/// A device of the host as it will be in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub node: Node,
    pub rule: DeviceRule,
}

/// Devices deeper than this below a folder are not looked for.
const DEPTH: usize = 8;

/// The rules every container gets: what it needs to work, and making nodes (which it may not open).
pub(super) fn usual_rules() -> Vec<DeviceRule> {
    let rule = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str, allow: bool| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    let mut rules = vec![
        rule("a", None, None, "rwm", false),
        rule("c", None, None, "m", true),
        rule("b", None, None, "m", true),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx (all of mem(4), tty(4), pts(4)).
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule("c", Some(major), Some(minor), "rwm", true));
    }
    rules.push(rule("c", Some(136), None, "rwm", true));
    rules
}

/// Everything, for a privileged container.
pub(super) fn all_rule() -> DeviceRule {
    DeviceRule { allow: true, kind: "a".to_owned(), major: None, minor: None, access: "rwm".to_owned() }
}

/// Looks up the devices that were asked for. A folder stands for all devices in it.
pub fn find(devices: &[Device]) -> Result<Vec<Found>, StartError> {
    let mut found = Vec::new();
    for device in devices {
        let host = Path::new(&device.host);
        let container = if device.container.is_empty() { host } else { Path::new(&device.container) };
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        let missing = |what: String| StartError {
            kind: StartErrorKind::Invalid,
            message: format!(
                "error gathering device information while adding custom device \"{}\": {what}",
                device.host
            ),
        };
        // The caller names a path of the host, links and all: the caller may do that.
        let metadata = std::fs::metadata(host).map_err(|error| missing(reason(&error)))?;
        if metadata.is_dir() {
            let mut below = Vec::new();
            walk(host, container, access, DEPTH, &mut below).map_err(|error| missing(reason(&error)))?;
            found.extend(below);
        } else {
            found.push(
                node(&metadata, container, access).ok_or_else(|| missing("not a device node".to_owned()))?,
            );
        }
    }
    Ok(found)
}

/// All devices of the host, as a privileged container sees them.
pub fn of_the_host() -> Vec<Found> {
    let mut found = Vec::new();
    let dev = Path::new("/dev");
    // A folder that vanishes while it is read is no reason to refuse the container.
    drop(walk(dev, dev, "rwm", DEPTH, &mut found));
    found
}

fn walk(
    host: &Path,
    container: &Path,
    access: &str,
    depth: usize,
    found: &mut Vec<Found>,
) -> std::io::Result<()> {
    // The runtime gives a container its own of these.
    const OWN: &[&str] = &["pts", "shm", "mqueue", "fd", "console", "ptmx", ".udev", ".lxc", "lxd-fuse"];
    for entry in std::fs::read_dir(host)? {
        let entry = entry?;
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        // Not following links: a link out of /dev is not a device of it.
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        let inside = container.join(&name);
        if metadata.is_dir() && depth > 0 {
            walk(&entry.path(), &inside, access, depth - 1, found).ok();
        } else {
            found.extend(node(&metadata, &inside, access));
        }
    }
    Ok(())
}

fn node(metadata: &std::fs::Metadata, container: &Path, access: &str) -> Option<Found> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let node = Node {
        kind: kind.to_owned(),
        path: PathBuf::from(container),
        major: i64::from(major),
        minor: i64::from(minor),
        file_mode: Some(metadata.mode() & 0o777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    };
    let rule = DeviceRule {
        allow: true,
        kind: kind.to_owned(),
        major: Some(i64::from(major)),
        minor: Some(i64::from(minor)),
        access: access.to_owned(),
    };
    Some(Found { node, rule })
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_becomes_a_node_and_a_rule() {
        let null =
            Device { host: "/dev/null".into(), container: "/dev/mine".into(), permissions: "r".into() };
        let found = find(&[null]).unwrap();
        assert_eq!((found[0].node.kind.as_str(), found[0].node.major, found[0].node.minor), ("c", 1, 3));
        assert_eq!(found[0].node.path, Path::new("/dev/mine"));
        assert_eq!(found[0].rule.access, "r");
        assert!(of_the_host().iter().any(|f| f.node.path == Path::new("/dev/null")));
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        let ask = |host: &str| {
            find(&[Device { host: host.into(), container: String::new(), permissions: String::new() }])
        };
        assert_eq!(
            ask("/dev/nosuch").unwrap_err().message,
            "error gathering device information while adding custom device \"/dev/nosuch\": no such file or directory"
        );
        assert!(ask("/etc/passwd").unwrap_err().message.ends_with("not a device node"));
    }
}
