//! The daemon over a real connection, with a real engine on a folder of its own.
//!
//! Starting containers takes root and a spawner and is tested with the executables; what needs
//! neither is tested here, byte by byte.

mod versions;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hull_engine::{Config, Engine};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::Server;
use crate::serve::{Socket, connection};

/// A daemon without sockets: connections are pairs.
struct Daemon {
    server: Arc<Server>,
    stop: watch::Sender<bool>,
    folder: tempfile::TempDir,
}

impl Drop for Daemon {
    /// The spawner outlives engines by design: a test ends its own.
    fn drop(&mut self) {
        let config = self.server.engine.config();
        if let Ok(client) = hull_runtime::spawner::Client::adopt_or_start(&config.runtime, &config.exec_root)
            && let Err(error) = client.retire()
        {
            assert!(std::thread::panicking(), "a spawner is left: {error}");
        }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Daemon {
    async fn start() -> Daemon {
        // Beside the test's folder `deps`: the runtime that the same build made.
        let runtime: PathBuf =
            std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("hull-runtime");
        assert!(runtime.is_file(), "{} is not built: use `cargo xtask test`", runtime.display());
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(Config {
            data_root: folder.path().join("data"),
            exec_root: folder.path().join("exec"),
            runtime,
            cgroup_parent: format!("hull-test-wire-{}", std::process::id()),
            network: hull_engine::networks::Defaults::none(),
            ..Config::default()
        })
        .await
        .expect("open an engine");
        let server = Arc::new(Server {
            id: "test".into(),
            facts: crate::facts(&engine),
            engine,
            debug: false.into(),
            listeners: 0.into(),
        });
        Daemon { server, stop: watch::channel(false).0, folder }
    }

    fn connect(&self) -> UnixStream {
        let (client, ours) = UnixStream::pair().unwrap();
        tokio::spawn(connection(Arc::clone(&self.server), Socket::Unix(ours), self.stop.subscribe()));
        client
    }

    /// Sends bytes as they are, reads to the end.
    async fn raw(&self, request: &[u8]) -> Answer {
        let mut client = self.connect();
        client.write_all(request).await.unwrap();
        read(&mut client).await
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> Answer {
        let media = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{media}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(request.as_bytes()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "").await
    }

    /// A container of the built-in image, by its id.
    async fn container(&self, name: &str) -> String {
        let answer = self
            .request(
                "POST",
                &format!("/v1.53/containers/create?name={name}"),
                r#"{"Image":"hello","Labels":{"a":"b"},"HostConfig":{"NetworkMode":"none","Memory":67108864}}"#,
            )
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json()["Warnings"], serde_json::json!([]));
        answer.json()["Id"].as_str().unwrap().to_owned()
    }
}

/// Seconds since the epoch, with a fraction.
fn now() -> String {
    let nanos = hull_sys::time::now();
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

async fn read(client: &mut UnixStream) -> Answer {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut bytes)).await;
    // The daemon may have closed with some of a refused body unread.
    match read.expect("the connection ends") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    let mut body = bytes[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Answer { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}

/// The names of an object's fields, sorted.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn paths_methods_and_versions_are_answered_as_the_reference_does() {
    let daemon = Daemon::start().await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1.53/"),
        ("GET", "/nosuch"),
        ("PUT", "/v1.53/version"),
        ("POST", "/v1.53/containers/json"),
        ("PATCH", "/v1.53/containers/cc/json"),
        ("GET", "/vnonsense/version"),
        ("GET", "/V1.53/version"),
        ("GET", "/v1.53/containers/json/"),
        ("POST", "/_ping"),
    ] {
        let answer = daemon.request(method, path, "").await;
        assert_eq!((answer.status, answer.message().as_str()), (404, "page not found"), "{method} {path}");
    }
    for (path, status, text) in [
        ("/v1.99/version", 400, "client version 1.99 is too new. Maximum supported API version is 1.53"),
        ("/v1.53/containers/none/json", 404, "No such container: none"),
        ("/v1.53/containers/a%2Fb/json", 404, "No such container: a/b"),
        ("/v1.53/images/a/b/c:d/json", 404, "No such image: a/b/c:d"),
        ("/v1.53/networks/nosuch", 404, "network nosuch not found"),
        ("/v1.53/containers/json?filters=bad", 400, "invalid filter"),
        ("/v1.53/images/json?filters=%7B%22a%22%3A1%7D", 400, "invalid filter"),
        ("/v1.53/volumes?filters=bad", 400, "error reading volume filters: invalid filter"),
        ("/v1.53/exec/nosuch/json", 404, "No such exec instance: nosuch"),
        ("/v1.53/containers/x/logs", 400, "Bad parameters: you must choose at least one stream"),
        ("/v1.53/plugins/nosuch/json", 404, "plugin \"nosuch\" not found"),
    ] {
        let answer = daemon.get(path).await;
        assert_eq!((answer.status, answer.message().as_str()), (status, text), "{path}");
    }
    assert_eq!(daemon.get("/v1.53//containers/json").await.status, 301);
    assert_eq!(daemon.get("/v1.53/swarm").await.status, 503);
    let ping = daemon.get("/v1.24/_ping").await;
    assert_eq!(ping.text(), "OK");
    for line in ["Api-Version: 1.53", "Ostype: linux", "Docker-Experimental: false", "Server: Hull/"] {
        assert!(ping.head.contains(line), "{line} in {}", ping.head);
    }
    let head = daemon.request("HEAD", "/_ping", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_large_ones_unread() {
    let daemon = Daemon::start().await;
    let create = "/v1.53/containers/create";
    for (body, text) in [
        ("{bad", "invalid JSON: invalid character 'b' looking for beginning of object key string"),
        ("[]", "invalid JSON: json: cannot unmarshal array into Go value of type container.CreateRequest"),
        ("{}", "config cannot be empty in order to create a container"),
        (r#"{"Image":"x"} trailing"#, "unexpected content after JSON"),
    ] {
        let answer = daemon.request("POST", create, body).await;
        assert_eq!((answer.status, answer.message().as_str()), (400, text), "{body}");
    }
    let missing = daemon.request("POST", create, r#"{"Image":"nosuch"}"#).await;
    assert_eq!((missing.status, missing.message().as_str()), (404, "No such image: nosuch:latest"));
    let empty = daemon.request("POST", create, "").await;
    assert_eq!(empty.message(), "invalid JSON: got EOF while reading request body");
    let plain = b"POST /v1.53/containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n\
        Content-Length: 13\r\n\r\n{\"Image\":\"x\"}";
    assert_eq!(
        daemon.raw(plain).await.message(),
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    );
    // Refused by what it says of itself: nothing of it was sent yet.
    let large = b"POST /v1.53/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: 104857600\r\n\r\n";
    assert_eq!(daemon.raw(large).await.status, 413);
    // The same without a length.
    let mut chunked =
        b"POST /v1.53/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    let block = vec![b' '; 1 << 20];
    for _ in 0..5 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend_from_slice(&block);
        chunked.extend_from_slice(b"\r\n");
    }
    let mut client = daemon.connect();
    // It may close before all is written.
    let _ = client.write_all(&chunked).await;
    assert_eq!(read(&mut client).await.status, 413);
    assert_eq!(daemon.raw(b"GARBAGE\r\n\r\n").await.status, 400);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000));
    let mut client = daemon.connect();
    let _ = client.write_all(long.as_bytes()).await;
    assert!(matches!(read(&mut client).await.status, 414 | 431));
}

#[tokio::test]
async fn a_container_is_made_listed_shown_and_removed() {
    let daemon = Daemon::start().await;
    let id = daemon.container("box").await;
    let again = daemon.request("POST", "/containers/create?name=box", r#"{"Image":"hello"}"#).await;
    assert_eq!(again.status, 409);
    assert_eq!(
        again.message(),
        format!(
            "Conflict. The container name \"/box\" is already in use by container \"{id}\". You have to remove (or \
             rename) that container to be able to reuse that name."
        )
    );
    let shown = daemon.get("/v1.53/containers/box/json").await.json();
    assert_eq!(
        names(&shown),
        [
            "AppArmorProfile",
            "Args",
            "Config",
            "Created",
            "Driver",
            "ExecIDs",
            "GraphDriver",
            "HostConfig",
            "HostnamePath",
            "HostsPath",
            "Id",
            "Image",
            "LogPath",
            "MountLabel",
            "Mounts",
            "Name",
            "NetworkSettings",
            "Path",
            "Platform",
            "ProcessLabel",
            "ResolvConfPath",
            "RestartCount",
            "State"
        ]
    );
    assert_eq!(
        names(&shown["State"]),
        [
            "Dead",
            "Error",
            "ExitCode",
            "FinishedAt",
            "OOMKilled",
            "Paused",
            "Pid",
            "Restarting",
            "Running",
            "StartedAt",
            "Status"
        ]
    );
    assert_eq!(shown["State"]["Status"], "created");
    assert_eq!(shown["Name"], "/box");
    assert_eq!(shown["HostConfig"]["Memory"], 67_108_864);
    assert_eq!(shown["HostConfig"]["NetworkMode"], "none");
    assert_eq!(shown["Config"]["Hostname"], id[..12]);
    assert_eq!(names(&shown["GraphDriver"]["Data"]), ["ID", "LowerDir", "UpperDir", "WorkDir"]);
    let rows =
        daemon.get("/v1.53/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D").await.json();
    assert_eq!(
        names(&rows[0]),
        [
            "Command",
            "Created",
            "Health",
            "HostConfig",
            "Id",
            "Image",
            "ImageID",
            "Labels",
            "Mounts",
            "Names",
            "NetworkSettings",
            "Ports",
            "State",
            "Status"
        ]
    );
    assert_eq!(rows[0]["Status"], "Created");
    assert_eq!(daemon.get("/containers/json").await.json(), serde_json::json!([]));
    let bad = daemon.get("/containers/json?filters=%7B%22status%22%3A%5B%22zz%22%5D%7D").await;
    assert!(bad.message().starts_with("invalid filter 'status=zz': invalid value for state (zz)"));
    assert_eq!(daemon.request("POST", "/containers/box/rename?name=bag", "").await.status, 204);
    assert_eq!(daemon.request("DELETE", "/containers/bag", "").await.status, 204);
    assert_eq!(daemon.get("/containers/bag/json").await.status, 404);
}

#[tokio::test]
async fn images_are_listed_shown_saved_and_loaded_by_version() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    let rows = daemon.get("/v1.53/images/json").await.json();
    assert_eq!(
        names(&rows[0]),
        [
            "Containers",
            "Created",
            "Id",
            "Labels",
            "ParentId",
            "RepoDigests",
            "RepoTags",
            "SharedSize",
            "Size"
        ]
    );
    assert_eq!(rows[0]["RepoTags"], serde_json::json!(["hello:latest"]));
    assert!(daemon.get("/v1.43/images/json").await.json()[0].get("VirtualSize").is_some());
    let image = daemon.get("/v1.53/images/hello/json").await.json();
    assert!(image["Config"].get("Hostname").is_none() && image.get("ContainerConfig").is_none());
    let old = daemon.get("/v1.44/images/hello/json").await.json();
    assert!(old["Config"].get("Hostname").is_some() && old.get("ContainerConfig").is_some());
    let used = daemon.request("DELETE", "/images/hello", "").await;
    assert_eq!(used.status, 409, "{}", used.text());
    let archive = daemon.get("/images/hello/get").await;
    assert_eq!(archive.status, 200);
    let mut load = format!(
        "POST /images/load?quiet=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {}\r\n\r\n",
        archive.body.len()
    )
    .into_bytes();
    load.extend_from_slice(&archive.body);
    assert_eq!(daemon.raw(&load).await.json()["stream"], "Loaded image: hello:latest\n");
    let garbage = daemon.raw(
        b"POST /images/load HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\ngarbage",
    );
    assert!(garbage.await.json()["error"].is_string());
    let tag = daemon.request("POST", "/images/hello/tag?repo=docker.io%2Flibrary%2Fother&tag=1", "").await;
    assert_eq!(tag.status, 201);
    let removed = daemon.request("DELETE", "/images/other:1", "").await.json();
    assert_eq!(removed, serde_json::json!([{"Untagged": "other:1"}]));
    // Nobody is there: port 9 discards (RFC 863), where it is served at all.
    let pull = daemon.request("POST", "/images/create?fromImage=127.0.0.1:9/x&tag=1", "").await;
    let refused = "Get \"http://127.0.0.1:9/v2/\": dial tcp 127.0.0.1:9: connect: connection refused";
    assert_eq!((pull.status, pull.message().as_str()), (500, refused));
}

#[tokio::test]
async fn info_and_version_have_the_references_fields() {
    let daemon = Daemon::start().await;
    let version = daemon.get("/version").await.json();
    assert_eq!(version["ApiVersion"], "1.53");
    assert_eq!(version["MinAPIVersion"], "1.24");
    assert_eq!(version["Components"][0]["Name"], "Engine");
    let info = daemon.get("/v1.53/info").await.json();
    assert_eq!(info["DockerRootDir"].as_str().unwrap(), daemon.folder.path().join("data").to_str().unwrap());
    for (name, of) in [("NCPU", "number"), ("MemTotal", "number"), ("Driver", "string"), ("Swarm", "object")]
    {
        let fits = match of {
            "number" => info[name].as_i64().is_some_and(|number| number > 0),
            "string" => info[name].is_string(),
            _ => info[name].is_object(),
        };
        assert!(fits, "{name}: {}", info[name]);
    }
    assert!(daemon.get("/v1.41/info").await.json().get("KernelMemory").is_some());
    let usage = daemon.get("/system/df").await.json();
    assert_eq!(usage["ImageUsage"]["TotalCount"], 0, "{usage}");
}

#[tokio::test]
async fn both_ways_of_hijacking_answer_with_their_own_head() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    let attach = "/v1.53/containers/box/attach?stream=1&stdout=1";
    let mut plain = daemon.connect();
    plain
        .write_all(format!("POST {attach} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = vec![0; 17];
    plain.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK\r\n");
    let mut upgraded = daemon.connect();
    let request = format!(
        "POST {attach} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    );
    upgraded.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 400];
    let count = upgraded.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..count]).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/vnd.docker.multiplexed-stream\r\n"), "{head}");
    drop((plain, upgraded));
    let missing = daemon.request("POST", "/v1.53/containers/nosuch/attach?stream=1", "").await;
    assert_eq!((missing.status, missing.text().as_str()), (404, "No such container: nosuch\r\n"));
    let keys = daemon.request("POST", "/v1.53/containers/box/attach?stream=1&detachKeys=nonsense", "").await;
    assert_eq!((keys.status, keys.text().as_str()), (400, "Invalid detach keys (nonsense) provided\r\n"));
}

#[tokio::test]
async fn streams_begin_at_once_and_end_with_their_client() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    for request in [
        "POST /containers/box/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut client = daemon.connect();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    let begun = std::time::Instant::now();
    while daemon.server.listeners.load(std::sync::atomic::Ordering::Relaxed) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the listener outlives its client");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let wrong = daemon.request("POST", "/containers/box/wait?condition=bad", "").await;
    assert_eq!(wrong.message(), "invalid condition: \"bad\"");
    let past = daemon.get("/events?since=1&until=2").await;
    assert_eq!((past.status, past.body.len()), (200, 0));
    let wrong = daemon.get("/events?since=2&until=1").await;
    assert_eq!(wrong.message(), "`since` time (2) cannot be after `until` time (1)");
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_a_stop_closes_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.connect();
    for _ in 0..3 {
        client.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"OK") {
            let mut block = [0; 512];
            let count = client.read(&mut block).await.unwrap();
            assert_ne!(count, 0, "closed too early");
            text.extend_from_slice(&block[..count]);
        }
    }
    daemon.stop.send(true).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}
