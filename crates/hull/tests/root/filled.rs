//! Volumes in containers: what they show, what they are filled with at first, who keeps them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use hull_testkit::{Host, patience};

use super::behind::{armed, hold};
use super::{CLIENTS, host};

/// A folder of the test's own with `files` files below, of all owners and modes, with links,
/// attributes, holes and old times.
pub(super) fn content(host: &Host, files: usize) -> PathBuf {
    let root = host.folder().join(format!("content-{files}"));
    let data = root.join("data");
    for number in 0..files {
        let folder = data.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("f{number}")), format!("content {number}")).unwrap();
    }
    let script = r#"
        set -e; cd "$1"; mkdir sub; echo linked > first; ln first sub/second; ln -s ../first sub/soft
        ln -s /nowhere/at/all dangling; mkfifo pipe; truncate -s 5M sparse; echo end >> sparse
        touch own; chown 1234:4321 own; chmod 6751 own; mkdir -m 1777 open; chown 33:44 sub; chmod 2750 sub
        touch -d @1000000000.123 own d0/f0 sub open; chown 77:88 .; chmod 751 .
    "#;
    let made = Command::new("sh").args(["-c", script, "sh", data.to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(data.join("own"), "user.note", b"hello", flags).unwrap();
    root
}

/// An image of that folder, and nothing else but busybox to look at it.
pub(super) fn image(host: &Host, name: &str, content: &Path, changes: &[&str]) {
    let archive = host.folder().join(format!("{name}.tar"));
    let busybox = Command::new("sh").arg("-c").arg("command -v busybox").output().unwrap().stdout;
    let busybox = String::from_utf8(busybox).unwrap();
    let bin = content.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(busybox.trim(), bin.join("busybox")).unwrap();
    for applet in ["sh", "ls", "cat", "touch", "find", "sleep", "true", "rm", "mount", "stat", "mv"] {
        let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
    }
    let packed = Command::new("tar")
        .args(["--xattrs", "--sparse"])
        .arg("-C")
        .arg(content)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .output();
    assert!(packed.unwrap().status.success());
    let mut words = vec!["import"];
    for change in changes {
        words.extend(["--change", change]);
    }
    let archive = archive.to_str().unwrap().to_owned();
    words.extend([archive.as_str(), name]);
    host.hull(&words).ok();
}

/// Everything below a folder: what a person could see of it.
pub(super) fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(
        root: &Path,
        folder: &Path,
        all: &mut BTreeMap<PathBuf, String>,
        first: &mut BTreeMap<u64, PathBuf>,
    ) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let content = match () {
                () if meta.is_file() => {
                    format!("{:?}", std::fs::read(&path).unwrap().iter().map(|b| u64::from(*b)).sum::<u64>())
                }
                () if meta.is_symlink() => format!("{:?}", std::fs::read_link(&path).unwrap()),
                () => String::new(),
            };
            let mut note = [0u8; 64];
            let note = rustix::fs::lgetxattr(&path, "user.note", &mut note[..])
                .map(|length| note[..length].to_vec());
            let same = if meta.is_dir() {
                name.clone()
            } else {
                first.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
            };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let blocks = meta.blocks() * 512 < meta.len();
            let text = format!(
                "{:o} {}:{} {}.{} {} {content} {note:?} {blocks} {links} {}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                if meta.is_dir() { 0 } else { meta.len() },
                same.display()
            );
            all.insert(name, text);
            if meta.is_dir() {
                walk(root, &path, all, first);
            }
        }
    }
    let (mut all, mut first) = (BTreeMap::new(), BTreeMap::new());
    // In the order of their names, so that the first of several is the same one.
    walk(root, root, &mut all, &mut first);
    all
}

#[track_caller]
pub(super) fn alike(found: &BTreeMap<PathBuf, String>, expected: &BTreeMap<PathBuf, String>) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{}", path.display());
    }
    assert_eq!(found.len(), expected.len());
}

/// Owner and mode of a volume's own folder.
fn own(path: &Path) -> (u32, u32, u32) {
    let meta = std::fs::metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid(), meta.gid())
}

pub(super) fn data(host: &Host, volume: &str) -> PathBuf {
    host.data_root().join("volumes").join(volume).join("_data")
}

#[test]
fn ten_thousand_files_are_copied_into_an_empty_volume_and_are_alike() {
    let host = host();
    let content = content(&host, 10_000);
    image(&host, "full", &content, &[]);
    let expected = listing(&content.join("data"));
    assert!(expected.len() > 10_100);
    for (client, name) in CLIENTS.into_iter().zip(["ours", "theirs"]) {
        let bind = format!("{name}:/data");
        client(&host, &["run", "--rm", "-v", &bind, "full", "/bin/true"]).ok();
        let volume = data(&host, name);
        let found = listing(&volume);
        alike(&found, &expected);
        assert_eq!(own(&volume), (0o751, 77, 88));
        // Not into one that has something, and not where nobody wants it.
        std::fs::remove_dir_all(volume.join("d0")).unwrap();
        client(&host, &["run", "--rm", "-v", &bind, "full", "/bin/true"]).ok();
        assert!(!volume.join("d0").exists());
        let bind = format!("{name}-bare:/data:nocopy");
        assert_eq!(client(&host, &["run", "--rm", "-v", &bind, "full", "/bin/ls", "/data"]).ok(), "");
    }
}

#[test]
fn volumes_of_containers_are_shown_as_in_the_reference() {
    let host = host();
    let source = host.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    let bind = format!("{}:/h:ro", source.display());
    for client in CLIENTS {
        let words = ["run", "-d", "--name", "v1", "-v", "/anon", "-v", "named:/data", "-v", &bind];
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        let mounts = client(&host, &["inspect", "-f", "{{json .Mounts}}", "v1"]).ok().to_owned();
        let mounts: Vec<serde_json::Value> = serde_json::from_str(&mounts).unwrap();
        let of = |target: &str| mounts.iter().find(|mount| mount["Destination"] == target).unwrap();
        let named = serde_json::json!({"Type": "volume", "Name": "named", "Source": data(&host, "named"),
            "Destination": "/data", "Driver": "local", "Mode": "z", "RW": true, "Propagation": ""});
        assert_eq!(*of("/data"), named);
        let anonymous = of("/anon")["Name"].as_str().unwrap().to_owned();
        assert_eq!((anonymous.len(), of("/anon")["Mode"].as_str()), (64, Some("")));
        assert_eq!(of("/anon")["Source"].as_str(), data(&host, &anonymous).to_str());
        assert_eq!(
            client(&host, &["inspect", "-f", "{{json .Config.Volumes}}", "v1"]).ok(),
            r#"{"/anon":{}}"#
        );
        // The official client sends them in any order.
        let binds =
            client(&host, &["inspect", "-f", "{{range .HostConfig.Binds}}{{println .}}{{end}}", "v1"]);
        let binds: std::collections::BTreeSet<&str> = binds.ok().lines().collect();
        assert_eq!(binds, ["named:/data", bind.as_str()].into());
        let listed = client(&host, &["ps", "--no-trunc", "--format", "{{.Mounts}}|{{.LocalVolumes}}"]);
        assert!(listed.ok().contains("named") && listed.ok().ends_with("|2"), "{listed}");
        let filtered = client(&host, &["ps", "-q", "--filter", "volume=named"]);
        assert_eq!(filtered.ok().lines().count(), 1);
        client(&host, &["volume", "rm", "named"]).fails(1, "volume is in use - [");
        // Others have them, too; with `ro` to read.
        client(&host, &["exec", "v1", "touch", "/data/file", "/anon/file"]).ok();
        let others = ["run", "--rm", "--volumes-from", "v1", "busybox", "ls", "/data", "/anon", "/h"];
        assert_eq!(client(&host, &others).ok(), "/anon:\nfile\n\n/data:\nfile\n\n/h:");
        for volume in ["/data", "/anon"] {
            let path = format!("{volume}/x");
            client(&host, &["run", "--rm", "--volumes-from", "v1:ro", "busybox", "touch", &path])
                .fails(1, "Read-only file system");
        }
        client(&host, &["run", "--rm", "--volumes-from", "nosuch", "busybox", "true"])
            .fails(125, "No such container: nosuch");
        // What was taken over stays with its first owner; what nobody named goes with that.
        assert!(data(&host, &anonymous).exists());
        client(&host, &["rm", "-fv", "v1"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "named");
        client(&host, &["volume", "rm", "named"]).ok();
        client(&host, &["run", "--rm", "-v", "/anon", "busybox", "true"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "");
    }
}

#[test]
fn volumes_of_images_are_made_unless_something_else_is_there() {
    let host = host();
    let content = content(&host, 3);
    image(&host, "wants", &content, &["VOLUME /data /logs/deep"]);
    image(&host, "hostile", &content, &["VOLUME /../.."]);
    for client in CLIENTS {
        let script = "ls /data /logs/deep; cat /proc/self/mountinfo";
        let output = client(&host, &["run", "--name", "box", "wants", "/bin/sh", "-c", script]);
        assert!(output.ok().starts_with("/data:\nd0\ndangling\nfirst"), "{output}");
        assert_eq!(output.ok().matches("/volumes/").count(), 2, "{output}");
        let wanted = client(&host, &["inspect", "-f", "{{json .Config.Volumes}} {{len .Mounts}}", "box"]);
        assert_eq!(wanted.ok(), r#"{"/data":{},"/logs/deep":{}} 2"#);
        // A start changes nothing of them.
        client(&host, &["start", "-a", "box"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok().lines().count(), 2);
        client(&host, &["rm", "box"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok().lines().count(), 2);
        client(&host, &["volume", "prune", "-f"]).ok();
        let other = ["run", "--rm", "--tmpfs", "/data", "-v", "mine:/logs/deep", "wants", "/bin/ls", "/data"];
        assert_eq!(client(&host, &other).ok(), "");
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "mine");
        client(&host, &["volume", "rm", "mine"]).ok();
        // Over the root there is none, whatever the image says, and nothing is left of the try.
        client(&host, &["run", "--rm", "hostile", "/bin/true"]).fails(125, "destination can't be '/'");
        client(&host, &["run", "--rm", "-v", "v1:/data/own", "wants", "/bin/true"])
            .fails(125, "cannot mount volume over existing file, file exists /data/own");
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "");
        assert_eq!(client(&host, &["ps", "-aq"]).ok(), "");
    }
}

#[test]
fn a_part_of_a_volume_is_mounted_and_is_found_inside_of_it() {
    let host = host();
    for client in CLIENTS {
        client(
            &host,
            &[
                "run",
                "--rm",
                "-v",
                "parts:/v",
                "busybox",
                "sh",
                "-c",
                "mkdir -p /v/a/b; echo x > /v/a/b/c; ln -s /etc /v/out",
            ],
        )
        .ok();
        let mount = |path: &str| format!("type=volume,src=parts,dst=/d,volume-subpath={path}");
        assert_eq!(
            client(&host, &["run", "--rm", "--mount", &mount("a/b"), "busybox", "ls", "/d"]).ok(),
            "c"
        );
        let file = client(&host, &["run", "--rm", "--mount", &mount("a/b/c"), "busybox", "cat", "/d"]);
        assert_eq!(file.ok(), "x");
        let path = data(&host, "parts").join("sub");
        client(&host, &["run", "--rm", "--mount", &mount("sub"), "busybox", "true"]).fails(
            127,
            &format!("cannot access path {0}: lstat {0}: no such file or directory", path.display()),
        );
        client(&host, &["run", "--rm", "--mount", &mount("out"), "busybox", "true"])
            .fails(125, "leads out of");
        client(&host, &["run", "--rm", "--mount", &mount("../x"), "busybox", "true"])
            .fails(125, "subpath must be a relative path within the volume");
        client(&host, &["run", "--rm", "--mount", "type=volume,dst=/d,readonly", "busybox", "true"])
            .fails(125, "must not set ReadOnly mode when using anonymous volumes");
        client(&host, &["volume", "rm", "parts"]).ok();
    }
}

/// The daemon is killed when the copy is known to be under way.
#[test]
fn a_copy_that_a_kill_interrupts_is_made_anew() {
    let mut host = host();
    let content = content(&host, 6_000);
    image(&host, "full", &content, &[]);
    let expected = listing(&content.join("data"));
    let (mut undone, mut rounds) = (0, 0);
    // One that was there before, and one that the container was to have made.
    for known in [true, false, true, false, true] {
        rounds += 1;
        if known {
            host.hull(&["volume", "create", "data"]).ok();
        }
        let mut client =
            host.hull_command(&["create", "--name", "box", "-v", "data:/data", "full", "/bin/true"]);
        let mut client =
            client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let copies = host.data_root().join("volumes/.filling");
        let start = Instant::now();
        let begun = |copy: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_dir(copy.unwrap().path()).is_ok_and(|entries| entries.count() > rounds)
        };
        let under_way = || std::fs::read_dir(&copies).unwrap().any(begun);
        while !under_way() {
            assert!(start.elapsed() < patience(20), "the copy was never seen");
            if client.try_wait().unwrap().is_some() {
                break;
            }
        }
        host.kill_daemon();
        client.wait().unwrap();
        host.start_daemon();
        // Nothing of a copy is to be seen, and what was never acknowledged is not there.
        let left = host.hull(&["volume", "ls", "-q"]).ok().to_owned();
        let seen = std::fs::read_dir(data(&host, "data")).map(|entries| entries.count());
        if host.hull(&["ps", "-aq"]).ok().is_empty() {
            assert_eq!(left, if known { "data" } else { "" });
            undone += usize::from(matches!(seen, Ok(0) | Err(_)));
            assert!(matches!(seen, Ok(0) | Err(_)) || listing(&data(&host, "data")) == expected, "{seen:?}");
            host.hull(&["create", "--name", "box", "-v", "data:/data", "full", "/bin/true"]).ok();
        }
        alike(&listing(&data(&host, "data")), &expected);
        host.hull(&["rm", "box"]).ok();
        host.hull(&["volume", "rm", "data"]).ok();
    }
    assert!(undone > 1, "no kill met a copy");
}

fn marked(host: &Host, volume: &str) -> bool {
    let folder = host.data_root().join("volumes").join(volume);
    ["filling", "filled"].iter().any(|mark| folder.join(mark).exists())
}

/// The mark goes when the disk has the bytes, which nobody waits for.
#[track_caller]
fn until_unmarked(host: &Host, volume: &str) {
    let start = Instant::now();
    while marked(host, volume) {
        assert!(start.elapsed() < patience(20), "the mark stays");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// What a daemon finds after a power cut: a mark of another boot, and files that are missing or empty.
#[test]
fn what_a_power_cut_took_of_a_new_volume_is_brought_again() {
    let mut host = host();
    let content = content(&host, 300);
    image(&host, "full", &content, &[]);
    host.hull(&["create", "--name", "box", "-v", "data:/data", "full", "/bin/true"]).ok();
    until_unmarked(&host, "data");
    let volume = data(&host, "data");
    let expected = listing(&volume);
    alike(&expected, &listing(&content.join("data")));
    let id = host.hull(&["inspect", "-f", "{{.Image}}", "box"]).ok().to_owned();
    let layers = host.hull(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", &id]).ok().to_owned();
    for (boot, mends) in [("another", true), ("", false)] {
        let own = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let boot = if boot.is_empty() { own.trim() } else { boot };
        host.kill_daemon();
        let mark = format!(
            r#"{{"copy":"gone","beside":true,"subpath":"","layers":{layers},"path":"/data","boot":"{boot}"}}"#
        );
        std::fs::write(volume.join("../filled"), mark).unwrap();
        std::fs::write(volume.join("d1/f101"), "").unwrap();
        std::fs::remove_file(volume.join("d2/f201")).unwrap();
        std::fs::write(volume.join("d0/f1"), "changed").unwrap();
        std::fs::write(volume.join("mine"), "mine").unwrap();
        host.start_daemon();
        until_unmarked(&host, "data");
        let found = listing(&volume);
        let same = |path: &str| found.get(Path::new(path)) == expected.get(Path::new(path));
        assert_eq!([same("d1/f101"), same("d2/f201")], [mends; 2]);
        assert_eq!(std::fs::read_to_string(volume.join("d0/f1")).unwrap(), "changed");
        assert_eq!(std::fs::read_to_string(volume.join("mine")).unwrap(), "mine");
        assert_eq!(found.len(), expected.len() + 1 - usize::from(!mends));
    }
}

/// Where the daemon waits, is stopped or dies while the disk is still to have a volume's first content.
pub(super) const SYNCED: &str = "engine.fill.synced";

/// Else the next boot takes it for what a power cut has left, and people's removals are undone.
#[test]
fn a_clean_stop_waits_for_the_disk_and_what_a_kill_leaves_ends_with_the_next_start() {
    let mut host = host();
    let content = content(&host, 20);
    image(&host, "full", &content, &[]);
    let bound = host.folder().join("bound");
    std::fs::create_dir(&bound).unwrap();
    let device = format!("device={}", bound.display());
    host.hull(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "apart"]).ok();
    let armed = armed(&mut host);
    let fill = |host: &Host, name: &str| {
        let fifo = hold(&armed, SYNCED);
        host.hull(&["create", "--name", name, "-v", &format!("{name}:/data"), "full", "/bin/true"]).ok();
        // Opened when the disk has it.
        let pause = std::fs::File::options().write(true).open(&fifo).unwrap();
        std::fs::remove_file(&fifo).unwrap();
        assert!(marked(host, name));
        pause
    };
    let pause = fill(&host, "data");
    // Longer than the daemon's threads are given when all is done.
    let slow = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        drop(pause);
    });
    host.stop_daemon();
    assert!(!marked(&host, "data"));
    slow.join().unwrap();
    host.start_daemon();
    for name in ["killed", "apart"] {
        let pause = fill(&host, name);
        host.kill_daemon();
        drop(pause);
        host.start_daemon();
        if name == "apart" {
            assert!(marked(&host, name), "nobody has asked its server");
            host.hull(&["start", "-a", name]).ok();
        }
        until_unmarked(&host, name);
    }
    alike(&listing(&bound), &listing(&content.join("data")));
}

/// Names that an earlier version had for its marks are like any other.
#[test]
fn what_a_container_leaves_in_a_volume_makes_the_daemon_do_nothing() {
    let mut host = host();
    let script = "mkdir /v/.hull-copied-up /v/.hull-copy-up; chmod 777 /v/.hull-copied-up; echo x > /v/filled; \
                  echo y > /v/.hull-copied-up/name";
    host.hull(&["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", script]).ok();
    let before = (own(&data(&host, "data")), listing(&data(&host, "data")));
    host.kill_daemon();
    host.start_daemon();
    host.hull(&["create", "-v", "data:/bin", "busybox"]).ok();
    assert_eq!((own(&data(&host, "data")), listing(&data(&host, "data"))), before);
}

/// A volume that is a file system of its own is filled in it; so is one that exists, and a part of one.
#[test]
fn volumes_of_every_kind_are_filled() {
    let host = host();
    let content = content(&host, 20);
    image(&host, "full", &content, &[]);
    let expected = listing(&content.join("data"));
    let bound = host.folder().join("bound");
    std::fs::create_dir(&bound).unwrap();
    let device = format!("device={}", bound.display());
    for (client, name) in CLIENTS.into_iter().zip(["ours", "theirs"]) {
        host.hull(&["volume", "create", "there"]).ok();
        host.hull(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, name]).ok();
        host.hull(&["run", "--rm", "-v", "parts:/v", "busybox", "mkdir", "/v/sub"]).ok();
        for mount in [
            "type=volume,src=there,dst=/data".to_owned(),
            format!("type=volume,src={name},dst=/data"),
            "type=volume,src=parts,dst=/data,volume-subpath=sub".to_owned(),
        ] {
            client(&host, &["run", "--rm", "--mount", &mount, "full", "/bin/true"]).ok();
        }
        for folder in [data(&host, "there"), bound.clone(), data(&host, "parts").join("sub")] {
            alike(&listing(&folder), &expected);
            assert_eq!(own(&folder), (0o751, 77, 88));
        }
        for volume in ["there", name, "parts"] {
            until_unmarked(&host, volume);
            host.hull(&["volume", "rm", volume]).ok();
        }
        std::fs::remove_dir_all(&bound).unwrap();
        std::fs::create_dir(&bound).unwrap();
    }
}

/// Whether something can be read and written, for each kind of mount, access and user.
#[test]
fn every_kind_of_mount_is_read_and_written_as_it_was_asked_by_every_user() {
    let host = host();
    let folder = host.folder().join("bound");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "there\n").unwrap();
    for path in [folder.join("file"), folder.clone()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    }
    host.hull(&["image", "capture", "pictured", "true", "--add", folder.to_str().unwrap()]).ok();
    host.hull(&["run", "--rm", "-v", "kept:/v", "busybox", "sh", "-c", "echo there > /v/file"]).ok();
    let (bind, inside) = (folder.display(), folder.display().to_string());
    let inside = inside.trim_start_matches('/');
    let kinds = [
        ("bind", format!("type=bind,src={bind},dst=/m")),
        ("file", format!("type=bind,src={bind}/file,dst=/m")),
        ("volume", "type=volume,src=kept,dst=/m".to_owned()),
        ("part", "type=volume,src=kept,dst=/m,volume-subpath=.".to_owned()),
        ("anonymous", "type=volume,dst=/m".to_owned()),
        ("tmpfs", "type=tmpfs,dst=/m".to_owned()),
        ("image", format!("type=image,src=pictured,dst=/m,image-subpath={inside}")),
    ];
    let users = [("root", &[][..]), ("other", &["--user", "1000:1000"][..]), ("mapped", &["--userns=auto"])];
    // The official client has no word for the last.
    for (client, users) in CLIENTS.into_iter().zip([&users[..], &users[..2]]) {
        for (kind, mount) in &kinds {
            for read_only in [false, true] {
                if read_only && *kind == "anonymous" {
                    // Nobody could ever write to it: refused.
                    continue;
                }
                for &(user, words) in users {
                    let mount = format!("{mount}{}", if read_only { ",readonly" } else { "" });
                    let script = match *kind {
                        "file" => "cat /m; echo there > /m && echo written",
                        _ => "cat /m/file; : > /m/new && echo written && rm /m/new",
                    };
                    let run = [&["run", "--rm", "--mount", &mount][..], words].concat();
                    let output = client(&host, &[&run[..], &["busybox", "sh", "-c", script]].concat());
                    let has = !matches!(*kind, "anonymous" | "tmpfs");
                    let closed = user == "other" && matches!(*kind, "volume" | "part" | "anonymous");
                    let writes = !read_only && *kind != "image" && !closed;
                    let case = format!("{kind}, read-only {read_only}, {user}: {output}");
                    assert_eq!(output.stdout.starts_with("there\n"), has, "{case}");
                    assert_eq!(output.stdout.ends_with("written\n"), writes, "{case}");
                }
            }
        }
    }
    let left = host.hull(&["volume", "ls", "-q"]);
    assert_eq!(left.ok(), "kept");
}

#[test]
fn nothing_takes_the_place_of_proc_but_what_tells_how_much_there_is() {
    let host = host();
    let file = host.folder().join("uptime");
    std::fs::write(&file, "told\n").unwrap();
    let content = content(&host, 1);
    image(&host, "faked", &content, &["VOLUME /proc"]);
    for client in CLIENTS {
        let run = |words: &[&str]| client(&host, &[&["run", "--rm"], words].concat());
        let told = format!("{}:/proc/uptime", file.display());
        assert_eq!(run(&["-v", &told, "busybox", "cat", "/proc/uptime"]).ok(), "told");
        run(&["faked", "/bin/true"]).fails(125, "cannot be mounted because it is not of type proc");
        for inside in ["/proc/sys", "/proc/self/attr", "/proc/1"] {
            for words in [["-v", &format!("fake:{inside}")], ["--tmpfs", inside]] {
                run(&[&words[..], &["busybox", "true"]].concat())
                    .fails(125, "cannot be mounted because it is inside /proc");
            }
        }
        client(&host, &["volume", "prune", "-a", "-f"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "");
    }
}
