//! Builds that ask their client back: what it offers, what it does not, and clients that talk nonsense.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use hull_testkit::{Baseline, Connection, Finished, Host};

use super::copy_pipes::{over_tcp, two_roads};
use super::{Client, host};

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
    let host = two_roads();
    for (road, client) in [("near", Host::hull as Client), ("far", over_tcp)] {
        changing(&host, client, road);
    }
}

fn changing(host: &Host, client: Client, road: &str) {
    let dockerfile = "FROM busybox\n\
                      RUN --mount=type=cache,id=ROAD,target=/c \
                      touch /c/began-ROAD; until [ -e /c/go ]; do sleep 0.05; done\n\
                      COPY . /src\n\
                      RUN [ \"$(cat /src/file)\" = \"as it is now\" ] && [ ! -e /src/gone ]\n"
        .replace("ROAD", road);
    let folder = context(host, &dockerfile);
    for name in ["file", "gone"] {
        fs::write(folder.join(name), "as it was").unwrap();
    }
    let caches = host.data_root().join("caches");
    std::thread::scope(|scope| {
        let building = scope.spawn(|| client(host, &["build", folder.to_str().unwrap()]));
        let began = || {
            let caches = fs::read_dir(&caches).into_iter().flatten().flatten();
            let mut files = caches.map(|cache| cache.path().join("files"));
            files.find(|files| files.join(format!("began-{road}")).exists())
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

const QUESTION: &str = r#"{"context":""}"#;

/// The number of the daemon's next question, which must be this one.
fn asked(connection: &mut Connection, question: &str) -> u32 {
    let mut asked = vec![0; 12 + question.len()];
    connection.stream.read_exact(&mut asked).unwrap();
    assert!(asked.ends_with(question.as_bytes()), "{}", String::from_utf8_lossy(&asked));
    u32::from_be_bytes(asked[4..8].try_into().unwrap())
}

/// The rest of what the daemon says.
fn said(mut connection: Connection) -> String {
    let mut said = Vec::new();
    connection.stream.read_to_end(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_cache_that_does_not_come_is_warned_of() {
    let host = host();
    let folder = context(&host, "FROM scratch\nCOPY Dockerfile /\n");
    let archive = Command::new("tar").arg("-C").arg(&folder).args(["-cf", "-", "."]).output().unwrap();
    let mut connection = taken_over(&host);
    let begin = message(1, 0, br#"{"cache_from":[{"folder":"kept"}]}"#);
    connection.stream.write_all(&begin).unwrap();
    let number = asked(&mut connection, QUESTION);
    let answer = [message(2, number, &archive.stdout), message(3, number, b"")].concat();
    connection.stream.write_all(&answer).unwrap();
    let number = asked(&mut connection, r#"{"context":"kept"}"#);
    connection.stream.write_all(&message(4, number, b"its disk has failed")).unwrap();
    let said = said(connection);
    assert!(said.contains("the cache kept is not used: "), "{said}");
    assert!(said.contains("its disk has failed") && said.contains("\"stored\":true"), "{said}");
}

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
    // Answers that nobody waits for, and those that are no context.
    let piece = [7; 2000];
    let list = |size: u32| message(7, 0, &size.to_be_bytes());
    let other = "the client sent something else";
    let cases = [
        (vec![message(2, 77, b"?"), message(3, 77, b""), message(2, 0, &piece)], false, "cannot be read"),
        // Less than the list that was told, and bytes that are none.
        (vec![list(2001), message(2, 0, &piece)], false, other),
        (vec![list(u32::MAX), message(4, 0, b"it does not want to")], false, "it does not want to"),
        (vec![list(2000), message(2, 0, &piece), message(7, 0, &[0; 4])], false, other),
        // Nobody looks into a list but a worker: the Dockerfile is asked for.
        (vec![list(1000), message(2, 0, &piece)], true, "another version of the client"),
    ];
    for (mut answer, is_asked_on, why) in cases {
        let mut connection = taken_over(&host);
        connection.stream.write_all(&begin).unwrap();
        let number = asked(&mut connection, QUESTION);
        answer.push(message(3, 0, b""));
        for one in &mut answer {
            // Answers to this question, but for those to another.
            if one[4..8] == [0; 4] {
                one[4..8].copy_from_slice(&number.to_be_bytes());
            }
        }
        connection.stream.write_all(&answer.concat()).unwrap();
        if is_asked_on {
            let number = asked(&mut connection, "\"dockerfile\"");
            let text = b"FROM scratch\nCOPY . /\n";
            let answer = [message(2, number, text), message(3, number, b"")].concat();
            connection.stream.write_all(&answer).unwrap();
        }
        let said = said(connection);
        assert!(said.contains(why), "{said}");
    }
    before.returns(&host);
}
