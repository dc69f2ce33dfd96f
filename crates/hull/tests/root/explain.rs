//! `network explain`: what it says of a port is what becomes of real packets.

use std::time::{Duration, Instant};

use hull_testkit::{Finished, Host};

use super::ports::{page, page_inside, serve, try_page};
use super::{CLIENTS, Client, host};

fn explain(host: &Host, port: &str) -> Finished {
    host.hull(&["network", "explain", port])
}

/// Packets get through, and it says so.
#[track_caller]
fn open(host: &Host, port: u16, name: &str) -> Finished {
    assert_eq!(page(host, &format!("http://127.0.0.1:{port}/")), name);
    let told = explain(host, &port.to_string());
    assert!(!told.ok().contains("\nstop"), "{told}");
    assert!(told.stdout.contains(&format!("container {name} publishes 0.0.0.0:{port}/tcp")), "{told}");
    told
}

/// Nobody on the host gets an answer, and it says what stops the packets.
#[track_caller]
fn shut(host: &Host, port: u16, reason: &str) -> Finished {
    assert!(!try_page(host, &format!("http://127.0.0.1:{port}/")).0, "an answer at port {port}");
    stopped(host, port, reason)
}

#[track_caller]
fn stopped(host: &Host, port: u16, reason: &str) -> Finished {
    let told = explain(host, &port.to_string());
    assert_eq!(told.code, 1, "{told}");
    let said = told.stdout.lines().any(|line| line.starts_with("stop") && line.contains(reason));
    assert!(said, "no {reason:?} stops in {told}");
    told
}

fn nft(host: &Host, command: &str) {
    assert!(host.inside("nft").arg(command).status().unwrap().success(), "{command}");
}

fn forward(host: &Host, value: &str) {
    let write = format!("echo {value} > /proc/sys/net/ipv4/ip_forward");
    assert!(host.inside("sh").args(["-c", &write]).status().unwrap().success());
}

#[test]
fn what_is_published_and_answered() {
    let host = host();
    serve(&host, "web", &["-p", "8080:80"]);
    let told = open(&host, 8080, "web");
    for words in [
        "element inet hull any4: tcp . 8080 : 172.17.0.2 . 80 rewrites its destination",
        "chain into-nat lets published ports through",
        "in container web a program listens at port 80/tcp",
        "redirects it to the forwarder",
    ] {
        assert!(told.stdout.contains(words), "{words:?} in {told}");
    }
    // Its own reservation of the port is nobody else's program.
    assert!(!told.stdout.contains("on the host"), "{told}");
    assert_eq!(page(&host, "http://[::1]:8080/"), "web");
    assert_eq!(explain(&host, "8080/tcp").stdout, told.stdout);
    explain(&host, "8080/udp").fails(1, "");
    let json = host.hull(&["network", "explain", "--format", "json", "8080"]);
    let first = json.ok().lines().next().unwrap();
    assert!(first.starts_with("{\"Outcome\":\"ok\",\"Text\":\"container web publishes"), "{json}");
    assert_eq!(json.stdout.lines().count() + 1, told.stdout.lines().count());
    // One range of 50,000 ports: the program has one of them.
    let script = "mkdir -p /www && echo many > /www/index.html && exec httpd -f -p 34567 -h /www";
    host.hull(&[
        "run",
        "-d",
        "--name",
        "many",
        "-p",
        "10000-59999:10000-59999",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let told = open(&host, 34567, "many");
    assert!(told.stdout.contains("ranges4: tcp . 0.0.0.0/0 . 10000-59999"), "{told}");
    shut(&host, 34568, "in container many nobody listens at port 34568/tcp");
}

#[test]
fn what_nobody_answers() {
    let host = host();
    host.hull(&["run", "-d", "--name", "silent", "-p", "8081:80", "busybox", "sleep", "1000"]).ok();
    shut(&host, 8081, "in container silent nobody listens at port 80/tcp");
    let words =
        ["run", "-d", "--name", "shy", "-p", "8082:80", "busybox", "httpd", "-f", "-p", "127.0.0.1:80"];
    host.hull(&words).ok();
    until(&host, 8082, "in container shy the program listens at 127.0.0.1:80 only, not at 172.17.0.");
    shut(&host, 8082, "it has to listen at 0.0.0.0");
    let words = ["run", "-d", "--name", "ex", "--expose", "9000", "busybox", "httpd", "-f", "-p", "9000"];
    host.hull(&words).ok();
    let told = shut(&host, 9000, "no running container publishes port 9000");
    assert!(
        told.stdout.contains("container ex exposes 9000/tcp and does not publish it: -p 9000:9000/tcp would"),
        "{told}"
    );
    // A program of the host that has the port is named.
    let mut taken = host.inside("busybox").args(["nc", "-l", "-p", "7777"]).spawn().unwrap();
    let told = until(&host, 7777, "on the host busybox");
    assert!(told.stdout.contains("no running container publishes port 7777"), "{told}");
    taken.kill().unwrap();
    taken.wait().unwrap();
    for port in ["0", "65536", "http", "-1", ""] {
        host.hull(&["network", "explain", "--", port])
            .fails(1, &format!("invalid port \"{port}\": it should be a number from 1 to 65535"));
    }
    explain(&host, "80/icmp").fails(1, "invalid protocol \"icmp\": it should be tcp, udp or sctp");
    explain(&host, "8080/").fails(1, "");
}

/// Waits until it says so.
#[track_caller]
fn until(host: &Host, port: u16, words: &str) -> Finished {
    let start = Instant::now();
    loop {
        let told = explain(host, &port.to_string());
        if told.stdout.contains(words) {
            return told;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never {words:?}: {told}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_others_stop() {
    let host = host();
    host.hull(&["network", "create", "n1"]).ok();
    host.hull(&["run", "-d", "--name", "far", "--network", "n1", "busybox", "sleep", "1000"]).ok();
    serve(&host, "web", &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    // The other network's packets are forwarded, as those of other machines are.
    let from_far = || page_inside(&host, "far", "172.17.0.1", 8080);
    open(&host, 8080, "web");
    assert_eq!(from_far(), "web");
    nft(
        &host,
        "add table ip mine; add chain ip mine pass { type filter hook forward priority 0; policy drop; }",
    );
    stopped(&host, 8080, "the policy of chain pass in table ip mine drops what is forwarded to docker0");
    assert_eq!(from_far(), "");
    nft(&host, "add rule ip mine pass oifname docker0 accept; add rule ip mine pass iifname docker0 accept");
    assert_eq!(from_far(), "web");
    open(&host, 8080, "web");
    nft(&host, "delete table ip mine");
    forward(&host, "0");
    stopped(&host, 8080, "the host forwards nothing: set net.ipv4.ip_forward to 1");
    assert_eq!(from_far(), "");
    forward(&host, "1");
    // What is flushed is made again: nothing is stopped for long.
    nft(&host, "flush ruleset");
    assert_eq!(page(&host, "http://127.0.0.1:8080/"), "web");
    until(&host, 8080, "ok        chain into-nat lets published ports through");
    open(&host, 8080, "web");
    assert_eq!(from_far(), "web");
    let told = explain(&host, "8081");
    assert!(told.ok().contains("bound to 127.0.0.1: from this host only"), "{told}");
    assert_eq!(page(&host, "http://127.0.0.1:8081/"), "web");
    assert_eq!(page_inside(&host, "far", "172.17.0.1", 8081), "");
}

/// Where ports are published, on the network that they will be on.
#[test]
fn whoever_publishes_is_warned_of_what_others_stop() {
    let host = host();
    host.hull(&["network", "create", "-o", "com.docker.network.bridge.name=br-zz", "zz"]).ok();
    host.hull(&["network", "create", "--ipv6", "-o", "com.docker.network.bridge.name=br-aa", "aa"]).ok();
    let warned = |client: Client, words: &[&str]| {
        let finished = client(&host, &[&["create"], words, &["busybox", "true"]].concat());
        finished.ok();
        let warning = "WARNING: Published ports cannot be reached from other machines: ";
        let said: Vec<String> = finished
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix(warning))
            .map(str::to_owned)
            .collect();
        said
    };
    let both = ["--network", "zz", "--network", "aa", "-p", "80"];
    for client in CLIENTS {
        assert_eq!(warned(client, &both), [""; 0]);
        nft(
            &host,
            "add table ip mine; add chain ip mine pass { type filter hook forward priority 0; policy drop; }; \
             add table ip6 mine; add chain ip6 mine pass { type filter hook forward priority 0; policy drop; }",
        );
        let of = |family: &str, link: &str| {
            format!("the policy of chain pass in table {family} mine drops what is forwarded to {link}")
        };
        assert_eq!(warned(client, &both), [of("ip", "br-aa"), of("ip6", "br-aa")]);
        assert_eq!(warned(client, &["--network", "zz", "-p", "80"]), [of("ip", "br-zz")]);
        assert_eq!(
            warned(client, &["--network", "name=zz,gw-priority=1", "--network", "aa", "-p", "80"]),
            [of("ip", "br-zz"), of("ip6", "br-aa")]
        );
        assert_eq!(warned(client, &["-p", "80"]), [of("ip", "docker0")]);
        assert_eq!(warned(client, &["--expose", "80"]), [""; 0]);
        assert_eq!(warned(client, &["--network", "host"]), [""; 0]);
        // And as `run` says it, whose container starts all the same.
        let finished = client(&host, &["run", "-d", "-p", "80", "busybox", "sleep", "1000"]);
        finished.ok();
        assert!(finished.stderr.contains(&of("ip", "docker0")), "{finished}");
        nft(
            &host,
            "add rule ip mine pass oifname docker0 accept; add rule ip mine pass iifname docker0 accept",
        );
        assert_eq!(warned(client, &["-p", "80"]), [""; 0]);
        nft(&host, "delete table ip mine; delete table ip6 mine");
    }
}
