//! The OCI command line, called as podman and people call it. Needs root and busybox-static.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

struct Bundle {
    dir: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new(name: &str, args: &[&str]) -> Bundle {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is needed");
        for applet in ["sh", "sleep", "id", "cat", "echo", "ls", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let bundle = Bundle { id: format!("hull-test-{}-{name}", std::process::id()), dir };
        assert!(bundle.command(&["spec", "-b"]).arg(bundle.path()).status().unwrap().success());
        bundle.change(|config| {
            config["process"]["args"] = json!(args);
            config["process"]["terminal"] = json!(false);
            config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
        });
        bundle
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.file("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hull-runtime"));
        command.arg("--root").arg(self.file("state")).args(words).current_dir(self.path());
        command.stdin(Stdio::null());
        command
    }

    /// With files for its output: a pipe would stay open as long as a container that inherits it.
    fn call(&self, words: &[&str]) -> Output {
        let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut command = self.command(words);
        command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
        let status = command.status().unwrap();
        let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).unwrap();
        Output { status, stdout: read(&out), stderr: read(&err) }
    }

    /// The output of a command that must succeed.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail, and its code.
    fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.call(words);
        assert!(!output.status.success(), "{words:?} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}

#[test]
fn run_gives_output_and_code_and_leaves_nothing() {
    let bundle = Bundle::new("run", &["sh", "-c", "id -u; exit 5"]);
    let output = bundle.call(&["run", &bundle.id]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(5), &b"0\n"[..]), "{output:?}");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert!(bundle.fails(&["state", &bundle.id]).1.contains("container does not exist"));
}

#[test]
fn a_container_is_created_started_and_deleted() {
    let bundle = Bundle::new("life", &["sleep", "1000"]);
    let id = &*bundle.id;
    bundle.ok(&["create", "--pid-file", "pid", id]);
    assert_eq!(bundle.status(), "created");
    let pid = std::fs::read_to_string(bundle.file("pid")).unwrap();
    assert_ne!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    assert!(bundle.fails(&["create", id]).1.contains("container with given ID already exists"));
    bundle.ok(&["start", id]);
    assert_eq!(bundle.status(), "running");
    assert!(bundle.fails(&["start", id]).1.contains("already running"));
    assert!(bundle.fails(&["delete", id]).1.contains("is not stopped: running"));
    bundle.ok(&["pause", id]);
    assert_eq!(bundle.status(), "paused");
    bundle.ok(&["resume", id]);
    assert_eq!(bundle.ok(&["ps", "-f", "json", id]).trim(), format!("[{pid}]"));
    let table = bundle.ok(&["ps", id]);
    let (title, process) = table.trim_end().split_once('\n').expect("a title and one process");
    assert_eq!(title, "UID          PID    PPID  C STIME TTY          TIME CMD");
    assert!(process.starts_with("root") && process.ends_with("sleep 1000"), "{table}");
    assert_eq!(bundle.ok(&["ps", id, "-o", "pid,comm"]).lines().last(), Some(&*format!("{pid:>7} sleep")));
    bundle.ok(&["kill", id, "KILL"]);
    // Nobody of ours reaps it: it has ended when its state says so.
    let stopped = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        bundle.status() == "stopped"
    });
    assert!(stopped);
    assert!(bundle.fails(&["exec", id, "true"]).1.contains("stopped"));
    bundle.ok(&["delete", id]);
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert_eq!(bundle.fails(&["delete", id]).0, 1);
    bundle.ok(&["delete", "--force", id]);
}

#[test]
fn exec_joins_a_running_container() {
    let bundle = Bundle::new("exec", &["sleep", "1000"]);
    bundle.ok(&["run", "-d", &bundle.id]);
    let output =
        bundle.call(&["exec", "-u", "7:8", "-e", "X=y", &bundle.id, "sh", "-c", "id -u; echo $X; exit 4"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(4), &b"7\ny\n"[..]), "{output:?}");
    let (code, message) = bundle.fails(&["exec", &bundle.id, "nosuch"]);
    assert_eq!(code, 255);
    assert!(message.contains("exec: \"nosuch\": executable file not found in $PATH"), "{message}");
}

#[test]
fn a_program_that_is_missing_is_told_at_create_and_in_the_log() {
    let bundle = Bundle::new("missing", &["nosuch"]);
    let (code, message) = bundle.fails(&["--log", "log", "--log-format", "json", "create", &bundle.id]);
    assert_eq!(code, 1);
    assert!(message.contains("executable file not found in $PATH"), "{message}");
    let line: Value = serde_json::from_slice(&std::fs::read(bundle.file("log")).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("executable file not found in $PATH"));
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

#[test]
fn hooks_run_in_their_order_with_the_state_and_a_failing_one_ends_it() {
    let bundle = Bundle::new("hooks", &["true"]);
    let log = bundle.file("hooks");
    let hook = |name: &str, code: u32| {
        let script =
            format!("echo {name} $(grep -o '\"status\":\"[a-z]*\"') >> {}; exit {code}", log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }])
    };
    bundle.change(|config| {
        config["hooks"] = json!({
            "createRuntime": hook("createRuntime", 0),
            "poststart": hook("poststart", 0),
            "poststop": hook("poststop", 0),
        });
    });
    bundle.ok(&["run", &bundle.id]);
    let expected = "createRuntime \"status\":\"creating\"\npoststart \"status\":\"running\"\npoststop \"status\":\"stopped\"\n";
    assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
    bundle.change(|config| config["hooks"] = json!({ "createRuntime": hook("createRuntime", 3) }));
    assert!(bundle.fails(&["run", &bundle.id]).1.contains("hook /bin/sh"));
    let slow = json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]);
    bundle.change(|config| config["hooks"] = json!({ "createRuntime": slow }));
    assert!(bundle.fails(&["run", &bundle.id]).1.contains("longer than 1 s"));
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

#[test]
fn ids_cannot_leave_the_folder_of_states() {
    let bundle = Bundle::new("ids", &["true"]);
    for id in ["..", "a/b", "../x", "", "a b"] {
        assert!(bundle.fails(&["run", id]).1.contains("invalid container ID") || id.is_empty(), "{id}");
    }
    assert!(bundle.fails(&["--systemd-cgroup", "run", "x"]).1.contains("systemd"));
    assert!(bundle.fails(&["run", "--preserve-fds", "90", "x"]).1.contains("is not open"));
}

#[test]
fn a_bundle_with_a_user_namespace_runs_and_is_joined() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let bundle = Bundle::new("userns", &["sh", "-c", "id -u; echo > /made; sleep 1000"]);
    std::fs::set_permissions(bundle.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for folder in ["rootfs", "rootfs/bin"] {
        chown(bundle.file(folder), Some(200_000), Some(200_000)).unwrap();
    }
    for name in ["proc", "sys", "dev"] {
        std::fs::create_dir_all(bundle.file("rootfs").join(name)).unwrap();
    }
    bundle.change(|config| {
        let mapping = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
        config["root"]["readonly"] = json!(false);
    });
    bundle.ok(&["run", "-d", "--pid-file", "pid", &bundle.id]);
    let output = bundle.ok(&["exec", &bundle.id, "sh", "-c", "id -u; cat /proc/self/uid_map"]);
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "200000", "65536"]);
    let pid = std::fs::read_to_string(bundle.file("pid")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t200000\t"), "{status}");
    let made = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        std::fs::metadata(bundle.file("rootfs/made")).ok()
    });
    assert_eq!(made.unwrap().uid(), 200_000);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
}
