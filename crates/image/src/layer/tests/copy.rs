//! COPY and ADD: files with several names, and devices, which are copied and never opened.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::layer::{Copying, Dress};

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
