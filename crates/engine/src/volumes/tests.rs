//! What is created is found again; what a killed daemon left half-done is finished or undone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::store::Writer;
use crate::volumes::Wish;

struct House {
    dir: tempfile::TempDir,
    volumes: Option<(Volumes, Writer)>,
}

impl House {
    fn new() -> House {
        let mut house = House { dir: tempfile::tempdir().unwrap(), volumes: None };
        house.open();
        house
    }

    fn open(&mut self) {
        let (store, writer, rows) = Store::open(&self.dir.path().join("state.db")).unwrap();
        let root = self.dir.path().join("volumes");
        let open = || Volumes::open(store, Events::default(), root, &rows.volumes).unwrap();
        let volumes = tokio::task::block_in_place(open);
        self.volumes = Some((volumes, writer));
    }

    /// The next daemon, after something has happened to the files.
    fn again(&mut self, between: impl FnOnce(&Path)) {
        let (volumes, writer) = self.volumes.take().unwrap();
        drop(volumes);
        writer.join();
        between(&self.dir.path().join("volumes"));
        self.open();
    }

    fn volumes(&self) -> &Volumes {
        &self.volumes.as_ref().unwrap().0
    }

    fn names(&self) -> Vec<String> {
        self.volumes().views().into_iter().map(|view| view.volume.name.clone()).collect()
    }

    /// The folders of volumes.
    fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("volumes")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }
}

fn named(name: &str) -> Create {
    Create { name: Some(name.to_owned()), ..Create::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_created_is_found_again_and_what_is_removed_is_not() {
    let mut house = House::new();
    let volume = house.volumes().create(&named("data")).await.unwrap();
    let again = Create { labels: [("a".to_owned(), "b".to_owned())].into(), ..named("data") };
    assert_eq!(house.volumes().create(&again).await.unwrap(), volume, "as it is");
    house.volumes().create(&named("gone")).await.unwrap();
    std::fs::write(house.volumes().data(&volume).join("file"), "kept").unwrap();
    house.volumes().remove("gone").await.unwrap();
    assert_eq!(house.volumes().usage(&volume).await.unwrap(), 4);
    house.again(|_| {});
    assert_eq!((house.names(), house.folders()), (vec!["data".to_owned()], vec!["data".to_owned()]));
    let data = house.volumes().data(&house.volumes().find("data").unwrap());
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");
    assert_eq!(house.volumes().remove("gone").await.unwrap_err().to_string(), "get gone: no such volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_volume_keeps_it_from_going() {
    let mut house = House::new();
    let wishes = [Wish { volume: named("data"), own: false }, Wish::default()];
    let claim = house.volumes().claim("c1", &wishes).await.unwrap();
    // What can be used is found, and what is being used is not removed.
    assert_eq!(house.names().len(), 2);
    assert!(house.volumes().remove("data").await.is_err());
    house.volumes().0.store.commit(claim.rows).await.unwrap();
    house.volumes().settle("c1").await;
    let text = house.volumes().remove("data").await.unwrap_err().to_string();
    assert_eq!(text, "remove data: volume is in use - [c1]");
    let own = claim.volumes[1].name.clone();
    house.again(|_| {});
    house.volumes().adopt("c1", [("data", false), (own.as_str(), true), ("nosuch", true)].into_iter());
    assert!(house.volumes().remove(&own).await.is_err());
    assert_eq!(house.volumes().prune(|_| true).await, Pruned::default());
    house.volumes().release("c1", true).await.unwrap();
    house.volumes().release("c1", true).await.unwrap();
    assert_eq!((house.names(), house.folders()), (vec!["data".to_owned()], vec!["data".to_owned()]));
    // A creation that comes to nothing leaves nothing.
    house.volumes().claim("c2", &wishes).await.unwrap();
    house.volumes().claim("c2", &[Wish { volume: named("more"), own: false }]).await.unwrap();
    house.volumes().release("c2", false).await.unwrap();
    assert_eq!((house.names(), house.folders()), (vec!["data".to_owned()], vec!["data".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_stays_whatever_becomes_of_who_claimed_it_first() {
    let mut house = House::new();
    let wishes = [Wish { volume: named("data"), own: false }];
    let claim = house.volumes().claim("c1", &wishes).await.unwrap();
    let made = house.volumes().create(&named("data")).await.unwrap();
    assert_eq!((&made, &house.volumes().find("data").unwrap()), (&claim.volumes[0], &made));
    house.volumes().release("c1", false).await.unwrap();
    assert_eq!((house.names(), house.folders()), (vec!["data".to_owned()], vec!["data".to_owned()]));
    house.again(|root| assert!(!root.join("data/new").exists()));
    assert_eq!((house.names(), house.folders()), (vec!["data".to_owned()], vec!["data".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_puts_there_meanwhile_is_theirs() {
    let mut house = House::new();
    let data = house.dir.path().join("volumes/theirs/_data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "x").unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o2750)).unwrap();
    // A creation that comes to nothing takes nothing of it along.
    house.volumes().claim("c1", &[Wish { volume: named("theirs"), own: false }]).await.unwrap();
    house.volumes().release("c1", false).await.unwrap();
    assert!(data.join("file").exists());
    house.volumes().create(&named("theirs")).await.unwrap();
    assert!(data.join("file").exists());
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o2750);
    house.again(|_| {});
    assert_eq!(house.names(), ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_is_finished_or_undone() {
    let mut house = House::new();
    for name in ["whole", "finish", "forget", "lost"] {
        house.volumes().create(&named(name)).await.unwrap();
    }
    house.again(|root| {
        std::fs::write(root.join("finish/new"), "").unwrap();
        std::fs::create_dir_all(root.join("never/_data")).unwrap();
        std::fs::write(root.join("never/new"), "").unwrap();
        std::fs::create_dir_all(root.join("theirs/_data")).unwrap();
        std::fs::write(root.join("theirs/_data/file"), "x").unwrap();
        std::fs::create_dir_all(root.join("bare")).unwrap();
        std::fs::create_dir_all(root.join(".trash/1")).unwrap();
        std::fs::rename(root.join("forget"), root.join(".trash/1/forget")).unwrap();
        // Removed and made again before the trash was emptied.
        std::fs::create_dir_all(root.join(".trash/2/whole/_data")).unwrap();
        std::fs::remove_dir_all(root.join("lost")).unwrap();
    });
    let expected = ["bare", "finish", "lost", "theirs", "whole"];
    assert_eq!(
        (house.names(), house.folders()),
        (expected.map(str::to_owned).into(), expected.map(str::to_owned).into())
    );
    assert!(!house.dir.path().join("volumes/finish/new").exists());
    for made in ["lost", "bare"] {
        assert!(house.dir.path().join("volumes").join(made).join("_data").exists());
    }
    house.volumes().sweep().unwrap();
    // Whatever it does behind the scenes, it comes to its end with the runtime.
    let trash = house.dir.path().join("volumes/.trash");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::fs::read_dir(&trash).unwrap().next().is_some() {
        assert!(std::time::Instant::now() < deadline, "the trash is not emptied");
        tokio::task::yield_now().await;
    }
    house.again(|_| {});
    assert_eq!(house.names(), expected);
}
