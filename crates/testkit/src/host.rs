//! One machine of a test: its namespaces, its daemon, its clients.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{self, Finished, Terminal};
use crate::http::{Answer, Connection};

/// The executables under test.
#[derive(Debug, Clone)]
pub struct Executables {
    pub hull: PathBuf,
    /// `hull-runtime`, beside it.
    pub runtime: PathBuf,
    /// The official client.
    pub docker: PathBuf,
}

impl Executables {
    /// `hull` as cargo names it to its tests; the runtime is expected beside it, the official
    /// client in `HULL_TEST_DOCKER` or on PATH. What is not there fails the test.
    #[track_caller]
    pub fn beside(hull: &str) -> Executables {
        let hull = PathBuf::from(hull);
        let runtime = hull.with_file_name("hull-runtime");
        assert!(runtime.is_file(), "{} is not built: use `cargo xtask test`", runtime.display());
        let docker =
            std::env::var_os("HULL_TEST_DOCKER").map_or_else(|| PathBuf::from("docker"), PathBuf::from);
        Executables { hull, runtime, docker }
    }
}

/// How a machine differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More words for the daemon's command line.
    pub daemon: Vec<String>,
    /// What its daemon.json says; nothing: `{}`.
    pub config: String,
    /// Environment of the daemon (and so of its spawner): failpoints.
    pub environment: Vec<(String, String)>,
    /// A file system of this many MiB for the data root, to fill it up.
    pub disk_mib: Option<u32>,
    /// Each daemon gets a mount namespace of its own, a copy of the machine's.
    pub own_mounts: bool,
    /// How many files the daemon may open when it starts, soft and hard.
    pub open_files: Option<(u64, u64)>,
    /// What its /etc/resolv.conf says. The machine has an /etc of its own then, for tests to write.
    pub resolv_conf: Option<String>,
}

/// A machine: dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Host {
    folder: tempfile::TempDir,
    executables: Executables,
    options: Options,
    holder: Child,
    daemon: Option<Child>,
    /// The parent of all cgroups of this machine, in every hierarchy.
    pub cgroup: String,
}

impl Host {
    /// Makes the machine and starts its daemon.
    #[track_caller]
    pub fn start(executables: Executables, options: Options) -> Host {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: use `sudo cargo xtask test`");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("hull-test-{}-{number}", std::process::id());
        let folder = tempfile::Builder::new().prefix("hull-test-").tempdir().expect("make a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("make the data root");
        let config = if options.config.is_empty() { "{}" } else { &options.config };
        fs::write(folder.path().join("daemon.json"), config).expect("make the daemon's file");
        let holder = hold(&folder, &data, &options);
        let mut host = Host { folder, executables, options, holder, daemon: None, cgroup };
        host.start_daemon();
        host
    }

    pub fn data_root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn exec_root(&self) -> PathBuf {
        self.folder.path().join("exec")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("hull.sock")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// The process that keeps the machine's namespaces.
    pub fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command inside this machine's mount and network namespaces.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--net={namespaces}/net"))
            .arg("--")
            .arg(program);
        command
    }

    /// The daemon's command line, for tests that start it by themselves.
    pub fn daemon_command(&self) -> Command {
        let mut command = self.inside("env");
        if let Some((soft, hard)) = self.options.open_files {
            command.args(["prlimit", &format!("--nofile={soft}:{hard}"), "--"]);
        }
        if self.options.own_mounts {
            command.args(["unshare", "--mount", "--propagation", "private", "--"]);
        }
        command.arg(&self.executables.hull).arg("daemon");
        command.arg("--data-root").arg(self.data_root()).arg("--exec-root").arg(self.exec_root());
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        command.arg("--pidfile").arg(self.folder.path().join("hull.pid"));
        command.arg("--config-file").arg(self.folder.path().join("daemon.json"));
        command.arg("--cgroup-parent").arg(&self.cgroup);
        command.arg("--runtime-executable").arg(&self.executables.runtime);
        command.args(&self.options.daemon);
        for (name, value) in &self.options.environment {
            command.env(name, value);
        }
        command
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        self.launch_daemon();
        self.await_socket();
    }

    /// Waits until the daemon that was launched answers.
    #[track_caller]
    pub fn await_socket(&mut self) {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            assert!(ended.is_none(), "the daemon ended with {ended:?}:\n{}", self.daemon_log());
            assert!(
                start.elapsed() < command::patience(30),
                "the daemon never listened:\n{}",
                self.daemon_log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the daemon and does not wait: a failpoint may end it before it answers.
    #[track_caller]
    pub fn launch_daemon(&mut self) {
        let mut command = self.daemon_command();
        self.launch(&mut command);
    }

    /// Starts a daemon by a command line of the test's own.
    #[track_caller]
    pub fn launch(&mut self, command: &mut Command) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("daemon.log"));
        let log = log.expect("open the daemon's log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        self.daemon = Some(command.spawn().expect("start the daemon"));
    }

    /// The next daemon finds its runtime at `path`: another build, as far as anybody can see.
    pub fn set_runtime(&mut self, path: PathBuf) {
        self.executables.runtime = path;
    }

    /// Where the daemon finds its runtime.
    pub fn runtime(&self) -> &Path {
        &self.executables.runtime
    }

    /// The pids of this machine's spawners.
    pub fn spawners(&self) -> Vec<u32> {
        let mut pids = self.processes();
        // The word comes after the name it was called by. What is forked from it has the same
        // words, but another name.
        pids.retain(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            words.split(|&byte| byte == 0).nth(1) == Some(b"spawner") && name == "hull-spawner\n"
        });
        pids
    }

    /// Sets a failpoint (or anything else) in the environment of the next daemon.
    pub fn set_environment(&mut self, name: &str, value: Option<&str>) {
        self.options.environment.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.options.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// kill -9 of the daemon alone.
    #[track_caller]
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.kill().expect("kill the daemon");
        daemon.wait().expect("reap the daemon");
    }

    /// kill -9 of the daemon, and the next one at once: the kernel has not yet taken away what the
    /// first one had.
    #[track_caller]
    pub fn replace_killed_daemon(&mut self) {
        let mut killed = self.daemon.take().expect("the daemon runs");
        killed.kill().expect("kill the daemon");
        self.launch_daemon();
        killed.wait().expect("reap the daemon");
    }

    /// Waits for a daemon that is to end by itself.
    #[track_caller]
    pub fn await_daemon(&mut self) -> i32 {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        command::wait(&mut daemon, "hull daemon")
    }

    /// Stops the daemon as its service would, and returns its exit code.
    #[track_caller]
    pub fn stop_daemon(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_raw(self.daemon_pid().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the daemon");
        self.await_daemon()
    }

    /// A command line of `hull` against this machine's daemon.
    pub fn hull_command(&self, words: &[&str]) -> Command {
        self.client_command(&self.executables.hull, words)
    }

    /// The same with the official client.
    pub fn docker_command(&self, words: &[&str]) -> Command {
        self.client_command(&self.executables.docker, words)
    }

    /// The same with whatever program is a client.
    pub fn client_command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--host").arg(format!("unix://{}", self.socket().display())).args(words);
        command.env("HOME", self.folder.path()).env_remove("DOCKER_HOST").env_remove("DOCKER_CONFIG");
        command.env("TERM", "xterm").current_dir(self.folder.path());
        command
    }

    pub fn hull(&self, words: &[&str]) -> Finished {
        command::run(&mut self.hull_command(words), b"")
    }

    pub fn docker(&self, words: &[&str]) -> Finished {
        command::run(&mut self.docker_command(words), b"")
    }

    /// `hull` kept to one version of the API.
    pub fn hull_at(&self, version: &str, words: &[&str]) -> Finished {
        command::run(self.hull_command(words).env("DOCKER_API_VERSION", version), b"")
    }

    /// The official client kept to one version of the API.
    pub fn docker_at(&self, version: &str, words: &[&str]) -> Finished {
        command::run(self.docker_command(words).env("DOCKER_API_VERSION", version), b"")
    }

    pub fn hull_with_input(&self, words: &[&str], input: &[u8]) -> Finished {
        command::run(&mut self.hull_command(words), input)
    }

    pub fn docker_with_input(&self, words: &[&str], input: &[u8]) -> Finished {
        command::run(&mut self.docker_command(words), input)
    }

    pub fn hull_on_terminal(&self, words: &[&str]) -> Terminal {
        Terminal::start(&self.hull_command(words))
    }

    pub fn docker_on_terminal(&self, words: &[&str]) -> Terminal {
        Terminal::start(&self.docker_command(words))
    }

    /// One request by hand.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let headers: &[(&str, &str)] =
            if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
        Connection::open(&self.socket()).request(method, path, headers, body)
    }

    /// Names of the network links in order; of the outer ends of pairs, which are random, `veth` alone.
    #[track_caller]
    pub fn links(&self) -> Vec<String> {
        let name = |line: &str| {
            let name = line.split(": ").nth(1)?.split('@').next()?;
            Some(if name.starts_with("veth") { "veth" } else { name }.to_owned())
        };
        let text = self.printed(&["busybox", "ip", "-o", "link"]);
        let mut names: Vec<String> = text.lines().filter_map(name).collect();
        names.sort();
        names
    }

    /// The words of all rules and sets of the packet filter, sorted: the kernel lists sets in no order.
    #[track_caller]
    pub fn rules(&self) -> Vec<String> {
        let text = self.printed(&["nft", "list", "ruleset"]);
        let words = text.split(|char: char| char.is_whitespace() || char == ',');
        let mut words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
        words.sort();
        words
    }

    /// What a program says inside this machine's namespaces; panics if it fails.
    #[track_caller]
    pub fn printed(&self, words: &[&str]) -> String {
        command::run(self.inside(words[0]).args(&words[1..]), b"").ok().to_owned()
    }

    /// The image that most tests run: busybox of this host, with its applets.
    #[track_caller]
    pub fn busybox(&self) -> &'static str {
        self.hull(&["image", "capture", "busybox", "busybox"]).ok();
        "busybox"
    }

    /// Folders of this machine's cgroups, deepest first.
    pub fn cgroup_folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for hierarchy in hierarchies() {
            collect_folders(&hierarchy.join(&self.cgroup), &mut folders);
        }
        folders
    }
}

/// A process that keeps the namespaces, with the loopback up, and a disk and an /etc of its own where
/// asked.
fn hold(folder: &tempfile::TempDir, data: &Path, options: &Options) -> Child {
    let disk = options.disk_mib.map_or(String::new(), |mib| {
        let image = folder.path().join("disk");
        format!(
            "truncate -s {mib}M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {data} && ",
            image = image.display(),
            data = data.display()
        )
    });
    let etc = options.resolv_conf.as_ref().map_or(String::new(), |text| {
        let own = folder.path().join("etc");
        fs::create_dir_all(own.join("upper"))
            .and_then(|()| fs::create_dir(own.join("work")))
            .expect("an /etc");
        fs::write(own.join("upper/resolv.conf"), text).expect("write resolv.conf");
        let layers = format!("lowerdir=/etc,upperdir={0}/upper,workdir={0}/work", own.display());
        format!("mount -t overlay -o {layers} overlay /etc && ")
    });
    let script = format!("{disk}{etc}busybox ip link set lo up && echo ready && exec sleep infinity");
    let mut holder = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("make the namespaces of a machine");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
        .expect("hear from the holder");
    assert_eq!(line, "ready\n", "the namespaces of a machine could not be set up");
    holder
}

/// The mount points of all cgroup hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn collect_folders(folder: &Path, folders: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_folders(&entry.path(), folders);
        }
    }
    folders.push(folder.to_path_buf());
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.daemon_log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprint_lines(&tail);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let start = Instant::now();
        // Spawner and shims live in this machine's namespaces, containers in its cgroups.
        while self.kill_what_is_left() && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(2));
        }
        for folder in self.cgroup_folders() {
            let _ = fs::remove_dir(folder);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[allow(clippy::print_stderr, reason = "a failing test shows its daemon's last words")]
fn eprint_lines(lines: &[&str]) {
    eprintln!("the daemon's last lines:\n{}", lines.join("\n"));
}

impl Host {
    /// True while there was something to kill.
    fn kill_what_is_left(&self) -> bool {
        let mut pids = self.processes();
        pids.retain(|pid| *pid != self.holder.id() && *pid != std::process::id());
        for pid in &pids {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        !pids.is_empty()
    }

    /// Every process of this machine, the one that holds its namespaces among them: in its mount or network namespace, or in one of its cgroups.
    pub fn processes(&self) -> Vec<u32> {
        let namespace = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let ours = [namespace(self.holder.id(), "mnt"), namespace(self.holder.id(), "net")];
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let theirs = [namespace(pid, "mnt"), namespace(pid, "net")];
            let shares = ours.iter().zip(&theirs).any(|(our, their)| our.is_some() && our == their);
            let inside = || {
                fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|text| is_below(&text, &self.cgroup))
            };
            if shares || inside() {
                pids.push(pid);
            }
        }
        pids
    }
}

/// Whether /proc/PID/cgroup (cgroups(7)) names `parent` as a whole folder: the machine 1 has nothing
/// of the machine 12. The word after the path of a cgroup that is gone is " (deleted)".
fn is_below(cgroups: &str, parent: &str) -> bool {
    cgroups.split(['/', '\n', ' ']).any(|folder| folder == parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_no_processes_of_one_whose_number_begins_like_its_own() {
        let of = |folder: &str| format!("2:cpu:/\n1:memory:/{folder}\n0::/\n");
        assert!(is_below(&of("hull-test-7-1/0123"), "hull-test-7-1"));
        assert!(is_below(&of("outer/hull-test-7-1"), "hull-test-7-1"));
        assert!(is_below(&of("hull-test-7-1 (deleted)"), "hull-test-7-1"));
        assert!(!is_below(&of("hull-test-7-12/0123"), "hull-test-7-1"));
    }
}
