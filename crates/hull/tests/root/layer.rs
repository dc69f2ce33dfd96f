//! The writable layer of a container: what `diff` tells of it.

use std::time::Instant;

use hull_testkit::patience;

use super::{CLIENTS, host};

/// Makes, changes and takes away what an image holds.
const SCRIPT: &str = "echo x >> /etc/mark; rm /gone; rm -r /d; mkdir -p /d/s; echo y > /d/s/y; mkdir -p /n/m; \
                      echo z > /n/m/z; ln -s z /n/m/link; echo v > /v/inside; echo h >> /etc/hosts";

#[test]
fn diff_tells_what_a_container_has_changed() {
    let host = host();
    let tree = host.folder().join("tree");
    for folder in ["etc", "d/s"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for file in ["etc/mark", "gone", "d/x", "d/s/y", "d/s/z"] {
        std::fs::write(tree.join(file), "1").unwrap();
    }
    let add = |name: &str| format!("{}:/{name}", tree.join(name).display());
    let added = ["etc", "gone", "d"].map(add);
    let words =
        ["image", "capture", "tree", "busybox", "--add", &added[0], "--add", &added[1], "--add", &added[2]];
    host.hull(&words).ok();
    host.hull(&["run", "--name", "untouched", "tree", "true"]).ok();
    let mount = ["--tmpfs", "/v"];
    host.hull(&[&["run", "--name", "ended"][..], &mount, &["tree", "sh", "-c", SCRIPT]].concat()).ok();
    let lives = format!("{SCRIPT}; echo ready; exec sleep 1000");
    host.hull(&[&["run", "-d", "--name", "lives"][..], &mount, &["tree", "sh", "-c", &lives]].concat()).ok();
    let start = Instant::now();
    while host.hull(&["logs", "lives"]).ok() != "ready" {
        assert!(start.elapsed() < patience(20), "it does not come to its end");
    }
    // What is mounted is no part of it: of `/v` the empty place, of `/etc/hosts` nothing.
    let expected = "C /d\nC /d/s\nC /d/s/y\nD /d/s/z\nD /d/x\nC /etc\nC /etc/mark\nD /gone\nA /n\nA /n/m\nA /n/m/link\n\
                    A /n/m/z\nA /v";
    for client in CLIENTS {
        for name in ["ended", "lives"] {
            assert_eq!(client(&host, &["diff", name]).ok(), expected, "{name}");
            assert_eq!(client(&host, &["container", "diff", name]).ok(), expected, "{name}");
        }
        assert_eq!(client(&host, &["diff", "untouched"]).ok(), "");
        client(&host, &["diff", "nosuch"]).fails(1, "No such container: nosuch");
    }
    // As the reference's document, and its word for nothing.
    assert_eq!(host.request("GET", "/v1.24/containers/untouched/changes", b"").text(), "null\n");
    let rows = host.request("GET", "/containers/ended/changes", b"").text();
    assert!(
        rows.starts_with("[{\"Path\":\"/d\",\"Kind\":0},")
            && rows.ends_with("{\"Path\":\"/v\",\"Kind\":1}]\n")
    );
}
