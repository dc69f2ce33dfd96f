//! Repositories that builds take files from: served by the git protocol and as plain files over HTTP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_builder::executor::Source;
use hull_builder::{Executor, Failure, Selection};
use hull_engine::builds::{Build, Limits};
use hull_engine::containers::settings::NetworkMode;
use hull_engine::{Config, Engine};
use hull_oci::Digest;
use hull_testkit::{answer, serve};

use crate::builds::{base, says};
use crate::remote::put;
use crate::support::{Host, within};

fn build(host: &Host) -> Build {
    host.engine().build(Limits { network: NetworkMode::None, ..Limits::default() }.into())
}

/// A repository with a working tree, and a bare one that is served.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Repository {
        Repository::with_ids("sha1")
    }

    fn with_ids(format: &str) -> Repository {
        let repository = Repository { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "-q", "-b", "main", &format!("--object-format={format}"), "."]);
        repository
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("r")
    }

    #[track_caller]
    fn git(&self, words: &[&str]) -> String {
        fs::create_dir_all(self.path()).unwrap();
        let own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"];
        let done = Command::new("git")
            .args(own)
            .args(words)
            .current_dir(self.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Commits all, serves that, and gives the commit's id.
    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", "x"]);
        self.publish();
        self.git(&["rev-parse", "HEAD"])
    }

    fn publish(&self) {
        let bare = self.folder.path().join("r.git");
        fs::remove_dir_all(&bare).ok();
        self.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
        self.bare(&["update-server-info"]);
    }

    /// By the git protocol: each connection is a `git daemon` of its own.
    fn daemon(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), self.folder.path().to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (read, folder) = (stream.unwrap(), folder.clone());
                let write = OwnedFd::from(read.try_clone().unwrap());
                std::thread::spawn(move || {
                    Command::new("git")
                        .args(["daemon", "--inetd", "--export-all"])
                        .arg(format!("--base-path={}", folder.display()))
                        .stdin(Stdio::from(OwnedFd::from(read)))
                        .stdout(Stdio::from(write))
                        .stderr(Stdio::null())
                        .status()
                });
            }
        });
        address
    }

    /// By git's own protocol over HTTP (gitprotocol-http(5)); of version 2 only if it may.
    fn smart(&self, version_2: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), self.folder.path().to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, folder) = (stream.unwrap(), folder.clone());
                std::thread::spawn(move || by_program(stream, &folder, version_2));
            }
        });
        address
    }

    fn bare(&self, words: &[&str]) {
        let bare = self.folder.path().join("r.git");
        let done = Command::new("git").arg("-C").arg(&bare).args(words).status().unwrap();
        assert!(done.success(), "{words:?}");
    }

    /// As plain files: a server that knows nothing of git.
    fn files(&self) -> SocketAddr {
        self.files_for("")
    }

    /// The same, for whoever has this line in what they ask with.
    fn files_for(&self, line: &'static str) -> SocketAddr {
        let folder = self.folder.path().to_owned();
        serve(move |head| {
            if !head.contains(line) {
                return answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b"");
            }
            let path = head.split([' ', '?']).nth(1).unwrap().trim_start_matches('/');
            match fs::read(folder.join(path)) {
                Ok(bytes) => answer("200 OK", "", &bytes),
                Err(_) => answer("404 Not Found", "", b""),
            }
        })
    }
}

/// One request, answered by git-http-backend(1) as a web server would have it do (RFC 3875).
fn by_program(stream: TcpStream, folder: &Path, version_2: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let [method, target, ..] = &words[..] else { return Ok(()) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut program = Command::new("git");
    program.arg("http-backend").env("GIT_PROJECT_ROOT", folder).env("GIT_HTTP_EXPORT_ALL", "1");
    program.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-type" => program.env("CONTENT_TYPE", value),
            "content-encoding" => program.env("HTTP_CONTENT_ENCODING", value),
            "content-length" => {
                length = value.parse().unwrap();
                program.env("CONTENT_LENGTH", value)
            }
            "git-protocol" if version_2 => program.env("GIT_PROTOCOL", value),
            _ => continue,
        };
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut running =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(&body).ok();
    let answer = running.wait_with_output().unwrap().stdout;
    // What is not said is 200.
    let status = answer.strip_prefix(b"Status: ").and_then(|rest| rest.split(|byte| *byte == b'\r').next());
    let status = String::from_utf8_lossy(status.unwrap_or(b"200 OK")).into_owned();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    (&stream).write_all(&[head.as_bytes(), &answer].concat())
}

fn source(address: String, keep_git_dir: bool) -> Source {
    Source::Git { address, checksum: None, keep_git_dir }
}

async fn print(build: &Build, address: String) -> Result<Digest, Failure> {
    within(build.fingerprint(source(address, false), Selection::default())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_holds_is_copied_and_its_id_is_the_key() {
    let host = Host::new().await;
    let repository = Repository::new();
    repository.write("file", "one");
    repository.write("dir/sub/deep", "deep");
    std::os::unix::fs::symlink("sub/deep", repository.path().join("dir/link")).unwrap();
    let first = repository.commit();
    repository.git(&["tag", "-am", "x", "v1"]);
    repository.write("file", "two");
    let second = repository.commit();
    for server in [
        format!("git://{}", repository.daemon()),
        format!("http://{}", repository.files()),
        format!("http://{}", repository.smart(false)),
        format!("http://{}", repository.smart(true)),
    ] {
        let at = |rest: &str| format!("{server}/r.git{rest}");
        let build = build(&host);
        let below = base(&build).await.layers;
        let mut layers = put(&build, &below, source(at(""), false), "/head").await.unwrap();
        layers = put(&build, &layers, source(at("#v1"), true), "/tag").await.unwrap();
        layers = put(&build, &layers, source(at(&format!("#{first}:dir")), false), "/dir/").await.unwrap();
        let script = "cat /head/file /tag/file /dir/sub/deep /dir/link; ls -a /head /dir; ls -d /tag/.git; \
                      /bin/busybox stat -c %u:%g:%a /head/file /head/dir /tag/.git/HEAD";
        let seen = says(&build, &layers, script).await;
        let plain = seen.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            plain, "twoonedeepdeep/dir: . .. link sub /head: . .. dir file /tag/.git 0:0:644 0:0:755 0:0:644",
            "{server}"
        );
        // The same commit by another name is the same; another folder of it is not.
        let digest = print(&build, at("#v1")).await.unwrap();
        assert_eq!(print(&build, at(&format!("#{first}"))).await.unwrap(), digest);
        assert_ne!(print(&build, at("#v1:dir")).await.unwrap(), digest);
        assert_eq!(
            print(&build, at("?branch=main")).await.unwrap(),
            print(&build, at(&format!("#{second}"))).await.unwrap()
        );
        let wrong = Source::Git { address: at(""), checksum: Some(first.clone()), keep_git_dir: false };
        for (source, said) in [
            (wrong, "expected checksum to match"),
            (source(at("#nosuch"), false), "does not contain ref nosuch"),
            (source(at("#main:nosuch"), false), "has no folder"),
            (source(at("#main:file"), false), "has no folder"),
            (source(format!("{server}/nosuch.git"), false), "git ls-remote ended with"),
        ] {
            let failed = put(&build, &below, source, "/x").await.unwrap_err();
            assert!(failed.to_string().contains(said), "{failed}");
        }
        drop(build);
    }
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_has_moved_is_another_key() {
    let host = Host::new().await;
    let repository = Repository::new();
    repository.write("file", "one");
    repository.commit();
    let address = format!("git://{}/r.git#main", repository.daemon());
    let first = build(&host);
    let below = base(&first).await.layers;
    let digest = print(&first, address.clone()).await.unwrap();
    repository.write("file", "two");
    repository.commit();
    // One build sees one commit, even if it is not the branch's any more.
    let layers = put(&first, &below, source(address.clone(), false), "/x").await.unwrap();
    assert_eq!(says(&first, &layers, "cat /x/file").await, "one");
    assert_eq!(print(&first, address.clone()).await.unwrap(), digest);
    drop(first);
    assert_ne!(print(&build(&host), address).await.unwrap(), digest);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_come_along_unless_they_lead_elsewhere() {
    let host = Host::new().await;
    let inner = Repository::new();
    inner.write("inner", "inside");
    inner.commit();
    let outer = Repository::new();
    outer.write("file", "one");
    let address = format!("git://{}/r.git", inner.daemon());
    outer.git(&["submodule", "--quiet", "add", &address, "module"]);
    outer.commit();
    let build = build(&host);
    let below = base(&build).await.layers;
    let at = format!("git://{}/r.git", outer.daemon());
    let layers = put(&build, &below, source(at.clone(), false), "/x").await.unwrap();
    assert_eq!(says(&build, &layers, "cat /x/module/inner; ls -a /x/module").await, "inside.\n..\ninner\n");
    let without = put(&build, &below, source(format!("{at}?submodules=false"), false), "/x").await.unwrap();
    assert_eq!(says(&build, &without, "cat /x/file; ls /x/module").await, "one");
    // A helper program, and a folder of the host.
    let canary = outer.folder.path().join("canary");
    let program = format!("ext::sh -c touch% {}", canary.display());
    for (address, said) in [(program.as_str(), "ext"), ("file:///etc", "file")] {
        outer.git(&["config", "-f", ".gitmodules", "submodule.module.url", address]);
        outer.commit();
        let fresh = self::build(&host);
        let below = base(&fresh).await.layers;
        let failed = put(&fresh, &below, source(at.clone(), false), "/x").await.unwrap_err();
        let text = failed.to_string();
        assert!(text.contains(&format!("transport '{said}' not allowed")), "{text}");
        drop(fresh);
    }
    assert!(!canary.exists());
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_its_id_whatever_the_server_calls_so() {
    let host = Host::new().await;
    let build = build(&host);
    let below = base(&build).await.layers;
    let (repository, other) = (Repository::new(), Repository::with_ids("sha256"));
    other.write("file", "wanted");
    let wanted = other.commit();
    assert_eq!(wanted.len(), 64);
    // There it is a tag of something else.
    repository.write("file", "hostile");
    repository.commit();
    repository.git(&["tag", &wanted]);
    repository.publish();
    for server in [format!("git://{}", repository.daemon()), format!("http://{}", repository.files())] {
        let failed = put(&build, &below, source(format!("{server}/r.git#{wanted}"), false), "/x").await;
        assert!(matches!(failed, Err(Failure::Invalid(_))), "{server}: {failed:?}");
    }
    let at = format!("git://{}/r.git", other.daemon());
    for address in [format!("{at}#{wanted}"), format!("{at}#main")] {
        let layers = put(&build, &below, source(address, false), "/x").await.unwrap();
        assert_eq!(says(&build, &layers, "cat /x/file").await, "wanted");
    }
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_name_leads_to_is_had_where_the_server_gives_it() {
    let host = Host::new().await;
    let repository = Repository::new();
    repository.write("file", "named");
    repository.commit();
    repository.git(&["checkout", "-qb", "side"]);
    repository.write("file", "nameless");
    let nameless = repository.commit();
    repository.bare(&["update-ref", "-d", "refs/heads/side"]);
    repository.bare(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    let build = build(&host);
    let below = base(&build).await.layers;
    let at = |rest: &str| format!("http://{}/r.git{rest}", repository.smart(false));
    // A server of the first protocol gives what it has a name for.
    let refused = put(&build, &below, source(at(&format!("#{nameless}")), false), "/x").await;
    assert!(matches!(&refused, Err(Failure::Invalid(text)) if text.contains(&nameless)), "{refused:?}");
    repository.bare(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    for address in [at(&format!("#{nameless}")), at(&format!("?commit={nameless}"))] {
        let layers = put(&build, &below, source(address, false), "/x").await.unwrap();
        assert_eq!(says(&build, &layers, "cat /x/file").await, "nameless");
    }
    // One that there is not at all.
    let nothing = "0123456789".repeat(4);
    let missing = put(&build, &below, source(at(&format!("#{nothing}")), false), "/x").await;
    assert!(matches!(&missing, Err(Failure::Invalid(text)) if text.contains(&nothing)), "{missing:?}");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nonsense_ends_the_step_and_no_more() {
    let host = Host::new().await;
    let build = build(&host);
    let below = base(&build).await.layers;
    let id = "0123456789".repeat(4);
    let smart = "Content-Type: application/x-git-upload-pack-advertisement\r\n";
    let first = "001e# service=git-upload-pack\n0000";
    let noise: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let answers = [
        answer("200 OK", smart, b""),
        answer("200 OK", smart, &noise),
        answer("200 OK", smart, first.as_bytes()),
        answer("200 OK", smart, format!("{first}ffff{id} refs/heads/main\0\n").as_bytes()),
        answer("200 OK", smart, format!("{first}00433123456789 ../../x\0\n0000").as_bytes()),
        answer("200 OK", "Content-Type: text/html\r\n", b"<html>sign in</html>"),
        answer("500 Internal Server Error", "", b""),
        answer("301 Moved", "Location: file:///etc/\r\n", b""),
        answer("301 Moved", "Location: ext::touch /tmp/x\r\n", b""),
        noise.clone(),
    ];
    for bytes in answers {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let server = serve(move |_| bytes.clone());
        for rest in ["#main", &format!("#{id}")] {
            let failed =
                put(&build, &below, source(format!("http://{server}/r.git{rest}"), false), "/x").await;
            let told = |text: &str| text.contains(&format!("http://{server}/r.git")) && text.len() < 10_000;
            assert!(
                matches!(&failed, Err(Failure::Invalid(text) | Failure::Missing(text)) if told(text)),
                "{shown}: {failed:?}"
            );
        }
    }
    // It says which commit the branch is, and has something else, or nothing that is one.
    let listing = format!("{id}\trefs/heads/main\n");
    let object = format!("/r.git/objects/{}/{}", &id[..2], &id[2..]);
    for content in [&noise[..], b"", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]] {
        let (listing, object, content) = (listing.clone(), object.clone(), content.to_vec());
        let server = serve(move |head| match head.split([' ', '?']).nth(1).unwrap() {
            "/r.git/info/refs" => answer("200 OK", "", listing.as_bytes()),
            "/r.git/HEAD" => answer("200 OK", "", b"ref: refs/heads/main\n"),
            path if path == object => answer("200 OK", "", &content),
            _ => answer("404 Not Found", "", b""),
        });
        let failed = put(&build, &below, source(format!("http://{server}/r.git#main"), false), "/x").await;
        assert!(matches!(&failed, Err(Failure::Invalid(text)) if text.contains("git fetch")), "{failed:?}");
    }
    // Not even HTTP, and one that hangs up.
    for bytes in [noise, Vec::new()] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(&bytes).ok();
            }
        });
        let failed = put(&build, &below, source(format!("git://{server}/r.git"), false), "/x").await;
        assert!(
            matches!(&failed, Err(Failure::Invalid(text)) if text.contains("git ls-remote")),
            "{failed:?}"
        );
    }
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_is_not_remapped_where_containers_are() {
    let mut host = Host::new().await;
    host.close().await;
    let config = Config { userns_remap: "auto".to_owned(), ..host.config() };
    host.engine = Some(within(Engine::open(config)).await.unwrap());
    let repository = Repository::new();
    repository.write("file", "one");
    repository.commit();
    let build = build(&host);
    let below = base(&build).await.layers;
    let address = format!("git://{}/r.git", repository.daemon());
    let layers = put(&build, &below, source(address, false), "/x").await.unwrap();
    let seen = says(&build, &layers, "/bin/busybox stat -c %u /x/file; cat /x/file").await;
    assert_eq!(seen, "0\none");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_git_has_no_credentials() {
    let host = Host::new().await;
    let (inner, outer) = (Repository::new(), Repository::new());
    inner.write("inner", "inside");
    inner.commit();
    outer.write("file", "one");
    outer.git(&["submodule", "--quiet", "add", &format!("git://{}/r.git", inner.daemon()), "module"]);
    outer.git(&["config", "-f", ".gitmodules", "submodule.module.url", "../inner.git"]);
    outer.commit();
    fs::rename(inner.folder.path().join("r.git"), outer.folder.path().join("inner.git")).unwrap();
    // user:TOKEN
    let server = outer.files_for("Authorization: Basic dXNlcjpUT0tFTg==\r\n");
    let build = build(&host);
    let below = base(&build).await.layers;
    let refused = put(&build, &below, source(format!("http://{server}/r.git"), true), "/x").await;
    assert!(matches!(refused, Err(Failure::Invalid(_))), "{refused:?}");
    let address = format!("http://user:TOKEN@{server}/r.git");
    let layers = put(&build, &below, source(address.clone(), true), "/x").await.unwrap();
    let script = format!(
        "cd /x; cat file module/inner; /bin/busybox grep -rl {server} . | /bin/busybox grep config | \
         /bin/busybox sort; /bin/busybox grep -rE 'TOKEN|dXNlcjpUT0tFTg' . || echo; echo none"
    );
    let seen = says(&build, &layers, &script).await;
    assert_eq!(seen, "oneinside./.git/config\n./.git/modules/module/config\n\nnone\n");
    // The address is in what is kept, so it is another copy; whoever asks for it is not.
    let kept = |address: String| within(build.fingerprint(source(address, true), Selection::default()));
    let other = outer.files_for("");
    let digest = kept(address).await.unwrap();
    assert_ne!(kept(format!("http://{other}/r.git")).await.unwrap(), digest);
    assert_eq!(
        kept(format!("http://user:TOKEN@{server}/r.git#main")).await.unwrap(),
        digest,
        "the same commit by another name"
    );
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reference_and_no_folder_is_more_than_that() {
    let host = Host::new().await;
    let repository = Repository::new();
    repository.write("dir/file", "one");
    std::os::unix::fs::symlink("/etc", repository.path().join("out")).unwrap();
    std::os::unix::fs::symlink("dir", repository.path().join("in")).unwrap();
    std::os::unix::fs::symlink("../../..", repository.path().join("dir/up")).unwrap();
    repository.commit();
    let server = repository.daemon();
    let build = build(&host);
    let below = base(&build).await.layers;
    let canary = repository.folder.path().join("canary");
    let pack = format!("#--upload-pack=touch {}", canary.display());
    for rest in [
        "#main:..",
        "#main:dir/../..",
        "#main:out",
        "#main:out/ssl",
        "#main:in",
        "#main:dir/up/x",
        "#main:.git",
        &pack,
        "#-x",
    ] {
        let failed = put(&build, &below, source(format!("git://{server}/r.git{rest}"), false), "/x").await;
        assert!(matches!(failed, Err(Failure::Invalid(_))), "{rest}: {failed:?}");
    }
    assert!(!canary.exists());
    // A checked out link is the image's to follow.
    let layers = put(&build, &below, source(format!("git://{server}/r.git"), false), "/x").await.unwrap();
    assert_eq!(says(&build, &layers, "/bin/busybox readlink /x/out; cat /x/in/file").await, "/etc\none");
    drop(build);
    host.finish().await;
}

/// What /proc says of processes whose command line begins so.
fn processes(line: &[u8]) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let folders = entries
        .map(|entry| entry.path())
        .filter(|path| fs::read(path.join("cmdline")).is_ok_and(|words| words.starts_with(line)));
    folders.filter_map(|folder: PathBuf| fs::read_to_string(Path::new(&folder).join("status")).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn git_runs_as_a_stranger_and_ends_with_whoever_asked() {
    let host = Host::new().await;
    let build = build(&host);
    // A server that never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("git://{}/r.git#stranger-{}", listener.local_addr().unwrap(), std::process::id());
    let line = format!("git\0ls-remote\0--\0origin\0stranger-{}", std::process::id());
    let held = {
        let asked = print(&build, address);
        let connected = async {
            let (stream, _) = within(listener.accept()).await.unwrap();
            stream
        };
        tokio::pin!(asked);
        let stream = tokio::select! {
            answer = &mut asked => panic!("{answer:?}"),
            stream = connected => stream,
        };
        let found = processes(line.as_bytes());
        assert_eq!(found.len(), 1, "{found:?}");
        let value = |name: &str| {
            let line = found[0].lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for ids in [value("Uid:"), value("Gid:")] {
            assert!(ids.iter().all(|id| (65_536..98_304).contains(&id.parse::<u32>().unwrap())), "{ids:?}");
        }
        for none in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
            assert_eq!(value(none), ["0000000000000000"], "{none}");
        }
        assert_eq!(value("NoNewPrivs:"), ["1"]);
        assert_eq!(value("Seccomp:"), ["2"]);
        stream
    };
    drop(build);
    // Its end of the connection goes with it.
    let mut rest = Vec::new();
    let mut held = held;
    within(tokio::io::AsyncReadExt::read_to_end(&mut held, &mut rest)).await.ok();
    // A daemon that ends waits for what builds have left.
    let mut host = host;
    host.close().await;
    host.open().await;
    host.finish().await;
}
