//! The container's root file system: made detached, attached over `/` of the container's own mount
//! namespace, and made its root.
//!
//! The host's mount table never has it. It is attached at `/` because that place always exists;
//! nobody else is in this namespace to miss what it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_sys::Errno;
use hull_sys::error::During;
use hull_sys::mount::{self, Attributes, Propagation};
use hull_sys::root::Root;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::failure::{OrFail, Result, invalid};
use super::mounts::{Api, Source};
use super::options::{Change, Options, propagation};
use crate::bundle::{Rootfs, Upper};

/// What a writable layer must not hold, whatever the host's modules and kernel have as defaults: a
/// renamed folder or a changed mode that only points at the layer below. The layer is read by itself
/// (`diff`, `commit`), and moves to other machines.
const SELF_CONTAINED: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// A string option of fsconfig(2) has at most 256 bytes with its zero.
const MAX_STRING: usize = 255;

/// How the host's mounts, as copied into the new namespace, spread from and to the host's own while
/// the container is built: as `rootfsPropagation` says, `rprivate` where it says nothing.
///
/// With `shared` they stay shared, so that binds of them can be; only the mount that the container's
/// root is put on becomes private, else that would appear on the host.
pub(super) fn inherited_propagation(word: &str) -> Result<(Propagation, bool)> {
    match propagation(word) {
        None if word.is_empty() => Ok((Propagation::Private, true)),
        None => Err(invalid(format!("rootfsPropagation={word} is not known"))),
        Some((Propagation::Shared, _)) => Ok((Propagation::Private, false)),
        Some((kind, recursive)) => Ok((kind, recursive)),
    }
}

/// Makes the root file system, unless it is `taken` along, and attaches it. The descriptor is its
/// root folder.
pub(super) fn make(api: Api, rootfs: &Rootfs, taken: Option<OwnedFd>) -> Result<Root> {
    let fd = match (taken, api) {
        (Some(fd), _) => Some(fd),
        (None, Api::Classic) => None,
        (None, Api::Descriptors) => detached(rootfs)?,
    };
    let Some(fd) = fd else { return make_classic(rootfs) };
    let place = Root::open(Path::new("/")).or_host()?;
    mount::attach(&fd, &place).or_host()?;
    Ok(Root { fd })
}

/// The root file system, attached nowhere; `None` where the kernel can make it with mount(2) alone.
pub(super) fn detached(rootfs: &Rootfs) -> Result<Option<OwnedFd>> {
    let fd = match rootfs {
        Rootfs::Directory(path) => {
            mount::copy(path, true).or_invalid(|| format!("root file system {}", path.display()))?
        }
        Rootfs::Overlay { lower, upper } => return layers(lower, upper.as_ref()).or_host(),
    };
    Ok(Some(fd))
}

/// Layers as one file system, attached nowhere and read-only without `upper`; `None` when there
/// are more than this kernel can be told.
pub(super) fn layers(lower: &[PathBuf], upper: Option<&Upper>) -> hull_sys::Result<Option<OwnedFd>> {
    let ([single], None) = (lower, upper) else { return overlay(lower, upper) };
    let fd = mount::copy(single, false)?;
    let read_only = Attributes { set: mount::READ_ONLY, ..Attributes::default() };
    mount::set_attributes(&fd, &read_only, false)?;
    Ok(Some(fd))
}

/// An overlay mount, attached nowhere. With one `lowerdir+` a layer (Linux 6.8) there is no limit on
/// their number but overlayfs' own 500. Before that they are one string, which does for as many as
/// fit into it; `None` when they do not.
fn overlay(lower: &[PathBuf], upper: Option<&Upper>) -> hull_sys::Result<Option<OwnedFd>> {
    let volatile = upper.is_some_and(|upper| upper.volatile);
    if !layers_come_one_by_one(rustix::system::uname().release()) {
        let Joined { values, kept } = Joined::new(lower, upper)?;
        if values.iter().any(|(_, value)| value.len() > MAX_STRING) {
            return Ok(None);
        }
        let made = overlay_of(&values, volatile);
        drop(kept);
        return made.map(Some);
    }
    let mut kept = Vec::new();
    let mut short = |path: &Path| -> hull_sys::Result<String> {
        match path.to_str() {
            Some(text) if text.len() <= MAX_STRING => Ok(text.to_owned()),
            // Longer, or no UTF-8: named by a descriptor that is open until the mount is made.
            _ => {
                let fd = Root::open(path)?.fd;
                let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
                kept.push(fd);
                Ok(name)
            }
        }
    };
    let mut values = Vec::new();
    for layer in lower {
        values.push(("lowerdir+", short(layer)?));
    }
    if let Some(upper) = upper {
        values.push(("upperdir", short(&upper.upper)?));
        values.push(("workdir", short(&upper.work)?));
    }
    overlay_of(&values, volatile).map(Some)
}

/// Whether this release of Linux knows `lowerdir+`. Asked by trying, older ones would write a line
/// into the kernel's log for every container.
fn layers_come_one_by_one(release: &CStr) -> bool {
    let text = release.to_string_lossy();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

fn overlay_of(values: &[(&str, String)], volatile: bool) -> hull_sys::Result<OwnedFd> {
    let mut options = vec![("source", Some("overlay"))];
    options.extend(values.iter().map(|(key, value)| (*key, Some(value.as_str()))));
    if values.iter().any(|(key, _)| *key == "upperdir") {
        options.extend(SELF_CONTAINED.map(|(key, value)| (key, Some(value))));
    }
    options.extend(volatile.then_some(("volatile", None)));
    mount::new("overlay", &options, 0)
}

/// Overlay's options with all layers in one string.
struct Joined {
    values: Vec<(&'static str, String)>,
    /// The descriptors that the values name; the mount outlives them.
    kept: Vec<OwnedFd>,
}

impl Joined {
    /// Paths if they fit, since that is what a look at the mount table wants to see; else the
    /// numbers of descriptors, for which this changes to the folder where those are names. Five
    /// hundred layers are two thousand bytes then.
    fn new(lower: &[PathBuf], upper: Option<&Upper>) -> hull_sys::Result<Joined> {
        let mut parts: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        if let Some(Upper { upper, work, .. }) = upper {
            parts.extend([upper.as_path(), work.as_path()]);
        }
        let texts: Option<Vec<_>> = parts.iter().map(|path| Some(escape(path.to_str()?))).collect();
        if let Some(texts) = texts {
            let values = joined(&texts, lower.len());
            if values.iter().all(|(_, value)| value.len() <= MAX_STRING) {
                return Ok(Joined { values, kept: Vec::new() });
            }
        }
        let kept = parts.iter().map(|path| Ok(Root::open(path)?.fd)).collect::<hull_sys::Result<Vec<_>>>()?;
        rustix::process::chdir(c"/proc/self/fd").during("chdir", || "/proc/self/fd")?;
        let texts: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        Ok(Joined { values: joined(&texts, lower.len()), kept })
    }
}

/// The first `lowers` texts are layers; of an upper layer two more follow.
fn joined(texts: &[String], lowers: usize) -> Vec<(&'static str, String)> {
    let (lower, upper) = texts.split_at(lowers);
    let mut values = vec![("lowerdir", lower.join(":"))];
    values.extend(["upperdir", "workdir"].into_iter().zip(upper.iter().cloned()));
    values
}

/// `:` separates layers and `\` escapes it (overlayfs.rst); `,` separates options of mount(2).
fn escape(layer: &str) -> String {
    layer.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// The same with mount(2), over one of the folders that it is made of: it must have a path to be
/// found by, and this one is sure to exist and to be nobody else's business.
pub(super) fn make_classic(rootfs: &Rootfs) -> Result<Root> {
    let place = match rootfs {
        Rootfs::Directory(path) => path,
        Rootfs::Overlay { upper: Some(upper), .. } => &upper.upper,
        Rootfs::Overlay { lower, .. } => lower.first().ok_or_else(|| invalid("a root without layers"))?,
    };
    match rootfs {
        Rootfs::Directory(path) => rustix::mount::mount_bind_recursive(path, place)
            .during("mount", || format!("{path:?}, MS_BIND|MS_REC"))
            .or_invalid(|| "root file system".into())?,
        Rootfs::Overlay { lower, upper: None } if lower.len() == 1 => {
            rustix::mount::mount_bind(place, place)
                .during("mount", || format!("{place:?}, MS_BIND"))
                .or_host()?;
            rustix::mount::mount_remount(place, MountFlags::BIND | MountFlags::RDONLY, c"")
                .during("mount", || format!("{place:?}, remount, ro"))
                .or_host()?;
        }
        Rootfs::Overlay { lower, upper } => {
            let Joined { values, kept } = Joined::new(lower, upper.as_ref()).or_host()?;
            let mut data: Vec<_> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
            if upper.is_some() {
                data.extend(SELF_CONTAINED.map(|(key, value)| format!("{key}={value}")));
            }
            let data = std::ffi::CString::new(data.join(",")).or_host()?;
            rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), &*data)
                .during("mount", || format!("overlay, {place:?}, {data:?}"))
                .or_host()?;
            drop(kept);
        }
    }
    Root::open(place).or_host()
}

/// Makes `root` the root of this mount namespace and drops the old one, with nothing left to reach
/// it by (pivot_root(2), "pivot_root(\".\", \".\")").
pub(super) fn pivot(api: Api, root: &Root, word: &str) -> Result<()> {
    rustix::process::fchdir(root).during("fchdir", || "root").or_host()?;
    rustix::process::pivot_root(c".", c".").during("pivot_root", || "\".\", \".\"").or_host()?;
    if !inherited_propagation(word)?.1 {
        // Some of the host's mounts are still shared with it: unmounting the copies must not spread.
        let old = rustix::fs::open(c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .during("open", || "old root")
            .or_host()?;
        let slave = Attributes { propagation: Some(Propagation::Slave), ..Attributes::default() };
        mount::set_attributes(&old, &slave, true).or_host()?;
    }
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
        .during("umount2", || "old root, MNT_DETACH")
        .or_host()?;
    rustix::process::chdir(c"/").during("chdir", || "/").or_host()?;
    if let Some((kind @ (Propagation::Shared | Propagation::Unbindable), recursive)) = propagation(word)
        && api == Api::Descriptors
    {
        let change = Attributes { propagation: Some(kind), ..Attributes::default() };
        mount::set_attributes(root, &change, recursive).or_host()?;
    }
    Ok(())
}

/// Makes the root itself read-only; what is mounted in it stays as it is.
pub(super) fn make_read_only(api: Api, root: &Root) -> Result<()> {
    match api {
        Api::Descriptors => {
            let read_only = Attributes { set: mount::READ_ONLY, ..Attributes::default() };
            mount::set_attributes(root, &read_only, false).or_host()
        }
        Api::Classic => {
            let path = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(path.as_str(), flags, c"")
                .during("mount", || "/, remount, ro")
                .or_host()
        }
    }
}

/// Hides `path` from the container: a file behind /dev/null, a folder behind an empty read-only
/// one. Both are the engine's own, never the container's (its /dev/null may be anything). What does
/// not exist needs no hiding.
pub(super) fn mask(api: Api, root: &Root, path: &str, empty: &mut Option<OwnedFd>) -> Result<()> {
    let path = Path::new(path);
    let Some(place) = existing(root, path)? else { return Ok(()) };
    if !place.is_dir().or_host()? {
        let options = Options { bind: Some(false), ..Options::default() };
        return super::mounts::bind(
            api,
            root,
            (&place, path),
            Source::Host(Path::new("/dev/null")),
            &options,
        )
        .or_host();
    }
    let read_only = Change { set: mount::READ_ONLY, clear: 0 };
    if let Some(empty) = empty {
        let options = Options { bind: Some(false), change: read_only, ..Options::default() };
        return super::mounts::bind(api, root, (&place, path), Source::Fd(empty.as_fd()), &options).or_host();
    }
    let data = vec!["nr_blocks=1".to_owned(), "nr_inodes=1".to_owned()];
    let options = Options { change: read_only, data, ..Options::default() };
    let made = super::mounts::file_system(api, root, (&place, path), ("tmpfs", "tmpfs"), &options);
    *empty = Some(made.or_host()?.fd);
    Ok(())
}

/// Makes `path` and all below read-only, if it exists.
pub(super) fn protect(api: Api, root: &Root, path: &str) -> Result<()> {
    let path = Path::new(path);
    match existing(root, path)? {
        Some(place) => super::mounts::make_read_only(api, root, (&place, path)).or_host(),
        None => Ok(()),
    }
}

fn existing(root: &Root, path: &Path) -> Result<Option<hull_sys::root::Handle>> {
    match root.find(path) {
        Err(error) if error.errno == Errno::ACCESS => Ok(None),
        found => found.or_host(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_one_by_one_since_6_8() {
        let yes = [c"6.8.0", c"6.18.44-fc", c"7.0-rc1", c"10.1"];
        let no = [c"6.7.12", c"6.1.0-56-cloud-amd64", c"5.15.0", c"", c"strange"];
        assert!(yes.iter().all(|release| layers_come_one_by_one(release)));
        assert!(!no.iter().any(|release| layers_come_one_by_one(release)));
    }
}
