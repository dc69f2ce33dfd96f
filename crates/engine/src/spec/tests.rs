//! Bundles as text: what isolates a container can be read here.

use expect_test::{Expect, expect};
use hull_oci::runtime::Spec;
use hull_runtime::bundle::Source;

use super::*;
use crate::containers::settings::{Below, Mount, Security};

fn host() -> HostFacts {
    HostFacts {
        capabilities: capabilities::ALL.iter().map(|&name| name.to_owned()).collect(),
        may_raise_limits: true,
        ..HostFacts::default()
    }
}

fn settings() -> Settings {
    Settings {
        hostname: "0123456789ab".into(),
        cmd: Some(vec!["sh".into()]),
        shm_bytes: 64 << 20,
        ..Settings::default()
    }
}

fn compiled(settings: &Settings, identity: &Identity) -> Spec {
    compiled_on(settings, identity, &host())
}

fn compiled_on(settings: &Settings, identity: &Identity, host: &HostFacts) -> Spec {
    let files =
        Files { hostname: "/c/hostname".into(), hosts: "/c/hosts".into(), resolv: "/c/resolv.conf".into() };
    let inputs = Inputs {
        id: "id",
        settings,
        host,
        identity,
        files,
        rootfs: Rootfs::Directory(PathBuf::from("/r")),
        shown: Shown {
            volumes: [("data".to_owned(), PathBuf::from("/v/data"))].into(),
            images: BTreeMap::new(),
            own: Vec::new(),
        },
        devices: &[],
        seccomp: None,
        log: None,
        cgroup: "hull/id".into(),
    };
    compile(inputs).unwrap().0.spec
}

fn mounts(settings: &Settings) -> String {
    mounts_on(settings, &host())
}

fn mounts_on(settings: &Settings, host: &HostFacts) -> String {
    let spec = compiled_on(settings, &Identity::default(), host);
    let line = |m: &hull_oci::runtime::Mount| {
        format!("{} {} {} {}\n", m.destination.display(), m.kind, m.source, m.options.join(","))
    };
    spec.mounts.iter().map(line).collect()
}

fn check(text: String, expected: Expect) {
    expected.assert_eq(&text);
}

#[test]
fn a_plain_container() {
    let spec =
        compiled(&settings(), &Identity { groups: vec![0, 10], home: "/root".into(), ..Identity::default() });
    check(
        serde_json::to_string_pretty(&spec).unwrap(),
        expect![[r#"
        {
          "ociVersion": "1.2.0",
          "process": {
            "terminal": false,
            "user": {
              "uid": 0,
              "gid": 0,
              "additionalGids": [
                0,
                10
              ]
            },
            "args": [
              "sh"
            ],
            "env": [
              "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
              "HOSTNAME=0123456789ab",
              "HOME=/root"
            ],
            "cwd": "/",
            "capabilities": {
              "bounding": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ],
              "effective": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ],
              "permitted": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ]
            },
            "noNewPrivileges": false,
            "oomScoreAdj": 0
          },
          "root": {
            "path": "rootfs",
            "readonly": false
          },
          "hostname": "0123456789ab",
          "mounts": [
            {
              "destination": "/proc",
              "type": "proc",
              "source": "proc",
              "options": [
                "nosuid",
                "noexec",
                "nodev"
              ]
            },
            {
              "destination": "/dev",
              "type": "tmpfs",
              "source": "tmpfs",
              "options": [
                "nosuid",
                "strictatime",
                "mode=755",
                "size=65536k"
              ]
            },
            {
              "destination": "/dev/pts",
              "type": "devpts",
              "source": "devpts",
              "options": [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
              ]
            },
            {
              "destination": "/sys",
              "type": "sysfs",
              "source": "sysfs",
              "options": [
                "nosuid",
                "noexec",
                "nodev",
                "ro"
              ]
            },
            {
              "destination": "/sys/fs/cgroup",
              "type": "cgroup",
              "source": "cgroup",
              "options": [
                "ro",
                "nosuid",
                "noexec",
                "nodev"
              ]
            },
            {
              "destination": "/dev/mqueue",
              "type": "mqueue",
              "source": "mqueue",
              "options": [
                "nosuid",
                "noexec",
                "nodev"
              ]
            },
            {
              "destination": "/dev/shm",
              "type": "tmpfs",
              "source": "shm",
              "options": [
                "nosuid",
                "noexec",
                "nodev",
                "mode=1777",
                "size=67108864"
              ]
            },
            {
              "destination": "/etc/resolv.conf",
              "type": "bind",
              "source": "/c/resolv.conf",
              "options": [
                "rbind",
                "rprivate"
              ]
            },
            {
              "destination": "/etc/hostname",
              "type": "bind",
              "source": "/c/hostname",
              "options": [
                "rbind",
                "rprivate"
              ]
            },
            {
              "destination": "/etc/hosts",
              "type": "bind",
              "source": "/c/hosts",
              "options": [
                "rbind",
                "rprivate"
              ]
            }
          ],
          "linux": {
            "namespaces": [
              {
                "type": "mount"
              },
              {
                "type": "network"
              },
              {
                "type": "uts"
              },
              {
                "type": "pid"
              },
              {
                "type": "ipc"
              },
              {
                "type": "cgroup"
              }
            ],
            "cgroupsPath": "hull/id",
            "resources": {
              "devices": [
                {
                  "allow": false,
                  "type": "a",
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "access": "m"
                },
                {
                  "allow": true,
                  "type": "b",
                  "access": "m"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 1,
                  "minor": 3,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 1,
                  "minor": 5,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 1,
                  "minor": 7,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 1,
                  "minor": 8,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 1,
                  "minor": 9,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 5,
                  "minor": 0,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 5,
                  "minor": 1,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 5,
                  "minor": 2,
                  "access": "rwm"
                },
                {
                  "allow": true,
                  "type": "c",
                  "major": 136,
                  "access": "rwm"
                }
              ]
            },
            "rootfsPropagation": "rprivate",
            "sysctl": {
              "net.ipv4.ip_unprivileged_port_start": "0",
              "net.ipv4.ping_group_range": "0 2147483647"
            },
            "maskedPaths": [
              "/proc/asound",
              "/proc/acpi",
              "/proc/interrupts",
              "/proc/kcore",
              "/proc/keys",
              "/proc/latency_stats",
              "/proc/timer_list",
              "/proc/timer_stats",
              "/proc/sched_debug",
              "/proc/scsi",
              "/sys/firmware",
              "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": [
              "/proc/bus",
              "/proc/fs",
              "/proc/irq",
              "/proc/sys",
              "/proc/sysrq-trigger"
            ]
          }
        }"#]],
    );
}

#[test]
fn privileged_loses_masks_filters_and_read_only_but_not_the_ceiling() {
    let privileged =
        Settings { security: Security { privileged: true, ..Security::default() }, ..settings() };
    let spec = compiled(&privileged, &Identity::default());
    assert!(spec.linux.masked_paths.is_empty() && spec.linux.readonly_paths.is_empty());
    let process = spec.process.unwrap();
    assert_eq!(process.capabilities.unwrap().effective.len(), capabilities::ALL.len());
    check(
        serde_json::to_string(&spec.linux.resources.devices).unwrap(),
        expect![[r#"[{"allow":true,"type":"a","access":"rwm"}]"#]],
    );
    assert!(mounts(&privileged).contains("/sys sysfs sysfs nosuid,noexec,nodev,rw"));
}

#[test]
fn a_user_that_is_not_root_has_a_ceiling_but_nothing_effective() {
    let spec = compiled(&settings(), &Identity { uid: 1000, ..Identity::default() });
    let sets = spec.process.unwrap().capabilities.unwrap();
    assert_eq!((sets.bounding.len(), sets.effective.len(), sets.permitted.len()), (14, 0, 0));
    assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
}

#[test]
fn asked_mounts_replace_ours_and_parents_come_first() {
    let bind = |source: &str, target: &str, read_only| Mount::Bind {
        source: source.into(),
        target: target.into(),
        read_only,
        propagation: String::new(),
        create_source: true,
        non_recursive: false,
        below: Below::default(),
        mode: String::new(),
        idmap: false,
    };
    let tmpfs = Mount::Tmpfs { target: "/run".into(), options: vec!["exec".into(), "size=1m".into()] };
    let asked = vec![
        bind("/h/deep", "/data/deep", true),
        bind("/h", "/data", false),
        bind("/x", "/etc/hosts", true),
        tmpfs,
    ];
    check(
        mounts(&Settings { mounts: asked, ..settings() }),
        expect![[r#"
        /proc proc proc nosuid,noexec,nodev
        /dev tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k
        /dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5
        /sys sysfs sysfs nosuid,noexec,nodev,ro
        /sys/fs/cgroup cgroup cgroup ro,nosuid,noexec,nodev
        /dev/mqueue mqueue mqueue nosuid,noexec,nodev
        /dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=67108864
        /data bind /h rbind,rprivate
        /run tmpfs tmpfs nosuid,nodev,exec,size=1m
        /etc/resolv.conf bind /c/resolv.conf rbind,rprivate
        /etc/hostname bind /c/hostname rbind,rprivate
        /data/deep bind /h/deep rbind,ro,rprivate
        /etc/hosts bind /x rbind,ro,rprivate
    "#]],
    );
}

#[test]
fn what_is_ours_below_an_asked_mount_is_seen_in_etc_and_gives_way_elsewhere() {
    let mounted = |target: &str| {
        let tmpfs = Mount::Tmpfs { target: target.into(), options: Vec::new() };
        mounts(&Settings { mounts: vec![tmpfs], ..settings() })
    };
    let places =
        |text: &str| text.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>().join(" ");
    assert_eq!(
        places(&mounted("/dev")),
        "/proc /sys /sys/fs/cgroup /dev /etc/resolv.conf /etc/hostname /etc/hosts"
    );
    let etc = mounted("/etc");
    assert!(places(&etc).ends_with("/dev/shm /etc /etc/resolv.conf /etc/hostname /etc/hosts"), "{etc}");
}

#[test]
fn an_image_is_shown_by_its_layers() {
    let image = Mount::Image {
        name: "tools".into(),
        found: None,
        target: "/image".into(),
        subpath: "usr/bin".into(),
    };
    let settings = Settings { mounts: vec![image], ..settings() };
    assert!(mounts(&settings).contains("/image bind tools ro,rprivate"));
    let images = [("/image".to_owned(), vec![PathBuf::from("/top")])].into();
    let shown = mounts::sources(&settings, Shown { images, ..Shown::default() });
    let layers = Source::Layers { lower: vec!["/top".into()], path: "usr/bin".into(), upper: None };
    assert_eq!(shown, [(PathBuf::from("/image"), layers)].into());
}

#[test]
fn a_read_only_bind_is_so_all_the_way_down_where_the_kernel_can_or_it_was_insisted_on() {
    let options = |below, non_recursive, kernel| {
        let bind = Mount::Bind {
            source: "/h".into(),
            target: "/data".into(),
            read_only: true,
            propagation: String::new(),
            create_source: true,
            non_recursive,
            below,
            mode: String::new(),
            idmap: false,
        };
        let settings = Settings { mounts: vec![bind], ..settings() };
        let host = HostFacts { recursive_read_only: kernel, ..host() };
        let text = mounts_on(&settings, &host);
        text.lines().find_map(|line| line.strip_prefix("/data bind /h ")).unwrap().to_owned()
    };
    assert_eq!(options(Below::ReadOnlyIfPossible, false, true), "rbind,rro,rprivate");
    assert_eq!(options(Below::ReadOnlyIfPossible, false, false), "rbind,ro,rprivate");
    assert_eq!(options(Below::ReadOnlyIfPossible, true, true), "bind,ro,rprivate");
    assert_eq!(options(Below::Untouched, false, true), "rbind,ro,rprivate");
    // The runtime refuses what it cannot do.
    assert_eq!(options(Below::ReadOnly, false, false), "rbind,rro,rprivate");
}

#[test]
fn ipc_modes_decide_over_shared_memory() {
    let shm = |ipc| {
        let text = mounts(&Settings { ipc, ..settings() });
        text.lines()
            .filter(|line| line.contains("shm") || line.contains("mqueue"))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    check(
        shm(IpcMode::Private),
        expect![[r#"
        /dev/mqueue mqueue mqueue nosuid,noexec,nodev
        /dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=67108864
    "#]],
    );
    check(
        shm(IpcMode::Host),
        expect![[r#"
        /dev/mqueue mqueue mqueue nosuid,noexec,nodev
        /dev/shm bind /dev/shm rbind,nosuid,noexec,nodev
    "#]],
    );
    check(
        shm(IpcMode::None),
        expect![[r#"
        /dev/mqueue mqueue mqueue nosuid,noexec,nodev
    "#]],
    );
}

#[test]
fn shared_namespaces_are_not_made() {
    let kinds = |settings: &Settings| {
        let spec = compiled(settings, &Identity::default());
        spec.linux.namespaces.iter().map(|ns| format!("{:?}", ns.kind)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kinds(&settings()), "Mount Network Uts Pid Ipc Cgroup");
    let shared = Settings {
        network: NetworkMode::Host,
        pid: PidMode::Host,
        ipc: IpcMode::Host,
        uts_host: true,
        cgroupns_host: true,
        ..settings()
    };
    assert_eq!(kinds(&shared), "Mount");
    let spec = compiled(&shared, &Identity::default());
    assert_eq!((spec.hostname.as_str(), spec.linux.sysctl.len()), ("", 0));
}

#[test]
fn the_four_combinations_of_entrypoint_and_command() {
    let list = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    let joined = |entrypoint, cmd| args(&Settings { entrypoint, cmd, ..Settings::default() }).join(" ");
    assert_eq!(joined(list(&["e", "1"]), list(&["c"])), "e 1 c");
    assert_eq!(joined(list(&["e"]), None), "e");
    assert_eq!(joined(None, list(&["c"])), "c");
    assert_eq!(joined(None, None), "");
}

#[test]
fn a_user_namespace_maps_what_is_the_engines_and_what_was_asked_for() {
    let mapping = hull_oci::runtime::IdMapping { container_id: 0, host_id: 200_000, size: 1000 };
    let bind = |target: &str, idmap| Mount::Bind {
        source: "/h".into(),
        target: target.into(),
        read_only: false,
        propagation: String::new(),
        create_source: true,
        non_recursive: false,
        below: Below::default(),
        mode: String::new(),
        idmap,
    };
    let mounts_asked = vec![bind("/mapped", true), bind("/plain", false)];
    let host_users = Settings { mounts: mounts_asked, ..settings() };
    let maps = Maps { uids: vec![mapping], gids: vec![mapping] };
    let own_users = Settings { users: Some(maps), ..host_users.clone() };
    let of = |settings: &Settings, target: &str| {
        let text = mounts(settings);
        text.lines().find(|line| line.starts_with(target)).unwrap_or_default().to_owned()
    };
    assert_eq!(of(&own_users, "/etc/hosts"), "/etc/hosts bind /c/hosts rbind,rprivate,idmap");
    assert_eq!(of(&own_users, "/mapped"), "/mapped bind /h rbind,rprivate,idmap");
    assert_eq!(of(&own_users, "/plain"), "/plain bind /h rbind,rprivate");
    assert_eq!(of(&host_users, "/mapped"), "/mapped bind /h rbind,rprivate");
    let ipc_of_the_host = Settings { ipc: IpcMode::Host, ..own_users.clone() };
    assert_eq!(of(&ipc_of_the_host, "/dev/mqueue"), "");
    let linux = compiled(&own_users, &Identity::default()).linux;
    assert_eq!((&*linux.uid_mappings, &*linux.gid_mappings), (&[mapping][..], &[mapping][..]));
    assert!(linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::User));
    assert_eq!(linux.sysctl["net.ipv4.ping_group_range"], "0 999");
    assert!(
        !compiled(&host_users, &Identity::default())
            .linux
            .namespaces
            .iter()
            .any(|one| one.kind == NamespaceKind::User)
    );
}
