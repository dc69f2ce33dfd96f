//! Folders of our own by descriptor: made, listed, published into, and emptied.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, ioctl_getflags, ioctl_setflags,
};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Only the owner gets into folders of state; what containers see has its own modes.
pub(crate) const PRIVATE: Mode = Mode::RWXU;

pub(crate) fn open(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens a folder below `parent`, making it (mode 0700) if it is missing.
pub(crate) fn open_or_make(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(&parent, name, PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => open(parent, name),
        Err(errno) => Err(errno),
    }
}

/// Says that the folders in this one have nothing to do with each other (chattr(1), `T`), so that
/// ext4 puts each into a part of the disk of its own instead of beside the last one. Otherwise a new
/// layer fills up the gaps that one removed just now has left; where ext4 has no journal it does not
/// even do that, for inodes of the last minutes are not used again, but looks at all of them for each
/// new file.
///
/// File systems without that flag do without.
pub fn keep_apart(folder: impl AsFd) {
    if let Ok(flags) = ioctl_getflags(&folder)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
}

/// The names in a folder, without `.` and `..`, in no order.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Levels that are walked with a descriptor each before the rest is hoisted.
const DEPTH: usize = 64;

/// Removes whatever is below `folder`, by descriptors, links not followed and mounts not entered:
/// what somebody has mounted there is not ours, and the error is EXDEV.
///
/// A container can nest folders deeper than a process can hold descriptors for, so
/// folders far down are first moved up to `folder` itself.
pub fn empty(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    empty_but(folder, |_| false)
}

/// The same, but for the names that `stay` is true of.
pub(crate) fn empty_but(folder: BorrowedFd<'_>, stay: impl Fn(&CString) -> bool) -> Result<(), Errno> {
    let mut hoisted = 0u64;
    let mut waiting: VecDeque<CString> = names(folder)?.into_iter().filter(|name| !stay(name)).collect();
    while let Some(name) = waiting.pop_front() {
        remove(folder, folder, &name, 0, &mut hoisted, &mut waiting)?;
    }
    Ok(())
}

fn remove(
    top: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CString,
    depth: usize,
    hoisted: &mut u64,
    waiting: &mut VecDeque<CString>,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    if depth >= DEPTH {
        loop {
            let up = CString::new(format!(".hoisted-{hoisted}")).unwrap_or_default();
            *hoisted += 1;
            match rustix::fs::renameat_with(parent, name, top, &up, rustix::fs::RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => {
                    waiting.push_back(up);
                    return result;
                }
            }
        }
    }
    let here = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let folder = rustix::fs::openat2(parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty(), here)?;
    for inner in names(&folder)? {
        remove(top, folder.as_fd(), &inner, depth + 1, hoisted, waiting)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Folders that are open at the same time while a tree is measured.
const OPEN: usize = 256;

/// Bytes of a tree as the reference counts them: the lengths of its files, each once however many
/// names it has, and nothing for folders (an untouched container is 0 B).
///
/// Depth first: of each level one folder is open, and none of a level without others to come. So a tree
/// can be as wide or as deep as a container likes; the error is EMFILE for one that is both.
pub fn usage(folder: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = 0;
    // Each with its folders that are still to come.
    let mut levels: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
    let mut next = Some(rustix::fs::openat(folder, ".", FOLDER, Mode::empty())?);
    while let Some(folder) = next {
        let mut inner = Vec::new();
        for name in names(&folder)? {
            let stat = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                    bytes = u64::saturating_add(bytes, u64::try_from(stat.st_size).unwrap_or(0));
                }
            } else {
                inner.push(name);
            }
        }
        if levels.len() >= OPEN {
            return Err(Errno::MFILE);
        }
        levels.push((folder, inner));
        next = descend(&mut levels)?;
    }
    Ok(bytes)
}

/// Opens the next folder of the deepest level that has one.
fn descend(levels: &mut Vec<(OwnedFd, Vec<CString>)>) -> Result<Option<OwnedFd>, Errno> {
    while let Some((folder, mut inner)) = levels.pop() {
        let Some(name) = inner.pop() else { continue };
        let opened = rustix::fs::openat(&folder, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        if !inner.is_empty() {
            levels.push((folder, inner));
        }
        match opened {
            Ok(next) => return Ok(Some(next)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_kept_apart_where_the_file_system_can() {
        let [ours, control] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let [ours, control] = [&ours, &control].map(|folder| std::fs::File::open(folder.path()).unwrap());
        let apart = |folder| ioctl_getflags(folder).map(|flags| flags.contains(IFlags::TOPDIR));
        let can = ioctl_getflags(&control).and_then(|flags| ioctl_setflags(&control, flags | IFlags::TOPDIR));
        keep_apart(&ours);
        assert_eq!(apart(&ours).unwrap_or(false), can.is_ok());
        keep_apart(&ours);
        assert_eq!(apart(&ours), apart(&control));
    }

    #[test]
    fn a_tree_is_measured_with_few_descriptors_however_wide_or_deep() {
        let scratch = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(scratch.path()).unwrap();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let few = rustix::process::Rlimit { current: Some(OPEN as u64 + 64), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        for number in 0..2 * OPEN {
            let folder = scratch.path().join(format!("wide-{number}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("file"), "12").unwrap();
        }
        std::fs::hard_link(scratch.path().join("wide-0/file"), scratch.path().join("again")).unwrap();
        let wide = 4 * OPEN as u64;
        assert_eq!(usage(root.as_fd()), Ok(wide));
        let deep = |beside: bool| {
            let mut current: OwnedFd = rustix::fs::openat(&root, ".", FOLDER, Mode::empty()).unwrap();
            for _ in 0..3 * OPEN {
                for name in if beside { &["before", "after"][..] } else { &[] } {
                    rustix::fs::mkdirat(&current, *name, PRIVATE).unwrap();
                }
                current = open_or_make(&current, "deeper").unwrap();
            }
        };
        deep(false);
        assert_eq!(usage(root.as_fd()), Ok(wide));
        deep(true);
        let both = usage(root.as_fd());
        empty(root.as_fd()).unwrap();
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        // In whatever order they are listed, some folders have others to come after the deeper one.
        assert_eq!(both, Err(Errno::MFILE));
    }

    #[test]
    fn a_tree_deeper_than_descriptors_last_is_emptied() {
        let scratch = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(scratch.path()).unwrap();
        let mut current: OwnedFd = rustix::fs::openat(&root, ".", FOLDER, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, "deeper", PRIVATE).unwrap();
            current = open(&current, "deeper").unwrap();
        }
        std::os::unix::fs::symlink("/etc", scratch.path().join("link")).unwrap();
        std::fs::write(scratch.path().join(".hoisted-0"), "in the way").unwrap();
        empty(root.as_fd()).unwrap();
        assert_eq!(names(&root).unwrap(), Vec::<CString>::new());
        assert!(std::path::Path::new("/etc/passwd").exists());
    }
}
