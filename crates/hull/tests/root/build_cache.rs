//! What builds remember: what it costs, and what of it goes.

use std::fs;
use std::time::{Duration, Instant};

use hull_testkit::{Host, patience};
use serde_json::{Value, json};

use super::host;

/// Builds an image of busybox and some random bytes; takes the image away again, so that only the builds'
/// memory has the bytes.
fn remember(host: &Host, name: &str, bytes: u64) {
    let folder = host.folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    let script = format!("FROM busybox\nRUN head -c {bytes} /dev/urandom > /{name}\n");
    fs::write(folder.join("Dockerfile"), script).unwrap();
    host.hull(&["build", "-q", folder.to_str().unwrap()]).ok();
    host.hull(&["image", "prune", "-f"]).ok();
}

fn steps(host: &Host) -> Vec<Value> {
    let lines = host.hull(&["builder", "du", "--format", "json"]);
    lines.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn remembers(host: &Host, name: &str) -> bool {
    let steps = steps(host);
    steps.iter().any(|step| step["Description"].as_str().unwrap().ends_with(&format!("/{name}")))
}

#[test]
fn over_its_limit_the_cache_forgets_the_oldest() {
    let mut host = host();
    assert_eq!(host.stop_daemon(), 0);
    // Nothing is reserved, and the disk's own state does not count.
    let gc = json!({ "defaultReservedSpace": "0", "defaultMaxUsedSpace": "4MB", "defaultMinFreeSpace": "0" });
    fs::write(host.folder().join("daemon.json"), json!({ "builder": { "gc": gc } }).to_string()).unwrap();
    host.start_daemon();
    remember(&host, "a", 3_000_000);
    remember(&host, "b", 3_000_000);
    assert!(remembers(&host, "a"), "what an image had, or is below the limit, stays");
    // The end of any build is looked at.
    let start = Instant::now();
    remember(&host, "c", 10);
    while remembers(&host, "a") {
        assert!(start.elapsed() < patience(20), "{:?}", steps(&host));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(remembers(&host, "b") && remembers(&host, "c"));
}

#[test]
fn what_is_remembered_is_listed_and_forgotten_as_asked() {
    let host = host();
    remember(&host, "a", 3_000_000);
    remember(&host, "b", 1_000);
    let table = host.hull(&["builder", "du"]);
    let lines: Vec<&str> = table.ok().lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("RECLAIMABLE   SIZE"), "{table}");
    assert!(lines[1].contains("1kB") && lines[2].contains("3MB"), "{table}");
    assert_eq!(
        lines[3..],
        ["Shared:\t\t0B", "Private:\t3.001MB", "Reclaimable:\t3.001MB", "Total:\t\t3.001MB"]
    );
    let verbose = host.hull(&["builder", "du", "--verbose", "--filter", "description=[2/2] RUN nothing"]);
    assert!(verbose.ok().starts_with("Shared:"), "nothing is called so: {verbose}");
    // Only so much must go.
    let pruned = host.hull(&["builder", "prune", "-f", "--max-used-space", "2m"]);
    assert!(pruned.ok().contains("Total reclaimed space: 3MB"), "{pruned}");
    assert!(!remembers(&host, "a") && remembers(&host, "b"));
    let id = steps(&host)[0]["ID"].as_str().unwrap().to_owned();
    let kept = host.hull(&["builder", "prune", "-f", "--filter", "until=24h"]);
    assert_eq!(kept.ok(), "Total reclaimed space: 0B");
    let pruned = host.docker(&["builder", "prune", "-f", "--filter", &format!("id={}", &id[..12])]);
    assert!(pruned.ok().contains(&id), "{pruned}");
    assert!(steps(&host).is_empty());
    host.hull(&["builder", "prune", "-f", "--filter", "color=red"]).fails(1, "invalid filter 'color'");
}
