//! A registry of one's own: Hull's beside Debian's `docker-registry`, with 16 clients at once.
//!
//! Each sample has a registry that is started for it over an empty folder. The clients are the bench's own and the
//! same for both: a layer is pushed as Docker's client does it (POST, one PATCH with the bytes, PUT), images of
//! small blobs with their manifests, and the layers are pulled by GET. What a client has to compute is
//! computed before. Hull's acknowledges a manifest when it is on the disk, the other does not wait for that.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::engines::on_path;
use super::measure::{Row, Subject, interleave_parts};
use super::sections::WARM;

const CLIENTS: usize = 16;
/// Bytes of a layer; the first ones are each client's own.
const LAYER: usize = 32 << 20;
/// Images of each client, with a layer of so many bytes.
const IMAGES: usize = 16;
const SMALL: usize = 16 << 10;
/// For a registry to answer.
const START: Duration = Duration::from_secs(20);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes and their digest.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Result<Blob> {
        let mut child = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run sha256sum")?;
        child.stdin.take().context("its input")?.write_all(&bytes)?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let hex = text.split(' ').next().context("sha256sum printed nothing")?;
        Ok(Blob { bytes, digest: format!("sha256:{hex}") })
    }
}

/// What one client pushes: its layer, and its small images (config, layer, manifest).
struct Load {
    layer: Blob,
    images: Vec<[Blob; 3]>,
}

fn loads() -> Result<Vec<Load>> {
    let mut random = vec![0; LAYER];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("random bytes")?;
    let own = |client: usize, image: usize, length: usize| {
        let mut bytes = random[..length].to_vec();
        bytes[..16].copy_from_slice(format!("{client:08}{image:08}").as_bytes());
        Blob::new(bytes)
    };
    (0..CLIENTS)
        .map(|client| {
            let images = (0..IMAGES).map(|image| {
                let config = Blob::new(format!("{{\"client\":{client},\"image\":{image}}}").into_bytes())?;
                let layer = own(client, image, SMALL)?;
                let part = |kind: &str, blob: &Blob| {
                    let size = blob.bytes.len();
                    format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{}\",\"size\":{size}}}", blob.digest)
                };
                let config_part = part("application/vnd.oci.image.config.v1+json", &config);
                let layer_part = part("application/vnd.oci.image.layer.v1.tar", &layer);
                let manifest = format!(
                    "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{config_part},\
                     \"layers\":[{layer_part}]}}"
                );
                Ok([config, layer, Blob::new(manifest.into_bytes())?])
            });
            Ok(Load { layer: own(client, IMAGES, LAYER)?, images: images.collect::<Result<_>>()? })
        })
        .collect()
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Client(BufReader::with_capacity(256 << 10, stream)))
    }

    /// The status and `Location`; the body is read to its end.
    fn ask(&mut self, line: &str, kind: &str, body: &[u8]) -> Result<(u16, String)> {
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: registry\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        let stream = self.0.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let (mut status, mut left, mut location) = (0, 0_u64, String::new());
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the registry closed the connection");
            let line = line.trim_end();
            if status == 0 {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
            } else if line.is_empty() {
                break;
            } else if let Some((name, value)) = line.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => left = value.trim().parse()?,
                    "location" => location = value.trim().to_owned(),
                    _ => {}
                }
            }
        }
        let copied = std::io::copy(&mut (&mut self.0).take(left), &mut std::io::sink())?;
        ensure!(copied == left, "the answer broke off");
        Ok((status, location))
    }

    fn expect(&mut self, status: u16, line: &str, kind: &str, body: &[u8]) -> Result<String> {
        let (found, location) = self.ask(line, kind, body)?;
        ensure!(found == status, "{line}: {found}, not {status}");
        // Some give the whole address.
        let path = location.find("/v2/").map_or(location.as_str(), |at| &location[at..]);
        Ok(path.to_owned())
    }

    /// As Docker's client does it.
    fn push(&mut self, name: &str, blob: &Blob) -> Result<()> {
        let octets = "application/octet-stream";
        let path = self.expect(202, &format!("POST /v2/{name}/blobs/uploads/"), octets, b"")?;
        let path = self.expect(202, &format!("PATCH {path}"), octets, &blob.bytes)?;
        let sign = if path.contains('?') { '&' } else { '?' };
        self.expect(201, &format!("PUT {path}{sign}digest={}", blob.digest), octets, b"")?;
        Ok(())
    }
}

/// A registry that runs for one sample.
struct Running {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Running {
    fn start(name: &str, dist: &Path, work: &Path) -> Result<Running> {
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let folder = work.join(format!("registry-{name}"));
        fs::create_dir_all(&folder)?;
        let mut command = match name {
            "hull" => {
                let mut command = Command::new(dist.join("hull"));
                command.args(["registry", "serve", "--log-level", "error", "--addr", &address.to_string()]);
                command.arg("--root").arg(folder.join("root"));
                command
            }
            _ => {
                let file = folder.join("config.yml");
                let root = folder.join("root");
                let text = format!(
                    "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                     rootdirectory: {}\nhttp:\n  addr: {address}\n",
                    root.display()
                );
                fs::write(&file, text)?;
                let mut command =
                    Command::new(on_path(name).with_context(|| format!("{name} is not on PATH"))?);
                command.arg("serve").arg(file);
                command
            }
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let running = Running { child, address, folder };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begin.elapsed() > START {
                bail!("{name} does not answer");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    /// What all clients do at once: seconds.
    fn together(&self, loads: &[Load], work: fn(&mut Client, usize, &Load) -> Result<()>) -> Result<f64> {
        let address = self.address;
        let clients: Vec<Client> = loads.iter().map(|_| Client::connect(address)).collect::<Result<_>>()?;
        let begin = Instant::now();
        thread::scope(|scope| {
            let running: Vec<_> = clients
                .into_iter()
                .zip(loads)
                .enumerate()
                .map(|(number, (mut client, load))| scope.spawn(move || work(&mut client, number, load)))
                .collect();
            running.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => bail!("a client failed"),
            })
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// The most that the process has held, in MiB.
    fn peak(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn sample(name: &str, dist: &Path, work: &Path, loads: &[Load]) -> Result<Vec<f64>> {
    let running = Running::start(name, dist, work)?;
    let pushed = running
        .together(loads, |client, number, load| client.push(&format!("layers/{number}"), &load.layer))?;
    let pulled = running.together(loads, |client, number, load| {
        let line = format!("GET /v2/layers/{number}/blobs/{}", load.layer.digest);
        client.expect(200, &line, "", b"").map(drop)
    })?;
    let peak = running.peak()?;
    let images = running.together(loads, |client, number, load| {
        load.images.iter().enumerate().try_for_each(|(image, [config, layer, manifest])| {
            let name = format!("images/{number}");
            client.push(&name, config)?;
            client.push(&name, layer)?;
            let line = format!("PUT /v2/{name}/manifests/v{image}");
            client.expect(201, &line, MANIFEST, &manifest.bytes).map(drop)
        })
    })?;
    #[expect(clippy::cast_precision_loss, reason = "megabytes, and some hundred images")]
    let (megabytes, count) = ((CLIENTS * LAYER) as f64 / 1e6, (CLIENTS * IMAGES) as f64);
    Ok(vec![megabytes / pushed, megabytes / pulled, count / images, peak])
}

pub(crate) fn registry(dist: &Path, work: &Path, rounds: usize) -> Result<Vec<Row>> {
    let loads = loads()?;
    let parts = [
        ("registry, 16 clients push 32 MiB each".to_owned(), "MB/s"),
        ("registry, 16 clients pull 32 MiB each".to_owned(), "MB/s"),
        ("registry, 16 clients push 16 small images each".to_owned(), "images/s"),
        ("registry, peak while layers passed".to_owned(), "MiB"),
    ];
    let subjects =
        ["hull", "docker-registry"].map(|name| Subject::of_parts(name, || sample(name, dist, work, &loads)));
    Ok(interleave_parts(&parts, rounds, WARM, subjects.into()))
}
