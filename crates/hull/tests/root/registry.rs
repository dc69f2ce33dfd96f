//! `hull registry` as a process: other programs as its clients, kill -9 at its worst moments, and what it
//! holds while much passes through it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

use hull_oci::Digest;
use hull_testkit::{Answer, ask, patience, run};
use serde_json::json;

/// A registry, and the lines of its log.
struct Served {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
}

fn hull() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hull"))
}

impl Served {
    fn start(root: &Path, flags: &[&str], failpoint: Option<&str>) -> Served {
        let mut command = hull();
        command.args(["registry", "serve", "--addr", "127.0.0.1:0", "--root"]).arg(root).args(flags);
        if let Some(point) = failpoint {
            command.env("HULL_FAILPOINTS", point);
        }
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A test that has ended does not listen.
                let _ = send.send(line);
            }
        });
        let mut served = Served { child, address: ([127, 0, 0, 1], 0).into(), log };
        let line = served.line("listening");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        served.address = address.parse().unwrap();
        served
    }

    /// The next line of the log that has this.
    #[track_caller]
    fn line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(patience(30)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: no {text:?} in {seen:#?}"),
            }
        }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(self.address, method, path, headers, body)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Most have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything looks as if nothing had happened for two days.
fn age(path: &Path) {
    let then = SystemTime::now() - Duration::from_secs(2 * 86_400);
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        }
    }
}

/// The names of all files below, sorted.
fn files(root: &Path, below: &str) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &root.join(below), &mut found);
    found.sort();
    found
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image's folder, as the image specification lays it out, with one layer: its path.
fn layout(folder: &Path, layer: &[u8]) -> PathBuf {
    let root = folder.join("layout");
    let blobs = root.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    };
    let diff_ids = json!({ "type": "layers", "diff_ids": [Digest::sha256(layer).to_string()] });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": diff_ids }).to_string();
    let config = put(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let layer = put(layer, "application/vnd.oci.image.layer.v1.tar+gzip");
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = put(manifest.to_string().as_bytes(), MANIFEST);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    fs::write(root.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())
        .unwrap();
    fs::write(root.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    root
}

fn skopeo(words: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy"]).args(words);
    command
}

/// Pushes the image by skopeo; whether it was taken.
fn push(served: &Served, layout: &Path, name: &str) -> bool {
    let from = format!("oci:{}:v1", layout.display());
    let to = format!("docker://{}/{name}", served.address);
    run(&mut skopeo(&["copy", "--dest-tls-verify=false", &from, &to]), b"").code == 0
}

/// Pulls it, and compares each blob and the manifest with what was pushed, bit for bit.
#[track_caller]
fn comes_back(served: &Served, layout: &Path, name: &str) {
    let copy = tempfile::tempdir().unwrap();
    let from = format!("docker://{}/{name}", served.address);
    let to = format!("oci:{}:v1", copy.path().display());
    run(&mut skopeo(&["copy", "--src-tls-verify=false", &from, &to]), b"").ok();
    let blobs = files(layout, "blobs");
    assert_eq!(files(copy.path(), "blobs"), blobs);
    for blob in blobs {
        assert!(
            fs::read(copy.path().join(&blob)).unwrap() == fs::read(layout.join(&blob)).unwrap(),
            "{blob}"
        );
    }
}

/// Bytes that do not compress, the same each time. They begin as gzip does: else skopeo would pack them.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    bytes.extend_from_slice(&[0x1f, 0x8b, 8]);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn registry_is_used_by_other_programs_with_tls_and_users() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (key, certificate) = (file("key.pem"), file("ca.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate]);
    run(&mut openssl, b"").ok();
    fs::create_dir(folder.path().join("trusted")).unwrap();
    fs::copy(&certificate, folder.path().join("trusted/ca.crt")).unwrap();
    // `secret`, of cost 5.
    let hash = "$2b$05$3KX1o2CUeCor9PA837WMXOSgkG1xUQiFldpFBOccbIu9gUtPp4Lqe";
    let users = json!({
        "users": { "alice": hash, "bob": hash },
        "rules": [
            { "who": ["alice"], "repositories": ["team/**"], "allow": ["pull", "push", "delete"] },
            { "who": ["bob"], "repositories": ["team/**"], "allow": ["pull"] }
        ]
    });
    fs::write(file("users.json"), users.to_string()).unwrap();
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--users", &file("users.json")];
    let served = Served::start(&folder.path().join("root"), &flags, None);
    let layout = layout(folder.path(), &noise(3 << 20));
    let (local, remote) =
        (format!("oci:{}:v1", layout.display()), format!("docker://{}/team/app:1", served.address));
    let trusted = file("trusted");
    let push = |who: &str| {
        let words = ["copy", "--dest-cert-dir", &trusted, "--dest-creds", who, &local, &remote];
        run(&mut skopeo(&words), b"")
    };
    push("alice:wrong").fails(1, "");
    push("bob:secret").fails(1, "denied");
    push("alice:secret").ok();
    let copy = format!("oci:{}:v1", file("copy"));
    let pull = |who: &str| {
        run(&mut skopeo(&["copy", "--src-cert-dir", &trusted, "--src-creds", who, &remote, &copy]), b"")
    };
    pull("bob:secret").ok();
    assert_eq!(files(&folder.path().join("copy"), "blobs"), files(&layout, "blobs"));
    let nobody = run(&mut skopeo(&["inspect", "--no-creds", "--cert-dir", &trusted, &remote]), b"");
    assert_ne!(nobody.code, 0, "{nobody}");
    let delete =
        |who: &str| run(&mut skopeo(&["delete", "--cert-dir", &trusted, "--creds", who, &remote]), b"");
    assert_ne!(delete("bob:secret").code, 0);
    delete("alice:secret").ok();
    pull("bob:secret").fails(1, "manifest unknown");
    served.stop();
}

#[test]
fn registry_killed_at_each_point_of_a_push_loses_nothing_and_keeps_no_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout(folder.path(), &noise(1 << 20));
    for point in [
        "registry.blob.taken",
        "registry.blob.placed",
        "registry.manifest.stored",
        "registry.manifest.placed",
        "registry.manifest.synced",
    ] {
        let root = folder.path().join(point);
        let mut served = Served::start(&root, &[], Some(point));
        assert!(!push(&served, &layout, "a/b:v1"), "{point}: not killed");
        assert!(!served.child.wait().unwrap().success());
        drop(served);
        let served = Served::start(&root, &[], None);
        assert!(push(&served, &layout, "a/b:v1"), "{point}");
        comes_back(&served, &layout, "a/b:v1");
        served.stop();
        age(&root);
        run(hull().args(["registry", "gc", "--root"]).arg(&root), b"").ok();
        assert_eq!(files(&root, "blobs"), files(&layout, "blobs"), "{point}");
        assert_eq!(files(&root, "ingest"), [""; 0], "{point}");
        assert_eq!(files(&root, "repositories/a/b/_uploads"), [""; 0], "{point}");
        let served = Served::start(&root, &[], None);
        comes_back(&served, &layout, "a/b:v1");
        served.stop();
    }
}

/// Sixty kills with bytes under way, each of another upload at another place; each goes on where it was.
#[test]
fn registry_killed_in_mid_upload_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let bytes = noise(1 << 20);
    for round in 0..60_usize {
        let mine = &bytes[round..];
        let served = Served::start(&root, &[], None);
        let started = served.ask("POST", "/v2/a/blobs/uploads/", &[], b"");
        let location = started.header("location").unwrap().to_owned();
        let mut stream = TcpStream::connect(served.address).unwrap();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", mine.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&mine[..round * mine.len() / 60]).unwrap();
        served.kill();
        let served = Served::start(&root, &[], None);
        let status = served.ask("GET", &location, &[], b"");
        assert_eq!(status.status, 204, "{round}");
        let last: usize = status.header("range").unwrap().split_once('-').unwrap().1.parse().unwrap();
        // None and one byte look alike.
        let have =
            fs::metadata(root.join("repositories/a/_uploads").join(location.rsplit('/').next().unwrap()));
        let have = usize::try_from(have.unwrap().len()).unwrap();
        assert_eq!(last, have.saturating_sub(1), "{round}");
        assert!(have <= round * mine.len() / 60, "{round}: more than was sent");
        let range = format!("{have}-{}", mine.len() - 1);
        let path = format!("{location}?digest={}", Digest::sha256(mine));
        let done = served.ask("PUT", &path, &[("Content-Range", &range)], &mine[have..]);
        assert_eq!(done.status, 201, "{round}: {}", done.text());
        let blob = served.ask("GET", done.header("location").unwrap(), &[], b"");
        assert!(blob.body == mine, "{round}");
        served.stop();
    }
    assert_eq!(files(&root, "repositories/a/_uploads"), [""; 0]);
}

#[test]
fn registry_killed_in_mid_collection_keeps_what_is_used_and_removes_the_rest_later() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout(folder.path(), &noise(1 << 16));
    for point in ["registry.gc.link", "registry.gc.blob"] {
        let root = folder.path().join(point);
        let served = Served::start(&root, &[], None);
        assert!(push(&served, &layout, "a:v1"));
        for number in 0..20 {
            let bytes = format!("garbage {number}");
            let path = format!("/v2/b/blobs/uploads/?digest={}", Digest::sha256(bytes.as_bytes()));
            assert_eq!(served.ask("POST", &path, &[], bytes.as_bytes()).status, 201);
        }
        served.stop();
        age(&root);
        let gc = || {
            let mut gc = hull();
            gc.args(["registry", "gc", "--root"]).arg(&root);
            gc
        };
        assert_eq!(run(gc().env("HULL_FAILPOINTS", point), b"").code, 128 + 9, "{point}");
        let left = files(&root, "blobs").len() + files(&root, "repositories/b").len();
        assert!(left > files(&layout, "blobs").len() && left < 20 + 20 + 3, "{point}: {left}");
        assert!(run(&mut gc(), b"").ok().starts_with("removed "), "{point}");
        assert_eq!(files(&root, "blobs"), files(&layout, "blobs"), "{point}");
        assert!(!root.join("repositories/b").exists());
        let served = Served::start(&root, &[], None);
        comes_back(&served, &layout, "a:v1");
        served.stop();
    }
}

#[test]
fn registry_that_serves_collects_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let served = Served::start(&root, &[], None);
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(b"garbage"));
    assert_eq!(served.ask("POST", &path, &[], b"garbage").status, 201);
    age(&root);
    let told = run(hull().args(["registry", "gc", "--root"]).arg(&root), b"");
    assert!(told.ok().contains(&format!("(process {}) collects now", served.child.id())), "{told}");
    assert!(served.line("garbage collected").contains("blobs=1 bytes=7 links=1"));
    assert_eq!(files(&root, "blobs"), [""; 0]);
    // Two registries do not share a folder, and what only counts does not disturb.
    let dry = run(hull().args(["registry", "gc", "--dry-run", "--root"]).arg(&root), b"");
    dry.fails(1, "already");
    let second = run(hull().args(["registry", "serve", "--addr", "127.0.0.1:0", "--root"]).arg(&root), b"");
    second.fails(1, "already");
    served.signal(rustix::process::Signal::HUP);
    served.line("read again");
    served.stop();
}

/// Four blobs of 256 MiB at a time in, and out again.
#[test]
fn registry_holds_little_while_much_passes_through() {
    const LENGTH: u64 = 256 << 20;
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder.path().join("root"), &[], None);
    let block = noise(1 << 20);
    let mut hasher = hull_oci::Hasher::sha256();
    for _ in 0..LENGTH >> 20 {
        hasher.update(&block);
    }
    let digest = hasher.finish();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (address, block, digest) = (served.address, &block, &digest);
            scope.spawn(move || {
                let connect = || {
                    let stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(patience(60))).unwrap();
                    stream
                };
                let mut stream = connect();
                let path = format!("/v2/r{worker}/blobs/uploads/?digest={digest}");
                let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                for _ in 0..LENGTH >> 20 {
                    stream.write_all(block).unwrap();
                }
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"HTTP/1.1 201");
                let mut stream = connect();
                let path = format!("/v2/r{worker}/blobs/{digest}");
                let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                let taken = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                assert!(taken > LENGTH, "{taken}");
            });
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(most < 64 << 10, "{most} kB");
    served.stop();
}
