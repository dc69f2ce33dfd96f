//! The engines and runtimes of a benchmark: found, started, commanded, stopped.
//!
//! All of them understand the words of Docker's command line. Each has its data in a folder of
//! its own; daemons are children of this process and are stopped by their pid.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hull_sys::usage::{Usage, wait_with_usage};
use rustix::process::Pid;

/// The name of the image that every engine gets.
pub(crate) const IMAGE: &str = "bench-busybox";

pub(crate) struct Engine {
    pub(crate) name: &'static str,
    program: PathBuf,
    /// Global flags, before the command.
    prefix: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// Flags that every `run` gets.
    run_flags: &'static [&'static str],
    /// And every `rm -f`.
    rm_flags: &'static [&'static str],
    /// Names of the processes that serve it (/proc/PID/comm), for memory.
    pub(crate) processes: &'static [&'static str],
    daemon: Option<Child>,
}

/// The program on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Where run-time files are: a tmpfs.
pub(crate) fn run_folder(work: &Path) -> PathBuf {
    work.join("run")
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Starts a daemon whose output goes to a file, and waits until `ready` succeeds.
fn daemon(mut command: Command, log: &Path, ready: impl Fn() -> bool) -> Result<Child> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("share the log")?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready() {
        let ended = child.try_wait().context("wait for the daemon")?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let text = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<_> = text.lines().rev().take(3).collect();
            bail!("{program} did not come up: {}", last.join(" / "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(child)
}

impl Engine {
    /// Hull's own daemon and client, from the folder with both executables.
    pub(crate) fn hull(dist: &Path, work: &Path) -> Result<Engine> {
        let home = work.join("hull");
        fs::create_dir_all(&home).context("create hull's folder")?;
        let socket = format!("unix://{}", home.join("hull.sock").display());
        let program = dist.join("hull");
        let mut engine = Engine {
            name: "hull",
            program: program.clone(),
            prefix: strings(&["-H", &socket]),
            environment: Vec::new(),
            run_flags: &[],
            rm_flags: &[],
            processes: &["hull", "hull-runtime", "hull-spawner", "hull-shim", "hull-forwarder"],
            daemon: None,
        };
        let mut command = Command::new(&program);
        command.args(["daemon", "-H", &socket]);
        command.arg("--data-root").arg(home.join("data"));
        command.arg("--exec-root").arg(run_folder(work).join("hull"));
        command.arg("--pidfile").arg(home.join("pid"));
        engine.daemon = Some(daemon(command, &home.join("log"), || engine.quiet(&["version"]))?);
        Ok(engine)
    }

    /// Docker's daemon, with a containerd of its own.
    pub(crate) fn docker(work: &Path) -> Result<Engine> {
        let (Some(client), Some(server)) = (on_path("docker"), on_path("dockerd")) else {
            bail!("docker or dockerd is not on PATH");
        };
        let home = work.join("docker");
        fs::create_dir_all(&home).context("create docker's folder")?;
        let socket = format!("unix://{}", home.join("docker.sock").display());
        let mut engine = Engine {
            name: "docker",
            program: client,
            prefix: strings(&["-H", &socket]),
            environment: Vec::new(),
            run_flags: &[],
            rm_flags: &[],
            processes: &["dockerd", "containerd", "containerd-shim", "docker-proxy"],
            daemon: None,
        };
        let mut command = Command::new(server);
        command.args(["-H", &socket, "--storage-driver", "overlay2"]);
        command.arg("--data-root").arg(home.join("data"));
        command.arg("--exec-root").arg(run_folder(work).join("docker"));
        command.arg("--pidfile").arg(home.join("pid"));
        engine.daemon = Some(daemon(command, &home.join("log"), || engine.quiet(&["version"]))?);
        Ok(engine)
    }

    pub(crate) fn podman(work: &Path) -> Result<Engine> {
        let Some(program) = on_path("podman") else {
            bail!("podman is not on PATH");
        };
        let home = work.join("podman");
        fs::create_dir_all(&home).context("create podman's folder")?;
        let (data, run) = (home.join("data"), run_folder(work).join("podman"));
        let mut prefix =
            strings(&["--root", &data.display().to_string(), "--runroot", &run.display().to_string()]);
        prefix.extend(strings(&["--cgroup-manager", "cgroupfs", "--events-backend", "file"]));
        prefix.extend(strings(&["--storage-driver", "overlay"]));
        let environment = vec![("PODMAN_IGNORE_CGROUPSV1_WARNING", "1".to_owned())];
        // Podman raises its containers' limits above those of its caller, and fails where the host
        // does not allow that; lower ones always work.
        let run_flags = &["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"];
        Ok(Engine {
            name: "podman",
            program,
            prefix,
            environment,
            run_flags,
            // The others' rm -f kills at once too.
            rm_flags: &["--time=0"],
            processes: &["podman", "conmon"],
            daemon: None,
        })
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).stdin(Stdio::null());
        match words {
            ["run", rest @ ..] => command.arg("run").args(self.run_flags).args(rest),
            ["rm", "-f", rest @ ..] => command.args(["rm", "-f"]).args(self.rm_flags).args(rest),
            _ => command.args(words),
        };
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// Whether the command succeeds.
    pub(crate) fn quiet(&self, words: &[&str]) -> bool {
        self.command(words).output().is_ok_and(|output| output.status.success())
    }

    /// Runs a command to its end; its output is dropped. Milliseconds.
    pub(crate) fn time(&self, words: &[&str]) -> Result<f64> {
        let begin = Instant::now();
        let mut command = self.command(words);
        let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let output = output.and_then(Child::wait_with_output);
        let elapsed = begin.elapsed().as_secs_f64() * 1000.0;
        succeeded(output, || format!("{} {}", self.name, words.join(" ")))?;
        Ok(elapsed)
    }

    /// The first line a command prints.
    pub(crate) fn line(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).stderr(Stdio::piped()).output();
        let output = succeeded(output, || format!("{} {}", self.name, words.join(" ")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Gives the engine the benchmark's image.
    pub(crate) fn import(&self, tar: &Path) -> Result<()> {
        self.line(&["import", &tar.display().to_string(), IMAGE]).map(drop)
    }

    /// Removes all containers.
    pub(crate) fn clear(&self) -> Result<()> {
        let output = self.command(&["ps", "-aq"]).output().context("list containers")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ids: Vec<&str> = text.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut words = vec!["rm", "-f"];
        words.extend(ids);
        self.line(&words).map(drop)
    }

    /// Removes the containers and ends the daemon.
    pub(crate) fn stop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("bench: {}: {error:#}", self.name);
        }
        let Some(mut child) = self.daemon.take() else {
            return;
        };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn succeeded(output: std::io::Result<Output>, what: impl Fn() -> String) -> Result<Output> {
    let output = output.with_context(&what)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        let how = output.status.code().or(output.status.signal()).unwrap_or(-1);
        bail!("{} ended with {how}: {}", what(), lines.join(" / "));
    }
    Ok(output)
}

/// An OCI runtime's command line.
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    program: PathBuf,
    root: PathBuf,
}

impl Runtime {
    pub(crate) fn hull(dist: &Path, work: &Path) -> Runtime {
        let program = dist.join("hull-runtime");
        Runtime { name: "hull-runtime", program, root: work.join("state-hull") }
    }

    pub(crate) fn found(name: &'static str, work: &Path) -> Option<Runtime> {
        Some(Runtime { name, program: on_path(name)?, root: work.join(format!("state-{name}")) })
    }

    /// `run` of a bundle to its end: milliseconds, and what it used.
    pub(crate) fn run(&self, bundle: &Path) -> Result<(f64, Usage)> {
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(["run", "--bundle"]).arg(bundle).arg("hull-bench");
        let log = self.root.with_extension("log");
        let out = File::create(&log).context("create the runtime's log")?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).spawn();
        let child = child.with_context(|| format!("start {}", self.name))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child without a pid")?;
        let (ended, usage) = wait_with_usage(pid)?;
        let elapsed = begin.elapsed().as_secs_f64() * 1000.0;
        if ended.code() != 0 {
            let text = fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "{} run ended with {}: {}",
                self.name,
                ended.code(),
                text.lines().last().unwrap_or_default()
            );
        }
        Ok((elapsed, usage))
    }
}
