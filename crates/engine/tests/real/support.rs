//! A host of its own for each test: data root, exec root, cgroup, and an image of busybox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hull_engine::chain;
use hull_engine::containers::requests::{Attach, Attachment, Condition, Logs, Remove, WaitResult};
use hull_engine::containers::settings::{Create, Settings};
use hull_engine::images::Import;
use hull_engine::networks::Defaults;
use hull_engine::{Config, Engine, Result};
use hull_oci::Reference;
use tokio::io::AsyncReadExt;

pub(crate) const IMAGE: &str = "box";
const LIMIT: Duration = Duration::from_secs(60);

/// By convention beside the folder in which cargo puts test executables.
pub(crate) fn runtime() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    let runtime = folder.join("hull-runtime");
    assert!(
        runtime.is_file(),
        "{} is missing: build it first (cargo build -p hull-runtime)",
        runtime.display()
    );
    runtime
}

pub(crate) struct Host {
    dir: PathBuf,
    /// Removes `dir` in the process that made it.
    _made: Option<tempfile::TempDir>,
    pub(crate) engine: Option<Engine>,
    cgroup: String,
}

impl Host {
    pub(crate) async fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let made = tempfile::tempdir().unwrap();
        let cgroup = format!("hull-test-e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut host = Host { dir: made.path().to_owned(), _made: Some(made), engine: None, cgroup };
        host.open().await;
        host.import().await;
        host
    }

    /// The host of another process, by what that one tells.
    pub(crate) fn elsewhere(told: &str) -> Host {
        let (dir, cgroup) = told.split_once('\n').unwrap();
        Host { dir: dir.into(), _made: None, engine: None, cgroup: cgroup.to_owned() }
    }

    pub(crate) fn tell(&self) -> String {
        format!("{}\n{}", self.dir.display(), self.cgroup)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            data_root: self.dir.join("data"),
            exec_root: self.dir.join("run"),
            runtime: runtime(),
            cgroup_parent: self.cgroup.clone(),
            // These tests share the machine's own network namespace.
            network: Defaults::none(),
            settled_after: 1,
            ..Config::default()
        }
    }

    pub(crate) async fn open(&mut self) {
        let engine = within(Engine::open(self.config())).await;
        self.engine = Some(engine.unwrap_or_else(|error| panic!("{}", chain(&error))));
    }

    /// As if the daemon had left in peace.
    pub(crate) async fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            within(engine.close()).await;
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// One layer: busybox with its links, users, a folder to write into.
    async fn import(&self) {
        let root = self.dir.join("root");
        for dir in ["bin", "etc", "tmp", "root", "home/web"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for name in [
            "sh", "sleep", "cat", "echo", "id", "true", "false", "head", "tail", "env", "touch", "ls",
            "grep", "hostname", "stty", "kill",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home/web:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\ntape:x:26:web\n").unwrap();
        std::fs::write(root.join("etc/plain"), "not executable").unwrap();
        let archive = self.dir.join("root.tar");
        let made =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(made.success());
        let import = Import {
            name: Some(Reference::parse(IMAGE).unwrap()),
            changes: vec!["CMD [\"sh\"]".into(), "ENV FROM=image".into(), "WORKDIR /tmp".into()],
            ..Import::default()
        };
        let source = std::os::fd::OwnedFd::from(std::fs::File::open(&archive).unwrap()).into();
        within(self.engine().images().import(source, import)).await.unwrap();
    }

    pub(crate) async fn create(&self, settings: Settings) -> String {
        Box::pin(self.try_create(None, settings)).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(crate) async fn try_create(&self, name: Option<&str>, settings: Settings) -> Result<String> {
        self.create_of(IMAGE, name, settings).await
    }

    async fn create_of(&self, image: &str, name: Option<&str>, settings: Settings) -> Result<String> {
        Ok(within(self.engine().create(create(image, name, settings))).await?.id)
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, settings: Settings) -> String {
        let id = Box::pin(self.create(settings)).await;
        self.start(&id).await;
        id
    }

    pub(crate) async fn start(&self, id: &str) {
        within(self.engine().start(id)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    pub(crate) async fn wait(&self, id: &str) -> WaitResult {
        let waiting = within(self.engine().wait(id, Condition::NotRunning)).await.unwrap();
        within(waiting).await.unwrap()
    }

    /// Attaches, starts, reads to the end: the exit code and what came out, heads and all.
    pub(crate) async fn output(&self, settings: Settings) -> (i32, String) {
        self.output_of(IMAGE, settings).await
    }

    /// The same of another image.
    pub(crate) async fn output_of(&self, image: &str, settings: Settings) -> (i32, String) {
        let tty = settings.tty;
        let id = Box::pin(self.create_of(image, None, settings)).await;
        let id = id.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let attach = Attach { stdout: true, stderr: true, stream: true, ..Attach::default() };
        let attached = within(self.engine().attach(&id, attach)).await.unwrap();
        let waiting = within(self.engine().wait(&id, Condition::NextExit)).await.unwrap();
        self.start(&id).await;
        let bytes = read(attached).await;
        let code = within(waiting).await.unwrap().code;
        within(self.engine().remove(&id, Remove::default())).await.unwrap();
        (code, if tty { String::from_utf8(bytes).unwrap() } else { text(&bytes) })
    }

    pub(crate) async fn log(&self, id: &str, follow: bool) -> String {
        let options = Logs { stdout: true, stderr: true, follow, ..Logs::default() };
        let mut stream = within(self.engine().logs(id, options)).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(block) = within(stream.next()).await {
            bytes.extend_from_slice(&block.unwrap());
        }
        text(&bytes)
    }

    pub(crate) fn status(&self, id: &str) -> &'static str {
        self.engine().container(id).unwrap().phase.status()
    }

    pub(crate) async fn remove(&self, id: &str) {
        let options = Remove { force: true, volumes: false };
        within(self.engine().remove(id, options)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// Removes everything, and asserts that nothing is left of it.
    pub(crate) async fn finish(mut self) {
        for view in self.engine().containers() {
            self.remove(&view.id).await;
        }
        assert_eq!(self.leftovers(), "");
        self.close().await;
        self.end_spawner();
    }

    /// What containers have left behind, one line each.
    pub(crate) fn leftovers(&self) -> String {
        let mut left = String::new();
        let mut list = |what: &str, path: PathBuf| {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                left.push_str(&format!("{what} {}\n", entry.file_name().display()));
            }
        };
        list("files", self.dir.join("data/containers"));
        list("layer", self.dir.join("data/image/active"));
        list("shim", self.dir.join("run/c"));
        list("exec", self.dir.join("run/x"));
        for path in self.cgroups() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push_str(&format!("cgroup {}\n", entry.path().display()));
                }
            }
        }
        left
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let path = entry.path().join(&self.cgroup);
            if path.is_dir() {
                found.push(path);
            }
        }
        let own = Path::new("/sys/fs/cgroup").join(&self.cgroup);
        if own.is_dir() {
            found.push(own);
        }
        found
    }

    /// The spawner of this test leaves when its exec root is asked for by nobody; it is ended by
    /// the pid that it tells.
    fn end_spawner(&self) {
        let config = self.config();
        if let Ok(client) = hull_runtime::spawner::Client::adopt_or_start(&config.runtime, &config.exec_root)
        {
            client.retire().unwrap();
        }
        for path in self.cgroups() {
            std::fs::remove_dir(path).ok();
        }
    }
}

pub(crate) fn create(image: &str, name: Option<&str>, settings: Settings) -> Create {
    Create {
        name: name.map(str::to_owned),
        image: image.to_owned(),
        settings,
        networks: Vec::new(),
        request: "{}".to_owned(),
    }
}

pub(crate) fn sh(script: &str) -> Settings {
    Settings { cmd: Some(vec!["sh".into(), "-c".into(), script.into()]), ..Settings::default() }
}

pub(crate) fn command(words: &[&str]) -> Settings {
    Settings { cmd: Some(words.iter().map(|&word| word.to_owned()).collect()), ..Settings::default() }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, Box::pin(work)).await.expect("it takes too long")
}

pub(crate) async fn read(attached: Attachment) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = attached.stream;
    within(stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Takes Docker's heads away and checks them.
pub(crate) fn text(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(8);
        assert!(matches!(head[0], 1 | 2) && head[1..4] == [0, 0, 0], "{head:?}");
        let length = u32::from_be_bytes(head[4..].try_into().unwrap()) as usize;
        text.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    String::from_utf8(text).unwrap()
}
