//! A folder that paths of others are resolved in, without ever leaving it.
//!
//! A container's files are written by the container: any component of a path in them may be a
//! symlink to `/etc` of the host, and may become one between a check and a use. So a path is
//! resolved once, by the kernel, in one call that cannot escape (`openat2` with
//! `RESOLVE_IN_ROOT`, openat2(2)), and what comes back is a descriptor that is then used by
//! descriptor. Nothing is resolved twice. Magic links (`/proc/PID/fd/N`) are refused, because they
//! jump outside of any root. Where the kernel or a filter around this process lacks the call, the
//! same walk is made by hand ([`crate::walk`]).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::error::{During, Errno, Result, ShowFd};
use crate::walk::{self, Scope};

/// A rename elsewhere during a walk through `..` makes openat2 give up with EAGAIN; it is then
/// tried again this many times (openat2(2) recommends a bounded loop).
const ATTEMPTS: usize = 128;

/// A folder as the root of a file system: absolute paths, `..` and symlinks stay inside.
#[derive(Debug)]
pub struct Root {
    pub fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Something found in a [`Root`]: an `O_PATH` descriptor, so it can be mounted on, examined and
/// reopened, but opening it has had no effect on it (a FIFO does not block, a device is not
/// touched).
#[derive(Debug)]
pub struct Handle {
    pub fd: OwnedFd,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `openat2` within `scope`, repeated while the kernel says EAGAIN. The bare errno: a miss is an
/// everyday answer here, not worth an error's text.
fn openat2_errno(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    scope: Scope,
) -> std::result::Result<OwnedFd, Errno> {
    let resolve = match scope {
        Scope::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        Scope::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        Scope::Entry => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    };
    let mut attempts = ATTEMPTS;
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => attempts -= 1,
            Err(errno @ (Errno::NOSYS | Errno::PERM)) if walk::lacks_openat2(errno) => {
                return walk::open(dir, path.as_os_str().as_encoded_bytes(), flags, mode, scope);
            }
            result => return result,
        }
    }
}

fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, scope: Scope) -> Result<OwnedFd> {
    openat2_errno(dir, path, flags, mode, scope)
        .during("openat2", || format!("{}, {path:?}, {flags:?}", ShowFd(dir)))
}

/// Opens `path` with `dir` as its root: for rooms that tell errnos from each other themselves.
pub fn open_inside(
    dir: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> std::result::Result<OwnedFd, Errno> {
    openat2_errno(dir.as_fd(), path, flags, mode, Scope::InRoot)
}

/// The same where no component of `path` is a symlink, nor `..` above `dir` (ELOOP, EXDEV).
pub fn open_without_links(
    dir: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> std::result::Result<OwnedFd, Errno> {
    openat2_errno(dir.as_fd(), path, flags, mode, Scope::Entry)
}

/// Opens `path` without leaving `dir`: `..` above it, absolute paths, absolute symlinks and magic
/// links are errors (EXDEV, ELOOP) instead of being bent to stay inside.
pub fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    openat2(dir.as_fd(), path, flags, mode, Scope::Beneath)
}

impl Root {
    /// Opens the folder `path` of the caller's own file system.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).during("open", || format!("{path:?}, {flags:?}"))?;
        Ok(Self { fd })
    }

    /// Opens `path` for use (reading, writing, creating). `mode` counts with `O_CREAT` alone.
    pub fn open_file(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        openat2(self.fd.as_fd(), path, flags, mode, Scope::InRoot)
    }

    /// Finds `path`, following symlinks, the last one included.
    pub fn resolve(&self, path: &Path) -> Result<Handle> {
        Ok(Handle { fd: self.open_file(path, OFlags::PATH, Mode::empty())? })
    }

    /// Finds `path` as [`Self::resolve`] does; `None` when there is no such thing (ENOENT, ENOTDIR).
    pub fn find(&self, path: &Path) -> Result<Option<Handle>> {
        self.find_as(path, OFlags::PATH)
    }

    fn find_as(&self, path: &Path, flags: OFlags) -> Result<Option<Handle>> {
        match open_inside(&self.fd, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Handle { fd })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => {
                Err(errno).during("openat2", || format!("{}, {path:?}, {flags:?}", ShowFd(&self.fd)))
            }
        }
    }

    /// Finds `path` without following a symlink at its end.
    pub fn resolve_nofollow(&self, path: &Path) -> Result<Handle> {
        Ok(Handle { fd: self.open_file(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())? })
    }

    /// Finds the folder `path`, making what is missing with `mode`.
    ///
    /// Existing components are followed like any other path (inside the root); only names that do
    /// not exist are made, each one below a descriptor of its parent. A symlink whose target is
    /// missing is refused (ENOENT), never written through.
    pub fn create_dirs(&self, path: &Path, mode: Mode) -> Result<Handle> {
        // What is there and is no folder shows when its parent has been found.
        if let Some(dir) = self.find_as(path, OFlags::PATH | OFlags::DIRECTORY)? {
            return Ok(dir);
        }
        let parts = parts(path);
        let (mut dir, known) = self.longest_existing(&parts)?;
        for name in &parts[known..] {
            match rustix::fs::mkdirat(&dir, *name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                error => error.during("mkdirat", || format!("{}, {name:?}, {mode:?}", ShowFd(&dir)))?,
            }
            dir = open_entry(dir.as_fd(), name, OFlags::DIRECTORY)?;
        }
        Ok(Handle { fd: dir })
    }

    /// Finds the file `path`, making an empty regular file (and its folders with `dirs`) where
    /// nothing is. What exists, of whatever kind, is left as it is.
    pub fn create_file(&self, path: &Path, mode: Mode, dirs: Mode) -> Result<Handle> {
        if let Some(handle) = self.find(path)? {
            return Ok(handle);
        }
        let parent = self.create_dirs(path.parent().unwrap_or(Path::new("/")), dirs)?;
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        match rustix::fs::openat(&parent, name, flags, mode) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => {
                Err(errno).during("openat", || format!("{}, {name:?}, {flags:?}", ShowFd(&parent)))?
            }
        }
        Ok(Handle { fd: open_entry(parent.as_fd(), name, OFlags::empty())? })
    }

    /// The descriptor of the longest existing folder of `parts` and how many of them it covers.
    fn longest_existing(&self, parts: &[&OsStr]) -> Result<(OwnedFd, usize)> {
        let mut known = parts.len();
        loop {
            known = known.saturating_sub(1);
            let path: std::path::PathBuf = parts[..known].iter().collect();
            let path = if known == 0 { Path::new("/") } else { &path };
            match self.open_file(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
                Ok(fd) => return Ok((fd, known)),
                Err(error) if error.errno == Errno::NOENT && known > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The names of `path`, `..` resolved by text: what does not exist yet has no symlinks.
fn parts(path: &Path) -> Vec<&OsStr> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts
}

/// One entry of `dir`, never through a symlink: a symlink here was put in place of what was just
/// made (ELOOP or ENOTDIR).
fn open_entry(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW;
    openat2(dir, Path::new(name), flags, Mode::empty(), Scope::Entry)
}

impl Handle {
    pub fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd).during("fstat", || ShowFd(&self.fd))
    }

    pub fn is_dir(&self) -> Result<bool> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode).is_dir())
    }

    /// Opens the very file that was found for use, through `/proc/self/fd` (openat2(2), NOTES).
    pub fn reopen(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = self.magic_path();
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
            .during("open", || format!("{}, {flags:?}", ShowFd(&self.fd)))
    }

    /// The path by which calls that take no descriptor reach this very file. Valid in this process
    /// while the handle lives and /proc is the host's own.
    pub fn magic_path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Makes a device node called `name` in this folder; what is there already is an error.
    pub fn make_node(&self, name: &OsStr, kind: FileType, mode: Mode, device: Dev) -> Result<()> {
        rustix::fs::mknodat(&self.fd, name, kind, mode, device)
            .during("mknodat", || format!("{}, {name:?}, {kind:?}, {mode:?}", ShowFd(&self.fd)))
    }

    /// Makes the folder `name` in this one and opens it; one that is there already is an error.
    pub fn make_dir(&self, name: &OsStr, mode: Mode) -> Result<Handle> {
        rustix::fs::mkdirat(&self.fd, name, mode)
            .during("mkdirat", || format!("{}, {name:?}, {mode:?}", ShowFd(&self.fd)))?;
        Ok(Handle { fd: open_entry(self.fd.as_fd(), name, OFlags::DIRECTORY)? })
    }

    /// Makes a symlink called `name` in this folder.
    pub fn make_link(&self, name: &OsStr, target: &Path) -> Result<()> {
        rustix::fs::symlinkat(target, &self.fd, name)
            .during("symlinkat", || format!("{target:?}, {}, {name:?}", ShowFd(&self.fd)))
    }

    /// Gives `name` in this folder (itself, not what a symlink points at) an owner.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .during("fchownat", || format!("{}, {name:?}", ShowFd(&self.fd)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn world() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::create_dir_all(dir.path().join("host/canary")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    fn mode(bits: u32) -> Mode {
        Mode::from_raw_mode(bits)
    }

    #[test]
    fn an_absolute_symlink_to_the_host_ends_inside_the_root() {
        let (dir, root) = world();
        symlink(dir.path().join("host"), dir.path().join("root/evil")).unwrap();
        let error = root.resolve(Path::new("/evil/canary")).unwrap_err();
        assert_eq!(error.errno, Errno::NOENT);
        // The control: a plain path walk does escape, so the attack is a real one.
        assert!(fs::metadata(dir.path().join("root/evil/canary")).is_ok());
    }

    #[test]
    fn making_folders_through_a_symlink_to_the_host_makes_none_there() {
        let (dir, root) = world();
        symlink(dir.path().join("host"), dir.path().join("root/evil")).unwrap();
        assert!(root.create_dirs(Path::new("/evil/new"), mode(0o755)).is_err());
        assert!(root.create_file(Path::new("/evil/new"), mode(0o644), mode(0o755)).is_err());
        assert!(!dir.path().join("host/new").exists());
        symlink("../../../../../host", dir.path().join("root/dots")).unwrap();
        assert!(root.create_dirs(Path::new("/dots/new"), mode(0o755)).is_err());
        assert!(!dir.path().join("host/new").exists());
    }

    #[test]
    fn folders_are_made_through_symlinks_that_stay_inside() {
        let (dir, root) = world();
        symlink("/etc", dir.path().join("root/conf")).unwrap();
        root.create_dirs(Path::new("/conf/a/b"), mode(0o755)).unwrap();
        assert!(dir.path().join("root/etc/a/b").is_dir());
    }

    #[test]
    fn dots_cannot_climb_out() {
        let (dir, root) = world();
        root.create_dirs(Path::new("../../../x/../y"), mode(0o700)).unwrap();
        assert!(dir.path().join("root/y").is_dir());
        assert!(open_beneath(&root, Path::new("../host"), OFlags::PATH, Mode::empty()).is_err());
    }

    #[test]
    fn a_file_is_made_once_and_then_found() {
        let (dir, root) = world();
        let path = Path::new("/var/lib/file");
        root.create_file(path, mode(0o640), mode(0o755)).unwrap();
        fs::write(dir.path().join("root/var/lib/file"), "kept").unwrap();
        let handle = root.create_file(path, mode(0o640), mode(0o755)).unwrap();
        assert!(!handle.is_dir().unwrap());
        assert_eq!(fs::read(dir.path().join("root/var/lib/file")).unwrap(), b"kept");
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = Root::open(Path::new("/proc")).unwrap();
        let error = proc.resolve(Path::new("/self/root/etc")).unwrap_err();
        assert_eq!(error.errno, Errno::LOOP);
    }
}
