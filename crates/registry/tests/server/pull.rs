//! distribution-spec, `spec.md#pull`, `#errors`, `#determining-support`.

use crate::support::{MANIFEST, Server, request, sha512};
use hull_oci::Digest;

/// `#determining-support`: end-1.
#[test]
fn the_base_says_that_the_specification_is_spoken() {
    let server = Server::open();
    let answer = server.get("/v2/").is(200);
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    server.request("HEAD", "/v2/", &[], b"").is(200);
    server.get("/v1/").is(404);
}

/// `#pulling-manifests`, `#checking-if-content-exists-in-the-registry`: end-3.
#[test]
fn a_manifest_comes_back_bit_for_bit_by_tag_and_by_digest() {
    let server = Server::open();
    let manifest = server.image("a/b", "v1", b"layer");
    let digest = Digest::sha256(&manifest).to_string();
    for reference in ["v1", &digest, &digest.replace(':', "%3A")] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let answer = server.get(&path).is(200);
        assert_eq!(answer.body, manifest);
        let head = server.request("HEAD", &path, &[], b"").is(200);
        for answer in [&answer, &head] {
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("content-length"), Some(&*manifest.len().to_string()));
        }
        assert!(head.body.is_empty());
    }
    assert_eq!(server.get("/v2/a/b/manifests/none").is(404).code(), "MANIFEST_UNKNOWN");
    assert_eq!(server.get("/v2/none/manifests/v1").is(404).code(), "MANIFEST_UNKNOWN");
    server.request("HEAD", "/v2/none/manifests/v1", &[], b"").is(404);
}

/// `#pulling-blobs`: end-2, and `Range` as RFC 9110 has it.
#[test]
fn a_blob_comes_whole_or_in_part() {
    let server = Server::open();
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = server.blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    let whole = server.get(&path).is(200);
    assert_eq!(whole.body, bytes);
    assert_eq!(whole.header("docker-content-digest"), Some(&*digest.to_string()));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let head = server.request("HEAD", &path, &[], b"").is(200);
    assert_eq!(head.header("content-length"), Some("4000000"));
    let part = server.request("GET", &path, &[("Range", "bytes=300000-")], b"").is(206);
    assert_eq!(part.body, bytes[300_000..]);
    assert_eq!(part.header("content-range"), Some("bytes 300000-3999999/4000000"));
    let last = server.request("GET", &path, &[("Range", "bytes=-5")], b"").is(206);
    assert_eq!(last.body, bytes[bytes.len() - 5..]);
    let beyond = server.request("GET", &path, &[("Range", "bytes=4000000-")], b"").is(416);
    assert_eq!(beyond.header("content-range"), Some("bytes */4000000"));
    let etag = whole.header("etag").unwrap();
    server.request("GET", &path, &[("If-None-Match", etag)], b"").is(304);
    let resumed = server.request("GET", &path, &[("Range", "bytes=1-1"), ("If-Range", etag)], b"").is(206);
    assert_eq!(resumed.body, bytes[1..2]);
    let none = format!("/v2/a/blobs/{}", Digest::sha256(b"none"));
    assert_eq!(server.get(&none).is(404).code(), "BLOB_UNKNOWN");
    server.request("HEAD", &none, &[], b"").is(404);
}

/// `#pulling-blobs` with an empty blob, and one of another algorithm.
#[test]
fn an_empty_blob_is_a_blob_and_sha512_names_one() {
    let server = Server::open();
    let digest = server.blob("a", b"");
    assert!(server.get(&format!("/v2/a/blobs/{digest}")).is(200).body.is_empty());
    let digest = sha512(b"long");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    server.request("POST", &path, &[], b"long").is(201);
    let answer = server.get(&format!("/v2/a/blobs/{digest}")).is(200);
    assert_eq!(answer.body, b"long");
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest.to_string()));
}

/// `#error-codes`: the form of errors.
#[test]
fn errors_have_the_codes_of_the_specification() {
    let server = Server::open();
    for (path, status, code) in [
        ("/v2/A/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/a/blobs/sha256:00", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/-x", 400, "MANIFEST_INVALID"),
        ("/v2/a/blobs/uploads/x", 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        let answer = server.get(path).is(status);
        assert_eq!(answer.code(), code, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error = &answer.json()["errors"][0];
        assert!(error["message"].is_string() && !error["detail"].is_null(), "{error}");
    }
    let answer = server.request("POST", "/v2/a/tags/list", &[], b"").is(405);
    assert_eq!(answer.code(), "UNSUPPORTED");
}

/// `#warnings`.
#[test]
fn warnings_have_the_one_code_and_agent() {
    let server =
        Server::with(|options| options.warnings = vec!["it \"moves\"".to_owned(), "soon".to_owned()]);
    let answer = server.get("/v2/").is(200);
    let warnings: Vec<&str> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "warning")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(warnings, ["299 - \"it \\\"moves\\\"\"", "299 - \"soon\""]);
}

#[test]
fn health_and_figures_are_on_an_address_of_their_own() {
    let server = Server::with(|options| options.metrics = Some(([127, 0, 0, 1], 0).into()));
    let metrics = server.metrics.unwrap();
    server.blob("a", b"bytes");
    server.get("/v2/").is(200);
    assert_eq!(request(metrics, "GET", "/healthz", &[], b"").is(200).body, b"ok\n");
    let text = String::from_utf8(request(metrics, "GET", "/metrics", &[], b"").is(200).body).unwrap();
    for line in [
        "hull_registry_requests_total{method=\"POST\",code=\"2xx\"} 1",
        "hull_registry_requests_total{method=\"PUT\",code=\"2xx\"} 1",
        "hull_registry_received_bytes_total 5",
        "hull_registry_uploads 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    request(metrics, "GET", "/v2/", &[], b"").is(404);
    server.get("/metrics").is(404);
    std::fs::remove_dir(server.root.join("ingest")).unwrap();
    request(metrics, "GET", "/healthz", &[], b"").is(503);
}
