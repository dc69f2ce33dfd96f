//! An image's folder copied into a volume: alike in everything, into an empty one only, and whole or
//! not at all.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::layer::{Filled, fill, is_unsettled, settle};

use super::open;
use super::tree::{listing, make_everything};

fn filled(source: &Path, target: &Path) -> Option<Filled> {
    fill(open(source).as_fd(), open(target).as_fd()).unwrap()
}

#[test]
fn everything_is_alike_in_an_empty_volume_and_nothing_is_touched_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    make_everything(&source);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(&source, Some(7), Some(8)).unwrap();
    let before = listing(&source);
    let modified = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
    // A socket means nothing without who listens.
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    fs::File::open(&source).unwrap().set_modified(modified).unwrap();
    let copied = filled(&source, &target).unwrap();
    fs::remove_file(source.join("socket")).unwrap();
    assert_eq!(listing(&target), before);
    let meta = fs::metadata(&target).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1751, 7, 8));
    assert_eq!(meta.modified().unwrap(), modified);
    assert!(copied.entries >= 10 && copied.bytes > 0, "{copied:?}");
    // What has content keeps it.
    fs::write(source.join("later"), "").unwrap();
    assert_eq!(filled(&source, &target), None);
    assert_eq!(listing(&target), before);
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let file = fs::File::create(source.join("sparse")).unwrap();
    let write = |at: u64| std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
    write(1 << 20);
    write(9 << 20);
    file.set_len(20 << 20).unwrap();
    assert_eq!(filled(&source, &target), Some(Filled { entries: 1, bytes: 20 << 20 }));
    assert_eq!(listing(&target), listing(&source));
    assert!(fs::metadata(target.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

/// Where a copy can have been interrupted, and what becomes of it.
#[test]
fn an_interrupted_copy_is_undone_or_finished() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(source.join("etc/file"), "image").unwrap();
    fs::write(source.join("name"), "image").unwrap();
    let volume = |name: &str| {
        let target = dir.path().join(name);
        fs::create_dir(&target).unwrap();
        target
    };
    // Half a copy: undone, and then made anew.
    let half = volume("half");
    fs::create_dir_all(half.join(".hull-copy-up/etc")).unwrap();
    fs::write(half.join(".hull-copy-up/name"), "im").unwrap();
    assert!(is_unsettled(open(&half).as_fd()));
    settle(open(&half).as_fd()).unwrap();
    assert_eq!(listing(&half), "");
    fs::create_dir_all(half.join(".hull-copy-up/etc")).unwrap();
    assert!(filled(&source, &half).is_some());
    assert_eq!(listing(&half), listing(&source));
    // A whole copy, of which something is in place and something else a container has made meanwhile.
    let whole = volume("whole");
    let complete = whole.join(".hull-copied-up");
    fs::create_dir_all(complete.join("etc")).unwrap();
    fs::set_permissions(&complete, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(complete.join("etc/file"), "image").unwrap();
    fs::write(complete.join("other"), "image").unwrap();
    fs::write(whole.join("other"), "container").unwrap();
    assert!(is_unsettled(open(&whole).as_fd()));
    assert_eq!(filled(&source, &whole), None);
    assert!(!is_unsettled(open(&whole).as_fd()));
    assert_eq!(fs::read_to_string(whole.join("etc/file")).unwrap(), "image");
    assert_eq!(fs::read_to_string(whole.join("other")).unwrap(), "container");
    assert_eq!(fs::metadata(&whole).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(&whole).unwrap().count(), 2);
}

/// The mark stays until the volume's own folder is like the image's: here it cannot go.
#[test]
fn the_volumes_own_folder_is_done_before_the_mark_goes() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let dir = tempfile::tempdir().unwrap();
    let complete = dir.path().join(".hull-copied-up");
    fs::create_dir(&complete).unwrap();
    fs::set_permissions(&complete, fs::Permissions::from_mode(0o1751)).unwrap();
    fs::write(complete.join("file"), "image").unwrap();
    fs::write(dir.path().join("file"), "container").unwrap();
    let fixed = fs::File::open(complete.join("file")).unwrap();
    let flags = ioctl_getflags(&fixed).unwrap();
    ioctl_setflags(&fixed, flags | IFlags::IMMUTABLE).unwrap();
    let settled = settle(open(dir.path()).as_fd());
    let mode = fs::metadata(dir.path()).unwrap().mode() & 0o7777;
    ioctl_setflags(&fixed, flags).unwrap();
    assert!(settled.is_err() && is_unsettled(open(dir.path()).as_fd()));
    assert_eq!(mode, 0o1751);
    settle(open(dir.path()).as_fd()).unwrap();
    assert!(!is_unsettled(open(dir.path()).as_fd()));
}

#[test]
fn what_a_container_has_put_in_the_way_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (canary, source) = (dir.path().join("canary"), dir.path().join("source"));
    fs::create_dir(&canary).unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    fs::write(source.join("file"), "image").unwrap();
    let before = listing(&canary);
    for name in [".hull-copy-up", ".hull-copied-up"] {
        let target = dir.path().join(format!("target{name}"));
        fs::create_dir(&target).unwrap();
        symlink(&canary, target.join(name)).unwrap();
        assert!(filled(&source, &target).is_some(), "{name}");
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "image");
        assert_eq!(listing(&canary), before);
    }
}
