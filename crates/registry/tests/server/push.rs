//! distribution-spec, `spec.md#push`.

use std::io::{Read as _, Write as _};

use crate::support::{INDEX, MANIFEST, Server, manifest, read, sha512};
use hull_oci::Digest;
use serde_json::json;

const START: &str = "/v2/a/blobs/uploads/";

fn started(server: &Server) -> String {
    server.request("POST", START, &[], b"").is(202).header("location").unwrap().to_owned()
}

/// `#post-then-put`: end-4a, end-6.
#[test]
fn a_blob_is_pushed_by_post_and_put() {
    let server = Server::open();
    let location = started(&server);
    let digest = Digest::sha256(b"bytes");
    let path = format!("{location}?digest={digest}");
    let done =
        server.request("PUT", &path, &[("Content-Type", "application/octet-stream")], b"bytes").is(201);
    assert_eq!(done.header("docker-content-digest"), Some(&*digest.to_string()));
    assert_eq!(server.get(done.header("location").unwrap()).is(200).body, b"bytes");
    // The session is closed.
    assert_eq!(server.request("PUT", &path, &[], b"bytes").is(404).code(), "BLOB_UPLOAD_UNKNOWN");
}

/// `#single-post`: end-4b.
#[test]
fn a_blob_is_pushed_by_one_post() {
    let server = Server::open();
    let digest = Digest::sha256(b"bytes");
    let done = server.request("POST", &format!("{START}?digest={digest}"), &[], b"bytes").is(201);
    assert_eq!(server.get(done.header("location").unwrap()).is(200).body, b"bytes");
    let other = Digest::sha256(b"other");
    let wrong = server.request("POST", &format!("{START}?digest={other}"), &[], b"bytes").is(400);
    assert_eq!(wrong.code(), "DIGEST_INVALID");
    server.get(&format!("/v2/a/blobs/{other}")).is(404);
    assert_eq!(std::fs::read_dir(server.root.join("repositories/a/_uploads")).unwrap().count(), 0);
}

/// `#pushing-a-blob-in-chunks`: end-5, end-6, end-13, and 416 for what is out of order.
#[test]
fn chunks_come_in_order_and_are_counted() {
    let server = Server::open();
    let location = started(&server);
    let first = server.request("PATCH", &location, &[("Content-Range", "0-4")], b"01234").is(202);
    assert_eq!(first.header("range"), Some("0-4"));
    let location = first.header("location").unwrap().to_owned();
    for range in ["0-4", "6-7", "4-8", "x", "bytes 5-9/10"] {
        let wrong = server.request("PATCH", &location, &[("Content-Range", range)], b"56789").is(416);
        assert_eq!(wrong.header("range"), Some("0-4"), "{range}");
        assert_eq!(wrong.header("location"), Some(&*location));
    }
    let wrong = server.request("PATCH", &location, &[("Content-Range", "5-9")], b"567").is(400);
    assert_eq!(wrong.code(), "SIZE_INVALID");
    let status = server.get(&location).is(204);
    assert_eq!(status.header("range"), Some("0-4"));
    server.request("PATCH", &location, &[("Content-Range", "5-7")], b"567").is(202);
    // The last one may come with the closing request, which is of all bytes' digest.
    let digest = Digest::sha256(b"0123456789");
    let path = format!("{location}?digest={digest}");
    server.request("PUT", &path, &[("Content-Range", "3-4")], b"89").is(416);
    server.request("PUT", &path, &[("Content-Range", "8-9")], b"89").is(201);
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body, b"0123456789");
}

/// The same without ranges and lengths, as Docker's client sends them.
#[test]
fn a_stream_without_a_length_is_a_chunk() {
    let server = Server::open();
    let location = started(&server);
    let mut stream = server.connect();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
    assert_eq!(read(&mut stream, "PATCH").is(202).header("range"), Some("0-4"));
    let digest = Digest::sha256(b"abcde");
    server.request("PUT", &format!("{location}?digest={digest}"), &[], b"").is(201);
    // More than the range says is as wrong as less; nothing of it is kept.
    let location = started(&server);
    let mut stream = server.connect();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Range: 0-1\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"3\r\nabc\r\n0\r\n\r\n").unwrap();
    assert_eq!(read(&mut stream, "PATCH").is(400).code(), "SIZE_INVALID");
    let digest = Digest::sha256(b"xyz");
    server.request("PUT", &format!("{location}?digest={digest}"), &[], b"xyz").is(201);
}

/// Chunks whose digest turns out to be of the other algorithm.
#[test]
fn the_digest_of_chunks_may_be_sha512() {
    let server = Server::open();
    let location = started(&server);
    server.request("PATCH", &location, &[], b"long").is(202);
    let digest = sha512(b"longer");
    server.request("PUT", &format!("{location}?digest={digest}"), &[], b"er").is(201);
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body, b"longer");
}

/// A wrong digest ends the upload; nothing of it is left.
#[test]
fn a_blob_of_another_digest_is_refused_and_gone() {
    let server = Server::open();
    let location = started(&server);
    let digest = Digest::sha256(b"other");
    let path = format!("{location}?digest={digest}");
    assert_eq!(server.request("PUT", &path, &[], b"bytes").is(400).code(), "DIGEST_INVALID");
    server.get(&location).is(404);
    server.get(&format!("/v2/a/blobs/{digest}")).is(404);
    assert_eq!(server.blobs(), 0);
    for query in ["", "?digest=", "?digest=sha256:0", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let answer = server.request("PUT", &format!("{}{query}", started(&server)), &[], b"").is(400);
        assert_eq!(answer.code(), "DIGEST_INVALID", "{query}");
    }
}

/// An upload that is cancelled is unknown (the older specification's DELETE, which clients send).
#[test]
fn an_upload_can_be_cancelled() {
    let server = Server::open();
    let location = started(&server);
    server.request("PATCH", &location, &[], b"some").is(202);
    server.request("DELETE", &location, &[], b"").is(204);
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(server.request(method, &location, &[], b"").is(404).status, 404);
    }
}

/// What came before the connection broke stays, and is where the next request goes on; also after a restart.
#[test]
fn an_upload_survives_a_cut_and_a_restart() {
    let server = Server::open();
    let location = started(&server);
    let mut stream = server.connect();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234");
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // Its end is the sign that the registry is done with it.
    let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    assert_eq!(
        server.request("PATCH", &location, &[("Content-Range", "5-6")], b"56").is(202).header("range"),
        Some("0-6")
    );
    let server = server.restart();
    assert_eq!(server.get(&location).is(204).header("range"), Some("0-6"));
    server.request("PATCH", &location, &[("Content-Range", "7-8")], b"78").is(202);
    let digest = Digest::sha256(b"0123456789");
    server.request("PUT", &format!("{location}?digest={digest}"), &[], b"9").is(201);
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body, b"0123456789");
}

/// A request for an upload whose last one hangs takes it over.
#[test]
fn a_newer_request_ends_an_older_one_of_the_same_upload() {
    let server = Server::open();
    let location = started(&server);
    let mut stream = server.connect();
    let head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(format!("PATCH {location} {head}").as_bytes()).unwrap();
    // It has the upload and asks for its bytes.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let digest = Digest::sha256(b"new");
    server.request("PUT", &format!("{location}?digest={digest}"), &[], b"new").is(201);
    // The older one is refused, in whichever order the two came to their turn.
    stream.write_all(b"0123456789").ok();
    let refused = read(&mut stream, "PATCH");
    assert!(matches!(refused.status, 404 | 409), "{refused:?}");
    assert_eq!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body, b"new");
}

/// `#mounting-a-blob-from-another-repository`: end-11.
#[test]
fn a_blob_is_mounted_or_else_uploaded() {
    let server = Server::open();
    let digest = server.blob("a", b"bytes");
    let path = |digest: &Digest, from: &str| format!("/v2/b/c/blobs/uploads/?mount={digest}&from={from}");
    let mounted = server.request("POST", &path(&digest, "a"), &[], b"").is(201);
    assert_eq!(mounted.header("location"), Some(&*format!("/v2/b/c/blobs/{digest}")));
    assert_eq!(server.get(&format!("/v2/b/c/blobs/{digest}")).is(200).body, b"bytes");
    let none = Digest::sha256(b"none");
    for path in [path(&none, "a"), path(&digest, "none"), path(&digest, "../a")] {
        let answer = server.request("POST", &path, &[], b"").is(202);
        assert!(answer.header("location").unwrap().contains("/uploads/"));
    }
    // `from` may be missing; the repository's own is meant.
    server.request("POST", &format!("/v2/b/c/blobs/uploads/?mount={digest}"), &[], b"").is(201);
    server.request("POST", &format!("/v2/d/blobs/uploads/?mount={digest}"), &[], b"").is(202);
}

/// `#pushing-manifests`: end-7.
#[test]
fn a_manifest_is_pushed_under_a_tag_and_under_its_digest() {
    let server = Server::open();
    let bytes = server.image("a", "v1", b"layer");
    let digest = Digest::sha256(&bytes);
    let done = server.manifest("a", &digest.to_string(), &bytes).is(201);
    assert_eq!(done.header("docker-content-digest"), Some(&*digest.to_string()));
    assert_eq!(server.get(done.header("location").unwrap()).is(200).body, bytes);
    let done = server.manifest("a", "v2", &bytes).is(201);
    assert_eq!(done.header("location"), Some(&*format!("/v2/a/manifests/{digest}")));
    let long = sha512(&bytes).to_string();
    assert_eq!(server.manifest("a", &long, &bytes).is(201).header("docker-content-digest"), Some(&*long));
    assert_eq!(server.get(&format!("/v2/a/manifests/{long}")).is(200).body, bytes);
    let other = Digest::sha256(b"other").to_string();
    assert_eq!(server.manifest("a", &other, &bytes).is(400).code(), "DIGEST_INVALID");
    // A tag moves.
    let newer = server.image("a", "v1", b"newer");
    assert_eq!(server.get("/v2/a/manifests/v1").is(200).body, newer);
}

/// `#push`: each blob that is missing is named.
#[test]
fn a_manifest_of_what_is_not_there_is_refused() {
    let server = Server::open();
    let bytes = manifest(b"layer", json!({}));
    let answer = server.manifest("a", "v1", &bytes).is(400);
    let errors = answer.json()["errors"].clone();
    let named: Vec<&str> =
        errors.as_array().unwrap().iter().filter_map(|error| error["detail"]["digest"].as_str()).collect();
    assert_eq!(named, [Digest::sha256(b"{}").to_string(), Digest::sha256(b"layer").to_string()]);
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
    server.get("/v2/a/manifests/v1").is(404);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": Digest::sha256(&bytes).to_string(), "size": bytes.len() }
    ] });
    let push = |name: &str| {
        let path = format!("/v2/{name}/manifests/all");
        server.request("PUT", &path, &[("Content-Type", INDEX)], index.to_string().as_bytes())
    };
    assert_eq!(push("a").is(400).code(), "MANIFEST_BLOB_UNKNOWN");
    server.image("b", "v1", b"layer");
    // That another repository has it does not help.
    push("a").is(400);
    push("b").is(201);
    assert_eq!(server.get("/v2/b/manifests/all").is(200).header("content-type"), Some(INDEX));
}

/// K11: what lies about itself.
#[test]
fn a_manifest_that_lies_is_refused() {
    let server = Server::open();
    server.image("a", "v1", b"layer");
    let put = |kind: &str, bytes: &[u8]| {
        server.request("PUT", "/v2/a/manifests/x", &[("Content-Type", kind)], bytes).is(400).code()
    };
    let size = String::from_utf8(manifest(b"layer", json!({}))).unwrap().replace("\"size\":5", "\"size\":6");
    assert_eq!(put(MANIFEST, size.as_bytes()), "MANIFEST_INVALID");
    assert_eq!(put(MANIFEST, &manifest(b"layer", json!({ "manifests": [] }))), "MANIFEST_INVALID");
    assert_eq!(put(INDEX, &manifest(b"layer", json!({}))), "MANIFEST_INVALID");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(put(docker, &manifest(b"layer", json!({}))), "MANIFEST_INVALID");
    assert_eq!(put("application/json", &manifest(b"layer", json!({}))), "MANIFEST_INVALID");
    assert_eq!(put(MANIFEST, b"{\"schemaVersion\":1,\"fsLayers\":[]}"), "MANIFEST_INVALID");
    assert_eq!(put(MANIFEST, b"\0"), "MANIFEST_INVALID");
    server.get("/v2/a/manifests/x").is(404);
    // Docker's own types are as good.
    let own = manifest(b"layer", json!({ "mediaType": docker }));
    server.request("PUT", "/v2/a/manifests/docker", &[("Content-Type", docker)], &own).is(201);
    assert_eq!(server.get("/v2/a/manifests/docker").is(200).header("content-type"), Some(docker));
}

/// `#pushing-manifests-with-subject`.
#[test]
fn a_subject_is_acknowledged_and_may_come_later() {
    let server = Server::open();
    server.image("a", "v1", b"layer");
    let subject = Digest::sha256(b"comes later").to_string();
    let more = json!({ "subject": { "mediaType": MANIFEST, "digest": subject, "size": 11 } });
    let answer = server.manifest("a", "signed", &manifest(b"layer", more)).is(201);
    assert_eq!(answer.header("oci-subject"), Some(&*subject));
    assert_eq!(
        server.manifest("a", "v2", &manifest(b"layer", json!({}))).is(201).header("oci-subject"),
        None
    );
}

/// What was synced for the first push stays what it is: a power failure would take what replaced it.
#[test]
fn a_second_push_of_the_same_replaces_no_file() {
    use std::os::unix::fs::MetadataExt as _;
    fn files(folder: &std::path::Path, found: &mut std::collections::BTreeMap<std::path::PathBuf, u64>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.insert(path.clone(), std::fs::metadata(&path).unwrap().ino());
            }
        }
    }
    let server = Server::open();
    let files = || {
        let mut found = std::collections::BTreeMap::new();
        files(&server.root.join("blobs"), &mut found);
        files(&server.root.join("repositories"), &mut found);
        found
    };
    server.image("a", "v1", b"layer");
    let before = files();
    assert_eq!(before.len(), 7, "three blobs, an entry of each, a tag");
    server.image("a", "v1", b"layer");
    assert_eq!(files(), before);
    let other = server.image("a", "v1", b"other");
    assert_eq!(server.get("/v2/a/manifests/v1").is(200).body, other);
}
