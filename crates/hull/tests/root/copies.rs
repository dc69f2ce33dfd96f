//! `cp` and the archive API: in and out, of containers that run and that do not, by the reference's
//! rules of what a path means.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use hull_testkit::Host;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

use super::{CLIENTS, Client, host};

/// A tree with one of everything that an archive can hold, below the machine's folder.
fn source(host: &Host) {
    let src = host.folder().join("src");
    fs::create_dir_all(src.join("sub")).unwrap();
    fs::write(src.join("a"), "aaa\n").unwrap();
    fs::set_permissions(src.join("a"), PermissionsExt::from_mode(0o640)).unwrap();
    symlink("a", src.join("link")).unwrap();
    fs::write(src.join("sub/b"), "bbb\n").unwrap();
    std::os::unix::fs::chown(src.join("sub/b"), Some(1234), Some(567)).unwrap();
    fs::hard_link(src.join("sub/b"), src.join("sub/again")).unwrap();
    mknodat(CWD, src.join("sub/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let time =
        fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400));
    fs::File::options().write(true).open(src.join("sub/b")).unwrap().set_times(time).unwrap();
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// What a container runs with these words prints.
#[track_caller]
fn says(host: &Host, container: &str, script: &str) -> String {
    host.hull(&["exec", container, "sh", "-c", script]).ok().to_owned()
}

/// A container called `name`, running or stopped; stopped ones are looked into by starting them.
#[track_caller]
fn container(host: &Host, name: &str, running: bool, words: &[&str]) {
    let sleep = ["busybox", "sleep", "10000"];
    let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
    host.hull(&[verb, &["--name", name], words, &sleep].concat()).ok();
}

#[track_caller]
fn everything_goes_in_and_comes_out(client: Client, running: bool) {
    let host = host();
    source(&host);
    container(&host, "box", running, &[]);
    for words in [
        ["cp", "src/a", "box:/tmp/"],
        ["cp", "src/a", "box:/tmp/renamed"],
        ["cp", "src", "box:/"],
        ["cp", "src/.", "box:/tmp"],
        ["cp", "src", "box:/new"],
    ] {
        client(&host, &words).ok();
    }
    for out in
        [["cp", "box:/src", "outdir"], ["cp", "box:/src/a", "outfile"], ["cp", "box:/src/link", "outlink"]]
    {
        client(&host, &out).ok();
    }
    fs::create_dir(host.folder().join("into")).unwrap();
    client(&host, &["cp", "box:/src", "into"]).ok();
    client(&host, &["cp", "box:/src/.", "into"]).ok();
    client(&host, &["cp", "-L", "box:/src/link", "followed"]).ok();
    if !running {
        host.hull(&["start", "box"]).ok();
    }
    let list = "cd $0 && find . | sort | xargs stat -c '%n %a %u %g %s %h %F'";
    let inside = |folder: &str| says(&host, "box", &list.replace("$0", folder));
    let expected = [
        "./a 640 0 0 4 1 regular file",
        "./link 777 0 0 1 1 symbolic link",
        "./sub 755 0 0 4096 2 directory",
        "./sub/again 644 1234 567 4 2 regular file",
        "./sub/b 644 1234 567 4 2 regular file",
        "./sub/pipe 600 0 0 0 1 fifo",
    ];
    for folder in ["/src", "/new"] {
        let lines = inside(folder);
        let lines: Vec<_> = lines.lines().skip(1).collect();
        assert_eq!(lines, expected, "{folder}");
    }
    assert_eq!(
        says(&host, "box", "cat /tmp/a /tmp/renamed /tmp/sub/b; readlink /tmp/link"),
        "aaa\naaa\nbbb\na"
    );
    assert_eq!(says(&host, "box", "stat -c %Y /src/sub/b"), "86400");
    let folder = host.folder();
    for tree in ["outdir", "into/src", "into"] {
        let tree = folder.join(tree);
        assert_eq!(
            (read(tree.join("a")), read(tree.join("sub/b"))),
            ("aaa\n".to_owned(), "bbb\n".to_owned())
        );
        assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("a"));
        let linked = fs::metadata(tree.join("sub/again")).unwrap();
        // Whoever copies out owns it.
        assert_eq!((linked.nlink(), linked.uid(), linked.mtime()), (2, 0, 86_400));
    }
    assert_eq!(
        (read(folder.join("outfile")), read(folder.join("followed"))),
        ("aaa\n".to_owned(), "aaa\n".to_owned())
    );
    assert_eq!(fs::read_link(folder.join("outlink")).unwrap(), Path::new("a"));
}

#[test]
fn the_official_client_copies_with_a_running_container() {
    everything_goes_in_and_comes_out(Host::docker, true);
}

#[test]
fn the_official_client_copies_with_a_container_that_never_ran() {
    everything_goes_in_and_comes_out(Host::docker, false);
}

#[test]
fn our_client_copies_with_a_running_container() {
    everything_goes_in_and_comes_out(Host::hull, true);
}

#[test]
fn our_client_copies_with_a_container_that_never_ran() {
    everything_goes_in_and_comes_out(Host::hull, false);
}

#[test]
fn a_user_namespace_does_not_show_in_what_is_copied() {
    let host = host();
    source(&host);
    for (name, running) in [("runs", true), ("rests", false)] {
        container(&host, name, running, &["--userns", "auto"]);
        for client in CLIENTS {
            client(&host, &["cp", "src", &format!("{name}:/tmp")]).ok();
            let out = client(&host, &["cp", &format!("{name}:/tmp/src/sub/b"), "-"]);
            // User and group in a header of tar, in octal.
            assert_eq!(&out.stdout[108..123], "0002322\x000001067", "{name}");
        }
        if !running {
            host.hull(&["start", name]).ok();
        }
        assert_eq!(says(&host, name, "stat -c %u:%g /tmp/src/a /tmp/src/sub/b"), "0:0\n1234:567");
    }
}

#[test]
fn what_is_bound_unmapped_into_a_user_namespace_has_its_ids_whether_it_runs_or_not() {
    let host = host();
    source(&host);
    let bound = host.folder().join("bound");
    fs::create_dir(&bound).unwrap();
    fs::set_permissions(&bound, fs::Permissions::from_mode(0o777)).unwrap();
    container(&host, "box", true, &["--userns", "auto", "-v", &format!("{}:/vol", bound.display())]);
    says(&host, "box", "echo own > /vol/own; touch -d @1000000000 /vol/own; chown 5:6 /vol/own");
    // What is the host's alone has no name in there, but nobody reads it for the container.
    fs::create_dir(bound.join("closed")).unwrap();
    fs::write(bound.join("closed/secret"), "secret").unwrap();
    for (path, mode) in [("closed", 0o700), ("closed/secret", 0o600)] {
        fs::set_permissions(bound.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let all = || {
        assert_eq!(&host.hull(&["cp", "box:/vol/own", "-"]).stdout[108..123], "0000005\x000000006");
        host.hull(&["cp", "box:/vol/closed/secret", "secret"]).ok();
        assert_eq!(read(host.folder().join("secret")), "secret");
        host.hull(&["cp", "box:/vol", "-"]).ok().to_owned()
    };
    let running = all();
    host.hull(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(all(), running);
    host.hull(&["cp", "src/sub/b", "box:/vol/in"]).ok();
    host.hull(&["start", "box"]).ok();
    assert_eq!(says(&host, "box", "stat -c %u:%g /vol/in /vol/own"), "1234:567\n5:6");
}

#[test]
fn who_may_what_is_copied_out_of_a_user_namespace_as_it_is_inside() {
    let host = host();
    source(&host);
    let file = host.folder().join("src/a");
    // Capabilities without a namespace's root; a list that names user 1234 and group 567.
    let capable = [&0x0200_0001_u32.to_le_bytes()[..], &[0x20, 0, 0, 0], &[0; 12]].concat();
    let entry =
        |tag: u16, id: u32| [&tag.to_le_bytes()[..], &6_u16.to_le_bytes(), &id.to_le_bytes()].concat();
    let nobody = u32::MAX;
    let entries = [(1, nobody), (2, 1234), (4, nobody), (8, 567), (16, nobody), (32, nobody)];
    let list: Vec<u8> = entries.into_iter().flat_map(|(tag, id)| entry(tag, id)).collect();
    let list = [&2_u32.to_le_bytes()[..], &list].concat();
    for (name, value) in [("security.capability", &capable), ("system.posix_acl_access", &list)] {
        rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).unwrap();
    }
    container(&host, "box", true, &["--userns", "auto"]);
    host.hull(&["cp", "src", "box:/tmp"]).ok();
    let out = |what: &[&str]| host.hull(what).ok().to_owned();
    let running = [out(&["cp", "box:/tmp/src", "-"]), out(&["export", "box"])];
    host.hull(&["stop", "-t", "0", "box"]).ok();
    assert_eq!([out(&["cp", "box:/tmp/src", "-"]), out(&["export", "box"])], running);
    for (name, value) in [("security.capability", &capable), ("system.posix_acl_access", &list)] {
        let value = String::from_utf8_lossy(value).into_owned();
        assert!(running[0].contains(&format!("SCHILY.xattr.{name}={value}\n")), "{name}: {:?}", running[0]);
    }
}

#[test]
fn on_a_terminal_a_line_tells_how_far_a_copy_has_come() {
    let host = host();
    container(&host, "box", false, &[]);
    let [big, back] = ["big", "back"].map(|name| host.folder().join(name).display().to_string());
    fs::write(&big, vec![0x5a; 3_000_000]).unwrap();
    for (words, title) in [
        (["cp", &big, "box:/tmp/big"], "\x1b[2KCopying to container - 0B"),
        (["cp", "box:/tmp/big", &back], "\x1b[2KCopying from container - 0B"),
    ] {
        let (code, screen) = host.hull_on_terminal(&words).finish();
        let done = format!("\r\x1b[2KSuccessfully copied 3MB to {}", words[2]);
        assert!(code == 0 && screen.contains(title) && screen.contains(&done), "{screen:?}");
        let [cp, from, to] = words;
        let (code, screen) = host.hull_on_terminal(&[cp, "-q", from, to]).finish();
        assert_eq!((code, screen.trim()), (0, ""));
    }
    // Elsewhere it is silent, unless somebody asks for the last line.
    let silent = host.hull(&["cp", &big, "box:/tmp/"]);
    assert_eq!((silent.code, silent.stdout, silent.stderr), (0, String::new(), String::new()));
    let asked = host.hull(&["cp", "--quiet=false", &big, "box:/tmp/"]);
    assert_eq!((asked.ok(), asked.stderr.as_str()), ("", "Successfully copied 3MB to box:/tmp/\n"));
}

#[test]
fn archives_go_through_standard_input_and_output() {
    let host = host();
    source(&host);
    container(&host, "box", true, &[]);
    host.hull(&["cp", "src", "box:/"]).ok();
    let tar = |words: &[&str], input: &[u8]| {
        hull_testkit::run(std::process::Command::new("tar").args(words).current_dir(host.folder()), input)
    };
    for (number, with_input) in [Host::hull_with_input, Host::docker_with_input].into_iter().enumerate() {
        let archive = tar(&["c", "src"], b"");
        let to = format!("/in{number}");
        says(&host, "box", &format!("mkdir {to}"));
        with_input(&host, &["cp", "-", &format!("box:{to}")], archive.stdout.as_bytes()).ok();
        assert_eq!(says(&host, "box", &format!("cat {to}/src/sub/b")), "bbb");
        let out = with_input(&host, &["cp", "box:/src", "-"], b"");
        let listed = tar(&["t"], out.stdout.as_bytes());
        assert_eq!(listed.ok(), "src/\nsrc/a\nsrc/link\nsrc/sub/\nsrc/sub/again\nsrc/sub/b\nsrc/sub/pipe");
        with_input(&host, &["cp", "-", "box:/src/a"], archive.stdout.as_bytes())
            .fails(1, "destination \"box:/src/a\" must be a directory");
        with_input(&host, &["cp", "-", "box:/tmp"], b"notatar").fails(1, "unexpected EOF");
    }
}

#[test]
fn what_cannot_be_copied_is_refused_in_the_same_words() {
    let host = host();
    source(&host);
    for (name, running) in [("box", true), ("other", false)] {
        container(&host, name, running, &[]);
    }
    says(&host, "box", "echo there > /there; mkdir -p /tmp/a /dir; ln -s /there /lnk");
    fs::create_dir_all(host.folder().join("mixed/there")).unwrap();
    let (node, fifo) = (host.folder().join("node"), host.folder().join("fifo"));
    for (path, kind, device) in
        [(&node, FileType::CharacterDevice, makedev(1, 3)), (&fifo, FileType::Fifo, 0)]
    {
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
    }
    fs::write(host.folder().join("large"), vec![7; 8 << 20]).unwrap();
    for client in CLIENTS {
        let fails = |words: &[&str], text: &str| {
            let told = client(&host, &[&["cp"], words].concat());
            told.fails(1, text);
        };
        let absent = "Error response from daemon: Could not find the file /nosuch in container box";
        fails(&["box:/nosuch", "/tmp"], absent);
        fails(&["src/a", "box:/nosuch/x"], absent);
        let lost = format!("lstat {}/nosuch: no such file or directory", host.folder().display());
        fails(&["nosuch", "box:/"], &lost);
        fails(&["src/a", "box:/nosuch/"], "no such directory");
        fails(&["src", "box:/there"], "cannot copy directory");
        fails(&["no:/x", "/tmp"], "Error response from daemon: No such container: no");
        // More than a socket takes before anybody reads.
        fails(&["large", "no:/x"], "Error response from daemon: No such container: no");
        fails(&["box:/there", "other:/x"], "copying between containers is not supported");
        fails(&["src/a", "b"], "must specify at least one container source");
        fails(&["box:/there", "nowhere/x"], "nowhere\" does not exist");
        fails(&["src/a", "box:/tmp"], "cannot overwrite directory");
        fails(&["mixed/there", "box:/"], "cannot overwrite non-directory");
        fails(&["box:/dir", "src/a"], "cannot copy directory");
        fails(&["box:/there", "node"], "/node\" must be a directory or a regular file: got a device");
    }
    // The reference's client puts a file in its place.
    host.hull(&["cp", "box:/there", "fifo"]).fails(1, "/fifo\" must be a directory or a regular file");
    assert!(fs::symlink_metadata(&node).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    assert_eq!(says(&host, "box", "cat /there; ls -d /tmp/a"), "there\n/tmp/a");
}

#[test]
fn links_are_copied_or_followed_and_a_container_has_its_users_files() {
    let host = host();
    source(&host);
    host.hull(&["run", "-d", "--name", "box", "-u", "1234:567", "busybox", "sleep", "10000"]).ok();
    let as_root = |script: &str| host.hull(&["exec", "-u", "0", "box", "sh", "-c", script]).ok().to_owned();
    as_root(
        "mkdir /real /abs; ln -s real /rel; ln -s /abs /to; ln -s /real/../real/file /far; echo f > /real/file",
    );
    symlink("src/a", host.folder().join("near")).unwrap();
    for client in CLIENTS {
        // A link as the destination is followed, inside the container.
        client(&host, &["cp", "src/a", "box:/rel"]).ok();
        client(&host, &["cp", "src/a", "box:/to/"]).ok();
        client(&host, &["cp", "src/a", "box:/far"]).ok();
        assert_eq!(
            as_root("cat /real/a /abs/a /real/file; rm /real/a /abs/a; echo f > /real/file"),
            "aaa\naaa\naaa"
        );
        // One as the source is copied, or followed and keeps its name.
        client(&host, &["cp", "near", "box:/abs"]).ok();
        client(&host, &["cp", "-L", "near", "box:/real"]).ok();
        assert_eq!(as_root("readlink /abs/near; cat /real/near; rm /abs/near /real/near"), "src/a\naaa");
        fs::create_dir(host.folder().join("got")).unwrap();
        client(&host, &["cp", "-L", "box:/far", "got"]).ok();
        client(&host, &["cp", "box:/to", "got"]).ok();
        client(&host, &["cp", "box:/rel/", "got/rel"]).ok();
        assert_eq!(read(host.folder().join("got/far")), "f\n");
        assert_eq!(fs::read_link(host.folder().join("got/to")).unwrap(), Path::new("/abs"));
        assert_eq!(read(host.folder().join("got/rel/file")), "f\n");
        fs::remove_dir_all(host.folder().join("got")).unwrap();
        client(&host, &["cp", "-a", "src", "box:/abs"]).ok();
        assert_eq!(
            as_root("stat -c %u:%g /abs/src /abs/src/a /abs/src/sub/b; rm -r /abs/src"),
            ["1234:567"; 3].join("\n")
        );
    }
}

#[test]
fn what_is_bound_into_a_container_is_there_whether_it_runs_or_not() {
    let host = host();
    source(&host);
    let bound = host.folder().join("bound");
    fs::create_dir(&bound).unwrap();
    fs::write(bound.join("kept"), "kept").unwrap();
    let both = format!("{}:/vol", bound.display());
    let only = format!("{}:/ro:ro", bound.display());
    for (name, running) in [("runs", true), ("rests", false)] {
        container(&host, name, running, &["-v", &both, "-v", &only, "--tmpfs", "/memory"]);
        container(&host, &format!("{name}-ro"), running, &["--read-only", "-v", &both]);
        let at = |path: &str| format!("{name}:{path}");
        host.docker(&["cp", "src/a", &at(&format!("/vol/{name}"))]).ok();
        assert_eq!(read(bound.join(name)), "aaa\n");
        host.docker(&["cp", &at("/ro/kept"), &format!("out-{name}")]).ok();
        assert_eq!(read(host.folder().join(format!("out-{name}"))), "kept");
        host.docker(&["cp", "src/a", &at("/ro/x")]).fails(1, "mounted volume is marked read-only");
        host.docker(&["cp", "src/a", &format!("{name}-ro:/x")])
            .fails(1, "container rootfs is marked read-only");
        host.docker(&["cp", "src/a", &format!("{name}-ro:/vol/{name}-ro")]).ok();
        assert_eq!(read(bound.join(format!("{name}-ro"))), "aaa\n");
        for kernels in ["/proc/version", "/sys/kernel/notes", "/dev/null"] {
            let told = format!("Could not find the file {kernels} in container {name}");
            host.docker(&["cp", &at(kernels), "x"]).fails(1, &told);
        }
    }
    host.docker(&["cp", "src/a", "runs:/memory/a"]).ok();
    assert_eq!(says(&host, "runs", "cat /memory/a"), "aaa");
    // Something is mounted on it: it gets the content, and stays what it was.
    host.docker(&["cp", "src/a", "runs:/etc/hostname"]).ok();
    assert_eq!(says(&host, "runs", "cat /etc/hostname; grep -c /etc/hostname /proc/mounts"), "aaa\n1");
}

#[test]
fn requests_by_hand_are_answered_as_the_reference_answers_them() {
    let host = host();
    container(&host, "box", false, &[]);
    let head = |path: &str| host.request("HEAD", &format!("/v1.51/containers/box/archive{path}"), b"");
    assert_eq!(head("?path=/bin/busybox").status, 200);
    let told = |method: &str, path: &str, body: &[u8]| {
        let answer = host.request(method, &format!("/v1.51/containers/{path}"), body);
        (answer.status, answer.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    let said = |status: u16, text: &str| (status, text.to_owned());
    for method in ["GET", "PUT"] {
        assert_eq!(told(method, "box/archive", b""), said(400, "bad parameter: pathcannot be empty"));
        let absent = said(404, "Could not find the file /nosuch in container box");
        assert_eq!(told(method, "box/archive?path=/nosuch", b""), absent);
        assert_eq!(told(method, "no/archive?path=/", b""), said(404, "No such container: no"));
    }
    assert_eq!(head("?path=/nosuch").status, 404);
    let no_folder = said(400, "extraction point is not a directory");
    assert_eq!(told("PUT", "box/archive?path=/bin/busybox", b""), no_folder);
    assert_eq!(told("PUT", "box/archive?path=/tmp", b"notatar"), said(500, "unexpected EOF"));
}
