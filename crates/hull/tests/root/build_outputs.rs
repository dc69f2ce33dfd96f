//! Where what was built goes, and how a build is shown.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_testkit::{Finished, Host};

use super::host;

const SCRIPT: &str = "FROM busybox AS made\n\
                      RUN mkdir /out && echo made > /out/file && ln -s /etc/passwd /out/link && chmod 640 /out/file\n\
                      FROM scratch\n\
                      COPY --from=made /out /\n\
                      CMD [\"x\"]\n";

fn context(host: &Host, dockerfile: &str) -> PathBuf {
    let folder = host.folder().join("context");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    folder
}

#[track_caller]
fn build(host: &Host, words: &[&str]) -> Finished {
    let folder = host.folder().join("context");
    host.hull(&[&["build"], words, &[folder.to_str().unwrap()]].concat())
}

fn names(archive: &Path) -> String {
    let listed = Command::new("tar").arg("-tf").arg(archive).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn files_go_to_a_folder_or_an_archive_and_no_image_stays() {
    let host = host();
    context(&host, SCRIPT);
    let images = || host.hull(&["images", "-aq"]).ok().to_owned();
    let before = images();
    let (folder, archive) = (host.folder().join("folder"), host.folder().join("files.tar"));
    let tar = format!("type=tar,dest={}", archive.display());
    build(&host, &["-t", "unnamed", "-o", folder.to_str().unwrap(), "-o", &tar]).ok();
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "made\n");
    assert_eq!(fs::metadata(folder.join("file")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_link(folder.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "the host's own folders are not in it");
    assert!(
        names(&archive).lines().any(|name| name.trim_start_matches("./") == "file"),
        "{}",
        names(&archive)
    );
    let piped = build(&host, &["-o", "-"]);
    assert!(piped.ok().contains("made\n") && piped.ok().contains("ustar"), "{piped}");
    build(&host, &["-o", "type=cacheonly"]).ok();
    assert_eq!(images(), before);
    // What fails leaves nothing that looks like an output.
    context(&host, "FROM busybox\nRUN exit 7\n");
    let file = host.folder().join("never.tar");
    build(&host, &["-o", &format!("type=tar,dest={}", file.display())])
        .fails(7, "returned a non-zero code: 7");
    assert!(!file.exists());
    build(&host, &["-o", "type=registry"]).fails(1, "cannot be pushed");
    build(&host, &["-o", "type=tar,dest=/nonexistent/x.tar"]).fails(1, "/nonexistent");
}

#[test]
fn an_image_goes_to_an_archive_that_can_be_loaded() {
    let host = host();
    let script = "FROM busybox\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n";
    context(&host, script);
    let metadata = host.folder().join("metadata.json");
    for (kind, name) in [("oci", "one:1"), ("docker", "two:latest")] {
        let file = host.folder().join(format!("{kind}.tar"));
        let output = format!("type={kind},dest={}", file.display());
        build(&host, &["-t", name, "-o", &output]).ok();
        assert!(names(&file).contains("oci-layout") && names(&file).contains("manifest.json"));
        assert!(!host.hull(&["images"]).ok().contains(name.split(':').next().unwrap()));
        let loaded = host.docker(&["load", "-i", file.to_str().unwrap()]);
        assert!(loaded.ok().contains(&format!("Loaded image: {name}")), "{loaded}");
        assert_eq!(host.hull(&["run", "--rm", "--network", "none", name]).ok(), "made");
    }
    // The same is kept where it is asked for, beside an output.
    let folder = host.folder().join("both");
    let words = ["-o", "type=image,name=three", "-o", folder.to_str().unwrap()];
    build(&host, &[&words[..], &["--metadata-file", metadata.to_str().unwrap()]].concat()).ok();
    assert_eq!(fs::read_to_string(folder.join("made")).unwrap(), "made\n");
    let id = host.hull(&["image", "inspect", "-f", "{{.Id}}", "three"]).ok().to_owned();
    let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.digest"], id);
    assert_eq!(written["image.name"], "docker.io/library/three:latest");
}

#[test]
fn what_happens_is_shown_in_lines_or_on_a_terminal() {
    let host = host();
    context(&host, "FROM busybox\nRUN echo to-stdout; echo to-stderr >&2\n");
    let built = build(&host, &["-t", "shown"]);
    assert_eq!(built.ok(), "", "all of it is for people");
    for line in [
        "#1 [1/2] FROM busybox\n",
        "] RUN echo to-stdout",
        " to-stdout\n",
        " to-stderr\n",
        "naming to shown:latest",
    ] {
        assert!(built.stderr.contains(line), "{line}: {built}");
    }
    assert!(build(&host, &["-q"]).ok().starts_with("sha256:"));
    assert!(build(&host, &["--progress", "plain"]).stderr.contains("#2 CACHED\n"));
    build(&host, &["--progress", "tty"]).fails(1, "no terminal");
    build(&host, &["--progress", "film"]).fails(1, "invalid progress mode");
    let folder = context(&host, "FROM busybox\nRUN echo on the terminal; exit 3\n");
    let terminal = host.hull_on_terminal(&["build", folder.to_str().unwrap()]);
    let (code, screen) = terminal.finish();
    assert_eq!(code, 3, "{screen}");
    for text in
        ["[+] Building ", " FINISHED", " => ERROR [2/2] RUN echo on the terminal; exit 3", " on the terminal"]
    {
        assert!(screen.contains(text), "{text}: {screen}");
    }
    context(&host, "FROM busybox\nNOPE\n");
    let wrong = build(&host, &[]);
    wrong.fails(1, "unknown instruction: NOPE");
    assert!(wrong.stderr.contains("Dockerfile:2"), "{wrong}");
}
