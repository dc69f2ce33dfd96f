//! Attacks on what all containers share, the kernel's own settings (K06): parameters, devices and
//! control groups, by what a request names and by what a process inside does.

use std::fs;

use hull_testkit::{Answer, Host};
use serde_json::{Value, json};

use super::{CLIENTS, host};

/// Parameters that belong to the whole host, a program of whose among them.
const OF_HOST: [&str; 10] = [
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/sysrq",
    "kernel/panic",
    "kernel/hostname",
    "kernel/yama/ptrace_scope",
    "kernel/randomize_va_space",
    "vm/overcommit_memory",
    "fs/protected_symlinks",
    "fs/suid_dumpable",
];

/// What the host's parameters are, with those of its own network namespace.
fn parameters(host: &Host) -> Vec<String> {
    let mut all: Vec<String> = OF_HOST
        .iter()
        .map(|name| format!("{name} {:?}", fs::read_to_string(format!("/proc/sys/{name}")).ok()))
        .collect();
    all.push(host.printed(&[
        "cat",
        "/proc/sys/net/ipv4/ip_default_ttl",
        "/proc/sys/net/ipv4/conf/lo/forwarding",
    ]));
    all
}

/// A creation by hand: what no client would send.
fn create(host: &Host, settings: Value) -> Answer {
    let body = json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": settings});
    host.request("POST", "/v1.51/containers/create?name=box", body.to_string().as_bytes())
}

/// Creates and starts; what refuses it, if it is refused.
fn start(host: &Host, settings: Value) -> Result<(), String> {
    let made = create(host, settings);
    if made.status != 201 {
        assert!((400..500).contains(&made.status), "{} {}", made.status, made.text());
        return Err(made.text());
    }
    let started = host.request("POST", "/v1.51/containers/box/start", b"");
    if started.status == 204 { Ok(()) } else { Err(started.text()) }
}

#[test]
fn no_parameter_of_the_host_is_a_containers_to_set() {
    let host = host();
    let before = parameters(&host);
    let mut names: Vec<String> =
        OF_HOST.iter().flat_map(|name| [(*name).to_owned(), name.replace('/', ".")]).collect();
    for odd in [
        "net.ipv4.ip_default_ttl/../../../kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net....kernel.core_pattern",
        "net.ipv4...kernel/core_pattern",
        "kernel.shmmax/../core_pattern",
        "kernel.shmmax.././core_pattern",
        "fs.mqueue.msg_max/../../../kernel/core_pattern",
        "fs.mqueue./../../kernel/core_pattern",
        "/proc/sys/kernel/core_pattern",
        "../sys/kernel/core_pattern",
        "kernel.core_pattern\n",
        "kernel.core_pattern\u{0}net.",
        "net.ipv4.ip_default_ttl\nkernel.core_pattern",
        "net.*",
        "",
        ".",
        "kernel.shm_rmid_forced;kernel.core_pattern",
    ] {
        names.push(odd.to_owned());
    }
    for name in &names {
        for value in ["|/tmp/owned", "1"] {
            let refused = start(&host, json!({"Sysctls": {name: value}}));
            assert!(refused.is_err(), "{name:?} = {value:?} was set");
            assert_eq!(parameters(&host), before, "{name:?} = {value:?}");
            host.hull(&["rm", "-f", "box"]);
        }
    }
    // Of a namespace that is the host's, not even its own parameters.
    for (sysctl, shared) in [
        ("net.ipv4.ip_default_ttl", json!({"NetworkMode": "host"})),
        ("kernel.shmmax", json!({"IpcMode": "host"})),
        ("fs.mqueue.msg_max", json!({"IpcMode": "host"})),
        ("kernel.domainname", json!({"UTSMode": "host"})),
    ] {
        let mut settings = shared.clone();
        settings["Sysctls"] = json!({sysctl: "77"});
        let refused = start(&host, settings).unwrap_err();
        assert!(refused.contains("not allowed in"), "{sysctl}: {refused}");
        host.hull(&["rm", "-f", "box"]);
    }
    assert_eq!(parameters(&host), before);
}

/// Nothing in a value is more than a value: it is written as it is, or refused.
#[test]
fn a_parameters_value_is_written_as_one_value() {
    let host = host();
    let before = parameters(&host);
    for value in ["64\n", "64\nkernel.core_pattern=|/x", "64;65", "64+1", "64 65", "$(id)", "64\u{0}65", "-1"]
    {
        let began =
            start(&host, json!({"NetworkMode": "none", "Sysctls": {"net.ipv4.ip_default_ttl": value}}));
        if began.is_ok() {
            let inside = host.hull(&["exec", "box", "cat", "/proc/sys/net/ipv4/ip_default_ttl"]);
            // Of several numbers this parameter takes the first.
            assert!(value.starts_with(inside.ok()), "{value:?}: {inside}");
        }
        host.hull(&["rm", "-f", "box"]);
        assert_eq!(parameters(&host), before, "{value:?}");
    }
    // The control: what is its own is set, and is not the host's.
    start(
        &host,
        json!({"NetworkMode": "none", "Sysctls": {"net.ipv4.ip_default_ttl": "77", "kernel.shmmax": "4096"}}),
    )
    .unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmax";
    assert_eq!(host.hull(&["exec", "box", "sh", "-c", script]).ok(), "77\n4096");
    assert_eq!(parameters(&host), before);
}

/// Every kind of device that this kernel has: those that a container works with open, no other.
#[test]
fn the_devices_that_open_are_those_of_the_list() {
    let host = host();
    // /proc/misc and the memory devices (mem(4)); loop and disk by the first numbers of their kind.
    let misc = fs::read_to_string("/proc/misc").unwrap();
    let mut devices: Vec<String> = misc
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|minor| format!("c 10 {minor}"))
        .collect();
    devices.extend((1..=11).map(|minor| format!("c 1 {minor}")));
    let kinds = fs::read_to_string("/proc/devices").unwrap();
    let (chars, blocks) = kinds.split_once("Block devices:").unwrap();
    for (kind, lines) in [("c", chars), ("b", blocks)] {
        let majors = lines.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        devices.extend(majors.flat_map(|major| (0..3).map(move |minor| format!("{kind} {major} {minor}"))));
    }
    devices.sort();
    devices.dedup();
    assert!(devices.len() > 40, "{devices:?}");
    // EPERM is the kernel's word for a device that the list has not; others are there and not ready.
    let script = format!(
        "for d in {}; do set -- $d; mknod /n $1 $2 $3 || exit 9; \
         (: </n) 2>&1 | grep -q 'not permitted' || echo $1 $2 $3; rm /n; done",
        devices.iter().map(|device| format!("'{device}'")).collect::<Vec<_>>().join(" ")
    );
    let usual = ["c 1 3", "c 1 5", "c 1 7", "c 1 8", "c 1 9", "c 5 0", "c 5 1", "c 5 2"];
    for client in CLIENTS {
        let open = client(&host, &["run", "--rm", "busybox", "sh", "-c", &script]);
        let open: Vec<&str> = open.ok().lines().collect();
        let beyond: Vec<_> =
            open.iter().filter(|device| !usual.contains(device) && !device.starts_with("c 136 ")).collect();
        assert!(beyond.is_empty(), "these open, too: {beyond:?}");
        assert!(usual.iter().take(3).all(|device| open.contains(device)), "{open:?}");
    }
    // The control: one more that is asked for opens, and then the script says so.
    let fuse = ["run", "--rm", "--device-cgroup-rule", "c 10:* rwm", "busybox", "sh", "-c", &script];
    assert!(host.hull(&fuse).ok().lines().any(|device| device.starts_with("c 10 ")));
}

#[test]
fn a_rule_for_devices_is_one_rule() {
    let host = host();
    for rule in [
        "a *:* rwm\n",
        "c 1:3 r\nb *:* rwm",
        "c 1:3 rwm;b *:* rwm",
        "c -1:* rwm",
        "c 1:3 rwmx",
        "z *:* r",
        "c 1:99999999999 r",
        "b",
        "",
    ] {
        let refused = start(&host, json!({"DeviceCgroupRules": [rule]}));
        assert!(refused.is_err(), "{rule:?} was taken");
        host.hull(&["rm", "-f", "box"]);
    }
    let canary = host.folder().join("canary");
    fs::write(&canary, "untouched").unwrap();
    let climbing = format!("/dev{}{}", "/..".repeat(20), canary.display());
    for (source, target) in [
        ("/dev/null", climbing.as_str()),
        (canary.to_str().unwrap(), "/dev/c"),
        (&climbing, "/dev/c"),
        ("/dev/null", "/proc/sys"),
        ("/dev/../proc/kcore", "/dev/c"),
    ] {
        let device = json!([{"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": "rwm"}]);
        if start(&host, json!({"Devices": device})).is_ok() {
            assert_ne!(
                host.hull(&["exec", "box", "cat", "/dev/c"]).stdout,
                "untouched",
                "{source} at {target}"
            );
        }
        host.hull(&["rm", "-f", "box"]);
        assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched", "{source} at {target}");
    }
}

/// A container's cgroup is where it is asked for and nowhere above the hierarchies' roots.
#[test]
fn a_cgroups_path_leads_down() {
    let host = host();
    for parent in
        ["../..", "/../..", "hull/../../..", "a/../../b", "./x", "a//b", "a\nb", "a\u{0}b", "..", "/.."]
    {
        let refused = start(&host, json!({"CgroupParent": parent}));
        assert!(refused.is_err(), "cgroup parent {parent:?} was taken");
        host.hull(&["rm", "-f", "box"]);
    }
    let of = |name: &str| {
        let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", name]).ok().to_owned();
        fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
    };
    let orders = json!({"Annotations": {
        "org.systemd.property.MemoryMax": "1", "org.systemd.property.Slice": "'system.slice'",
        "run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup", "io.kubernetes.cri-o.UnifiedCgroup.box": "pids.max=1;memory.max=1",
        "a\nb": "c\nd",
    }});
    start(&host, orders).unwrap();
    for line in of("box").lines() {
        let path = line.splitn(3, ':').nth(2).unwrap();
        // Hierarchies without a controller of ours leave everybody at their root.
        assert!(path.starts_with(&format!("/{}/", host.cgroup)) || path == "/", "{line}");
    }
    assert!(of("box").contains(&host.cgroup));
    assert_eq!(
        host.hull(&["exec", "box", "sh", "-c", "for i in 1 2 3; do sleep 0 & done; wait; echo alive"]).ok(),
        "alive"
    );
    host.hull(&["rm", "-f", "box"]).ok();
}

/// As root of the container, with every file and folder of its control groups.
#[test]
fn nothing_of_the_control_groups_is_written_from_inside() {
    let host = host();
    let script = "for f in $(find /sys/fs/cgroup ! -type l); do \
                    if [ -d $f ]; then mkdir $f/made 2>/dev/null && echo $f && rmdir $f/made; \
                    else (: >>$f) 2>/dev/null && echo $f; fi; done; \
                  find /sys/fs/cgroup -type f | wc -l";
    let remount = "mount -o remount,rw,bind /sys/fs/cgroup; mount -t tmpfs x /sys/fs/cgroup; \
                   mkdir /c; mount -t cgroup2 none /c; mount -t cgroup -o memory none /c; mount -t cgroup -o none,name=x none /c; \
                   umount /sys/fs/cgroup; cut -d ' ' -f 5,6 /proc/self/mountinfo | grep -c cgroup";
    for client in CLIENTS {
        for flags in [
            &[][..],
            &["--cgroupns", "host"],
            &["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"],
            &["--userns", "auto"],
        ] {
            // The official client does not know that word.
            let client = if flags.contains(&"auto") { Host::hull } else { client };
            let run = [&["run", "--rm", "--network", "none"], flags, &["busybox", "sh", "-c"]].concat();
            let seen = client(&host, &[&run[..], &[script]].concat());
            let lines: Vec<&str> = seen.ok().lines().collect();
            assert_eq!(lines.len(), 1, "{flags:?}: these can be written: {seen}");
            let files: u32 = lines[0].parse().unwrap();
            assert!(files > 5, "{flags:?}: {files} files were tried");
            let before = client(
                &host,
                &[&run[..], &["cut -d ' ' -f 5,6 /proc/self/mountinfo | grep -c cgroup"]].concat(),
            )
            .ok()
            .to_owned();
            let tried = client(&host, &[&run[..], &[remount]].concat());
            assert_eq!(tried.ok(), before, "{flags:?}: {tried}");
        }
        // The control: who has everything can write, and the script sees it.
        let run = ["run", "--rm", "--privileged", "--network", "none", "busybox", "sh", "-c", script];
        assert!(client(&host, &run).ok().lines().count() > 1);
    }
}
