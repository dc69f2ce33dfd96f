//! Reproducible builds: what is built of the same things on two hosts is the same, to the last digit.

use std::fs;
use std::path::Path;
use std::process::Command;

use hull_testkit::Host;

use super::builds::{CLIENTS, build, context, text};
use super::{bare, host};

/// Two machines with one image of busybox.
fn hosts() -> [Host; 2] {
    let hosts = [host(), bare()];
    let archive = hosts[0].folder().join("busybox.tar");
    hosts[0].hull(&["save", "-o", text(&archive), "busybox"]).ok();
    hosts[1].hull(&["load", "-i", text(&archive)]).ok();
    hosts
}

/// The time of all files below a folder, and of itself.
fn touch(folder: &Path, date: &str) {
    let done =
        Command::new("find").arg(folder).args(["-exec", "touch", "-h", "-d", date, "{}", "+"]).status();
    assert!(done.unwrap().success());
}

/// Files of all kinds; with an archive that ADD unpacks.
fn furnish(host: &Host, script: &str, date: &str) -> String {
    let files = [("Dockerfile", script), ("dir/a", "a\n"), ("dir/sub/b", "b\n"), ("c", "c\n")];
    let folder = context(host, "again", &files);
    fs::remove_file(folder.join("link")).ok();
    std::os::unix::fs::symlink("dir/a", folder.join("link")).unwrap();
    touch(&folder, date);
    // What it says of times is its own.
    let packed = Command::new("tar")
        .args(["--sort=name", "--mtime=@5", "--owner=3:3", "--group=4:4", "-C", text(&folder)])
        .args(["-cf", text(&folder.join("packed.tar")), "dir"])
        .status();
    assert!(packed.unwrap().success());
    touch(&folder, date);
    text(&folder).to_owned()
}

const DATED: &str = r#"
FROM busybox AS first
WORKDIR /made/here
RUN echo x >file && mkdir -p deep/er && ln -s file link && ln file deep/hard && chown 7:8 file && rm /etc/group
RUN echo more >>/etc/passwd; mkfifo /made/fifo
FROM busybox
ARG SOURCE_DATE_EPOCH
ENV DATE=$SOURCE_DATE_EPOCH
COPY . /all/
COPY --from=first --chown=1:2 /made /copied
COPY --chmod=640 <<EOF /from/the/file
inline
EOF
ADD packed.tar /unpacked/
ADD c /added/c
WORKDIR /w/o/r/k
RUN --mount=type=cache,target=/c ls /all > listing && touch /c/file && rm -r /all/dir
LABEL made=again
CMD ["true"]
"#;

#[test]
fn with_a_date_the_same_build_gives_the_same_image() {
    let hosts = hosts();
    let date = "1600000000";
    let mut ids = Vec::new();
    // The files are as old as the hosts please, as long as they are newer.
    for (host, times) in hosts.iter().zip(["2021-01-01T00:00:00.5Z", "2022-02-02T02:02:02Z"]) {
        let folder = furnish(host, DATED, times);
        for official in CLIENTS {
            let words = ["--no-cache", "-q", "--build-arg", &format!("SOURCE_DATE_EPOCH={date}"), &folder];
            ids.push(build(host, official, &words).ok().to_owned());
        }
    }
    let image = |index: usize| hosts[index / 2].hull(&["inspect", &ids[index]]).ok().to_owned();
    for index in 1..4 {
        assert_eq!(ids[index], ids[0], "{} is not {}", image(index), image(0));
    }
    let created = hosts[0].hull(&["inspect", "-f", "{{.Created}}", &ids[0]]);
    assert!(created.ok().starts_with("2020-09-13T12:26:40"), "{created}");
    // Nothing is newer; what is older stays as it is.
    let looks = "find /all /copied /from /unpacked /added /w -newer /added/c; \
                 stat -c '%Y %n' /all/c /w/o/r/k/listing /copied/here/file /unpacked/dir/a";
    let seen = hosts[0].hull(&["run", "--rm", "--network", "none", &ids[0], "sh", "-c", looks]);
    assert_eq!(
        seen.ok(),
        "1600000000 /all/c\n1600000000 /w/o/r/k/listing\n1600000000 /copied/here/file\n5 /unpacked/dir/a"
    );
    // Another date is another image.
    let folder = text(&hosts[0].folder().join("again")).to_owned();
    let other = build(&hosts[0], false, &["-q", "--build-arg", "SOURCE_DATE_EPOCH=1600000001", &folder]);
    assert_ne!(other.ok(), ids[0]);
}

const UNDATED: &str = r#"
FROM busybox
COPY dir c /new/place/
COPY --chown=5:6 --chmod=755 link /other
ADD packed.tar /unpacked/
COPY <<EOF /from/the/file
inline
EOF
WORKDIR /w/o/r/k
COPY --link dir /linked/
"#;

/// RUN writes with the clock of its host; all else has the files' times, or none of its own. The official
/// client sends whole seconds of them.
#[test]
fn without_a_date_the_same_files_give_the_same_layers() {
    let hosts = hosts();
    let mut layers = Vec::new();
    for host in &hosts {
        let folder = furnish(host, UNDATED, "2021-01-01T00:00:00Z");
        for official in CLIENTS {
            let id = build(host, official, &["--no-cache", "-q", &folder]).ok().to_owned();
            let made = host.hull(&["inspect", "-f", "{{json .RootFS.Layers}}", &id]);
            layers.push(made.ok().to_owned());
        }
    }
    assert_eq!(layers[0].matches("sha256:").count(), 7, "{}", layers[0]);
    assert!(layers.iter().all(|all| *all == layers[0]), "{layers:#?}");
}
