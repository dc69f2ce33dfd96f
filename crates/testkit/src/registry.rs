//! Debian's `docker-registry` on a machine: the other side of pulls and pushes that is not ours.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Host;
use crate::command::{patience, run};

/// Who may enter a registry that lets not everybody in.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "secret";
/// bcrypt of [`PASSWORD`] at a low cost.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// A registry; dropped, it is gone.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Registry {
    /// Starts one on a port of the machine's loopback, which nobody else of that machine may have.
    #[track_caller]
    pub fn start(host: &Host, port: u16, locked: bool) -> Registry {
        let folder = host.folder().join(format!("registry-{port}"));
        fs::create_dir(&folder).expect("make the registry's folder");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
             enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.join("data").display()
        );
        if locked {
            let users = folder.join("htpasswd");
            fs::write(&users, format!("{USER}:{HASH}\n")).expect("write the users");
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display()));
        }
        fs::write(folder.join("config.yml"), config).expect("write the registry's settings");
        let mut registry = Registry { folder, port, child: None };
        registry.launch(host);
        registry
    }

    /// Starts it again, with what it had.
    #[track_caller]
    pub fn launch(&mut self, host: &Host) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = host.inside("docker-registry");
        command.arg("serve").arg(self.folder.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        self.child = Some(command.spawn().expect("start docker-registry"));
        let start = Instant::now();
        let probe = format!("http://{}/v2/", self.address());
        loop {
            let asked = run(host.inside("busybox").args(["wget", "-q", "-O", "-", &probe]), b"");
            // One that asks who is there is there.
            if asked.code == 0 || asked.stderr.contains("401") {
                return;
            }
            assert!(start.elapsed() < patience(30), "the registry never answered: {asked}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the registry runs");
        child.kill().expect("kill the registry");
        child.wait().expect("reap the registry");
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its log, every request among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// How many requests so far had this method and have `part` in their path.
    pub fn requests(&self, method: &str, part: &str) -> usize {
        let begins = format!("\"{method} ");
        let lines = self.log();
        lines.lines().filter(|line| line.contains(&begins) && line.contains(part)).count()
    }

    /// The bytes of a blob as it keeps them.
    #[track_caller]
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let path =
            self.folder.join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The digest that a tag stands for.
    #[track_caller]
    pub fn tagged(&self, repository: &str, tag: &str) -> String {
        let folder = self.folder.join("data/docker/registry/v2/repositories").join(repository);
        let path = folder.join("_manifests/tags").join(tag).join("current/link");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Uploads that were begun in a repository and not ended.
    pub fn uploads(&self, repository: &str) -> usize {
        let folder = self.folder.join("data/docker/registry/v2/repositories").join(repository);
        fs::read_dir(folder.join("_uploads")).map_or(0, Iterator::count)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
