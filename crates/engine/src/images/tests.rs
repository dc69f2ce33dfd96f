//! The service over a real store and a real database. Archives are unpacked by the worker's own
//! function, in this process instead of a jail.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hull_image::layer::{self, Limits, Mode, Source, apply};
use hull_image::tar::{Entry, Kind, Writer};
use hull_oci::image::Config;
use hull_oci::{Platform, Reference};
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::store::Store;

fn unpack_here(
    archive: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    _stop: Option<BorrowedFd<'_>>,
) -> std::result::Result<Unpacked, String> {
    let mut file = File::from(archive.try_clone_to_owned().unwrap());
    let applied =
        apply(&mut file, folder, Mode::Layer, &Limits::default()).map_err(|error| error.to_string())?;
    Ok(Unpacked {
        blob: applied.blob,
        blob_size: applied.blob_size,
        diff_id: applied.diff_id,
        size: applied.size,
        compression: applied.compression.name().to_owned(),
    })
}

fn extract_here(mode: Mode, archive: BorrowedFd<'_>, folder: BorrowedFd<'_>) -> Result<Extracted, String> {
    let (source, limits) = (Source::Pipe(archive), Limits::default());
    if mode == Mode::Files {
        let behind = layer::extract_files(source, folder, &limits).map_err(|error| error.to_string())?;
        let digests = behind.map(|behind| Box::new(|| Ok(behind.finish())) as Digests);
        return Ok(Extracted { size: 0, digests });
    }
    let size = layer::extract(source, folder, mode, &limits).map_err(|error| error.to_string())?;
    Ok(Extracted { size, digests: None })
}

fn pack_here(upper: BorrowedFd<'_>, archive: BorrowedFd<'_>) -> Result<Packed, PackError> {
    let mut archive = File::from(archive.try_clone_to_owned().unwrap());
    let packed = layer::diff(upper, &mut archive).map_err(|error| PackError::Failed(error.to_string()))?;
    Ok(Packed { diff_id: packed.diff_id, archive_size: packed.archive_size, size: packed.size })
}

mod power;
mod pull;

struct World {
    images: Images,
    uses: Arc<Mutex<Vec<Use>>>,
    scratch: tempfile::TempDir,
}

fn open(folder: &Path, uses: &Arc<Mutex<Vec<Use>>>) -> Images {
    open_in("one boot", folder, uses)
}

fn open_in(boot: &str, folder: &Path, uses: &Arc<Mutex<Vec<Use>>>) -> Images {
    open_with(Arc::new(unpack_here), boot, folder, uses)
}

fn open_with(unpack: Unpack, boot: &str, folder: &Path, uses: &Arc<Mutex<Vec<Use>>>) -> Images {
    let (store, _writer, rows) = Store::open(&folder.join("state.db")).unwrap();
    let uses = Arc::clone(uses);
    let setup = Setup {
        store,
        events: Events::default(),
        root: super::folder(folder),
        boot: boot.to_owned(),
        unpack,
        extract: Arc::new(extract_here),
        pack: Arc::new(pack_here),
        uses: Arc::new(move || uses.lock().unwrap().clone()),
        kept: Arc::new(Vec::new),
        registry: hull_registry::client::Client::new(pull::hosts()),
    };
    Images::open(setup, &rows).unwrap()
}

fn world() -> World {
    let scratch = tempfile::tempdir().unwrap();
    let uses = Arc::default();
    World { images: open(scratch.path(), &uses), uses, scratch }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn layer(name: &str) -> File {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let kind = Kind::File { size: name.len() as u64, extents: None };
    writer.file(&Entry::new(name.as_bytes(), kind), name.as_bytes()).unwrap();
    writer.finish().unwrap();
    file(&bytes)
}

fn config(created: &str, command: &str) -> Config {
    let platform = Platform::host();
    let mut config = Config { os: platform.os, architecture: platform.architecture, ..Config::default() };
    config.created = Some(created.to_owned());
    config.config.cmd = Some(vec![command.to_owned()]);
    config
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

impl World {
    async fn add(&self, text: &str, layers: &[&str]) -> Arc<Image> {
        let layers = layers.iter().map(|name| layer(name)).collect();
        let config = config("2026-01-02T03:04:05Z", text);
        self.images.add_layer_image(config, layers, Some(name(text))).await.unwrap()
    }

    async fn remove(&self, key: &str, force: bool) -> std::result::Result<Vec<String>, String> {
        match self.images.remove(key, force, false).await {
            Ok(removed) => Ok(removed.iter().map(shown_removed).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn used(&self, image: &Image, running: bool) {
        let used = Use {
            container: "2cbd15757494aaaa".into(),
            image: image.id.clone(),
            layers: image.chain(),
            running,
        };
        self.uses.lock().unwrap().push(used);
    }

    /// Names of what is on the disk: blobs and layers.
    fn stored(&self) -> (usize, usize) {
        let count =
            |folder: &str| std::fs::read_dir(self.scratch.path().join("image").join(folder)).unwrap().count();
        assert_eq!(count("ingest"), 0, "nothing unfinished is left");
        (count("blobs/sha256"), count("layers"))
    }
}

fn shown_removed(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(name) => format!("untagged {name}"),
        Removed::Deleted(digest) => format!("deleted {}", digest.short()),
    }
}

async fn save(images: &Images, keys: &[&str]) -> Vec<u8> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let mut file = tempfile::tempfile().unwrap();
    images.save(&keys, OwnedFd::from(file.try_clone().unwrap())).unwrap().await.unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

async fn load(images: &Images, bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let (progress, mut said) = unbounded_channel();
    let loaded = images.load(OwnedFd::from(file(bytes)).into(), Vec::new(), progress).await;
    let mut lines = Vec::new();
    while let Some(progress) = said.recv().await {
        lines.extend(progress.line());
    }
    loaded.map(|_| lines).map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_is_saved_can_be_loaded_elsewhere() {
    let here = world();
    let image = here.add("app:1", &["base", "top"]).await;
    here.images.tag("app:1", &name("localhost:5000/team/app:edge")).await.unwrap();
    let bytes = save(&here.images, &["app:1", "localhost:5000/team/app:edge"]).await;
    let there = world();
    let lines = load(&there.images, &bytes).await.unwrap();
    assert_eq!(lines, ["Loaded image: app:1\n", "Loaded image: localhost:5000/team/app:edge\n"]);
    let loaded = there.images.resolve("app:1").unwrap();
    assert_eq!((&loaded.id, &loaded.layers, loaded.size), (&image.id, &image.layers, 7));
    assert_eq!(std::fs::read(there.images.layer_folders(&loaded)[1].join("top")).unwrap(), b"top");
    // Once more: nothing new, and by id it is loaded without a name.
    load(&there.images, &bytes).await.unwrap();
    assert_eq!(there.stored(), (3, 2));
    let bytes = save(&here.images, &[image.id.short()]).await;
    let lines = load(&world().images, &bytes).await.unwrap();
    assert_eq!(lines, [format!("Loaded image ID: {}\n", image.id)]);
}

#[tokio::test]
async fn a_load_that_fails_leaves_nothing() {
    let here = world();
    here.add("app:1", &["base"]).await;
    let bytes = save(&here.images, &["app:1"]).await;
    let there = world();
    for broken in [&b"this is not a tar archive"[..], &bytes[..bytes.len() / 2], b""] {
        let text = load(&there.images, broken).await.unwrap_err();
        assert!(text.contains("archive"), "{text}");
    }
    // One byte of a layer's contents is another one.
    let at = bytes.windows(4).rposition(|window| window == b"base").unwrap();
    let mut forged = bytes.clone();
    forged[at] = b'B';
    let text = load(&there.images, &forged).await.unwrap_err();
    assert!(text.starts_with("layer 0 of the image is sha256:"), "{text}");
    assert_eq!((there.images.count(), there.stored()), (0, (0, 0)));
}

#[tokio::test]
async fn images_and_names_survive_a_restart() {
    let world = world();
    let image = world.add("app:1", &["base"]).await;
    world.images.tag("app:1", &name("other")).await.unwrap();
    let again = open(world.scratch.path(), &world.uses);
    assert_eq!(again.resolve("other:latest").unwrap().id, image.id);
    assert_eq!(again.names(&image.id).len(), 2);
    assert_eq!(again.resolve(&image.id.hex()[..8]).unwrap().id, image.id);
    let text = |key: &str| again.resolve(key).unwrap_err().to_string();
    assert_eq!(text("nosuch"), "No such image: nosuch:latest");
    assert_eq!(
        text("BUSYBOX"),
        "invalid reference format: repository name (library/BUSYBOX) must be lowercase"
    );
}

/// The sentences and orders of the reference's trace of `rmi`.
#[tokio::test]
async fn removal_follows_the_reference() {
    let world = world();
    let image = world.add("app:1", &["base", "top"]).await;
    world.images.tag("app:1", &name("app:2")).await.unwrap();
    assert_eq!(world.remove("app:2", false).await.unwrap(), ["untagged app:2"]);
    assert_eq!(world.remove("nosuch", true).await.unwrap_err(), "No such image: nosuch:latest");
    world.used(&image, false);
    let id = image.id.short();
    assert_eq!(
        world.remove("app:1", false).await.unwrap_err(),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container 2cbd15757494 is using its referenced image {id}"
        )
    );
    assert_eq!(
        world.remove(id, false).await.unwrap_err(),
        format!(
            "conflict: unable to delete {id} (must be forced) - image is being used by stopped container 2cbd15757494"
        )
    );
    world.images.tag("app:1", &name("other:1")).await.unwrap();
    assert_eq!(
        world.remove(id, false).await.unwrap_err(),
        format!(
            "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
        )
    );
    world.uses.lock().unwrap().clear();
    world.used(&image, true);
    assert_eq!(
        world.remove(id, true).await.unwrap_err(),
        format!(
            "conflict: unable to delete {id} (cannot be forced) - image is being used by running container 2cbd15757494"
        )
    );
    assert_eq!(world.remove("other:1", false).await.unwrap(), ["untagged other:1"]);
    assert_eq!(world.remove("app:1", true).await.unwrap(), ["untagged app:1"]);
    world.uses.lock().unwrap().clear();
    let [low, top] = &image.chain()[..] else { panic!() };
    let gone =
        [format!("deleted {id}"), format!("deleted {}", top.short()), format!("deleted {}", low.short())];
    assert_eq!(world.remove(id, false).await.unwrap(), gone);
    assert_eq!((world.images.count(), world.stored()), (0, (0, 0)));
}

#[tokio::test]
async fn shared_layers_stay_and_a_stopped_container_keeps_its_layers() {
    let world = world();
    let one = world.add("one", &["base", "one"]).await;
    let two = world.add("two", &["base", "two"]).await;
    assert_eq!(world.stored().1, 3);
    let removed = world.remove("one", false).await.unwrap();
    assert_eq!(removed.len(), 3, "name, image and its own layer: {removed:?}");
    assert_eq!(one.chain()[0], two.chain()[0]);
    world.used(&two, false);
    assert_eq!(world.remove(two.id.short(), true).await.unwrap().len(), 2);
    assert_eq!(world.stored().1, 2, "the container's layers");
    world.uses.lock().unwrap().clear();
    assert!(world.images.collect().await.unwrap() > 0);
    assert_eq!(world.stored(), (0, 0));
}

#[tokio::test]
async fn prune_takes_what_has_no_tag_and_with_all_what_nobody_uses() {
    let world = world();
    let dangling = world.add("moving", &["a"]).await;
    let used = world.add("used", &["b"]).await;
    world.add("moving", &["c"]).await;
    world.used(&used, false);
    let pruned = world.images.prune(false, &ListFilters::default()).await.unwrap();
    assert_eq!(pruned.removed[0], Removed::Deleted(dangling.id.clone()));
    assert_eq!((pruned.removed.len(), pruned.bytes), (2, 1));
    let pruned = world.images.prune(true, &ListFilters::default()).await.unwrap();
    assert_eq!(pruned.removed[0], Removed::Untagged("moving:latest".into()));
    assert_eq!(world.images.count(), 1);
}

#[tokio::test]
async fn listing_shows_the_names_that_match() {
    let world = world();
    world.add("a:1", &["a"]).await;
    world.images.tag("a:1", &name("a:2")).await.unwrap();
    world.images.tag("a:1", &name("user/repo:tag")).await.unwrap();
    world.images.add_layer_image(config("2026-05-01T00:00:00Z", "later"), vec![], None).await.unwrap();
    let list = |name: &str, value: &str| {
        let map = BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]);
        let filters = ListFilters::parse(&map, hull_sys::time::now()).unwrap();
        let listed = world.images.list(&filters).unwrap();
        listed.into_iter().map(|listed| listed.tags).collect::<Vec<_>>()
    };
    assert_eq!(list("reference", "a"), [["a:1", "a:2"]]);
    assert_eq!(list("reference", "*/*"), [["user/repo:tag"]]);
    assert_eq!(list("dangling", "true"), [[""; 0]]);
    assert_eq!(list("dangling", "false"), [["a:1", "a:2", "user/repo:tag"]]);
    assert_eq!(list("since", "a:1"), [[""; 0]]);
    assert_eq!(list("before", "a:1").len(), 0);
    assert_eq!(world.images.list(&ListFilters::default()).unwrap()[0].tags.len(), 0, "newest first");
}

#[tokio::test]
async fn an_import_is_an_image_of_one_layer() {
    let world = world();
    let import = Import {
        name: Some(name("imp:1")),
        source: "-".into(),
        changes: vec!["CMD [\"true\"]".into()],
        platform: Some(Platform::parse("linux/arm64").unwrap()),
        ..Import::default()
    };
    let id = world.images.import(OwnedFd::from(layer("file")).into(), import.clone()).await.unwrap();
    let image = world.images.resolve("imp:1").unwrap();
    assert_eq!((&image.id, image.config.comment.as_str(), image.size), (&id, "Imported from -", 4));
    assert_eq!((image.config.architecture.as_str(), image.layers.len()), ("arm64", 1));
    let step = &world.images.history("imp:1").unwrap()[0];
    assert_eq!(
        (step.size, step.comment.as_str(), &step.tags[..]),
        (4, "Imported from -", &["imp:1".to_owned()][..])
    );
    assert_eq!(step.image.as_ref(), Some(&id));
    let garbage = world.images.import(OwnedFd::from(file(b"garbage")).into(), Import::default()).await;
    assert_eq!(garbage.unwrap_err().class(), crate::Class::Invalid);
    assert_eq!(world.stored(), (2, 1), "nothing of it is left");
    world.remove("imp:1", false).await.unwrap();
    assert_eq!(world.stored(), (0, 0));
    let wrong = Import { changes: vec!["RUN true".into()], ..import };
    let error = world.images.import(OwnedFd::from(layer("file")).into(), wrong).await.unwrap_err();
    assert_eq!(error.to_string(), "RUN is not a valid change command");
}

#[tokio::test]
async fn a_damaged_configuration_is_not_saved() {
    let world = world();
    let image = world.add("app:1", &["base"]).await;
    let blob = world.scratch.path().join("image/blobs/sha256").join(image.id.hex());
    std::fs::remove_file(blob).unwrap();
    let out = OwnedFd::from(tempfile::tempfile().unwrap());
    let error = world.images.save(&["app:1".to_owned()], out).unwrap().await.unwrap_err();
    assert_eq!(error.to_string(), format!("the content {} is missing", image.id));
    let text = world.images.save(&["nosuch".to_owned()], OwnedFd::from(tempfile::tempfile().unwrap()));
    assert_eq!(text.err().unwrap().to_string(), "No such image: nosuch");
}

#[tokio::test]
async fn a_capture_of_this_host_is_an_image() {
    let world = world();
    let options = crate::capture::Capture { programs: vec!["busybox".into()], ..Default::default() };
    let (image, captured) = world.images.capture(options.clone(), name("box")).await.unwrap();
    assert_eq!(world.images.resolve("box:latest").unwrap().id, image.id);
    assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!((image.size, image.layers.len()), (captured.size, 1));
    assert!(image.config.created.is_some());
    let [folder] = &world.images.layer_folders(&image)[..] else { panic!("one layer") };
    assert!(folder.join("usr/bin/busybox").exists() || folder.join("bin/busybox").exists());
    // The same again is the same layer under another name.
    let (again, _) = world.images.capture(options, name("box:2")).await.unwrap();
    assert_eq!(again.config.rootfs, image.config.rootfs);
    assert_eq!(world.stored().1, 1);
    let options = crate::capture::Capture { programs: vec!["no-such".into()], ..Default::default() };
    let refused = world.images.capture(options, name("x")).await.unwrap_err();
    assert_eq!(refused.class(), crate::Class::NotFound);
    assert!(refused.to_string().starts_with("program \"no-such\" is not found in"), "{refused}");
}

#[tokio::test]
async fn hello_is_made_when_it_is_first_asked_for() {
    let world = world();
    let image = world.images.hello().await.unwrap();
    assert_eq!(world.images.resolve("hello").unwrap().id, image.id);
    assert_eq!(world.images.hello().await.unwrap().id, image.id);
    assert_eq!(world.stored(), (2, 1));
    world.images.tag("hello", &name("other")).await.unwrap();
    world.remove("hello", false).await.unwrap();
    assert_eq!(world.images.hello().await.unwrap().id, image.id);
}
