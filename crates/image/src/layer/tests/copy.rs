//! COPY and ADD: files with several names, and devices, which are copied and never opened.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::layer::{CopyError, Copying, Dress};

use super::open;

/// Copies one entry after the other into a new folder.
fn copied(source: &Path, target: &Path, entries: &[(&str, &str)]) -> PathBuf {
    fs::create_dir(target).unwrap();
    let (from, to) = (open(source), open(target));
    let dress = Dress::default();
    let mut copying = Copying::new(from.as_fd(), to.as_fd(), &dress);
    for (from, to) in entries {
        copying.entry(from.as_bytes(), to.as_bytes()).unwrap();
    }
    copying.finish().unwrap();
    target.to_owned()
}

#[test]
fn a_file_with_several_names_is_copied_to_wherever_they_are_put() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("one"), "linked").unwrap();
    fs::hard_link(source.join("one"), source.join("two")).unwrap();
    fs::write(source.join("other"), "other").unwrap();
    let read = |root: &Path, name: &str| fs::read_to_string(root.join(name)).unwrap();
    let apart = copied(&source, &dir.path().join("apart"), &[("one", "d/one"), ("two", "d/two")]);
    let number = |name: &str| fs::metadata(apart.join(name)).unwrap().ino();
    assert_eq!(number("d/one"), number("d/two"), "they are one file in the copy, too");
    let same = copied(&source, &dir.path().join("same"), &[("one", "d/x"), ("two", "d/x")]);
    assert_eq!(read(&same, "d/x"), "linked");
    // What the first copy was is replaced, and its number is taken by what replaces it.
    let replaced = [("one", "d/x"), ("other", "d/x"), ("two", "d/y")];
    let replaced = copied(&source, &dir.path().join("replaced"), &replaced);
    assert_eq!((read(&replaced, "d/x"), read(&replaced, "d/y")), ("other".to_owned(), "linked".to_owned()));
}

#[test]
fn a_device_is_no_archive_and_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    // Of numbers for local use (the kernel's devices.txt): nobody has a driver, and open(2) says so.
    let device = makedev(240, 77);
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, source.join("device"), FileType::CharacterDevice, mode, device).unwrap();
    assert!(fs::File::open(source.join("device")).is_err(), "opening it would be seen");
    let target = copied(&source, &dir.path().join("target"), &[("device", "device")]);
    let (from, to) = (open(&source), open(&target));
    let dress = Dress::default();
    assert!(!Copying::new(from.as_fd(), to.as_fd(), &dress).archive(b"device", b"").unwrap());
    let made = fs::symlink_metadata(target.join("device")).unwrap();
    assert!(made.file_type().is_char_device() && made.rdev() == device);
}

#[test]
fn a_file_takes_neither_group_nor_mode_from_the_folder_that_it_is_made_in() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let modes = [("plain", 0o644), ("open", 0o666), ("closed", 0), ("set-id", 0o6755), ("sticky", 0o1777)];
    fs::create_dir(&source).unwrap();
    for (name, mode) in modes {
        fs::write(source.join(name), name).unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::chown(&target, None, Some(77)).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o2777)).unwrap();
    let (from, to) = (open(&source), open(&target));
    for (folder, owner) in [("", None), ("owned", Some((12, 34)))] {
        let dress = Dress { owner, ..Dress::default() };
        let mut copying = Copying::new(from.as_fd(), to.as_fd(), &dress);
        for (name, _) in modes {
            copying
                .entry(name.as_bytes(), Path::new(folder).join(name).as_os_str().as_encoded_bytes())
                .unwrap();
        }
        copying.finish().unwrap();
        for (name, mode) in modes {
            let made = fs::metadata(target.join(folder).join(name)).unwrap();
            assert_eq!((made.uid(), made.gid()), owner.unwrap_or((0, 0)), "{name}");
            assert_eq!(made.mode() & 0o7777, mode, "{name}");
        }
    }
}

#[test]
fn what_was_a_link_leads_nowhere_when_a_file_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "file").unwrap();
    fs::create_dir_all(target.join("folder")).unwrap();
    std::os::unix::fs::symlink("folder", target.join("link")).unwrap();
    let (from, to) = (open(&source), open(&target));
    let dress = Dress::default();
    let mut copying = Copying::new(from.as_fd(), to.as_fd(), &dress);
    copying.entry(b"file", b"link/one").unwrap();
    copying.entry(b"file", b"link").unwrap();
    let refused = copying.entry(b"file", b"link/two").unwrap_err();
    assert!(matches!(refused, CopyError::NotFolder { ref name } if name == "link"), "{refused}");
    assert_eq!(fs::read(target.join("folder/one")).unwrap(), b"file");
    assert!(target.join("link").symlink_metadata().unwrap().is_file());
    assert!(!target.join("folder/two").exists());
}

#[test]
fn holes_stay_holes_and_lengths_stay_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let sparse = |name: &str, begin: &[u8], end: &[u8], length: u64| {
        let file = fs::File::create(source.join(name)).unwrap();
        rustix::io::pwrite(&file, begin, 0).unwrap();
        rustix::io::pwrite(&file, end, length - end.len() as u64).unwrap();
        rustix::fs::ftruncate(&file, length).unwrap();
    };
    sparse("within", b"begin", b"end", 8 << 20);
    sparse("behind", b"begin", b"", 8 << 20);
    sparse("before", b"", b"end", 8 << 20);
    sparse("all", b"", b"", 8 << 20);
    fs::write(source.join("none"), vec![b'x'; 300_000]).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    let names = ["within", "behind", "before", "all", "none", "empty"];
    let target = copied(&source, &dir.path().join("target"), &names.map(|name| (name, name)));
    for name in names {
        assert!(fs::read(target.join(name)).unwrap() == fs::read(source.join(name)).unwrap(), "{name}");
        let room = |root: &Path| super::tree::blocks(&root.join(name));
        assert!(room(&target) <= room(&source), "{name}: {} of {} blocks", room(&target), room(&source));
    }
}

#[test]
fn what_is_open_is_copied_as_what_has_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for folder in [&source, &target] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(source.join("file"), "linked").unwrap();
    fs::hard_link(source.join("file"), source.join("twin")).unwrap();
    let (from, to) = (open(&source), open(&target));
    let dress = Dress::default();
    let mut copying = Copying::new(from.as_fd(), to.as_fd(), &dress);
    let file = fs::File::open(source.join("file")).unwrap();
    let stat = rustix::fs::fstat(&file).unwrap();
    copying.opened(file.as_fd(), &stat, b"d/one").unwrap();
    copying.opened(file.as_fd(), &stat, b"d/two").unwrap();
    copying.entry(b"twin", b"d/three").unwrap();
    copying.finish().unwrap();
    let made = fs::metadata(target.join("d/one")).unwrap();
    assert_eq!(
        (made.nlink(), made.mtime(), made.mtime_nsec() as u64),
        (3, stat.st_mtime, stat.st_mtime_nsec)
    );
    assert_eq!(fs::read(target.join("d/three")).unwrap(), b"linked");
}
