//! Both clients, kept to one version of the API after the other: whatever a person does works.

use hull_testkit::{Finished, Host};

use super::host;

type At = fn(&Host, &str, &[&str]) -> Finished;

#[test]
fn the_official_client_works_at_every_version_that_it_speaks() {
    let host = host();
    let newest = host.docker(&["version", "--format", "{{.Client.DefaultAPIVersion}}"]).ok().to_owned();
    let minor: u32 = newest.strip_prefix("1.").and_then(|minor| minor.parse().ok()).expect("1.N");
    assert!(minor >= 50, "the official client is too old: {newest}");
    (24..=minor.min(53)).for_each(|minor| a_day(&host, Host::docker_at, &format!("1.{minor}")));
}

#[test]
fn our_client_works_at_every_version() {
    let host = host();
    (24..=53).for_each(|minor| a_day(&host, Host::hull_at, &format!("1.{minor}")));
    host.hull_at("1.54", &["ps"]).fails(1, "client version 1.54 is too new");
    host.hull_at("1.23", &["ps"]).fails(1, "client version 1.23 is too old");
}

/// What a person does with a container.
#[track_caller]
fn a_day(host: &Host, at: At, version: &str) {
    let run = |words: &[&str]| {
        let finished = at(host, version, words);
        assert_eq!(finished.code, 0, "at {version}: {finished}");
        finished.stdout.trim_end().to_owned()
    };
    assert_eq!(
        run(&["run", "--rm", "--network", "none", "-e", "A=b", "busybox", "sh", "-c", "echo $A; echo e >&2"]),
        "b"
    );
    let id = run(&["run", "-d", "--network", "none", "--name", "day", "busybox", "sleep", "1000"]);
    assert_eq!(
        run(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"]),
        format!("{id} day running")
    );
    assert_eq!(
        run(&["inspect", "-f", "{{.State.Status}} {{.HostConfig.NetworkMode}}", "day"]),
        "running none"
    );
    assert_eq!(run(&["exec", "day", "echo", "inside"]), "inside");
    run(&["stop", "-t", "0", "day"]);
    assert_eq!(run(&["wait", "day"]), "137");
    run(&["logs", "day"]);
    let now = run(&["info", "--format", "{{.SystemTime}}"]);
    let events = run(&["events", "--since", "1h", "--until", &now, "--format", "{{.Action}} {{.Actor.ID}}"]);
    assert!(events.contains(&format!("die {id}")), "at {version}: {events}");
    run(&["rm", "day"]);
    assert!(run(&["images", "--format", "{{.Repository}}"]).contains("busybox"));
    assert_eq!(run(&["image", "inspect", "-f", "{{.Os}}", "busybox"]), "linux");
    assert!(run(&["version"]).contains(version), "at {version}");
}
