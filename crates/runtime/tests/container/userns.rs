//! Containers whose root is nobody on the host: a user namespace with everything else made in it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Device, IdMapping, Namespace, NamespaceKind};
use hull_runtime::bundle::{Bundle, Rootfs};
use hull_runtime::container::{Started, Streams};

use crate::joined::{exec_of, run};
use crate::world::{World, end, finish, mount, pipes};

crate::tests! {
    root_inside_is_another_user_outside
    capabilities_count_inside_only
    devices_and_kernel_file_systems_are_there_in_a_user_namespace
    what_the_host_keeps_from_others_it_keeps_from_mapped_root
    an_exec_joins_the_user_namespace
    a_terminal_works_in_a_user_namespace
    without_a_network_of_its_own_a_user_namespace_sees_the_hosts_sys
}

const FIRST: u32 = 100_000;

/// A bundle in a user namespace, with a root folder that belongs to its root.
fn mapped(world: &World, args: &[&str]) -> (Bundle, PathBuf) {
    let mut bundle = world.bundle(args);
    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let root = world.dir.path().join(format!("{}-root", bundle.id));
    copy(&world.lower(), &root);
    bundle.rootfs = Rootfs::Directory(root.clone());
    let linux = &mut bundle.spec.linux;
    linux.namespaces.push(Namespace { kind: NamespaceKind::User, path: None });
    let mapping = IdMapping { container_id: 0, host_id: FIRST, size: 65536 };
    linux.uid_mappings = vec![mapping];
    linux.gid_mappings = vec![mapping];
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
