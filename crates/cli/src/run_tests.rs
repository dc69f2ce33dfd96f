//! `run` against a daemon of a few lines: what is asked in which order, and
//! how its answers become exit codes.

use super::*;
use crate::fake::{Answer, Fake, answer};
use crate::flags;

/// Runs one command line against the fake; the outcome and the failure's text.
async fn check(fake: &Fake, command: &'static Command, line: &str) -> (u8, String) {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let given = flags::parse(command.flags, command.stop_at_argument, &words).ok().unwrap();
    match (command.run)(&fake.session, &given).await {
        Ok(code) => (code, String::new()),
        Err(failure) => (failure.code, failure.message),
    }
}

fn rules(request: &str) -> Answer {
    match request.split('?').next().unwrap_or_default() {
        "POST /containers/create" => answer(201, r#"{"Id":"c1","Warnings":null}"#),
        "POST /containers/c1/attach" => answer(101, ""),
        "POST /containers/c1/wait" => answer(200, r#"{"StatusCode":3}"#),
        "POST /containers/c1/start" => answer(204, ""),
        _ => answer(500, r#"{"message":"unexpected"}"#),
    }
}

#[tokio::test]
async fn output_and_exit_are_waited_for_before_the_start() {
    let fake = Fake::start(rules);
    let (code, message) = check(&fake, &RUN, "--rm busybox true").await;
    assert_eq!((code, message.as_str()), (3, ""));
    let mut asked = fake.asked();
    // A signal that another test sends to this process is forwarded by every run in it.
    asked.retain(|request| !request.contains("/kill?"));
    assert_eq!(asked[0], "POST /containers/create");
    assert_eq!(asked[3], "POST /containers/c1/start");
    let mut between = asked[1..3].to_vec();
    between.sort();
    assert_eq!(
        between,
        [
            "POST /containers/c1/attach?stderr=1&stdout=1&stream=1",
            "POST /containers/c1/wait?condition=removed"
        ]
    );
    assert_eq!(asked.len(), 4);
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_told_from_a_container_that_failed() {
    let fake = Fake::start(|request| match request.split('?').next() {
        Some("POST /containers/c1/wait") => answer(200, ""),
        _ => rules(request),
    });
    let (code, message) = check(&fake, &RUN, "busybox true").await;
    assert_eq!(code, 125);
    assert!(message.contains("the daemon went away"), "{message}");
}

#[tokio::test]
async fn a_detached_run_asks_for_no_more_than_it_needs() {
    let fake = Fake::start(rules);
    assert_eq!(check(&fake, &RUN, "-d --name x busybox true").await, (0, String::new()));
    assert_eq!(fake.asked(), ["POST /containers/create?name=x", "POST /containers/c1/start"]);
}

#[tokio::test]
async fn a_program_that_is_absent_is_127() {
    let fake = Fake::start(|request| match request {
        "POST /containers/c1/start" => {
            answer(400, r#"{"message":"exec: \"nope\": executable file not found in $PATH"}"#)
        }
        other => rules(other),
    });
    let (code, message) = check(&fake, &RUN, "busybox nope").await;
    assert_eq!(code, 127);
    assert_eq!(
        message,
        "hull: Error response from daemon: exec: \"nope\": executable file not found in $PATH\n\n\
         Run 'hull run --help' for more information"
    );
}

#[tokio::test]
async fn a_missing_image_is_fetched_and_why_it_does_not_come_is_told() {
    let fake = Fake::start(|request| match request.split('?').next().unwrap_or_default() {
        "POST /containers/create" => answer(404, r#"{"message":"No such image: x:latest"}"#),
        _ => answer(404, r#"{"message":"pull access denied for x"}"#),
    });
    let (code, message) = check(&fake, &RUN, "x").await;
    assert_eq!(code, 125);
    assert!(message.contains("pull access denied for x"), "{message}");
    assert_eq!(
        fake.asked(),
        ["POST /containers/create", "POST /images/create?fromImage=docker.io%2Flibrary%2Fx&tag=latest"]
    );
    let never = check(&fake, &RUN, "--pull never x").await;
    assert!(never.1.contains("No such image: x:latest"), "{}", never.1);
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn an_id_file_is_left_only_by_a_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cid");
    let line = format!("-d --cidfile {} busybox", path.display());
    let refusing = Fake::start(|_| answer(409, r#"{"message":"in use"}"#));
    assert_eq!(check(&refusing, &RUN, &line).await.0, 125);
    assert!(!path.exists());
    let fake = Fake::start(rules);
    assert_eq!(check(&fake, &RUN, &line).await.0, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "c1");
    let (code, message) = check(&fake, &RUN, &line).await;
    assert_eq!(code, 125);
    assert!(message.contains("container ID file found"), "{message}");
}

#[tokio::test]
async fn flags_that_exclude_each_other_are_refused_before_anything_is_asked() {
    let fake = Fake::start(rules);
    for (line, code, part) in [
        ("-d -a stdout busybox", 1, "cannot specify both --attach and --detach"),
        ("--rm --restart always busybox", 125, "cannot specify both --restart and --rm"),
        ("--pull maybe busybox", 125, "must be one of \"always\", \"missing\" or \"never\""),
        ("--platform nonsense busybox", 125, "unknown operating system or architecture"),
    ] {
        let (got, message) = check(&fake, &RUN, line).await;
        assert_eq!(got, code, "{line}");
        assert!(message.contains(part), "{line}: {message}");
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn signals_reach_the_container() {
    let fake = Fake::start(|_| answer(204, ""));
    let forwarding = Forwarding::start(&fake.session.client, "c1");
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::USR2).unwrap();
    let told = async {
        while fake.asked().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told).await.unwrap();
    assert_eq!(fake.asked(), ["POST /containers/c1/kill?signal=USR2"]);
    drop(forwarding);
}

#[tokio::test]
async fn refusals_are_gathered_and_a_forced_removal_of_nothing_is_no_failure() {
    let fake = Fake::start(|request| match request {
        "DELETE /containers/a" => answer(204, ""),
        "DELETE /containers/b" => answer(409, r#"{"message":"running"}"#),
        _ => answer(404, r#"{"message":"No such container"}"#),
    });
    use crate::container::each::REMOVE;
    let (code, message) = check(&fake, &REMOVE, "b a c").await;
    assert_eq!(code, 1);
    assert_eq!(message, "Error response from daemon: running\nError response from daemon: No such container");
    assert_eq!(check(&fake, &REMOVE, "-f c").await.0, 0);
}

#[test]
fn the_daemons_words_decide_the_exit_code() {
    for (message, code) in [
        ("exec: \"x\": executable file not found in $PATH", 127),
        ("exec: \"/x\": stat /x: no such file or directory", 127),
        ("exec: \"/etc/passwd\": permission denied", 126),
        ("exec: \"/etc\": is a directory: permission denied", 126),
        ("Conflict. The container name is in use", 125),
    ] {
        assert_eq!(start_code(message), code, "{message}");
    }
}
