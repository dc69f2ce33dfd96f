//! What builds remember, to and from elsewhere: folders, images, and such as somebody has touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_testkit::{Finished, Host};
use serde_json::Value;

use super::host;

/// Whatever is done again comes out differently.
const SCRIPT: &str = "FROM busybox AS tool\n\
                      RUN cat /proc/sys/kernel/random/uuid > /tool\n\
                      FROM busybox\n\
                      COPY a /a\n\
                      RUN cat /proc/sys/kernel/random/uuid > /made\n\
                      COPY --from=tool /tool /tool\n\
                      CMD [\"cat\", \"/made\", \"/tool\"]\n";

#[track_caller]
fn build(host: &Host, script: &str, words: &[&str]) -> Finished {
    let folder = host.folder().join("exchanged");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), script).unwrap();
    fs::write(folder.join("a"), "a").unwrap();
    let built =
        host.hull(&[&["build", "--progress", "plain", "-t", "app"], words, &[text(&folder)]].concat());
    built.ok();
    built
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What the image says of the steps that made it.
fn says(host: &Host) -> String {
    host.hull(&["run", "--rm", "--network", "none", "app"]).ok().to_owned()
}

/// A folder of one host for another one.
fn carried(from: &Path, to: &Host) -> PathBuf {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to.folder()).status().unwrap();
    assert!(copied.success());
    to.folder().join(from.file_name().unwrap())
}

fn images(cache: &Path) -> usize {
    let list: Value = serde_json::from_slice(&fs::read(cache.join("manifest.json")).unwrap()).unwrap();
    list.as_array().unwrap().len()
}

#[test]
fn another_daemon_does_nothing_again() {
    let (one, other) = (host(), host());
    let folders = ["min", "max"].map(|mode| one.folder().join(mode));
    for (mode, folder) in ["min", "max"].into_iter().zip(&folders) {
        let to = format!("type=local,mode={mode},dest={}", folder.display());
        build(&one, SCRIPT, &["--cache-to", &to]);
    }
    let made = says(&one);
    assert_eq!((images(&folders[0]), images(&folders[1])), (1, 2), "the result; the other stage, too");
    for folder in &folders {
        other.hull(&["builder", "prune", "-af"]).ok();
        let folder = carried(folder, &other);
        let from = format!("type=local,src={}", folder.display());
        let built = build(&other, SCRIPT, &["--cache-from", &from]);
        assert_eq!(says(&other), made, "{built}");
        // What is below a step that is another one is found as well.
        let changed = SCRIPT.replace("CMD", "RUN true\nCMD");
        build(&other, &changed, &["--cache-from", &from]);
        assert_eq!(says(&other), made);
        // Of the stage the smaller cache has what was copied and nothing else.
        let stage = format!("{SCRIPT}FROM tool\nCMD [\"cat\", \"/tool\"]\n");
        build(&other, &stage, &["--cache-from", &from]);
        assert_eq!(made.ends_with(&says(&other)), images(&folder) == 2);
    }
    // Nobody else is told what was done elsewhere, nor what was done on top of it.
    build(&other, SCRIPT, &[]);
    let own = says(&other);
    assert!(own.lines().zip(made.lines()).all(|(own, made)| own != made), "{own} {made}");
}

#[test]
fn an_image_is_a_cache_itself() {
    let (one, other) = (host(), host());
    build(&one, SCRIPT, &["--cache-to", "type=inline"]);
    let made = says(&one);
    let archive = one.folder().join("app.tar");
    one.hull(&["save", "-o", text(&archive), "app"]).ok();
    let archive = carried(&archive, &other);
    other.hull(&["load", "-i", text(&archive)]).ok();
    other.hull(&["tag", "app", "cache"]).ok();
    let built = build(&other, SCRIPT, &["--cache-from", "cache"]);
    assert_eq!(says(&other), made, "{built}");
    // The official client's word for it.
    let mut command = other.docker_command(&[
        "build",
        "--cache-from",
        "cache",
        "-t",
        "app",
        text(&other.folder().join("exchanged")),
    ]);
    hull_testkit::run(command.env("DOCKER_BUILDKIT", "0"), b"").ok();
    assert_eq!(says(&other), made);
    build(&other, SCRIPT, &[]);
    assert_ne!(says(&other), made);
    // An image on top of it has none of its rows.
    build(&one, "FROM app\nRUN true\n", &[]);
    let plain = one.hull(&["save", "app"]);
    assert!(!plain.stdout.contains("hull.build.cache"));
    build(&one, SCRIPT, &["--cache-from", "nosuch"])
        .stderr
        .find("the cache nosuch:latest is not used")
        .unwrap();
}

#[test]
fn a_cache_that_somebody_has_touched_is_warned_of_and_not_used() {
    let (one, other) = (host(), host());
    let folder = one.folder().join("cache");
    build(&one, SCRIPT, &["--cache-to", &format!("type=local,mode=max,dest={}", folder.display())]);
    let made = says(&one);
    let list: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let blob = |name: &Value| name.as_str().unwrap().to_owned();
    let (config, layer) = (blob(&list[0]["Config"]), blob(&list[0]["Layers"][2]));
    for (number, (file, begins)) in
        [(config.as_str(), true), (&layer, true), ("manifest.json", true), ("manifest.json", false)]
            .into_iter()
            .enumerate()
    {
        let touched = one.folder().join(format!("touched{number}"));
        assert!(Command::new("cp").arg("-r").arg(&folder).arg(&touched).status().unwrap().success());
        let path = touched.join(file);
        let mut bytes = fs::read(&path).unwrap();
        match begins {
            true => bytes[0] ^= 1,
            // More than anybody reads.
            false => bytes.resize(9 << 20, b' '),
        }
        fs::write(&path, bytes).unwrap();
        let touched = carried(&touched, &other);
        other.hull(&["builder", "prune", "-af"]).ok();
        let built =
            build(&other, SCRIPT, &["--cache-from", &format!("type=local,src={}", touched.display())]);
        assert_eq!(built.stderr.matches(" is not used: ").count(), 1, "{file}: {built}");
        let own = says(&other);
        assert!(own.lines().zip(made.lines()).all(|(own, made)| own != made), "{file}: {own} {made}");
    }
    let nowhere = build(&other, SCRIPT, &["--cache-from", "type=local,src=/nonexistent"]);
    assert!(nowhere.stderr.contains("the cache /nonexistent is not used: "), "{nowhere}");
    // One that is whole is used, beside one that is not.
    let whole = carried(&folder, &other);
    let (bad, good) = (other.folder().join("touched0"), whole);
    let from = [bad, good].map(|folder| format!("type=local,src={}", folder.display()));
    other.hull(&["builder", "prune", "-af"]).ok();
    build(&other, SCRIPT, &["--cache-from", &from[0], "--cache-from", &from[1]]);
    assert_eq!(says(&other), made);
}
