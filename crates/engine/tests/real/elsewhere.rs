//! Contexts of clients on other hosts: which of their files travel, and clients that lie about them or stop.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hull_builder::executor::{Selection, Source};
use hull_builder::{Executor, Failure, Layer};
use hull_context::reading::read;
use hull_context::{Digests, Entry, Remembered, contents, files, listing};
use hull_engine::Error;
use hull_engine::builds::{Answer, Build, Client, Forget, Given, List, Pieces, Place, Secret};
use hull_oci::Digest;
use hull_sys::memfd;
use tokio::sync::Notify;

use crate::builds::{base, copy, limits, says, with};
use crate::contexts::{entries, written};
use crate::support::{Host, within};

/// What is sent for these numbers; `None` at its end: nothing more, and no end either.
type Send = Arc<dyn Fn(&[u32]) -> Vec<Option<Bytes>> + std::marker::Send + Sync>;

/// A client of another host.
struct Far {
    send: Send,
    asked: Mutex<Vec<u32>>,
    stopped: Arc<Notify>,
}

impl std::fmt::Debug for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Far")
    }
}

struct Queue(VecDeque<Option<Bytes>>, Arc<Notify>);

impl Pieces for Queue {
    fn next(&mut self) -> Answer<'_, Option<Bytes>> {
        Box::pin(async {
            match self.0.pop_front() {
                Some(Some(bytes)) => Ok(Some(bytes)),
                None => Ok(None),
                Some(None) => {
                    self.1.notify_one();
                    std::future::pending().await
                }
            }
        })
    }
}

#[derive(Debug, Clone)]
struct Keeper(Arc<Far>);

impl Client for Keeper {
    fn secret<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async { Ok(None) })
    }

    fn agent<'a>(&'a self, _: &'a str) -> Answer<'a, Option<OwnedFd>> {
        Box::pin(async { Ok(None) })
    }

    fn contents<'a>(&'a self, _: &'a str, numbers: Vec<u32>) -> Answer<'a, Box<dyn Pieces>> {
        let Far { send, asked, stopped } = &*self.0;
        asked.lock().unwrap().extend(&numbers);
        let queue = Queue(send(&numbers).into(), Arc::clone(stopped));
        Box::pin(async move { Ok(Box::new(queue) as Box<dyn Pieces>) })
    }
}

struct Case {
    build: Build,
    far: Arc<Far>,
    below: Vec<Layer>,
}

/// The digests of files as they are.
fn known(folder: &Path, entries: &[Entry]) -> Digests {
    let mut digests = Digests::default();
    for entry in entries.iter().filter(|entry| entry.stamp().is_some()) {
        let file = File::open(folder.join(&entry.path)).unwrap();
        let remembered = read(file.as_fd(), (0, 1), &mut [0; 4096]).unwrap().unwrap();
        digests.put(entry.path.clone(), Remembered { settled: true, ..remembered });
    }
    digests
}

/// An answer as an honest client gives it, in small pieces.
fn honest(folder: &Path, entries: &[Entry], numbers: &[u32]) -> Vec<Option<Bytes>> {
    let mut out = Vec::new();
    for &number in numbers {
        let entry = &entries[number as usize];
        let mut file = files::open(File::open(folder).unwrap().as_fd(), &entry.path).map(File::from);
        let size = entry.stamp().unwrap().size;
        let file = file.as_mut().map(|file| (file as &mut dyn std::io::Read, size)).map_err(|errno| *errno);
        contents::write(&mut out, file, &mut [0; 64]).unwrap();
    }
    out.chunks(7).map(|piece| Some(Bytes::copy_from_slice(piece))).collect()
}

impl Case {
    async fn of(host: &Host, folder: &Path) -> Case {
        let entries = entries(folder);
        let (digests, root) = (known(folder, &entries), folder.to_owned());
        let list = entries.clone();
        Case::told(host, (&list, &digests), Arc::new(move |asked| honest(&root, &entries, asked))).await
    }

    async fn told(host: &Host, (entries, digests): (&[Entry], &Digests), send: Send) -> Case {
        let list = memfd::sealed(c"list", &listing::encode(entries)).unwrap();
        let digests = memfd::sealed(c"digests", &digests.encode()).unwrap();
        let list = List { list, place: Place::Elsewhere { digests } };
        let context = within(host.engine().listed_context(String::new(), list)).await.unwrap();
        let far = Arc::new(Far { send, asked: Mutex::default(), stopped: Arc::default() });
        let client = Arc::new(Keeper(Arc::clone(&far)));
        let contexts = [(String::new(), context)].into();
        let build = host.engine().build(Given { contexts, client, ..limits().into() });
        let below = base(&build).await.layers;
        Case { build, far, below }
    }

    async fn digest(&self) -> Result<Digest, Failure> {
        let selection = Selection { patterns: vec![".".to_owned()], ..Selection::default() };
        within(self.build.fingerprint(Source::Context(String::new()), selection)).await
    }

    async fn copy(&self) -> Result<Vec<Layer>, Failure> {
        let copy = copy(&self.below, Source::Context(String::new()), &["."], "/src");
        within(self.build.copy(copy)).await.map(|layer| with(&self.below, layer))
    }

    /// The files that were asked for since the last time.
    fn asked(&self) -> Vec<u32> {
        let mut asked = std::mem::take(&mut *self.far.asked.lock().unwrap());
        asked.sort_unstable();
        asked
    }
}

const NOTHING: [u32; 0] = [];
const SHOWN: &str = "cat /src/a /src/d/b /src/d/c";

#[tokio::test(flavor = "multi_thread")]
async fn only_what_has_not_come_before_travels() {
    let mut host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/c"]);
    let case = Case::of(&host, &folder).await;
    let first = case.digest().await.unwrap();
    // The client knows all digests: nothing has to be read.
    assert_eq!(case.asked(), NOTHING);
    let at = case.copy().await.unwrap();
    assert_eq!(case.asked(), [0, 2, 3]);
    assert_eq!(says(&case.build, &at, SHOWN).await, "of aof d/bof d/c");
    drop(case);
    // Also by the next daemon, and whatever the files' stamps are.
    host.close().await;
    host.open().await;
    fs::write(folder.join("a"), "of a").unwrap();
    let again = Case::of(&host, &folder).await;
    assert!(again.digest().await.is_ok() && again.copy().await.is_ok());
    assert_eq!(again.asked(), NOTHING);
    fs::write(folder.join("d/b"), "other").unwrap();
    let changed = Case::of(&host, &folder).await;
    assert_ne!(changed.digest().await.unwrap(), first);
    let at = changed.copy().await.unwrap();
    assert_eq!(changed.asked(), [2]);
    assert_eq!(says(&changed.build, &at, SHOWN).await, "of aotherof d/c");
    drop((again, changed));
    within(host.engine().forget_builds(&Forget { all: true, ..Forget::default() })).await.unwrap();
    let forgotten = Case::of(&host, &folder).await;
    assert!(forgotten.digest().await.is_ok() && forgotten.copy().await.is_ok());
    assert_eq!(forgotten.asked(), [0, 2, 3]);
    drop(forgotten);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_whose_digests_nobody_tells_are_read() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/c"]);
    let told = Case::of(&host, &folder).await;
    let expected = told.digest().await.unwrap();
    drop(told);
    let (entries, root) = (entries(&folder), folder.clone());
    let list = entries.clone();
    let send: Send = Arc::new(move |asked| honest(&root, &entries, asked));
    let case = Case::told(&host, (&list, &Digests::default()), send).await;
    assert_eq!(case.digest().await.unwrap(), expected);
    assert_eq!(case.asked(), [0, 2, 3]);
    let at = case.copy().await.unwrap();
    assert_eq!(case.asked(), NOTHING);
    assert_eq!(says(&case.build, &at, SHOWN).await, "of aof d/bof d/c");
    drop(case);
    host.finish().await;
}

/// More files than are under way at a time come in the order in which they are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_come_in_their_places() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("context");
    fs::create_dir(&folder).unwrap();
    let count = 40 * files::BATCH;
    for number in 0..count {
        fs::write(folder.join(format!("{number:05}")), format!("{number:05}\n")).unwrap();
    }
    let case = Case::of(&host, &folder).await;
    case.digest().await.unwrap();
    let at = case.copy().await.unwrap();
    assert_eq!(case.asked().len(), count);
    let shown = "cd /src; for one in *; do grep -qx $one $one || echo $one; done; ls | /bin/busybox wc -l";
    assert_eq!(says(&case.build, &at, shown).await, format!("{count}\n"));
    drop(case);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_elsewhere_sends_is_not_believed() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/c"]);
    let (entries, digests) = (entries(&folder), known(&folder, &entries(&folder)));
    let whole = |asked: &[u32]| -> Vec<u8> {
        honest(&folder, &entries, asked).into_iter().flatten().flatten().collect()
    };
    let sizes = |of: u64| {
        move |asked: &[u32]| -> Vec<u8> {
            asked
                .iter()
                .flat_map(|_| [&[0][..], &of.to_le_bytes(), &vec![b'x'; of as usize]].concat())
                .collect()
        }
    };
    let (short, swapped, more) =
        (whole(&[0, 2, 3])[..20].to_vec(), whole(&[0, 3, 2]), [whole(&[0, 2, 3]), whole(&[0])].concat());
    let lie = |bytes: Vec<u8>| -> Send { Arc::new(move |_| vec![Some(Bytes::from(bytes.clone()))]) };
    let endless = [&[0][..], &u64::MAX.to_le_bytes(), b"and so on"].concat();
    let all: Vec<u32> = vec![0, 2, 3];
    for (what, send, changed) in [
        ("less than was asked for", lie(short), false),
        ("nothing at all", lie(Vec::new()), false),
        ("another's bytes", lie(swapped), true),
        ("other bytes", lie([&whole(&all)[..9], b"OF a", &whole(&all)[13..]].concat()), true),
        ("other sizes", lie(sizes(3)(&all)), false),
        ("longer ones", lie(sizes(9)(&all)), false),
        ("a file without an end", lie(endless), false),
        ("more than was asked for", lie(more), false),
        ("a file that is not there", lie([&[2][..], &whole(&[2, 3])].concat()), true),
        ("no permission", lie([&[13][..], &whole(&[2, 3])].concat()), false),
    ] {
        let case = Case::told(&host, (&entries, &digests), send).await;
        case.digest().await.unwrap();
        let failed = case.copy().await;
        assert!(failed.is_err(), "{what}");
        assert_eq!(matches!(failed, Err(Failure::Changed(_))), changed, "{what}: {failed:?}");
        drop(case);
        within(host.engine().forget_builds(&Forget { all: true, ..Forget::default() })).await.unwrap();
    }
    // The control, and that nothing of a lie has stayed.
    let case = Case::of(&host, &folder).await;
    case.digest().await.unwrap();
    let at = case.copy().await.unwrap();
    assert_eq!(case.asked(), all);
    assert_eq!(says(&case.build, &at, SHOWN).await, "of aof d/bof d/c");
    drop(case);
    host.finish().await;
}

/// Nobody names another digest than that of the bytes: what is kept of one client is what it says for all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_what_its_digest_is_of() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/c"]);
    let (entries, mut digests) = (entries(&folder), known(&folder, &entries(&folder)));
    // Says that `a` has the bytes of somebody else's file of the same size, and sends its own.
    let stamp = entries[0].stamp().unwrap();
    let digest = Digest::sha256(b"OF A");
    digests.put("a".into(), Remembered { stamp, digest: digest.clone(), settled: true, build: 0 });
    let (root, list) = (folder.clone(), entries.clone());
    let liar: Send = Arc::new(move |asked| honest(&root, &list, asked));
    let case = Case::told(&host, (&entries, &digests), liar).await;
    case.digest().await.unwrap();
    let failed = case.copy().await;
    assert!(matches!(&failed, Err(Failure::Changed(why)) if why.contains("has changed")), "{failed:?}");
    drop(case);
    fs::write(folder.join("a"), "OF A").unwrap();
    let owner = Case::of(&host, &folder).await;
    owner.digest().await.unwrap();
    let at = owner.copy().await.unwrap();
    assert!(owner.asked().contains(&0));
    assert_eq!(says(&owner.build, &at, SHOWN).await, "OF Aof d/bof d/c");
    drop(owner);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_leaves_nothing() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a", "d/b", "d/c"]);
    let (entries, digests) = (entries(&folder), known(&folder, &entries(&folder)));
    let half = honest(&folder, &entries, &[0])[0].clone();
    let case = Case::told(&host, (&entries, &digests), Arc::new(move |_| vec![half.clone(), None])).await;
    case.digest().await.unwrap();
    let stopped = Arc::clone(&case.far.stopped);
    let ended = {
        let copying = case.copy();
        tokio::select! {
            copied = copying => Some(copied),
            () = within(stopped.notified()) => None,
        }
    };
    assert!(ended.is_none(), "{ended:?}");
    drop(case);
    let other = Case::of(&host, &folder).await;
    other.digest().await.unwrap();
    assert!(other.copy().await.is_ok());
    drop(other);
    host.finish().await;
}

#[derive(Debug)]
struct Gone;

impl Client for Gone {
    fn secret<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async { Ok(None) })
    }

    fn agent<'a>(&'a self, _: &'a str) -> Answer<'a, Option<OwnedFd>> {
        Box::pin(async { Ok(None) })
    }

    fn contents<'a>(&'a self, _: &'a str, _: Vec<u32>) -> Answer<'a, Box<dyn Pieces>> {
        Box::pin(async { Err(Error::Invalid("the client has gone".to_owned())) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_gone_ends_the_step() {
    let host = Host::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = written(scratch.path(), &["a"]);
    let entries = entries(&folder);
    let list = memfd::sealed(c"list", &listing::encode(&entries)).unwrap();
    let digests = memfd::sealed(c"digests", &known(&folder, &entries).encode()).unwrap();
    let list = List { list, place: Place::Elsewhere { digests } };
    let context = within(host.engine().listed_context(String::new(), list)).await.unwrap();
    let contexts = [(String::new(), context)].into();
    let build = host.engine().build(Given { contexts, client: Arc::new(Gone), ..limits().into() });
    let below = base(&build).await.layers;
    let copied = within(build.copy(copy(&below, Source::Context(String::new()), &["."], "/src"))).await;
    assert!(copied.is_err());
    drop(build);
    host.finish().await;
}
