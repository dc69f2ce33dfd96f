//! Pulls from registries of the test's own, which answer as good ones would not.

use std::sync::Condvar;
use std::time::{Duration, Instant};

use hull_oci::image::media_type;
use hull_registry::Credentials;
use hull_registry::client::Hosts;
use hull_testkit::{answer, serve};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::*;
use crate::images::{Pull, Transfer, What};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

pub(super) fn hosts() -> Hosts {
    let fetch = hull_fetch::Options { proxies: Some(hull_fetch::Proxies::default()), ..Default::default() };
    Hosts { certificates: Vec::new(), attempts: 3, wait: Duration::from_millis(1), fetch, ..Hosts::default() }
}

/// What a registry has, and how it answers.
#[derive(Default)]
struct Having {
    /// By the path behind `/v2/app`: type and bytes.
    files: BTreeMap<String, (String, Vec<u8>)>,
    /// The next answer for this path ends after so many bytes of it.
    cut: BTreeMap<String, usize>,
    /// Headers of requests for blobs and manifests: path and range.
    asked: Vec<String>,
    /// Blobs are not answered.
    shut: bool,
    /// Blobs are not to be had; so it is after an answer that was cut, if `breaks`.
    down: bool,
    breaks: bool,
}

struct Registry {
    name: String,
    having: Arc<(Mutex<Having>, Condvar)>,
}

impl Registry {
    fn start() -> Registry {
        let having = Arc::new((Mutex::new(Having::default()), Condvar::new()));
        let shared = Arc::clone(&having);
        let address = serve(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let Some(path) = path.strip_prefix("/v2/app") else { return answer("200 OK", "", b"{}") };
            let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let (lock, opened) = &*shared;
            let mut having = lock.lock().unwrap();
            having.asked.push(format!("{path} {}", range.unwrap_or_default()).trim_end().to_owned());
            if path.starts_with("/blobs") {
                having = opened.wait_while(having, |having| having.shut).unwrap();
            }
            reply(&mut having, path, range)
        });
        Registry { name: format!("{address}/app"), having }
    }

    fn having(&self) -> MutexGuard<'_, Having> {
        self.having.0.lock().unwrap()
    }

    fn shut(&self, shut: bool) {
        self.having().shut = shut;
        self.having.1.notify_all();
    }

    fn put(&self, path: String, kind: &str, bytes: &[u8]) {
        self.having().files.insert(path, (kind.to_owned(), bytes.to_vec()));
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.put(format!("/blobs/{}", descriptor.digest), "application/octet-stream", bytes);
        descriptor
    }

    fn document(&self, tag: &str, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.put(format!("/manifests/{}", descriptor.digest), kind, bytes);
        self.put(format!("/manifests/{tag}"), kind, bytes);
        descriptor
    }

    /// An image of these layers, each with one file of that name and content, under a tag.
    fn image(&self, tag: &str, layers: &[&str]) -> Pushed {
        let archives: Vec<Vec<u8>> = layers.iter().map(|name| archive(name)).collect();
        let mut config = config("2026-01-02T03:04:05Z", tag);
        config.rootfs.diff_ids = archives.iter().map(|bytes| Digest::sha256(bytes)).collect();
        let config = self.blob(media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
        let layers: Vec<Descriptor> =
            archives.iter().map(|bytes| self.blob(media_type::OCI_LAYER, bytes)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
        });
        let manifest = self.document(tag, media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        Pushed { config, layers, manifest }
    }

    fn reference(&self, suffix: &str) -> Reference {
        name(&format!("{}{suffix}", self.name))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.having().asked)
    }
}

fn reply(having: &mut Having, path: &str, range: Option<&str>) -> Vec<u8> {
    let Some((kind, bytes)) = having.files.get(path).cloned() else {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return answer("404 Not Found", "Connection: close\r\n", body);
    };
    if having.down && path.starts_with("/blobs") {
        return answer("503 Service Unavailable", "Connection: close\r\n", b"");
    }
    let from: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let mut headers = format!("Content-Type: {kind}\r\nConnection: close\r\n");
    if range.is_some() {
        headers.push_str(&format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
    }
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let whole = answer(status, &headers, &bytes[from..]);
    match having.cut.remove(path) {
        Some(length) => {
            having.down = having.breaks;
            whole[..whole.len() - (bytes.len() - from) + length].to_vec()
        }
        None => whole,
    }
}

struct Pushed {
    config: Descriptor,
    layers: Vec<Descriptor>,
    manifest: Descriptor,
}

fn archive(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    layer(name).read_to_end(&mut bytes).unwrap();
    bytes
}

fn pull(
    world: &World,
    reference: Reference,
) -> (impl Future<Output = Pulled> + Send + use<>, UnboundedReceiver<Transfer>) {
    let (tell, told) = unbounded_channel();
    let (images, pull) =
        (world.images.clone(), Pull { reference, platform: None, credentials: Credentials::Anonymous });
    (async move { timeout(LONG, images.pull(pull, tell)).await.expect("it ends") }, told)
}

type Pulled = Result<Vec<Arc<Image>>>;

async fn lines(mut told: UnboundedReceiver<Transfer>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(Transfer { id, what }) = timeout(LONG, told.recv()).await.expect("it ends") {
        let text = match what {
            What::Line(text) => text,
            // How often a bar moves is nobody's affair.
            What::Downloading { .. } => continue,
            other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
        };
        lines.push(format!("{id} {text}").trim_start().to_owned());
    }
    lines
}

async fn pulled(world: &World, reference: Reference) -> (Pulled, Vec<String>) {
    let (work, told) = pull(world, reference);
    let pulled = work.await;
    (pulled, lines(told).await)
}

/// Waits until all that was done behind the scenes is done.
async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what}");
        tokio::task::yield_now().await;
    }
}

fn left(world: &World) -> usize {
    ["blobs/sha256", "layers", "ingest"]
        .map(|folder| world.scratch.path().join("image").join(folder))
        .map(|folder| std::fs::read_dir(folder).unwrap().count())
        .iter()
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_fetched_and_nothing_else() {
    let (world, registry) = (world(), Registry::start());
    let first = registry.image("1", &["base", "top"]);
    let second = registry.image("2", &["base", "other"]);
    let (images, told) = pulled(&world, registry.reference(":1")).await;
    let image = images.unwrap().remove(0);
    assert_eq!((&image.id, image.size), (&first.config.digest, 7));
    assert_eq!(image.documents, std::slice::from_ref(&first.manifest));
    let short = |index: usize| first.layers[index].digest.short().to_owned();
    let mut expected = vec!["1 Pulling from app".to_owned()];
    for step in ["Waiting", "Complete", "Extracting", "Pulled"] {
        expected.extend([0, 1].map(|index| format!("{} {step}", short(index))));
    }
    expected.push(format!("Digest: {}", first.manifest.digest));
    expected.push(format!("Status: Downloaded newer image for {}:1", registry.name));
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&told), sorted(&expected));
    assert_eq!((&told[..3], &told[told.len() - 2..]), (&expected[..3], &expected[expected.len() - 2..]));
    let files = world.images.layer_folders(&image);
    assert_eq!(std::fs::read(files[1].join("top")).unwrap(), b"top");
    assert_eq!(world.stored(), (4, 2));
    let names: Vec<String> = world.images.names(&image.id).iter().map(Reference::familiar).collect();
    let digest = format!("@{}", first.manifest.digest);
    assert_eq!(names, [format!("{}:1", registry.name), format!("{}{digest}", registry.name)]);
    let log = registry.asked();
    assert_eq!(log.len(), 4, "{log:?}");
    for again in [":1", &digest] {
        let (images, told) = pulled(&world, registry.reference(again)).await;
        assert_eq!(images.unwrap()[0].id, image.id);
        let status = format!("Status: Image is up to date for {}{again}", registry.name);
        assert_eq!(told.last(), Some(&status), "{told:?}");
        assert_eq!(registry.asked().len(), 1, "the manifest alone");
    }
    let (images, told) = pulled(&world, registry.reference(":2")).await;
    images.unwrap();
    let mut asked = registry.asked();
    asked.sort();
    let mut expected = vec![
        format!("/blobs/{}", second.config.digest),
        format!("/blobs/{}", second.layers[1].digest),
        "/manifests/2".to_owned(),
    ];
    expected.sort();
    assert_eq!(asked, expected);
    assert!(told.contains(&format!("{} Exists", short(0))), "{told:?}");
    for name in [":1", ":2"] {
        world.remove(&format!("{}{name}", registry.name), false).await.unwrap();
    }
    assert_eq!(world.stored(), (0, 0), "manifests go with their images");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_want_the_same_share_the_work_and_each_hears_of_it() {
    let (world, registry) = (world(), Registry::start());
    let pushed = registry.image("1", &["base", "top"]);
    let manifest = registry.having().files["/manifests/1"].1.clone();
    registry.document("2", media_type::OCI_MANIFEST, &manifest);
    // The configuration has to be had; only then nothing is answered any more.
    let (work, told) = pull(&world, registry.reference(":1"));
    work.await.unwrap();
    drop(told);
    world.remove(&format!("{}:1", registry.name), false).await.unwrap();
    registry.asked();
    let config = registry.having().files[&format!("/blobs/{}", pushed.config.digest)].1.clone();
    let kept = world.images.0.leases.take();
    kept.hold(Held::Blob(pushed.config.digest.clone()));
    world.images.0.content.put(&config).unwrap();
    registry.shut(true);
    let (mut works, mut tolds) = (tokio::task::JoinSet::new(), Vec::new());
    for tag in [":1", ":2", ":1"] {
        let (work, mut told) = pull(&world, registry.reference(tag));
        works.spawn(work);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(timeout(LONG, told.recv()).await.unwrap().unwrap());
        }
        tolds.push(told);
    }
    // One who goes away changes nothing for the others.
    let (gone, mut told) = pull(&world, registry.reference(":1"));
    let gone = tokio::spawn(gone);
    while timeout(LONG, told.recv()).await.unwrap().unwrap().what != What::Waiting {}
    gone.abort();
    assert!(timeout(LONG, gone).await.unwrap().unwrap_err().is_cancelled());
    registry.shut(false);
    while let Some(pulled) = timeout(LONG, works.join_next()).await.unwrap() {
        assert_eq!(pulled.unwrap().unwrap()[0].id, pushed.config.digest);
    }
    for told in tolds {
        let lines = lines(told).await;
        for layer in &pushed.layers {
            for step in ["Complete", "Extracting", "Pulled"] {
                let line = format!("{} {step}", layer.digest.short());
                assert_eq!(lines.iter().filter(|told| **told == line).count(), 1, "{line}: {lines:?}");
            }
        }
    }
    let mut blobs: Vec<String> =
        registry.asked().into_iter().filter(|path| path.starts_with("/blobs")).collect();
    blobs.sort();
    let mut once: Vec<String> =
        pushed.layers.iter().map(|layer| format!("/blobs/{}", layer.digest)).collect();
    once.sort();
    assert_eq!(blobs, once, "each layer came once");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_elsewhere_does_not_wait_for_a_registry_that_is_silent() {
    let (world, silent, other) = (world(), Registry::start(), Registry::start());
    let pushed = silent.image("1", &["base"]);
    other.image("1", &["base"]);
    // Where the configuration is here, only the layer is asked for.
    let config = silent.having().files[&format!("/blobs/{}", pushed.config.digest)].1.clone();
    let kept = world.images.0.leases.take();
    kept.hold(Held::Blob(pushed.config.digest.clone()));
    world.images.0.content.put(&config).unwrap();
    silent.shut(true);
    let (waits, _told) = pull(&world, silent.reference(":1"));
    let waits = tokio::spawn(waits);
    let path = format!("/blobs/{}", pushed.layers[0].digest);
    until("the layer is asked for", || silent.having().asked.contains(&path)).await;
    let (images, _) = pulled(&world, other.reference(":1")).await;
    assert_eq!(images.unwrap()[0].id, pushed.config.digest);
    assert_eq!(other.asked().last(), Some(&path));
    let images = timeout(LONG, waits).await.expect("it needs nothing more").unwrap();
    assert_eq!(images.unwrap()[0].id, pushed.config.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lies_about_a_size_changes_nothing_that_is_stored() {
    let (world, registry) = (world(), Registry::start());
    let pushed = registry.image("1", &["base"]);
    let layer = &pushed.layers[0];
    // As it is while others are at it, or after a kill: the blob has its first name, too.
    let content = &world.images.0.content;
    let _open = content.partial(&layer.digest).unwrap();
    let (images, _) = pulled(&world, registry.reference(":1")).await;
    images.unwrap();
    let longer = [archive("base"), vec![7]].concat();
    registry.put(format!("/blobs/{}", layer.digest), "x", &longer);
    let mut config = config("2026-01-02T03:04:05Z", "lie");
    config.rootfs.diff_ids = vec![Digest::sha256(b"other")];
    let config = registry.blob(media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
    let mut lie = layer.clone();
    lie.size += 1;
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [lie]});
    registry.document("2", media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
    let (refused, _) = pulled(&world, registry.reference(":2")).await;
    let refused = crate::chain(&refused.unwrap_err());
    assert!(refused.contains("verification failed for digest"), "{refused}");
    content.verify(&layer.digest).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_leaves_nothing_if_nobody_else_wants_it() {
    let (world, registry) = (world(), Registry::start());
    registry.image("1", &["base", "top"]);
    registry.shut(true);
    let (work, mut told) = pull(&world, registry.reference(":1"));
    let work = tokio::spawn(work);
    timeout(LONG, told.recv()).await.unwrap().unwrap();
    work.abort();
    assert!(timeout(LONG, work).await.unwrap().unwrap_err().is_cancelled());
    until("nothing is left", || left(&world) == 0).await;
    registry.shut(false);
    let (images, _) = pulled(&world, registry.reference(":1")).await;
    images.unwrap();
    assert_eq!(world.stored(), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_come_before_a_break_does_not_come_again() {
    let (world, registry) = (world(), Registry::start());
    let pushed = registry.image("1", &["base"]);
    let path = format!("/blobs/{}", pushed.layers[0].digest);
    registry.having().cut.insert(path.clone(), 700);
    let (images, _) = pulled(&world, registry.reference(":1")).await;
    let image = images.unwrap().remove(0);
    let asked = registry.asked();
    assert_eq!(asked[2..], [path.clone(), format!("{path} 700-")], "{asked:?}");
    assert_eq!(std::fs::read(world.images.layer_folders(&image)[0].join("base")).unwrap(), b"base");
    world.remove(&format!("{}:1", registry.name), false).await.unwrap();
    // What a killed daemon has left of it: how it begins, and what is nothing of it.
    let bytes = archive("base");
    let partial =
        world.scratch.path().join(format!("image/ingest/partial-{}", pushed.layers[0].digest.hex()));
    for (begun, then) in [
        (bytes[..1000].to_vec(), vec![format!("{path} 1000-")]),
        (bytes.clone(), vec![]),
        (vec![7; 1000], vec![format!("{path} 1000-"), path.clone()]),
        (vec![7; bytes.len() + 1], vec![path.clone()]),
    ] {
        std::fs::write(&partial, begun).unwrap();
        let (images, _) = pulled(&world, registry.reference(":1")).await;
        assert_eq!(images.unwrap()[0].id, image.id);
        assert_eq!(registry.asked()[2..], then);
        assert_eq!(world.stored(), (3, 1));
        world.remove(&format!("{}:1", registry.name), false).await.unwrap();
        assert_eq!(world.stored(), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_had_to_its_end_is_gone_on_with_later() {
    let (world, registry) = (world(), Registry::start());
    let pushed = registry.image("1", &["base"]);
    let path = format!("/blobs/{}", pushed.layers[0].digest);
    registry.having().cut.insert(path.clone(), 512);
    registry.having().breaks = true;
    let (failed, _) = pulled(&world, registry.reference(":1")).await;
    let failed = crate::chain(&failed.unwrap_err());
    assert!(failed.contains("503 Service Unavailable"), "{failed}");
    until("only the beginning is left", || left(&world) == 1).await;
    let partial =
        world.scratch.path().join(format!("image/ingest/partial-{}", pushed.layers[0].digest.hex()));
    assert_eq!(std::fs::read(partial).unwrap(), archive("base")[..512]);
    registry.having().down = false;
    registry.asked();
    let (images, _) = pulled(&world, registry.reference(":1")).await;
    assert_eq!(images.unwrap()[0].id, pushed.config.digest);
    assert_eq!(registry.asked()[2..], [format!("{path} 512-")]);
    assert_eq!(world.stored(), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_refused_and_nothing_of_them_stays() {
    let world = world();
    let lie = async |change: fn(&Registry, &Pushed)| {
        let registry = Registry::start();
        let pushed = registry.image("1", &["base", "top"]);
        change(&registry, &pushed);
        let (pulled, _) = pulled(&world, registry.reference(":1")).await;
        let error = crate::chain(&pulled.unwrap_err());
        until("nothing is left", || left(&world) == 0).await;
        error
    };
    let blob = |descriptor: &Descriptor| format!("/blobs/{}", descriptor.digest);
    assert_eq!(blob(&Descriptor::of("x", b"")).len(), 78);
    let error = lie(|registry, pushed| {
        let mut bytes = archive("top");
        bytes[700] ^= 1;
        registry.put(format!("/blobs/{}", pushed.layers[1].digest), "x", &bytes);
    });
    let error = error.await;
    assert!(error.contains("verification failed for digest"), "{error}");
    let error = lie(|registry, pushed| {
        let longer = [archive("top"), vec![0; 512]].concat();
        registry.put(format!("/blobs/{}", pushed.layers[1].digest), "x", &longer);
    });
    let error = error.await;
    assert!(error.contains("bytes, not"), "{error}");
    let error = lie(|registry, pushed| {
        registry.put(format!("/blobs/{}", pushed.layers[1].digest), "x", &archive("top")[..1024]);
    });
    let error = error.await;
    assert!(error.contains("1024 bytes, not"), "{error}");
    let error = lie(|registry, pushed| {
        registry.put(format!("/blobs/{}", pushed.config.digest), "x", b"{}");
    });
    let error = error.await;
    assert!(error.contains("bytes, not"), "{error}");
    let error = lie(|registry, pushed| {
        // The layers change places: each is what the manifest says, but not what the image is made of.
        let text = String::from_utf8(registry.having().files["/manifests/1"].1.clone()).unwrap();
        let [low, top] = [0, 1].map(|index| pushed.layers[index].digest.to_string());
        let text = text.replace(&low, "LOW").replace(&top, &low).replace("LOW", &top);
        registry.document("1", media_type::OCI_MANIFEST, text.as_bytes());
    });
    let error = error.await;
    assert!(error.contains("when unpacked, but the image's configuration says"), "{error}");
    let error = lie(|registry, _| {
        let text = String::from_utf8(registry.having().files["/manifests/1"].1.clone()).unwrap();
        let both = text.replacen('{', r#"{"manifests":[],"#, 1);
        registry.document("1", media_type::OCI_MANIFEST, both.as_bytes());
    });
    let error = error.await;
    assert!(error.contains("it could be read in two ways"), "{error}");
    let error = lie(|registry, _| {
        let text = String::from_utf8(registry.having().files["/manifests/1"].1.clone()).unwrap();
        let other = text.replace(media_type::OCI_CONFIG, "application/vnd.example.chart");
        registry.document("1", media_type::OCI_MANIFEST, other.as_bytes());
    });
    let error = error.await;
    assert!(error.starts_with("Encountered remote \"application/vnd.example.chart\""), "{error}");
}

/// An index's entry for the host.
fn index_entry(manifest: &Descriptor) -> Descriptor {
    Descriptor { platform: Some(Platform::host()), ..manifest.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_hosts_image_comes_and_the_index_stays() {
    let (world, registry) = (world(), Registry::start());
    let own = registry.image("own", &["base"]);
    let entry = index_entry(&own.manifest);
    let mut other = registry.image("other", &["other"]).manifest;
    other.platform = Some(Platform::new("linux", "riscv64", ""));
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [other, entry],
    });
    let index = registry.document("all", media_type::OCI_INDEX, index.to_string().as_bytes());
    let (images, told) = pulled(&world, registry.reference(":all")).await;
    let image = images.unwrap().remove(0);
    assert_eq!(image.id, own.config.digest);
    let kept: Vec<&Digest> = image.documents.iter().map(|document| &document.digest).collect();
    assert_eq!(kept, [&index.digest, &own.manifest.digest]);
    assert!(told.contains(&format!("Digest: {}", index.digest)), "{told:?}");
    for document in kept {
        assert!(world.images.0.content.read(document, 1 << 20).is_ok());
    }
    // What is here is no better known than what comes.
    let mut entry = index_entry(&own.manifest);
    entry.media_type = media_type::DOCKER_MANIFEST.into();
    let lie = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry],
    });
    registry.document("lie", media_type::OCI_INDEX, lie.to_string().as_bytes());
    let text = String::from_utf8(registry.having().files["/manifests/own"].1.clone()).unwrap();
    let size = format!(r#""size":{}"#, own.config.size);
    registry.document("size", media_type::OCI_MANIFEST, text.replacen(&size, r#""size":1"#, 1).as_bytes());
    for tag in [":lie", ":size"] {
        let (refused, _) = pulled(&world, registry.reference(tag)).await;
        assert!(matches!(refused.unwrap_err(), Error::Registry(_)), "{tag}");
    }
    let (tell, _told) = unbounded_channel();
    let platform = Some(Platform::new("linux", "s390x", ""));
    let pull = Pull { reference: registry.reference(":all"), platform, credentials: Credentials::Anonymous };
    let refused = timeout(LONG, world.images.pull(pull, tell)).await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
    assert_eq!(refused.class(), crate::Class::NotFound);
    let (missing, told) = pulled(&world, registry.reference(":none")).await;
    let missing = missing.unwrap_err();
    let expected =
        format!("manifest for {}:none not found: manifest unknown: manifest unknown", registry.name);
    assert_eq!((missing.to_string(), missing.class()), (expected, crate::Class::NotFound));
    assert_eq!(told, Vec::<String>::new());
}
