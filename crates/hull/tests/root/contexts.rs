//! Where a build's context can come from besides a folder: archives of all kinds on standard input, and
//! addresses, which the daemon fetches.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hull_testkit::{Finished, Host, patience};

use super::host;

fn command(host: &Host, official: bool, words: &[&str]) -> Command {
    let words = [&["build"], words].concat();
    let mut command = if official { host.docker_command(&words) } else { host.hull_command(&words) };
    command.env("DOCKER_BUILDKIT", "0");
    command
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn made(host: &Host, image: &str) -> String {
    host.hull(&["run", "--rm", "--network", "none", image, "cat", "/made"]).ok().to_owned()
}

#[test]
fn archives_on_standard_input_are_read_in_all_their_compressions() {
    let host = host();
    let folder = host.folder().join("packed");
    for official in [false, true] {
        for (name, flags) in
            [("tar", "-cf"), ("gzip", "-czf"), ("bzip2", "-cjf"), ("xz", "-cJf"), ("zstd", "--zstd -cf")]
        {
            write(&folder, &[("Dockerfile", "FROM busybox\nCOPY dir/x /made\n"), ("dir/x", name)]);
            let archive = Command::new("tar")
                .arg("-C")
                .arg(&folder)
                .args(flags.split(' '))
                .args(["-", "."])
                .output()
                .unwrap();
            assert!(archive.status.success(), "{name}");
            hull_testkit::run(&mut command(&host, official, &["-t", name, "-"]), &archive.stdout).ok();
            assert_eq!(made(&host, name), name);
        }
    }
}

#[test]
fn a_stage_can_begin_with_an_image_of_a_layout() {
    let host = host();
    let (folder, archive) = (host.folder().join("base"), host.folder().join("base.tar"));
    write(&folder, &[("Dockerfile", "FROM busybox\nENV A=b\nRUN echo made > /made\n")]);
    let output = format!("type=oci,dest={}", archive.display());
    let ours = |words: &[&str]| -> Finished { hull_testkit::run(&mut command(&host, false, words), b"") };
    ours(&["-t", "base:1", "-o", &output, folder.to_str().unwrap()]).ok();
    let layout = host.folder().join("layout");
    fs::create_dir_all(&layout).unwrap();
    done(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(&archive));
    write(
        &folder,
        &[("Dockerfile", "FROM base\nRUN [ $A = b ] && cat /made\nCOPY --from=base /made /again\n")],
    );
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let images = host.hull(&["images", "-aq", "--no-trunc"]).ok().lines().count();
    for (meant, fails) in [
        (":1", None),
        ("", None),
        (&format!("@{digest}")[..], None),
        (":2", Some("the layout has no image \"2\"")),
        ("@sha256:0", Some("the layout has no image \"sha256:0\"")),
    ] {
        let context = format!("base=oci-layout://{}{meant}", layout.display());
        let built = ours(&["-t", "ours", "--build-context", &context, folder.to_str().unwrap()]);
        match fails {
            None => assert_eq!(made(&host, "ours"), "made", "{built}"),
            Some(why) => drop(built.fails(1, why)),
        }
    }
    let after = host.hull(&["images", "-aq", "--no-trunc"]).ok().lines().count();
    assert_eq!(after, images + 1, "what was built, and no base");
    // What is not what its descriptor says is not built on.
    let config = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    fs::write(layout.join("blobs/sha256").join(config), "{}").unwrap();
    let context = format!("base=oci-layout://{}:1", layout.display());
    ours(&["--build-context", &context, folder.to_str().unwrap()]).fails(1, "holds bytes of");
}

const SERVER: &str = "127.0.0.1:8099";

/// A server of plain files on this machine; it ends with the test.
struct Server(Child);

impl Server {
    fn start(host: &Host, folder: &Path) -> Server {
        let mut command = host.inside("busybox");
        command.args(["httpd", "-f", "-p", SERVER, "-h"]).arg(folder).stderr(Stdio::null());
        let server = Server(command.spawn().unwrap());
        let start = Instant::now();
        let answers = || {
            let mut asked = host.inside("busybox");
            asked.args(["wget", "-q", "-O", "/dev/null", &format!("http://{SERVER}/up")]);
            asked.output().unwrap().status.success()
        };
        while !answers() {
            assert!(start.elapsed() < patience(30), "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_daemon_fetches_contexts_from_addresses() {
    let host = host();
    let folder = host.folder().join("served");
    write(&folder, &[("up", "up"), ("alone", "FROM busybox\nRUN echo alone > /made\n"), ("page", "\0\0")]);
    let context = host.folder().join("context");
    let other = "FROM busybox\nRUN echo other > /made\n";
    write(&context, &[("Dockerfile", "FROM busybox\nCOPY x /made\n"), ("x", "packed"), ("Other", other)]);
    done(Command::new("tar").arg("-C").arg(&context).arg("-cJf").arg(folder.join("context.txz")).arg("."));
    let git = |words: &[&str]| {
        let own = ["-c", "user.name=t", "-c", "user.email=t@t", "-C", context.to_str().unwrap()];
        done(Command::new("git").args(own).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null"));
    };
    write(&context, &[("sub/Dockerfile", "FROM busybox\nCOPY . /\n"), ("sub/made", "cloned")]);
    git(&["init", "-q", "-b", "main", "."]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "x"]);
    git(&["clone", "-q", "--bare", ".", folder.join("r.git").to_str().unwrap()]);
    done(Command::new("git").arg("-C").arg(folder.join("r.git")).arg("update-server-info"));
    let server = Server::start(&host, &folder);
    let at = |path: &str| format!("http://{SERVER}/{path}");
    let ours = |words: &[&str]| -> Finished { hull_testkit::run(&mut command(&host, false, words), b"") };
    for (path, given, content) in [
        ("context.txz", &[][..], "packed"),
        ("context.txz", &["-f", "Other"], "other"),
        ("alone", &["-f", "ignored"], "alone"),
        ("r.git#main:sub", &[], "cloned"),
    ] {
        ours(&[&["-t", "ours"], given, &[&at(path)]].concat()).ok();
        assert_eq!(made(&host, "ours"), content);
    }
    // Beside another one, by a name.
    let named = host.folder().join("named");
    write(&named, &[("Dockerfile", "FROM busybox\nCOPY --from=other [xm]* /made\n")]);
    let named = named.to_str().unwrap();
    for (path, content) in [("context.txz", "packed"), ("r.git#main:sub", "cloned")] {
        let other = format!("other={}", at(path));
        ours(&["-t", "ours", "--build-context", &other, named]).ok();
        assert_eq!(made(&host, "ours"), content);
    }
    let other = format!("other={}", at("alone"));
    ours(&["--build-context", &other, named]).fails(1, "neither a repository nor an archive");
    // As any client of the classic endpoint asks for it.
    let answer = host.request("POST", &format!("/v1.47/build?t=classic&remote={}", at("r.git%23:sub")), b"");
    assert!(answer.text().contains("Successfully tagged classic:latest"), "{}", answer.text());
    assert_eq!(made(&host, "classic"), "cloned");
    for (path, said) in [
        ("nosuch", "invalid response status 404"),
        ("page", "neither a Dockerfile nor an archive"),
        ("r.git#nosuch", "does not contain ref nosuch"),
        ("r.git#main:..", "leads out of it"),
        ("r.git#--upload-pack=x", "cannot be a branch"),
    ] {
        ours(&[&at(path)]).fails(1, said);
    }
    drop(server);
    ours(&[&at("alone")]).fails(1, "cannot be reached");
}
