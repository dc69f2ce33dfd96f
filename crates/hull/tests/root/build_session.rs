//! Builds that ask their client back: what it offers, what it does not, and clients that talk nonsense.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;

use hull_testkit::{Baseline, Connection, Finished, Host};

use super::host;

fn context(host: &Host, dockerfile: &str) -> PathBuf {
    let folder = host.folder().join("asking");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    folder
}

fn build(host: &Host, dockerfile: &str, words: &[&str]) -> Finished {
    let folder = context(host, dockerfile);
    let mut command =
        host.hull_command(&[&["build", "--no-cache"], words, &[folder.to_str().unwrap()]].concat());
    command.env("OF_THE_CLIENT", "from a variable");
    hull_testkit::run(&mut command, b"")
}

#[test]
fn a_step_gets_the_secrets_that_its_client_offers_and_no_others() {
    let host = host();
    let file = host.folder().join("secret");
    fs::write(&file, "from a file").unwrap();
    let both = "FROM busybox\n\
                RUN --mount=type=secret,id=one,env=ONE,required --mount=type=secret,id=two,env=TWO \
                --mount=type=secret,id=three,env=THREE \
                [ \"$ONE\" = \"from a file\" ] && [ \"$TWO\" = \"from a variable\" ] && [ -z \"$THREE\" ]\n";
    let one = format!("id=one,src={}", file.display());
    build(&host, both, &["--secret", &one, "--secret", "id=two,env=OF_THE_CLIENT"]).ok();
    build(&host, both, &["--secret", "id=two,env=OF_THE_CLIENT"]).fails(1, "one");
    // One that cannot be read any more ends the build with the reason.
    fs::write(&file, vec![b'x'; 600 << 10]).unwrap();
    build(&host, both, &["--secret", &one]).fails(1, "a secret has 512000 bytes at most");
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
}

#[test]
fn other_files_and_images_have_names() {
    let host = host();
    let other = host.folder().join("other");
    fs::create_dir_all(&other).unwrap();
    for (name, text) in [("kept", "of the other"), ("left", "x"), (".dockerignore", "left\n")] {
        fs::write(other.join(name), text).unwrap();
    }
    let dockerfile = "FROM base\n\
                      COPY --from=other . /other\n\
                      RUN --mount=from=other,target=/mnt \
                      [ \"$(cat /other/kept)\" = \"of the other\" ] && [ ! -e /other/left ] && [ -e /mnt/kept ]\n";
    let files = format!("other={}", other.display());
    let image = "base=docker-image://busybox";
    build(&host, dockerfile, &["--build-context", &files, "--build-context", image]).ok();
    build(&host, dockerfile, &["--build-context", image]).fails(1, "other");
    // What the ignore file leaves out is warned of where it is copied.
    let folder = context(&host, "");
    for (name, text) in [("left", "x"), (".dockerignore", "left\n")] {
        fs::write(folder.join(name), text).unwrap();
    }
    build(&host, "# check=error=true\nFROM busybox\nCOPY left /left\n", &[]).fails(1, "CopyIgnoredFile");
}

#[test]
fn files_that_change_while_a_build_goes_on_are_looked_at_again() {
    let host = host();
    let dockerfile = "FROM busybox\n\
                      RUN --mount=type=cache,id=signal,target=/c \
                      touch /c/began; until [ -e /c/go ]; do sleep 0.05; done\n\
                      COPY . /src\n\
                      RUN [ \"$(cat /src/file)\" = \"as it is now\" ] && [ ! -e /src/gone ]\n";
    let folder = context(&host, dockerfile);
    for name in ["file", "gone"] {
        fs::write(folder.join(name), "as it was").unwrap();
    }
    let caches = host.data_root().join("caches");
    std::thread::scope(|scope| {
        let building = scope.spawn(|| host.hull(&["build", folder.to_str().unwrap()]));
        let began = || {
            let caches = fs::read_dir(&caches).into_iter().flatten().flatten();
            caches.map(|cache| cache.path().join("files")).find(|files| files.join("began").exists())
        };
        super::copy_attacks::until("the step", || began().is_some());
        fs::write(folder.join("file"), "as it is now").unwrap();
        fs::remove_file(folder.join("gone")).unwrap();
        fs::write(began().unwrap().join("go"), "").unwrap();
        let built = building.join().unwrap();
        built.ok();
        let said = format!("{}{}", built.stdout, built.stderr);
        assert_eq!(said.matches("looks at them again").count(), 1, "{said}");
    });
}

/// A connection that has been taken over for a build.
fn taken_over(host: &Host) -> Connection {
    let mut connection = Connection::open(&host.socket());
    let head = "POST /hull/v1/build HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    connection.stream.write_all(head.as_bytes()).unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    assert!(read.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&read));
    connection
}

/// One of the client's messages, as `hull_api::build::frame` has them.
fn message(kind: u8, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&[kind, 0, 0, 0], &number.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

const QUESTION: &[u8] = br#"{"context":""}"#;

#[test]
fn a_client_that_talks_nonsense_is_left_and_nothing_stays() {
    let host = host();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    let begin = message(1, 0, b"{}");
    let long = [&[2, 0, 0, 0, 0, 0, 0, 1][..], &u32::MAX.to_be_bytes()].concat();
    let cases = [
        message(99, 0, b""),
        message(1, 0, b"no document"),
        message(3, 1, b""),
        [&begin[..], &begin].concat(),
        [&begin[..], &long].concat(),
        // A descriptor that did not come.
        [&begin[..], &[5, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]].concat(),
    ];
    for bytes in cases {
        let mut connection = taken_over(&host);
        connection.stream.write_all(&bytes).unwrap();
        // It ends, whatever was said before; it may be cut off.
        let mut said = Vec::new();
        connection.stream.read_to_end(&mut said).ok();
    }
    // Answers that nobody waits for, and one that is no archive.
    let mut connection = taken_over(&host);
    connection.stream.write_all(&begin).unwrap();
    let mut asked = vec![0; 12 + QUESTION.len()];
    connection.stream.read_exact(&mut asked).unwrap();
    assert!(asked.ends_with(QUESTION), "{asked:?}");
    let number = u32::from_be_bytes(asked[4..8].try_into().unwrap());
    let piece = [7; 2000];
    let bytes =
        [message(2, 77, b"?"), message(3, 77, b""), message(2, number, &piece), message(3, number, b"")];
    connection.stream.write_all(&bytes.concat()).unwrap();
    let mut said = Vec::new();
    connection.stream.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("the context cannot be read"), "{said}");
    drop(connection);
    before.returns(&host);
}
