//! Hostile Dockerfiles (K13): each attack works against a control, which does the same without care, and
//! leaves a canary of the host as it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hull_builder::executor::{Mount, MountKind, Run, Sharing, Source};
use hull_builder::{Failure, Layer};
use hull_engine::builds::{Build, Given};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::builds::{base, limits, process, run, says, tar, with, written};
use crate::support::{Host, within};

/// Swaps that there have to be at least while steps are made.
const SWAPS: u64 = 10_000;

fn at(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.to_owned(), kind }
}

fn bind(source: Source, path: &str, target: &str) -> Mount {
    at(target, MountKind::Bind { source, path: path.to_owned(), writable: true })
}

fn cache(id: &str, target: &str) -> Mount {
    let (id, path, sharing) = (id.to_owned(), "/".to_owned(), Sharing::Shared);
    let kind =
        MountKind::Cache { id, source: None, path, sharing, writable: true, mode: 0o755, uid: 0, gid: 0 };
    at(target, kind)
}

async fn step(build: &Build, below: &[Layer], mounts: Vec<Mount>, script: &str) -> Result<String, Failure> {
    let (done, said) = written(build, Run { mounts, ..process(below, script) }).await;
    done.map(|_| said)
}

/// A folder of the host that no build has anything to do with.
fn canary(scratch: &Path) -> PathBuf {
    let canary = scratch.join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "of the host").unwrap();
    canary
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_what_is_mounted_do_not_lead_to_the_host() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let canary = canary(scratch.path());
    let folder = scratch.path().join("context");
    fs::create_dir(&folder).unwrap();
    let upwards = format!("{}{}", "../".repeat(30), canary.display());
    for (name, target) in [("link", canary.to_str().unwrap()), ("up", &upwards)] {
        symlink(target, folder.join(name)).unwrap();
        assert_eq!(fs::read_to_string(folder.join(name).join("file")).unwrap(), "of the host", "the control");
    }
    let context = within(host.engine().build_context(tar(&folder, "-cf").into())).await.unwrap();
    let build = host.engine().build(Given { contexts: [(String::new(), context)].into(), ..limits().into() });
    let below = base(&build).await.layers;
    let (made, _) = run(&build, &below, &format!("busybox ln -s {} /link", canary.display())).await;
    let stage = with(&below, made.unwrap());
    for path in ["/link", "/link/file", "/up", "/up/file"] {
        for source in [Source::Context(String::new()), Source::Layers(stage.clone())] {
            let shown = step(&build, &below, vec![bind(source, path, "/m")], "cat /m /m/file").await;
            assert!(matches!(&shown, Err(Failure::Invalid(why)) if why.contains("not found")), "{shown:?}");
        }
    }
    // A target that is a link of the image is one in the image.
    let mounts = vec![cache("target", "/link/new")];
    step(&build, &stage, mounts, "echo x >/link/new/file").await.unwrap();
    assert_eq!(names(&canary), ["file"]);
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caches_name_is_no_path() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let root = host.config().data_root;
    let before = names(&root);
    let long = "x".repeat(10_000);
    let ids = ["../../escaped", "/tmp/escaped", "a/../../../escaped", "..", ".", "", "\n", "new-x", &long];
    let control = root.join("caches").join(ids[0]);
    fs::create_dir(&control).unwrap();
    assert!(root.parent().unwrap().join("escaped").is_dir(), "the control");
    fs::remove_dir(control).unwrap();
    for id in ids {
        let said = step(&build, &below, vec![cache(id, "/cache")], "ls /cache; echo x >/cache/x").await;
        assert_eq!(said.unwrap(), "", "a new one: {id:?}");
    }
    let is_key = |name: &String| {
        let hex = name.strip_suffix("-0").unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let made = names(&root.join("caches"));
    assert!(made.len() == ids.len() && made.iter().all(is_key), "{made:?}");
    assert_eq!(names(&root), before);
    assert!(!root.parent().unwrap().join("escaped").exists() && !Path::new("/tmp/escaped").exists());
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_a_cache_that_are_swapped_lead_no_step_to_the_host() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let canary = canary(scratch.path());
    let careless = scratch.path().join("careless");
    fs::create_dir(&careless).unwrap();
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let make = format!(
        "mkdir /cache/a /cache/c && busybox ln -s {} /cache/b && busybox ln -s {} /cache/d",
        canary.display(),
        careless.display()
    );
    step(&build, &below, vec![cache("swapped", "/cache")], &make).await.unwrap();
    let caches = host.config().data_root.join("caches");
    let files = caches.join(&names(&caches)[0]).join("files");
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let mounts = |round: usize| {
        let inner = format!("/cache/a/place{round}");
        vec![cache("swapped", "/cache"), bind(Source::Layers(below.clone()), "/etc", &inner)]
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [("a", "b"), ("c", "d")] {
                    let (one, other) = (files.join(one), files.join(other));
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Whatever is shown where: the step may fail, and the host must not notice.
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut round = 0;
                while round < 20 || swaps.load(Ordering::Relaxed) < SWAPS || names(&careless).is_empty() {
                    let _ = step(&build, &below, mounts(round), "ls -R /cache; true").await;
                    let _ = fs::create_dir(files.join("c").join(format!("place{round}")));
                    round += 1;
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!names(&careless).is_empty(), "the control");
    assert_eq!(names(&canary), ["file"]);
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_moves_its_mounts_places_takes_nothing_of_the_image() {
    // What removes the place that it has made, by its path, when the step has ended.
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    fs::create_dir_all(root.join("victim/place")).unwrap();
    symlink("victim", root.join("new")).unwrap();
    fs::remove_dir(root.join("new/place")).unwrap();
    assert!(!root.join("victim/place").exists(), "the control");
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let (made, _) = run(&build, &base(&build).await.layers, "mkdir -p /victim/place /victim/kept").await;
    let image = with(&base(&build).await.layers, made.unwrap());
    let script = "busybox mv /new /gone; busybox rm -rf /new; busybox ln -s /victim /new; echo did";
    let mounts = vec![cache("moved", "/new/place")];
    let (done, said) = written(&build, Run { mounts, ..process(&image, script) }).await;
    assert!(said.contains("did"), "{said}");
    let above = with(&image, done.unwrap());
    assert_eq!(says(&build, &above, "ls /victim").await, "kept\nplace\n");
    drop(build);
    host.finish().await;
}
