//! Networks and containers come, go and change while others talk: those must not notice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Host, patience};

use super::ports::{page, serve};
use super::{CLIENTS, host};

/// How often all seven changes are made: two hundred and ten in all.
const ROUNDS: usize = 30;

/// Says numbers, fifty a second, for as long as somebody hears them.
const COUNT: &str = "i=0; while echo $i; do i=$((i+1)); usleep 20000; done";

/// Who talks: their names, what they ask all the time, and the shell's pattern of a right answer.
/// What takes long is late, not lost: only a minute without an answer is wrong.
const ASKERS: [(&str, &str, &str); 2] = [
    ("asks", "nslookup -type=a web", "*Name:?web*"),
    ("fetches", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 60 172.17.0.1 8080", "*200?OK*web"),
];

/// A container that takes one connection on port 5000 and prints what it hears, and one that counts
/// into it.
fn stream(host: &Host, name: &str, words: &[&str], to: &str) {
    let (hears, says) = (format!("{name}-hears"), format!("{name}-says"));
    let listen = ["busybox", "nc", "-l", "-p", "5000"];
    // Its input stays open: a program that hears the end of it says so to the other side, which goes.
    host.hull(&[&["run", "-d", "-i", "--name", &hears], words, &listen].concat()).ok();
    await_listener(host, &hears);
    let script = format!("{COUNT} | nc {to}");
    let words = ["run", "-d", "--name", &says, "--network", "steady", "busybox", "sh", "-c", &script];
    host.hull(&words).ok();
}

/// Until a container's program listens.
#[track_caller]
fn await_listener(host: &Host, name: &str) {
    let start = Instant::now();
    // Port 5000, state LISTEN (proc_pid_net(5)).
    let look = ["exec", name, "grep", "-q", ":1388 .* 0A ", "/proc/net/tcp", "/proc/net/tcp6"];
    while host.hull(&look).code != 0 {
        assert!(start.elapsed() < patience(60), "{name} does not listen");
    }
}

/// A container that asks all the time and prints `right`, or what it got instead.
fn asker(host: &Host, (name, question, right): (&str, &str, &str)) {
    let script = format!(
        "while usleep 20000; do got=$({{ {question}; }} 2>&1); case \"$got\" in {right}) echo right;; *) echo \
         \"$got\";; esac; done"
    );
    host.hull(&["run", "-d", "--name", name, "--network", "steady", "busybox", "sh", "-c", &script]).ok();
}

/// What a container has printed by now.
fn lines(host: &Host, name: &str) -> Vec<String> {
    host.hull(&["logs", name]).ok().lines().map(str::to_owned).collect()
}

/// How far a stream has come; panics if anything of it is missing.
#[track_caller]
fn unbroken(host: &Host, name: &str) -> usize {
    let heard = lines(host, &format!("{name}-hears"));
    for (number, line) in heard.iter().enumerate() {
        assert_eq!(*line, number.to_string(), "of the stream {name}");
    }
    heard.len()
}

/// How many answers a container has had; panics if one was wrong.
#[track_caller]
fn answered(host: &Host, name: &str) -> usize {
    let answers = lines(host, name);
    let wrong: Vec<&String> = answers.iter().filter(|line| *line != "right").collect();
    assert!(wrong.is_empty(), "{name} of {}: {wrong:?}", answers.len());
    answers.len()
}

/// Waits until all four have come further than they were.
#[track_caller]
fn all_go_on(host: &Host) {
    let look = || {
        [
            unbroken(host, "near"),
            unbroken(host, "published"),
            answered(host, "asks"),
            answered(host, "fetches"),
        ]
    };
    let (start, before) = (Instant::now(), look());
    while !look().iter().zip(&before).all(|(now, before)| *now > before + 2) {
        assert!(start.elapsed() < patience(60), "{:?} after {before:?}", look());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Seven changes: a network and a container of its own, which visits the one where the others are.
fn change(host: &Host, number: usize) {
    let (network, name) = (format!("w{number}"), format!("visitor{number}"));
    let client = CLIENTS[number % 2];
    let words: [&[&str]; 7] = [
        &["network", "create", &network],
        &["run", "-d", "--name", &name, "--network", &network, "-p", "80", "busybox", "sleep", "1000"],
        &["network", "connect", "--alias", "visitor", "steady", &name],
        &["restart", "-t", "0", &name],
        &["network", "disconnect", "steady", &name],
        &["rm", "-f", &name],
        &["network", "rm", &network],
    ];
    for words in words {
        client(host, words).ok();
    }
}

/// All changes, three at a time, while somebody looks on, who has to see those that stay all the time.
fn churn(host: &Host) {
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let shown = host.hull(&["ps", "--format", "{{.Names}}"]);
                let stays = |name: &&str| !name.starts_with("visitor");
                assert_eq!(shown.ok().lines().filter(stays).count(), 7, "{shown}");
                thread::sleep(Duration::from_millis(20));
            }
        });
        let work = || {
            loop {
                let number = done.fetch_add(1, Ordering::Relaxed);
                if number >= ROUNDS {
                    break;
                }
                change(host, number);
            }
        };
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for outcome in ended {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Namespaces are kept ready for the networks that were used last.
fn warm(host: &Host) {
    for network in ["steady", "bridge"] {
        host.hull(&["run", "--rm", "--network", network, "busybox", "true"]).ok();
    }
}

#[test]
fn nobody_elses_traffic_notices_two_hundred_changes() {
    let mut host = host();
    host.hull(&["network", "create", "steady"]).ok();
    serve(&host, "early", &["-p", "80", "--network", "steady"]);
    host.hull(&["rm", "-f", "early"]).ok();
    warm(&host);
    let before = Baseline::of(&host);
    stream(&host, "near", &["--network", "steady"], "near-hears 5000");
    stream(&host, "published", &["-p", "5000:5000"], "172.17.0.1 5000");
    serve(&host, "web", &["--network", "steady", "-p", "8080:80"]);
    page(&host, "http://127.0.0.1:8080/");
    for one in ASKERS {
        asker(&host, one);
    }
    all_go_on(&host);
    churn(&host);
    all_go_on(&host);
    // Nor a daemon that dies: what is asked meanwhile waits for the next one.
    host.kill_daemon();
    host.start_daemon();
    all_go_on(&host);
    let ids = host.hull(&["ps", "-aq"]).ok().to_owned();
    assert_eq!(ids.lines().count(), 7);
    let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.lines()).collect();
    host.hull(&words).ok();
    warm(&host);
    before.returns(&host);
}
