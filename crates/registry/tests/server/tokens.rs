//! Tokens: given out for rights that are there, believed only as they were given.

use crate::attacks::{Guarded, basic, users};
use crate::support::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hull_registry::server::Order;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

fn token(guarded: &Guarded, user: &str, scopes: &str) -> String {
    let path = format!("/token?service=hull-registry&{scopes}");
    let answer = guarded.by(user, "GET", &path, b"").is(200).json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert!(answer["expires_in"].as_u64().unwrap() >= 60);
    answer["token"].as_str().unwrap().to_owned()
}

fn with(guarded: &Guarded, token: &str, method: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    guarded.server.request(method, path, &[("Authorization", &bearer)], b"")
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[test]
fn a_challenge_says_where_a_token_is_and_what_for() {
    let guarded = Guarded::open();
    let challenge = |method: &str, path: &str| {
        let answer = guarded.by("", method, path, b"").is(401);
        answer.header("www-authenticate").unwrap().to_owned()
    };
    let at = format!("Bearer realm=\"http://{}/token\",service=\"hull-registry\"", guarded.server.address);
    assert_eq!(challenge("GET", "/v2/"), at);
    assert_eq!(challenge("GET", "/v2/a/manifests/v1"), format!("{at},scope=\"repository:a:pull\""));
    assert_eq!(challenge("PUT", "/v2/a/manifests/v1"), format!("{at},scope=\"repository:a:pull,push\""));
    assert_eq!(challenge("DELETE", "/v2/a/manifests/v1"), format!("{at},scope=\"repository:a:delete\""));
    assert_eq!(challenge("GET", "/v2/_catalog"), format!("{at},scope=\"registry:catalog:*\""));
    let mount = format!("/v2/a/blobs/uploads/?mount={}&from=b", hull_oci::Digest::sha256(b""));
    let both = "repository:a:pull,push repository:b:pull";
    assert_eq!(challenge("POST", &mount), format!("{at},scope=\"{both}\""));
}

#[test]
fn a_token_has_as_much_as_its_owner_and_as_was_asked_for() {
    let guarded = Guarded::open();
    let reader = token(&guarded, "reader", "scope=repository:a:pull,push&scope=repository:b:pull");
    let access = claims(&reader)["access"].clone();
    assert_eq!(
        access,
        json!([
            { "type": "repository", "name": "a", "actions": ["pull"] },
            { "type": "repository", "name": "b", "actions": [] }
        ])
    );
    with(&guarded, &reader, "GET", "/v2/").is(200);
    with(&guarded, &reader, "GET", "/v2/a/manifests/v1").is(200);
    with(&guarded, &reader, "POST", "/v2/a/blobs/uploads/").is(403);
    with(&guarded, &reader, "GET", "/v2/b/manifests/v1").is(403);
    // An owner's token for less is for less: another one is asked for.
    let owner = token(&guarded, "owner", "scope=repository:a:pull");
    with(&guarded, &owner, "GET", "/v2/a/manifests/v1").is(200);
    assert!(
        with(&guarded, &owner, "DELETE", "/v2/a/manifests/v1").is(401).header("www-authenticate").is_some()
    );
    with(&guarded, &owner, "GET", "/v2/public/c/manifests/v1").is(401);
    with(&guarded, &owner, "GET", "/v2/_catalog").is(401);
    let all = token(&guarded, "owner", "scope=repository:a:*+registry:catalog:*");
    with(&guarded, &all, "DELETE", "/v2/a/manifests/v1").is(202);
    assert_eq!(
        with(&guarded, &all, "GET", "/v2/_catalog").is(200).json()["repositories"],
        json!(["a", "public/c"])
    );
    // Nobody's token is for what everybody may.
    let nobody = token(&guarded, "", "scope=repository:public/c:pull,push&scope=repository:a:pull");
    with(&guarded, &nobody, "GET", "/v2/public/c/manifests/v1").is(200);
    with(&guarded, &nobody, "POST", "/v2/public/c/blobs/uploads/").is(401);
    with(&guarded, &nobody, "GET", "/v2/a/manifests/v1").is(401);
}

#[test]
fn a_mount_needs_both_rights_in_the_token() {
    let guarded = Guarded::open();
    let digest = hull_oci::Digest::sha256(b"layer of public/c");
    let path = format!("/v2/a/blobs/uploads/?mount={digest}&from=public/c");
    let one = token(&guarded, "owner", "scope=repository:a:pull,push");
    with(&guarded, &one, "POST", &path).is(202);
    let both = token(&guarded, "owner", "scope=repository:a:pull,push&scope=repository:public/c:pull");
    with(&guarded, &both, "POST", &path).is(201);
}

#[test]
fn a_token_is_given_for_a_password_alone() {
    let guarded = Guarded::open();
    let server = &guarded.server;
    let wrong = "Basic b3duZXI6d3Jvbmc=";
    server.request("GET", "/token", &[("Authorization", wrong)], b"").is(401);
    let form = |text: &str| server.request("POST", "/token", &[], text.as_bytes());
    let good =
        "grant_type=password&username=owner&password=secret&service=hull-registry&scope=repository:a:pull";
    let token = form(good).is(200).json()["access_token"].as_str().unwrap().to_owned();
    with(&guarded, &token, "GET", "/v2/a/manifests/v1").is(200);
    form(&good.replace("secret", "wrong")).is(401);
    form("grant_type=refresh_token&refresh_token=x").is(404);
    form(&"x".repeat(1 << 20)).is(400);
    // A token makes no other.
    with(&guarded, &token, "GET", "/token?scope=repository:a:pull").is(401);
    server.request("DELETE", "/token", &[("Authorization", &basic("owner"))], b"").is(405);
}

#[test]
fn a_forged_token_opens_nothing() {
    let guarded = Guarded::open();
    let path = "/v2/a/manifests/v1";
    let good = token(&guarded, "owner", "scope=repository:a:pull,push");
    with(&guarded, &good, "GET", path).is(200);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = parts[..] else { panic!("{good}") };
    let random = SystemRandom::new();
    let theirs =
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
    let sign = |header: &str, claims: &Value| {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(theirs.sign(signed.as_bytes())))
    };
    let claimed = claims(&good);
    let mut more = claimed.clone();
    more["access"][0]["actions"] = json!(["pull", "push", "delete"]);
    let mut late = claimed.clone();
    late["exp"] = json!(4_000_000_000_u64);
    let plain = r#"{"alg":"EdDSA","typ":"JWT"}"#;
    for forged in [
        sign(plain, &claimed),
        sign(r#"{"alg":"EdDSA","typ":"JWT","jwk":{"kty":"OKP"}}"#, &claimed),
        sign(r#"{"alg":"none"}"#, &claimed),
        format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)),
        format!("{header}.{body}."),
        format!("{header}.{body}"),
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(more.to_string())),
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(late.to_string())),
        String::new(),
    ] {
        with(&guarded, &forged, "GET", path).is(401);
    }
}

#[test]
fn a_token_is_worth_what_its_owner_may_do_now() {
    let guarded = Guarded::open();
    let path = "/v2/a/blobs/uploads/";
    let writer = token(&guarded, "writer", "scope=repository:a:pull,push");
    with(&guarded, &writer, "POST", path).is(202);
    std::fs::write(&guarded.file, users(&[])).unwrap();
    guarded.server.order(Order::Reload);
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while with(&guarded, &writer, "POST", path).status == 202 {
        assert!(std::time::Instant::now() < limit, "the users are never read again");
    }
    with(&guarded, &writer, "POST", path).is(403);
}
