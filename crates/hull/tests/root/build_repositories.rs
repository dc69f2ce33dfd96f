//! Repositories over ssh, as a build's context and in ADD: by the keys of the client's agent, which the
//! daemon's git never has itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hull_testkit::{Baseline, Finished, Host, in_time};

use super::build_lent::{Agent, printed};
use super::builds::{build, context, text};
use super::host;

const PORT: &str = "2222";

/// A server of ssh on this machine's loopback that lets one key in, to fetch from repositories and no more;
/// it ends with the test.
struct Server(Child);

/// With a home of its own for root, where its keys are looked for.
const SERVE: &str = "cd \"$1\" && home=$(echo ~root) && mount -t tmpfs -o mode=700 tmpfs \"$home\" && \
                     mkdir -m 700 \"$home/.ssh\" && cp authorized_keys \"$home/.ssh\" && \
                     exec dropbear -F -E -s -p 127.0.0.1:2222 -r hostkey -P pid";

impl Server {
    fn start(host: &Host, folder: &Path, key: &str) -> Server {
        let (program, hostkey) = (folder.join("fetch"), folder.join("hostkey"));
        let path = std::env::var("PATH").unwrap();
        let fetch = format!(
            "#!/bin/sh\nPATH='{path}'; export PATH\ncase $SSH_ORIGINAL_COMMAND in\n\
             \"git-upload-pack \"*) eval \"exec git upload-pack ${{SSH_ORIGINAL_COMMAND#git-upload-pack }}\" ;;\n\
             esac\nexit 1\n"
        );
        fs::write(&program, fetch).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let line = format!("command=\"{}\",no-pty {key}", program.display());
        fs::write(folder.join("authorized_keys"), line).unwrap();
        fs::set_permissions(folder.join("authorized_keys"), PermissionsExt::from_mode(0o600)).unwrap();
        printed(Command::new("dropbearkey").args(["-t", "ed25519", "-f", text(&hostkey)]));
        let mut command = host.inside("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", SERVE, "sh", text(folder)]);
        let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(server.stderr.take().unwrap());
        let server = Server(server);
        let mut said = in_time(60, "the server of ssh", move || {
            let mut line = String::new();
            while !line.contains("Not backgrounding") {
                line.clear();
                assert_ne!(said.read_line(&mut line).unwrap(), 0, "the server has ended");
            }
            said
        });
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn git(folder: &Path, words: &[&str]) -> String {
    let own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"];
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(own).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null");
    printed(&mut git)
}

/// Writes the files, commits them, and makes the bare repository `NAME.git` beside; gives the commit's id.
fn commit(host: &Host, name: &str, files: &[(&str, &str)]) -> String {
    let folder = context(host, name, files);
    git(&folder, &["init", "-q", "-b", "main", "."]);
    git(&folder, &["add", "-A"]);
    git(&folder, &["commit", "-qm", "x"]);
    git(&folder, &["tag", "-f", "latest"]);
    let bare = folder.with_extension("git");
    fs::remove_dir_all(&bare).ok();
    git(&folder, &["clone", "-q", "--bare", ".", text(&bare)]);
    git(&folder, &["rev-parse", "HEAD"])
}

fn clear(host: &Host) {
    host.hull(&["rmi", "cloned"]).ok();
    host.hull(&["image", "prune", "-f"]).ok();
    host.hull(&["builder", "prune", "-af"]).ok();
}

#[test]
fn repositories_come_over_ssh_with_the_keys_of_the_clients_agent() {
    let host = host();
    let folder = host.folder().join("ssh");
    fs::create_dir(&folder).unwrap();
    let (agent, other) = (Agent::start(&folder), Agent::start(&context(&host, "other", &[("x", "")])));
    let _server = Server::start(&host, &folder, agent.public.trim());
    let at = |name: &str| format!("ssh://root@127.0.0.1:{PORT}{}/{name}.git", host.folder().display());
    let script = "FROM busybox\nCOPY . /made\n";
    commit(&host, "inner", &[("inside", "of the inner one")]);
    let first = commit(&host, "outer", &[("sub/Dockerfile", script), ("sub/file", "first")]);
    let modules = format!("[submodule \"m\"]\n\tpath = m\n\turl = {}\n", at("inner"));
    let outer = context(&host, "outer", &[(".gitmodules", &modules), ("sub/file", "second")]);
    // Of a module that is not fetched there is a folder.
    fs::create_dir(outer.join("m")).unwrap();
    let inner = git(&host.folder().join("inner.git"), &["rev-parse", "main"]);
    git(&outer, &["update-index", "--add", "--cacheinfo", &format!("160000,{inner},m")]);
    commit(&host, "outer", &[("Dockerfile", script)]);
    let before = std::cell::OnceCell::new();
    let with = |agent: &Agent, words: &[&str]| -> Finished {
        let socket: PathBuf = agent.socket.clone();
        let words = [&["build", "--no-cache", "-t", "cloned"], words].concat();
        hull_testkit::run(host.hull_command(&words).env("SSH_AUTH_SOCK", socket), b"")
    };
    let seen = |file: &str| {
        host.hull(&["run", "--rm", "--network", "none", "cloned", "cat", &format!("/made/{file}")])
            .ok()
            .to_owned()
    };
    for (rest, file, content) in [
        ("#main:sub", "file", "second"),
        (&*format!("#{first}:sub"), "file", "first"),
        ("#latest:sub", "file", "second"),
        ("", "m/inside", "of the inner one"),
    ] {
        with(&agent, &["--ssh", "default", &format!("{}{rest}", at("outer"))]).ok();
        assert_eq!(seen(file), content, "{rest}");
        // The first build of all makes what later ones only use.
        before.get_or_init(|| {
            clear(&host);
            Baseline::of(&host)
        });
    }
    let script =
        format!("FROM busybox\nADD {}#main /made/\nADD {}#main /made/m/\n", at("outer"), at("inner"));
    let adds = context(&host, "adds", &[("Dockerfile", &script)]);
    with(&agent, &["--ssh", "default", text(&adds)]).ok();
    assert_eq!(seen("sub/file") + &seen("m/inside"), "secondof the inner one");
    // Nobody else's keys, and no others' than those that are offered.
    let refused = "git ls-remote ended with 128";
    with(&agent, &[&at("outer")]).fails(1, refused);
    with(&agent, &[text(&adds)]).fails(1, refused);
    with(&other, &["--ssh", "default", &at("outer")]).fails(1, "Permission denied");
    with(&agent, &["--ssh", "default", &at("nosuch")]).fails(1, refused);
    build(&host, true, &["--no-cache", text(&adds)]).fails(1, refused);
    clear(&host);
    before.get().unwrap().returns(&host);
}
