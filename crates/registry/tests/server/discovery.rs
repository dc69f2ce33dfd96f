//! distribution-spec, `spec.md#content-discovery`, and Docker's `_catalog`.

use crate::support::{INDEX, MANIFEST, Server, manifest};
use hull_oci::Digest;
use serde_json::{Value, json};

/// All pages from one on: each page's entries under `field`.
fn pages(server: &Server, first: &str, field: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next.take() {
        assert!(pages.len() < 100, "the pages have no end");
        let answer = server.get(&path).is(200);
        pages.push(answer.json()[field].as_array().unwrap().clone());
        next = answer.header("link").map(|link| {
            let (address, relation) = link.split_once(';').unwrap();
            assert_eq!(relation.trim(), "rel=\"next\"");
            address.trim_start_matches('<').trim_end_matches('>').to_owned()
        });
    }
    pages
}

/// `#listing-tags`: end-8a, end-8b.
#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let server = Server::open();
    let bytes = server.image("a", "v2", b"layer");
    for tag in ["V1", "a", "v10", "latest"] {
        server.manifest("a", tag, &bytes).is(201);
    }
    let all = server.get("/v2/a/tags/list").is(200);
    assert_eq!(all.json(), json!({ "name": "a", "tags": ["a", "latest", "V1", "v10", "v2"] }));
    assert_eq!(all.header("link"), None);
    let two = pages(&server, "/v2/a/tags/list?n=2", "tags");
    assert_eq!(json!(two), json!([["a", "latest"], ["V1", "v10"], ["v2"]]));
    assert_eq!(server.get("/v2/a/tags/list?n=0").is(200).json()["tags"], json!([]));
    assert_eq!(server.get("/v2/a/tags/list?n=0").header("link"), None);
    assert_eq!(server.get("/v2/a/tags/list?last=v10").is(200).json()["tags"], json!(["v2"]));
    assert_eq!(
        server.get("/v2/a/tags/list?n=1000000000").is(200).json()["tags"].as_array().unwrap().len(),
        5
    );
    server.get("/v2/a/tags/list?n=many").is(400);
    assert_eq!(server.get("/v2/b/tags/list").is(404).code(), "NAME_UNKNOWN");
    // A repository may be known and have no tag.
    server.blob("c", b"bytes");
    assert_eq!(server.get("/v2/c/tags/list").is(200).json()["tags"], json!([]));
}

#[test]
fn repositories_are_listed_in_order_and_in_pages() {
    let server = Server::open();
    for name in ["b", "a/c", "a-b", "a", "a/b/c"] {
        server.image(name, "v1", b"layer");
    }
    server.blob("only-a-blob", b"bytes");
    let names = json!(["a", "a-b", "a/b/c", "a/c", "b"]);
    assert_eq!(server.get("/v2/_catalog").is(200).json(), json!({ "repositories": names }));
    let two = pages(&server, "/v2/_catalog?n=2", "repositories");
    assert_eq!(json!(two), json!([["a", "a-b"], ["a/b/c", "a/c"], ["b"]]));
}

/// `#listing-referrers`: end-12a, end-12b.
#[test]
fn referrers_are_listed_with_their_types_and_annotations() {
    let server = Server::open();
    let image = server.image("a", "v1", b"layer");
    let subject = Digest::sha256(&image).to_string();
    let about = json!({ "mediaType": MANIFEST, "digest": subject, "size": image.len() });
    let path = format!("/v2/a/referrers/{subject}");
    let none = server.get(&path).is(200);
    assert_eq!(none.header("content-type"), Some(INDEX));
    assert_eq!(none.json(), json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
    let typed = manifest(
        b"layer",
        json!({ "subject": about, "artifactType": "x/sbom+json", "annotations": { "k": "v" } }),
    );
    let plain = manifest(b"layer", json!({ "subject": about }));
    for bytes in [&typed, &plain] {
        server.manifest("a", &Digest::sha256(bytes).to_string(), bytes).is(201);
    }
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": about }).to_string();
    let by_digest = format!("/v2/a/manifests/{}", Digest::sha256(index.as_bytes()));
    server.request("PUT", &by_digest, &[("Content-Type", INDEX)], index.as_bytes()).is(201);
    let entry = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len() });
    let mut expected = [entry(MANIFEST, &typed), entry(MANIFEST, &plain), entry(INDEX, index.as_bytes())];
    expected[0]["artifactType"] = json!("x/sbom+json");
    expected[0]["annotations"] = json!({ "k": "v" });
    expected[1]["artifactType"] = json!("application/vnd.oci.image.config.v1+json");
    let by_name =
        |list: &mut Vec<Value>| list.sort_by_key(|entry| entry["digest"].as_str().unwrap().to_owned());
    let mut expected = expected.to_vec();
    by_name(&mut expected);
    assert_eq!(server.get(&path).json()["manifests"], json!(expected));
    let single = pages(&server, &format!("{path}?n=1"), "manifests");
    assert_eq!(json!(single.concat()), json!(expected));
    let filtered = server.get(&format!("{path}?artifactType=x%2Fsbom%2Bjson")).is(200);
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&path).header("oci-filters-applied"), None);
    // Never 404: also for a subject that nobody has pushed, in a repository that is not there.
    let other = Digest::sha256(b"never pushed");
    assert_eq!(server.get(&format!("/v2/none/referrers/{other}")).is(200).json()["manifests"], json!([]));
    server.get("/v2/a/referrers/sha256:0").is(400);
    // A referrer that is deleted is not listed.
    server.request("DELETE", &by_digest, &[], b"").is(202);
    assert_eq!(server.get(&path).json()["manifests"].as_array().unwrap().len(), 2);
}
