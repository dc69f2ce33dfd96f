//! Mounts of what exists already: files of the host, what is inside of a volume, and the file
//! systems of images. And of files that are made for it, in memory.
//!
//! What is shown is found once and used as a descriptor, as is the place that it is shown at: a
//! container that shares the volume may swap what lies at a path at any moment, and gets nothing
//! by it.
//!
//! The container's mount namespace begins as a copy of the host's, and all in it turns private before
//! anything is built, so that nothing spreads to the host. A bind that is to spread is taken before
//! that: a copy that is attached nowhere stays in its group of peers (mount_namespaces(7)). For a
//! container in a user namespace everything is taken before that is entered ([`super::users`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hull_oci::runtime::Mount;
use hull_sys::Errno;
use hull_sys::error::During;
use hull_sys::mount::{self, Attributes, Propagation};
use hull_sys::root::{Handle, Root, open_beneath, open_inside};
use rustix::fs::{CWD, FileType, FsWord, Gid, Mode, OFlags, Uid};
use rustix::mount::UnmountFlags;

use super::failure::{OrFail, Result, go_text, invalid, not_found};
use super::files::{FILE, FOLDER};
use super::mounts::{self, Api, Source};
use super::options;
use super::{rootfs, users};
use crate::bundle::{self, Bundle};

/// What a bind mount shows, complete but for its place.
#[derive(Debug)]
pub(super) struct Taken {
    fd: OwnedFd,
    folder: bool,
}

/// For each mount of the spec, in their order: those binds that are to spread (shared or slave). To be
/// called while the host's mounts are still as they were.
///
/// # Errors
/// A source is not there; or the kernel has no such copies.
pub(super) fn spreading(bundle: &Bundle) -> Result<Vec<Option<Taken>>> {
    let spreads = |word: &String| {
        matches!(options::propagation(word), Some((Propagation::Shared | Propagation::Slave, _)))
    };
    let take = |entry: &Mount| match entry.options.iter().any(spreads) {
        true => take(entry, bundle.sources.get(&entry.destination), None),
        false => Ok(None),
    };
    bundle.spec.mounts.iter().map(take).collect()
}

/// Takes what `entry` shows out of the mount namespace that this process is in, for one in the user
/// namespace `users`. Nothing of what is no bind.
pub(super) fn take(
    entry: &Mount,
    source: Option<&bundle::Source>,
    users: Option<BorrowedFd<'_>>,
) -> Result<Option<Taken>> {
    let options = options::parse(&entry.kind, &entry.options);
    let Some(recursive) = options.bind else { return Ok(None) };
    let found = match source {
        None => open(entry)?,
        Some(bundle::Source::Inside { path }) => inside(entry, path)?,
        Some(bundle::Source::Layers { lower, path, upper }) => {
            let whole = rootfs::layers(lower, upper.as_ref()).or_host()?;
            let whole = whole.ok_or_else(|| invalid(format!("{}: too many layers", what(entry))))?;
            return image(entry, whole, path).map(Some);
        }
        Some(bundle::Source::File { contents, mode, uid, gid }) => {
            return file(entry, contents, (*mode, *uid, *gid)).map(Some);
        }
    };
    let fd = mount::copy_of(&found.handle, recursive).or_invalid(|| what(entry))?;
    if let (Some(recursive), Some(users)) = (options.idmap, users) {
        users::map(&fd, users, recursive, Path::new(&entry.source))?;
    }
    mounts::change(&fd, &options).or_invalid(|| what(entry))?;
    Ok(Some(Taken { fd, folder: found.folder }))
}

/// The same for somebody outside of the container's user namespace: what has the host's ids on the disk
/// is shown with those that the container sees, by the namespace of [`users::inverse`]. A file system
/// that cannot map shows the host's.
pub(super) fn take_as_seen(
    entry: &Mount,
    source: Option<&bundle::Source>,
    inverse: BorrowedFd<'_>,
) -> Result<Option<Taken>> {
    let taken = take(entry, source, None)?;
    let mapped = options::parse(&entry.kind, &entry.options).idmap.is_some();
    // What images and volumes have is with the container's ids on the disk.
    if let (Some(taken), None, false) = (&taken, source, mapped) {
        let attributes = Attributes { idmap: Some(inverse), ..Attributes::default() };
        if mount::set_attributes(&taken.fd, &attributes, true).is_err() {
            let _ = mount::set_attributes(&taken.fd, &attributes, false);
        }
    }
    Ok(taken)
}

/// The file alone, of a file system in memory that nobody sees.
fn file(entry: &Mount, contents: &[u8], (mode, uid, gid): (u32, u32, u32)) -> Result<Taken> {
    let data = [("mode", Some("0700"))];
    let memory = mount::new("tmpfs", &data, mount::NO_SUID | mount::NO_DEV | mount::NO_EXEC).or_host()?;
    let name = "file";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made =
        rustix::fs::openat(&memory, name, flags, Mode::RUSR).during("openat", || what(entry)).or_host()?;
    let mut made = std::fs::File::from(made);
    std::io::Write::write_all(&mut made, contents).or_host()?;
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::fchown(&made, owner.0, owner.1)
        .during("fchown", || what(entry))
        .or_invalid(|| what(entry))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).during("fchmod", || what(entry)).or_host()?;
    drop(made);
    image(entry, memory, Path::new(name))
}

/// What is at `path` of the detached file system `whole`; empty is all of it.
pub(super) fn image(entry: &Mount, whole: OwnedFd, path: &Path) -> Result<Taken> {
    let fd = if path.as_os_str().is_empty() { whole } else { part(entry, &whole, path)? };
    let options = options::parse(&entry.kind, &entry.options);
    mounts::change(&fd, &options).or_invalid(|| what(entry))?;
    let stat = rustix::fs::fstat(&fd).during("fstat", || what(entry)).or_host()?;
    Ok(Taken { fd, folder: FileType::from_raw_mode(stat.st_mode).is_dir() })
}

/// A copy of the part of a detached mount that is at `path`. Before Linux 6.15 only what is attached
/// can be copied, so it is for a moment, over the root of this process' own mount namespace, which
/// nobody in it looks up by path.
fn part(entry: &Mount, whole: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    mount::attach(whole, Root::open(Path::new("/")).or_host()?).or_host()?;
    let found = beneath(whole, Path::new(&entry.source), path)?;
    let copy = mount::copy_of(&found.handle, false).or_host()?;
    drop(found);
    rustix::mount::unmount(format!("/proc/self/fd/{}", whole.as_raw_fd()), UnmountFlags::DETACH)
        .during("umount2", || entry.source.clone())
        .or_host()?;
    Ok(copy)
}

/// Makes the mount that `entry` asks for, of `source` or what was `taken` for it, if that is so.
pub(super) fn mount(
    api: Api,
    root: &Root,
    (entry, source): (&Mount, Option<&bundle::Source>),
    taken: Option<&Taken>,
) -> Result<()> {
    let own;
    let taken = match taken {
        Some(taken) => taken,
        None if api == Api::Classic => return classic(root, entry, source),
        None => {
            own = take(entry, source, None)?;
            let Some(own) = &own else { return Ok(()) };
            own
        }
    };
    let place = place(root, entry, taken.folder)?;
    keep_proc(&place, &entry.destination, file_system(&taken.fd)? == PROC)?;
    mount::attach(&taken.fd, &place).or_invalid(|| what(entry))
}

/// proc(5), as statfs(2) names it.
const PROC: FsWord = 0x9fa0;

/// What may be shown in the place of a file of /proc: those that say how much of the host there is
/// (LXCFS has them for one container).
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

fn file_system(fd: impl AsFd) -> Result<FsWord> {
    Ok(rustix::fs::fstatfs(fd).during("fstatfs", || "what is to be mounted").or_host()?.f_type)
}

/// Refuses what would make programs take something else for /proc (K02): labels and ids are written
/// there. Whatever links an image has on the way to `place`.
pub(super) fn keep_proc(place: &Handle, path: &Path, is_proc: bool) -> Result<()> {
    if path == Path::new("/proc") && !is_proc {
        return Err(invalid("\"/proc\" cannot be mounted because it is not of type proc"));
    }
    let inside = path != Path::new("/proc") && file_system(place)? == PROC;
    if inside && !PROC_FILES.iter().any(|file| path == Path::new(file)) {
        return Err(invalid(format!(
            "{:?} cannot be mounted because it is inside /proc",
            path.to_string_lossy()
        )));
    }
    Ok(())
}

/// Something that is to be shown.
struct Found {
    handle: Handle,
    folder: bool,
}

/// The beginning of the reference's messages.
fn what(entry: &Mount) -> String {
    format!("error mounting {:?} to rootfs at {:?}", entry.source, entry.destination.to_string_lossy())
}

/// Opens a path of the host. A folder is asked for first: that makes an automounter come (open(2),
/// `O_PATH`).
fn open(entry: &Mount) -> Result<Found> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let at = |flags| rustix::fs::openat(CWD, &*entry.source, flags, Mode::empty());
    let found = match at(flags | OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => at(flags).map(|fd| Found { handle: Handle { fd }, folder: false }),
        opened => opened.map(|fd| Found { handle: Handle { fd }, folder: true }),
    };
    found.map_err(|errno| invalid(format!("{}: stat {}: {}", what(entry), entry.source, go_text(errno))))
}

/// Finds `path` in the folder that `entry` has as its source.
fn inside(entry: &Mount, path: &Path) -> Result<Found> {
    beneath(&open(entry)?.handle, Path::new(&entry.source), path)
}

/// Finds `path` in `folder`, which is called `name`; no link leads out of it.
fn beneath(folder: impl AsFd, name: &Path, path: &Path) -> Result<Found> {
    let found = match path.is_absolute() {
        true => open_inside(folder, path, OFlags::PATH, Mode::empty()),
        false => open_beneath(folder, path, OFlags::PATH, Mode::empty()).map_err(|error| error.errno),
    };
    let found = found.map_err(|errno| {
        let full = name.join(path);
        let (full, why) = (full.display(), go_text(errno));
        match errno {
            Errno::NOENT => not_found(format!("cannot access path {full}: lstat {full}: {why}")),
            Errno::XDEV | Errno::LOOP => {
                invalid(format!("cannot access path {full}: it leads out of {}", name.display()))
            }
            _ => invalid(format!("cannot access path {full}: {why}")),
        }
    })?;
    let handle = Handle { fd: found };
    let folder = handle.is_dir().or_host()?;
    Ok(Found { handle, folder })
}

/// The place in the container, made where there is none. A folder is shown at a folder only, and
/// anything else at anything else.
fn place(root: &Root, entry: &Mount, folder: bool) -> Result<Handle> {
    let path = entry.destination.as_path();
    let place = if folder { root.create_dirs(path, FOLDER) } else { root.create_file(path, FILE, FOLDER) };
    let mismatch = |fd: &str| {
        invalid(format!(
            "{}: mount src={}, dst={}, dstFd={fd}, flags=MS_BIND|MS_REC: not a directory: Are you trying to mount a \
             directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
            what(entry),
            entry.source,
            path.display()
        ))
    };
    let place = match place {
        Err(error) if folder && error.errno == Errno::NOTDIR => return Err(mismatch("none")),
        place => place.or_invalid(|| what(entry))?,
    };
    match place.is_dir().or_host()? == folder {
        true => Ok(place),
        false => Err(mismatch(&place.magic_path())),
    }
}

/// The same by mount(2). An image needs a path for the whole then: one of the folders that it is made
/// of, in this namespace alone.
fn classic(root: &Root, entry: &Mount, source: Option<&bundle::Source>) -> Result<()> {
    let found = match source {
        None => open(entry)?,
        Some(bundle::Source::Inside { path }) => inside(entry, path)?,
        Some(bundle::Source::File { .. }) => {
            return Err(invalid(format!(
                "{}: a file in memory needs Linux 5.12, or the filter around this engine allows too little of it",
                what(entry)
            )));
        }
        Some(bundle::Source::Layers { lower, path, upper }) => {
            let whole = bundle::Rootfs::Overlay { lower: lower.clone(), upper: upper.clone() };
            let whole = rootfs::make_classic(&whole)?;
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            beneath(&whole, Path::new(&entry.source), path)?
        }
    };
    let place = place(root, entry, found.folder)?;
    keep_proc(&place, &entry.destination, file_system(&found.handle)? == PROC)?;
    let place = (&place, entry.destination.as_path());
    let options = options::parse(&entry.kind, &entry.options);
    mounts::bind(Api::Classic, root, place, Source::Fd(found.handle.as_fd()), &options)
        .or_invalid(|| what(entry))
}
