//! `host-gateway` and the host's names mean the host, whoever routes.

use hull_testkit::{Host, Options};

use super::{CLIENTS, executables, getent, inside, resolving};
use crate::machines::{of_host, serve};

#[test]
fn the_host_is_the_host_where_somebody_else_routes() {
    let host = resolving("", &["--default-gateway", "172.17.0.254", "--bip", "172.17.0.1/16"]);
    serve(&of_host(&host), &[8053]);
    host.hull(&["network", "create", "n1"]).ok();
    host.hull(&["network", "create", "-d", "macvlan", "--subnet", "10.66.0.0/24", "wire"]).ok();
    for client in CLIENTS {
        let words = ["run", "-d", "--name", "one", "--add-host", "h:host-gateway", "names", "sleep", "1000"];
        client(&host, &words).ok();
        assert!(inside(&host, "one", "ip route").contains("default via 172.17.0.254"));
        for name in ["h", "host.docker.internal", "host.hull.internal"] {
            assert_eq!(getent(&host, "one", "ahostsv4", name), ["172.17.0.1"], "{name}");
            assert!(!inside(&host, "one", &format!("nc -w 5 {name} 8053 < /dev/null")).is_empty(), "{name}");
        }
        // Names that the resolver answers.
        client(&host, &["network", "connect", "n1", "one"]).ok();
        assert_eq!(getent(&host, "one", "ahostsv4", "host.docker.internal"), ["172.17.0.1"]);
        client(&host, &["rm", "-f", "one"]).ok();
        // A macvlan's gateway is a router of the wire.
        let words = ["run", "-d", "--name", "far", "--network", "wire", "--add-host", "h:host-gateway"];
        client(&host, &[&words[..], &["names", "sleep", "1000"]].concat()).ok();
        assert_eq!(getent(&host, "far", "ahostsv4", "h"), ["172.17.0.1"]);
        assert_eq!(getent(&host, "far", "ahostsv4", "host.docker.internal"), [""; 0]);
        client(&host, &["network", "connect", "n1", "far"]).ok();
        assert!(!inside(&host, "far", "nc -w 5 host.docker.internal 8053 < /dev/null").is_empty());
        client(&host, &["rm", "-f", "far"]).ok();
    }
}

#[test]
fn somebody_may_choose_what_host_gateway_means() {
    let words = ["--host-gateway-ip", "192.0.2.7", "--host-gateway-ip", "2001:db8::7"];
    let daemon = words.iter().map(|&word| word.to_owned()).collect();
    let host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    for (client, network) in CLIENTS.into_iter().zip(["bridge", "host"]) {
        let words = ["run", "--rm", "--network", network, "--add-host", "h:host-gateway"];
        let hosts = client(&host, &[&words[..], &["busybox", "cat", "/etc/hosts"]].concat());
        assert!(hosts.ok().contains("192.0.2.7\th\n2001:db8::7\th\n"), "{hosts}");
        assert!(network == "host" || hosts.stdout.contains("172.17.0.1\thost.docker.internal"), "{hosts}");
    }
}
