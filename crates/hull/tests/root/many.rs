//! Many containers of one image, and images of many layers.

use std::path::Path;
use std::process::Command;

use hull_testkit::Host;

use super::{CLIENTS, host};

const FILE: u64 = 24 << 20;

/// Bytes that files below a folder take on the disk.
fn on_disk(folder: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(folder).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().parse().unwrap()
}

/// Bytes of the page cache that the kernel counts as this container's: who reads a page first has it.
#[track_caller]
fn cached(host: &Host, name: &str) -> u64 {
    let id = host.hull(&["inspect", "-f", "{{.Id}}", name]).ok().to_owned();
    let stat = host.cgroup_folders().into_iter().filter(|folder| folder.ends_with(&id));
    let stat = stat.map(|folder| folder.join("memory.stat")).find(|file| file.exists());
    let text = std::fs::read_to_string(stat.expect("a memory controller")).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    field("cache ").or_else(|| field("file ")).unwrap()
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are for who looks for them")]
fn a_hundred_containers_have_one_copy_on_disk_and_in_memory() {
    let host = host();
    let fill = format!("head -c {FILE} /dev/urandom > /big");
    host.hull(&["run", "--name", "first", "--network", "none", "busybox", "sh", "-c", &fill]).ok();
    host.hull(&["commit", "first", "big"]).ok();
    host.hull(&["rm", "first"]).ok();
    // It is unpacked behind the answer: whoever makes a container waits for that.
    host.hull(&["run", "--rm", "--network", "none", "big", "true"]).ok();
    // Nobody has it in memory for having written it.
    let layers = format!("{}/image/layers", host.data_root().display());
    let forget = "find $0 -name big -exec dd status=none if={} iflag=nocache count=0 ';'";
    host.printed(&["sh", "-c", &format!("sync -f $0; {forget}"), &layers]);
    let before = on_disk(&host.data_root());
    let names: Vec<String> = (0..100).map(|number| format!("box-{number}")).collect();
    let script = "cat /big > /dev/null; echo $HOSTNAME > /own; echo read; exec sleep 1000";
    for (name, client) in names.iter().zip(CLIENTS.iter().cycle()) {
        client(
            &host,
            &["run", "-d", "--network", "none", "-h", name, "--name", name, "big", "sh", "-c", script],
        )
        .ok();
    }
    for name in &names {
        host.hull(&["exec", name, "sh", "-c", "until test -s /own; do sleep 0.05; done"]).ok();
    }
    let each = (on_disk(&host.data_root()) - before) / 100;
    assert!(each < 100_000, "a container takes {each} bytes of the disk");
    let of: Vec<u64> = names.iter().map(|name| cached(&host, name)).collect();
    let all: u64 = of.iter().sum();
    assert!((FILE..FILE + (10 << 20)).contains(&all), "{all} bytes of cache: {of:?}");
    println!(
        "a container takes {each} bytes of the disk; all have {all} bytes of cache, a file of {FILE} in it"
    );
    // What one writes is its own.
    host.hull(&["exec", "box-7", "sh", "-c", "echo other > /big"]).ok();
    assert_eq!(
        host.docker(&["exec", "box-8", "sh", "-c", "wc -c < /big; cat /own"]).ok(),
        format!("{FILE}\nbox-8")
    );
    assert_eq!(host.docker(&["exec", "box-7", "cat", "/big"]).ok(), "other");
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    host.hull(&[&["rm", "-f"], &all[..]].concat()).ok();
}

/// More than the 127 of the reference's storage driver, and than fits into one page of mount options.
#[test]
fn an_image_of_a_hundred_and_forty_layers_is_an_image() {
    let host = host();
    let mut image = "busybox".to_owned();
    for number in 0..140 {
        let script =
            format!("echo {number} > /layer-{number}; echo {number} > /last; rm -f /layer-{}", number - 1);
        let name = format!("c{number}x");
        host.hull(&["run", "--name", &name, "--network", "none", &image, "sh", "-c", &script]).ok();
        image = format!("deep:{number}");
        host.hull(&["commit", &name, &image]).ok();
        host.hull(&["rm", &name]).ok();
    }
    for client in CLIENTS {
        let layers = client(&host, &["image", "inspect", "-f", "{{len .RootFS.Layers}}", &image]);
        assert_eq!(layers.ok(), "141");
        let script = "ls -d /layer-*; cat /last; echo mine > /last; cat /last";
        let shown = client(&host, &["run", "--rm", "--network", "none", &image, "sh", "-c", script]);
        assert_eq!(shown.ok(), "/layer-139\n139\nmine");
    }
}
