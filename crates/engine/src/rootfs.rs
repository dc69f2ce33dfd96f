//! Looking into a container's root file system without mounting it.
//!
//! A start needs two small files of the image (`/etc/passwd`, `/etc/group`) before there is any
//! mount, and a volume is filled only where the image has something. This walks the layers from the
//! top to the base by descriptors, one path component at a time and never through a link that the
//! kernel would follow, by overlayfs's own rules (Documentation/filesystems/overlayfs.rst): the
//! uppermost entry of a name wins, folders merge, a character device 0:0 hides what is below, an
//! opaque folder ends the merging. Links are followed here, inside the container's root. Nothing of
//! the layers can lead out of them.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// As the kernel's own limit (path_resolution(7)).
const LINKS: usize = 40;

/// Why a file of the layers cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{call} {path} in the layers of the container")]
    Call { call: &'static str, path: String, source: Errno },
    #[error("{path} in the container has {size} bytes, more than the allowed {limit}")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("too many symbolic links on the way to {path} in the container")]
    Links { path: String },
}

/// One folder as the container would see it: the same folder in each layer that has it, top first.
type Merged = Arc<Vec<OwnedFd>>;

enum Found {
    Folder(Merged),
    Link(PathBuf),
    /// A regular one.
    File(OwnedFd),
    /// Something that is none of these.
    Other,
    Nothing,
}

/// Reads a regular file of at most `limit` bytes. `layers` are the layers' folders from the top
/// to the base. `None`: there is no such file, or it is no regular file.
pub fn read(layers: &[PathBuf], path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LookupError> {
    match find(layers, path)? {
        Found::File(file) => contents(file, path, limit).map(Some),
        Found::Folder(_) | Found::Link(_) | Found::Other | Found::Nothing => Ok(None),
    }
}

/// Whether there is anything at `path`, of whatever kind.
pub fn has(layers: &[PathBuf], path: &Path) -> Result<bool, LookupError> {
    find(layers, path).map(|found| !matches!(found, Found::Nothing))
}

/// The way to something, in the names of a container that has these layers: no link is on it.
#[derive(Debug)]
pub struct Way {
    /// The folders that are there, from the root's first one on: a name, and the folder of the uppermost
    /// layer that has it.
    pub folders: Vec<(Vec<u8>, OwnedFd)>,
    /// What is not there.
    pub missing: Vec<Vec<u8>>,
}

/// How a folder or file would be made at `path`; `None`: there is something already, or something that is
/// no folder is on the way.
pub fn way(layers: &[PathBuf], path: &Path) -> Result<Option<Way>, LookupError> {
    let Walked { found: Found::Nothing, folders, missing } = walk(layers, path)? else { return Ok(None) };
    let call = |source: Errno| LookupError::Call { call: "dup", path: path.display().to_string(), source };
    let mut way = Way { folders: Vec::new(), missing };
    for (name, merged) in folders.into_iter().skip(1) {
        let Some(uppermost) = merged.first() else { continue };
        way.folders.push((name, rustix::io::fcntl_dupfd_cloexec(uppermost, 3).map_err(call)?));
    }
    // A link to what is not there may go on with `..`: no such way is made.
    Ok(Some(way).filter(|way| way.missing.iter().all(|name| name != b"..")))
}

/// Whether there is a folder at `path`, or something else (`false`).
pub fn is_folder(layers: &[PathBuf], path: &Path) -> Result<Option<bool>, LookupError> {
    Ok(match find(layers, path)? {
        Found::Nothing => None,
        found => Some(matches!(found, Found::Folder(_))),
    })
}

/// What is at `path`, links followed. What has something but a folder on the way is told as that.
fn find(layers: &[PathBuf], path: &Path) -> Result<Found, LookupError> {
    walk(layers, path).map(|walked| walked.found)
}

struct Walked {
    found: Found,
    /// Those that were gone through, from the root on, which has no name.
    folders: Vec<(Vec<u8>, Merged)>,
    /// Of [`Found::Nothing`]: what is not there.
    missing: Vec<Vec<u8>>,
}

fn walk(layers: &[PathBuf], path: &Path) -> Result<Walked, LookupError> {
    let shown = || path.display().to_string();
    let call = |call: &'static str| move |source: Errno| LookupError::Call { call, path: shown(), source };
    let root: Merged = Arc::new(
        layers
            .iter()
            .map(|layer| open_folder(CWD, layer.as_os_str()))
            .collect::<Result<_, _>>()
            .map_err(call("open"))?,
    );
    let mut stack = vec![(Vec::new(), root)];
    let mut rest: Vec<Vec<u8>> = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().map(|(_, merged)| Arc::clone(merged)).unwrap_or_default();
        let found = match look(&here, OsStr::from_bytes(&name)).map_err(call("look up"))? {
            Found::Folder(merged) => {
                stack.push((name, merged));
                continue;
            }
            Found::Link(target) => {
                links += 1;
                if links > LINKS {
                    return Err(LookupError::Links { path: shown() });
                }
                if target.is_absolute() {
                    stack.truncate(1);
                }
                rest.extend(components(&target));
                continue;
            }
            Found::Nothing => {
                let missing = std::iter::once(name).chain(rest.into_iter().rev()).collect();
                return Ok(Walked { found: Found::Nothing, folders: stack, missing });
            }
            Found::File(file) if rest.is_empty() => Found::File(file),
            Found::File(_) | Found::Other => Found::Other,
        };
        return Ok(Walked { found, folders: stack, missing: Vec::new() });
    }
    let last = stack.last().map(|(_, merged)| Arc::clone(merged)).unwrap_or_default();
    Ok(Walked { found: Found::Folder(last), folders: stack, missing: Vec::new() })
}

/// The components of a path, last first.
fn components(path: &Path) -> Vec<Vec<u8>> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.as_bytes().to_vec()),
        Component::ParentDir => Some(b"..".to_vec()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut names: Vec<_> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

fn look(here: &Merged, name: &OsStr) -> Result<Found, Errno> {
    let mut merged = Vec::new();
    for layer in here.iter() {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            // A name too long for this layer's file system is in none of them.
            Err(Errno::NAMETOOLONG) => return Ok(Found::Nothing),
            Err(errno) => return Err(errno),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let folder = open_folder(layer, name)?;
            let opaque = is_opaque(&folder);
            merged.push(folder);
            if opaque {
                break;
            }
            continue;
        }
        if !merged.is_empty() || (kind == FileType::CharacterDevice && stat.st_rdev == 0) {
            // Hidden below the folder above it, or a whiteout.
            break;
        }
        return match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                Ok(Found::Link(PathBuf::from(OsStr::from_bytes(target.as_bytes()))))
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Ok(Found::File(rustix::fs::openat(layer, name, flags, Mode::empty())?))
            }
            _ => Ok(Found::Other),
        };
    }
    Ok(if merged.is_empty() { Found::Nothing } else { Found::Folder(Arc::new(merged)) })
}

fn open_folder(at: impl std::os::fd::AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// `user.overlay.opaque` is not heeded: any process of the container may set it, and overlayfs does
/// not heed it in our mounts either.
fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0u8; 8];
    matches!(rustix::fs::fgetxattr(folder, "trusted.overlay.opaque", &mut value[..]), Ok(1))
        && value.first() == Some(&b'y')
}

fn contents(file: OwnedFd, path: &Path, limit: u64) -> Result<Vec<u8>, LookupError> {
    let shown = || path.display().to_string();
    let call = |call: &'static str| move |source: Errno| LookupError::Call { call, path: shown(), source };
    // It may have been swapped since it was looked at: what counts is what was opened.
    let stat = rustix::fs::fstat(&file).map_err(call("fstat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > limit {
        return Err(LookupError::TooLarge { path: shown(), size, limit });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    let mut reader = std::io::Read::take(std::fs::File::from(file), limit);
    match std::io::Read::read_to_end(&mut reader, &mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(call("read")(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Layers {
        _dir: tempfile::TempDir,
        /// Top first.
        paths: Vec<PathBuf>,
    }

    fn layers(count: usize) -> Layers {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..count).map(|n| dir.path().join(n.to_string())).collect();
        for path in &paths {
            fs::create_dir_all(path.join("etc")).unwrap();
        }
        Layers { _dir: dir, paths }
    }

    fn whiteout(path: &Path) {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, 0).expect("these tests run as root");
    }

    impl Layers {
        fn put(&self, layer: usize, path: &str, text: &str) {
            fs::write(self.paths[layer].join(path), text).unwrap();
        }

        fn get(&self, path: &str) -> Option<String> {
            read(&self.paths, Path::new(path), 100).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
        }
    }

    #[test]
    fn the_uppermost_wins_and_a_whiteout_hides() {
        let l = layers(3);
        l.put(2, "etc/passwd", "base");
        assert_eq!(l.get("/etc/passwd").as_deref(), Some("base"));
        l.put(1, "etc/passwd", "middle");
        assert_eq!(l.get("/etc/passwd").as_deref(), Some("middle"));
        whiteout(&l.paths[0].join("etc/passwd"));
        assert_eq!(l.get("/etc/passwd"), None);
        assert_eq!(l.get("/etc"), None);
        assert_eq!(l.get("/etc/passwd/x"), None);
    }

    #[test]
    fn an_opaque_folder_and_a_file_in_its_place_hide_what_is_below() {
        let l = layers(2);
        l.put(1, "etc/passwd", "base");
        let etc = fs::File::open(l.paths[0].join("etc")).unwrap();
        let set =
            |name: &str| rustix::fs::fsetxattr(&etc, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        // One of the container's own.
        set("user.overlay.opaque");
        assert_eq!(l.get("/etc/passwd").as_deref(), Some("base"));
        set("trusted.overlay.opaque");
        assert_eq!(l.get("/etc/passwd"), None);
        let l = layers(2);
        l.put(1, "etc/passwd", "base");
        fs::remove_dir(l.paths[0].join("etc")).unwrap();
        l.put(0, "etc", "a file");
        assert_eq!(l.get("/etc/passwd"), None);
        assert_eq!(l.get("/etc").as_deref(), Some("a file"));
    }

    #[test]
    fn links_stay_inside_the_container() {
        let l = layers(2);
        fs::create_dir_all(l.paths[1].join("usr/share")).unwrap();
        l.put(1, "usr/share/users", "inside");
        symlink("/usr/share/users", l.paths[0].join("etc/passwd")).unwrap();
        assert_eq!(l.get("/etc/passwd").as_deref(), Some("inside"));
        symlink("../../../../../../etc/hostname", l.paths[0].join("etc/group")).unwrap();
        assert_eq!(l.get("/etc/group"), None);
        let l = layers(2);
        symlink("/proc/self/root/etc", l.paths[0].join("link")).unwrap();
        assert_eq!(l.get("/link/passwd"), None);
        symlink("b", l.paths[0].join("a")).unwrap();
        symlink("a", l.paths[0].join("b")).unwrap();
        assert!(matches!(read(&l.paths, Path::new("/a"), 9), Err(LookupError::Links { .. })));
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let l = layers(1);
        l.put(0, "etc/passwd", &"x".repeat(101));
        assert!(matches!(
            read(&l.paths, Path::new("/etc/passwd"), 100),
            Err(LookupError::TooLarge { size: 101, .. })
        ));
        let fifo = l.paths[0].join("etc/group");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(l.get("/etc/group"), None);
    }

    #[test]
    fn the_way_to_what_is_not_there_has_no_links() {
        let l = layers(2);
        fs::create_dir_all(l.paths[1].join("run/lock")).unwrap();
        symlink("../run", l.paths[0].join("etc/alias")).unwrap();
        symlink("/nowhere/../x", l.paths[0].join("bad")).unwrap();
        l.put(0, "etc/file", "x");
        let names = |names: &[Vec<u8>]| String::from_utf8(names.join(&b'/')).unwrap();
        let told = |path: &str| {
            let way = way(&l.paths, Path::new(path)).unwrap()?;
            let folders: Vec<Vec<u8>> = way.folders.into_iter().map(|(name, _)| name).collect();
            Some(format!("{}|{}", names(&folders), names(&way.missing)))
        };
        assert_eq!(told("/etc/alias/lock/a/b").as_deref(), Some("run/lock|a/b"));
        assert_eq!(told("/new/one").as_deref(), Some("|new/one"));
        assert_eq!([told("/etc/alias"), told("/etc/file/x"), told("/bad")], [None, None, None]);
        let folder = |path: &str| is_folder(&l.paths, Path::new(path)).unwrap();
        assert_eq!([folder("/run"), folder("/etc/file"), folder("/x")], [Some(true), Some(false), None]);
    }

    #[test]
    fn there_is_something_or_there_is_nothing() {
        let l = layers(2);
        l.put(1, "etc/passwd", "base");
        whiteout(&l.paths[0].join("gone"));
        fs::create_dir(l.paths[1].join("gone")).unwrap();
        symlink("etc", l.paths[0].join("link")).unwrap();
        symlink("nowhere", l.paths[0].join("dangling")).unwrap();
        let has = |path: &str| has(&l.paths, Path::new(path)).unwrap();
        assert!(["/", "/etc", "/etc/passwd", "/etc/passwd/below", "/link/passwd"].into_iter().all(has));
        assert!(!["/gone", "/gone/below", "/dangling", "/etc/group"].into_iter().any(has));
    }
}
