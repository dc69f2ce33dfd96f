//! load, save, import, tag, rmi, ls, history, inspect, capture: through both clients.

use std::process::Command;

use super::{CLIENTS, bare, host};

#[test]
fn saved_and_loaded_again_an_image_is_the_same() {
    let host = host();
    let id = host.hull(&["inspect", "-f", "{{.Id}}", "busybox"]).ok().to_owned();
    for client in CLIENTS {
        let file = host.folder().join("saved.tar").display().to_string();
        client(&host, &["save", "-o", &file, "busybox"]).ok();
        client(&host, &["rmi", "busybox"]).ok();
        client(&host, &["run", "--rm", "--pull", "never", "busybox", "true"]).fails(125, "busybox");
        assert!(client(&host, &["load", "-i", &file]).ok().contains("Loaded image: busybox:latest"));
        assert_eq!(client(&host, &["inspect", "-f", "{{.Id}}", "busybox"]).ok(), id);
        assert_eq!(client(&host, &["run", "--rm", "busybox", "echo", "alive"]).ok(), "alive");
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn an_image_of_another_platform_is_not_what_was_asked_for() {
    let host = host();
    for client in CLIENTS {
        let other = "--platform=linux/riscv64";
        let words = "does not match the specified platform (linux/riscv64)";
        client(&host, &["image", "inspect", other, "busybox"]).fails(1, words);
        client(&host, &["history", other, "busybox"]).fails(1, words);
        let file = host.folder().join("other.tar").display().to_string();
        client(&host, &["save", other, "-o", &file, "busybox"]).fails(1, "no suitable export target found");
        // Not a 404, which would send the client for the image.
        client(&host, &["run", "--rm", "--pid", "container:nosuch", "busybox", "true"])
            .fails(125, "daemon: No such container: nosuch");
    }
}

#[test]
fn other_tools_read_what_save_writes_and_load_reads_what_they_write() {
    let host = host();
    let file = host.folder().join("saved.tar").display().to_string();
    host.docker(&["save", "-o", &file, "busybox"]).ok();
    let layout = host.folder().join("layout.tar").display().to_string();
    let copied = Command::new("skopeo")
        .args([
            "copy",
            "--insecure-policy",
            &format!("docker-archive:{file}"),
            &format!("oci-archive:{layout}:other:1"),
        ])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    host.hull(&["load", "-i", &layout]).ok();
    assert_eq!(host.hull(&["run", "--rm", "other:1", "echo", "from skopeo"]).ok(), "from skopeo");
}

#[test]
fn import_makes_an_image_of_a_tree() {
    let host = bare();
    let tree = host.folder().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap();
    std::fs::copy(busybox, tree.join("bin/sh")).unwrap();
    let file = host.folder().join("tree.tar").display().to_string();
    // What the same tree is to the daemon, however it was packed.
    let mut diff_ids = std::collections::BTreeSet::new();
    let ways = ["--gzip", "--zstd", "--bzip2", "--xz"];
    for (client, compression) in CLIENTS.into_iter().cycle().zip(ways) {
        let packed = Command::new("tar")
            .args(["-C", &tree.display().to_string(), compression, "-cf", &file, "."])
            .status()
            .unwrap();
        assert!(packed.success());
        let id = client(
            &host,
            &["import", "--change", "CMD [\"/bin/sh\", \"-c\", \"echo imported\"]", &file, "mine:v1"],
        )
        .ok()
        .to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(client(&host, &["run", "--rm", "mine:v1"]).ok(), "imported");
        let diff_id = client(&host, &["inspect", "-f", "{{index .RootFS.Layers 0}}", "mine:v1"]);
        diff_ids.insert(diff_id.ok().to_owned());
        let saved = host.folder().join("saved.tar").display().to_string();
        client(&host, &["save", "-o", &saved, "mine:v1"]).ok();
        client(&host, &["rmi", "mine:v1"]).ok();
        client(&host, &["load", "-i", &saved]).ok();
        assert_eq!(client(&host, &["run", "--rm", "mine:v1"]).ok(), "imported");
        client(&host, &["rmi", "mine:v1"]).ok();
    }
    assert_eq!(diff_ids.len(), 1, "{diff_ids:?}");
    // The last one, cut short.
    let packed = std::fs::read(&file).unwrap();
    std::fs::write(&file, &packed[..packed.len() / 2]).unwrap();
    for client in CLIENTS {
        client(&host, &["import", &file, "half:v1"]).fails(1, "cannot unpack the archive");
    }
    for folder in ["image/layers", "image/blobs/sha256", "image/ingest"] {
        let left: Vec<_> = std::fs::read_dir(host.data_root().join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{folder} still has {left:?}");
    }
}

#[test]
fn names_are_given_and_taken_and_the_last_one_takes_the_image() {
    let host = host();
    for client in CLIENTS {
        client(&host, &["tag", "busybox", "mine/box:v2"]).ok();
        let list = client(&host, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().to_owned();
        assert!(list.contains("mine/box:v2") && list.contains("busybox:latest"), "{list}");
        assert_eq!(client(&host, &["rmi", "mine/box:v2"]).ok(), "Untagged: mine/box:v2");
        client(&host, &["tag", "ghost", "x"]).fails(1, "No such image: ghost");
        client(&host, &["tag", "busybox", "Bad/Name"]).fails(1, "must be lowercase");
        client(&host, &["rmi", "ghost"]).fails(1, "No such image: ghost");
        let history = client(&host, &["history", "--no-trunc", "busybox"]);
        assert!(history.ok().lines().count() >= 2, "{history}");
    }
    host.hull(&["create", "--name", "user", "busybox"]).ok();
    for client in CLIENTS {
        client(&host, &["rmi", "busybox"]).fails(1, "conflict: unable to remove repository reference");
    }
    host.hull(&["rm", "user"]).ok();
    assert!(host.docker(&["rmi", "busybox"]).ok().contains("Deleted: sha256:"));
    assert_eq!(host.hull(&["images", "-q"]).ok(), "");
    for folder in ["image/layers", "image/blobs/sha256"] {
        let left: Vec<_> = std::fs::read_dir(host.data_root().join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{folder} still has {left:?}");
    }
}

#[test]
fn a_captured_python_runs_with_its_standard_library() {
    let host = bare();
    host.hull(&["image", "capture", "python", "python3"]).ok();
    let program = "import json, hashlib, ssl, sqlite3, http.server; print(json.dumps({'pi': 3}), hashlib.sha256(b'').hexdigest()[:8])";
    for client in CLIENTS {
        assert_eq!(
            client(&host, &["run", "--rm", "python", "python3", "-c", program]).ok(),
            "{\"pi\": 3} e3b0c442"
        );
    }
}

#[test]
fn a_hostile_archive_is_refused_and_the_host_untouched() {
    let host = bare();
    let canary = host.folder().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let script = r#"
import io, json, sys, tarfile
out, canary = sys.argv[1], sys.argv[2]
def layer(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as tar:
        for kind, name, value in members:
            entry = tarfile.TarInfo(name)
            if kind == 'file':
                entry.size = len(value); tar.addfile(entry, io.BytesIO(value)); continue
            entry.type = {'link': tarfile.SYMTYPE, 'hard': tarfile.LNKTYPE, 'dir': tarfile.DIRTYPE}[kind]
            entry.linkname = value or ''
            tar.addfile(entry)
    return data.getvalue()
up = '../' * 20
cases = {
    'dotdot': [('file', up + canary.lstrip('/'), b'owned')],
    'symlink': [('link', 'out', canary.rsplit('/', 1)[0]), ('file', 'out/canary', b'owned')],
    'hardlink': [('hard', 'stolen', up + canary.lstrip('/')), ('file', 'stolen', b'owned')],
}
import hashlib
for name, members in cases.items():
    data = layer(members)
    config = json.dumps({'architecture': 'amd64', 'os': 'linux', 'config': {},
        'rootfs': {'type': 'layers', 'diff_ids': ['sha256:' + hashlib.sha256(data).hexdigest()]}}).encode()
    manifest = json.dumps([{'Config': 'config.json', 'RepoTags': [name + ':latest'], 'Layers': ['layer.tar']}]).encode()
    with tarfile.open(f'{out}/{name}.tar', 'w') as tar:
        for member, content in (('config.json', config), ('layer.tar', data), ('manifest.json', manifest)):
            entry = tarfile.TarInfo(member); entry.size = len(content); tar.addfile(entry, io.BytesIO(content))
"#;
    let folder = host.folder().display().to_string();
    let made = Command::new("python3")
        .args(["-c", script, &folder, &canary.display().to_string()])
        .status()
        .unwrap();
    assert!(made.success());
    for name in ["dotdot", "symlink", "hardlink"] {
        let file = format!("{folder}/{name}.tar");
        let finished = host.docker(&["load", "-i", &file]);
        // A link out of the layer is lawful by itself; what goes through it must not be.
        assert!(finished.code != 0 || name == "symlink", "{finished}");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched", "{name} reached the host");
    }
    host.hull(&["run", "--rm", "hello"]).ok();
}

#[test]
fn an_image_for_another_machine_is_warned_of_unless_it_was_asked_for() {
    let host = bare();
    let other = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    // The end of an archive, and nothing before it.
    host.hull_with_input(&["import", "--platform", other, "-", "other:1"], &[0; 1024]).ok();
    for client in CLIENTS {
        let text = format!(
            "The requested image's platform ({other}) does not match the detected host platform (linux/"
        );
        let warned = client(&host, &["create", "--network", "none", "other:1", "true"]);
        warned.ok();
        assert!(warned.stderr.contains(&text), "{warned}");
        let asked = client(&host, &["create", "--network", "none", "--platform", other, "other:1", "true"]);
        assert_eq!((asked.code, asked.stderr.as_str()), (0, ""), "{asked}");
    }
}
