//! What a power cut leaves, and what the next boot makes of it. The disk after the cut is a copy that is
//! taken while nothing can be synced, with the damage done to it.

#![expect(clippy::await_holding_lock, reason = "it is the sync, on another thread, that is to wait for it")]

use std::sync::atomic::Ordering;

use super::*;

/// A disk as it was before anything on it was synced.
struct Cut {
    disk: tempfile::TempDir,
    uses: Arc<Mutex<Vec<Use>>>,
}

impl Cut {
    /// Copies what is there; the caller keeps it from being synced.
    fn of(world: &World) -> Cut {
        let disk = tempfile::tempdir().unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.arg("-a").arg(world.scratch.path().join(".")).arg(disk.path());
        assert!(copy.status().unwrap().success());
        Cut { disk, uses: Arc::default() }
    }

    fn image(&self, path: &str) -> PathBuf {
        self.disk.path().join("image").join(path)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.image(&format!("blobs/sha256/{}", digest.hex()))
    }

    fn layer(&self, chain: &Digest, name: &str) -> PathBuf {
        self.image(&format!("layers/{}/{name}", chain.hex()))
    }

    fn boot(&self) -> Images {
        self.boot_with(Arc::new(unpack_here))
    }

    fn boot_with(&self, unpack: Unpack) -> Images {
        // It writes and waits, which a thread with a runtime may not.
        std::thread::scope(|scope| {
            let open = scope.spawn(|| open_with(unpack, "another boot", self.disk.path(), &self.uses));
            open.join().unwrap()
        })
    }

    /// Marked layers, whatever boot they are marked with.
    fn marks(&self) -> usize {
        let layers = std::fs::read_dir(self.image("layers")).unwrap();
        layers.filter(|layer| layer.as_ref().unwrap().path().join("unsynced").is_symlink()).count()
    }
}

/// Commits a container's writable layer with one file; gives the image when its files are unpacked.
async fn commit(world: &World) -> Arc<Image> {
    let parent = world.add("base", &["low"]).await;
    world.images.prepare("box", &parent).unwrap();
    std::fs::write(world.scratch.path().join("image/active/box/upper/new"), "new").unwrap();
    let commit = Commit {
        container: "box".into(),
        image: parent.id.clone(),
        config: parent.config.config.clone(),
        name: Some(name("made:1")),
        author: String::new(),
        comment: String::new(),
        created_by: String::new(),
    };
    let image = world.images.commit(commit).await.unwrap();
    world.images.unpack(&image.chain()).unwrap();
    image
}

/// A disk with a committed image that is not synced, and with that damage.
async fn cut(damage: impl Fn(&Cut, &Image)) -> (Cut, Arc<Image>) {
    let world = world();
    let inner = Arc::clone(&world.images.0);
    let unsynced = inner.syncing.lock().unwrap();
    let image = commit(&world).await;
    let cut = Cut::of(&world);
    drop(unsynced);
    assert_eq!(cut.marks(), 2);
    damage(&cut, &image);
    (cut, image)
}

#[tokio::test]
async fn what_was_answered_is_marked_until_it_is_on_the_disk() {
    let world = world();
    let inner = Arc::clone(&world.images.0);
    let unsynced = inner.syncing.lock().unwrap();
    let image = commit(&world).await;
    assert_eq!(image.unsynced.as_deref(), Some("one boot"));
    let killed = Cut::of(&world);
    drop(unsynced);
    world.images.close().await;
    let clean = Cut::of(&world);
    assert_eq!((killed.marks(), clean.marks()), (2, 0));
    assert_eq!(clean.boot().resolve("made:1").unwrap().unsynced, None);
    // The daemon was killed, the machine goes on: nothing is lost, and it is synced now.
    let file = killed.layer(&image.chain()[1], "diff/new");
    std::fs::write(&file, "not looked at").unwrap();
    let again = open(killed.disk.path(), &killed.uses);
    again.sweep().await.unwrap();
    again.close().await;
    assert_eq!((killed.marks(), again.resolve("made:1").unwrap().unsynced.clone()), (0, None));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not looked at");
}

#[tokio::test]
async fn files_that_a_power_cut_may_have_harmed_are_unpacked_again() {
    let (cut, image) = cut(|cut, image| {
        std::fs::write(cut.layer(&image.chain()[1], "diff/new"), "").unwrap();
        std::fs::remove_file(cut.layer(&image.chain()[0], "diff/low")).unwrap();
    })
    .await;
    let images = cut.boot();
    assert_eq!(images.resolve("made:1").unwrap().id, image.id);
    let read = |layer: usize, name: &str| {
        std::fs::read_to_string(cut.layer(&image.chain()[layer], "diff").join(name)).unwrap()
    };
    assert_eq!((read(0, "low"), read(1, "new")), ("low".to_owned(), "new".to_owned()));
    images.close().await;
    assert_eq!(cut.marks(), 0);
}

/// As a daemon that was killed before it had unpacked them leaves them; and one that could not.
#[tokio::test]
async fn files_that_were_not_unpacked_again_are_so_by_the_next_daemon_or_whoever_needs_them() {
    let (cut, image) = cut(|_, _| {}).await;
    let fails: Unpack = Arc::new(|_, _, _| Err("no room".to_owned()));
    let there = || image.chain().iter().filter(|chain| cut.layer(chain, "diff").exists()).count();
    for _ in 0..2 {
        let images = cut.boot_with(Arc::clone(&fails));
        images.close().await;
        assert_eq!((there(), cut.marks()), (0, 2));
    }
    let images = cut.boot();
    assert_eq!((there(), cut.marks()), (2, 2));
    images.close().await;
    assert_eq!(cut.marks(), 0);
    // Without a mark the next daemon knows of nothing.
    std::fs::remove_dir_all(cut.layer(&image.chain()[1], "diff")).unwrap();
    let images = cut.boot_with(fails);
    let error = images.unpack(&image.chain()).unwrap_err();
    assert_eq!(error.class(), crate::Class::Internal, "{error}");
    images.close().await;
    let images = cut.boot();
    assert_eq!(there(), 1);
    images.unpack(&image.chain()).unwrap();
    assert_eq!(std::fs::read(cut.layer(&image.chain()[1], "diff/new")).unwrap(), b"new");
}

#[tokio::test]
async fn what_a_layer_is_is_known_from_the_image_if_it_is_lost() {
    for lost in ["layer.json", ""] {
        let (cut, image) = cut(|cut, image| {
            let top = cut.layer(&image.chain()[1], "");
            match lost {
                "" => std::fs::remove_dir_all(top).unwrap(),
                name => std::fs::write(top.join(name), "").unwrap(),
            }
        })
        .await;
        let images = cut.boot();
        images.sweep().await.unwrap();
        images.unpack(&image.chain()).unwrap();
        assert_eq!(std::fs::read(cut.layer(&image.chain()[1], "diff/new")).unwrap(), b"new");
    }
}

#[tokio::test]
async fn an_image_that_a_power_cut_has_harmed_is_removed_and_others_stay() {
    for which in ["layer", "missing layer", "configuration"] {
        let (cut, image) = cut(|cut, image| match which {
            "layer" => std::fs::write(cut.blob(&image.layers[1].digest), "half").unwrap(),
            "configuration" => std::fs::write(cut.blob(&image.id), "").unwrap(),
            _ => std::fs::remove_file(cut.blob(&image.layers[1].digest)).unwrap(),
        })
        .await;
        let images = cut.boot();
        assert!(images.resolve("made:1").is_err() && images.resolve(image.id.short()).is_err(), "{which}");
        images.sweep().await.unwrap();
        assert!(!cut.layer(&image.chain()[1], "").exists(), "{which}");
        let base = images.resolve("base").unwrap();
        images.unpack(&base.chain()).unwrap();
        images.close().await;
        assert_eq!((cut.marks(), cut.boot().count()), (0, 1), "{which}");
    }
}

#[tokio::test]
async fn a_load_is_marked_as_a_commit_is() {
    let here = world();
    here.add("app:1", &["base", "top"]).await;
    let bytes = save(&here.images, &["app:1"]).await;
    let there = world();
    let inner = Arc::clone(&there.images.0);
    let unsynced = inner.syncing.lock().unwrap();
    load(&there.images, &bytes).await.unwrap();
    let image = there.images.resolve("app:1").unwrap();
    let [whole, harmed] = [Cut::of(&there), Cut::of(&there)];
    drop(unsynced);
    std::fs::write(whole.layer(&image.chain()[1], "diff/top"), "").unwrap();
    std::fs::write(harmed.blob(&image.layers[0].digest), "").unwrap();
    assert_eq!(whole.boot().resolve("app:1").unwrap().id, image.id);
    assert_eq!(std::fs::read(whole.layer(&image.chain()[1], "diff/top")).unwrap(), b"top");
    assert!(harmed.boot().resolve("app:1").is_err());
}

#[tokio::test]
async fn files_find_no_layer_that_was_removed_while_they_were_unpacked() {
    let world = world();
    let image = world.add("app:1", &["base"]).await;
    let inner = &world.images.0;
    let layer = &image.chain()[0];
    let staging = inner.snapshots.stage().unwrap();
    world.remove("app:1", false).await.unwrap();
    assert!(inner.mark_layer(layer, || staging.fill(layer)).is_err());
    assert!(world.images.unpack(&image.chain()).is_err());
    assert_eq!(world.stored(), (0, 0));
}

#[tokio::test]
async fn the_layers_of_a_build_are_synced_when_it_has_ended() {
    let world = world();
    let marks = || {
        let layers = std::fs::read_dir(world.scratch.path().join("image/layers")).unwrap();
        layers.filter(|layer| layer.as_ref().unwrap().path().join("unsynced").is_symlink()).count()
    };
    let hold = world.images.hold_until(());
    let mut below = Vec::new();
    for name in ["one", "two"] {
        let chain = hull_oci::image::chain_ids(&below);
        world.images.snapshots().prepare(name, &chain).unwrap();
        std::fs::write(world.scratch.path().join("image/active").join(name).join("upper/new"), name).unwrap();
        let part = world.images.keep_layer(&hold, name, &below, None).await.unwrap().unwrap();
        below.push(part.diff_id);
        assert!(!world.images.0.sync_wanted.load(Ordering::SeqCst));
        assert_eq!(marks(), below.len());
    }
    drop(hold);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while marks() > 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was synced");
        tokio::task::yield_now().await;
    }
}
