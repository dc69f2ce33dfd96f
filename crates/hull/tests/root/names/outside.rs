//! Names that are not of a container's networks: asked of the host's resolvers, or of those that
//! the container was given; and who is asked nothing at all.

use std::time::{Duration, Instant};

use hull_network::namespace::Namespace;
use hull_testkit::Host;

use super::super::CLIENTS;
use super::super::machines::{beside, of_host};
use super::super::takeover::network_of as of_container;
use super::upstream::{Told, Upstream};
use super::{addresses, getent, inside, nslookup, resolving, sleeper};

const LIMIT: Duration = Duration::from_secs(20);

/// A resolver that knows every name with a dot.
fn knows_all(machine: &Namespace, at: &str, address: &'static str) -> Upstream {
    let tell = move |name: &str| if name.contains('.') { Told::address(address) } else { Told::Code(3) };
    Upstream::start(machine, at, tell)
}

#[test]
fn the_next_resolver_is_asked_when_one_fails_and_what_is_told_is_passed_on() {
    let host = resolving("nameserver 127.0.0.9\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n", &[]);
    // Nobody is at 127.0.0.9.
    let machine = of_host(&host);
    let first = Upstream::start(&machine, "127.0.0.2:53", |name| match name.split('.').next() {
        Some("fails" | "broken") => Told::Code(2),
        Some("refused") => Told::Code(5),
        Some("nobody") => Told::Code(3),
        Some("silent") => Told::Nothing,
        Some("many") => Told::Addresses((1..=60).map(|last| [198, 51, 100, last].into()).collect()),
        _ => Told::address("192.0.2.2"),
    });
    let second = Upstream::start(&machine, "127.0.0.3:53", |name| match name.split('.').next() {
        Some("broken") => Told::Code(2),
        _ => Told::address("192.0.2.3"),
    });
    host.hull(&["network", "create", "n1"]).ok();
    sleeper(&host, "me", &["--network", "n1"]);
    assert_eq!(addresses(&host, "me", "plain.example"), ["192.0.2.2"]);
    assert_eq!(getent(&host, "me", "hosts", "plain.example"), ["192.0.2.2"]);
    let told = nslookup(&host, "me", &["-type=a", "nobody.example"]);
    assert!(format!("{told}").contains("can't find nobody.example: NXDOMAIN"), "{told}");
    assert_eq!(host.hull(&["exec", "me", "getent", "hosts", "nobody.example"]).code, 2);
    first.asked();
    assert_eq!(getent(&host, "me", "ahostsv4", "many.example").len(), 60);
    assert_eq!(first.asked(), ["a many.example udp", "a many.example tcp"]);
    host.hull(&["exec", "me", "getent", "hosts", "198.51.100.7"]);
    assert_eq!(first.asked(), ["ptr 7.100.51.198.in-addr.arpa udp"]);
    assert_eq!(second.asked(), [""; 0], "the first one's answer was not enough");
    for name in ["fails.example", "refused.example", "silent.example"] {
        assert_eq!(getent(&host, "me", "ahostsv4", name), ["192.0.2.3"], "{name}");
        assert_eq!(first.asked(), [format!("a {name} udp")]);
    }
    let told = nslookup(&host, "me", &["-type=a", "broken.example"]);
    assert!(format!("{told}").contains("can't find broken.example: SERVFAIL"), "{told}");
}

/// Until a change of the machine's resolv.conf is seen by the container.
#[track_caller]
fn told_by(host: &Host, address: &str) {
    let start = Instant::now();
    loop {
        let told = getent(host, "me", "hosts", "any.example");
        if told == [address] {
            return;
        }
        assert!(start.elapsed() < LIMIT, "told {told:?} instead of {address}");
    }
}

#[test]
fn the_hosts_resolv_conf_is_followed_while_containers_run() {
    let mut host = resolving("nameserver 127.0.0.2\n", &[]);
    let machine = of_host(&host);
    let servers =
        [("127.0.0.2:53", "192.0.2.2"), ("127.0.0.3:53", "192.0.2.3"), ("127.0.0.4:53", "192.0.2.4")];
    let upstreams = servers.map(|(at, address)| knows_all(&machine, at, address));
    host.hull(&["network", "create", "n1"]).ok();
    sleeper(&host, "me", &["--network", "n1"]);
    let sh = |host: &Host, script: &str| drop(host.printed(&["sh", "-c", script]));
    told_by(&host, "192.0.2.2");
    sh(&host, "echo nameserver 127.0.0.3 > /etc/resolv.conf");
    told_by(&host, "192.0.2.3");
    sh(&host, "echo nameserver 127.0.0.4 > /etc/new && mv /etc/new /etc/resolv.conf");
    told_by(&host, "192.0.2.4");
    sh(
        &host,
        "mkdir /etc/net && echo nameserver 127.0.0.2 > /etc/net/conf && ln -sf net/conf /etc/resolv.conf",
    );
    told_by(&host, "192.0.2.2");
    sh(&host, "echo nameserver 127.0.0.3 > /etc/net/conf");
    told_by(&host, "192.0.2.3");
    // A file that is mounted there, as in a container that the daemon runs in, is written elsewhere.
    let mounted = host.folder().join("mounted.conf");
    let say = |server: &str| std::fs::write(&mounted, format!("nameserver {server}\n")).unwrap();
    host.kill_daemon();
    say("127.0.0.4");
    sh(
        &host,
        &format!(
            "rm /etc/resolv.conf && touch /etc/resolv.conf && mount --bind {} /etc/resolv.conf",
            mounted.display()
        ),
    );
    host.start_daemon();
    told_by(&host, "192.0.2.4");
    say("127.0.0.2");
    told_by(&host, "192.0.2.2");
    // Each was asked only while its line was there.
    drop(upstreams.each_ref().map(Upstream::asked));
    addresses(&host, "me", "one.example");
    assert_eq!(upstreams.each_ref().map(|upstream| upstream.asked().is_empty()), [false, true, true]);
}

#[test]
fn a_container_asks_the_servers_and_domains_that_it_was_given() {
    let host = resolving("nameserver 127.0.0.2\nsearch corp.example\n", &[]);
    let machine = beside(&host, 1, "192.0.2");
    let outside = knows_all(&of_host(&host), "127.0.0.2:53", "198.51.100.2");
    let chosen = knows_all(&machine, "192.0.2.2:53", "198.51.100.7");
    host.hull(&["network", "create", "n1"]).ok();
    sleeper(&host, "web", &["--network", "n1"]);
    sleeper(&host, "plain", &["--network", "n1"]);
    // Without a flag they are the host's; a name without a dot is first asked as it is.
    assert_eq!(getent(&host, "plain", "ahostsv4", "printer"), ["198.51.100.2"]);
    assert_eq!(outside.asked(), ["a printer udp", "a printer.corp.example udp"]);
    // busybox puts a search domain behind every name without a dot, whatever ndots says.
    assert_eq!(addresses(&host, "plain", "web.").len(), 1);
    for client in CLIENTS {
        let words = ["--dns-search", "a.example", "--dns-search", "b.example", "--dns-option", "ndots:2"];
        let words =
            [&["run", "-d", "--name", "me", "--network", "n1", "--dns", "192.0.2.2"], &words[..]].concat();
        client(&host, &[&words[..], &["names", "sleep", "1000"]].concat()).ok();
        outside.asked();
        assert_eq!(getent(&host, "me", "ahostsv4", "x.y"), ["198.51.100.7"]);
        assert_eq!(chosen.asked(), ["a x.y.a.example udp"], "fewer dots than two: first with a domain");
        assert_eq!(getent(&host, "me", "ahostsv4", "x.y.z"), ["198.51.100.7"]);
        assert_eq!(chosen.asked(), ["a x.y.z udp"]);
        assert_eq!(getent(&host, "me", "ahostsv4", "printer"), ["198.51.100.7"]);
        assert_eq!(chosen.asked(), ["a printer.a.example udp"]);
        // The resolver is asked for a domain's name that nobody has, and then for the name alone.
        assert_eq!(addresses(&host, "me", "printer."), [""; 0]);
        assert_eq!(chosen.asked(), [""; 0], "a name without a dot stays here");
        assert_eq!(addresses(&host, "me", "web.").len(), 1);
        assert_eq!(outside.asked(), [""; 0], "the host's was asked");
        client(&host, &["rm", "-f", "me"]).ok();
    }
    // One in another container, asked from where the container is.
    let own = of_container(&host, "web");
    let neighbour = knows_all(&own, "0.0.0.0:53", "198.51.100.9");
    let at = addresses(&host, "plain", "web.").remove(0);
    sleeper(&host, "next", &["--network", "n1", "--dns", &at]);
    assert_eq!(getent(&host, "next", "ahostsv4", "any.example"), ["198.51.100.9"]);
    assert_eq!(neighbour.asked(), ["a any.example udp"]);
}

#[test]
fn on_the_default_bridge_the_hosts_resolvers_are_asked_directly() {
    let host = resolving(
        "nameserver 127.0.0.2\nnameserver ::1\nnameserver 192.0.2.2\nsearch corp.example\noptions timeout:3\n",
        &[],
    );
    let machine = beside(&host, 1, "192.0.2");
    let near = knows_all(&of_host(&host), "127.0.0.2:53", "198.51.100.2");
    let far = knows_all(&machine, "192.0.2.2:53", "198.51.100.7");
    sleeper(&host, "web", &[]);
    sleeper(&host, "me", &[]);
    let said = |name: &str| -> Vec<String> {
        let text = inside(&host, name, "cat /etc/resolv.conf");
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(said("me"), ["nameserver 192.0.2.2", "search corp.example", "options timeout:3"]);
    let told = nslookup(&host, "me", &["-type=a", "any.example"]);
    assert!(told.ok().contains("Server:\t\t192.0.2.2") && told.stdout.contains("198.51.100.7"), "{told}");
    assert_eq!(getent(&host, "me", "ahostsv4", "printer"), ["198.51.100.7"]);
    // Containers have no names on it.
    far.asked();
    assert_eq!(addresses(&host, "me", "web."), [""; 0]);
    assert!(far.asked().contains(&"a web udp".to_owned()));
    // On the host's own network all of the host's can be reached.
    sleeper(&host, "open", &["--network", "host"]);
    assert!(said("open").starts_with(&["nameserver 127.0.0.2".to_owned(), "nameserver ::1".to_owned()]));
    assert_eq!(near.asked(), [""; 0]);
    assert_eq!(getent(&host, "open", "ahostsv4", "any.example"), ["198.51.100.2"]);
    // A change comes with the next start. If nobody is left who can be reached, the host asks.
    host.printed(&["sh", "-c", "echo nameserver 127.0.0.2 > /etc/resolv.conf"]);
    assert_eq!(said("me")[0], "nameserver 192.0.2.2");
    host.hull(&["restart", "-t", "0", "me"]).ok();
    assert_eq!(said("me"), ["nameserver 127.0.0.11"]);
    assert_eq!(getent(&host, "me", "ahostsv4", "any.example"), ["198.51.100.2"]);
    assert_eq!(getent(&host, "me", "ahostsv4", "web."), [""; 0]);
}

#[test]
fn the_daemons_own_settings_are_for_containers_that_say_nothing() {
    let words = ["--dns", "192.0.2.2", "--dns-search", "lab.example", "--dns-opt", "timeout:3"];
    let host = resolving("nameserver 127.0.0.2\n", &words);
    let machine = beside(&host, 1, "192.0.2");
    let near = knows_all(&of_host(&host), "127.0.0.2:53", "198.51.100.2");
    let far = knows_all(&machine, "192.0.2.2:53", "198.51.100.7");
    host.hull(&["network", "create", "n1"]).ok();
    for network in ["bridge", "n1"] {
        sleeper(&host, network, &["--network", network]);
        assert_eq!(getent(&host, network, "ahostsv4", "printer"), ["198.51.100.7"]);
        assert_eq!(far.asked().last().unwrap(), "a printer.lab.example udp");
        assert!(inside(&host, network, "cat /etc/resolv.conf").contains("timeout:3"));
    }
    assert_eq!(near.asked(), [""; 0]);
    let words = ["run", "--rm", "--network", "n1", "--dns", "127.0.0.7", "--dns-search", "own.example"];
    let resolv = host.hull(&[&words[..], &["names", "cat", "/etc/resolv.conf"]].concat());
    assert!(resolv.ok().contains("search own.example") && !resolv.stdout.contains("lab"), "{resolv}");
    assert!(resolv.stdout.contains("# ExtServers: [127.0.0.7]"), "{resolv}");
}

#[test]
fn a_container_asks_outside_only_while_one_of_its_networks_leads_there() {
    let host = resolving("nameserver 127.0.0.2\nsearch corp.example\n", &[]);
    let outside = knows_all(&of_host(&host), "127.0.0.2:53", "198.51.100.2");
    host.hull(&["network", "create", "open"]).ok();
    host.hull(&["network", "create", "--internal", "--ipv6", "shut"]).ok();
    sleeper(&host, "web", &["--network", "shut"]);
    sleeper(&host, "me", &["--network", "shut"]);
    sleeper(&host, "vc", &["--network", "shut", "--dns-option", "use-vc"]);
    let shut_in = |from: &str| {
        assert_eq!(addresses(&host, from, "web.").len(), 2);
        for name in ["secret.tunnel.example", "bare.", "host.docker.internal", "web.open"] {
            let told = nslookup(&host, from, &[name]);
            assert!(format!("{told}").contains(&format!("can't find {name}: NXDOMAIN")), "{told}");
            assert_eq!(host.hull(&["exec", from, "getent", "ahosts", name]).code, 2, "{name}");
        }
        for words in
            [["-type=txt", "tunnel.example"], ["-type=mx", "tunnel.example"], ["-type=ptr", "8.8.8.8"]]
        {
            let told = nslookup(&host, from, &words);
            assert!(format!("{told}").contains("NXDOMAIN"), "{told}");
        }
        assert_eq!(outside.asked(), [""; 0], "a question has got out");
    };
    shut_in("me");
    shut_in("vc");
    // A server on the network itself may be asked; where none is, the name is nobody's.
    let at = addresses(&host, "me", "web.").remove(0);
    sleeper(&host, "asks", &["--network", "shut", "--dns", &at]);
    let told = nslookup(&host, "asks", &["-type=a", "any.example"]);
    assert!(format!("{told}").contains("can't find any.example: NXDOMAIN"), "{told}");
    let neighbour = knows_all(&of_container(&host, "web"), "0.0.0.0:53", "198.51.100.9");
    assert_eq!(getent(&host, "asks", "ahostsv4", "any.example"), ["198.51.100.9"]);
    assert_eq!(neighbour.asked(), ["a any.example udp"]);
    for client in CLIENTS {
        client(&host, &["network", "connect", "open", "me"]).ok();
        assert_eq!(getent(&host, "me", "ahostsv4", "secret.tunnel.example"), ["198.51.100.2"]);
        assert_eq!(outside.asked(), ["a secret.tunnel.example udp"]);
        client(&host, &["network", "disconnect", "open", "me"]).ok();
        shut_in("me");
    }
}
