//! Every version of the API in its own shape: each is asked for each document that differs
//! between versions, over the wire.

use serde_json::{Value, json};

use super::{Daemon, names};

/// 1.24 to 1.53.
const MINORS: std::ops::RangeInclusive<u32> = 24..=53;

/// `true` exactly where the version is `since` or later.
fn appears(minor: u32, since: u32, of: &Value, name: &str) {
    assert_eq!(of.get(name).is_some(), minor >= since, "1.{minor} {name} (since 1.{since}): {of}");
}

/// `true` exactly where the version is older than `gone`.
fn vanishes(minor: u32, gone: u32, of: &Value, name: &str) {
    assert_eq!(of.get(name).is_some(), minor < gone, "1.{minor} {name} (until 1.{gone}): {of}");
}

impl Daemon {
    async fn at(&self, minor: u32, path: &str) -> Value {
        let answer = self.get(&format!("/v1.{minor}{path}")).await;
        assert_eq!(answer.status, 200, "1.{minor} {path}: {}", answer.text());
        answer.json()
    }

    async fn create(&self, minor: u32, name: &str, body: &Value) -> super::Answer {
        self.request("POST", &format!("/v1.{minor}/containers/create?name={name}"), &body.to_string()).await
    }

    /// What a creation in a version makes of a body, as the newest version shows it.
    async fn made(&self, minor: u32, body: &Value) -> Value {
        let name = format!("made-{minor}");
        let answer = self.create(minor, &name, body).await;
        assert_eq!(answer.status, 201, "1.{minor}: {}", answer.text());
        let shown = self.at(53, &format!("/containers/{name}/json")).await;
        assert_eq!(self.request("DELETE", &format!("/containers/{name}"), "").await.status, 204);
        shown
    }
}

#[tokio::test]
async fn containers_are_listed_and_shown_in_the_shape_of_each_version() {
    let daemon = Daemon::start().await;
    let body = json!({"Image": "hello", "HostConfig": {"NetworkMode": "none", "Annotations": {"k": "v"}}});
    assert_eq!(daemon.create(53, "box", &body).await.status, 201);
    for minor in MINORS {
        let rows = daemon.at(minor, "/containers/json?all=1").await;
        appears(minor, 52, &rows[0], "Health");
        appears(minor, 46, &rows[0]["HostConfig"], "Annotations");
        let shown = daemon.at(minor, "/containers/box/json").await;
        vanishes(minor, 52, &shown["Config"], "OnBuild");
        let settings = &shown["NetworkSettings"];
        let mut expected = vec!["Networks", "Ports", "SandboxID", "SandboxKey"];
        if minor < 52 {
            expected.extend([
                "Bridge",
                "EndpointID",
                "Gateway",
                "GlobalIPv6Address",
                "GlobalIPv6PrefixLen",
                "HairpinMode",
                "IPAddress",
                "IPPrefixLen",
                "IPv6Gateway",
                "LinkLocalIPv6Address",
                "LinkLocalIPv6PrefixLen",
                "MacAddress",
                "SecondaryIPAddresses",
                "SecondaryIPv6Addresses",
            ]);
            expected.sort_unstable();
        }
        assert_eq!(names(settings), expected, "1.{minor}");
        let stats = daemon.at(minor, "/containers/box/stats?stream=0").await;
        appears(minor, 52, &stats, "os_type");
    }
    assert_eq!(
        daemon.at(52, "/containers/json?all=1").await[0]["Health"],
        json!({"Status": "none", "FailingStreak": 0})
    );
}

#[tokio::test]
async fn images_are_listed_and_shown_in_the_shape_of_each_version() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    for minor in MINORS {
        let rows = daemon.at(minor, "/images/json").await;
        vanishes(minor, 44, &rows[0], "VirtualSize");
        assert_eq!(rows[0]["Containers"], if minor < 51 { -1 } else { 1 }, "1.{minor}");
        assert_eq!(rows[0]["RepoDigests"], if minor < 43 { Value::Null } else { json!([]) }, "1.{minor}");
        let image = daemon.at(minor, "/images/hello/json").await;
        vanishes(minor, 44, &image, "VirtualSize");
        vanishes(minor, 45, &image, "ContainerConfig");
        vanishes(minor, 50, &image["Config"], "Hostname");
        for name in ["Parent", "DockerVersion", "Author"] {
            vanishes(minor, 52, &image, name);
        }
        for name in ["Labels", "OnBuild", "User", "Volumes"] {
            vanishes(minor, 52, &image["Config"], name);
        }
        let kept = image.get("GraphDriver").is_some() && image.get("Config").is_some();
        assert!(kept && image["Architecture"].is_string(), "1.{minor}: {image}");
    }
}

#[tokio::test]
async fn networks_are_listed_and_shown_in_the_shape_of_each_version() {
    let daemon = Daemon::start().await;
    for minor in MINORS {
        let row = &daemon.at(minor, "/networks").await[0];
        vanishes(minor, 52, row, "Containers");
        assert!(row.get("Status").is_none(), "1.{minor}: {row}");
        let none = daemon.at(minor, "/networks/none").await;
        assert_eq!(none["Containers"], json!({}));
        appears(minor, 52, &none, "Status");
    }
}

#[tokio::test]
async fn the_daemon_describes_itself_in_the_shape_of_each_version() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    for minor in MINORS {
        let info = daemon.at(minor, "/info").await;
        vanishes(minor, 42, &info, "KernelMemory");
        vanishes(minor, 50, &info, "BridgeNfIptables");
        vanishes(minor, 47, &info["RegistryConfig"], "AllowNondistributableArtifactsCIDRs");
        vanishes(minor, 49, &info["RuncCommit"], "Expected");
        assert!(info.get("KernelMemoryTCP").is_none() && info.get("NRI").is_none(), "1.{minor}");
        let old = ["BuildCache", "Containers", "Images", "LayersSize", "Volumes"];
        let new = ["BuildCacheUsage", "ContainerUsage", "ImageUsage", "VolumeUsage"];
        let mut both: Vec<&str> = old.into_iter().chain(new).collect();
        both.sort_unstable();
        let usage = daemon.at(minor, "/system/df").await;
        assert_eq!(names(&usage), if minor < 52 { old.to_vec() } else { both }, "1.{minor}");
        let detailed = daemon.at(minor, "/system/df?verbose=1").await;
        assert_eq!(names(&detailed), if minor < 52 { old.to_vec() } else { new.to_vec() }, "1.{minor}");
        let images = daemon.at(minor, "/system/df?type=image&verbose=1").await;
        match minor {
            52.. => {
                let usage = &images["ImageUsage"];
                assert_eq!(
                    (names(&images), usage["Items"][0]["Containers"].clone()),
                    (vec!["ImageUsage"], 1.into())
                );
                assert_eq!((&usage["ActiveCount"], &usage["TotalCount"]), (&json!(1), &json!(1)));
            }
            42.. => assert_eq!((&images["Containers"], images["Images"].is_array()), (&Value::Null, true)),
            // It knew no such parameter.
            _ => assert!(images["Containers"].is_array(), "1.{minor}"),
        }
    }
    let summary = &daemon.at(53, "/system/df").await["ContainerUsage"];
    assert_eq!(names(summary), ["ActiveCount", "Reclaimable", "TotalCount", "TotalSize"]);
}

#[tokio::test]
async fn events_are_framed_and_named_as_version_and_client_want() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    let until = super::now();
    let ask = |minor: u32, accept: &'static str| {
        let request = format!(
            "GET /v1.{minor}/events?since=1&until={until}&filters=%7B%22type%22%3A%5B%22container%22%5D%7D HTTP/1.1\r\n\
             Host: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
        );
        let daemon = &daemon;
        async move { daemon.raw(request.as_bytes()).await }
    };
    for minor in MINORS {
        let answer = ask(minor, "application/json").await;
        assert!(answer.head.contains("Content-Type: application/json\r\n"), "{}", answer.head);
        let text = answer.text();
        let event: Value = serde_json::from_str(text.lines().next().expect("an event")).unwrap();
        for name in ["status", "id", "from"] {
            vanishes(minor, 52, &event, name);
        }
        assert_eq!(event["Action"], "create");
    }
    for (minor, accept, expected) in [
        (51, "application/x-ndjson", "application/json"),
        (52, "application/x-ndjson", "application/x-ndjson"),
        (52, "application/jsonl", "application/json"),
        (53, "application/jsonl", "application/jsonl"),
        (53, "application/json-seq", "application/json-seq"),
    ] {
        let answer = ask(minor, accept).await;
        assert!(
            answer.head.contains(&format!("Content-Type: {expected}\r\n")),
            "1.{minor} {accept}: {}",
            answer.head
        );
        assert_eq!(answer.text().starts_with('\u{1e}'), expected == "application/json-seq");
    }
}

#[tokio::test]
async fn a_creation_means_what_it_meant_in_its_version() {
    let daemon = Daemon::start().await;
    let body = json!({
        "Image": "hello",
        "HostConfig": {"NetworkMode": "none", "AutoRemove": true, "Annotations": {"k": "v"}, "ConsoleSize": [3, 4]},
    });
    for minor in [24, 25, 39, 40, 41, 42, 43, 53] {
        let host = &daemon.made(minor, &body).await["HostConfig"];
        assert_eq!(host["AutoRemove"], minor >= 25, "1.{minor}");
        assert_eq!(host["IpcMode"], if minor < 40 { "shareable" } else { "private" }, "1.{minor}");
        appears(minor, 43, host, "Annotations");
        assert_eq!(host["ConsoleSize"], if minor < 42 { json!([0, 0]) } else { json!([3, 4]) }, "1.{minor}");
        let unified = daemon.at(53, "/info").await["CgroupVersion"] == "2";
        let cgroups = if minor < 41 && !unified { "host" } else { "private" };
        assert_eq!(host["CgroupnsMode"], cgroups, "1.{minor}");
    }
    let two = json!({
        "Image": "hello", "HostConfig": {"NetworkMode": "none"},
        "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}},
    });
    let refused = daemon.create(43, "two", &two).await;
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "Container cannot be created with multiple network endpoints: a, b")
    );
    let forced = json!({
        "Image": "hello",
        "HostConfig": {"NetworkMode": "none", "Mounts": [{
            "Type": "bind", "Source": "/", "Target": "/host", "ReadOnly": true,
            "BindOptions": {"ReadOnlyForceRecursive": true},
        }]},
    });
    let refused = daemon.create(43, "forced", &forced).await;
    assert_eq!(refused.message(), "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer");
}

#[tokio::test]
async fn parameters_are_unknown_before_their_version() {
    let daemon = Daemon::start().await;
    daemon.container("box").await;
    let status = |method: &'static str, path: &'static str| {
        let daemon = &daemon;
        async move { daemon.request(method, path, "").await.status }
    };
    for (method, path, old, new, since) in [
        ("POST", "/containers/box/wait?condition=bad", 200, 400, 30),
        ("GET", "/system/df?type=bad", 200, 400, 42),
        ("GET", "/containers/box/stats?stream=1&one-shot=1", 0, 400, 41),
        ("GET", "/images/hello/json?platform=linux/s390x", 200, 404, 49),
        ("GET", "/images/hello/history?platform=linux/s390x", 200, 404, 48),
        ("GET", "/images/hello/get?platform=linux/s390x", 200, 404, 48),
    ] {
        let before = String::leak(format!("/v1.{}{path}", since - 1));
        let at = String::leak(format!("/v1.{since}{path}"));
        if old != 0 {
            assert_eq!(status(method, before).await, old, "{before}");
        }
        assert_eq!(status(method, at).await, new, "{at}");
    }
    let two = "/images/hello/get?platform=linux/amd64&platform=linux/arm64";
    let refused = daemon.get(&format!("/v1.51{two}")).await;
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (
            400,
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later"
        )
    );
    assert_eq!(daemon.get(&format!("/v1.52{two}")).await.status, 200);
    for minor in MINORS {
        assert_eq!(daemon.get(&format!("/v1.{minor}/_ping")).await.text(), "OK");
        assert_eq!(daemon.at(minor, "/version").await["ApiVersion"], "1.53");
    }
    assert_eq!(daemon.get("/v1.54/info").await.status, 400);
    assert_eq!(daemon.get("/v1.23/info").await.status, 400);
}
