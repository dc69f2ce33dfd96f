//! A user's way through what a container leaves behind: a volume of its own, a folder of the host,
//! an image made of it, and its limits. As it is typed.

use std::fs;
use std::path::PathBuf;

use super::{CLIENTS, host};

#[test]
fn what_is_written_in_a_volume_is_there_on_the_host_and_in_no_image() {
    let host = host();
    for client in CLIENTS {
        let script = "echo image > /kept; exec sleep 1000";
        let id = client(&host, &["run", "-d", "--name", "app", "-v", "/test", "busybox", "sh", "-c", script]);
        let id = id.ok().to_owned();
        let name = client(&host, &["volume", "ls", "-q"]).ok().to_owned();
        assert!(name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
        let data = host.data_root().join("volumes").join(&name).join("_data");
        let shown = client(&host, &["volume", "inspect", "-f", "{{.Mountpoint}}", &name]);
        assert_eq!(PathBuf::from(shown.ok()), data);
        // Both ways.
        client(&host, &["exec", "app", "sh", "-c", "echo inside > /test/one"]).ok();
        assert_eq!(fs::read_to_string(data.join("one")).unwrap(), "inside\n");
        fs::write(data.join("two"), "outside\n").unwrap();
        assert_eq!(client(&host, &["exec", "app", "cat", "/test/two"]).ok(), "outside");
        // The writable layer and the image made of it have the empty folder, and the rest.
        let format = "{{.GraphDriver.Data.UpperDir}}";
        let upper = PathBuf::from(client(&host, &["inspect", "-f", format, &id]).ok());
        assert_eq!(fs::read_dir(upper.join("test")).unwrap().count(), 0);
        client(&host, &["commit", "app", "geektime/app:v2"]).ok();
        let list = ["run", "--rm", "geektime/app:v2", "sh", "-c", "ls -A /test | wc -l; cat /kept"];
        assert_eq!(client(&host, &list).ok(), "0\nimage");
        let layers = |image: &str| {
            let shown = client(&host, &["image", "inspect", "-f", "{{json .RootFS.Layers}}", image]);
            shown.ok().trim_end_matches(']').to_owned()
        };
        let (base, made) = (layers("busybox"), layers("geektime/app:v2"));
        assert!(
            made.starts_with(&base) && made.matches("sha256:").count() == base.matches("sha256:").count() + 1
        );
        // With its container, when that is asked for.
        client(&host, &["rm", "-f", "-v", "app"]).ok();
        assert_eq!(client(&host, &["volume", "ls", "-q"]).ok(), "");
        client(&host, &["rmi", "geektime/app:v2"]).ok();
    }
}

#[test]
fn a_folder_hides_what_the_image_has_and_an_empty_volume_is_filled_with_it() {
    let host = host();
    let make =
        "mkdir /test && echo of the image > /test/file && chown 33:44 /test/file && chmod 640 /test/file";
    host.hull(&["run", "--name", "made", "busybox", "sh", "-c", make]).ok();
    host.hull(&["commit", "made", "filled"]).ok();
    let home = host.folder().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("mine"), "of the host\n").unwrap();
    for (client, number) in CLIENTS.into_iter().zip(["1", "2"]) {
        let run = |mount: &str, script: &str| {
            let words = ["run", "--rm", "-v", mount, "filled", "sh", "-c", script];
            client(&host, &words).ok().to_owned()
        };
        let bind = format!("{}:/test", home.display());
        assert_eq!(run(&bind, "ls /test; cat /test/mine"), "mine\nof the host");
        let look = "stat -c '%u:%g %a' /test/file; cat /test/file";
        for volume in [format!("named{number}:/test"), "/test".to_owned()] {
            assert_eq!(run(&volume, look), "33:44 640\nof the image", "{volume}");
        }
        // What has something in it stays as it is.
        assert_eq!(run(&format!("named{number}:/test"), "echo own > /test/file; rm -f /test/x; echo"), "");
        assert_eq!(run(&format!("named{number}:/test"), "cat /test/file"), "own");
        assert_eq!(run(&format!("empty{number}:/test:nocopy"), "ls -A /test"), "");
    }
}

#[test]
fn a_processor_and_500_mib_are_what_the_cgroup_says_and_who_takes_more_is_killed() {
    let host = host();
    for client in CLIENTS {
        let words =
            ["run", "-d", "--name", "small", "--cpuset-cpus=1", "-m", "500M", "busybox", "sleep", "1000"];
        let id = client(&host, &words).ok().to_owned();
        let own: Vec<PathBuf> =
            host.cgroup_folders().into_iter().filter(|folder| folder.ends_with(&id)).collect();
        let says = |names: [&str; 2]| {
            let files = own.iter().flat_map(|folder| names.map(|name| folder.join(name)));
            files.filter_map(|file| fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).next()
        };
        assert_eq!(says(["memory.limit_in_bytes", "memory.max"]).as_deref(), Some("524288000"));
        assert_eq!(says(["cpuset.cpus", "cpuset.cpus"]).as_deref(), Some("1"));
        client(&host, &["rm", "-f", "small"]).ok();
        let hog =
            ["run", "--name", "hog", "-m", "50M", "--memory-swap", "50M", "busybox", "tail", "/dev/zero"];
        assert_eq!(client(&host, &hog).code, 137);
        let format = "{{.State.OOMKilled}} {{.State.ExitCode}}";
        assert_eq!(client(&host, &["inspect", "-f", format, "hog"]).ok(), "true 137");
        client(&host, &["rm", "hog"]).ok();
    }
    for client in CLIENTS {
        let format = "{{.Driver}} {{.CgroupVersion}} {{.CgroupDriver}}";
        let shown = client(&host, &["info", "-f", format]).ok().to_owned();
        let words: Vec<&str> = shown.split(' ').collect();
        assert!(
            words[0] == "overlay2" && ["1", "2"].contains(&words[1]) && words[2] == "cgroupfs",
            "{shown}"
        );
    }
}
