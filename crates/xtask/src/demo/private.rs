//! The demonstration's own daemon: started, asked, measured, and taken away.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub(crate) struct Daemon {
    folder: PathBuf,
    hull: PathBuf,
    cgroup: String,
    process: Child,
}

/// MiB of proportional set size.
pub(crate) struct Memory {
    pub(crate) daemon: f64,
    pub(crate) spawner: f64,
    pub(crate) shim: f64,
}

impl Daemon {
    pub(crate) fn start(dist: &Path) -> Result<Daemon> {
        let name = format!("hull-demo-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let log = fs::File::create(folder.join("daemon.log")).context("create the daemon's log")?;
        // Not the machine's own.
        let config = folder.join("daemon.json");
        fs::write(&config, "{}").with_context(|| format!("write {}", config.display()))?;
        let hull = dist.join("hull");
        let process = Command::new(&hull)
            .arg("daemon")
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--host")
            .arg(format!("unix://{}", folder.join("hull.sock").display()))
            .arg("--pidfile")
            .arg(folder.join("hull.pid"))
            .arg("--config-file")
            .arg(&config)
            .args(["--cgroup-parent", &name])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", hull.display()))?;
        let mut daemon = Daemon { folder, hull, cgroup: name, process };
        daemon.await_socket()?;
        Ok(daemon)
    }

    fn await_socket(&mut self) -> Result<()> {
        let started = Instant::now();
        while UnixStream::connect(self.folder.join("hull.sock")).is_err() {
            let log = || fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default();
            if let Some(status) = self.process.try_wait().context("look at the daemon")? {
                bail!("the daemon ended with {status}:\n{}", log());
            }
            ensure!(started.elapsed() < Duration::from_secs(20), "the daemon never listened:\n{}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The client's command line up to the words that a person would type.
    pub(crate) fn client_line(&self) -> String {
        format!("{} --host unix://{}", self.hull.display(), self.folder.join("hull.sock").display())
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.hull);
        command.arg("--host").arg(format!("unix://{}", self.folder.join("hull.sock").display())).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Shows the command as typed and what came back; an exit code other than 0 is an error.
    pub(crate) fn hull(&self, words: &[&str]) -> Result<String> {
        let (code, output) = self.try_hull(words)?;
        ensure!(code == 0, "hull {} ended with {code}: {output}", words.join(" "));
        Ok(output)
    }

    /// The same, whatever the exit code.
    pub(crate) fn try_hull(&self, words: &[&str]) -> Result<(i32, String)> {
        let typed: Vec<String> = words
            .iter()
            .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
            .collect();
        println!("  $ hull {}", typed.join(" "));
        let output = self.client(words).output().context("run hull")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for line in text.lines() {
            println!("  {line}");
        }
        Ok((output.status.code().unwrap_or(-1), text))
    }

    /// Runs it without showing anything.
    pub(crate) fn quiet(&self, words: &[&str]) -> Result<()> {
        let output = self.client(words).output().context("run hull")?;
        ensure!(
            output.status.success(),
            "hull {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Proportional set sizes of our daemon, of the spawner, and of the average shim.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let exec = self.folder.join("exec").display().to_string();
        let mut spawner = 0.0;
        let mut shims = Vec::new();
        let mut spawners = Vec::new();
        for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // Shims are forks of the spawner, with its command line.
            if line.contains("spawner") && line.contains(&exec) {
                spawners.push(pid);
            }
        }
        for pid in &spawners {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status
                .lines()
                .find_map(|line| line.strip_prefix("PPid:\t")?.parse::<u32>().ok())
                .unwrap_or(0);
            let share = proportional(*pid)?;
            match spawners.contains(&parent) {
                true => shims.push(share),
                false => spawner += share,
            }
        }
        let count = shims.len().max(1) as f64;
        Ok(Memory {
            daemon: proportional(self.process.id())?,
            spawner,
            shim: shims.iter().sum::<f64>() / count,
        })
    }

    /// Removes the containers, ends the daemon and the spawner, and deletes the folder.
    pub(crate) fn stop(mut self) -> Result<()> {
        let listed = self.client(&["ps", "-aq"]).output().context("list the containers")?;
        let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.quiet(&[&["rm", "-f"][..], &ids].concat())?;
        }
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("end the daemon")?;
        }
        let status = self.process.wait().context("wait for the daemon")?;
        end_spawner(&self.folder.join("exec").display().to_string());
        fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))?;
        remove_cgroups(&self.cgroup);
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

/// MiB, from smaps_rollup (proc(5)).
fn proportional(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("read the memory of {pid}"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.unwrap_or(0.0) / 1024.0)
}

/// The spawner outlives its daemon by design, waiting for the next one; ours will have none.
fn end_spawner(exec: &str) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("spawner")
            && line.contains(exec)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The empty parent groups in every hierarchy.
fn remove_cgroups(name: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        if let Some(point) = line.split(' ').nth(4) {
            let _ = fs::remove_dir(Path::new(point).join(name));
        }
    }
}
