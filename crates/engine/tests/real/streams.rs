//! Attached streams, terminals and logs.

use hull_engine::containers::requests::{Attach, Condition};
use hull_engine::containers::settings::Settings;
use hull_engine::events::Next;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Host, read, sh, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_attached_before_the_start_misses_nothing_and_feeds_the_input() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host
        .create(Settings { open_stdin: true, stdin_once: true, ..sh("echo first; cat; echo last") })
        .await;
    let attach = Attach { stdin: true, stdout: true, stderr: true, stream: true, logs: false };
    let mut attached = within(engine.attach(&id, attach)).await.unwrap();
    let exit = within(engine.wait(&id, Condition::NextExit)).await.unwrap();
    host.start(&id).await;
    attached.stream.write_all(b"typed\n").await.unwrap();
    attached.stream.shutdown().await.unwrap();
    assert_eq!(text(&read(attached).await), "first\ntyped\nlast\n");
    assert_eq!(within(exit).await.unwrap().code, 0);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_and_raw_bytes() {
    let host = Host::new().await;
    let settings =
        Settings { tty: true, open_stdin: true, console_size: Some((24, 80)), ..sh("stty size; echo $TERM") };
    let (code, output) = host.output(settings).await;
    assert_eq!((code, output.as_str()), (0, "24 80\r\nxterm\r\n"));
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_everything_and_ends_with_the_container() {
    let host = Host::new().await;
    let id = host.run(sh("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done")).await;
    assert_eq!(host.log(&id, true).await, "1\n2\n3\n4\n5\n");
    // What came before is first in a stream that asks for it.
    let id = host.run(Settings { open_stdin: true, ..sh("echo before; read x; echo after") }).await;
    while host.log(&id, false).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let attach = Attach { stdin: true, stdout: true, stderr: true, logs: true, stream: true };
    let mut attached = within(host.engine().attach(&id, attach)).await.unwrap();
    let mut head = [0; 15];
    within(attached.stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(text(&head), "before\n");
    attached.stream.write_all(b"\n").await.unwrap();
    assert_eq!(text(&read(attached).await), "after\n");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_the_references_order() {
    let host = Host::new().await;
    let engine = host.engine();
    let mut events = engine.events(None);
    let id = host.run(sh("sleep 1000")).await;
    within(engine.stop(&id, None, Some(0))).await.unwrap();
    host.remove(&id).await;
    let mut actions = Vec::new();
    while actions.last().is_none_or(|action| action != "destroy") {
        let Next::Event(event) = within(events.next()).await else { panic!("an event") };
        actions.push(event.action.clone());
    }
    assert_eq!(actions.join(" "), "create start kill kill die stop destroy");
    host.finish().await;
}
