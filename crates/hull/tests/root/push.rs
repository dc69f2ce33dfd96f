//! Pushes to Debian's registry: what both clients say, what is sent and what is not, and that what arrives is whole,
//! whoever dies on the way.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hull_testkit::registry::Registry;
use hull_testkit::{Host, patience, run};
use rustix::fs::OFlags;
use serde_json::Value;

use super::behind::{armed, hold};
use super::{CLIENTS, host};

/// The manifest that a tag of the registry stands for.
#[track_caller]
fn manifest(registry: &Registry, repository: &str, tag: &str) -> Value {
    serde_json::from_slice(&registry.blob(&registry.tagged(repository, tag))).unwrap()
}

/// Whether the registry has all of the image as it is on the machine: configuration and layers, by their digests.
#[track_caller]
fn is_whole(host: &Host, registry: &Registry, repository: &str, tag: &str) {
    let manifest = manifest(registry, repository, tag);
    let name = format!("{}/{repository}:{tag}", registry.address());
    let inspected: Vec<Value> = serde_json::from_str(host.hull(&["image", "inspect", &name]).ok()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(manifest["config"]["digest"], inspected[0]["Id"]);
    let id = text(&inspected[0]["Id"]);
    assert_eq!(sha256(&registry.blob(&id)), id);
    let layers = manifest["layers"].as_array().unwrap();
    let diff_ids = inspected[0]["RootFS"]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), diff_ids.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let digest = text(&layer["digest"]);
        let bytes = registry.blob(&digest);
        assert_eq!((sha256(&bytes), Some(bytes.len() as u64)), (digest, layer["size"].as_u64()));
        let unpacked = run(Command::new("sh").args(["-c", "gzip -dc | sha256sum"]), &bytes);
        assert_eq!(format!("sha256:{}", &unpacked.ok()[..64]), text(diff_id));
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", &run(&mut Command::new("sha256sum"), bytes).ok()[..64])
}

/// An image with so many MiB that cannot be compressed on top of busybox, and another small layer.
fn large(host: &Host, name: &str, mib: usize) {
    let folder = host.folder().join("large");
    fs::create_dir_all(&folder).unwrap();
    let mut bytes = vec![0; mib << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    fs::write(folder.join("noise"), bytes).unwrap();
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY noise /noise\nCOPY Dockerfile /Dockerfile\n")
        .unwrap();
    host.hull(&["build", "-q", "-t", name, folder.to_str().unwrap()]).ok();
}

/// Where the daemon dies of a push, and at which of the times that it comes by.
pub(crate) const POINTS: [(&str, u32); 5] = [
    ("engine.push.piece", 1),
    ("engine.push.piece", 9),
    ("engine.push.layer", 1),
    ("engine.push.manifest", 1),
    ("engine.push.named", 1),
];

#[test]
fn both_clients_push_and_say_what_the_reference_says() {
    let host = host();
    let registry = Registry::start(&host, 5000, false);
    let server = registry.address();
    let inspected: Vec<Value> =
        serde_json::from_str(host.hull(&["image", "inspect", "busybox"]).ok()).unwrap();
    let id = &inspected[0]["RootFS"]["Layers"][0].as_str().unwrap()["sha256:".len()..][..12];
    for (client, repository) in CLIENTS.into_iter().zip(["ns/one", "ns/two"]) {
        let name = format!("{server}/{repository}");
        for tag in ["1", "2"] {
            host.hull(&["tag", "busybox", &format!("{name}:{tag}")]).ok();
        }
        let said = |words: &[&str]| client(&host, words).ok().to_owned();
        let first = format!("The push refers to repository [{name}]\n");
        let pushed = said(&["push", &format!("{name}:1")]);
        let digest = registry.tagged(repository, "1");
        let size = registry.blob(&digest).len();
        // The second client's layer is there already, in the first one's repository.
        let ends = match repository {
            "ns/one" => format!("{id}: Pushed"),
            _ => format!("{id}: Mounted from ns/one"),
        };
        let last = |tag: &str| format!("{tag}: digest: {digest} size: {size}");
        assert_eq!(pushed, format!("{first}{id}: Preparing\n{ends}\n{}", last("1")));
        is_whole(&host, &registry, repository, "1");
        let exists = |tag: &str| format!("{id}: Preparing\n{id}: Layer already exists\n{}", last(tag));
        assert_eq!(said(&["push", &format!("{name}:2")]), format!("{first}{}", exists("2")));
        assert_eq!(said(&["push", "-a", &name]), format!("{first}{}\n{}", exists("1"), exists("2")));
        assert_eq!(said(&["push", "-q", &format!("{name}:1")]), format!("{name}:1"));
        let unknown = client(&host, &["push", &format!("{server}/nosuch:1")]);
        unknown.fails(1, &format!("An image does not exist locally with the tag: {server}/nosuch\n"));
        let other = client(&host, &["push", "--platform", "linux/s390x", &format!("{name}:1")]);
        other.fails(1, "does not match the specified platform (linux/s390x)");
        let digests = host.hull(&["image", "inspect", "-f", "{{json .RepoDigests}}", &format!("{name}:1")]);
        assert!(digests.ok().contains(&format!("{name}@{digest}")), "{digests}");
    }
    assert_eq!(registry.requests("PATCH", "/blobs/uploads/"), 1);
    host.hull(&["push", "127.0.0.1:9/app:1"]).fails(1, "An image does not exist locally");
    host.hull(&["tag", "busybox", "127.0.0.1:9/app:1"]).ok();
    host.hull(&["push", "127.0.0.1:9/app:1"]).fails(1, "connection refused");
}

#[test]
fn what_was_pushed_is_an_image_for_others() {
    let host = host();
    let registry = Registry::start(&host, 5000, false);
    let name = format!("{}/app:1", registry.address());
    large(&host, &name, 5);
    host.hull(&["push", "-q", &name]).ok();
    is_whole(&host, &registry, "app", "1");
    let copied = host.folder().join("copied");
    let target = format!("dir:{}", copied.display());
    let words = ["copy", "--src-tls-verify=false", &format!("docker://{name}"), &target];
    run(host.inside("skopeo").args(words).env("HOME", host.folder()), b"").ok();
    let manifest: Value = serde_json::from_slice(&fs::read(copied.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert!(
        size(&copied.join(manifest["layers"][1]["digest"].as_str().unwrap().trim_start_matches("sha256:")))
            > 5 << 20
    );
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn a_daemon_that_dies_on_the_way_leaves_what_the_next_push_makes_whole() {
    let mut host = host();
    let registry = Registry::start(&host, 5000, false);
    let name = format!("{}/app:1", registry.address());
    large(&host, &name, 24);
    let armed = armed(&mut host);
    for (point, time) in POINTS {
        fs::write(&armed, format!("{point} {time}")).unwrap();
        let broken = host.hull(&["push", &name]);
        assert_ne!(broken.code, 0, "{point}: {broken}");
        host.await_daemon();
        assert!(!armed.exists(), "{point} was never passed");
        host.start_daemon();
        host.hull(&["push", "-q", &name]).ok();
        is_whole(&host, &registry, "app", "1");
        // For the next point.
        host.hull(&["rmi", &name]).ok();
        large(&host, &name, 24);
    }
}

/// The end of a pause, once the daemon has come to it.
#[track_caller]
fn opened(fifo: &Path) -> fs::File {
    let start = Instant::now();
    loop {
        let file =
            fs::File::options().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(fifo);
        match file {
            Ok(file) => return file,
            Err(error) => assert!(start.elapsed() < patience(30), "nobody came to the point: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_registry_that_dies_on_the_way_and_comes_back_is_gone_on_with() {
    let mut host = host();
    let mut registry = Registry::start(&host, 5000, false);
    let name = format!("{}/app:1", registry.address());
    large(&host, &name, 48);
    let armed = armed(&mut host);
    let fifo = hold(&armed, "engine.push.piece");
    let mut push = host.hull_command(&["push", "-q", &name]);
    let pushing = std::thread::spawn(move || run(&mut push, b""));
    let held = opened(&fifo);
    registry.kill();
    drop(held);
    registry.launch(&host);
    let pushed = pushing.join().unwrap();
    pushed.ok();
    is_whole(&host, &registry, "app", "1");
}
