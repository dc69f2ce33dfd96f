//! Documents of Docker in, settings or refusals out.

use hull_api::create::CreateRequest;
use hull_engine::containers::settings::{Mount, VolumeMount};

use super::*;

fn facts() -> Facts {
    Facts { cpus: 2, online: "0-1".into() }
}

fn run(body: &str) -> std::result::Result<(Create, Vec<String>), Failure> {
    let request = CreateRequest::decode(body.as_bytes()).unwrap();
    create(Some("box".into()), request, &facts(), Below::ReadOnlyIfPossible)
}

fn refused(host: &str) -> String {
    run(&format!(r#"{{"Image":"busybox","HostConfig":{host}}}"#)).unwrap_err().message
}

fn settings(host: &str) -> Settings {
    run(&format!(r#"{{"Image":"busybox","HostConfig":{host}}}"#)).unwrap().0.settings
}

#[test]
fn bad_values_are_refused_in_the_references_words() {
    let cases = [
        (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
        (
            r#"{"Memory":67108864,"MemorySwap":33554432}"#,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            r#"{"MemorySwap":33554432}"#,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (r#"{"NanoCpus":-1}"#, "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        (
            r#"{"NanoCpus":1,"CpuQuota":5000}"#,
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (r#"{"CpusetCpus":"7"}"#, "Requested CPUs are not available - requested 7, available: 0-1"),
        (r#"{"CpusetCpus":"x"}"#, "Invalid value x for cpuset cpus: invalid format: x"),
        (r#"{"OomScoreAdj":2000}"#, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        (r#"{"ShmSize":-1}"#, "SHM size can not be less than 0"),
        (r#"{"CapAdd":["zz"]}"#, "invalid CapAdd: unknown capability: \"CAP_ZZ\""),
        (r#"{"SecurityOpt":["nope=1"]}"#, "invalid --security-opt 2: \"nope=1\""),
        (r#"{"IpcMode":"zz"}"#, "invalid IPC mode: zz"),
        (r#"{"PidMode":"zz"}"#, "invalid PID mode: zz"),
        (r#"{"UTSMode":"zz"}"#, "invalid UTS mode: zz"),
        (r#"{"CgroupnsMode":"zz"}"#, "invalid cgroup namespace mode: zz"),
        (r#"{"Runtime":"zz"}"#, "unknown or invalid runtime name: zz"),
        (
            r#"{"RestartPolicy":{"Name":"zz"}}"#,
            "invalid restart policy: unknown policy 'zz'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":2}}"#,
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            r#"{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}"#,
            "can't create 'AutoRemove' container with restart policy",
        ),
        (r#"{"LogConfig":{"Type":"zz"}}"#, "error looking up logging plugin zz: plugin \"zz\" not found"),
        (r#"{"Binds":["/a:/b:zz"]}"#, "invalid mode: zz"),
        (r#"{"Binds":["/a:/b:ro,rw"]}"#, "invalid mode: ro,rw"),
        (r#"{"Binds":["/a:/b:ro,"]}"#, "invalid mode: ro,"),
        (
            r#"{"Binds":["/a:/b:nocopy"]}"#,
            "invalid volume specification: '/a:/b:nocopy': invalid mount config for type \"bind\": field \
             VolumeOptions must not be specified",
        ),
        (
            r#"{"Mounts":[{"Type":"image","Target":"/x"}]}"#,
            "invalid mount config for type \"image\": field Source must not be empty",
        ),
        (
            r#"{"Binds":["/tmp/host:relative"]}"#,
            "invalid volume specification: '/tmp/host:relative': invalid mount config for type \"bind\": invalid \
             mount path: 'relative' mount path must be absolute",
        ),
        (r#"{"Binds":["a:b:c:d"]}"#, "invalid volume specification: 'a:b:c:d'"),
        (r#"{"Tmpfs":{"rel":""}}"#, "invalid mount path: 'rel' mount path must be absolute"),
        (r#"{"Binds":["/x:/a"],"Tmpfs":{"/a":""}}"#, "Duplicate mount point: /a"),
        (
            r#"{"Mounts":[{"Type":"bind","Source":"/nosuch","Target":"/x"}]}"#,
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuch",
        ),
        (
            r#"{"Mounts":[{"Type":"zz"}]}"#,
            "invalid mount config for type \"zz\": field Target must not be empty",
        ),
        (
            r#"{"Mounts":[{"Type":"volume","Target":"/x","BindOptions":{}}]}"#,
            "BindOptions must not be specified on mount type \"volume\"",
        ),
        (r#"{"ExtraHosts":["bad"]}"#, "bad format for add-host: \"bad\""),
        (r#"{"PortBindings":{"x/tcp":[]}}"#, "invalid port specification: \"x\""),
        (r#"{"PortBindings":{"80/tcp":[{"HostPort":"zz"}]}}"#, "invalid port specification: \"zz\""),
        (
            r#"{"NetworkMode":"container:a","PortBindings":{"80/tcp":[{"HostPort":"80"}]}}"#,
            "conflicting options: port publishing and the container type network mode",
        ),
    ];
    for (host, expected) in cases {
        assert_eq!(refused(host), expected, "{host}");
    }
    for (body, expected) in [
        (r#"{"Image":""}"#, "no command specified"),
        (
            r#"{"Image":"x","WorkingDir":"rel"}"#,
            "the working directory 'rel' is invalid, it needs to be an absolute path",
        ),
        (r#"{"Image":"x","Env":["=x"]}"#, "invalid environment variable: =x"),
        (r#"{"Image":"x","StopSignal":"zz"}"#, "invalid signal: zz"),
        (
            r#"{"Image":"x","Healthcheck":{"Test":["CMD","x"],"Interval":1}}"#,
            "Interval in Healthcheck cannot be less than 1ms",
        ),
    ] {
        assert_eq!(run(body).unwrap_err().message, expected);
    }
}

#[test]
fn what_comes_later_is_said_with_its_own_status() {
    for host in [r#"{"LogConfig":{"Type":"syslog"}}"#, r#"{"DeviceRequests":[{"Count":-1}]}"#] {
        let failure = run(&format!(r#"{{"Image":"busybox","HostConfig":{host}}}"#)).unwrap_err();
        assert_eq!(failure.status, 501, "{host}: {}", failure.message);
    }
}

#[test]
fn the_default_network_is_the_bridge() {
    let (create, warnings) = run(r#"{"Image":"busybox","HostConfig":{"NetworkMode":"default"}}"#).unwrap();
    assert_eq!(create.settings.network, hull_engine::containers::settings::NetworkMode::Default);
    assert!(warnings.is_empty(), "{warnings:?}");
    let echo: Echo = serde_json::from_str(&create.request).unwrap();
    assert_eq!(echo.host.network_mode, "bridge");
    assert!(run(r#"{"Image":"b","HostConfig":{"NetworkMode":"none"}}"#).unwrap().1.is_empty());
}

#[test]
fn limits_become_the_runtimes_document() {
    let host = r#"{"Memory":67108864,"NanoCpus":1500000000,"PidsLimit":0,"CpusetCpus":"0","MemorySwappiness":-1,
        "Ulimits":[{"Name":"nofile","Soft":5,"Hard":-1}],"DeviceCgroupRules":["c 10:* rw"]}"#;
    let settings = settings(host);
    assert_eq!(settings.resources.memory.limit, Some(64 << 20));
    assert_eq!(settings.resources.memory.swap, Some(128 << 20));
    assert_eq!(settings.resources.memory.swappiness, None);
    assert_eq!((settings.resources.cpu.quota, settings.resources.cpu.period), (Some(150_000), Some(100_000)));
    assert_eq!(settings.resources.pids, None);
    assert_eq!(settings.rlimits, [Rlimit { kind: "RLIMIT_NOFILE".into(), hard: u64::MAX, soft: 5 }]);
    let rule = &settings.resources.devices[0];
    assert_eq!((rule.major, rule.minor, rule.access.as_str()), (Some(10), None, "rw"));
}

#[test]
fn binds_are_read_in_the_short_form() {
    let settings = settings(r#"{"Binds":["/a/../b:/c/./d:ro,rslave"]}"#);
    let expected = Mount::Bind {
        source: "/b".into(),
        target: "/c/d".into(),
        read_only: true,
        propagation: "rslave".into(),
        create_source: true,
        non_recursive: false,
        below: Below::ReadOnlyIfPossible,
        mode: "ro,rslave".into(),
        idmap: false,
    };
    assert_eq!(settings.mounts, [expected]);
}

#[test]
fn a_bind_is_mapped_where_it_is_asked_for() {
    let idmap = |text: &str| match &*settings(&format!(r#"{{"Binds":["{text}"]}}"#)).mounts {
        [Mount::Bind { idmap, read_only, .. }] => (*idmap, *read_only),
        other => panic!("{other:?}"),
    };
    assert_eq!(idmap("/a:/b:ro,idmap"), (true, true));
    assert_eq!(idmap("/a:/b"), (false, false));
}

#[test]
fn volumes_are_read_in_both_forms() {
    let settings = settings(
        r#"{"VolumeDriver":"local","Binds":["named:/d/:nocopy,ro","/anon"],"Mounts":[{"Type":"volume","Source":"data","Target":"/m",
            "VolumeOptions":{"NoCopy":true,"Subpath":"a/b","Labels":{"l":"1"},"DriverConfig":{"Options":{"type":"tmpfs"}}}}]}"#,
    );
    let driver = || "local".to_owned();
    let named = VolumeMount {
        name: "named".into(),
        target: "/d".into(),
        read_only: true,
        mode: "nocopy,ro".into(),
        driver: driver(),
        ..VolumeMount::default()
    };
    let anonymous = VolumeMount {
        target: "/anon".into(),
        copy: true,
        mode: "z".into(),
        driver: driver(),
        ..VolumeMount::default()
    };
    let long = VolumeMount {
        name: "data".into(),
        target: "/m".into(),
        subpath: "a/b".into(),
        mode: "z".into(),
        driver: driver(),
        options: [("type".to_owned(), "tmpfs".to_owned())].into(),
        labels: [("l".to_owned(), "1".to_owned())].into(),
        ..VolumeMount::default()
    };
    assert_eq!(settings.mounts, [named, anonymous, long].map(Mount::Volume));
    for (host, text) in [
        (r#"{"Binds":["named:rel"]}"#, "invalid mount path: 'rel' mount path must be absolute"),
        (
            r#"{"Binds":["named:/"]}"#,
            "invalid mount config for type \"volume\": invalid specification: destination",
        ),
        (r#"{"Binds":["named:/x:rslave"]}"#, "field BindOptions must not be specified"),
        (r#"{"Binds":["named:/a"],"Mounts":[{"Type":"tmpfs","Target":"/a"}]}"#, "Duplicate mount point: /a"),
    ] {
        assert!(refused(host).contains(text), "{host}: {}", refused(host));
    }
}

#[test]
fn what_is_below_a_read_only_bind_can_be_spared_or_insisted_on() {
    let bind = |more: &str| {
        format!(
            r#"{{"Mounts":[{{"Type":"bind","Source":"/","Target":"/h","ReadOnly":true,"BindOptions":{{{more}}}}}]}}"#
        )
    };
    let below = |more: &str| match &settings(&bind(more)).mounts[..] {
        [Mount::Bind { below, .. }] => *below,
        other => panic!("{other:?}"),
    };
    assert_eq!(below(""), Below::ReadOnlyIfPossible);
    assert_eq!(below(r#""ReadOnlyNonRecursive":true"#), Below::Untouched);
    assert_eq!(below(r#""ReadOnlyForceRecursive":true"#), Below::ReadOnly);
    let forced = bind(r#""ReadOnlyForceRecursive":true"#);
    assert!(refused(&forced.replace("\"ReadOnly\":true,", "")).contains("needs ReadOnly"));
    assert!(refused(&bind(r#""ReadOnlyForceRecursive":true,"Propagation":"rshared""#)).contains("rprivate"));
    assert!(refused(&bind(r#""ReadOnlyForceRecursive":true,"NonRecursive":true"#)).contains("cannot both"));
}

#[test]
fn what_shares_with_the_host_has_no_label() {
    let options = |host: &str| {
        let (create, _) = run(&format!(r#"{{"Image":"busybox","HostConfig":{host}}}"#)).unwrap();
        serde_json::from_str::<Echo>(&create.request).unwrap().host.security_opt.unwrap_or_default()
    };
    assert_eq!(options("{}"), [] as [&str; 0]);
    assert_eq!(options(r#"{"Privileged":true}"#), ["label=disable"]);
    assert_eq!(options(r#"{"PidMode":"host"}"#), ["label=disable"]);
    assert_eq!(
        options(r#"{"Privileged":true,"SecurityOpt":["no-new-privileges"]}"#),
        ["no-new-privileges", "label=disable"]
    );
    assert_eq!(options(r#"{"Privileged":true,"SecurityOpt":["label=level:s0"]}"#), ["label=level:s0"]);
}

#[test]
fn the_echo_shows_what_was_filled_in() {
    let (create, _) =
        run(r#"{"Image":"busybox","HostConfig":{"MemorySwappiness":-1,"PidsLimit":0}}"#).unwrap();
    let echo: Echo = serde_json::from_str(&create.request).unwrap();
    assert_eq!(echo.host.log_config.kind, "json-file");
    assert_eq!(echo.host.shm_size, 64 << 20);
    assert_eq!(echo.host.memory_swappiness, None);
    assert_eq!(echo.host.pids_limit, None);
    assert_eq!(echo.host.masked_paths.unwrap().len(), spec::MASKED.len());
    assert_eq!(echo.host.ipc_mode, "private");
}
