//! Whiteouts and opaque folders, judged by overlayfs itself.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use super::tree::{listing, set_attribute};
use super::{Mode, apply_bytes, check_round_trip, diff_bytes, open};
use crate::layer::changes::{Limits, list};
use crate::layer::{ChangeKind, changes, diff};
use crate::tar::{Entry, Kind, Writer};

/// An archive of entries written as `name/` (folder), `name=contents` or `name->target`.
fn archive(entries: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for text in entries {
        if let Some(name) = text.strip_suffix('/') {
            writer.begin(&Entry::new(name.as_bytes(), Kind::Directory)).unwrap();
        } else if let Some((name, target)) = text.split_once("->") {
            let kind = Kind::Symlink { target: target.as_bytes().to_vec() };
            writer.begin(&Entry::new(name.as_bytes(), kind)).unwrap();
        } else {
            let (name, data) = text.split_once('=').unwrap_or((text, ""));
            let kind = Kind::File { size: data.len() as u64, extents: None };
            writer.file(&Entry::new(name.as_bytes(), kind), data.as_bytes()).unwrap();
        }
    }
    writer.finish().unwrap();
    bytes
}

/// What a container sees, after `script` has run in it; layers lowest first. Its writable layer is
/// `upper` in `scratch`.
fn in_container(scratch: &Path, layers: &[&str], script: &str) -> String {
    let (upper, work, merged) = (scratch.join("upper"), scratch.join("work"), scratch.join("merged"));
    for folder in [&upper, &work, &merged] {
        fs::create_dir_all(folder).unwrap();
    }
    let lower: Vec<String> =
        layers.iter().rev().map(|layer| scratch.join(layer).display().to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let script = format!(
        "set -e; mount -t overlay overlay -o {options} {merged}; cd {merged}; {script}; \
         find . -mindepth 1 \\( -type d -printf '%P/\\n' -o -type s -printf '%P socket\\n' -o -type l -printf '%P->%l\\n' -o -printf '%P=' -exec cat {{}} \\; -printf '\\n' \\) | sort",
        merged = merged.display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_layer_that_nobody_could_unpack_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    check_round_trip(dir.path());
    fs::write(dir.path().join("more"), "x").unwrap();
    let error = diff(open(dir.path()).as_fd(), &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(
        error,
        "with \"more\" the archive would exceed the limit of 1099511627776 bytes of files: remove it, or keep it in \
         a volume"
    );
}

fn apply(scratch: &Path, name: &str, entries: &[&str]) {
    fs::create_dir(scratch.join(name)).unwrap();
    apply_bytes(&archive(entries), &scratch.join(name), Mode::Layer).unwrap();
}

fn check(lower: &[&str], upper: &[&str], seen: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    apply(scratch.path(), "lower", lower);
    apply(scratch.path(), "top", upper);
    let found = in_container(scratch.path(), &["lower", "top"], "true");
    assert_eq!(found.lines().collect::<Vec<_>>(), seen, "{upper:?}");
    check_round_trip(&scratch.path().join("top"));
    // The layer as an archive again means the same.
    let again = diff_bytes(&scratch.path().join("top"));
    fs::create_dir(scratch.path().join("again")).unwrap();
    apply_bytes(&again, &scratch.path().join("again"), Mode::Layer).unwrap();
    assert!(diff_bytes(&scratch.path().join("again")) == again, "{upper:?}");
}

#[test]
fn whiteouts_hide_what_is_below_and_only_that() {
    check(&["a=1", "b=1"], &[".wh.a"], &["b=1"]);
    check(&["d/", "d/x=1", "d/y=1"], &["d/", "d/.wh.x"], &["d/", "d/y=1"]);
    check(&["d/", "d/x=1"], &[".wh.d"], &[]);
    // Without an entry for the folder itself.
    check(&["d/", "d/x=1", "d/y=1"], &["d/.wh.x"], &["d/", "d/y=1"]);
    // A whiteout of nothing.
    check(&["a=1"], &[".wh.b"], &["a=1"]);
}

#[test]
fn an_opaque_folder_hides_all_below_it_whatever_comes_first() {
    let seen = ["d/", "d/new=2"];
    check(&["d/", "d/x=1"], &["d/", "d/.wh..wh..opq", "d/new=2"], &seen);
    check(&["d/", "d/x=1"], &["d/", "d/new=2", "d/.wh..wh..opq"], &seen);
}

#[test]
fn a_whiteout_beside_its_name_hides_only_lower_layers() {
    check(&["a=1"], &[".wh.a", "a=2"], &["a=2"]);
    check(&["a=1"], &["a=2", ".wh.a"], &["a=2"]);
    let seen = ["d/", "d/new=2"];
    check(&["d/", "d/x=1"], &[".wh.d", "d/", "d/new=2"], &seen);
    check(&["d/", "d/x=1"], &["d/", "d/new=2", ".wh.d"], &seen);
    check(&["d/", "d/x=1"], &[".wh.d", "d/new=2"], &seen);
}

#[test]
fn kinds_change_from_layer_to_layer() {
    check(&["a=1"], &["a/", "a/x=2"], &["a/", "a/x=2"]);
    check(&["d/", "d/x=1"], &["d=2"], &["d=2"]);
    check(&["d/", "d/x=1"], &["d->else"], &["d->else"]);
    // Documented: the layer is applied alone, so its folder hides the link below.
    check(&["usr/", "usr/lib/", "lib->usr/lib"], &["lib/x=2"], &["lib/", "lib/x=2", "usr/", "usr/lib/"]);
}

#[test]
fn a_link_of_the_same_layer_is_followed_inside_the_layer() {
    check(
        &[],
        &["usr/", "usr/lib/", "lib->usr/lib", "lib/x=2"],
        &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/x=2"],
    );
    check(
        &[],
        &["usr/", "usr/lib/", "lib->/usr/lib", "lib/x=2"],
        &["lib->/usr/lib", "usr/", "usr/lib/", "usr/lib/x=2"],
    );
    let lower = ["usr/", "usr/lib/", "usr/lib/x=1"];
    check(&lower, &["usr/", "usr/lib/", "lib->usr/lib", "lib/.wh.x"], &["lib->usr/lib", "usr/", "usr/lib/"]);
}

#[test]
fn later_entries_win_whatever_their_kind() {
    check(&[], &["a=1", "a=2"], &["a=2"]);
    check(&[], &["a=1", "a/", "a/b=2"], &["a/", "a/b=2"]);
    check(&[], &["a/", "a/b/", "a/b/c=1", "a=2"], &["a=2"]);
    check(&[], &["a/", "a/b=1", "x/", "a->x", "a/c=2"], &["a->x", "x/", "x/c=2"]);
    check(&[], &["x/", "a->x", "a/", "a/c=2"], &["a/", "a/c=2", "x/"]);
    check(&[], &["a/", "a/b=1", "a/"], &["a/", "a/b=1"]);
}

/// The other direction: what a container did to its layer is seen by the next one.
#[test]
fn what_a_container_changed_is_what_its_layer_says() {
    let scratch = tempfile::tempdir().unwrap();
    let lower = ["keep=1", "gone=1", "d/", "d/x=1", "d/y=1", "e/", "e/x=1", "l->keep"];
    apply(scratch.path(), "lower", &lower);
    let script = "rm gone d/x l; rm -r e; mkdir e; echo -n 2 >e/new; mkdir -p n/m; echo -n 2 >n/m/f; ln n/m/f hard; \
                  echo -n 2 >>keep; mkfifo pipe; rm pipe; mknod null c 1 3; rm null; chmod 700 d";
    let seen = in_container(scratch.path(), &["lower"], script);
    set_attribute(&scratch.path().join("upper"), "trusted.overlay.opaque", b"y");
    check_round_trip(&scratch.path().join("upper"));
    let bytes = diff_bytes(&scratch.path().join("upper"));
    fs::remove_dir_all(scratch.path().join("upper")).unwrap();
    fs::create_dir(scratch.path().join("commit")).unwrap();
    apply_bytes(&bytes, &scratch.path().join("commit"), Mode::Layer).unwrap();
    let again = in_container(scratch.path(), &["lower", "commit"], "true");
    assert_eq!(again, seen);
    let expected = ["d/", "d/y=1", "e/", "e/new=2", "hard=2", "keep=12", "n/", "n/m/", "n/m/f=2"];
    assert_eq!(again.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_socket_has_replaced_stays_gone() {
    let scratch = tempfile::tempdir().unwrap();
    apply(scratch.path(), "lower", &["a=1", "d/", "d/x=1", "d/y=1", "e/", "e/x=1"]);
    let script = "rm a d/x e/x; rmdir e; mkdir e n; for place in a d/x e/x n/x; do perl -MSocket -e \
                  'socket(S,AF_UNIX,SOCK_STREAM,0); bind(S,pack_sockaddr_un($ARGV[0])) or die' $place; done";
    in_container(scratch.path(), &["lower"], script);
    check_round_trip(&scratch.path().join("upper"));
    fs::create_dir(scratch.path().join("commit")).unwrap();
    let bytes = diff_bytes(&scratch.path().join("upper"));
    apply_bytes(&bytes, &scratch.path().join("commit"), Mode::Layer).unwrap();
    fs::remove_dir_all(scratch.path().join("upper")).unwrap();
    let seen = in_container(scratch.path(), &["lower", "commit"], "true");
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["d/", "d/y=1", "e/", "n/"]);
}

#[test]
fn a_name_that_would_be_a_whiteout_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("d")).unwrap();
    fs::write(scratch.path().join("d/.wh.x"), "").unwrap();
    let error = diff(open(scratch.path()).as_fd(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("\"d/.wh.x\"") && error.contains("remove or rename it"), "{error}");
}

#[test]
fn attributes_that_any_process_may_set_say_nothing_of_the_layer() {
    let scratch = tempfile::tempdir().unwrap();
    apply(scratch.path(), "lower", &["d/", "d/x=1", "e/", "e/x=1"]);
    in_container(scratch.path(), &["lower"], "echo 2 >d/y; echo 2 >e/y");
    for (path, name, value) in [("d", "opaque", "y"), ("e", "redirect", "/d"), ("e/y", "metacopy", "")] {
        let path = scratch.path().join("upper").join(path);
        set_attribute(&path, &format!("user.overlay.{name}"), value.as_bytes());
    }
    let seen = in_container(scratch.path(), &["lower"], "true");
    check_round_trip(&scratch.path().join("upper"));
    fs::create_dir(scratch.path().join("commit")).unwrap();
    let bytes = diff_bytes(&scratch.path().join("upper"));
    apply_bytes(&bytes, &scratch.path().join("commit"), Mode::Layer).unwrap();
    assert_eq!(changed(scratch.path(), &["lower"]), ["C /d", "A /d/y", "C /e", "A /e/y"]);
    fs::remove_dir_all(scratch.path().join("upper")).unwrap();
    assert_eq!(in_container(scratch.path(), &["lower", "commit"], "true"), seen);
    assert!(seen.contains("d/x=1"), "{seen}");
    assert!(!listing(&scratch.path().join("commit")).contains("overlay"), "kept in the layer");
}

/// The changes that the last container has made to these layers (lowest first), as `docker diff`
/// prints them.
fn changed(scratch: &Path, layers: &[&str]) -> Vec<String> {
    let layers: Vec<_> =
        layers.iter().rev().map(|layer| open(&scratch.join(layer)).into()).collect::<Vec<OwnedFd>>();
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    let changes = changes(open(&scratch.join("upper")).as_fd(), &layers).unwrap();
    changes.iter().map(|change| format!("{} {}", letter(change.kind), change.path.escape_ascii())).collect()
}

#[test]
fn what_a_container_changed_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    apply(scratch.path(), "base", &["gone=1", "d/", "d/x=1", "d/s/", "d/s/y=1", "d/s/z=1", "e/", "e/low=1"]);
    apply(scratch.path(), "middle", &["keep=1", "f/", "f/x=1", "e/", "e/.wh..wh..opq", "e/x=1", ".wh.none"]);
    // Opaque is what is made where something was: the folder `d`, and `d/s` with it.
    let script = "echo >>keep; rm gone; rm -r d; mkdir -p d/s d/new; echo >d/s/y; echo >e/y; \
                  echo >e/low; rm e/x; rm -r f; echo >f; mkdir -p n/m; echo >n/m/-; echo >n-; ln -s m n/p; echo >none; \
                  rm none; mknod null c 1 3";
    in_container(scratch.path(), &["base", "middle"], script);
    let expected = [
        "C /d", "A /d/new", "C /d/s", "C /d/s/y", "D /d/s/z", "D /d/x", "C /e", "A /e/low", "D /e/x",
        "A /e/y", "C /f", "D /gone", "C /keep", "A /n", "A /n/m", "A /n/m/-", "A /n/p", "A /n-", "A /null",
    ];
    assert_eq!(changed(scratch.path(), &["base", "middle"]), expected);
}

#[test]
fn more_changes_than_can_be_kept_are_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["a", "d", "d/b"] {
        fs::create_dir(scratch.path().join(name)).unwrap();
    }
    let told = |paths, bytes| {
        let limits = Limits { paths, bytes };
        list(open(scratch.path()).as_fd(), &[], limits)
            .map(|changes| changes.len())
            .map_err(|e| e.to_string())
    };
    // "a/", "d/" and "d/b/".
    assert_eq!(told(3, 8), Ok(3));
    for (paths, bytes) in [(0, 8), (1, 8), (2, 8), (3, 7)] {
        let error = told(paths, bytes).unwrap_err();
        let expected = format!("more than {paths} paths, or {bytes} bytes of their names");
        assert!(error.ends_with(&expected), "{error}");
    }
}

#[test]
fn an_untouched_container_has_changed_nothing_and_one_without_layers_has_added_all() {
    let scratch = tempfile::tempdir().unwrap();
    apply(scratch.path(), "lower", &["a=1"]);
    in_container(scratch.path(), &["lower"], "true");
    assert!(changed(scratch.path(), &["lower"]).is_empty());
    in_container(scratch.path(), &["lower"], "echo >a; rm a; mkdir a");
    assert_eq!(changed(scratch.path(), &["lower"]), ["C /a"]);
    assert_eq!(changed(scratch.path(), &[]), ["A /a"]);
}

#[test]
fn in_a_plain_archive_whiteouts_are_names_like_all_others() {
    let scratch = tempfile::tempdir().unwrap();
    apply_bytes(&archive(&["d/", "d/.wh.x=1", "d/.wh..wh..opq=2"]), scratch.path(), Mode::Plain).unwrap();
    assert_eq!(fs::read(scratch.path().join("d/.wh.x")).unwrap(), b"1");
    assert_eq!(fs::read(scratch.path().join("d/.wh..wh..opq")).unwrap(), b"2");
}

#[test]
fn attributes_that_steer_overlayfs_or_the_host_stay_out() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let names = [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "user.mine",
        "trusted.mine",
        "security.evm",
        "user.odd=100%25",
    ];
    let mut entry = Entry::new(b"d", Kind::Directory);
    entry.xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), b"y".to_vec())).collect();
    writer.begin(&entry).unwrap();
    writer.finish().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    apply_bytes(&bytes, scratch.path(), Mode::Layer).unwrap();
    let text = listing(scratch.path());
    assert!(text.ends_with("dir trusted.mine=y user.mine=y user.odd=100%25=y"), "{text}");
}

#[test]
fn contents_only_leave_owners_modes_and_nodes_behind() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let mut entry = Entry::new(b"x", Kind::File { size: 1, extents: None });
    (entry.uid, entry.mode) = (1000, 0o6755);
    entry.xattrs = vec![(b"user.mine".to_vec(), b"y".to_vec())];
    writer.file(&entry, b"1").unwrap();
    writer.finish().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    apply_bytes(&bytes, scratch.path(), Mode::Files).unwrap();
    let text = listing(scratch.path());
    assert!(text.starts_with("x 600 0:0 0.000000000 file 1 ") && !text.contains("user."), "{text}");
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.begin(&Entry::new(b"fifo", Kind::Fifo)).unwrap();
    writer.finish().unwrap();
    let error = apply_bytes(&bytes, scratch.path(), Mode::Files).unwrap_err();
    assert_eq!(error.to_string(), "\"fifo\" is a device or FIFO, which has no place in this archive");
}
