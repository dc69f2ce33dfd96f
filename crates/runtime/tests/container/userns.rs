//! Containers whose root is nobody on the host: a user namespace with everything else made in it.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Device, IdMapping, Namespace, NamespaceKind};
use hull_runtime::bundle::{Bundle, Rootfs};
use hull_runtime::container::{Started, Streams};

use crate::joined::{exec_of, run};
use crate::world::{World, end, finish, mount, pipes, snapshot};

crate::tests! {
    root_inside_is_another_user_outside
    capabilities_count_inside_only
    devices_and_kernel_file_systems_are_there_in_a_user_namespace
    what_the_host_keeps_from_others_it_keeps_from_mapped_root
    an_exec_joins_the_user_namespace
    a_terminal_works_in_a_user_namespace
    without_a_network_of_its_own_a_user_namespace_sees_the_hosts_sys
    layers_have_the_containers_ids_on_disk
    bind_mounts_are_mapped_where_idmap_says_so
    what_is_closed_to_others_can_be_bound_and_what_cannot_be_mapped_says_so
    a_user_and_a_network_namespace_are_joined_as_a_pair
}

const FIRST: u32 = 100_000;
const MAPPING: IdMapping = IdMapping { container_id: 0, host_id: FIRST, size: 65536 };

/// A bundle in a user namespace, on the layers of all others.
fn layered(world: &World, args: &[&str]) -> (Bundle, PathBuf) {
    let mut bundle = world.bundle(args);
    let linux = &mut bundle.spec.linux;
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: None });
    linux.uid_mappings = vec![MAPPING];
    linux.gid_mappings = vec![MAPPING];
    let Rootfs::Overlay { upper: Some(upper), .. } = &bundle.rootfs else { unreachable!() };
    let upper = upper.upper.clone();
    (bundle, upper)
}

/// Owner and group on disk.
fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

/// A bundle in a user namespace, with a root folder that belongs to its root.
fn mapped(world: &World, args: &[&str]) -> (Bundle, PathBuf) {
    let mut bundle = world.bundle(args);
    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let root = world.dir.path().join(format!("{}-root", bundle.id));
    copy(&world.lower(), &root);
    bundle.rootfs = Rootfs::Directory(root.clone());
    let linux = &mut bundle.spec.linux;
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: None });
    linux.uid_mappings = vec![MAPPING];
    linux.gid_mappings = vec![MAPPING];
    (bundle, root)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    chown(to, Some(FIRST), Some(FIRST)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            std::fs::copy(&from, &to).unwrap();
            chown(&to, Some(FIRST), Some(FIRST)).unwrap();
        }
    }
}

fn add_capability(bundle: &mut Bundle, name: &str) {
    let sets = bundle.spec.process.as_mut().unwrap().capabilities.as_mut().unwrap();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.push(name.to_owned());
    }
}

/// The ids of a process as the host has them, and its user namespace.
fn outside(started: &Started) -> (Vec<String>, String) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    let ids = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
    let ids = ids.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect();
    let namespace = std::fs::read_link(format!("/proc/{}/ns/user", started.pid)).unwrap();
    (ids, namespace.display().to_string())
}

fn stop(started: Started) {
    hull_sys::process::signal(&started.pidfd, 9).unwrap();
    end(started.pidfd, &started.cgroup);
}

fn root_inside_is_another_user_outside(world: &World) {
    let script =
        "id -u; id -g; cat /proc/self/uid_map | { read a b c; echo $a $b $c; }; echo mine > /made; hostname";
    let (bundle, root) = mapped(world, &["sh", "-c", script]);
    assert_eq!(world.output(&bundle), "0\n0\n0 100000 65536\nbox\n");
    let made = std::fs::metadata(root.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    // A user that is not root, and one that is not mapped.
    let (mut bundle, root) =
        mapped(world, &["sh", "-c", "id -u; id -G; echo > /tmp/made; echo out > /dev/stdout"]);
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let user = &mut bundle.spec.process.as_mut().unwrap().user;
    (user.uid, user.gid, user.additional_gids) = (1000, 1001, vec![5]);
    assert_eq!(world.output(&bundle), "1000\n1001 5\nout\n");
    let made = std::fs::metadata(root.join("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST + 1000, FIRST + 1001));
    bundle.spec.process.as_mut().unwrap().user.uid = 70_000;
    assert!(world.run(&bundle).is_err(), "a user outside of the map");
    let (mut bundle, _) = mapped(world, &["true"]);
    bundle.spec.linux.gid_mappings.clear();
    let error = world.run(&bundle).unwrap_err();
    assert_eq!(error.message, "a user namespace needs uidMappings and gidMappings");
}

fn capabilities_count_inside_only(world: &World) {
    // The control: inside, the capability does what it says.
    let script = "mkdir /m && mount -t tmpfs none /m && echo mounted; hostname other && hostname; \
                  mount -t tmpfs none /proc/sys 2>/dev/null && echo covered; \
                  (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo wrote; \
                  (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null && echo dropped; \
                  kill -0 1 && echo signalled";
    let (mut bundle, _) = mapped(world, &["sh", "-c", script]);
    add_capability(&mut bundle, "CAP_SYS_ADMIN");
    add_capability(&mut bundle, "CAP_SYS_RESOURCE");
    bundle.spec.linux.readonly_paths.clear();
    let output = world.run(&bundle).unwrap();
    assert_eq!(output.out, "mounted\nother\ncovered\nsignalled\n", "{output:?}");
    // Devices by number are the host's: nobody inside makes one.
    let (bundle, _) =
        mapped(world, &["sh", "-c", "grep CapEff /proc/self/status; mknod /n c 1 3 2>/dev/null || echo no"]);
    assert_eq!(world.output(&bundle), "CapEff:\t00000000a80425fb\nno\n");
}

fn devices_and_kernel_file_systems_are_there_in_a_user_namespace(world: &World) {
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; \
                  for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
                  ls /dev/pts /dev/shm /dev/mqueue >/dev/null || echo no folders; echo > /dev/shm/f; \
                  grep -c ' /proc proc ' /proc/mounts; grep -c ' /sys sysfs ' /proc/mounts; ls /sys/class/net; \
                  test -d /sys/fs/cgroup || echo no cgroup; cat /proc/1/comm; \
                  ls -A /sys/firmware | wc -l; \
                  (echo > /proc/sysrq-trigger) 2>/dev/null && echo triggered; true";
    let (mut bundle, _) = mapped(world, &["sh", "-c", script]);
    bundle.spec.linux.devices.push(Device {
        kind: "c".into(),
        path: "/dev/full".into(),
        major: 1,
        minor: 7,
        ..Device::default()
    });
    let output = world.output(&bundle);
    assert_eq!(output, "3\n5\n1\n1\nlo\nsh\n0\n");
}

fn what_the_host_keeps_from_others_it_keeps_from_mapped_root(world: &World) {
    let canary = world.canary();
    for (name, mode) in [("secret", 0o600), ("public", 0o644)] {
        std::fs::write(canary.join(name), name).unwrap();
        std::fs::set_permissions(canary.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let script = "cat /host/public; cat /host/secret 2>/dev/null; chown 0 /host/public 2>/dev/null; \
                  echo x > /host/public 2>/dev/null; touch /host/new 2>/dev/null; ls -n /host/public | { read a b c d; echo $c; }";
    let (mut bundle, _) = mapped(world, &["sh", "-c", script]);
    bundle.spec.mounts.push(mount("/host", "bind", canary.to_str().unwrap(), "rbind"));
    let output = world.run(&bundle).unwrap();
    assert_eq!(output.out, "public65534\n", "{output:?}");
    assert_eq!(std::fs::read_to_string(canary.join("public")).unwrap(), "public");
    assert!(!canary.join("new").exists());
    for name in ["secret", "public"] {
        std::fs::remove_file(canary.join(name)).unwrap();
    }
}

fn an_exec_joins_the_user_namespace(world: &World) {
    let (bundle, _) = mapped(world, &["sleep", "1000"]);
    let started = world.start(&bundle, &pipes().0).unwrap();
    let (ids, namespace) = outside(&started);
    assert_eq!(ids, ["100000", "100000"]);
    assert_ne!(namespace, std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string());
    let script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; grep CapEff /proc/self/status; echo > /by-exec; kill -0 1 && echo may";
    let output = run(world, &exec_of(&bundle, &["sh", "-c", script]), &started).unwrap();
    let wanted = format!("0\n{namespace}\n{namespace}\nCapEff:\t00000000a80425fb\nmay\n");
    assert_eq!((output.code, &*output.out, &*output.err), (0, &*wanted, ""));
    let mut exec = exec_of(&bundle, &["sh", "-c", "id -u; grep CapEff /proc/self/status"]);
    exec.process.user.uid = 1000;
    exec.process.capabilities.as_mut().unwrap().permitted.clear();
    exec.process.capabilities.as_mut().unwrap().effective.clear();
    assert_eq!(run(world, &exec, &started).unwrap().out, "1000\nCapEff:\t0000000000000000\n");
    stop(started);
}

fn a_terminal_works_in_a_user_namespace(world: &World) {
    let (bundle, _) =
        mapped(world, &["sh", "-c", "tty; echo hi > /dev/tty; echo there > /dev/console; id -u"]);
    let mut started = world.start(&bundle, &Streams::Terminal).unwrap();
    let terminal = std::fs::File::from(started.terminal.take().unwrap());
    let (_, none, errors) = pipes();
    let mut text = Vec::new();
    // The end of a terminal is EIO (pty(7)).
    let _ = std::io::Read::read_to_end(&mut &terminal, &mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\nhi\r\nthere\r\n0\r\n");
    assert_eq!(finish(started, none, errors).code, 0);
}

/// Only who owns the network namespace may mount a sysfs of it: the host's is bound instead.
fn without_a_network_of_its_own_a_user_namespace_sees_the_hosts_sys(world: &World) {
    let (mut bundle, _) = mapped(
        world,
        &[
            "sh",
            "-c",
            "test -d /sys/class/net/lo && echo seen; (echo > /sys/made) 2>/dev/null || echo no; grep -c ' /sys sysfs ro' /proc/mounts",
        ],
    );
    bundle.spec.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
    bundle.spec.linux.masked_paths.clear();
    assert_eq!(world.output(&bundle), "seen\nno\n1\n");
}

/// Layers and writable layer are mapped as they are mounted: nothing is chowned, and what is written
/// has the ids that the container knows, whiteouts and opaque folders among it.
fn layers_have_the_containers_ids_on_disk(world: &World) {
    let lower = world.lower();
    let theirs = lower.join("theirs");
    std::fs::create_dir_all(lower.join("old/sub")).unwrap();
    std::fs::write(&theirs, "a").unwrap();
    chown(&theirs, Some(7), Some(8)).unwrap();
    std::fs::set_permissions(&theirs, PermissionsExt::from_mode(0o640)).unwrap();
    let before = snapshot(&lower);
    let script = "stat -c %u:%g / /theirs /etc/passwd; echo b >> /theirs; echo > /mine; chown 5:6 /mine; \
                  rm /etc/passwd; rm -r /old; mkdir /old; mv /home /house; ln -s x /link; ls /old | wc -l";
    let (bundle, upper) = layered(world, &["sh", "-c", script]);
    assert_eq!(world.output(&bundle), "0:0\n7:8\n0:0\n0\n");
    let on_disk = ["", "theirs", "mine", "etc", "etc/passwd", "old", "house", "link"]
        .map(|name| format!("{name} {:?}", owner(&upper.join(name))));
    let wanted = [
        " (0, 0)",
        "theirs (7, 8)",
        "mine (5, 6)",
        "etc (0, 0)",
        "etc/passwd (0, 0)",
        "old (0, 0)",
        "house (0, 0)",
        "link (0, 0)",
    ];
    assert_eq!(on_disk, wanted);
    let whiteout = std::fs::symlink_metadata(upper.join("etc/passwd")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
    assert_eq!(snapshot(&lower), before);
    // Another mapping of the same layer and of the same writable layer.
    let (mut other, _) = layered(world, &["sh", "-c", "stat -c %u:%g /theirs /mine; cat /theirs"]);
    other.rootfs = bundle.rootfs;
    for mappings in [&mut other.spec.linux.uid_mappings, &mut other.spec.linux.gid_mappings] {
        mappings[0].host_id = 300_000;
    }
    assert_eq!(world.output(&other), "7:8\n5:6\nab\n");
    // A user inside has the rights that the image gives it, and no others.
    let script =
        "cat /theirs; (echo > /theirs) 2>/dev/null || echo no; (echo > /etc/x) 2>/dev/null || echo no";
    let (mut bundle, _) = layered(world, &["sh", "-c", script]);
    let user = &mut bundle.spec.process.as_mut().unwrap().user;
    (user.uid, user.gid, user.additional_gids) = (1000, 1000, vec![8]);
    assert_eq!(world.output(&bundle), "ano\nno\n");
    std::fs::remove_file(&theirs).unwrap();
    std::fs::remove_dir_all(lower.join("old")).unwrap();
}

fn bind_mounts_are_mapped_where_idmap_says_so(world: &World) {
    let canary = world.canary();
    std::fs::set_permissions(&canary, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(canary.join("of-1000"), "").unwrap();
    chown(canary.join("of-1000"), Some(1000), Some(1000)).unwrap();
    let script = "stat -c %u:%g /plain /plain/of-1000 /mapped /mapped/of-1000; (echo > /plain/made) 2>/dev/null || \
                  echo no; echo > /mapped/made; chown 12:13 /mapped/of-1000; (echo > /shut/made) 2>/dev/null || echo ro";
    let (mut bundle, _) = layered(world, &["sh", "-c", script]);
    let source = canary.to_str().unwrap();
    bundle.spec.mounts.extend([
        mount("/plain", "bind", source, "rbind"),
        mount("/mapped", "bind", source, "bind,idmap"),
        mount("/shut", "bind", source, "bind,idmap,ro"),
    ]);
    assert_eq!(world.output(&bundle), "65534:65534\n65534:65534\n0:0\n1000:1000\nno\nro\n");
    assert_eq!(owner(&canary.join("made")), (0, 0));
    assert_eq!(owner(&canary.join("of-1000")), (12, 13));
    std::fs::remove_dir_all(&canary).unwrap();
}

fn what_is_closed_to_others_can_be_bound_and_what_cannot_be_mapped_says_so(world: &World) {
    let canary = world.canary();
    let shut = canary.join("shut");
    std::fs::create_dir(&shut).unwrap();
    std::fs::write(shut.join("file"), "inside").unwrap();
    std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o700)).unwrap();
    let (mut bundle, _) =
        layered(world, &["sh", "-c", "cat /file; echo; ls /mapped; ls /plain 2>/dev/null || echo shut"]);
    bundle.spec.mounts.extend([
        mount("/file", "bind", shut.join("file").to_str().unwrap(), "bind,idmap"),
        mount("/mapped", "bind", shut.to_str().unwrap(), "bind,idmap"),
        mount("/plain", "bind", shut.to_str().unwrap(), "bind"),
    ]);
    assert_eq!(world.output(&bundle), "inside\nfile\nshut\n");
    let (mut bundle, _) = layered(world, &["true"]);
    bundle.spec.mounts.push(mount("/host", "bind", "/proc/self", "bind,idmap"));
    let error = world.run(&bundle).unwrap_err();
    assert!(
        error.message.starts_with("the file system of /proc/self cannot map user ids"),
        "{}",
        error.message
    );
    std::fs::remove_dir_all(&canary).unwrap();
}

/// Power over a network is power in the user namespace that the network's belongs to.
fn a_user_and_a_network_namespace_are_joined_as_a_pair(world: &World) {
    let script = "ip link set lo up && echo changed; ls /sys/class/net; readlink /proc/self/ns/user";
    let (mut bundle, _) = layered(world, &["sh", "-c", script]);
    add_capability(&mut bundle, "CAP_NET_ADMIN");
    let start = |joins: &[(NamespaceKind, std::os::fd::OwnedFd)]| {
        let (streams, out, err) = pipes();
        let options = hull_runtime::container::StartOptions::default();
        let started =
            hull_runtime::container::start(&bundle, &world.hierarchies, joins, &streams, None, &options)
                .unwrap();
        drop(streams);
        finish(started, out, err)
    };
    let pair = hull_runtime::container::users::make(&[MAPPING], &[MAPPING], true).unwrap();
    let user = std::fs::read_link(format!("/proc/self/fd/{}", pair.user.as_raw_fd())).unwrap();
    let joins = [(NamespaceKind::User, pair.user), (NamespaceKind::Network, pair.network.unwrap())];
    let output = start(&joins);
    assert_eq!(output.out, format!("changed\nlo\n{}\n", user.display()), "{output:?}");
    // The control: one that belongs to the host.
    let [(_, user), _] = joins;
    let output = start(&[(NamespaceKind::User, user), (NamespaceKind::Network, foreign_network())]);
    assert!(!output.out.contains("changed"), "{output:?}");
}

/// A network namespace of the host's root.
fn foreign_network() -> std::os::fd::OwnedFd {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            hull_sys::process::unshare_network().unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        made.join().unwrap()
    })
}
