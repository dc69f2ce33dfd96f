//! What is collected, and what is not, while the registry serves.

use std::time::{Duration, Instant};

use crate::support::{INDEX, MANIFEST, Server, age, manifest};
use hull_oci::Digest;
use hull_registry::server::{Order, Policy, Store};
use serde_json::json;

/// Collects in the stopped registry's folder.
fn collect(server: &mut Server, policy: &Policy) -> hull_registry::server::Collected {
    server.stop();
    Store::open(&server.root).unwrap().collect(policy).unwrap()
}

#[test]
fn what_no_manifest_names_goes_when_it_is_old() {
    let mut server = Server::open();
    let image = server.image("a/b", "v1", b"kept");
    server.blob("a/b", b"unused");
    server.blob("c", b"in no manifest at all");
    let upload = server.request("POST", "/v2/c/blobs/uploads/", &[], b"").is(202);
    server.request("PATCH", upload.header("location").unwrap(), &[], b"half").is(202);
    // All of it is young.
    let nothing = collect(&mut server, &Policy::default());
    assert_eq!(nothing, hull_registry::server::Collected::default());
    server.age();
    let counted = collect(&mut server, &Policy { dry_run: true, ..Policy::default() });
    assert_eq!((counted.links, counted.uploads.len(), counted.blobs), (2, 1, 2));
    let collected = collect(&mut server, &Policy::default());
    assert_eq!((collected.blobs, collected.links, collected.manifests), (2, 2, 0));
    assert_eq!(collected.bytes, (b"unused".len() + b"in no manifest at all".len()) as u64);
    assert_eq!(collected.uploads.len(), 1);
    assert_eq!(server.blobs(), 3);
    assert!(!server.root.join("repositories/c").exists());
    let server = server.restart();
    assert_eq!(server.get("/v2/a/b/manifests/v1").is(200).body, image);
    server.get(&format!("/v2/a/b/blobs/{}", Digest::sha256(b"kept"))).is(200);
    server.get(&format!("/v2/a/b/blobs/{}", Digest::sha256(b"unused"))).is(404);
    server.get(upload.header("location").unwrap()).is(404);
}

#[test]
fn manifests_without_a_tag_stay_unless_they_are_told_to_go() {
    let mut server = Server::open();
    server.image("a", "v1", b"old");
    let child = server.image("a", "child", b"child");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": Digest::sha256(&child).to_string(), "size": child.len() }
    ] });
    let index = index.to_string();
    server.request("PUT", "/v2/a/manifests/all", &[("Content-Type", INDEX)], index.as_bytes()).is(201);
    let about =
        json!({ "mediaType": MANIFEST, "digest": Digest::sha256(&child).to_string(), "size": child.len() });
    let signature = manifest(b"child", json!({ "subject": about }));
    server.manifest("a", &Digest::sha256(&signature).to_string(), &signature).is(201);
    server.request("DELETE", "/v2/a/manifests/child", &[], b"").is(202);
    server.image("a", "v1", b"new");
    server.age();
    assert_eq!(collect(&mut server, &Policy::default()).blobs, 0);
    let collected = collect(&mut server, &Policy { untagged: true, ..Policy::default() });
    // The old v1 and its layer: the child is in an index, the signature is of the child.
    assert_eq!((collected.manifests, collected.links, collected.blobs), (1, 1, 2));
    let server = server.restart();
    for bytes in [&child, &signature] {
        server.get(&format!("/v2/a/manifests/{}", Digest::sha256(bytes))).is(200);
    }
    server.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"new"))).is(200);
}

#[test]
fn a_push_under_way_keeps_what_it_was_told_is_there() {
    let server = Server::with(|options| options.collection = Policy::default());
    server.blob("a", b"{}");
    let layer = server.blob("a", b"layer");
    server.blob("a", b"unused");
    server.blob("b", b"mounted");
    server.age();
    // A client asks, hears that it is there, and sends only its manifest.
    server.request("HEAD", &format!("/v2/a/blobs/{layer}"), &[], b"").is(200);
    server.request("HEAD", &format!("/v2/a/blobs/{}", Digest::sha256(b"{}")), &[], b"").is(200);
    let mounted = Digest::sha256(b"mounted");
    server.request("POST", &format!("/v2/a/blobs/uploads/?mount={mounted}&from=b"), &[], b"").is(201);
    server.order(Order::Collect);
    let unused = format!("/v2/a/blobs/{}", Digest::sha256(b"unused"));
    let limit = Instant::now() + Duration::from_secs(30);
    // Blobs go last: when this one has, all is done.
    while server.root.join("blobs/sha256").join(Digest::sha256(b"unused").hex()).exists() {
        assert!(Instant::now() < limit, "nothing is collected");
    }
    server.get(&unused).is(404);
    server.manifest("a", "v1", &manifest(b"layer", json!({}))).is(201);
    assert_eq!(server.get(&format!("/v2/a/blobs/{mounted}")).is(200).body, b"mounted");
}

/// Whatever else it is told meanwhile.
#[test]
fn a_registry_collects_by_itself_from_time_to_time() {
    let mut first = Server::open();
    first.blob("a", b"unused");
    first.age();
    first.stop();
    let server = Server::with(|options| {
        options.root = first.root.clone();
        options.collect_every = Some(Duration::from_secs(1));
    });
    let limit = Instant::now() + Duration::from_secs(30);
    while first.blobs() > 0 {
        server.order(Order::Reload);
        assert!(Instant::now() < limit, "nothing is collected");
    }
}

/// Pushes and collections at the same time, over the same few blobs: whatever is acknowledged is there.
#[test]
fn pushes_and_collections_do_not_hurt_each_other() {
    let mut server = Server::with(|options| options.collection.grace = Duration::from_secs(30));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let name = format!("r{worker}");
                for round in 0..30 {
                    let layer = format!("layer {}", round % 3);
                    let bytes = server.image(&name, "v1", layer.as_bytes());
                    assert_eq!(server.get(&format!("/v2/{name}/manifests/v1")).is(200).body, bytes);
                    let path = format!("/v2/{name}/blobs/{}", Digest::sha256(layer.as_bytes()));
                    assert_eq!(server.get(&path).is(200).body, layer.as_bytes());
                    let path = format!("/v2/{name}/manifests/{}", Digest::sha256(&bytes));
                    server.request("DELETE", &path, &[], b"").is(202);
                    if round % 5 == 0 {
                        server.order(Order::Collect);
                    }
                }
            });
        }
    });
    server.stop();
    age(&server.root);
    let left = Store::open(&server.root).unwrap().collect(&Policy::default()).unwrap();
    assert!(left.blobs > 0);
    assert_eq!(server.blobs(), 0, "orphans");
    assert_eq!(std::fs::read_dir(server.root.join("repositories")).unwrap().count(), 0);
}

#[test]
fn a_power_failure_that_took_bytes_leaves_no_blob_behind() {
    let server = Server::open();
    let digest = server.blob("a", b"bytes");
    let file = server.root.join("blobs/sha256").join(digest.hex());
    std::fs::write(&file, b"").unwrap();
    let server = server.restart();
    let path = format!("/v2/a/blobs/{digest}");
    server.get(&path).is(404);
    server.request("HEAD", &path, &[], b"").is(404);
    // A push heals it.
    server.blob("a", b"bytes");
    assert_eq!(server.get(&path).is(200).body, b"bytes");
}
