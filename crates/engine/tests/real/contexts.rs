//! Contexts whose files their client keeps: what is asked for, what is remembered, and clients that lie.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hull_builder::executor::{Copy, Selection, Source, Unpack};
use hull_builder::{Executor, Failure, Layer};
use hull_context::{Entry, Folder, Ignore, Kind, files, listing, walk};
use hull_engine::builds::{Answer, Build, Client, Forget, Given, List, Place, Secret};
use hull_oci::Digest;
use hull_sys::memfd;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::builds::{base, copy, limits, says, tar, with};
use crate::support::{Host, within};

/// What is done with the number of a file that was asked for.
type Open = Arc<dyn Fn(u32) -> Result<OwnedFd, Errno> + Send + Sync>;

struct Owner {
    open: Open,
    asked: Mutex<Vec<u32>>,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owner")
    }
}

/// One build's client.
#[derive(Debug, Clone)]
struct Keeper(Arc<Owner>);

impl Client for Keeper {
    fn secret<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async { Ok(None) })
    }

    fn agent<'a>(&'a self, _: &'a str) -> Answer<'a, Option<OwnedFd>> {
        Box::pin(async { Ok(None) })
    }

    fn files<'a>(&'a self, _: &'a str) -> Answer<'a, OwnedFd> {
        let owner = Arc::clone(&self.0);
        Box::pin(async move {
            let (theirs, ours) = files::pair().unwrap();
            std::thread::spawn(move || {
                files::serve(ours.as_fd(), |number| {
                    owner.asked.lock().unwrap().push(number);
                    (owner.open)(number)
                })
            });
            Ok(theirs)
        })
    }
}

pub(crate) fn entries(folder: &Path) -> Vec<Entry> {
    walk(&Folder::new(File::open(folder).unwrap().as_fd(), Ignore::default())).unwrap()
}

/// One build of a context.
struct Case {
    build: Build,
    owner: Arc<Owner>,
    below: Vec<Layer>,
}

impl Case {
    /// Of a folder as it is.
    async fn of(host: &Host, folder: &Path) -> Case {
        Case::by(host, folder, 0).await
    }

    async fn by(host: &Host, folder: &Path, user: u32) -> Case {
        let (entries, root) = (entries(folder), File::open(folder).unwrap());
        let list = entries.clone();
        let open = move |number: u32| files::open(root.as_fd(), &entries[number as usize].path);
        Case::told(host, (&listing::encode(&list), folder), user, Arc::new(open)).await.unwrap()
    }

    async fn told(
        host: &Host,
        (list, folder): (&[u8], &Path),
        user: u32,
        open: Open,
    ) -> Result<Case, hull_engine::Error> {
        let list = memfd::sealed(c"list", list).unwrap();
        let folder = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let list = List { list, place: Place::Here { folder, user } };
        let context = within(host.engine().listed_context(String::new(), list)).await?;
        let owner = Arc::new(Owner { open, asked: Mutex::default() });
        let client = Arc::new(Keeper(Arc::clone(&owner)));
        let contexts = [(String::new(), context)].into();
        let build = host.engine().build(Given { contexts, client, ..limits().into() });
        let below = base(&build).await.layers;
        Ok(Case { build, owner, below })
    }

    async fn digest(&self, patterns: &[&str]) -> Result<Digest, Failure> {
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let selection = Selection { patterns, ..Selection::default() };
        within(self.build.fingerprint(Source::Context(String::new()), selection)).await
    }

    async fn copy(&self, patterns: &[&str], to: &str) -> Result<Vec<Layer>, Failure> {
        let copy: Copy = copy(&self.below, Source::Context(String::new()), patterns, to);
        within(self.build.copy(copy)).await.map(|layer| with(&self.below, layer))
    }

    /// How many files were asked for since the last time.
    fn asked(&self) -> usize {
        std::mem::take(&mut *self.owner.asked.lock().unwrap()).len()
    }
}

pub(crate) fn written(root: &Path, names: &[&str]) -> PathBuf {
    let folder = root.join("context");
    for name in names {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("of {name}")).unwrap();
    }
    folder
}

/// Builds until no file is young any more: then nothing is asked for.
async fn settle(host: &Host, folder: &Path) {
    let settling = async {
        loop {
            let case = Case::of(host, folder).await;
            case.digest(&["."]).await.unwrap();
            if case.asked() == 0 {
                return;
            }
        }
    };
    within(settling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_once_as_long_as_it_stays_as_it_is() {
    let mut host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/e/c"]);
    symlink("b", folder.join("d/link")).unwrap();
    fs::set_permissions(folder.join("a"), fs::Permissions::from_mode(0o4751)).unwrap();
    let case = Case::of(&host, &folder).await;
    let first = case.digest(&["."]).await.unwrap();
    assert_eq!(case.asked(), 3);
    // Another step of the same build, and another build.
    assert_eq!((case.digest(&["d"]).await.is_ok(), case.asked()), (true, 0));
    let at = case.copy(&["."], "/src").await.unwrap();
    assert_eq!(case.asked(), 3);
    let shown = "cd /src; cat a d/b d/e/c d/link; /bin/busybox stat -c %a:%U a; /bin/busybox readlink d/link";
    assert_eq!(says(&case.build, &at, shown).await, "of aof d/bof d/e/cof d/b4751:root\nb\n");
    drop(case);
    settle(&host, &folder).await;
    host.close().await;
    host.open().await;
    let again = Case::of(&host, &folder).await;
    assert_eq!((again.digest(&["."]).await.unwrap(), again.asked()), (first.clone(), 0));
    drop(again);
    // One that has changed, and one that is only touched: its bytes are the same.
    fs::write(folder.join("d/b"), "other").unwrap();
    File::open(folder.join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let changed = Case::of(&host, &folder).await;
    assert_ne!(changed.digest(&["."]).await.unwrap(), first);
    assert_eq!(changed.asked(), 2);
    settle(&host, &folder).await;
    // What one user's client was believed is nothing to another's.
    let other = Case::by(&host, &folder, 1000).await;
    assert_eq!((other.digest(&["."]).await.is_ok(), other.asked()), (true, 3));
    // All is forgotten when that is asked for.
    drop((changed, other));
    within(host.engine().forget_builds(&Forget { all: true, ..Forget::default() })).await.unwrap();
    let forgotten = Case::of(&host, &folder).await;
    assert_eq!((forgotten.digest(&["."]).await.is_ok(), forgotten.asked()), (true, 3));
    drop(forgotten);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_an_archive_of_a_folder_are_the_same_context() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/e/c", "x y/z"]);
    symlink("/etc/passwd", folder.join("out")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    rustix::fs::mknodat(CWD, folder.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let archive = within(host.engine().build_context(tar(&folder, "-cf").into())).await.unwrap();
    let unpacked =
        host.engine().build(Given { contexts: [(String::new(), archive)].into(), ..limits().into() });
    let listed = Case::of(&host, &folder).await;
    for patterns in [&["."][..], &["d"], &["*"], &["d/*", "a"]] {
        let patterns_owned = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let selection = Selection { patterns: patterns_owned, ..Selection::default() };
        let digest = within(unpacked.fingerprint(Source::Context(String::new()), selection)).await;
        let expected = digest.map_err(|failure| failure.to_string());
        assert_eq!(
            listed.digest(patterns).await.map_err(|failure| failure.to_string()),
            expected,
            "{patterns:?}"
        );
    }
    let below = base(&unpacked).await.layers;
    let by_archive =
        within(unpacked.copy(copy(&below, Source::Context(String::new()), &["."], "/src"))).await;
    assert_eq!(listed.copy(&["."], "/src").await.unwrap(), with(&below, by_archive.unwrap()));
    drop((listed, unpacked));
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_lead_out_or_are_none_are_refused() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a"]);
    let null = || -> Open { Arc::new(|_| Ok(File::open("/dev/null").unwrap().into())) };
    let about = |path: &str| Entry { path: path.into(), ..entries(&folder)[0].clone() };
    for bad in ["../x", "/etc/passwd", "a/x", "nosuch/x", "./a", ""] {
        let list = listing::encode(&[about("a"), about(bad)]);
        let case = Case::told(&host, (&list, &folder), 0, null()).await.unwrap();
        let failed = case.digest(&["."]).await;
        assert!(matches!(&failed, Err(Failure::Invalid(why)) if why.contains("no path in it")), "{failed:?}");
        let failed = case.copy(&["."], "/x").await;
        assert!(matches!(&failed, Err(Failure::Invalid(why)) if why.contains("no path in it")), "{failed:?}");
    }
    let case = Case::told(&host, (b"nonsense", &folder), 0, null()).await.unwrap();
    assert!(matches!(case.digest(&["."]).await, Err(Failure::Invalid(_))));
    drop(case);
    // A file is no folder to know a context by.
    let told = Case::told(&host, (&listing::encode(&[]), &folder.join("a")), 0, null()).await;
    assert!(told.is_err());
    // A list that its sender could still change.
    let open = File::create(scratch.path().join("list")).unwrap();
    (&open).write_all(&listing::encode(&[about("a")])).unwrap();
    let root = File::open(&folder).unwrap();
    let list = List { list: open.into(), place: Place::Here { folder: root.into(), user: 0 } };
    let context = within(host.engine().listed_context(String::new(), list)).await.unwrap();
    let owner = Arc::new(Owner { open: null(), asked: Mutex::default() });
    let contexts = [(String::new(), context)].into();
    let build = host.engine().build(Given { contexts, client: Arc::new(Keeper(owner)), ..limits().into() });
    let failed = within(build.fingerprint(Source::Context(String::new()), Selection::default())).await;
    assert!(matches!(failed, Err(Failure::Host(_))), "{failed:?}");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_gives_for_a_file_is_not_believed() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a"]);
    let list = listing::encode(&entries(&folder));
    let fifo = scratch.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let open = |path: PathBuf, flags: OFlags| -> Open {
        Arc::new(move |_| rustix::fs::openat(CWD, &path, flags | OFlags::CLOEXEC, Mode::empty()))
    };
    // Reading any of these would wait for ever, never end, or do something.
    let given = [
        ("a pipe", open(fifo, OFlags::RDWR)),
        ("a device", open("/dev/zero".into(), OFlags::RDONLY)),
        ("a folder", open("/etc".into(), OFlags::RDONLY)),
        ("a name", open(folder.join("a"), OFlags::PATH)),
        ("one to write", open(folder.join("a"), OFlags::WRONLY)),
        ("a socket", Arc::new(|_| Ok(files::pair().unwrap().0)) as Open),
        ("an error", Arc::new(|_| Err(Errno::ACCESS)) as Open),
    ];
    for (what, open) in given {
        let case = Case::told(&host, (&list, &folder), 0, open).await.unwrap();
        assert!(case.digest(&["."]).await.is_err(), "{what}");
        assert!(case.copy(&["."], "/x").await.is_err(), "{what}");
    }
    // The control, and a client that has gone.
    let case = Case::of(&host, &folder).await;
    assert!(case.digest(&["."]).await.is_ok() && case.copy(&["."], "/x").await.is_ok());
    let gone =
        Case::told(&host, (&list, &folder), 0, Arc::new(|_| panic!("the client has gone"))).await.unwrap();
    assert!(gone.digest(&["a"]).await.is_err() || gone.copy(&["a"], "/x").await.is_err());
    drop((case, gone));
    host.finish().await;
}

/// The bytes of a listed file, as long as the step's digest is of them; else a failure that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_bytes_that_its_digest_is_of() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["log", "file", "still"]);
    let case = Case::of(&host, &folder).await;
    case.digest(&["."]).await.unwrap();
    // What is added to a log after it was looked at is not copied; another file is another.
    let mut log = File::options().append(true).open(folder.join("log")).unwrap();
    log.write_all(b" and more").unwrap();
    let at = case.copy(&["log"], "/log").await.unwrap();
    assert_eq!(says(&case.build, &at, "cat /log").await, "of log");
    fs::write(folder.join("file"), "OF file").unwrap();
    let failed = case.copy(&["."], "/src").await;
    assert!(matches!(&failed, Err(Failure::Changed(why)) if why.contains("has changed")), "{failed:?}");
    // Also where size and times are as they were.
    let still = folder.join("still");
    let modified = fs::metadata(&still).unwrap().modified().unwrap();
    fs::write(&still, "OF still").unwrap();
    File::open(&still).unwrap().set_modified(modified).unwrap();
    let failed = case.copy(&["still"], "/still").await;
    assert!(matches!(&failed, Err(Failure::Changed(why)) if why.contains("has changed")), "{failed:?}");
    drop(case);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rewritten_all_the_time_is_never_kept_under_a_wrong_digest() {
    const WRITES: u64 = 10_000;
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a"]);
    let path = folder.join("a");
    fs::write(&path, "even").unwrap();
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let digests: Vec<Digest> = {
        let mut all = Vec::new();
        for text in ["even", "odd!"] {
            fs::write(&path, text).unwrap();
            let case = Case::of(&host, &folder).await;
            all.push(case.digest(&["a"]).await.unwrap());
        }
        all
    };
    /// Ends the writer however the test ends.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let text =
                    if writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { "even" } else { "odd!" };
                // At once, by another file: there is no moment with half of it.
                fs::write(scratch.path().join("new"), text).unwrap();
                fs::rename(scratch.path().join("new"), &path).unwrap();
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut copied = 0;
                while copied < 3 || writes.load(Ordering::Relaxed) < WRITES {
                    let case = Case::of(&host, &folder).await;
                    let digest = case.digest(&["a"]).await.unwrap();
                    match case.copy(&["a"], "/a").await {
                        Ok(at) => {
                            copied += 1;
                            let said = says(&case.build, &at, "cat /a").await;
                            let expected = if said == "even" { &digests[0] } else { &digests[1] };
                            assert_eq!(&digest, expected, "{said}");
                        }
                        Err(Failure::Changed(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        });
    });
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_grows_is_unpacked_as_it_was() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let inner = written(scratch.path(), &["one"]);
    tar(&inner, "-cf");
    let folder = scratch.path().join("folder");
    fs::create_dir(&folder).unwrap();
    // Without its end, as tar(5) has it: whatever is appended would be read, too.
    let whole = fs::read(inner.with_extension("tar")).unwrap();
    let end = whole.chunks(512).position(|block| block.iter().all(|&byte| byte == 0)).unwrap() * 512;
    let packed = folder.join("a.tar");
    fs::write(&packed, &whole[..end]).unwrap();
    let case = Case::of(&host, &folder).await;
    case.digest(&["a.tar"]).await.unwrap();
    fs::write(inner.join("two"), "2").unwrap();
    tar(&inner, "-cf");
    let more = fs::read(inner.with_extension("tar")).unwrap();
    File::options().append(true).open(&packed).unwrap().write_all(&more).unwrap();
    let add = |to: &str| Copy {
        unpack: Unpack::Local,
        ..copy(&case.below, Source::Context(String::new()), &["a.tar"], to)
    };
    let at = within(case.build.copy(add("/x"))).await.map(|layer| with(&case.below, layer)).unwrap();
    assert_eq!(says(&case.build, &at, "ls /x").await, "one\n");
    // The control: a build that looks now has both.
    let now = Case::of(&host, &folder).await;
    now.digest(&["a.tar"]).await.unwrap();
    let at = within(now.build.copy(add("/x"))).await.map(|layer| with(&now.below, layer)).unwrap();
    assert_eq!(says(&now.build, &at, "ls /x").await, "one\ntwo\n");
    // Other bytes in its place are not unpacked under its name.
    fs::write(&packed, &whole).unwrap();
    let failed = within(now.build.copy(add("/x"))).await;
    assert!(matches!(failed, Err(Failure::Changed(_))), "{failed:?}");
    drop((case, now));
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_files_are_asked_for() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["d/a", "d/b", "e/c"]);
    symlink("a", folder.join("d/link")).unwrap();
    let case = Case::of(&host, &folder).await;
    case.digest(&["d"]).await.unwrap();
    let asked = std::mem::take(&mut *case.owner.asked.lock().unwrap());
    let all = entries(&folder);
    let paths: Vec<_> = asked.iter().map(|&number| all[number as usize].path.clone()).collect();
    assert_eq!(paths, [Path::new("d/a"), Path::new("d/b")]);
    assert!(asked.iter().all(|&number| matches!(all[number as usize].kind, Kind::File { .. })));
    drop(case);
    host.finish().await;
}
