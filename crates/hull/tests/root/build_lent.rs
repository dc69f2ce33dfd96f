//! What a step is lent: secrets, and agents with keys. It has them while it runs; nobody else has them, and
//! afterwards nothing has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use hull_testkit::{Baseline, Finished, Host, Options, patience};

use super::builds::{build, context, said, text};
use super::executables;

/// An agent of the test's own with one key, made for it; it ends with the test.
pub(super) struct Agent {
    process: Child,
    pub(super) socket: PathBuf,
    /// The public half, as a line of `authorized_keys`.
    pub(super) public: String,
    /// How `ssh-add -l` shows the key.
    fingerprint: String,
}

impl Agent {
    pub(super) fn start(folder: &Path) -> Agent {
        let (key, socket) = (folder.join("key"), folder.join("agent.sock"));
        let words = ["-q", "-t", "ed25519", "-N", "", "-C", "made by a test", "-f", text(&key)];
        printed(Command::new("ssh-keygen").args(words));
        let mut agent = Command::new("ssh-agent");
        agent.args(["-D", "-a", text(&socket)]).stdin(Stdio::null()).stdout(Stdio::null());
        let process = agent.spawn().unwrap();
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < patience(20), "the agent makes no socket");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        printed(Command::new("ssh-add").args(["-q", text(&key)]).env("SSH_AUTH_SOCK", &socket));
        // Nobody but the agent has it from here on.
        fs::remove_file(&key).unwrap();
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let shown = printed(Command::new("ssh-keygen").args(["-lf", text(&key.with_extension("pub"))]));
        Agent { process, socket, public, fingerprint: shown.trim().to_owned() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

pub(super) fn printed(command: &mut Command) -> String {
    hull_testkit::run(command, b"").ok().to_owned()
}

/// A machine whose daemon says all it can.
fn host() -> Host {
    let host =
        Host::start(executables(), Options { daemon: vec!["--debug".to_owned()], ..Options::default() });
    host.busybox();
    host
}

/// A build of our client's with these variables.
#[track_caller]
fn lent(host: &Host, environment: &[(&str, &str)], words: &[&str]) -> Finished {
    let mut command = host.hull_command(&[&["build", "--no-cache"], words].concat());
    command.env_remove("SSH_AUTH_SOCK").envs(environment.iter().copied());
    hull_testkit::run(&mut command, b"")
}

const KEYS: &str = r#"
FROM keys
RUN --mount=type=ssh ssh-add -l && echo "$SSH_AUTH_SOCK" >/where && stat -c 'socket %a %u:%g' "$SSH_AUTH_SOCK"
RUN --mount=type=ssh,id=other,mode=0666,uid=7 stat -c 'other %a %u' "$SSH_AUTH_SOCK" && ssh-add -l
RUN [ -z "$SSH_AUTH_SOCK" ] && [ ! -e "$(cat /where)" ] && [ ! -e /run/buildkit ] && ! ssh-add -l
"#;

#[test]
fn the_keys_of_an_agent_are_seen_by_the_steps_that_ask_for_it() {
    let host = host();
    host.hull(&["image", "capture", "keys", "ssh-add", "busybox"]).ok();
    let agent = Agent::start(host.folder());
    let socket = agent.socket.clone();
    let environment = [("SSH_AUTH_SOCK", text(&socket))];
    let folder = context(&host, "keys", &[("Dockerfile", KEYS)]);
    let folder = text(&folder);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let other = format!("other={}", agent.socket.display());
    let built = lent(&host, &environment, &["--ssh", "default", "--ssh", &other, "-q", folder]);
    assert!(built.ok().starts_with("sha256:"), "{built}");
    host.hull(&["rmi", built.ok()]).ok();
    let built = lent(&host, &environment, &["--ssh", "default", "--ssh", &other, folder]);
    let shown = said(&built);
    assert_eq!(shown.matches(&agent.fingerprint).count(), 2, "{}: {shown}", agent.fingerprint);
    assert!(shown.contains(" socket 600 0:0\n") && shown.contains(" other 666 7\n"), "{shown}");
    host.hull(&["image", "prune", "-f"]).ok();
    host.hull(&["builder", "prune", "-af"]).ok();
    before.returns(&host);
    // Whoever is offered none has none, and says so.
    let code = lent(&host, &environment, &[folder]).code;
    assert_ne!(code, 0, "a step has an agent that nobody offers");
    let only = "FROM keys\nRUN --mount=type=ssh [ -z \"$SSH_AUTH_SOCK\" ] && ! ssh-add -l\n";
    context(&host, "keys", &[("Dockerfile", only)]);
    lent(&host, &environment, &[folder]).ok();
    lent(&host, &environment, &["--ssh", &other, folder]).ok();
    build(&host, true, &["--no-cache", folder]).ok();
    context(&host, "keys", &[("Dockerfile", "FROM keys\nRUN --mount=type=ssh,required ssh-add -l\n")]);
    let words = "no SSH key \"default\" forwarded from the client";
    lent(&host, &environment, &["--ssh", &other, folder]).fails(1, words);
    build(&host, true, &[folder]).fails(1, words);
    lent(&host, &[], &["--ssh", "default", folder]).fails(1, "make sure SSH_AUTH_SOCK is set");
    // One that has gone since is told of, and leaves nothing.
    context(&host, "keys", &[("Dockerfile", "FROM keys\nRUN --mount=type=ssh ssh-add -l\n")]);
    drop(agent);
    assert!(socket.exists(), "one that is killed leaves its socket, which leads nowhere");
    lent(&host, &environment, &["--ssh", "default", folder]).fails(1, "connect ");
    host.hull(&["image", "prune", "-f"]).ok();
    host.hull(&["builder", "prune", "-af"]).ok();
    before.returns(&host);
}

const SECRET: &str = "hunter2-of-the-build";

/// Steps that use a secret in all ways; the last one ends with the code 7 where `END` is that.
const USES: &str = r#"
FROM busybox
ARG END=0
RUN --mount=type=secret,id=file [ "$(cat /run/secrets/file | md5sum)" = "$(cat /run/secrets/file | md5sum)" ] && echo ran-one
RUN --mount=type=secret,id=file,target=/etc/token,mode=0444 wc -c </etc/token >/length
RUN --mount=type=secret,id=variable,env=TOKEN [ ${#TOKEN} = 20 ] && echo ran-three
RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN [ "$TOKEN" = "$(cat /run/secrets/file)" ] && cat /length && (exit $END)
"#;

#[test]
fn a_secret_is_told_to_nobody_but_the_steps_that_ask_for_it() {
    let host = host();
    let file = host.folder().join("token");
    fs::write(&file, SECRET).unwrap();
    let folder = context(&host, "uses", &[("Dockerfile", USES)]);
    let (folder, of_file) = (text(&folder), format!("id=file,src={}", file.display()));
    let secrets = ["--secret", &of_file, "--secret", "id=variable,env=OF_THE_CLIENT"];
    let build = |more: &[&str]| {
        lent(&host, &[("OF_THE_CLIENT", SECRET)], &[&secrets[..], more, &["-t", "uses", folder]].concat())
    };
    let built = build(&[]);
    assert!(said(&built).contains("ran-one") && said(&built).contains("ran-three"), "{built}");
    assert!(said(&built).contains(" 20\n"), "it was there: {built}");
    let mut told = built.to_string() + &build(&["--progress", "rawjson"]).to_string();
    // A step that fails, and what is left of it.
    for more in [&[][..], &["--force-rm"]] {
        let failed = build(&[more, &["--build-arg", "END=7"]].concat());
        failed.fails(7, "returned a non-zero code: 7");
        told += &failed.to_string();
        for line in failed.stderr.lines().filter(|line| line.contains(": hull run -it --rm ")) {
            let id = line.rsplit(' ').next().unwrap();
            told += host.hull(&["inspect", id]).ok();
            let looks =
                "env; cat /length; find / -xdev -type f -exec grep -l 'hunter[2]' {} + ; ls -R /run /etc";
            told += host.hull(&["run", "--rm", "--network", "none", id, "sh", "-c", looks]).ok();
        }
    }
    // A mistake in it is none of anybody's business either.
    told += &lent(&host, &[], &["--secret", &of_file, folder]).to_string();
    let ids = host.hull(&["images", "-aq", "--no-trunc"]).ok().to_owned();
    assert!(ids.lines().count() >= 3, "{ids}");
    for id in ids.lines() {
        told += host.hull(&["inspect", id]).ok();
        for client in super::CLIENTS {
            told += client(&host, &["history", "--no-trunc", id]).ok();
        }
    }
    let archive = host.folder().join("uses.tar");
    host.hull(&["save", "-o", text(&archive), "uses"]).ok();
    told += host.hull(&["builder", "du", "--verbose"]).ok();
    told += host.hull(&["builder", "du", "--format", "json"]).ok();
    told += &host.request("GET", "/system/df", b"").text();
    let log = host.daemon_log();
    assert!(log.contains("DEBUG"), "the log says all it can:\n{log}");
    for (place, text) in [("something that is told", &told), ("the daemon's log", &log)] {
        let line = text.lines().find(|line| line.contains("hunter2"));
        assert_eq!(line, None, "{place} has the secret");
    }
    // The archive's layers are not compressed.
    let search = |folder: &Path| {
        let found = Command::new("grep").args(["-rlaF", "hunter2"]).arg(folder).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    for place in [host.data_root(), host.exec_root(), archive] {
        assert_eq!(search(&place), "", "{} has the secret", place.display());
    }
    assert_eq!(search(&file), format!("{}\n", file.display()), "the control: what has it is found");
}
