//! Steps of builds: processes without a record, files copied by workers, layers kept and found again.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use hull_builder::executor::{
    Base, Change, Copy, Folder, Left, Network, Run, Selection, Source, Unpack, Wanted,
};
use hull_builder::progress::{Output, Room, Stream};
use hull_builder::{Cache, Executor, Failure, Known, Layer, Progress, Stack};
use hull_engine::builds::{Build, Forget, Given, Limits};
use hull_engine::chain;
use hull_engine::containers::settings::NetworkMode;
use hull_oci::{Digest, Reference};

use crate::support::{Host, IMAGE, sh, within};

pub(crate) fn limits() -> Limits {
    Limits { network: NetworkMode::None, ..Limits::default() }
}

pub(crate) async fn base(build: &Build) -> Base {
    let wanted = Wanted { reference: Reference::parse(IMAGE).unwrap(), platform: None, pull: false };
    within(build.image(wanted)).await.unwrap()
}

pub(crate) fn process(below: &[Layer], script: &str) -> Run {
    Run {
        below: below.to_vec(),
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment: vec!["PATH=/bin".to_owned()],
        proxies: vec!["GREETING=hello".to_owned()],
        user: String::new(),
        folder: "/tmp".to_owned(),
        mounts: Vec::new(),
        network: Network::Default,
        surroundings: Vec::new(),
        insecure: false,
        devices: Vec::new(),
        newest: None,
    }
}

fn output(report: impl Fn(Progress) + Send + Sync + 'static) -> Output {
    Output::new(0, Arc::new(report), Room::default())
}

pub(crate) fn unheard() -> Output {
    output(|_| {})
}

/// Rings whenever something was written.
pub(crate) fn bell(rings: tokio::sync::mpsc::UnboundedSender<()>) -> Output {
    output(move |_| {
        rings.send(()).ok();
    })
}

/// Runs a script; what it changed, and all that it wrote.
pub(crate) async fn run(
    build: &Build,
    below: &[Layer],
    script: &str,
) -> (Result<Option<Layer>, Failure>, String) {
    written(build, process(below, script)).await
}

/// The same of a whole process.
pub(crate) async fn written(build: &Build, run: Run) -> (Result<Option<Layer>, Failure>, String) {
    let written = Arc::new(Mutex::new(String::new()));
    let all = Arc::clone(&written);
    let output = output(move |progress| {
        let Progress::Output { stream, bytes, .. } = progress else { return };
        let mark = if stream == Stream::Error { "!" } else { "" };
        all.lock().unwrap().push_str(&format!("{mark}{}", String::from_utf8_lossy(&bytes)));
    });
    let done = within(build.run(run, output)).await;
    let written = written.lock().unwrap().clone();
    (done, written)
}

/// What a script says on these layers.
pub(crate) async fn says(build: &Build, below: &[Layer], script: &str) -> String {
    let (done, written) = run(build, below, script).await;
    assert!(matches!(done, Ok(None)), "{script}: {done:?}, {written}");
    written
}

pub(crate) fn with(below: &[Layer], layer: Option<Layer>) -> Vec<Layer> {
    below.iter().cloned().chain(layer).collect()
}

pub(crate) fn copy(below: &[Layer], source: Source, patterns: &[&str], destination: &str) -> Copy {
    let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    Copy {
        below: below.to_vec(),
        files: vec![(source, Selection { patterns, ..Selection::default() })],
        destination: destination.to_owned(),
        owner: None,
        mode: None,
        link: false,
        unpack: Unpack::Never,
        newest: None,
    }
}

pub(crate) fn tar(folder: &Path, flags: &str) -> std::fs::File {
    let archive = folder.with_extension("tar");
    let made = Command::new("tar").arg("-C").arg(folder).arg(flags).arg(&archive).arg(".").status().unwrap();
    assert!(made.success());
    std::fs::File::open(archive).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_changes_a_layer_and_nobody_sees_its_process() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let script = "echo $GREETING; echo bad >&2; cd /; pwd; echo made >/made; rm /etc/plain; mkdir -p /a/b";
    let (layer, written) = run(&build, &below, script).await;
    assert!(written.contains("hello\n") && written.contains("!bad\n"), "{written}");
    assert_eq!(host.engine().containers(), []);
    let layer = layer.unwrap().expect("files were changed");
    assert_eq!(layer.size, 5);
    let above = with(&below, Some(layer));
    let seen = says(&build, &above, "cat /made; ls /etc /a; pwd").await;
    assert!(seen.contains("made\n") && seen.contains("b\n") && seen.ends_with("/tmp\n"), "{seen}");
    assert!(!seen.contains("plain") && !seen.contains("resolv.conf\nresolv.conf"), "{seen}");
    let (failed, _) = run(&build, &above, "exit 7").await;
    assert!(matches!(failed, Err(Failure::Exit { code: 7, .. })), "{failed:?}");
    let nosuch = Run { arguments: vec!["nosuch".to_owned()], ..process(&above, "") };
    let failed = within(build.run(nosuch, unheard())).await;
    assert!(
        matches!(&failed, Err(Failure::Invalid(text)) if text.contains("executable file not found")),
        "{failed:?}"
    );
    // The layer, its archive and an image of it are as any other's.
    let mut config = base(&build).await.config;
    config.rootfs.diff_ids = above.iter().map(|layer| layer.diff_id.clone()).collect();
    let name = Reference::parse("built").unwrap();
    let image = within(build.finish(config, vec![name], None))
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    drop(build);
    assert_eq!(host.engine().images().resolve("built").unwrap().id, image.id);
    within(host.engine().images().collect()).await.unwrap();
    let settings = sh("cat /made");
    assert_eq!(host.output_of("built", settings).await, (0, "made\n".to_owned()));
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_takes_the_process_along() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let (begun, mut started) = tokio::sync::mpsc::unbounded_channel();
    {
        let running = build.run(process(&below, "echo begun; echo x >/x; sleep 1000"), bell(begun));
        tokio::select! {
            _ = running => panic!("it ended by itself"),
            _ = started.recv() => {}
        }
    }
    // The callback goes when the process and its shim have gone.
    within(async { while started.recv().await.is_some() {} }).await;
    // At the end of a daemon it is the same.
    let second = {
        let build = build.clone();
        let run = process(&below, "echo begun; sleep 1000");
        let (begun, mut started) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move { build.run(run, bell(begun)).await });
        within(started.recv()).await.unwrap();
        task
    };
    drop(build);
    let mut host = host;
    host.close().await;
    assert!(matches!(within(second).await.unwrap(), Err(Failure::Host(_))));
    host.open().await;
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_context_are_copied_as_the_language_says() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("context");
    std::fs::create_dir_all(folder.join("dir/sub")).unwrap();
    for (name, text) in [("one", "1"), ("two", "2"), ("dir/three", "3"), ("dir/sub/four", "4")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("three", folder.join("dir/link")).unwrap();
    std::os::unix::fs::symlink("/dir/three", folder.join("out")).unwrap();
    let inner = scratch.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("packed"), "packed").unwrap();
    tar(&inner, "-czf");
    std::fs::rename(inner.with_extension("tar"), folder.join("files.tgz")).unwrap();
    let context = within(host.engine().build_context(tar(&folder, "-cJf").into())).await.unwrap();
    let contexts = [(String::new(), context)].into();
    let build = host.engine().build(Given { contexts, ..limits().into() });
    let below = base(&build).await.layers;
    let main = || Source::Context(String::new());
    let put = async |below: &[Layer], copy: Copy| {
        let done = within(build.copy(copy)).await.unwrap();
        with(below, Some(done.expect("files were copied")))
    };
    let mut at = put(&below, copy(&below, main(), &["one"], "/etc/first")).await;
    at = put(&at, copy(&at, main(), &["one"], "/home")).await;
    at = put(&at, copy(&at, main(), &["dir"], "/new/place")).await;
    at = put(&at, copy(&at, main(), &["o*", "two"], "/many/")).await;
    let owned = Copy {
        owner: Some("web".into()),
        mode: Some("u=rwx,go=".into()),
        ..copy(&at, main(), &["two"], "/own/two")
    };
    at = put(&at, owned).await;
    let unpacked = Copy { unpack: Unpack::Local, ..copy(&at, main(), &["files.tgz", "one"], "/add") };
    at = put(&at, unpacked).await;
    let text = Source::Inline(vec![("EOF".to_owned(), b"inline\n".to_vec())]);
    at = put(&at, copy(&at, text, &[], "/script")).await;
    // A link of the image is followed within it.
    let (linked, _) = run(&build, &at, "mkdir /real && cd / && /bin/busybox ln -s /real /alias").await;
    at = with(&at, linked.unwrap());
    at = put(&at, copy(&at, main(), &["one"], "/alias/deep/one")).await;
    let scripts = [
        ("cat /etc/first /home/one /new/place/three /new/place/sub/four /many/one /many/two", "113412"),
        ("cat /new/place/link; /bin/busybox readlink /new/place/link", "3three\n"),
        ("/bin/busybox stat -c %U:%G:%a /own/two /etc/first", "web:web:700\nroot:root:644\n"),
        ("cat /add/packed /add/one /script /real/deep/one", "packed1inline\n1"),
        ("cat /many/out", "3"),
    ];
    for (script, expected) in scripts {
        assert_eq!(says(&build, &at, script).await, expected, "{script}");
    }
    // From another stage, onto nothing.
    let copied = put(&[], copy(&[], Source::Layers(at.clone()), &["/bin", "/own/two"], "/bin/")).await;
    assert_eq!(run(&build, &copied, "cat /bin/two").await.1, "2");
    // What names mean is the same twice, and not when a byte is another.
    let print = async |source: Source, pattern: &str| {
        let selection = Selection { patterns: vec![pattern.to_owned()], ..Selection::default() };
        within(build.fingerprint(source, selection)).await
    };
    let layers = || Source::Layers(at.clone());
    assert_eq!(print(main(), "dir").await.unwrap(), print(layers(), "/new/place").await.unwrap());
    assert_ne!(print(main(), "one").await.unwrap(), print(main(), "two").await.unwrap());
    let missing = print(main(), "nosuch").await;
    assert!(
        matches!(&missing, Err(Failure::Invalid(text)) if text.contains("\"/nosuch\": not found")),
        "{missing:?}"
    );
    let outside = within(build.copy(copy(&below, main(), &["../x"], "/x"))).await;
    assert!(
        matches!(&outside, Err(Failure::Invalid(text)) if text.contains("forbidden path")),
        "{outside:?}"
    );
    // The same files on the same layers are the same layer.
    let again = || copy(&below, main(), &["dir"], "/etc/x");
    assert_eq!(within(build.copy(again())).await, within(build.copy(again())).await);
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_while_it_is_copied_is_what_is_packed_when_all_is_there() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("context");
    std::fs::create_dir_all(folder.join("dir/sub")).unwrap();
    for name in ["dir/sub/one", "dir/two", "zero"] {
        std::fs::write(folder.join(name), name.repeat(50_000)).unwrap();
    }
    let context = within(host.engine().build_context(tar(&folder, "-cf").into())).await.unwrap();
    let contexts = [(String::new(), context)].into();
    let build = host.engine().build(Given { contexts, ..limits().into() });
    let base = base(&build).await;
    let main = || Source::Context(String::new());
    let at_once = copy(&base.layers, main(), &["dir", "zero"], "/etc/new/");
    let one =
        |pattern: &str| (main(), Selection { patterns: vec![pattern.to_owned()], ..Selection::default() });
    // Two jobs, the second on top of what the first has written.
    let after_another = Copy { files: vec![one("dir"), one("zero")], ..at_once.clone() };
    let copied = within(build.copy(at_once)).await.unwrap().unwrap();
    assert_eq!(within(build.copy(after_another)).await.unwrap().as_ref(), Some(&copied));
    assert_eq!(copied.size, 50_000 * "dir/sub/onedir/twozero".len() as u64);
    // Its archive is kept, and is of its digest.
    let mut config = base.config.clone();
    config.rootfs.diff_ids =
        with(&base.layers, Some(copied.clone())).into_iter().map(|layer| layer.diff_id).collect();
    within(build.finish(config, vec![Reference::parse("built").unwrap()], None)).await.unwrap();
    let saved = std::fs::File::create(scratch.path().join("saved.tar")).unwrap();
    within(host.engine().images().save(&["built".to_owned()], saved.into()).unwrap()).await.unwrap();
    let blob = format!("tar -xOf saved.tar blobs/sha256/{} | sha256sum", copied.diff_id.hex());
    let sum = Command::new("sh").args(["-c", &blob]).current_dir(scratch.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&sum.stdout), format!("{}  -\n", copied.diff_id.hex()));
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_found_after_a_restart_and_goes_when_it_is_forgotten() {
    let mut host = Host::new().await;
    let key = Digest::sha256(b"step");
    let known = {
        let build = host.engine().build(limits().into());
        let below = base(&build).await.layers;
        let (layer, _) = run(&build, &below, "echo x >/x").await;
        let stack =
            Stack { base: below, changes: vec![Change { layer: layer.unwrap(), created: String::new() }] };
        let known = Known { key: key.clone(), stack };
        within(build.keep(key.clone(), known.clone(), "RUN echo x >/x".to_owned())).await;
        assert_eq!(within(build.find(&key)).await, Some(known.clone()));
        known
    };
    host.close().await;
    host.open().await;
    let build = host.engine().build(limits().into());
    assert_eq!(within(build.find(&key)).await, Some(known.clone()));
    assert_eq!(says(&build, &known.stack.layers(), "cat /x").await, "x\n");
    drop(build);
    let gone = within(host.engine().forget_builds(&Forget { all: true, ..Forget::default() })).await.unwrap();
    assert_eq!(gone.steps.iter().map(|step| (&step.id, step.size)).collect::<Vec<_>>(), [(&key, 2)]);
    let build = host.engine().build(limits().into());
    assert_eq!(within(build.find(&key)).await, None);
    let (again, _) = run(&build, &known.stack.layers(), "true").await;
    assert!(again.is_err(), "its layer is gone");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_made_once_and_belongs_to_its_user() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let folder = |below: &[Layer], path: &str| Folder {
        below: below.to_vec(),
        path: path.to_owned(),
        user: "web".to_owned(),
        newest: None,
    };
    let made = within(build.folder(folder(&below, "/srv/app"))).await.unwrap();
    let at = with(&below, made.clone());
    assert!(made.is_some());
    assert_eq!(within(build.folder(folder(&at, "/srv/app"))).await.unwrap(), None);
    assert_eq!(within(build.folder(folder(&below, "/srv/app"))).await.unwrap(), made, "the same twice");
    let seen = says(&build, &at, "/bin/busybox stat -c %U:%G:%a /srv/app /srv").await;
    assert_eq!(seen, "web:web:755\nweb:web:755\n");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_step_left_can_be_looked_at() {
    let host = Host::new().await;
    let left = async |force_rm: bool, script: &str| {
        let build = host.engine().build(Limits { force_rm, ..limits() }.into());
        let below = base(&build).await.layers;
        let (made, _) = run(&build, &below, "echo good >/good").await;
        match run(&build, &with(&below, made.unwrap()), script).await.0 {
            Err(Failure::Exit { code: 7, left }) => left,
            other => panic!("{other:?}"),
        }
    };
    let script = "echo written >/tmp/file; exit 7";
    let Left { below: Some(good), failed: Some(failed) } = left(false, script).await else { panic!() };
    let looks = || sh("cat /good; pwd; cat file 2>/dev/null || echo nothing");
    assert_eq!(host.output_of(&good.to_string(), looks()).await, (0, "good\n/tmp\nnothing\n".to_owned()));
    assert_eq!(host.output_of(&failed.to_string(), looks()).await, (0, "good\n/tmp\nwritten\n".to_owned()));
    // Without a word of its own it is a shell, as the step was one.
    let image = host.engine().images().resolve(&failed.to_string()).unwrap();
    assert_eq!(image.config.config.cmd, Some(vec!["/bin/sh".to_owned()]));
    // Nothing was written, or nothing is to be kept: what was good is there all the same.
    for (force_rm, script) in [(false, "exit 7"), (true, script)] {
        let Left { below: Some(_), failed: None } = left(force_rm, script).await else { panic!() };
    }
    host.finish().await;
}
