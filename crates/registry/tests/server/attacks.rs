//! K15: who may do what. Each user by each repository by each verb; and the ways around.

use crate::support::{Answer, Server, manifest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hull_oci::Digest;
use hull_registry::server::{Auth, Order};
use serde_json::json;

const PASSWORD: &str = "secret";

pub(crate) fn hash() -> String {
    bcrypt::hash_with_salt(PASSWORD.as_bytes(), 4, *b"0123456789abcdef").unwrap().to_string()
}

pub(crate) fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{PASSWORD}")))
}

/// `reader` may pull `a`, `writer` pull and push it, `owner` all of it; `other` has `b` alone. Everybody may
/// pull what is below `public`.
pub(crate) fn users(members: &[&str]) -> String {
    let names = ["reader", "writer", "owner", "other"];
    let users: serde_json::Map<String, serde_json::Value> =
        names.iter().map(|name| ((*name).to_owned(), json!(hash()))).collect();
    json!({
        "users": users,
        "groups": { "writers": members },
        "rules": [
            { "who": ["reader", "@writers", "owner"], "repositories": ["a"], "allow": ["pull"] },
            { "who": ["@writers", "owner"], "repositories": ["a"], "allow": ["push"] },
            { "who": ["owner"], "repositories": ["a"], "allow": ["delete"] },
            { "who": ["other"], "repositories": ["b", "b/**"], "allow": ["pull", "push", "delete"] },
            { "who": ["anonymous"], "repositories": ["public/**"], "allow": ["pull"] },
            { "who": ["owner"], "repositories": ["public/**"], "allow": ["pull", "push"] }
        ]
    })
    .to_string()
}

/// A registry with these users, and what `owner` and `other` have put into it.
pub(crate) struct Guarded {
    pub server: Server,
    pub file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Guarded {
    pub(crate) fn open() -> Guarded {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.json");
        std::fs::write(&file, users(&["writer"])).unwrap();
        let auth = Auth::Users(file.clone());
        let guarded = Guarded { server: Server::with(|options| options.auth = auth), file, _folder: folder };
        for (user, name) in [("owner", "a"), ("other", "b"), ("owner", "public/c")] {
            let layer = format!("layer of {name}").into_bytes();
            for bytes in [&b"{}"[..], &layer] {
                let path = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::sha256(bytes));
                guarded.by(user, "POST", &path, bytes).is(201);
            }
            guarded
                .by(user, "PUT", &format!("/v2/{name}/manifests/v1"), &manifest(&layer, json!({})))
                .is(201);
        }
        guarded
    }

    /// Asks as a user, or as nobody.
    pub(crate) fn by(&self, user: &str, method: &str, path: &str, body: &[u8]) -> Answer {
        let authorization = basic(user);
        let mut headers = vec![("Content-Type", crate::support::MANIFEST)];
        if !user.is_empty() {
            headers.push(("Authorization", authorization.as_str()));
        }
        self.server.request(method, path, &headers, body)
    }
}

/// The answer of each verb to each user for a repository: what is allowed is never 401 or 403.
fn row(guarded: &Guarded, user: &str, name: &str) -> String {
    let layer = Digest::sha256(format!("layer of {name}").as_bytes());
    let none = Digest::sha256(b"never pushed");
    let id = "00000000-0000-4000-8000-000000000000";
    let pull = [
        ("GET", format!("/v2/{name}/manifests/v1")),
        ("HEAD", format!("/v2/{name}/manifests/v1")),
        ("GET", format!("/v2/{name}/blobs/{layer}")),
        ("HEAD", format!("/v2/{name}/blobs/{layer}")),
        ("GET", format!("/v2/{name}/tags/list")),
        ("GET", format!("/v2/{name}/referrers/{layer}")),
    ];
    let push = [
        ("POST", format!("/v2/{name}/blobs/uploads/")),
        ("POST", format!("/v2/{name}/blobs/uploads/?digest={}", Digest::sha256(b""))),
        ("POST", format!("/v2/{name}/blobs/uploads/?mount={layer}&from={name}")),
        ("PUT", format!("/v2/{name}/manifests/latest")),
        ("PUT", format!("/v2/{name}/manifests/v1")),
        ("GET", format!("/v2/{name}/blobs/uploads/{id}")),
        ("PATCH", format!("/v2/{name}/blobs/uploads/{id}")),
        ("PUT", format!("/v2/{name}/blobs/uploads/{id}?digest={none}")),
        ("DELETE", format!("/v2/{name}/blobs/uploads/{id}")),
    ];
    let delete = [
        ("DELETE", format!("/v2/{name}/manifests/none")),
        ("DELETE", format!("/v2/{name}/manifests/{none}")),
        ("DELETE", format!("/v2/{name}/blobs/{none}")),
    ];
    let allowed = |requests: &[(&str, String)]| {
        let mut answers = requests.iter().map(|(method, path)| {
            let status = guarded.by(user, method, path, b"").status;
            (!matches!(status, 401 | 403), format!("{user} {method} {path}: {status}"))
        });
        let (first, _) = answers.next().unwrap();
        for (allowed, what) in answers {
            assert_eq!(allowed, first, "{what}");
        }
        first
    };
    let words = [("pull", allowed(&pull)), ("push", allowed(&push)), ("delete", allowed(&delete))];
    words.iter().filter(|(_, allowed)| *allowed).map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_user_has_the_rights_that_the_rules_give_and_no_other() {
    let guarded = Guarded::open();
    for (user, name, rights) in [
        ("", "a", ""),
        ("", "b", ""),
        ("", "public/c", "pull"),
        ("reader", "a", "pull"),
        ("reader", "b", ""),
        ("reader", "public/c", "pull"),
        ("writer", "a", "pull push"),
        ("writer", "a/below", ""),
        ("writer", "public/c", "pull"),
        ("owner", "a", "pull push delete"),
        ("owner", "b", ""),
        ("owner", "public/c", "pull push"),
        ("other", "a", ""),
        ("other", "b", "pull push delete"),
        ("other", "b/below/it", "pull push delete"),
    ] {
        assert_eq!(row(&guarded, user, name), rights, "{user:?} in {name}");
    }
    // Who is nobody is asked who they are; who is somebody hears that it is not theirs.
    let path = "/v2/b/manifests/v1";
    assert_eq!(guarded.by("", "GET", path, b"").is(401).code(), "UNAUTHORIZED");
    assert_eq!(guarded.by("reader", "GET", path, b"").is(403).code(), "DENIED");
    // Whether there is such a repository makes no difference.
    assert_eq!(guarded.by("reader", "GET", "/v2/none/manifests/v1", b"").is(403).code(), "DENIED");
}

#[test]
fn a_blob_is_seen_through_a_repository_that_has_it_and_may_be_read() {
    let guarded = Guarded::open();
    let digest = Digest::sha256(b"layer of b");
    // By digest in a repository of one's own that does not have it.
    guarded.by("owner", "GET", &format!("/v2/a/blobs/{digest}"), b"").is(404);
    guarded.by("owner", "HEAD", &format!("/v2/a/blobs/{digest}"), b"").is(404);
    // Mounted without the right to read it there: as if it were not there.
    let mount = format!("/v2/a/blobs/uploads/?mount={digest}&from=b");
    guarded.by("owner", "POST", &mount, b"").is(202);
    guarded.by("owner", "GET", &format!("/v2/a/blobs/{digest}"), b"").is(404);
    guarded.by("owner", "POST", &format!("/v2/a/blobs/uploads/?mount={digest}"), b"").is(202);
    // A manifest does not fetch it in.
    let bytes = manifest(b"layer of b", json!({}));
    guarded.by("owner", "PUT", "/v2/a/manifests/stolen", &bytes).is(400);
    // The control: where both may be read, it is mounted.
    let shared = Digest::sha256(b"layer of public/c");
    guarded.by("owner", "POST", &format!("/v2/a/blobs/uploads/?mount={shared}&from=public/c"), b"").is(201);
}

#[test]
fn a_blob_that_was_deleted_does_not_come_back() {
    let guarded = Guarded::open();
    let digest = Digest::sha256(b"layer of a");
    let path = format!("/v2/a/blobs/{digest}");
    guarded.by("owner", "DELETE", &path, b"").is(202);
    guarded.by("owner", "GET", &path, b"").is(404);
    // Its bytes are still on the disk, and nobody gets them: not by a mount, not by a manifest.
    guarded.by("owner", "POST", &format!("/v2/a/blobs/uploads/?mount={digest}&from=a"), b"").is(202);
    guarded.by("owner", "POST", &format!("/v2/public/c/blobs/uploads/?mount={digest}&from=a"), b"").is(202);
    let bytes = manifest(b"layer of a", json!({}));
    assert_eq!(
        guarded.by("owner", "PUT", "/v2/a/manifests/v2", &bytes).is(400).code(),
        "MANIFEST_BLOB_UNKNOWN"
    );
    guarded.by("owner", "GET", &path, b"").is(404);
}

#[test]
fn an_upload_belongs_to_its_repository() {
    let guarded = Guarded::open();
    let started = guarded.by("owner", "POST", "/v2/a/blobs/uploads/", b"").is(202);
    let location = started.header("location").unwrap().to_owned();
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        guarded.by("other", method, &location, b"x").is(403);
        // With one's own repository in the path.
        guarded.by("other", method, &location.replace("/a/", "/b/"), b"x").is(404);
    }
    guarded.by("owner", "GET", &location, b"").is(204);
}

#[test]
fn lists_show_what_may_be_pulled() {
    let guarded = Guarded::open();
    let list =
        |user: &str| guarded.by(user, "GET", "/v2/_catalog", b"").is(200).json()["repositories"].clone();
    assert_eq!(list("reader"), json!(["a", "public/c"]));
    assert_eq!(list("other"), json!(["b", "public/c"]));
    guarded.by("", "GET", "/v2/_catalog", b"").is(401);
}

#[test]
fn who_leaves_a_group_loses_its_rights_with_the_next_reload() {
    let guarded = Guarded::open();
    let start = |user: &str| guarded.by(user, "POST", "/v2/a/blobs/uploads/", b"").status;
    assert_eq!(start("writer"), 202);
    let reload = |text: &str| {
        std::fs::write(&guarded.file, text).unwrap();
        guarded.server.order(Order::Reload);
        // One order waits at most, and is taken when the one before is done: then a third can be given.
        guarded.server.order(Order::Collect);
        guarded.server.order(Order::Collect);
    };
    // What cannot be read changes nothing.
    reload("not json");
    assert_eq!((start("writer"), start("reader")), (202, 403));
    reload(&users(&["reader"]));
    assert_eq!((start("writer"), start("reader")), (403, 202));
}

#[test]
fn with_htpasswd_its_users_may_everything_and_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, format!("owner:{}\n", hash())).unwrap();
    let server = Server::with(|options| options.auth = Auth::Htpasswd(file));
    let asked = server.get("/v2/").is(401);
    assert_eq!(asked.header("www-authenticate"), Some("Basic realm=\"Hull registry\""));
    assert_eq!(asked.header("docker-distribution-api-version"), Some("registry/2.0"));
    for wrong in ["Basic !", "Basic", "Bearer x", "Basic b3duZXI6d3Jvbmc=", &basic("nobody")] {
        server.request("GET", "/v2/", &[("Authorization", wrong)], b"").is(401);
    }
    let authorization = basic("owner");
    let owner = [("Authorization", authorization.as_str())];
    server.request("GET", "/v2/", &owner, b"").is(200);
    server.request("POST", "/v2/a/blobs/uploads/", &owner, b"").is(202);
    server.get("/v2/_catalog").is(401);
    server.get("/token").is(404);
}
