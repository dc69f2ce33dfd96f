//! Keys of daemon.json that networks follow, by what they change for packets.

use hull_testkit::{Host, Options};

use super::machines::{beside, container, nothing, of_host, serve, sysctl, tcp};
use super::reach::run;
use super::{executables, host};

/// A machine whose daemon has this file, with the busybox image.
#[track_caller]
fn configured(config: &str) -> Host {
    let host = Host::start(executables(), Options { config: config.to_owned(), ..Options::default() });
    host.busybox();
    host
}

/// Another daemon, with this file.
#[track_caller]
fn reconfigure(host: &mut Host, config: &str) {
    host.kill_daemon();
    std::fs::write(host.folder().join("daemon.json"), config).unwrap();
    host.start_daemon();
}

#[test]
fn the_default_bridge_and_all_subnets_are_as_the_file_says() {
    let host = configured(
        r#"{"bip": "10.9.0.1/24", "default-address-pools": [{"base": "10.64.0.0/16", "size": 24}],
            "icc": false, "mtu": 1400, "ip": "127.0.0.1", "ip-masq": false}"#,
    );
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    serve(&outside, &[80]);
    for (name, subnet) in [("n1", "10.64.0.0/24"), ("n2", "10.64.1.0/24")] {
        host.docker(&["network", "create", name]).ok();
        let shown = host.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name]);
        assert_eq!(shown.ok(), subnet);
    }
    run(&host, "one", &["-p", "8080:80"]);
    run(&host, "two", &[]);
    run(&host, "named", &["--network", "n1", "-p", "8081:80"]);
    let [one, _, named] = ["one", "two", "named"].map(|name| container(&host, name, &[80]));
    tcp(&here, "10.9.0.3:80");
    nothing(&one, "10.9.0.3:80");
    tcp(&here, "127.0.0.1:8080");
    nothing(&outside, "192.0.2.1:8080");
    assert_eq!(tcp(&outside, "192.0.2.1:8081"), "192.0.2.2");
    assert_eq!(tcp(&one, "192.0.2.2:80"), "10.9.0.2");
    assert_eq!(tcp(&named, "192.0.2.2:80"), "192.0.2.1");
    // Networks that people make have their own options.
    for (name, mtu) in [("one", "1400"), ("named", "1500")] {
        assert_eq!(host.docker(&["exec", name, "cat", "/sys/class/net/eth0/mtu"]).ok(), mtu);
    }
}

#[test]
fn the_default_bridge_has_the_ranges_and_gateways_of_the_file() {
    let host = configured(
        r#"{"bip": "10.9.0.1/24", "fixed-cidr": "10.9.0.128/25", "default-gateway": "10.9.0.254", "ipv6": true,
            "bip6": "fd00:9::1/64", "fixed-cidr-v6": "fd00:9::100/120", "default-gateway-v6": "fd00:9::fe"}"#,
    );
    run(&host, "web", &[]);
    container(&host, "web", &[80]);
    let here = of_host(&host);
    assert_eq!(tcp(&here, "10.9.0.128:80"), "10.9.0.1");
    assert_eq!(tcp(&here, "[fd00:9::100]:80"), "fd00:9::1");
    let routes = host.docker(&["exec", "web", "sh", "-c", "ip route; ip -6 route"]);
    for gateway in ["10.9.0.254", "fd00:9::fe"] {
        assert!(routes.ok().contains(&format!("default via {gateway} dev eth0")), "{routes}");
    }
}

#[test]
fn a_daemon_that_is_not_to_forward_leaves_the_host_as_it_is() {
    let host = configured(r#"{"ip-forward": false}"#);
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    serve(&outside, &[80]);
    let keys = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    let forwards = || keys.map(|key| host.printed(&["cat", &format!("/proc/sys/{key}")]).trim().to_owned());
    let switch = |value: &str| keys.iter().for_each(|key| sysctl(&here, key, value));
    switch("0");
    host.docker(&["network", "create", "--ipv6", "--subnet", "fd00:77::/64", "dual"]).ok();
    run(&host, "web", &["--network", "dual", "-p", "8080:80"]);
    let web = container(&host, "web", &[80]);
    assert_eq!(forwards(), ["0", "0"]);
    for to in ["127.0.0.1:8080", "[::1]:8080", "[2001:db8:1::1]:8080"] {
        tcp(&here, to);
    }
    serve(&here, &[82]);
    assert_eq!(tcp(&web, "172.18.0.1:82"), "172.18.0.2");
    for to in ["192.0.2.1:8080", "[2001:db8:1::1]:8080"] {
        nothing(&outside, to);
    }
    nothing(&web, "192.0.2.2:80");
    host.hull(&["network", "explain", "8080"]).fails(1, "");
    // Whoever does switch it on has everything else in place.
    switch("1");
    assert_eq!(tcp(&outside, "192.0.2.1:8080"), "192.0.2.2");
    assert_eq!(tcp(&outside, "[2001:db8:1::1]:8080"), "2001:db8:1::2");
    assert_eq!(tcp(&web, "192.0.2.2:80"), "192.0.2.1");
}

#[test]
fn a_family_without_rules_has_no_published_ports_and_the_other_has() {
    let mut host = configured(r#"{"iptables": false}"#);
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    let subnets = ["--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64"];
    host.docker(&[&["network", "create"], &subnets[..], &["dual"]].concat()).ok();
    run(&host, "web", &["--network", "dual", "-p", "8080:80"]);
    container(&host, "web", &[80]);
    let (here4, here6) = (["127.0.0.1:8080", "192.0.2.1:8080"], ["[::1]:8080", "[2001:db8:1::1]:8080"]);
    let (shut4, shut6) = ("configuration says iptables=false", "configuration says ip6tables=false");
    for (shut, here_shut, open, here_open, why) in [
        ("192.0.2.1:8080", here4, "[2001:db8:1::1]:8080", here6, shut4),
        ("[2001:db8:1::1]:8080", here6, "192.0.2.1:8080", here4, shut6),
    ] {
        nothing(&outside, shut);
        here_shut.iter().for_each(|to| nothing(&here, to));
        tcp(&outside, open);
        // The host and its container talk all the same.
        for to in here_open.into_iter().chain(["10.77.0.2:80", "[fd00:77::2]:80"]) {
            tcp(&here, to);
        }
        let told = host.hull(&["network", "explain", "8080"]);
        assert!(told.code == 1 && told.stdout.contains(why), "{told}");
        reconfigure(&mut host, r#"{"ip6tables": false}"#);
    }
}

#[test]
fn the_default_network_is_on_a_bridge_of_the_hosts() {
    let mut host = host();
    let (here, outside) = (of_host(&host), beside(&host, 1, "192.0.2"));
    serve(&outside, &[80]);
    host.printed(&["ip", "link", "add", "br9", "type", "bridge"]);
    host.printed(&["ip", "addr", "add", "10.9.0.1/24", "dev", "br9"]);
    reconfigure(
        &mut host,
        r#"{"bridge": "br9", "allow-direct-routing": true, "dns": ["192.0.2.9"], "dns-search": ["example.com"], "dns-opts": ["ndots:2"]}"#,
    );
    run(&host, "web", &["-p", "8080:80", "-p", "127.0.0.1:8081:81"]);
    host.docker(&["network", "create", "n1"]).ok();
    run(&host, "named", &["--network", "n1"]);
    let web = container(&host, "web", &[80, 81, 82]);
    assert!(host.printed(&["ip", "-o", "link", "show", "master", "br9"]).contains("veth"));
    assert_eq!(tcp(&web, "192.0.2.2:80"), "192.0.2.1");
    tcp(&here, "127.0.0.1:8080");
    // Other machines may come to its own address, as far as it publishes, and not for the host alone.
    for to in ["192.0.2.1:8080", "10.9.0.2:80"] {
        assert_eq!(tcp(&outside, to), "192.0.2.2", "{to}");
    }
    for to in ["10.9.0.2:81", "10.9.0.2:82", "192.0.2.1:8081"] {
        nothing(&outside, to);
    }
    tcp(&here, "127.0.0.1:8081");
    for (name, server) in [("web", "nameserver 192.0.2.9"), ("named", "ExtServers: [192.0.2.9]")] {
        let text = host.docker(&["exec", name, "cat", "/etc/resolv.conf"]);
        for words in [server, "search example.com\n", "ndots:2"] {
            assert!(text.ok().contains(words), "{words:?} in {text}");
        }
    }
    // What is the host's stays when nobody needs it.
    host.hull(&["rm", "-f", "web"]).ok();
    reconfigure(&mut host, "{}");
    assert!(host.printed(&["ip", "-o", "addr", "show", "br9"]).contains("10.9.0.1/24"));
}
