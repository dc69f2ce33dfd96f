//! A registry on a free port, and requests to it by hand.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hull_oci::{Algorithm, Digest, Hasher};
use hull_registry::server::{Options, Order, Registry};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of the only error, or the first of several.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }
}

/// A registry in a folder of its own; it ends with the value.
pub(crate) struct Server {
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub root: PathBuf,
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
    folder: Option<TempDir>,
}

impl Server {
    pub(crate) fn open() -> Server {
        Server::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Server {
        Server::at(None, change)
    }

    fn at(folder: Option<TempDir>, change: impl FnOnce(&mut Options)) -> Server {
        let folder = folder.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let root = folder.path().join("registry");
        let mut options = Options::open(root.clone(), ([127, 0, 0, 1], 0).into());
        change(&mut options);
        let (orders, received) = mpsc::channel(1);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async move {
                let registry = Registry::open(options).await.unwrap();
                tell.send((registry.address().unwrap(), registry.metrics_address())).unwrap();
                registry.serve(received).await;
            });
        });
        let (address, metrics) = told.recv_timeout(LIMIT).unwrap();
        Server { address, metrics, root, orders, thread: Some(thread), folder: Some(folder) }
    }

    /// Stops it, and starts another over the same folder.
    pub(crate) fn restart(mut self) -> Server {
        self.stop();
        Server::at(self.folder.take(), |_| {})
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.blocking_send(order).unwrap();
    }

    pub(crate) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It may have ended by itself.
            let _ = self.orders.blocking_send(Order::Stop);
            thread.join().unwrap();
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        request(self.address, method, path, headers, body)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// A blob by POST and PUT.
    #[track_caller]
    pub(crate) fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let started = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").is(202);
        let location = started.header("location").unwrap();
        self.request("PUT", &format!("{location}?digest={digest}"), &[], bytes).is(201);
        digest
    }

    /// An image of one layer under a tag: its manifest.
    #[track_caller]
    pub(crate) fn image(&self, name: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        self.blob(name, b"{}");
        self.blob(name, layer);
        let manifest = manifest(layer, json!({}));
        self.manifest(name, tag, &manifest).is(201);
        manifest
    }

    pub(crate) fn manifest(&self, name: &str, reference: &str, bytes: &[u8]) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.request("PUT", &path, &[("Content-Type", MANIFEST)], bytes)
    }

    /// Everything in its folder looks as if nothing had happened for a day.
    pub(crate) fn age(&self) {
        age(&self.root);
    }

    /// Files of blobs, whoever has them.
    pub(crate) fn blobs(&self) -> usize {
        let folder = |name: &str| std::fs::read_dir(self.root.join("blobs").join(name)).unwrap().count();
        folder("sha256") + folder("sha512")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.orders.blocking_send(Order::Stop);
            // Its panic is the test's already.
            let _ = thread.join();
        }
    }
}

pub(crate) fn age(path: &Path) {
    let day = SystemTime::now() - Duration::from_secs(86_400 + 3600);
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(day).unwrap();
        }
    }
}

/// A manifest of one layer; `more` has further fields.
pub(crate) fn manifest(layer: &[u8], more: Value) -> Vec<u8> {
    let config = json!({ "mediaType": CONFIG, "digest": Digest::sha256(b"{}").to_string(), "size": 2 });
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": Digest::sha256(layer).to_string(),
        "size": layer.len()
    });
    let mut manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest.to_string().into_bytes()
}

pub(crate) fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

#[track_caller]
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = connect(address);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // It may be refused before all of it has come.
    let _ = stream.write_all(body);
    read(&mut stream, method)
}

/// Reads one answer to its end.
#[track_caller]
pub(crate) fn read(stream: &mut TcpStream, method: &str) -> Answer {
    let mut bytes = Vec::new();
    let mut block = [0; 64 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let count =
            stream.read(&mut block).unwrap_or_else(|error| panic!("{error} before the answer's head"));
        assert_ne!(count, 0, "closed before the answer's head: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&block[..count]);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status: status.unwrap_or(0), headers, body: bytes[end + 4..].to_vec() };
    if method == "HEAD" {
        return answer;
    }
    let length: usize = answer.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while answer.body.len() < length {
        let count = stream.read(&mut block).unwrap();
        assert_ne!(count, 0, "closed in the answer's body");
        answer.body.extend_from_slice(&block[..count]);
    }
    answer
}
