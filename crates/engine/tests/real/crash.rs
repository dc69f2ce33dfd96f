//! The daemon's process is killed and another takes over.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hull_engine::Engine;
use hull_engine::containers::settings::{RestartPolicy, Settings};

use hull_engine::chain;

use crate::support::{Host, sh, within};

const DATA: &str = "HULL_TEST_HELD_ENGINE";

/// Holds an engine until it is killed; starts the containers that its parent has created and says
/// when they run. Only for [`hold`].
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process for the tests below"]
async fn held_engine() {
    let host = Host::elsewhere(&std::env::var(DATA).expect("run by another test only"));
    let engine =
        within(Engine::open(host.config())).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    for view in engine.containers() {
        within(engine.start(&view.id)).await.unwrap();
    }
    std::io::stderr().write_all(b"HELD\n").unwrap();
    std::future::pending::<()>().await;
}

/// A process of its own that has opened the host's engine and started its containers.
fn hold(host: &Host) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::held_engine", "--ignored", "--nocapture"])
        .env(DATA, host.tell())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("HELD")), "the child could not start its containers");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_finds_its_containers_their_logs_and_their_exits_again() {
    let mut host = Host::new().await;
    let counting = host.create(sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).await;
    let ending = host.create(sh("echo last; sleep 1; exit 42")).await;
    let removing = host.create(Settings { auto_remove: true, ..sh("sleep 1; exit 1") }).await;
    let restarting = Settings { restart: RestartPolicy::Always, ..sh("echo again; sleep 1; exit 1") };
    let restarting = host.create(restarting).await;
    host.close().await;
    kill(hold(&host));
    // Three of them end while there is no daemon.
    tokio::time::sleep(Duration::from_secs(3)).await;
    host.open().await;
    let engine = host.engine();
    assert_eq!(host.status(&counting), "running");
    assert_eq!((host.status(&ending), engine.container(&ending).unwrap().exit_code), ("exited", 42));
    assert!(engine.container(&removing).is_err());
    assert!(matches!(host.status(&restarting), "restarting" | "running" | "exited"));
    assert!(engine.container(&restarting).unwrap().restart_count > 0);
    assert_eq!(host.log(&ending, false).await, "last\n");
    within(engine.stop(&counting, None, Some(0))).await.unwrap();
    let log = host.log(&counting, false).await;
    let numbers: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 100, "{}", numbers.len());
    assert!(numbers.iter().enumerate().all(|(index, number)| index + 1 == *number), "a gap in the log");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_broken_off_is_finished_and_orphans_are_swept() {
    let mut host = Host::new().await;
    let id = host.run(sh("sleep 1000")).await;
    host.close().await;
    // As a daemon leaves it that dies after committing the removal.
    let path = host.config().data_root.join("state.db");
    let (store, writer, rows) = hull_engine::store::Store::open(&path).unwrap();
    let (_, record) = &rows.containers[0];
    let mut record: serde_json::Value = serde_json::from_str(record).unwrap();
    record["life"]["phase"] = serde_json::json!({ "removing": { "last": null } });
    let name = record["name"].as_str().unwrap().to_owned();
    let row = hull_engine::store::Change::PutContainer { id: id.clone(), name, record: record.to_string() };
    store.commit(vec![row]).await.unwrap();
    drop(store);
    writer.join();
    // And what one leaves that dies before it commits a creation.
    std::fs::create_dir(host.config().data_root.join("containers/orphan")).unwrap();
    std::fs::create_dir_all(host.config().data_root.join("image/active/orphan/upper")).unwrap();
    host.open().await;
    let left = async {
        while host.engine().container(&id).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(left).await;
    assert_eq!(host.leftovers(), "");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_an_exit_by_sigkill_and_nothing_stays() {
    let host = Host::new().await;
    let id = host.run(sh("sleep 1000")).await;
    let pid = host.engine().container(&id).unwrap().pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    hull_sys::process::kill(shim, 9).unwrap();
    assert_eq!(host.wait(&id).await.code, 137);
    host.start(&id).await;
    assert_eq!(host.status(&id), "running");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_kept_away_from_the_data_root() {
    let host = Host::new().await;
    let error = within(Engine::open(host.config())).await.unwrap_err();
    assert!(matches!(error, hull_engine::Error::DataRootInUse { .. }), "{error}");
    host.finish().await;
}
