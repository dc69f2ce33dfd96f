//! Networks: made, shown, joined, left and removed through both clients, and what is refused.

use hull_testkit::{Host, patience};

use super::{CLIENTS, bare, host};

/// Names of the links in a machine's network namespace; without the outer ends of pairs, of which
/// a few are always kept ready.
pub(crate) fn links(host: &Host) -> Vec<String> {
    let output = host.inside("busybox").args(["ip", "-o", "link"]).output().unwrap();
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next().unwrap_or_default().to_owned());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.retain(|name| !name.starts_with("veth") && !name.starts_with("gone"));
    names.sort();
    names
}

#[test]
fn three_networks_are_always_there() {
    let host = bare();
    assert!(links(&host).contains(&"docker0".to_owned()));
    for client in CLIENTS {
        assert_eq!(
            client(&host, &["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]).ok(),
            "bridge bridge local\nhost host local\nnone null local"
        );
        assert_eq!(
            client(&host, &["network", "inspect", "-f", "{{json .IPAM}} {{json .Options}}", "bridge"]).ok(),
            "{\"Driver\":\"default\",\"Options\":null,\"Config\":[{\"Subnet\":\"172.17.0.0/16\",\"Gateway\":\"172.17.0.1\"}]} \
             {\"com.docker.network.bridge.default_bridge\":\"true\",\"com.docker.network.bridge.enable_icc\":\"true\",\
             \"com.docker.network.bridge.enable_ip_masquerade\":\"true\",\
             \"com.docker.network.bridge.host_binding_ipv4\":\"0.0.0.0\",\"com.docker.network.bridge.name\":\"docker0\",\
             \"com.docker.network.driver.mtu\":\"1500\"}"
        );
        client(&host, &["network", "rm", "bridge"])
            .fails(1, "bridge is a pre-defined network and cannot be removed\nexit status 1");
    }
    let shown = |words: &[&str]| (host.hull(words).ok().to_owned(), host.docker(words).ok().to_owned());
    // All but what an older client does not know.
    let format = "{{.Name}} {{.Id}} {{.Created}} {{.Driver}} {{json .Options}} {{json .Containers}}";
    let (ours, theirs) = shown(&["network", "inspect", "-f", format, "bridge", "host", "none"]);
    assert_eq!(ours, theirs);
    let (ours, theirs) = shown(&["network", "ls"]);
    assert_eq!(ours, theirs);
}

#[test]
fn networks_come_and_go() {
    let mut host = bare();
    for client in CLIENTS {
        let id = client(&host, &["network", "create", "n1"]).ok().to_owned();
        assert!(links(&host).contains(&format!("br-{}", &id[..12])));
        client(&host, &["network", "create", "n1"]).fails(1, "network with name n1 already exists");
        let words = [
            "network",
            "create",
            "--subnet",
            "10.80.0.0/16",
            "--gateway",
            "10.80.0.1",
            "--ip-range",
            "10.80.5.0/24",
            "--aux-address",
            "r=10.80.0.5",
            "-o",
            "com.docker.network.bridge.name=br-ref",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "--label",
            "a=b",
            "n2",
        ];
        client(&host, &words).ok();
        assert!(links(&host).contains(&"br-ref".to_owned()));
        assert_eq!(
            client(&host, &["network", "inspect", "-f", "{{json .IPAM.Config}} {{json .Options}}", "n2"])
                .ok(),
            "[{\"Subnet\":\"10.80.0.0/16\",\"IPRange\":\"10.80.5.0/24\",\"Gateway\":\"10.80.0.1\",\
             \"AuxiliaryAddresses\":{\"r\":\"10.80.0.5\"}}] {\"com.docker.network.bridge.name\":\"br-ref\",\
             \"com.docker.network.driver.mtu\":\"1400\"}"
        );
        client(&host, &["network", "create", "--ipv6", "--internal", "--attachable", "n3"]).ok();
        let names = |filter: &str| {
            let words = ["network", "ls", "--format", "{{.Name}}", "--filter", filter];
            client(&host, &words).ok().replace('\n', " ")
        };
        assert_eq!(names("type=custom"), "n1 n2 n3");
        assert_eq!(names("type=builtin"), "bridge host none");
        assert_eq!(names("label=a=b"), "n2");
        assert_eq!(names("dangling=true"), "n1 n2 n3");
        assert_eq!(names("driver=null"), "none");
        assert_eq!(names(&format!("id={}", &id[..8])), "n1");
        host.kill_daemon();
        host.start_daemon();
        let format = "{{.Name}} {{.Id}}";
        assert_eq!(client(&host, &["network", "inspect", "-f", format, &id[..10]]).ok(), format!("n1 {id}"));
        assert_eq!(client(&host, &["network", "rm", "n1"]).ok(), "n1");
        client(&host, &["network", "inspect", "n1"]).fails(1, "network n1 not found");
        let pruned = client(&host, &["network", "prune", "-f"]).ok().to_owned();
        let mut pruned: Vec<&str> = pruned.lines().collect();
        pruned.sort_unstable();
        assert_eq!(pruned, ["Deleted Networks:", "n2", "n3"]);
        let mut left = links(&host);
        left.sort();
        assert_eq!(left, ["docker0", "lo"]);
    }
}

#[test]
fn what_is_refused_is_refused_in_the_references_words() {
    let host = bare();
    host.hull(&[
        "network",
        "create",
        "--subnet",
        "10.80.0.0/16",
        "-o",
        "com.docker.network.bridge.name=br-ref",
        "taken",
    ])
    .ok();
    for client in CLIENTS {
        for (line, text) in [
            (
                "--subnet 10.80.1.0/24 n3",
                "invalid pool request: Pool overlaps with other one on this address space",
            ),
            (
                "--subnet 10.81.0.1/24 n3",
                "invalid network config:\ninvalid subnet 10.81.0.1/24: it should be 10.81.0.0/24",
            ),
            (
                "--subnet nonsense n3",
                "invalid network config:\ninvalid subnet nonsense: invalid CIDR block notation",
            ),
            ("--subnet 10.82.0.0/24 --gateway 10.83.0.1 n3", "no matching subnet for gateway 10.83.0.1"),
            ("--subnet 10.82.0.0/24 --ip-range 10.99.0.0/24 n3", "no matching subnet for range 10.99.0.0/24"),
            ("--gateway 10.82.0.1 n3", "every ip-range or gateway must have a corresponding subnet"),
            ("-d nosuch n3", "plugin \"nosuch\" not found"),
            ("-d overlay n3", "This node is not a swarm manager."),
            ("-d host n3", "only one instance of \"host\" network is allowed"),
            ("-d null n3", "only one instance of \"null\" network is allowed"),
            ("-o com.docker.network.bridge.name=br-ref n4", "networks have same bridge name"),
            ("bridge", "operation is not permitted on predefined bridge network"),
            ("--ipam-driver nosuch n5", "plugin \"nosuch\" not found"),
            ("--ingress n7", "Ingress network can only be global scope network"),
            ("--scope swarm n8", "cannot create a swarm scoped network when swarm is not active"),
        ] {
            let words: Vec<&str> = ["network", "create"].into_iter().chain(line.split(' ')).collect();
            client(&host, &words).fails(1, text);
        }
        client(&host, &["network", "create", ""]).fails(1, "invalid name: name is empty");
        client(&host, &["network", "ls", "-f", "type=nonsense"])
            .fails(1, "invalid filter: 'type'='nonsense'");
        client(&host, &["network", "ls", "-f", "nosuch=1"]).fails(1, "invalid filter 'nosuch'");
        client(&host, &["network", "rm", "nosuch"]).fails(1, "network nosuch not found\nexit status 1");
        assert_eq!(client(&host, &["network", "rm", "-f", "nosuch"]).ok(), "");
        client(&host, &["network", "prune", "-f", "--filter", "nosuch=1"])
            .fails(1, "invalid filter 'nosuch'");
    }
    // What the clients do not send.
    for (body, status, text) in [
        (r#"{"Name":"x3","EnableIPv4":false}"#, 400, "IPv4 or IPv6 must be enabled"),
        (r#"{"Name":"taken"}"#, 409, "network with name taken already exists"),
        (
            r#"{"Name":"x3","IPAM":{"Config":[{"Subnet":"10.82.0.0/24","Gateway":"10.83.0.1"}]}}"#,
            400,
            "10.83.0.1",
        ),
        (
            r#"{"Name":"x3","IPAM":{"Config":[{"Subnet":"10.82.0.0/24"},{"Subnet":"10.82.0.0/25"}]}}"#,
            403,
            "overlaps",
        ),
        (
            r#"{"Name":"x3","Options":{"com.docker.network.bridge.enable_icc":"nonsense"}}"#,
            400,
            "com.docker.network.bridge.enable_icc",
        ),
        (r#"{"Name":"x3","Options":{"com.docker.network.driver.mtu":"many"}}"#, 400, "many"),
        (r#"{"Name":"x3","Driver":"nosuch"}"#, 404, "plugin \"nosuch\" not found"),
    ] {
        let answer = host.request("POST", "/v1.51/networks/create", body.as_bytes());
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let said = said["message"].as_str().unwrap_or_default();
        assert!(answer.status == status && said.contains(text), "{body}: {} {said}", answer.status);
    }
    assert_eq!(host.hull(&["network", "ls", "-q", "--filter", "name=x3"]).ok(), "");
}

/// What a program in a container prints; it has to end well.
#[track_caller]
fn inside(host: &Host, name: &str, command: &str) -> String {
    host.hull(&["exec", name, "sh", "-c", command]).ok().to_owned()
}

#[test]
fn a_container_is_on_the_default_bridge() {
    let host = host();
    for client in CLIENTS {
        let shown = client(&host, &["run", "--rm", "busybox", "ip", "-4", "-o", "addr", "show", "eth0"])
            .ok()
            .to_owned();
        assert!(shown.contains("inet 172.17.0.") && shown.contains("/16 brd 172.17.255.255"), "{shown}");
        client(&host, &["run", "-d", "--name", "one", "--hostname", "h1", "busybox", "sleep", "1000"]).ok();
        let route = inside(&host, "one", "ip route");
        assert!(route.starts_with("default via 172.17.0.1 dev eth0"), "{route}");
        let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
        let address = client(&host, &["inspect", "-f", format, "one"]).ok().to_owned();
        assert!(inside(&host, "one", "ip -4 -o addr").contains(&format!("{address}/16")));
        // The host and a neighbour reach it, and it reaches them.
        client(&host, &["run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", &address]).ok();
        inside(&host, "one", "ping -c 1 -W 5 172.17.0.1");
        let format = "{{.HostConfig.NetworkMode}} {{(index .NetworkSettings.Networks \"bridge\").Gateway}} {{(index .NetworkSettings.Networks \"bridge\").IPPrefixLen}}";
        assert_eq!(client(&host, &["inspect", "-f", format, "one"]).ok(), "bridge 172.17.0.1 16");
        let members = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}";
        assert_eq!(
            client(&host, &["network", "inspect", "-f", members, "bridge"]).ok(),
            format!("one {address}/16")
        );
        client(&host, &["stop", "-t", "0", "one"]).ok();
        let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}.";
        assert_eq!(client(&host, &["inspect", "-f", format, "one"]).ok(), ".");
        client(&host, &["start", "one"]).ok();
        inside(&host, "one", "ping -c 1 -W 5 172.17.0.1");
        client(&host, &["rm", "-f", "one"]).ok();
    }
}

#[test]
fn several_networks_with_chosen_addresses() {
    let host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    host.hull(&["network", "create", "--ipv6", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64", "n2"])
        .ok();
    for client in CLIENTS {
        client(
            &host,
            &[
                "run",
                "-d",
                "--name",
                "two",
                "--network",
                "name=n1,ip=10.77.0.50,alias=x,alias=y",
                "--network",
                "name=n2,ip6=fd00:78::50,mac-address=02:42:0a:4d:00:32",
                "busybox",
                "sleep",
                "1000",
            ],
        )
        .ok();
        let format = "{{json .NetworkSettings.Networks.n1.IPAMConfig}} {{.NetworkSettings.Networks.n1.IPAddress}} {{.NetworkSettings.Networks.n2.GlobalIPv6Address}}/{{.NetworkSettings.Networks.n2.GlobalIPv6PrefixLen}} {{.NetworkSettings.Networks.n2.IPv6Gateway}} {{.NetworkSettings.Networks.n2.MacAddress}}";
        assert_eq!(
            client(&host, &["inspect", "-f", format, "two"]).ok(),
            "{\"IPv4Address\":\"10.77.0.50\"} 10.77.0.50 fd00:78::50/64 fd00:78::1 02:42:0a:4d:00:32"
        );
        let id = client(&host, &["inspect", "-f", "{{.Id}}", "two"]).ok()[..12].to_owned();
        let names =
            client(&host, &["inspect", "-f", "{{json .NetworkSettings.Networks.n1.DNSNames}}", "two"])
                .ok()
                .to_owned();
        assert_eq!(names, format!("[\"two\",\"x\",\"y\",\"{id}\"]"));
        let links = inside(&host, "two", "ip -o addr");
        for expected in ["eth0    inet 10.77.0.50/24", "eth1    inet 10.78.0.", "fd00:78::50/64"] {
            assert!(links.contains(expected), "{expected} in {links}");
        }
        assert!(inside(&host, "two", "ip route").starts_with("default via 10.77.0.1 dev eth0"));
        assert!(inside(&host, "two", "ip -6 route").contains("default via fd00:78::1"));
        client(
            &host,
            &["run", "--rm", "--network", "n2", "busybox", "ping", "-6", "-c", "1", "-W", "5", "fd00:78::50"],
        )
        .ok();
        client(&host, &["run", "--rm", "--network", "n1", "--ip", "10.77.0.50", "busybox", "true"]).fails(
            125,
            "failed to set up container networking: Address already in use: container two has 10.77.0.50",
        );
        client(&host, &["network", "rm", "n1"])
            .fails(1, "error while removing network: network n1 has active endpoints (name:\"two\" id:\"");
        client(&host, &["rm", "-f", "two"]).ok();
    }
    for client in CLIENTS {
        client(&host, &["run", "--rm", "--network", "n1", "--ip", "10.99.0.1", "busybox", "true"]).fails(
            125,
            "invalid config for network n1: invalid endpoint settings:\nno configured subnet or ip-range contain the IP address 10.99.0.1",
        );
        client(&host, &["run", "--rm", "--ip", "172.17.0.99", "busybox", "true"])
            .fails(125, "* user specified IP address is supported on user defined networks only");
        client(&host, &["run", "--rm", "--network", "nosuch", "busybox", "true"])
            .fails(125, "failed to set up container networking: network nosuch not found");
        for alone in ["none", "host"] {
            client(&host, &["run", "--rm", "--network", alone, "--network", "n1", "busybox", "true"])
                .fails(125, "cannot attach both user-defined and non-user-defined network-modes");
        }
    }
}

#[test]
fn connect_and_disconnect_while_it_runs_and_while_it_does_not() {
    let host = host();
    host.hull(&["network", "create", "--subnet", "10.85.0.0/24", "c1"]).ok();
    host.hull(&["network", "create", "c2"]).ok();
    for client in CLIENTS {
        client(&host, &["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
        client(&host, &["create", "--name", "st", "busybox", "sleep", "1000"]).ok();
        assert_eq!(client(&host, &["network", "connect", "c1", "aa"]).ok(), "");
        client(&host, &["network", "connect", "c1", "aa"])
            .fails(1, "endpoint with name aa already exists in network c1");
        assert!(inside(&host, "aa", "ip -o addr show eth1").contains("10.85.0."));
        let words =
            ["network", "connect", "--ip", "10.85.0.77", "--alias", "al", "--link", "nosuch:zz", "c1", "st"];
        client(&host, &words).ok();
        client(&host, &words).ok();
        client(&host, &["start", "st"]).ok();
        assert_eq!(
            client(
                &host,
                &[
                    "inspect",
                    "-f",
                    "{{.NetworkSettings.Networks.c1.IPAddress}} {{json .NetworkSettings.Networks.c1.Links}}",
                    "st"
                ]
            )
            .ok(),
            "10.85.0.77 [\"nosuch:zz\"]"
        );
        inside(&host, "aa", "ping -c 1 -W 5 10.85.0.77");
        // The default route follows priority.
        client(&host, &["network", "connect", "--gw-priority", "5", "c2", "aa"]).ok();
        assert!(inside(&host, "aa", "ip route").contains("default via 172.18.0.1 dev eth2"));
        for (words, text) in [
            (
                ["connect", "host", "aa"],
                "cannot connect container to host network - container must be created in host network mode",
            ),
            (["connect", "nosuch", "aa"], "network nosuch not found"),
            (["connect", "c1", "nosuch"], "No such container: nosuch"),
            (["disconnect", "nosuch", "aa"], "network nosuch not found"),
            (["disconnect", "c1", "nosuch"], "No such container: nosuch"),
        ] {
            client(&host, &[&["network"], &words[..]].concat()).fails(1, text);
        }
        client(&host, &["network", "connect", "--ip", "10.99.0.1", "c1", "aa"])
            .fails(1, "no configured subnet or ip-range contain the IP address 10.99.0.1");
        client(&host, &["network", "disconnect", "-f", "c1", "nosuch"]).fails(1, "endpoint nosuch not found");
        // Somebody has the address; nothing of the try is left.
        client(&host, &["run", "-d", "--name", "bb", "busybox", "sleep", "1000"]).ok();
        client(&host, &["network", "connect", "--ip", "10.85.0.77", "c1", "bb"])
            .fails(1, "Address already in use");
        assert!(!inside(&host, "bb", "ip -o link").contains("eth1"));
        client(&host, &["rm", "-f", "bb"]).ok();
        client(&host, &["network", "disconnect", "c2", "aa"]).ok();
        assert!(inside(&host, "aa", "ip route").contains("default via 172.17.0.1 dev eth0"));
        client(&host, &["network", "disconnect", "c1", "aa"]).ok();
        client(&host, &["network", "disconnect", "c1", "aa"]).fails(1, "is not connected to network c1");
        let left = inside(&host, "aa", "ip -o link");
        assert!(!left.contains("eth1") && !left.contains("eth2"), "{left}");
        client(&host, &["network", "disconnect", "bridge", "aa"]).ok();
        assert!(!inside(&host, "aa", "ip -o link").contains("eth0"));
        client(&host, &["network", "connect", "bridge", "aa"]).ok();
        inside(&host, "aa", "ping -c 1 -W 5 172.17.0.1");
        client(&host, &["rm", "-f", "aa", "st"]).ok();
    }
}

#[test]
fn host_none_and_anothers_network() {
    let host = host();
    host.hull(&["run", "-d", "--name", "nets", "--hostname", "theirs", "busybox", "sleep", "1000"]).ok();
    host.hull(&["run", "-d", "--name", "alone", "--network", "none", "busybox", "sleep", "1000"]).ok();
    host.hull(&["run", "-d", "--name", "open", "--network", "host", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        let own = client(
            &host,
            &["run", "--rm", "--network", "container:nets", "busybox", "ip", "-4", "-o", "addr"],
        )
        .ok()
        .to_owned();
        assert_eq!(own, inside(&host, "nets", "ip -4 -o addr"));
        client(&host, &["run", "--rm", "--network", "container:nets", "-p", "80:80", "busybox", "true"])
            .fails(125, "conflicting options: port publishing and the container type network mode");
        client(&host, &["run", "--rm", "--network", "container:nosuch", "busybox", "true"])
            .fails(125, "No such container: nosuch");
        client(&host, &["network", "connect", "bridge", "alone"])
            .fails(1, "with one of the networks in private (none) mode");
        client(&host, &["network", "connect", "bridge", "open"])
            .fails(1, "container sharing network namespace with another container or host");
        client(&host, &["network", "disconnect", "host", "open"])
            .fails(1, "cannot disconnect container from host network");
        assert!(
            client(&host, &["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"])
                .ok()
                .contains("docker0")
        );
    }
}

#[test]
fn a_killed_daemon_finds_the_networks_of_its_containers_again() {
    let mut host = host();
    host.hull(&["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    host.hull(&["run", "-d", "--name", "one", "--network", "n1", "busybox", "sleep", "1000"]).ok();
    let before = host.hull(&["inspect", "-f", "{{json .NetworkSettings.Networks}}", "one"]).ok().to_owned();
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.docker(&["inspect", "-f", "{{json .NetworkSettings.Networks}}", "one"]).ok(), before);
    inside(&host, "one", "ping -c 1 -W 5 10.77.0.1");
    // Its address is not given to the next.
    host.docker(&["run", "-d", "--name", "two", "--network", "n1", "busybox", "sleep", "1000"]).ok();
    inside(&host, "two", "ping -c 1 -W 5 10.77.0.2");
    host.docker(&["network", "disconnect", "n1", "one"]).ok();
    host.docker(&["network", "connect", "n1", "one"]).ok();
    inside(&host, "one", "ping -c 1 -W 5 10.77.0.3");
    host.docker(&["rm", "-f", "one", "two"]).ok();
    host.docker(&["network", "rm", "n1"]).ok();
    assert_eq!(links(&host), ["docker0", "lo"]);
}

#[test]
fn a_running_container_loses_a_macvlan_link_when_it_is_disconnected() {
    let host = host();
    host.hull(&["network", "create", "-d", "macvlan", "--internal", "--subnet", "10.86.0.0/24", "wire"]).ok();
    host.hull(&["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
    for client in CLIENTS {
        client(&host, &["network", "connect", "wire", "aa"]).ok();
        assert!(inside(&host, "aa", "ip -o addr show eth1").contains("10.86.0."));
        client(&host, &["network", "disconnect", "wire", "aa"]).ok();
        let left = inside(&host, "aa", "ip -o link");
        assert!(!left.contains("eth1"), "{left}");
    }
}

#[test]
fn links_that_a_killed_daemon_left_in_a_bridge_are_cut() {
    let mut host = host();
    host.hull(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).ok();
    let ip = |host: &Host, line: &str| {
        let output = host.inside("ip").args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    host.kill_daemon();
    // One that looks like ours, and one that is somebody's.
    for name in ["veth0badbad", "theirs"] {
        ip(&host, &format!("link add {name} master docker0 type veth peer name {name}p"));
    }
    host.start_daemon();
    let ports = ip(&host, "-o link show master docker0");
    assert!(!ports.contains("veth0badbad") && ports.contains("theirs"), "{ports}");
    inside(&host, "stays", "ping -c 1 -W 5 172.17.0.1");
}

#[test]
fn rules_that_are_not_wanted_any_more_are_removed() {
    let mut host = bare();
    let tables = |host: &Host| {
        let listed = host.inside("nft").args(["list", "tables"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let strange = host.inside("nft").args(["add", "table", "inet", "strange"]).status().unwrap();
    assert!(strange.success());
    assert_eq!(tables(&host), "table inet hull\ntable bridge hull\ntable inet strange\n");
    host.stop_daemon();
    std::fs::write(host.folder().join("daemon.json"), "{\"iptables\": false, \"ip6tables\": false}").unwrap();
    host.start_daemon();
    assert_eq!(tables(&host), "table inet strange\n");
    host.stop_daemon();
    std::fs::write(host.folder().join("daemon.json"), "{}").unwrap();
    host.start_daemon();
    assert!(tables(&host).contains("table inet hull"));
}

#[test]
fn a_network_that_cannot_be_removed_stays_whole() {
    let options = hull_testkit::Options { disk_mib: Some(48), ..hull_testkit::Options::default() };
    let host = Host::start(super::executables(), options);
    let id = host.hull(&["network", "create", "--internal", "stays"]).ok()[..12].to_owned();
    let link = format!("br-{id}");
    let in_rules = || {
        let set = ["list", "set", "inet", "hull", "internal"];
        let listed = host.inside("nft").args(set).output().unwrap();
        String::from_utf8(listed.stdout).unwrap().contains(&link)
    };
    assert!(in_rules());
    // The record cannot be deleted, and the link has gone by then.
    let fill = host.data_root().join("fill");
    let of = format!("of={}", fill.display());
    let filled = host.inside("dd").args(["if=/dev/zero", &of, "bs=4k"]).output().unwrap();
    assert!(String::from_utf8_lossy(&filled.stderr).contains("No space left"));
    host.hull(&["network", "rm", "stays"]).fails(1, "");
    assert!(links(&host).contains(&link), "the link is gone");
    assert!(in_rules(), "the rules are gone");
    assert!(host.inside("rm").arg(&fill).status().unwrap().success());
    host.hull(&["network", "rm", "stays"]).ok();
    assert!(!in_rules() && !links(&host).contains(&link));
}

#[test]
fn an_ambiguous_prefix_is_refused_as_the_reference_does() {
    let host = bare();
    let mut by_digit = std::collections::BTreeMap::<String, u32>::new();
    let mut count = 0;
    // Of seventeen ids two begin with the same digit.
    let (digit, matches) = loop {
        let listed = host.hull(&["network", "ls", "-q", "--no-trunc"]).ok().to_owned();
        by_digit.clear();
        listed.lines().for_each(|id| *by_digit.entry(id[..1].to_owned()).or_default() += 1);
        if let Some((digit, matches)) = by_digit.iter().find(|(_, matches)| **matches > 1) {
            break (digit.clone(), *matches);
        }
        count += 1;
        host.hull(&["network", "create", "--config-only", &format!("n{count}")]).ok();
    };
    let status = |method: &str| host.request(method, &format!("/v1.51/networks/{digit}"), b"").status;
    assert_eq!((status("GET"), status("DELETE")), (400, 400));
    for client in CLIENTS {
        client(&host, &["network", "inspect", &digit])
            .fails(1, &format!("{matches} matches found based on ID prefix: network {digit} is ambiguous"));
        client(&host, &["network", "rm", &digit])
            .fails(1, &format!("network {digit} is ambiguous ({matches} matches found based on ID prefix)"));
    }
}

#[test]
fn what_happens_to_networks_is_told() {
    let host = host();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let since = &now().to_string();
    host.hull(&["network", "create", "ev"]).ok();
    host.hull(&["run", "--rm", "--name", "one", "--network", "ev", "busybox", "true"]).ok();
    host.hull(&["network", "rm", "ev"]).ok();
    host.hull(&["network", "prune", "-f"]).ok();
    // It comes while they listen.
    let until = &(now() + 1).to_string();
    for client in CLIENTS {
        let words = [
            "events",
            "--since",
            since,
            "--until",
            until,
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}",
        ];
        let told = client(&host, &words).ok().to_owned();
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(
            told[..4],
            ["create ev bridge", "connect ev bridge", "disconnect ev bridge", "destroy ev bridge"]
        );
        assert!(told[4].starts_with("prune"), "{told:?}");
        let words = [
            "events",
            "--since",
            since,
            "--until",
            until,
            "--filter",
            "network=ev",
            "--format",
            "{{.Action}}",
        ];
        assert_eq!(client(&host, &words).ok(), "create\nconnect\ndisconnect\ndestroy");
    }
}

#[test]
fn the_configuration_makes_the_default_bridge() {
    let options = |words: &[&str]| hull_testkit::Options {
        daemon: words.iter().map(|&word| word.to_owned()).collect(),
        ..hull_testkit::Options::default()
    };
    let host = Host::start(
        super::executables(),
        options(&[
            "--bip",
            "10.9.0.1/24",
            "--fixed-cidr",
            "10.9.0.128/25",
            "--mtu",
            "1400",
            "--default-address-pool",
            "base=10.64.0.0/16,size=24",
            "--ipv6",
            "--ip",
            "127.0.0.1",
        ]),
    );
    host.busybox();
    let shown = host
        .hull(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "ip -o addr show eth0; ip route; cat /sys/class/net/eth0/mtu",
        ])
        .ok()
        .to_owned();
    for expected in ["inet 10.9.0.128/24", "inet6 fd", "default via 10.9.0.1", "1400"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    host.hull(&["network", "create", "n1"]).ok();
    let config = host.docker(&["network", "inspect", "-f", "{{json .IPAM.Config}}", "n1"]).ok().to_owned();
    assert_eq!(config, "[{\"Subnet\":\"10.64.0.0/24\",\"Gateway\":\"10.64.0.1\"}]");
    host.hull(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000"]).ok();
    assert_eq!(host.docker(&["port", "web"]).ok(), "80/tcp -> 127.0.0.1:8080");
    let without = Host::start(super::executables(), options(&["--bridge", "none"]));
    without.busybox();
    assert_eq!(without.hull(&["network", "ls", "--format", "{{.Name}}"]).ok(), "host\nnone");
    assert_eq!(without.hull(&["run", "--rm", "busybox", "sh", "-c", "ip -o link | wc -l"]).ok().trim(), "1");
}

/// The kernel's table of neighbours is one for the whole host, so its limits are shown to the initial
/// network namespace only. Here files stand for them.
#[test]
fn the_host_has_room_for_more_neighbours_than_the_kernel_provides_for() {
    let mut host = host();
    let limits = |family: &str| format!("/proc/sys/net/{family}/neigh/default");
    for (family, hard) in [("ipv4", "1024"), ("ipv6", "100000")] {
        let folder = limits(family);
        let above = folder.trim_end_matches("/default");
        host.printed(&["mount", "-t", "tmpfs", "none", above]);
        let script =
            format!("mkdir {folder}; echo 512 > {folder}/gc_thresh2; echo {hard} > {folder}/gc_thresh3");
        host.printed(&["sh", "-c", &script]);
    }
    host.kill_daemon();
    host.start_daemon();
    // What somebody else has raised further stays.
    for (family, soft, hard) in [("ipv4", "49152", "65536"), ("ipv6", "49152", "100000")] {
        for (name, value) in [("gc_thresh2", soft), ("gc_thresh3", hard)] {
            let shown = host.printed(&["cat", &format!("{}/{name}", limits(family))]);
            assert_eq!(shown.trim(), value, "{family} {name}");
        }
    }
}

#[test]
fn what_a_network_was_made_with_is_shown_and_found() {
    let host = host();
    for client in CLIENTS {
        let words = ["--attachable", "--internal", "--ipv6", "--label", "tier=back", "--label", "x"];
        client(&host, &[&["network", "create"], &words[..], &["back"]].concat()).ok();
        client(&host, &["network", "create", "--label", "tier=front", "front"]).ok();
        let format = "{{.Name}} {{.Attachable}} {{.Internal}} {{.EnableIPv6}} {{json .Labels}}";
        let shown = client(&host, &["network", "inspect", "-f", format, "back", "front"]).ok().to_owned();
        assert_eq!(
            shown,
            "back true true true {\"tier\":\"back\",\"x\":\"\"}\nfront false false false {\"tier\":\"front\"}"
        );
        // There are no services yet of which it could tell more.
        let plain = client(&host, &["network", "inspect", "back"]).ok().to_owned();
        assert_eq!(client(&host, &["network", "inspect", "-v", "back"]).ok(), plain);
        let id = client(&host, &["network", "inspect", "-f", "{{.Id}}", "back"]).ok().to_owned();
        let listed = ["network", "ls", "-q", "--no-trunc", "--filter", "label=tier=back"];
        assert_eq!(client(&host, &listed).ok(), id);
        let removed = client(&host, &["network", "rm", "nosuch", "front"]);
        removed.fails(1, "network nosuch not found");
        assert_eq!(removed.stdout, "front\n", "the others go all the same");
        client(&host, &["network", "create", "young"]).ok();
        let pruned = |filter: &str| {
            client(&host, &["network", "prune", "-f", "--filter", filter])
                .ok()
                .replace("Deleted Networks:", "")
        };
        assert_eq!(pruned("until=1h").trim(), "");
        assert_eq!(pruned("label=tier=front").trim(), "");
        assert_eq!(pruned("label!=x").trim(), "young");
        assert_eq!(pruned("label=tier").trim(), "back");
    }
}

#[test]
fn what_keeps_neighbours_apart_is_made_again() {
    let host = host();
    let icc = "com.docker.network.bridge.enable_icc=false";
    host.hull(&["network", "create", "-o", icc, "apart"]).ok();
    for name in ["one", "two"] {
        host.hull(&["run", "-d", "--name", name, "--network", "apart", "busybox", "sleep", "1000"]).ok();
    }
    let reaches = || host.hull(&["exec", "one", "ping", "-c", "1", "-W", "1", "two"]).code == 0;
    assert!(!reaches());
    let rules = || host.printed(&["nft", "list", "table", "bridge", "hull"]);
    let before = rules();
    host.printed(&["nft", "delete", "table", "bridge", "hull"]);
    let start = std::time::Instant::now();
    let listed = || host.inside("nft").args(["list", "table", "bridge", "hull"]).output().unwrap();
    while !listed().status.success() {
        assert!(start.elapsed() < patience(20), "nobody makes it again");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(rules(), before);
    assert!(!reaches());
}
