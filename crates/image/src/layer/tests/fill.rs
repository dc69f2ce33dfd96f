//! An image's folder copied into a volume: alike in everything, moved into place without touching what
//! is there, and mended.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::layer::{Filled, fill, publish, repair};

use super::open;
use super::tree::{listing, make_everything};

fn filled(source: &Path, target: &Path) -> Filled {
    fill(open(source).as_fd(), open(target).as_fd()).unwrap()
}

fn mended(source: &Path, target: &Path) -> Filled {
    repair(open(source).as_fd(), open(target).as_fd()).unwrap()
}

fn folders<const N: usize>(dir: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        fs::create_dir(dir.join(name)).unwrap();
        dir.join(name)
    })
}

#[test]
fn everything_is_alike_in_the_copy_and_where_it_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let [source, copy, target] = folders(dir.path(), ["source", "copy", "target"]);
    make_everything(&source);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(&source, Some(7), Some(8)).unwrap();
    let before = listing(&source);
    let modified = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
    // A socket means nothing without who listens.
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    fs::File::open(&source).unwrap().set_modified(modified).unwrap();
    let copied = filled(&source, &copy);
    fs::remove_file(source.join("socket")).unwrap();
    assert!(copied.entries >= 10 && copied.bytes > 0, "{copied:?}");
    assert_eq!(listing(&copy), before);
    publish(open(&copy).as_fd(), open(&target).as_fd()).unwrap();
    assert_eq!(listing(&copy), "");
    assert_eq!(listing(&target), before);
    let meta = fs::metadata(&target).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1751, 7, 8));
    assert_eq!(meta.modified().unwrap(), modified);
    // There is nothing to mend.
    assert_eq!(mended(&source, &target), Filled::default());
    assert_eq!(listing(&target), before);
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let [source, target] = folders(dir.path(), ["source", "target"]);
    let file = fs::File::create(source.join("sparse")).unwrap();
    let write = |at: u64| std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
    write(1 << 20);
    write(9 << 20);
    file.set_len(20 << 20).unwrap();
    assert_eq!(filled(&source, &target), Filled { entries: 1, bytes: 20 << 20 });
    assert_eq!(listing(&target), listing(&source));
    assert!(fs::metadata(target.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn what_a_container_has_made_meanwhile_stays_and_the_rest_of_an_interrupted_move_follows() {
    let dir = tempfile::tempdir().unwrap();
    let [copy, target] = folders(dir.path(), ["copy", "target"]);
    fs::create_dir(copy.join("etc")).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(copy.join("etc/file"), "image").unwrap();
    fs::write(copy.join("other"), "image").unwrap();
    fs::write(target.join("other"), "container").unwrap();
    for _ in 0..2 {
        publish(open(&copy).as_fd(), open(&target).as_fd()).unwrap();
    }
    assert_eq!(fs::read_to_string(target.join("etc/file")).unwrap(), "image");
    assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "container");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
}

#[test]
fn what_was_lost_comes_back_and_what_was_changed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let [source, target] = folders(dir.path(), ["source", "target"]);
    make_everything(&source);
    fs::create_dir_all(source.join("deep/er")).unwrap();
    for name in ["emptied", "kept", "deep/er/lost", "deep/twin", "replaced"] {
        fs::write(source.join(name), "image").unwrap();
    }
    fs::hard_link(source.join("deep/twin"), source.join("deep/other")).unwrap();
    symlink("kept", source.join("link")).unwrap();
    filled(&source, &target);
    let before = listing(&target);
    fs::write(target.join("emptied"), "").unwrap();
    fs::remove_dir_all(target.join("deep/er")).unwrap();
    fs::remove_file(target.join("deep/twin")).unwrap();
    fs::remove_file(target.join("link")).unwrap();
    assert!(mended(&source, &target).entries >= 5);
    // Folders that were there are as what came after has left them.
    let untimed =
        |text: &str| text.lines().filter(|line| !line.contains("dir")).collect::<Vec<_>>().join("\n");
    assert_eq!(untimed(&listing(&target)), untimed(&before));
    assert!(target.join("deep/er/lost").exists());
    // What is somebody's by now.
    fs::write(target.join("kept"), "mine").unwrap();
    fs::write(target.join("more"), "mine").unwrap();
    fs::remove_file(target.join("replaced")).unwrap();
    fs::create_dir(target.join("replaced")).unwrap();
    fs::remove_dir_all(target.join("deep")).unwrap();
    fs::write(target.join("deep"), "").unwrap();
    let mine = listing(&target);
    assert_eq!(mended(&source, &target), Filled::default());
    assert_eq!(listing(&target), mine);
}

/// A file system may have a file's length and its times on the disk before its bytes.
#[test]
fn content_that_was_lost_in_part_comes_back_unless_somebody_has_written_since() {
    let dir = tempfile::tempdir().unwrap();
    let [source, target] = folders(dir.path(), ["source", "target"]);
    let names = ["short", "hollow", "written"];
    for name in names {
        fs::write(source.join(name), vec![7; 1 << 20]).unwrap();
    }
    filled(&source, &target);
    let damage = |name: &str, lengths: &[u64], dressed: bool| {
        let file = fs::File::options().write(true).open(target.join(name)).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        lengths.iter().for_each(|length| file.set_len(*length).unwrap());
        if dressed {
            file.set_modified(modified).unwrap();
        }
    };
    damage("short", &[1 << 19], true);
    damage("hollow", &[0, 1 << 20], true);
    damage("written", &[1 << 19], false);
    fs::set_permissions(target.join("short"), fs::Permissions::from_mode(0o751)).unwrap();
    let times = |name: &str| fs::metadata(target.join(name)).unwrap().modified().unwrap();
    let before = names.map(times);
    assert_eq!(mended(&source, &target), Filled { entries: 2, bytes: 2 << 20 });
    let same = names.map(|name| fs::read(target.join(name)).unwrap() == vec![7; 1 << 20]);
    assert_eq!((same, names.map(times)), ([true, true, false], before));
    // As somebody has left it.
    assert_eq!(fs::metadata(target.join("short")).unwrap().mode() & 0o7777, 0o751);
}

#[test]
fn what_a_container_has_put_in_the_way_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let [canary, source, copy, target] = folders(dir.path(), ["canary", "source", "copy", "target"]);
    for place in [&canary, &source] {
        fs::create_dir(place.join("folder")).unwrap();
    }
    fs::write(canary.join("file"), "").unwrap();
    fs::write(source.join("file"), "image").unwrap();
    fs::write(source.join("folder/file"), "image").unwrap();
    let before = listing(&canary);
    symlink(&canary, target.join("folder")).unwrap();
    symlink(canary.join("file"), target.join("file")).unwrap();
    filled(&source, &copy);
    publish(open(&copy).as_fd(), open(&target).as_fd()).unwrap();
    assert_eq!(mended(&source, &target), Filled::default());
    assert_eq!(listing(&canary), before);
    assert!(target.join("folder").is_symlink() && target.join("file").is_symlink());
}
