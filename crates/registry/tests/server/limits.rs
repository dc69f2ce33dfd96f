//! K16: what a client can make the registry hold.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::attacks::{basic, hash};
use crate::support::{MANIFEST, Server, manifest, read, request};
use hull_oci::Digest;
use hull_registry::server::Auth;
use serde_json::json;

/// distribution-spec, `spec.md#pushing-manifests`: at least 4 MiB are taken, and 413 answers what is larger.
#[test]
fn a_manifest_has_a_largest_size() {
    let server = Server::open();
    server.image("a", "v1", b"layer");
    let padded = |size: usize| {
        let bytes = manifest(b"layer", json!({ "annotations": { "k": "" } }));
        let more = "x".repeat(size - bytes.len());
        String::from_utf8(bytes).unwrap().replace("\"k\":\"\"", &format!("\"k\":\"{more}\"")).into_bytes()
    };
    server.manifest("a", "large", &padded(4 << 20)).is(201);
    assert_eq!(server.manifest("a", "larger", &padded((4 << 20) + 1)).is(413).code(), "MANIFEST_INVALID");
    // A gigabyte is refused by what it says, and by what it does.
    let length = [("Content-Type", MANIFEST), ("Content-Length", "1073741824")];
    server.request("PUT", "/v2/a/manifests/x", &length, b"").is(413);
    let mut stream = server.connect();
    let head = format!(
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Type: {MANIFEST}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let block = [b' '; 64 << 10];
    for _ in 0..80 {
        // It may have stopped to listen.
        let _ = stream.write_all(b"10000\r\n").and_then(|()| stream.write_all(&block));
        let _ = stream.write_all(b"\r\n");
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    read(&mut stream, "PUT").is(413);
}

#[test]
fn open_uploads_have_a_largest_number() {
    let server = Server::with(|options| options.limits.uploads = 10);
    let start = || server.request("POST", "/v2/a/blobs/uploads/", &[], b"");
    let first = start().is(202);
    for _ in 1..10 {
        start().is(202);
    }
    assert_eq!(start().is(429).code(), "TOOMANYREQUESTS");
    server.request("DELETE", first.header("location").unwrap(), &[], b"").is(204);
    let second = start().is(202);
    start().is(429);
    // One whose file is gone counts as soon as somebody finds out.
    let location = second.header("location").unwrap();
    let id = location.rsplit('/').next().unwrap();
    std::fs::remove_file(server.root.join("repositories/a/_uploads").join(id)).unwrap();
    server.request("PATCH", location, &[], b"x").is(404);
    start().is(202);
}

#[test]
fn one_user_does_not_take_all_uploads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, format!("one:{}\nother:{}\n", hash(), hash())).unwrap();
    let server = Server::with(|options| {
        options.auth = Auth::Htpasswd(file);
        options.limits.uploads_of_one = 2;
    });
    let ask = |user: &str, method: &str, path: &str| {
        server.request(method, path, &[("Authorization", &basic(user))], b"")
    };
    let start = |user: &str| ask(user, "POST", "/v2/a/blobs/uploads/");
    let first = start("one").is(202);
    start("one").is(202);
    assert_eq!(start("one").is(429).code(), "TOOMANYREQUESTS");
    start("other").is(202);
    ask("one", "DELETE", first.header("location").unwrap()).is(204);
    start("one").is(202);
}

#[test]
fn a_manifest_names_so_many_parts() {
    let server = Server::open();
    server.image("a", "v1", b"layer");
    let push = |layers: usize| {
        let layers: Vec<_> = (0..layers)
            .map(|number| json!({ "digest": format!("sha256:{number:064x}"), "size": 1 }))
            .collect();
        server.manifest("a", "many", &manifest(b"layer", json!({ "layers": layers })))
    };
    assert_eq!(push(10_000).is(400).code(), "MANIFEST_INVALID");
    // Of those that are missing some are told.
    let missing = push(9_999).is(400);
    assert_eq!(missing.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(missing.json()["errors"].as_array().unwrap().len(), 100);
}

/// A body that goes on for ever, a byte at a time, holds no place after its request was refused.
#[test]
fn what_is_left_of_a_refused_body_is_not_waited_for_long() {
    let server = Server::with(|options| options.limits.idle = Duration::from_secs(1));
    let mut stream = server.connect();
    let head = "PUT /v2/a/nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    read(&mut stream, "PUT").is(404);
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if stream.write_all(b"1\r\nx\r\n").is_err() {
            break;
        }
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Closed, or reset.
            _ => break,
        }
        assert!(Instant::now() < limit, "it is listened to for ever");
    }
}

/// Who sends nothing, or takes nothing, is parted with; others are served meanwhile.
#[test]
fn slow_clients_hold_nothing_for_long() {
    let short = Duration::from_millis(300);
    // What is there was pushed with all the time it takes.
    let mut ample = Server::open();
    let bytes = vec![7; 32 << 20];
    let digest = ample.blob("a", &bytes);
    ample.stop();
    let server = Server::with(|options| {
        options.root = ample.root.clone();
        options.limits.connections = 8;
        options.limits.head = short;
        options.limits.idle = short;
        options.metrics = Some(([127, 0, 0, 1], 0).into());
    });
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(b"GET /v2/ HTTP/1.1\r\nHost").unwrap();
    let mut stalled = server.connect();
    stalled.write_all(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let location = read(&mut stalled, "POST").is(202).header("location").unwrap().to_owned();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
    stalled.write_all(head.as_bytes()).unwrap();
    let mut deaf = server.connect();
    deaf.write_all(format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(read(&mut stalled, "PATCH").is(408).code(), "BLOB_UPLOAD_INVALID");
    for stream in [&mut silent, &mut half] {
        // An answer of 408 or none, then the end.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    // More than fit at once, so the places of the others were given back.
    for _ in 0..20 {
        server.get("/v2/").is(200);
    }
    // What had come of the upload is still there.
    assert_eq!(server.get(&location).is(204).header("range"), Some("0-2"));
    // The blob is not sent to its end to who does not take it.
    let metrics = server.metrics.unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let text = request(metrics, "GET", "/metrics", &[], b"").is(200).body;
        if String::from_utf8(text).unwrap().contains("\nhull_registry_connections 0\n") {
            break;
        }
        assert!(Instant::now() < limit, "somebody is never parted with");
    }
    let mut taken = Vec::new();
    let _ = deaf.read_to_end(&mut taken);
    assert!(taken.len() < bytes.len(), "{}", taken.len());
}

#[test]
fn a_head_has_a_largest_size() {
    let server = Server::open();
    let long = "x".repeat(200 << 10);
    let answer = server.request("GET", "/v2/", &[("X-Long", &long)], b"");
    assert!(matches!(answer.status, 400 | 431), "{}", answer.status);
    server.get("/v2/").is(200);
}

/// Referrers that are many, and some of them large: what is read for a page has an end, and no one is lost.
#[test]
fn a_page_of_referrers_is_bounded_in_what_is_read_for_it() {
    let server = Server::open();
    let image = server.image("a", "v1", b"layer");
    let subject = Digest::sha256(&image);
    let folder = server.root.join("repositories/a/_referrers/sha256").join(subject.hex());
    std::fs::create_dir_all(&folder).unwrap();
    let large = "x".repeat(600 << 10);
    for number in 0..2500 {
        let digest = format!("sha256:{number:064x}");
        let note = if number < 5 { large.as_str() } else { "" };
        let kind = if number % 1000 == 999 { "x/rare" } else { "x/often" };
        let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": 1, "artifactType": kind,
            "annotations": { "note": note } });
        std::fs::write(folder.join(&digest), entry.to_string()).unwrap();
    }
    let pages = |query: &str| {
        let mut sizes = Vec::new();
        let mut next = Some(format!("/v2/a/referrers/{subject}{query}"));
        while let Some(path) = next.take() {
            let answer = server.get(&path).is(200);
            assert!(answer.body.len() < 2 << 20, "{}", answer.body.len());
            sizes.push(answer.json()["manifests"].as_array().unwrap().len());
            let link = answer.header("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
            next = link;
        }
        sizes
    };
    assert_eq!(pages(""), [2, 2, 1000, 1000, 496]);
    assert_eq!(pages("?artifactType=x%2Frare"), [0, 0, 1, 1, 0]);
}

/// A list of very many tags is a page, whatever is asked for.
#[test]
fn a_long_list_is_cut_into_pages() {
    let server = Server::open();
    let bytes = server.image("a", "t", b"layer");
    let folder = server.root.join("repositories/a/_tags");
    let text = Digest::sha256(&bytes).to_string();
    for number in 0..5000 {
        std::fs::write(folder.join(format!("t{number:05}")), &text).unwrap();
    }
    for query in ["", "?n=1000000000", "?n=18446744073709551616"] {
        let answer = server.get(&format!("/v2/a/tags/list{query}")).is(200);
        assert_eq!(answer.json()["tags"].as_array().unwrap().len(), 1000, "{query}");
        assert!(answer.header("link").unwrap().contains("n=1000&last="));
    }
    assert_eq!(server.get("/v2/_catalog?n=1000000000").is(200).json(), json!({ "repositories": ["a"] }));
}
