//! Times that are no later than a moment, so that the same work gives the same archive whenever it is done
//! (reproducible-builds.org/specs/source-date-epoch).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::diff::{DEPTH, DiffError, failed, names, open_folder};
use super::shown;

/// Gives all in `root`, and itself, that is newer than `newest` (seconds since the epoch) that time. The
/// tree is at rest; no link is followed.
pub fn clamp(root: BorrowedFd<'_>, newest: i64) -> Result<(), DiffError> {
    let folder = open_folder(root, b".").map_err(failed("open the folder", b"."))?;
    below(&folder, newest, &mut Vec::new(), 0)?;
    let stat = rustix::fs::fstat(&folder).map_err(failed("examine", b"."))?;
    if is_newer(&stat, newest) {
        rustix::fs::futimens(&folder, &at(newest)).map_err(failed("set the times of", b"."))?;
    }
    Ok(())
}

fn below(folder: &OwnedFd, newest: i64, path: &mut Vec<u8>, depth: usize) -> Result<(), DiffError> {
    if depth > DEPTH {
        return Err(DiffError::Depth { name: shown(path), limit: DEPTH });
    }
    let length = path.len();
    for name in names(folder).map_err(failed("read the folder", path))? {
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(folder, &*name, flags).map_err(failed("examine", path))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let inner = open_folder(folder.as_fd(), &name).map_err(failed("open the folder", path))?;
            below(&inner, newest, path, depth + 1)?;
        }
        if is_newer(&stat, newest) {
            let set: Result<(), Errno> = rustix::fs::utimensat(folder, &*name, &at(newest), flags);
            set.map_err(failed("set the times of", path))?;
        }
        path.truncate(length);
    }
    Ok(())
}

fn is_newer(stat: &Stat, newest: i64) -> bool {
    stat.st_mtime > newest || stat.st_mtime == newest && stat.st_mtime_nsec > 0
}

fn at(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_newer_becomes_as_old_and_what_is_older_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(scratch.path().join("outside"), "x").unwrap();
        let before = fs::metadata(scratch.path().join("outside")).unwrap().mtime();
        symlink("../../outside", root.join("a/link")).unwrap();
        for (name, time) in [("old", 5), ("new", 2_000_000_000)] {
            let file = fs::File::create(root.join("a/b").join(name)).unwrap();
            rustix::fs::futimens(&file, &at(time)).unwrap();
        }
        let folder = fs::File::open(&root).unwrap();
        clamp(folder.as_fd(), 1000).unwrap();
        let time = |name: &str| {
            let facts = fs::symlink_metadata(root.join(name)).unwrap();
            (facts.mtime(), facts.mtime_nsec())
        };
        assert_eq!(time("a/b/old"), (5, 0));
        for name in ["", "a", "a/b", "a/b/new", "a/link"] {
            assert_eq!(time(name), (1000, 0), "{name:?}");
        }
        assert_eq!(fs::metadata(scratch.path().join("outside")).unwrap().mtime(), before);
    }
}
