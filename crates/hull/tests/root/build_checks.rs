//! `build --check`, and how what is wrong with a Dockerfile is shown.

use std::fs;

use hull_testkit::{Finished, Host};

use super::host;

#[track_caller]
fn build(host: &Host, dockerfile: &str, words: &[&str]) -> Finished {
    let folder = host.folder().join("checked");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    host.hull(&[&["build"], words, &[folder.to_str().unwrap()]].concat())
}

#[test]
fn checks_say_what_they_have_found_and_build_nothing() {
    let host = host();
    let images = || host.hull(&["images", "-aq"]).ok().to_owned();
    let before = images();
    let clean = build(&host, "FROM busybox\nRUN exit 1\n", &["--check", "-t", "never"]);
    assert_eq!(clean.ok(), "Check complete, no warnings found.");
    let text = "FROM busybox AS Base\nENV A=$PHAT\nCMD x\n";
    let found = build(&host, text, &["--check"]);
    assert_eq!(found.code, 1, "{found}");
    let begin = "Check complete, 3 warnings have been found!\n\n\
                 WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n\
                 Stage name 'Base' should be lowercase\n\n\
                 Dockerfile:1\n--------------------\n   1 | >>> FROM busybox AS Base\n";
    assert!(found.stdout.starts_with(begin), "{found}");
    assert!(found.stdout.contains("Usage of undefined variable '$PHAT'"), "the image is known: {found}");
    let skipped = format!("# check=skip=all\n{text}");
    assert_eq!(build(&host, &skipped, &["--check"]).ok(), "Check complete, no warnings found.");
    let strict = format!("# check=error=true;skip=UndefinedVar\n{text}");
    for words in [&["--check"][..], &["--progress", "plain"], &["-q"]] {
        let refused = build(&host, &strict, words);
        refused.fails(1, "lint violation found for rules: JSONArgsRecommended, StageNameCasing");
    }
    build(&host, &strict, &["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]).ok();
    build(&host, "FROM nosuch\nRUN a\n", &["--check"]).ok();
    build(&host, "FROM busybox\nNOPE\n", &["--check"]).fails(1, "unknown instruction: NOPE");
    build(&host, "FROM busybox\n", &["--check", "--target", "nosuch"]).fails(1, "target stage");
    assert_eq!(images(), before);
    assert!(host.hull(&["builder", "du"]).ok().ends_with("Total:\t\t0B"));
}

#[test]
fn what_is_wrong_is_shown_once_with_its_lines() {
    let host = host();
    let said = build(&host, "FROM busybox\nNOPE\nEXPOSE\n", &[]).fails(1, "Dockerfile:2:1: ").stderr.clone();
    assert_eq!(said.matches("unknown instruction: NOPE").count(), 1, "{said}");
    assert!(said.trim_end().ends_with("failed to solve: 2 problems in the Dockerfile"), "{said}");
    let quiet = build(&host, "FROM busybox\nNOPE\n", &["-q"]);
    assert_eq!(quiet.stderr.matches("unknown instruction: NOPE").count(), 1, "{quiet}");
    let failed = build(&host, "FROM busybox\nRUN true; \\\n  exit 3\nCMD x\n", &["--progress", "plain"]);
    let excerpt = "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUN true; \\\n   \
                   3 | >>>   exit 3\n   4 |     CMD x\n--------------------\n";
    failed.fails(3, excerpt);
    build(&host, "FROM busybox\nCOPY nosuch /\n", &[]).fails(1, "   2 | >>> COPY nosuch /\n");
}
