//! What a RUN sees besides its file system, and that nothing of it stays where it should not.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hull_builder::executor::{Mount, MountKind, Run, Sharing, Source};
use hull_builder::{Executor, Failure, Layer};
use hull_engine::builds::{Answer, Build, Client, Given, Secret};

use crate::builds::{base, bell, limits, process, run, says, tar, with};
use crate::support::{Host, within};

const SECRET: &[u8] = b"hunter2-of-the-build";

/// Offers one secret, and agents that do not answer.
#[derive(Debug)]
struct Offers(&'static [u8]);

impl Client for Offers {
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async move { Ok((id == "token").then(|| Secret(self.0.to_vec()))) })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<OwnedFd>> {
        let socket = || std::os::unix::net::UnixStream::pair().unwrap().0.into();
        Box::pin(async move { Ok((id == "default").then(socket)) })
    }
}

fn offering(host: &Host, bytes: &'static [u8]) -> Build {
    host.engine().build(Given { client: Arc::new(Offers(bytes)), ..limits().into() })
}

fn at(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.to_owned(), kind }
}

/// What the script has changed, or why it has not; and what it wrote.
async fn mounted(
    build: &Build,
    below: &[Layer],
    mounts: &[Mount],
    script: &str,
) -> (Result<Option<Layer>, Failure>, String) {
    let wanted = Run { mounts: mounts.to_vec(), ..process(below, script) };
    crate::builds::written(build, wanted).await
}

/// What the script writes, which changes nothing.
async fn sees(build: &Build, below: &[Layer], mounts: &[Mount], script: &str) -> String {
    let (done, written) = mounted(build, below, mounts, script).await;
    assert!(matches!(done, Ok(None)), "{script}: {done:?}, {written}");
    written
}

fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let pattern = std::str::from_utf8(bytes).unwrap();
    let found = Command::new("grep").args(["-rlaF", pattern]).arg(folder).output().unwrap();
    // What goes meanwhile is no answer.
    let told = String::from_utf8_lossy(&found.stderr);
    assert!(told.lines().all(|line| line.ends_with("No such file or directory")), "{told}");
    !found.stdout.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_can_be_a_variable_and_may_be_missing() {
    let host = Host::new().await;
    let build = offering(&host, b"hunter2");
    let below = base(&build).await.layers;
    let asking = |id: &str, required: bool| {
        let kind = MountKind::SecretVariable { id: id.to_owned(), required };
        let script = "[ \"${TOKEN:-none}\" = hunter2 ] && exit 42; [ -z \"$TOKEN\" ]";
        Run { mounts: vec![at("TOKEN", kind)], ..process(&below, script) }
    };
    let run = async |build: &Build, run: Run| crate::builds::written(build, run).await.0;
    assert!(matches!(run(&build, asking("token", true)).await, Err(Failure::Exit { code: 42, .. })));
    assert_eq!(run(&build, asking("other", false)).await, Ok(None));
    let missing = Failure::Missing("secret other: not found".to_owned());
    assert_eq!(run(&build, asking("other", true)).await, Err(missing));
    let binary = run(&offering(&host, b"\xff\0"), asking("token", false)).await;
    assert!(matches!(&binary, Err(Failure::Invalid(text)) if text.contains("is not text")), "{binary:?}");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_a_file_in_memory_and_nowhere_else() {
    let host = Host::new().await;
    let build = offering(&host, SECRET);
    let below = base(&build).await.layers;
    let secret = |id: &str, required: bool, uid: u32| {
        let kind = MountKind::Secret { id: id.to_owned(), required, mode: 0o440, uid, gid: 5 };
        [at(&format!("/run/secrets/{id}"), kind)]
    };
    let looks = "cat /run/secrets/token; busybox stat -c ' %a %u %g' /run/secrets/token; \
                 grep -c ' /run/secrets/token ro.* tmpfs ' /proc/self/mountinfo; \
                 echo x 2>/dev/null >>/run/secrets/token || echo kept";
    let seen = sees(&build, &below, &secret("token", true, 33), looks).await;
    assert_eq!(seen, "hunter2-of-the-build 440 33 5\n1\nkept\n");
    let absent = sees(&build, &below, &secret("other", false, 0), "ls /run 2>&1; true").await;
    assert!(absent.contains("No such file"), "{absent}");
    let (missing, _) = mounted(&build, &below, &secret("other", true, 0), "true").await;
    assert_eq!(missing, Err(Failure::Missing("secret other: not found".to_owned())));
    // What the step writes is kept; the secret and its place are not.
    let (kept, _) = mounted(&build, &below, &secret("token", true, 0), "echo made >/made").await;
    let above = with(&below, kept.unwrap());
    assert_eq!(
        says(&build, &above, "cat /made; ls /run 2>/dev/null || echo nothing").await,
        "made\nnothing\n"
    );
    // While a step with it runs, too.
    let waits = "echo begun; while [ ! -e /cache/go ]; do sleep 0.1; done";
    let mounts = [secret("token", true, 0)[0].clone(), cache("wait", Sharing::Shared)];
    let (begun, mut started) = tokio::sync::mpsc::unbounded_channel();
    let wanted = Run { mounts: mounts.to_vec(), ..process(&below, waits) };
    let running = tokio::spawn({
        let build = build.clone();
        async move { build.run(wanted, bell(begun)).await }
    });
    within(started.recv()).await.unwrap();
    let folder = host.config().data_root;
    assert!(!holds(&folder, SECRET) && !holds(&host.config().exec_root, SECRET));
    sees(&build, &below, &[cache("wait", Sharing::Shared)], "touch /cache/go").await;
    assert_eq!(within(running).await.unwrap(), Ok(None));
    assert!(!holds(&folder, SECRET));
    // The same search finds what is on a disk.
    std::fs::write(folder.join("planted"), SECRET).unwrap();
    assert!(holds(&folder, SECRET));
    std::fs::remove_file(folder.join("planted")).unwrap();
    drop(build);
    host.finish().await;
}

fn cache(id: &str, sharing: Sharing) -> Mount {
    cache_of(id, sharing, None)
}

fn cache_of(id: &str, sharing: Sharing, source: Option<Source>) -> Mount {
    let (id, path) = (id.to_owned(), "/etc".to_owned());
    let kind = MountKind::Cache { id, source, path, sharing, writable: true, mode: 0o750, uid: 33, gid: 5 };
    at("/cache", kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_kept_by_its_name_and_no_layer_has_it() {
    let mut host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let mine = [cache("../../mine\n", Sharing::Shared)];
    let written = sees(&build, &below, &mine, "busybox stat -c '%a %u %g' /cache; echo x >/cache/file").await;
    assert_eq!(written, "750 33 5\n");
    assert_eq!(sees(&build, &below, &mine, "cat /cache/file; ls / | grep -c cache").await, "x\n1\n");
    let other = [cache("other", Sharing::Shared)];
    assert_eq!(sees(&build, &below, &other, "ls /cache").await, "");
    // The same name with another beginning is another one.
    let seeded = [cache_of("other", Sharing::Shared, Some(Source::Layers(below.clone())))];
    assert_eq!(sees(&build, &below, &seeded, "cat /cache/plain; rm /cache/plain").await, "not executable");
    assert_eq!(sees(&build, &below, &seeded, "ls /cache").await, "group\npasswd\n");
    let MountKind::Cache { id, sharing, mode, uid, gid, path, source, .. } = mine[0].kind.clone() else {
        panic!()
    };
    let kind = MountKind::Cache { id, sharing, mode, uid, gid, path, source, writable: false };
    let script = "cat /ro/cache/file; echo x 2>/dev/null >/ro/cache/new || echo kept";
    assert_eq!(sees(&build, &below, &[at("/ro/cache", kind)], script).await, "x\nkept\n");
    assert_eq!(says(&build, &below, "ls / | grep -c cache; true").await, "0\n");
    let listed = host.engine().cache_mounts();
    let told: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.uses, one.size, one.in_use)).collect();
    // The one that was used last first; of what was copied the users and groups are left.
    let left = 98;
    assert_eq!(told, [("../../mine\n", 3, 2, false), ("other", 2, left, false), ("other", 1, 0, false)]);
    // All of it is below one folder, and survives the daemon.
    let folders = || std::fs::read_dir(host.config().data_root.join("caches")).unwrap().count();
    assert_eq!(folders(), 3);
    std::fs::create_dir(host.config().data_root.join("caches/new-half")).unwrap();
    drop(build);
    host.close().await;
    host.open().await;
    let folders = || std::fs::read_dir(host.config().data_root.join("caches")).unwrap().count();
    assert_eq!(folders(), 3);
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    assert_eq!(sees(&build, &below, &mine, "cat /cache/file").await, "x\n");
    let gone = within(host.engine().forget_cache_mounts(|one| one.name != "other")).await.unwrap();
    assert_eq!(gone.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["../../mine\n"]);
    assert_eq!((folders(), host.engine().cache_mounts().len()), (2, 2));
    assert_eq!(sees(&build, &below, &mine, "ls /cache").await, "", "a new one");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_share_a_cache_or_wait_or_have_one_of_their_own() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    // Each says its name, and ends when it sees the other's, or has waited for it in vain.
    let meet = |own: &str, other: &str, last: &str| {
        format!(
            "touch /cache/{own}; for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /cache/{other} ] && echo met && break; \
             sleep 0.1; done; {last}"
        )
    };
    for (sharing, expected) in
        [(Sharing::Shared, ["met\n", "met\n"]), (Sharing::Private, ["", ""]), (Sharing::Locked, ["", ""])]
    {
        let mounts = [cache(&format!("{sharing:?}"), sharing)];
        let last = if sharing == Sharing::Locked { "busybox rm /cache/*" } else { "true" };
        let steps = [meet("a", "b", last), meet("b", "a", last)];
        let (first, second) =
            tokio::join!(sees(&build, &below, &mounts, &steps[0]), sees(&build, &below, &mounts, &steps[1]));
        assert_eq!([first, second], expected, "{sharing:?}");
    }
    let mut names: Vec<_> = host.engine().cache_mounts().into_iter().map(|one| one.name).collect();
    names.sort();
    assert_eq!(names, ["Locked", "Private", "Private", "Shared"]);
    // A step never waits for itself.
    let twice = [
        cache("Locked", Sharing::Locked),
        Mount { target: "/again".to_owned(), ..cache("Locked", Sharing::Locked) },
    ];
    assert_eq!(sees(&build, &below, &twice, "echo x >/cache/x; cat /again/x").await, "x\n");
    // What is used is not taken away.
    let (begun, mut started) = tokio::sync::mpsc::unbounded_channel();
    let holding = process(&below, "echo begun; while [ ! -e /cache/go ]; do sleep 0.1; done");
    let holding = Run { mounts: vec![cache("Shared", Sharing::Shared)], ..holding };
    let running = tokio::spawn({
        let build = build.clone();
        async move { build.run(holding, bell(begun)).await }
    });
    within(started.recv()).await.unwrap();
    let in_use: Vec<_> = host.engine().cache_mounts().into_iter().filter(|one| one.in_use).collect();
    assert_eq!(in_use.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["Shared"]);
    let gone = within(host.engine().forget_cache_mounts(|_| true)).await.unwrap();
    assert_eq!(gone.len(), 3);
    sees(&build, &below, &[cache("Shared", Sharing::Shared)], "touch /cache/go").await;
    assert_eq!(within(running).await.unwrap(), Ok(None));
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_and_files_of_others_are_shown_and_never_changed() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("context");
    std::fs::create_dir_all(folder.join("dir")).unwrap();
    std::fs::write(folder.join("dir/file"), "of the context\n").unwrap();
    std::os::unix::fs::symlink("/dir", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("out")).unwrap();
    let context = within(host.engine().build_context(tar(&folder, "-cf").into())).await.unwrap();
    let build = host.engine().build(Given { contexts: [(String::new(), context)].into(), ..limits().into() });
    let below = base(&build).await.layers;
    let (made, _) = run(&build, &below, "mkdir -p /out/deep && echo stage >/out/deep/file").await;
    let stage = with(&below, made.unwrap());
    let bind = |source: Source, path: &str, target: &str, writable: bool| {
        at(target, MountKind::Bind { source, path: path.to_owned(), writable })
    };
    let main = || Source::Context(String::new());
    let other = || Source::Layers(stage.clone());
    let cases = [
        (bind(main(), "/", "/src", false), "cat /src/dir/file", "of the context\n"),
        (bind(main(), "dir", "/src", false), "cat /src/file", "of the context\n"),
        (bind(main(), "/link/file", "/etc/one", false), "cat /etc/one", "of the context\n"),
        (bind(main(), "/", "/src", false), "echo x 2>/dev/null >/src/new || echo kept", "kept\n"),
        (
            bind(main(), "/", "/src", true),
            "echo new >>/src/dir/file; cat /src/dir/file",
            "of the context\nnew\n",
        ),
        (bind(main(), "/dir/file", "/f", true), "echo new >>/f; cat /f", "of the context\nnew\n"),
        (bind(main(), "/", "/src", false), "cat /src/dir/file", "of the context\n"),
        (bind(other(), "/out/deep/", "/a/b/c", false), "cat /a/b/c/file; ls /a/b", "stage\nc\n"),
        (bind(other(), "/", "/root", true), "rm -r /root/out; ls /root | grep -c out; true", "0\n"),
        (bind(other(), "/out", "/bin/out", false), "cat /bin/out/deep/file", "stage\n"),
        (bind(Source::Layers(Vec::new()), "/", "/empty", true), "touch /empty/x; ls /empty", "x\n"),
    ];
    for (mount, script, expected) in cases {
        assert_eq!(sees(&build, &below, &[mount], script).await, expected, "{script}");
    }
    for missing in ["/nosuch", "/out", "/../etc/hostname"] {
        let (refused, _) = mounted(&build, &below, &[bind(main(), missing, "/x", false)], "true").await;
        assert!(matches!(&refused, Err(Failure::Invalid(text)) if text.contains("not found")), "{refused:?}");
    }
    // Folders on the way to a place keep what they are; what is written beside the place is kept.
    let web = process(&below, "busybox stat -c '%a %U %Y' /home/web; touch /home/web/beside");
    let places = vec![bind(other(), "/out", "/home/web/a/b", false)];
    let before = says(&build, &below, "busybox stat -c '%a %U %Y' /home/web").await;
    let (kept, seen) = crate::builds::written(&build, Run { mounts: places, ..web }).await;
    assert_eq!(seen, before);
    let above = with(&below, kept.unwrap());
    assert_eq!(says(&build, &above, "ls /home/web").await, "beside\n");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_a_socket_that_only_its_user_may_use() {
    let host = Host::new().await;
    let build = offering(&host, b"");
    let below = base(&build).await.layers;
    let ssh = |id: &str, required: bool| {
        let kind = MountKind::Ssh { id: id.to_owned(), required, mode: 0o600, uid: 33, gid: 5 };
        [at("/run/buildkit/ssh_agent.0", kind)]
    };
    let looks = "echo $SSH_AUTH_SOCK; busybox stat -c '%F %a %u %g' $SSH_AUTH_SOCK";
    let seen = sees(&build, &below, &ssh("default", true), looks).await;
    assert_eq!(seen, "/run/buildkit/ssh_agent.0\nsocket 600 33 5\n");
    assert_eq!(
        sees(&build, &below, &ssh("other", false), "echo \"<$SSH_AUTH_SOCK>\"; ls /run 2>/dev/null; true")
            .await,
        "<>\n"
    );
    let (missing, _) = mounted(&build, &below, &ssh("other", true), "true").await;
    let expected = "no SSH key \"other\" forwarded from the client".to_owned();
    assert_eq!(missing, Err(Failure::Missing(expected)));
    drop(build);
    host.finish().await;
}
