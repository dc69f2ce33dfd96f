//! What lies on the host's disk and what is told (K20): modes of all files of a daemon that was started
//! without a mask, what somebody without rights reaches of them, and where secrets turn up.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_testkit::{Connection, Host, Options};
use serde_json::json;

use super::{CLIENTS, executables};

/// A machine whose daemon was started with no mask for the modes of its files, and says all it can.
fn host() -> Host {
    let mut host =
        Host::start(executables(), Options { daemon: vec!["--debug".to_owned()], ..Options::default() });
    host.kill_daemon();
    let daemon = host.daemon_command();
    let mut unmasked = Command::new("sh");
    unmasked.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(daemon.get_program()).args(daemon.get_args());
    host.launch(&mut unmasked);
    host.await_socket();
    host.busybox();
    host
}

/// Everything that a daemon keeps: images, containers that run, rest and have ended, an exec, volumes
/// of both kinds, a commit, a network.
fn busy(host: &Host) {
    host.hull(&["network", "create", "net"]).ok();
    host.hull(&["volume", "create", "vol"]).ok();
    let words = ["-e", "TOKEN=secret-of-the-environment", "-v", "vol:/v", "--mount", "type=tmpfs,target=/t"];
    for (name, verb) in
        [("runs", &["run", "-d", "--network", "net", "-p", "127.0.0.1::80"][..]), ("rests", &["create"])]
    {
        host.docker(
            &[
                verb,
                &["--name", name],
                &words[..],
                &["busybox", "sh", "-c", "echo said; umask 0; touch /made; sleep 1000"],
            ]
            .concat(),
        )
        .ok();
    }
    host.hull(&["run", "--name", "ended", "-v", "/anonymous", "busybox", "echo", "said"]).ok();
    host.hull(&["exec", "-d", "runs", "sleep", "1000"]).ok();
    host.hull(&[
        "exec",
        "runs",
        "sh",
        "-c",
        "umask 0; mkdir /open; cp /bin/busybox /open/suid; chmod 6777 /open/suid; cp /open/suid /v",
    ])
    .ok();
    host.hull(&["commit", "runs", "committed"]).ok();
    let file = host.folder().join("saved.tar");
    host.hull(&["save", "-o", file.to_str().unwrap(), "committed"]).ok();
    host.hull(&["load", "-i", file.to_str().unwrap()]).ok();
}

/// Folders whose content containers see, so their modes and what is in them are for them.
const THEIRS: [&str; 4] = ["diff", "init", "upper", "_data"];

/// All below a folder but what containers and images have put there, whose modes are theirs.
fn own(folder: &Path, all: &mut Vec<PathBuf>) {
    all.push(folder.to_owned());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let theirs = THEIRS.contains(&name(folder).as_str());
    if theirs || !fs::symlink_metadata(folder).is_ok_and(|stat| stat.is_dir()) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        own(&entry.path(), all);
    }
}

/// What a program says and how it ends, run by somebody without any right.
fn stranger(host: &Host, words: &[&str]) -> String {
    let mut command = host.inside("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--"])
        .args(words);
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn without_a_mask_no_file_is_anybodys() {
    let host = host();
    busy(&host);
    let roots = [host.data_root(), host.exec_root()];
    let mut all = Vec::new();
    for root in &roots {
        own(&within(&host, root), &mut all);
    }
    assert!(all.len() > 60, "{all:?}");
    for path in &all {
        let stat = fs::symlink_metadata(path).unwrap();
        let (mode, kind) = (stat.mode() & 0o7777, stat.file_type());
        if kind.is_symlink() {
            continue;
        }
        let theirs = THEIRS.iter().any(|name| path.ends_with(name));
        assert!(mode & 0o022 == 0 || theirs, "{} can be written by others: {mode:o}", path.display());
        assert_eq!(mode & 0o7000, 0, "{}: {mode:o}", path.display());
        if kind.is_dir() && !theirs {
            assert_eq!(mode & 0o044, 0, "{} can be listed by others: {mode:o}", path.display());
        }
        if kind.is_socket() {
            assert_eq!(mode & 0o077, 0, "{} can be connected to: {mode:o}", path.display());
        }
        assert_eq!((stat.uid(), stat.gid()), (0, 0), "{}", path.display());
    }
    let socket = fs::symlink_metadata(host.socket()).unwrap().mode() & 0o7777;
    assert_eq!(socket & 0o007, 0, "the daemon's socket: {socket:o}");
    // Sockets and pipes are made by bind(2) with the caller's mask: the containers get their own.
    assert_eq!(host.hull(&["exec", "runs", "sh", "-c", "umask"]).ok(), "0022");
}

/// The machine's own view of a path: a data root may be mounted there.
fn within(host: &Host, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", host.holder_pid(), path.display()))
}

#[test]
fn who_has_no_right_reaches_nothing_below_the_roots() {
    let host = host();
    busy(&host);
    // The tests' own folder is nobody's either; the roots of a daemon are where others pass.
    fs::set_permissions(host.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let open = host.folder().join("open");
    fs::write(&open, "open to all").unwrap();
    assert_eq!(
        stranger(&host, &["cat", open.to_str().unwrap()]),
        "open to all",
        "the control: who is tried can read"
    );
    let (data, exec) = (host.data_root(), host.exec_root());
    let listed = stranger(&host, &["find", data.to_str().unwrap(), exec.to_str().unwrap(), "-mindepth", "1"]);
    assert_eq!(listed, "", "somebody without rights can list this");
    // Knowing each name, as they would who guess it.
    let names = host.printed(&["find", data.to_str().unwrap(), exec.to_str().unwrap(), "-mindepth", "1"]);
    assert!(names.lines().count() > 300 && names.contains("suid"), "{}", names.lines().count());
    let list = host.folder().join("names");
    fs::write(&list, &names).unwrap();
    let script = format!(
        "while read -r f; do \
           if [ -d \"$f\" ]; then [ -r \"$f\" ] && echo \"lists $f\"; [ -w \"$f\" ] && echo \"fills $f\"; \
           else [ -r \"$f\" ] && echo \"reads $f\"; [ -w \"$f\" ] && echo \"writes $f\"; [ -x \"$f\" ] && echo \"runs $f\"; fi; \
         done < {}; echo done",
        list.display()
    );
    assert_eq!(stranger(&host, &["sh", "-c", &script]), "done\n");
    // The control: the same with all rights, and through the one socket.
    let all = host.printed(&["sh", "-c", &script]);
    assert!(all.lines().filter(|line| line.starts_with("runs ") && line.ends_with("/suid")).count() >= 2);
    let connect =
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('connected')";
    let mut sockets: Vec<String> = all
        .lines()
        .filter_map(|line| line.strip_prefix("writes "))
        .map(str::to_owned)
        .filter(|path| {
            fs::symlink_metadata(within(&host, Path::new(path)))
                .is_ok_and(|stat| stat.file_type().is_socket())
        })
        .collect();
    sockets.push(host.socket().display().to_string());
    assert!(sockets.len() >= 3, "the spawner's, a shim's, the daemon's: {sockets:?}");
    for socket in &sockets {
        assert_eq!(stranger(&host, &["python3", "-c", connect, socket]), "", "{socket}");
    }
    assert_eq!(host.printed(&["python3", "-c", connect, host.socket().to_str().unwrap()]), "connected");
}

#[test]
fn a_secret_is_told_where_it_belongs_and_nowhere_else() {
    let host = host();
    let mut events = host.hull_command(&["events", "--format", "{{json .}}"]);
    let heard = fs::File::create(host.folder().join("events")).unwrap();
    let mut events = events.stdin(Stdio::null()).stdout(heard).spawn().unwrap();
    let secret = |of: &str| format!("hunter2-{of}");
    let mut answers = String::new();
    // A registry's password: in the header, and in a body.
    let header = json!({"username": "me", "password": secret("registry"), "identitytoken": secret("token")})
        .to_string();
    let header = base64(header.as_bytes());
    for path in [
        "/v1.51/images/create?fromImage=registry.invalid/me/image&tag=1",
        "/v1.51/images/registry.invalid%2Fme/push",
    ] {
        let answer =
            Connection::open(&host.socket()).request("POST", path, &[("X-Registry-Auth", &header)], b"");
        answers += &answer.text();
    }
    let body = json!({"username": "me", "password": secret("login"), "serveraddress": "registry.invalid"})
        .to_string();
    for (path, body) in [
        ("/v1.51/auth", body.as_str()),
        // Bodies that do not parse, or mean nothing, with a secret before and after the mistake.
        ("/v1.51/containers/create", r#"{"Image":"busybox","Env":["TOKEN=hunter2-body"],"Cmd":7}"#),
        ("/v1.51/containers/create", r#"{"Image":"nosuch","Env":["TOKEN=hunter2-body"]}"#),
        ("/v1.51/containers/create", r#"{"Image":"busybox","Env":["TOKEN=hunter2-body"],"#),
        ("/v1.51/volumes/create", r#"{"Name":"/","DriverOpts":{"o":"password=hunter2-body"}}"#),
    ] {
        answers += &host.request("POST", path, body.as_bytes()).text();
    }
    // A server's password among a volume's options: the mount fails, which is told without it.
    for client in CLIENTS {
        let o = format!("o=addr=127.0.0.1,username=me,password={}", secret("volume"));
        client(
            &host,
            &["volume", "create", "-o", "type=cifs", "-o", "device=//127.0.0.1/share", "-o", &o, "share"],
        )
        .ok();
        let refused = client(&host, &["run", "--name", "fails", "-v", "share:/v", "busybox", "true"]);
        assert_ne!(refused.code, 0, "{refused}");
        answers += &refused.stderr;
        assert!(refused.stderr.contains("password=********"), "{refused}");
        client(&host, &["rm", "fails"]);
        answers += client(&host, &["volume", "ls"]).ok();
        answers += client(&host, &["volume", "rm", "share"]).ok();
    }
    // The environment of a container, of one that fails, and of an exec.
    let env = format!("TOKEN={}", secret("environment"));
    for client in CLIENTS {
        client(&host, &["run", "-d", "--name", "box", "-e", &env, "busybox", "sleep", "1000"]).ok();
        client(&host, &["exec", "-e", &format!("TOKEN={}", secret("exec")), "box", "true"]).ok();
        for fails in [&["nosuchprogram"][..], &["/etc/passwd"]] {
            let run = [&["run", "--rm", "-e", &env, "busybox"], fails].concat();
            answers += &client(&host, &run).stderr;
        }
        answers += client(&host, &["ps", "-a", "--no-trunc"]).ok();
        answers += client(&host, &["info"]).ok();
        answers += &host.request("GET", "/v1.51/system/df", b"").text();
        // What serves it tells nobody by its command line or its own environment.
        for pid in host.processes() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("hull") && !is_client(pid) {
                for file in ["cmdline", "environ"] {
                    answers += &String::from_utf8_lossy(
                        &fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default(),
                    );
                }
            }
        }
        // Where it belongs.
        assert!(client(&host, &["inspect", "box"]).ok().contains(&env));
        assert_eq!(client(&host, &["exec", "box", "sh", "-c", "echo TOKEN=$TOKEN"]).ok(), env);
        client(&host, &["rm", "-f", "box"]).ok();
    }
    events.kill().unwrap();
    events.wait().unwrap();
    let heard = fs::read_to_string(host.folder().join("events")).unwrap();
    assert!(heard.contains("exec_create") && heard.contains("\"die\""), "{heard}");
    let log = host.daemon_log();
    assert!(log.contains("DEBUG"), "the log says all it can:\n{log}");
    for (place, text) in [("an answer", &answers), ("an event", &heard), ("the log", &log)] {
        let line = text.lines().find(|line| line.contains("hunter2"));
        assert_eq!(line, None, "{place} tells a secret");
    }
    // On disk it is in the records of what exists, which is root's alone, and in none of what is gone.
    let found = host.printed(&[
        "sh",
        "-c",
        &format!("grep -rl hunter2 {} {} || true", host.data_root().display(), host.exec_root().display()),
    ]);
    let elsewhere: Vec<&str> = found.lines().filter(|path| !path.contains("/state.db")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// The events' client of this test has the names of a daemon's process.
fn is_client(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|&byte| byte == 0).any(|word| word == b"--host")
        && !words.split(|&byte| byte == 0).any(|word| word == b"daemon")
}

/// RFC 4648, section 5, with its padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .enumerate()
            .fold(0u32, |sum, (index, byte)| sum | u32::from(*byte) << (16 - 8 * index));
        for place in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
