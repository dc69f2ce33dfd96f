//! Many containers at once.

use hull_engine::containers::requests::Remove;
use tokio::task::JoinSet;

use crate::support::{Host, sh, within};

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
