//! Bytes in a folder tree, counted by descriptor: the container writes into it meanwhile, and a
//! folder that it swaps for a link is not followed.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Deeper trees are counted to here; no real one is that deep.
const MAX_DEPTH: usize = 256;

/// The sum of the sizes of all files below; a file with several names counts once. What vanishes
/// meanwhile counts nothing.
pub(super) fn tree(path: &Path) -> i64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(folder) => below(&folder, 0, &mut HashSet::new()),
        Err(_) => 0,
    }
}

fn below(folder: &OwnedFd, depth: usize, seen: &mut HashSet<(u64, u64)>) -> i64 {
    let Ok(entries) = Dir::read_from(folder) else { return 0 };
    let mut sum = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < MAX_DEPTH => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(inner) = rustix::fs::openat(folder, name, flags, Mode::empty()) {
                    sum += below(&inner, depth + 1, seen);
                }
            }
            FileType::RegularFile if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) => {}
            FileType::RegularFile | FileType::Symlink => sum += stat.st_size,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::tree;

    #[test]
    fn every_file_counts_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/one"), [0; 100]).unwrap();
        std::fs::hard_link(root.join("a/one"), root.join("a/b/again")).unwrap();
        std::fs::write(folder.path().join("outside"), [0; 1000]).unwrap();
        std::os::unix::fs::symlink("/", root.join("l")).unwrap();
        assert_eq!(tree(&root), 101);
        assert_eq!(tree(&folder.path().join("none")), 0);
    }
}
