//! What belongs to one interface of a container: its counters and its sysctls.

use std::time::{Duration, Instant};

use hull_testkit::Host;
use serde_json::Value;

use super::machines::{LIMIT, of_host};
use super::{CLIENTS, host};

/// The file's text inside a container.
#[track_caller]
fn read(host: &Host, name: &str, file: &str) -> String {
    host.hull(&["exec", name, "cat", file]).ok().to_owned()
}

/// A container's counters as the API tells them, by interface.
#[track_caller]
fn told(host: &Host, name: &str) -> Value {
    let path = format!("/containers/{name}/stats?stream=false&one-shot=true");
    host.request("GET", &path, b"").json()["networks"].clone()
}

/// The counters of one interface as the container itself sees them.
#[track_caller]
fn seen(host: &Host, name: &str, link: &str) -> Value {
    let number = |counter: &str| -> Value {
        let file = format!("/sys/class/net/{link}/statistics/{counter}");
        read(host, name, &file).parse::<u64>().unwrap().into()
    };
    let all = ["bytes", "packets", "errors", "dropped"];
    let names = all.iter().flat_map(|what| [format!("rx_{what}"), format!("tx_{what}")]);
    names.map(|name| (name.clone(), number(&name))).collect()
}

/// Both tell the same; asked again while something else (a neighbour's question) passes by.
#[track_caller]
fn agree(host: &Host, name: &str, links: &[&str]) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let (before, inside) = (told(host, name), links.iter().map(|link| seen(host, name, link)));
        let inside: Value = links.iter().map(|link| (*link).to_owned()).zip(inside).collect();
        if before == inside {
            return before;
        }
        assert!(Instant::now() < end, "the API tells {before}, the container sees {inside}");
    }
}

fn count(counters: &Value, link: &str, counter: &str) -> u64 {
    counters[link][counter].as_u64().unwrap()
}

#[test]
fn each_interface_counts_what_went_through_it() {
    const DATAGRAMS: u64 = 50;
    const BYTES: u64 = 1000;
    let mut host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    host.hull(&["network", "create", "--subnet", "10.78.0.0/24", "n2"]).ok();
    for client in CLIENTS {
        let words = ["run", "-d", "--name", "one", "--network", "n1", "--network", "name=n2,ip=10.78.0.50"];
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        let before = agree(&host, "one", &["eth0", "eth1"]);
        let send = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            // The first one comes back as an error that is no concern of ours.
            for _ in 0..DATAGRAMS {
                let _ = socket.send_to(&[0; BYTES as usize], "10.78.0.50:9");
            }
        };
        of_host(&host).enter(send).unwrap();
        let arrived = |now: &Value| count(now, "eth1", "rx_packets") - count(&before, "eth1", "rx_packets");
        let end = Instant::now() + LIMIT;
        while arrived(&told(&host, "one")) < DATAGRAMS {
            assert!(Instant::now() < end, "not all of {DATAGRAMS} datagrams are counted");
            std::thread::sleep(Duration::from_millis(5));
        }
        let now = agree(&host, "one", &["eth0", "eth1"]);
        // With 42 bytes of Ethernet, IPv4 and UDP each; a question for the address may be among them.
        let bytes = count(&now, "eth1", "rx_bytes") - count(&before, "eth1", "rx_bytes");
        let least = DATAGRAMS * (BYTES + 42);
        assert!((least..least + 1000).contains(&bytes), "{bytes} bytes instead of {least}");
        let other = count(&now, "eth0", "rx_bytes") - count(&before, "eth0", "rx_bytes");
        assert!(other < 1000, "{other} bytes of it are counted at another interface");
        host.kill_daemon();
        host.start_daemon();
        let later = agree(&host, "one", &["eth0", "eth1"]);
        assert!(
            count(&later, "eth1", "rx_bytes") >= count(&now, "eth1", "rx_bytes"),
            "counted anew: {later}"
        );
        client(&host, &["network", "disconnect", "n1", "one"]).ok();
        agree(&host, "one", &["eth1"]);
        client(&host, &["rm", "-f", "one"]).ok();
    }
}

#[test]
fn sysctls_are_those_of_the_interface_they_were_given_for() {
    const OPTION: &str = "com.docker.network.endpoint.sysctls=";
    let host = host();
    host.hull(&["network", "create", "n1"]).ok();
    host.hull(&["network", "create", "n2"]).ok();
    // The official client writes an option of `--network` in small letters.
    for (client, stand_in) in CLIENTS.into_iter().zip(["IFNAME", "ifname"]) {
        let sysctls = |name: &str| {
            let of = |key: &str| read(&host, "one", &format!("/proc/sys/net/ipv4/{key}"));
            ["conf/LINK/log_martians", "neigh/LINK/gc_stale_time"]
                .map(|key| of(&key.replace("LINK", name)))
                .join(" ")
        };
        let both = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.neigh.IFNAME.gc_stale_time=77";
        let own = format!("name=n1,\"driver-opt={OPTION}{both}\"");
        let words = ["run", "-d", "--name", "one", "--network", &own, "--network", "n2"];
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        assert_eq!((sysctls("eth0"), sysctls("eth1")), ("1 77".to_owned(), "0 60".to_owned()));
        client(&host, &["network", "disconnect", "n2", "one"]).ok();
        let option = format!("\"{OPTION}{}\"", both.replace("77", "78"));
        client(&host, &["network", "connect", "--driver-opt", &option, "n2", "one"]).ok();
        assert_eq!((sysctls("eth0"), sysctls("eth1")), ("1 77".to_owned(), "1 78".to_owned()));
        client(&host, &["restart", "-t", "0", "one"]).ok();
        assert_eq!((sysctls("eth0"), sysctls("eth1")), ("1 77".to_owned(), "1 78".to_owned()));
        client(&host, &["network", "disconnect", "n2", "one"]).ok();
        client(&host, &["network", "connect", "n2", "one"]).ok();
        assert_eq!(sysctls("eth1"), "0 60");
        for bad in ["net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.forwarding=1", "net.core.conf.IFNAME.x=1"] {
            let text = format!(
                "invalid endpoint settings:\nunrecognised network interface sysctl '{bad}'; represent \
                 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            );
            let option = format!("{OPTION}{bad}");
            let own = format!("name=n1,driver-opt={option}");
            let small = text.replace("core.conf.IFNAME", &format!("core.conf.{stand_in}"));
            client(&host, &["create", "--network", &own, "busybox"]).fails(1, &small);
            client(&host, &["network", "disconnect", "n2", "one"]);
            client(&host, &["network", "connect", "--driver-opt", &option, "n2", "one"]).fails(1, &text);
        }
        let own = format!("name=n1,driver-opt={OPTION}net.ipv4.conf.IFNAME.nosuch=1");
        client(&host, &["run", "--rm", "--network", &own, "busybox", "true"])
            .fails(125, "net.ipv4.conf.eth0.nosuch");
        client(&host, &["rm", "-f", "one"]).ok();
    }
}

#[test]
fn interfaces_are_called_as_was_asked_for() {
    let host = host();
    host.docker(&["network", "create", "-o", "com.docker.network.container_iface_prefix=lan", "own"]).ok();
    for network in ["n1", "n2"] {
        host.hull(&["network", "create", network]).ok();
    }
    for client in CLIENTS {
        let links = || {
            let all = host.hull(&["exec", "one", "ls", "/sys/class/net"]);
            all.ok().replace('\n', " ")
        };
        let words = ["run", "-d", "--name", "one", "--network", "own", "--network", "n1"];
        client(&host, &[&words[..], &["busybox", "sleep", "1000"]].concat()).ok();
        assert_eq!(links(), "eth0 lan0 lo");
        let connect = |name: &str| {
            let option = format!("com.docker.network.endpoint.ifname={name}");
            client(&host, &["network", "connect", "--driver-opt", &option, "n2", "one"])
        };
        connect("eth0").fails(1, "the container has an interface eth0 already");
        connect("x0").ok();
        assert_eq!(links(), "eth0 lan0 lo x0");
        let own = host.hull(&["inspect", "-f", "{{.NetworkSettings.Networks.n2.IPAddress}}", "one"]);
        let shown = host.hull(&["exec", "one", "ip", "-o", "addr", "show", "x0"]);
        assert!(shown.ok().contains(&format!("inet {}/", own.ok())), "{shown}");
        client(&host, &["restart", "-t", "0", "one"]).ok();
        assert_eq!(links(), "eth0 lan0 lo x0");
        client(&host, &["network", "disconnect", "own", "one"]).ok();
        assert_eq!(links(), "eth0 lo x0");
        client(&host, &["network", "connect", "own", "one"]).ok();
        assert_eq!(links(), "eth0 lan0 lo x0");
        client(&host, &["rm", "-f", "one"]).ok();
    }
}

#[test]
fn a_container_has_the_hardware_address_that_was_asked_for() {
    const MAC: &str = "02:42:ac:11:00:99";
    let host = host();
    host.hull(&["network", "create", "n1"]).ok();
    for client in CLIENTS {
        let words = ["run", "-d", "--name", "one", "--mac-address", MAC, "busybox", "sleep", "1000"];
        client(&host, &words).ok();
        client(&host, &["network", "connect", "n1", "one"]).ok();
        let of = |link: &str| read(&host, "one", &format!("/sys/class/net/{link}/address"));
        for round in 0..2 {
            assert!(of("eth0") == MAC && of("eth1") != MAC, "{} {} in round {round}", of("eth0"), of("eth1"));
            let own = host.hull(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "one"]);
            host.hull(&["exec", "one", "ping", "-c", "1", "-W", "5", "172.17.0.1"]).ok();
            // So its neighbours know it.
            let known = host.printed(&["ip", "neigh", "show", own.ok()]);
            assert!(known.contains(&format!("lladdr {MAC}")), "{known}");
            client(&host, &["restart", "-t", "0", "one"]).ok();
        }
        client(&host, &["rm", "-f", "one"]).ok();
        let words = ["run", "--rm", "--mac-address", "01:00:5e:00:00:01", "busybox", "true"];
        client(&host, &words).fails(125, "01:00:5e:00:00:01");
    }
}
