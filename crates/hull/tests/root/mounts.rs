//! Mounts of containers by both clients: what is seen through them, how they spread, what refuses
//! to be mounted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hull_testkit::Host;

use super::{CLIENTS, host};

/// A folder of the machine that is a mount of its own, which spreads as `propagation` says.
#[track_caller]
fn point(host: &Host, name: &str, propagation: &str) -> PathBuf {
    let path = host.folder().join(name);
    std::fs::create_dir(&path).unwrap();
    mount(host, &path);
    inside(host, &["mount", &format!("--make-{propagation}"), path.to_str().unwrap()]);
    path
}

#[track_caller]
fn inside(host: &Host, words: &[&str]) {
    let output = host.inside(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An empty file system at a folder of the machine.
#[track_caller]
fn mount(host: &Host, path: &Path) {
    inside(host, &["mount", "-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
}

#[test]
fn an_image_is_mounted_read_only_wholly_or_in_part() {
    let host = host();
    host.hull(&["image", "capture", "tools", "true", "cat"]).ok();
    for client in CLIENTS {
        let run = |mount: &str, script: &str| {
            let words = ["run", "--rm", "--mount", mount, "busybox", "sh", "-c", script];
            client(&host, &words)
        };
        let whole = "type=image,src=tools,dst=/tools";
        let script = "ls /tools; touch /tools/x 2>&1 | grep -o 'Read-only file system'";
        let output = run(whole, script);
        assert!(output.ok().contains("usr\n") && output.ok().ends_with("Read-only file system"), "{output}");
        assert_eq!(run("type=image,src=tools,dst=/t,image-subpath=usr/bin", "ls /t").ok(), "cat\ntrue");
        run("type=image,src=tools,dst=/t,image-subpath=nosuch", "ls /t")
            .fails(127, "/nosuch: no such file or directory");
        run("type=image,src=tools,dst=/t,image-subpath=../up", "ls /t")
            .fails(125, "subpath must be a relative path within the image");
        // Who mounts it uses it.
        client(&host, &["run", "-d", "--name", "user", "--mount", whole, "busybox", "sleep", "1000"]).ok();
        let seen = client(&host, &["inspect", "-f", "{{json .Mounts}}", "user"]);
        assert!(seen.ok().starts_with(r#"[{"Type":"image","Name":"tools","Source":"sha256:"#), "{seen}");
        assert!(seen.ok().contains(r#""Destination":"/tools","Mode":"","RW":false"#), "{seen}");
        client(&host, &["rmi", "tools"]).fails(1, "is using its referenced image");
        client(&host, &["rm", "-f", "user"]).ok();
    }
    // Whoever has the name afterwards: a container keeps what it was made with.
    let kept = ["create", "--name", "kept", "--mount", "type=image,src=tools,dst=/t", "busybox", "ls", "/t"];
    host.hull(&kept).ok();
    host.hull(&["tag", "busybox", "tools"]).ok();
    host.hull(&["image", "prune", "-a", "-f"]).ok();
    let shown = host.hull(&["start", "-a", "kept"]).ok().to_owned();
    assert!(!shown.contains("home"), "{shown}");
    for client in CLIENTS {
        let taken = ["run", "--rm", "--volumes-from", "kept", "busybox", "ls", "/t"];
        assert_eq!(client(&host, &taken).ok(), shown, "whoever takes it over has it, too");
        for mode in ["nocopy", "rslave", "ro,rw"] {
            let from = format!("kept:{mode}");
            client(&host, &["run", "--rm", "--volumes-from", &from, "busybox", "true"])
                .fails(125, &format!("invalid mode: {mode}"));
        }
    }
}

/// What the host has mounted below is as read-only as the rest, where nobody asked for something else.
#[test]
fn what_is_mounted_below_a_read_only_volume_or_bind_is_read_only() {
    let host = host();
    host.hull(&["volume", "create", "data"]).ok();
    let bound = host.folder().join("bound");
    for folder in [&host.data_root().join("volumes/data/_data"), &bound] {
        std::fs::create_dir_all(folder.join("below")).unwrap();
        mount(&host, &folder.join("below"));
    }
    let bind = bound.display().to_string();
    for client in CLIENTS {
        let writes = |words: &[&str]| {
            let run = [&["run", "--rm"], words, &["busybox", "touch", "/v/below/file"]].concat();
            client(&host, &run).code == 0
        };
        for source in ["data", bind.as_str()] {
            assert!(writes(&["-v", &format!("{source}:/v")]), "{source}");
            assert!(!writes(&["-v", &format!("{source}:/v:ro")]), "{source}");
        }
        assert!(!writes(&["--mount", "type=volume,src=data,dst=/v,readonly"]));
        let mount = |words: &str| format!("type=bind,src={bind},dst=/v,readonly{words}");
        assert!(!writes(&["--mount", &mount("")]));
        assert!(writes(&["--mount", &mount(",bind-recursive=writable")]));
    }
}

#[test]
fn mounts_of_the_host_made_after_the_daemons_start_are_seen() {
    let host = host();
    let path = host.folder().join("late");
    std::fs::create_dir(&path).unwrap();
    mount(&host, &path);
    inside(&host, &["touch", path.join("file").to_str().unwrap()]);
    for client in CLIENTS {
        let bind = format!("{}:/late", path.display());
        assert_eq!(client(&host, &["run", "--rm", "-v", &bind, "busybox", "ls", "/late"]).ok(), "file");
    }
}

#[test]
fn binds_spread_as_they_were_asked_to() {
    let host = host();
    let shared = point(&host, "shared", "shared");
    let source = shared.to_str().unwrap();
    for (client, name) in CLIENTS.into_iter().zip(["ours", "theirs"]) {
        for (propagation, down, up) in
            [("rprivate", false, false), ("rslave", true, false), ("rshared", true, true)]
        {
            let bind = format!("type=bind,src={source},dst=/s,bind-propagation={propagation}");
            let run = ["run", "-d", "--name", "box", "--cap-add", "SYS_ADMIN", "--mount", &bind];
            client(&host, &[&run[..], &["busybox", "sleep", "1000"]].concat()).ok();
            // From the host into the container.
            let below = shared.join(format!("{name}-{propagation}"));
            inside(&host, &["mkdir", below.to_str().unwrap()]);
            mount(&host, &below);
            inside(&host, &["touch", below.join("file").to_str().unwrap()]);
            let inner = format!("/s/{name}-{propagation}");
            let seen = client(&host, &["exec", "box", "ls", &inner]);
            assert_eq!(seen.ok() == "file", down, "{propagation}: {seen}");
            // From the container to the host.
            let made = "mkdir /s/up && mount -t tmpfs tmpfs /s/up && touch /s/up/there";
            client(&host, &["exec", "box", "sh", "-c", made]).ok();
            let there =
                host.inside("test").arg("-e").arg(shared.join("up/there")).status().unwrap().success();
            assert_eq!(there, up, "{propagation}");
            client(&host, &["rm", "-f", "box"]).ok();
            if up {
                inside(&host, &["umount", shared.join("up").to_str().unwrap()]);
            }
            inside(&host, &["rmdir", shared.join("up").to_str().unwrap()]);
            inside(&host, &["umount", below.to_str().unwrap()]);
        }
    }
    let text = host.inside("cat").arg("/proc/self/mountinfo").output().unwrap().stdout;
    let below = String::from_utf8_lossy(&text).lines().filter(|line| line.contains("/shared/")).count();
    assert_eq!(below, 0, "a container's mounts stayed on the host");
}

#[test]
fn a_bind_of_what_does_not_spread_is_refused_in_the_references_words() {
    let host = host();
    let private = point(&host, "private", "private");
    let source = private.join("sub");
    inside(&host, &["mkdir", source.to_str().unwrap()]);
    for client in CLIENTS {
        for (propagation, kind) in [("rshared", "a shared"), ("rslave", "a shared or slave")] {
            let bind = format!("{}:/x:{propagation}", source.display());
            let text = format!(
                "path {} is mounted on {} but it is not {kind} mount",
                source.display(),
                private.display()
            );
            client(&host, &["run", "--rm", "-v", &bind, "busybox", "true"]).fails(125, &text);
        }
    }
}

#[test]
fn mounts_lie_over_each_other_in_the_order_of_their_depth() {
    let host = host();
    let folder = host.folder();
    for name in ["outer/mid", "inner"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("file"), "a file\n").unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    for client in CLIENTS {
        let binds = [
            format!("{}:/a/mid/deep/file", path("file")),
            format!("{}:/a/mid/deep", path("inner")),
            format!("{}:/a", path("outer")),
        ];
        let script = "cat /a/mid/deep/file; grep -o ' /a[^ ]* ' /proc/self/mountinfo | tr -s ' \\n' ' '";
        let words = ["run", "--rm", "-v", &binds[0], "-v", &binds[1], "-v", &binds[2], "--tmpfs", "/a/mid"];
        let output = client(&host, &[&words[..], &["busybox", "sh", "-c", script]].concat());
        assert_eq!(output.ok().trim_end(), "a file\n /a /a/mid /a/mid/deep /a/mid/deep/file");
        // What is there of the host stays; only the places of mounts were made.
        assert!(folder.join("inner/file").exists() && !folder.join("outer/mid/deep").exists());
        // Ours of /etc are seen in whatever lies there.
        let etc = client(&host, &["run", "--rm", "--tmpfs", "/etc", "busybox", "ls", "/etc"]);
        assert_eq!(etc.ok(), "hostname\nhosts\nresolv.conf");
        let file = format!("{}:/etc", path("file"));
        client(&host, &["run", "--rm", "-v", &file, "busybox", "true"])
            .fails(125, "Are you trying to mount a directory onto a file (or vice-versa)?");
    }
}

#[test]
fn what_was_asked_for_is_shown_as_it_was_asked() {
    let host = host();
    let source = host.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    let source = source.display();
    for client in CLIENTS {
        let words = ["create", "--name", "box"];
        let asked = [
            "-v",
            &format!("{source}:/h:ro,z"),
            "-v",
            &format!("{source}:/c"),
            "--mount",
            &format!("type=bind,src={source},dst=/m,readonly"),
            "--tmpfs",
            "/t:size=1m",
            "--mount",
            "type=tmpfs,dst=/u,tmpfs-size=1m,tmpfs-mode=1770",
        ];
        client(&host, &[&words[..], &asked, &["busybox", "true"]].concat()).ok();
        // The official client sends those of -v in any order.
        let lines = |format: &str| -> BTreeSet<String> {
            client(&host, &["inspect", "-f", format, "box"]).ok().lines().map(str::to_owned).collect()
        };
        let bind = |target: &str, mode: &str, writable: bool| {
            format!(
                r#"{{"Type":"bind","Source":"{source}","Destination":"{target}","Mode":"{mode}","RW":{writable},"Propagation":"rprivate"}}"#
            )
        };
        let tmpfs = r#"{"Type":"tmpfs","Source":"","Destination":"/u","Mode":"","RW":true,"Propagation":""}"#;
        let (h, c, m) = (bind("/h", "ro,z", false), bind("/c", "", true), bind("/m", "", false));
        let mounts = lines("{{range .Mounts}}{{json .}}{{println}}{{end}}");
        assert_eq!(mounts, [h, c, m, tmpfs.to_owned()].into());
        let binds = lines("{{range .HostConfig.Binds}}{{println .}}{{end}}");
        assert_eq!(binds, [format!("{source}:/h:ro,z"), format!("{source}:/c")].into());
        client(&host, &["rm", "box"]).ok();
    }
}
