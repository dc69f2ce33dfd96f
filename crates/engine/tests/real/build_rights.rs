//! What a step may do on the host, where its process is, and that its layer is the same whenever it is made.

use std::collections::BTreeSet;

use hull_builder::executor::{Network, Run};
use hull_builder::{Executor, Failure};
use hull_engine::Engine;
use hull_engine::builds::{Build, Entitlement, Given, Limits};
use hull_engine::chain;
use hull_engine::containers::settings::NetworkMode;

use crate::builds::{base, bell, limits, process, says, unheard, with, written};
use crate::support::{Host, within};

fn allowing(host: &Host, allowed: &[Entitlement]) -> Build {
    host.engine().build(Given { allowed: allowed.iter().copied().collect(), ..limits().into() })
}

/// Opens the host again, with a daemon that allows these.
async fn configure(host: &mut Host, entitlements: &[Entitlement]) {
    host.close().await;
    let build_entitlements: BTreeSet<_> = entitlements.iter().copied().collect();
    let config = hull_engine::Config { build_entitlements, ..host.config() };
    host.engine =
        Some(within(Engine::open(config)).await.unwrap_or_else(|error| panic!("{}", chain(&error))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_takes_no_more_of_the_host_than_both_allow() {
    let mut host = Host::new().await;
    let below = base(&allowing(&host, &[])).await.layers;
    // Its own file system's mount may be changed by who is privileged alone.
    let insecure =
        Run { insecure: true, ..process(&below, "busybox mount -t tmpfs none /tmp && echo mounted") };
    let network = Run { network: Network::Host, ..process(&below, "true") };
    let all = Entitlement::ALL;
    let told = async |build: &Build, run: &Run| {
        base(build).await;
        match written(build, run.clone()).await {
            (Ok(None), said) => said,
            (Err(Failure::Invalid(why)), _) => why,
            other => panic!("{other:?}"),
        }
    };
    let nothing = allowing(&host, &[]);
    assert!(
        told(&nothing, &insecure)
            .await
            .starts_with("security.insecure is not allowed: RUN --security=insecure")
    );
    assert!(told(&nothing, &network).await.starts_with("network.host is not allowed: RUN --network=host"));
    let allowed = allowing(&host, &all);
    let refused = "granting entitlement security.insecure is not allowed by build daemon configuration";
    assert_eq!(told(&allowed, &insecure).await, refused);
    assert_eq!(told(&allowed, &network).await, "");
    let generous = host.engine().build(Limits { network: NetworkMode::Host, ..Limits::default() }.into());
    assert_eq!(told(&generous, &network).await, "", "who gives it to all steps gives it to one");
    drop((nothing, allowed, generous));
    configure(&mut host, &[Entitlement::SecurityInsecure]).await;
    let allowed = allowing(&host, &all);
    assert_eq!(told(&allowed, &insecure).await, "mounted\n");
    let refused = "granting entitlement network.host is not allowed by build daemon configuration";
    assert_eq!(told(&allowed, &network).await, refused);
    let plain = Run { insecure: false, ..insecure };
    let (failed, _) = written(&allowed, plain).await;
    assert!(matches!(failed, Err(Failure::Exit { .. })), "{failed:?}");
    drop(allowed);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nobody_knows_is_missing_only_where_it_is_required() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let asking = |required: bool| Run {
        devices: vec![("vendor.example/gpu=all".to_owned(), required)],
        ..process(&below, "true")
    };
    assert_eq!(within(build.run(asking(false), unheard())).await, Ok(None));
    let refused = within(build.run(asking(true), unheard())).await;
    let expected = "required device \"vendor.example/gpu=all\" is not registered";
    assert!(matches!(&refused, Err(Failure::Invalid(why)) if why.starts_with(expected)), "{refused:?}");
    drop(build);
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_in_the_cgroup_that_the_build_names() {
    let mut host = Host::new().await;
    let parent = format!("hull-test-parent-{}", std::process::id());
    let build = host.engine().build(Limits { cgroup_parent: format!("/{parent}"), ..limits() }.into());
    let below = base(&build).await.layers;
    let folders = || {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
        let all =
            hierarchies.map(|path| path.join(&parent)).chain([format!("/sys/fs/cgroup/{parent}").into()]);
        all.filter(|path| path.is_dir()).collect::<Vec<std::path::PathBuf>>()
    };
    assert_eq!(folders().len(), 0);
    let (begun, mut started) = tokio::sync::mpsc::unbounded_channel();
    {
        let running = build.run(process(&below, "echo begun; sleep 1000"), bell(begun));
        tokio::select! {
            ended = running => panic!("{ended:?}"),
            _ = started.recv() => {}
        }
        assert_ne!(folders().len(), 0);
    }
    drop(build);
    // A daemon does not end before its steps have.
    host.close().await;
    host.open().await;
    folders().iter().for_each(|folder| std::fs::remove_dir(folder).unwrap());
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_date_the_same_step_gives_the_same_layer() {
    let host = Host::new().await;
    let build = host.engine().build(limits().into());
    let below = base(&build).await.layers;
    let script = "mkdir -p /made/deep && echo x >/made/deep/file && echo y >>/etc/passwd \
                  && busybox ln -s file /made/deep/link && busybox touch -d @5 /made/old";
    let layer = async |newest: Option<i64>| {
        let (made, _) = written(&build, Run { newest, ..process(&below, script) }).await;
        made.unwrap().unwrap()
    };
    let dated = layer(Some(1000)).await;
    assert_eq!(dated, layer(Some(1000)).await);
    assert_ne!(dated, layer(Some(2000)).await);
    assert_ne!(layer(None).await, layer(None).await, "the clock has gone on");
    let above = with(&below, Some(dated));
    let looks = "busybox stat -c %Y /made /made/deep /made/deep/file /made/deep/link /etc/passwd /made/old";
    assert_eq!(says(&build, &above, looks).await, "1000\n1000\n1000\n1000\n1000\n5\n");
    drop(build);
    host.finish().await;
}
