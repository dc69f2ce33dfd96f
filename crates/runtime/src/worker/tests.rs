//! Steps of builds, in this process instead of a jail.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::*;
use crate::protocol::{Copy, Selection};

fn open(folder: &Path) -> OwnedFd {
    File::open(folder).unwrap().into()
}

/// What becomes of the work on an empty folder, and whether its archive is the folder's.
fn done(work: &Work, source: &Path) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let mut archive = tempfile::NamedTempFile::new().unwrap();
    let source = tree::Part::Folder(open(source));
    let outcome = build(work, Some(source), &open(root.path()), Some(archive.reopen().unwrap()));
    if let Outcome::Committed { diff_id, archive_size, size } = &outcome {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        archive.read_to_end(&mut bytes).unwrap();
        let packed = layer::diff(open(root.path()).as_fd(), &mut expected).unwrap();
        assert!(bytes == expected, "the archive is the folder's");
        assert_eq!((diff_id, archive_size, size), (&packed.diff_id, &packed.archive_size, &packed.size));
    }
    outcome
}

fn copy(patterns: &[&str], destination: &str, unpack: bool) -> Work {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let selection = Selection { patterns, ..Selection::default() };
    Work::Copy(Copy { selection, destination: destination.to_owned(), unpack, ..Copy::default() })
}

#[test]
fn a_step_is_packed_while_it_is_done_where_its_files_come_in_order() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a", "b.d/x", "b/y", "b/z/deep"] {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    fs::write(source.path().join("c.tar"), tar(b"inside")).unwrap();
    let folder = Work::MakeFolder { path: "/some/where".to_owned(), owner: (1, 2), newest: Some(3) };
    let in_order = [copy(&["."], "/app", false), copy(&["a", "b"], "/b/", false), copy(&["a"], "/as", true)];
    for work in in_order.iter().chain([&folder]) {
        assert!(matches!(done(work, source.path()), Outcome::Committed { .. }), "{work:?}");
    }
    for work in [copy(&["b", "a"], "/", false), copy(&["c.tar"], "/", true)] {
        assert_eq!(done(&work, source.path()), Outcome::Made, "{work:?}");
    }
}

/// An archive with one empty file.
fn tar(name: &[u8]) -> Vec<u8> {
    use hull_image::tar::{Entry, Kind, Writer};
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.begin(&Entry::new(name, Kind::File { size: 0, extents: None })).unwrap();
    writer.finish().unwrap();
    bytes
}
