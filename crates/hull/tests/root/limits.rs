//! Resource limits, shown by what they do to a process.

mod effects;

use hull_testkit::{Host, Options};

use super::{CLIENTS, executables, host};

#[test]
fn too_much_memory_is_killed_and_said() {
    let host = host();
    for client in CLIENTS {
        let words = ["run", "--name", "hog", "--memory", "24m", "--memory-swap", "24m", "busybox"];
        let finished =
            client(&host, &[&words[..], &["sh", "-c", "head -c 200000000 /dev/zero | tail"]].concat());
        let state = client(&host, &["inspect", "-f", "{{.State.OOMKilled}} {{.HostConfig.Memory}}", "hog"]);
        assert_eq!(state.ok(), "true 25165824", "{finished}");
        client(&host, &["rm", "hog"]).ok();
        let words =
            ["run", "--rm", "--memory", "24m", "--memory-swap", "24m", "busybox", "tail", "/dev/zero"];
        assert_eq!(client(&host, &words).code, 137);
    }
}

#[test]
fn processes_are_counted() {
    let host = host();
    let script = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all";
    for client in CLIENTS {
        let finished = client(&host, &["run", "--rm", "--pids-limit", "10", "busybox", "sh", "-c", script]);
        assert!(finished.stderr.contains("fork"), "{finished}");
    }
}

#[test]
fn a_cpu_set_is_the_affinity_and_cpus_are_a_quota() {
    let host = host();
    for client in CLIENTS {
        let words = [
            "run",
            "--rm",
            "--cpuset-cpus",
            "1",
            "busybox",
            "sh",
            "-c",
            "grep Cpus_allowed_list /proc/self/status",
        ];
        assert!(client(&host, &words).ok().ends_with("\t1"));
        client(
            &host,
            &["run", "-d", "--name", "slow", "--cpus", "0.25", "busybox", "sh", "-c", "while :; do :; done"],
        )
        .ok();
        let used = || {
            let pid = client(&host, &["inspect", "-f", "{{.State.Pid}}", "slow"]).ok().to_owned();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let (start, before) = (std::time::Instant::now(), used());
        std::thread::sleep(std::time::Duration::from_secs(2));
        let share = (used() - before) as f64 / 100.0 / start.elapsed().as_secs_f64();
        assert!((0.1..0.4).contains(&share), "a quarter of a CPU was asked for, {share:.2} was used");
        client(&host, &["rm", "-f", "slow"]).ok();
    }
}

#[test]
fn ulimits_reach_the_process() {
    let host = host();
    for client in CLIENTS {
        let words =
            ["run", "--rm", "--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"];
        assert_eq!(client(&host, &words).ok(), "123\n456");
    }
}

#[test]
fn an_update_changes_a_running_container() {
    let host = host();
    host.hull(&[
        "run",
        "-d",
        "--name",
        "grows",
        "--memory",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    host.docker(&["update", "--memory", "64m", "--memory-swap", "64m", "grows"]).ok();
    assert_eq!(host.hull(&["inspect", "-f", "{{.HostConfig.Memory}}", "grows"]).ok(), "67108864");
    let script =
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(host.hull(&["exec", "grows", "sh", "-c", script]).ok(), "67108864");
}

#[test]
fn what_the_host_cannot_limit_is_said_once() {
    let host = host();
    // As the kernel shows it, in a folder below the root: the first start makes one.
    host.hull(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
    let kernel_can = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "3", "-name", "*io.weight", "-o", "-name", "*.bfq.*"])
        .output()
        .is_ok_and(|output| !output.stdout.is_empty());
    for client in CLIENTS {
        let finished = client(&host, &["create", "--name", "weighty", "--blkio-weight", "100", "busybox"]);
        finished.ok();
        let warned = finished.stderr.contains(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        );
        assert_eq!(warned, !kernel_can, "{finished}");
        let weight = client(&host, &["inspect", "-f", "{{.HostConfig.BlkioWeight}}", "weighty"]);
        assert_eq!(weight.ok(), if kernel_can { "100" } else { "0" });
        client(&host, &["rm", "weighty"]).ok();
        let finished =
            client(&host, &["run", "--rm", "--network", "none", "--oom-kill-disable", "busybox", "true"]);
        finished.ok();
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    }
}

#[test]
fn cpus_are_updated_in_the_way_in_which_they_were_given() {
    let host = host();
    let run = ["run", "-d", "--network", "none", "--name"];
    let sleep = ["busybox", "sleep", "1000"];
    host.hull(&[&run[..], &["quota", "--cpu-period", "100000", "--cpu-quota", "50000"], &sleep[..]].concat())
        .ok();
    host.hull(&[&run[..], &["cpus", "--cpus", "0.5"], &sleep[..]].concat()).ok();
    host.hull(&[&run[..], &["free"], &sleep[..]].concat()).ok();
    for client in CLIENTS {
        client(&host, &["update", "--cpus", "1", "quota"])
            .fails(1, "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set");
        client(&host, &["update", "--cpu-quota", "20000", "cpus"])
            .fails(1, "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
        for name in ["cpus", "free"] {
            client(&host, &["update", "--cpus", "1", name]).ok();
            let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuQuota}}";
            assert_eq!(client(&host, &["inspect", "-f", format, name]).ok(), "1000000000 0");
        }
    }
}

/// More containers than the soft limit it was started with would let it serve, each with the limit
/// that it would have had without the raise.
#[test]
fn the_daemon_opens_more_files_than_it_was_given_and_containers_do_not_notice() {
    let host = Host::start(executables(), Options { open_files: Some((256, 4096)), ..Options::default() });
    host.busybox();
    let ulimit = ["sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)"];
    for client in CLIENTS {
        let limits = |flags: &[&str]| {
            let run = [&["run", "--rm"], flags, &["busybox"], &ulimit].concat();
            client(&host, &run).ok().to_owned()
        };
        assert_eq!(limits(&[]), "256 4096");
        assert_eq!(limits(&["--privileged"]), "256 4096");
        assert_eq!(limits(&["--ulimit", "nofile=99:100"]), "99 100");
    }
    let names: Vec<String> = (0..64).map(|number| format!("box-{number}")).collect();
    for name in &names {
        host.hull(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok();
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", host.daemon_pid())).unwrap().count();
    assert!(open > 256, "the daemon has {open} files open: so many containers show nothing");
    for name in &names {
        assert_eq!(host.hull(&[&["exec", name.as_str()][..], &ulimit].concat()).ok(), "256 4096");
    }
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    host.hull(&[&["rm", "-f"], &all[..]].concat()).ok();
}
