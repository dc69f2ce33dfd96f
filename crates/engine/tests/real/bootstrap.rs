//! Base images of package archives: of the host's own distribution, and of archives that lie.
//!
//! `archive/` is a small suite: `InRelease` is signed by a key of `crates/debian/testdata/keys.asc`, `InRelease.expired`
//! by one that has expired since; both have the digest of `Packages`, and that those of the packages' files.
//! `HULL_TEST_ARCHIVE` is a folder with what apt has of the distribution's own (`cargo xtask test` makes it).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hull_builder::Progress;
use hull_engine::builds::{Bootstrap, Finished, Limits, Variant};
use hull_engine::{Error, chain};
use hull_oci::{Digest, Reference};
use hull_testkit::{answer, serve};

use crate::support::Host;

const KEYS: &[u8] = include_bytes!("../../../debian/testdata/keys.asc");
const REVOKED: &[u8] = include_bytes!("../../../debian/testdata/revoked.asc");
const IN_RELEASE: &[u8] = include_bytes!("archive/InRelease");
const EXPIRED: &[u8] = include_bytes!("archive/InRelease.expired");
const PACKAGES: &[u8] = include_bytes!("archive/Packages");
const BASE: &[u8] = include_bytes!("archive/base.deb");
/// Each connection is for one request.
const CLOSE: &str = "Connection: close\r\n";
const BROKEN: &[u8] = b"no package\n";
/// Longer than any system takes to be installed on a busy machine.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

/// The small suite, whole.
fn suite() -> HashMap<String, Vec<u8>> {
    let index = |architecture: &str| format!("/dists/wood/main/binary-{architecture}/Packages");
    let files = [
        ("/dists/wood/InRelease".to_owned(), IN_RELEASE),
        (index("amd64"), PACKAGES),
        (index("arm64"), PACKAGES),
        ("/pool/base.deb".to_owned(), BASE),
        ("/pool/broken.deb".to_owned(), BROKEN),
        ("/pool/apt.deb".to_owned(), BROKEN),
    ];
    files.into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect()
}

/// Empty, if the client has thought better of it.
fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

fn serving(files: HashMap<String, Vec<u8>>) -> SocketAddr {
    serve(move |head| match files.get(path(head)) {
        Some(bytes) => answer("200 OK", CLOSE, bytes),
        None => answer("404 Not Found", CLOSE, b"nothing"),
    })
}

fn wanted(server: SocketAddr, suite: &str, variant: Variant, include: &[&str]) -> Bootstrap {
    Bootstrap {
        name: Reference::parse("some").unwrap(),
        suite: suite.to_owned(),
        variant,
        include: include.iter().map(|name| (*name).to_owned()).collect(),
        mirror: Some(format!("http://{server}")),
        keyring: Some(KEYS.to_vec()),
    }
}

/// What it told besides.
async fn made(host: &Host, wanted: &Bootstrap) -> (Result<Finished, Error>, String) {
    let told = Arc::new(Mutex::new(String::new()));
    let tell = Arc::clone(&told);
    let report = Arc::new(move |progress| match progress {
        Progress::Started { name, .. } => *tell.lock().unwrap() += &format!("{name}\n"),
        Progress::Output { bytes, .. } => *tell.lock().unwrap() += &String::from_utf8_lossy(&bytes),
        _ => {}
    });
    let build = host.engine().build(Limits::default().into());
    let done = tokio::time::timeout(LIMIT, build.bootstrap(wanted, report)).await.expect("it ends in time");
    let told = told.lock().unwrap().clone();
    (done, told)
}

/// Neither an image nor a layer nor the files of a step.
fn nothing_is_left(host: &Host, before: &[usize]) {
    assert!(host.engine().images().resolve("some").is_err());
    assert_eq!(counts(host), before);
}

fn counts(host: &Host) -> Vec<usize> {
    let data = host.config().data_root;
    let count = |folder: &str| std::fs::read_dir(data.join(folder)).map_or(0, Iterator::count);
    ["image/layers", "image/active", "image/blobs/sha256", "containers"].map(count).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_lies_is_refused_and_nothing_of_it_stays() {
    let host = Host::new().await;
    let before = counts(&host);
    let change = |path: &str, bytes: &[u8]| {
        let mut files = suite();
        files.insert(path.to_owned(), bytes.to_vec()).unwrap();
        serving(files)
    };
    let release = "/dists/wood/InRelease";
    let text = |bytes: &[u8], from: &str, to: &str| {
        String::from_utf8(bytes.to_vec()).unwrap().replace(from, to).into_bytes()
    };
    let index = |bytes: &[u8]| {
        let mut files = suite();
        files
            .iter_mut()
            .filter(|(path, _)| path.ends_with("Packages"))
            .for_each(|(_, old)| *old = bytes.to_vec());
        serving(files)
    };
    let other = text(PACKAGES, "Version: 1", "Version: 2");
    let longer = [PACKAGES, b"\n"].concat();
    let mut deb = BASE.to_vec();
    *deb.last_mut().unwrap() ^= 1;
    let essential = |server| wanted(server, "wood", Variant::Essential, &[]);
    let good = serving(suite());
    let with = |keyring: &[u8]| Bootstrap { keyring: Some(keyring.to_vec()), ..essential(good) };
    for (wanted, said) in [
        (essential(change(release, &text(IN_RELEASE, "main/binary", "MAIN/binary"))), "is not what key"),
        (
            essential(change(release, &text(IN_RELEASE, "BEGIN PGP SIGNED", "BEGIN PGP"))),
            "no text with OpenPGP",
        ),
        (essential(change(release, EXPIRED)), "has expired at 2020-12-31T"),
        (with(REVOKED), "was revoked"),
        (with(b"no keys"), "the keyring cannot be read"),
        (Bootstrap { suite: "iron".to_owned(), ..essential(good) }, "/dists/iron/InRelease is not there"),
        (Bootstrap { suite: "../wood".to_owned(), ..essential(good) }, "cannot be the name of a suite"),
        (essential(index(&other)), "Packages: digest mismatch sha256:"),
        (essential(index(&longer)), "sends more than 488 bytes"),
        (essential(change("/pool/base.deb", &deb)), "/pool/base.deb: digest mismatch sha256:"),
        (essential(change("/pool/base.deb", &[BASE, b"x"].concat())), "sends more than 20672 bytes"),
        (wanted(good, "wood", Variant::Essential, &["none"]), r#"there is no package "none" in the archive"#),
        (wanted(good, "wood", Variant::Minbase, &[]), "broken_1_all.deb: it is no Debian package"),
        // All that there is of a system is one file.
        (essential(good), "/bin/bash"),
    ] {
        let (done, _) = made(&host, &wanted).await;
        let error = chain(&done.expect_err(said));
        assert!(error.contains(said), "{error:?} does not say {said:?}");
        nothing_is_left(&host, &before);
    }
    host.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_not_fetched_again_unless_it_has_changed_here() {
    let host = Host::new().await;
    let (asked, count) = (Arc::new(AtomicUsize::new(0)), suite());
    let counting = Arc::clone(&asked);
    let server = serve(move |head| match count.get(path(head)) {
        Some(bytes) => {
            counting.fetch_add(usize::from(!path(head).ends_with("InRelease")), Ordering::SeqCst);
            answer("200 OK", CLOSE, bytes)
        }
        None => answer("404 Not Found", CLOSE, b"nothing"),
    });
    let wanted = wanted(server, "wood", Variant::Essential, &[]);
    for expected in [2, 0] {
        asked.store(0, Ordering::SeqCst);
        assert!(made(&host, &wanted).await.0.is_err(), "it is no system");
        assert_eq!(asked.load(Ordering::SeqCst), expected);
    }
    let caches = host.config().data_root.join("caches");
    let kept: Vec<PathBuf> = std::fs::read_dir(caches).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = kept[0].join("files").join(Digest::sha256(BASE).hex());
    std::fs::write(&file, "other").unwrap();
    std::fs::write(kept[0].join("files/part-x"), "half").unwrap();
    asked.store(0, Ordering::SeqCst);
    assert!(made(&host, &wanted).await.0.is_err(), "it is no system");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(std::fs::read(&file).unwrap() == BASE && !kept[0].join("files/part-x").exists());
    host.finish().await;
}

/// The distribution that this machine has: suite, name, and the files of its archive by path.
fn own() -> (String, String, HashMap<String, Vec<u8>>) {
    let folder =
        std::env::var("HULL_TEST_ARCHIVE").expect("HULL_TEST_ARCHIVE names the archive: cargo xtask test");
    let folder = PathBuf::from(folder);
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (suite, distribution) = (text("suite").trim().to_owned(), text("distribution").trim().to_owned());
    let mut files = HashMap::new();
    files.insert(format!("/dists/{suite}/InRelease"), std::fs::read(folder.join("InRelease")).unwrap());
    let index = text("Packages");
    let architecture = text("architecture").trim().to_owned();
    let below = format!("/dists/{suite}/main/binary-{architecture}");
    let by_hash = format!("{below}/by-hash/SHA256/{}", Digest::sha256(index.as_bytes()).hex());
    for stanza in index.split("\n\n") {
        let field = |name: &str| {
            let line = stanza.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(": ").map_or("", |(_, value)| value)
        };
        let version = field("Version:").replace(':', "%3a");
        let name = format!("{}_{version}_{}.deb", field("Package:"), field("Architecture:"));
        if let Ok(bytes) = std::fs::read(folder.join("archives").join(name)) {
            files.insert(format!("/{}", field("Filename:")), bytes);
        }
    }
    files.insert(by_hash, index.clone().into_bytes());
    files.insert(format!("{below}/Packages"), index.into_bytes());
    (suite, distribution, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_distribution_becomes_an_image_twice_the_same() {
    let host = Host::new().await;
    let (suite, distribution, files) = own();
    let server = serving(files);
    let wanted = Bootstrap {
        name: Reference::parse(&format!("{distribution}:{suite}")).unwrap(),
        keyring: None,
        ..wanted(server, &suite, Variant::Minbase, &["hello"])
    };
    let mut ids = Vec::new();
    for round in 0..2 {
        let (done, told) = made(&host, &wanted).await;
        let done = done.unwrap_or_else(|error| panic!("{}\n{told}", chain(&error)));
        let fetched = told.lines().find(|line| line.ends_with("from the archive")).unwrap().to_owned();
        assert_eq!(round == 1, fetched.starts_with("0 of them"), "{fetched}");
        ids.push(done.id);
    }
    assert_eq!(ids[0], ids[1], "two runs give two images");
    let build = host.engine().build(Limits::default().into());
    let reference = wanted.name.clone();
    let image = hull_builder::Wanted { reference, platform: None, pull: false };
    let layers = hull_builder::Executor::image(&build, image).await.unwrap().layers;
    assert_eq!(layers.len(), 1);
    let script = "exec 2>&1; dpkg --audit; hello; apt-get --version | head -n 1; dpkg-query -W -f '${db:Status-Status}\\n' \
                  | sort -u; ls -ld /bin | cut -c 1; cat /etc/apt/sources.list; ls /var/log/dpkg.log; id -u nobody; \
                  ls -d /hull-packages; true";
    let said = crate::builds::says(&build, &layers, script).await;
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("Hello, world!"), "{said}");
    assert!(lines.next().unwrap().starts_with("apt "), "{said}");
    let rest: Vec<&str> = lines.collect();
    let source = format!("deb http://{server} {suite} main");
    assert_eq!(rest[..3], ["installed", "l", &source], "{said}");
    assert!(
        rest[3].contains("No such file") && rest[4] == "65534" && rest[5].contains("No such file"),
        "{said}"
    );
    drop(build);
    host.finish().await;
}
