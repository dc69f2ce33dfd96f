//! What a container's process finds.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use hull_oci::runtime::{Device, Rlimit};
use hull_runtime::bundle::Rootfs;
use hull_runtime::container::{StartOptions, Streams};
use hull_sys::root::Root;

use crate::world::{CAPABILITIES, World, end, finish, mount, pipes};

crate::tests! {
    a_program_runs_and_its_code_and_output_come_back
    hundreds_of_layers_are_one_root
    a_signal_is_its_number_and_128
    the_process_is_pid_1_in_namespaces_of_its_own
    capabilities_are_exactly_those_asked_and_never_inheritable
    another_user_has_its_groups_and_no_effective_capabilities_beyond_those_asked
    ambient_capabilities_reach_another_user_when_asked
    no_descriptor_above_two_reaches_the_program
    dev_has_the_default_devices_links_and_asked_ones
    the_mount_table_has_only_the_containers_own
    masked_paths_are_empty_and_read_only_paths_refuse_writes
    a_read_only_root_refuses_writes_but_its_tmpfs_does_not
    binds_show_host_files_with_their_options
    a_nested_mount_is_read_only_too_when_asked_recursively
    a_terminal_is_the_containers_own_and_controlling
    limits_umask_oom_score_and_no_new_privileges_are_set
    limits_that_the_host_forbids_are_lowered_with_a_warning
    kernel_settings_of_own_namespaces_are_written
    loopback_is_up_and_the_hostname_is_set
    the_cgroup_view_shows_the_own_cgroup_read_only
    init_reaps_orphans_and_passes_the_code_on
    init_forwards_signals
    a_hold_keeps_the_program_back
    the_root_descriptor_resolves_inside_the_container
    home_comes_from_the_containers_passwd
    the_host_mount_table_is_unchanged
}

fn a_program_runs_and_its_code_and_output_come_back(world: &World) {
    let bundle = world.bundle(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    let output = world.run(&bundle).unwrap();
    assert_eq!((output.code, &*output.out, &*output.err), (7, "out\n", "err\n"), "{output:?}");
}

/// Their paths together are several times longer than what one call of mount(2) takes.
fn hundreds_of_layers_are_one_root(world: &World) {
    let mut bundle = world.bundle(&["sh", "-c", "ls -d /layer-* | wc -l; cat /top; touch /layer-7"]);
    let Rootfs::Overlay { lower, .. } = &mut bundle.rootfs else {
        unreachable!("the world's roots are overlays")
    };
    let base = lower.pop().unwrap();
    for number in (0..300).rev() {
        let layer = world.dir.path().join(format!("{}-{}-{number}", bundle.id, "x".repeat(60)));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("layer-{number}")), "").unwrap();
        std::fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.push(layer);
    }
    lower.push(base);
    assert_eq!(world.output(&bundle), "300\n299");
}

fn a_signal_is_its_number_and_128(world: &World) {
    // A program that is pid 1 gets no signal it has no handler for, but its child does.
    let bundle = world.bundle(&["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"]);
    assert_eq!(world.run(&bundle).unwrap().code, 143);
}

fn the_process_is_pid_1_in_namespaces_of_its_own(world: &World) {
    let names = ["mnt", "pid", "ipc", "uts", "net", "cgroup"];
    let out =
        world.sh("echo $$; cd /proc/self/ns; for n in mnt pid ipc uts net cgroup; do readlink $n; done");
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("1"));
    for (name, inside) in names.iter().zip(lines) {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_str(), Some(inside), "{name}");
    }
    let user = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_eq!(world.sh("readlink /proc/self/ns/user").trim(), user.to_str().unwrap());
}

fn status(text: &str, field: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

fn set(names: &[&str]) -> String {
    let bits = names.iter().map(|name| hull_sys::cred::capability(name).unwrap().bits());
    format!("{:016x}", bits.fold(0, |all, one| all | one))
}

fn capabilities_are_exactly_those_asked_and_never_inheritable(world: &World) {
    let text = world.sh("cat /proc/self/status");
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(&text, field), set(&CAPABILITIES), "{field}");
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(status(&text, field), set(&[]), "{field}");
    }
    assert_eq!(status(&text, "Groups"), "");
}

fn another_user_has_its_groups_and_no_effective_capabilities_beyond_those_asked(world: &World) {
    let mut bundle = world.bundle(&["cat", "/proc/self/status"]);
    let process = bundle.spec.process.as_mut().unwrap();
    (process.user.uid, process.user.gid) = (1000, 1001);
    process.user.additional_gids = vec![7, 42];
    let capabilities = process.capabilities.as_mut().unwrap();
    capabilities.effective.clear();
    capabilities.permitted.clear();
    let text = world.output(&bundle);
    assert_eq!(status(&text, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(status(&text, "Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(status(&text, "Groups"), "7 42");
    assert_eq!(status(&text, "CapEff"), set(&[]));
    assert_eq!(status(&text, "CapPrm"), set(&[]));
    assert_eq!(status(&text, "CapBnd"), set(&CAPABILITIES));
}

fn ambient_capabilities_reach_another_user_when_asked(world: &World) {
    let mut bundle = world.bundle(&["cat", "/proc/self/status"]);
    let process = bundle.spec.process.as_mut().unwrap();
    (process.user.uid, process.user.gid) = (1000, 1000);
    let capabilities = process.capabilities.as_mut().unwrap();
    capabilities.inheritable = vec!["CAP_NET_BIND_SERVICE".into()];
    capabilities.ambient = capabilities.inheritable.clone();
    let text = world.output(&bundle);
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(&text, field), set(&["CAP_NET_BIND_SERVICE"]), "{field}");
    }
}

fn no_descriptor_above_two_reaches_the_program(world: &World) {
    // One that is not even marked to be closed on exec.
    let leak = rustix::io::fcntl_dupfd_cloexec(std::fs::File::open("/").unwrap(), 77).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let out = world.output(&world.bundle(&["ls", "/proc/self/fd"]));
    assert_eq!(out, "0\n1\n2\n3\n", "3 is the folder that ls itself reads");
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "ls /proc/1/fd; head -c 1 /proc/1/mem 2>&1; ls -l /proc/1/fd 2>&1 | grep -c denied",
    ]);
    bundle.init = true;
    let out = world.run(&bundle).unwrap().out;
    assert_eq!(out, "0\n1\n2\nhead: /proc/1/mem: Permission denied\n3\n", "of the reaper");
}

fn dev_has_the_default_devices_links_and_asked_ones(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "cd /dev; for f in null zero full random urandom tty ptmx pts/ptmx sub/mine; do stat -L -c '%n %F %t:%T %a %u:%g' $f; done; \
         for l in fd stdin stdout stderr core ptmx; do readlink $l; done; echo x > null; head -c 2 zero | wc -c",
    ]);
    bundle.spec.linux.devices = vec![Device {
        kind: "c".into(),
        path: "/dev/sub/mine".into(),
        major: 1,
        minor: 5,
        file_mode: Some(0o640),
        uid: Some(5),
        gid: Some(6),
    }];
    let out = world.run(&bundle).unwrap().out;
    // Linked only where the kernel has it.
    let core = if std::path::Path::new("/proc/kcore").exists() { "/proc/kcore\n" } else { "" };
    let expected = "null character special file 1:3 666 0:0\nzero character special file 1:5 666 0:0\n\
        full character special file 1:7 666 0:0\nrandom character special file 1:8 666 0:0\n\
        urandom character special file 1:9 666 0:0\ntty character special file 5:0 666 0:0\n\
        ptmx character special file 5:2 666 0:0\npts/ptmx character special file 5:2 666 0:0\n\
        sub/mine character special file 1:5 640 5:6\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n\
        /proc/self/fd/2\n";
    let expected = format!("{expected}{core}pts/ptmx\n");
    assert!(out.starts_with(&expected), "{out}");
}

fn the_mount_table_has_only_the_containers_own(world: &World) {
    let out = world.sh("cat /proc/self/mountinfo");
    let points: Vec<&str> = out.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(points[0], "/");
    let known = ["/", "/proc", "/dev", "/sys"];
    assert!(
        points
            .iter()
            .all(|point| known.contains(point)
                || known[1..].iter().any(|k| point.starts_with(&format!("{k}/")))),
        "{out}"
    );
    assert!(out.lines().next().unwrap().contains(" - overlay "), "{out}");
    // Nothing spreads in or out.
    assert!(!out.contains("shared:") && !out.contains("master:"), "{out}");
}

fn masked_paths_are_empty_and_read_only_paths_refuse_writes(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "cd /secret; cat file; ls one two; touch one/x two/x 2>&1; echo x > file; cat file; \
         (echo 1 > /proc/sys/kernel/domainname) 2>&1; touch /home/user/x 2>&1; exit 0",
    ]);
    for name in ["one", "two"] {
        std::fs::create_dir_all(world.lower().join("secret").join(name)).unwrap();
        std::fs::write(world.lower().join("secret").join(name).join("key"), "key").unwrap();
    }
    std::fs::write(world.lower().join("secret/file"), "key").unwrap();
    // The container's own /dev/null must not be what hides: here it is a file with content.
    bundle.spec.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
    std::fs::write(world.lower().join("dev/null"), "own").unwrap();
    bundle.spec.linux.masked_paths =
        ["/secret/file", "/secret/one", "/secret/two", "/nosuch"].map(str::to_owned).to_vec();
    bundle.spec.linux.readonly_paths = ["/proc/sys", "/home", "/nosuch"].map(str::to_owned).to_vec();
    let out = world.output(&bundle);
    std::fs::remove_file(world.lower().join("dev/null")).unwrap();
    let refused = "Read-only file system\n";
    let expected = format!(
        "one:\n\ntwo:\ntouch: one/x: {refused}touch: two/x: {refused}\
         sh: can't create /proc/sys/kernel/domainname: {refused}touch: /home/user/x: {refused}"
    );
    assert_eq!(out, expected);
}

fn a_read_only_root_refuses_writes_but_its_tmpfs_does_not(world: &World) {
    let mut bundle = world.bundle(&["sh", "-c", "touch /x 2>&1; touch /dev/shm/x && echo fine"]);
    bundle.spec.root.as_mut().unwrap().readonly = true;
    let out = world.run(&bundle).unwrap().out;
    assert_eq!(out, "touch: /x: Read-only file system\nfine\n");
}

fn binds_show_host_files_with_their_options(world: &World) {
    let canary = world.canary();
    let source = canary.to_str().unwrap();
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "cat /data/file /one; (echo > /data/new) 2>&1; echo kept > /rw/kept; grep -E ' (/data|/rw) ' /proc/self/mountinfo",
    ]);
    bundle.spec.mounts.push(mount("/data", "bind", source, "rbind,ro,noexec,nosuid,rprivate"));
    bundle.spec.mounts.push(mount("/one", "bind", &format!("{source}/file"), "bind"));
    let other = world.dir.path().join("other");
    std::fs::create_dir_all(&other).unwrap();
    bundle.spec.mounts.push(mount("/rw", "bind", other.to_str().unwrap(), "rbind"));
    let out = world.run(&bundle).unwrap().out;
    assert!(
        out.starts_with("untoucheduntouchedsh: can't create /data/new: Read-only file system\n"),
        "{out}"
    );
    let options = |point: &str| {
        let line = out.lines().find(|line| line.contains(point)).unwrap();
        line.split(' ').nth(5).unwrap().to_owned()
    };
    assert!(options(" /data ").starts_with("ro,nosuid,noexec"), "{out}");
    assert!(options(" /rw ").starts_with("rw"), "{out}");
    assert_eq!(std::fs::read_to_string(other.join("kept")).unwrap(), "kept\n");
}

fn a_nested_mount_is_read_only_too_when_asked_recursively(world: &World) {
    let top = world.dir.path().join("nest");
    std::fs::create_dir_all(top.join("below")).unwrap();
    let nested = hull_sys::mount::new("tmpfs", &[], 0).unwrap();
    hull_sys::mount::attach(&nested, Root::open(&top.join("below")).unwrap()).unwrap();
    for (options, expected) in
        [("rbind,ro", "fine\n"), ("rbind,rro", "touch: /n/below/x: Read-only file system\n")]
    {
        let mut bundle = world.bundle(&["sh", "-c", "touch /n/below/x 2>&1 && echo fine; exit 0"]);
        bundle.spec.mounts.push(mount("/n", "bind", top.to_str().unwrap(), options));
        assert_eq!(world.output(&bundle), expected, "{options}");
    }
    rustix::mount::unmount(top.join("below"), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn a_terminal_is_the_containers_own_and_controlling(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "tty; stty size; echo hi > /dev/tty; stat -c %t:%T /dev/console; read line; echo got $line",
    ]);
    let process = bundle.spec.process.as_mut().unwrap();
    process.terminal = true;
    process.console_size = Some(hull_oci::runtime::ConsoleSize { height: 33, width: 77 });
    let started = world.start(&bundle, &Streams::Terminal).unwrap();
    let mut master = std::fs::File::from(started.terminal.unwrap());
    master.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // When the last slave is closed, reading the master gives EIO.
    let _ = master.read_to_end(&mut text);
    assert_eq!(end(started.pidfd, &started.cgroup), 0);
    let text = String::from_utf8(text).unwrap().replacen("word\r\n", "", 1);
    assert_eq!(text, "/dev/pts/0\r\n33 77\r\nhi\r\n88:0\r\ngot word\r\n");
}

fn limits_umask_oom_score_and_no_new_privileges_are_set(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "ulimit -n; umask; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status",
    ]);
    let process = bundle.spec.process.as_mut().unwrap();
    process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 111, hard: 222 }];
    process.oom_score_adj = Some(500);
    process.no_new_privileges = true;
    process.user.umask = Some(0o027);
    assert_eq!(world.output(&bundle), "111\n0027\n500\nNoNewPrivs:\t1\n");
    assert_eq!(world.sh("umask; grep NoNewPrivs /proc/self/status"), "0022\nNoNewPrivs:\t0\n");
}

fn limits_that_the_host_forbids_are_lowered_with_a_warning(world: &World) {
    // Without the capability, whether or not this machine's root has it.
    use rustix::thread::CapabilitySet;
    let before = hull_sys::cred::capabilities().unwrap();
    let mut without = before;
    without.effective -= CapabilitySet::SYS_RESOURCE;
    hull_sys::cred::set_capabilities(without).unwrap();
    let have = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let maximum = have.maximum.expect("a limited number of files");
    let mut bundle = world.bundle(&["sh", "-c", "ulimit -n; ulimit -Hn"]);
    let process = bundle.spec.process.as_mut().unwrap();
    process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: maximum + 5, hard: maximum + 10 }];
    process.oom_score_adj = Some(-900);
    let output = world.run(&bundle).unwrap();
    hull_sys::cred::set_capabilities(before).unwrap();
    assert_eq!(output.out, format!("{maximum}\n{maximum}\n"));
    let words = output.warnings.join("; ");
    assert!(words.contains("RLIMIT_NOFILE") && words.contains("oom score -900"), "{words}");
}

fn kernel_settings_of_own_namespaces_are_written(world: &World) {
    let mut bundle = world.bundle(&["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni"]);
    bundle.spec.linux.sysctl = [("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "99")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    assert_eq!(world.output(&bundle), "1\n99\n");
    bundle = world.bundle(&["true"]);
    bundle.spec.linux.sysctl = [("kernel.core_pattern".to_owned(), "|/evil".to_owned())].into();
    let error = world.run(&bundle).unwrap_err();
    assert_eq!(error.message, "sysctl \"kernel.core_pattern\" is not in a separate kernel namespace");
}

fn loopback_is_up_and_the_hostname_is_set(world: &World) {
    assert_eq!(world.sh("hostname; ip addr show lo | grep -c 'UP'"), "box\n1\n");
    assert_ne!(rustix::system::uname().nodename(), c"box");
}

fn the_cgroup_view_shows_the_own_cgroup_read_only(world: &World) {
    let out = world.sh(
        "cat /proc/self/cgroup | grep -v '/$'; cd /sys/fs/cgroup; for f in */tasks cgroup.procs; do [ -e $f ] && grep -x 1 $f; done; \
         mkdir x 2>&1; mkdir */x 2>&1; exit 0",
    );
    // In its own cgroup namespace every path is the root; every controller's folder shows pid 1.
    assert!(!out.contains("hull-test"), "{out}");
    assert!(out.lines().filter(|line| *line == "1").count() >= 1, "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
}

fn init_reaps_orphans_and_passes_the_code_on(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "echo $$; (sleep 0.1 &) ; sleep 0.3; ps -o pid,stat,comm | grep -c ' Z '; cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline | sed 's/ *$//'; echo; ls -l /proc/1/exe 2>&1 | grep -c denied; exit 9",
    ]);
    bundle.init = true;
    let output = world.run(&bundle).unwrap();
    assert_eq!((output.code, &*output.out), (9, "2\n0\nhull-init\nhull-init\n1\n"), "{output:?}");
}

fn init_forwards_signals(world: &World) {
    let mut bundle = world.bundle(&[
        "sh",
        "-c",
        "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    bundle.init = true;
    let (streams, mut out, err) = pipes();
    let started = world.start(&bundle, &streams).unwrap();
    drop(streams);
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    hull_sys::process::signal(&started.pidfd, 15).unwrap();
    let output = finish(started, out, err);
    assert_eq!((output.code, &*output.out), (3, "term\n"));
}

fn a_hold_keeps_the_program_back(world: &World) {
    let (read, write) = std::io::pipe().unwrap();
    let options = StartOptions { hold: Some(read.into()), ..StartOptions::default() };
    let bundle = world.bundle(&["echo", "ran"]);
    let (streams, out, err) = pipes();
    let started = world.start_with(&bundle, &streams, None, &options).unwrap();
    drop((streams, options));
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", started.pid)).unwrap();
    assert_ne!(comm.trim(), "echo");
    (&write).write_all(b"0").unwrap();
    assert_eq!(finish(started, out, err).out, "ran\n");
    // A program that cannot be found is told before the hold, when somebody still listens.
    let (read, _write) = std::io::pipe().unwrap();
    let options = StartOptions { hold: Some(read.into()), ..StartOptions::default() };
    let error = world.start_with(&world.bundle(&["nosuch"]), &pipes().0, None, &options).unwrap_err();
    assert_eq!(error.message, "exec: \"nosuch\": executable file not found in $PATH");
}

fn the_root_descriptor_resolves_inside_the_container(world: &World) {
    let bundle = world.bundle(&["sh", "-c", "echo inside > /tmp/mark; echo ok; read line"]);
    let (_, mut out, err) = pipes();
    let (stdin, keep) = std::io::pipe().unwrap();
    let (out2, stdout) = std::io::pipe().unwrap();
    let streams = Streams::Files {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).unwrap(),
    };
    drop((std::mem::replace(&mut out, out2), err));
    let started = world.start(&bundle, &streams).unwrap();
    drop(streams);
    out.read_exact(&mut [0; 3]).unwrap();
    let root =
        Root { fd: rustix::io::fcntl_dupfd_cloexec(started.root.as_ref().unwrap().as_fd(), 3).unwrap() };
    let file =
        root.open_file("/tmp/mark".as_ref(), rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "inside\n");
    assert!(root.resolve("/proc/self".as_ref()).is_err() || root.resolve("/proc/1".as_ref()).is_ok());
    drop(keep);
    end(started.pidfd, &started.cgroup);
}

fn home_comes_from_the_containers_passwd(world: &World) {
    let mut bundle = world.bundle(&["sh", "-c", "echo $HOME"]);
    bundle.spec.process.as_mut().unwrap().user.uid = 1000;
    assert_eq!(world.output(&bundle), "/home/user\n");
    bundle = world.bundle(&["sh", "-c", "echo $HOME"]);
    bundle.spec.process.as_mut().unwrap().env.push("HOME=/asked".into());
    assert_eq!(world.output(&bundle), "/asked\n");
}

fn the_host_mount_table_is_unchanged(world: &World) {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (_read, write) = std::io::pipe().unwrap();
    let bundle = world.bundle(&["sleep", "100"]);
    let started = world.start(&bundle, &pipes().0).unwrap();
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    hull_sys::process::signal(&started.pidfd, 9).unwrap();
    assert_eq!(end(started.pidfd, &started.cgroup), 137);
    drop(write);
}
