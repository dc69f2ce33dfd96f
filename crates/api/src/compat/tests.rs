//! Documents of the newest version as older ones see them.

use super::*;

fn at(minor: u32) -> ApiVersion {
    ApiVersion::new(1, minor)
}

/// What a document of the newest version becomes in an older one.
fn seen(minor: u32, newest: &Value, fit: impl Fn(ApiVersion, &mut Value)) -> Value {
    let mut value = newest.clone();
    fit(at(minor), &mut value);
    value
}

#[test]
fn info_has_the_fields_of_its_version() {
    let newest = json!({
        "RuncCommit": {"ID": "x"}, "ContainerdCommit": {"ID": ""}, "FirewallBackend": {"Driver": "nftables"},
        "RegistryConfig": {"Mirrors": null}, "SecurityOptions": ["name=seccomp,profile=builtin"],
    });
    let view = |minor| seen(minor, &newest, info);
    assert_eq!(view(53), newest);
    assert_eq!(view(50), newest);
    assert_eq!(view(49)["BridgeNfIptables"], json!(false));
    assert_eq!(view(49)["FirewallBackend"]["Driver"], "nftables");
    assert!(view(48).get("FirewallBackend").is_none());
    assert_eq!(view(48)["RuncCommit"]["Expected"], "x");
    assert!(view(48)["ContainerdCommit"].get("Expected").is_none());
    assert!(view(47)["RegistryConfig"].get("AllowNondistributableArtifactsCIDRs").is_none());
    assert!(view(46)["RegistryConfig"].get("AllowNondistributableArtifactsCIDRs").is_some());
    assert!(view(42).get("KernelMemory").is_none());
    assert_eq!(view(41)["KernelMemory"], json!(true));
    assert_eq!(view(24)["SecurityOptions"], json!(["seccomp"]));
}

#[test]
fn rows_of_images_have_the_fields_of_their_version() {
    let newest = json!({"Containers": 2, "Size": 7, "RepoTags": ["a:1"], "RepoDigests": []});
    let row = |minor| seen(minor, &newest, image_row);
    assert_eq!(row(51), newest);
    assert_eq!(row(50)["Containers"], -1);
    assert_eq!(row(43)["VirtualSize"], 7);
    assert_eq!(row(43)["RepoDigests"], json!([]));
    assert_eq!((&row(42)["RepoTags"], &row(42)["RepoDigests"]), (&json!(["a:1"]), &Value::Null));
    let nameless = json!({"Size": 7, "RepoTags": [], "RepoDigests": []});
    assert_eq!(seen(43, &nameless, image_row)["RepoTags"], json!([]));
    assert_eq!(seen(42, &nameless, image_row)["RepoTags"], json!(["<none>:<none>"]));
    assert_eq!(seen(42, &nameless, image_row)["RepoDigests"], json!(["<none>@<none>"]));
}

#[test]
fn an_image_in_full_has_the_fields_of_its_version() {
    let newest = json!({"Size": 7, "Config": {"Cmd": ["sh"]}});
    let full = |minor| seen(minor, &newest, image_inspect);
    assert_eq!(full(52), newest);
    assert_eq!(
        full(51),
        json!({
            "Size": 7, "Parent": "", "Comment": "", "DockerVersion": "", "Author": "",
            "Config": {
                "Cmd": ["sh"], "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null,
                "Volumes": null, "User": "", "WorkingDir": "",
            },
        })
    );
    assert!(full(50)["Config"].get("Hostname").is_none());
    assert_eq!(full(49)["Config"]["Hostname"], "");
    assert!(full(45).get("ContainerConfig").is_none());
    assert_eq!(full(44)["ContainerConfig"]["Tty"], json!(false));
    assert!(full(44).get("VirtualSize").is_none() && full(44).get("Created").is_none());
    assert_eq!((&full(43)["VirtualSize"], &full(43)["Created"]), (&json!(7), &json!("0001-01-01T00:00:00Z")));
}

#[test]
fn rows_of_containers_have_the_fields_of_their_version() {
    let newest = json!({
        "Health": {"Status": "none", "FailingStreak": 0},
        "HostConfig": {"NetworkMode": "none", "Annotations": {"k": "v"}},
    });
    let row = |minor| seen(minor, &newest, container_row);
    assert_eq!(row(52), newest);
    assert_eq!(row(51), json!({"HostConfig": {"NetworkMode": "none", "Annotations": {"k": "v"}}}));
    assert_eq!(row(46), row(51));
    assert_eq!(row(45), json!({"HostConfig": {"NetworkMode": "none"}}));
}

#[test]
fn a_container_shows_its_end_at_the_bridge_twice_before_1_52() {
    let newest = json!({
        "Id": "0123456789abcdef",
        "Config": {"Hostname": "web"},
        "NetworkSettings": {"SandboxID": "s", "Networks": {
            "bridge": {"IPAddress": "172.17.0.2", "IPPrefixLen": 16, "Aliases": null},
            "mine": {"Aliases": ["a", "web"]},
        }},
    });
    let view = |minor| seen(minor, &newest, container);
    assert_eq!(view(53), newest);
    assert_eq!(view(52), newest);
    let old = view(51);
    assert_eq!(old["Config"]["OnBuild"], Value::Null);
    assert!(old["Config"].as_object().unwrap().contains_key("OnBuild"));
    let settings = &old["NetworkSettings"];
    assert_eq!(settings["IPAddress"], "172.17.0.2");
    assert_eq!(settings["IPPrefixLen"], 16);
    assert_eq!((&settings["Gateway"], &settings["GlobalIPv6PrefixLen"]), (&json!(""), &json!(0)));
    assert_eq!((&settings["HairpinMode"], &settings["SecondaryIPAddresses"]), (&json!(false), &Value::Null));
    assert_eq!(settings["Networks"]["mine"]["Aliases"], json!(["a", "web"]));
    let older = view(44);
    assert_eq!(older["NetworkSettings"]["Networks"]["mine"]["Aliases"], json!(["a", "web", "0123456789ab"]));
    assert_eq!(older["NetworkSettings"]["Networks"]["bridge"]["Aliases"], Value::Null);
    let none = json!({"NetworkSettings": {"Networks": {}}});
    assert_eq!(seen(51, &none, container)["NetworkSettings"]["MacAddress"], "");
}

#[test]
fn events_have_their_first_names_before_1_52() {
    let of = |kind: &str| {
        json!({
            "Type": kind, "Action": "start",
            "Actor": {"ID": "abc", "Attributes": {"image": "busybox"}}, "time": 1,
        })
    };
    assert_eq!(seen(52, &of("container"), event), of("container"));
    let old = seen(51, &of("container"), event);
    let names: Vec<&String> = old.as_object().unwrap().keys().collect();
    assert_eq!(names, ["status", "id", "from", "Type", "Action", "Actor", "time"]);
    assert_eq!(
        (&old["status"], &old["id"], &old["from"]),
        (&json!("start"), &json!("abc"), &json!("busybox"))
    );
    let image = seen(24, &of("image"), event);
    assert_eq!((&image["status"], &image["from"]), (&json!("start"), &Value::Null));
    assert_eq!(seen(24, &of("network"), event), of("network"));
    assert!(!event_exists(at(45), "image", "create") && event_exists(at(46), "image", "create"));
    assert!(event_exists(at(24), "container", "create"));
}

#[test]
fn networks_show_their_containers_and_their_use_by_version() {
    let newest = json!({
        "Name": "mine", "Containers": {"c": {"Name": "web"}},
        "Status": {"IPAM": {"Subnets": {"10.0.0.0/8": {"IPsInUse": 3}}}},
    });
    assert_eq!(seen(52, &newest, network), newest);
    assert_eq!(seen(51, &newest, network), json!({"Name": "mine", "Containers": {"c": {"Name": "web"}}}));
    assert_eq!(seen(52, &newest, network_row), json!({"Name": "mine"}));
    assert_eq!(seen(51, &newest, network_row), json!({"Name": "mine", "Containers": {}}));
    assert_eq!(seen(27, &newest, network_row), json!({"Name": "mine", "Containers": {"c": {"Name": "web"}}}));
}

#[test]
fn disk_usage_lists_single_things_as_its_version_and_its_caller_want() {
    let newest = json!({
        "ImageUsage": {
            "ActiveCount": 1, "Items": [{"Size": 7}], "Reclaimable": 0, "TotalCount": 1, "TotalSize": 7,
        },
        "ContainerUsage": {
            "ActiveCount": 0, "Items": [{"Health": {}}], "Reclaimable": 0, "TotalCount": 1, "TotalSize": 2,
        },
    });
    let view = |minor, detailed| seen(minor, &newest, |version, usage| disk_usage(version, usage, detailed));
    let brief =
        |active, size| json!({"ActiveCount": active, "Reclaimable": 0, "TotalCount": 1, "TotalSize": size});
    assert_eq!(view(53, true), newest);
    assert_eq!(
        view(52, false),
        json!({
            "ImageUsage": brief(1, 7), "ContainerUsage": brief(0, 2),
            "LayersSize": 7, "Images": [{"Size": 7}], "Containers": [{"Health": {}}],
        })
    );
    let old = json!({
        "LayersSize": 7, "Images": [{"Size": 7}], "Containers": [{}], "Volumes": null, "BuildCache": null,
    });
    assert_eq!(view(51, false), old);
    // It knows no such parameter.
    assert_eq!(view(51, true), old);
    assert_eq!(view(43, false)["Images"][0]["VirtualSize"], 7);
    let mut nothing = json!({});
    disk_usage(at(51), &mut nothing, false);
    assert_eq!(
        nothing,
        json!({"LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null})
    );
}

#[test]
fn the_system_is_named_in_stats_since_1_52() {
    let system = |minor| {
        let mut reading = Stats { os_type: "linux".to_owned(), ..Stats::default() };
        stats(at(minor), &mut reading);
        reading.os_type
    };
    assert_eq!((system(51).as_str(), system(52).as_str()), ("", "linux"));
}

#[test]
fn multiplexed_streams_have_a_name_since_1_42() {
    assert_eq!(stream_type(at(41), false), "application/vnd.docker.raw-stream");
    assert_eq!(stream_type(at(42), false), "application/vnd.docker.multiplexed-stream");
    assert_eq!(stream_type(at(51), true), "application/vnd.docker.raw-stream");
}
