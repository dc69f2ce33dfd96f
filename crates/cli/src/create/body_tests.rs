//! Command lines and the bodies they become. What is expected here is what the
//! reference's client was seen to send for the same line.

use expect_test::{Expect, expect};

use super::*;
use crate::create::flags::{CREATE, RUN};
use crate::flags::parse;

fn body(words: &[&str]) -> Result<Value, String> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let Ok(given) = parse(&[CREATE, RUN], true, &words) else {
        return Err("flags are refused".to_owned());
    };
    build(&given, &Surroundings::default())
}

/// What `changed` has that `plain` has not, a line each.
fn differences(plain: &Value, changed: &Value, path: &str, out: &mut String) {
    let (Value::Object(before), Value::Object(after)) = (plain, changed) else {
        if plain != changed {
            out.push_str(&format!("{path} {changed}\n"));
        }
        return;
    };
    for (key, value) in after {
        let path = format!("{path}.{key}");
        differences(before.get(key).unwrap_or(&Value::Null), value, &path, out);
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        out.push_str(&format!("{path}.{key} gone\n"));
    }
}

/// Checks a line (words at blanks; `~` stands for one within a word) against
/// what it changes in the plain body.
fn check(line: &str, expected: Expect) {
    let plain = body(&["busybox"]).unwrap();
    let words: Vec<String> = line.split(' ').map(|word| word.replace('~', " ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = String::new();
    match body(&words) {
        Ok(changed) => differences(&plain, &changed, "", &mut out),
        Err(refusal) => out = refusal,
    }
    expected.assert_eq(&out);
}

#[test]
fn the_plain_body_has_every_field() {
    let text = body(&["busybox", "echo", "hi"]).unwrap().to_string();
    expect![[r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["echo","hi"],"Image":"busybox","Volumes":{},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"#]]
    .assert_eq(&text);
}

#[test]
fn streams_follow_the_flags() {
    check(
        "-it busybox sh",
        expect![[r#"
        .AttachStdin true
        .Tty true
        .OpenStdin true
        .StdinOnce true
        .Cmd ["sh"]
    "#]],
    );
    check(
        "-d -i busybox",
        expect![[r#"
        .AttachStdout false
        .AttachStderr false
        .OpenStdin true
    "#]],
    );
    check(
        "-a stdout busybox",
        expect![[r#"
        .AttachStderr false
    "#]],
    );
}

#[test]
fn what_the_process_is() {
    check(
        "-e A=1 -e B=two~words -w /w -u 1:2 --entrypoint /bin/echo --hostname h --domainname e.c -l a=b --label c --annotation an=1 --stop-signal SIGUSR1 --stop-timeout 1 busybox x",
        expect![[r#"
            .Hostname "h"
            .Domainname "e.c"
            .User "1:2"
            .Env ["A=1","B=two words"]
            .Cmd ["x"]
            .WorkingDir "/w"
            .Entrypoint ["/bin/echo"]
            .Labels.a "b"
            .Labels.c ""
            .StopSignal "SIGUSR1"
            .StopTimeout 1
            .HostConfig.Annotations {"an":"1"}
        "#]],
    );
    check(
        "--entrypoint= busybox echo",
        expect![[r#"
        .Cmd ["echo"]
        .Entrypoint [""]
    "#]],
    );
    check(
        "--rm --cidfile /tmp/cid --pid host --ipc private --uts host --cgroupns private --userns host busybox",
        expect![[r#"
            .HostConfig.ContainerIDFile "/tmp/cid"
            .HostConfig.AutoRemove true
            .HostConfig.CgroupnsMode "private"
            .HostConfig.IpcMode "private"
            .HostConfig.PidMode "host"
            .HostConfig.UTSMode "host"
            .HostConfig.UsernsMode "host"
        "#]],
    );
}

#[test]
fn security() {
    check(
        "--cap-add NET_ADMIN --cap-drop chown --cap-drop all --privileged --security-opt no-new-privileges --security-opt seccomp=unconfined --read-only --group-add 5 --init busybox",
        expect![[r#"
            .HostConfig.CapAdd ["CAP_NET_ADMIN"]
            .HostConfig.CapDrop ["ALL","CAP_CHOWN"]
            .HostConfig.GroupAdd ["5"]
            .HostConfig.Privileged true
            .HostConfig.ReadonlyRootfs true
            .HostConfig.SecurityOpt ["no-new-privileges","seccomp=unconfined"]
            .HostConfig.Init true
        "#]],
    );
    check(
        "--security-opt systempaths=unconfined busybox",
        expect![[r#"
        .HostConfig.SecurityOpt []
        .HostConfig.MaskedPaths []
        .HostConfig.ReadonlyPaths []
    "#]],
    );
    check("--security-opt nonsense busybox", expect![[r#"Invalid --security-opt: "nonsense""#]]);
    check(
        "--device /dev/null:/dev/x:rw --device vendor.com/class=dev --device-cgroup-rule c~1:3~rwm --gpus all --ulimit nproc=500 --ulimit core=0 busybox",
        expect![[r#"
            .HostConfig.Devices [{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"rw"}]
            .HostConfig.DeviceCgroupRules ["c 1:3 rwm"]
            .HostConfig.DeviceRequests [{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}},{"Driver":"cdi","Count":0,"DeviceIDs":["vendor.com/class=dev"],"Capabilities":null,"Options":null}]
            .HostConfig.Ulimits [{"Name":"core","Hard":0,"Soft":0},{"Name":"nproc","Hard":500,"Soft":500}]
        "#]],
    );
}

#[test]
fn resources() {
    check(
        "-m 64m --memory-reservation 32m --memory-swap 128m --cpus 0.5 --cpuset-cpus 0 --cpuset-mems 0 --cpu-shares 512 --pids-limit 50 --blkio-weight 100 --oom-score-adj 100 --shm-size 32m busybox",
        expect![[r#"
            .HostConfig.OomScoreAdj 100
            .HostConfig.ShmSize 33554432
            .HostConfig.CpuShares 512
            .HostConfig.Memory 67108864
            .HostConfig.NanoCpus 500000000
            .HostConfig.BlkioWeight 100
            .HostConfig.CpusetCpus "0"
            .HostConfig.CpusetMems "0"
            .HostConfig.MemoryReservation 33554432
            .HostConfig.MemorySwap 134217728
            .HostConfig.PidsLimit 50
        "#]],
    );
    check(
        "--cpu-period 100000 --cpu-quota 50000 --pids-limit -1 --memory-swappiness 10 --device-read-bps /dev/null:1mb --sysctl net.core.somaxconn=512 --storage-opt size=1G --cgroup-parent /ref --memory-swap -1 busybox",
        expect![[r#"
            .HostConfig.StorageOpt {"size":"1G"}
            .HostConfig.Sysctls {"net.core.somaxconn":"512"}
            .HostConfig.CgroupParent "/ref"
            .HostConfig.BlkioDeviceReadBps [{"Path":"/dev/null","Rate":1048576}]
            .HostConfig.CpuPeriod 100000
            .HostConfig.CpuQuota 50000
            .HostConfig.MemorySwap -1
            .HostConfig.MemorySwappiness 10
            .HostConfig.PidsLimit -1
        "#]],
    );
}

#[test]
fn mounts_ports_and_networks() {
    check(
        "-v /anon -v named:/data -v /tmp/host:/h:ro --tmpfs /t:size=1m --tmpfs /u --mount type=bind,src=/a,dst=/b --volumes-from v1 busybox",
        expect![[r#"
            .Volumes./anon {}
            .HostConfig.Binds ["named:/data","/tmp/host:/h:ro"]
            .HostConfig.VolumesFrom ["v1"]
            .HostConfig.Tmpfs {"/t":"size=1m","/u":""}
            .HostConfig.Mounts [{"Type":"bind","Source":"/a","Target":"/b"}]
        "#]],
    );
    check(
        "-p 8080:80 -p 127.0.0.1:8081:81/udp --expose 1000 -P busybox",
        expect![[r#"
            .ExposedPorts {"80/tcp":{},"81/udp":{},"1000/tcp":{}}
            .HostConfig.PortBindings.80/tcp [{"HostIp":"","HostPort":"8080"}]
            .HostConfig.PortBindings.81/udp [{"HostIp":"127.0.0.1","HostPort":"8081"}]
            .HostConfig.PublishAllPorts true
        "#]],
    );
    check(
        "--network none busybox",
        expect![[r#"
        .HostConfig.NetworkMode "none"
        .NetworkingConfig.EndpointsConfig.default gone
    "#]],
    );
    check(
        "--network n1 --ip 10.77.0.50 --network-alias al1 --mac-address 02:42:0a:4d:00:32 busybox",
        expect![[r#"
            .HostConfig.NetworkMode "n1"
            .NetworkingConfig.EndpointsConfig.n1 {"IPAMConfig":{"IPv4Address":"10.77.0.50"},"Links":null,"Aliases":["al1"],"MacAddress":"02:42:0a:4d:00:32","DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}
            .NetworkingConfig.EndpointsConfig.default gone
        "#]],
    );
    check(
        "--network none --network n1 busybox",
        expect!["conflicting options: cannot attach both user-defined and non-user-defined network-modes"],
    );
    check(
        "--dns 9.9.9.9 --dns-search e.c --dns-option ndots:2 --add-host b=::1 --link lt:alias busybox",
        expect![[r#"
            .HostConfig.Dns ["9.9.9.9"]
            .HostConfig.DnsOptions ["ndots:2"]
            .HostConfig.DnsSearch ["e.c"]
            .HostConfig.ExtraHosts ["b:::1"]
            .HostConfig.Links ["lt:alias"]
        "#]],
    );
}

#[test]
fn health_logs_and_restarts() {
    check(
        "--health-cmd true --health-interval 1s --health-retries 2 --log-driver json-file --log-opt max-size=1k --restart on-failure:3 busybox",
        expect![[r#"
            .Healthcheck {"Test":["CMD-SHELL","true"],"Interval":1000000000,"Retries":2}
            .HostConfig.LogConfig.Type "json-file"
            .HostConfig.LogConfig.Config.max-size "1k"
            .HostConfig.RestartPolicy.Name "on-failure"
            .HostConfig.RestartPolicy.MaximumRetryCount 3
        "#]],
    );
    check(
        "--no-healthcheck busybox",
        expect![[r#"
        .Healthcheck {"Test":["NONE"]}
    "#]],
    );
    check(
        "--no-healthcheck --health-cmd x busybox",
        expect!["--no-healthcheck conflicts with --health-* options"],
    );
    check(
        "--rm --restart always busybox",
        expect!["conflicting options: cannot specify both --restart and --rm"],
    );
    check(
        "--restart x:y busybox",
        expect!["invalid restart policy format: maximum retry count must be an integer"],
    );
}
