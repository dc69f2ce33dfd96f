//! Many containers at once.

use hull_engine::containers::requests::Remove;
use hull_engine::containers::settings::{Mount, Settings, VolumeMount};
use tokio::task::JoinSet;

use crate::support::{Host, IMAGE, create, sh, within};

/// Threads for blocking work in a test that wants more of them than there are. The daemon has 512.
const THREADS: usize = 2;
const CREATIONS: usize = 8 * THREADS;

/// Each has a thread to fill a volume of its own, which is to be exchanged while no other claims any; and
/// whose turn it is to claim waits for a thread.
#[test]
fn more_creations_at_once_than_there_are_threads_fill_all_their_volumes() {
    let mut few = tokio::runtime::Builder::new_multi_thread();
    let few = few.worker_threads(2).max_blocking_threads(THREADS).enable_all().build().unwrap();
    few.block_on(async {
        let host = Host::new().await;
        let volume = |name: String, target: &str| {
            let target = target.to_owned();
            Mount::Volume(VolumeMount { name, target, copy: true, ..VolumeMount::default() })
        };
        let mut making = JoinSet::new();
        for number in 0..CREATIONS {
            let mounts = vec![volume(format!("own-{number}"), "/etc"), volume("everybodys".into(), "/bin")];
            let (engine, settings) = (host.engine().clone(), Settings { mounts, ..sh("true") });
            making.spawn(async move { engine.create(create(IMAGE, None, settings)).await });
        }
        while let Some(made) = within(making.join_next()).await {
            made.unwrap().unwrap();
        }
        let volumes = host.config().data_root.join("volumes");
        let filled = |path: String| volumes.join(path).symlink_metadata().is_ok();
        assert!((0..CREATIONS).all(|number| filled(format!("own-{number}/_data/passwd"))));
        assert!(filled("everybodys/_data/sh".to_owned()));
        host.finish().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_containers_come_and_go_and_leave_nothing() {
    let mut host = Host::new().await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(host.create(sh("echo here; sleep 1000")).await);
    }
    let mut starting = JoinSet::new();
    for id in &ids {
        let (engine, id) = (host.engine().clone(), id.clone());
        starting.spawn(async move { engine.start(&id).await });
    }
    while let Some(started) = within(starting.join_next()).await {
        started.unwrap().unwrap();
    }
    assert!(ids.iter().all(|id| host.status(id) == "running"));
    // All are found again by a new engine.
    host.close().await;
    host.open().await;
    assert!(ids.iter().all(|id| host.status(id) == "running"));
    assert_eq!(host.engine().host().running, 50);
    let mut removing = JoinSet::new();
    for id in ids {
        let engine = host.engine().clone();
        removing.spawn(async move { engine.remove(&id, Remove { force: true, volumes: false }).await });
    }
    while let Some(removed) = within(removing.join_next()).await {
        removed.unwrap().unwrap();
    }
    assert_eq!(host.leftovers(), "");
    host.finish().await;
}
