//! Published ports: how they are asked for and shown, and that packets take them.

use std::process::Command;
use std::time::{Duration, Instant};

use hull_testkit::Host;

use super::{CLIENTS, host};

/// A container that answers every request on its port 80 with its own name.
pub(crate) fn serve(host: &Host, name: &str, words: &[&str]) {
    let script = format!("mkdir -p /www && echo {name} > /www/index.html && exec httpd -f -p 80 -h /www");
    let run = [&["run", "-d", "--name", name], words, &["busybox", "sh", "-c", &script]].concat();
    host.hull(&run).ok();
}

/// The page that a program in the machine's own network gets, once it gets one.
#[track_caller]
pub(crate) fn page(host: &Host, url: &str) -> String {
    let start = Instant::now();
    loop {
        let (got, text) = try_page(host, url);
        if got {
            return text;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "nothing at {url}: {text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn try_page(host: &Host, url: &str) -> (bool, String) {
    let script =
        "import sys, urllib.request as web; print(web.urlopen(sys.argv[1], timeout=2).read().decode())";
    fetch(host.inside("python3").args(["-c", script, url]))
}

/// What a container gets from an address; nothing if it cannot be reached.
pub(crate) fn page_inside(host: &Host, from: &str, address: &str, port: u16) -> String {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} | tail -n 1");
    host.hull(&["exec", from, "sh", "-c", &ask]).stdout.trim().to_owned()
}

fn fetch(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[test]
fn ports_are_shown_as_the_reference_shows_them() {
    let host = host();
    for client in CLIENTS {
        let words = [
            "run",
            "-d",
            "--name",
            "p1",
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1:8081:81/udp",
            "-p",
            "82",
            "busybox",
            "sleep",
            "1000",
        ];
        client(&host, &words).ok();
        let random = client(&host, &["port", "p1", "82"]).ok().lines().next().unwrap().to_owned();
        let random = random.strip_prefix("0.0.0.0:").unwrap();
        assert!(random.parse::<u16>().unwrap() >= 32768);
        assert_eq!(
            client(&host, &["port", "p1"]).ok(),
            format!(
                "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n81/udp -> 127.0.0.1:8081\n82/tcp -> 0.0.0.0:{random}\n82/tcp -> \
                 [::]:{random}"
            )
        );
        assert_eq!(
            client(&host, &["ps", "--format", "{{.Ports}}"]).ok(),
            format!(
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:8081->81/udp, 0.0.0.0:{random}->82/tcp, \
                 [::]:{random}->82/tcp"
            )
        );
        assert_eq!(
            client(
                &host,
                &["inspect", "-f", "{{json .NetworkSettings.Ports}} {{json .Config.ExposedPorts}}", "p1"]
            )
            .ok(),
            format!(
                "{{\"80/tcp\":[{{\"HostIp\":\"0.0.0.0\",\"HostPort\":\"8080\"}},{{\"HostIp\":\"::\",\"HostPort\":\"8080\"}}],\
                 \"81/udp\":[{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"8081\"}}],\
                 \"82/tcp\":[{{\"HostIp\":\"0.0.0.0\",\"HostPort\":\"{random}\"}},{{\"HostIp\":\"::\",\"HostPort\":\"{random}\"}}]}} \
                 {{\"80/tcp\":{{}},\"81/udp\":{{}},\"82/tcp\":{{}}}}"
            )
        );
        client(&host, &["port", "p1", "80/udp"]).fails(1, "No public port '80/udp' published for p1");
        client(&host, &["port", "p1", "81"]).fails(1, "Error: No public port '81' published for p1");
        client(&host, &["run", "-d", "--name", "p2", "-p", "8080:80", "busybox", "sleep", "1000"]).fails(
            125,
            "failed to set up container networking: driver failed programming external connectivity on endpoint p2 (",
        )
        .fails(125, "Bind for 0.0.0.0:8080 failed: port is already allocated");
        assert_eq!(
            client(&host, &["ps", "-a", "--filter", "name=p2", "--format", "{{.Status}}{{.Ports}}"]).ok(),
            "Created"
        );
        assert_eq!(client(&host, &["ps", "--filter", "publish=8080", "--format", "{{.Names}}"]).ok(), "p1");
        assert_eq!(client(&host, &["ps", "--filter", "expose=81/udp", "--format", "{{.Names}}"]).ok(), "p1");
        assert_eq!(client(&host, &["ps", "--filter", "publish=80", "-q"]).ok(), "");
        client(&host, &["ps", "--filter", "publish=x"]).fails(1, "error while looking up for publish x");
        client(&host, &["stop", "-t", "0", "p1"]).ok();
        assert_eq!(client(&host, &["port", "p1"]).ok(), "");
        client(&host, &["start", "p2"]).ok();
        client(&host, &["start", "p1"]).fails(1, "port is already allocated");
        client(&host, &["rm", "-f", "p2"]).ok();
        client(&host, &["start", "p1"]).ok();
        client(&host, &["restart", "-t", "0", "p1"]).ok();
        client(&host, &["rm", "-f", "p1"]).ok();
        let words = [
            "run",
            "-d",
            "--name",
            "rng",
            "-p",
            "9000-9002:90-92",
            "-p",
            "9100-9110:99",
            "busybox",
            "sleep",
            "1000",
        ];
        client(&host, &words).ok();
        assert_eq!(
            client(&host, &["port", "rng"]).ok(),
            "90/tcp -> 0.0.0.0:9000\n90/tcp -> [::]:9000\n91/tcp -> 0.0.0.0:9001\n91/tcp -> [::]:9001\n\
             92/tcp -> 0.0.0.0:9002\n92/tcp -> [::]:9002\n99/tcp -> 0.0.0.0:9100\n99/tcp -> [::]:9100"
        );
        let words = [
            "run",
            "-d",
            "--name",
            "ex",
            "--expose",
            "1000",
            "--expose",
            "2000-2002/udp",
            "busybox",
            "sleep",
            "1000",
        ];
        client(&host, &words).ok();
        assert_eq!(
            client(&host, &["ps", "--filter", "name=ex", "--format", "{{.Ports}}"]).ok(),
            "1000/tcp, 2000-2002/udp"
        );
        let words = [
            "run", "-d", "--name", "all", "-P", "--expose", "80", "--expose", "53/udp", "busybox", "sleep",
            "1000",
        ];
        client(&host, &words).ok();
        let all = client(&host, &["port", "all"]).ok().to_owned();
        assert_eq!(all.lines().count(), 4, "{all}");
        client(&host, &["rm", "-f", "rng", "ex", "all"]).ok();
        let finished = client(&host, &["run", "--rm", "--network", "host", "-p", "1:1", "busybox", "true"]);
        finished.ok();
        assert!(
            finished.stderr.contains("Published ports are discarded when using host network mode"),
            "{finished}"
        );
    }
}

#[test]
fn a_port_that_a_program_of_the_host_has_is_not_given_away() {
    let host = host();
    let mut taken = host.inside("busybox").args(["nc", "-l", "-p", "7777"]).spawn().unwrap();
    let start = Instant::now();
    loop {
        let finished = host.hull(&["run", "--rm", "-p", "7777:80", "busybox", "true"]);
        if finished.code != 0 {
            finished.fails(125, "address already in use").fails(125, "busybox");
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the port was never taken");
    }
    taken.kill().unwrap();
    taken.wait().unwrap();
    for client in CLIENTS {
        client(&host, &["run", "--rm", "-p", "1.2.3.4:7000:80", "busybox", "true"])
            .fails(125, "cannot assign requested address");
        client(&host, &["run", "--rm", "-p", "7777:80", "busybox", "true"]).ok();
    }
}

#[test]
fn pages_come_through_published_ports() {
    let mut host = host();
    host.hull(&["network", "create", "n1"]).ok();
    serve(&host, "web", &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    serve(&host, "own", &["--network", "n1", "-p", "8082:80"]);
    let own =
        host.hull(&["inspect", "-f", "{{.NetworkSettings.Networks.n1.IPAddress}}", "own"]).ok().to_owned();
    for round in 0..2 {
        for (url, name) in [
            ("http://127.0.0.1:8080/", "web"),
            ("http://172.17.0.1:8080/", "web"),
            ("http://127.0.0.1:8081/", "web"),
            ("http://127.0.0.1:8082/", "own"),
            (format!("http://{own}/").as_str(), "own"),
        ] {
            assert_eq!(page(&host, url), name, "{url} in round {round}");
        }
        // From containers: to the host's address, to another network's.
        for (from, address, port, name) in
            [("web", "172.17.0.1", 8082, "own"), ("own", "172.18.0.1", 8080, "web")]
        {
            let got = page_inside(&host, from, address, port);
            assert_eq!(got, name, "{address}:{port} from {from} in round {round}");
        }
        // What is published on the loopback is for the host alone; other networks' containers are strangers.
        for (address, port) in [("172.17.0.1", 8081), (own.as_str(), 80)] {
            assert_eq!(page_inside(&host, "web", address, port), "", "{address}:{port}");
        }
        // A killed daemon changes nothing of it.
        host.kill_daemon();
        assert_eq!(page(&host, "http://127.0.0.1:8080/"), "web");
        host.start_daemon();
    }
    host.hull(&["rm", "-f", "web"]).ok();
    assert!(!try_page(&host, "http://127.0.0.1:8080/").0);
    serve(&host, "next", &["-p", "8080:80"]);
    assert_eq!(page(&host, "http://127.0.0.1:8080/"), "next");
}

#[test]
fn a_connect_that_fails_leaves_a_container_its_ports() {
    let host = host();
    // Before `bridge` in the order of names: the default route, and the ports with it, would move there.
    let id = host.hull(&["network", "create", "aa"]).ok()[..12].to_owned();
    serve(&host, "web", &["-p", "80"]);
    let port = host.hull(&["port", "web", "80"]).ok().lines().next().unwrap().to_owned();
    let number = port.rsplit(':').next().unwrap().to_owned();
    let broken = host.inside("ip").args(["link", "del", &format!("br-{id}")]).status().unwrap();
    assert!(broken.success());
    host.hull(&["network", "connect", "aa", "web"]).fails(1, "which does not exist");
    assert_eq!(host.hull(&["port", "web", "80"]).ok().lines().next(), Some(port.as_str()));
    let taken = format!("{number}:80");
    host.hull(&["run", "--rm", "-p", &taken, "busybox", "true"]).fails(125, "port is already allocated");
    assert_eq!(page(&host, &format!("http://127.0.0.1:{number}/")), "web");
    host.hull(&["rm", "-f", "web"]).ok();
    host.hull(&["run", "--rm", "-p", &taken, "busybox", "true"]).ok();
}

/// The pids of this machine's forwarders.
pub(crate) fn forwarders(host: &Host) -> Vec<u32> {
    let mut pids = host.processes();
    pids.retain(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "hull-forwarder\n"
    });
    pids
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_forwarder_that_dies_is_followed_by_another_that_knows_all_ports() {
    let mut host = host();
    serve(&host, "web", &["-p", "8080:80"]);
    serve(&host, "own", &["-p", "8082:80"]);
    let pages = |host: &Host| {
        for (port, name) in [(8080, "web"), (8082, "own")] {
            assert_eq!(page(host, &format!("http://[::1]:{port}/")), name);
        }
    };
    pages(&host);
    for round in 0..2 {
        let old = forwarders(&host);
        assert_eq!(old.len(), 1, "round {round}");
        kill(old[0]);
        let start = Instant::now();
        // Nobody starts or asks for anything.
        while forwarders(&host).iter().all(|pid| old.contains(pid)) {
            assert!(start.elapsed() < Duration::from_secs(10), "nobody follows the forwarder that died");
            std::thread::sleep(Duration::from_millis(10));
        }
        pages(&host);
        // One that was found is watched like one that was started.
        host.kill_daemon();
        host.start_daemon();
        pages(&host);
    }
}

/// What the last daemon's forwarder was told of a container that has died since is no way to the
/// heir of its address.
#[test]
fn the_next_daemon_leaves_the_forwarder_nothing_of_the_dead() {
    let mut host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "lan"]).ok();
    serve(&host, "web", &["--network", "lan", "--ip", "10.77.0.50", "-p", "8080:80"]);
    serve(&host, "own", &["-p", "8082:80"]);
    let table = host.printed(&["nft", "list", "table", "inet", "hull"]);
    let port = table.split("redirect to :").nth(1).unwrap().split_whitespace().next().unwrap();
    // Both ports lead to the forwarder, whatever Hull's own rules say by then.
    let rule = format!("ip6 daddr ::1 tcp dport {{ 8080, 8082 }} redirect to :{port}");
    let chain = format!("chain there {{ type nat hook output priority -110; {rule}; }};");
    host.printed(&["nft", &format!("table ip6 test {{ {chain} }}\n")]);
    let at = |port: u16| format!("http://[::1]:{port}/");
    assert_eq!((page(&host, &at(8080)), page(&host, &at(8082))), ("web".into(), "own".into()));
    let forwarder = forwarders(&host);
    let pid = host.hull(&["inspect", "-f", "{{.State.Pid}}", "web"]).ok().parse().unwrap();
    host.kill_daemon();
    kill(pid);
    host.start_daemon();
    host.hull(&["wait", "web"]).ok();
    host.hull(&["rm", "web"]).ok();
    serve(&host, "heir", &["--network", "lan", "--ip", "10.77.0.50"]);
    assert_eq!(page(&host, "http://10.77.0.50/"), "heir");
    let (got, text) = try_page(&host, &at(8080));
    assert!(!got, "the forwarder still knows where: {text}");
    assert_eq!((page(&host, &at(8082)), forwarders(&host)), ("own".into(), forwarder));
}

#[test]
fn fifty_thousand_ports_are_one_element_and_lead_to_the_container() {
    let host = host();
    let script = "mkdir -p /www && echo many > /www/index.html && exec httpd -f -p 34567 -h /www";
    for client in CLIENTS {
        let range = "10000-59999:10000-59999";
        client(&host, &["run", "-d", "--name", "many", "-p", range, "busybox", "sh", "-c", script]).ok();
        assert_eq!(page(&host, "http://127.0.0.1:34567/"), "many");
        assert_eq!(client(&host, &["port", "many", "34567"]).ok(), "0.0.0.0:34567\n[::]:34567");
        for map in ["ranges4", "relay-ranges"] {
            let listed = host.printed(&["nft", "list", "table", "inet", "hull"]);
            let rest = listed.split_once(&format!(" {map} {{")).unwrap().1;
            let elements = rest.split_once("elements = {").unwrap().1.split_once('}').unwrap().0;
            assert_eq!(elements.matches("10000-59999").count(), 1, "{map}: {elements}");
            assert_eq!(elements.matches(',').count(), 0, "{map}: {elements}");
        }
        client(&host, &["rm", "-f", "many"]).ok();
    }
}

/// Regression: beside a dual-stack network the ports of one with IPv4 alone were taken twice, by the
/// container from itself; and both families' ports followed the first default route.
#[test]
fn each_familys_ports_are_where_its_default_route_is() {
    let host = host();
    host.hull(&["network", "create", "a4"]).ok();
    host.hull(&["network", "create", "--ipv6", "b6"]).ok();
    let urls = ["http://127.0.0.1:8080/", "http://[::1]:8080/"];
    let reached = |moment: &str| {
        for url in urls {
            assert_eq!(page(&host, url), "both", "{url} {moment}");
        }
        let shown = host.hull(&["port", "both"]).ok().to_owned();
        assert_eq!(shown, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080", "{moment}");
    };
    for client in CLIENTS {
        serve(&host, "both", &["-p", "8080:80", "--network", "a4", "--network", "b6"]);
        reached("at the start");
        client(&host, &["network", "disconnect", "b6", "both"]).ok();
        reached("with IPv4 alone");
        client(&host, &["network", "connect", "b6", "both"]).ok();
        reached("with both again");
        client(&host, &["restart", "-t", "0", "both"]).ok();
        reached("after a restart");
        client(&host, &["network", "disconnect", "a4", "both"]).ok();
        reached("on the dual network alone");
        client(&host, &["network", "connect", "--gw-priority", "1", "a4", "both"]).ok();
        reached("with another default route");
        client(&host, &["rm", "-f", "both"]).ok();
        for url in urls {
            assert!(!try_page(&host, url).0, "{url} is open still");
        }
        client(
            &host,
            &[
                "run",
                "-d",
                "--name",
                "any",
                "-p",
                "80",
                "--network",
                "a4",
                "--network",
                "b6",
                "busybox",
                "sleep",
                "1000",
            ],
        )
        .ok();
        let shown = client(&host, &["port", "any", "80"]).ok().to_owned();
        let ports: Vec<&str> = shown.lines().filter_map(|line| line.rsplit(':').next()).collect();
        assert!(ports.len() == 2 && ports[0] == ports[1], "{shown}");
        client(&host, &["rm", "-f", "any"]).ok();
    }
}

#[test]
fn who_has_a_port_already_is_named() {
    let mut host = host();
    let ports = ["-p", "8080:80", "-p", "127.0.0.1:8081:81/udp", "-p", "9000-9010:9000-9010"];
    serve(&host, "before", &ports);
    host.hull(&["rename", "before", "holder"]).ok();
    for client in CLIENTS {
        for (asked, at) in [
            ("8080:80", "0.0.0.0:8080"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080"),
            ("8081:81/udp", "0.0.0.0:8081"),
            ("127.0.0.1:8081:81/udp", "127.0.0.1:8081"),
            ("9005:80", "0.0.0.0:9005"),
            ("9010-9020:10-20", "0.0.0.0:9010"),
        ] {
            let text =
                format!("Bind for {at} failed: port is already allocated: container holder publishes it");
            client(&host, &["run", "--rm", "-p", asked, "busybox", "true"]).fails(125, &text);
        }
        for free in ["8080:80/udp", "8081:81", "127.0.0.2:8081:81/udp", "9011:80"] {
            client(&host, &["run", "--rm", "-p", free, "busybox", "true"]).ok();
        }
        host.kill_daemon();
        host.start_daemon();
    }
}

#[test]
fn what_an_image_exposes_is_published_when_that_is_asked_for() {
    let host = host();
    let listening = || host.printed(&["ss", "-Hnltu"]);
    exposing(&host);
    for client in CLIENTS {
        let before = (host.rules(), listening());
        client(&host, &["run", "-d", "--name", "shut", "exposing"]).ok();
        assert_eq!(client(&host, &["ps", "--format", "{{.Ports}}"]).ok(), "53/udp, 80/tcp");
        assert_eq!(client(&host, &["port", "shut"]).ok(), "");
        assert!((host.rules(), listening()) == before, "{}", host.printed(&["nft", "list", "ruleset"]));
        client(&host, &["rm", "-f", "shut"]).ok();
        client(&host, &["run", "-d", "--name", "open", "-P", "exposing"]).ok();
        let ports = client(&host, &["port", "open"]);
        let of = |port: &str| {
            let both: Vec<&str> = ports
                .stdout
                .lines()
                .filter_map(|line| line.strip_prefix(port)?.strip_prefix(" -> "))
                .collect();
            let number = both[0].strip_prefix("0.0.0.0:").unwrap().to_owned();
            assert_eq!(both[1..], [format!("[::]:{number}")], "{ports}");
            number
        };
        assert!(of("53/udp").parse::<u16>().unwrap() >= 32768);
        let number = of("80/tcp");
        assert_eq!(page(&host, &format!("http://127.0.0.1:{number}/")), "exposed");
        // What was asked for besides is not published twice.
        client(&host, &["run", "-d", "--name", "both", "-P", "-p", "8080:80", "exposing"]).ok();
        assert_eq!(client(&host, &["port", "both", "80"]).ok(), "0.0.0.0:8080\n[::]:8080");
        client(&host, &["rm", "-f", "open", "both"]).ok();
    }
}

/// Makes the image `exposing`: a page at port 80, and what Dockerfile's EXPOSE writes down.
#[track_caller]
fn exposing(host: &Host) {
    let tree = host.folder().join("tree");
    let busybox = host.printed(&["sh", "-c", "command -v busybox"]);
    std::fs::create_dir_all(tree.join("www")).unwrap();
    std::fs::copy(busybox.trim(), tree.join("busybox")).unwrap();
    std::fs::write(tree.join("www/index.html"), "exposed").unwrap();
    let file = host.folder().join("tree.tar").display().to_string();
    host.printed(&["tar", "-C", &tree.display().to_string(), "-cf", &file, "."]);
    let program = "CMD [\"/busybox\", \"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]";
    let changes = ["-c", program, "-c", "EXPOSE 80", "-c", "EXPOSE 53/udp"];
    host.hull(&[&["import"], &changes[..], &[&file, "exposing"]].concat()).ok();
}
