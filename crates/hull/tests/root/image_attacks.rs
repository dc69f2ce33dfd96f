//! Images whose configuration would command somebody (K12): whatever an image says reaches the
//! inside of its own container and nothing else. Each test puts such an image beside a plain one and
//! compares what the host and the engine have made of both.

use std::fs;
use std::path::{Path, PathBuf};

use hull_testkit::{Baseline, Host};
use serde_json::{Value, json};

use super::{CLIENTS, host};

/// Words by which some component of the field takes orders: annotations of runtimes, engines,
/// orchestrators and their tools. `MARK` is a program that leaves a file where it runs, `CANARY` a
/// folder of the host.
const ORDERS: &[(&str, &str)] = &[
    ("cdi.k8s.io/devices", "vendor.example/device=all"),
    ("com.docker.compose.oneoff", "True"),
    ("com.docker.network.bridge.name", "lo"),
    ("com.docker.network.endpoint.sysctls", "net.ipv4.conf.IFNAME.forwarding=1"),
    ("com.docker.stack.namespace", "other"),
    ("com.docker.swarm.service.name", "other"),
    ("containerd.io/restart.loguri", "binary://MARK"),
    ("containerd.io/restart.policy", "always"),
    ("containerd.io/restart.status", "running"),
    ("desktop.docker.io/binds/0/Source", "CANARY"),
    ("io.balena.features.balena-api", "1"),
    ("io.containerd.image.config.stop-signal", "SIGKILL"),
    ("io.containers.autoupdate", "registry"),
    ("io.containers.capabilities", "SYS_ADMIN,SYS_PTRACE"),
    ("io.kubernetes.cri-o.Devices", "/dev/kmsg:/dev/kmsg:rwm"),
    ("io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", "true"),
    ("io.kubernetes.cri-o.UnifiedCgroup.c", "memory.max=1;pids.max=1"),
    ("io.kubernetes.cri-o.umask", "0"),
    ("io.kubernetes.cri-o.userns-mode", "auto"),
    ("io.kubernetes.cri-o.ShmSize", "1"),
    ("io.kubernetes.cri.container-type", "sandbox"),
    ("io.podman.annotations.autoremove", "TRUE"),
    ("io.podman.annotations.init", "TRUE"),
    ("io.podman.annotations.pids-limit", "1"),
    ("io.podman.annotations.privileged", "TRUE"),
    ("io.podman.annotations.publish-all", "TRUE"),
    ("io.podman.annotations.seccomp", "unconfined"),
    ("io.podman.annotations.userns", "host"),
    ("io.podman.annotations.volumes-from", "plain"),
    ("module.wasm.image/variant", "compat"),
    ("nerdctl/log-uri", "binary://MARK"),
    ("nerdctl/networks", "[\"host\"]"),
    ("nerdctl/mounts", "[{\"Type\":\"bind\",\"Source\":\"CANARY\",\"Destination\":\"/canary\"}]"),
    ("org.criu.config", "MARK"),
    ("org.opencontainers.image.stopSignal", "SIGKILL"),
    ("org.systemd.property.ExecStartPre", "['MARK']"),
    ("org.systemd.property.MemoryMax", "1"),
    ("run.oci.delegate", "/"),
    ("run.oci.handler", "krun"),
    ("run.oci.hooks.stdout", "CANARY/hooks"),
    ("run.oci.hooks.stderr", "CANARY/hooks"),
    ("run.oci.keep_original_groups", "1"),
    ("run.oci.mount_context_type", "context"),
    ("run.oci.pidfd_receiver", "CANARY/socket"),
    ("run.oci.seccomp.plugins", "MARK"),
    ("run.oci.seccomp.receiver", "CANARY/socket"),
    ("run.oci.seccomp_bpf_data", "AAAA"),
    ("run.oci.systemd.force_cgroup_v1", "/sys/fs/cgroup"),
    ("run.oci.timens_offset", "monotonic 1000"),
    ("vendor.libnvidia-container", "all"),
];

/// A folder of the host that must stay as it is, with a program in it that leaves a mark where it is run.
struct Canary {
    folder: PathBuf,
    program: PathBuf,
    mark: PathBuf,
}

impl Canary {
    fn of(host: &Host) -> Canary {
        let folder = host.folder().join("canary");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/file"), "untouched").unwrap();
        let (program, mark) = (folder.join("program"), host.folder().join("mark"));
        fs::write(&program, format!("#!/bin/sh\necho ran > {}\n", mark.display())).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The control: who executes it is seen.
        assert!(std::process::Command::new(&program).status().unwrap().success());
        fs::remove_file(&mark).unwrap();
        Canary { folder, program, mark }
    }

    /// Names, contents, inodes and times of change.
    fn state(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let mut all = Vec::new();
        for path in ["", "program", "sub", "sub/file"].map(|name| self.folder.join(name)) {
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = fs::read(&path).unwrap_or_default();
            all.push(format!("{path:?} {} {} {content:?}", stat.ino(), stat.ctime_nsec()));
        }
        let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
        all.push(format!(
            "{:?}, mark: {}",
            names.collect::<std::collections::BTreeSet<_>>(),
            self.mark.exists()
        ));
        all
    }

    fn orders(&self) -> Value {
        let (program, folder) = (self.program.display().to_string(), self.folder.display().to_string());
        let filled = |text: &str| text.replace("MARK", &program).replace("CANARY", &folder);
        ORDERS
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(filled(value))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// Loads busybox once more as `name`, with its configuration as `change` leaves it and with
/// annotations at every place of the archive that has some.
fn load(
    host: &Host,
    name: &str,
    annotations: &Value,
    change: impl FnOnce(&mut Value),
) -> hull_testkit::Finished {
    let folder = host.folder().join(name);
    fs::create_dir(&folder).unwrap();
    let archive = folder.join("saved.tar");
    host.hull(&["save", "-o", archive.to_str().unwrap(), "busybox"]).ok();
    tar(&folder, &["-xf", "saved.tar"]);
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let config = manifest[0]["Config"].as_str().unwrap();
    let mut document: Value = serde_json::from_slice(&fs::read(folder.join(config)).unwrap()).unwrap();
    change(&mut document);
    fs::write(folder.join("config.json"), document.to_string()).unwrap();
    let tag = format!("{name}:latest");
    let written = json!([{
        "Config": "config.json", "RepoTags": [tag], "Layers": manifest[0]["Layers"],
        "Annotations": annotations, "annotations": annotations,
    }]);
    fs::write(folder.join("manifest.json"), written.to_string()).unwrap();
    let mut members = vec!["-cf", "changed.tar", "manifest.json", "config.json"];
    members.extend(manifest[0]["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap()));
    tar(&folder, &members);
    host.hull(&["load", "-i", folder.join("changed.tar").to_str().unwrap()])
}

#[track_caller]
fn tar(folder: &Path, words: &[&str]) {
    let output =
        std::process::Command::new("tar").arg("-C").arg(folder).args(words).current_dir(folder).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a container's settings are, without what an image may say about the inside and without names.
#[track_caller]
fn settings(host: &Host, name: &str) -> Value {
    let text = host.hull(&["inspect", name]).ok().to_owned();
    let id = host.hull(&["inspect", "-f", "{{.Id}}", name]).ok().to_owned();
    let text = text.replace(&id, "ID").replace(&id[..12], "ID");
    let mut shown: Value = serde_json::from_str(&text).unwrap();
    let shown = shown[0].as_object_mut().unwrap();
    for inside in
        ["Args", "Config", "Created", "Image", "ImageManifestDescriptor", "Mounts", "Name", "Path", "State"]
    {
        shown.remove(inside);
    }
    let text = Value::from(shown.clone()).to_string();
    // Addresses and namespaces are each container's own.
    let networks = shown["NetworkSettings"].as_object_mut().unwrap();
    networks.retain(|key, _| key == "Ports");
    shown.remove("GraphDriver");
    assert!(!text.contains("canary"), "{text}");
    Value::from(shown.clone())
}

/// What a process of a container is to the kernel.
const IDENTITY: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/1/status; ls -l /dev | cut -c 1-10; \
    cut -d ' ' -f 4-6 /proc/1/mountinfo | grep -v /containers/; umask; cat /proc/1/oom_score_adj; \
    sed 's/.*://' /proc/1/cgroup; sysctl kernel.shmmax net.ipv4.conf.all.forwarding; ulimit -a; env | cut -d = -f 1 | sort; hostname | wc -c";

#[test]
fn an_images_words_are_orders_to_nobody() {
    let host = host();
    let canary = Canary::of(&host);
    load(&host, "ordering", &canary.orders(), |document| {
        document["config"]["Labels"] = canary.orders();
        document["annotations"] = canary.orders();
        // What only a request may say.
        document["HostConfig"] =
            json!({"Privileged": true, "Binds": [format!("{}:/c", canary.folder.display())]});
        document["config"]["HostConfig"] = document["HostConfig"].clone();
        document["config"]["Hooks"] = json!({"prestart": [{"path": canary.program}]});
        document["container_config"] = json!({"Privileged": true});
        document["config"]["Runtime"] = json!(canary.program);
    })
    .ok();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let (before, untouched) = (Baseline::of(&host), canary.state());
    for client in CLIENTS {
        for flags in [&[][..], &["--rm"], &["--init", "--read-only"]] {
            for (name, image) in [("plain", "busybox"), ("hostile", "ordering")] {
                let words = [&["run", "-d", "--name", name], flags, &[image, "sleep", "1000"]].concat();
                client(&host, &words).ok();
            }
            assert_eq!(settings(&host, "plain"), settings(&host, "hostile"), "{flags:?}");
            let identity = |name: &str| client(&host, &["exec", name, "sh", "-c", IDENTITY]).ok().to_owned();
            assert_eq!(identity("plain"), identity("hostile"), "{flags:?}");
            assert_eq!(canary.state(), untouched, "{flags:?}");
            client(&host, &["rm", "-f", "plain", "hostile"]).ok();
        }
    }
    before.returns(&host);
    // They are data: shown as such.
    let labels = host.hull(&["inspect", "-f", "{{json .Config.Labels}}", "ordering"]);
    assert_eq!(serde_json::from_str::<Value>(labels.ok()).unwrap(), canary.orders());
    assert_eq!(canary.state(), untouched);
}

/// Paths out of the container, by every way in which an image names one.
#[test]
fn an_images_paths_stay_in_its_container() {
    let host = host();
    let canary = Canary::of(&host);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let (before, untouched) = (Baseline::of(&host), canary.state());
    // From any folder of a container's on the host, this leads to the canary.
    let climbing = format!("{}{}", "/..".repeat(20), canary.folder.display());
    // The control: so it does for who only appends it.
    assert!(Path::new(&format!("{}{climbing}/sub/file", host.data_root().display())).exists());
    let paths = [
        climbing.clone(),
        format!("/proc/1/root{climbing}"),
        "/proc/self/fd/3/..".to_owned(),
        "/dev/fd/5".to_owned(),
    ];
    for (number, path) in paths.iter().enumerate() {
        for (kind, key) in [("volume", "Volumes"), ("folder", "WorkingDir")] {
            let name = format!("{kind}{number}");
            let loaded = load(&host, &name, &json!({}), |document| {
                document["config"][key] = if kind == "volume" { json!({path: {}}) } else { json!(path) };
            });
            assert_eq!(loaded.code, 0, "{loaded}");
            for client in CLIENTS {
                let script = "touch made 2>/dev/null; pwd; echo x > sub/file; readlink /proc/1/cwd";
                let run = client(
                    &host,
                    &[
                        "run",
                        "--rm",
                        "-d",
                        "--name",
                        "box",
                        &name,
                        "sh",
                        "-c",
                        &format!("{script}; sleep 1000"),
                    ],
                );
                // Some are refused: where a volume would be is no place for one.
                assert!(run.code == 0 || run.stderr.contains("Error response from daemon"), "{run}");
                assert_eq!(canary.state(), untouched, "{key}: {path}");
                if run.code == 0 {
                    let seen =
                        client(&host, &["exec", "-w", path, "box", "sh", "-c", "ls sub/file; cat program"]);
                    assert!(!seen.stdout.contains("echo ran"), "{seen}");
                }
                client(&host, &["rm", "-fv", "box"]);
                let copied = client(&host, &["create", "--name", "box", &name, "true"]);
                if copied.code == 0 {
                    client(&host, &["cp", canary.program.to_str().unwrap(), &format!("box:{path}/copied")]);
                    assert_eq!(canary.state(), untouched, "{key}: {path}, by a copy");
                    client(&host, &["rm", "-fv", "box"]).ok();
                }
            }
            host.hull(&["rmi", &name]).ok();
        }
    }
    before.returns(&host);
}

/// What has the form of two lines, of another user, of no user, or of the loader's own settings.
#[test]
fn an_images_user_and_environment_are_the_processs_alone() {
    let host = host();
    let canary = Canary::of(&host);
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let (before, untouched) = (Baseline::of(&host), canary.state());
    let users = [
        "root\nevil",
        "0:0:0",
        "4294967296",
        "2147483648:0",
        "-1",
        "+0",
        "0x0",
        " 0",
        "nobody:..",
        "../../etc/passwd",
        "nosuchuser",
        "0\u{0}1000",
    ];
    for (number, user) in users.iter().enumerate() {
        let name = format!("user{number}");
        let loaded = load(&host, &name, &json!({}), |document| document["config"]["User"] = json!(user));
        if loaded.code == 0 {
            for client in CLIENTS {
                let run = client(&host, &["run", "--rm", &name, "id", "-u"]);
                assert!(matches!(run.code, 125 | 126) && run.stdout.is_empty(), "USER {user:?}: {run}");
            }
        }
    }
    let (program, folder) = (canary.program.display().to_string(), canary.folder.display().to_string());
    let environment = json!([
        "HOME=/root\nX=1\n0:0:::/:/bin/sh",
        format!("LD_PRELOAD={program}"),
        format!("LD_LIBRARY_PATH={folder}"),
        format!("BASH_ENV={program}"),
        format!("ENV={program}"),
        "_LIBCONTAINER_INITPIPE=3",
        "_LIBCONTAINER_FIFOFD=4",
        "LISTEN_FDS=9",
        "NOTIFY_SOCKET=/run/systemd/notify",
        "DOCKER_HOST=tcp://127.0.0.1:1",
        "GCONV_PATH=/",
        "NVIDIA_VISIBLE_DEVICES=all",
        "RUST_LOG=trace",
        "HULL_FAILPOINT=engine.create.half-way",
        "MALLOC_TRACE=/canary",
        "NOVALUE",
        "A=B=C\nD",
    ]);
    load(&host, "env", &json!({}), |document| document["config"]["Env"] = environment).ok();
    for client in CLIENTS {
        client(&host, &["run", "-d", "--name", "box", "env", "sleep", "1000"]).ok();
        let home = client(&host, &["exec", "box", "sh", "-c", "echo \"$HOME\"; cat /etc/passwd | wc -l"]);
        assert!(home.ok().starts_with("/root\nX=1\n0:0:::/:/bin/sh\n"), "{home}");
        // Whatever the host runs for this container has nothing of it.
        let of_host: Vec<_> = host
            .processes()
            .into_iter()
            .filter(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.starts_with("hull")
            })
            .collect();
        assert!(of_host.len() >= 3, "daemon, spawner and shim: {of_host:?}");
        for pid in of_host {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environ = String::from_utf8_lossy(&environ).into_owned();
            assert!(!environ.contains("LD_PRELOAD") && !environ.contains("LIBCONTAINER"), "{pid}: {environ}");
        }
        client(&host, &["rm", "-f", "box"]).ok();
        assert_eq!(canary.state(), untouched);
    }
    host.hull(&["image", "prune", "-af"]).ok();
    host.busybox();
    before.returns(&host);
}
