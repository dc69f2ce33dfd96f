//! Against a server of a few lines, so that the bytes on the wire are seen.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

#[test]
fn hosts_are_parsed_or_refused_with_a_reason() {
    let parse = |host: &str| match Endpoint::parse(host) {
        Ok(endpoint) => endpoint.to_string(),
        Err(error) => error.to_string(),
    };
    assert_eq!(parse("unix:///run/x.sock"), "unix:///run/x.sock");
    assert_eq!(parse("tcp://h"), "tcp://h:2375");
    assert_eq!(parse("tcp://h:1"), "tcp://h:1");
    assert_eq!(parse("tcp://[::1]"), "tcp://[::1]:2375");
    assert_eq!(parse("tcp://[::1]:99"), "tcp://[::1]:99");
    for (host, reason) in [
        ("h:1", "scheme"),
        ("tcp://", "host"),
        ("tcp://h:x", "port"),
        ("unix://", "socket"),
        ("ssh://h", "ssh"),
    ] {
        assert!(parse(host).contains(reason), "{host}: {}", parse(host));
    }
}

#[test]
fn the_other_socket_is_used_only_when_it_alone_exists() {
    let chosen = |there: &'static [&'static str]| {
        choose(None, None, |path| there.iter().any(|one| path == Path::new(one))).unwrap().to_string()
    };
    let (own, other) = ("/var/run/hull.sock", "/var/run/docker.sock");
    assert_eq!(chosen(&[]), format!("unix://{own}"));
    assert_eq!(chosen(&["/var/run/docker.sock"]), format!("unix://{other}"));
    assert_eq!(chosen(&["/var/run/docker.sock", "/var/run/hull.sock"]), format!("unix://{own}"));
    assert_eq!(choose(Some("tcp://a"), Some("tcp://b"), |_| false).unwrap().to_string(), "tcp://a:2375");
}

#[test]
fn queries_are_sorted_and_escaped_as_go_does() {
    let query = Query::new()
        .with("repo", "docker.io/library/x y")
        .switch("all", true)
        .switch("size", false)
        .unless_empty("name", "");
    assert_eq!(query.encode(), "?all=1&repo=docker.io%2Flibrary%2Fx+y");
    assert_eq!(segment("a:5000/b c?%"), "a:5000/b%20c%3F%25");
}

/// Serves `answers` one after the other, each on the connection's next
/// request, and returns the heads of the requests.
async fn serve(listener: UnixListener, answers: Vec<&'static str>) -> Vec<String> {
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut heads = Vec::new();
    for answer in answers {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.read_u8().await.unwrap());
        }
        heads.push(String::from_utf8(head).unwrap());
        peer.write_all(answer.as_bytes()).await.unwrap();
    }
    heads
}

fn listen() -> (tempfile::TempDir, UnixListener, Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(Endpoint::Unix(path), None);
    (folder, listener, client)
}

fn first_line(head: &str) -> &str {
    head.split("\r\n").next().unwrap()
}

#[tokio::test]
async fn an_older_server_is_asked_again_on_the_same_connection() {
    let (_folder, listener, client) = listen();
    let server = tokio::spawn(serve(
        listener,
        vec![
            "HTTP/1.1 400 Bad Request\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n[]",
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n[]",
        ],
    ));
    let query = Query::new();
    let first = client.get("/containers/json", &query).await.unwrap();
    assert_eq!(first.bytes().await.unwrap(), "[]");
    let second = client.get("/images/json", &query).await.unwrap();
    assert_eq!(second.bytes().await.unwrap(), "[]");
    let heads = server.await.unwrap();
    assert_eq!(
        heads.iter().map(|head| first_line(head)).collect::<Vec<_>>(),
        [
            "GET /v1.53/containers/json HTTP/1.1",
            "GET /v1.41/containers/json HTTP/1.1",
            "GET /v1.41/images/json HTTP/1.1"
        ]
    );
}

#[tokio::test]
async fn a_ping_tells_what_the_server_calls_itself() {
    let (_folder, listener, client) = listen();
    let answers = vec![
        "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nServer: Hull/0.1.0 (linux)\r\nContent-Length: 2\r\n\r\nOK",
        "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 2\r\n\r\nOK",
    ];
    let server = tokio::spawn(serve(listener, answers));
    assert_eq!(client.ping().await.unwrap(), "Hull/0.1.0 (linux)");
    assert_eq!(client.version(), ApiVersion::new(1, 44));
    assert_eq!(client.ping().await.unwrap(), "");
    server.await.unwrap();
}

#[tokio::test]
async fn a_refusal_carries_status_and_message() {
    let (_folder, listener, client) = listen();
    let server = tokio::spawn(serve(
        listener,
        vec![
            "HTTP/1.1 404 Not Found\r\nApi-Version: 1.53\r\nContent-Length: 23\r\n\r\n{\"message\":\"no such x\"}",
        ],
    ));
    let error = client.get("/x", &Query::new()).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "Error response from daemon: no such x");
    server.await.unwrap();
}

#[tokio::test]
async fn a_taken_over_connection_keeps_early_bytes_and_closes_half() {
    let (_folder, listener, client) = listen();
    let server = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly";
        peer.write_all(answer.as_bytes()).await.unwrap();
        let mut input = String::new();
        peer.read_to_string(&mut input).await.unwrap();
        peer.write_all(input.to_uppercase().as_bytes()).await.unwrap();
    });
    let upgraded = client.upgrade("/containers/c/attach", &Query::new(), Body::Empty).await.unwrap();
    assert!(!upgraded.multiplexed);
    let mut got = upgraded.early.to_vec();
    let mut stream = upgraded.stream;
    stream.write_all(b" input").await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "early INPUT");
    server.await.unwrap();
}

#[tokio::test]
async fn nobody_listening_is_said_as_the_reference_says_it() {
    let client = Client::new(Endpoint::Unix("/nonexistent/s".into()), None);
    let error = client.get("/info", &Query::new()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot connect to the Docker daemon at unix:///nonexistent/s. Is the docker daemon running?"
    );
}
