//! What comes behind the answer of a commit: the layer's files, and the sync.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hull_runtime::failpoint::VARIABLE;
use hull_testkit::{Host, patience};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::host;

/// What is stored of images, and what is on its way.
fn stored(host: &Host) -> [BTreeSet<std::ffi::OsString>; 3] {
    ["blobs/sha256", "layers", "ingest"].map(|folder| {
        let entries = fs::read_dir(host.data_root().join("image").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    })
}

/// Starts the daemon anew so that points can be armed by writing the file that this gives.
pub(super) fn armed(host: &mut Host) -> std::path::PathBuf {
    host.stop_daemon();
    let armed = host.folder().join("armed");
    host.set_environment(VARIABLE, Some(&armed.display().to_string()));
    host.start_daemon();
    armed
}

/// Whoever passes the point next waits until the result is dropped, once [`fs::File`] can be opened.
pub(super) fn hold(armed: &Path, point: &str) -> std::path::PathBuf {
    let fifo = armed.with_extension("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::write(armed, format!("{point} pause {}", fifo.display())).unwrap();
    fifo
}

fn marked(host: &Host) -> usize {
    let layers = fs::read_dir(host.data_root().join("image/layers")).unwrap();
    layers.filter(|layer| layer.as_ref().unwrap().path().join("unsynced").is_symlink()).count()
}

#[test]
fn a_container_of_a_fresh_commit_waits_for_its_files_and_a_clean_stop_leaves_no_mark() {
    let mut host = host();
    let armed = armed(&mut host);
    host.hull(&["run", "--name", "box", "busybox", "sh", "-c", "echo whole > /new"]).ok();
    let fifo = hold(&armed, "engine.images.unpacked");
    host.hull(&["commit", "box", "made"]).ok();
    // Opened when the files are unpacked and have no name yet.
    let pause = fs::File::options().write(true).open(&fifo).unwrap();
    let run = |words: &[&str]| {
        let mut command = host.hull_command(&[&["run", "--rm", "--network", "none"], words].concat());
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut runs = [
        run(&["made", "cat", "/new"]),
        run(&["--mount", "type=image,source=made,target=/m", "busybox", "cat", "/m/new"]),
    ];
    // What needs no files does not wait.
    assert_eq!(host.hull(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", "made"]).ok(), "2");
    host.hull(&["save", "-o", &host.folder().join("made.tar").display().to_string(), "made"]).ok();
    std::thread::sleep(Duration::from_millis(300));
    assert!(runs.iter_mut().all(|run| run.try_wait().unwrap().is_none()), "it did not wait");
    drop(pause);
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "whole\n", "{:?}", output.status);
    }
    host.hull(&["commit", "box", "again"]).ok();
    host.stop_daemon();
    assert_eq!(marked(&host), 0);
    host.start_daemon();
    assert_eq!(host.hull(&["run", "--rm", "again", "cat", "/new"]).ok(), "whole");
}

#[test]
fn an_image_that_is_removed_while_it_is_unpacked_leaves_nothing() {
    let mut host = host();
    let armed = armed(&mut host);
    let many = "mkdir /many; i=0; while [ $i -lt 3000 ]; do echo $i > /many/$i; i=$((i+1)); done";
    host.hull(&["run", "--name", "box", "busybox", "sh", "-c", many]).ok();
    let mut before = stored(&host);
    before[2].clear();
    let gone = |what: &str| {
        let start = Instant::now();
        while stored(&host) != before {
            assert!(start.elapsed() < patience(20), "{what}: {:?} instead of {before:?}", stored(&host));
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // The worker is at it, or about to be, or has just ended.
    for _ in 0..3 {
        host.hull(&["commit", "box", "made"]).ok();
        host.hull(&["rmi", "made"]).ok();
        gone("removed at once");
    }
    // It has ended, and its files have no name yet.
    let fifo = hold(&armed, "engine.images.unpacked");
    host.hull(&["commit", "box", "made"]).ok();
    let pause = fs::File::options().write(true).open(&fifo).unwrap();
    host.hull(&["rmi", "made"]).ok();
    drop(pause);
    gone("removed before its files had a name");
    // None of it stands in the way of the same layer.
    host.hull(&["commit", "box", "made"]).ok();
    assert_eq!(host.hull(&["run", "--rm", "made", "cat", "/many/2999"]).ok(), "2999");
}

/// As a daemon leaves it that is killed while it unpacks anew what a power cut may have harmed.
#[test]
fn a_container_whose_layer_has_no_files_starts_or_says_why_not_and_a_new_one_leaves_nothing() {
    let host = host();
    let added = host.folder().join("added");
    fs::write(&added, "shown").unwrap();
    let added = added.display().to_string();
    host.hull(&["image", "capture", "pictured", "true", "--add", &added]).ok();
    let shown = format!("/m{added}");
    let mount = ["--mount", "type=image,source=pictured,target=/m"];
    host.hull(&[&["create", "--name", "box"], &mount[..], &["busybox", "cat", &shown]].concat()).ok();
    let image = host.data_root().join("image");
    let layers = || fs::read_dir(image.join("layers")).unwrap().map(|layer| layer.unwrap().path());
    let lose = || {
        for layer in layers() {
            fs::remove_dir_all(layer.join("diff")).unwrap();
        }
    };
    // Whoever looks at the files of a container that does not run has them brought again, too.
    let out = host.folder().join("out").display().to_string();
    for words in [&["cp", "box:/bin/busybox", &out][..], &["export", "-o", &out, "box"], &["diff", "box"]] {
        lose();
        host.hull(words).ok();
    }
    assert!(fs::metadata(&out).unwrap().len() > 500_000, "the export lacks the image's files");
    lose();
    host.hull(&["cp", "-a", &added, "box:/tmp/in"]).ok();
    lose();
    assert_eq!(host.hull(&["start", "-a", "box"]).ok(), "shown");
    assert!(layers().all(|layer| layer.join("diff").exists()));
    // What is stored has broken: that is not the client's fault.
    for layer in layers() {
        fs::remove_dir_all(layer.join("diff")).unwrap();
    }
    for blob in fs::read_dir(image.join("blobs/sha256")).unwrap() {
        fs::write(blob.unwrap().path(), "broken").unwrap();
    }
    let containers = || fs::read_dir(host.data_root().join("containers")).unwrap().count();
    let before = containers();
    let create = r#"{"Image": "busybox"}"#;
    let answer = host.request("POST", "/v1.47/containers/create", create.as_bytes());
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.text().contains("cannot unpack layer"), "{}", answer.text());
    host.hull(&["start", "box"]).fails(1, "cannot unpack layer");
    assert_eq!(containers(), before);
}
