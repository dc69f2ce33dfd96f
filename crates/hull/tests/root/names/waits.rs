//! Names while the daemon is dead: what is asked waits for the next one, and nothing else does.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hull_testkit::Host;

use super::super::machines::{container, of_host, tcp};
use super::{addresses, in_order, resolving, sleeper};

const LIMIT: Duration = Duration::from_secs(20);

/// A command in a container without any daemon's help.
fn in_container(pid: &str, command: &str) -> Child {
    Command::new("nsenter")
        .args(["-t", pid, "-m", "-n", "-p", "--", "sh", "-c", &format!("{command} 2>&1")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(mut child: Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

fn pid(host: &Host, name: &str) -> String {
    host.hull(&["inspect", "-f", "{{.State.Pid}}", name]).ok().to_owned()
}

/// Until a socket of the container has bytes that nobody has read.
#[track_caller]
fn queued(pid: &str, protocol: &str) {
    let start = Instant::now();
    loop {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap();
        // The fifth word is `tx_queue:rx_queue` (proc_net_tcp.rst).
        let waits =
            |line: &str| line.split_whitespace().nth(4).is_some_and(|word| !word.ends_with(":00000000"));
        if table.lines().skip(1).any(waits) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "nothing was asked by {protocol}:\n{table}");
    }
}

#[test]
fn what_is_asked_of_a_dead_daemon_is_answered_by_the_next() {
    let mut host = resolving("", &[]);
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    sleeper(&host, "web", &["--network", "name=n1,ip=10.77.0.50", "-p", "8080:80"]);
    sleeper(&host, "me", &["--network", "n1"]);
    sleeper(&host, "vc", &["--network", "n1", "--dns-option", "use-vc"]);
    sleeper(&host, "ends", &["--network", "n1"]);
    drop(container(&host, "web", &[80]));
    let [me, vc, ends] = ["me", "vc", "ends"].map(|name| pid(&host, name));
    assert_eq!(addresses(&host, "me", "ends").len(), 1);
    for round in 0..2 {
        host.kill_daemon();
        let asked = in_container(&me, "nslookup -type=a web");
        let by_tcp = in_container(&vc, "getent hosts web");
        queued(&me, "udp");
        queued(&vc, "tcp");
        // Nothing else waits: packets between containers, and through published ports.
        let packets = in_container(&me, "ping -c 1 -W 5 10.77.0.50");
        let packets = said(packets);
        assert!(packets.contains("1 packets received"), "{packets}");
        assert!(!tcp(&of_host(&host), "127.0.0.1:8080").is_empty());
        assert!(said(in_container(&me, "getent hosts localhost; cat /etc/hosts")).contains("localhost"));
        if round == 0 {
            let kill = Command::new("kill").args(["-9", &ends]).status().unwrap();
            assert!(kill.success());
        }
        queued(&me, "udp");
        queued(&vc, "tcp");
        host.start_daemon();
        assert_eq!(in_order(&said(asked)), ["10.77.0.50"]);
        assert!(said(by_tcp).starts_with("10.77.0.50"));
        // Who has come since is known, and who has gone is not.
        let late = format!("late{round}");
        sleeper(&host, &late, &["--network", "n1"]);
        assert_eq!(addresses(&host, "me", &late).len(), 1);
        assert_eq!(addresses(&host, &late, "vc").len(), 1);
        let start = Instant::now();
        while !addresses(&host, "me", "ends").is_empty() {
            assert!(start.elapsed() < LIMIT, "a container that has ended has a name");
        }
    }
}
