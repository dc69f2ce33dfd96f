//! More processes in a container.

use hull_engine::containers::requests::ExecSettings;
use tokio::io::AsyncWriteExt;

use crate::support::{Host, read, sh, text, within};

fn exec(words: &[&str]) -> ExecSettings {
    ExecSettings {
        cmd: words.iter().map(|&word| word.to_owned()).collect(),
        stdout: true,
        stderr: true,
        ..ExecSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_runs_inside_with_its_own_user_and_environment() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.run(sh("sleep 1000")).await;
    let settings = ExecSettings {
        user: "web".into(),
        env: vec!["X=1".into()],
        ..exec(&["sh", "-c", "id -u; echo $X $FROM; exit 4"])
    };
    let exec_id = within(engine.exec_create(&id, settings)).await.unwrap();
    assert!(engine.container(&id).unwrap().execs.contains(&exec_id));
    let attached = within(engine.exec_start(&exec_id, false, None)).await.unwrap().unwrap();
    assert_eq!(text(&read(attached).await), "33\n1 image\n");
    while engine.exec(&exec_id).unwrap().exit_code.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.exec(&exec_id).unwrap().exit_code, Some(4));
    let again = within(engine.exec_start(&exec_id, false, None)).await.unwrap_err().to_string();
    assert!(again.contains("has already run"), "{again}");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_reads_its_input_to_the_end() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.run(sh("sleep 1000")).await;
    let settings = ExecSettings { stdin: true, ..exec(&["cat"]) };
    let exec_id = within(engine.exec_create(&id, settings)).await.unwrap();
    let mut attached = within(engine.exec_start(&exec_id, false, None)).await.unwrap().unwrap();
    attached.stream.write_all(b"hello").await.unwrap();
    attached.stream.shutdown().await.unwrap();
    assert_eq!(text(&read(attached).await), "hello");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_are_refused_in_the_references_words() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.run(sh("sleep 1000")).await;
    let missing = within(engine.exec_create(&id, exec(&["nosuch"]))).await.unwrap();
    let error = within(engine.exec_start(&missing, false, None)).await.unwrap_err().to_string();
    assert_eq!(error, "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(engine.exec(&missing).unwrap().exit_code, Some(127));
    within(engine.pause(&id)).await.unwrap();
    let error = within(engine.exec_create(&id, exec(&["true"]))).await.unwrap_err().to_string();
    assert_eq!(error, format!("Container {id} is paused, unpause the container before exec"));
    within(engine.unpause(&id)).await.unwrap();
    // It dies with its container.
    let running = within(engine.exec_create(&id, exec(&["sleep", "1000"]))).await.unwrap();
    assert!(within(engine.exec_start(&running, true, None)).await.unwrap().is_none());
    within(engine.kill(&id, "KILL")).await.unwrap();
    let ended = async {
        while engine.exec(&running).is_ok_and(|exec| exec.exit_code.is_none()) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    within(ended).await;
    let error = within(engine.exec_create(&id, exec(&["true"]))).await.unwrap_err().to_string();
    assert_eq!(error, format!("container {id} is not running"));
    host.finish().await;
}
