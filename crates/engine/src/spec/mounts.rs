//! The mounts of a container: the usual ones, ours for `/etc`, and those that were asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_oci::runtime::Mount as Entry;
use hull_runtime::bundle::Source;

use super::{Files, Shown};
use crate::containers::settings::{Below, IpcMode, Mount, Settings, VolumeMount};

fn entry(destination: &str, kind: &str, source: &str, options: &[&str]) -> Entry {
    Entry {
        destination: PathBuf::from(destination),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Entry::default()
    }
}

/// All mounts in the order in which they are made: parents before what lies in them.
pub(super) fn all(
    settings: &Settings,
    files: &Files,
    shown: &Shown,
    recursive_read_only: bool,
) -> Vec<Entry> {
    let asked = settings.mounts.iter().map(|mount| wanted(mount, settings, shown, recursive_read_only));
    let own = shown.own.iter().map(|own| {
        let access = if own.read_only { "ro" } else { "rw" };
        entry(&own.target, "bind", &own.name, &[access, "rprivate"])
    });
    let asked: Vec<Entry> = asked.chain(own).collect();
    // Whoever asks for a mount at the same place gets theirs instead of ours. What ours would have
    // in it is theirs, too.
    let mut mounts = usual(settings);
    mounts.retain(|ours| !asked.iter().any(|theirs| ours.destination.starts_with(&theirs.destination)));
    let mut others = etc(files, settings.users.is_some());
    others.retain(|ours| !asked.iter().any(|theirs| theirs.destination == ours.destination));
    others.extend(asked);
    // Stable, so that of two at one depth the first asked for is made first. Ours in /etc are seen
    // in whatever is mounted there.
    others.sort_by_key(|mount| mount.destination.components().count());
    mounts.extend(others);
    mounts
}

/// What those mounts show that a spec has no words for.
pub(super) fn sources(settings: &Settings, shown: Shown) -> BTreeMap<PathBuf, Source> {
    let Shown { mut images, own, .. } = shown;
    let source = |mount: &Mount| match mount {
        Mount::Image { target, subpath, .. } => {
            let (lower, path) = (images.remove(target)?, PathBuf::from(subpath));
            Some((PathBuf::from(target), Source::Layers { lower, path, upper: None }))
        }
        Mount::Volume(VolumeMount { target, subpath, .. }) if !subpath.is_empty() => {
            Some((PathBuf::from(target), Source::Inside { path: PathBuf::from(subpath) }))
        }
        Mount::Bind { .. } | Mount::Tmpfs { .. } | Mount::Volume(_) => None,
    };
    let own = own.into_iter().map(|own| (PathBuf::from(own.target), own.source));
    settings.mounts.iter().filter_map(source).chain(own).collect()
}

fn usual(settings: &Settings) -> Vec<Entry> {
    let access = if settings.security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
    ];
    // An instance of the namespace that is joined; not every host has one mounted (mq_overview(7)).
    // The host's is not there for a user namespace to mount.
    if settings.ipc != IpcMode::Host || settings.users.is_none() {
        mounts.push(entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    }
    if settings.ipc == IpcMode::Host {
        mounts.push(entry("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
        return mounts;
    }
    if settings.ipc != IpcMode::None {
        let size = format!("size={}", settings.shm_bytes);
        mounts.push(entry("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
    }
    mounts
}

/// In a user namespace they belong to its root.
fn etc(files: &Files, mapped: bool) -> Vec<Entry> {
    let options = if mapped { &["rbind", "rprivate", "idmap"][..] } else { &["rbind", "rprivate"] };
    let bind = |target: &str, source: &Path| entry(target, "bind", &source.to_string_lossy(), options);
    vec![
        bind("/etc/resolv.conf", &files.resolv),
        bind("/etc/hostname", &files.hostname),
        bind("/etc/hosts", &files.hosts),
    ]
}

fn wanted(mount: &Mount, settings: &Settings, shown: &Shown, recursive_read_only: bool) -> Entry {
    match mount {
        Mount::Volume(volume) => {
            let folder = shown.volumes.get(&volume.name);
            self::volume(volume, folder, settings.users.is_some(), recursive_read_only)
        }
        Mount::Bind { source, target, read_only, propagation, non_recursive, below, idmap, .. } => {
            let propagation = if propagation.is_empty() { "rprivate" } else { propagation };
            let bind = if *non_recursive { "bind" } else { "rbind" };
            let below = match below {
                Below::Untouched => false,
                Below::ReadOnly => true,
                Below::ReadOnlyIfPossible => recursive_read_only && !non_recursive,
            };
            // What is read-only on the host stays so.
            let access = match (read_only, below) {
                (false, _) => None,
                (true, false) => Some("ro"),
                (true, true) => Some("rro"),
            };
            // Without a user namespace the ids are the same on both sides.
            let idmap = (*idmap && settings.users.is_some()).then_some("idmap");
            let options: Vec<_> =
                [Some(bind), access, Some(propagation), idmap].into_iter().flatten().collect();
            entry(target, "bind", source, &options)
        }
        Mount::Image { name, target, .. } => entry(target, "bind", name, &["ro", "rprivate"]),
        Mount::Tmpfs { target, options } => {
            let mut all: Vec<&str> = vec!["noexec", "nosuid", "nodev"];
            for option in options {
                // The later word wins over its opposite.
                let opposite = opposite(option);
                all.retain(|earlier| *earlier != option.as_str() && Some(*earlier) != opposite);
                all.push(option);
            }
            // What is mounted writable on a read-only root was asked for; the words say so.
            if settings.read_only && !all.contains(&"ro") && !all.contains(&"rw") {
                all.push("rw");
            }
            entry(target, "tmpfs", "tmpfs", &all)
        }
    }
}

/// A volume, whose files are in `folder`: with the ids that containers see in it. Read-only, what the
/// host has mounted in it is that too, where the kernel can.
fn volume(volume: &VolumeMount, folder: Option<&PathBuf>, mapped: bool, recursive: bool) -> Entry {
    let source = folder.map(|folder| folder.to_string_lossy()).unwrap_or_default();
    let access = volume.read_only.then_some(if recursive { "rro" } else { "ro" });
    let idmap = mapped.then_some("idmap");
    let options: Vec<_> = [Some("rbind"), access, Some("rprivate"), idmap].into_iter().flatten().collect();
    entry(&volume.target, "bind", &source, &options)
}

fn opposite(option: &str) -> Option<&'static str> {
    Some(match option {
        "exec" => "noexec",
        "noexec" => "exec",
        "suid" => "nosuid",
        "nosuid" => "suid",
        "dev" => "nodev",
        "nodev" => "dev",
        "ro" => "rw",
        "rw" => "ro",
        _ => return None,
    })
}
