//! Base images by the command: a distribution's archive is served inside the machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use hull_oci::Digest;
use hull_testkit::{Host, in_time};

use super::bare;

/// Serves a folder; ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("end the server");
        self.child.wait().expect("await the server");
    }
}

#[track_caller]
fn serve(host: &Host, folder: &Path) -> Server {
    let program = "import functools, http.server as h\n\
        s = h.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(h.SimpleHTTPRequestHandler, directory=__import__('sys').argv[1]))\n\
        print(s.server_port, flush=True)\n\
        s.serve_forever()";
    let mut command = host.inside("python3");
    command.args(["-c", program]).arg(folder).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("start a server");
    let output = child.stdout.take().expect("its output");
    let mut server = Server { child, address: String::new() };
    // It prints its port once it listens, or ends.
    let line = in_time(60, "the server's port", || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("read its port");
        line
    });
    server.address = format!("http://127.0.0.1:{}", line.trim());
    server
}

/// The archive of this machine's own distribution, as a mirror has it below `to`; its name and suite, and the file
/// with its keys.
fn own(to: &Path) -> (String, String, String) {
    let from =
        std::env::var("HULL_TEST_ARCHIVE").expect("HULL_TEST_ARCHIVE names the archive: cargo xtask test");
    let from = PathBuf::from(from);
    let text = |name: &str| fs::read_to_string(from.join(name)).expect(name);
    let suite = text("suite").trim().to_owned();
    let below = to.join("dists").join(&suite);
    let by_hash = below.join(format!("main/binary-{}/by-hash/SHA256", text("architecture").trim()));
    fs::create_dir_all(&by_hash).unwrap();
    symlink(from.join("InRelease"), below.join("InRelease")).unwrap();
    let index = text("Packages");
    symlink(from.join("Packages"), by_hash.join(Digest::sha256(index.as_bytes()).hex())).unwrap();
    for stanza in index.split("\n\n") {
        let field = |name: &str| {
            let line = stanza.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(": ").map_or("", |(_, value)| value)
        };
        let version = field("Version:").replace(':', "%3a");
        let name = format!("{}_{version}_{}.deb", field("Package:"), field("Architecture:"));
        if from.join("archives").join(&name).exists() {
            let place = to.join(field("Filename:"));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            symlink(from.join("archives").join(&name), place).unwrap();
        }
    }
    let keys = from.join("keyring.gpg").to_string_lossy().into_owned();
    (text("distribution").trim().to_owned(), suite, keys)
}

#[test]
fn a_distribution_becomes_an_image_that_runs() {
    let host = bare();
    let mirror = host.folder().join("mirror");
    let (distribution, suite, keys) = own(&mirror);
    let server = serve(&host, &mirror);
    let name = format!("{distribution}:{suite}");
    let begin = ["image", "bootstrap", "--keyring", &keys, "--include", "hello", "--mirror"];
    let words = [&begin[..], &[&server.address, &name]].concat();
    let made = host.hull(&words).ok().to_owned();
    let id = made.lines().last().unwrap().to_owned();
    for part in ["Reading ", "Fetching ", "Unpacking ", "Setting up hello "] {
        assert!(made.contains(part), "{made}");
    }
    assert_eq!(host.hull(&["images", "-q", "--no-trunc", &name]).ok(), id);
    assert_eq!(host.hull(&["run", "--rm", &name, "hello"]).ok(), "Hello, world!");
    let apt =
        host.hull(&["run", "--rm", &name, "sh", "-c", "dpkg --audit; apt-get --version"]).ok().to_owned();
    assert!(apt.starts_with("apt "), "{apt}");
    // From what was kept.
    drop(server);
    let server = serve(&host, &mirror);
    let words = [&begin[..], &[&server.address, "-q", "again:x"]].concat();
    host.hull(&words).fails(1, "dists/x/InRelease is not there");
    fs::remove_dir_all(mirror.join("pool")).unwrap();
    let other = format!("{distribution}:again");
    let words = [&begin[..], &[&server.address, "-q", "--suite", &suite, &other]].concat();
    let again = host.hull(&words).ok().to_owned();
    assert_eq!(again.lines().count(), 1, "{again}");
    host.hull(&["run", "--rm", &again, "hello"]).ok();
}

#[test]
fn what_cannot_be_believed_ends_the_command() {
    let host = bare();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/real/archive");
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../debian/testdata/revoked.asc");
    let mirror = host.folder().join("mirror");
    fs::create_dir_all(mirror.join("dists/wood")).unwrap();
    fs::copy(archive.join("InRelease"), mirror.join("dists/wood/InRelease")).unwrap();
    let server = serve(&host, &mirror);
    let keys = keys.to_string_lossy().into_owned();
    let words = ["image", "bootstrap", "--mirror", &server.address, "--keyring", &keys, "some:wood"];
    host.hull(&words).fails(1, "/dists/wood/InRelease: its signature is not trusted: key 3aa8d13e");
    host.hull(&["image", "bootstrap", "some"]).fails(1, "--suite");
    let words = ["image", "bootstrap", "--variant", "huge", "some:wood"];
    host.hull(&words).fails(1, "unknown variant \"huge\"");
    let words = ["image", "bootstrap", "--keyring", "/nonexistent", "some:wood"];
    host.hull(&words).fails(1, "read /nonexistent: ");
    host.hull(&["image", "bootstrap", "some:wood"]).fails(1, "this host's apt has no source of \"wood\"");
    assert_eq!(host.hull(&["images", "-q"]).ok(), "");
}
