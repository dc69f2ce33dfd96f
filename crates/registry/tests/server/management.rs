//! distribution-spec, `spec.md#content-management`, and a registry that is read-only.

use std::io::{Read as _, Write as _};

use crate::support::{Server, read};
use hull_oci::Digest;
use hull_registry::server::Order;

/// `#deleting-tags`: end-9.
#[test]
fn a_tag_is_deleted_and_its_manifest_stays() {
    let server = Server::open();
    let bytes = server.image("a", "v1", b"layer");
    server.request("DELETE", "/v2/a/manifests/v1", &[], b"").is(202);
    server.get("/v2/a/manifests/v1").is(404);
    server.get(&format!("/v2/a/manifests/{}", Digest::sha256(&bytes))).is(200);
    assert_eq!(server.request("DELETE", "/v2/a/manifests/v1", &[], b"").is(404).code(), "MANIFEST_UNKNOWN");
}

/// `#deleting-manifests`: end-9.
#[test]
fn a_manifest_is_deleted_with_the_tags_that_stand_for_it() {
    let server = Server::open();
    let bytes = server.image("a", "v1", b"layer");
    server.manifest("a", "v2", &bytes).is(201);
    let other = server.image("a", "v3", b"other");
    let path = format!("/v2/a/manifests/{}", Digest::sha256(&bytes));
    server.request("DELETE", &path, &[], b"").is(202);
    for reference in ["v1", "v2", &Digest::sha256(&bytes).to_string()] {
        server.get(&format!("/v2/a/manifests/{reference}")).is(404);
    }
    assert_eq!(server.get("/v2/a/manifests/v3").is(200).body, other);
    assert_eq!(server.get("/v2/a/tags/list").json()["tags"], serde_json::json!(["v3"]));
    server.request("DELETE", &path, &[], b"").is(404);
    server.request("DELETE", &path.replace("/a/", "/none/"), &[], b"").is(404);
}

/// `#deleting-blobs`: end-10.
#[test]
fn a_blob_is_deleted_in_its_repository_alone() {
    let server = Server::open();
    let digest = server.blob("a", b"bytes");
    server.blob("b", b"bytes");
    let path = format!("/v2/a/blobs/{digest}");
    server.request("DELETE", &path, &[], b"").is(202);
    assert_eq!(server.get(&path).is(404).code(), "BLOB_UNKNOWN");
    server.get(&format!("/v2/b/blobs/{digest}")).is(200);
    assert_eq!(server.request("DELETE", &path, &[], b"").is(404).code(), "BLOB_UNKNOWN");
}

#[test]
fn a_read_only_registry_changes_nothing() {
    let mut server = Server::open();
    let bytes = server.image("a", "v1", b"layer");
    server.stop();
    let root = server.root.clone();
    let shut = Server::with(|options| {
        options.root = root;
        options.read_only = true;
    });
    assert_eq!(shut.get("/v2/a/manifests/v1").is(200).body, bytes);
    let digest = Digest::sha256(b"layer");
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", "/v2/a/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{digest}")),
        ("POST", format!("/v2/b/blobs/uploads/?mount={digest}&from=a")),
    ] {
        assert_eq!(shut.request(method, &path, &[], b"").is(405).code(), "UNSUPPORTED", "{path}");
    }
    shut.get("/v2/a/manifests/v1").is(200);
}

/// SIGTERM's way: nothing new is taken, what is under way ends.
#[test]
fn a_stop_waits_for_the_request_under_way() {
    let mut server = Server::open();
    let digest = Digest::sha256(b"0123456789");
    let mut idle = server.connect();
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    read(&mut idle, "GET").is(200);
    let mut busy = server.connect();
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
         Content-Length: 10\r\n\r\n"
    );
    busy.write_all(head.as_bytes()).unwrap();
    let mut continued = [0; 25];
    // Its handler reads the body now.
    busy.read_exact(&mut continued).unwrap();
    server.order(Order::Stop);
    // A connection without a request is closed, so the order has arrived.
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    busy.write_all(b"0123456789").unwrap();
    read(&mut busy, "POST").is(201);
    server.stop();
    assert!(std::net::TcpStream::connect(server.address).is_err());
    let server = server.restart();
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body, b"0123456789");
}
