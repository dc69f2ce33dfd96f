//! One container, from its creation to its removal.

use hull_engine::containers::requests::{Condition, Remove, Top};
use hull_engine::containers::settings::{RestartPolicy, Settings};
use hull_engine::{Class, Error};

use crate::support::{Host, command, sh, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_and_tells_its_exit_and_its_output() {
    let host = Host::new().await;
    let (code, output) = host.output(sh("echo out; echo err >&2; exit 3")).await;
    assert_eq!(code, 3);
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_and_caller_make_the_environment_together() {
    let host = Host::new().await;
    let settings = Settings {
        user: "web".into(),
        env: vec!["MINE=1".into()],
        ..sh("id; echo $FROM $MINE $HOME; pwd; hostname")
    };
    let (code, output) = host.output(Settings { hostname: "inside".into(), ..settings }).await;
    assert_eq!(code, 0, "{output}");
    let expected = "uid=33(web) gid=33(web) groups=26(tape),33(web)\nimage 1 /home/web\n/tmp\ninside\n";
    assert_eq!(output, expected);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_leaves_the_container_startable() {
    let host = Host::new().await;
    for (words, code) in [(["/nosuch"], 127), (["/etc/plain"], 126)] {
        let id = host.create(command(&words)).await;
        let error = within(host.engine().start(&id)).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        let view = host.engine().container(&id).unwrap();
        assert_eq!((view.phase.status(), view.exit_code), ("created", code));
        assert_eq!(view.error, error.to_string());
    }
    let id = host.create(Settings { user: "nosuch".into(), ..sh("true") }).await;
    let error = within(host.engine().start(&id)).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to find user nosuch: no matching entries in passwd file");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_kill_pause_and_their_refusals() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.run(sh("trap 'exit 7' TERM; while :; do sleep 0.1; done")).await;
    assert!(matches!(engine.start(&id).await, Err(Error::NotModified(_))));
    within(engine.pause(&id)).await.unwrap();
    assert_eq!(host.status(&id), "paused");
    let refused = engine.pause(&id).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("Container {id} is already paused"));
    within(engine.unpause(&id)).await.unwrap();
    let refused = engine.remove(&id, Remove::default()).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "cannot remove container \"{id}\": container is running: stop the container before removing or force remove"
        )
    );
    within(engine.stop(&id, None, Some(20))).await.unwrap();
    let view = engine.container(&id).unwrap();
    assert_eq!((view.phase.status(), view.exit_code), ("exited", 7));
    assert!(matches!(engine.stop(&id, None, None).await, Err(Error::NotModified(_))));
    let refused = engine.kill("nosuch", "").await.unwrap_err();
    assert_eq!(refused.to_string(), "No such container: nosuch");
    let refused = engine.kill(&id[..12], "").await.unwrap_err().to_string();
    assert_eq!(refused, format!("cannot kill container: {}: container {id} is not running", &id[..12]));
    // It does not heed the signal: the grace ends it. Paused, it is woken for it.
    let deaf = host.run(sh("trap '' TERM; while :; do sleep 0.1; done")).await;
    within(engine.pause(&deaf)).await.unwrap();
    within(engine.stop(&deaf, None, Some(1))).await.unwrap();
    assert_eq!(engine.container(&deaf).unwrap().exit_code, 137);
    within(engine.restart(&deaf, None, Some(0))).await.unwrap();
    assert_eq!(host.status(&deaf), "running");
    within(engine.kill(&deaf, "KILL")).await.unwrap();
    assert_eq!(host.status(&deaf), "exited");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_and_move() {
    let host = Host::new().await;
    let engine = host.engine();
    let first = host.try_create(Some("one"), sh("true")).await.unwrap();
    let taken = host.try_create(Some("one"), sh("true")).await.unwrap_err().to_string();
    assert_eq!(
        taken,
        format!(
            "Conflict. The container name \"/one\" is already in use by container \"{first}\". You have to remove (or rename) \
             that container to be able to reuse that name."
        )
    );
    assert!(host.try_create(Some("bad name"), sh("true")).await.is_err());
    within(engine.rename("one", "two")).await.unwrap();
    assert_eq!(engine.container("/two").unwrap().id, first);
    assert!(engine.container("one").is_err());
    host.try_create(Some("one"), sh("true")).await.unwrap();
    assert!(
        engine
            .rename("one", "two")
            .await
            .unwrap_err()
            .to_string()
            .starts_with("Error when allocating new name: Conflict.")
    );
    assert_eq!(engine.container(&first[..6]).unwrap().name, "two");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_removal_and_waiting_for_it() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.create(Settings { auto_remove: true, ..sh("exit 5") }).await;
    let gone = within(engine.wait(&id, Condition::Removed)).await.unwrap();
    host.start(&id).await;
    assert_eq!(within(gone).await.unwrap().code, 5);
    assert!(engine.container(&id).is_err());
    assert_eq!(host.leftovers(), "");
    // By force, while it runs.
    let id = host.run(sh("sleep 1000")).await;
    host.remove(&id).await;
    assert_eq!(host.leftovers(), "");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restart_policy_brings_it_back_until_it_is_stopped() {
    let host = Host::new().await;
    let engine = host.engine();
    let settings = Settings { restart: RestartPolicy::OnFailure { attempts: 2 }, ..sh("echo run; exit 9") };
    let id = host.run(settings).await;
    while engine.container(&id).unwrap().phase.status() != "exited" {
        host.wait(&id).await;
    }
    let view = engine.container(&id).unwrap();
    assert_eq!((view.restart_count, view.exit_code), (2, 9));
    assert_eq!(host.log(&id, false).await, "run\nrun\nrun\n");
    let always = host.run(Settings { restart: RestartPolicy::Always, ..sh("sleep 1000") }).await;
    within(engine.stop(&always, None, Some(0))).await.unwrap();
    assert_eq!(host.status(&always), "exited");
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_kills_and_is_told() {
    let host = Host::new().await;
    let mut settings = sh("head -c 200000000 /dev/zero | tail");
    settings.resources.memory.limit = Some(16 << 20);
    let id = host.run(settings).await;
    assert_eq!(host.wait(&id).await.code, 137);
    assert!(host.engine().container(&id).unwrap().exit.unwrap().oom);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_counters_can_be_read() {
    let host = Host::new().await;
    let engine = host.engine();
    let id = host.run(sh("sleep 1000 & sleep 1000")).await;
    // Two shells for a moment.
    let both = |top: &Top| top.processes.iter().filter(|row| row[1] == "sleep 1000").count() == 2;
    let become_both = async {
        while !both(&engine.top(&id, "-o pid,args").await.unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    within(become_both).await;
    let stats = within(engine.stats(&id)).await.unwrap();
    assert!(stats.running && stats.cgroup.memory.usage > 0 && stats.cgroup.pids.current >= 2, "{stats:?}");
    within(engine.kill(&id, "9")).await.unwrap();
    assert!(!within(engine.stats(&id)).await.unwrap().running);
    assert!(engine.top(&id, "").await.is_err());
    host.finish().await;
}
