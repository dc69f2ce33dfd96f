//! The client against registries of the test's own, which answer as no good one would. Where a rule keeps something
//! from happening, the same test shows that it happens without the rule's reason.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hull_fetch::Proxies;
use hull_oci::image::{Descriptor, media_type};
use hull_oci::{Digest, Reference};
use hull_registry::Credentials;
use hull_registry::client::{Access, Client, Error, Hosts, Kind, Repository};
use hull_testkit::{answer, serve};

fn hosts() -> Hosts {
    let long = Duration::from_secs(30);
    let fetch = hull_fetch::Options {
        connect: long,
        idle: long,
        proxies: Some(Proxies::default()),
        ..hull_fetch::Options::default()
    };
    Hosts { certificates: Vec::new(), attempts: 3, wait: Duration::from_millis(1), fetch, ..Hosts::default() }
}

fn at(server: impl std::fmt::Display, credentials: Credentials) -> Repository {
    let name = Reference::parse(&format!("{server}/team/app:1")).unwrap();
    Client::new(hosts()).repository(&name, credentials, Access::Pull)
}

fn password() -> Credentials {
    Credentials::Password { user: "u".into(), password: "p".into() }
}

/// `u:p`.
const BASIC: &str = "authorization: Basic dTpw\r\n";

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

fn json(body: &str) -> Vec<u8> {
    answer("200 OK", "Content-Type: application/json\r\n", body.as_bytes())
}

fn refusal(challenge: &str) -> Vec<u8> {
    answer("401 Unauthorized", &format!("WWW-Authenticate: {challenge}\r\n"), b"")
}

/// A manifest of nothing.
fn manifest() -> String {
    let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
    let config = serde_json::to_string(&config).unwrap();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[]}}"#,
        media_type::OCI_MANIFEST
    )
}

fn as_manifest(headers: &str, body: &str) -> Vec<u8> {
    let headers = format!("Content-Type: {}\r\n{headers}", media_type::OCI_MANIFEST);
    answer("200 OK", &headers, body.as_bytes())
}

type Heads = Arc<Mutex<Vec<String>>>;

/// A server that notes the heads of its requests.
fn noting(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (std::net::SocketAddr, Heads) {
    let heads = Heads::default();
    let noted = Arc::clone(&heads);
    let server = serve(move |head| {
        noted.lock().unwrap().push(head.to_owned());
        reply(head)
    });
    (server, heads)
}

#[tokio::test]
async fn tokens_are_had_from_the_realm_remembered_and_had_anew_when_refused() {
    let tokens = Arc::new(Mutex::new(0));
    let count = Arc::clone(&tokens);
    let (realm, asked) = noting(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        json(&format!(r#"{{"token":"t{count}","expires_in":300}}"#))
    });
    let (server, heads) = noting(move |head| match path(head) {
        // The first token is not good enough for long.
        "/v2/team/app/manifests/1" if head.contains("authorization: Bearer t1\r\n") => {
            as_manifest("", &manifest())
        }
        "/v2/team/app/manifests/2" if head.contains("authorization: Bearer t2\r\n") => {
            as_manifest("", &manifest())
        }
        _ => refusal(&format!("Bearer realm=\"http://{realm}/token\",service=\"s\"")),
    });
    let client = Client::new(hosts());
    let name = Reference::parse(&format!("{server}/team/app:1")).unwrap();
    for tag in ["1", "1", "2"] {
        let repository = client.repository(&name, password(), Access::Pull);
        assert_eq!(repository.manifest(tag).await.unwrap().bytes, manifest());
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for head in &asked {
        assert_eq!(path(head), "/token?service=s&scope=repository%3Ateam%2Fapp%3Apull&account=u");
        assert!(head.contains(BASIC), "{head}");
    }
    assert!(heads.lock().unwrap().iter().all(|head| !head.contains("Basic")), "the password is the realm's");
    // Somebody else's tokens are not his.
    let other = client.repository(&name, Credentials::Anonymous, Access::Pull);
    let refused = other.manifest("1").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthorized, "{refused}");
}

#[tokio::test]
async fn what_a_server_wants_is_learned_from_its_first_refusal() {
    // It lets everybody ask who is there.
    let (server, heads) = noting(|head| match (head.contains(BASIC), path(head)) {
        (_, "/v2/") => json("{}"),
        (true, _) => as_manifest("", &manifest()),
        (false, _) => refusal("Basic realm=\"here\""),
    });
    let repository = at(server, password());
    for tag in ["1", "2"] {
        repository.manifest(tag).await.unwrap();
    }
    let told: Vec<bool> = heads.lock().unwrap().iter().map(|head| head.contains(BASIC)).collect();
    assert_eq!(told, [false, false, true, true]);
}

#[tokio::test]
async fn an_identity_token_goes_in_a_form_and_nowhere_else() {
    let (realm, asked) = noting(|head| match head.starts_with("POST ") {
        true => json(r#"{"access_token":"good"}"#),
        false => answer("400 Bad Request", "", b""),
    });
    let (server, _) = noting(move |head| match head.contains("authorization: Bearer good\r\n") {
        true => as_manifest("", &manifest()),
        false => refusal(&format!("Bearer realm=\"http://{realm}/token\",service=\"s\"")),
    });
    let token = Credentials::IdentityToken { user: "u".into(), token: "s3cret".into() };
    at(server, token).manifest("1").await.unwrap();
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().all(|head| !head.contains("s3cret") && !head.contains("authorization")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_password_is_shown_where_it_is_asked_for_and_who_has_none_is_told() {
    let (server, heads) = noting(|head| match (head.contains(BASIC), path(head)) {
        (false, _) => refusal("Basic realm=\"here\""),
        (true, "/v2/") => json("{}"),
        (true, _) => as_manifest("", &manifest()),
    });
    at(server, password()).manifest("1").await.unwrap();
    assert_eq!(Client::new(hosts()).check(&server.to_string(), password()).await.unwrap(), None);
    heads.lock().unwrap().clear();
    let refused = at(server, Credentials::Anonymous).manifest("1").await.unwrap_err();
    let expected = format!("Head \"http://{server}/v2/team/app/manifests/1\": no basic auth credentials");
    assert_eq!(refused.to_string(), expected);
    let wrong = Credentials::Password { user: "u".into(), password: "wrong".into() };
    let refused = at(server, wrong.clone()).manifest("1").await.unwrap_err();
    assert!(refused.to_string().ends_with("unauthorized: authentication required"), "{refused}");
    let refused = Client::new(hosts()).check(&server.to_string(), wrong).await.unwrap_err();
    let expected = format!("login attempt to http://{server}/v2/ failed with status: 401 Unauthorized");
    assert_eq!(refused.to_string(), expected);
}

#[tokio::test]
async fn what_is_shown_to_a_registry_does_not_follow_to_where_it_leads() {
    let (other, seen) = noting(|_| as_manifest("", &manifest()));
    let (server, _) = noting(move |head| match path(head) {
        "/v2/" => refusal("Basic realm=\"here\""),
        _ if !head.contains(BASIC) => refusal("Basic realm=\"here\""),
        "/v2/team/app/manifests/1" => {
            answer("307 Temporary Redirect", &format!("Location: http://{other}/x\r\n"), b"")
        }
        // The control: the same within the registry.
        "/v2/team/app/manifests/2" => answer("307 Temporary Redirect", "Location: /there\r\n", b""),
        "/there" => as_manifest("", &manifest()),
        _ => answer("404 Not Found", "", b""),
    });
    let repository = at(server, password());
    repository.manifest("2").await.unwrap();
    repository.manifest("1").await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 1 && !seen[0].contains("authorization"), "{seen:?}");
}

#[tokio::test]
async fn who_is_led_elsewhere_by_the_first_answer_shows_nothing_there() {
    let (other, seen) = noting(|_| refusal("Basic realm=\"there\""));
    let (server, _) = noting(move |head| match path(head) {
        "/v2/" => answer("307 Temporary Redirect", &format!("Location: http://{other}/v2/\r\n"), b""),
        _ => answer("307 Temporary Redirect", &format!("Location: http://{other}/x\r\n"), b""),
    });
    at(server, password()).manifest("1").await.unwrap_err();
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|head| !head.contains("authorization")), "{seen:?}");
}

#[tokio::test]
async fn nobody_is_sent_to_link_local_addresses() {
    for place in ["http://169.254.169.254/latest", "http://[fe80::1]/x", "http://[::ffff:169.254.169.254]/x"]
    {
        let realm = place.to_owned();
        let (server, _) = noting(move |_| refusal(&format!("Bearer realm=\"{realm}\",service=\"s\"")));
        let refused = at(server, password()).manifest("1").await.unwrap_err().to_string();
        assert!(refused.contains("link-local"), "{refused}");
        let led = place.to_owned();
        let (server, _) = noting(move |head| match path(head) {
            "/v2/" => json("{}"),
            _ => answer("307 Temporary Redirect", &format!("Location: {led}\r\n"), b""),
        });
        let refused = at(server, password()).manifest("1").await.unwrap_err().to_string();
        assert!(refused.contains("link-local"), "{refused}");
    }
}

#[tokio::test]
async fn a_document_is_what_was_asked_for_or_an_error() {
    let other = r#"{"schemaVersion":2,"manifests":[]}"#;
    let (server, _) = noting(move |head| {
        let digest = Digest::sha256(manifest().as_bytes());
        match path(head).strip_prefix("/v2/team/app/manifests/") {
            None => json("{}"),
            Some("good") => as_manifest(&format!("Docker-Content-Digest: {digest}\r\n"), &manifest()),
            Some("lying") => as_manifest(&format!("Docker-Content-Digest: {digest}\r\n"), other),
            Some("odd") => as_manifest("Docker-Content-Digest: ../../x\r\n", &manifest()),
            Some("index") => as_manifest("", other),
            Some("huge") => as_manifest("", &" ".repeat((4 << 20) + 1)),
            Some("both") => as_manifest("", &manifest().replacen('{', "{\"manifests\":[],", 1)),
            Some(text) if text == digest.to_string() => as_manifest("", &manifest()),
            Some(_) => as_manifest("", other),
        }
    });
    let repository = at(server, Credentials::Anonymous);
    let good = Digest::sha256(manifest().as_bytes());
    assert_eq!(repository.manifest("good").await.unwrap().descriptor.digest, good);
    assert_eq!(repository.manifest(&good.to_string()).await.unwrap().bytes, manifest());
    let described = Descriptor::new(media_type::OCI_MANIFEST, good.clone(), manifest().len() as u64);
    assert_eq!(repository.document(&described).await.unwrap().descriptor, described);
    let failed = async |tag: &str| repository.manifest(tag).await.unwrap_err();
    assert!(matches!(failed("lying").await, Error::Digest { .. }));
    assert!(matches!(failed("odd").await, Error::Nonsense { .. }));
    assert!(matches!(failed("index").await, Error::MediaType { .. }));
    assert!(matches!(failed("huge").await, Error::Large { .. }));
    assert!(matches!(failed("both").await, Error::Document { .. }));
    let missing = Digest::sha256(b"something else");
    assert!(matches!(failed(&missing.to_string()).await, Error::Digest { .. }));
    let typed = Descriptor { media_type: media_type::OCI_INDEX.into(), ..described.clone() };
    assert!(matches!(repository.document(&typed).await.unwrap_err(), Error::MediaType { .. }));
    let sized = Descriptor { size: 1, ..described };
    assert!(matches!(repository.document(&sized).await.unwrap_err(), Error::Size { .. }));
}

/// All of a blob, from one of its bytes on.
async fn rest(repository: &Repository, blob: &Descriptor, from: u64) -> Result<Vec<u8>, Error> {
    let mut stream = repository.blob(blob, from).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.piece().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A server with one blob, whose answer to the request of that number (from 0 on, behind the first question)
/// and range is the test's.
fn with_blob(
    reply: impl Fn(usize, Option<usize>, &[u8]) -> Vec<u8> + Send + Sync + 'static,
) -> (Repository, Descriptor, Heads) {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let blob = Descriptor::of(media_type::OCI_LAYER, &bytes);
    let count = Mutex::new(0);
    let (server, heads) = noting(move |head| {
        if !path(head).contains("/blobs/") {
            return json("{}");
        }
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
        let from = range.map(|range| range.trim_end_matches('-').parse().unwrap());
        let mut count = count.lock().unwrap();
        *count += 1;
        reply(*count - 1, from, &bytes)
    });
    (at(server, Credentials::Anonymous), blob, heads)
}

fn part(from: usize, bytes: &[u8]) -> Vec<u8> {
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    answer("206 Partial Content", &range, &bytes[from..])
}

/// An answer that breaks off.
fn cut(whole: Vec<u8>, bytes: usize) -> Vec<u8> {
    let head = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    whole[..head + bytes].to_vec()
}

#[tokio::test]
async fn a_blob_goes_on_where_it_broke_off() {
    let (repository, blob, heads) = with_blob(|count, from, bytes| match (count, from) {
        (0, None) => cut(answer("200 OK", "", bytes), 1000),
        (1, Some(1000)) => answer("503 Service Unavailable", "Retry-After: 0\r\n", b""),
        (2, Some(1000)) => cut(part(1000, bytes), 500),
        // A server that knows no ranges.
        (3, Some(1500)) => answer("200 OK", "", bytes),
        other => panic!("{other:?}"),
    });
    let found = rest(&repository, &blob, 0).await.unwrap();
    assert_eq!(Digest::sha256(&found), blob.digest);
    assert_eq!(heads.lock().unwrap().len(), 5, "the first asks who is there");
    let (repository, blob, _) = with_blob(|_, from, bytes| part(from.unwrap(), bytes));
    assert_eq!(rest(&repository, &blob, 99_990).await.unwrap().len(), 10);
    assert_eq!(rest(&repository, &blob, blob.size).await.unwrap().len(), 0);
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_are_noticed() {
    type Reply = fn(usize, Option<usize>, &[u8]) -> Vec<u8>;
    let lies: [(Reply, u64); 6] = [
        // Another place than was asked for.
        (|_, from, bytes| part(from.unwrap() + 1, bytes), 10),
        (|_, _, bytes| part(0, bytes), 10),
        // Another length, said or not.
        (|_, _, bytes| answer("200 OK", "", &bytes[..50_000]), 0),
        (|_, _, bytes| answer("200 OK", "", &[bytes, bytes].concat()), 0),
        (|_, _, bytes| [b"HTTP/1.1 200 OK\r\n\r\n", bytes, b"more"].concat(), 0),
        (|_, _, bytes| [b"HTTP/1.1 206 Partial Content\r\n\r\n", &bytes[10..]].concat(), 10),
    ];
    for (index, (lie, from)) in lies.into_iter().enumerate() {
        let (repository, blob, _) = with_blob(lie);
        let error = rest(&repository, &blob, from).await.unwrap_err();
        assert!(matches!(error, Error::Range { .. } | Error::Size { .. }), "{index}: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{index}: {error}");
    }
    // One that always breaks off is left alone in the end.
    let (repository, blob, heads) = with_blob(|_, from, bytes| cut(part(from.unwrap_or(0), bytes), 1));
    let error = rest(&repository, &blob, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert_eq!(heads.lock().unwrap().len(), 4);
    // What a descriptor says of other places is nobody's concern.
    let (repository, mut blob, _) = with_blob(|_, _, bytes| answer("200 OK", "", bytes));
    let (elsewhere, seen) = noting(|_| json("{}"));
    blob.urls = vec![format!("http://{elsewhere}/blob")];
    rest(&repository, &blob, 0).await.unwrap();
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn lists_of_tags_come_page_by_page_and_end() {
    let (elsewhere, seen) = noting(|_| json(r#"{"tags":["stolen"]}"#));
    let (server, _) = noting(move |head| {
        let page = |tags: &str, next: &str| {
            let link =
                if next.is_empty() { String::new() } else { format!("Link: <{next}>; rel=\"next\"\r\n") };
            answer("200 OK", &link, format!(r#"{{"name":"x","tags":{tags}}}"#).as_bytes())
        };
        match path(head) {
            "/v2/team/app/tags/list" => page(r#"["b","a"]"#, "/v2/team/app/tags/list?last=b&n=2"),
            "/v2/team/app/tags/list?last=b&n=2" => page(r#"["c"]"#, ""),
            "/v2/team/away/tags/list" => page(r#"["a"]"#, &format!("http://{elsewhere}/v2/")),
            "/v2/team/odd/tags/list" => page(r#"["../../x"]"#, ""),
            "/v2/team/none/tags/list" => page("null", ""),
            _ => json("{}"),
        }
    });
    let of = |name: &str| {
        let name = Reference::parse(&format!("{server}/team/{name}")).unwrap();
        Client::new(hosts()).repository(&name, Credentials::Anonymous, Access::Pull)
    };
    assert_eq!(of("app").tags().await.unwrap(), ["a", "b", "c"]);
    assert_eq!(of("none").tags().await.unwrap(), Vec::<String>::new());
    assert!(matches!(of("away").tags().await.unwrap_err(), Error::Nonsense { .. }));
    assert!(matches!(of("odd").tags().await.unwrap_err(), Error::Nonsense { .. }));
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn mirrors_are_asked_first_and_without_credentials() {
    let (empty, first) = noting(|head| match path(head) {
        "/v2/" => json("{}"),
        _ => answer("404 Not Found", "", b""),
    });
    let (full, second) = noting(|head| match path(head) {
        "/sub/v2/" => json("{}"),
        _ => as_manifest("", &manifest()),
    });
    let mirrors = vec![format!("http://{empty}/"), format!("http://{full}/sub/")];
    let client = Client::new(Hosts { mirrors, ..hosts() });
    let name = Reference::parse("busybox:1").unwrap();
    let repository = client.repository(&name, password(), Access::Pull);
    assert_eq!(repository.manifest("1").await.unwrap().bytes, manifest());
    let paths = |heads: &Heads| -> Vec<String> {
        heads.lock().unwrap().iter().map(|head| path(head).to_owned()).collect()
    };
    assert_eq!(paths(&first), ["/v2/", "/v2/library/busybox/manifests/1"]);
    assert_eq!(paths(&second), ["/sub/v2/", "/sub/v2/library/busybox/manifests/1"]);
    for head in first.lock().unwrap().iter().chain(second.lock().unwrap().iter()) {
        assert!(!head.contains("authorization"), "{head}");
    }
}
