//! Volumes by themselves, through both clients and by hand.

mod mounted;

use super::{CLIENTS, host};

/// Names of all volumes, one a line.
const LIST: [&str; 3] = ["volume", "ls", "-q"];

#[test]
fn volumes_are_made_shown_and_removed_as_the_reference_does_it() {
    let host = host();
    for client in CLIENTS {
        let run = |words: &[&str]| client(&host, &[&["volume"], words].concat());
        assert_eq!(run(&["create", "v10"]).ok(), "v10");
        assert_eq!(run(&["create", "--label", "a=b", "--label", "c", "v2"]).ok(), "v2");
        // As it is, whatever else is asked.
        assert_eq!(run(&["create", "--label", "x=1", "v2"]).ok(), "v2");
        let anonymous = run(&["create"]).ok().to_owned();
        assert!(anonymous.len() == 64 && anonymous.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(
            run(&["ls"]).ok(),
            format!("DRIVER    VOLUME NAME\nlocal     {anonymous}\nlocal     v2\nlocal     v10")
        );
        for (filter, names) in [
            ("name=v1", "v10"),
            ("label=a", "v2"),
            ("label=a=b", "v2"),
            ("label=a=x", ""),
            ("label=com.docker.volume.anonymous", anonymous.as_str()),
            ("driver=nosuch", ""),
            ("dangling=false", ""),
        ] {
            assert_eq!(run(&["ls", "-q", "-f", filter]).ok(), names, "{filter}");
        }
        let data = host.data_root().join("volumes/v2/_data");
        assert!(data.is_dir());
        let shown = "{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{json .Labels}} {{json .Options}}";
        assert_eq!(
            run(&["inspect", "-f", shown, "v2"]).ok(),
            format!("v2 local local {} {{\"a\":\"b\",\"c\":\"\"}} null", data.display())
        );
        assert_eq!(
            run(&["ls", "--format", "{{.Name}} {{.Links}} {{.Label \"a\"}}", "-f", "label=a"]).ok(),
            "v2 N/A b"
        );
        for (words, text) in [
            (
                &["create", "bad name"][..],
                "create bad name: \"bad name\" includes invalid characters for a local",
            ),
            (&["create", "-"], "create -: volume name is too short, names should be at least two"),
            (
                &["create", "-d", "nosuch", "v3"],
                "create v3: error looking up volume plugin nosuch: plugin \"nosuch\" not found",
            ),
            (&["create", "-o", "nope=1", "v4"], "create v4: invalid option: \"nope\""),
            (&["create", "-o", "type=tmpfs", "v5"], "create v5: missing required option: \"device\""),
            (&["inspect", "nosuch"], "get nosuch: no such volume"),
            (&["rm", "nosuch"], "get nosuch: no such volume"),
            (&["update", "nosuch"], "get nosuch: no such volume"),
            (&["update", "v2"], "can only update cluster volumes"),
            (&["ls", "-f", "dangling=nonsense"], "invalid filter 'dangling=[nonsense]'"),
            (&["ls", "-f", "nosuch=1"], "invalid filter 'nosuch'"),
            (&["prune", "-f", "--filter", "nosuch=1"], "invalid filter 'nosuch'"),
            (
                &["prune", "-a", "-f", "--filter", "all=1"],
                "conflicting options: cannot specify both --all and --filter all=1",
            ),
        ] {
            run(words).fails(1, text);
        }
        assert_eq!(run(&["rm", "-f", "nosuch"]).ok(), "nosuch");
        let both = run(&["rm", "v2", "nosuch"]);
        assert_eq!((both.code, both.stdout.as_str()), (1, "v2\n"));
        assert!(!host.data_root().join("volumes/v2").exists());
        run(&["rm", "v10", &anonymous]).ok();
        assert_eq!(run(&["ls"]).ok(), "DRIVER    VOLUME NAME");
    }
}

#[test]
fn a_prune_takes_those_without_a_name_and_before_1_42_the_others_too() {
    let host = host();
    for client in CLIENTS {
        let named = || client(&host, &["volume", "create", "--label", "keep=1", "named"]).ok().to_owned();
        named();
        let anonymous = client(&host, &["volume", "create"]).ok().to_owned();
        std::fs::write(host.data_root().join("volumes").join(&anonymous).join("_data/file"), [0; 1500])
            .unwrap();
        let asked = client(&host, &["volume", "prune"]);
        assert_eq!(
            asked.ok(),
            "WARNING! This will remove anonymous local volumes not used by at least one container.\n\
             Are you sure you want to continue? [y/N] "
        );
        let pruned = client(&host, &["volume", "prune", "-f"]);
        assert_eq!(pruned.ok(), format!("Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 1.5kB"));
        let none = client(&host, &["volume", "prune", "-a", "-f", "--filter", "label!=keep"]);
        assert_eq!(none.ok(), "Total reclaimed space: 0B");
        let all = client(&host, &["volume", "prune", "-a", "-f", "--filter", "label=keep=1"]);
        assert_eq!(all.ok(), "Deleted Volumes:\nnamed\n\nTotal reclaimed space: 0B");
        named();
        let new = host.request("POST", "/v1.42/volumes/prune", b"");
        assert_eq!(new.text(), "{\"VolumesDeleted\":[],\"SpaceReclaimed\":0}\n");
        let old = host.request("POST", "/v1.41/volumes/prune", b"");
        assert_eq!(old.text(), "{\"VolumesDeleted\":[\"named\"],\"SpaceReclaimed\":0}\n");
    }
}

#[test]
fn requests_by_hand_have_the_references_answers() {
    let host = host();
    let ask = |method: &str, path: &str, body: &str| {
        let answer = host.request(method, path, body.as_bytes());
        (answer.status, answer.text())
    };
    let (status, made) =
        ask("POST", "/v1.51/volumes/create", r#"{"Name":"r1","DriverOpts":{},"Labels":null}"#);
    assert_eq!(status, 201);
    assert!(
        made.contains(r#""Driver":"local","Labels":null"#)
            && made.contains(r#""Options":null,"Scope":"local""#),
        "{made}"
    );
    let shown = ask("GET", "/v1.51/volumes/r1", "");
    assert_eq!(shown, (200, made.clone()));
    let listed = format!("{{\"Volumes\":[{}],\"Warnings\":null}}\n", made.trim_end());
    assert_eq!(ask("GET", "/v1.51/volumes", ""), (200, listed));
    let (status, made) = ask("POST", "/v1.51/volumes/create", "");
    assert!(status == 201 && made.contains(r#""Labels":{"com.docker.volume.anonymous":""}"#), "{made}");
    for (method, path, body, status, text) in [
        (
            "POST",
            "/v1.51/volumes/create",
            r#"{"Name":"r3","ClusterVolumeSpec":{}}"#,
            503,
            "This node is not a swarm manager.",
        ),
        (
            "POST",
            "/v1.51/volumes/create",
            "{bad",
            400,
            "invalid character 'b' looking for beginning of object key",
        ),
        ("POST", "/v1.51/volumes/create", r#"{"Name":"../up"}"#, 400, "includes invalid characters"),
        ("GET", "/v1.51/volumes/nosuch", "", 404, "get nosuch: no such volume"),
        ("GET", "/v1.51/volumes/..%2fup", "", 404, "get ../up: no such volume"),
        ("GET", "/v1.51/volumes?filters=bad", "", 400, "error reading volume filters: invalid filter"),
        ("DELETE", "/v1.51/volumes/nosuch", "", 404, "get nosuch: no such volume"),
        ("PUT", "/v1.51/volumes/r1?version=1", "", 503, "volume update only valid for cluster volumes"),
    ] {
        let (found, message) = ask(method, path, body);
        assert!(found == status && message.contains(text), "{method} {path}: {found} {message}");
    }
    assert_eq!(ask("DELETE", "/v1.51/volumes/nosuch?force=1", "").0, 204);
    assert_eq!(ask("DELETE", "/v1.51/volumes/r1", "").0, 204);
}

#[test]
fn volumes_outlive_the_daemon_and_are_told_of() {
    let mut host = host();
    host.hull(&["volume", "create", "--label", "a=b", "data"]).ok();
    let file = host.data_root().join("volumes/data/_data/file");
    std::fs::write(&file, "kept").unwrap();
    let before = host.hull(&["volume", "inspect", "data"]).ok().to_owned();
    host.kill_daemon();
    // Somebody's data, of whatever engine: it is not thrown away.
    std::fs::create_dir_all(host.data_root().join("volumes/theirs/_data")).unwrap();
    host.start_daemon();
    assert_eq!(host.docker(&["volume", "inspect", "data"]).ok(), before);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(host.hull(&LIST).ok(), "data\ntheirs");
    let df = host.request("GET", "/v1.51/system/df?type=volume", b"").text();
    assert!(df.contains(r#""Name":"data""#) && df.contains(r#""UsageData":{"RefCount":0,"Size":4}"#), "{df}");
    host.hull(&["volume", "rm", "data"]).ok();
    host.hull(&["volume", "prune", "-a", "-f"]).ok();
    let now = host.hull(&["info", "--format", "{{.SystemTime}}"]).ok().to_owned();
    let said = host.docker(&[
        "events",
        "--since",
        "1h",
        "--until",
        &now,
        "--filter",
        "type=volume",
        "--format",
        "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.driver}}",
    ]);
    assert_eq!(said.ok(), "destroy data local\ndestroy theirs local\nprune  <no value>");
    assert!(host.docker(&["info", "-f", "{{json .Plugins.Volume}}"]).ok().contains("local"));
}

#[test]
fn a_volume_without_a_name_goes_with_its_last_container() {
    let host = host();
    let volumes = || host.hull(&LIST).ok().lines().count();
    for client in CLIENTS {
        let run =
            |words: &[&str]| client(&host, &[&["run"], words, &["busybox", "true"]].concat()).ok().to_owned();
        run(&["--rm", "-v", "/a", "-v", "named:/b"]);
        assert_eq!(host.hull(&LIST).ok(), "named");
        run(&["--name", "one", "-v", "/a"]);
        let own =
            host.hull(&["volume", "ls", "-q", "-f", "label=com.docker.volume.anonymous"]).ok().to_owned();
        run(&["--name", "two", "--volumes-from", "one"]);
        run(&["--name", "three", "-v", &format!("{own}:/x")]);
        let in_use = client(&host, &["volume", "rm", &own]);
        let ids = |name: &str| host.hull(&["inspect", "-f", "{{.Id}}", name]).ok().to_owned();
        for name in ["one", "two", "three"] {
            in_use.fails(1, &ids(name));
        }
        assert_eq!(client(&host, &["volume", "ls", "-q", "-f", "dangling=true"]).ok(), "named");
        client(&host, &["rm", "-v", "three"]).ok();
        client(&host, &["rm", "-v", "one"]).ok();
        assert_eq!(volumes(), 2, "another has it still");
        client(&host, &["rm", "-v", "two"]).ok();
        assert_eq!(volumes(), 1);
        // Whoever has named it keeps it.
        run(&["--name", "one", "-v", "/a"]);
        let own =
            host.hull(&["volume", "ls", "-q", "-f", "label=com.docker.volume.anonymous"]).ok().to_owned();
        client(&host, &["rm", "one"]).ok();
        run(&["--rm", "-v", &format!("{own}:/x")]);
        assert_eq!(volumes(), 2);
        client(&host, &["volume", "rm", &own, "named"]).ok();
    }
}

#[test]
fn a_container_goes_although_its_volume_cannot() {
    let host = host();
    for client in CLIENTS {
        host.hull(&["run", "--name", "box", "-v", "/a", "busybox", "true"]).ok();
        let own = host.hull(&LIST).ok().to_owned();
        let place = host.data_root().join("volumes").join(&own).join("_data");
        let place = place.to_str().unwrap();
        host.printed(&["mount", "-t", "tmpfs", "tmpfs", place]);
        client(&host, &["rm", "-v", "box"]).ok();
        assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
        client(&host, &["volume", "rm", &own]).fails(1, "something is mounted at");
        host.printed(&["umount", place]);
        client(&host, &["volume", "rm", &own]).ok();
    }
}
