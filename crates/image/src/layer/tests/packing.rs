//! What is packed while it is copied is what the copies' layer is packed into afterwards.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use hull_sys::mount;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, utimensat};

use super::tree::{make_everything, node, set_attribute};
use super::{diff_bytes, open};
use crate::layer::{Archive, Copying, Diffed, Dress, ModeChange, diff};

/// Where something is copied to: a layer by itself, or one on top of others.
struct Site {
    scratch: tempfile::TempDir,
    seen: OwnedFd,
}

impl Site {
    fn empty() -> Site {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("upper")).unwrap();
        let seen = open(&scratch.path().join("upper")).into();
        Site { scratch, seen }
    }

    /// On top of two layers that `fill` makes, the upper one first; the mount is attached nowhere.
    fn on(fill: impl FnOnce(&Path, &Path)) -> Site {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        ["top", "bottom", "upper", "work"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
        fill(&at("top"), &at("bottom"));
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let lower = format!("{}:{}", text(at("top")), text(at("bottom")));
        let (upper, work) = (text(at("upper")), text(at("work")));
        let off = ["redirect_dir", "metacopy", "index"].map(|name| (name, Some("off")));
        let places = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
        let mut options = vec![("source", Some("overlay"))];
        options.extend(places.map(|(name, value)| (name, Some(value.as_str()))));
        options.extend(off);
        let seen = mount::new("overlay", &options, 0).unwrap();
        Site { scratch, seen }
    }

    fn upper(&self) -> PathBuf {
        self.scratch.path().join("upper")
    }

    /// Copies, and gives the archive with what it is said to be, if there is one.
    fn packed(
        &self,
        source: &Path,
        dress: &Dress,
        entries: &[(Vec<u8>, Vec<u8>)],
    ) -> Option<(Vec<u8>, Diffed)> {
        let (source, mut bytes) = (open(source), Vec::new());
        let mut archive = Archive::new(&mut bytes);
        let mut copying = Copying::new(source.as_fd(), self.seen.as_fd(), dress);
        copying.pack(&mut archive);
        for (from, to) in entries {
            copying.entry(from, to).unwrap();
        }
        copying.finish().unwrap();
        let said = archive.finish()?;
        Some((bytes, said))
    }

    fn check(&self, source: &Path, dress: &Dress, entries: &[(Vec<u8>, Vec<u8>)]) {
        let (bytes, said) = self.packed(source, dress, entries).expect("there is an archive");
        let mut expected = Vec::new();
        let afterwards = diff(open(&self.upper()).as_fd(), &mut expected).unwrap();
        assert_eq!(said, afterwards, "{:?}", differing(&bytes, &expected));
        assert!(bytes == expected);
    }

    fn check_none(&self, source: &Path, dress: &Dress, entries: &[(&str, &str)]) {
        let entries: Vec<_> = entries.iter().map(|(from, to)| (bytes(from), bytes(to))).collect();
        assert_eq!(self.packed(source, dress, &entries).map(|(_, said)| said), None, "{entries:?}");
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// Where the first block is that is not the same, and the entry's name as both have it.
fn differing(one: &[u8], other: &[u8]) -> Option<(usize, String, String)> {
    let name = |archive: &[u8], at: usize| {
        archive.get(at..(at + 100).min(archive.len())).unwrap_or_default().escape_ascii().to_string()
    };
    let blocks = one.len().max(other.len()) / 512;
    let at = (0..blocks)
        .map(|block| block * 512)
        .find(|&at| one.get(at..at + 512).is_none() || one.get(at..at + 512) != other.get(at..at + 512))?;
    Some((at, name(one, at), name(other, at)))
}

/// All that is below `source`, each folder before what is in it, sorted; to the same names in `into`.
fn everything(source: &Path, into: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            found.push(path.strip_prefix(root).unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(source, source, &mut found);
    let plain = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    found.iter().map(|path| (plain(path), plain(&Path::new(into).join(path)))).collect()
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn write(root: &Path, name: &str, text: &[u8]) {
    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs::write(root.join(name), text).unwrap();
}

#[test]
fn everything_that_linux_knows_is_packed_on_the_way() {
    let source = tempfile::tempdir().unwrap();
    make_everything(source.path());
    for into in ["", "new/folder"] {
        Site::empty().check(source.path(), &Dress::default(), &everything(source.path(), into));
    }
    let mode = ModeChange::parse("u=rwX,go=rX,o+t");
    let dress = Dress { owner: Some((70_000, 3_000_000)), mode, newest: Some(50), ..Dress::default() };
    assert!(dress.mode.is_some());
    Site::empty().check(source.path(), &dress, &everything(source.path(), "dressed"));
}

#[test]
fn nothing_copied_is_an_archive_without_entries() {
    let site = Site::empty();
    let source = tempfile::tempdir().unwrap();
    let (bytes, said) = site.packed(source.path(), &Dress::default(), &[]).unwrap();
    assert!(bytes == diff_bytes(&site.upper()) && (said.size, said.archive_size) == (0, 1024));
}

/// A system below, with folders of all sorts and a folder that is gone again.
fn system(top: &Path, bottom: &Path) {
    for (layer, name) in [
        (bottom, "usr/lib/a"),
        (bottom, "usr/share/doc/b"),
        (bottom, "etc/passwd"),
        (top, "usr/lib/c"),
        (bottom, "gone/x"),
    ] {
        write(layer, name, name.as_bytes());
    }
    symlink("usr/lib", bottom.join("lib")).unwrap();
    node(&top.join("gone"), FileType::CharacterDevice, 0, (0, 0));
    for (index, name) in ["usr", "usr/lib", "usr/share", "usr/share/doc", "etc"].iter().enumerate() {
        let folder = bottom.join(name);
        set_attribute(&folder, "user.note", name.as_bytes());
        chown(&folder, Some(10 + index as u32), Some(20)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).unwrap();
        set_time(&folder, 1_600_000_000 + index as i64, 123_456_789);
    }
    for name in ["usr", "usr/lib"] {
        set_attribute(&top.join(name), "user.top", b"1");
        set_time(&top.join(name), 1_700_000_000, 5);
    }
}

#[test]
fn folders_of_the_layers_below_are_packed_as_overlay_brings_them_up() {
    let source = tempfile::tempdir().unwrap();
    for name in ["etc/passwd", "gone/y", "new/z", "usr/lib/c", "usr/lib/new/d", "usr/share/doc/b", "usr/zz"] {
        write(source.path(), name, name.as_bytes());
    }
    fs::hard_link(source.path().join("etc/passwd"), source.path().join("usr/share/doc/passwd")).unwrap();
    symlink("b", source.path().join("usr/share/doc/c")).unwrap();
    let clamped = Dress { newest: Some(1_000_000_000), ..Dress::default() };
    for dress in [Dress::default(), Dress { owner: Some((5, 6)), ..Dress::default() }] {
        Site::on(system).check(source.path(), &dress, &everything(source.path(), ""));
        Site::on(system).check(source.path(), &dress, &everything(source.path(), "usr/share/doc"));
        Site::on(system).check(source.path(), &dress, &everything(source.path(), "gone/and/back"));
    }
    let one = [(bytes("new/z"), bytes("usr/share/doc/z"))];
    Site::on(system).check(source.path(), &clamped, &one);
    // A folder that is nothing but as old as others, and one that got its time after it was packed.
    fs::create_dir(source.path().join("etc/empty")).unwrap();
    let site = Site::on(system);
    site.check_none(source.path(), &clamped, &[("etc", "etc"), ("new/z", "usr/share/z")]);
    let site = Site::on(system);
    site.check_none(source.path(), &clamped, &[("new/z", "usr/share/doc/z"), ("usr/zz", "usr/zz")]);
}

#[test]
fn what_would_be_another_archive_is_none() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a", "b", ".wh.c"] {
        write(source.path(), name, name.as_bytes());
    }
    let dress = Dress::default();
    let cases: [&[(&str, &str)]; 8] = [
        &[("b", "b"), ("a", "a")],
        &[("a", "d/x"), ("b", "d.e"), ("b", "d/y")],
        &[("a", "x"), ("b", "x")],
        &[("a", "lib/x")],
        &[("a", "usr/../x")],
        &[("a", "usr//x")],
        &[("a", "./x")],
        &[(".wh.c", ".wh.c")],
    ];
    for entries in cases {
        Site::on(system).check_none(source.path(), &dress, entries);
    }
    let deep = "d/".repeat(513);
    let site = Site::on(|_, bottom| fs::create_dir_all(bottom.join(&deep)).unwrap());
    site.check_none(source.path(), &dress, &[("a", &format!("{deep}x"))]);
}

/// A tree's parts, as they are made one after the other: names, each with what it is to be.
fn part() -> impl Strategy<Value = (String, u8, u16, u32, i64)> {
    let name = proptest::collection::vec("[ab.-]{1,2}|é|x{110}", 1..4).prop_map(|parts| parts.join("/"));
    (name, 0..8u8, 0..0o10000u16, 0..200_000u32, -5..2_000_000_000i64)
}

fn make(root: &Path, parts: &[(String, u8, u16, u32, i64)]) {
    let mut made: Vec<PathBuf> = Vec::new();
    for (name, kind, mode, size, time) in parts {
        let path = root.join(name);
        // What is there stays, whatever it is, and so does what would be a folder on the way.
        if name.split('/').any(|part| part.chars().all(|letter| letter == '.'))
            || fs::create_dir_all(path.parent().unwrap()).is_err()
            || path.symlink_metadata().is_ok()
        {
            continue;
        }
        match kind {
            0 => fs::create_dir(&path).unwrap(),
            1 => symlink(name, &path).unwrap(),
            2 => node(&path, FileType::Fifo, 0o600, (0, 0)),
            3 if !made.is_empty() => fs::hard_link(&made[*size as usize % made.len()], &path).unwrap(),
            4 => fs::File::create(&path).unwrap().set_len(u64::from(*size)).unwrap(),
            _ => fs::write(&path, vec![b'd'; *size as usize]).unwrap(),
        }
        if *kind != 1 && *kind != 3 {
            fs::set_permissions(&path, fs::Permissions::from_mode(u32::from(*mode))).unwrap();
        }
        if *kind == 5 {
            set_attribute(&path, "user.note", name.as_bytes());
        }
        set_time(&path, *time, i64::from(*size));
        if *kind > 0 {
            made.push(path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn any_tree_on_any_other_is_packed_as_its_layer_is(
        tree in proptest::collection::vec(part(), 0..25),
        below in proptest::collection::vec(part().prop_filter("links lead elsewhere", |part| part.1 != 1), 0..12),
        newest in proptest::option::of(0..2_000_000_000i64),
        owner in proptest::option::of((0..9u32, 0..9u32)),
    ) {
        let source = tempfile::tempdir().unwrap();
        make(source.path(), &tree);
        let entries = everything(source.path(), "");
        let dress = Dress { owner, newest, ..Dress::default() };
        Site::empty().check(source.path(), &dress, &entries);
        let site = Site::on(|_, bottom| make(bottom, &below));
        // What is a folder in one tree and a file in the other is refused; there is nothing to compare.
        let clash = entries.iter().any(|(from, to)| {
            let kind = |root: &Path, name: &[u8]| {
                let name = std::str::from_utf8(name).unwrap();
                root.join(name).symlink_metadata().map(|facts| facts.is_dir())
            };
            let bottom = site.scratch.path().join("bottom");
            matches!((kind(source.path(), from), kind(&bottom, to)), (Ok(one), Ok(other)) if one != other)
        });
        if !clash && let Some((bytes, _)) = site.packed(source.path(), &dress, &entries) {
            prop_assert!(bytes == diff_bytes(&site.upper()));
        } else {
            // Times of folders below may be changed for nothing but that: then there is none.
            prop_assert!(clash || newest.is_some());
        }
    }
}
